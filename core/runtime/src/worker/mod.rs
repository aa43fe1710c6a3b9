//! Workers: one thread each, one loop, everything to completion.

mod park;
mod stats;

pub(crate) use park::Wakers;
pub(crate) use stats::WorkerStats;

use crate::{
    Cpu, Domain, PktQueue, Pool, Published, Section,
    callout::{CalloutFunc, CalloutId, CalloutWheel, Callouts, Stopped},
    now_ns,
    softint::{SoftintId, Softints},
    sync::lock,
};
use crossbeam_channel::Sender;
use crossbeam_queue::SegQueue;
use crossbeam_utils::CachePadded;
use park::Epoll;
use smpnet_abi::{BURST_MAX, Cell};
use std::{
    io,
    marker::PhantomData,
    os::fd::RawFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

/// What a worker calls in each round, typically one receive queue. It lives on one worker and may move to another only
/// while it is not added.
pub trait Poller: Send {
    /// Does a bounded amount of work (a burst) and returns how much; 0 when there was none. Must not sleep.
    fn poll(&mut self, cx: &mut WorkerCx<'_>) -> u32;

    /// The worker is about to sleep: from now on work has to show itself at one of [`Poller::event_fds`]. Returns true
    /// when work waits already, so that the worker does not sleep. The look for work comes after the events are on.
    fn arm(&mut self) -> bool {
        false
    }

    /// The worker is awake. Called after every `arm`.
    fn disarm(&mut self) {}

    /// Descriptors that become readable when there is work. Asked once, when the poller is added; they stay open until
    /// it was removed.
    fn event_fds(&self) -> Vec<RawFd> {
        Vec::new()
    }

    /// Whether the worker must not sleep because of this poller. Asked before each sleep.
    fn always_poll(&self) -> bool {
        false
    }
}

/// Names a poller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PollerId {
    pub(crate) worker: u32,
    pub(crate) number: u64,
}

impl PollerId {
    /// The worker that it is on.
    pub fn worker(self) -> usize {
        self.worker as usize
    }
}

/// A function that a worker runs once.
pub type WorkerFunc = Box<dyn FnOnce(&mut WorkerCx<'_>) + Send>;
/// What a worker does with packets out of a [`PktQueue`]: at most 64 of them, its own from then on.
pub type PktQueueFunc = Arc<dyn Fn(&mut WorkerCx<'_>, &[Cell]) + Send + Sync>;

/// What a worker hands to everything that it calls.
pub struct WorkerCx<'r> {
    /// Proof of being this worker.
    pub cpu: Cpu,
    /// [`now_ns`] at the beginning of this round.
    pub now_ns: u64,
    /// The packet pool.
    pub pool: &'r Pool,
    shared: &'r Shared,
    _not_send: PhantomData<*const ()>,
}

impl WorkerCx<'_> {
    /// A read section: it costs nothing, and lasts at most as long as the call that got this `WorkerCx`.
    #[inline(always)]
    pub fn section(&self) -> Section<'_> {
        // SAFETY: this is a worker that is not parked; its quiescent point comes after the call that borrows `self`.
        unsafe { self.shared.domain.assume_section() }
    }

    /// The pserialize domain of the runtime.
    pub fn domain(&self) -> &Arc<Domain> {
        &self.shared.domain
    }

    /// Calls `func` on this worker after `delay_ns`, counted from now on and rounded up by at most 262 microseconds; `None`
    /// when a million callouts wait.
    pub fn callout(&self, delay_ns: u64, func: CalloutFunc) -> Option<CalloutId> {
        self.shared.callout(self.cpu.index(), delay_ns, func)
    }

    /// Stops a callout of any worker.
    pub fn callout_stop(&self, id: CalloutId) -> Stopped {
        self.shared.callout_stop(id)
    }

    /// Lets a softint run on this worker before its next round.
    #[inline]
    pub fn softint_schedule(&self, id: SoftintId) {
        self.shared.softints.schedule(self.cpu, id);
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.shared.mailboxes.len()
    }
}

/// Letters to a worker.
pub(crate) enum Mail {
    Run(WorkerFunc),
    Add(PollerId, Box<dyn Poller>),
    Remove(PollerId, Sender<Option<Box<dyn Poller>>>),
}

/// A queue and who takes its packets.
#[derive(Clone)]
pub(crate) struct Drain {
    pub(crate) queue: Arc<PktQueue>,
    pub(crate) func: PktQueueFunc,
}

/// How far a runtime is.
pub(crate) mod phase {
    pub(crate) const RUN: u32 = 0;
    /// No more polling; what is queued is worked off.
    pub(crate) const DRAIN: u32 = 1;
    pub(crate) const EXIT: u32 = 2;
}

