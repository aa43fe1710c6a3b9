//! What the host says of a packet.

use smpnet_abi::{PktHdr, pkt_flags};
use smpnet_filter_abi::{BURST_MAX, NO_OFFSET, Packet, Ring, layer, packet_flags};

/// What is known of a packet besides its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meta {
    pub(crate) wire_len: u32,
    pub(crate) flow_hash: u32,
    pub(crate) mark: u32,
    pub(crate) rcvif: u32,
    /// Bits of `packet_flags`.
    pub(crate) flags: u16,
    pub(crate) vlan_tci: u16,
}

impl Meta {
    #[inline(always)]
    pub(crate) fn of(h: &PktHdr) -> Meta {
        Meta {
            wire_len: h.pkt_len,
            flow_hash: h.flow_hash,
            mark: h.mark,
            rcvif: h.rcvif,
            flags: flags(h.flags),
            vlan_tci: h.vlan_tci,
        }
    }
}

#[inline(always)]
fn flags(h: u32) -> u16 {
    const GSO: u32 = pkt_flags::GSO_TCP4 | pkt_flags::GSO_TCP6 | pkt_flags::GSO_UDP;
    const ANY: u32 = pkt_flags::BCAST | pkt_flags::MCAST | pkt_flags::HASH | pkt_flags::VLAN | pkt_flags::LOCAL | GSO;
    // Most packets have none.
    if h & ANY == 0 {
        return 0;
    }
    let bit = |from: u32, to: u16| if h & from != 0 { to } else { 0 };
    bit(pkt_flags::BCAST, packet_flags::BROADCAST)
        | bit(pkt_flags::MCAST, packet_flags::MULTICAST)
        | bit(pkt_flags::HASH, packet_flags::HASH)
        | bit(pkt_flags::VLAN, packet_flags::VLAN)
        | bit(GSO, packet_flags::GSO)
        | bit(pkt_flags::LOCAL, packet_flags::LOCAL)
}

/// What the host remembers of a packet in a window: bytes in the window, and where its headers are. One word, as several
/// stores for each packet are a part of what a packet costs.
#[derive(Clone, Copy)]
pub(crate) struct Told(u64);

impl Told {
    #[inline(always)]
    pub(super) fn new(cap: u16, at: Located) -> Told {
        Told(u64::from(cap) | u64::from(at.l3) << 16 | u64::from(at.l4) << 32 | u64::from(at.ether_type) << 48)
    }

    /// Bytes in the window.
    pub(crate) fn cap(self) -> u16 {
        self.0 as u16
    }

    /// Where its headers are.
    pub(crate) fn at(self) -> Located {
        Located { l3: (self.0 >> 16) as u16, l4: (self.0 >> 32) as u16, ether_type: (self.0 >> 48) as u16 }
    }
}

/// The windows of an instance, to be filled with the packets of a burst.
pub(crate) struct Windows<'a> {
    pub(super) ring: &'a mut Ring,
    /// All windows, which follow the ring.
    pub(super) bytes: &'a mut [u8],
    /// What each packet is, where the module cannot write.
    pub(super) told: &'a mut [Told; BURST_MAX as usize],
    /// Bytes of a window.
    pub(super) window: usize,
    /// Address of the first window in the module's memory.
    pub(super) at: u32,
    pub(super) layer: u32,
}

impl Windows<'_> {
    /// Puts the packets of a burst into their windows, in order, as many as there are or have room: `copy` is given the
    /// packets, the windows' bytes, how many of those one has, and writes how many it filled of each; `meta` says what is
    /// known of a packet besides. Returns the bytes that all packets had on the wire.
    ///
    /// Two passes, because one needs more than the processor's registers.
    #[inline(always)]
    pub(crate) fn fill<T: Copy>(
        &mut self,
        packets: &[T],
        copy: impl FnOnce(&[T], &mut [u8], usize, &mut [u16; BURST_MAX as usize]),
        meta: impl Fn(T) -> Meta,
    ) -> u64 {
        let mut caps = [0; BURST_MAX as usize];
        copy(packets, self.bytes, self.window, &mut caps);
        let windows = self.bytes.chunks_exact(self.window);
        let out = self.told.iter_mut().zip(&mut self.ring.packets);
        let (mut data, mut bytes) = (self.at, 0);
        for (((&packet, window), &cap), (told, out)) in packets.iter().zip(windows).zip(&caps).zip(out) {
            let cap = cap.min(self.window as u16);
            *told = Told::new(cap, locate(self.layer, window, usize::from(cap)));
            let meta = meta(packet);
            bytes += u64::from(meta.wire_len);
            *out = describe(data, *told, &meta);
            data += self.window as u32;
        }
        bytes
    }
}

