//! A router in memory: ports whose wires are lists of frames, workers that run when the test says so.

use super::frames::{arp_reply, mac};
use crate::stack::Stack;
use crate::types::{AddrOptions, IfIndex, Ipv4Net, RouteSpec, mac_text};
use smpnet_abi::{
    Cell, DriverTable, DropReason, ErrBuf, HostServices, LinkState, MacAddr, NamedCounter, PortConfig, PortInfo,
    PortStats, Text, UNSUPPORTED, pkt_flags,
};
use smpnet_runtime::{Cpu, HugePages, ManualWorker, PoolConfig, Runtime, RuntimeConfig, now_ns};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// A frame on a wire, with the flags that the device gives it.
#[derive(Clone, Debug, Default)]
pub struct Wire {
    pub bytes: Vec<u8>,
    pub flags: u32,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
    pub vlan_tci: u16,
}

/// A port in memory.
#[derive(Default)]
pub struct MemPort {
    pub rt: Option<Arc<Runtime>>,
    pub rx: Mutex<VecDeque<Wire>>,
    pub tx: Mutex<Vec<Wire>>,
    /// Frames that tx_burst takes before it refuses; none for no limit.
    pub room: Mutex<Option<usize>>,
    /// What rx_burst returns instead of packets, once.
    pub misbehave: Mutex<Option<(u32, Vec<Cell>)>>,
    pub calls: Mutex<u64>,
    /// What control functions were called with, in order.
    pub told: Mutex<Vec<String>>,
    /// The control function that refuses.
    pub refuses: Mutex<Option<&'static str>>,
    /// What the port says that it lost.
    pub missed: AtomicU64,
    /// Workers that asked for packets, a bit for each.
    pub asked: AtomicU64,
}

impl MemPort {
    fn tell(&self, function: &'static str, what: String, err: *mut ErrBuf) -> i32 {
        if *self.refuses.lock().unwrap() == Some(function) {
            // SAFETY: the caller's buffer lives through the call.
            unsafe { (*err).put("it does not want to") };
            return smpnet_abi::FAILED;
        }
        self.told.lock().unwrap().push(format!("{function} {what}"));
        0
    }

