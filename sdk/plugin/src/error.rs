//! The one error of a plugin: a line of text for the operator.

use std::fmt;

/// Why something failed, in one line that names the thing and, where there is one, the way out.
///
/// ```
/// use smpnet_plugin::Error;
/// let e = Error::from("no such device").context("eth9");
/// assert_eq!(e.to_string(), "eth9: no such device");
/// ```
#[derive(Debug)]
pub struct Error(String);

impl Error {
    /// An error of that text.
    pub fn new(text: impl Into<String>) -> Self {
        Error(text.into())
    }

    /// Puts what was being done in front: `what: error`.
    pub fn context(self, what: impl fmt::Display) -> Self {
        Error(format!("{what}: {}", self.0))
    }

    /// What functions say that a plugin does not have.
    pub fn unsupported() -> Self {
        Error(UNSUPPORTED.to_owned())
    }

    /// Whether it is [`Error::unsupported`].
    pub(crate) fn is_unsupported(&self) -> bool {
        self.0 == UNSUPPORTED
    }
}

const UNSUPPORTED: &str = "not supported by this plugin";

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl From<&str> for Error {
    fn from(s: &str) -> Self {
        Error(s.to_owned())
    }
}

impl From<String> for Error {
    fn from(s: String) -> Self {
        Error(s)
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Error(e.to_string())
    }
}

impl From<serde_json::Error> for Error {
    fn from(e: serde_json::Error) -> Self {
        Error(e.to_string())
    }
}
