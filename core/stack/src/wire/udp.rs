//! UDP (RFC 768).

use super::{be16, put16};

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;

/// A UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
    /// Bytes of header and payload.
    pub len: u16,
    /// Checksum; 0 for none.
    pub checksum: u16,
}

impl Udp {
    /// Reads the header; none when `b` is shorter than one or the length field is below 8.
    pub fn parse(b: &[u8]) -> Option<Self> {
        let b = b.get(..HEADER_LEN)?;
        let u = Udp { src: be16(b, 0), dst: be16(b, 2), len: be16(b, 4), checksum: be16(b, 6) };
        (usize::from(u.len) >= HEADER_LEN).then_some(u)
    }

    /// Writes the header to the start of `b`.
    pub fn emit(&self, b: &mut [u8]) {
        put16(b, 0, self.src);
        put16(b, 2, self.dst);
        put16(b, 4, self.len);
        put16(b, 6, self.checksum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_parsed_and_emitted_as_it_was() {
        let b = [0x13, 0x88, 0x00, 0x35, 0x00, 0x0c, 0xab, 0xcd];
        let u = Udp::parse(&b).unwrap();
        assert_eq!(u, Udp { src: 5000, dst: 53, len: 12, checksum: 0xabcd });
        let mut out = [0; 8];
        u.emit(&mut out);
        assert_eq!(out, b);
        assert!(Udp::parse(&[0x13, 0x88, 0, 0x35, 0, 7, 0, 0]).is_none());
        assert!(Udp::parse(&b[..7]).is_none());
    }
}
