//! Rules that are in force, and what was made of them: one for all workers, never changed, replaced by another.

use super::{
    limits::Limits,
    maps::{DynamicMaps, PlacedMap, Renumber, placed},
    procedures::Meters,
};
use crate::{
    config::{Action, Address, Alg, Call, Config, Map, Rule, RuleId},
    evaluate::{Dynamic, Interfaces, Programs},
    plan::{self, Plan, TagNumber},
    state::Facts,
};
use std::{collections::HashMap, sync::Arc};

/// Addresses of interfaces, as of some time.
pub type Addresses = Arc<dyn Interfaces + Send + Sync>;

/// Most logs of a configuration: [`super::Outcome::logs`] has a bit for each.
pub const LOGS_MAX: usize = 32;

/// The log of rules that say `log`.
const DEFAULT_LOG: &str = "npflog0";

/// Rules that are in force.
pub struct Ruleset {
    /// The configuration.
    pub config: Arc<Config>,
    /// Rules that commands put into dynamic rulesets.
    pub dynamic: Dynamic,
    /// Maps that commands put into map rulesets.
    pub dynamic_maps: DynamicMaps,
    /// The maps in the order in which they are tried: of the configuration, with those of map rulesets where these stand.
    pub maps: Vec<PlacedMap>,
    /// The rules by their numbers: of the configuration, with those of dynamic rulesets where these stand.
    pub rules: Vec<Rule>,
    /// Tells it from all before it.
    pub serial: u32,
    /// What limits count: the same for all rulesets that come one after the other.
    pub(super) limits: Arc<Limits>,
    /// What `ratelimit` procedures have left.
    pub(super) meters: Arc<Meters>,
    pub(super) programs: Programs,
    pub(super) plan: Plan,
    /// Call ids of PPTP are translated.
    pub(super) pptp: bool,
    pub(super) has_static_maps: bool,
    /// Inner addresses of endpoint-independent maps.
    pub(super) mapped: Vec<Address>,
    /// Packets of connections without a procedure just pass, translated or not: no map is asked about those.
    pub(super) passes_quickly: bool,
    /// Interfaces of maps with hairpins.
    pub(super) hairpins: Vec<String>,
    /// Packets of a connection must be judged by the worker that has it.
    pub(super) has_state: bool,
    /// Some rule has limits.
    pub(super) has_limits: bool,
    /// By rules' numbers: whether it passes packets and does nothing else.
    just_passes: Vec<bool>,
    numbers: HashMap<RuleId, u32>,
    map_numbers: HashMap<RuleId, usize>,
    names: Numbers,
    /// Numbers of procedures by their places in the configuration, and the other way round.
    procedures: Vec<u16>,
    procedure_at: Vec<Option<usize>>,
    /// What the plan calls the tags.
    tags: Vec<TagNumber>,
    logs: Vec<String>,
    routes: Vec<String>,
    /// For each call of each procedure: the bit of its log, or the number of its route.
    notes: Vec<Vec<u32>>,
}

/// Numbers of names that stay the same over reloads, since connections have them.
#[derive(Clone, Debug, Default)]
struct Numbers {
    procedures: Vec<String>,
    /// From 1.
    tags: Vec<String>,
}

/// What goes over from one ruleset to the next.
struct Past {
    names: Numbers,
    limits: Arc<Limits>,
    meters: Arc<Meters>,
    serial: u32,
}

/// Why a configuration cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The expression of a pcap-filter rule cannot be compiled.
    #[error("pcap-filter {expression:?}: {source}")]
    Expression {
        /// The expression.
        expression: String,
        /// What is wrong with it.
        source: smpnet_bpf::ExprError,
    },
    /// Procedures log to too many places.
    #[error("procedures log to {0} interfaces: {LOGS_MAX} are the most")]
    Logs(usize),
    /// More names than there can be numbers for.
    #[error("more than 65534 {0} since the start: restart to begin anew")]
    Names(&'static str),
}

