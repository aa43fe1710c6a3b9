//! Taking a stream of pcapng from a daemon of this machine apart, block by block.

use super::pcapng::{EPB, IDB, ISB, flags};

/// The longest block that is believed.
const BLOCK_MAX: usize = 16 << 20;

/// Gathers bytes until they are a whole block.
#[derive(Default)]
pub struct Splitter {
    pending: Vec<u8>,
    at: usize,
}

impl Splitter {
    /// Takes bytes as they come.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.pending.drain(..self.at);
        self.at = 0;
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole block, if it is there.
    ///
    /// # Errors
    /// When what comes cannot be pcapng of this machine's byte order.
    pub fn next_block(&mut self) -> Result<Option<Block<'_>>, String> {
        let rest = &self.pending[self.at..];
        let Some(len) = word(rest, 4) else { return Ok(None) };
        let len = len as usize;
        if !(12..=BLOCK_MAX).contains(&len) || !len.is_multiple_of(4) {
            return Err(format!("a block of {len} bytes in the capture stream"));
        }
        if rest.len() < len {
            return Ok(None);
        }
        let start = self.at;
        self.at += len;
        Ok(Some(Block(&self.pending[start..start + len])))
    }
}

/// A whole block.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a>(&'a [u8]);

/// A packet of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Number of its interface in the stream.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Length on the wire.
    pub wire_len: u32,
    /// The bytes kept.
    pub bytes: &'a [u8],
    /// `epb_flags`.
    pub flags: u32,
    /// The comment: why it was dropped.
    pub comment: Option<&'a str>,
}

impl Packet<'_> {
    /// `In`, `Out` or nothing.
    pub fn direction(&self) -> &'static str {
        match self.flags & 3 {
            flags::IN => "In",
            flags::OUT => "Out",
            _ => "",
        }
    }
}

impl<'a> Block<'a> {
    /// Its bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Its type.
    pub fn kind(&self) -> u32 {
        word(self.0, 0).unwrap_or(0)
    }

    /// The packet, in an enhanced packet block.
    pub fn packet(&self) -> Option<Packet<'a>> {
        if self.kind() != EPB {
            return None;
        }
        let b = self.0;
        let kept = word(b, 20)? as usize;
        let bytes = b.get(28..28usize.checked_add(kept)?)?;
        let mut p = Packet {
            interface: word(b, 8)?,
            time_ns: u64::from(word(b, 12)?) << 32 | u64::from(word(b, 16)?),
            wire_len: word(b, 24)?,
            bytes,
            flags: 0,
            comment: None,
        };
        for (code, value) in self.options(28 + kept.next_multiple_of(4)) {
            match code {
                1 => p.comment = std::str::from_utf8(value).ok(),
                2 => p.flags = word(value, 0).unwrap_or(0),
                _ => {}
            }
        }
        Some(p)
    }

    /// Link type and name, in an interface description block.
    pub fn interface(&self) -> Option<(u16, &'a str)> {
        if self.kind() != IDB {
            return None;
        }
        let link = u16::from_ne_bytes([*self.0.get(8)?, *self.0.get(9)?]);
        let name = self.options(16).find(|(code, _)| *code == 2);
        Some((link, name.and_then(|(_, v)| std::str::from_utf8(v).ok()).unwrap_or("")))
    }

    /// Received, accepted, lost and handed on, in an interface statistics block.
    pub fn statistics(&self) -> Option<[u64; 4]> {
        if self.kind() != ISB {
            return None;
        }
        let mut counts = [0; 4];
        for (code, value) in self.options(20) {
            let place = match code {
                4 => 0,
                6 => 1,
                7 => 2,
                8 => 3,
                _ => continue,
            };
            counts[place] = value.first_chunk::<8>().map_or(0, |v| u64::from_ne_bytes(*v));
        }
        Some(counts)
    }

    /// The options from an offset on, up to the end of the block.
    fn options(&self, at: usize) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0.get(at..self.0.len() - 4).unwrap_or_default();
        std::iter::from_fn(move || {
            let head = rest.first_chunk::<4>()?;
            let (code, len) = (u16::from_ne_bytes([head[0], head[1]]), u16::from_ne_bytes([head[2], head[3]]));
            let len = usize::from(len);
            let value = rest.get(4..4 + len).filter(|_| code != 0)?;
            rest = rest.get(4 + len.next_multiple_of(4)..).unwrap_or_default();
            Some((code, value))
        })
    }
}

fn word(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..at + 4)?.first_chunk::<4>().map(|w| u32::from_ne_bytes(*w))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{Interface, PacketOptions, Pcapng};
    use smpnet_stack::Link;

    #[test]
    fn a_stream_is_taken_apart_however_it_is_cut() {
        let mut p = Pcapng::new(96, "Linux", "");
        p.interface(Link::Raw, &Interface { name: "gif0".into(), ..Interface::default() });
        let why = PacketOptions { flags: flags::OUT, lost: 3, dropped: Some("ip_ttl: out"), comment: None };
        p.packet(0, 0x0123_4567_89ab_cdef, 100, &[1, 2, 3, 4, 5], &why);
        p.statistics(0, 1, 2, [10, 9, 8, 7]);
        for size in 1..p.out.len() {
            let mut s = Splitter::default();
            let (mut kinds, mut packets, mut interfaces, mut counts) = (Vec::new(), 0, 0, None);
            for chunk in p.out.chunks(size) {
                s.feed(chunk);
                while let Some(b) = s.next_block().unwrap() {
                    kinds.push(b.kind());
                    if let Some(q) = b.packet() {
                        packets += 1;
                        assert_eq!(
                            (q.time_ns, q.wire_len, q.bytes),
                            (0x0123_4567_89ab_cdef, 100, &[1, 2, 3, 4, 5][..])
                        );
                        assert_eq!((q.direction(), q.comment), ("Out", Some("ip_ttl: out")));
                    }
                    if let Some(i) = b.interface() {
                        interfaces += 1;
                        assert_eq!(i, (101, "gif0"));
                    }
                    counts = counts.or(b.statistics());
                }
            }
            assert_eq!((kinds.len(), packets, interfaces, counts), (4, 1, 1, Some([10, 9, 8, 7])));
        }
    }

    #[test]
    fn what_is_no_pcapng_is_refused_and_never_panics() {
        let mut s = Splitter::default();
        s.feed(b"HTTP/1.1 200 OK\r\n");
        assert!(s.next_block().is_err());
        for len in (12..64).step_by(4) {
            for kind in [EPB, IDB, ISB, 99] {
                for fill in [0u8, 1, 0x7f, 0xff] {
                    let mut b = vec![fill; len];
                    b[..4].copy_from_slice(&kind.to_ne_bytes());
                    b[4..8].copy_from_slice(&(len as u32).to_ne_bytes());
                    let mut s = Splitter::default();
                    s.feed(&b);
                    let block = s.next_block().unwrap().unwrap();
                    let _ = (block.packet(), block.interface(), block.statistics());
                }
            }
        }
    }
}
