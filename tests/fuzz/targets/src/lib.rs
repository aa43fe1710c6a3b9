//! What is done with bytes from outside. Each target is a function that must not panic, whatever it is given.
//!
//! cargo-fuzz feeds them by coverage (`cargo xtask fuzz`); the tests of this crate feed them a few thousand inputs that
//! [`seeds`] makes, on a stable compiler, in every run of `cargo xtask test`.

mod bpf;
#[cfg(feature = "program")]
mod control;
mod files;
mod frame;
mod memif;
mod npf;
mod port;
pub mod seeds;
#[cfg(test)]
mod tests;
#[cfg(feature = "program")]
mod wasm;

pub use bpf::{bpf_expression, bpf_program};
#[cfg(feature = "program")]
pub use control::{config, control_request};
pub use files::pcap_file;
#[cfg(feature = "program")]
pub use files::plugin_file;
pub use frame::frame;
pub use memif::memif;
pub use npf::{npf_config, npf_lines, npf_packets};
#[cfg(feature = "program")]
pub use wasm::wasm_verify;

/// A target by its name.
pub struct Target {
    /// Its name: that of its program in `fuzz_targets`.
    pub name: &'static str,
    /// What it does with an input.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How many generated inputs the plain test feeds it.
    pub cases: usize,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "bpf_expression", run: bpf_expression, seeds: seeds::expressions, cases: 4000 },
    Target { name: "bpf_program", run: bpf_program, seeds: seeds::programs, cases: 4000 },
    #[cfg(feature = "program")]
    Target { name: "config", run: config, seeds: seeds::configs, cases: 4000 },
    #[cfg(feature = "program")]
    Target { name: "control_request", run: control_request, seeds: seeds::requests, cases: 4000 },
    Target { name: "frame", run: frame, seeds: seeds::bursts, cases: 4000 },
    Target { name: "memif", run: memif, seeds: seeds::dialogues, cases: 4000 },
    Target { name: "npf_config", run: npf_config, seeds: seeds::npf_configs, cases: 4000 },
    Target { name: "npf_lines", run: npf_lines, seeds: seeds::npf_lines, cases: 4000 },
    Target { name: "npf_packets", run: npf_packets, seeds: seeds::npf_packets, cases: 4000 },
    Target { name: "pcap_file", run: pcap_file, seeds: seeds::captures, cases: 4000 },
    #[cfg(feature = "program")]
    Target { name: "plugin_file", run: plugin_file, seeds: seeds::libraries, cases: 4000 },
    #[cfg(feature = "program")]
    Target { name: "wasm_verify", run: wasm_verify, seeds: seeds::modules, cases: 1000 },
];
