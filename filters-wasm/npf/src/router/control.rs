//! What control threads do: rules, tables, switching on and off.

use super::{
    InForce, Modules,
    hook::{Hook, Slot, WorkerStats, millis},
};
use crate::{
    config::Config,
    engine::{Addresses, Elsewhere, Engine, EngineError, Ruleset, Share, Stats, WORKERS_MAX},
    language::Diagnostics,
    params::Key as Param,
    state::{Counters, Limits, Millis},
    tables::{TableError, Tables},
    wasm::RulesetCompiler,
};
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use smpnet_runtime::{PerCpu, PktQueue, WorkerCx, now_ns};
use smpnet_stack::{Dirs, Layer, Stack, StackError};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::Ordering},
    time::Duration,
};

/// How often expired entries of tables are looked for, and versions that no worker has any more.
const ROUND: Duration = Duration::from_secs(1);
/// Packets between two workers that wait.
const HAND_OVER: usize = 4096;

/// What is settled when npf is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Connections at the same time, on all workers together: 300 bytes of memory each, as they come.
    pub connections: usize,
    /// Of those that many, in percent, that the other side has not completed.
    pub half_open_percent: u8,
    /// The hook's priority: filters with lower ones are asked before.
    pub priority: i32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { connections: 1 << 20, half_open_percent: 50, priority: 0 }
    }
}

/// Why a command was not done. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NpfError {
    /// The configuration cannot be run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The hook cannot be attached.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// More workers than npf can tell apart.
    #[error("npf runs on at most {WORKERS_MAX} workers, and there are {0}")]
    Workers(usize),
    /// No such dynamic ruleset.
    #[error("ruleset \"{0}\" not found")]
    NoRuleset(String),
    /// No such rule.
    #[error("rule was not found")]
    NoRule,
    /// A rule is not one.
    #[error("{0}")]
    Rule(Diagnostics),
    /// No such table.
    #[error("table <{0}> not found")]
    NoTable(String),
    /// The table was not changed.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The rules cannot be compiled to a module.
    #[error("rules cannot be compiled: {0}")]
    Module(String),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// What wakes the thread of npf.
enum Wake {
    /// Sources are over a limit.
    Overloads,
    /// Addresses of interfaces may have changed.
    Addresses,
}

/// npf in a router. Every function is a control thread's, never a worker's.
pub struct Npf {
    pub(super) stack: Arc<Stack>,
    pub(super) hook: Arc<Hook>,
    settings: Settings,
    compiler: Option<Arc<dyn RulesetCompiler>>,
    control: Mutex<Control>,
}

pub(super) struct Control {
    /// What was published last.
    pub(super) in_force: InForce,
    /// Versions before it, which some worker may still have.
    old: Vec<InForce>,
    attached: Option<u64>,
    /// Packets are gathered from fragments since the configuration wants that.
    gathers: bool,
    is_loaded: bool,
}

/// What there is at the moment.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Status {
    /// Packets are judged.
    pub active: bool,
    /// A configuration was loaded.
    pub loaded: bool,
    /// Connections on all workers.
    pub connections: usize,
}

/// Counters of all workers.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Totals {
    /// What engines count.
    #[serde(flatten)]
    pub engine: Stats,
    /// What the hook counts.
    #[serde(flatten)]
    pub hook: WorkerStats,
    /// What happened to connections.
    pub states: Counters,
    /// Connections at the moment.
    pub connections: usize,
    /// Of them, those that are not complete.
    pub half_open: usize,
    /// Connections whose packets come to another worker than their hash says.
    pub elsewhere: usize,
}

impl Totals {
    fn and(self, other: Totals) -> Totals {
        Totals {
            engine: self.engine.and(&other.engine),
            hook: self.hook.and(&other.hook),
            states: self.states.and(&other.states),
            connections: self.connections + other.connections,
            half_open: self.half_open + other.half_open,
            elsewhere: self.elsewhere.max(other.elsewhere),
        }
    }
}

