//! Loading, swapping and watching filters on a running router.

use crate::build::build;
use crate::cache::{CacheStats, CodeCache};
use crate::care::Care;
use crate::engines::Engines;
use crate::entry::{Entry, Times, edits, micros};
use crate::explain::{Question, Witness};
use crate::guest::Lines as LogLines;
use crate::report::{FilterDecision, FilterDetail, FilterStats, FilterStatus, SwapReport};
use crate::shadow::Diff;
use crate::supervisor::{Lines, Remains, lines, start};
use crate::tables::{TableError, Tables};
use crate::version::{Artefact, Counts, FilterVersion};
use crate::{Action, Attach, Filter, FilterError, FilterSpec, Source};
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
    pub(crate) engines: Engines,
    pub(crate) lines: Lines,
    state: Mutex<Filters>,
}

#[derive(Default)]
struct Filters {
    entries: BTreeMap<String, Entry>,
}

impl FilterManager {
    /// A manager without filters. An engine starts with the first filter of its kind, so that a router without filters pays nothing.
    ///
    /// # Errors
    /// The system has no thread left for the supervisor.
    pub fn new(attach: Arc<dyn Attach>) -> std::io::Result<FilterManager> {
        let (lines, receivers) = lines();
        let engines = Engines::new(attach.clone());
        let inner = Arc::new(Inner { attach, engines, lines, state: Mutex::default() });
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
        let began = Instant::now();
        let artefact = build(&self.inner.engines, &spec.name, &spec.source, spec.layer)?;
        let compile_us = micros(began);
        self.inner.lock().load(&self.inner, spec, artefact, compile_us)
    }

    /// Replaces the code of a filter, and what a match means when `action` is given, between two bursts of each worker.
    /// When it returns, no packet is judged by the old code any more.
    ///
    /// # Errors
    /// An unknown name, code that does not compile.
    pub fn swap(&self, name: &str, source: Source, action: Option<Action>) -> Result<SwapReport, FilterError> {
        let layer = self.inner.lock().entry(name)?.filter.place().layer;
        let began = Instant::now();
        let artefact = build(&self.inner.engines, name, &source, layer)?;
        let compile_us = micros(began);
        let mut state = self.inner.lock();
        let entry = state.entry(name)?;
        let action = action.unwrap_or(entry.current.action);
        let times = entry.replace(&self.inner, artefact, action, None)?;
        Ok(entry.swap_report(compile_us, &times))
    }

    /// Goes back to the code and action before the last swap, which was kept compiled. A second rollback goes forward again.
    ///
    /// # Errors
    /// An unknown name, no previous generation.
    pub fn rollback(&self, name: &str) -> Result<SwapReport, FilterError> {
        let mut state = self.inner.lock();
        let entry = state.entry(name)?;
        let Some(previous) = entry.previous.take() else {
            return Err(FilterError::NoPrevious(name.into()));
        };
        let (artefact, from) = (previous.artefact.clone(), Some(previous.generation));
        match entry.replace(&self.inner, artefact, previous.action, from) {
            Ok(times) => Ok(entry.swap_report(0.0, &times)),
            Err(e) => {
                entry.previous = Some(previous);
                Err(e)
            }
        }
    }

    /// Runs new code beside that of a filter, on the same packets; what it says is compared and nothing else. A shadow that
    /// there is gives way.
    ///
    /// # Errors
    /// An unknown name, code that does not compile.
    pub fn shadow_load(&self, name: &str, source: Source, action: Option<Action>) -> Result<(), FilterError> {
        let layer = self.inner.lock().entry(name)?.filter.place().layer;
        let artefact = build(&self.inner.engines, name, &source, layer)?;
        let mut state = self.inner.lock();
        let entry = state.entry(name)?;
        let action = action.unwrap_or(entry.current.action);
        entry.set_shadow(&self.inner, artefact, action)
    }

    /// How the shadow of a filter differs from it. Samples are given out once.
    ///
    /// # Errors
    /// An unknown name, no shadow.
    pub fn diff(&self, name: &str) -> Result<Diff, FilterError> {
        let mut state = self.inner.lock();
        let entry = state.entry(name)?;
        let shadow = entry.shadow.as_ref().ok_or_else(|| FilterError::NoShadow(name.into()))?;
        Ok(shadow.diff(name, entry.current.generation))
    }

    /// Puts the code of the shadow in force, by a swap like any other, and ends the shadow.
    ///
    /// # Errors
    /// An unknown name, no shadow.
    pub fn promote(&self, name: &str) -> Result<SwapReport, FilterError> {
        let mut state = self.inner.lock();
        let entry = state.entry(name)?;
        let shadow = entry.shadow.clone().ok_or_else(|| FilterError::NoShadow(name.into()))?;
        let (artefact, action) = (shadow.version.artefact.clone(), shadow.version.action);
        let times = entry.replace(&self.inner, artefact, action, None)?;
        entry.end_shadow(&self.inner);
        Ok(entry.swap_report(0.0, &times))
    }

