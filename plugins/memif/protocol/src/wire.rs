//! Messages of the control channel: 128 bytes each, over a Unix socket of the kind SEQPACKET, in host byte order.
//!
//! The format is that of memif version 2.0, as VPP's and DPDK's `memif.h` have it. Whoever listens is the server
//! (formerly "master"), whoever connects the client ("slave"). The client owns the memory: it tells the server which
//! regions there are and where in them the rings lie, each with a descriptor passed beside the message.
//!
//! ```text
//! client                         server
//!    <--------------------------- hello      versions and limits
//!    init ----------------------> ack        which interface, secret
//!    add_region + memory -------> ack        for each region
//!    add_ring + interrupt ------> ack        for each ring
//!    connect -------------------> connected  packets may flow
//!    disconnect <---------------> disconnect either may, with a reason
//! ```

use std::fmt;

/// Bytes of every message.
pub const MESSAGE_LEN: usize = 128;
/// The one version that this code (and every known peer) speaks: 2.0.
pub const VERSION: u16 = 0x0200;
/// Bytes of a secret, without the NUL that other implementations put behind it.
pub const SECRET_MAX: usize = 23;
/// Bytes of a name's field.
const NAME: usize = 32;
const SECRET: usize = 24;
const REASON: usize = 96;

/// What the interface carries.
pub const MODE_ETHERNET: u8 = 0;

/// Bit of [`AddRing::flags`]: the ring carries packets from the client to the server.
pub const RING_C2S: u16 = 1;
/// Largest ring, as a power of two.
pub const LOG2_SIZE_MAX: u8 = 14;

const ACK: u16 = 1;
const HELLO: u16 = 2;
const INIT: u16 = 3;
const ADD_REGION: u16 = 4;
const ADD_RING: u16 = 5;
const CONNECT: u16 = 6;
const CONNECTED: u16 = 7;
const DISCONNECT: u16 = 8;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The last message was accepted.
    Ack,
    /// The server's versions and limits.
    Hello(Hello),
    /// Which interface the client wants.
    Init(Init),
    /// A region of memory, whose descriptor comes with the message.
    AddRegion {
        /// Its number: the count of regions before it.
        index: u16,
        /// Bytes.
        size: u64,
    },
    /// A ring, whose interrupt (an eventfd) comes with the message.
    AddRing(AddRing),
    /// All is said; the text is the client's name of the interface.
    Connect(String),
    /// Packets may flow; the text is the server's name of the interface.
    Connected(String),
    /// The end.
    Disconnect {
        /// A number without meaning between implementations.
        code: u32,
        /// Why.
        reason: String,
    },
}

/// The server's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The program.
    pub name: String,
    /// Oldest version.
    pub min_version: u16,
    /// Newest version.
    pub max_version: u16,
    /// Highest number of a region.
    pub max_region: u16,
    /// Highest number of a ring from server to client.
    pub max_s2c_ring: u16,
    /// Highest number of a ring from client to server.
    pub max_c2s_ring: u16,
    /// Most entries of a ring, as a power of two.
    pub max_log2_ring_size: u8,
}

/// The client's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Init {
    /// Version.
    pub version: u16,
    /// The interface, by number.
    pub id: u32,
    /// [`MODE_ETHERNET`], or one that this code does not speak.
    pub mode: u8,
    /// NUL-padded; all NUL for none.
    pub secret: [u8; SECRET],
    /// The program.
    pub name: String,
}

/// Where a ring lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddRing {
    /// [`RING_C2S`] or 0.
    pub flags: u16,
    /// Number among the rings of its direction.
    pub index: u16,
    /// Region in which it lies.
    pub region: u16,
    /// Bytes from the start of the region.
    pub offset: u32,
    /// Entries, as a power of two.
    pub log2_size: u8,
    /// Bytes before each packet that are not part of it.
    pub private_header: u16,
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Another length than [`MESSAGE_LEN`].
    #[error("a message of {0} bytes instead of {MESSAGE_LEN}")]
    Length(usize),
    /// No such type.
    #[error("a message of the unknown type {0}")]
    Type(u16),
}

