//! Connections that are saved, and loaded into another run of the router, or another version of it.

use super::Npf;
use crate::{engine::LoadError, state::ConnectionRecord};
use std::collections::BTreeMap;

/// Slots of a worker's table, and records, that a worker is asked about between two bursts.
const PAGE: usize = 512;

/// What became of records.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Loaded {
    /// Connections that are here now.
    pub loaded: u64,
    /// How many were not taken, by the reason.
    pub refused: BTreeMap<String, u64>,
}

impl Npf {
    /// Tells all connections, those with a translation first, as [`Npf::load`] wants them, until `each` returns false. They are those
    /// of some moments, one after the other: the router goes on.
    pub fn save(&self, mut each: impl FnMut(ConnectionRecord) -> bool) {
        for with_nat in [true, false] {
            for worker in 0..self.stack.workers() {
                let mut from = Some(0);
                while let Some(start) = from {
                    let page = self.ask(worker, move |slot, now| slot.engine.records(start..start + PAGE as u32, now));
                    let Some((page, next)) = page else { break };
                    for record in page.into_iter().filter(|r| r.nat.is_some() == with_nat) {
                        if !each(record) {
                            return;
                        }
                    }
                    from = next;
                }
            }
        }
    }

    /// Takes in connections that were saved: each on the worker that its packets come to.
    pub fn load(&self, records: Vec<ConnectionRecord>) -> Loaded {
        let mut loaded = Loaded::default();
        let workers = self.stack.workers();
        let mut rest = records.into_iter().peekable();
        while rest.peek().is_some() {
            let page: Vec<ConnectionRecord> = rest.by_ref().take(PAGE).collect();
            let mut of_worker: Vec<Vec<ConnectionRecord>> = vec![Vec::new(); workers];
            for (record, worker) in self.offer(0, page, &mut loaded) {
                of_worker[usize::from(worker) % workers].push(record);
            }
            for (worker, records) in of_worker.into_iter().enumerate().filter(|(_, r)| !r.is_empty()) {
                for (_, other) in self.offer(worker, records, &mut loaded) {
                    *loaded.refused.entry(LoadError::Elsewhere(other).to_string()).or_default() += 1;
                }
            }
        }
        loaded
    }

    /// Offers records to a worker; returns those of others, each with whose it is.
    fn offer(&self, worker: usize, records: Vec<ConnectionRecord>, loaded: &mut Loaded) -> Vec<(ConnectionRecord, u8)> {
        let answers = self.ask(worker, move |slot, now| {
            let load = |record: ConnectionRecord| {
                let answer = slot.engine.load(&record, now);
                (record, answer.map(drop))
            };
            records.into_iter().map(load).collect::<Vec<_>>()
        });
        let mut elsewhere = Vec::new();
        for (record, answer) in answers.into_iter().flatten() {
            match answer {
                Ok(()) => loaded.loaded += 1,
                Err(LoadError::Elsewhere(other)) => elsewhere.push((record, other)),
                Err(e) => *loaded.refused.entry(e.to_string()).or_default() += 1,
            }
        }
        elsewhere
    }
}
