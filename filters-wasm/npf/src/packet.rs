//! What npf knows of a packet: its headers, read once (the packet cache of NetBSD, `npf_cache_all`).
//!
//! A packet begins at its IP header. Nothing is read beyond the bytes that are there nor beyond the length that the
//! header tells; what is too short for a header that it should have is malformed, but for fragments behind the first,
//! which have no header of the upper protocol.

use crate::config::Family;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol numbers.
pub mod proto {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// Generic routing encapsulation.
    pub const GRE: u8 = 47;
    /// IPsec, encrypted.
    pub const ESP: u8 = 50;
    /// IPsec, authenticated.
    pub const AH: u8 = 51;
    /// ICMP of IPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6: nothing follows.
    pub const NONE: u8 = 59;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// TCP's flags.
pub mod tcp_flag {
    /// The sender has no more to send.
    pub const FIN: u8 = 0x01;
    /// The connection begins.
    pub const SYN: u8 = 0x02;
    /// It ends at once.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// Congestion was seen (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// The window was reduced.
    pub const CWR: u8 = 0x80;
}

/// The headers of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Where it comes from; IPv4 addresses as `::ffff:a.b.c.d`.
    pub src: u128,
    /// Where it goes.
    pub dst: u128,
    /// The upper protocol, behind the extension headers of IPv6.
    pub proto: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Bytes in front of the upper protocol's header.
    pub header: usize,
    /// Bytes of the packet as its IP header tells, never more than it has; those that were read may be fewer.
    pub len: usize,
    /// It is a part of a packet.
    pub fragment: Option<Fragment>,
    /// IPv4 options, or hop-by-hop, routing or destination options of IPv6.
    pub options: bool,
    /// The upper protocol's header; [`Upper::Unknown`] in fragments behind the first.
    pub upper: Upper,
    /// The upper protocol's checksum is that of the pseudo-header so far, and what sends the packet completes it (what
    /// Linux calls `CHECKSUM_PARTIAL`). No header says so.
    pub checksum_is_open: bool,
}

/// Where a fragment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Tells the packets of two hosts apart.
    pub id: u32,
    /// Bytes of the packet's data before this.
    pub offset: usize,
    /// There are fragments behind it.
    pub more: bool,
    /// IPv6: where the fragment header is. IPv4: 0.
    pub at: usize,
}

/// The upper protocol's header, as far as filters ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upper {
    /// Another protocol, or none is there.
    Unknown,
    /// TCP.
    Tcp(Tcp),
    /// UDP.
    Udp(Ports),
    /// SCTP.
    Sctp(Ports),
    /// ICMP or ICMPv6.
    Icmp(Icmp),
    /// GRE, ESP, AH: told apart by their addresses, and by this where the protocol has something that both sides say.
    Tunnel(u32),
}

/// Ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The sender's.
    pub src: u16,
    /// The receiver's.
    pub dst: u16,
}

/// A TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Its ports.
    pub ports: Ports,
    /// Its flags: [`tcp_flag`].
    pub flags: u8,
    /// Its sequence number.
    pub seq: u32,
    /// What it acknowledges.
    pub ack: u32,
    /// Its window, as it stands there.
    pub window: u16,
    /// Bytes of the header, options included.
    pub header: usize,
    /// Bytes of data.
    pub data: usize,
}

/// An ICMP or ICMPv6 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Its type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// What it is.
    pub class: IcmpClass,
}

/// What an ICMP message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpClass {
    /// A request that is answered, with its identifier.
    Request(u16),
    /// The answer.
    Reply(u16),
    /// An error about a packet that it quotes from this byte of the packet on.
    Error(usize),
    /// Something else, such as neighbour discovery.
    Other,
}

/// Why a packet is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// No IP header fits.
    #[error("too short for an IP header")]
    Short,
    /// Neither IPv4 nor IPv6.
    #[error("IP version {0}")]
    Version(u8),
    /// The header says that it is shorter than a header, or longer than the packet.
    #[error("the lengths of the IP header are impossible")]
    Length,
    /// IPv6: extension headers do not end within the packet, or are more than [`EXTENSIONS_MAX`].
    #[error("extension headers do not end")]
    Extensions,
    /// The upper protocol's header is cut off or impossible.
    #[error("the header of protocol {0} is cut off or impossible")]
    Upper(u8),
}

/// Most extension headers of a packet.
pub const EXTENSIONS_MAX: usize = 12;

impl Packet {
    /// Reads the headers of a packet that begins at its IP header.
    ///
    /// # Errors
    /// When it is not a whole IP packet.
    pub fn read(bytes: &[u8]) -> Result<Packet, Malformed> {
        Packet::read_head(bytes, bytes.len())
    }

