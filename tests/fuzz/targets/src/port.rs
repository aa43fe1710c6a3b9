//! A port whose wire is a list of frames.

use smpnet_abi::{
    BURST_MAX, Cell, DriverTable, ErrBuf, HostServices, LinkState, MacAddr, NamedCounter, PktHdr, PortConfig, PortInfo,
    PortStats, Text, UNSUPPORTED,
};
use smpnet_runtime::{Cpu, Pool, Runtime};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A frame and what the device says of it.
#[derive(Default)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    /// Where it is cut in two cells.
    pub(crate) cut: usize,
    pub(crate) flags: u32,
    pub(crate) gso_size: u16,
    /// From the start of the frame.
    pub(crate) csum_start: u16,
    pub(crate) csum_offset: u16,
    pub(crate) vlan_tci: u16,
}

/// A port. Leaked: drivers' handles live as long as the process.
pub(crate) struct Port {
    runtime: Arc<Runtime>,
    wire: Mutex<VecDeque<Frame>>,
    /// Stops the burst at an end mark.
    pub(crate) received: Mutex<u64>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Port {
    pub(crate) fn leaked(runtime: Arc<Runtime>) -> &'static Port {
        Box::leak(Box::new(Port { runtime, wire: Mutex::default(), received: Mutex::default() }))
    }

    pub(crate) fn send(&self, frame: Frame) {
        lock(&self.wire).push_back(frame);
    }

    pub(crate) fn info(&'static self, mac: MacAddr, offloads: u32) -> PortInfo {
        PortInfo {
            size: size_of::<PortInfo>() as u32,
            flags: 0,
            port: std::ptr::from_ref(self).cast_mut().cast(),
            rx_queues: 1,
            tx_queues: 1,
            mtu: 1500,
            mtu_max: 9000,
            offloads,
            mac,
            rss_table: 0,
            rss_key: 0,
            _pad: [0; 3],
        }
    }

    fn pool(&self) -> &Pool {
        self.runtime.pool()
    }

    /// A packet of one or two cells with the frame in it.
    fn packet(&self, cpu: Cpu, frame: &Frame) -> Option<Cell> {
        let mut c = [0; 2];
        let pool = self.pool();
        if pool.alloc(cpu, &mut c) < 2 {
            return None;
        }
        let (head, tail) = frame.bytes.split_at(frame.cut.min(frame.bytes.len()));
        let (mut first, mut second) = (pool.packet(c[0]), pool.packet(c[1]));
        if head.is_empty() || tail.is_empty() {
            pool.free(cpu, &c[1..]);
            first.set_data(&frame.bytes);
        } else {
            first.set_data(head);
            second.set_data(tail);
            first.append(second);
        }
        let h: &mut PktHdr = first.hdr_mut();
        h.flags = frame.flags;
        h.gso_size = frame.gso_size;
        h.csum_start = if frame.csum_start == 0 { 0 } else { h.data_off.saturating_add(frame.csum_start) };
        h.csum_offset = frame.csum_offset;
        h.vlan_tci = frame.vlan_tci;
        Some(c[0])
    }
}

unsafe fn port<'a>(p: *mut c_void) -> &'a Port {
    // SAFETY: handles are leaked ports.
    unsafe { &*p.cast() }
}

unsafe extern "C" fn rx_burst(p: *mut c_void, _: u32, worker: u32, cells: *mut Cell, max: u32) -> u32 {
    // SAFETY: see `port`; the worker is the one that calls, and its array has `max` places.
    let (p, cpu, out) =
        unsafe { (port(p), Cpu::assume(worker), std::slice::from_raw_parts_mut(cells, max.min(BURST_MAX) as usize)) };
    let mut n = 0;
    while n < out.len() {
        let Some(frame) = lock(&p.wire).pop_front() else { break };
        let Some(c) = p.packet(cpu, &frame) else { break };
        out[n] = c;
        n += 1;
    }
    *lock(&p.received) += n as u64;
    n as u32
}

unsafe extern "C" fn tx_burst(p: *mut c_void, _: u32, worker: u32, cells: *const Cell, n: u32) -> u32 {
    if n > 0 {
        // SAFETY: as in rx_burst, with `n` cells.
        let (p, cpu, cells) = unsafe { (port(p), Cpu::assume(worker), std::slice::from_raw_parts(cells, n as usize)) };
        for c in cells {
            assert_eq!(p.pool().validate(*c), Ok(()), "the stack sends what is no packet");
        }
        p.pool().free(cpu, cells);
    }
    n
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
unsafe extern "C" fn stats(_: *mut c_void, _: *mut PortStats) -> i32 {
    0
}
unsafe extern "C" fn counters(_: *mut c_void, _: *mut NamedCounter, _: u32) -> u32 {
    0
}
unsafe extern "C" fn multicast(_: *mut c_void, _: *const MacAddr, _: u32, _: u32, _: *mut ErrBuf) -> i32 {
    UNSUPPORTED
}
unsafe extern "C" fn set_mac(_: *mut c_void, _: *const MacAddr, _: *mut ErrBuf) -> i32 {
    UNSUPPORTED
}
unsafe extern "C" fn rss(_: *mut c_void, _: *const u8, _: u32, _: *const u16, _: u32, _: *mut ErrBuf) -> i32 {
    UNSUPPORTED
}
unsafe extern "C" fn status(_: *mut c_void, _: *mut ErrBuf) -> i32 {
    UNSUPPORTED
}

/// The driver.
pub(crate) static TABLE: DriverTable = DriverTable {
    size: size_of::<DriverTable>() as u32,
    flags: 0,
    name: Text::new("wire"),
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
    set_promisc: set_u32,
    set_multicast: multicast,
    set_mac,
    set_mtu: set_u32,
    set_offloads: set_u32,
    set_rss: rss,
    status,
};