    /// What control functions were called with since the last look.
    pub fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

unsafe fn port<'a>(p: *mut c_void) -> &'a MemPort {
    // SAFETY: handles are leaked MemPorts.
    unsafe { &*p.cast() }
}

unsafe extern "C" fn rx_burst(p: *mut c_void, _: u32, worker: u32, cells: *mut Cell, max: u32) -> u32 {
    // SAFETY: see `port`; the worker is the one that calls.
    let (p, cpu) = unsafe { (port(p), Cpu::assume(worker)) };
    p.asked.fetch_or(1 << worker, Relaxed);
    *p.calls.lock().unwrap() += 1;
    // SAFETY: the caller's array has `max` places.
    let out = unsafe { std::slice::from_raw_parts_mut(cells, max as usize) };
    if let Some((n, bad)) = p.misbehave.lock().unwrap().take() {
        out[..bad.len()].copy_from_slice(&bad);
        return n;
    }
    let pool = p.rt.as_ref().unwrap().pool();
    let mut rx = p.rx.lock().unwrap();
    let mut n = 0;
    while n < max as usize {
        let Some(w) = rx.pop_front() else { break };
        let mut c = [0; 1];
        assert_eq!(pool.alloc(cpu, &mut c), 1, "the pool is empty");
        let mut first = pool.packet(c[0]);
        let cut = w.bytes.len().min(first.tailroom());
        assert!(first.set_data(&w.bytes[..cut]));
        let mut rest = &w.bytes[cut..];
        while !rest.is_empty() {
            let mut d = [0; 1];
            assert_eq!(pool.alloc(cpu, &mut d), 1);
            let mut q = pool.packet(d[0]);
            let cut = rest.len().min(q.tailroom());
            assert!(q.set_data(&rest[..cut]));
            assert!(first.append(q));
            rest = &rest[cut..];
        }
        let off = first.hdr().data_off;
        let h = first.hdr_mut();
        h.flags = w.flags;
        h.gso_size = w.gso_size;
        h.csum_start = if w.csum_start == 0 { 0 } else { off + w.csum_start };
        h.csum_offset = w.csum_offset;
        h.vlan_tci = w.vlan_tci;
        out[n] = c[0];
        n += 1;
    }
    n as u32
}

unsafe extern "C" fn tx_burst(p: *mut c_void, _: u32, worker: u32, cells: *const Cell, n: u32) -> u32 {
    // SAFETY: as in rx_burst.
    let (p, cpu) = unsafe { (port(p), Cpu::assume(worker)) };
    *p.calls.lock().unwrap() += 1;
    let cells = if n == 0 {
        &[]
    } else {
        // SAFETY: the caller's array has `n` cells.
        unsafe { std::slice::from_raw_parts(cells, n as usize) }
    };
    let mut room = p.room.lock().unwrap();
    let take = room.map_or(cells.len(), |r| r.min(cells.len()));
    if let Some(r) = room.as_mut() {
        *r -= take;
    }
    let pool = p.rt.as_ref().unwrap().pool();
    for c in &cells[..take] {
        pool.validate(*c).unwrap();
        let k = pool.packet(*c);
        let bytes: Vec<u8> = k.segments().flatten().copied().collect();
        assert_eq!(bytes.len(), k.len() as usize);
        let h = k.hdr();
        let start = if h.csum_start == 0 { 0 } else { h.csum_start - h.data_off };
        p.tx.lock().unwrap().push(Wire {
            bytes,
            flags: h.flags,
            gso_size: h.gso_size,
            csum_start: start,
            csum_offset: h.csum_offset,
            vlan_tci: h.vlan_tci,
        });
    }
    pool.free(cpu, &cells[..take]);
    take as u32
}

unsafe extern "C" fn open(_: *const HostServices, _: *const PortConfig, _: *mut PortInfo, _: *mut ErrBuf) -> i32 {
    UNSUPPORTED
}
unsafe extern "C" fn handle_only(_: *mut c_void) -> i32 {
    0
}
unsafe extern "C" fn set_u32(_: *mut c_void, _: u32, _: *mut ErrBuf) -> i32 {
    0
}
unsafe extern "C" fn no_fd(_: *mut c_void, _: u32) -> i32 {
    -1
}
unsafe extern "C" fn arm(_: *mut c_void, _: u32) -> i32 {
    0
}
unsafe extern "C" fn link_state(_: *mut c_void, out: *mut LinkState) -> i32 {
    // SAFETY: `out` is valid to write to.
    unsafe { *out = LinkState { state: 1, full_duplex: 1, speed: 1000, _pad: 0 } };
    0
}
unsafe extern "C" fn stats(p: *mut c_void, out: *mut PortStats) -> i32 {
    // SAFETY: see `port`; `out` is valid to write to.
    unsafe { *out = PortStats { rx_missed: port(p).missed.load(Relaxed), ..PortStats::default() } };
    0
}
unsafe extern "C" fn counters(_: *mut c_void, _: *mut NamedCounter, _: u32) -> u32 {
    0
}
unsafe extern "C" fn promisc(p: *mut c_void, on: u32, err: *mut ErrBuf) -> i32 {
    // SAFETY: see `port`.
    unsafe { port(p) }.tell("promisc", on.to_string(), err)
}
unsafe extern "C" fn offloads(p: *mut c_void, mask: u32, err: *mut ErrBuf) -> i32 {
    // SAFETY: see `port`.
    unsafe { port(p) }.tell("offloads", format!("{mask:#x}"), err)
}
unsafe extern "C" fn multicast(p: *mut c_void, list: *const MacAddr, n: u32, all: u32, err: *mut ErrBuf) -> i32 {
    let list = if n == 0 {
        &[]
    } else {
        // SAFETY: the caller's list has `n` addresses.
        unsafe { std::slice::from_raw_parts(list, n as usize) }
    };
    let list: Vec<String> = list.iter().map(|m| mac_text(*m)).collect();
    // SAFETY: see `port`.
    unsafe { port(p) }.tell("multicast", format!("[{}] {all}", list.join(" ")), err)
}
unsafe extern "C" fn set_mac(p: *mut c_void, mac: *const MacAddr, err: *mut ErrBuf) -> i32 {
    // SAFETY: see `port`; the address is valid.
    unsafe { port(p).tell("mac", mac_text(*mac), err) }
}
unsafe extern "C" fn rss(
    p: *mut c_void,
    key: *const u8,
    key_len: u32,
    table: *const u16,
    table_len: u32,
    err: *mut ErrBuf,
) -> i32 {
    // SAFETY: the caller's key and table have these lengths.
    let (key, table) = unsafe {
        (std::slice::from_raw_parts(key, key_len as usize), std::slice::from_raw_parts(table, table_len as usize))
    };
    // SAFETY: see `port`.
    unsafe { port(p) }.tell("rss", format!("{key:x?} {table:?}"), err)
}
unsafe extern "C" fn status(_: *mut c_void, _: *mut ErrBuf) -> i32 {
    UNSUPPORTED
}

pub static TABLE: DriverTable = DriverTable {
    size: size_of::<DriverTable>() as u32,
    flags: 0,
    name: Text::new("mem"),
    summary: Text::new("frames in memory"),
    open,
    close: handle_only,
    set_up: set_u32,
    rx_burst,
    tx_burst,
    event_fd: no_fd,
    rx_arm: arm,
    rx_disarm: arm,
    link_state,
    stats,
    counters,
    set_promisc: promisc,
    set_multicast: multicast,
    set_mac,
    set_mtu: set_u32,
    set_offloads: offloads,
    set_rss: rss,
    status,
};

/// The router.
pub struct Rig {
    pub rt: Arc<Runtime>,
    pub workers: Vec<ManualWorker>,
    pub stack: Arc<Stack>,
    pub now: u64,
    ports: Vec<(IfIndex, &'static MemPort, MacAddr)>,
    cells: u64,
}

impl Rig {
    pub fn new(workers: usize) -> Rig {
        let pool = PoolConfig { cells: 4096, workers, huge_pages: HugePages::Never, ..PoolConfig::default() };
        let config = RuntimeConfig { cpus: vec![None; workers], pool, ..RuntimeConfig::default() };
        let (rt, workers) = Runtime::start_manual(config).unwrap();
        let stack = Stack::new_manual(rt.clone()).unwrap();
        let cells = rt.pool().available();
        Rig { rt, workers, stack, now: now_ns(), ports: Vec::new(), cells }
    }

