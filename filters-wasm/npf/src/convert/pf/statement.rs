//! Statements other than rules: `set`, tables, `antispoof`, anchors.

use super::{
    Pf, TableWords,
    cursor::{Cursor, Read},
    hosts::looks_like_interface,
    lex::{Statement, Token},
};
use crate::{
    config::Family,
    convert::{
        output::{Origin, Part},
        words::{End, Matching, Words, quoted},
    },
};

impl Pf {
    pub(super) fn statement(&mut self, statement: &Statement) {
        let at = Origin::Line(statement.line);
        let what = statement.text.as_str();
        let tokens = match self.macros.define(what) {
            Some(Ok(())) => return,
            Some(Err(why)) => return self.out.leave_out(Part::Settings, &at, what, why),
            None => match self.macros.tokens(what) {
                Ok(tokens) => tokens,
                Err(why) => return self.out.leave_out(Part::Rules, &at, what, why),
            },
        };
        let mut cursor = Cursor::new(&tokens);
        let word = cursor.word();
        if word != "table" {
            self.unwritten_tables(&at, what, &tokens);
        }
        let done = match word {
            "pass" | "block" | "match" => self.rule(&at, what, &mut cursor),
            "nat" | "rdr" | "binat" | "no" => self.old_translation(&at, what, &mut cursor),
            "table" => self.table(&at, what, &mut cursor),
            "set" => self.set(&at, what, &mut cursor),
            "antispoof" => self.antispoof(&at, what, &mut cursor),
            "anchor" | "nat-anchor" | "rdr-anchor" | "binat-anchor" | "load" => {
                Err("anchors are not carried over; a group or a dynamic ruleset can take their place".to_owned())
            }
            "include" => Err("the file is not looked at; convert it by itself".to_owned()),
            "scrub" => Err("write a procedure with normalize, and apply it in rules".to_owned()),
            "queue" | "altq" => Err("there are no queues".to_owned()),
            _ => Err("it is not known".to_owned()),
        };
        if let Err(why) = done {
            let part = match word {
                "set" => Part::Settings,
                "table" => Part::Tables,
                "nat" | "rdr" | "binat" | "no" => Part::Maps,
                _ => Part::Rules,
            };
            self.out.leave_out(part, &at, what, why);
        }
    }

