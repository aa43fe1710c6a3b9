//! The one error type of the laboratory.

use std::io;

/// What went wrong while the laboratory was built or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// The kernel refuses namespaces; the text says which setting does it and what to type.
    #[error("{0}")]
    Forbidden(String),
    /// The laboratory was entered too late, when the process already had several threads.
    #[error("the laboratory must be entered before the first thread is started ({0} threads run)")]
    Threads(usize),
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a netlink request.
    #[error("{what}: {source}")]
    Netlink {
        /// What was asked.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The test cannot be done on this machine; the text says what it lacks.
    #[error("skipped: {0}")]
    Skipped(String),
    /// A peer or program did not do what it should have done.
    #[error("{0}")]
    Failed(String),
}

impl LabError {
    /// The error of the system call that just failed on this thread.
    pub(crate) fn last(what: impl Into<String>) -> Self {
        LabError::Io { what: what.into(), source: io::Error::last_os_error() }
    }

    /// The errno behind this error, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            LabError::Io { source, .. } | LabError::Netlink { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// Adds what was tried to an `io::Error`.
pub(crate) trait Context<T> {
    fn context(self, what: impl Into<String>) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| LabError::Io { what: what.into(), source })
    }
}

/// Result of the laboratory's functions.
pub type Result<T> = std::result::Result<T, LabError>;