/// What a module is told of a packet. Written as four words: eleven stores take longer than finding out what is in them.
#[inline(always)]
fn describe(data: u32, told: Told, meta: &Meta) -> Packet {
    let cap = told.cap();
    let cut = u16::from(meta.wire_len > u32::from(cap)) * packet_flags::CUT;
    let words = [
        u64::from(data) | u64::from(cap) << 32 | u64::from(meta.flags | cut) << 48,
        u64::from(meta.wire_len) | u64::from(meta.flow_hash) << 32,
        u64::from(meta.mark) | u64::from(meta.rcvif) << 32,
        told.0 >> 16 | u64::from(meta.vlan_tci) << 48,
    ];
    // SAFETY: both have 32 bytes without padding, for which all values are good. The test below compares the fields.
    unsafe { std::mem::transmute::<[u64; 4], Packet>(words.map(u64::to_le)) }
}

/// Where the headers of a packet begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) l3: u16,
    pub(crate) l4: u16,
    pub(crate) ether_type: u16,
}

const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;

/// Finds the headers in what a module sees of a packet: the first `cap` bytes of its window. A transport header is there
/// unless the packet is a fragment other than the first, or something stands in front of it (IPv6 extension headers).
///
/// Frames of plain IPv4 and IPv6 are looked at without a branch that depends on the packet, but for which of the two it is:
/// on mixed traffic a wrong guess costs more than all of the rest.
#[inline(always)]
pub(crate) fn locate(at: u32, window: &[u8], cap: usize) -> Located {
    if at == layer::ETHER
        && cap >= 34
        && let Some(h) = window.first_chunk::<34>()
    {
        match [h[12], h[13]] {
            [0x08, 0x00] => return Located { l3: 14, l4: behind_ipv4(14, &h[14..]), ether_type: TYPE_IPV4 },
            [0x86, 0xdd] => return Located { l3: 14, l4: behind_ipv6(14, h[14], h[20]), ether_type: TYPE_IPV6 },
            _ => {}
        }
    }
    locate_any(at, &window[..cap])
}

/// [`locate`] of everything else: other layers, tags, short packets.
#[inline(never)]
fn locate_any(at: u32, b: &[u8]) -> Located {
    let (l3, ether_type) = match at {
        layer::ETHER => match ethernet(b) {
            Some(found) => found,
            None => return Located { l3: NO_OFFSET, l4: NO_OFFSET, ether_type: 0 },
        },
        layer::INET6 => (0, TYPE_IPV6),
        _ => (0, TYPE_IPV4),
    };
    Located { l3, l4: transport(b, l3, ether_type), ether_type }
}

/// The network header behind an Ethernet header and its tags.
#[inline(always)]
fn ethernet(b: &[u8]) -> Option<(u16, u16)> {
    let mut at = 12;
    // 802.1Q and 802.1ad: at most two tags.
    for _ in 0..3 {
        let ty = u16::from_be_bytes([*b.get(at)?, *b.get(at + 1)?]);
        match ty {
            0x8100 | 0x88a8 => at += 4,
            // Below 1536 it is a length (IEEE 802.3).
            0..0x600 => return None,
            ty => return Some((at as u16 + 2, ty)),
        }
    }
    None
}

fn transport(b: &[u8], l3: u16, ether_type: u16) -> u16 {
    let at = usize::from(l3);
    match ether_type {
        TYPE_IPV4 => b.get(at..at + 20).map_or(NO_OFFSET, |h| behind_ipv4(l3, h)),
        TYPE_IPV6 => b.get(at + 6).map_or(NO_OFFSET, |&next| behind_ipv6(l3, b[at], next)),
        _ => NO_OFFSET,
    }
}

