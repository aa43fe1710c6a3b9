//! npf in the router: an engine on each worker, asked about all packets that cross an interface.
//!
//! ```text
//! control threads    Npf: reload, rules, tables, lists ------ publishes ----> InForce (ruleset, tables), a version
//! workers            Hook: takes the version up, hands packets over to the worker that has their connection, judges
//! ```
//!
//! Connections stay on their worker and nothing of them is locked or shared ([`crate::engine::Share`]). What control threads
//! want to know of them, they ask a worker, which answers between two bursts, a few thousand connections at a time.

mod commands;
mod control;
mod hook;
mod listing;
mod packets;
mod saving;
mod watch;

pub use control::{Npf, NpfError, Settings};
pub use hook::{Said, WorkerStats};
pub use listing::{Listed, RuleTally};
pub use saving::Loaded;
pub use watch::{Copied, WatchError, Watching};

use crate::{
    engine::{Addresses, Ruleset},
    tables::Tables,
    wasm::RunningRuleset,
};
use std::sync::{Arc, Mutex, PoisonError};

/// What workers judge by. Another one takes its place as a whole.
#[derive(Clone)]
struct InForce {
    /// Counts up.
    version: u64,
    ruleset: Arc<Ruleset>,
    tables: Tables,
    addresses: Addresses,
    /// The rules as they run, for each worker to take; without, their plan is asked.
    modules: Option<Arc<Modules>>,
}

/// What each worker takes when it takes up a version.
struct Modules(Vec<Mutex<Option<Box<dyn RunningRuleset>>>>);

impl Modules {
    /// That of a worker, for which it comes once. Nobody else waits for the lock.
    fn take(&self, worker: usize) -> Option<Box<dyn RunningRuleset>> {
        self.0.get(worker)?.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
