//! The straight way and the general one are one router: the same frames through the same filters give the same.

use super::frames::*;
use super::rig::*;
use crate::types::{Dirs, Layer, RouteKind, RouteSpec};
use crate::wire::ipv4::{self, DF, MF, proto};
use smpnet_abi::{Cell, pkt_flags, verdict};
use smpnet_runtime::{HookCx, PfilHook};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % n
    }

    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// Does with a packet what the identification in its IP header says, and adds up what it was shown.
struct Meddler {
    /// Where the IP header begins.
    at: usize,
    edits: bool,
    /// Added to the identification, so that two of them differ.
    salt: u16,
    shown: AtomicU64,
    sum: AtomicU64,
}

impl Meddler {
    fn new(layer: Layer, edits: bool, salt: u16) -> Arc<Meddler> {
        let at = if layer == Layer::Ether { 14 } else { 0 };
        Arc::new(Meddler { at, edits, salt, shown: AtomicU64::new(0), sum: AtomicU64::new(0) })
    }

    fn note(&self, p: &smpnet_runtime::Packet<'_>) {
        let h = p.hdr();
        let mut x = 0xcbf2_9ce4_8422_2325u64;
        let mut add = |v: u64| x = (x ^ v).wrapping_mul(0x100_0000_01b3);
        p.segments().flatten().for_each(|b| add(u64::from(*b)));
        for v in [h.rcvif, h.pkt_len, u32::from(h.data_len), h.flags, h.mark] {
            add(u64::from(v));
        }
        if self.at == 0 {
            let offs = [h.l3_off - h.data_off, h.l4_off - h.data_off, h.l2_off.wrapping_sub(h.data_off)];
            offs.into_iter().for_each(|v| add(u64::from(v)));
            add(u64::from(h.ether_type) << 8 | u64::from(h.l4_proto));
        }
        self.shown.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(x, Ordering::Relaxed);
    }
}

impl PfilHook for Meddler {
    fn name(&self) -> &str {
        "meddler"
    }

    fn filter(&self, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]) -> bool {
        for (c, v) in cells.iter().zip(verdicts) {
            let mut p = cx.pool.packet(*c);
            // Errors are numbered in the order in which they are made, which may differ.
            if p.hdr().flags & pkt_flags::LOCAL != 0 {
                continue;
            }
            self.note(&p);
            let at = self.at;
            if p.data().len() < at + 20 || p.data()[at] != 0x45 {
                continue;
            }
            let id = u16::from_be_bytes([p.data()[at + 4], p.data()[at + 5]]).wrapping_add(self.salt) % 24;
            match id {
                0 => *v = verdict::DROP,
                1 => {
                    *v = verdict::CONSUMED;
                    cx.pool.free(cx.cpu, &[*c]);
                }
                12 => *v = verdict::REJECT,
                _ if !self.edits => {}
                2 => p.data_mut()[at + 8] ^= 0x40,
                3 => {
                    let b = &mut p.data_mut()[at..];
                    b[18] ^= 3;
                    ipv4::refresh_checksum(&mut b[..20]);
                }
                4 => p.hdr_mut().flags |= pkt_flags::NO_FAST_FWD,
                5 => p.hdr_mut().mark = 7,
                6 => p.truncate(p.len() - 1),
                7 => {
                    let b = &mut p.data_mut()[at..];
                    b[8] = 1;
                    ipv4::refresh_checksum(&mut b[..20]);
                }
                8 if at > 0 => p.data_mut()[12] = 0x12,
                9 => p.data_mut()[at] = 0x65,
                10 => {
                    // A longer packet, made so by a filter that knows what it does.
                    if let Some(b) = p.push_back(4) {
                        b.fill(0);
                        let b = &mut p.data_mut()[at..];
                        let n = u16::from_be_bytes([b[2], b[3]]) + 4;
                        b[2..4].copy_from_slice(&n.to_be_bytes());
                        ipv4::refresh_checksum(&mut b[..20]);
                    }
                }
                11 => p.data_mut()[at + 20] ^= 1,
                _ => {}
            }
        }
        self.edits
    }
}

/// Frames that are mostly plain, and in every other way sometimes.
fn frames(r: &Rig, random: &mut Random) -> Vec<Vec<u8>> {
    (0..96)
        .map(|_| {
            let dst = [
                "10.0.2.2",
                "10.0.2.2",
                "172.16.1.1",
                "172.16.1.2",
                "172.17.0.1",
                "172.18.0.1",
                "192.0.2.1",
                "10.0.1.1",
            ];
            let (src, dst) = (random.one(&["10.0.1.2", "10.0.1.3", "127.0.0.1"]), random.one(&dst));
            let size = random.one(&[0, 1, 2, 18, 19, 100, 600]);
            let data = vec![random.below(256) as u8; size];
            let payload = udp_payload(src, dst, 1 + random.below(3) as u16, 53, &data);
            let mut h = header(src, dst, random.one(&[proto::UDP, proto::UDP, proto::TCP, 47]), payload.len());
            h.id = random.below(240) as u16;
            match random.below(16) {
                0 => h.ttl = 1,
                1 => h.frag = MF,
                2 => h.frag = DF | 3,
                3 => h.total_len = 21,
                _ => h.frag = random.one(&[0, DF]),
            }
            let mut ip = packet(h, &payload);
            if random.below(16) == 0 {
                ip[10] ^= 1;
            }
            if random.below(24) == 0 {
                // With an option: record route.
                let mut long = ip[..20].to_vec();
                long.extend_from_slice(&[7, 7, 4, 0, 0, 0, 0, 0]);
                long.extend_from_slice(&ip[20..]);
                long[0] = 0x47;
                let n = long.len() as u16;
                long[2..4].copy_from_slice(&n.to_be_bytes());
                ipv4::refresh_checksum(&mut long[..28]);
                ip = long;
            }
            let to = random.one(&[r.mac(0), r.mac(0), r.mac(0), r.mac(0), mac(HOST_B), mac("ff:ff:ff:ff:ff:ff")]);
            let kind = random.one(&[0x0800, 0x0800, 0x0800, 0x0800, 0x0800, 0x86dd]);
            let mut f = frame(to, mac(HOST_A), kind, &ip);
            if random.below(16) == 0 {
                f.truncate(random.below(40) as usize);
            }
            f
        })
        .collect()
}