    /// Reads the headers of a packet of `whole` bytes of which the first are here. All headers must be among them.
    ///
    /// # Errors
    /// When it is not a whole IP packet, or a header goes on beyond these bytes.
    pub fn read_head(bytes: &[u8], whole: usize) -> Result<Packet, Malformed> {
        match bytes.first().ok_or(Malformed::Short)? >> 4 {
            4 => Packet::read_v4(bytes, whole),
            6 => Packet::read_v6(bytes, whole),
            other => Err(Malformed::Version(other)),
        }
    }

    fn read_v4(bytes: &[u8], whole: usize) -> Result<Packet, Malformed> {
        let Some(&[first, _, len0, len1, id0, id1, off0, off1, ttl, proto, ..]) = bytes.first_chunk::<20>() else {
            return Err(Malformed::Short);
        };
        let header = usize::from(first & 15) * 4;
        let len = usize::from(u16::from_be_bytes([len0, len1]));
        if header < 20 || len < header || len > whole {
            return Err(Malformed::Length);
        }
        let frag = u16::from_be_bytes([off0, off1]);
        let (offset, more) = (usize::from(frag & 0x1fff) * 8, frag & 0x2000 != 0);
        let id = u32::from(u16::from_be_bytes([id0, id1]));
        let fragment = (offset != 0 || more).then_some(Fragment { id, offset, more, at: 0 });
        let mut packet = Packet {
            family: Family::V4,
            src: v4(be32(bytes, 12)),
            dst: v4(be32(bytes, 16)),
            proto,
            ttl,
            header,
            len,
            fragment,
            options: header > 20,
            upper: Upper::Unknown,
            checksum_is_open: false,
        };
        packet.read_upper(bytes)?;
        Ok(packet)
    }

    fn read_v6(bytes: &[u8], whole: usize) -> Result<Packet, Malformed> {
        let Some(head) = bytes.first_chunk::<40>() else { return Err(Malformed::Short) };
        // Jumbograms (RFC 2675) say 0, and are none for a packet path of cells.
        let len = 40 + usize::from(be16(head, 4));
        if len > whole {
            return Err(Malformed::Length);
        }
        let mut packet = Packet {
            family: Family::V6,
            src: be128(head, 8),
            dst: be128(head, 24),
            proto: head[6],
            ttl: head[7],
            header: 40,
            len,
            fragment: None,
            options: false,
            upper: Upper::Unknown,
            checksum_is_open: false,
        };
        packet.skip_extensions(bytes.get(..len).unwrap_or(bytes))?;
        packet.read_upper(bytes)?;
        Ok(packet)
    }

    /// Extension headers (RFC 8200, section 4) up to the upper protocol's header, or to a fragment that has none.
    fn skip_extensions(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        /// Hop-by-hop, routing, destination, mobility, HIP, shim6: a length in units of 8 bytes, without the first 8.
        const OPTIONS: [u8; 6] = [0, 43, 60, 135, 139, 140];
        const FRAGMENT: u8 = 44;
        for _ in 0..EXTENSIONS_MAX {
            let at = self.header;
            let here = bytes.get(at..at + 8);
            match self.proto {
                FRAGMENT => {
                    let head = here.ok_or(Malformed::Extensions)?;
                    let field = be16(head, 2);
                    let fragment =
                        Fragment { id: be32(head, 4), offset: usize::from(field & !7), more: field & 1 != 0, at };
                    // Two of them would be a packet that was cut twice, which nobody does (RFC 8200, section 4.5).
                    if self.fragment.replace(fragment).is_some() {
                        return Err(Malformed::Extensions);
                    }
                    (self.proto, self.header) = (head[0], at + 8);
                    if fragment.offset != 0 {
                        return Ok(());
                    }
                }
                p if OPTIONS.contains(&p) => {
                    let head = here.ok_or(Malformed::Extensions)?;
                    (self.proto, self.header) = (head[0], at + 8 + usize::from(head[1]) * 8);
                    self.options = true;
                    if self.header > bytes.len() {
                        return Err(Malformed::Extensions);
                    }
                }
                _ => return Ok(()),
            }
        }
        Err(Malformed::Extensions)
    }

    fn read_upper(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        if self.fragment.is_some_and(|f| f.offset != 0) {
            return Ok(());
        }
        let body = self.here(bytes).get(self.header..).unwrap_or_default();
        let beyond = self.len.saturating_sub(bytes.len());
        self.upper =
            read_upper(self.proto, self.family, self.header, body, beyond).ok_or(Malformed::Upper(self.proto))?;
        Ok(())
    }