    /// A router between 10.0.1.0/24 (port 0, a host .2) and 10.0.2.0/24 (port 1, a host .2), both hosts known.
    pub fn router() -> Rig {
        let mut r = Rig::new(1);
        r.port("a0", "10.0.1.1/24");
        r.port("b0", "10.0.2.1/24");
        r.teach(0, "10.0.1.2", HOST_A);
        r.teach(1, "10.0.2.2", HOST_B);
        r
    }

    /// A port with an address, up, with no duplicate detection. Its number is the order in which it was made.
    pub fn port(&mut self, name: &str, address: &str) -> IfIndex {
        self.port_with(name, address, 0, 1, 1)
    }

    pub fn port_with(&mut self, name: &str, address: &str, offloads: u32, rx: u16, tx: u16) -> IfIndex {
        self.port_of(name, address, MemPort::default(), offloads, rx, tx)
    }

    /// As [`Rig::port_with`], with a port that was made ready to refuse something. With `offload::RSS` it has a table of 8
    /// entries.
    pub fn port_of(&mut self, name: &str, address: &str, port: MemPort, offloads: u32, rx: u16, tx: u16) -> IfIndex {
        let index = self.stack.if_reserve(name).unwrap();
        let port: &'static MemPort = Box::leak(Box::new(MemPort { rt: Some(self.rt.clone()), ..port }));
        let has_rss = offloads & smpnet_abi::offload::RSS != 0;
        let mac = MacAddr { bytes: [2, 0, 0, 0, 1, index.get() as u8] };
        let info = PortInfo {
            size: size_of::<PortInfo>() as u32,
            flags: 0,
            port: std::ptr::from_ref(port).cast_mut().cast(),
            rx_queues: rx,
            tx_queues: tx,
            mtu: 1500,
            mtu_max: 9000,
            offloads,
            mac,
            rss_table: if has_rss { 8 } else { 0 },
            rss_key: if has_rss { 40 } else { 0 },
            _pad: [0; 3],
        };
        self.stack.attach_port(index, &TABLE, info).unwrap();
        self.stack.set_up(index, true).unwrap();
        if !address.is_empty() {
            self.address(index, address);
        }
        self.ports.push((index, port, mac));
        self.run();
        self.take(self.ports.len() - 1);
        index
    }

    pub fn address(&self, index: IfIndex, address: &str) {
        self.stack.addr_add(index, net(address), AddrOptions { dad_count: Some(0) }).unwrap();
    }

    pub fn index(&self, port: usize) -> IfIndex {
        self.ports[port].0
    }