impl Npf {
    /// Makes npf for a router, without rules, which passes everything, and not yet attached. Rules are compiled by `compiler`;
    /// without one their plan is asked, which decides the same.
    ///
    /// # Errors
    /// When there are too many workers, or no thread can be started.
    pub fn new(
        stack: &Arc<Stack>,
        settings: Settings,
        compiler: Option<Arc<dyn RulesetCompiler>>,
    ) -> Result<Arc<Npf>, NpfError> {
        let workers = stack.workers();
        if workers > WORKERS_MAX {
            return Err(NpfError::Workers(workers));
        }
        let config = Arc::new(Config::default());
        let tables = Tables::new(&config);
        let addresses: Addresses = Arc::new(addresses(stack));
        let ruleset = Arc::new(Ruleset::new(config, &*addresses)?);
        let in_force = InForce { version: 1, ruleset, tables, addresses, modules: None };
        let elsewhere = Arc::new(Elsewhere::new(if workers > 1 { settings.connections } else { 1 }));
        let limits =
            Limits { capacity: settings.connections.div_ceil(workers), half_open_percent: settings.half_open_percent };
        let now = millis(now_ns());
        let slots = PerCpu::new(workers, |i| {
            let InForce { ruleset, tables, addresses, .. } = in_force.clone();
            let mut engine = Engine::new(ruleset, tables, addresses, limits, random(), now);
            if workers > 1 {
                engine.share(Share::new(i, workers, &elsewhere));
            }
            engine.leave_tables();
            Slot::new(engine, in_force.version, elsewhere.clone())
        });
        let (wake, woken) = bounded(64);
        let tell = wake.clone();
        let told = Box::new(move || _ = tell.try_send(Wake::Overloads));
        let queue = Arc::new(PktQueue::new("npf", stack.runtime().domain(), HAND_OVER));
        let hook = Hook::new(stack, in_force.clone(), slots, queue.clone(), told);
        let weak = Arc::downgrade(&hook);
        let take = move |cx: &mut WorkerCx<'_>, cells: &[smpnet_abi::Cell]| match weak.upgrade() {
            Some(hook) => hook.take_over(cx, cells),
            None => cx.pool.free(cx.cpu, cells),
        };
        stack.runtime().add_pktqueue(&queue, Arc::new(take));
        let control = Control { in_force, old: Vec::new(), attached: None, gathers: false, is_loaded: false };
        let npf = Arc::new(Npf { stack: stack.clone(), hook, settings, compiler, control: Mutex::new(control) });
        listen(stack, wake).map_err(NpfError::Thread)?;
        let weak = Arc::downgrade(&npf);
        std::thread::Builder::new()
            .name("smpnet-npf".into())
            .spawn(move || rounds(&weak, &woken))
            .map_err(NpfError::Thread)?;
        Ok(npf)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has packets judged, by the rules that are loaded.
    ///
    /// # Errors
    /// When the hook cannot be attached.
    pub fn start(&self) -> Result<(), NpfError> {
        let mut control = self.lock();
        if control.attached.is_none() {
            let hook = self.hook.clone();
            control.attached =
                Some(self.stack.pfil_attach(Layer::Inet, None, Dirs::Both, self.settings.priority, hook)?);
        }
        self.gather(&mut control);
        Ok(())
    }

    /// Has packets judged no more. Rules, tables and connections stay.
    ///
    /// # Errors
    /// None that is known.
    pub fn stop(&self) -> Result<(), NpfError> {
        let mut control = self.lock();
        if let Some(id) = control.attached.take() {
            self.stack.pfil_detach(id)?;
        }
        self.gather(&mut control);
        Ok(())
    }

    /// Fragments are gathered before they come here, if the configuration says so and packets are judged.
    fn gather(&self, control: &mut Control) {
        let is_on = control.in_force.ruleset.config.params.is_on(Param::Ip4Reassembly);
        let wants = control.attached.is_some() && is_on && !control.in_force.ruleset.config.groups.is_empty();
        if wants != control.gathers {
            self.stack.filters_want_whole_packets(wants);
            control.gathers = wants;
        }
    }

