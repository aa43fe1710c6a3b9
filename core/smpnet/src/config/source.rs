//! Where in a file something stands, and what is wrong with it.

use serde::Serialize;
use std::fmt;

/// A position in a configuration file: line and column in characters, from 1. Line 0 is "not from a file".
///
/// Two positions always compare equal: where a thing was written never makes two configurations differ.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct At {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl PartialEq for At {
    fn eq(&self, _: &At) -> bool {
        true
    }
}

impl Eq for At {}

/// Finds positions in a text.
pub struct Lines<'t> {
    text: &'t str,
    /// Where each line begins.
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    /// The lines of `text`.
    pub fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        Lines { text, starts }
    }

    /// The position of byte `offset`.
    pub fn at(&self, offset: usize) -> At {
        let mut end = offset.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let line = self.starts.partition_point(|s| *s <= end);
        let start = self.starts[line - 1];
        At { line: line as u32, column: self.text[start..end].chars().count() as u32 + 1 }
    }
}

impl At {
    /// False for what did not come from a file.
    pub fn is_known(self) -> bool {
        self.line != 0
    }
}

/// A value and where it stood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Its position.
    #[serde(skip)]
    pub at: At,
}

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, and probably does not do what was meant.
    Warning,
}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Where it stands.
    pub at: At,
    /// What it is, in one line.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    /// An error at `at`.
    pub fn error(at: At, message: impl Into<String>) -> Problem {
        Problem { severity: Severity::Error, at, message: message.into(), hint: None }
    }

    /// A warning at `at`.
    pub fn warning(at: At, message: impl Into<String>) -> Problem {
        Problem { severity: Severity::Warning, ..Problem::error(at, message) }
    }

    /// The same with advice.
    pub fn hint(mut self, hint: impl Into<Option<String>>) -> Problem {
        self.hint = hint.into();
        self
    }
}

/// What was found in one file, in the order of the file.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The file's name as the user gave it.
    pub file: String,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

impl Report {
    /// True when at least one problem is an error.
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|p| p.severity == Severity::Error)
    }

    /// Errors in the report.
    pub fn errors(&self) -> usize {
        self.problems.iter().filter(|p| p.severity == Severity::Error).count()
    }

    /// Sorts the problems into the order of the file.
    pub fn sort(&mut self) {
        self.problems.sort_by_key(|p| (p.at.line, p.at.column, p.severity));
    }
}

impl fmt::Display for Report {
    /// One line for each problem: `FILE:LINE:COLUMN: error: MESSAGE (HINT)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, p) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.file)?;
            if p.at.is_known() {
                write!(f, "{}:{}:", p.at.line, p.at.column)?;
            }
            let severity = match p.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            write!(f, " {severity}: {}", p.message)?;
            if let Some(hint) = &p.hint {
                write!(f, " ({hint})")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

/// The name of `known` that `wrong` was probably meant to be.
pub fn nearest<'a, S: AsRef<str> + 'a>(wrong: &str, known: impl IntoIterator<Item = &'a S>) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&wrong, &k.as_ref().to_lowercase()), k.as_ref()))
        .filter(|(distance, k)| *distance <= 1 + k.len().max(wrong.len()) / 4)
        .min_by_key(|(distance, k)| (*distance, *k))
        .map(|(_, k)| k)
}

/// Advice for a wrong name: the nearest right one, or the list of all when it is short.
pub fn did_you_mean<'a, S: AsRef<str> + 'a>(
    wrong: &str,
    known: impl IntoIterator<Item = &'a S> + Clone,
) -> Option<String> {
    if let Some(right) = nearest(wrong, known.clone()) {
        return Some(format!("did you mean \"{right}\"?"));
    }
    let mut all: Vec<&str> = known.into_iter().map(AsRef::as_ref).collect();
    all.sort_unstable();
    match all.len() {
        0 => None,
        1..=16 => Some(format!("known: {}", all.join(", "))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_counts_lines_and_characters_from_one() {
        let text = "a = 1\nbä = 2\n";
        let lines = Lines::new(text);
        let at = lines.at(text.find('2').unwrap());
        assert_eq!((at.line, at.column), (2, 6));
        let at = lines.at(0);
        assert_eq!((at.line, at.column), (1, 1));
        assert_eq!(lines.at(10_000).line, 3);
    }

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        let known = ["addresses", "mtu", "driver"];
        assert_eq!(nearest("adresses", &known), Some("addresses"));
        assert_eq!(nearest("Driver", &known), Some("driver"));
        assert_eq!(nearest("colour", &known), None);
    }
}
