//! What a module did wrong, in words.

use crate::error::one_line;
use serde::Serialize;
use wasmtime::{Trap, WasmBacktrace};

/// What kind of fault ended a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultKind {
    /// Compiled code stopped: a wrong address, a division by zero, `unreachable`, too deep a stack.
    Trap,
    /// It took longer than its budget.
    Budget,
    /// An import was called with a wrong pointer, length or table.
    Import,
    /// It returned something else than the number of packets.
    Result,
    /// A verdict that there is not.
    Verdict,
    /// A wrong patch.
    Patch,
    /// An action without its capability.
    Capability,
}

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Its kind.
    pub kind: FaultKind,
    /// What happened, on one line, with the function that it happened in.
    pub line: String,
    /// The functions that were active, innermost first, one a line; empty when the code did not stop.
    pub trace: Vec<String>,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, line: impl Into<String>) -> Fault {
        Fault { kind, line: line.into(), trace: Vec::new() }
    }

    /// From what a call returned.
    #[cold]
    pub(crate) fn of(call: &str, e: &wasmtime::Error) -> Fault {
        let trace = e.downcast_ref::<WasmBacktrace>().map(trace).unwrap_or_default();
        let (kind, what) = match e.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => (FaultKind::Budget, "took longer than its budget".to_owned()),
            Some(t) => (FaultKind::Trap, t.to_string()),
            None => match e.downcast_ref::<ImportFault>() {
                Some(f) => (FaultKind::Import, f.0.clone()),
                None => (FaultKind::Trap, one_line(&e.root_cause().to_string())),
            },
        };
        let at = trace.first().map(|f| format!(" in {f}")).unwrap_or_default();
        Fault { kind, line: format!("{call}: {what}{at}"), trace }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.line)
    }
}

/// Why an import ended the call.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ImportFault(pub(crate) String);

/// The names of the active functions, demangled, from the name section.
fn trace(b: &WasmBacktrace) -> Vec<String> {
    let text = b.to_string();
    // Lines like `  0:   0x45 - module!function`; what else there is belongs to debug information.
    let frames = text.lines().filter_map(|l| l.split_once(" - ")).map(|(_, f)| f);
    frames.map(|f| f.split_once('!').map_or(f, |(_, f)| f).trim().to_owned()).collect()
}
