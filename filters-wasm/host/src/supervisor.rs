//! The thread that buries what workers gave up and brings back a generation in place of one that failed.
//!
//! Workers call it only for faults. What they give up when they adopt a new instance is looked for after a swap, at growing
//! intervals until all have adopted: a call would cost the worker a system call in the middle of a burst.

use crate::filter::Filter;
use crate::manager::Inner;
use crate::shadow::Unit;
use crate::slot::Handover;
use crate::version::FilterVersion;
use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// First and last interval between two looks for what workers gave up.
const LOOK: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(5)];

/// How workers call the supervisor: at most one call waits, and ringing never blocks.
pub(crate) struct Bell(Sender<()>);

impl Bell {
    pub(crate) fn ring(&self) {
        // Full: it rings already. Disconnected: the manager is gone, and a filter buries its own instances.
        let _ = self.0.try_send(());
    }
}

/// Something whose last owner must not be a worker: freeing code and memory takes up to 100 microseconds.
pub(crate) enum Remains {
    Version(Arc<FilterVersion>),
    Filter(Arc<Filter>),
    #[expect(dead_code, reason = "held to be dropped")]
    Instances(Vec<Handover>),
    #[expect(dead_code, reason = "held to be dropped")]
    #[expect(clippy::vec_box, reason = "they change hands as boxes")]
    Shadows(Vec<Box<Unit>>),
    /// No remains: the manager ends.
    Stop,
}

impl Remains {
    fn may_go(&self) -> bool {
        match self {
            Remains::Version(v) => Arc::strong_count(v) == 1,
            Remains::Filter(f) => Arc::strong_count(f) == 1,
            Remains::Instances(_) | Remains::Shadows(_) | Remains::Stop => true,
        }
    }
}

/// The ends that the rest of the crate holds.
pub(crate) struct Lines {
    pub(crate) bell: Arc<Bell>,
    pub(crate) bury: Sender<Remains>,
}

/// The ends that the thread holds.
pub(crate) struct Receivers {
    rung: Receiver<()>,
    remains: Receiver<Remains>,
}

pub(crate) fn lines() -> (Lines, Receivers) {
    let (ring, rung) = bounded(1);
    let (bury, remains) = unbounded();
    (Lines { bell: Arc::new(Bell(ring)), bury }, Receivers { rung, remains })
}

/// Starts the thread; it ends with [`Remains::Stop`]. `inner` is asked about its filters when the bell rings.
pub(crate) fn start(inner: Weak<Inner>, receivers: Receivers) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("smpnet-filters".into()).spawn(move || watch(&inner, &receivers))
}

fn watch(inner: &Weak<Inner>, receivers: &Receivers) {
    let mut waiting: Vec<Remains> = Vec::new();
    let mut interval: Option<Duration> = None;
    let mut due = None;
    loop {
        let soon = due.map(|d: Instant| d.saturating_duration_since(Instant::now()));
        let timeout = interval.into_iter().chain(soon).min();
        let timeout = timeout.map_or_else(crossbeam_channel::never, crossbeam_channel::after);
        select! {
            recv(receivers.rung) -> _ => interval = Some(LOOK[0]),
            recv(receivers.remains) -> r => match r {
                Ok(Remains::Stop) | Err(_) => return,
                Ok(r) => {
                    waiting.push(r);
                    interval = Some(LOOK[0]);
                }
            },
            recv(timeout) -> _ => interval = interval.map(|i| (2 * i).min(LOOK[1])),
        }
        let Some(inner) = inner.upgrade() else { return };
        let attended = inner.attend(&mut waiting);
        due = attended.due;
        waiting.retain(|r| !r.may_go());
        if attended.calm && waiting.is_empty() {
            interval = None;
        }
    }
}
