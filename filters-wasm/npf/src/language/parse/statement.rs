//! Statements on the outermost level, and groups.

use super::{Failed, Parse, Parser};
use crate::{
    config::Directions,
    language::{
        ast::{CallDecl, Gate, GroupDecl, ItemDecl, Name, ProcedureDecl, RulesetDecl, Statement, TableDecl},
        lex::Token,
        source::Span,
    },
};

/// Deepest nesting of groups.
const MAX_GROUPS: usize = 16;

/// Words that can stand on the outermost level.
const STATEMENTS: &[&str] = &["set", "alg", "table", "map", "procedure", "group", "include"];

/// Words that can stand in a group.
const ITEMS: &[&str] = &["pass", "block", "group", "ruleset", "include"];

impl Parser<'_, '_> {
    /// Statements up to the end of the file.
    pub(super) fn statements(&mut self, out: &mut Vec<Statement>) {
        loop {
            self.skip_separators();
            if self.is(Token::End) {
                return;
            }
            if self.is(Token::Close) {
                self.expected("a statement", &[]);
                self.advance();
                continue;
            }
            let braced = self.is_word("group") || self.is_word("procedure");
            let done = self.statement(out);
            if done.and_then(|()| self.statement_ends(braced)).is_err() {
                self.recover();
            }
        }
    }

    /// Behind a closing brace the next statement may follow at once.
    fn statement_ends(&mut self, braced: bool) -> Parse<()> {
        if braced || matches!(self.peek().token, Token::Newline | Token::Semicolon | Token::End) {
            return Ok(());
        }
        Err(self.expected("the end of the line", &[]))
    }

    fn statement(&mut self, out: &mut Vec<Statement>) -> Parse<()> {
        if self.is(Token::Variable) {
            out.push(self.variable()?);
            return Ok(());
        }
        match self.word() {
            "set" => out.push(self.set()?),
            "alg" => {
                self.advance();
                out.push(Statement::Alg(self.word_or_text("\"icmp\" or \"pptp\"")?));
            }
            "table" => out.push(self.table()?),
            "map" => out.push(self.map()?),
            "procedure" => out.push(self.procedure()?),
            "group" => out.push(Statement::Group(self.group()?)),
            "include" => self.include(|parser| parser.statements(out))?,
            "pass" | "block" | "ruleset" => {
                let span = self.peek().span;
                let hint = "put it between the braces of a group";
                self.session.error_hint(
                    span,
                    format!("\"{}\" stands outside of a group", self.text_of(self.peek())),
                    hint,
                );
                return Err(Failed);
            }
            _ => {
                return Err(self.expected(
                    "a statement (set, alg, table, map, procedure, group, include, or $name = value)",
                    STATEMENTS,
                ));
            }
        }
        Ok(())
    }

    /// Goes on in another file.
    fn include(&mut self, run: impl FnOnce(&mut Parser<'_, '_>)) -> Parse<()> {
        self.advance();
        let path = self.text("the name of a file")?;
        let file = self.session.include(&path.text, path.span).ok_or(Failed)?;
        let depth = self.depth;
        Parser::of(self.session, file, |parser| {
            parser.depth = depth;
            run(parser);
        });
        Ok(())
    }

    fn variable(&mut self) -> Parse<Statement> {
        let name = self.name_here();
        self.need(Token::Equals, "\"=\"")?;
        let values = self.elements("a value")?;
        Ok(Statement::Variable { name, values })
    }

    fn set(&mut self) -> Parse<Statement> {
        self.advance();
        let name = self.any_word("the name of a parameter")?;
        // "set x = 1" is what other languages write.
        if let Some(span) = self.take(Token::Equals) {
            return Err(self.error(span, "there is no \"=\" between a parameter and its value"));
        }
        let value = self.scalar("a number, on or off")?;
        Ok(Statement::Set { name, value })
    }

