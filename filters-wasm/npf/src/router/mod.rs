//! npf in the router: an engine on each worker, asked about all packets that cross an interface.
//!
//! ```text
//! control threads    Npf: reload, rules, tables, lists ------ publishes ----> InForce (ruleset, tables), a version
//! workers            Hook: takes the version up, hands packets over to the worker that has their connection, judges
//! ```
//!
//! Connections stay on their worker and nothing of them is locked or shared ([`crate::engine::Share`]). What control threads
//! want to know of them, they ask a worker, which answers between two bursts, a few thousand connections at a time.

mod control;
mod hook;
mod listing;
mod packets;

pub use control::{Npf, NpfError, Settings};
pub use hook::{Said, WorkerStats};
pub use listing::{Listed, RuleTally};

use crate::{
    engine::{Addresses, Ruleset},
    tables::Tables,
};
use std::sync::Arc;

/// What workers judge by. Another one takes its place as a whole.
#[derive(Clone)]
struct InForce {
    /// Counts up.
    version: u64,
    ruleset: Arc<Ruleset>,
    tables: Tables,
    addresses: Addresses,
}
