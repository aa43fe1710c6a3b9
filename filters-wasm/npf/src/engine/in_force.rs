//! The rules that are in force, and how others take their place.

use super::procedures::Procedures;
use super::{Engine, gone};
use crate::{
    config::{Config, MapItem, Rule, RuleId},
    evaluate::{Dynamic, Interfaces, Programs},
    plan::{self, Plan},
    state::Millis,
    tables::Tables,
};
use std::{collections::HashSet, sync::Arc};

/// The rules that are in force, and what was made of them.
pub(super) struct InForce {
    pub(super) config: Arc<Config>,
    pub(super) dynamic: Dynamic,
    pub(super) programs: Programs,
    pub(super) plan: Plan,
    /// By the plan's numbers.
    pub(super) rules: Vec<Rule>,
    pub(super) has_static_maps: bool,
}

impl InForce {
    pub(super) fn new(
        config: Arc<Config>,
        dynamic: Dynamic,
        programs: Programs,
        interfaces: &dyn Interfaces,
    ) -> Box<InForce> {
        let plan = Plan::new(&config, &programs, interfaces, &dynamic);
        let rules = plan::rules(&config, &dynamic).into_iter().cloned().collect();
        let has_static_maps = config.maps.iter().any(|m| matches!(m, MapItem::Map(map) if map.is_static));
        Box::new(InForce { config, dynamic, programs, plan, rules, has_static_maps })
    }
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
}

impl Engine {
    /// Puts another configuration in force. Connections stay whose rule, or map, is in it too; so do dynamic rules whose
    /// ruleset is, and what was in tables of the same name and kind that no file fills.
    ///
    /// # Errors
    /// When it cannot be run; then nothing changes.
    pub fn reload(&mut self, config: Arc<Config>, interfaces: &dyn Interfaces, now: Millis) -> Result<(), EngineError> {
        let mut all = programs(&config)?;
        let (old, mut kept) = (self.config(), self.dynamic().clone());
        let (rules, maps, rulesets) = parts(&config);
        kept.retain(|name, _| rulesets.contains(name.as_str()));
        // They were compiled before.
        kept.values().flatten().try_for_each(|rule| all.add(rule)).map_err(expression)?;
        let mut tables = Tables::new(&config);
        tables.keep(&config, &self.tables, &old);
        let dynamic: HashSet<RuleId> = kept.values().flatten().map(|r| r.id).collect();
        let (limits, ports) = (&mut self.limits, &mut self.ports);
        let procedures = |number: usize| {
            let name = &old.procedures.get(number)?.name;
            config.procedures.iter().position(|p| p.name == *name)
        };
        self.connections.retain(
            |c| {
                let rule = c.facts.rule.is_none_or(|r| rules.contains(&r) || dynamic.contains(&r));
                let map = c.nat().is_none_or(|n| maps.contains(&n.map));
                let mut facts = c.facts;
                facts.procedure = facts.procedure.and_then(procedures);
                (rule && map).then_some(facts)
            },
            &mut |_, c| gone(c, ports, limits),
        );
        self.connections.configure(&config.params);
        self.limits.configure(config.rules().chain(kept.values().flatten()));
        (self.tables, self.procedures) = (tables, Procedures::new(&config, now));
        self.in_force = Some(InForce::new(config, kept, all, interfaces));
        Ok(())
    }

    /// The addresses of interfaces have changed. Those that `inet4` and `inet6` stand for stay as they were only as long
    /// as who calls keeps them so.
    pub fn readdress(&mut self, interfaces: &dyn Interfaces) {
        if let Some(old) = self.in_force.take() {
            let InForce { config, dynamic, programs, .. } = *old;
            self.in_force = Some(InForce::new(config, dynamic, programs, interfaces));
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.in_force.as_ref().map(|f| f.config.clone()).unwrap_or_default()
    }

    /// The rules of dynamic rulesets.
    pub fn dynamic(&self) -> &Dynamic {
        static NONE: std::sync::LazyLock<Dynamic> = std::sync::LazyLock::new(Dynamic::new);
        self.in_force.as_ref().map_or(&NONE, |f| &f.dynamic)
    }

    /// Puts rules into a dynamic ruleset, in place of those that are there.
    ///
    /// # Errors
    /// When one cannot be run; then nothing changes.
    pub fn set_ruleset(
        &mut self,
        name: &str,
        rules: Vec<Rule>,
        interfaces: &dyn Interfaces,
    ) -> Result<(), EngineError> {
        let Some(old) = &self.in_force else { return Ok(()) };
        let mut programs = old.programs.clone();
        rules.iter().try_for_each(|rule| programs.add(rule)).map_err(expression)?;
        let (config, mut dynamic) = (old.config.clone(), old.dynamic.clone());
        dynamic.insert(name.to_owned(), rules);
        self.limits.configure(config.rules().chain(dynamic.values().flatten()));
        self.in_force = Some(InForce::new(config, dynamic, programs, interfaces));
        Ok(())
    }

    /// A rule that is in force, and its number in the order of the configuration; rules of commands come behind.
    pub fn rule_by_id(&self, id: RuleId) -> Option<(u32, &Rule)> {
        (0..).zip(&self.in_force.as_ref()?.rules).find(|(_, rule)| rule.id == id)
    }
}

pub(super) fn programs(config: &Config) -> Result<Programs, EngineError> {
    Programs::new(config).map_err(expression)
}

fn expression((expression, source): (String, smpnet_bpf::ExprError)) -> EngineError {
    EngineError::Expression { expression, source }
}

/// The rules, maps and dynamic rulesets of a configuration.
fn parts(config: &Config) -> (HashSet<RuleId>, HashSet<RuleId>, HashSet<&str>) {
    let rules = config.rules().map(|r| r.id).collect();
    let maps = config.maps.iter().filter_map(|m| match m {
        MapItem::Map(map) => Some(map.id),
        MapItem::Ruleset(_) => None,
    });
    (rules, maps.collect(), config.rulesets().map(|r| r.name.as_str()).collect())
}
