//! From what a text says to a [`Config`]: variables put in, names looked up, everything checked.

mod address;
mod map;
mod procedure;
mod rule;
mod table;
pub(super) mod values;

#[cfg(test)]
pub(super) use rule::implied_opening;

use super::{
    ast::{Element, ElementKind, Elements, Gate, GroupDecl, ItemDecl, MapDecl, Name, RuleDecl, RulesetDecl, Statement},
    names,
    session::Session,
    source::{Span, did_you_mean, quote},
};
use crate::{
    config::{Alg, Config, Directions, Group, Item, Map, MapItem, ProcedureId, Rule, Ruleset, TableId, TableKind},
    params::{Key, PARAMS},
};
use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::Arc,
};
use values::Wrong;

/// Rules of a configuration, at most.
const MAX_RULES: usize = 1 << 20;
/// Tables of a configuration, at most.
const MAX_TABLES: usize = 128;
/// Procedures of a configuration, at most.
const MAX_PROCEDURES: usize = 128;
/// Elements that a list may have with its variables put in.
const MAX_LIST: usize = 1 << 16;
/// Elements that variables may put into a configuration, all together.
const MAX_PUT_IN: usize = 1 << 24;

/// An element and where it is used, which is elsewhere when a variable put it in.
#[derive(Clone)]
struct Use {
    element: Rc<Element>,
    at: Span,
}

/// A use of a table that not every type is fit for.
#[derive(Clone, Copy)]
enum TableUse {
    /// It takes the sources of an overload.
    Overload,
    /// It is a side of a map.
    Side,
}

/// What makes a configuration of statements.
pub(super) struct Resolver<'s, 'f> {
    session: &'s mut Session<'f>,
    /// Their elements, with the variables in them put in; None for those in which something was wrong.
    variables: HashMap<String, Option<Elements>>,
    tables: HashMap<String, TableId>,
    procedures: HashMap<String, ProcedureId>,
    rulesets: HashSet<String>,
    /// Where parameters were set last.
    set: HashMap<Key, Span>,
    /// The system's list of services, once it was asked for.
    services: Option<Arc<str>>,
    /// Tables that are put to a use that not every type is fit for. They may stand further down.
    table_uses: Vec<(TableId, Span, TableUse)>,
    default_group: Option<Group>,
    rules: usize,
    put_in: usize,
    config: Config,
}

impl<'s, 'f> Resolver<'s, 'f> {
    /// A resolver to which only the tables and procedures of a configuration are known.
    pub fn new(session: &'s mut Session<'f>, known: &Config) -> Resolver<'s, 'f> {
        let tables = known.tables.iter().enumerate().map(|(i, t)| (t.name.clone(), TableId(i))).collect();
        let procedures = known.procedures.iter().enumerate().map(|(i, p)| (p.name.clone(), ProcedureId(i))).collect();
        let config = Config { tables: known.tables.clone(), procedures: known.procedures.clone(), ..Config::default() };
        Resolver {
            session,
            variables: HashMap::new(),
            tables,
            procedures,
            rulesets: HashSet::new(),
            set: HashMap::new(),
            services: None,
            table_uses: Vec::new(),
            default_group: None,
            rules: 0,
            put_in: 0,
            config,
        }
    }

    /// A whole configuration; of use only when nothing was reported.
    pub fn config(mut self, statements: Vec<Statement>, end: Span) -> Config {
        self.declare(&statements);
        for statement in statements {
            // What is wrong is reported, and leaves nothing behind.
            let _ = self.statement(statement);
        }
        self.check_params();
        self.check_tables();
        match self.default_group.take() {
            Some(group) => self.config.groups.push(group),
            None => {
                let hint = "every configuration needs one, for instance: group default { block all }";
                self.session.error_hint(end, "there is no default group", hint);
            }
        }
        self.config
    }

    /// A rule by itself. Whether it is for layer 2 is not known.
    pub fn single_rule(mut self, decl: RuleDecl) -> Option<Rule> {
        let rule = self.rule(decl, None);
        self.check_tables();
        rule
    }

    /// A map by itself.
    pub fn single_map(mut self, decl: MapDecl) -> Option<Map> {
        let map = self.map(decl);
        self.check_tables();
        map
    }

