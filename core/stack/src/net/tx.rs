//! Transmission through a port: its queues, their owners, and what a full ring means.

use super::counters::{Account, IfCounter};
use super::ifnet::{Attach, Ifnet, Medium, Port};
use super::path::Path;
use crate::wire::ethernet::is_group;
use smpnet_abi::{BURST_MAX, Cell, DropReason, RX_FAULT, offload};
use smpnet_runtime::{Burst, Dir};
use std::ops::Range;

impl Port {
    /// The transmit queue of a worker, and the worker that serves it.
    #[inline(always)]
    pub(crate) fn tx_queue(&self, worker: usize) -> (u32, usize) {
        let q = worker % usize::from(self.tx_queues.max(1));
        (q as u32, q)
    }
}

/// What a burst comes to.
#[derive(Clone, Copy, Default)]
struct Tally {
    bytes: u64,
    /// Frames to groups, if they are frames.
    groups: u64,
    /// Some packet has more cells than one.
    chains: bool,
}

impl<'a> Path<'a> {
    /// Sends frames that have passed every hook and need nothing that the port lacks.
    pub(crate) fn port_output(&mut self, ifp: &'a Ifnet, port: &'a Port, burst: &mut Burst) {
        let (queue, owner) = port.tx_queue(self.cpu.index());
        if owner == self.cpu.index() {
            self.transmit(ifp, port, queue, burst);
            return;
        }
        // Another worker serves the queue: it needs to know the interface.
        for c in burst.iter() {
            self.packet(c).hdr_mut().scratch[0] = u64::from(ifp.index.get());
        }
        let taken = self.s.tx_queue.enqueue(Some(self.cpu), owner, burst.as_slice());
        self.account(Account::HeldIn, taken as u64);
        for c in &burst.as_slice()[taken..] {
            self.drop_on(ifp, DropReason::QueueFull, *c);
        }
    }

    /// Frames that another worker handed over for a queue of this one.
    pub(crate) fn handed_over(&mut self, cells: &[Cell]) {
        self.account(Account::HeldOut, cells.len() as u64);
        let index = |p: &Path<'_>, c: Cell| p.packet(c).hdr().scratch[0] as u32;
        let mut at = 0;
        while at < cells.len() {
            let ifindex = index(self, cells[at]);
            let mut burst = Burst::new();
            while at < cells.len() && !burst.is_full() && index(self, cells[at]) == ifindex {
                burst.push(cells[at]);
                at += 1;
            }
            match self.ifnet(ifindex) {
                Some(ifp) if ifp.running && !ifp.faulted() => {
                    if let Attach::Port(port) = &ifp.attach {
                        let (queue, _) = port.tx_queue(self.cpu.index());
                        self.transmit(ifp, port, queue, &mut burst);
                        continue;
                    }
                    self.drop_burst(ifindex, DropReason::IfDown, &burst);
                }
                _ => self.drop_burst(ifindex, DropReason::IfDown, &burst),
            }
        }
    }

    pub(crate) fn drop_burst(&mut self, ifindex: u32, reason: DropReason, burst: &Burst) {
        for c in burst.iter() {
            self.drop(ifindex, reason, c);
        }
    }

