//! The language of npf.conf(5).
//!
//! ```text
//! text -- lex --> words -- parse --> what it says (ast) -- resolve --> Config -- print --> text
//! ```
//!
//! It is NetBSD's, with what users of other filters miss: `include`, hexadecimal numbers, both families in one list, and
//! for rules `name`, `log`, `tag`, `tagged` and `limit`, for tables the type `ipport`, `timeout` and `counters`. All that
//! is wrong with a text is reported at once, with file, line and column.
//!
//! ```
//! use smpnet_npf::language::{NoFiles, parse, print};
//!
//! let text = "group default {\n  pass stateful out all\n  block in from 10.1/16\n}\n";
//! let parsed = parse("npf.conf", text, &NoFiles)?;
//! assert!(print(&parsed.config).contains("block in from 10.1.0.0/16"));
//! # Ok::<(), smpnet_npf::language::Diagnostics>(())
//! ```

mod ast;
mod diagnostic;
mod lex;
mod names;
mod parse;
mod print;
mod resolve;
mod session;
mod source;
#[cfg(test)]
mod tests;

pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub(crate) use names::{ICMP_TYPES_LONG, ICMPV6_TYPES_LONG};
pub use print::{map_id, print, print_map, print_rule, print_shown, rule_id};
pub use session::{Disk, Files, NoFiles};

use crate::config::{Config, Group, Item, Map, MapItem, Place, Rule, RuleId, TableEntry, TableKind};
use ast::Statement;
use resolve::Resolver;
use session::Session;
use source::{MAX_TEXT, Span};
use std::collections::HashMap;

/// Longest rule or map that a command can add, in bytes.
pub const MAX_COMMAND: usize = 1024;

/// What a text means.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The configuration.
    pub config: Config,
    /// What probably means something else than it seems to.
    pub warnings: Diagnostics,
}

/// Reads a configuration. `name` is what errors call the text, and files that it includes are looked for beside it.
///
/// # Errors
/// All that is wrong with it, in the order in which it stands there, warnings too.
pub fn parse(name: &str, text: &str, files: &dyn Files) -> Result<Parsed, Diagnostics> {
    let mut session = Session::new(files);
    let file = session.sources.add(name, text);
    if text.len() > MAX_TEXT {
        session.error(Span { file, ..Span::default() }, format!("the configuration is longer than {MAX_TEXT} bytes"));
        return Err(session.report.finish(&session.sources));
    }
    let statements = parse::parse_file(&mut session, file);
    let end = session.sources.get(file).map_or(0, |s| s.text.len()) as u32;
    let mut config = Resolver::new(&mut session, &Config::default()).config(statements, Span { file, start: end, end });
    let warnings = finish(session)?;
    number(&mut config);
    Ok(Parsed { config, warnings })
}

/// Reads a rule that a command adds, without the variables of the file. Its id is that of a rule of which the
/// configuration has as many equal ones as it has; [`rule_id`] gives it another number.
///
/// # Errors
/// All that is wrong with it.
pub fn parse_rule(text: &str, config: &Config) -> Result<Rule, Diagnostics> {
    let mut session = Session::new(&NoFiles);
    let rule = command(&mut session, "rule", text)
        .and_then(|file| parse::parse_rule(&mut session, file))
        .and_then(|decl| Resolver::new(&mut session, config).single_rule(decl));
    let warnings = finish(session)?;
    let mut rule = rule.ok_or(warnings)?;
    let identity = print::rule_identity(config, &rule);
    let mut equal = 0;
    each_rule(&config.groups, &mut |other| equal += u32::from(print::rule_identity(config, other) == identity));
    rule.id = print::hash(&identity, equal);
    Ok(rule)
}

/// Reads a map that a command adds, as [`parse_rule`] does.
///
/// # Errors
/// All that is wrong with it.
pub fn parse_map(text: &str, config: &Config) -> Result<Map, Diagnostics> {
    let mut session = Session::new(&NoFiles);
    let decl = command(&mut session, "map", text).and_then(|file| parse::parse_map(&mut session, file));
    let map = match decl {
        Some(Statement::Map(decl)) => Resolver::new(&mut session, config).single_map(*decl),
        Some(_) => {
            session.error(Span::default(), "a ruleset cannot be added by a command");
            None
        }
        None => None,
    };
    let warnings = finish(session)?;
    let mut map = map.ok_or(warnings)?;
    let identity = print_map(config, &map);
    let maps = config.maps.iter().filter(|item| matches!(item, MapItem::Map(m) if print_map(config, m) == identity));
    map.id = print::hash(&identity, maps.count() as u32);
    Ok(map)
}