    fn table(&mut self) -> Parse<Statement> {
        let span = self.advance().span;
        let name = self.table_name("the name of a table")?;
        if self.take_word("type").is_none() {
            return Err(self.expected("\"type\"", &["type"]));
        }
        let kind = self.any_word("ipset, lpm, const or ipport")?;
        let mut table = TableDecl { name, kind, file: None, dynamic: None, timeout: None, counters: false, span };
        while !self.at_end_of_statement() {
            let at = self.peek().span;
            match self.word() {
                "file" if table.file.is_some() => return Err(self.twice(at, "\"file\"")),
                "file" => {
                    self.advance();
                    table.file = Some(self.text("the name of a file")?);
                }
                "dynamic" => table.dynamic = Some(self.advance().span),
                "timeout" if table.timeout.is_some() => return Err(self.twice(at, "\"timeout\"")),
                "timeout" => {
                    self.advance();
                    table.timeout = Some(self.scalar("a time such as 30s")?);
                }
                "counters" if table.counters => return Err(self.twice(at, "\"counters\"")),
                "counters" => {
                    self.advance();
                    table.counters = true;
                }
                _ => {
                    let options = ["file", "dynamic", "timeout", "counters"];
                    return Err(self.expected("file, timeout, counters, or the end of the line", &options));
                }
            }
        }
        table.span = span.to(self.last());
        Ok(Statement::Table(table))
    }

    fn procedure(&mut self) -> Parse<Statement> {
        let span = self.advance().span;
        let name = self.text("the name of the procedure")?;
        let span = span.to(self.last());
        let mut procedure = ProcedureDecl { name, calls: Vec::new(), span };
        let open = self.need(Token::Open, "\"{\"")?;
        loop {
            self.skip_separators();
            if self.take(Token::Close).is_some() {
                return Ok(Statement::Procedure(procedure));
            }
            if self.is(Token::End) || self.new_statement() {
                self.not_closed(open);
                return Ok(Statement::Procedure(procedure));
            }
            match self.call() {
                Ok(call) => procedure.calls.push(call),
                Err(Failed) => self.recover(),
            }
        }
    }

    fn call(&mut self) -> Parse<CallDecl> {
        let name = self.word_or_text("log, normalize, rndblock, ratelimit, route or wasm")?;
        self.need(Token::Colon, "\":\"")?;
        let mut options = Vec::new();
        while !self.at_end_of_statement() {
            let key = self.scalar("an option")?;
            let value = match self.peek().token {
                Token::Word | Token::Text | Token::Variable => Some(self.scalar("a value")?),
                _ => None,
            };
            options.push((key, value));
            if self.take(Token::Comma).is_none() {
                break;
            }
            // A list of options may go on in the next line.
            self.skip_newlines();
        }
        if !self.at_end_of_statement() {
            return Err(self.expected("\",\" or the end of the line", &[]));
        }
        Ok(CallDecl { name, options })
    }

    /// Whether a statement of the outermost level begins here, which can be in no group.
    fn new_statement(&self) -> bool {
        match self.peek().token {
            Token::Word => matches!(self.word(), "set" | "alg" | "table" | "map" | "procedure"),
            Token::Variable => self.ahead(1).token == Token::Equals,
            _ => false,
        }
    }

    fn not_closed(&mut self, open: Span) -> Failed {
        self.error(open, "this brace is not closed")
    }

    /// A group. What is wrong in its head does not keep what is in it from being looked at.
    pub(super) fn group(&mut self) -> Parse<GroupDecl> {
        let span = self.advance().span;
        let mut group = GroupDecl { name: None, gate: Gate::default(), layer2: false, items: Vec::new(), span };
        let mut wrong = self.group_head(&mut group).is_err();
        group.span = span.to(self.last());
        if !wrong && !matches!(self.peek().token, Token::Open | Token::Newline) {
            self.expected("\"{\"", &["in", "out", "forw", "on", "layer-2"]);
            wrong = true;
        }
        while wrong && !matches!(self.peek().token, Token::Open | Token::Newline | Token::End) {
            self.advance();
        }
        self.skip_newlines();
        let open = match self.take(Token::Open) {
            Some(open) => open,
            None if wrong => return Err(Failed),
            None => return Err(self.expected("\"{\"", &[])),
        };
        if self.depth >= MAX_GROUPS {
            self.error(span, format!("groups are nested more than {MAX_GROUPS} deep"));
            self.skip_group();
            return Ok(group);
        }
        self.depth += 1;
        self.items(&mut group.items);
        self.depth -= 1;
        if self.take(Token::Close).is_none() {
            self.not_closed(open);
        }
        Ok(group)
    }

