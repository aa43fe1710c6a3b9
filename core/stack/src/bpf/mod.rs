//! bpf(4): who listens to the packets of an interface, and what may be sent through it from outside.
//!
//! ```text
//!  worker, at a tap                                      control threads
//!
//!  nobody listens: one load, one predicted branch        Stack::bpf_open  -> CaptureReader, whose drop ends it
//!  else for each listener that wants this burst:         Listener::set_filter, set_interface, lock, status
//!    its filter judges the burst
//!    what it accepts is copied into this CPU's ring  -->  CaptureReader::drain merges the rings by their stamps
//!    (no room: counted, and gone)
//! ```
//!
//! Taps stand where a driver or plugin has handed packets in, before anything looks at them; where packets are handed to a
//! driver or plugin; and where packets are dropped. They run on the worker that carries the burst, never in a driver's
//! interrupt path, which closes what NetBSD's TODO.smpnet says of bpf_mtap. A slow reader costs copies, never packets.
//!
//! The packets of a burst share one time stamp: the clock is read once at the worker's visit, and a reading for each packet
//! would tell when the worker came to it, not when it arrived. (The kernel's stamps, which TPACKET_V3 has in the ring beside
//! each packet, would be a cheaper exact way for ports of af_packet; nothing reads them.)
//!
//! A burst is judged by one filter of each listener: replacing the filter of a running listener leaves no gap.

mod control;
mod frame;
mod inject;
mod listener;
mod reader;
mod record;
mod tap;

pub use frame::Link;
pub use listener::{
    BpfFilter, CpuStatus, Ended, Injected, Listener, ListenerOwner, ListenerSpec, ListenerStatus, Seen, WriteFilter,
};
pub use reader::{CaptureReader, IfTally};
pub use record::{Captured, What};

pub(crate) use tap::At;

use crate::types::{Dirs, IfIndex};
use smpnet_runtime::{Dir, Published};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bits of [`Bpf::wanted`].
const IN: u32 = 1;
const OUT: u32 = 2;
const DROPS: u32 = 4;

/// Bytes of each CPU's ring when nobody says otherwise.
pub(crate) const RING_DEFAULT: u64 = 4 << 20;
/// The least that a ring may have, so that the longest packet fits into it.
pub(crate) const RING_MIN: u64 = 256 << 10;

/// Everything that bpf knows.
pub(crate) struct Bpf {
    /// What anybody wants to hear: read at every tap, written when a listener comes, changes or goes.
    wanted: AtomicU32,
    listeners: Published<Vec<Arc<Listener>>>,
    /// Held over every change of the list and of a listener's settings.
    registry: Mutex<Registry>,
    /// The most that a ring may have (`net.bpf.maxbufsize`).
    pub(crate) ring_max: AtomicU64,
}

/// What listeners that are gone have counted, and the next number.
struct Registry {
    next: u64,
    past: [u64; 3],
}

impl Bpf {
    pub(crate) fn new() -> Bpf {
        Bpf {
            wanted: AtomicU32::new(0),
            listeners: Published::new(Vec::new()),
            registry: Mutex::new(Registry { next: 1, past: [0; 3] }),
            ring_max: AtomicU64::new(16 << 20),
        }
    }

    /// Whether anybody listens to packets of that direction: one load.
    #[inline(always)]
    pub(crate) fn wants(&self, dir: Dir) -> bool {
        self.wanted.load(Ordering::Relaxed) & (if matches!(dir, Dir::In) { IN } else { OUT }) != 0
    }

    /// Whether anybody listens to drops: one load.
    #[inline(always)]
    pub(crate) fn wants_drops(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) & DROPS != 0
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // Nothing in here is left half-changed by a panic.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works out anew what is wanted. The caller holds the registry.
    fn recount(&self) {
        let mut wanted = 0;
        for l in self.listeners.load_control().iter() {
            let s = l.settings.load_control();
            wanted |= match (s.drops, s.dirs) {
                (true, _) => DROPS,
                (false, Dirs::In) => IN,
                (false, Dirs::Out) => OUT,
                (false, Dirs::Both) => IN | OUT,
            };
        }
        self.wanted.store(wanted, Ordering::Release);
    }

    /// Ends the listeners of an interface that goes away.
    pub(crate) fn interface_gone(&self, index: IfIndex) {
        for l in self.listeners.load_control().iter() {
            if l.settings.load_control().interface == Some(index) {
                l.end(Ended::InterfaceGone);
            }
        }
    }

    /// Ends every listener: the router stops.
    pub(crate) fn stop(&self) {
        self.listeners.load_control().iter().for_each(|l| l.end(Ended::Stopped));
    }
}
