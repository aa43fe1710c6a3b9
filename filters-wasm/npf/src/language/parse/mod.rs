//! From words to what they say: recursive descent, one function for each production of the grammar.
//!
//! A function that meets something wrong reports it and gives up with [`Failed`]; the statement around it is skipped to
//! the end of its line, or to the brace that closes its group, and parsing goes on.

mod map;
mod rule;
mod statement;

use super::{
    ast::{Element, ElementKind, Elements, Name, RuleDecl, Statement},
    lex::{Lexeme, Token, lex},
    session::Session,
    source::{Source, Span, did_you_mean, quote},
};
use crate::config::Family;
use std::{rc::Rc, sync::Arc};

/// Something was wrong and has been reported.
#[derive(Debug)]
pub(super) struct Failed;

/// What comes of a production.
pub(super) type Parse<T> = Result<T, Failed>;

/// Words that begin a statement or what stands in a group.
const BEGINNINGS: &[&str] =
    &["set", "alg", "table", "map", "procedure", "group", "include", "ruleset", "pass", "block"];

/// Everything that a file says.
pub(super) fn parse_file(session: &mut Session<'_>, file: u32) -> Vec<Statement> {
    let mut statements = Vec::new();
    Parser::of(session, file, |parser| parser.statements(&mut statements));
    statements
}

/// A rule by itself.
pub(super) fn parse_rule(session: &mut Session<'_>, file: u32) -> Option<RuleDecl> {
    Parser::of(session, file, |parser| {
        parser.skip_separators();
        let rule = parser.rule().ok()?;
        parser.nothing_more("rule").ok()?;
        Some(rule)
    })
}

/// A map by itself.
pub(super) fn parse_map(session: &mut Session<'_>, file: u32) -> Option<Statement> {
    Parser::of(session, file, |parser| {
        parser.skip_separators();
        let map = if parser.is_word("map") {
            parser.map().ok()?
        } else {
            parser.expected("\"map\"", &["map"]);
            return None;
        };
        parser.nothing_more("map").ok()?;
        Some(map)
    })
}

struct Parser<'s, 'f> {
    session: &'s mut Session<'f>,
    text: Arc<str>,
    tokens: Vec<Lexeme>,
    at: usize,
    /// Braces of lists that are open.
    lists: usize,
    /// Groups that are open, in the files that include this one too.
    depth: usize,
}

impl<'s, 'f> Parser<'s, 'f> {
    /// Runs a parser over a file.
    fn of<T>(session: &mut Session<'f>, file: u32, run: impl FnOnce(&mut Parser<'_, 'f>) -> T) -> T
    where
        T: ParsedOrNothing,
    {
        let Some(Source { text, .. }) = session.sources.get(file) else { return T::nothing() };
        let text = text.clone();
        let tokens = lex(file, &text, &mut session.report);
        session.open.push(file);
        let result = run(&mut Parser { session, text, tokens, at: 0, lists: 0, depth: 0 });
        session.open.pop();
        result
    }

    // Looking at what comes next.

    fn peek(&self) -> Lexeme {
        self.ahead(0)
    }

    /// Behind the end there is only [`Token::End`].
    fn ahead(&self, n: usize) -> Lexeme {
        let last = self.tokens.len().saturating_sub(1);
        self.tokens.get((self.at + n).min(last)).copied().unwrap_or(Lexeme { token: Token::End, span: Span::default() })
    }

    fn is(&self, token: Token) -> bool {
        self.peek().token == token
    }

    fn is_word(&self, word: &str) -> bool {
        self.is(Token::Word) && self.text_of(self.peek()) == word
    }

    fn text_of(&self, lexeme: Lexeme) -> &str {
        let inner = lexeme.inner();
        self.text.get(inner.start as usize..inner.end as usize).unwrap_or("")
    }

    /// The word that comes next; empty when there is none.
    fn word(&self) -> &str {
        if self.is(Token::Word) { self.text_of(self.peek()) } else { "" }
    }

    // Taking it.

    fn advance(&mut self) -> Lexeme {
        let lexeme = self.peek();
        if lexeme.token != Token::End {
            self.at += 1;
        }
        lexeme
    }

    fn take(&mut self, token: Token) -> Option<Span> {
        self.is(token).then(|| self.advance().span)
    }

    fn take_word(&mut self, word: &str) -> Option<Span> {
        self.is_word(word).then(|| self.advance().span)
    }

    /// The span of what was taken last.
    fn last(&self) -> Span {
        self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).map_or(self.peek().span, |l| l.span)
    }

