//! What comes out: the text, and notes of what is not in it.

use super::words::Words;
use crate::language::{Files, parse};
use serde::Serialize;
use std::fmt;

/// Longest piece of the other text that a note quotes, in bytes.
const MAX_QUOTE: usize = 300;

/// A converted configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Converted {
    /// It in the language of npf.conf, which [`parse`] takes where the files of its tables are there.
    pub text: String,
    /// What is not carried over, or means something else here.
    pub notes: Vec<Note>,
}

/// Something that is not carried over, or that means something else here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// Where it stands.
    pub at: Origin,
    /// What stands there, shortened.
    pub what: String,
    /// Why it is not carried over, or what is different.
    pub why: String,
}

/// Where something stood in what was converted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The line of a text, from 1.
    Line(u32),
    /// The names on the way to it: family, table, chain, handle.
    Path(String),
    /// Everywhere.
    All,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Origin::Line(line) => write!(f, "line {line}: {}: {}", self.what, self.why),
            Origin::Path(path) => write!(f, "{path}: {}: {}", self.what, self.why),
            Origin::All => write!(f, "{}: {}", self.what, self.why),
        }
    }
}

/// Where a line belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Parameters and variables.
    Settings,
    Tables,
    Maps,
    Rules,
}

/// Puts the text together.
#[derive(Debug, Default)]
pub(super) struct Output {
    settings: Vec<String>,
    tables: Vec<String>,
    maps: Vec<String>,
    rules: Vec<String>,
    notes: Vec<Note>,
}

/// Files of tables are there when the text is used; while it is made, it does not matter what they hold.
struct EmptyFiles;

impl Files for EmptyFiles {
    fn read(&self, _: &str) -> Result<String, String> {
        Ok(String::new())
    }
}

impl Output {
    /// Notes something that changes nothing in the text.
    pub fn note(&mut self, at: &Origin, what: &str, why: impl Into<String>) {
        let note = Note { at: at.clone(), what: shortened(what), why: why.into() };
        // Rules that are several here say it once.
        if self.notes.last() != Some(&note) {
            self.notes.push(note);
        }
    }

    /// Notes something, and leaves it as a comment.
    pub fn leave_out(&mut self, part: Part, at: &Origin, what: &str, why: impl Into<String>) {
        let why = why.into();
        let comment = format!("# not carried over: {}: {}", shortened(what), one_line(&why));
        self.note(at, what, why);
        self.lines(part).push(comment);
    }

    /// A comment by itself.
    pub fn comment(&mut self, part: Part, text: &str) {
        self.lines(part).push(format!("# {}", one_line(text)));
    }

    /// A line whose form is known to be right.
    pub fn setting(&mut self, line: String) {
        if !self.settings.contains(&line) {
            self.settings.push(line);
        }
    }

    /// A table. Whether it could be.
    pub fn table(&mut self, at: &Origin, what: &str, line: String) -> bool {
        self.checked(Part::Tables, at, what, line, |line| format!("{line}\ngroup default {{ pass all }}\n"))
    }

    /// A map.
    pub fn map(&mut self, at: &Origin, what: &str, line: String) -> bool {
        let tables = self.tables_of(&line);
        self.checked(Part::Maps, at, what, line, |line| format!("{tables}{line}\ngroup default {{ pass all }}\n"))
    }

    /// A rule.
    pub fn rule(&mut self, at: &Origin, what: &str, rule: &Words) -> bool {
        let line = rule.to_string();
        let around = self.tables_of(&line) + &self.variables_of(&line);
        self.checked(Part::Rules, at, what, line, |line| format!("{around}group default {{\n{line}\n}}\n"))
    }

    /// Takes a line if the language does, and says what is wrong with it if not.
    fn checked(
        &mut self,
        part: Part,
        at: &Origin,
        what: &str,
        line: String,
        whole: impl FnOnce(&str) -> String,
    ) -> bool {
        // Nothing that came from the other text may break out of its line.
        if line.contains(char::is_control) {
            self.leave_out(part, at, what, "there are control characters in it");
            return false;
        }
        match parse("converted", &whole(&line), &EmptyFiles) {
            Ok(_) => {
                self.lines(part).push(line);
                true
            }
            Err(errors) => {
                let why =
                    errors.errors().next().map_or_else(|| "it is not understood".to_owned(), |e| e.message.clone());
                self.leave_out(part, at, what, why);
                false
            }
        }
    }

    fn lines(&mut self, part: Part) -> &mut Vec<String> {
        match part {
            Part::Settings => &mut self.settings,
            Part::Tables => &mut self.tables,
            Part::Maps => &mut self.maps,
            Part::Rules => &mut self.rules,
        }
    }

    /// The tables that a line names.
    fn tables_of(&self, line: &str) -> String {
        let used = self.tables.iter().filter(|table| {
            let name = table.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(name, _)| name);
            table.starts_with("table ") && name.is_some_and(|name| line.contains(&format!("<{name}>")))
        });
        used.map(|table| format!("{table}\n")).collect()
    }

    /// The variables, for a line that names any.
    fn variables_of(&self, line: &str) -> String {
        let used = self.settings.iter().filter(|setting| line.contains('$') && setting.starts_with('$'));
        used.map(|setting| format!("{setting}\n")).collect()
    }

    /// All of it.
    pub fn finish(mut self, source: &str) -> Converted {
        let mut text = format!("# Converted from {source}.\n");
        if !self.notes.is_empty() {
            text +=
                "# Not everything could be carried over as it was; see the comments, and what the converter said.\n";
        }
        for part in [&self.settings, &self.tables, &self.maps] {
            if !part.is_empty() {
                text += &format!("\n{}\n", part.join("\n"));
            }
        }
        text += "\ngroup default {\n";
        for rule in &self.rules {
            text += &format!("\t{rule}\n");
        }
        text += "}\n";
        // Each line was taken by itself; together there may be too many of them, or two of one name.
        if let Err(errors) = parse("converted", &text, &EmptyFiles) {
            let why = errors.errors().next().map_or_else(String::new, |e| e.message.clone());
            self.note(&Origin::All, "the whole configuration", format!("it is blocked altogether: {why}"));
            let commented: String = text.lines().map(|line| format!("# {line}\n")).collect();
            text = format!("{commented}# {}\ngroup default {{\n\tblock all\n}}\n", one_line(&why));
        }
        Converted { text, notes: self.notes }
    }
}

/// Without line ends, so that it is a comment to its end.
fn one_line(text: &str) -> String {
    let parts = text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(" ")
}

fn shortened(text: &str) -> String {
    let mut text = one_line(text);
    if text.len() > MAX_QUOTE {
        text.truncate(text.floor_char_boundary(MAX_QUOTE));
        text += "...";
    }
    text
}