impl Message {
    /// Reads a message. Fields that mean nothing in it are not looked at.
    pub fn parse(bytes: &[u8]) -> Result<Message, WireError> {
        let bytes: &[u8; MESSAGE_LEN] = bytes.try_into().map_err(|_| WireError::Length(bytes.len()))?;
        let mut r = Reader { bytes, at: 0 };
        Ok(match r.u16() {
            ACK => Message::Ack,
            HELLO => Message::Hello(Hello {
                name: r.text(NAME),
                min_version: r.u16(),
                max_version: r.u16(),
                max_region: r.u16(),
                max_s2c_ring: r.u16(),
                max_c2s_ring: r.u16(),
                max_log2_ring_size: r.u8(),
            }),
            INIT => Message::Init(Init {
                version: r.u16(),
                id: r.u32(),
                mode: r.u8(),
                secret: r.array(),
                name: r.text(NAME),
            }),
            ADD_REGION => Message::AddRegion { index: r.u16(), size: r.u64() },
            ADD_RING => Message::AddRing(AddRing {
                flags: r.u16(),
                index: r.u16(),
                region: r.u16(),
                offset: r.u32(),
                log2_size: r.u8(),
                private_header: r.u16(),
            }),
            CONNECT => Message::Connect(r.text(NAME)),
            CONNECTED => Message::Connected(r.text(NAME)),
            DISCONNECT => Message::Disconnect { code: r.u32(), reason: r.text(REASON) },
            other => return Err(WireError::Type(other)),
        })
    }

    /// Writes a message. Names are cut to 31 bytes and reasons to 95, so that a NUL ends them.
    pub fn encode(&self) -> [u8; MESSAGE_LEN] {
        let mut w = Writer { bytes: [0; MESSAGE_LEN], at: 0 };
        match self {
            Message::Ack => w.put(&ACK.to_ne_bytes()),
            Message::Hello(h) => {
                w.put(&HELLO.to_ne_bytes());
                w.text(&h.name, NAME);
                for n in [h.min_version, h.max_version, h.max_region, h.max_s2c_ring, h.max_c2s_ring] {
                    w.put(&n.to_ne_bytes());
                }
                w.put(&[h.max_log2_ring_size]);
            }
            Message::Init(i) => {
                w.put(&INIT.to_ne_bytes());
                w.put(&i.version.to_ne_bytes());
                w.put(&i.id.to_ne_bytes());
                w.put(&[i.mode]);
                w.put(&i.secret);
                w.text(&i.name, NAME);
            }
            Message::AddRegion { index, size } => {
                w.put(&ADD_REGION.to_ne_bytes());
                w.put(&index.to_ne_bytes());
                w.put(&size.to_ne_bytes());
            }
            Message::AddRing(a) => {
                w.put(&ADD_RING.to_ne_bytes());
                for n in [a.flags, a.index, a.region] {
                    w.put(&n.to_ne_bytes());
                }
                w.put(&a.offset.to_ne_bytes());
                w.put(&[a.log2_size]);
                w.put(&a.private_header.to_ne_bytes());
            }
            Message::Connect(name) => {
                w.put(&CONNECT.to_ne_bytes());
                w.text(name, NAME);
            }
            Message::Connected(name) => {
                w.put(&CONNECTED.to_ne_bytes());
                w.text(name, NAME);
            }
            Message::Disconnect { code, reason } => {
                w.put(&DISCONNECT.to_ne_bytes());
                w.put(&code.to_ne_bytes());
                w.text(reason, REASON);
            }
        }
        w.bytes
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Message::Ack => "ack",
            Message::Hello(_) => "hello",
            Message::Init(_) => "init",
            Message::AddRegion { .. } => "add_region",
            Message::AddRing(_) => "add_ring",
            Message::Connect(_) => "connect",
            Message::Connected(_) => "connected",
            Message::Disconnect { .. } => "disconnect",
        })
    }
}

/// A secret as the wire has it.
pub fn secret_field(secret: &str) -> [u8; SECRET] {
    let mut field = [0; SECRET];
    let n = secret.len().min(SECRET_MAX);
    field[..n].copy_from_slice(&secret.as_bytes()[..n]);
    field
}

/// The secret of a field: what stands before the first NUL.
pub fn secret_of(field: &[u8; SECRET]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or(&[])
}

