//! The WebAssembly filter host: engines, memory windows, per-worker instances, hot swap.
