//! Frames of arbitrary bytes through the whole stack.
//!
//! An input is one byte of settings, then frames: a byte of controls, two of flags, a parameter, two of length, the bytes.
//! Controls mend a frame where asked to, because few random bytes get past an Ethernet address or a checksum.

use crate::port::{Frame, Port, TABLE};
use smpnet_abi::{Cell, MacAddr, offload, pkt_flags, verdict};
use smpnet_runtime::{HookCx, HugePages, ManualWorker, PfilHook, PoolConfig, Runtime, RuntimeConfig, now_ns};
use smpnet_stack::{AddrOptions, ArpSpec, Dirs, IfIndex, Layer, NextHopSpec, RouteKind, RouteSpec, Stack};
use std::cell::RefCell;
use std::sync::Arc;

/// Bits of an input's first byte.
mod setting {
    pub(super) const HOOK: u8 = 1;
    pub(super) const WHOLE_PACKETS: u8 = 2;
}

/// Bits of a frame's controls.
mod control {
    pub(super) const SECOND_PORT: u8 = 1;
    pub(super) const TO_US: u8 = 2;
    pub(super) const IPV4: u8 = 4;
    pub(super) const TWO_CELLS: u8 = 8;
    pub(super) const OFFLOAD: u8 = 16;
    pub(super) const END_OF_BURST: u8 = 32;
    pub(super) const LATER: u8 = 64;
    pub(super) const KNOWN_PLACES: u8 = 128;
}

/// What a device may say of a frame that it received.
const DEVICE_FLAGS: u32 = 0x7fff;
const FRAME_MAX: usize = 1800;

/// Bursts of frames, of any bytes, by two ports. Whatever they are, the law of conservation holds, and all cells come back.
pub fn frame(data: &[u8]) {
    thread_local! {
        // One router for all inputs of a thread: making one takes longer than a thousand inputs.
        static ROUTER: RefCell<Option<Router>> = const { RefCell::new(None) };
    }
    ROUTER.with(|r| r.borrow_mut().get_or_insert_with(Router::new).feed(data));
}

struct Router {
    runtime: Arc<Runtime>,
    workers: Vec<ManualWorker>,
    stack: Arc<Stack>,
    ports: [(IfIndex, &'static Port, MacAddr); 2],
    now: u64,
    cells: u64,
}

/// Judges by the packet's last byte, and marks.
struct ByLastByte;

impl PfilHook for ByLastByte {
    fn name(&self) -> &str {
        "last"
    }

    fn filter(&self, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]) -> bool {
        for (c, v) in cells.iter().zip(verdicts) {
            let mut p = cx.pool.packet(*c);
            *v = match p.data().last() {
                Some(1) => verdict::DROP,
                Some(2) => verdict::REJECT,
                Some(3) => {
                    let n = p.len() - 1;
                    p.truncate(n);
                    verdict::PASS
                }
                _ => verdict::PASS,
            };
        }
        true
    }
}

fn sure<T, E: std::fmt::Display>(r: Result<T, E>) -> T {
    match r {
        Ok(t) => t,
        Err(e) => panic!("the router of the fuzz target cannot be made: {e}"),
    }
}

impl Router {
    fn new() -> Router {
        let pool = PoolConfig { cells: 4096, huge_pages: HugePages::Never, ..PoolConfig::default() };
        let config = RuntimeConfig { cpus: vec![None], pool, ..RuntimeConfig::default() };
        let (runtime, workers) = sure(Runtime::start_manual(config));
        let stack = sure(Stack::new_manual(runtime.clone()));
        let attach = |name: &str, address: &str, last: u8, offloads: u32| {
            let index = sure(stack.if_reserve(name));
            let port = Port::leaked(runtime.clone());
            let mac = MacAddr { bytes: [2, 0, 0, 0, 1, last] };
            sure(stack.attach_port(index, &TABLE, port.info(mac, offloads)));
            sure(stack.set_up(index, true));
            sure(stack.addr_add(index, sure(address.parse()), AddrOptions { dad_count: Some(0) }));
            (index, port, mac)
        };
        let a = attach("a0", "10.0.1.1/24", 1, 0);
        // What leaves by this one is joined where it can be.
        let b = attach("b0", "10.0.2.1/24", 2, offload::SCATTER | offload::TSO4 | offload::TX_CSUM);
        let host = |index, address: &str, last: u8| {
            let mac = Some(MacAddr { bytes: [2, 0, 0, 0, 9, last] });
            sure(stack.arp_set(index, &ArpSpec { address: sure(address.parse()), mac, publish: false }));
        };
        host(a.0, "10.0.1.2", 1);
        host(b.0, "10.0.2.2", 2);
        let route = |dst: &str, kind| sure(stack.route_add(&RouteSpec { dst: sure(dst.parse()), kind }));
        route("172.16.0.0/12", RouteKind::Forward(vec![NextHopSpec::via(sure("10.0.2.2".parse()))]));
        route("192.0.2.0/24", RouteKind::Blackhole);
        route("198.51.100.0/24", RouteKind::Reject);
        let cells = runtime.pool().available();
        let mut router = Router { runtime, workers, stack, ports: [a, b], now: now_ns(), cells };
        router.settle(0);
        router
    }

