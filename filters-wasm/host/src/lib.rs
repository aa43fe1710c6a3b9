//! The WebAssembly filter host: engines, memory windows, per-worker instances, hot swap.

mod engine;
mod error;
#[cfg(test)]
mod figures_tests;
mod filter;
mod hook;
mod manager;
mod memory;
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
pub use report::{FilterDecision, FilterDetail, FilterStats, FilterStatus, State, SwapReport};
pub use spec::{Action, Attach, AttachPoint, Dirs, FilterSpec, Layer, OnFault, Source};
pub use stack::StackAttach;
pub use verify::{GENERATED_ABI, MODULE_MAX, POOL_IMPORT, VerifyError, verify};
pub use version::{Counts, FAULTS_MAX, GenerationStats};
