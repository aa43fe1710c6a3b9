//! Loading, swapping and watching filters on a running router.

use crate::report::{FilterDecision, FilterDetail, FilterStats, FilterStatus, State, SwapReport};
use crate::slot::{Handover, Prepared};
use crate::supervisor::{Lines, Remains, lines, start};
use crate::version::{Artefact, Counts, FilterVersion, GenerationStats};
use crate::{
    Action, Attach, Dirs, Filter, FilterError, FilterSpec, GeneratedEngine, Layer, OnFault, Source, WasmError,
};
use sha2::{Digest, Sha256};
use smpnet_abi::PoolDesc;
use smpnet_bpf::{CompileOptions, Program, compile_expr, compile_wasm};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Generations whose counters are kept one by one; those of older ones are summed up.
const HISTORY: usize = 32;

/// All filters of a router.
///
/// Methods may be called on any thread but a worker; they take effect one after the other, except that compilation runs
/// outside of the order. When one fails, what ran before still runs. Dropping the manager detaches its filters.
pub struct FilterManager {
    inner: Arc<Inner>,
    supervisor: Option<JoinHandle<()>>,
}

pub(crate) struct Inner {
    attach: Arc<dyn Attach>,
    lines: Lines,
    state: Mutex<Filters>,
}

#[derive(Default)]
struct Filters {
    engine: Option<Arc<GeneratedEngine>>,
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    filter: Arc<Filter>,
    /// Handle of the hook; `None` when faults took it off.
    attached: Option<u64>,
    current: Arc<FilterVersion>,
    previous: Option<Previous>,
    /// Newest last.
    history: VecDeque<GenerationStats>,
    /// Sum of the generations before the history.
    older: Counts,
    /// Sum of all generations but the current one, for each worker.
    past: Vec<Counts>,
}

struct Previous {
    generation: u64,
    action: Action,
    artefact: Arc<Artefact>,
}

/// Times of one publication, in microseconds.
struct Times {
    instantiate: f64,
    adopt: f64,
}

impl FilterManager {
    /// A manager without filters. The engine starts with the first filter, so that a router without filters pays nothing.
    ///
    /// # Errors
    /// The system has no thread left for the supervisor.
    pub fn new(attach: Arc<dyn Attach>) -> std::io::Result<FilterManager> {
        let (lines, receivers) = lines();
        let inner = Arc::new(Inner { attach, lines, state: Mutex::default() });
        let supervisor = Some(start(Arc::downgrade(&inner), receivers)?);
        Ok(FilterManager { inner, supervisor })
    }

    /// Compiles a filter and attaches it.
    ///
    /// # Errors
    /// A bad or known name, code that does not compile, a refused attachment.
    pub fn load(&self, spec: FilterSpec) -> Result<SwapReport, FilterError> {
        check_name(&spec.name)?;
        if self.inner.lock().entries.contains_key(&spec.name) {
            return Err(FilterError::Exists(spec.name));
        }
        let engine = self.inner.engine(&spec.name)?;
        let began = Instant::now();
        let artefact = build(&engine, &spec.name, &spec.source, spec.layer)?;
        let compile_us = micros(began);
        self.inner.lock().load(&self.inner, &engine, spec, artefact, compile_us)
    }

    /// Replaces the code of a filter, and what a match means when `action` is given, between two bursts of each worker.
    /// When it returns, no packet is judged by the old code any more.
    ///
    /// # Errors
    /// An unknown name, code that does not compile.
    pub fn swap(&self, name: &str, source: Source, action: Option<Action>) -> Result<SwapReport, FilterError> {
        let layer = self.inner.lock().entry(name)?.filter.place().layer;
        let engine = self.inner.engine(name)?;
        let began = Instant::now();
        let artefact = build(&engine, name, &source, layer)?;
        let compile_us = micros(began);
        let mut state = self.inner.lock();
        let entry = state.entry(name)?;
        let action = action.unwrap_or(entry.current.action);
        let times = entry.replace(&self.inner, &engine, artefact, action, None)?;
        Ok(entry.swap_report(compile_us, &times))
    }