    fn need(&mut self, token: Token, what: &str) -> Parse<Span> {
        match self.take(token) {
            Some(span) => Ok(span),
            None => Err(self.expected(what, &[])),
        }
    }

    fn name_here(&mut self) -> Name {
        let lexeme = self.advance();
        Name { text: self.text_of(lexeme).to_owned(), span: lexeme.span }
    }

    /// Something in quotation marks.
    fn text(&mut self, what: &str) -> Parse<Name> {
        if self.is(Token::Text) {
            return Ok(self.name_here());
        }
        let hint = self.is(Token::Word).then(|| format!("put it in quotation marks: \"{}\"", self.word()));
        Err(self.unexpected(what, hint))
    }

    /// A word or something in quotation marks.
    fn word_or_text(&mut self, what: &str) -> Parse<Name> {
        if self.is(Token::Word) || self.is(Token::Text) { Ok(self.name_here()) } else { Err(self.expected(what, &[])) }
    }

    fn any_word(&mut self, what: &str) -> Parse<Name> {
        if self.is(Token::Word) { Ok(self.name_here()) } else { Err(self.expected(what, &[])) }
    }

    fn table_name(&mut self, what: &str) -> Parse<Name> {
        if self.is(Token::Table) {
            return Ok(self.name_here());
        }
        let hint = match self.peek().token {
            Token::Word | Token::Text => Some(format!("write <{}>", self.text_of(self.peek()))),
            _ => None,
        };
        Err(self.unexpected(what, hint))
    }

    // Errors.

    /// Reports that something else should be here; `words` are those that are possible.
    fn expected(&mut self, what: &str, words: &[&str]) -> Failed {
        let hint = did_you_mean(self.word(), words.iter().copied());
        self.unexpected(what, hint)
    }

    fn unexpected(&mut self, what: &str, hint: Option<String>) -> Failed {
        let here = self.peek();
        let (found, span) = match here.token {
            Token::Newline => ("the line ends".to_owned(), Span { end: here.span.start, ..here.span }),
            Token::End => ("the file ends".to_owned(), here.span),
            Token::Broken => return Failed,
            _ => {
                let all = here.span.start as usize..here.span.end as usize;
                (format!("{} is here", quote(self.text.get(all).unwrap_or(""))), here.span)
            }
        };
        self.session.report.error(span, format!("expected {what}, but {found}"), hint);
        Failed
    }

    fn error(&mut self, span: Span, message: impl Into<String>) -> Failed {
        self.session.error(span, message);
        Failed
    }

    fn twice(&mut self, span: Span, what: &str) -> Failed {
        self.error(span, format!("{what} stands here twice"))
    }

    // Lines.

    fn skip_separators(&mut self) {
        while self.is(Token::Newline) || self.is(Token::Semicolon) {
            self.advance();
        }
    }

    fn skip_newlines(&mut self) {
        while self.is(Token::Newline) {
            self.advance();
        }
    }

    fn at_end_of_statement(&self) -> bool {
        matches!(self.peek().token, Token::Newline | Token::Semicolon | Token::End | Token::Close)
    }

    fn nothing_more(&mut self, what: &str) -> Parse<()> {
        self.skip_separators();
        if self.is(Token::End) { Ok(()) } else { Err(self.expected(&format!("nothing more behind the {what}"), &[])) }
    }

    /// Goes on behind a statement in which something was wrong: at the end of the line, or at the brace that closes
    /// what is around it. A list that is open ends first, unless what follows looks like a new statement.
    fn recover(&mut self) {
        let mut open = std::mem::take(&mut self.lists);
        loop {
            match self.peek().token {
                Token::End | Token::Semicolon => return,
                Token::Close if open == 0 => return,
                Token::Close => open -= 1,
                Token::Open => open += 1,
                Token::Newline if open == 0 || self.statement_follows() => return,
                _ => {}
            }
            self.advance();
        }
    }