    /// Goes behind the brace that closes a group, without recursion.
    fn skip_group(&mut self) {
        let mut open = 1;
        while open > 0 && !self.is(Token::End) {
            match self.advance().token {
                Token::Open => open += 1,
                Token::Close => open -= 1,
                _ => {}
            }
        }
    }

    fn group_head(&mut self, group: &mut GroupDecl) -> Parse<()> {
        if self.take_word("default").is_none() {
            // Whatever its name was meant to be, it is not the default group.
            group.name = Some(Name { text: "?".to_owned(), span: group.span });
            group.name = Some(self.text("the name of the group, or default")?);
        }
        loop {
            if self.gate_option(&mut group.gate, true)? {
                continue;
            }
            match self.take_word("layer-2") {
                Some(at) if group.layer2 => return Err(self.twice(at, "\"layer-2\"")),
                Some(_) => group.layer2 = true,
                None => break,
            }
        }
        let gated = group.gate.interface.is_some() || group.gate.directions != Directions::Any || group.layer2;
        if group.name.is_none() && gated {
            let span = group.span.to(self.last());
            return Err(self.error(span, "the default group is for all packets: it has no direction and no interface"));
        }
        Ok(())
    }

    /// A direction or `on` an interface, if one is here.
    pub(super) fn gate_option(&mut self, gate: &mut Gate, forward: bool) -> Parse<bool> {
        let at = self.peek().span;
        let directions = match self.word() {
            "in" => Directions::In,
            "out" => Directions::Out,
            "forw" if forward => Directions::Forward,
            "on" if gate.interface.is_some() => return Err(self.twice(at, "\"on\"")),
            "on" => {
                self.advance();
                gate.interface = Some(self.interface()?);
                return Ok(true);
            }
            _ => return Ok(false),
        };
        if gate.directions != Directions::Any {
            return Err(self.twice(at, "a direction"));
        }
        gate.directions = directions;
        self.advance();
        Ok(true)
    }

    /// What is in a group, up to its brace.
    fn items(&mut self, out: &mut Vec<ItemDecl>) {
        loop {
            self.skip_separators();
            if self.is(Token::End) || self.is(Token::Close) || self.new_statement() {
                return;
            }
            let grouped = self.is_word("group");
            let done = self.item(out);
            if done.and_then(|()| self.item_ends(grouped)).is_err() {
                self.recover();
            }
        }
    }

    fn item_ends(&mut self, grouped: bool) -> Parse<()> {
        if grouped || self.at_end_of_statement() {
            return Ok(());
        }
        Err(self.expected("the end of the line", super::rule::OPTIONS))
    }

    fn item(&mut self, out: &mut Vec<ItemDecl>) -> Parse<()> {
        match self.word() {
            "pass" | "block" => out.push(ItemDecl::Rule(Box::new(self.rule()?))),
            "group" => out.push(ItemDecl::Group(self.group()?)),
            "ruleset" => {
                let span = self.advance().span;
                out.push(ItemDecl::Ruleset(self.ruleset(span)?));
            }
            "include" => self.include(|parser| {
                parser.items(out);
                if !parser.is(Token::End) {
                    parser.expected(
                        "a rule, a group, a ruleset, or the end of this file, which is included in a group",
                        &[],
                    );
                }
            })?,
            _ => return Err(self.expected("a rule (pass or block), a group, a ruleset, an include, or \"}\"", ITEMS)),
        }
        Ok(())
    }

    /// What follows `ruleset`, of rules or of maps. The round brackets of older files are taken too.
    pub(super) fn ruleset(&mut self, span: Span) -> Parse<RulesetDecl> {
        let round = self.take(Token::OpenRound).is_some();
        let name: Name = self.text("the name of the ruleset")?;
        let mut gate = Gate::default();
        while self.gate_option(&mut gate, true)? {}
        if round {
            self.need(Token::CloseRound, "\")\"")?;
        }
        Ok(RulesetDecl { name, gate, span: span.to(self.last()) })
    }
}