    /// What is here of the packet, out of the bytes that it was read from.
    pub fn here<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        bytes.get(..self.len).unwrap_or(bytes)
    }

    /// Its ports, where it has some.
    pub fn ports(&self) -> Option<Ports> {
        match self.upper {
            Upper::Tcp(tcp) => Some(tcp.ports),
            Upper::Udp(ports) | Upper::Sctp(ports) => Some(ports),
            _ => None,
        }
    }
}

/// The upper protocol's header; None when it is cut off. A first fragment holds it whole (RFC 7112; RFC 1858 for TCP).
/// `beyond`: bytes of the packet behind `body`.
fn read_upper(number: u8, family: Family, header: usize, body: &[u8], beyond: usize) -> Option<Upper> {
    let ports = || Ports { src: be16(body, 0), dst: be16(body, 2) };
    Some(match number {
        proto::TCP => {
            let head = body.first_chunk::<20>()?;
            let bytes = usize::from(head[12] >> 4) * 4;
            if bytes < 20 || bytes > body.len() {
                return None;
            }
            Upper::Tcp(Tcp {
                ports: ports(),
                flags: head[13],
                seq: be32(head, 4),
                ack: be32(head, 8),
                window: be16(head, 14),
                header: bytes,
                data: body.len() - bytes + beyond,
            })
        }
        proto::UDP => {
            body.first_chunk::<8>()?;
            Upper::Udp(ports())
        }
        proto::SCTP => {
            body.first_chunk::<12>()?;
            Upper::Sctp(ports())
        }
        proto::ICMP if family == Family::V4 => read_icmp(body, header, IcmpClass::of_v4)?,
        proto::ICMPV6 if family == Family::V6 => read_icmp(body, header, IcmpClass::of_v6)?,
        proto::ESP | proto::AH | proto::GRE => Upper::Tunnel(0),
        _ => Upper::Unknown,
    })
}

fn read_icmp(body: &[u8], header: usize, class: fn(u8, u16, usize) -> IcmpClass) -> Option<Upper> {
    let head = body.first_chunk::<8>()?;
    let class = class(head[0], be16(head, 4), header + 8);
    Some(Upper::Icmp(Icmp { kind: head[0], code: head[1], class }))
}

impl IcmpClass {
    /// By the type of an ICMP message (RFC 792, 950), its second word, and where its data begin.
    pub fn of_v4(kind: u8, id: u16, quoted: usize) -> IcmpClass {
        match kind {
            8 | 13 | 15 | 17 => IcmpClass::Request(id),
            0 | 14 | 16 | 18 => IcmpClass::Reply(id),
            3 | 4 | 5 | 11 | 12 => IcmpClass::Error(quoted),
            _ => IcmpClass::Other,
        }
    }

    /// By the type of an ICMPv6 message (RFC 4443).
    pub fn of_v6(kind: u8, id: u16, quoted: usize) -> IcmpClass {
        match kind {
            128 => IcmpClass::Request(id),
            129 => IcmpClass::Reply(id),
            1..=4 => IcmpClass::Error(quoted),
            _ => IcmpClass::Other,
        }
    }
}

/// An IPv4 address as [`Packet`] holds it.
pub fn v4(address: u32) -> u128 {
    0xffff_0000_0000 | u128::from(address)
}

