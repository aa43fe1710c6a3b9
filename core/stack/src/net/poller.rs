//! What the runtime's workers call: one poller for each receive queue, one for each worker's own chores.

use super::counters::Account;
use super::ifnet::{Attach, Port};
use crate::hash::toeplitz;
use crate::inet::decide::IpInfo;
use crate::inet::input::has_ports;
use crate::net::path::Path;
use crate::stack::Stack;
use crate::types::IfIndex;
use crate::wire::ethernet::{HEADER_LEN, TYPE_IPV4};
use crate::wire::ipv4::Ipv4;
use crate::wire::{be16, be32};
use smpnet_abi::{BURST_MAX, Cell, DropReason, port_flags};
use smpnet_runtime::{Burst, Dir, Poller, WorkerCx};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A receive queue of a port.
pub(crate) struct RxPoller {
    pub stack: Arc<Stack>,
    pub port: Arc<Port>,
    pub index: IfIndex,
    pub queue: u32,
    pub port_flags: u32,
    pub fd: Option<RawFd>,
    armed: bool,
}

impl RxPoller {
    pub(crate) fn new(stack: Arc<Stack>, port: Arc<Port>, index: IfIndex, queue: u32, flags: u32) -> RxPoller {
        // SAFETY: control thread; the port is open.
        let fd = unsafe { (port.table.event_fd)(port.handle.0, queue) };
        RxPoller { stack, port, index, queue, port_flags: flags, fd: (fd >= 0).then_some(fd), armed: false }
    }

    fn broken(&self) -> bool {
        self.stack.ifs.get_control(self.index.get()).is_none_or(|i| i.faulted())
    }
}

impl Poller for RxPoller {
    fn poll(&mut self, cx: &mut WorkerCx<'_>) -> u32 {
        let stack = &*self.stack;
        let section = cx.section();
        let runs = stack.ifs.get(section, self.index.get()).is_some_and(|i| i.running && !i.faulted());
        if !runs || stack.held.load(Relaxed) {
            return 0;
        }
        let mut cells = [0 as Cell; BURST_MAX as usize];
        // SAFETY: this queue is this worker's; the array has BURST_MAX places; the port is closed only after this poller
        // was removed.
        let n = unsafe {
            (self.port.table.rx_burst)(
                self.port.handle.0,
                self.queue,
                cx.cpu.index() as u32,
                cells.as_mut_ptr(),
                BURST_MAX,
            )
        };
        if n == 0 {
            return 0;
        }
        let (cpu, now, index, rps) = (cx.cpu, cx.now_ns, self.index, self.port.rps.load(Relaxed));
        stack.pass(cpu, section, now, |path| {
            let Some(ifp) = path.ifnet(index.get()) else { return };
            if !path.check_received(ifp, &cells, n, BURST_MAX) {
                return;
            }
            path.account(Account::Received, u64::from(n));
            let mut burst = Burst::new();
            burst.extend_from_slice(&cells[..n as usize]);
            path.tap(ifp, Dir::In, burst.as_slice());
            if rps != 0 {
                path.spread(&mut burst);
            }
            path.if_input(ifp, &burst);
        });
        n
    }

    fn arm(&mut self) -> bool {
        self.armed = !self.broken();
        // SAFETY: the worker of this queue calls.
        self.armed && unsafe { (self.port.table.rx_arm)(self.port.handle.0, self.queue) == 1 }
    }

    fn disarm(&mut self) {
        if std::mem::take(&mut self.armed) {
            // SAFETY: the worker of this queue calls.
            unsafe { (self.port.table.rx_disarm)(self.port.handle.0, self.queue) };
        }
    }

    fn event_fds(&self) -> Vec<RawFd> {
        self.fd.into_iter().collect()
    }

    fn always_poll(&self) -> bool {
        self.port_flags & port_flags::POLL_ONLY != 0
            && self.stack.ifs.get_control(self.index.get()).is_some_and(|i| i.running && !i.faulted())
    }
}

/// A worker's own chores: reaping what it sent, and taking up what plugins handed in outside of a passage (callouts).
pub(crate) struct Chores {
    pub stack: Arc<Stack>,
}