/// What follows the IPv4 header `h` at `l3`.
#[inline(always)]
fn behind_ipv4(l3: u16, h: &[u8]) -> u16 {
    let len = u16::from(h[0] & 15) * 4;
    let fragment = u16::from_be_bytes([h[6], h[7]]) & 0x1fff;
    let plain = (h[0] >> 4 == 4) & (len >= 20) & (fragment == 0);
    if plain { l3 + len } else { NO_OFFSET }
}

/// What follows an IPv6 header at `l3`, of which these are the first byte and the next header.
#[inline(always)]
fn behind_ipv6(l3: u16, first: u8, next: u8) -> u16 {
    // TCP, UDP, ICMPv6, SCTP, UDP-Lite: no extension headers in between.
    let plain = matches!(next, 6 | 17 | 58 | 132 | 136) & (first >> 4 == 6);
    if plain { l3 + 40 } else { NO_OFFSET }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testrouter::{udp, udp_frame};

    #[test]
    fn all_that_is_known_of_a_packet_is_in_its_place() {
        let at = Located { l3: 1, l4: 0xfffe, ether_type: 0x86dd };
        let meta = Meta { wire_len: 70_000, flow_hash: !5, mark: 6, rcvif: !7, flags: 0x8003, vlan_tci: 0xf00f };
        let told = Told::new(128, at);
        assert_eq!((told.cap(), told.at()), (128, at));
        let expected = Packet {
            data: 0x8765_4321,
            cap_len: 128,
            flags: 0x8003 | packet_flags::CUT,
            wire_len: 70_000,
            flow_hash: !5,
            mark: 6,
            rcvif: !7,
            l3_off: 1,
            l4_off: 0xfffe,
            ether_type: 0x86dd,
            vlan_tci: 0xf00f,
        };
        assert_eq!(describe(0x8765_4321, told, &meta), expected);
        let whole = Meta { wire_len: 128, ..meta };
        assert_eq!(describe(0, told, &whole).flags, 0x8003);
    }

    #[test]
    fn headers_are_found_behind_tags_and_options_and_not_in_fragments() {
        let found = |layer, b: &[u8]| {
            let l = locate(layer, b, b.len());
            // What lies in a window behind the packet is not looked at.
            let mut window = b.to_vec();
            window.extend([8, 0, 0x45, 0, 0, 60, 0, 0, 0, 0, 64, 17].repeat(6));
            assert_eq!(locate(layer, &window, b.len()), l);
            assert_eq!(locate_any(layer, b), l, "both ways find the same");
            (l.l3, l.l4, l.ether_type)
        };
        let none = NO_OFFSET;
        assert_eq!(found(layer::INET, &udp(53, 0)), (0, 20, 0x800));
        assert_eq!(found(layer::ETHER, &udp_frame(53, 0)), (14, 34, 0x800));
        let mut tagged = udp_frame(53, 0);
        tagged.splice(12..12, [0x88, 0xa8, 0, 1, 0x81, 0, 0, 2]);
        assert_eq!(found(layer::ETHER, &tagged), (22, 42, 0x800));
        let mut options = udp(53, 8);
        options[0] = 0x47;
        assert_eq!(found(layer::INET, &options), (0, 28, 0x800));
        let mut fragment = udp(53, 0);
        fragment[7] = 1;
        assert_eq!(found(layer::INET, &fragment), (0, none, 0x800));
        let mut six = vec![0x60; 60];
        six[6] = 17;
        assert_eq!(found(layer::INET6, &six), (0, 40, 0x86dd));
        six[6] = 0;
        assert_eq!(found(layer::INET6, &six), (0, none, 0x86dd));
        let mut frame = udp_frame(53, 0);
        assert_eq!(found(layer::ETHER, &frame[..33]), (14, none, 0x800));
        frame[14] = 0x44;
        assert_eq!(found(layer::ETHER, &frame), (14, none, 0x800), "a header of 16 bytes");
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        (frame[14], frame[20]) = (0x60, 58);
        assert_eq!(found(layer::ETHER, &frame), (14, 54, 0x86dd));
        frame[20] = 0;
        assert_eq!(found(layer::ETHER, &frame), (14, none, 0x86dd));
        assert_eq!(found(layer::ETHER, &[0; 13]), (none, none, 0));
        assert_eq!(found(layer::ETHER, &[0; 64]), (none, none, 0));
        assert_eq!(found(layer::INET, &[]), (0, none, 0x800));
    }
}
