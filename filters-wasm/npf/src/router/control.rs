//! What control threads do: rules, tables, switching on and off.

use super::{
    InForce, Modules,
    hook::{Hook, Slot, WorkerStats, millis},
};
use crate::{
    config::{Config, Map, Rule, RuleId, Ruleset as DynamicRuleset, TableEntry, TableId},
    engine::{Addresses, Elsewhere, Engine, EngineError, Ruleset, Share, Stats, WORKERS_MAX},
    language::{self, Diagnostics},
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

struct Control {
    /// What was published last.
    in_force: InForce,
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

    fn lock(&self) -> MutexGuard<'_, Control> {
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

    /// Adds a rule, as the language writes it, to a dynamic ruleset. Returns its identity.
    ///
    /// # Errors
    /// When there is no such ruleset, or this is no rule.
    pub fn rule_add(&self, name: &str, text: &str) -> Result<RuleId, NpfError> {
        self.change_rules(name, |rules, config| {
            let mut rule = language::parse_rule(text, config).map_err(NpfError::Rule)?;
            // Rules that say the same are told apart by how many of them there are.
            while rules.iter().any(|r| r.id == rule.id) {
                rule.id = RuleId(rule.id.0.wrapping_add(1));
            }
            let id = rule.id;
            rules.push(rule);
            Ok(id)
        })
    }

    /// Takes a rule out of a dynamic ruleset, by its identity.
    ///
    /// # Errors
    /// When there is no such ruleset or rule.
    pub fn rule_remove_id(&self, name: &str, id: RuleId) -> Result<(), NpfError> {
        self.change_rules(name, |rules, _| {
            let at = rules.iter().position(|r| r.id == id).ok_or(NpfError::NoRule)?;
            rules.remove(at);
            Ok(())
        })
    }

    /// Takes a rule out of a dynamic ruleset, by what it says.
    ///
    /// # Errors
    /// When there is no such ruleset or rule, or this is no rule.
    pub fn rule_remove(&self, name: &str, text: &str) -> Result<(), NpfError> {
        self.change_rules(name, |rules, config| {
            let id = language::parse_rule(text, config).map_err(NpfError::Rule)?.id;
            let at = rules.iter().position(|r| r.id == id).ok_or(NpfError::NoRule)?;
            rules.remove(at);
            Ok(())
        })
    }

    /// Takes all rules out of a dynamic ruleset.
    ///
    /// # Errors
    /// When there is no such ruleset.
    pub fn rule_flush(&self, name: &str) -> Result<(), NpfError> {
        self.change_rules(name, |rules, _| {
            rules.clear();
            Ok(())
        })
    }

    /// The rules of a dynamic ruleset.
    ///
    /// # Errors
    /// When there is none.
    pub fn rules_of(&self, name: &str) -> Result<Vec<Rule>, NpfError> {
        let ruleset = self.ruleset();
        let known = ruleset.config.rulesets().any(|r| r.name == name);
        if !known {
            return Err(NpfError::NoRuleset(name.to_owned()));
        }
        Ok(ruleset.dynamic.get(name).cloned().unwrap_or_default())
    }

    fn change_rules<R>(
        &self,
        name: &str,
        f: impl FnOnce(&mut Vec<Rule>, &Config) -> Result<R, NpfError>,
    ) -> Result<R, NpfError> {
        let mut control = self.lock();
        let InForce { ruleset, addresses, .. } = &control.in_force;
        let known = |r: &DynamicRuleset| r.name == name;
        if !ruleset.config.rulesets().any(known) {
            return Err(NpfError::NoRuleset(name.to_owned()));
        }
        let mut rules = ruleset.dynamic.get(name).cloned().unwrap_or_default();
        let answer = f(&mut rules, &ruleset.config)?;
        let new = Arc::new(ruleset.with_rules(name, rules, &**addresses)?);
        let old = control.in_force.clone();
        let modules = self.modules(&new)?;
        self.publish(&mut control, InForce { ruleset: new, modules, ..old });
        Ok(answer)
    }

    /// Adds a map, as the language writes it, to a map ruleset. Returns its identity.
    ///
    /// # Errors
    /// When there is no such ruleset, or this is no map.
    pub fn map_add(&self, name: &str, text: &str) -> Result<RuleId, NpfError> {
        self.change_maps(name, |maps, ruleset| {
            let mut map = language::parse_map(text, &ruleset.config).map_err(NpfError::Rule)?;
            // Maps that say the same are told apart by how many of them there are.
            while ruleset.map(map.id).is_some() {
                map.id = RuleId(map.id.0.wrapping_add(1));
            }
            let id = map.id;
            maps.push(map);
            Ok(id)
        })
    }

    /// Takes a map out of a map ruleset, by its identity. Connections that it translates end.
    ///
    /// # Errors
    /// When there is no such ruleset or map.
    pub fn map_remove_id(&self, name: &str, id: RuleId) -> Result<(), NpfError> {
        self.change_maps(name, |maps, _| {
            let at = maps.iter().position(|m| m.id == id).ok_or(NpfError::NoRule)?;
            maps.remove(at);
            Ok(())
        })
    }

    /// Takes all maps out of a map ruleset.
    ///
    /// # Errors
    /// When there is no such ruleset.
    pub fn map_flush(&self, name: &str) -> Result<(), NpfError> {
        self.change_maps(name, |maps, _| {
            maps.clear();
            Ok(())
        })
    }

    /// The maps of a map ruleset.
    ///
    /// # Errors
    /// When there is none.
    pub fn maps_of(&self, name: &str) -> Result<Vec<Map>, NpfError> {
        let ruleset = self.ruleset();
        if !ruleset.config.map_rulesets().any(|r| r.name == name) {
            return Err(NpfError::NoRuleset(name.to_owned()));
        }
        Ok(ruleset.dynamic_maps.get(name).cloned().unwrap_or_default())
    }

    fn change_maps<R>(
        &self,
        name: &str,
        f: impl FnOnce(&mut Vec<Map>, &Ruleset) -> Result<R, NpfError>,
    ) -> Result<R, NpfError> {
        let mut control = self.lock();
        let old = control.in_force.clone();
        if !old.ruleset.config.map_rulesets().any(|r| r.name == name) {
            return Err(NpfError::NoRuleset(name.to_owned()));
        }
        let mut maps = old.ruleset.dynamic_maps.get(name).cloned().unwrap_or_default();
        let answer = f(&mut maps, &old.ruleset)?;
        let ruleset = Arc::new(old.ruleset.with_maps(name, maps, &*old.addresses)?);
        let modules = self.modules(&ruleset)?;
        self.publish(&mut control, InForce { ruleset, modules, ..old });
        Ok(answer)
    }

    /// The number of a table.
    ///
    /// # Errors
    /// When there is none.
    pub fn table(&self, name: &str) -> Result<TableId, NpfError> {
        let at = self.ruleset().config.tables.iter().position(|t| t.name == name);
        at.map(TableId).ok_or_else(|| NpfError::NoTable(name.to_owned()))
    }

    /// Changes tables: all that `f` does is one version of them.
    ///
    /// # Errors
    /// Those of `f`; then nothing has changed.
    pub fn change_tables<R, E>(&self, f: impl FnOnce(&mut Tables, Millis) -> Result<R, E>) -> Result<R, E> {
        let mut control = self.lock();
        let mut new = control.in_force.clone();
        let answer = f(&mut new.tables, millis(now_ns()))?;
        self.publish(&mut control, new);
        Ok(answer)
    }

    /// Adds an entry to a table.
    ///
    /// # Errors
    /// When it is there, or cannot be there.
    pub fn table_add(&self, name: &str, entry: TableEntry, stay: Option<Duration>) -> Result<(), NpfError> {
        let table = self.table(name)?;
        let stay = stay.map(|s| Millis(u64::try_from(s.as_millis()).unwrap_or(u64::MAX)));
        self.change_tables(|tables, now| tables.add(table, entry, now, stay)).map_err(NpfError::Table)
    }

    /// Takes an entry out of a table.
    ///
    /// # Errors
    /// When it is not there.
    pub fn table_remove(&self, name: &str, entry: &TableEntry) -> Result<(), NpfError> {
        let table = self.table(name)?;
        self.change_tables(|tables, _| tables.remove(table, entry)).map_err(NpfError::Table)
    }

    /// Takes all entries out of a table.
    ///
    /// # Errors
    /// When it is constant.
    pub fn table_flush(&self, name: &str) -> Result<(), NpfError> {
        let table = self.table(name)?;
        self.change_tables(|tables, _| tables.flush(table)).map_err(NpfError::Table)
    }

    /// Rules as they run, for each worker.
    fn modules(&self, ruleset: &Ruleset) -> Result<Option<Arc<Modules>>, NpfError> {
        let Some(compiler) = self.compiler.as_ref().filter(|_| !ruleset.rules.is_empty()) else { return Ok(None) };
        let all = compiler.run(ruleset.plan(), self.stack.workers()).map_err(NpfError::Module)?;
        Ok(Some(Arc::new(Modules(all.into_iter().map(|m| Mutex::new(Some(m))).collect()))))
    }

    fn publish(&self, control: &mut Control, new: InForce) {
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
