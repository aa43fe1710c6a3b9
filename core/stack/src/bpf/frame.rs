//! A packet as it is captured: where its link header begins, and the tag that a device took off.

use crate::net::ifnet::Medium;
use crate::wire::ethernet::{HEADER_LEN, TYPE_IPV4, TYPE_VLAN, VLAN_TAG_LEN};
use serde::Serialize;
use smpnet_abi::{Cell, HEADER_SIZE, pkt_flags};
use smpnet_runtime::{Packet, Pool};

/// What the bytes of a captured packet begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// An Ethernet header (LINKTYPE_ETHERNET).
    Ether,
    /// An IPv4 or IPv6 header (LINKTYPE_RAW).
    Raw,
}

/// EtherType of IPv6.
const TYPE_IPV6: u16 = 0x86dd;

/// Where the addresses of an Ethernet header end, and a tag goes.
const ADDRESSES: usize = 12;

/// A packet that is looked at. The caller owns the packet for as long.
#[derive(Clone, Copy)]
pub(super) struct Frame<'p> {
    packet: Packet<'p>,
    /// Bytes of the link header in front of the packet's data.
    before: usize,
    /// The 802.1Q tag that is not in the bytes.
    tag: Option<[u8; VLAN_TAG_LEN]>,
    /// A link header for a packet that has none, where one must be shown: without addresses, as Linux' loopback has it.
    made_up: Option<[u8; HEADER_LEN]>,
}

impl<'p> Frame<'p> {
    /// A packet at the edge of the stack, whose data is the frame (or the packet, without a link layer), as `link` shows it.
    pub(super) fn at_edge(pool: &'p Pool, medium: Medium, link: Link, cell: Cell) -> Frame<'p> {
        let packet = pool.packet(cell);
        match (medium, link) {
            (Medium::Ether, _) => Frame { packet, before: 0, tag: tag_of(&packet), made_up: None },
            (Medium::RawIp, Link::Raw) => Frame { packet, before: 0, tag: None, made_up: None },
            (Medium::RawIp, Link::Ether) => Frame { packet, before: 0, tag: None, made_up: made_up(&packet) },
        }
    }

    /// A packet anywhere in the stack. Its link header is shown when it is still in front of it.
    pub(super) fn inside(pool: &'p Pool, medium: Medium, link: Link, cell: Cell) -> Frame<'p> {
        let packet = pool.packet(cell);
        let h = packet.hdr();
        let (data, l2, l3) = (usize::from(h.data_off), usize::from(h.l2_off), usize::from(h.l3_off));
        let at_l3 = l3 != 0 && data == l3 && matches!(packet.data().first().map(|b| b >> 4), Some(4 | 6));
        if medium == Medium::RawIp || !at_l3 {
            return Frame::at_edge(pool, medium, link, cell);
        }
        if l2 >= HEADER_SIZE as usize && l2 + HEADER_LEN == data {
            return Frame { packet, before: HEADER_LEN, tag: tag_of(&packet), made_up: None };
        }
        // Made here, or out of a tunnel: it has no link header yet.
        Frame { packet, before: 0, tag: None, made_up: made_up(&packet) }
    }

    /// Bytes that the packet has on the wire.
    pub(super) fn wire_len(&self) -> u32 {
        let made_up = self.made_up.map_or(0, |h| h.len()) + self.tag.map_or(0, |t| t.len());
        self.packet.len() + (self.before + made_up) as u32
    }

    /// The whole packet in one piece, when it lies so.
    pub(super) fn whole(&self) -> Option<&[u8]> {
        (self.tag.is_none() && self.made_up.is_none() && self.packet.hdr().nsegs <= 1).then(|| self.first())
    }

    /// The bytes of the first cell, with the link header.
    fn first(&self) -> &[u8] {
        let cell = self.packet.cell_bytes();
        let start = (usize::from(self.packet.hdr().data_off) - self.before).saturating_sub(HEADER_SIZE as usize);
        let start = start.min(cell.len());
        let len = (self.packet.data().len() + self.before).min(cell.len() - start);
        &cell[start..start + len]
    }

    /// Calls `f` with the packet's bytes, piece by piece, until it returns false.
    pub(super) fn pieces(&self, mut f: impl FnMut(&[u8]) -> bool) {
        let first = self.first();
        let go_on = match (&self.made_up, &self.tag) {
            (Some(header), _) => f(header) && f(first),
            (None, Some(tag)) => f(&first[..ADDRESSES]) && f(tag) && f(&first[ADDRESSES..]),
            (None, None) => f(first),
        };
        if go_on && self.packet.hdr().nsegs > 1 {
            for segment in self.packet.segments().skip(1) {
                if !f(segment) {
                    return;
                }
            }
        }
    }

    /// Copies as much of the packet as fits; how much.
    pub(super) fn gather(&self, out: &mut [u8]) -> usize {
        let mut at = 0;
        self.pieces(|bytes| {
            let n = bytes.len().min(out.len() - at);
            out[at..at + n].copy_from_slice(&bytes[..n]);
            at += n;
            at < out.len()
        });
        at
    }
}

/// The tag that a device took off a frame, as it stood on the wire.
fn tag_of(packet: &Packet<'_>) -> Option<[u8; VLAN_TAG_LEN]> {
    let h = packet.hdr();
    (h.flags & pkt_flags::VLAN != 0 && packet.data().len() >= ADDRESSES).then(|| {
        let (t, v) = (TYPE_VLAN.to_be_bytes(), h.vlan_tci.to_be_bytes());
        [t[0], t[1], v[0], v[1]]
    })
}

/// A link header for an IP packet.
fn made_up(packet: &Packet<'_>) -> Option<[u8; HEADER_LEN]> {
    let v6 = packet.data().first().is_some_and(|b| b >> 4 == 6);
    let mut header = [0; HEADER_LEN];
    header[ADDRESSES..].copy_from_slice(&(if v6 { TYPE_IPV6 } else { TYPE_IPV4 }).to_be_bytes());
    Some(header)
}
