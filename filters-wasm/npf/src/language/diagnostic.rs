//! Errors and warnings as people see them.

use super::source::{Sources, Span};
use serde::Serialize;
use std::{collections::HashSet, fmt};

/// Errors and warnings of one configuration that are kept, at most.
const MAX_KEPT: usize = 1000;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but probably means something else than it seems to.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

/// Something that is wrong with a configuration, and where.
///
/// ```text
/// npf.conf:3:14: error: "8O" is no port
///   pass in port 8O
///                ^~
///   hint: a port is a number up to 65535, or a name such as https
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file as it was named.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What could be done.
    pub hint: Option<String>,
    /// The line, or what of a long one is around the place.
    pub excerpt: String,
    /// Characters of the excerpt before the place.
    pub excerpt_column: usize,
    /// Characters that are marked, from there.
    pub width: usize,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}: {}", self.file, self.line, self.column, self.severity, self.message)?;
        if !self.excerpt.is_empty() {
            // A tab of the line is a tab before the marker, so that both end in the same column.
            let indent = self.excerpt.chars().take(self.excerpt_column).map(|c| if c == '\t' { '\t' } else { ' ' });
            let marker = "~".repeat(self.width.saturating_sub(1));
            write!(f, "\n  {}\n  {}^{marker}", self.excerpt, indent.collect::<String>())?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a configuration, in the order in which it stands there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// Each by itself.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that keep the configuration from being used.
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter().filter(|d| d.severity == Severity::Error)
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'d> IntoIterator for &'d Diagnostics {
    type Item = &'d Diagnostic;
    type IntoIter = std::slice::Iter<'d, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// What was found so far.
#[derive(Default)]
pub(super) struct Report {
    found: Vec<Found>,
    /// What a variable says wrong is said once, and not for each place that uses it.
    seen: HashSet<(Span, String)>,
    errors: usize,
}

struct Found {
    span: Span,
    severity: Severity,
    message: String,
    hint: Option<String>,
}

impl Report {
    /// Adds an error.
    pub fn error(&mut self, span: Span, message: impl Into<String>, hint: Option<String>) {
        self.errors += 1;
        self.add(span, Severity::Error, message.into(), hint);
    }

    /// Adds a warning.
    pub fn warn(&mut self, span: Span, message: impl Into<String>, hint: Option<String>) {
        self.add(span, Severity::Warning, message.into(), hint);
    }

    /// Whether there was an error.
    pub fn failed(&self) -> bool {
        self.errors > 0
    }

    fn add(&mut self, span: Span, severity: Severity, message: String, hint: Option<String>) {
        if self.found.len() < MAX_KEPT && self.seen.insert((span, message.clone())) {
            self.found.push(Found { span, severity, message, hint });
        }
    }

    /// All of it, in order.
    pub fn finish(mut self, sources: &Sources) -> Diagnostics {
        self.found.sort_by_key(|f| (f.span, f.severity));
        let diagnostic = |f: Found| {
            let place = sources.place(f.span);
            let excerpt = sources.excerpt(f.span);
            Diagnostic {
                severity: f.severity,
                file: place.file.to_string(),
                line: place.line,
                column: place.column,
                message: f.message,
                hint: f.hint,
                excerpt: excerpt.text,
                excerpt_column: excerpt.before,
                width: excerpt.width.max(1),
            }
        };
        Diagnostics(self.found.into_iter().map(diagnostic).collect())
    }
}