    /// Goes back to the code and action before the last swap, which was kept compiled. A second rollback goes forward again.
    ///
    /// # Errors
    /// An unknown name, no previous generation.
    pub fn rollback(&self, name: &str) -> Result<SwapReport, FilterError> {
        let mut state = self.inner.lock();
        let engine = state.engine.clone();
        let entry = state.entry(name)?;
        let (Some(previous), Some(engine)) = (entry.previous.take(), engine) else {
            return Err(FilterError::NoPrevious(name.into()));
        };
        let (artefact, from) = (previous.artefact.clone(), Some(previous.generation));
        match entry.replace(&self.inner, &engine, artefact, previous.action, from) {
            Ok(times) => Ok(entry.swap_report(0.0, &times)),
            Err(e) => {
                entry.previous = Some(previous);
                Err(e)
            }
        }
    }

    /// Takes a filter off its hooks and forgets it. When it returns, no packet is judged by it any more.
    ///
    /// # Errors
    /// An unknown name.
    pub fn detach(&self, name: &str) -> Result<(), FilterError> {
        let mut state = self.inner.lock();
        let entry = state.entries.remove(name).ok_or_else(|| FilterError::NotFound(name.into()))?;
        self.inner.bury(entry);
        Ok(())
    }

    /// All filters, by name.
    pub fn list(&self) -> Vec<FilterStatus> {
        self.inner.lock().entries.values().map(Entry::status).collect()
    }

    /// All about one filter.
    ///
    /// # Errors
    /// An unknown name.
    pub fn show(&self, name: &str) -> Result<FilterDetail, FilterError> {
        Ok(self.inner.lock().entry(name)?.detail())
    }

    /// What one filter counted.
    ///
    /// # Errors
    /// An unknown name.
    pub fn stats(&self, name: &str) -> Result<FilterStats, FilterError> {
        Ok(self.inner.lock().entry(name)?.stats())
    }

    /// What the filters of a place would say of a packet, in the order in which they are asked, by the reference
    /// interpreter. `packet` begins with the header of `layer`. Counts nothing. Ends with the first filter that drops.
    pub fn explain(&self, layer: Layer, ifindex: u32, dir: Dirs, packet: &[u8]) -> Vec<FilterDecision> {
        let state = self.inner.lock();
        let mut asked: Vec<&Entry> = state
            .entries
            .values()
            .filter(|e| e.attached.is_some())
            .filter(|e| {
                let at = e.filter.place();
                at.layer == layer && at.ifindex.is_none_or(|i| i == ifindex) && at.dirs.covers(dir)
            })
            .collect();
        // As the stack does: filters for all interfaces first, then those of the interface. Handles grow with the order of
        // attachment.
        asked.sort_by_key(|e| (e.filter.place().ifindex.is_some(), e.filter.place().priority, e.attached));
        let mut decisions = Vec::new();
        for entry in asked {
            let decision = entry.decide(packet);
            let last = decision.verdict == "drop";
            decisions.push(decision);
            if last {
                break;
            }
        }
        decisions
    }
}