/// What the workers of a runtime share.
pub(crate) struct Shared {
    pub(crate) pool: Pool,
    pub(crate) domain: Arc<Domain>,
    pub(crate) wakers: Arc<Wakers>,
    pub(crate) softints: Softints,
    pub(crate) callouts: Box<[CachePadded<Callouts>]>,
    pub(crate) mailboxes: Box<[CachePadded<SegQueue<Mail>>]>,
    pub(crate) drains: Published<Vec<Drain>>,
    pub(crate) stats: Box<[CachePadded<WorkerStats>]>,
    pub(crate) phase: AtomicU32,
    /// Pollers that no worker has any more: after the end, or after a panic of theirs.
    pub(crate) left: Mutex<Vec<(PollerId, Box<dyn Poller>)>>,
    pub(crate) idle_spin_ns: u64,
}

impl Shared {
    pub(crate) fn mail(&self, to: usize, mail: Mail) {
        self.mailboxes[to].push(mail);
        self.wakers.attend(to);
    }

    pub(crate) fn callout(&self, worker: usize, delay_ns: u64, func: CalloutFunc) -> Option<CalloutId> {
        let callouts = self.callouts.get(worker)?;
        let id = callouts.schedule(now_ns().saturating_add(delay_ns), func)?;
        self.wakers.attend(worker);
        Some(id)
    }

    pub(crate) fn callout_stop(&self, id: CalloutId) -> Stopped {
        let worker = Callouts::worker_of(id);
        let Some(callouts) = self.callouts.get(worker) else { return Stopped::Over };
        let how = callouts.stop(id);
        if how == Stopped::Cancelled {
            // So that what the function owns is dropped soon, and not at the time when it would have run.
            self.wakers.attend(worker);
        }
        how
    }
}