    /// Gives tables and procedures their numbers, so that they can be used before they are written.
    fn declare(&mut self, statements: &[Statement]) {
        for statement in statements {
            match statement {
                Statement::Table(table) => {
                    let id = TableId(self.tables.len());
                    self.tables.entry(table.name.text.clone()).or_insert(id);
                }
                Statement::Procedure(procedure) => {
                    let id = ProcedureId(self.procedures.len());
                    self.procedures.entry(procedure.name.text.clone()).or_insert(id);
                }
                _ => {}
            }
        }
    }

    fn statement(&mut self, statement: Statement) -> Option<()> {
        match statement {
            Statement::Variable { name, values } => self.variable(name, &values),
            Statement::Set { name, value } => self.set(&name, &value)?,
            Statement::Alg(name) => self.alg(&name)?,
            Statement::Table(decl) => {
                // A table takes its number even if something is wrong with it.
                let table = self.table(decl)?;
                self.config.tables.push(table);
            }
            Statement::Procedure(decl) => {
                let procedure = self.procedure(decl)?;
                self.config.procedures.push(procedure);
            }
            Statement::Map(decl) => {
                let map = self.map(*decl)?;
                self.config.maps.push(MapItem::Map(map));
            }
            Statement::MapRuleset(decl) => {
                let ruleset = self.ruleset(decl, true)?;
                self.config.maps.push(MapItem::Ruleset(ruleset));
            }
            Statement::Group(decl) => self.outer_group(decl)?,
        }
        Some(())
    }

    // Variables and elements.

    fn variable(&mut self, name: Name, values: &[Rc<Element>]) {
        let expanded = self.expand(values).map(|uses| uses.into_iter().map(|u| u.element).collect());
        if self.variables.insert(name.text.clone(), expanded).is_some() {
            self.session.error(name.span, format!("${} is set already", name.text));
        }
    }

    /// Elements with variables put in. None when a variable is wrong, which is reported.
    fn expand(&mut self, elements: &[Rc<Element>]) -> Option<Vec<Use>> {
        let mut uses = Vec::with_capacity(elements.len());
        let mut complete = true;
        for element in elements {
            let ElementKind::Variable(name) = &element.kind else {
                uses.push(Use { element: element.clone(), at: element.span });
                continue;
            };
            match self.variables.get(name) {
                Some(Some(values)) => {
                    self.put_in += values.len();
                    if uses.len() + values.len() > MAX_LIST || self.put_in > MAX_PUT_IN {
                        self.session.error(element.span, format!("with ${name} put in, the list is too long"));
                        return None;
                    }
                    uses.extend(values.iter().map(|v| Use { element: v.clone(), at: element.span }));
                }
                // Reported where it was set.
                Some(None) => complete = false,
                None => {
                    complete = false;
                    let hint = did_you_mean(name, self.variables.keys().map(String::as_str));
                    let hint =
                        hint.or_else(|| Some("variables are set before they are used: $name = value".to_owned()));
                    self.session.report.error(element.span, format!("${name} is not set"), hint);
                }
            }
        }
        complete.then_some(uses)
    }

    /// The only thing that an element stands for.
    fn single(&mut self, element: &Rc<Element>, what: &str) -> Option<Use> {
        let uses = self.expand(std::slice::from_ref(element))?;
        match <[Use; 1]>::try_from(uses) {
            Ok([only]) => Some(only),
            Err(_) => {
                self.session.error(element.span, format!("this is a list, but only one {what} can be here"));
                None
            }
        }
    }

    /// The word or text that an element stands for, read by a function.
    fn scalar<T>(
        &mut self,
        element: &Rc<Element>,
        what: &str,
        read: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let only = self.single(element, what)?;
        let read = match &only.element.kind {
            ElementKind::Word(word) | ElementKind::Text(word) => read(word),
            _ => Err(Wrong::new(format!("this is no {what}"))),
        };
        read.map_err(|wrong| self.complain(&only, wrong)).ok()
    }

