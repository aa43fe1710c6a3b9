//! What commands add to a configuration and take away: rules, maps, and entries of tables.

use super::{InForce, Npf, control::NpfError, hook::millis};
use crate::{
    config::{Config, Map, Rule, RuleId, Ruleset as DynamicRuleset, TableEntry, TableId},
    engine::Ruleset,
    language,
    state::Millis,
    tables::Tables,
};
use smpnet_runtime::now_ns;
use std::{sync::Arc, time::Duration};

impl Npf {
    /// Adds a rule, as the language writes it, to a dynamic ruleset. Returns its identity.
    ///
    /// # Errors
    /// When there is no such ruleset, or this is no rule.
    pub fn rule_add(&self, name: &str, text: &str) -> Result<RuleId, NpfError> {
        self.change_rules(name, |rules, config| {
            let mut rule = language::parse_rule(text, config).map_err(NpfError::Rule)?;
            // Rules that say the same are told apart by how many of them there are.
            while rules.iter().any(|r| r.id == rule.id) {
                rule.id = RuleId(rule.id.0.wrapping_add(1));
            }
            let id = rule.id;
            rules.push(rule);
            Ok(id)
        })
    }

    /// Takes a rule out of a dynamic ruleset, by its identity.
    ///
    /// # Errors
    /// When there is no such ruleset or rule.
    pub fn rule_remove_id(&self, name: &str, id: RuleId) -> Result<(), NpfError> {
        self.change_rules(name, |rules, _| {
            let at = rules.iter().position(|r| r.id == id).ok_or(NpfError::NoRule)?;
            rules.remove(at);
            Ok(())
        })
    }

    /// Takes a rule out of a dynamic ruleset, by what it says.
    ///
    /// # Errors
    /// When there is no such ruleset or rule, or this is no rule.
    pub fn rule_remove(&self, name: &str, text: &str) -> Result<(), NpfError> {
        self.change_rules(name, |rules, config| {
            let id = language::parse_rule(text, config).map_err(NpfError::Rule)?.id;
            let at = rules.iter().position(|r| r.id == id).ok_or(NpfError::NoRule)?;
            rules.remove(at);
            Ok(())
        })
    }

    /// Takes all rules out of a dynamic ruleset.
    ///
    /// # Errors
    /// When there is no such ruleset.
    pub fn rule_flush(&self, name: &str) -> Result<(), NpfError> {
        self.change_rules(name, |rules, _| {
            rules.clear();
            Ok(())
        })
    }

    /// The rules of a dynamic ruleset.
    ///
    /// # Errors
    /// When there is none.
    pub fn rules_of(&self, name: &str) -> Result<Vec<Rule>, NpfError> {
        let ruleset = self.ruleset();
        let known = ruleset.config.rulesets().any(|r| r.name == name);
        if !known {
            return Err(NpfError::NoRuleset(name.to_owned()));
        }
        Ok(ruleset.dynamic.get(name).cloned().unwrap_or_default())
    }

    fn change_rules<R>(
        &self,
        name: &str,
        f: impl FnOnce(&mut Vec<Rule>, &Config) -> Result<R, NpfError>,
    ) -> Result<R, NpfError> {
        let mut control = self.lock();
        let InForce { ruleset, addresses, .. } = &control.in_force;
        let known = |r: &DynamicRuleset| r.name == name;
        if !ruleset.config.rulesets().any(known) {
            return Err(NpfError::NoRuleset(name.to_owned()));
        }
        let mut rules = ruleset.dynamic.get(name).cloned().unwrap_or_default();
        let answer = f(&mut rules, &ruleset.config)?;
        let new = Arc::new(ruleset.with_rules(name, rules, &**addresses)?);
        let old = control.in_force.clone();
        let modules = self.modules(&new)?;
        self.publish(&mut control, InForce { ruleset: new, modules, ..old });
        Ok(answer)
    }

    /// Adds a map, as the language writes it, to a map ruleset. Returns its identity.
    ///
    /// # Errors
    /// When there is no such ruleset, or this is no map.
    pub fn map_add(&self, name: &str, text: &str) -> Result<RuleId, NpfError> {
        self.change_maps(name, |maps, ruleset| {
            let mut map = language::parse_map(text, &ruleset.config).map_err(NpfError::Rule)?;
            // Maps that say the same are told apart by how many of them there are.
            while ruleset.map(map.id).is_some() {
                map.id = RuleId(map.id.0.wrapping_add(1));
            }
            let id = map.id;
            maps.push(map);
            Ok(id)
        })
    }

    /// Takes a map out of a map ruleset, by its identity. Connections that it translates end.
    ///
    /// # Errors
    /// When there is no such ruleset or map.
    pub fn map_remove_id(&self, name: &str, id: RuleId) -> Result<(), NpfError> {
        self.change_maps(name, |maps, _| {
            let at = maps.iter().position(|m| m.id == id).ok_or(NpfError::NoRule)?;
            maps.remove(at);
            Ok(())
        })
    }

