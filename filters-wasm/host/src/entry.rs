//! One filter of a manager: its generations over time, and its books.

use crate::care::Care;
use crate::guest::Lines;
use crate::manager::Inner;
use crate::report::{CounterStats, FilterDetail, FilterStats, FilterStatus, Kind, ModuleDetail, State, SwapReport};
use crate::shadow::{Shared, Unit};
use crate::supervisor::Remains;
use crate::version::{Artefact, Code, Counts, FilterVersion, GenerationStats};
use crate::{Action, Capability, Filter, FilterError, OnFault};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, UNIX_EPOCH};

/// Generations whose counters are kept one by one; those of older ones are summed up.
const HISTORY: usize = 32;

/// A filter, the generation in force, and what came before.
pub(crate) struct Entry {
    pub(crate) filter: Arc<Filter>,
    /// Handle of the hook; `None` when faults took it off.
    pub(crate) attached: Option<u64>,
    pub(crate) current: Arc<FilterVersion>,
    pub(crate) previous: Option<Previous>,
    /// Newest last.
    pub(crate) history: VecDeque<GenerationStats>,
    /// Sum of the generations before the history.
    pub(crate) older: Counts,
    /// Sum of all generations but the current one, for each worker.
    pub(crate) past: Vec<Counts>,
    /// The same of the counters of modules, by their names.
    pub(crate) past_counters: BTreeMap<String, Vec<u64>>,
    /// Faults, and instances to be made again.
    pub(crate) care: Care,
    /// What modules wrote to the log.
    pub(crate) lines: Arc<Lines>,
    /// The version that runs beside the one in force.
    pub(crate) shadow: Option<Arc<Shared>>,
}

pub(crate) struct Previous {
    pub(crate) generation: u64,
    pub(crate) action: Action,
    pub(crate) artefact: Arc<Artefact>,
}

/// Times of one publication, in microseconds.
pub(crate) struct Times {
    pub(crate) instantiate: f64,
    pub(crate) adopt: f64,
}

impl Entry {
    /// Makes an instance for each worker, leaves them in the mailboxes, publishes the generation, and waits until no
    /// worker judges by the old one.
    fn publish(
        &mut self,
        inner: &Inner,
        artefact: Arc<Artefact>,
        action: Action,
        restored_from: Option<u64>,
    ) -> Result<Times, FilterError> {
        let workers = inner.attach.workers();
        let generation = self.current.generation + 1;
        let version = Arc::new(FilterVersion::new(generation, action, artefact, restored_from, workers));
        let began = Instant::now();
        let instances = inner.engines.instances(self.filter.name(), &version, &self.lines)?;
        let instantiate = micros(began);

        if edits(&version) {
            self.filter.begins_to_edit();
        }
        let began = Instant::now();
        let mut gone = Vec::new();
        for (slot, instance) in self.filter.slots().zip(instances) {
            gone.extend(slot.offer(instance));
        }
        self.filter.published().store(version.clone());
        inner.attach.synchronize();
        let adopt = micros(began);

        gone.extend(self.filter.slots().flat_map(|s| s.take_retired()));
        let _ = inner.lines.bury.send(Remains::Instances(gone));
        let old = std::mem::replace(&mut self.current, version);
        self.care.reset();
        self.remember(&old);
        self.previous =
            Some(Previous { generation: old.generation, action: old.action, artefact: old.artefact.clone() });
        let _ = inner.lines.bury.send(Remains::Version(old));
        Ok(Times { instantiate, adopt })
    }

    /// Runs a version beside the one in force, in place of the shadow that there may be.
    pub(crate) fn set_shadow(
        &mut self,
        inner: &Inner,
        artefact: Arc<Artefact>,
        action: Action,
    ) -> Result<(), FilterError> {
        let workers = inner.attach.workers();
        // It is no generation yet; its modules are told the number that they would have.
        let generation = self.current.generation + 1;
        let version = Arc::new(FilterVersion::new(generation, action, artefact, None, workers));
        let instances = inner.engines.instances(self.filter.name(), &version, &self.lines)?;
        let shared = Arc::new(Shared::new(version, workers));
        for (slot, instance) in self.filter.slots().zip(instances) {
            let gone = slot.door.offer(Some(Unit::new(*instance, shared.clone())));
            let _ = inner.lines.bury.send(Remains::Shadows(gone));
        }
        self.shadow = Some(shared);
        Ok(())
    }

    /// Ends the shadow. True when there was one.
    pub(crate) fn end_shadow(&mut self, inner: &Inner) -> bool {
        if self.shadow.take().is_none() {
            return false;
        }
        for slot in self.filter.slots() {
            let _ = inner.lines.bury.send(Remains::Shadows(slot.door.offer(None)));
        }
        true
    }

