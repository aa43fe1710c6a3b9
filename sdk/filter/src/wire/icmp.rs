//! ICMP (RFC 792) and ICMPv6 (RFC 4443), whose messages begin alike.

/// An ICMP or ICMPv6 message.
#[derive(Clone, Copy, Debug)]
pub struct Icmp<'a> {
    head: &'a [u8; 8],
    payload: &'a [u8],
}

impl<'a> Icmp<'a> {
    /// Reads the first 8 bytes, which every message has.
    pub fn parse(bytes: &'a [u8]) -> Option<Icmp<'a>> {
        let (head, payload) = bytes.split_first_chunk::<8>()?;
        Some(Icmp { head, payload })
    }

    /// Type.
    pub fn kind(&self) -> u8 {
        self.head[0]
    }

    /// Code.
    pub fn code(&self) -> u8 {
        self.head[1]
    }

    /// The four bytes behind the checksum, whose meaning depends on the type.
    pub fn rest(&self) -> [u8; 4] {
        [self.head[4], self.head[5], self.head[6], self.head[7]]
    }

    /// What follows these eight bytes, as far as it is seen.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}