impl Drop for FilterManager {
    fn drop(&mut self) {
        let entries = std::mem::take(&mut self.inner.lock().entries);
        entries.into_values().for_each(|e| self.inner.bury(e));
        let _ = self.inner.lines.bury.send(Remains::Stop);
        if let Some(thread) = self.supervisor.take() {
            let _ = thread.join();
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Filters> {
        // Nothing in here is left half-changed by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine, started at the first call.
    fn engine(&self, name: &str) -> Result<Arc<GeneratedEngine>, FilterError> {
        let mut state = self.lock();
        if let Some(engine) = &state.engine {
            return Ok(engine.clone());
        }
        let engine =
            GeneratedEngine::new(&self.attach.pool(), self.attach.workers()).map_err(|e| wasm_error(name, e))?;
        let engine = Arc::new(engine);
        state.engine = Some(engine.clone());
        drop(state);
        self.attach.warm_up();
        Ok(engine)
    }

    fn bury(&self, mut entry: Entry) {
        if let Some(handle) = entry.attached.take() {
            self.attach.detach(handle);
        }
        let _ = self.lines.bury.send(Remains::Version(entry.current));
        let _ = self.lines.bury.send(Remains::Filter(entry.filter));
    }

    /// Supervisor: collects what workers gave up and brings back generations in place of failed ones. True when no worker
    /// has anything left to give up.
    pub(crate) fn attend(&self, remains: &mut Vec<Remains>) -> bool {
        let mut state = self.lock();
        let engine = state.engine.clone();
        let mut all_adopted = true;
        for entry in state.entries.values_mut() {
            // In this order: who has adopted has given up the old one already.
            all_adopted &= entry.filter.slots().all(|s| s.adopted() == entry.current.generation);
            remains.push(Remains::Instances(entry.filter.slots().filter_map(|s| s.take_retired()).collect()));
            if entry.current.quarantined.load(Relaxed)
                && let Some(engine) = &engine
            {
                entry.recover(self, engine);
            }
        }
        all_adopted
    }
}

impl Filters {
    fn entry(&mut self, name: &str) -> Result<&mut Entry, FilterError> {
        self.entries.get_mut(name).ok_or_else(|| FilterError::NotFound(name.into()))
    }

    fn load(
        &mut self,
        inner: &Inner,
        engine: &GeneratedEngine,
        spec: FilterSpec,
        artefact: Arc<Artefact>,
        compile_us: f64,
    ) -> Result<SwapReport, FilterError> {
        if self.entries.contains_key(&spec.name) {
            return Err(FilterError::Exists(spec.name));
        }
        let workers = inner.attach.workers();
        let pool: PoolDesc = inner.attach.pool();
        let first = Arc::new(FilterVersion::new(1, spec.action, artefact, None, workers));
        let began = Instant::now();
        let instances = instances(engine, &spec.name, &first, workers)?;
        let instantiate = micros(began);
        let bell = inner.lines.bell.clone();
        let filter = Filter::new(spec.name.clone(), spec.place(), spec.on_fault, pool, first.clone(), workers, bell);
        filter.slots().zip(instances).for_each(|(slot, instance)| drop(slot.offer(instance)));
        let filter = Arc::new(filter);
        let began = Instant::now();
        let handle = inner
            .attach
            .attach(&spec.place(), filter.clone())
            .map_err(|reason| FilterError::Attach { name: spec.name.clone(), reason })?;
        let times = Times { instantiate, adopt: micros(began) };
        let entry = Entry {
            filter,
            attached: Some(handle),
            current: first,
            previous: None,
            history: VecDeque::new(),
            older: Counts::default(),
            past: vec![Counts::default(); workers + 1],
        };
        let report = entry.swap_report(compile_us, &times);
        self.entries.insert(spec.name, entry);
        Ok(report)
    }
}

impl Entry {
    /// Makes an instance for each worker, leaves them in the mailboxes, publishes the generation, and waits until no
    /// worker judges by the old one.
    fn publish(
        &mut self,
        inner: &Inner,
        engine: &GeneratedEngine,
        artefact: Arc<Artefact>,
        action: Action,
        restored_from: Option<u64>,
    ) -> Result<Times, FilterError> {
        let workers = inner.attach.workers();
        let generation = self.current.generation + 1;
        let version = Arc::new(FilterVersion::new(generation, action, artefact, restored_from, workers));
        let began = Instant::now();
        let instances = instances(engine, self.filter.name(), &version, workers)?;
        let instantiate = micros(began);

        let began = Instant::now();
        let mut gone = Vec::new();
        for (slot, instance) in self.filter.slots().zip(instances) {
            gone.extend(slot.offer(instance).into_iter().flatten());
        }
        self.filter.published().store(version.clone());
        inner.attach.synchronize();
        let adopt = micros(began);

        gone.extend(self.filter.slots().filter_map(|s| s.take_retired()));
        let _ = inner.lines.bury.send(Remains::Instances(gone));
        let old = std::mem::replace(&mut self.current, version);
        self.remember(&old);
        self.previous =
            Some(Previous { generation: old.generation, action: old.action, artefact: old.artefact.clone() });
        let _ = inner.lines.bury.send(Remains::Version(old));
        Ok(Times { instantiate, adopt })
    }

    /// Takes over the counters of a generation that judges no more.
    fn remember(&mut self, old: &FilterVersion) {
        self.past.iter_mut().zip(old.counts()).for_each(|(sum, c)| sum.add(&c));
        self.history.push_back(old.report());
        if self.history.len() > HISTORY
            && let Some(oldest) = self.history.pop_front()
        {
            self.older.add(&oldest.counts);
        }
    }

    /// [`publish`](Self::publish) for a filter that faults may have taken off its hooks: it goes back on them. Until the new
    /// generation is published there, the policy lets its packets pass, as they do now.
    fn replace(
        &mut self,
        inner: &Inner,
        engine: &GeneratedEngine,
        artefact: Arc<Artefact>,
        action: Action,
        restored_from: Option<u64>,
    ) -> Result<Times, FilterError> {
        let mut back = None;
        if self.attached.is_none() {
            let attached = inner.attach.attach(&self.filter.place(), self.filter.clone());
            let handle = attached.map_err(|reason| FilterError::Attach { name: self.filter.name().into(), reason })?;
            back = Some(handle);
        }
        let published = self.publish(inner, engine, artefact, action, restored_from);
        match (&published, back) {
            (Ok(_), Some(_)) => self.attached = back,
            (Err(_), Some(handle)) => inner.attach.detach(handle),
            (_, None) => {}
        }
        published
    }

    /// The current generation failed too often: the previous one comes back. Without one, a filter that passes packets
    /// when it fails leaves its hooks, and one that drops them stays and drops.
    fn recover(&mut self, inner: &Inner, engine: &GeneratedEngine) {
        let name = self.filter.name().to_owned();
        let failed = self.current.generation;
        let reason = self.current.first_fault.get().cloned().unwrap_or_default();
        if let Some(previous) = self.previous.take() {
            let from = Some(previous.generation);
            match self.publish(inner, engine, previous.artefact, previous.action, from) {
                Ok(_) => {
                    // Never back to the one that failed.
                    self.previous = None;
                    tracing::error!(
                        filter = name,
                        failed,
                        restored = from,
                        reason,
                        "filter failed, previous generation restored"
                    );
                    return;
                }
                Err(e) => tracing::error!(filter = name, failed, %e, "cannot restore the previous generation"),
            }
        }
        if self.filter.on_fault() == OnFault::Pass
            && let Some(handle) = self.attached.take()
        {
            inner.attach.detach(handle);
            tracing::error!(filter = name, failed, reason, "filter failed and was detached: packets pass");
        }
    }

    fn state(&self) -> State {
        match self.attached {
            None => State::Detached,
            Some(_) if self.current.quarantined.load(Relaxed) => State::Faulted,
            Some(_) => State::Running,
        }
    }

    fn swap_report(&self, compile_us: f64, times: &Times) -> SwapReport {
        SwapReport {
            name: self.filter.name().into(),
            generation: self.current.generation,
            sha256: self.current.artefact.sha256.clone(),
            compile_us,
            instantiate_us: times.instantiate,
            adopt_us: times.adopt,
            workers: self.past.len() - 1,
        }
    }

    fn per_worker(&self) -> Vec<Counts> {
        let mut sums = self.past.clone();
        sums.iter_mut().zip(self.current.counts()).for_each(|(sum, c)| sum.add(&c));
        sums
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.per_worker().iter().for_each(|c| total.add(c));
        total
    }

    fn status(&self) -> FilterStatus {
        let at = self.filter.place();
        FilterStatus {
            name: self.filter.name().into(),
            state: self.state(),
            generation: self.current.generation,
            action: self.current.action,
            text: self.current.artefact.text.clone(),
            layer: at.layer,
            ifindex: at.ifindex,
            dirs: at.dirs,
            priority: at.priority,
            on_fault: self.filter.on_fault(),
            counts: self.total(),
        }
    }

    fn detail(&self) -> FilterDetail {
        let artefact = &self.current.artefact;
        let program = artefact.program.as_ref();
        let since = artefact.created.duration_since(UNIX_EPOCH).unwrap_or_default();
        FilterDetail {
            status: self.status(),
            sha256: artefact.sha256.clone(),
            created_unix_ms: since.as_millis() as u64,
            previous: self.previous.as_ref().map(|p| p.generation),
            restored_from: self.current.restored_from,
            program: program.map_or(Vec::new(), |p| smpnet_bpf::disasm(p.insns()).lines().map(Into::into).collect()),
            wasm_bytes: artefact.wasm_bytes,
            adopted: self.filter.slots().map(|s| s.adopted()).collect(),
            generations: self.generations(),
            last_fault: self.current.first_fault.get().cloned(),
        }
    }

    fn generations(&self) -> Vec<GenerationStats> {
        self.history.iter().cloned().chain([self.current.report()]).collect()
    }

    fn stats(&self) -> FilterStats {
        let per_worker = self.per_worker();
        let mut total = Counts::default();
        per_worker.iter().for_each(|c| total.add(c));
        FilterStats {
            name: self.filter.name().into(),
            generation: self.current.generation,
            ns_per_packet: total.ns_per_packet(),
            total,
            per_worker,
            generations: self.generations(),
            older: self.older,
        }
    }

    fn decide(&self, packet: &[u8]) -> FilterDecision {
        let version = &self.current;
        let wirelen = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        let matched = version.artefact.program.as_ref().map(|p| p.run(packet, wirelen) != 0);
        let verdict = match matched {
            None => "unknown",
            Some(m) if m == (version.action == Action::Pass) => "pass",
            Some(_) => "drop",
        };
        FilterDecision {
            filter: self.filter.name().into(),
            generation: version.generation,
            text: version.artefact.text.clone(),
            action: version.action,
            matched,
            verdict,
        }
    }
}

fn check_name(name: &str) -> Result<(), FilterError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    match name.len() {
        1..=63 if name.bytes().all(good) => Ok(()),
        _ => Err(FilterError::BadName(name.into())),
    }
}

/// One instance for each worker.
fn instances(
    engine: &GeneratedEngine,
    name: &str,
    version: &Arc<FilterVersion>,
    workers: usize,
) -> Result<Vec<Handover>, FilterError> {
    let make = || engine.instantiate(&version.artefact.module).map_err(|e| wasm_error(name, e));
    (0..workers).map(|_| Ok(Box::new(Prepared { version: version.clone(), instance: make()? }))).collect()
}

/// Compiles a filter's code.
fn build(engine: &GeneratedEngine, name: &str, source: &Source, layer: Layer) -> Result<Arc<Artefact>, FilterError> {
    let options = CompileOptions { pool_pages: engine.pool_pages() };
    let (program, text) = match source {
        Source::Expr(text) => {
            let error = |reason: String| FilterError::Expression { name: name.into(), reason };
            let compiled =
                compile_expr(text, layer.dlt()).map_err(|e| error(crate::error::one_line(&e.to_string())))?;
            (Some(compiled.program), text.trim().to_owned())
        }
        Source::Program(program) => {
            (Some(program.clone()), format!("program of {} instructions", program.insns().len()))
        }
        Source::Wasm(bytes) => (None, format!("generated module of {} bytes", bytes.len())),
    };
    let compiled;
    let wasm = match (&program, source) {
        (None, Source::Wasm(bytes)) => bytes,
        (program, _) => {
            compiled = program.as_ref().map_or(Vec::new(), |p| compile_wasm(p, &options));
            &compiled
        }
    };
    let module = engine.compile(wasm).map_err(|e| wasm_error(name, e))?;
    let sha256 = Sha256::digest(wasm).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let reach = program.as_ref().map_or(usize::MAX, reach);
    let created = SystemTime::now();
    Ok(Arc::new(Artefact { module, program, reach, text, sha256, wasm_bytes: wasm.len(), created }))
}

/// How many bytes of a packet a program may look at.
fn reach(program: &Program) -> usize {
    match program.reach() {
        (fixed, false) => usize::try_from(fixed).unwrap_or(usize::MAX),
        (_, true) => usize::MAX,
    }
}

fn wasm_error(name: &str, source: WasmError) -> FilterError {
    FilterError::Wasm { name: name.into(), source }
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_nanos() as f64 / 1000.0
}

#[cfg(test)]
#[path = "manager_tests.rs"]
mod tests;
