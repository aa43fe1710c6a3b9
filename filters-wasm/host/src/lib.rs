//! The WebAssembly filter host: engines, memory windows, per-worker instances, hot swap.
//!
//! A filter is an expression or a program that smpnet compiles to a WebAssembly module, which judges packets where they
//! lie. The packet pool is the module's memory 0, mapped read-only; [`verify`] proves of each module that it only loads
//! from it. Memory 1 is one page in which the host writes up to 64 descriptors and the module as many results: one call
//! per burst.
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
//! - An instance lies in the mailbox before its generation is published. A worker that finds the mailbox empty (its content
//!   is being replaced by the next swap) judges by the reference interpreter; no packet waits and none is lost.
//! - Nothing is freed on a worker, and a worker makes no system call, takes no lock and allocates nothing
//!   (`tests/quiet.rs`).
//! - Modules come from compilers of this process. [`GeneratedEngine`] has neither fuel nor epochs; modules of strangers
//!   need an engine with both, and never the pool.
//! - There is no way in for precompiled code.
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
mod engine;
mod entry;
mod error;
#[cfg(test)]
mod figures_tests;
mod filter;
mod hook;
mod manager;
mod memory;
mod offline;
mod report;
mod slot;
mod spec;
mod stack;
#[cfg(test)]
mod stress_tests;
mod supervisor;
#[cfg(test)]
mod testpool;
#[cfg(test)]
mod testrouter;
mod verify;
mod version;

pub use engine::{CompiledModule, FilterInstance, GeneratedEngine, Trap};
pub use error::{FilterError, WasmError};
pub use filter::Filter;
pub use manager::FilterManager;
pub use offline::{EvaluateError, Evaluation, Evaluator, EvaluatorError};
pub use report::{FilterDecision, FilterDetail, FilterStats, FilterStatus, State, SwapReport};
pub use spec::{Action, Attach, AttachPoint, Dirs, FilterSpec, Layer, OnFault, Source};
pub use stack::StackAttach;
pub use verify::{GENERATED_ABI, MODULE_MAX, POOL_IMPORT, VerifyError, verify};
pub use version::{Counts, FAULTS_MAX, GenerationStats};
