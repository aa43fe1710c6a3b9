//! Tables and their files.

use super::{MAX_TABLES, Resolver, address::proto_number, values, values::Wrong};
use crate::{
    config::{Family, Table, TableEntry, TableKind, TableSource},
    language::{
        ast::{Name, TableDecl},
        source::{Span, did_you_mean, quote},
    },
};
use std::collections::HashSet;

impl Resolver<'_, '_> {
    pub(super) fn table(&mut self, decl: TableDecl) -> Option<Table> {
        let index = self.config.tables.len();
        if self.config.tables.iter().any(|t| t.name == decl.name.text) {
            self.session.error(decl.name.span, format!("there is a table <{}> already", decl.name.text));
            return None;
        }
        if index >= MAX_TABLES {
            self.session.error(decl.name.span, format!("there are more than {MAX_TABLES} tables"));
            return None;
        }
        if let Some(at) = decl.dynamic {
            self.session.report.warn(at, "\"dynamic\" is old and means nothing: leave it out", None);
        }
        let kind = self.table_kind(&decl.kind).unwrap_or(TableKind::Lpm);
        let timeout = decl.timeout.as_ref().and_then(|time| self.scalar(time, "time", values::duration));
        if kind == TableKind::Const {
            if decl.file.is_none() {
                let hint = "write: file \"path\"";
                self.session.error_hint(
                    decl.span,
                    "a table of type const needs a file: it cannot be changed later",
                    hint,
                );
            }
            if let Some(timeout) = &decl.timeout {
                self.session.error(timeout.span, "the entries of a table of type const stay: it has no timeout");
            }
        }
        let (source, entries) = match &decl.file {
            Some(file) => (TableSource::File(file.text.clone()), self.table_file(file, kind)),
            None => (TableSource::Empty, Vec::new()),
        };
        let at = self.session.sources.place(decl.span);
        Some(Table { name: decl.name.text, kind, source, entries, timeout, counters: decl.counters, at })
    }

    fn table_kind(&mut self, kind: &Name) -> Option<TableKind> {
        let (kind_now, now) = match &*kind.text {
            "ipset" => return Some(TableKind::Ipset),
            "lpm" => return Some(TableKind::Lpm),
            "const" => return Some(TableKind::Const),
            "ipport" => return Some(TableKind::IpPort),
            "hash" => (TableKind::Ipset, "ipset"),
            "tree" => (TableKind::Lpm, "lpm"),
            "cdb" => (TableKind::Const, "const"),
            other => {
                let hint = did_you_mean(other, ["ipset", "lpm", "const", "ipport"])
                    .unwrap_or_else(|| "there are ipset, lpm, const and ipport".into());
                self.session.error_hint(kind.span, format!("{} is no type of a table", quote(other)), hint);
                return None;
            }
        };
        let message = format!("the type {} has another name now: write {now}", quote(&kind.text));
        self.session.report.warn(kind.span, message, None);
        Some(kind_now)
    }

    /// What a table's file says, without what is wrong in it.
    fn table_file(&mut self, path: &Name, kind: TableKind) -> Vec<TableEntry> {
        let Some(file) = self.session.load(&path.text, path.span) else { return Vec::new() };
        self.table_lines(file, kind)
    }

    /// What the lines of a file say, which has been read.
    pub(in crate::language) fn table_lines(&mut self, file: u32, kind: TableKind) -> Vec<TableEntry> {
        let Some(text) = self.session.sources.get(file).map(|s| s.text.clone()) else { return Vec::new() };
        let lines = text.bytes().filter(|&b| b == b'\n').count() + 1;
        let mut entries = Vec::with_capacity(lines);
        let mut seen = HashSet::with_capacity(lines);
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            let said = line.split('#').next().unwrap_or("");
            let words = said.trim();
            let begin = start + said.len() - said.trim_start().len();
            start += line.len();
            if words.is_empty() {
                continue;
            }
            let at = Span { file, start: begin as u32, end: (begin + words.len()) as u32 };
            match self.table_entry(words, kind, at) {
                Ok(entry) if seen.insert(entry) => entries.push(entry),
                Ok(_) => self.session.report.warn(at, "this entry is there already", None),
                Err(wrong) => self.session.report.error(at, wrong.message, wrong.hint),
            }
        }
        entries
    }

    fn table_entry(&mut self, line: &str, kind: TableKind, at: Span) -> Result<TableEntry, Wrong> {
        let mut words = line.split_whitespace();
        let words = [words.next(), words.next(), words.next(), words.next()];
        let (address, service) = match (kind, words) {
            (TableKind::IpPort, [Some(address), Some(protocol), Some(port), None]) => {
                let protocol = proto_number(protocol)?;
                let wrong =
                    || Wrong::hint(format!("{} is no port", quote(port)), "it is a number up to 65535, or a name");
                (address, Some((protocol, self.port(port).ok_or_else(wrong)?)))
            }
            (TableKind::IpPort, _) => {
                let message = format!("{} is no entry of a table of type ipport", quote(line));
                return Err(Wrong::hint(message, "write address, protocol and port: 192.0.2.1 tcp 80"));
            }
            (_, [Some(address), None, ..]) => (address, None),
            _ => return Err(Wrong::hint(format!("{} is no address", quote(line)), "write one address a line")),
        };
        let (word, mask) = match address.split_once('/') {
            Some((word, mask)) => (word, Some(mask)),
            None => (address, None),
        };
        let (prefix, host_bits) = values::prefix(word, mask)?;
        if prefix.len != Family::of(prefix.address).bits() && kind != TableKind::Lpm {
            let message = format!("{} is a prefix, and this table holds addresses", quote(address));
            return Err(Wrong::hint(message, "tables of type lpm hold prefixes"));
        }
        if host_bits {
            self.host_bits(at, &prefix);
        }
        Ok(TableEntry { prefix, service })
    }
}
