//! Statements of pf.conf, with macros put in.

use std::collections::HashMap;

/// Pieces that a statement may have with its macros put in, and how deep macros may stand in each other.
const MAX_TOKENS: usize = 1 << 16;
const MAX_DEPTH: usize = 16;

/// A piece of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// Up to blanks and punctuation: `80:90`, `em0:network`, `fe80::1`.
    Word(String),
    /// In quotation marks.
    Text(String),
    /// `{` and the like; `->` and operators of two characters are one.
    Mark(&'static str),
}

/// A statement.
#[derive(Debug)]
pub(super) struct Statement {
    /// Its first line, from 1.
    pub line: u32,
    /// As it is written, without comments.
    pub text: String,
}

/// Cuts a text into statements. They end with their line, but not within braces.
pub(super) fn statements(text: &str) -> Vec<Statement> {
    let mut statements = Vec::new();
    let mut current = String::new();
    let (mut line, mut first, mut depth, mut quoted) = (1, 1, 0usize, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.peek() == Some(&'\n') => {
                chars.next();
                line += 1;
                current.push(' ');
            }
            '\n' => {
                line += 1;
                if depth > 0 || quoted {
                    current.push('\n');
                } else {
                    push(&mut statements, &mut current, first);
                    first = line;
                }
            }
            '#' if !quoted => {
                while chars.peek().is_some_and(|&c| c != '\n') {
                    // A comment goes on behind "\", as in pf.
                    if chars.next() == Some('\\') && chars.peek() == Some(&'\n') {
                        chars.next();
                        line += 1;
                    }
                }
            }
            c => {
                match c {
                    '"' => quoted = !quoted,
                    '{' if !quoted => depth += 1,
                    '}' if !quoted => depth = depth.saturating_sub(1),
                    _ => {}
                }
                if current.trim().is_empty() {
                    first = line;
                }
                current.push(c);
            }
        }
    }
    push(&mut statements, &mut current, first);
    statements
}

fn push(statements: &mut Vec<Statement>, current: &mut String, line: u32) {
    let text = std::mem::take(current);
    if !text.trim().is_empty() {
        statements.push(Statement { line, text: text.trim().to_owned() });
    }
}

/// Macros by their names.
#[derive(Debug, Default)]
pub(super) struct Macros(HashMap<String, String>);

impl Macros {
    /// What `name = value` says, if the statement is that.
    pub fn define(&mut self, text: &str) -> Option<Result<(), String>> {
        let (name, value) = text.split_once('=')?;
        let name = name.trim_end();
        if name.is_empty() || !name.chars().all(is_name) {
            return None;
        }
        Some(self.tokens(value).map(|tokens| {
            let words: Vec<_> = tokens
                .into_iter()
                .map(|token| match token {
                    Token::Word(text) | Token::Text(text) => text,
                    Token::Mark(mark) => mark.to_owned(),
                })
                .collect();
            self.0.insert(name.to_owned(), words.join(" "));
        }))
    }

    /// The pieces of a statement.
    pub fn tokens(&self, text: &str) -> Result<Vec<Token>, String> {
        let mut out = Vec::new();
        self.lex(text, 0, &mut out)?;
        Ok(out)
    }

    fn lex(&self, text: &str, depth: usize, out: &mut Vec<Token>) -> Result<(), String> {
        const MARKS: &[&str] = &["->", "><", "<>", "<=", ">=", "!=", "{", "}", "(", ")", ",", "=", "!", "<", ">", "/"];
        let mut rest = text.trim_start();
        while let Some(c) = rest.chars().next() {
            if out.len() >= MAX_TOKENS {
                return Err("with its macros put in it is too long".to_owned());
            }
            if let Some(mark) = MARKS.iter().find(|mark| rest.starts_with(**mark)) {
                out.push(Token::Mark(mark));
                rest = &rest[mark.len()..];
            } else if let Some(inner) = rest.strip_prefix('"') {
                let end = inner.find('"').ok_or("a quotation mark is not closed")?;
                out.push(Token::Text(inner[..end].to_owned()));
                rest = &inner[end + 1..];
            } else if let Some(named) = rest.strip_prefix('$') {
                let end = named.find(|c| !is_name(c)).unwrap_or(named.len());
                let value = self.0.get(&named[..end]).ok_or_else(|| format!("${} is not set", &named[..end]))?;
                if depth >= MAX_DEPTH {
                    return Err("macros stand too deep in each other".to_owned());
                }
                self.lex(value, depth + 1, out)?;
                rest = &named[end..];
                // "$if:network" is one word.
                if let (Some(Token::Word(word)), true) = (out.last_mut(), rest.starts_with(':')) {
                    let end = rest.find(|c: char| c != ':' && !is_name(c)).unwrap_or(rest.len());
                    word.push_str(&rest[..end]);
                    rest = &rest[end..];
                }
            } else {
                let ends = |(at, c): (usize, char)| {
                    c.is_whitespace() || c.is_control() || "(){}<>!=/,\"$#".contains(c) || rest[at..].starts_with("->")
                };
                let end = rest.char_indices().find(|&at| ends(at)).map_or(rest.len(), |(at, _)| at);
                // A character that is nothing by itself.
                let end = if end == 0 { c.len_utf8() } else { end };
                out.push(Token::Word(rest[..end].to_owned()));
                rest = &rest[end..];
            }
            rest = rest.trim_start();
        }
        Ok(())
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}
