//! Receive queues.

mod copied;
mod lent;

pub use copied::{CopiedRx, OwnBuffers};
pub use lent::{LentRx, POOL_REGION};

use crate::{
    handover::Handover,
    port::Shared,
    ring::Ring,
    stats::RxStats,
    sys::{self, Epoll},
};
use smpnet_plugin::{BURST_MAX, Burst, Packet, RxQueue, Worker};
use std::{
    os::fd::{AsFd, OwnedFd, RawFd},
    sync::Arc,
};

/// What a ring gave, or what cannot be true of it.
pub type FromRing<T> = Result<T, &'static str>;

/// A receive ring of a connection.
#[expect(clippy::large_enum_variant, reason = "there is one to a queue")]
pub enum RxRing {
    /// Copied from.
    Copied(CopiedRx),
    /// Of lent cells.
    Lent(LentRx),
}

impl RxRing {
    fn ring(&self) -> &Ring {
        match self {
            RxRing::Copied(rx) => rx.ring(),
            RxRing::Lent(rx) => rx.ring(),
        }
    }

    fn pending(&self) -> bool {
        match self {
            RxRing::Copied(rx) => rx.pending(),
            RxRing::Lent(rx) => rx.pending(),
        }
    }

    fn end(&mut self, cx: &mut Worker<'_>, stats: &RxStats) {
        match self {
            RxRing::Copied(rx) => rx.end(cx, stats),
            RxRing::Lent(rx) => rx.end(cx, stats),
        }
    }
}

/// A receive queue's part that control threads use as well.
pub struct RxHandle {
    /// Hands the rings over.
    pub rings: Handover<RxRing>,
    /// What the queue counted.
    pub stats: RxStats,
    /// What the worker sleeps on: the interrupt of the ring in use, and `kick`.
    epoll: Epoll,
    /// Wakes the worker to take up a ring, or to give one back.
    kick: OwnedFd,
}

impl RxHandle {
    /// A queue without a ring.
    pub fn new() -> std::io::Result<Self> {
        let (epoll, kick) = (Epoll::new()?, sys::eventfd()?);
        epoll.add_edges(kick.as_fd())?;
        Ok(RxHandle { rings: Handover::default(), stats: RxStats::default(), epoll, kick })
    }

    /// Control: gives the queue a ring and its interrupt.
    pub fn begin(&self, ring: RxRing, interrupt: &OwnedFd) -> std::io::Result<()> {
        self.epoll.add_edges(interrupt.as_fd())?;
        drop(self.rings.post(Some(ring)));
        sys::signal(self.kick.as_fd());
        Ok(())
    }

    /// Control: takes the ring away, of which that was the interrupt.
    pub fn end(&self, interrupt: Option<&OwnedFd>) {
        if let Some(interrupt) = interrupt {
            self.epoll.remove(interrupt.as_fd());
        }
        drop(self.rings.post(None));
        sys::signal(self.kick.as_fd());
    }
}

/// A receive queue of a memif port.
pub struct MemifRx {
    shared: Arc<Shared>,
    handle: Arc<RxHandle>,
    queue: u16,
    /// Generation of the ring in use.
    seen: u32,
    ring: Option<RxRing>,
    /// Whether the peer was told to interrupt.
    armed: bool,
}

impl MemifRx {
    /// The queue of that number.
    pub fn new(shared: Arc<Shared>, handle: Arc<RxHandle>, queue: u16) -> Self {
        MemifRx { shared, handle, queue, seen: 0, ring: None, armed: false }
    }

    /// Takes up what the control thread posted.
    #[cold]
    #[inline(never)]
    fn adopt(&mut self, cx: &mut Worker<'_>) {
        self.give_up(cx);
        self.ring = self.handle.rings.take(&mut self.seen);
        self.armed = false;
        if let Some(ring) = &mut self.ring {
            ring.ring().set_polled(true);
            if let RxRing::Copied(rx) = ring {
                rx.begin();
            }
        }
    }

    fn give_up(&mut self, cx: &mut Worker<'_>) {
        if let Some(mut ring) = self.ring.take() {
            ring.end(cx, &self.handle.stats);
            self.handle.rings.give_back(ring);
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

impl RxQueue for MemifRx {
    #[inline]
    fn rx_burst(&mut self, cx: &mut Worker<'_>, out: &mut Burst, max: usize) {
        if self.handle.rings.changed(self.seen) {
            self.adopt(cx);
        }
        let stats = &self.handle.stats;
        let received = match &mut self.ring {
            None => return,
            Some(RxRing::Copied(rx)) => rx.receive(cx, out, max, stats),
            Some(RxRing::Lent(rx)) => rx.receive(cx, out, max, stats),
        };
        if let Err(what) = received {
            return self.fail(cx, what);
        }
        if self.armed
            && !out.is_empty()
            && let Some(ring) = &self.ring
        {
            ring.ring().set_polled(true);
            self.armed = false;
        }
    }

    fn event_fd(&self) -> Option<RawFd> {
        Some(self.handle.epoll.raw_fd())
    }

    fn arm(&mut self) -> bool {
        self.handle.epoll.take();
        if self.handle.rings.changed(self.seen) {
            return true;
        }
        let Some(ring) = &self.ring else { return false };
        if !self.armed {
            // Other implementations have no fence between what they publish and their look at the flag, so that a packet
            // which is just being published may come without an interrupt. So the worker looks once more, some
            // microseconds later, before it sleeps. The flag stays as it is until packets come.
            ring.ring().set_polled(false);
            self.armed = true;
            return true;
        }
        ring.pending()
    }
}

/// Cells at hand, so that a chain asks the pool once.
#[derive(Default)]
struct Stash(Burst);

impl Stash {
    /// Makes sure of `n` cells, at most 64; false when the pool has not that many.
    fn want(&mut self, cx: &mut Worker<'_>, n: usize) -> bool {
        if self.0.len() < n {
            let missing = n - self.0.len();
            cx.alloc_burst(missing, &mut self.0);
        }
        self.0.len() >= n
    }

    fn cells(&mut self) -> &mut [Packet] {
        self.0.as_mut_slice()
    }

    /// Makes one packet out of the first `n` cells, whose lengths are set.
    fn chain(&mut self, n: usize) -> Option<Packet> {
        chain(&mut self.0, n)
    }

    fn take(&mut self) -> Burst {
        self.0.take()
    }
}

/// Makes one packet out of the first `n` packets, of one cell each, of a burst.
fn chain(burst: &mut Burst, n: usize) -> Option<Packet> {
    let mut cells = [const { None }; BURST_MAX];
    for cell in cells.iter_mut().take(n) {
        *cell = Some(burst.pop_front()?);
    }
    let mut chain: Option<Packet> = None;
    // From the end, so that each step appends to a single cell.
    for mut cell in cells.into_iter().flatten().rev() {
        if let Some(tail) = chain.take() {
            // At most 64 cells, so it fits.
            cell.append_cell(tail).ok()?;
        }
        chain = Some(cell);
    }
    chain
}