    /// Whether the next line that says something begins a statement.
    fn statement_follows(&self) -> bool {
        let mut n = 0;
        while self.ahead(n).token == Token::Newline {
            n += 1;
        }
        let next = self.ahead(n);
        match next.token {
            Token::Word => BEGINNINGS.contains(&self.text_of(next)),
            Token::Variable => self.ahead(n + 1).token == Token::Equals,
            Token::End => true,
            _ => false,
        }
    }

    // Elements and lists.

    /// One element, or several in braces, which may go over several lines.
    fn one_or_list<T>(&mut self, what: &str, one: impl Fn(&mut Self) -> Parse<T>) -> Parse<Vec<T>> {
        if !self.is(Token::Open) {
            return Ok(vec![one(self)?]);
        }
        self.advance();
        self.lists += 1;
        let mut list = Vec::new();
        loop {
            self.skip_newlines();
            if self.is(Token::Close) {
                break;
            }
            list.push(one(self)?);
            self.skip_newlines();
            if self.take(Token::Comma).is_none() {
                break;
            }
        }
        if list.is_empty() {
            return Err(self.expected(what, &[]));
        }
        self.need(Token::Close, "\",\" or \"}\"")?;
        self.lists -= 1;
        Ok(list)
    }

    fn elements(&mut self, what: &str) -> Parse<Elements> {
        self.one_or_list(what, |p| p.element(what))
    }

    /// An element: a word, an address with its mask, a range, a text, a variable, a table, addresses of an interface.
    fn element(&mut self, what: &str) -> Parse<Rc<Element>> {
        let here = self.peek();
        let kind = match here.token {
            Token::Variable => ElementKind::Variable(self.name_here().text),
            Token::Table => ElementKind::Table(self.name_here().text),
            Token::Text => ElementKind::Text(self.name_here().text),
            Token::Word => self.word_element()?,
            _ => return Err(self.expected(what, &[])),
        };
        Ok(Rc::new(Element { kind, span: here.span.to(self.last()) }))
    }

    fn word_element(&mut self) -> Parse<ElementKind> {
        let mut word = self.name_here();
        if self.is(Token::OpenRound) {
            return self.interface_addresses(&word);
        }
        // "80 - 90" is the same as "80-90".
        if self.is_word("-") {
            self.advance();
            let last = self.any_word("the end of the range")?;
            word.text = format!("{}-{}", word.text, last.text);
        }
        if self.take(Token::Slash).is_some() {
            let mask = self.any_word("a mask or the length of a prefix")?;
            return Ok(ElementKind::Masked(word.text, mask.text));
        }
        Ok(ElementKind::Word(word.text))
    }

    fn interface_addresses(&mut self, function: &Name) -> Parse<ElementKind> {
        let (family, fixed) = match &*function.text {
            "inet4" => (Some(Family::V4), true),
            "inet6" => (Some(Family::V6), true),
            "ifaddrs" => (None, false),
            other => {
                let hint = did_you_mean(other, ["inet4", "inet6", "ifaddrs"]);
                let message = format!("{} is no function; there are inet4, inet6 and ifaddrs", quote(other));
                self.session.report.error(function.span, message, hint);
                return Err(Failed);
            }
        };
        self.need(Token::OpenRound, "\"(\"")?;
        let of = self.interface()?;
        self.need(Token::CloseRound, "\")\"")?;
        Ok(ElementKind::Addresses { family, fixed, of })
    }

    /// A single word, text or variable.
    fn scalar(&mut self, what: &str) -> Parse<Rc<Element>> {
        let here = self.peek();
        let kind = match here.token {
            Token::Variable => ElementKind::Variable(self.name_here().text),
            Token::Text => ElementKind::Text(self.name_here().text),
            Token::Word => ElementKind::Word(self.name_here().text),
            _ => return Err(self.expected(what, &[])),
        };
        Ok(Rc::new(Element { kind, span: here.span }))
    }

    fn interface(&mut self) -> Parse<Rc<Element>> {
        self.scalar("the name of an interface")
    }
}

/// What a parser makes of a file that is not there.
trait ParsedOrNothing {
    fn nothing() -> Self;
}

impl ParsedOrNothing for () {
    fn nothing() {}
}

impl<T> ParsedOrNothing for Option<T> {
    fn nothing() -> Self {
        None
    }
}