    /// A table that only rules name is there, and empty.
    fn unwritten_tables(&mut self, at: &Origin, what: &str, tokens: &[Token]) {
        for window in tokens.windows(3) {
            let [Token::Mark("<"), Token::Word(name), Token::Mark(">")] = window else { continue };
            if !self.tables.contains_key(name) && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                let mut table = TableWords { words: vec![format!("<{name}>")], broken: None };
                if !self.out.table(at, what, format!("table <{name}> type lpm")) {
                    table.broken = Some("its name cannot be one".to_owned());
                }
                self.tables.insert(name.clone(), table);
            }
        }
    }

    fn set(&mut self, at: &Origin, what: &str, cursor: &mut Cursor<'_>) -> Read<()> {
        cursor.next();
        match cursor.text("what is set")? {
            "skip" => {
                cursor.take_word("on");
                let names = cursor.list(|c| c.text("the name of an interface").map(str::to_owned))?;
                for name in names {
                    self.note_group(at, what, &name);
                    self.out.comment(Part::Rules, &format!("set skip on {name}"));
                    let rule = Words { action: "pass", is_final: true, interface: Some(name), ..Words::default() };
                    self.out.rule(at, what, &rule);
                }
                self.out.note(at, what, "rules pass its packets; maps for it would still translate them");
                Ok(())
            }
            // Looked at before.
            "block-policy" | "state-policy" => Ok(()),
            "reassemble" => {
                let value = if cursor.take_word("no") { "off" } else { "on" };
                self.out.setting(format!("set ip4.reassembly {value}"));
                self.out.setting(format!("set ip6.reassembly {value}"));
                Ok(())
            }
            "timeout" => {
                let pairs = cursor.list(|c| {
                    let name = c.text("the name of a timeout")?.to_owned();
                    Ok((name, c.text("a number of seconds")?.to_owned()))
                })?;
                for (name, seconds) in pairs {
                    let key = match name.as_str() {
                        "tcp.first" | "tcp.opening" => "state.tcp.timeout.new",
                        "tcp.established" => "state.tcp.timeout.established",
                        "tcp.closing" => "state.tcp.timeout.half_close",
                        "tcp.closed" => "state.tcp.timeout.close",
                        "tcp.finwait" => "state.tcp.timeout.time_wait",
                        _ => {
                            let why = "there is no parameter for this timeout";
                            self.out.leave_out(Part::Settings, at, &format!("set timeout {name} {seconds}"), why);
                            continue;
                        }
                    };
                    match seconds.parse::<u32>() {
                        Ok(seconds) => self.out.setting(format!("set {key} {seconds}")),
                        Err(_) => return Err("a timeout is a number of seconds".to_owned()),
                    }
                }
                Ok(())
            }
            "optimization"
            | "ruleset-optimization"
            | "loginterface"
            | "debug"
            | "fingerprints"
            | "hostid"
            | "limit"
            | "require-order"
            | "syncookies"
            | "keepcounters" => Err("it changes nothing about which packets pass, or has no counterpart".to_owned()),
            _ => Err("there is no such parameter".to_owned()),
        }
    }

    /// pf knows groups of interfaces by names without a number.
    pub(super) fn note_group(&mut self, at: &Origin, what: &str, name: &str) {
        if !looks_like_interface(name) {
            let why = format!("{} may name a group of interfaces in pf; here it is one interface", quoted(name));
            self.out.note(at, what, why);
        }
    }

    fn table(&mut self, at: &Origin, what: &str, cursor: &mut Cursor<'_>) -> Read<()> {
        cursor.next();
        if !cursor.take("<") {
            return Err("the name of the table is missing".to_owned());
        }
        let name = cursor.text("the name of the table")?.to_owned();
        if !cursor.take(">") {
            return Err("the name of the table is not closed".to_owned());
        }
        if self.tables.contains_key(&name) {
            return Err("there is a table of this name already".to_owned());
        }
        let mut table = TableWords::default();
        let (mut is_const, mut counters, mut files) = (false, false, Vec::new());
        let (mut entries, mut negated) = (Vec::new(), false);
        while !cursor.at_end() {
            match cursor.peek() {
                Some(Token::Mark("{")) => {
                    for host in cursor.list(|c| self.host(c, None))? {
                        negated |= host.not;
                        entries.extend(host.words);
                    }
                }
                _ => match cursor.text("an option")? {
                    "const" => is_const = true,
                    "counters" => counters = true,
                    "file" => files.push(cursor.text("the name of a file")?.to_owned()),
                    "persist" => {}
                    other => return Err(format!("a table has no option \"{other}\"")),
                },
            }
        }
        if negated {
            table.broken = Some("entries that are excepted are not known".to_owned());
        } else if files.len() > 1 {
            table.broken = Some("a table has one file at most".to_owned());
        } else {
            let file = files.first().map(|file| format!(" file {}", quoted(file))).unwrap_or_default();
            // What is fixed and written down needs no table.
            let needed = !(is_const && files.is_empty() && !entries.is_empty());
            if needed {
                let counters = if counters { " counters" } else { "" };
                if !self.out.table(at, what, format!("table <{name}> type lpm{file}{counters}")) {
                    table.broken = Some("it is no table".to_owned());
                }
                if !file.is_empty() {
                    let why = "its file may hold addresses and prefixes only: no names, and nothing that is excepted";
                    self.out.note(at, what, why);
                }
                table.words.push(format!("<{name}>"));
            }
            if needed && !entries.is_empty() {
                let why = "the entries that it has from the beginning stand in the rules, where commands cannot \
                           remove them";
                self.out.note(at, what, why);
            }
            table.words.extend(entries);
        }
        let broken = table.broken.clone();
        self.tables.insert(name, table);
        broken.map_or(Ok(()), Err)
    }

    /// pf makes of it that the networks of an interface are no sources elsewhere, and its addresses none anywhere.
    fn antispoof(&mut self, at: &Origin, what: &str, cursor: &mut Cursor<'_>) -> Read<()> {
        cursor.next();
        let log = cursor.take_word("log");
        cursor.skip_round();
        let quick = cursor.take_word("quick");
        cursor.take_word("for");
        let names = cursor.list(|c| {
            if c.take("!") {
                return Err("an interface cannot be negated".to_owned());
            }
            if c.take("(") {
                let name = c.text("the name of an interface")?.to_owned();
                c.take(")");
                return Ok(name);
            }
            c.text("the name of an interface").map(str::to_owned)
        })?;
        let family = match cursor.word() {
            "inet" => Some(Family::V4),
            "inet6" => Some(Family::V6),
            _ => None,
        };
        if family.is_some() {
            cursor.next();
        }
        let label = if cursor.take_word("label") { Some(cursor.text("a label")?.to_owned()) } else { None };
        for name in names {
            self.note_group(at, what, &name);
            let from = End { addresses: vec![format!("ifaddrs({})", quoted(&name))], ..End::default() };
            let mut rule = Words {
                // Whatever the policy is.
                action: "block",
                direction: Some("in"),
                is_final: quick,
                matching: Matching { family, from, ..Matching::default() },
                ..Words::default()
            };
            rule.options.extend(label.as_deref().and_then(crate::convert::words::name_option));
            if log {
                rule.options.push("log".to_owned());
            }
            self.out.rule(at, what, &rule);
            let why = format!(
                "only the addresses of {name} are blocked as sources: that its networks come in by no other interface \
                 needs \"on ! {name}\", which is not known here"
            );
            self.out.leave_out(Part::Rules, at, what, why);
        }
        Ok(())
    }
}
