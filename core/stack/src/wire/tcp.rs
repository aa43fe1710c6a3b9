//! The fields of the TCP header (RFC 9293) that a router needs: ports, and what segmentation rewrites.

use super::{be16, be32};

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// FIN.
pub const FIN: u8 = 0x01;
/// PSH.
pub const PSH: u8 = 0x08;
/// ACK.
pub const ACK: u8 = 0x10;
/// CWR (RFC 3168).
pub const CWR: u8 = 0x80;

/// What segmentation reads of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
    /// Sequence number.
    pub seq: u32,
    /// Bytes of the header with its options, 20 to 60.
    pub header_len: usize,
    /// Control bits.
    pub flags: u8,
}

impl Tcp {
    /// Reads the header; none when `b` does not hold it with its options.
    pub fn parse(b: &[u8]) -> Option<Self> {
        if b.len() < HEADER_LEN {
            return None;
        }
        let header_len = usize::from(b[12] >> 4) * 4;
        if header_len < HEADER_LEN || b.len() < header_len {
            return None;
        }
        Some(Tcp { src: be16(b, 0), dst: be16(b, 2), seq: be32(b, 4), header_len, flags: b[13] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_sequence_and_length_are_read() {
        let mut b = [0u8; 24];
        b[..8].copy_from_slice(&[0x00, 0x50, 0x1f, 0x90, 1, 2, 3, 4]);
        b[12] = 6 << 4;
        b[13] = PSH | FIN;
        let t = Tcp::parse(&b).unwrap();
        assert_eq!((t.src, t.dst, t.seq, t.header_len, t.flags), (80, 8080, 0x0102_0304, 24, 9));
        assert!(Tcp::parse(&b[..23]).is_none());
        b[12] = 4 << 4;
        assert!(Tcp::parse(&b).is_none());
    }
}