    /// Takes a map out of a map ruleset, by what it says. Connections that it translates end.
    ///
    /// # Errors
    /// When there is no such ruleset or map, or this is no map.
    pub fn map_remove(&self, name: &str, text: &str) -> Result<(), NpfError> {
        self.change_maps(name, |maps, ruleset| {
            let wanted = language::parse_map(text, &ruleset.config).map_err(NpfError::Rule)?;
            let text = language::print_map(&ruleset.config, &wanted);
            let is = |map: &Map| language::print_map(&ruleset.config, map) == text;
            let at = maps.iter().position(is).ok_or(NpfError::NoRule)?;
            maps.remove(at);
            Ok(())
        })
    }

    /// Whether a name is that of a ruleset for maps, and not of one for rules.
    pub fn is_of_maps(&self, name: &str) -> bool {
        let config = &self.ruleset().config;
        config.map_rulesets().any(|r| r.name == name) && !config.rulesets().any(|r| r.name == name)
    }

    /// Takes all maps out of a map ruleset.
    ///
    /// # Errors
    /// When there is no such ruleset.
    pub fn map_flush(&self, name: &str) -> Result<(), NpfError> {
        self.change_maps(name, |maps, _| {
            maps.clear();
            Ok(())
        })
    }

    /// The maps of a map ruleset.
    ///
    /// # Errors
    /// When there is none.
    pub fn maps_of(&self, name: &str) -> Result<Vec<Map>, NpfError> {
        let ruleset = self.ruleset();
        if !ruleset.config.map_rulesets().any(|r| r.name == name) {
            return Err(NpfError::NoRuleset(name.to_owned()));
        }
        Ok(ruleset.dynamic_maps.get(name).cloned().unwrap_or_default())
    }

    fn change_maps<R>(
        &self,
        name: &str,
        f: impl FnOnce(&mut Vec<Map>, &Ruleset) -> Result<R, NpfError>,
    ) -> Result<R, NpfError> {
        let mut control = self.lock();
        let old = control.in_force.clone();
        if !old.ruleset.config.map_rulesets().any(|r| r.name == name) {
            return Err(NpfError::NoRuleset(name.to_owned()));
        }
        let mut maps = old.ruleset.dynamic_maps.get(name).cloned().unwrap_or_default();
        let answer = f(&mut maps, &old.ruleset)?;
        let ruleset = Arc::new(old.ruleset.with_maps(name, maps, &*old.addresses)?);
        let modules = self.modules(&ruleset)?;
        self.publish(&mut control, InForce { ruleset, modules, ..old });
        Ok(answer)
    }

    /// The number of a table.
    ///
    /// # Errors
    /// When there is none.
    pub fn table(&self, name: &str) -> Result<TableId, NpfError> {
        let at = self.ruleset().config.tables.iter().position(|t| t.name == name);
        at.map(TableId).ok_or_else(|| NpfError::NoTable(name.to_owned()))
    }

    /// Changes tables: all that `f` does is one version of them.
    ///
    /// # Errors
    /// Those of `f`; then nothing has changed.
    pub fn change_tables<R, E>(&self, f: impl FnOnce(&mut Tables, Millis) -> Result<R, E>) -> Result<R, E> {
        let mut control = self.lock();
        let mut new = control.in_force.clone();
        let answer = f(&mut new.tables, millis(now_ns()))?;
        self.publish(&mut control, new);
        Ok(answer)
    }

    /// Adds an entry to a table.
    ///
    /// # Errors
    /// When it is there, or cannot be there.
    pub fn table_add(&self, name: &str, entry: TableEntry, stay: Option<Duration>) -> Result<(), NpfError> {
        let table = self.table(name)?;
        let stay = stay.map(|s| Millis(u64::try_from(s.as_millis()).unwrap_or(u64::MAX)));
        self.change_tables(|tables, now| tables.add(table, entry, now, stay)).map_err(NpfError::Table)
    }

    /// Takes an entry out of a table.
    ///
    /// # Errors
    /// When it is not there.
    pub fn table_remove(&self, name: &str, entry: &TableEntry) -> Result<(), NpfError> {
        let table = self.table(name)?;
        self.change_tables(|tables, _| tables.remove(table, entry)).map_err(NpfError::Table)
    }

    /// Takes all entries out of a table.
    ///
    /// # Errors
    /// When it is constant.
    pub fn table_flush(&self, name: &str) -> Result<(), NpfError> {
        let table = self.table(name)?;
        self.change_tables(|tables, _| tables.flush(table)).map_err(NpfError::Table)
    }
}
