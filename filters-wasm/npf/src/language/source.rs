//! Texts that were read, and places in them.

use crate::config::Place;
use std::sync::Arc;

/// Longest text that is looked at, in bytes. Offsets are 32 bits.
pub(super) const MAX_TEXT: usize = 64 << 20;

/// Bytes between two known counts of characters.
const STRIDE: usize = 1024;

/// Characters of a line that an error shows on either side of its place, at most.
const SHOWN: usize = 100;

/// A part of a text, in bytes. Spans sort by where they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Span {
    /// Which text.
    pub file: u32,
    /// Its first byte.
    pub start: u32,
    /// The one behind its last.
    pub end: u32,
}

impl Span {
    /// From the beginning of this one to the end of another.
    pub fn to(self, last: Span) -> Span {
        if last.file == self.file { Span { end: last.end.max(self.end), ..self } } else { self }
    }
}

/// A text.
pub(super) struct Source {
    /// The file as it was named.
    pub name: Arc<str>,
    /// What is in it.
    pub text: Arc<str>,
    /// Where its lines begin.
    lines: Vec<u32>,
    /// Characters before each multiple of [`STRIDE`], so that a column in a long line costs no walk over the line.
    characters: Vec<u32>,
}

/// What an error shows of a line.
pub(super) struct Excerpt {
    /// The line, or what is around the place.
    pub text: String,
    /// Characters in it before the place.
    pub before: usize,
    /// Characters of the place that are in it.
    pub width: usize,
}

/// All texts of a configuration.
#[derive(Default)]
pub(super) struct Sources(Vec<Source>);

impl Sources {
    /// Takes a text in, cut at [`MAX_TEXT`].
    pub fn add(&mut self, name: &str, text: &str) -> u32 {
        let text = &text[..text.floor_char_boundary(MAX_TEXT)];
        let mut lines = vec![0];
        let mut characters = Vec::with_capacity(text.len() / STRIDE + 1);
        let mut count = 0;
        for (at, byte) in text.bytes().enumerate() {
            if at % STRIDE == 0 {
                characters.push(count);
            }
            count += u32::from(begins_character(byte));
            if byte == b'\n' {
                lines.push(at as u32 + 1);
            }
        }
        self.0.push(Source { name: name.into(), text: text.into(), lines, characters });
        (self.0.len() - 1) as u32
    }

    /// A text by its number.
    pub fn get(&self, file: u32) -> Option<&Source> {
        self.0.get(file as usize)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Where a span begins, for people.
    pub fn place(&self, span: Span) -> Place {
        let Some(source) = self.get(span.file) else { return Place::default() };
        let (line, start) = source.line(span.start);
        let column = source.characters_before(span.start) - source.characters_before(start) + 1;
        Place { file: source.name.clone(), line, column }
    }

    /// The line that a span begins in.
    pub fn excerpt(&self, span: Span) -> Excerpt {
        let Some(source) = self.get(span.file) else {
            return Excerpt { text: String::new(), before: 0, width: 0 };
        };
        let text = &*source.text;
        let line_start = source.line(span.start).1 as usize;
        let place = text.floor_char_boundary(span.start as usize);
        let from = text.ceil_char_boundary(line_start.max(place.saturating_sub(SHOWN)));
        let limit = text.floor_char_boundary(place + SHOWN);
        let end = text[place..limit].find('\n').map_or(limit, |n| place + n);
        let marked = text.floor_char_boundary((span.end as usize).clamp(place, end));
        let mut shown: String = if from > line_start { "...".to_owned() } else { String::new() };
        shown.extend(text[from..place].chars().map(printable));
        let before = shown.chars().count();
        shown.extend(text[place..end].trim_end_matches('\r').chars().map(printable));
        if end == limit && limit < text.len() && !text[limit..].starts_with(['\n', '\r']) {
            shown.push_str("...");
        }
        Excerpt { text: shown, before, width: text[place..marked].chars().count() }
    }
}

impl Source {
    /// Number of the line that a byte is in, from 1, and where it begins.
    fn line(&self, at: u32) -> (u32, u32) {
        let line = self.lines.partition_point(|&start| start <= at).max(1);
        (line as u32, self.lines[line - 1])
    }

    fn characters_before(&self, at: u32) -> u32 {
        let at = (at as usize).min(self.text.len());
        let block = (at / STRIDE).min(self.characters.len().saturating_sub(1));
        let Some(known) = self.characters.get(block) else { return 0 };
        let rest = &self.text.as_bytes()[block * STRIDE..at];
        known + rest.iter().filter(|&&b| begins_character(b)).count() as u32
    }
}

fn begins_character(byte: u8) -> bool {
    byte & 0xc0 != 0x80
}

/// What a terminal is shown: nothing that moves its cursor but tabs, which the marker repeats.
fn printable(c: char) -> char {
    if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }
}

/// A text for a message: in quotes, and not longer than a line.
pub(super) fn quote(text: &str) -> String {
    let shown: String = text.chars().take(60).map(printable).collect();
    if shown.len() < text.len() { format!("\"{shown}...\"") } else { format!("\"{shown}\"") }
}

/// The name that was probably meant.
pub(super) fn closest<'n>(wrong: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    if wrong.is_empty() || wrong.len() > 64 {
        return None;
    }
    let wrong = wrong.to_lowercase();
    let distance = |name: &str| strsim::damerau_levenshtein(&wrong, &name.to_lowercase());
    let near = names.into_iter().map(|name| (distance(name), name)).min_by(|(a, name_a), (b, name_b)| {
        // Of equally near ones, the one that begins alike: htps is rather https than ftps.
        let alike = |name| strsim::jaro_winkler(&wrong, name);
        a.cmp(b).then(alike(name_b).total_cmp(&alike(name_a)))
    })?;
    (near.0 <= 1 + wrong.len() / 5).then_some(near.1)
}

/// A hint that asks for the name that was probably meant.
pub(super) fn did_you_mean<'n>(wrong: &str, names: impl IntoIterator<Item = &'n str>) -> Option<String> {
    closest(wrong, names).map(|name| format!("did you mean \"{name}\"?"))
}
