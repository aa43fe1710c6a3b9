//! IPv6 (RFC 8200) with its extension headers.

use super::be16;
use core::net::Ipv6Addr;

/// An IPv6 header, its extension headers, and what follows.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6<'a> {
    head: &'a [u8; 40],
    protocol: u8,
    transport: usize,
    fragment: Option<(u16, bool)>,
    /// From the header on, without padding behind the packet.
    bytes: &'a [u8],
}

/// Extension headers that are followed; RFC 8200 knows no limit, a packet of good will stays far below.
const EXTENSIONS: usize = 8;

impl<'a> Ipv6<'a> {
    /// Reads the header and goes through at most 8 extension headers. Where these are cut, or too many, the protocol is
    /// that of the first header that was not read.
    pub fn parse(bytes: &'a [u8]) -> Option<Ipv6<'a>> {
        let head = bytes.first_chunk::<40>()?;
        if head[0] >> 4 != 6 {
            return None;
        }
        let total = 40 + usize::from(be16(head, 4)?);
        let bytes = bytes.get(..total).unwrap_or(bytes);
        let mut ip = Ipv6 { head, protocol: head[6], transport: 40, fragment: None, bytes };
        for _ in 0..EXTENSIONS {
            let Some((next, len)) = ip.extension() else { break };
            (ip.protocol, ip.transport) = (next, ip.transport + len);
        }
        Some(ip)
    }

    /// The next header and length of the extension header that stands where the transport header would; a fragment header
    /// is noted. `None` when it is none, or not whole, or lies in a later fragment.
    fn extension(&mut self) -> Option<(u8, usize)> {
        let rest = self.bytes.get(self.transport..)?;
        if self.fragment.is_some_and(|(offset, _)| offset != 0) {
            return None;
        }
        let (next, units) = (*rest.first()?, usize::from(*rest.get(1)?));
        let len = match self.protocol {
            // Hop-by-hop, routing, destination options, mobility, HIP, shim6.
            0 | 43 | 60 | 135 | 139 | 140 => (units + 1) * 8,
            44 => 8,
            // Authentication header (RFC 4302), in units of 4 bytes.
            51 => (units + 2) * 4,
            _ => return None,
        };
        if rest.len() < len {
            return None;
        }
        if self.protocol == 44 {
            let word = be16(rest, 2)?;
            self.fragment = Some((word & 0xfff8, word & 1 != 0));
        }
        Some((next, len))
    }

    /// Traffic class.
    pub fn traffic_class(&self) -> u8 {
        self.head[0] << 4 | self.head[1] >> 4
    }

    /// Flow label.
    pub fn flow_label(&self) -> u32 {
        u32::from_be_bytes([0, self.head[1] & 15, self.head[2], self.head[3]])
    }

    /// Bytes behind the first header, as it says.
    pub fn payload_len(&self) -> u16 {
        be16(self.head, 4).unwrap_or(0)
    }

    /// Hop limit.
    pub fn hop_limit(&self) -> u8 {
        self.head[7]
    }

    /// The next header of the first header.
    pub fn next_header(&self) -> u8 {
        self.head[6]
    }

    /// Protocol of what follows all extension headers.
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Bytes of the header and the extension headers.
    pub fn header_len(&self) -> usize {
        self.transport
    }

    /// Whether it is a part of a fragmented packet, the first or a later one. A lone "atomic fragment" (RFC 6946) is not.
    pub fn is_fragment(&self) -> bool {
        self.fragment.is_some_and(|(offset, more)| offset != 0 || more)
    }

    /// Where in the whole packet this fragment belongs, in bytes.
    pub fn fragment_offset(&self) -> u16 {
        self.fragment.map_or(0, |(offset, _)| offset)
    }

    /// Source address.
    pub fn source(&self) -> Ipv6Addr {
        self.address(8)
    }

    /// Destination address.
    pub fn destination(&self) -> Ipv6Addr {
        self.address(24)
    }

    fn address(&self, off: usize) -> Ipv6Addr {
        let bytes = self.head.get(off..).and_then(|b| b.first_chunk::<16>());
        bytes.copied().unwrap_or([0; 16]).into()
    }

    /// What follows all headers, as far as it is seen.
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.transport..).unwrap_or(&[])
    }

    /// The payload, unless it is that of a later fragment, which does not begin with a transport header.
    pub fn transport(&self) -> Option<&'a [u8]> {
        (self.fragment_offset() == 0).then_some(self.payload())
    }
}
