//! IPv4 (RFC 791).

use super::be16;
use core::net::Ipv4Addr;

/// An IPv4 header, with options, and what follows.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    head: &'a [u8; 20],
    len: usize,
    /// From the header on, without padding behind the packet.
    bytes: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Reads the header: it must be whole, and its lengths must agree with each other.
    pub fn parse(bytes: &'a [u8]) -> Option<Ipv4<'a>> {
        let head = bytes.first_chunk::<20>()?;
        let len = usize::from(head[0] & 15) * 4;
        let total = usize::from(be16(head, 2)?);
        let fine = head[0] >> 4 == 4 && len >= 20 && len <= bytes.len() && total >= len;
        fine.then(|| Ipv4 { head, len, bytes: bytes.get(..total).unwrap_or(bytes) })
    }

    /// Bytes of the header with its options.
    pub fn header_len(&self) -> usize {
        self.len
    }

    /// The options.
    pub fn options(&self) -> &'a [u8] {
        self.bytes.get(20..self.len).unwrap_or(&[])
    }

    /// Differentiated services code point, 0 to 63.
    pub fn dscp(&self) -> u8 {
        self.head[1] >> 2
    }

    /// Explicit congestion notification, 0 to 3.
    pub fn ecn(&self) -> u8 {
        self.head[1] & 3
    }

    /// Bytes of the packet, header included, as the header says.
    pub fn total_len(&self) -> u16 {
        be16(self.head, 2).unwrap_or(0)
    }

    /// Identification.
    pub fn id(&self) -> u16 {
        be16(self.head, 4).unwrap_or(0)
    }

    /// Whether it must not be fragmented.
    pub fn dont_fragment(&self) -> bool {
        self.head[6] & 0x40 != 0
    }

    /// Whether more fragments follow.
    pub fn more_fragments(&self) -> bool {
        self.head[6] & 0x20 != 0
    }

    /// Where in the whole packet this fragment belongs, in bytes.
    pub fn fragment_offset(&self) -> u16 {
        (be16(self.head, 6).unwrap_or(0) & 0x1fff) << 3
    }

    /// Whether it is a part of a fragmented packet, the first or a later one.
    pub fn is_fragment(&self) -> bool {
        self.more_fragments() || self.fragment_offset() != 0
    }

    /// Time to live.
    pub fn ttl(&self) -> u8 {
        self.head[8]
    }

    /// Protocol of the payload, one of [`protocol`](super::protocol) or another one.
    pub fn protocol(&self) -> u8 {
        self.head[9]
    }

    /// Source address.
    pub fn source(&self) -> Ipv4Addr {
        let h = self.head;
        Ipv4Addr::new(h[12], h[13], h[14], h[15])
    }

    /// Destination address.
    pub fn destination(&self) -> Ipv4Addr {
        let h = self.head;
        Ipv4Addr::new(h[16], h[17], h[18], h[19])
    }

    /// What follows the header, as far as it is seen.
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.len..).unwrap_or(&[])
    }

    /// The payload, unless it is that of a later fragment, which does not begin with a transport header.
    pub fn transport(&self) -> Option<&'a [u8]> {
        (self.fragment_offset() == 0).then_some(self.payload())
    }
}
