//! Care for modules that fault: their faults are written down, too many of them end the generation, and instances that
//! faulted are made again, after a while that grows with every fault.

use crate::entry::Entry;
use crate::guest::Fault;
use crate::manager::Inner;
use crate::report::{FaultEvent, LogLine};
use crate::slot::News;
use crate::supervisor::Remains;
use crate::{FaultLimit, OnFault};
use smpnet_filter_abi::level;
use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Faults and log lines that are kept.
const KEPT: usize = 64;
/// First and last interval between a fault and the new instance.
const DELAY: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(10)];
/// After so long without a fault the interval is the first one again.
const CALM: Duration = Duration::from_secs(60);
/// Lines about faults that go to the log of the router in each ten seconds; the others are counted.
const LOGGED: u32 = 5;

/// Faults of a filter's modules, and what is to be done about them.
pub(crate) struct Care {
    faults: VecDeque<FaultEvent>,
    log: VecDeque<LogLine>,
    /// When the last faults were, as far back as the limit looks.
    recent: VecDeque<Instant>,
    workers: Vec<Patient>,
    logged: (Option<Instant>, u32, u64),
}

/// A worker's instance that faults.
#[derive(Clone, Copy, Default)]
struct Patient {
    delay: Duration,
    last: Option<Instant>,
    /// When the next instance is due.
    due: Option<Instant>,
}

impl Care {
    pub(crate) fn new(workers: usize) -> Care {
        Care {
            faults: VecDeque::new(),
            log: VecDeque::new(),
            recent: VecDeque::new(),
            workers: vec![Patient::default(); workers],
            logged: (None, 0, 0),
        }
    }

    /// Whether some worker waits for an instance.
    pub(crate) fn waiting(&self) -> bool {
        self.workers.iter().any(|p| p.due.is_some())
    }

    pub(crate) fn last(&self) -> Option<String> {
        self.faults.back().map(|f| f.line.clone())
    }

    pub(crate) fn faults(&self) -> Vec<FaultEvent> {
        self.faults.iter().cloned().collect()
    }

    pub(crate) fn log(&self) -> Vec<LogLine> {
        self.log.iter().cloned().collect()
    }

    /// A new generation is in force: the faults of the one before do not count against it.
    pub(crate) fn reset(&mut self) {
        self.recent.clear();
        self.workers.iter_mut().for_each(|p| *p = Patient::default());
    }

    /// Writes a fault down. True when it was one too many.
    fn fault(&mut self, event: FaultEvent, limit: FaultLimit) -> bool {
        let now = Instant::now();
        self.recent.push_back(now);
        let window = Duration::from_secs(limit.seconds.max(1).into());
        while self.recent.front().is_some_and(|t| now.duration_since(*t) > window) {
            self.recent.pop_front();
        }
        if let Some(p) = self.workers.get_mut(event.worker) {
            let calm = p.last.is_none_or(|t| now.duration_since(t) >= CALM);
            p.delay = if calm { DELAY[0] } else { (2 * p.delay).clamp(DELAY[0], DELAY[1]) };
            (p.last, p.due) = (Some(now), Some(now + p.delay));
        }
        push(&mut self.faults, event);
        self.recent.len() >= limit.max.max(1) as usize
    }

    /// Whether a line about a fault may be logged now, and how many were left out before it.
    fn may_log(&mut self) -> Option<u64> {
        let (since, lines, left_out) = &mut self.logged;
        if since.is_none_or(|t| t.elapsed() > Duration::from_secs(10)) {
            (*since, *lines) = (Some(Instant::now()), 0);
        }
        *lines += 1;
        if *lines > LOGGED {
            *left_out += 1;
            return None;
        }
        Some(std::mem::take(left_out))
    }
}

impl Entry {
    /// Supervisor: reads the workers' news and makes the instances that are due. Returns when the next one is.
    pub(crate) fn attend(&mut self, inner: &Inner) -> Option<Instant> {
        self.read_log();
        let notes: Vec<_> = self.filter.slots().enumerate().flat_map(|(w, s)| s.notes().map(move |n| (w, n))).collect();
        for (worker, note) in notes {
            match note.news {
                News::Fault(fault) => self.faulted(worker, note.generation, fault),
                News::StateLost(reason) => {
                    let filter = self.filter.name();
                    tracing::warn!(filter, worker, reason, "state of the last generation was not taken: begins anew");
                }
            }
        }
        if self.current.quarantined.load(Relaxed) {
            self.care.workers.iter_mut().for_each(|p| p.due = None);
            return None;
        }
        self.heal(inner);
        self.care.workers.iter().filter_map(|p| p.due).min()
    }

    fn faulted(&mut self, worker: usize, generation: u64, fault: Fault) {
        let filter = self.filter.name().to_owned();
        let Fault { kind, line, trace } = fault;
        if let Some(left_out) = self.care.may_log() {
            tracing::error!(filter, generation, worker, left_out, trace = trace.join(" < "), "filter faulted: {line}");
        }
        let event = FaultEvent { unix_ms: unix_ms(), generation, worker, kind, line: line.clone(), trace };
        if generation != self.current.generation {
            // One that was swapped out meanwhile.
            push(&mut self.care.faults, event);
            return;
        }
        let _ = self.current.first_fault.set(line);
        if self.care.fault(event, self.filter.faults()) || self.filter.on_fault() == OnFault::Detach {
            self.current.quarantined.store(true, Relaxed);
        }
    }

    /// Makes the instances that are due.
    fn heal(&mut self, inner: &Inner) {
        let now = Instant::now();
        let mut gone = Vec::new();
        for (worker, slot) in self.filter.slots().enumerate() {
            let Some(patient) = self.care.workers.get_mut(worker) else { continue };
            if patient.due.is_none_or(|d| d > now) {
                continue;
            }
            match inner.engines.instance(self.filter.name(), &self.current, worker, &self.lines) {
                Ok(instance) => {
                    gone.extend(slot.offer(instance));
                    patient.due = None;
                }
                Err(e) => {
                    patient.delay = (2 * patient.delay).min(DELAY[1]);
                    patient.due = Some(now + patient.delay);
                    tracing::error!(filter = self.filter.name(), worker, %e, "no new instance after a fault");
                }
            }
        }
        if !gone.is_empty() {
            let _ = inner.lines.bury.send(Remains::Instances(gone));
        }
    }

    fn read_log(&mut self) {
        let filter = self.filter.name();
        for line in self.lines.take() {
            let text = line.text();
            let level = match u32::from(line.level) {
                level::ERROR => "error",
                level::WARN => "warn",
                level::INFO => "info",
                _ => "debug",
            };
            // The level is the module's own word: nothing that it writes is an error of the router.
            match level {
                "error" | "warn" => tracing::warn!(filter, level, "module: {text}"),
                "info" => tracing::info!(filter, "module: {text}"),
                _ => tracing::debug!(filter, "module: {text}"),
            }
            push(&mut self.care.log, LogLine { unix_ms: unix_ms(), level, text });
        }
        let lost = self.lines.lost.swap(0, Relaxed);
        if lost > 0 {
            let text = format!("{lost} lines were too many and are lost");
            tracing::warn!(filter, "module: {text}");
            push(&mut self.care.log, LogLine { unix_ms: unix_ms(), level: "warn", text });
        }
    }
}

fn push<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() == KEPT {
        list.pop_front();
    }
    list.push_back(item);
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