/// What went out of a port, without what depends on the order of the errors sent: their identification.
fn sent(r: &Rig, port: usize) -> Vec<Vec<u8>> {
    let mut out = r.take(port);
    for f in &mut out {
        if f.len() >= 34 && f[23] == proto::ICMP && f[15] == 0xc0 {
            f[18..20].fill(0);
            f[24..26].fill(0);
        }
    }
    out.sort();
    out
}

#[derive(Clone, Copy)]
struct Place(Layer, Dirs, Option<usize>, bool);

/// All that can be seen of a router through which frames went.
fn seen(express: bool, places: &[Place], seed: u64) -> (Vec<Vec<Vec<u8>>>, String, u64) {
    let mut r = Rig::router();
    let sysctl = r.rt.sysctl().clone();
    sysctl.set("net.inet.ip.express", if express { "1" } else { "0" }).unwrap();
    sysctl.set("net.inet.icmp.errppslimit", "1000000").unwrap();
    r.teach(0, "10.0.1.3", "02:00:00:00:00:0c");
    r.route("172.16.0.0/16", "10.0.2.2");
    r.stack.route_add(&RouteSpec { dst: net("172.17.0.0/16"), kind: RouteKind::Blackhole }).unwrap();
    r.stack.route_add(&RouteSpec { dst: net("172.18.0.0/16"), kind: RouteKind::Reject }).unwrap();
    let hooks: Vec<_> = places
        .iter()
        .enumerate()
        .map(|(i, Place(layer, dirs, port, edits))| {
            let hook = Meddler::new(*layer, *edits, 5 * i as u16);
            r.stack.pfil_attach(*layer, port.map(|p| r.index(p)), *dirs, i as i32, hook.clone()).unwrap();
            hook
        })
        .collect();
    let mut random = Random(seed);
    let mut out = Vec::new();
    for _ in 0..3 {
        let frames = frames(&r, &mut random);
        // First every flow becomes known, one packet at a time, then they come in bursts.
        for f in &frames {
            r.send(0, f.clone());
        }
        out.extend([sent(&r, 0), sent(&r, 1)]);
        r.send_all(0, frames);
        out.extend([sent(&r, 0), sent(&r, 1)]);
    }
    r.balanced();
    let stats = r.stack.protocol_stats();
    let counters: Vec<_> = r.stack.interfaces().into_iter().map(|i| (i.name, format!("{:?}", i.counters))).collect();
    let shown: Vec<_> =
        hooks.iter().map(|h| (h.shown.load(Ordering::Relaxed), h.sum.load(Ordering::Relaxed))).collect();
    let drops = r.stack.drops();
    let text = format!(
        "{:?}\n{:?}\n{drops:?}\n{counters:?}\n{:?}\n{shown:?}\n{:?}",
        stats.ip,
        stats.icmp,
        r.stack.accounting(),
        r.stack.adjacency_status()
    );
    let fast = stats.ip.iter().find(|(n, _)| *n == "fastforward").unwrap().1;
    (out, text, fast)
}

fn same(places: &[Place], seed: u64) {
    let (a, b) = (seen(true, places, seed), seen(false, places, seed));
    for (i, (x, y)) in a.1.lines().zip(b.1.lines()).enumerate() {
        assert_eq!(x, y, "line {i}, seed {seed}");
    }
    assert_eq!(a.0, b.0, "seed {seed}");
    assert!(a.2 > 5, "too few packets went the fast way: {}", a.2);
}

#[test]
fn the_straight_way_does_what_the_general_one_does() {
    (1..6).for_each(|seed| same(&[], seed));
}

#[test]
fn a_filter_at_any_hook_sees_and_does_the_same_on_both_ways() {
    for layer in [Layer::Ether, Layer::Inet] {
        for (dirs, port) in
            [(Dirs::In, None), (Dirs::In, Some(0)), (Dirs::Out, None), (Dirs::Out, Some(1)), (Dirs::Both, None)]
        {
            for edits in [false, true] {
                (1..4).for_each(|seed| same(&[Place(layer, dirs, port, edits)], seed));
            }
        }
    }
}

#[test]
fn filters_at_several_hooks_see_and_do_the_same_on_both_ways() {
    for edits in 0..16u64 {
        let e = |bit: u64| edits >> bit & 1 == 1;
        let places = [
            Place(Layer::Ether, Dirs::In, None, e(0)),
            Place(Layer::Inet, Dirs::In, Some(0), e(1)),
            Place(Layer::Inet, Dirs::In, None, e(2)),
            Place(Layer::Inet, Dirs::Out, Some(1), e(3)),
            Place(Layer::Ether, Dirs::Out, None, e(0)),
        ];
        same(&places, 100 + edits);
    }
}