/// Fixed-size fields one after the other; what would lie beyond the end reads as zero.
struct Reader<'a> {
    bytes: &'a [u8; MESSAGE_LEN],
    at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        if let Some(field) = self.bytes.get(self.at..self.at + N) {
            out.copy_from_slice(field);
        }
        self.at += N;
        out
    }

    fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_ne_bytes(self.array())
    }

    fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.array())
    }

    /// Text up to the first NUL. It goes into logs and status, so only what can be seen is kept.
    fn text(&mut self, n: usize) -> String {
        let field = self.bytes.get(self.at..self.at + n).unwrap_or(&[]);
        self.at += n;
        let text = field.split(|b| *b == 0).next().unwrap_or(&[]);
        text.iter().map(|b| if (0x20..0x7f).contains(b) { char::from(*b) } else { '?' }).collect()
    }
}

struct Writer {
    bytes: [u8; MESSAGE_LEN],
    at: usize,
}

impl Writer {
    fn put(&mut self, field: &[u8]) {
        if let Some(to) = self.bytes.get_mut(self.at..self.at + field.len()) {
            to.copy_from_slice(field);
        }
        self.at += field.len();
    }

    fn text(&mut self, text: &str, n: usize) {
        let len = text.len().min(n - 1);
        let at = self.at;
        self.put(&text.as_bytes()[..len]);
        self.at = at + n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Message> {
        vec![
            Message::Ack,
            Message::Hello(Hello {
                name: "VPP 25.02".into(),
                min_version: VERSION,
                max_version: VERSION,
                max_region: 255,
                max_s2c_ring: 3,
                max_c2s_ring: 7,
                max_log2_ring_size: 14,
            }),
            Message::Init(Init {
                version: VERSION,
                id: 0x0102_0304,
                mode: 2,
                secret: secret_field("open sesame"),
                name: "smpnet".into(),
            }),
            Message::AddRegion { index: 1, size: 1 << 33 },
            Message::AddRing(AddRing {
                flags: RING_C2S,
                index: 5,
                region: 1,
                offset: 0xdead_bee0,
                log2_size: 10,
                private_header: 4,
            }),
            Message::Connect("memif0/0".into()),
            Message::Connected("m0".into()),
            Message::Disconnect { code: 7, reason: "Incorrect secret".into() },
        ]
    }

    #[test]
    fn every_message_is_read_as_it_was_written() {
        for message in all() {
            assert_eq!(Message::parse(&message.encode()), Ok(message));
        }
    }

    /// The offsets of the packed C structures, counted from the start of the message.
    #[test]
    fn fields_lie_where_the_c_structures_have_them() {
        let bytes: Vec<_> = all().iter().map(Message::encode).collect();
        let at = |m: usize, from: usize, want: &[u8]| assert_eq!(&bytes[m][from..from + want.len()], want, "{m}");
        at(1, 2, b"VPP 25.02\0");
        at(1, 34, &[0, 2, 0, 2, 255, 0, 3, 0, 7, 0, 14]);
        at(2, 2, &[0, 2, 4, 3, 2, 1, 2]);
        at(2, 9, b"open sesame\0");
        at(2, 33, b"smpnet\0");
        at(3, 0, &[4, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
        at(4, 0, &[5, 0, 1, 0, 5, 0, 1, 0, 0xe0, 0xbe, 0xad, 0xde, 10, 4, 0]);
        at(5, 0, b"\x06\0memif0/0\0");
        at(7, 0, b"\x08\0\x07\0\0\0Incorrect secret\0");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert_eq!(Message::parse(&[0; 127]), Err(WireError::Length(127)));
        assert_eq!(Message::parse(&[0; 128]), Err(WireError::Type(0)));
        let mut bytes = [0; 128];
        bytes[0] = 9;
        assert_eq!(Message::parse(&bytes), Err(WireError::Type(9)));
    }

    #[test]
    fn texts_are_cut_and_made_printable() {
        let long = "x".repeat(200);
        let Ok(Message::Connect(name)) = Message::parse(&Message::Connect(long).encode()) else { panic!("no connect") };
        assert_eq!(name.len(), 31);
        let mut bytes = Message::Connect("ab".into()).encode();
        bytes[2..6].copy_from_slice(b"\x1b[2J");
        assert_eq!(Message::parse(&bytes), Ok(Message::Connect("?[2J".into())));
    }
}
