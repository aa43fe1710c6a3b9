//! A worker's place in a filter: what it judges with, and the boxes through which instances and news come and go.
//!
//! Control threads put an instance into the mailbox before they publish its generation. A worker that sees a new
//! generation takes the mailbox's content at the start of a burst, uses it from then on, and leaves the old instance in
//! the queue of retired ones. A control thread puts a new instance in place of one that the worker has not taken yet in one
//! step, so a worker that looks always finds one; it may be of a generation that is published a moment later.

use crate::engine::FilterInstance;
use crate::guest::{Fault, GuestInstance};
use crate::shadow::{Door, Unit};
use crate::version::FilterVersion;
use arc_swap::{ArcSwap, Cache};
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::atomic::AtomicCell;
use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longest packet that is gathered out of several cells: the largest IP packet behind an Ethernet header with tags.
const GATHER_MAX: usize = 65_536 + 64;
/// Instances that may wait for the control thread. It empties the queue before and after it offers one, in between which a
/// worker takes at most two.
const RETIRED: usize = 8;

/// An instance and the generation it belongs to.
pub(crate) struct Prepared {
    pub(crate) version: Arc<FilterVersion>,
    pub(crate) instance: Instance,
    /// It faulted: the fault policy judges until there is another one.
    pub(crate) broken: bool,
}

/// What judges.
pub(crate) enum Instance {
    Generated(FilterInstance),
    Guest {
        guest: Box<GuestInstance>,
        /// Takes the place of the other one when that refuses the state of the generation before.
        spare: Option<Box<GuestInstance>>,
    },
}

/// Boxed, because that is how it changes hands: the mailbox is a single pointer.
pub(crate) type Handover = Box<Prepared>;

/// What a worker has to tell.
pub(crate) struct Note {
    pub(crate) generation: u64,
    pub(crate) news: News,
}

pub(crate) enum News {
    /// The instance of the filter faulted.
    Fault(Fault),
    /// State was not handed over.
    StateLost(String),
}

/// What only the worker touches.
pub(crate) struct Local {
    pub(crate) published: Cache<Arc<ArcSwap<FilterVersion>>, Arc<FilterVersion>>,
    pub(crate) current: Option<Handover>,
    pub(crate) shadow: Option<Box<Unit>>,
    pub(crate) shadow_seen: u64,
    /// Where packets of several cells are put together.
    pub(crate) gather: Box<[u8]>,
    pub(crate) bursts: u64,
}

pub(crate) struct Slot {
    mailbox: AtomicCell<Option<Handover>>,
    retired: ArrayQueue<Handover>,
    notes: ArrayQueue<Box<Note>>,
    adopted: AtomicU64,
    /// Where the shadow comes and goes.
    pub(crate) door: Door,
    local: UnsafeCell<Local>,
}

// SAFETY: `local` is touched by one worker only, see `local()`; the other fields are Sync, and Prepared is Send.
unsafe impl Sync for Slot {}

const _: () = assert!(AtomicCell::<Option<Handover>>::is_lock_free());

impl Slot {
    pub(crate) fn new(published: &Arc<ArcSwap<FilterVersion>>) -> Self {
        Slot {
            mailbox: AtomicCell::new(None),
            retired: ArrayQueue::new(RETIRED),
            notes: ArrayQueue::new(RETIRED),
            adopted: AtomicU64::new(0),
            door: Door::new(),
            local: UnsafeCell::new(Local {
                published: Cache::new(published.clone()),
                current: None,
                shadow: None,
                shadow_seen: 0,
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

    /// Worker: takes what the mailbox holds in place of `current`, which goes to the retired ones.
    #[cold]
    pub(crate) fn adopt(&self, current: &mut Option<Handover>) {
        let Some(mut new) = self.mailbox.take() else { return };
        if let Some(old) = current
            && let Some(reason) = new.succeed(old)
        {
            self.tell(Note { generation: new.version.generation, news: News::StateLost(reason) });
        }
        let generation = new.version.generation;
        if let Some(old) = current.replace(new) {
            self.retire(old);
        }
        self.adopted.store(generation, Ordering::Release);
    }

    /// Worker: gives up an instance.
    pub(crate) fn retire(&self, old: Handover) {
        // There is room by the protocol above; if there were none, freeing it here would only be slow.
        drop(self.retired.push(old));
    }

    /// Worker: leaves news for the supervisor; the oldest are lost when it does not come.
    #[cold]
    pub(crate) fn tell(&self, note: Note) {
        self.notes.force_push(Box::new(note));
    }

    /// Control: the news.
    pub(crate) fn notes(&self) -> impl Iterator<Item = Box<Note>> {
        std::iter::from_fn(|| self.notes.pop())
    }

    /// Control: leaves an instance for the worker and returns those that nobody needs any more.
    pub(crate) fn offer(&self, new: Handover) -> Vec<Handover> {
        let mut gone = self.take_retired();
        gone.extend(self.mailbox.swap(Some(new)));
        gone.extend(self.take_retired());
        gone
    }

    /// Takes the mailbox's content away, which control threads never do, for a test of a worker without an instance.
    #[cfg(test)]
    pub(crate) fn offer_nothing(&self) -> Option<Handover> {
        self.mailbox.take()
    }

    /// Control: what the worker gave up.
    pub(crate) fn take_retired(&self) -> Vec<Handover> {
        std::iter::from_fn(|| self.retired.pop()).collect()
    }

    /// Generation that the worker judges with; 0 before its first burst.
    pub(crate) fn adopted(&self) -> u64 {
        self.adopted.load(Ordering::Acquire)
    }
}

impl Prepared {
    /// Worker: takes over the state of the instance before. Returns why not, when there was any and it was refused.
    fn succeed(&mut self, old: &mut Prepared) -> Option<String> {
        let Instance::Guest { guest, spare } = &mut self.instance else { return None };
        let Instance::Guest { guest: before, spare: gone } = &mut old.instance else { return None };
        // The state of an instance that faulted is not to be trusted.
        let refused = if old.broken { None } else { guest.succeed(before).err() };
        if refused.is_some() {
            match spare {
                Some(fresh) => std::mem::swap(guest, fresh),
                None => self.broken = true,
            }
        }
        // Freed together with the old instance.
        *gone = spare.take();
        refused
    }
}
