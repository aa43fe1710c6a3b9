//! ICMP (RFC 792, 1122, 1191, 1812).

use super::checksum::Sum;
use super::{be16, be32, put16, put32};

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;

/// Message types.
#[allow(missing_docs)]
pub mod ty {
    pub const ECHO_REPLY: u8 = 0;
    pub const UNREACHABLE: u8 = 3;
    pub const SOURCE_QUENCH: u8 = 4;
    pub const REDIRECT: u8 = 5;
    pub const ECHO: u8 = 8;
    pub const TIME_EXCEEDED: u8 = 11;
    pub const PARAM_PROBLEM: u8 = 12;
    pub const TIMESTAMP: u8 = 13;
    pub const TIMESTAMP_REPLY: u8 = 14;
}

/// Codes of UNREACHABLE.
#[allow(missing_docs)]
pub mod unreach {
    pub const NET: u8 = 0;
    pub const HOST: u8 = 1;
    pub const PROTOCOL: u8 = 2;
    pub const PORT: u8 = 3;
    pub const NEED_FRAG: u8 = 4;
    pub const SOURCE_ROUTE: u8 = 5;
    pub const ADMIN: u8 = 13;
}

/// An ICMP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Type.
    pub ty: u8,
    /// Code.
    pub code: u8,
    /// Checksum.
    pub checksum: u16,
    /// The four bytes that the type gives a meaning: identifier and sequence, gateway, next-hop MTU, pointer.
    pub rest: u32,
}

impl Icmp {
    /// Reads the header; none when `b` is too short.
    pub fn parse(b: &[u8]) -> Option<Self> {
        let b = b.get(..HEADER_LEN)?;
        Some(Icmp { ty: b[0], code: b[1], checksum: be16(b, 2), rest: be32(b, 4) })
    }

    /// Writes the header to the start of `b`, with the checksum over it and `payload`.
    pub fn emit(&self, b: &mut [u8], payload: &[u8]) {
        b[0] = self.ty;
        b[1] = self.code;
        put16(b, 2, 0);
        put32(b, 4, self.rest);
        let sum = Sum::new().add(&b[..HEADER_LEN]).add(payload).finish();
        put16(b, 2, sum);
    }

    /// Whether the type is an error message, about which no error is ever sent (RFC 1122, section 3.2.2).
    pub const fn is_error(ty: u8) -> bool {
        matches!(ty, ty::UNREACHABLE | ty::SOURCE_QUENCH | ty::REDIRECT | ty::TIME_EXCEEDED | ty::PARAM_PROBLEM)
    }
}

#[cfg(test)]
mod tests {
    use super::super::checksum::checksum;
    use super::*;

    #[test]
    fn an_echo_is_emitted_with_a_right_checksum() {
        let mut b = [0u8; 12];
        b[8..].copy_from_slice(b"ping");
        let (h, p) = b.split_at_mut(8);
        Icmp { ty: ty::ECHO, code: 0, checksum: 0, rest: 0x1234_0001 }.emit(h, p);
        assert_eq!(checksum(&b), 0);
        let i = Icmp::parse(&b).unwrap();
        assert_eq!((i.ty, i.rest), (ty::ECHO, 0x1234_0001));
        assert!(Icmp::parse(&b[..7]).is_none());
    }

    #[test]
    fn errors_are_told_from_queries() {
        assert!(Icmp::is_error(ty::REDIRECT));
        assert!(!Icmp::is_error(ty::ECHO));
        assert!(!Icmp::is_error(ty::TIMESTAMP));
    }
}
