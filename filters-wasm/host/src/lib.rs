//! The WebAssembly filter host: engines, memory windows, per-worker instances, hot swap.
//!
//! There are two kinds of filters, in one machinery: generations, swaps, rollback, counters.
//!
//! **Generated modules.** A filter is an expression or a program that smpnet compiles to a WebAssembly module, which judges
//! packets where they lie. The packet pool is the module's memory 0, mapped read-only; [`verify`] proves of each module that it only loads
//! from it. Memory 1 is one page in which the host writes up to 64 descriptors and the module as many results: one call
//! per burst.
//!
//! **Modules of others** ([`guest`]) keep the filter ABI (`smpnet-filter-abi`). They run in an engine of their own that watches
//! the time, see copies of packets in their own memory, and do what their operator granted: look into [`Tables`], mark, reject,
//! change packets by patches that the host applies. A module that faults is judged by the fault policy, its instance is made
//! anew, and too many faults bring the previous generation back. A new version can run as a shadow first: on the same packets,
//! compared and never acted upon.
//!
//! ```text
//!  control threads                                       worker, at the start of a burst
//!
//!  source -> program -> module -> verify -> machine code
//!                                   |
//!               an instance for each worker, run once
//!                                   |
//!                                   v
//!                          the worker's mailbox  ----->  takes it when the generation is new
//!                                   |                    judges the whole burst by it
//!  publish the generation, wait for quiescent points     leaves the old one in a box
//!                                   |                              |
//!  counters of the old generation are final              the supervisor thread frees it
//! ```
//!
//! What must hold at all times:
//! - A burst is judged by one generation, and every packet is counted in exactly one.
//! - An instance lies in the mailbox before its generation is published, and gives way to the next one in one step, so a
//!   worker that looks finds one; no packet waits and none is lost.
//! - Nothing is freed on a worker, and a worker makes no system call, takes no lock and allocates nothing
//!   (`tests/quiet.rs`).
//! - [`GeneratedEngine`] has neither fuel nor epochs, so its modules come from compilers of this process: nobody outside of
//!   this crate can make a [`GeneratedWasm`]. Modules of strangers run in the other engine, which never sees the pool.
//! - There is no way in for precompiled code but [`CodeCache`], which reads back what it wrote itself, under an HMAC.
//!
//! ```no_run
//! use smpnet_wasm::{Action, FilterManager, FilterSpec, Source, StackAttach};
//! use std::sync::Arc;
//! # use smpnet_runtime::Runtime;
//! # use smpnet_stack::Stack;
//! # fn example(runtime: Arc<Runtime>, stack: Arc<Stack>) -> Result<(), Box<dyn std::error::Error>> {
//! let filters = FilterManager::new(Arc::new(StackAttach::new(runtime, stack)))?;
//! let expr = |text: &str| Source::Expr(text.to_owned());
//! filters.load(FilterSpec::new("block", expr("udp port 5000"), Action::Drop))?;
//! let report = filters.swap("block", expr("udp portrange 5000-5999"), None)?;
//! println!("generation {} after {} us", report.generation, report.adopt_us);
//! filters.rollback("block")?;
//! # Ok(()) }
//! ```

mod build;
mod cache;
mod care;
mod cells;
mod engine;
mod engines;
mod entry;
mod error;
mod explain;
mod filter;
pub mod guest;
#[cfg(test)]
mod guest_tests;
#[cfg(test)]
mod hazard_tests;
mod hook;
mod manager;
mod memory;
mod offline;
mod report;
pub mod ruleset;
mod shadow;
#[cfg(test)]
mod shadow_tests;
mod slot;
mod spec;
mod stack;
#[cfg(test)]
mod stress_tests;
mod supervisor;
mod tables;
#[cfg(test)]
mod testguest;
#[cfg(test)]
mod testpool;
#[cfg(test)]
mod testrouter;
mod verify;
mod version;

pub use cache::{CACHE_BYTES, CacheReport, CacheStats, CodeCache};
pub use engine::{CompiledModule, FilterInstance, GeneratedEngine, Trap};
pub use error::{FilterError, WasmError};
pub use explain::Question;
pub use filter::{Asked, Filter};
pub use guest::{Capabilities, Capability, ModuleError, ModuleInfo, ModuleLimits, TableKind};
pub use manager::FilterManager;
pub use offline::{EvaluateError, Evaluation, Evaluator, EvaluatorError};
pub use report::{
    CounterStats, FaultEvent, FilterDecision, FilterDetail, FilterStats, FilterStatus, Kind, LogLine, ModuleDetail,
    State, SwapReport,
};
pub use shadow::{Diff, DiffCounts, Difference, Opinion};
pub use spec::{
    Action, Attach, AttachPoint, Dirs, FaultLimit, FilterSpec, GeneratedWasm, Layer, ModuleSpec, OnFault, Source,
};
pub use stack::StackAttach;
pub use tables::{ENTRIES_DEFAULT, ENTRIES_MAX, TABLES_MAX, TableEntry, TableError, TableKey, TableStatus, Tables};
pub use verify::{GENERATED_ABI, MODULE_MAX, POOL_IMPORT, VerifyError, verify};
pub use version::{Counts, GenerationStats};