impl Ruleset {
    /// Makes a configuration ready. Addresses of interfaces that rules name are those of now.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn new(config: Arc<Config>, addresses: &dyn Interfaces) -> Result<Ruleset, EngineError> {
        let programs = Programs::new(&config).map_err(expression)?;
        let past = Past {
            names: Numbers::default(),
            limits: Arc::default(),
            meters: Arc::new(Meters::new(&config)),
            serial: 1,
        };
        Ruleset::make(config, (Dynamic::new(), DynamicMaps::new()), programs, addresses, past)
    }

    /// Another configuration in the place of this one: rules and maps of commands stay where their ruleset does, but those that
    /// name a table or a procedure that is no more.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn reloaded(&self, config: Arc<Config>, addresses: &dyn Interfaces) -> Result<Ruleset, EngineError> {
        let mut programs = Programs::new(&config).map_err(expression)?;
        let numbers = Renumber::new(&self.config, &config);
        let mut dynamic = self.dynamic.clone();
        dynamic.retain(|name, _| config.rulesets().any(|r| r.name == *name));
        dynamic.values_mut().for_each(|rules| rules.retain_mut(|rule| numbers.rule(rule).is_some()));
        let mut maps = self.dynamic_maps.clone();
        maps.retain(|name, _| config.map_rulesets().any(|r| r.name == *name));
        maps.values_mut().for_each(|maps| maps.retain_mut(|map| numbers.map(map).is_some()));
        // They were compiled before.
        dynamic.values().flatten().try_for_each(|rule| programs.add(rule)).map_err(expression)?;
        self.next(config, (dynamic, maps), programs, addresses)
    }

    /// The same, with other addresses of interfaces.
    ///
    /// # Errors
    /// As [`Ruleset::new`], though nothing is new that could have any.
    pub fn readdressed(&self, addresses: &dyn Interfaces) -> Result<Ruleset, EngineError> {
        let dynamic = (self.dynamic.clone(), self.dynamic_maps.clone());
        self.next(self.config.clone(), dynamic, self.programs.clone(), addresses)
    }

    /// The same, with other rules in a dynamic ruleset.
    ///
    /// # Errors
    /// When one cannot be run.
    pub fn with_rules(&self, name: &str, rules: Vec<Rule>, addresses: &dyn Interfaces) -> Result<Ruleset, EngineError> {
        let (mut programs, mut dynamic) = (self.programs.clone(), self.dynamic.clone());
        rules.iter().try_for_each(|rule| programs.add(rule)).map_err(expression)?;
        dynamic.insert(name.to_owned(), rules);
        self.next(self.config.clone(), (dynamic, self.dynamic_maps.clone()), programs, addresses)
    }

    /// The same, with other maps in a map ruleset.
    ///
    /// # Errors
    /// As [`Ruleset::new`], though nothing is new that could have any.
    pub fn with_maps(&self, name: &str, maps: Vec<Map>, addresses: &dyn Interfaces) -> Result<Ruleset, EngineError> {
        let mut all = self.dynamic_maps.clone();
        all.insert(name.to_owned(), maps);
        self.next(self.config.clone(), (self.dynamic.clone(), all), self.programs.clone(), addresses)
    }

    fn next(
        &self,
        config: Arc<Config>,
        dynamic: (Dynamic, DynamicMaps),
        programs: Programs,
        addresses: &dyn Interfaces,
    ) -> Result<Ruleset, EngineError> {
        let meters = match Arc::ptr_eq(&config, &self.config) {
            true => self.meters.clone(),
            false => Arc::new(Meters::new(&config)),
        };
        let (names, limits, serial) = (self.names.clone(), self.limits.clone(), self.serial.wrapping_add(1));
        Ruleset::make(config, dynamic, programs, addresses, Past { names, limits, meters, serial })
    }

    fn make(
        config: Arc<Config>,
        (dynamic, dynamic_maps): (Dynamic, DynamicMaps),
        programs: Programs,
        addresses: &dyn Interfaces,
        past: Past,
    ) -> Result<Ruleset, EngineError> {
        let Past { mut names, limits, meters, serial } = past;
        let plan = Plan::new(&config, &programs, addresses, &dynamic);
        let rules: Vec<Rule> = plan::rules(&config, &dynamic).into_iter().cloned().collect();
        limits.prepare(rules.iter());
        let procedures = (config.procedures.iter().map(|p| number(&mut names.procedures, &p.name, "procedures")))
            .collect::<Result<Vec<u16>, _>>()?;
        for name in rules.iter().flat_map(|r| r.tag.iter().chain(r.tagged.iter().map(|t| &t.name))) {
            number(&mut names.tags, name, "tags")?;
        }
        let tags = names.tags.iter().map(|name| plan.tag(Some(name))).collect();
        let mut procedure_at = vec![None; names.procedures.len()];
        procedures.iter().zip(0..).for_each(|(number, at)| procedure_at[usize::from(*number)] = Some(at));
        let mut logs = vec![DEFAULT_LOG.to_owned()];
        for call in config.procedures.iter().flat_map(|p| &p.calls) {
            if let Call::Log { interface } = call
                && !logs.contains(interface)
            {
                logs.push(interface.clone());
            }
        }
        let mut routes = Vec::new();
        for call in config.procedures.iter().flat_map(|p| &p.calls) {
            if let Call::Route { interface } = call {
                number(&mut routes, interface, "interfaces to route to")?;
            }
        }
        if logs.len() > LOGS_MAX {
            return Err(EngineError::Logs(logs.len()));
        }
        let place = |all: &[String], name: &String| all.iter().position(|n| n == name).unwrap_or(0) as u32;
        let note = |call: &Call| match call {
            Call::Log { interface } => 1 << place(&logs, interface),
            Call::Route { interface } => place(&routes, interface),
            _ => 0,
        };
        let notes = config.procedures.iter().map(|p| p.calls.iter().map(note).collect()).collect();
        let maps = placed(&config, &dynamic_maps);
        Ok(Ruleset {
            pptp: config.algs.contains(&Alg::Pptp),
            has_static_maps: maps.iter().any(|m| m.map.is_static),
            passes_quickly: !maps.iter().any(|m| m.map.is_static || m.map.hairpin),
            hairpins: maps.iter().filter(|m| m.map.hairpin).map(|m| m.map.interface.clone()).collect(),
            has_limits: rules.iter().any(|r| !r.limits.is_empty()),
            mapped: maps
                .iter()
                .filter(|m| m.map.endpoint_independent)
                .flat_map(|m| m.map.inner.addresses.clone())
                .collect(),
            has_state: maps.iter().any(|m| !m.map.is_static)
                || rules.iter().any(|r| r.state.is_some() || !r.limits.is_empty()),
            just_passes: rules.iter().map(just_passes).collect(),
            numbers: rules.iter().zip(0..).map(|(rule, number)| (rule.id, number)).collect(),
            map_numbers: maps.iter().zip(0..).map(|(m, number)| (m.map.id, number)).collect(),
            maps,
            dynamic_maps,
            config,
            dynamic,
            limits,
            meters,
            programs,
            plan,
            rules,
            serial,
            names,
            procedures,
            procedure_at,
            tags,
            notes,
            logs,
            routes,
        })
    }

    /// The decision structures, of which a module is made.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The programs of its expressions.
    pub(crate) fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The interfaces whose addresses rules have in them.
    pub fn asked_interfaces(&self) -> &[String] {
        self.plan.asked_interfaces()
    }

    /// The interfaces that procedures route to, in the order of their numbers.
    pub fn routes(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(String::as_str)
    }

    /// Where packets leave that come from inside and go to an outer end: the interface of the first map with hairpins.
    pub fn hairpin_interface(&self) -> Option<&str> {
        self.hairpins.first().map(String::as_str)
    }

    /// Whether a rule looks at more of a packet than its headers.
    pub fn looks_beyond_headers(&self) -> bool {
        !self.plan.programs().is_empty()
    }

    /// A rule, by its identity, and its number.
    pub fn rule(&self, id: RuleId) -> Option<(u32, &Rule)> {
        let number = *self.numbers.get(&id)?;
        Some((number, self.rules.get(number as usize)?))
    }

    /// Whether a rule, by its number, passes packets and does nothing else.
    #[inline]
    pub(super) fn just_passes(&self, rule: u32) -> bool {
        self.just_passes.get(rule as usize).copied().unwrap_or(false)
    }

    /// Whether a rule, by its number, may open a connection.
    pub(super) fn opens(&self, rule: u32) -> bool {
        self.rules.get(rule as usize).is_some_and(|r| r.state.is_some())
    }

    /// Whether a map may translate packets at an interface that belong to no connection.
    pub(super) fn may_map(&self, interface: &str) -> bool {
        self.maps.iter().any(|m| m.map.interface == interface || m.map.endpoint_independent || m.map.hairpin)
    }

    /// A map, by its identity.
    pub fn map(&self, id: RuleId) -> Option<&Map> {
        self.maps.get(*self.map_numbers.get(&id)?).map(|placed| &placed.map)
    }

    /// The number of a tag; 0 for none. One that no rule knows has the highest.
    pub fn tag_number(&self, name: Option<&str>) -> u16 {
        let Some(name) = name else { return 0 };
        let at = self.names.tags.iter().position(|t| t == name);
        at.map_or(u16::MAX, |at| at as u16 + 1)
    }

    /// A tag by its number.
    pub fn tag(&self, number: u16) -> Option<&str> {
        self.names.tags.get(usize::from(number).checked_sub(1)?).map(String::as_str)
    }

    /// What the plan calls it.
    pub(super) fn tag_in_plan(&self, number: u16) -> TagNumber {
        match number.checked_sub(1) {
            None => TagNumber::default(),
            Some(at) => self.tags.get(usize::from(at)).copied().unwrap_or(TagNumber::OTHER),
        }
    }

    /// The logs whose bits are set.
    pub fn logs(&self, bits: u32) -> impl Iterator<Item = &str> {
        self.logs.iter().zip(0..).filter(move |(_, bit)| bits >> bit & 1 != 0).map(|(name, _)| name.as_str())
    }

    /// For each call of a procedure, by its place in the configuration: the bit of its log, or the number of its route.
    pub(super) fn notes(&self, procedure: usize) -> &[u32] {
        self.notes.get(procedure).map_or(&[], Vec::as_slice)
    }

    /// The interface of an [`super::Outcome::route`].
    pub fn route(&self, number: u16) -> Option<&str> {
        self.routes.get(usize::from(number)).map(String::as_str)
    }

    /// The name of a procedure, of any configuration since the start.
    pub fn procedure_name(&self, number: u16) -> Option<&str> {
        self.names.procedures.get(usize::from(number)).map(String::as_str)
    }

    /// The number of a procedure of this configuration.
    pub fn procedure_number(&self, name: &str) -> Option<u16> {
        let at = self.config.procedures.iter().position(|p| p.name == name)?;
        self.procedures.get(at).copied()
    }

    /// Where a procedure is in the configuration.
    pub(super) fn procedure_at(&self, number: u16) -> Option<usize> {
        self.procedure_at.get(usize::from(number)).copied().flatten()
    }

    /// What connections remember of a rule that opens them.
    pub(super) fn facts_of(&self, rule: &Rule) -> Facts {
        Facts {
            rule: Some(rule.id),
            number: self.numbers.get(&rule.id).copied().unwrap_or(u32::MAX),
            serial: self.serial,
            procedure: rule.apply.and_then(|p| self.procedures.get(p.0).copied()),
            tag: self.tag_number(rule.tag.as_deref()),
            interface: None,
        }
    }

    /// What a connection of another ruleset remembers in this one. None: its rule, or its map, is not here, and it ends.
    pub(super) fn facts_now(&self, facts: Facts, map: Option<RuleId>) -> Option<Facts> {
        if map.is_some_and(|map| !self.map_numbers.contains_key(&map)) {
            return None;
        }
        let number = match facts.rule {
            Some(rule) => *self.numbers.get(&rule)?,
            None => u32::MAX,
        };
        Some(Facts { number, serial: self.serial, ..facts })
    }
}

fn just_passes(rule: &Rule) -> bool {
    rule.action == Action::Pass
        && rule.state.is_none()
        && rule.apply.is_none()
        && rule.tag.is_none()
        && rule.limits.is_empty()
        && !rule.log
}

fn expression((expression, source): (String, smpnet_bpf::ExprError)) -> EngineError {
    EngineError::Expression { expression, source }
}

/// The number of a name, which it keeps.
fn number(names: &mut Vec<String>, name: &str, what: &'static str) -> Result<u16, EngineError> {
    let at = names.iter().position(|n| n == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    });
    // The highest is for tags that nobody knows, and tags are numbered from 1.
    u16::try_from(at).ok().filter(|n| *n < u16::MAX - 1).ok_or(EngineError::Names(what))
}
