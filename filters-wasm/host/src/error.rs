//! What can go wrong with the engine and with a filter.

use crate::VerifyError;
use crate::guest::ModuleError;
use crate::tables::TableError;

/// Why a module could not be made ready to run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WasmError {
    /// The pool has no file descriptor (a heap pool of a test), so it cannot be mapped a second time.
    #[error("the packet pool has no file descriptor, so that filters cannot map it")]
    PoolWithoutFd,
    /// The pool's file could be truncated under the filters.
    #[error("the packet pool's file is not sealed against shrinking")]
    PoolNotSealed,
    /// The pool is empty, shorter than it claims, or beyond 4 GiB.
    #[error(
        "a packet pool of {0} bytes cannot be mapped for filters: it must have 1 byte to 4 GiB, all of them in its file"
    )]
    PoolSize(u64),
    /// The kernel refused a mapping.
    #[error("cannot map {what}: {source}")]
    Map {
        /// What was to be mapped.
        what: &'static str,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// The module breaks the contract of generated modules.
    #[error("not a module that smpnet generates: {0}")]
    Verify(#[from] VerifyError),
    /// The module does not keep the filter ABI, or asks for what it may not have.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// wasmtime refused: the engine's configuration, or a module that passed the verifier.
    #[error("wasmtime: {what}: {reason}")]
    Engine {
        /// What was attempted.
        what: &'static str,
        /// wasmtime's reason, on one line.
        reason: String,
    },
}

impl WasmError {
    pub(crate) fn engine(what: &'static str, error: &wasmtime::Error) -> Self {
        WasmError::Engine { what, reason: one_line(&format!("{error:#}")) }
    }
}

/// " (did you mean x?)" for the name that is nearest to a wrong one, or nothing.
pub(crate) fn nearest(wrong: &str, names: &[&str]) -> String {
    let near = names.iter().map(|n| (strsim::damerau_levenshtein(wrong, n), n)).min();
    match near {
        Some((distance, name)) if distance <= wrong.len().div_ceil(3).max(1) => format!(" (did you mean {name}?)"),
        _ => String::new(),
    }
}

/// `text` on one line.
pub(crate) fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Why a control operation on filters was refused. What ran before still runs, unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// No filter has that name.
    #[error("no filter is named {0}")]
    NotFound(String),
    /// A filter of that name is loaded.
    #[error("a filter named {0} is loaded already: swap it, or detach it first")]
    Exists(String),
    /// The name is empty, too long, or has characters that do not belong in a name.
    #[error("{0:?} is not a name for a filter: 1 to 63 of the characters A-Z a-z 0-9 . _ -")]
    BadName(String),
    /// The expression does not compile, or libpcap is missing.
    #[error("filter {name}: {reason}")]
    Expression {
        /// Name of the filter.
        name: String,
        /// libpcap's reason, or what is missing.
        reason: String,
    },
    /// The module could not be made ready to run.
    #[error("filter {name}: {source}")]
    Wasm {
        /// Name of the filter.
        name: String,
        /// Why.
        source: WasmError,
    },
    /// A change of tables was refused.
    #[error(transparent)]
    Table(#[from] TableError),
    /// There is no shadow.
    #[error("filter {0} has no shadow: load one first")]
    NoShadow(String),
    /// There is no generation to go back to.
    #[error("filter {0} has no previous generation")]
    NoPrevious(String),
    /// The stack refused the attachment.
    #[error("filter {name}: cannot attach: {reason}")]
    Attach {
        /// Name of the filter.
        name: String,
        /// The stack's reason.
        reason: String,
    },
}