    /// Reports that something is wrong where it is used.
    fn complain(&mut self, used: &Use, wrong: Wrong) {
        let hint = if used.at == used.element.span {
            wrong.hint
        } else {
            let place = self.session.sources.place(used.element.span);
            let set = format!("it is set in {}:{}:{}", place.file, place.line, place.column);
            Some(wrong.hint.map_or(set.clone(), |hint| format!("{hint}; {set}")))
        };
        self.session.report.error(used.at, wrong.message, hint);
    }

    fn number(&mut self, element: &Rc<Element>, what: &str, min: u64, max: u64) -> Option<u64> {
        self.scalar(element, what, |word| values::number_in(word, what, min, max))
    }

    fn interface(&mut self, element: &Rc<Element>) -> Option<String> {
        self.scalar(element, "name of an interface", |word| values::interface(word).map(|()| word.to_owned()))
    }

    /// A name that the administrator chose.
    fn chosen(&mut self, name: &Name, what: &str) -> Option<String> {
        if name.text.is_empty() || name.text.len() > 255 || name.text.chars().any(char::is_control) {
            let message = format!("{} cannot be the name of a {what}", quote(&name.text));
            self.session.error_hint(name.span, message, "it has 1 to 255 bytes, and no control characters");
            return None;
        }
        Some(name.text.clone())
    }

    fn table_id(&mut self, name: &str, at: Span) -> Option<TableId> {
        let id = self.tables.get(name).copied();
        if id.is_none() {
            let hint = did_you_mean(name, self.tables.keys().map(String::as_str));
            self.session.report.error(at, format!("there is no table <{name}>"), hint);
        }
        id
    }

    /// Whether tables are fit for what they are used for, once all are known.
    fn check_tables(&mut self) {
        for (id, at, how) in std::mem::take(&mut self.table_uses) {
            let Some(table) = self.config.tables.get(id.0) else { continue };
            let message = match (how, table.kind) {
                (TableUse::Overload, TableKind::Const | TableKind::IpPort) => "cannot take addresses",
                (TableUse::Side, TableKind::IpPort) => "cannot be a side of a map",
                _ => continue,
            };
            let message = format!("<{}> {message}, because of its type", table.name);
            self.session.error_hint(at, message, "tables of type ipset and lpm can");
        }
    }

    // Parameters and gateways.

