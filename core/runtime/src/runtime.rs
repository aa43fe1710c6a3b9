//! The runtime: the pool, the workers and everything that they share.

use crate::{
    CalloutId, Domain, PktQueue, PktQueueFunc, Poller, PollerId, Pool, PoolConfig, PoolError, Published, SoftintFunc,
    SoftintId, SoftintLevel, Stopped, Sysctl, WorkerCx, Workqueue,
    callout::{CalloutFunc, Callouts},
    softint::Softints,
    sync::lock,
    sysctl_nodes,
    worker::{Drain, Mail, Shared, Wakers, Worker, WorkerFunc, on_worker, phase},
};
use crossbeam_utils::CachePadded;
use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Shape of a [`Runtime`].
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// One entry per worker: the CPU that it is bound to, or `None` for any.
    pub cpus: Vec<Option<usize>>,
    /// The packet pool; its number of workers is set from `cpus`.
    pub pool: PoolConfig,
    /// How long a worker looks for work, at most, before it sleeps.
    pub idle_spin: Duration,
    /// Pieces of work that may wait in the default work queue.
    pub work_len: usize,
}

impl Default for RuntimeConfig {
    /// One worker on any CPU.
    fn default() -> Self {
        RuntimeConfig {
            cpus: vec![None],
            pool: PoolConfig::default(),
            idle_spin: Duration::from_micros(100),
            work_len: 4096,
        }
    }
}

/// Why a runtime did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// There are no workers, or too many.
    #[error("{0} workers: must be 1 to {max}", max = crate::MAX_WORKERS)]
    Workers(usize),
    /// The packet pool could not be made.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The system refused something.
    #[error("cannot {what}: {source}")]
    System {
        /// What was being done.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// What was left when a runtime stopped.
#[derive(Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport {
    /// Pollers that nobody had removed; [`Runtime::remove_poller`] still hands them out.
    pub pollers: usize,
    /// Callouts that had not run, and were dropped.
    pub callouts: u64,
    /// Letters that had not been read, and were dropped.
    pub letters: u64,
    /// Cells of the pool that somebody still owns.
    pub cells_in_use: u64,
    /// False when queues were still busy after a second of draining.
    pub drained: bool,
}

/// The small core of the router. Stops when it is dropped.
pub struct Runtime {
    shared: Arc<Shared>,
    sysctl: Sysctl,
    work: Arc<Workqueue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    next_poller: AtomicU64,
}

impl Runtime {
    /// Starts the workers.
    ///
    /// # Errors
    /// [`RuntimeError`]; nothing is left behind then.
    pub fn start(config: RuntimeConfig) -> Result<Arc<Runtime>, RuntimeError> {
        let (runtime, workers) = Self::build(&config)?;
        let mut threads = Vec::new();
        for ((i, mut worker), cpu) in workers.into_iter().enumerate().zip(&config.cpus) {
            let (cpu, (ready, is_ready)) = (*cpu, crossbeam_channel::bounded(1));
            let run = move || {
                let pinned = cpu.map_or(Ok(()), pin);
                let ok = pinned.is_ok();
                let _ = ready.send(pinned);
                if ok { worker.run() } else { worker.finish() }
            };
            let started = std::thread::Builder::new().name(format!("smpnet-{i}")).spawn(run);
            let mut fail = |what: String, source| {
                // Ends the workers that run already.
                runtime.stop_threads(std::mem::take(&mut threads));
                RuntimeError::System { what, source }
            };
            match started {
                Err(e) => return Err(fail(format!("start the thread of worker {i}"), e)),
                Ok(t) => {
                    if let Ok(Err(e)) = is_ready.recv() {
                        let _ = t.join();
                        let cpu = cpu.unwrap_or_default();
                        return Err(fail(format!("bind worker {i} to CPU {cpu}"), e));
                    }
                    threads.push(t);
                }
            }
        }
        *lock(&runtime.threads) = threads;
        Ok(runtime)
    }

    /// A runtime without threads: the caller makes the workers go, step by step. For tests and measurements that must be
    /// the same each time.
    ///
    /// # Errors
    /// As [`Runtime::start`].
    pub fn start_manual(config: RuntimeConfig) -> Result<(Arc<Runtime>, Vec<ManualWorker>), RuntimeError> {
        let (runtime, workers) = Self::build(&config)?;
        Ok((runtime, workers.into_iter().map(|worker| ManualWorker { worker }).collect()))
    }

