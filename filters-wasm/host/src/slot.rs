//! A worker's place in a filter: what it judges with, and the two boxes through which instances come and go.
//!
//! Control threads put an instance into the mailbox before they publish its generation. A worker that sees a new
//! generation takes the mailbox's content at the start of a burst, uses it from then on, and leaves the old instance in
//! the box for retired ones. Before a control thread fills the mailbox it empties both boxes in this order, so at most
//! one instance ever waits in each.

use crate::FilterInstance;
use crate::version::FilterVersion;
use arc_swap::{ArcSwap, Cache};
use crossbeam_utils::atomic::AtomicCell;
use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longest packet that is gathered out of several cells: the largest IP packet behind an Ethernet header with tags.
const GATHER_MAX: usize = 65_536 + 64;

/// An instance and the generation it belongs to.
pub(crate) struct Prepared {
    pub(crate) version: Arc<FilterVersion>,
    pub(crate) instance: FilterInstance,
}

/// Boxed, because that is how it changes hands: the boxes of a slot are single pointers.
pub(crate) type Handover = Box<Prepared>;

/// What only the worker touches.
pub(crate) struct Local {
    pub(crate) published: Cache<Arc<ArcSwap<FilterVersion>>, Arc<FilterVersion>>,
    pub(crate) current: Option<Handover>,
    /// Where packets of several cells are put together.
    pub(crate) gather: Box<[u8]>,
    pub(crate) bursts: u64,
}

pub(crate) struct Slot {
    mailbox: AtomicCell<Option<Handover>>,
    retired: AtomicCell<Option<Handover>>,
    adopted: AtomicU64,
    local: UnsafeCell<Local>,
}

// SAFETY: `local` is touched by one worker only, see `local()`; the other fields are Sync, and Prepared is Send.
unsafe impl Sync for Slot {}

const _: () = assert!(AtomicCell::<Option<Handover>>::is_lock_free());

impl Slot {
    pub(crate) fn new(published: &Arc<ArcSwap<FilterVersion>>) -> Self {
        Slot {
            mailbox: AtomicCell::new(None),
            retired: AtomicCell::new(None),
            adopted: AtomicU64::new(0),
            local: UnsafeCell::new(Local {
                published: Cache::new(published.clone()),
                current: None,
                gather: vec![0; GATHER_MAX].into_boxed_slice(),
                bursts: 0,
            }),
        }
    }

    /// The worker's own part.
    ///
    /// # Safety
    /// The caller is the one worker of this slot and holds no other reference to it.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub(crate) unsafe fn local(&self) -> &mut Local {
        // SAFETY: the caller is alone here.
        unsafe { &mut *self.local.get() }
    }

    /// Worker: takes what the mailbox holds in place of `current`, which goes to the box for retired ones.
    #[cold]
    pub(crate) fn adopt(&self, current: &mut Option<Handover>) {
        let Some(new) = self.mailbox.take() else { return };
        let generation = new.version.generation;
        // The box is empty by the protocol above, so nothing is dropped on the worker.
        self.retired.store(current.replace(new));
        self.adopted.store(generation, Ordering::Release);
    }

    /// Control: leaves an instance for the worker and returns what waited in the boxes.
    pub(crate) fn offer(&self, new: Handover) -> [Option<Handover>; 2] {
        let boxes = [self.mailbox.take(), self.retired.take()];
        self.mailbox.store(Some(new));
        boxes
    }

    /// What [`offer`](Self::offer) does first, for a test of the moment in between.
    #[cfg(test)]
    pub(crate) fn offer_nothing(&self) -> Option<Handover> {
        self.mailbox.take()
    }

    /// Control: what the worker gave up.
    pub(crate) fn take_retired(&self) -> Option<Handover> {
        self.retired.take()
    }

    /// Generation that the worker judges with; 0 before its first burst.
    pub(crate) fn adopted(&self) -> u64 {
        self.adopted.load(Ordering::Acquire)
    }
}
