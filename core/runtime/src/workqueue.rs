//! workqueue(9): work that may sleep, off the workers, bounded.

use crossbeam_channel::{Receiver, Sender, bounded};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

/// A piece of work.
pub type Work = Box<dyn FnOnce() + Send>;

/// The queue is full, or has been stopped; the work was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work queue is full or stopped")]
pub struct WorkqueueFull;

enum Job {
    Work(Work),
    /// Ends one thread.
    Stop,
}

#[derive(Default)]
struct Counts {
    enqueued: AtomicU64,
    dropped: AtomicU64,
    panics: AtomicU64,
    /// Pieces done; a lock, because `drain` sleeps on it.
    done: Mutex<u64>,
    progress: Condvar,
}

impl Counts {
    fn done(&self) -> MutexGuard<'_, u64> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Numbers of a [`Workqueue`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkqueueStats {
    /// Pieces that wait.
    pub len: u64,
    /// Pieces that may wait.
    pub max_len: u64,
    /// Pieces taken since the start.
    pub enqueued: u64,
    /// Pieces refused since the start.
    pub dropped: u64,
    /// Pieces done since the start.
    pub done: u64,
    /// Of these, pieces that panicked.
    pub panics: u64,
}

/// A bounded queue of work with threads of its own. Stops, after what waits is done, when it is dropped.
pub struct Workqueue {
    name: String,
    max_len: usize,
    sender: Sender<Job>,
    receiver: Receiver<Job>,
    stopped: AtomicBool,
    counts: Arc<Counts>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Workqueue {
    /// A queue of at most `len` waiting pieces, done by `threads` threads; one thread does them in order.
    ///
    /// # Errors
    /// The system's, when no thread can be started.
    pub fn new(name: impl Into<String>, threads: usize, len: usize) -> std::io::Result<Arc<Self>> {
        let max_len = len.max(1);
        let (sender, receiver) = bounded(max_len);
        let queue = Workqueue {
            name: name.into(),
            max_len,
            sender,
            receiver,
            stopped: AtomicBool::new(false),
            counts: Arc::default(),
            threads: Mutex::default(),
        };
        for _ in 0..threads.max(1) {
            let (receiver, counts) = (queue.receiver.clone(), queue.counts.clone());
            let thread = std::thread::Builder::new().name(format!("wq-{}", queue.name));
            queue.threads().push(thread.spawn(move || run(&receiver, &counts))?);
        }
        Ok(Arc::new(queue))
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds work. Any thread, and never waits; on a worker it may cost a system call that wakes a thread.
    ///
    /// # Errors
    /// [`WorkqueueFull`]; the work is dropped and counted.
    pub fn enqueue(&self, work: impl FnOnce() + Send + 'static) -> Result<(), WorkqueueFull> {
        let job = Job::Work(Box::new(work));
        if self.stopped.load(Ordering::Acquire) || self.sender.try_send(job).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return Err(WorkqueueFull);
        }
        self.counts.enqueued.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until everything that was added before is done. Neither on a worker nor in a piece of this queue's work.
    pub fn drain(&self) {
        let goal = self.counts.enqueued.load(Ordering::Acquire);
        let mut done = self.counts.done();
        while *done < goal && !self.threads().is_empty() {
            done = self.counts.progress.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes no more work, does what waits, and ends the threads. Not in a piece of this queue's work.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        let threads = std::mem::take(&mut *self.threads());
        for _ in &threads {
            let _ = self.sender.send(Job::Stop);
        }
        for t in threads {
            // The last reference may be dropped by the work itself.
            if t.thread().id() != std::thread::current().id() {
                let _ = t.join();
            }
        }
        self.counts.progress.notify_all();
    }

    /// The numbers now.
    pub fn stats(&self) -> WorkqueueStats {
        WorkqueueStats {
            len: self.receiver.len() as u64,
            max_len: self.max_len as u64,
            enqueued: self.counts.enqueued.load(Ordering::Relaxed),
            dropped: self.counts.dropped.load(Ordering::Relaxed),
            done: *self.counts.done(),
            panics: self.counts.panics.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Workqueue {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(receiver: &Receiver<Job>, counts: &Counts) {
    while let Ok(Job::Work(work)) = receiver.recv() {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            counts.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!("a piece of work panicked");
        }
        *counts.done() += 1;
        counts.progress.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn work_is_done_in_order_and_a_panic_ends_nothing() {
        let q = Workqueue::new("t", 1, 8).unwrap();
        let (tx, rx) = mpsc::channel();
        let tx2 = tx.clone();
        q.enqueue(move || tx.send(1).unwrap()).unwrap();
        q.enqueue(|| panic!("on purpose")).unwrap();
        q.enqueue(move || tx2.send(2).unwrap()).unwrap();
        q.drain();
        assert_eq!(rx.try_iter().collect::<Vec<_>>(), [1, 2]);
        let s = q.stats();
        assert_eq!((s.enqueued, s.done, s.panics, s.dropped, s.len), (3, 3, 1, 0, 0));
    }

    #[test]
    fn a_full_queue_refuses_and_a_stopped_one_too() {
        let q = Workqueue::new("t", 1, 1).unwrap();
        let (hold, held) = mpsc::channel::<()>();
        let (started, start) = mpsc::channel();
        q.enqueue(move || {
            started.send(()).unwrap();
            let _ = held.recv();
        })
        .unwrap();
        start.recv().unwrap();
        q.enqueue(|| ()).unwrap();
        assert_eq!(q.enqueue(|| ()), Err(WorkqueueFull));
        drop(hold);
        q.stop();
        assert_eq!(q.enqueue(|| ()), Err(WorkqueueFull));
        let s = q.stats();
        assert_eq!((s.enqueued, s.done, s.dropped), (2, 2, 2));
    }
}