thread_local! {
    static WORKER: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Whether the calling thread is a worker.
pub(crate) fn on_worker() -> bool {
    WORKER.get()
}

struct Active {
    id: PollerId,
    poller: Box<dyn Poller>,
    fds: Vec<RawFd>,
    /// The system takes one of its descriptors for no event source.
    must_poll: bool,
}

/// A worker: the state of its loop.
pub(crate) struct Worker {
    index: u32,
    shared: Arc<Shared>,
    pollers: Vec<Active>,
    epoll: Epoll,
    wheel: CalloutWheel,
    last_ns: u64,
    idle_since: u64,
    /// How long to spin now before a sleep.
    spin_ns: u64,
    was_busy: bool,
}

/// Letters read in a round, softints and callouts run in a round: what is more waits for the next one, so that nothing
/// starves.
const BUDGET: u32 = 64;
/// Bursts taken from a queue in a round.
const QUEUE_BURSTS: u32 = 4;

impl Worker {
    pub(crate) fn new(index: usize, shared: Arc<Shared>) -> io::Result<Self> {
        let now = now_ns();
        Ok(Worker {
            index: index as u32,
            epoll: Epoll::new(shared.wakers.fd(index))?,
            pollers: Vec::new(),
            wheel: CalloutWheel::new(now),
            last_ns: now,
            idle_since: now,
            spin_ns: shared.idle_spin_ns,
            was_busy: false,
            shared,
        })
    }

    /// The loop of a worker's thread.
    pub(crate) fn run(mut self) {
        self.enter();
        loop {
            let phase = self.shared.phase.load(Ordering::Acquire);
            if phase == phase::EXIT {
                break;
            }
            let worked = self.round(phase == phase::RUN) > 0;
            if worked {
                self.idle_since = self.last_ns;
            } else if phase != phase::RUN {
                std::thread::yield_now();
            } else if self.last_ns - self.idle_since >= self.spin_ns {
                self.sleep();
            } else {
                std::hint::spin_loop();
            }
        }
        self.finish();
    }

    /// This thread is the worker from here on.
    pub(crate) fn enter(&mut self) {
        WORKER.set(true);
        self.shared.domain.unpark(self.cpu());
    }

    /// This thread is no longer the worker.
    pub(crate) fn leave(&mut self) {
        // SAFETY: between rounds a worker holds nothing of a section; `enter` comes before the next one.
        unsafe { self.shared.domain.park(self.cpu()) };
        WORKER.set(false);
    }

    fn cpu(&self) -> Cpu {
        // SAFETY: a `Worker` of this index exists once (Runtime makes them), it is used through `&mut self` by one thread at
        // a time, and tokens do not outlive the calls that they are made for; `enter` has been called.
        unsafe { Cpu::assume(self.index) }
    }

    /// Lets `f` act as this worker.
    pub(crate) fn with<R>(&mut self, f: impl FnOnce(&mut WorkerCx<'_>) -> R) -> R {
        let cpu = self.cpu();
        f(&mut context(&self.shared, cpu, now_ns()))
    }

    /// One round of the loop; returns how much was done.
    pub(crate) fn round(&mut self, polling: bool) -> u32 {
        let (cpu, own, now) = (self.cpu(), self.index as usize, now_ns());
        self.shared.stats[own].round(self.was_busy, now.saturating_sub(self.last_ns));
        self.last_ns = now;
        let mut work = 0;
        if self.shared.wakers.take_attention(own) {
            work += self.read_mail(cpu, now);
        }
        if polling {
            work += self.poll(cpu, now);
        }
        let shared = &*self.shared;
        let mut cx = context(shared, cpu, now);
        work += drain_queues(&mut cx);
        if shared.softints.any(cpu) {
            work += run_softints(&mut cx);
        }
        if !self.wheel.is_empty() {
            work += run_callouts(&mut self.wheel, &mut cx);
        }
        // SAFETY: `cx` was lent to calls that are over, so nothing found in a section is held.
        unsafe { shared.domain.quiesce(cpu) };
        self.was_busy = work > 0;
        work
    }

    #[inline]
    fn poll(&mut self, cpu: Cpu, now: u64) -> u32 {
        let mut cx = context(&self.shared, cpu, now);
        let mut work = 0u32;
        let mut broken = None;
        for (i, a) in self.pollers.iter_mut().enumerate() {
            match guard(|| a.poller.poll(&mut cx)) {
                Some(n) => work = work.saturating_add(n),
                None => broken = Some(i),
            }
        }
        if let Some(i) = broken {
            self.quarantine(i);
        }
        work
    }

    /// A poller that panicked is not called again.
    #[cold]
    fn quarantine(&mut self, i: usize) {
        let id = self.pollers[i].id;
        tracing::error!(worker = self.index, poller = id.number, "a poller panicked and is taken out");
        self.shared.stats[self.index as usize].panicked();
        if let Some(p) = self.take(id) {
            lock(&self.shared.left).push((id, p));
        }
    }

    #[cold]
    fn read_mail(&mut self, cpu: Cpu, now: u64) -> u32 {
        let shared = self.shared.clone();
        let own = self.index as usize;
        shared.softints.take_remote(cpu);
        let mut work = self.wheel.read_inbox(&shared.callouts[own]);
        for _ in 0..BUDGET {
            let Some(mail) = shared.mailboxes[own].pop() else { return work };
            work += 1;
            match mail {
                Mail::Run(f) => {
                    if guard(|| f(&mut context(&shared, cpu, now))).is_none() {
                        shared.stats[own].panicked();
                        tracing::error!(worker = own, "a function sent to a worker panicked");
                    }
                }
                Mail::Add(id, poller) => self.add(id, poller),
                Mail::Remove(id, answer) => {
                    // The asker may have gone away: then the poller has no owner but this list.
                    if let Err(e) = answer.send(self.take(id))
                        && let Some(p) = e.into_inner()
                    {
                        lock(&shared.left).push((id, p));
                    }
                }
            }
        }
        shared.wakers.attend(own);
        work
    }

    fn add(&mut self, id: PollerId, poller: Box<dyn Poller>) {
        let fds = poller.event_fds();
        let mut must_poll = false;
        for &fd in &fds {
            if let Err(e) = self.epoll.add(fd) {
                tracing::warn!(worker = self.index, fd, error = %e, "no event source: the worker will not sleep");
                must_poll = true;
            }
        }
        self.pollers.push(Active { id, poller, fds, must_poll });
        self.shared.stats[self.index as usize].set_pollers(self.pollers.len());
    }

    fn take(&mut self, id: PollerId) -> Option<Box<dyn Poller>> {
        let at = self.pollers.iter().position(|a| a.id == id)?;
        let gone = self.pollers.remove(at);
        for fd in gone.fds {
            if !self.pollers.iter().any(|a| a.fds.contains(&fd)) {
                self.epoll.remove(fd);
            }
        }
        self.shared.stats[self.index as usize].set_pollers(self.pollers.len());
        Some(gone.poller)
    }

    /// Sleeps until there is work, if there is none; see [`park`] for why no wake-up is lost.
    fn sleep(&mut self) {
        if self.pollers.iter().any(|a| a.must_poll || a.poller.always_poll()) {
            return;
        }
        let mut armed = 0;
        let mut waits = false;
        for a in &mut self.pollers {
            armed += 1;
            if guard(|| a.poller.arm()).unwrap_or(true) {
                waits = true;
                break;
            }
        }
        if !waits {
            self.park();
        }
        for a in &mut self.pollers[..armed] {
            // A panic here shows again in `poll`, which deals with it.
            guard(|| a.poller.disarm());
        }
        self.idle_since = self.last_ns;
    }

    fn park(&mut self) {
        let (shared, own, cpu) = (self.shared.clone(), self.index as usize, self.cpu());
        shared.wakers.set_parked(own);
        // SAFETY: not parked in the domain yet, and the section ends before the quiescent point.
        let section = unsafe { shared.domain.assume_section() };
        let queued = shared.drains.read(section).iter().any(|d| d.queue.has_work(cpu));
        if queued || shared.wakers.has_attention(own) || shared.softints.any(cpu) {
            shared.wakers.set_awake(own);
            return;
        }
        shared.stats[own].to_sleep();
        let before = now_ns();
        let timeout = self.wheel.next_ns().map(|at| at.saturating_sub(before));
        // SAFETY: nothing found in a section is used after this.
        unsafe { shared.domain.park(cpu) };
        let woken = self.epoll.wait(timeout);
        shared.domain.unpark(cpu);
        shared.wakers.set_awake(own);
        if woken {
            shared.wakers.clear_fd(own);
        }
        let after = now_ns();
        let slept = after - before;
        shared.stats[own].slept(woken, slept);
        // Work that comes soon after the spinning ended says that a longer spin pays; a long sleep says the opposite.
        let most = shared.idle_spin_ns;
        self.spin_ns = if slept < most { (self.spin_ns * 2).min(most) } else { (self.spin_ns / 2).max(most / 16) };
        (self.last_ns, self.was_busy) = (after, false);
    }

    /// The end: everything that is left goes where [`Runtime::stop`](crate::Runtime::stop) finds it.
    pub(crate) fn finish(&mut self) {
        let shared = self.shared.clone();
        let own = self.index as usize;
        let left = self.pollers.drain(..).map(|a| (a.id, a.poller));
        lock(&shared.left).extend(left);
        let n = self.wheel.clear(&shared.callouts[own]);
        shared.stats[own].ended(n);
        self.leave();
    }
}

#[inline(always)]
fn context(shared: &Shared, cpu: Cpu, now_ns: u64) -> WorkerCx<'_> {
    WorkerCx { cpu, now_ns, pool: &shared.pool, shared, _not_send: PhantomData }
}

/// Runs `f`; `None` when it panicked. Costs nothing when it does not.
#[inline(always)]
fn guard<R>(f: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(f)).ok()
}