/// Reads entries of a table of a kind, one a line, as its file has them; `name` is told in messages. What is there twice is
/// once.
///
/// # Errors
/// All that is wrong with them.
pub fn parse_entries(name: &str, text: &str, kind: TableKind) -> Result<Vec<TableEntry>, Diagnostics> {
    let mut session = Session::new(&NoFiles);
    let file = session.sources.add(name, text);
    if text.len() > MAX_TEXT {
        session.error(Span { file, ..Span::default() }, format!("the entries are longer than {MAX_TEXT} bytes"));
        return Err(session.report.finish(&session.sources));
    }
    let config = Config::default();
    let entries = Resolver::new(&mut session, &config).table_lines(file, kind);
    finish(session).map(|_| entries)
}

/// Takes in what a command says.
fn command(session: &mut Session<'_>, name: &str, text: &str) -> Option<u32> {
    let file = session.sources.add(name, text);
    if text.len() <= MAX_COMMAND {
        return Some(file);
    }
    session.error(Span { file, ..Span::default() }, format!("a {name} can have {MAX_COMMAND} bytes at most"));
    None
}

/// The warnings, or all that was found if there is an error in it.
fn finish(session: Session<'_>) -> Result<Diagnostics, Diagnostics> {
    let failed = session.report.failed();
    let found = session.report.finish(&session.sources);
    if failed { Err(found) } else { Ok(found) }
}

fn each_rule(groups: &[Group], visit: &mut impl FnMut(&Rule)) {
    for group in groups {
        for item in &group.items {
            match item {
                Item::Rule(rule) => visit(rule),
                Item::Group(inner) => each_rule(std::slice::from_ref(inner), visit),
                Item::Ruleset(_) => {}
            }
        }
    }
}

/// Gives all rules and maps their ids.
fn number(config: &mut Config) {
    let mut ids = Vec::new();
    let mut seen: HashMap<String, u32> = HashMap::new();
    let mut next = |identity: String| -> RuleId {
        let ordinal = seen.get(&identity).copied().unwrap_or(0);
        let id = print::hash(&identity, ordinal);
        seen.insert(identity, ordinal + 1);
        id
    };
    each_rule(&config.groups, &mut |rule| ids.push(next(print::rule_identity(config, rule))));
    let maps: Vec<_> = config
        .maps
        .iter()
        .map(|item| match item {
            MapItem::Map(map) => next(print_map(config, map)),
            MapItem::Ruleset(_) => RuleId::default(),
        })
        .collect();
    let mut ids = ids.into_iter();
    give_ids(&mut config.groups, &mut ids);
    for (item, id) in config.maps.iter_mut().zip(maps) {
        if let MapItem::Map(map) = item {
            map.id = id;
        }
    }
}

fn give_ids(groups: &mut [Group], ids: &mut impl Iterator<Item = RuleId>) {
    for group in groups {
        for item in &mut group.items {
            match item {
                Item::Rule(rule) => rule.id = ids.next().unwrap_or_default(),
                Item::Group(inner) => give_ids(std::slice::from_mut(inner), ids),
                Item::Ruleset(_) => {}
            }
        }
    }
}

impl Config {
    /// Whether two configurations say the same, wherever they say it.
    pub fn same(&self, other: &Config) -> bool {
        self.without_places() == other.without_places()
    }

    /// This configuration as if no file had said it.
    pub fn without_places(&self) -> Config {
        let mut config = self.clone();
        config.tables.iter_mut().for_each(|table| table.at = Place::default());
        config.procedures.iter_mut().for_each(|procedure| procedure.at = Place::default());
        for item in &mut config.maps {
            match item {
                MapItem::Map(map) => map.at = Place::default(),
                MapItem::Ruleset(ruleset) => ruleset.at = Place::default(),
            }
        }
        clear_places(&mut config.groups);
        config
    }
}

fn clear_places(groups: &mut [Group]) {
    for group in groups {
        group.at = Place::default();
        for item in &mut group.items {
            match item {
                Item::Rule(rule) => rule.at = Place::default(),
                Item::Ruleset(ruleset) => ruleset.at = Place::default(),
                Item::Group(inner) => clear_places(std::slice::from_mut(inner)),
            }
        }
    }
}