    fn build(config: &RuntimeConfig) -> Result<(Arc<Runtime>, Vec<Worker>), RuntimeError> {
        let n = config.cpus.len();
        if !(1..=crate::MAX_WORKERS).contains(&n) {
            return Err(RuntimeError::Workers(n));
        }
        let system = |what: &str| {
            let what = what.to_owned();
            move |source| RuntimeError::System { what, source }
        };
        let pool = Pool::new(&PoolConfig { workers: n, ..config.pool.clone() })?;
        let domain = Domain::new(n);
        let shared = Arc::new(Shared {
            pool,
            wakers: Arc::new(Wakers::new(n).map_err(system("make an eventfd"))?),
            softints: Softints::new(&domain),
            callouts: (0..n).map(|i| CachePadded::new(Callouts::new(i))).collect(),
            mailboxes: (0..n).map(|_| CachePadded::default()).collect(),
            drains: Published::new(Vec::new()),
            stats: (0..n).map(|_| CachePadded::default()).collect(),
            phase: AtomicU32::new(phase::RUN),
            left: Mutex::default(),
            idle_spin_ns: config.idle_spin.as_nanos() as u64,
            domain,
        });
        let worker = |i| Worker::new(i, shared.clone()).map_err(system("make an epoll descriptor"));
        let workers = (0..n).map(worker).collect::<Result<_, _>>()?;
        let work = Workqueue::new("work", 2, config.work_len).map_err(system("start the threads of a work queue"))?;
        let sysctl = Sysctl::new();
        sysctl_nodes::runtime(&sysctl, &shared);
        sysctl_nodes::workqueue(&sysctl, &work);
        let next_poller = AtomicU64::new(1);
        Ok((Arc::new(Runtime { shared, sysctl, work, threads: Mutex::default(), next_poller }), workers))
    }

    /// The packet pool.
    pub fn pool(&self) -> &Pool {
        &self.shared.pool
    }

    /// The pserialize domain of the workers.
    pub fn domain(&self) -> &Arc<Domain> {
        &self.shared.domain
    }

    /// The tree of everything that can be read or set.
    pub fn sysctl(&self) -> &Sysctl {
        &self.sysctl
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.shared.mailboxes.len()
    }

    /// Whether the calling thread is a worker (of any runtime), where nothing may wait.
    pub fn on_worker() -> bool {
        on_worker()
    }

    /// Wakes a worker that sleeps; it looks through all its queues. Any thread; no system call when it is awake.
    #[inline]
    pub fn wake(&self, worker: usize) {
        self.shared.wakers.wake(worker);
    }

    /// Adds a poller to a worker. Control threads.
    ///
    /// # Panics
    /// When there is no such worker.
    pub fn add_poller(&self, worker: usize, poller: Box<dyn Poller>) -> PollerId {
        assert!(worker < self.workers(), "no worker {worker}");
        let id = PollerId { worker: worker as u32, number: self.next_poller.fetch_add(1, Ordering::Relaxed) };
        if self.is_stopped() {
            lock(&self.shared.left).push((id, poller));
        } else {
            self.shared.mail(worker, Mail::Add(id, poller));
        }
        id
    }

    /// Takes a poller away from its worker and returns it when the worker has given it up; `None` when there is no such
    /// poller. Also after a stop. Control threads.
    ///
    /// # Panics
    /// On a worker: it would wait for itself.
    pub fn remove_poller(&self, id: PollerId) -> Option<Box<dyn Poller>> {
        assert!(!on_worker(), "remove_poller on a worker would wait for itself");
        if !self.is_stopped() {
            let (answer, answered) = crossbeam_channel::bounded(1);
            self.shared.mail(id.worker(), Mail::Remove(id, answer));
            // No answer comes when the worker ended meanwhile.
            if let Some(p) = self.wait_for_worker(&answered).flatten() {
                return Some(p);
            }
        }
        let mut left = lock(&self.shared.left);
        let at = left.iter().position(|(i, _)| *i == id)?;
        Some(left.remove(at).1)
    }

