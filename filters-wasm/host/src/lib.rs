//! The WebAssembly filter host: engines, memory windows, per-worker instances, hot swap.

mod engine;
mod error;
mod memory;
#[cfg(test)]
mod testpool;
mod verify;

pub use engine::{CompiledModule, FilterInstance, GeneratedEngine, Trap};
pub use error::{FilterError, WasmError};
pub use verify::{GENERATED_ABI, MODULE_MAX, POOL_IMPORT, VerifyError, verify};
