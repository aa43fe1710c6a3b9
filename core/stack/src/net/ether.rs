//! Ethernet input: whose frame it is, and which protocol takes it.

use super::counters::{Account, IfCounter};
use super::ifnet::{Attach, Ifnet, Medium};
use super::path::{AHEAD, Caller, Path};
use crate::inet::decide::GSO;
use crate::wire::be16;
use crate::wire::ethernet::{HEADER_LEN, TYPE_ARP, TYPE_IPV4, TYPE_VLAN, VLAN_TAG_LEN, is_group};
use smpnet_abi::{Cell, DropReason, FAULT, pkt_flags};
use smpnet_runtime::{Burst, Dir, Layer};

/// What the first look at a frame says, shared with `explain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Ours,
    Broadcast,
    Multicast,
    Other,
}

/// Whose address a frame has.
#[inline(always)]
pub(crate) fn address(dst: &[u8], mac: &[u8; 6]) -> Address {
    if dst == mac {
        Address::Ours
    } else if !is_group(dst) {
        Address::Other
    } else if dst == [0xff; 6] {
        Address::Broadcast
    } else {
        Address::Multicast
    }
}

/// Most bytes of a frame that an interface takes: its MTU, header and one tag.
pub(crate) const fn max_frame(mtu: u32) -> u32 {
    mtu + HEADER_LEN as u32 + VLAN_TAG_LEN as u32
}

impl<'a> Path<'a> {
    /// Packets of a running interface: frames, or IP packets of a raw IP interface.
    pub(crate) fn if_input(&mut self, ifp: &'a Ifnet, burst: &Burst) {
        match ifp.medium {
            Medium::Ether => {
                let rest = self.express(ifp, burst);
                if !rest.is_empty() {
                    self.ether_input(ifp, &rest);
                }
            }
            Medium::RawIp => self.raw_input(ifp, burst),
        }
    }

    fn raw_input(&mut self, ifp: &'a Ifnet, burst: &Burst) {
        let mut ip = Burst::new();
        let mut bytes = 0;
        for c in burst.iter() {
            let mut p = self.packet(c);
            bytes += u64::from(p.len());
            let off = p.hdr().data_off;
            let h = p.hdr_mut();
            if h.ether_type == 0 {
                h.ether_type = TYPE_IPV4;
            }
            h.l3_off = off;
            if h.ether_type == TYPE_IPV4 {
                ip.push(c);
            } else {
                self.drop_on(ifp, DropReason::NoProto, c);
            }
        }
        ifp.count(self.cpu, IfCounter::Ipackets, burst.len() as u64);
        ifp.count(self.cpu, IfCounter::Ibytes, bytes);
        self.ip_input(ifp, &ip);
    }

    /// Frames.
    pub(crate) fn ether_input(&mut self, ifp: &'a Ifnet, burst: &Burst) {
        let mut bytes = 0u64;
        let mut groups = 0u64;
        let mut kept = Burst::new();
        let limit = max_frame(ifp.mtu);
        let cells = burst.as_slice();
        for (i, &c) in cells.iter().enumerate() {
            if let Some(ahead) = cells.get(i + AHEAD) {
                self.packet(*ahead).prefetch();
            }
            let mut p = self.packet(c);
            let len = p.len();
            bytes += u64::from(len);
            let Some(dst) = p.data().first_chunk::<HEADER_LEN>() else {
                self.drop_on(ifp, DropReason::Runt, c);
                continue;
            };
            match address(&dst[..6], &ifp.mac.bytes) {
                Address::Ours => {}
                // Whoever asked for promiscuous mode sees it at the hooks; the demultiplexer drops it.
                Address::Other if ifp.promisc => {}
                Address::Other => {
                    self.drop_on(ifp, DropReason::NotForUs, c);
                    continue;
                }
                group => {
                    groups += 1;
                    let flag = if group == Address::Broadcast { pkt_flags::BCAST } else { pkt_flags::MCAST };
                    p.hdr_mut().flags |= flag;
                }
            }
            if len > limit && p.hdr().flags & GSO == 0 {
                self.drop_on(ifp, DropReason::Oversize, c);
                continue;
            }
            kept.push(c);
        }
        ifp.count(self.cpu, IfCounter::Ipackets, cells.len() as u64);
        ifp.count(self.cpu, IfCounter::Ibytes, bytes);
        if groups > 0 {
            ifp.count(self.cpu, IfCounter::Imcasts, groups);
        }
        self.run_hooks(ifp, Layer::Ether, Dir::In, &mut kept);
        self.ether_demux(ifp, &kept);
    }

    /// Hands frames to the protocols.
    pub(super) fn ether_demux(&mut self, ifp: &'a Ifnet, burst: &Burst) {
        if burst.is_empty() {
            return;
        }
        let mut ip = Burst::new();
        for c in burst.iter() {
            let mut p = self.packet(c);
            let Some(header) = p.data().first_chunk::<HEADER_LEN>() else {
                self.drop_on(ifp, DropReason::Runt, c);
                continue;
            };
            let ether_type = be16(header, 12);
            if ifp.promisc && address(&header[..6], &ifp.mac.bytes) == Address::Other {
                self.others_frame(ifp, c, ether_type);
                continue;
            }
            if ether_type == TYPE_IPV4 && p.hdr().flags & pkt_flags::VLAN == 0 && ifp.ether_types.is_empty() {
                strip(&mut p, TYPE_IPV4);
                ip.push(c);
                continue;
            }
            if self.ether_other(ifp, c, ether_type) {
                ip.push(c);
            }
        }
        self.ip_input(ifp, &ip);
    }