    /// Takes over the counters of a generation that judges no more.
    fn remember(&mut self, old: &FilterVersion) {
        self.past.iter_mut().zip(old.counts()).for_each(|(sum, c)| sum.add(&c));
        add_counters(&mut self.past_counters, old);
        self.history.push_back(old.report());
        if self.history.len() > HISTORY
            && let Some(oldest) = self.history.pop_front()
        {
            self.older.add(&oldest.counts);
        }
    }

    /// [`publish`](Self::publish) for a filter that faults may have taken off its hooks: it goes back on them. Until the new
    /// generation is published there, the policy lets its packets pass, as they do now.
    pub(crate) fn replace(
        &mut self,
        inner: &Inner,
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
        let published = self.publish(inner, artefact, action, restored_from);
        match (&published, back) {
            (Ok(_), Some(_)) => self.attached = back,
            (Err(_), Some(handle)) => inner.attach.detach(handle),
            (_, None) => {}
        }
        published
    }

    /// The current generation failed too often: the previous one comes back. Without one, a filter that passes packets
    /// when it fails leaves its hooks, and one that drops them stays and drops.
    pub(crate) fn recover(&mut self, inner: &Inner) {
        let name = self.filter.name().to_owned();
        let failed = self.current.generation;
        let reason = self.current.first_fault.get().cloned().unwrap_or_default();
        if let Some(previous) = self.previous.take() {
            let from = Some(previous.generation);
            match self.publish(inner, previous.artefact, previous.action, from) {
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
        if self.filter.on_fault() != OnFault::Drop
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
            Some(_) if self.care.waiting() => State::Recovering,
            Some(_) => State::Running,
        }
    }

    pub(crate) fn swap_report(&self, compile_us: f64, times: &Times) -> SwapReport {
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

    pub(crate) fn status(&self) -> FilterStatus {
        let at = self.filter.place();
        FilterStatus {
            name: self.filter.name().into(),
            state: self.state(),
            kind: self.kind(),
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

    pub(crate) fn detail(&self) -> FilterDetail {
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
            last_fault: self.care.last().or_else(|| self.current.first_fault.get().cloned()),
            fault_limit: self.filter.faults(),
            faults: self.care.faults(),
            log: self.care.log(),
            module: artefact.guest().map(|g| ModuleDetail {
                info: g.info.clone(),
                granted: g.granted,
                limits: g.limits,
                tables: g.tables.clone(),
            }),
            counters: self.counters(),
            shadow: self.shadow.as_ref().map(|s| s.version.artefact.text.clone()),
        }
    }

    fn kind(&self) -> Kind {
        match (&self.current.artefact.code, &self.current.artefact.program) {
            (Code::Guest(_), _) => Kind::Module,
            (Code::Generated(_), Some(_)) => Kind::Program,
            (Code::Generated(_), None) => Kind::Generated,
        }
    }

    /// Counters of modules over all generations.
    fn counters(&self) -> Vec<CounterStats> {
        let mut sums = self.past_counters.clone();
        add_counters(&mut sums, &self.current);
        let all = sums.into_iter();
        all.map(|(name, per_worker)| CounterStats { name, total: per_worker.iter().sum(), per_worker }).collect()
    }

    /// Names of the tables that this filter looks into, now or after a rollback.
    pub(crate) fn uses(&self, table: &str) -> bool {
        let previous = self.previous.as_ref().map(|p| &p.artefact);
        let shadow = self.shadow.as_ref().map(|s| &s.version.artefact);
        let all = [Some(&self.current.artefact), previous, shadow];
        all.into_iter().flatten().filter_map(|a| a.guest()).any(|g| g.tables.iter().any(|t| t == table))
    }

    fn generations(&self) -> Vec<GenerationStats> {
        self.history.iter().cloned().chain([self.current.report()]).collect()
    }

    pub(crate) fn stats(&self) -> FilterStats {
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
            counters: self.counters(),
        }
    }
}

/// Whether a generation may change packets.
pub(crate) fn edits(version: &FilterVersion) -> bool {
    version.artefact.guest().is_some_and(|g| g.granted.has(Capability::Edit))
}

/// Adds what a generation counted by itself.
fn add_counters(sums: &mut BTreeMap<String, Vec<u64>>, version: &FilterVersion) {
    let Some(code) = version.artefact.guest() else { return };
    for (i, name) in code.info.manifest.counters.iter().enumerate() {
        let sum = sums.entry(name.clone()).or_insert_with(|| vec![0; version.counters.len()]);
        sum.iter_mut().zip(&version.counters).for_each(|(sum, own)| *sum = sum.wrapping_add(own[i].get()));
    }
}

pub(crate) fn micros(since: Instant) -> f64 {
    since.elapsed().as_nanos() as f64 / 1000.0
}
