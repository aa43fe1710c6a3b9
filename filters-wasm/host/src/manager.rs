//! Loading, swapping and watching filters on a running router.

use crate::build::{build, wasm_error};
use crate::entry::{Entry, Times, instances, micros};
use crate::report::{FilterDecision, FilterDetail, FilterStats, FilterStatus, SwapReport};
use crate::supervisor::{Lines, Remains, lines, start};
use crate::version::{Artefact, Counts, FilterVersion};
use crate::{Action, Attach, Dirs, Filter, FilterError, FilterSpec, GeneratedEngine, Layer, Source};
use smpnet_abi::PoolDesc;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// All filters of a router.
///
/// Methods may be called on any thread but a worker; they take effect one after the other, except that compilation runs
/// outside of the order. When one fails, what ran before still runs. Dropping the manager detaches its filters.
pub struct FilterManager {
    inner: Arc<Inner>,
    supervisor: Option<JoinHandle<()>>,
}

pub(crate) struct Inner {
    pub(crate) attach: Arc<dyn Attach>,
    pub(crate) lines: Lines,
    state: Mutex<Filters>,
}

#[derive(Default)]
struct Filters {
    engine: Option<Arc<GeneratedEngine>>,
    entries: BTreeMap<String, Entry>,
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

impl FilterManager {
    /// What one filter would say of a packet, wherever it is attached, as [`FilterManager::explain`]; `None` when there is
    /// no filter of that name.
    pub fn decide(&self, name: &str, packet: &[u8]) -> Option<FilterDecision> {
        self.inner.lock().entries.get(name).map(|e| e.decide(packet))
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

fn check_name(name: &str) -> Result<(), FilterError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    match name.len() {
        1..=63 if name.bytes().all(good) => Ok(()),
        _ => Err(FilterError::BadName(name.into())),
    }
}

#[cfg(test)]
#[path = "manager_tests.rs"]
mod tests;