    /// A frame to another station, seen because the port is promiscuous. The interface of its 802.1Q id may have an address
    /// of its own, or want to see it too.
    #[inline(never)]
    fn others_frame(&mut self, ifp: &'a Ifnet, c: Cell, ether_type: u16) {
        let p = self.packet(c);
        let tci = if p.hdr().flags & pkt_flags::VLAN != 0 {
            p.hdr().vlan_tci
        } else if ether_type == TYPE_VLAN && p.data().len() >= HEADER_LEN + VLAN_TAG_LEN {
            be16(p.data(), HEADER_LEN)
        } else {
            0
        };
        if takes_tag(ifp, tci) {
            self.ether_other(ifp, c, ether_type);
        } else {
            self.drop_on(ifp, DropReason::NotForUs, c);
        }
    }

    /// Frames that are not plainly IPv4. True when it turns out to be IPv4 after all, stripped of its header.
    #[inline(never)]
    fn ether_other(&mut self, ifp: &'a Ifnet, c: Cell, mut ether_type: u16) -> bool {
        let mut p = self.packet(c);
        if ether_type == TYPE_VLAN {
            // The tag moves from the bytes to the header, where devices that take tags off put it.
            if p.hdr().flags & pkt_flags::VLAN != 0 {
                self.drop_on(ifp, DropReason::VlanUnknown, c);
                return false;
            }
            if p.data().len() < HEADER_LEN + VLAN_TAG_LEN {
                self.drop_on(ifp, DropReason::Runt, c);
                return false;
            }
            let data = p.data_mut();
            let tci = be16(data, HEADER_LEN);
            data.copy_within(..12, VLAN_TAG_LEN);
            ether_type = be16(data, HEADER_LEN + 2);
            p.pull_front(VLAN_TAG_LEN);
            let h = p.hdr_mut();
            h.flags |= pkt_flags::VLAN;
            h.vlan_tci = tci;
        }
        if p.hdr().flags & pkt_flags::VLAN != 0 {
            let vid = p.hdr().vlan_tci & 0xfff;
            if vid != 0 {
                let taker = ifp.vlans.as_ref().map_or(0, |v| v[usize::from(vid)]);
                match self.ifnet(u32::from(taker)) {
                    Some(to) => self.kind_input(to, ifp, &[c]),
                    None => self.drop_on(ifp, DropReason::VlanUnknown, c),
                }
                return false;
            }
            // VID 0 is a priority tag: the frame counts as untagged (802.1Q, 6.9), but nothing may be tagged inside.
            p.hdr_mut().flags &= !pkt_flags::VLAN;
            if ether_type == TYPE_VLAN {
                self.drop_on(ifp, DropReason::VlanUnknown, c);
                return false;
            }
        }
        if let Some((_, taker)) = ifp.ether_types.iter().find(|(t, _)| *t == ether_type) {
            match self.ifnet(*taker) {
                Some(to) => self.kind_input(to, ifp, &[c]),
                None => self.drop_on(ifp, DropReason::NoProto, c),
            }
            return false;
        }
        match ether_type {
            TYPE_IPV4 => {
                strip(&mut p, TYPE_IPV4);
                return true;
            }
            TYPE_ARP => self.arp_input(ifp, c),
            _ => self.drop_on(ifp, DropReason::NoProto, c),
        }
        false
    }

    /// Gives packets to the interface kind that a demultiplexer found; the rest is up to it.
    pub(crate) fn kind_input(&mut self, to: &'a Ifnet, from: &'a Ifnet, cells: &[Cell]) {
        let kind = match &to.attach {
            Attach::Kind(k) if to.running && !to.faulted() => k,
            _ => {
                for c in cells {
                    self.drop_on(to, DropReason::IfDown, *c);
                }
                return;
            }
        };
        let _ = from;
        self.account(Account::ToPlugins, cells.len() as u64);
        let worker = self.cpu.index() as u32;
        // SAFETY: the table and handle came from the plugin's `create` and are not destroyed before a grace period has
        // passed in which this snapshot was replaced; the cells are ours and become the plugin's.
        let input = || unsafe { (kind.table.input)(kind.handle.0, worker, cells.as_ptr(), cells.len() as u32) };
        let rc = self.s.calling(self.cpu, Caller::Interface(to.index.get()), input).0;
        if rc == FAULT {
            self.s.fault_seen(to, "its input function failed");
        }
    }
}

/// Whether an interface stands on this one for frames with that tag.
pub(crate) fn takes_tag(ifp: &Ifnet, tci: u16) -> bool {
    let vid = usize::from(tci & 0xfff);
    vid != 0 && ifp.vlans.as_ref().is_some_and(|v| v[vid] != 0)
}

/// Takes the Ethernet header off.
#[inline(always)]
fn strip(p: &mut smpnet_runtime::Packet<'_>, ether_type: u16) {
    let h = p.hdr_mut();
    h.l2_off = h.data_off;
    h.ether_type = ether_type;
    h.data_off += HEADER_LEN as u16;
    h.data_len -= HEADER_LEN as u16;
    h.pkt_len -= HEADER_LEN as u32;
    h.l3_off = h.data_off;
}