    /// The answer of a worker, or `None` when the workers have ended without one.
    fn wait_for_worker<T>(&self, answered: &crossbeam_channel::Receiver<T>) -> Option<T> {
        loop {
            match answered.recv_timeout(Duration::from_millis(100)) {
                Ok(answer) => return Some(answer),
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return None,
                Err(crossbeam_channel::RecvTimeoutError::Timeout) if self.is_stopped() => {
                    return answered.try_recv().ok();
                }
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.shared.phase.load(Ordering::Acquire) == phase::EXIT
    }

    /// Runs `f` on a worker, soon; false (and `f` dropped) when the runtime has stopped. Any thread.
    ///
    /// # Panics
    /// When there is no such worker.
    pub fn run_on(&self, worker: usize, f: WorkerFunc) -> bool {
        let runs = !self.is_stopped();
        if runs {
            self.shared.mail(worker, Mail::Run(f));
        }
        runs
    }

    /// Runs `f` on a worker and returns what it returned; `None` when the runtime has stopped or `f` panicked. Control
    /// threads.
    ///
    /// # Panics
    /// On a worker: it would wait for itself. When there is no such worker.
    pub fn run_on_wait<R: Send + 'static>(
        &self,
        worker: usize,
        f: impl FnOnce(&mut WorkerCx<'_>) -> R + Send + 'static,
    ) -> Option<R> {
        assert!(!on_worker(), "run_on_wait on a worker would wait for itself");
        let (answer, answered) = crossbeam_channel::bounded(1);
        let f = move |cx: &mut WorkerCx<'_>| {
            let _ = answer.send(f(cx));
        };
        if !self.run_on(worker, Box::new(f)) {
            return None;
        }
        self.wait_for_worker(&answered)
    }

    /// Calls `func` on a worker after `delay_ns` nanoseconds, late by at most 262 microseconds and a round; `None` when
    /// there is no such worker or a million callouts wait on it. Any thread.
    pub fn callout(&self, worker: usize, delay_ns: u64, func: CalloutFunc) -> Option<CalloutId> {
        self.shared.callout(worker, delay_ns, func)
    }

    /// Stops a callout, without waiting for it. Any thread.
    pub fn callout_stop(&self, id: CalloutId) -> Stopped {
        self.shared.callout_stop(id)
    }

    /// callout_halt: stops a callout; when it is running, waits until it has run. True when it will not have run because
    /// of this call. Control threads.
    ///
    /// # Panics
    /// On a worker: it would wait for itself.
    pub fn callout_halt(&self, id: CalloutId) -> bool {
        assert!(!on_worker(), "callout_halt on a worker would wait for itself");
        let mut backoff = crate::sync::Backoff::default();
        loop {
            match self.callout_stop(id) {
                Stopped::Cancelled => return true,
                Stopped::Over => return false,
                Stopped::Running => backoff.snooze(),
            }
        }
    }

    /// softint_establish: adds a handler; `None` when the level has 64 already. Control threads.
    pub fn softint_establish(&self, level: SoftintLevel, name: &str, func: SoftintFunc) -> Option<SoftintId> {
        self.shared.softints.establish(level, name, func)
    }

    /// softint_disestablish: removes a handler; when it returns, no worker is in it. Never on a worker.
    pub fn softint_disestablish(&self, id: SoftintId) {
        self.shared.softints.disestablish(id);
    }

    /// Schedules a handler on some worker. Any thread; on the worker itself
    /// [`WorkerCx::softint_schedule`] is cheaper.
    pub fn softint_schedule(&self, worker: usize, id: SoftintId) {
        self.shared.softints.schedule_remote(worker, id);
        self.shared.wakers.attend(worker);
    }

    /// Lets the workers drain `queue`: each takes bursts out of its own ring and gives them to `func`. Registers
    /// `kern.pktqueue.<name>`. Control threads.
    pub fn add_pktqueue(&self, queue: &Arc<PktQueue>, func: PktQueueFunc) {
        queue.set_wakers(self.shared.wakers.clone());
        let queue = queue.clone();
        sysctl_nodes::pktqueue(&self.sysctl, &queue);
        self.shared.drains.update(&self.shared.domain, |old| {
            let mut new = old.clone();
            new.push(Drain { queue, func });
            (new, ())
        });
        for worker in 0..self.workers() {
            self.shared.wakers.attend(worker);
        }
    }

    /// Ends [`Runtime::add_pktqueue`], after a barrier; when it returns, no worker is in its function, and nothing but the
    /// caller holds the queue. Nobody may enqueue any more. Never on a worker.
    pub fn remove_pktqueue(&self, queue: &Arc<PktQueue>) {
        if !self.is_stopped() {
            queue.barrier();
        }
        sysctl_nodes::remove_pktqueue(&self.sysctl, queue);
        self.shared.drains.update(&self.shared.domain, |old| {
            let rest = old.iter().filter(|d| !Arc::ptr_eq(&d.queue, queue)).cloned().collect();
            (rest, ())
        });
        queue.close();
        self.shared.domain.perform();
        self.shared.domain.flush();
    }

    /// The work queue that is always there: two threads, for work that may sleep.
    pub fn work(&self) -> &Arc<Workqueue> {
        &self.work
    }

    /// Makes a work queue and registers `kern.workqueue.<name>`. It stops when it is dropped.
    ///
    /// # Errors
    /// The system's, when no thread can be started.
    pub fn workqueue(&self, name: &str, threads: usize, len: usize) -> io::Result<Arc<Workqueue>> {
        let queue = Workqueue::new(name, threads, len)?;
        sysctl_nodes::workqueue(&self.sysctl, &queue);
        Ok(queue)
    }

    /// Stops: pollers are called no more, what is queued is worked off (for at most a second), workers and the default
    /// work queue end. A second call finds nothing to do. Control threads.
    ///
    /// # Panics
    /// On a worker: it would wait for itself.
    pub fn stop(&self) -> StopReport {
        assert!(!on_worker(), "stop on a worker would wait for itself");
        let threads = std::mem::take(&mut *lock(&self.threads));
        self.stop_threads(threads)
    }

    fn stop_threads(&self, threads: Vec<JoinHandle<()>>) -> StopReport {
        let shared = &self.shared;
        let mut report = StopReport { drained: true, ..StopReport::default() };
        if !threads.is_empty() {
            // Work may still make work.
            self.work.drain();
            self.set_phase(phase::DRAIN);
            report.drained = self.wait_until_idle();
            self.work.stop();
        }
        self.set_phase(phase::EXIT);
        for t in threads {
            let _ = t.join();
        }
        self.work.stop();
        for drain in shared.drains.load_control().iter() {
            drain.queue.close();
        }
        for mailbox in &shared.mailboxes {
            while let Some(mail) = mailbox.pop() {
                match mail {
                    Mail::Add(id, poller) => lock(&shared.left).push((id, poller)),
                    Mail::Run(_) => report.letters += 1,
                    // Its asker sees the channel close.
                    Mail::Remove(..) => {}
                }
            }
        }
        report.pollers = lock(&shared.left).len();
        report.callouts = shared.stats.iter().map(|s| s.callouts_left.load(Ordering::Relaxed)).sum();
        report.cells_in_use = shared.pool.stats().in_use;
        report
    }

    fn set_phase(&self, phase: u32) {
        self.shared.phase.fetch_max(phase, Ordering::AcqRel);
        for worker in 0..self.workers() {
            self.shared.wakers.attend(worker);
        }
    }

    /// Waits until every worker went through some rounds and none had work, for at most a second.
    fn wait_until_idle(&self) -> bool {
        let counts = || {
            let get = |s: &CachePadded<crate::worker::WorkerStats>| {
                (s.rounds.load(Ordering::Acquire), s.busy_rounds.load(Ordering::Acquire))
            };
            self.shared.stats.iter().map(get).collect::<Vec<_>>()
        };
        let end = Instant::now() + Duration::from_secs(1);
        let mut before = counts();
        while Instant::now() < end {
            std::thread::sleep(Duration::from_micros(200));
            let now = counts();
            if now.iter().zip(&before).any(|(n, b)| n.0 < b.0 + 4) {
                continue;
            }
            if now.iter().zip(&before).all(|(n, b)| n.1 == b.1) {
                return true;
            }
            before = now;
        }
        false
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // A worker may hold the last reference; it cannot wait for itself, and its thread ends by the phase.
        if on_worker() {
            self.set_phase(phase::EXIT);
        } else {
            self.stop();
        }
    }
}

/// A worker without a thread, from [`Runtime::start_manual`].
pub struct ManualWorker {
    worker: Worker,
}

impl ManualWorker {
    /// One round of the worker's loop on the calling thread; returns how much was done.
    pub fn round(&mut self) -> u32 {
        self.rounds(1)
    }

    /// `n` rounds; returns how much was done in all of them.
    pub fn rounds(&mut self, n: usize) -> u32 {
        self.worker.enter();
        let work = (0..n).fold(0u32, |sum, _| sum.saturating_add(self.worker.round(true)));
        self.worker.leave();
        work
    }

    /// Acts as the worker.
    pub fn with<R>(&mut self, f: impl FnOnce(&mut WorkerCx<'_>) -> R) -> R {
        self.worker.enter();
        let answer = self.worker.with(f);
        self.worker.leave();
        answer
    }
}

impl Drop for ManualWorker {
    fn drop(&mut self) {
        self.worker.enter();
        self.worker.finish();
    }
}

fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: all zero is an empty cpu_set_t, and `cpu` is below its size.
    let r = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