    /// Puts another configuration in force, as a whole: every packet is judged by one of the two. Connections stay whose rule
    /// and map are in it; so do rules of commands whose ruleset is, and what is in tables that no file fills.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn reload(&self, config: Arc<Config>) -> Result<(), NpfError> {
        let mut control = self.lock();
        let old = control.in_force.clone();
        let addresses: Addresses = Arc::new(addresses(&self.stack));
        let ruleset = old.ruleset.reloaded(config.clone(), &*addresses)?;
        let mut tables = Tables::new(&config);
        tables.keep(&config, &old.tables, &old.ruleset.config);
        let modules = self.modules(&ruleset)?;
        self.publish(&mut control, InForce { ruleset: Arc::new(ruleset), tables, addresses, modules, ..old });
        control.is_loaded = true;
        self.gather(&mut control);
        Ok(())
    }

    /// Takes everything away: rules, tables, connections. Packets pass.
    ///
    /// # Errors
    /// None that is known.
    pub fn flush(&self) -> Result<(), NpfError> {
        self.reload(Arc::default())?;
        self.lock().is_loaded = false;
        Ok(())
    }

    /// What there is.
    pub fn status(&self) -> Status {
        let connections = self.ask_all(|slot, _| slot.engine.connections().len()).into_iter().sum();
        let control = self.lock();
        Status { active: control.attached.is_some(), loaded: control.is_loaded, connections }
    }

    /// What is in force: rules, tables, and addresses of interfaces.
    pub(super) fn in_force(&self) -> (Arc<Ruleset>, Tables, Addresses) {
        let InForce { ruleset, tables, addresses, .. } = self.lock().in_force.clone();
        (ruleset, tables, addresses)
    }

    /// The rules that are in force.
    pub fn ruleset(&self) -> Arc<Ruleset> {
        self.lock().in_force.ruleset.clone()
    }

    /// The tables as they are.
    pub fn tables(&self) -> Tables {
        self.lock().in_force.tables.clone()
    }

    /// Counters.
    pub fn totals(&self) -> Totals {
        let all = self.ask_all(|slot, _| {
            let c = slot.engine.connections();
            let elsewhere = slot.elsewhere.len();
            Totals {
                engine: slot.engine.stats(),
                hook: slot.stats,
                states: c.counters(),
                connections: c.len(),
                half_open: c.half_open(),
                elsewhere,
            }
        });
        all.into_iter().reduce(Totals::and).unwrap_or_else(|| Totals {
            engine: Stats::default(),
            hook: WorkerStats::default(),
            states: Counters::default(),
            connections: 0,
            half_open: 0,
            elsewhere: 0,
        })
    }

    /// Rules as they run, for each worker.
    pub(super) fn modules(&self, ruleset: &Ruleset) -> Result<Option<Arc<Modules>>, NpfError> {
        let Some(compiler) = self.compiler.as_ref().filter(|_| !ruleset.rules.is_empty()) else { return Ok(None) };
        let all = compiler.run(ruleset.plan(), self.stack.workers()).map_err(NpfError::Module)?;
        Ok(Some(Arc::new(Modules(all.into_iter().map(|m| Mutex::new(Some(m))).collect()))))
    }

    pub(super) fn publish(&self, control: &mut Control, new: InForce) {
        let new = InForce { version: control.in_force.version + 1, ..new };
        let old = std::mem::replace(&mut control.in_force, new.clone());
        control.old.push(old);
        self.hook.current.swap(self.stack.runtime().domain(), new);
        self.reap(control);
    }

    /// Drops versions that no worker has: here, so that no worker has to.
    fn reap(&self, control: &mut Control) {
        let oldest = self.hook.adopted.iter().map(|v| v.load(Ordering::Acquire)).min().unwrap_or(u64::MAX);
        control.old.retain(|v| v.version >= oldest);
        while self.hook.retired.pop().is_some() {}
    }

    /// What is done once in a while.
    fn round(&self) {
        // Workers without packets have not seen the last versions.
        let behind: Vec<usize> = {
            let control = self.lock();
            let is_behind = |v: u64| v != control.in_force.version;
            let all = self.hook.adopted.iter().map(|v| v.load(Ordering::Acquire)).enumerate();
            all.filter(|(_, v)| is_behind(*v)).map(|(worker, _)| worker).collect()
        };
        for worker in behind {
            let hook = self.hook.clone();
            let catch_up = move |cx: &mut WorkerCx<'_>| hook.catch_up(cx.cpu, cx.section(), cx.now_ns);
            self.stack.runtime().run_on(worker, Box::new(catch_up));
        }
        let mut control = self.lock();
        self.reap(&mut control);
        let now = millis(now_ns());
        let mut new = control.in_force.clone();
        if new.tables.expire(now) > 0 {
            self.publish(&mut control, new);
        }
    }

    /// Sources that exceeded a limit are in their table for all workers.
    fn take_overloads(&self) {
        self.hook.overloads_told.store(false, Ordering::Release);
        let _ = self.change_tables(|tables, now| {
            let mut any = false;
            while let Some(o) = self.hook.overloads.pop() {
                any |= tables.add(o.table, o.entry, now, o.stay).is_ok();
            }
            if any { Ok(()) } else { Err(()) }
        });
    }

    /// Interfaces have other addresses, perhaps. Rules are made anew if they have those in them.
    fn readdress(&self) {
        let mut control = self.lock();
        let InForce { ruleset, addresses: before, tables, version, modules } = control.in_force.clone();
        let now: Addresses = Arc::new(addresses(&self.stack));
        let is_same = |name: &String| now.addresses(name) == before.addresses(name);
        let made = match ruleset.asked_interfaces().iter().all(is_same) {
            true => Ok((ruleset, modules)),
            false => ruleset.readdressed(&*now).map_err(NpfError::Engine).and_then(|r| {
                let modules = self.modules(&r)?;
                Ok((Arc::new(r), modules))
            }),
        };
        match made {
            Ok((ruleset, modules)) => {
                self.publish(&mut control, InForce { version, ruleset, tables, addresses: now, modules });
            }
            Err(e) => tracing::error!("npf: rules keep the old addresses of interfaces: {e}"),
        }
    }

    /// Asks one worker.
    pub(super) fn ask<R: Send + 'static>(
        &self,
        worker: usize,
        f: impl FnOnce(&mut Slot, Millis) -> R + Send + 'static,
    ) -> Option<R> {
        let hook = self.hook.clone();
        self.stack.runtime().run_on_wait(worker, move |cx| {
            // What was published is in force for who asks.
            hook.catch_up(cx.cpu, cx.section(), cx.now_ns);
            hook.slots.with(cx.cpu, |slot| f(slot, millis(cx.now_ns)))
        })
    }

    /// Asks all workers, one after the other.
    pub(super) fn ask_all<R: Send + 'static>(
        &self,
        f: impl Fn(&mut Slot, Millis) -> R + Clone + Send + 'static,
    ) -> Vec<R> {
        (0..self.stack.workers()).filter_map(|worker| self.ask(worker, f.clone())).collect()
    }

    /// Takes npf out of the router for good.
    pub fn shutdown(&self) {
        let _ = self.stop();
        self.stack.runtime().remove_pktqueue(&self.hook.queue);
    }
}

