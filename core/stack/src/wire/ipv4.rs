//! The IPv4 header (RFC 791).

use super::checksum::checksum;
use super::{be16, be32, put16, put32};

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// Do not fragment.
pub const DF: u16 = 0x4000;
/// More fragments.
pub const MF: u16 = 0x2000;
/// Mask of the fragment offset, in units of 8 bytes.
pub const OFFSET_MASK: u16 = 0x1fff;

/// Protocol numbers.
#[allow(missing_docs)]
pub mod proto {
    pub const ICMP: u8 = 1;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6: u8 = 41;
}

/// The fixed part of an IPv4 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    /// Bytes of the header with its options, 20 to 60.
    pub header_len: usize,
    /// Type of service.
    pub tos: u8,
    /// Bytes of header and payload.
    pub total_len: u16,
    /// Identification.
    pub id: u16,
    /// DF, MF and fragment offset.
    pub frag: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol.
    pub proto: u8,
    /// Header checksum.
    pub checksum: u16,
    /// Source in host byte order.
    pub src: u32,
    /// Destination in host byte order.
    pub dst: u32,
}

impl Ipv4 {
    /// Reads the fixed part without judging it; none when `b` is shorter than that or the version is not 4.
    pub fn parse(b: &[u8]) -> Option<Self> {
        let b = b.get(..HEADER_LEN)?;
        if b[0] >> 4 != 4 {
            return None;
        }
        Some(Ipv4 {
            header_len: usize::from(b[0] & 0xf) * 4,
            tos: b[1],
            total_len: be16(b, 2),
            id: be16(b, 4),
            frag: be16(b, 6),
            ttl: b[8],
            proto: b[9],
            checksum: be16(b, 10),
            src: be32(b, 12),
            dst: be32(b, 16),
        })
    }

    /// Writes the fixed part and the checksum over `header_len` bytes; options, if any, stand in `b` already.
    pub fn emit(&self, b: &mut [u8]) {
        b[0] = 0x40 | (self.header_len / 4) as u8;
        b[1] = self.tos;
        put16(b, 2, self.total_len);
        put16(b, 4, self.id);
        put16(b, 6, self.frag);
        b[8] = self.ttl;
        b[9] = self.proto;
        put16(b, 10, 0);
        put32(b, 12, self.src);
        put32(b, 16, self.dst);
        let sum = checksum(&b[..self.header_len]);
        put16(b, 10, sum);
    }

    /// Whether it is a fragment, first or not.
    pub const fn is_fragment(&self) -> bool {
        self.frag & (MF | OFFSET_MASK) != 0
    }
}

/// Computes the header checksum anew; `b` holds the whole header.
pub fn refresh_checksum(b: &mut [u8]) {
    let n = (usize::from(b[0] & 0xf) * 4).min(b.len());
    put16(b, 10, 0);
    let sum = checksum(&b[..n]);
    put16(b, 10, sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example of RFC 1071's readers: a header of 115 bytes from 192.168.0.1 to 192.168.0.199.
    const HEADER: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8,
        0x00, 0xc7,
    ];

    #[test]
    fn a_header_is_parsed_and_emitted_as_it_was() {
        let h = Ipv4::parse(&HEADER).unwrap();
        assert_eq!((h.total_len, h.ttl, h.proto, h.checksum), (0x73, 64, proto::UDP, 0xb861));
        assert!(!h.is_fragment());
        let mut out = [0; 20];
        h.emit(&mut out);
        assert_eq!(out, HEADER);
    }

    #[test]
    fn another_version_is_refused() {
        let mut b = HEADER;
        b[0] = 0x65;
        assert!(Ipv4::parse(&b).is_none());
        assert!(Ipv4::parse(&HEADER[..19]).is_none());
    }

    #[test]
    fn the_checksum_is_refreshed_over_options() {
        let mut b = [0u8; 24];
        b[..20].copy_from_slice(&HEADER);
        b[0] = 0x46;
        b[20] = 1;
        refresh_checksum(&mut b);
        assert_eq!(checksum(&b), 0);
    }
}
