//! Descriptors of a ring, and what of them may be believed.
//!
//! A descriptor lies in memory that the peer may write at any time. It is read once, and only what was read is judged and
//! used. Everything here is a pure function of what was read.

/// Another descriptor of the same packet follows.
pub const NEXT: u16 = 1;
/// Bytes of a descriptor.
pub const DESC_LEN: usize = 16;
/// Longest packet that is taken, in bytes.
pub const FRAME_MAX: usize = 65_535;
/// Most descriptors of one packet that are taken.
pub const PIECES_MAX: usize = 128;

/// A descriptor as it was read: a buffer in a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Desc {
    /// [`NEXT`] or 0; other bits mean nothing.
    pub flags: u16,
    /// Region of the buffer.
    pub region: u16,
    /// Bytes of the packet in the buffer, or of the buffer when it is offered to be filled.
    pub length: u32,
    /// Where the buffer begins in its region.
    pub offset: u32,
}

impl Desc {
    /// From its two words.
    #[inline(always)]
    pub fn from_words(first: u64, second: u64) -> Desc {
        let [f0, f1, r0, r1, l0, l1, l2, l3] = first.to_ne_bytes();
        let [o0, o1, o2, o3, ..] = second.to_ne_bytes();
        Desc {
            flags: u16::from_ne_bytes([f0, f1]),
            region: u16::from_ne_bytes([r0, r1]),
            length: u32::from_ne_bytes([l0, l1, l2, l3]),
            offset: u32::from_ne_bytes([o0, o1, o2, o3]),
        }
    }

    /// Flags, region and length.
    #[inline(always)]
    pub fn first_word(self) -> u64 {
        let ([f0, f1], [r0, r1]) = (self.flags.to_ne_bytes(), self.region.to_ne_bytes());
        let [l0, l1, l2, l3] = self.length.to_ne_bytes();
        u64::from_ne_bytes([f0, f1, r0, r1, l0, l1, l2, l3])
    }

    /// Offset; the metadata behind it is 0.
    #[inline(always)]
    pub fn second_word(self) -> u64 {
        let [o0, o1, o2, o3] = self.offset.to_ne_bytes();
        u64::from_ne_bytes([o0, o1, o2, o3, 0, 0, 0, 0])
    }

    /// Whether the buffer has bytes and lies in its region; `sizes` are those of the regions.
    #[inline(always)]
    pub fn lies_within(self, sizes: &[u64]) -> bool {
        let end = u64::from(self.offset) + u64::from(self.length);
        self.length != 0 && sizes.get(usize::from(self.region)).is_some_and(|size| end <= *size)
    }
}

/// What is wrong with a packet of the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A buffer is empty or reaches out of its region, or there is no such region.
    Descriptor,
    /// The chain does not end before the ring does, or is longer than any packet.
    Chain,
}

/// A packet in the ring, or what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Descriptors that it takes, at least 1 and at most as many as there were.
    pub used: u16,
    /// Its bytes over all buffers.
    pub outcome: Result<usize, Fault>,
}

/// Walks the packet that begins at the first of `avail` (at least 1) descriptors, which `read` reads by their place.
/// `pieces` are then those of the packet, at most [`PIECES_MAX`]. `good` judges each.
///
/// A fault does not end the walk: the packet is passed over as a whole, however long it says it is.
pub fn walk(
    avail: u16,
    mut read: impl FnMut(u16) -> Desc,
    good: impl Fn(Desc) -> bool,
    pieces: &mut Vec<Desc>,
) -> Walked {
    pieces.clear();
    let mut fault = None;
    let mut len = 0usize;
    for place in 0..avail {
        let desc = read(place);
        if !good(desc) {
            fault = fault.or(Some(Fault::Descriptor));
        }
        len = len.saturating_add(desc.length as usize);
        if pieces.len() == PIECES_MAX || len > FRAME_MAX {
            fault = fault.or(Some(Fault::Chain));
        } else {
            pieces.push(desc);
        }
        if desc.flags & NEXT == 0 {
            return Walked { used: place + 1, outcome: fault.map_or(Ok(len), Err) };
        }
    }
    Walked { used: avail, outcome: Err(Fault::Chain) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: &[u64] = &[4096, 1 << 32];

    fn desc(flags: u16, region: u16, offset: u32, length: u32) -> Desc {
        Desc { flags, region, length, offset }
    }

    fn walked(ring: &[Desc]) -> (Walked, Vec<Desc>) {
        let mut pieces = Vec::new();
        let walked = walk(ring.len() as u16, |i| ring[usize::from(i)], |d| d.lies_within(SIZES), &mut pieces);
        (walked, pieces)
    }

    #[test]
    fn words_and_fields_are_the_same_bytes() {
        let d = desc(0x0201, 0x0403, 0x0c0b_0a09, 0x0807_0605);
        assert_eq!(d.first_word().to_ne_bytes(), [1, 2, 3, 4, 5, 6, 7, 8].map(|b: u8| b));
        assert_eq!(d.second_word().to_ne_bytes(), [9, 10, 11, 12, 0, 0, 0, 0]);
        assert_eq!(Desc::from_words(d.first_word(), d.second_word()), d);
    }

    #[test]
    fn a_buffer_must_lie_in_its_region_to_the_last_byte() {
        assert!(desc(0, 0, 0, 4096).lies_within(SIZES) && desc(0, 0, 4095, 1).lies_within(SIZES));
        assert!(desc(0, 1, u32::MAX, 1).lies_within(SIZES));
        for bad in [
            desc(0, 0, 0, 4097),
            desc(0, 0, 4096, 1),
            desc(0, 0, u32::MAX, u32::MAX),
            desc(0, 1, u32::MAX, 2),
            desc(0, 2, 0, 1),
            desc(0, u16::MAX, 0, 1),
            desc(0, 0, 0, 0),
        ] {
            assert!(!bad.lies_within(SIZES), "{bad:?}");
        }
    }

    #[test]
    fn a_chain_is_one_packet() {
        let ring = [desc(NEXT, 0, 0, 100), desc(NEXT, 0, 100, 100), desc(0, 1, 7, 50), desc(0, 0, 0, 60)];
        let (got, pieces) = walked(&ring);
        assert_eq!(got, Walked { used: 3, outcome: Ok(250) });
        assert_eq!(pieces, ring[..3]);
    }

    #[test]
    fn a_bad_packet_is_passed_over_as_a_whole() {
        let ring = [desc(NEXT, 0, 0, 100), desc(NEXT, 9, 0, 100), desc(0, 0, 0, 50), desc(0, 0, 0, 60)];
        assert_eq!(walked(&ring).0, Walked { used: 3, outcome: Err(Fault::Descriptor) });
    }

    #[test]
    fn a_chain_without_end_or_beyond_all_measure_is_a_fault() {
        let ring = vec![desc(NEXT, 0, 0, 1); 1000];
        let (got, pieces) = walked(&ring);
        assert_eq!(got, Walked { used: 1000, outcome: Err(Fault::Chain) });
        assert_eq!(pieces.len(), PIECES_MAX);
        let mut ring = vec![desc(NEXT, 0, 0, 4096); 20];
        ring[19].flags = 0;
        assert_eq!(walked(&ring).0, Walked { used: 20, outcome: Err(Fault::Chain) });
    }
}
