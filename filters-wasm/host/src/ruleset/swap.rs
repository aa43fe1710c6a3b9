//! Rulesets in force: a control thread publishes one, and each worker goes over to it between two of its bursts.
//!
//! An instance lies in a worker's mailbox before the generation is announced to it, and gives way to the next in one step,
//! so a worker that looks finds one. It leaves the old one in a queue, from which control threads free it: nothing is freed
//! on a worker, and it takes no lock.

use super::{Ruleset, RulesetError, RulesetInstance};
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::{CachePadded, atomic::AtomicCell};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// Instances that may wait to be freed. Control threads empty the queue before and after they leave a new one, in between
/// which a worker takes at most two.
const RETIRED: usize = 8;

/// The rulesets of all workers of a router. Cheap to clone.
#[derive(Clone)]
pub struct Rulesets {
    shared: Arc<Shared>,
}

struct Shared {
    seats: Box<[CachePadded<Seat>]>,
    /// The number of the last generation; held while one is published.
    last: Mutex<u64>,
}

/// What a worker and control threads share.
struct Seat {
    mailbox: AtomicCell<Option<Box<Numbered>>>,
    /// Generation of what was last put into the mailbox.
    announced: AtomicU64,
    /// Generation that the worker decides with; 0 before the first.
    adopted: AtomicU64,
    retired: ArrayQueue<Box<Numbered>>,
}

struct Numbered {
    generation: u64,
    instance: RulesetInstance,
}

const _: () = assert!(AtomicCell::<Option<Box<Numbered>>>::is_lock_free());

impl Rulesets {
    /// For so many workers, with no ruleset.
    pub fn new(workers: usize) -> Rulesets {
        let seat = || Seat {
            mailbox: AtomicCell::new(None),
            announced: AtomicU64::new(0),
            adopted: AtomicU64::new(0),
            retired: ArrayQueue::new(RETIRED),
        };
        let seats = (0..workers).map(|_| CachePadded::new(seat())).collect();
        Rulesets { shared: Arc::new(Shared { seats, last: Mutex::new(0) }) }
    }

    /// Makes an instance for each worker, then leaves them all; returns the generation, from 1. Workers decide by it from their
    /// next burst on. When it fails, nothing has changed.
    ///
    /// # Errors
    /// There is no memory for an instance.
    pub fn publish(&self, ruleset: &Ruleset) -> Result<u64, RulesetError> {
        let seats = &self.shared.seats;
        let instances: Vec<RulesetInstance> = seats.iter().map(|_| ruleset.instantiate()).collect::<Result<_, _>>()?;
        let mut last = self.shared.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last += 1;
        for (seat, instance) in seats.iter().zip(instances) {
            seat.offer(Numbered { generation: *last, instance });
        }
        Ok(*last)
    }

    /// The oldest generation that a worker decides with; 0 while one has none.
    pub fn adopted(&self) -> u64 {
        self.shared.seats.iter().map(|seat| seat.adopted.load(Ordering::Acquire)).min().unwrap_or(0)
    }

    /// Frees instances that workers have left.
    pub fn reap(&self) {
        self.shared.seats.iter().for_each(|seat| seat.reap());
    }

    /// A worker's own end; None when there is no such worker. A worker has one end, which it keeps.
    pub fn worker(&self, worker: usize) -> Option<RulesetWorker> {
        (worker < self.shared.seats.len()).then(|| RulesetWorker {
            shared: self.shared.clone(),
            worker,
            seen: 0,
            current: None,
        })
    }
}

impl Seat {
    fn offer(&self, new: Numbered) {
        self.reap();
        let generation = new.generation;
        // One that the worker has not taken yet is freed here.
        drop(self.mailbox.swap(Some(Box::new(new))));
        self.announced.store(generation, Ordering::Release);
        self.reap();
    }

    fn reap(&self) {
        while self.retired.pop().is_some() {}
    }
}

/// A worker's end of [`Rulesets`].
pub struct RulesetWorker {
    shared: Arc<Shared>,
    worker: usize,
    /// The generation that was last announced when it looked.
    seen: u64,
    current: Option<Box<Numbered>>,
}

impl RulesetWorker {
    /// The instance in force, to be asked for each burst, with its generation; None before the first ruleset.
    #[inline]
    pub fn current(&mut self) -> Option<(u64, &mut RulesetInstance)> {
        let announced = self.shared.seats[self.worker].announced.load(Ordering::Acquire);
        if announced != self.seen {
            self.adopt(announced);
        }
        self.current.as_mut().map(|current| (current.generation, &mut current.instance))
    }

    #[cold]
    fn adopt(&mut self, announced: u64) {
        let seat = &self.shared.seats[self.worker];
        self.seen = announced;
        // Taken already, when the last look found one that was announced a moment later.
        let Some(new) = seat.mailbox.take() else { return };
        let generation = new.generation;
        if let Some(old) = self.current.replace(new) {
            // There is room by the protocol above; if there were none, freeing it here would only be slow.
            drop(seat.retired.push(old));
        }
        seat.adopted.store(generation, Ordering::Release);
    }
}
