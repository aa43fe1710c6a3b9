//! explain: one frame's way through the running configuration, by the same decisions that workers make, changing nothing.

use crate::hash::FlowKey;
use crate::inet::arp::{Meaning, meaning};
use crate::inet::decide::{ErrorKind, Fit, IpInfo, Way, fit, segment_len, smaller_segments, validate, way};
use crate::net::ether::{Address, address, max_frame, takes_tag};
use crate::net::ifnet::{Attach, Ifnet, Medium};
use crate::route::{NextHop, NextHopKind};
use crate::stack::Stack;
use crate::types::{ExplainStep, IfIndex, mac_text};
use crate::wire::arp::Arp;
use crate::wire::be16;
use crate::wire::ethernet::{Ethernet, HEADER_LEN, TYPE_ARP, TYPE_IPV4, TYPE_VLAN, VLAN_TAG_LEN};
use smpnet_abi::{DropReason, EncapKey, offload, pkt_flags};
use smpnet_runtime::{Dir, Layer};
use std::borrow::Cow;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering::Relaxed;

/// What a filter would say of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterOpinion {
    /// Name of the filter.
    pub name: String,
    /// Whether the packet passes.
    pub pass: bool,
    /// Why.
    pub detail: String,
    /// The mark that it sets.
    pub mark: Option<u32>,
    /// The packet as it changes it; `None` when it does not.
    pub bytes: Option<Vec<u8>>,
}

/// A packet at a hook, as filters are asked about it.
#[derive(Clone, Copy, Debug)]
pub struct AtHook<'a> {
    /// What it begins with.
    pub layer: Layer,
    /// The interface of the hook.
    pub ifindex: IfIndex,
    /// Direction.
    pub dir: Dir,
    /// The interface that it came through.
    pub rcvif: IfIndex,
    /// Its mark.
    pub mark: u32,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// What a device says of a packet beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Tag control information of an 802.1Q tag that is not in the bytes.
    pub vlan_tci: Option<u16>,
    /// The packet is to be cut into segments.
    pub segments: Option<Segments>,
}

/// Segments with so many bytes of payload each, 1 to 65,535.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segments {
    /// Of a TCP stream over IPv4.
    Tcp(u16),
    /// UDP datagrams.
    Udp(u16),
}

impl Segments {
    fn flags(self) -> u32 {
        match self {
            Segments::Tcp(_) => pkt_flags::GSO_TCP4,
            Segments::Udp(_) => pkt_flags::GSO_UDP,
        }
    }

    fn size(self) -> u16 {
        match self {
            Segments::Tcp(n) | Segments::Udp(n) => n,
        }
    }
}

impl std::str::FromStr for Segments {
    type Err = String;

    /// `tcp:BYTES` or `udp:BYTES`.
    fn from_str(s: &str) -> Result<Segments, String> {
        let size = |n: &str| n.parse().ok().filter(|n| *n > 0);
        let parsed = match s.split_once(':') {
            Some(("tcp", n)) => size(n).map(Segments::Tcp),
            Some(("udp", n)) => size(n).map(Segments::Udp),
            _ => None,
        };
        parsed.ok_or_else(|| format!("segments are `tcp:BYTES` or `udp:BYTES` (1 to 65535), not `{s}`"))
    }
}

/// Asked for the filters' opinions, in the order in which the filters are asked. Each is asked about what the one before
/// made of the packet.
type Filters<'f> = dyn Fn(&AtHook<'_>) -> Vec<FilterOpinion> + 'f;

struct Walk<'s> {
    s: &'s Stack,
    filters: &'s Filters<'s>,
    segments: Option<Segments>,
    rcvif: IfIndex,
    mark: u32,
    steps: Vec<ExplainStep>,
}

impl Stack {
    /// Walks a frame (or an IP packet, for raw IP interfaces) that would come in by an interface through the running
    /// configuration. `filters` is asked what the filters at each hook say; it must change nothing.
    pub fn explain(&self, index: IfIndex, frame: &[u8], filters: &Filters<'_>) -> Vec<ExplainStep> {
        self.explain_with(index, frame, Beside::default(), filters)
    }