impl Poller for Chores {
    fn poll(&mut self, cx: &mut WorkerCx<'_>) -> u32 {
        let (cpu, now) = (cx.cpu, cx.now_ns);
        let pending = self.stack.pending.with(cpu, |p| p.list.len() as u32);
        let reap = self.stack.cpus.with(cpu, |w| w.stages.wants_reaping());
        if pending > 0 || reap {
            self.stack.pass(cpu, cx.section(), now, |path| {
                if reap {
                    path.reap_sent();
                }
            });
        }
        pending
    }
}

impl Stack {
    /// The worker that a queue of a port is served by.
    pub(crate) fn worker_of_queue(&self, port: &Port, queue: u16) -> usize {
        (port.first_worker + usize::from(queue)) % self.workers()
    }
}

impl<'a> Path<'a> {
    /// Hands packets of other workers' flows over (receive packet steering) and keeps our own.
    #[inline(never)]
    pub(crate) fn spread(&mut self, burst: &mut Burst) {
        let workers = self.s.workers();
        let own = self.cpu.index();
        let mut kept = Burst::new();
        let mut owners = [0u8; BURST_MAX as usize];
        for (c, o) in burst.iter().zip(&mut owners) {
            *o = (self.steer_hash(c) as usize % workers) as u8;
        }
        for to in 0..workers {
            let mut part = Burst::new();
            for (c, o) in burst.iter().zip(&owners) {
                if usize::from(*o) == to {
                    part.push(c);
                }
            }
            if to == own {
                kept = part;
                continue;
            }
            if part.is_empty() {
                continue;
            }
            let taken = self.s.input_queue.enqueue(Some(self.cpu), to, part.as_slice());
            self.account(Account::HeldIn, taken as u64);
            for c in &part.as_slice()[taken..] {
                let rcvif = self.packet(*c).hdr().rcvif;
                self.drop(rcvif, DropReason::QueueFull, *c);
            }
        }
        *burst = kept;
    }

    /// The hash that names a packet's worker: of addresses and ports for TCP and UDP, of addresses alone for the rest and for
    /// fragments. Datagrams that are cut and datagrams that are not may thus overtake each other; filters that want them
    /// whole gather fragments first, and hand them to the worker of their ports. NetBSD's pktqueue takes no ports of UDP,
    /// and has all of QUIC between two hosts on one processor.
    fn steer_hash(&self, c: Cell) -> u32 {
        let p = self.packet(c);
        let b = p.data();
        if b.len() < HEADER_LEN + 20 || be16(b, 12) != TYPE_IPV4 {
            return 0;
        }
        let Some(ip) = Ipv4::parse(&b[HEADER_LEN..]) else { return 0 };
        let info = IpInfo { frag: ip.frag, proto: ip.proto, ..IpInfo::default() };
        let at = HEADER_LEN + ip.header_len;
        let with_ports = has_ports(ip.proto) && !info.is_fragment();
        let ports = if with_ports && b.len() >= at + 4 { be32(b, at) } else { 0 };
        toeplitz(ip.src, ip.dst, ports)
    }

    /// Packets that another worker received and steered here.
    pub(crate) fn steered(&mut self, cells: &[Cell]) {
        self.account(Account::HeldOut, cells.len() as u64);
        // What they hold is in another processor's cache.
        cells.iter().for_each(|c| self.packet(*c).prefetch());
        let mut at = 0;
        while at < cells.len() {
            let rcvif = self.packet(cells[at]).hdr().rcvif;
            let mut burst = Burst::new();
            while at < cells.len() && !burst.is_full() && self.packet(cells[at]).hdr().rcvif == rcvif {
                burst.push(cells[at]);
                at += 1;
            }
            match self.ifnet(rcvif).filter(|i| i.running) {
                Some(ifp) => self.if_input(ifp, &burst),
                None => self.drop_burst(rcvif, DropReason::IfDown, &burst),
            }
        }
    }
}

/// Whether an interface has queues to poll.
pub(crate) fn port_of(attach: &Attach) -> Option<&Arc<Port>> {
    match attach {
        Attach::Port(p) => Some(p),
        _ => None,
    }
}