    /// Ends the shadow of a filter.
    ///
    /// # Errors
    /// An unknown name, no shadow.
    pub fn shadow_drop(&self, name: &str) -> Result<(), FilterError> {
        let mut state = self.inner.lock();
        match state.entry(name)?.end_shadow(&self.inner) {
            true => Ok(()),
            false => Err(FilterError::NoShadow(name.into())),
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

    /// The tables that modules look into. They outlive filters; [`remove_table`](Self::remove_table) takes one out.
    pub fn tables(&self) -> &Tables {
        &self.inner.engines.tables
    }

    /// Takes a table out that no filter looks into.
    ///
    /// # Errors
    /// An unknown name, a table in use.
    pub fn remove_table(&self, name: &str) -> Result<(), FilterError> {
        let state = self.inner.lock();
        let users: Vec<&str> =
            state.entries.iter().filter(|(_, e)| e.uses(name)).map(|(name, _)| name.as_str()).collect();
        if !users.is_empty() {
            return Err(TableError::InUse { name: name.into(), users: users.join(", ") }.into());
        }
        Ok(self.inner.engines.tables.remove(name)?)
    }

    /// Keeps compiled code of modules from now on.
    pub fn set_cache(&self, cache: CodeCache) {
        *self.inner.engines.cache.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(cache));
    }

    /// What the cache of compiled code did; `None` without one.
    pub fn cache_stats(&self) -> Option<CacheStats> {
        self.inner.engines.cache().map(|c| c.stats())
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

    /// What the filters of a place would say of a packet, in the order in which they are asked: programs by the reference
    /// interpreter, modules by an instance made for the question. Each sees what the one before made of the packet. Counts
    /// nothing and touches no instance that judges packets. Ends with the first filter that drops.
    pub fn explain(&self, question: &Question<'_>) -> Vec<FilterDecision> {
        let mut decisions: Vec<FilterDecision> = Vec::new();
        let (mut mark, mut bytes) = (question.mark, None::<Vec<u8>>);
        for witness in self.witnesses(question) {
            let now = Question { mark, packet: bytes.as_deref().unwrap_or(question.packet), ..*question };
            let decision = witness.ask(&self.inner.engines, &now);
            let last = matches!(decision.verdict, "drop" | "reject");
            mark = decision.mark.unwrap_or(mark);
            bytes = decision.bytes.clone().or(bytes);
            decisions.push(decision);
            if last {
                break;
            }
        }
        decisions
    }

    /// The filters of a place, in the order in which they are asked.
    fn witnesses(&self, question: &Question<'_>) -> Vec<Witness> {
        let state = self.inner.lock();
        let here = |e: &&Entry| {
            let at = e.filter.place();
            e.attached.is_some()
                && at.layer == question.layer
                && at.ifindex.is_none_or(|i| i == question.ifindex)
                && at.dirs.covers(question.dirs())
        };
        let mut asked: Vec<&Entry> = state.entries.values().filter(here).collect();
        // As the stack does: filters for all interfaces first, then those of the interface. Handles grow with the order of
        // attachment.
        asked.sort_by_key(|e| (e.filter.place().ifindex.is_some(), e.filter.place().priority, e.attached));
        asked.into_iter().map(witness).collect()
    }

    /// What one filter would say of a packet, wherever it is attached, as [`FilterManager::explain`]; `None` when there is
    /// no filter of that name.
    pub fn decide(&self, name: &str, question: &Question<'_>) -> Option<FilterDecision> {
        let witness = self.inner.lock().entries.get(name).map(witness)?;
        Some(witness.ask(&self.inner.engines, question))
    }
}

fn witness(e: &Entry) -> Witness {
    Witness { filter: e.filter.clone(), version: e.current.clone() }
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

    fn bury(&self, mut entry: Entry) {
        if let Some(handle) = entry.attached.take() {
            self.attach.detach(handle);
        }
        let _ = self.lines.bury.send(Remains::Version(entry.current));
        let _ = self.lines.bury.send(Remains::Filter(entry.filter));
    }

    /// Supervisor: collects what workers gave up, cares for instances that faulted, and brings back generations in place of
    /// failed ones.
    pub(crate) fn attend(&self, remains: &mut Vec<Remains>) -> Attended {
        let mut state = self.lock();
        let mut attended = Attended { calm: true, due: None };
        for entry in state.entries.values_mut() {
            // In this order: who has adopted has given up the old one already.
            attended.calm &= entry.filter.slots().all(|s| s.adopted() == entry.current.generation);
            remains.push(Remains::Instances(entry.filter.slots().flat_map(|s| s.take_retired()).collect()));
            remains.push(Remains::Shadows(entry.filter.slots().flat_map(|s| s.door.take_retired()).collect()));
            let due = entry.attend(self);
            attended.due = attended.due.into_iter().chain(due).min();
            if entry.current.quarantined.load(Relaxed) {
                entry.recover(self);
            }
        }
        self.engines.tables.reap();
        attended
    }
}

/// What the supervisor found.
pub(crate) struct Attended {
    /// No worker has anything left to give up.
    pub(crate) calm: bool,
    /// When there is something to do again.
    pub(crate) due: Option<Instant>,
}

impl Filters {
    fn entry(&mut self, name: &str) -> Result<&mut Entry, FilterError> {
        self.entries.get_mut(name).ok_or_else(|| FilterError::NotFound(name.into()))
    }

    fn load(
        &mut self,
        inner: &Inner,
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
        let bell = inner.lines.bell.clone();
        let lines = LogLines::new({
            let bell = bell.clone();
            move || bell.ring()
        });
        let instances = inner.engines.instances(&spec.name, &first, &lines)?;
        let instantiate = micros(began);
        let filter = Filter::new(&spec, pool, first.clone(), workers, bell);
        filter.slots().zip(instances).for_each(|(slot, instance)| drop(slot.offer(instance)));
        if edits(&first) {
            filter.begins_to_edit();
        }
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
            past_counters: BTreeMap::new(),
            care: Care::new(workers),
            lines,
            shadow: None,
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
