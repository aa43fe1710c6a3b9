//! ARP on a worker: requests for our addresses are answered at once; what there is to learn goes to the control side.

use crate::neigh::table::{Usable, mac_word};
use crate::net::counters::ArpStat;
use crate::net::ifnet::Ifnet;
use crate::net::path::Path;
use crate::slow::SlowEvent;
use crate::types::AddrState;
use crate::wire::arp::{Arp, LEN, REPLY, REQUEST};
use crate::wire::ethernet::{BROADCAST, Ethernet, HEADER_LEN, TYPE_ARP, is_group};
use smpnet_abi::{Cell, DropReason, MacAddr, pkt_flags};

/// What an ARP packet means for us, shared with `explain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Malformed, or an address that no station has.
    Bad,
    /// Our own, come back.
    Own,
    /// Somebody claims or probes an address of ours.
    Conflict(u32),
    /// Somebody asks for an address of ours.
    ForUs,
    /// Somebody asks for an address of somebody else.
    Other,
    /// An answer.
    Answer,
}

/// Judges an ARP packet on an interface.
pub(crate) fn meaning(ifp: &Ifnet, a: &Arp) -> Meaning {
    if is_group(&a.sha.bytes) || a.sha.bytes == [0; 6] || a.spa >= 0xe000_0000 || a.spa >> 24 == 127 {
        return Meaning::Bad;
    }
    if a.sha == ifp.mac {
        return Meaning::Own;
    }
    for ia in ifp.addrs.iter() {
        let ours = ia.net.addr().to_bits();
        // A claim by use (RFC 5227, section 2.4), or another one's probe for what we probe (section 2.1.1).
        if a.spa == ours || ia.state == AddrState::Tentative && a.spa == 0 && a.tpa == ours && a.op == REQUEST {
            return Meaning::Conflict(ours);
        }
    }
    match a.op {
        REPLY => Meaning::Answer,
        _ if ifp.has_addr(a.tpa) => Meaning::ForUs,
        _ => Meaning::Other,
    }
}

impl<'a> Path<'a> {
    /// A frame with an ARP packet; its data begins at the Ethernet header.
    #[inline(never)]
    pub(crate) fn arp_input(&mut self, ifp: &'a Ifnet, c: Cell) {
        self.arp_stat(ArpStat::RcvTotal);
        let p = self.packet(c);
        let group = p.hdr().flags & (pkt_flags::BCAST | pkt_flags::MCAST) != 0;
        if p.hdr().flags & pkt_flags::MCAST != 0 {
            self.arp_stat(ArpStat::RcvMcast);
        }
        let Some(arp) = p.data().get(HEADER_LEN..).and_then(Arp::parse) else {
            self.drop_on(ifp, DropReason::ArpBad, c);
            return;
        };
        self.arp_stat(if arp.op == REQUEST { ArpStat::RcvRequest } else { ArpStat::RcvReply });
        if arp.spa == 0 {
            self.arp_stat(ArpStat::RcvZeroSpa);
        }
        match meaning(ifp, &arp) {
            Meaning::Bad => {
                self.arp_stat(ArpStat::RcvBcastSha);
                self.drop_on(ifp, DropReason::ArpBad, c);
                return;
            }
            Meaning::Own => self.arp_stat(ArpStat::RcvLocalSha),
            Meaning::Conflict(ip) => {
                self.arp_stat(ArpStat::RcvDupSpa);
                self.s.slow.push(SlowEvent::Conflict { ifindex: ifp.index.get(), ip, mac: arp.sha });
                // A probe for a preferred address is answered: that is how its sender learns of the conflict.
                if arp.op == REQUEST && ifp.has_addr(arp.tpa) && arp.spa == 0 {
                    self.arp_reply(ifp, &arp, ifp.mac);
                }
            }
            Meaning::ForUs => {
                self.arp_learn(ifp, &arp, true);
                self.arp_reply(ifp, &arp, ifp.mac);
            }
            Meaning::Other => {
                self.arp_learn(ifp, &arp, false);
                let published = self.s.published.read(self.section);
                if let Some(mac) = published.get(&(ifp.index.get(), arp.tpa)) {
                    self.arp_reply(ifp, &arp, mac.unwrap_or(ifp.mac));
                } else {
                    self.arp_stat(ArpStat::RcvNoInt);
                }
            }
            // An answer to a broadcast would be an attempt to fill our table.
            Meaning::Answer if group && arp.spa != arp.tpa => self.arp_learn(ifp, &arp, false),
            Meaning::Answer => self.arp_learn(ifp, &arp, false),
        }
        self.drop_on(ifp, DropReason::Consumed, c);
    }

    /// Tells the control side what a sender's address is, unless that is known well.
    fn arp_learn(&mut self, ifp: &'a Ifnet, a: &Arp, create: bool) {
        if a.spa == 0 || !ifp.on_link(a.spa) {
            return;
        }
        match ifp.shared.neigh.find(self.section, a.spa) {
            Some(slot) => {
                let w = self.s.slab.word(slot);
                if w.usable() == Usable::Yes && w.mac() == mac_word(a.sha) && a.op == REQUEST {
                    return;
                }
            }
            None if !create => return,
            None => {}
        }
        self.s.slow.push(SlowEvent::Heard { ifindex: ifp.index.get(), ip: a.spa, mac: a.sha, create });
    }

    fn arp_reply(&mut self, ifp: &'a Ifnet, asked: &Arp, mac: MacAddr) {
        let answer = Arp { op: REPLY, sha: mac, spa: asked.tpa, tha: asked.sha, tpa: asked.spa };
        if self.arp_send(ifp, asked.sha, &answer) {
            self.arp_stat(ArpStat::SentReply);
        }
    }

    /// Asks for a neighbour, by broadcast or to the station that it was.
    pub(crate) fn arp_request(&mut self, ifp: &'a Ifnet, spa: u32, tpa: u32, to: Option<MacAddr>) {
        let ask = Arp { op: REQUEST, sha: ifp.mac, spa, tha: MacAddr::default(), tpa };
        if self.arp_send(ifp, to.unwrap_or(BROADCAST), &ask) {
            self.arp_stat(ArpStat::SentRequest);
        }
    }

    fn arp_send(&mut self, ifp: &'a Ifnet, to: MacAddr, arp: &Arp) -> bool {
        let Some(mut p) = self.make() else {
            self.arp_stat(ArpStat::AllocFail);
            return false;
        };
        let mut b = [0u8; LEN];
        arp.emit(&mut b);
        if !p.set_data(&b) {
            self.drop_on(ifp, DropReason::NoBuffer, p.cell());
            return false;
        }
        p.hdr_mut().flags |= pkt_flags::LOCAL;
        p.hdr_mut().ether_type = TYPE_ARP;
        self.arp_stat(ArpStat::SentTotal);
        self.frame_out(ifp, p.cell(), Ethernet { dst: to, src: ifp.mac, ether_type: TYPE_ARP }.bytes());
        true
    }
}
