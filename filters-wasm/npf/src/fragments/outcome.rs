//! What comes of a fragment, and how often.

/// What comes of a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The packet is whole, from its IP header on.
    ///
    /// IPv4: the header is that of the first fragment, with its options, its TTL and the identification; the length and
    /// the checksum are right, and no flag is set, not even don't-fragment, as it was fragmented. IPv6: the headers are
    /// those of the first fragment without the fragment header. In both, congestion that any fragment experienced is
    /// marked (RFC 3168, section 5.3).
    Whole(Vec<u8>),
    /// More of it must come.
    Kept,
    /// It is dropped.
    Dropped(Why),
}

macro_rules! reasons {
    ($($why:ident $field:ident $spoils:literal $text:literal)*) => {
        /// Why a fragment is dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        #[non_exhaustive]
        pub enum Why {
            $(
                #[doc = concat!("The fragment is dropped: ", $text, ".")]
                #[error($text)]
                $why,
            )*
        }

        impl Why {
            /// All of them.
            pub const ALL: &[Why] = &[$(Why::$why,)*];

            /// Whether the whole datagram is dropped, and what comes of it later.
            pub fn spoils(self) -> bool {
                match self { $(Why::$why => $spoils,)* }
            }
        }

        /// What has happened to fragments.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            /// Fragments that came.
            pub fragments: u64,
            /// Packets that became whole.
            pub whole: u64,
            /// Fragments that were kept and did not make a packet whole.
            pub kept: u64,
            /// Datagrams whose time was over, spoiled ones too.
            pub timed_out: u64,
            /// Datagrams that had to go for others.
            pub evicted: u64,
            $(
                #[doc = concat!("Fragments that were dropped: ", $text, ".")]
                pub $field: u64,
            )*
        }

        impl Counters {
            pub(super) fn dropped(&mut self, why: Why) {
                match why { $(Why::$why => self.$field += 1,)* }
            }

            /// Each with its name.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                let Counters { fragments, whole, kept, timed_out, evicted, $($field,)* } = *self;
                [
                    ("fragments", fragments),
                    ("whole", whole),
                    ("kept", kept),
                    ("timed_out", timed_out),
                    ("evicted", evicted),
                    $((stringify!($field), $field),)*
                ]
                .into_iter()
            }
        }
    };
}

reasons! {
    Overlap overlap true "it overlaps another one of its packet (RFC 5722)"
    Disagrees disagrees true "it and another one do not agree on where the packet ends"
    TooManyPieces too_many_pieces true "its packet has more pieces than are allowed"
    Spoiled spoiled false "its packet was dropped before"
    Duplicate duplicate false "it is there already (RFC 8200, section 4.5)"
    Empty empty false "it has no data"
    Unaligned unaligned false "it is not the last one, and its length is no multiple of 8"
    TooLong too_long false "the packet would be longer than 65535 bytes"
    Tiny tiny false "it is the first one and does not hold the upper header (RFC 1858, RFC 7112)"
    Congestion congestion false "one of its packet experienced congestion and another knows nothing of it (RFC 3168)"
    MemoryFull memory_full false "there is no memory left for it"
    SourceLimit source_limit false "its source has its share already"
    Inconsistent inconsistent false "its headers are not where they were said to be"
}
