//! Transmit queues.

mod copied;
mod lent;

pub use copied::CopiedTx;
pub use lent::LentTx;

use crate::{handover::Handover, port::Shared, ring::Ring, rx::FromRing, stats::TxStats, sys};
use smpnet_plugin::{Burst, TxQueue, Worker};
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard},
};

/// How packets get into a ring.
pub enum Way {
    /// Copied into.
    Copied(CopiedTx),
    /// By lent cells.
    Lent(LentTx),
}

/// A transmit ring of a connection.
pub struct TxRing {
    way: Way,
    /// Wakes the peer.
    interrupt: Arc<OwnedFd>,
    /// No more is sent: one of the queues that share it has given it up.
    ended: bool,
}

impl TxRing {
    /// A ring, and the eventfd by which its receiver is woken.
    pub fn new(way: Way, interrupt: Arc<OwnedFd>) -> Self {
        TxRing { way, interrupt, ended: false }
    }

    fn ring(&self) -> &Ring {
        match &self.way {
            Way::Copied(tx) => tx.ring(),
            Way::Lent(tx) => tx.ring(),
        }
    }

    #[inline]
    fn send(&mut self, cx: &mut Worker<'_>, burst: &mut Burst, stats: &TxStats) -> FromRing<()> {
        if self.ended {
            return Ok(());
        }
        let published = match &mut self.way {
            Way::Copied(tx) => tx.send(cx, burst, stats),
            Way::Lent(tx) => tx.send(cx, burst, stats),
        }?;
        if published && self.ring().wants_interrupt() {
            self.interrupt(stats);
        }
        Ok(())
    }

    /// Wakes the peer. Its eventfd is looked at before: a peer that has filled its count up must not make a worker wait.
    /// What is left: one that takes the flag off which keeps a write from blocking, and fills the count between the two
    /// calls, holds the worker up until somebody reads the count.
    #[cold]
    fn interrupt(&self, stats: &TxStats) {
        if sys::writable_now(self.interrupt.as_fd()) {
            sys::signal(self.interrupt.as_fd());
            stats.interrupts.add(1);
        }
    }

    fn end(&mut self, cx: &mut Worker<'_>, stats: &TxStats) {
        if !self.ended {
            self.ended = true;
            match &mut self.way {
                Way::Copied(tx) => tx.end(stats),
                Way::Lent(tx) => tx.end(cx, stats),
            }
        }
    }
}

/// A ring for a queue.
pub enum TxHold {
    /// The queue's own.
    Own(TxRing),
    /// One for several queues, because the peer has fewer rings than this router has workers that send.
    Shared(Arc<Mutex<TxRing>>),
}

fn lock(ring: &Mutex<TxRing>) -> MutexGuard<'_, TxRing> {
    ring.lock().unwrap_or_else(|e| e.into_inner())
}

/// A transmit queue's part that control threads use as well.
#[derive(Default)]
pub struct TxHandle {
    /// Hands the rings over.
    pub rings: Handover<TxHold>,
    /// What the queue counted.
    pub stats: TxStats,
}

/// A transmit queue of a memif port.
pub struct MemifTx {
    shared: Arc<Shared>,
    handle: Arc<TxHandle>,
    queue: u16,
    /// Generation of the ring in use.
    seen: u32,
    ring: Option<TxHold>,
}

impl MemifTx {
    /// The queue of that number.
    pub fn new(shared: Arc<Shared>, handle: Arc<TxHandle>, queue: u16) -> Self {
        MemifTx { shared, handle, queue, seen: 0, ring: None }
    }

    /// Takes up what the control thread posted.
    #[cold]
    #[inline(never)]
    fn adopt(&mut self, cx: &mut Worker<'_>) {
        self.give_up(cx);
        self.ring = self.handle.rings.take(&mut self.seen);
    }

    fn give_up(&mut self, cx: &mut Worker<'_>) {
        if let Some(mut hold) = self.ring.take() {
            match &mut hold {
                TxHold::Own(ring) => ring.end(cx, &self.handle.stats),
                TxHold::Shared(ring) => lock(ring).end(cx, &self.handle.stats),
            }
            self.handle.rings.give_back(hold);
            self.shared.wake_control();
        }
    }

    #[cold]
    #[inline(never)]
    fn fail(&mut self, cx: &mut Worker<'_>, what: &'static str) {
        self.shared.ring_broke(self.queue, what);
        self.give_up(cx);
    }
}

impl TxQueue for MemifTx {
    #[inline]
    fn tx_burst(&mut self, cx: &mut Worker<'_>, burst: &mut Burst) {
        if self.handle.rings.changed(self.seen) {
            self.adopt(cx);
        }
        let stats = &self.handle.stats;
        let sent = match &mut self.ring {
            Some(TxHold::Own(ring)) => ring.send(cx, burst, stats),
            Some(TxHold::Shared(ring)) => lock(ring).send(cx, burst, stats),
            None => {
                stats.down.add(burst.len() as u64);
                cx.free(burst.take());
                return;
            }
        };
        if let Err(what) = sent {
            self.fail(cx, what);
        }
    }
}
