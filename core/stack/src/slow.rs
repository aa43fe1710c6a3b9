//! What workers leave to the control side: a bounded lock-free queue and the thread that empties it.

use crate::types::IfIndex;
use crossbeam_queue::ArrayQueue;
use smpnet_abi::{LinkState, MacAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Thread;

/// Something for the control side to do.
#[derive(Clone, Debug)]
pub(crate) enum SlowEvent {
    /// A worker holds packets for a neighbour.
    Wanted { ifindex: u32, ip: u32, worker: u32 },
    /// A stale neighbour is in use.
    Used { ifindex: u32, ip: u32 },
    /// An ARP packet told a neighbour's address.
    Heard { ifindex: u32, ip: u32, mac: MacAddr, create: bool },
    /// Another station claims an address of ours.
    Conflict { ifindex: u32, ip: u32, mac: MacAddr },
    /// ICMP told the MTU of the path to a destination.
    PathMtu { dst: u32, mtu: u32 },
    /// A worker has datagrams to give up in time.
    ReassTimer { worker: u32 },
    /// The link of an interface changed.
    Link { ifindex: u32, link: LinkState },
    /// A plugin failed.
    Fault { ifindex: IfIndex, what: String },
}

/// Events that wait at most.
const LEN: usize = 8192;

/// The queue.
pub(crate) struct SlowQueue {
    queue: ArrayQueue<SlowEvent>,
    dropped: AtomicU64,
    thread: OnceLock<Thread>,
}

impl SlowQueue {
    pub(crate) fn new() -> SlowQueue {
        SlowQueue { queue: ArrayQueue::new(LEN), dropped: AtomicU64::new(0), thread: OnceLock::new() }
    }

    /// Leaves an event; false when too many wait. Any thread. A system call only when the control thread sleeps.
    pub(crate) fn push(&self, e: SlowEvent) -> bool {
        let ok = self.queue.push(e).is_ok();
        if !ok {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(t) = self.thread.get() {
            t.unpark();
        }
        ok
    }

    pub(crate) fn pop(&self) -> Option<SlowEvent> {
        self.queue.pop()
    }

    /// The thread to wake.
    pub(crate) fn set_thread(&self, t: Thread) {
        let _ = self.thread.set(t);
    }

    pub(crate) fn wake(&self) {
        if let Some(t) = self.thread.get() {
            t.unpark();
        }
    }

    /// Events that were lost because too many waited.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
