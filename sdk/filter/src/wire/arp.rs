//! ARP for IPv4 over Ethernet (RFC 826).

use super::be16;
use core::net::Ipv4Addr;

/// An ARP packet.
#[derive(Clone, Copy, Debug)]
pub struct Arp<'a>(&'a [u8; 28]);

impl<'a> Arp<'a> {
    /// Reads it; only addresses of Ethernet and IPv4 are known.
    pub fn parse(bytes: &'a [u8]) -> Option<Arp<'a>> {
        let arp = bytes.first_chunk::<28>()?;
        (arp[..6] == [0, 1, 8, 0, 6, 4]).then_some(Arp(arp))
    }

    /// 1 for a request, 2 for a reply.
    pub fn operation(&self) -> u16 {
        be16(self.0, 6).unwrap_or(0)
    }

    /// The sender's Ethernet address.
    pub fn sender_mac(&self) -> [u8; 6] {
        let a = self.0;
        [a[8], a[9], a[10], a[11], a[12], a[13]]
    }

    /// The sender's IPv4 address.
    pub fn sender(&self) -> Ipv4Addr {
        let a = self.0;
        Ipv4Addr::new(a[14], a[15], a[16], a[17])
    }

    /// The Ethernet address that is asked for, or answered to.
    pub fn target_mac(&self) -> [u8; 6] {
        let a = self.0;
        [a[18], a[19], a[20], a[21], a[22], a[23]]
    }

    /// The IPv4 address that is asked for, or answered to.
    pub fn target(&self) -> Ipv4Addr {
        let a = self.0;
        Ipv4Addr::new(a[24], a[25], a[26], a[27])
    }
}