    /// As [`Stack::explain`], of a packet of which the device says more than its bytes do.
    pub fn explain_with(
        &self,
        index: IfIndex,
        frame: &[u8],
        beside: Beside,
        filters: &Filters<'_>,
    ) -> Vec<ExplainStep> {
        let segments = beside.segments;
        let mut w = Walk { s: self, filters, segments, rcvif: index, mark: 0, steps: Vec::new() };
        match (self.ifs.get_control(index.get()), beside.vlan_tci) {
            (Some(ifp), Some(tci)) if ifp.medium == Medium::Ether && frame.len() >= HEADER_LEN => {
                // The path puts it in its place too, where anybody looks.
                let tag = [&TYPE_VLAN.to_be_bytes()[..], &tci.to_be_bytes()].concat();
                w.input(&ifp, &[&frame[..12], &tag, &frame[12..]].concat());
            }
            (Some(ifp), _) => w.input(&ifp, frame),
            (None, _) => w.step("interface", "no such interface", format!("index {index}")),
        }
        w.steps
    }
}

impl Walk<'_> {
    fn step(&mut self, stage: &'static str, decision: impl Into<String>, detail: impl Into<String>) {
        self.steps.push(ExplainStep { stage, decision: decision.into(), detail: detail.into() });
    }

    fn dropped(&mut self, stage: &'static str, reason: DropReason, answer: Option<ErrorKind>) {
        let mut detail = reason.text().to_owned();
        if let Some(kind) = answer {
            let (ty, code, _) = crate::inet::icmp::message(kind);
            detail.push_str(&format!("; ICMP type {ty} code {code} is answered"));
        }
        self.step(stage, format!("drop {}", reason.name()), detail);
    }

    /// What the filters of a hook make of a packet; `None` when one of them drops it.
    fn ask<'p>(&mut self, layer: Layer, ifp: &Ifnet, dir: Dir, packet: &'p [u8]) -> Option<Cow<'p, [u8]>> {
        let at = AtHook { layer, ifindex: ifp.index, dir, rcvif: self.rcvif, mark: self.mark, bytes: packet };
        let mut packet = Cow::Borrowed(packet);
        for o in (self.filters)(&at) {
            let what = if dir == Dir::In { "in" } else { "out" };
            self.step(
                "pfil",
                if o.pass { "pass" } else { "drop filtered" },
                format!("{} ({what}): {}", o.name, o.detail),
            );
            if !o.pass {
                return None;
            }
            self.mark = o.mark.unwrap_or(self.mark);
            if let Some(bytes) = o.bytes {
                packet = Cow::Owned(bytes);
            }
        }
        Some(packet)
    }

    fn input(&mut self, ifp: &Ifnet, frame: &[u8]) {
        if !ifp.running {
            self.dropped("interface", DropReason::IfDown, None);
            return;
        }
        self.rcvif = ifp.index;
        self.step("interface", "received", format!("{} bytes by {}", frame.len(), ifp.name));
        match ifp.medium {
            Medium::Ether => self.ether(ifp, frame),
            Medium::RawIp => self.ip(ifp, frame, 0),
        }
    }

    fn ether(&mut self, ifp: &Ifnet, frame: &[u8]) {
        let Some(e) = Ethernet::parse(frame) else {
            self.dropped("ether", DropReason::Runt, None);
            return;
        };
        let whose = address(&e.dst.bytes, &ifp.mac.bytes);
        let flags = match whose {
            Address::Other if ifp.promisc => 0,
            Address::Other => {
                self.dropped("ether", DropReason::NotForUs, None);
                return;
            }
            Address::Ours => 0,
            Address::Broadcast => pkt_flags::BCAST,
            Address::Multicast => pkt_flags::MCAST,
        };
        if frame.len() > max_frame(ifp.mtu) as usize && self.segments.is_none() {
            self.dropped("ether", DropReason::Oversize, None);
            return;
        }
        let detail = format!("to {} from {}, type {:#06x}", mac_text(e.dst), mac_text(e.src), e.ether_type);
        self.step("ether", format!("{whose:?}").to_lowercase(), detail);
        let Some(frame) = self.ask(Layer::Ether, ifp, Dir::In, frame) else { return };
        let frame = &*frame;
        // The path reads the header behind the filters, too, for they may have changed it.
        let Some(e) = Ethernet::parse(frame) else {
            self.dropped("ether", DropReason::Runt, None);
            return;
        };
        let mut ether_type = e.ether_type;
        let mut body = &frame[HEADER_LEN..];
        let tag = if ether_type == TYPE_VLAN && body.len() >= VLAN_TAG_LEN { be16(body, 0) } else { 0 };
        if ifp.promisc && address(&e.dst.bytes, &ifp.mac.bytes) == Address::Other && !takes_tag(ifp, tag) {
            self.dropped("ether", DropReason::NotForUs, None);
            return;
        }
        if ether_type == TYPE_VLAN {
            if body.len() < VLAN_TAG_LEN {
                self.dropped("vlan", DropReason::Runt, None);
                return;
            }
            let vid = be16(body, 0) & 0xfff;
            ether_type = be16(body, 2);
            body = &body[VLAN_TAG_LEN..];
            if vid != 0 {
                self.vlan(ifp, vid, frame);
                return;
            }
            self.step("vlan", "untagged", "802.1Q id 0 is a priority tag");
        }
        if let Some((_, to)) = ifp.ether_types.iter().find(|(t, _)| *t == ether_type) {
            let name = self.s.if_name(*to);
            self.step("demux", "to interface", format!("EtherType {ether_type:#06x} is taken by {name}"));
            return;
        }
        match ether_type {
            TYPE_IPV4 => self.ip(ifp, body, flags),
            TYPE_ARP => self.arp(ifp, body),
            _ => self.dropped("demux", DropReason::NoProto, None),
        }
    }

    fn vlan(&mut self, ifp: &Ifnet, vid: u16, frame: &[u8]) {
        let to = ifp.vlans.as_ref().map_or(0, |v| v[usize::from(vid)]);
        let Some(child) = self.s.ifs.get_control(u32::from(to)) else {
            self.dropped("vlan", DropReason::VlanUnknown, None);
            return;
        };
        self.step("vlan", "to interface", format!("802.1Q id {vid} is taken by {}", child.name));
        let mut inner = frame[..12].to_vec();
        inner.extend_from_slice(&frame[HEADER_LEN + 2..]);
        self.input(&child, &inner);
    }

    fn arp(&mut self, ifp: &Ifnet, body: &[u8]) {
        let Some(a) = Arp::parse(body) else {
            self.dropped("arp", DropReason::ArpBad, None);
            return;
        };
        let (spa, tpa) = (Ipv4Addr::from_bits(a.spa), Ipv4Addr::from_bits(a.tpa));
        let detail =
            format!("{} from {spa} ({}) about {tpa}", if a.op == 1 { "request" } else { "reply" }, mac_text(a.sha));
        match meaning(ifp, &a) {
            Meaning::Bad => self.dropped("arp", DropReason::ArpBad, None),
            Meaning::Own => self.step("arp", "ignored", "our own packet came back"),
            Meaning::Conflict(_) => self.step("arp", "conflict", format!("{detail}: the address is ours")),
            Meaning::ForUs => self.step("arp", "answered", detail),
            Meaning::Answer => self.step("arp", "learnt", detail),
            Meaning::Other if self.s.published.load_control().contains_key(&(ifp.index.get(), a.tpa)) => {
                self.step("arp", "answered", format!("{detail}: a published entry"));
            }
            Meaning::Other => self.step("arp", "ignored", detail),
        }
    }

    fn ip(&mut self, ifp: &Ifnet, packet: &[u8], flags: u32) {
        let info = match validate(packet, packet.len() as u32, flags) {
            Ok(i) => i,
            Err(reason) => {
                self.dropped("ip", reason, None);
                return;
            }
        };
        let packet = &packet[..usize::from(info.total_len)];
        let (src, dst) = (Ipv4Addr::from_bits(info.src), Ipv4Addr::from_bits(info.dst));
        let detail = format!("{src} to {dst}, protocol {}, {} bytes, ttl {}", info.proto, info.total_len, info.ttl);
        self.step("ip", "valid", detail);
        let Some(packet) = self.ask(Layer::Inet, ifp, Dir::In, packet) else { return };
        // A packet that a filter changed is looked at anew.
        let info = match validate(&packet, packet.len() as u32, flags) {
            Ok(i) => i,
            Err(reason) => {
                self.dropped("ip", reason, None);
                return;
            }
        };
        let packet = packet.get(..usize::from(info.total_len)).unwrap_or(&packet);
        let hash = FlowKey::new(info.src, info.dst, info.proto, info.ports).hash(self.s.seed);
        let id = self.s.fib.lookup(info.dst);
        let hop = self.s.fib.resolve(id, hash);
        self.route(&info, id, hop);
        let forwarding = self.s.tunables.forwarding.load(Relaxed) != 0;
        let directed = self.s.tunables.directed_broadcast.load(Relaxed) != 0;
        if hop.kind == NextHopKind::Broadcast && forwarding && directed && hop.ifindex != ifp.index.get() {
            self.forward(ifp, &info, packet, hop.ifindex, u32::MAX);
            return;
        }
        match way(info.dst, flags, ifp.index.get(), hop, forwarding) {
            Way::Drop(reason, error) => self.dropped("forward", reason, error),
            Way::Local => self.local(&info, packet),
            Way::LocalGroup => self.step("local", "delivered", "a broadcast or the all-hosts group"),
            Way::Forward { egress, next } => self.forward(ifp, &info, packet, egress, next),
        }
    }

    fn route(&mut self, info: &IpInfo, id: u32, hop: NextHop) {
        let several = self.s.fib.nexthop(id).kind == NextHopKind::Multipath;
        let route = self.s.lock().rib.lookup(Ipv4Addr::from_bits(info.dst)).map(|r| r.dst);
        let Some(dst) = route else {
            self.step("route", "none", "no route covers the destination");
            return;
        };
        let out = self.s.if_name(hop.ifindex);
        let detail = match hop.kind {
            NextHopKind::Gateway => format!("{dst} through {} on {out}", Ipv4Addr::from_bits(hop.gateway)),
            NextHopKind::Connected => format!("{dst} is connected to {out}"),
            NextHopKind::Local => format!("{dst} is an address of {out}"),
            _ => dst.to_string(),
        };
        let detail = if several { format!("{detail} (chosen by the flow among several ways)") } else { detail };
        self.step("route", format!("{:?}", hop.kind).to_lowercase(), detail);
    }

    fn local(&mut self, info: &IpInfo, packet: &[u8]) {
        if info.is_fragment() {
            self.step("reassembly", "held", "a fragment waits for the rest of its datagram");
            return;
        }
        let taker = self.s.encap.load_control().find(info.src, info.dst, info.proto);
        if let Some(to) = taker {
            let name = self.s.if_name(to.get());
            self.step("encap", "to interface", format!("the outer header is taken by {name}"));
            return;
        }
        match info.proto {
            1 if packet.get(usize::from(info.header_len)) == Some(&8) => {
                self.step("icmp", "answered", "an echo request for this router");
            }
            1 => self.dropped("icmp", DropReason::IcmpIgnored, None),
            17 => self.dropped("udp", DropReason::PortUnreach, Some(ErrorKind::PortUnreach)),
            _ => self.dropped("local", DropReason::ProtoUnreach, Some(ErrorKind::ProtoUnreach)),
        }
    }

    fn forward(&mut self, ifp: &Ifnet, info: &IpInfo, packet: &[u8], egress: u32, next: u32) {
        if info.ttl <= 1 {
            self.dropped("forward", DropReason::IpTtl, Some(ErrorKind::TtlExceeded));
            return;
        }
        let Some(out) = self.s.ifs.get_control(egress).filter(|o| o.running) else {
            self.dropped("forward", DropReason::IfDown, Some(ErrorKind::HostUnreach));
            return;
        };
        if egress == ifp.index.get()
            && self.s.tunables.redirect.load(Relaxed) != 0
            && info.header_len == 20
            && ifp.medium == Medium::Ether
            && ifp.on_link(info.src)
            && ifp.on_link(next)
        {
            self.step("redirect", "sent", format!("{} is a neighbour of the source", Ipv4Addr::from_bits(next)));
        }
        let (flags, mut size) = self.segments.map_or((0, 0), |s| (s.flags(), s.size()));
        let segment = segment_len(packet, info, flags, size);
        match fit(segment, info.df(), out.mtu) {
            Fit::Drop(reason, error) => {
                self.dropped("forward", reason, error);
                return;
            }
            Fit::Fragment if flags != 0 => {
                let Some(smaller) = smaller_segments(segment, flags, size, out.mtu) else {
                    self.dropped("forward", DropReason::IpCannotFragment, None);
                    return;
                };
                let detail = format!("{smaller} bytes each, because the MTU of {} is {}", out.name, out.mtu);
                self.step("forward", "smaller segments", detail);
                size = smaller;
            }
            Fit::Fragment => self.step("forward", "fragmented", format!("the MTU of {} is {}", out.name, out.mtu)),
            Fit::Fits => self.step("forward", "forwarded", format!("ttl {} on {}", info.ttl - 1, out.name)),
        }
        let mut sent = packet.to_vec();
        crate::inet::input::decrement_ttl(&mut sent);
        let Some(sent) = self.ask(Layer::Inet, &out, Dir::Out, &sent) else { return };
        if out.medium == Medium::Ether {
            let state = self.s.lock_arp().get((egress, next));
            let ip = Ipv4Addr::from_bits(next);
            match state {
                Some(n) if n.mac.bytes != [0; 6] => {
                    self.step("neighbour", n.state.name(), format!("{ip} is at {}", mac_text(n.mac)));
                    let mut frame = Ethernet { dst: n.mac, src: out.mac, ether_type: TYPE_IPV4 }.bytes().to_vec();
                    frame.extend_from_slice(&sent);
                    if self.ask(Layer::Ether, &out, Dir::Out, &frame).is_none() {
                        return;
                    }
                }
                _ => {
                    self.step("neighbour", "unresolved", format!("the packet waits while {ip} is asked for"));
                    return;
                }
            }
        }
        if let Some(segments) = self.segments {
            let headers = segment - u32::from(segments.size());
            let n = (packet.len() as u32).saturating_sub(headers).div_ceil(u32::from(size.max(1)));
            let able = match segments {
                Segments::Tcp(_) => offload::TSO4 | offload::TX_CSUM,
                Segments::Udp(_) => offload::USO | offload::TX_CSUM,
            };
            let by = match &out.attach {
                Attach::Kind(_) if out.medium == Medium::Ether => "later, by the port that it leaves through",
                Attach::Port(_) if out.offloads & able == able => "by the port",
                _ => "in software",
            };
            self.step("segments", "cut", format!("{n} of up to {} bytes, {by}", headers + u32::from(size)));
        }
        match &out.attach {
            Attach::Kind(_) => self.step("output", "to interface kind", out.name.to_string()),
            _ => self.step("output", "sent", out.name.to_string()),
        }
    }
}

/// The key of an IPv4 tunnel, for callers that have addresses.
pub fn encap_key(local: Ipv4Addr, remote: Ipv4Addr, protocol: u8) -> EncapKey {
    let wide = |a: Ipv4Addr| {
        let mut b = [0; 16];
        b[..4].copy_from_slice(&a.octets());
        b
    };
    EncapKey { version: 4, protocol, _pad: 0, remote: wide(remote), local: wide(local) }
}