    fn set(&mut self, name: &Name, value: &Rc<Element>) -> Option<()> {
        let Some(param) = PARAMS.iter().find(|p| p.name == name.text) else {
            let hint = did_you_mean(&name.text, PARAMS.iter().map(|p| p.name));
            self.session.report.error(name.span, format!("there is no parameter {}", quote(&name.text)), hint);
            return None;
        };
        let is_switch = (param.min, param.max) == (0, 1);
        let value = self.scalar(value, "value", |word| match word {
            "on" if is_switch => Ok(1),
            "off" if is_switch => Ok(0),
            word => values::number(word)
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| (param.min..=param.max).contains(n))
                .ok_or_else(|| {
                    let hint = match is_switch {
                        true => format!("{} is on or off", param.name),
                        false => format!("{} goes from {} to {}", param.name, param.min, param.max),
                    };
                    Wrong::hint(format!("{} is no value of {}", quote(word), param.name), hint)
                }),
        })?;
        if let Some(before) = self.set.insert(param.key, name.span) {
            let line = self.session.sources.place(before);
            let message = format!("{} was set before, in {}:{}; this value counts", param.name, line.file, line.line);
            self.session.report.warn(name.span, message, None);
        }
        self.config.params.set(param.key, value);
        Some(())
    }

    /// Pairs of parameters of which one may not be above the other.
    fn check_params(&mut self) {
        for (low, high) in [(Key::PortmapMinPort, Key::PortmapMaxPort), (Key::GcIntervalMin, Key::GcIntervalMax)] {
            let (least, most) = (self.config.params.get(low), self.config.params.get(high));
            let at = self.set.get(&low).into_iter().chain(self.set.get(&high)).max().copied();
            if let Some(at) = at.filter(|_| least > most) {
                let name = |key: Key| PARAMS.get(key as usize).map_or("", |p| p.name);
                self.session.error(at, format!("{} ({least}) is above {} ({most})", name(low), name(high)));
            }
        }
    }

    fn alg(&mut self, name: &Name) -> Option<()> {
        let alg = match &*name.text {
            "icmp" => Alg::Icmp,
            "pptp" => Alg::Pptp,
            other => {
                let message = format!("there is no gateway {}", quote(other));
                self.session.error_hint(name.span, message, "there are \"icmp\" and \"pptp\"");
                return None;
            }
        };
        if self.config.algs.contains(&alg) {
            self.session.error(name.span, format!("the gateway {} is asked for already", quote(&name.text)));
            return None;
        }
        self.config.algs.push(alg);
        Some(())
    }

    // Groups.

    fn outer_group(&mut self, decl: GroupDecl) -> Option<()> {
        let (is_default, span) = (decl.name.is_none(), decl.span);
        let group = self.group(decl, false)?;
        if !is_default {
            self.config.groups.push(group);
            return Some(());
        }
        if self.default_group.replace(group).is_some() {
            self.session.error(span, "there is a default group already");
        }
        Some(())
    }

    fn group(&mut self, decl: GroupDecl, in_layer2: bool) -> Option<Group> {
        let name = match &decl.name {
            Some(name) => self.chosen(name, "group").map(Some),
            None => Some(None),
        };
        let interface = self.gate(&decl.gate);
        let layer2 = decl.layer2 || in_layer2;
        let mut items = Vec::with_capacity(decl.items.len());
        for item in decl.items {
            let item = match item {
                ItemDecl::Rule(rule) => self.rule(*rule, Some(layer2)).map(Item::Rule),
                ItemDecl::Ruleset(ruleset) => self.ruleset(ruleset, false).map(Item::Ruleset),
                ItemDecl::Group(group) => self.inner_group(group, layer2).map(Item::Group),
            };
            items.extend(item);
        }
        let at = self.session.sources.place(decl.span);
        Some(Group { name: name?, directions: decl.gate.directions, interface: interface?, layer2, items, at })
    }

    fn inner_group(&mut self, decl: GroupDecl, layer2: bool) -> Option<Group> {
        if decl.name.is_none() {
            self.session.error_hint(
                decl.span,
                "the default group stands within another group",
                "give this group a name",
            );
        } else if decl.layer2 && !layer2 {
            let hint = "write layer-2 behind the name of the outer group too, or move this one out of it";
            self.session.error_hint(decl.span, "a group of layer 2 stands within one that is not", hint);
        }
        self.group(decl, layer2)
    }

    /// The interface of a gate.
    fn gate(&mut self, gate: &Gate) -> Option<Option<String>> {
        match &gate.interface {
            Some(interface) => self.interface(interface).map(Some),
            None => Some(None),
        }
    }

    fn ruleset(&mut self, decl: RulesetDecl, of_maps: bool) -> Option<Ruleset> {
        let name = self.chosen(&decl.name, "ruleset")?;
        if name.starts_with("map:") != of_maps {
            let message = if of_maps {
                "the name of a ruleset of maps must begin with \"map:\""
            } else {
                "only the name of a ruleset of maps may begin with \"map:\""
            };
            self.session.error(decl.name.span, message);
            return None;
        }
        if !self.rulesets.insert(name.clone()) {
            self.session.error(decl.name.span, format!("there is a ruleset {} already", quote(&name)));
            return None;
        }
        if decl.gate.directions == Directions::Forward && of_maps {
            self.session.report.warn(
                decl.span,
                "maps translate packets that come in or leave: nothing is only \"forw\"",
                None,
            );
        }
        let interface = self.gate(&decl.gate)?;
        Some(Ruleset { name, directions: decl.gate.directions, interface, at: self.session.sources.place(decl.span) })
    }

    /// A service's port, from our own names, or from the system's.
    fn service(&mut self, name: &str) -> Option<u16> {
        if let Some(port) = names::service(name) {
            return Some(port);
        }
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || name.len() > 64 {
            return None;
        }
        let files = self.session.files;
        let text = self.services.get_or_insert_with(|| files.read("/etc/services").unwrap_or_default().into());
        names::service_in(text, name)
    }
}