    /// Lets workers and control side work until nothing moves, then `seconds` later again.
    fn settle(&mut self, seconds: u64) {
        self.now = self.now.max(now_ns());
        for second in 0..=seconds {
            self.now += u64::from(second > 0) * 1_000_000_000;
            let mut quiet = 0;
            while quiet < 2 {
                let work: u32 = self.workers.iter_mut().map(ManualWorker::round).sum();
                self.stack.tick(self.now);
                quiet = if work == 0 { quiet + 1 } else { 0 };
            }
        }
    }

    fn feed(&mut self, data: &[u8]) {
        let Some((settings, mut rest)) = data.split_first() else { return };
        let hook = (settings & setting::HOOK != 0)
            .then(|| sure(self.stack.pfil_attach(Layer::Inet, None, Dirs::Both, 0, Arc::new(ByLastByte))));
        let whole = settings & setting::WHOLE_PACKETS != 0;
        if whole {
            self.stack.filters_want_whole_packets(true);
        }
        while let Some((head, bytes)) = rest.split_first_chunk::<6>() {
            let len = usize::from(u16::from_le_bytes([head[4], head[5]])) % FRAME_MAX;
            let (bytes, after) = bytes.split_at(len.min(bytes.len()));
            rest = after;
            let (_, port, mac) = self.ports[usize::from(head[0] & control::SECOND_PORT)];
            port.send(made(head, bytes, mac));
            if head[0] & control::END_OF_BURST != 0 {
                self.settle(u64::from(head[0] & control::LATER != 0) * 2);
            }
        }
        self.settle(0);
        if let Some(id) = hook {
            sure(self.stack.pfil_detach(id));
        }
        if whole {
            self.stack.filters_want_whole_packets(false);
        }
        self.balance();
    }

    /// Every packet is accounted for; what waits for a neighbour or a fragment does not wait for ever.
    fn balance(&mut self) {
        let account = self.stack.accounting();
        assert_eq!(account.missing(), 0, "{account:?}");
        if account.held > 0 {
            self.settle(120);
        }
        let account = self.stack.accounting();
        assert_eq!((account.missing(), account.held), (0, 0), "{account:?}");
        let received: u64 = self.ports.iter().map(|p| *p.1.received.lock().unwrap_or_else(|e| e.into_inner())).sum();
        assert_eq!(account.received, received);
        assert_eq!(self.runtime.pool().available(), self.cells, "cells are missing: {account:?}");
        assert_eq!(self.runtime.pool().stats().bad_frees, 0);
        let broken = self.stack.interfaces().into_iter().find(|i| i.quarantine.is_some());
        assert!(broken.is_none(), "{broken:?}");
    }
}

/// A frame as the controls want it.
fn made(head: &[u8; 6], bytes: &[u8], mac: MacAddr) -> Frame {
    let (controls, parameter) = (head[0], head[3]);
    let mut bytes = bytes.to_vec();
    if controls & control::TO_US != 0 && bytes.len() >= 6 {
        bytes[..6].copy_from_slice(&mac.bytes);
    }
    if controls & control::IPV4 != 0 && bytes.len() >= 34 {
        mend(&mut bytes, controls & control::KNOWN_PLACES != 0);
    }
    let mut frame = Frame {
        cut: if controls & control::TWO_CELLS != 0 { usize::from(parameter) } else { 0 },
        flags: u32::from(u16::from_le_bytes([head[1], head[2]])) & DEVICE_FLAGS & !(pkt_flags::CSUM_PARTIAL | GSO),
        vlan_tci: u16::from(parameter),
        bytes,
        ..Frame::default()
    };
    if controls & control::OFFLOAD != 0 {
        frame.flags |= u32::from(head[1]) & (pkt_flags::CSUM_PARTIAL | GSO);
        frame.gso_size = u16::from(parameter) * 8;
        frame.csum_start = 14 + u16::from(head[2] & 63);
        frame.csum_offset = u16::from(head[2] >> 6) * 8;
    }
    frame
}

const GSO: u32 = pkt_flags::GSO_TCP4 | pkt_flags::GSO_TCP6 | pkt_flags::GSO_UDP;

/// Makes an IPv4 header right where a random one is never right: type, version, lengths, addresses, checksum.
fn mend(bytes: &mut [u8], known: bool) {
    bytes[12..14].copy_from_slice(&[8, 0]);
    let ip = &mut bytes[14..];
    let total = ip.len() as u16;
    let header = (usize::from(ip[0] & 15).clamp(5, 15) * 4).min(ip.len()) & !3;
    ip[0] = 0x40 | (header / 4) as u8;
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    if known {
        let places = [
            [10, 0, 1, 2],
            [10, 0, 2, 2],
            [10, 0, 1, 1],
            [10, 0, 2, 1],
            [172, 16, 0, 9],
            [192, 0, 2, 1],
            [198, 51, 100, 1],
            [10, 0, 2, 99],
        ];
        let (src, dst) = (places[usize::from(ip[12] & 1)], places[usize::from(ip[16] & 7)]);
        ip[12..16].copy_from_slice(&src);
        ip[16..20].copy_from_slice(&dst);
    }
    ip[10..12].fill(0);
    let sum: u32 = ip[..header].chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::Router;

    #[test]
    fn the_seeds_get_as_far_as_segments_that_are_joined() {
        let mut router = Router::new();
        crate::seeds::bursts().iter().for_each(|s| router.feed(s));
        let joined = router.runtime.sysctl().get("net.inet.tcp.stats.coalesced").unwrap().to_string();
        // All seven of one seed; the filter of the other takes some out.
        assert!(joined.parse::<u64>().unwrap() > 7, "{joined}");
    }
}