    fn transmit(&mut self, ifp: &'a Ifnet, port: &'a Port, queue: u32, burst: &mut Burst) {
        let mut tally = self.tally(burst.as_slice());
        if tally.chains && ifp.offloads & offload::SCATTER == 0 {
            *burst = self.in_single_cells(ifp, burst);
            tally = self.tally(burst.as_slice());
        }
        self.tap(ifp, Dir::Out, burst.as_slice());
        let Tally { bytes, mut groups, .. } = tally;
        if ifp.medium != Medium::Ether {
            groups = 0;
        }
        // From here on some may stand for several. All that is counted is counted as if they were still apart.
        let lots = self.coalesce(ifp, burst);
        let packets = |places: Range<usize>| lots.as_ref().map_or(places.len() as u64, |lots| lots.of(places));
        let cells = burst.as_slice();
        let mut sent = 0;
        // A full ring is reaped once and offered the rest again; what is refused then is dropped, because waiting would
        // stop the traffic of every other port of this worker.
        for round in 0..2 {
            let rest = &cells[sent..];
            // SAFETY: the queue is this worker's alone; the cells are ours, and those accepted become the driver's. The
            // port is not closed before a grace period has passed in which this snapshot was replaced.
            let n = unsafe {
                (port.table.tx_burst)(port.handle.0, queue, self.cpu.index() as u32, rest.as_ptr(), rest.len() as u32)
            };
            if n == RX_FAULT || n as usize > rest.len() {
                // After a fault the packets are the plugin's, which disposed of them.
                self.account(Account::ToPlugins, packets(sent..cells.len()));
                let what =
                    if n == RX_FAULT { "tx_burst failed" } else { "tx_burst accepted more packets than it was given" };
                self.s.fault_seen(ifp, what);
                return;
            }
            sent += n as usize;
            if sent == cells.len() || round == 1 {
                break;
            }
            self.reap(port, queue);
        }
        let n = packets(0..sent);
        self.account(Account::Sent, n);
        let mut lost = 0;
        let mut lose = |path: &mut Path<'a>, c: Cell| {
            lost += u64::from(path.packet(c).len());
            path.drop_on(ifp, DropReason::TxRingFull, c);
        };
        for (at, c) in cells.iter().enumerate().skip(sent) {
            if packets(at..at + 1) > 1 {
                self.take_apart(ifp, *c, &mut lose);
            } else {
                lose(self, *c);
            }
        }
        self.count_output_as(ifp, n, bytes - lost, groups);
        self.w.stages.mark_sent(ifp.index.get());
    }

    #[inline(always)]
    fn tally(&self, cells: &[Cell]) -> Tally {
        let (pool, mut t) = (self.pool.locate(), Tally::default());
        for c in cells {
            let p = pool.packet(*c);
            t.bytes += u64::from(p.len());
            t.groups += u64::from(is_group(&[p.first_byte()]));
            t.chains |= p.hdr().nsegs > 1;
        }
        t
    }

    /// Asks a port to give back what it has sent, and to send what it still gathers.
    fn reap(&self, port: &Port, queue: u32) {
        // SAFETY: as in `transmit`, with no packets.
        unsafe { (port.table.tx_burst)(port.handle.0, queue, self.cpu.index() as u32, [].as_ptr(), 0) };
    }

    /// Reaps the ports that this worker sent through lately.
    pub(crate) fn reap_sent(&mut self) {
        for i in 0..self.w.stages.sent_list().len() {
            let ifindex = self.w.stages.sent_list()[i];
            if let Some(ifp) = self.ifnet(ifindex).filter(|i| !i.faulted())
                && let Attach::Port(port) = &ifp.attach
            {
                let (queue, owner) = port.tx_queue(self.cpu.index());
                if owner == self.cpu.index() {
                    self.reap(port, queue);
                }
            }
        }
        self.w.stages.age_sent();
    }

    /// What one call of a driver's `rx_burst` gave; packets are told where they came from. False when the port broke the
    /// rules and is quarantined; packets that are sound then still go back to the pool.
    pub(crate) fn check_received(
        &mut self,
        ifp: &'a Ifnet,
        cells: &[Cell; BURST_MAX as usize],
        n: u32,
        max: u32,
    ) -> bool {
        if n == RX_FAULT {
            self.s.fault_seen(ifp, "rx_burst failed");
            return false;
        }
        if n > max {
            self.s.fault_seen(ifp, "rx_burst returned more packets than it was asked for");
            return false;
        }
        let rcvif = ifp.index.get();
        let checked = self.pool.validate_burst(cells, n as usize, |mut p| {
            p.hdr_mut().rcvif = rcvif;
            // The burst is gone through again at once, to read what its packets begin with.
            p.prefetch_data();
        });
        if let Err((i, e)) = checked {
            self.s.fault_seen(ifp, &format!("rx_burst returned a bad packet (cell {}): {e}", cells[i]));
            self.received_some(ifp, &cells[..n as usize], i);
            return false;
        }
        true
    }

    /// What is left of a burst whose packet `bad` is wrong. What came before it goes on; it and what comes after are
    /// dropped, each cell once.
    #[cold]
    fn received_some(&mut self, ifp: &'a Ifnet, cells: &[Cell], bad: usize) {
        ifp.count(self.cpu, IfCounter::Ierrors, 1);
        self.account(Account::Received, bad as u64);
        for i in bad..cells.len() {
            if self.pool.reclaim(self.cpu, &cells[..i], cells[i]) {
                self.account(Account::Received, 1);
                self.account(Account::Dropped, 1);
                ifp.count_drop(self.cpu, DropReason::PluginFault, 1);
            }
        }
        let mut burst = Burst::new();
        burst.extend_from_slice(&cells[..bad]);
        self.tap(ifp, Dir::In, burst.as_slice());
        self.if_input(ifp, &burst);
    }
}