/// An address as [`Packet`] holds it.
pub fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => v4(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// The address that a [`Packet`] of that family holds.
pub fn address_of(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

/// Two bytes in network order; 0 beyond the end.
pub fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
}

/// Four bytes in network order; 0 beyond the end.
pub fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

/// Sixteen bytes in network order; 0 beyond the end.
pub fn be128(bytes: &[u8], at: usize) -> u128 {
    bytes.get(at..at + 16).and_then(|b| b.try_into().ok()).map_or(0, u128::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4_packet(proto: u8, frag: u16, body: &[u8]) -> Vec<u8> {
        let len = (20 + body.len()) as u16;
        let mut p = vec![0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, proto, 0, 0, 10, 1, 1, 1, 192, 0, 2, 9];
        p[2..4].copy_from_slice(&len.to_be_bytes());
        p[6..8].copy_from_slice(&frag.to_be_bytes());
        p.extend_from_slice(body);
        p
    }

    fn v6_packet(next: u8, body: &[u8]) -> Vec<u8> {
        let mut p = vec![0x60, 0, 0, 0, 0, 0, next, 63];
        p[4..6].copy_from_slice(&(body.len() as u16).to_be_bytes());
        p.extend(1..=16u8);
        p.extend(17..=32u8);
        p.extend_from_slice(body);
        p
    }

    #[test]
    fn udp_over_ipv4_is_read_and_what_follows_the_packet_is_not() {
        let mut bytes = v4_packet(17, 0x4000, &[0, 53, 0x12, 0x34, 0, 9, 0, 0, 7]);
        bytes.extend([0xff; 17]);
        let p = Packet::read(&bytes).unwrap();
        assert_eq!((p.src, p.dst), (v4(0x0a01_0101), v4(0xc000_0209)));
        assert_eq!((p.header, p.len, p.ttl, p.fragment, p.options), (20, 29, 64, None, false));
        assert_eq!(p.upper, Upper::Udp(Ports { src: 53, dst: 0x1234 }));
    }

    #[test]
    fn tcp_tells_its_data() {
        let mut body = vec![0u8; 27];
        body[12] = 6 << 4;
        body[13] = 0x12;
        let Upper::Tcp(tcp) = Packet::read(&v4_packet(6, 0, &body)).unwrap().upper else { panic!("no TCP") };
        assert_eq!((tcp.header, tcp.data, tcp.flags), (24, 3, tcp_flag::SYN | tcp_flag::ACK));
    }

    #[test]
    fn headers_that_are_cut_off_are_malformed() {
        let mut offset = vec![0u8; 20];
        offset[12] = 6 << 4;
        for (bytes, why) in [
            (vec![], Malformed::Short),
            (vec![0x45; 19], Malformed::Short),
            (vec![0x55; 40], Malformed::Version(5)),
            (v4_packet(17, 0, &[0; 7]), Malformed::Upper(17)),
            (v4_packet(6, 0, &[0x50; 19]), Malformed::Upper(6)),
            (v4_packet(6, 0, &offset), Malformed::Upper(6)),
            (v4_packet(1, 0x2000, &[8; 7]), Malformed::Upper(1)),
            (v6_packet(0, &[58, 1, 0, 0, 0, 0, 0, 0]), Malformed::Extensions),
            (v6_packet(44, &[44, 0, 0, 1, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 0]), Malformed::Extensions),
            (v6_packet(0, &[0; 8 * 13]), Malformed::Extensions),
        ] {
            assert_eq!(Packet::read(&bytes), Err(why), "{bytes:x?}");
        }
        let mut long = v4_packet(17, 0, &[0; 8]);
        long.pop();
        assert_eq!(Packet::read(&long), Err(Malformed::Length));
    }

    #[test]
    fn a_later_fragment_has_no_upper_header() {
        let p = Packet::read(&v4_packet(17, 0x2001, &[1, 2])).unwrap();
        assert_eq!(p.fragment, Some(Fragment { id: 0x1234, offset: 8, more: true, at: 0 }));
        assert_eq!(p.upper, Upper::Unknown);
        let p = Packet::read(&v6_packet(44, &[17, 0, 0, 8, 0, 0, 0, 7, 1])).unwrap();
        assert_eq!(p.fragment, Some(Fragment { id: 7, offset: 8, more: false, at: 40 }));
        assert_eq!((p.proto, p.header, p.upper), (17, 48, Upper::Unknown));
    }

    #[test]
    fn extension_headers_are_skipped() {
        let mut body = vec![60, 0, 1, 4, 0, 0, 0, 0, 17, 1];
        body.extend([0; 14]);
        body.extend([0, 9, 0, 10, 0, 8, 0, 0]);
        let p = Packet::read(&v6_packet(0, &body)).unwrap();
        assert_eq!((p.proto, p.header, p.options), (17, 64, true));
        assert_eq!(p.upper, Upper::Udp(Ports { src: 9, dst: 10 }));
        assert_eq!(p.src, 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
    }

    #[test]
    fn icmp_is_told_apart() {
        let icmp = |bytes: &[u8]| match Packet::read(bytes).unwrap().upper {
            Upper::Icmp(icmp) => icmp.class,
            other => panic!("{other:?}"),
        };
        assert_eq!(icmp(&v4_packet(1, 0, &[8, 0, 0, 0, 0x12, 0x34, 0, 1])), IcmpClass::Request(0x1234));
        assert_eq!(icmp(&v4_packet(1, 0, &[3, 4, 0, 0, 0, 0, 0, 1])), IcmpClass::Error(28));
        assert_eq!(icmp(&v6_packet(58, &[129, 0, 0, 0, 0, 7, 0, 1])), IcmpClass::Reply(7));
        assert_eq!(icmp(&v6_packet(58, &[135, 0, 0, 0, 0, 7, 0, 1])), IcmpClass::Other);
        // ICMP of the other family is no ICMP.
        assert_eq!(Packet::read(&v6_packet(1, &[8; 8])).unwrap().upper, Upper::Unknown);
    }
}
