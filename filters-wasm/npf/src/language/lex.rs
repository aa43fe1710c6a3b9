//! From characters to words.
//!
//! A word is whatever stands between blanks and punctuation: `eth0.100`, `br-lan`, `80-90`, `10.1`, `fe80::1`. What it
//! means is decided where it is used, so no two readings of it can get in each other's way.

use super::{
    diagnostic::Report,
    source::{Span, quote},
};

/// What a piece of the text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A word.
    Word,
    /// Something in quotation marks.
    Text,
    /// What an open quotation mark leaves of its line, which has been reported.
    Broken,
    /// `$name`
    Variable,
    /// `<name>`
    Table,
    /// `{`
    Open,
    /// `}`
    Close,
    /// `(`
    OpenRound,
    /// `)`
    CloseRound,
    /// `,`
    Comma,
    /// `!`
    Not,
    /// `=`
    Equals,
    /// `/`
    Slash,
    /// `:`
    Colon,
    /// `->`
    ArrowOut,
    /// `<-`
    ArrowIn,
    /// `<->`
    ArrowBoth,
    /// The end of a line.
    Newline,
    /// `;`
    Semicolon,
    /// The end of the text.
    End,
}

/// A piece of the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lexeme {
    /// What it is.
    pub token: Token,
    /// Where it is, with its quotation marks, `$`, or angle brackets.
    pub span: Span,
}

impl Lexeme {
    /// Where its name or text is, without what stands around it.
    pub fn inner(&self) -> std::ops::Range<u32> {
        match self.token {
            Token::Text | Token::Table => self.span.start + 1..self.span.end - 1,
            Token::Variable => self.span.start + 1..self.span.end,
            _ => self.span.start..self.span.end,
        }
    }
}

/// Cuts a text into pieces; the last one is [`Token::End`].
pub(super) fn lex(file: u32, text: &str, report: &mut Report) -> Vec<Lexeme> {
    let mut lexer = Lexer { file, text, at: 0, out: Vec::with_capacity(text.len() / 6 + 1), report };
    if text.starts_with('\u{feff}') {
        lexer.at = '\u{feff}'.len_utf8();
    }
    while lexer.at < text.len() {
        lexer.next();
    }
    lexer.push(Token::End, 0);
    lexer.out
}

struct Lexer<'t> {
    file: u32,
    text: &'t str,
    at: usize,
    out: Vec<Lexeme>,
    report: &'t mut Report,
}

impl<'t> Lexer<'t> {
    fn next(&mut self) {
        let rest = &self.text[self.at..];
        let Some(c) = rest.chars().next() else { return };
        match c {
            ' ' | '\t' | '\r' => self.at += 1,
            '\n' => self.push(Token::Newline, 1),
            '#' => self.at += line_length(rest),
            '\\' if rest.starts_with("\\\n") => self.at += 2,
            '\\' if rest.starts_with("\\\r\n") => self.at += 3,
            '{' => self.push(Token::Open, 1),
            '}' => self.push(Token::Close, 1),
            '(' => self.push(Token::OpenRound, 1),
            ')' => self.push(Token::CloseRound, 1),
            ',' => self.push(Token::Comma, 1),
            ';' => self.push(Token::Semicolon, 1),
            '!' => self.push(Token::Not, 1),
            '=' => self.push(Token::Equals, 1),
            '/' => self.push(Token::Slash, 1),
            '"' => self.quoted(rest),
            '$' => match name_length(&rest[1..], false) {
                0 => self.refuse(1, "a name must follow \"$\"", None),
                n => self.push(Token::Variable, 1 + n),
            },
            '<' if rest.starts_with("<->") => self.push(Token::ArrowBoth, 3),
            '<' if rest.starts_with("<-") => self.push(Token::ArrowIn, 2),
            '<' => match name_length(&rest[1..], true) {
                n if n > 0 && rest[1 + n..].starts_with('>') => self.push(Token::Table, n + 2),
                _ => self.refuse(1, "\"<\" begins the name of a table", Some("write <name>, or <- or <-> in a map")),
            },
            '-' if rest.starts_with("->") => self.push(Token::ArrowOut, 2),
            ':' if !rest.starts_with("::") => self.push(Token::Colon, 1),
            c if c == ':' || is_word(c) => self.push(Token::Word, word_length(rest)),
            _ => {
                let n =
                    rest.find(|c: char| c == '\n' || is_word(c) || c == ' ').unwrap_or(rest.len()).max(c.len_utf8());
                let message = format!("{} has no meaning here", quote(&rest[..n]));
                self.refuse(n, &message, None);
            }
        }
    }

    fn push(&mut self, token: Token, length: usize) {
        let span = self.span(length);
        self.out.push(Lexeme { token, span });
        self.at += length;
    }

    fn refuse(&mut self, length: usize, message: &str, hint: Option<&str>) {
        self.report.error(self.span(length), message, hint.map(str::to_owned));
        self.at += length;
    }

    fn span(&self, length: usize) -> Span {
        Span { file: self.file, start: self.at as u32, end: (self.at + length) as u32 }
    }

    /// There are no escapes. Only a packet expression may go on in the next line, so that a mark that was forgotten
    /// spoils one line and not the file.
    fn quoted(&mut self, rest: &str) {
        let end = rest[1..].find(['"', '\n']).map_or(rest.len(), |n| n + 1);
        let closed = match rest.as_bytes().get(end) {
            Some(b'"') => Some(end + 1),
            Some(_) if self.follows_pcap_filter() => rest[1..].find('"').map(|n| n + 2),
            _ => None,
        };
        if let Some(length) = closed {
            if rest[..length].contains('\0') {
                self.report.error(self.span(length), "there is a NUL in the text", None);
            }
            self.push(Token::Text, length);
        } else {
            // A brace at the end most likely opens a group, whose rules are still to be looked at.
            let broken = rest[..end].trim_end().trim_end_matches('{').trim_end().len();
            self.report.error(self.span(broken), "the quotation mark is not closed in this line", None);
            self.push(Token::Broken, broken);
        }
    }

    fn follows_pcap_filter(&self) -> bool {
        self.out.last().is_some_and(|last| {
            last.token == Token::Word
                && self.text.get(last.span.start as usize..last.span.end as usize) == Some("pcap-filter")
        })
    }
}

/// Bytes to the end of the line.
fn line_length(rest: &str) -> usize {
    rest.find('\n').unwrap_or(rest.len())
}

/// Bytes of a name at the beginning.
fn name_length(rest: &str, minus: bool) -> usize {
    if !rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        return 0;
    }
    rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || minus && c == '-')).unwrap_or(rest.len())
}

fn is_word(c: char) -> bool {
    !c.is_whitespace() && !c.is_control() && !"{}(),;#\"$<>!=/\\:".contains(c)
}

/// Bytes of a word at the beginning. Colons belong to it as long as it can be an address; behind a name they end it.
fn word_length(rest: &str) -> usize {
    let mut address = true;
    for (at, c) in rest.char_indices() {
        let ends = match c {
            ':' => !address,
            '-' => rest[at..].starts_with("->"),
            c => !is_word(c),
        };
        if ends {
            return at;
        }
        address = address && (c.is_ascii_hexdigit() || c == ':' || c == '.');
    }
    rest.len()
}