#[inline]
fn drain_queues(cx: &mut WorkerCx<'_>) -> u32 {
    let shared = cx.shared;
    // SAFETY: a worker that is not parked; the section ends with this function, before the quiescent point.
    let section = unsafe { shared.domain.assume_section() };
    let mut work = 0;
    for d in shared.drains.read(section) {
        if !d.queue.has_work(cx.cpu) {
            continue;
        }
        for _ in 0..QUEUE_BURSTS {
            let mut cells = [0; BURST_MAX as usize];
            let n = d.queue.drain(cx.cpu, &mut cells);
            if n == 0 {
                break;
            }
            work += n as u32;
            if guard(|| (d.func)(cx, &cells[..n])).is_none() {
                shared.stats[cx.cpu.index()].panicked();
                tracing::error!(queue = d.queue.name(), "the reader of a packet queue panicked");
            }
        }
    }
    work
}

#[cold]
fn run_softints(cx: &mut WorkerCx<'_>) -> u32 {
    let shared = cx.shared;
    // SAFETY: as in drain_queues.
    let section = unsafe { shared.domain.assume_section() };
    let mut work = 0;
    while work < BUDGET
        && let Some(f) = shared.softints.next(cx.cpu, section)
    {
        work += 1;
        if guard(|| f(cx)).is_none() {
            shared.stats[cx.cpu.index()].panicked();
            tracing::error!("a softint panicked");
        }
    }
    work
}

#[inline]
fn run_callouts(wheel: &mut CalloutWheel, cx: &mut WorkerCx<'_>) -> u32 {
    let shared = cx.shared;
    let callouts = &shared.callouts[cx.cpu.index()];
    let mut work = 0;
    while work < BUDGET
        && let Some((i, f)) = wheel.due(callouts, cx.now_ns)
    {
        work += 1;
        if guard(|| f(cx)).is_none() {
            shared.stats[cx.cpu.index()].panicked();
            tracing::error!("a callout panicked");
        }
        wheel.finish(callouts, i);
    }
    work
}