    pub fn mac(&self, port: usize) -> MacAddr {
        self.ports[port].2
    }

    pub fn wire(&self, port: usize) -> &'static MemPort {
        self.ports[port].1
    }

    /// A station answers for an address, unasked, and is believed because it is asked for first.
    pub fn teach(&mut self, port: usize, address: &str, station: &str) {
        let probe = crate::tests::frames::arp_request(mac(station), address, &self.address_of(port));
        self.send(port, probe);
        let answer = arp_reply(self.mac(port), mac(station), address, &self.address_of(port));
        self.send(port, answer);
        self.take(port);
    }

    fn address_of(&self, port: usize) -> String {
        let all = self.stack.interfaces();
        let i = all.iter().find(|i| i.index == self.index(port)).unwrap();
        i.addresses[0].address.addr().to_string()
    }

    /// Puts a frame on a port's wire and lets the router work until it is quiet.
    pub fn send(&mut self, port: usize, frame: Vec<u8>) {
        self.send_wire(port, Wire { bytes: frame, ..Wire::default() });
    }

    pub fn send_wire(&mut self, port: usize, w: Wire) {
        self.wire(port).rx.lock().unwrap().push_back(w);
        self.run();
    }

    /// Puts many frames on a wire at once: they come as bursts.
    pub fn send_all(&mut self, port: usize, frames: impl IntoIterator<Item = Vec<u8>>) {
        let wires = frames.into_iter().map(|bytes| Wire { bytes, ..Wire::default() });
        self.wire(port).rx.lock().unwrap().extend(wires);
        self.run();
    }

    /// An IP packet from a host of port 0 or 1 to the router.
    pub fn host_a(&mut self, packet: &[u8]) {
        let f = super::frames::ip_frame(self.mac(0), mac(HOST_A), packet);
        self.send(0, f);
    }

    /// Lets workers and control side work until nothing moves.
    pub fn run(&mut self) {
        self.now = self.now.max(now_ns());
        let mut quiet = 0;
        while quiet < 3 {
            let work: u32 = self.workers.iter_mut().map(|w| w.round()).sum();
            self.stack.tick(self.now);
            quiet = if work == 0 { quiet + 1 } else { 0 };
        }
    }

    /// Takes an interface out, with the workers going on meanwhile.
    pub fn detach(&mut self, index: IfIndex) {
        let stack = self.stack.clone();
        std::thread::scope(|s| {
            let detaching = s.spawn(move || stack.detach(index));
            while !detaching.is_finished() {
                self.workers.iter_mut().for_each(|w| _ = w.round());
            }
            detaching.join().unwrap().unwrap();
        });
    }

    /// Lets time pass.
    pub fn advance(&mut self, seconds: u64) {
        for _ in 0..seconds * 4 {
            self.now += 250_000_000;
            self.run();
        }
    }

    /// What went out of a port since the last look.
    pub fn take(&self, port: usize) -> Vec<Vec<u8>> {
        self.take_wires(port).into_iter().map(|w| w.bytes).collect()
    }

    pub fn take_wires(&self, port: usize) -> Vec<Wire> {
        std::mem::take(&mut *self.wire(port).tx.lock().unwrap())
    }

    pub fn route(&self, dst: &str, via: &str) {
        self.stack.route_add(&RouteSpec::via(net(dst), via.parse().unwrap())).unwrap();
    }

    /// Every packet is accounted for: by the law, and by the pool.
    pub fn balanced(&self) {
        let a = self.stack.accounting();
        assert_eq!(a.missing(), 0, "{a:?}");
        assert_eq!(self.rt.pool().available() + self.held_cells(), self.cells, "cells are missing: {a:?}");
    }

    fn held_cells(&self) -> u64 {
        // Packets that wait are of one cell in these tests.
        self.stack.accounting().held
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.stack.dropped(reason)
    }

    pub fn stat(&self, name: &str) -> u64 {
        self.stack.protocol_stats().ip.iter().find(|(n, _)| *n == name).unwrap().1
    }
}

pub const HOST_A: &str = "02:00:00:00:00:0a";
pub const HOST_B: &str = "02:00:00:00:00:0b";

pub fn net(s: &str) -> Ipv4Net {
    s.parse().unwrap()
}

/// The flags that a device gives to a packet whose L4 checksum is open.
pub const OPEN: u32 = pkt_flags::CSUM_PARTIAL;