/// Tells the thread of npf when addresses of interfaces may have changed.
fn listen(stack: &Arc<Stack>, wake: Sender<Wake>) -> std::io::Result<()> {
    let events = stack.events();
    let listen = move || {
        // It ends when the stack is no more, or npf is not.
        for event in events {
            let concerns = matches!(event.kind, "address" | "interface");
            if concerns && wake.send(Wake::Addresses).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("smpnet-npf-ev".into()).spawn(listen)?;
    Ok(())
}

fn rounds(npf: &Weak<Npf>, woken: &crossbeam_channel::Receiver<Wake>) {
    let mut last = std::time::Instant::now();
    loop {
        let why = woken.recv_timeout(ROUND);
        let Some(npf) = npf.upgrade() else { return };
        match why {
            Ok(Wake::Overloads) => npf.take_overloads(),
            Ok(Wake::Addresses) => npf.readdress(),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if last.elapsed() >= ROUND {
            npf.round();
            last = std::time::Instant::now();
        }
    }
}

/// Addresses of all interfaces.
fn addresses(stack: &Stack) -> HashMap<String, Vec<IpAddr>> {
    let of = |i: smpnet_stack::IfStatus| {
        let all = i.addresses.iter().map(|a| IpAddr::V4(a.address.addr())).collect();
        (i.name, all)
    };
    stack.interfaces().into_iter().map(of).collect()
}

/// A number that nobody outside can guess.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
