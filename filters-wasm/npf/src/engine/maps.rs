//! Maps in the order in which they are tried, and what becomes of those of commands when the configuration is another one.

use crate::{
    config::{
        Address, Config, Directions, Filter, Map, MapItem, Match, ProcedureId, Rule, Ruleset as MapRuleset, TableId,
    },
    evaluate::Where,
};
use std::collections::HashMap;

/// Maps that commands put into map rulesets, by the rulesets' names.
pub type DynamicMaps = HashMap<String, Vec<Map>>;

/// A map where it is tried.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacedMap {
    /// The map.
    pub map: Map,
    /// Which way packets go that its ruleset is for.
    pub directions: Directions,
    /// The interface that its ruleset is for; None for all.
    pub interface: Option<String>,
}

impl PlacedMap {
    /// Whether packets that go there come to this map at all.
    pub(super) fn is_at(&self, interface: &str, way: Where) -> bool {
        self.interface.as_ref().is_none_or(|only| only == interface)
            && match self.directions {
                Directions::Any => true,
                Directions::In => way == Where::In,
                Directions::Out => way != Where::In,
                Directions::Forward => way == Where::Forward,
            }
    }
}

/// All maps, with those of commands where their rulesets stand.
pub(super) fn placed(config: &Config, dynamic: &DynamicMaps) -> Vec<PlacedMap> {
    let mut all = Vec::new();
    for item in &config.maps {
        match item {
            MapItem::Map(map) => all.push(PlacedMap { map: map.clone(), directions: Directions::Any, interface: None }),
            MapItem::Ruleset(MapRuleset { name, directions, interface, .. }) => {
                let place =
                    |map: &Map| PlacedMap { map: map.clone(), directions: *directions, interface: interface.clone() };
                all.extend(dynamic.get(name).into_iter().flatten().map(place));
            }
        }
    }
    all
}

/// What tables and procedures of a configuration are in the next one, by their names.
pub(super) struct Renumber {
    tables: Vec<Option<TableId>>,
    procedures: Vec<Option<ProcedureId>>,
}

impl Renumber {
    pub fn new(old: &Config, new: &Config) -> Renumber {
        let table = |name: &String| new.tables.iter().position(|t| t.name == *name).map(TableId);
        let procedure = |name: &String| new.procedures.iter().position(|p| p.name == *name).map(ProcedureId);
        Renumber {
            tables: old.tables.iter().map(|t| table(&t.name)).collect(),
            procedures: old.procedures.iter().map(|p| procedure(&p.name)).collect(),
        }
    }

    fn table(&self, id: &mut TableId) -> Option<()> {
        *id = self.tables.get(id.0).copied().flatten()?;
        Some(())
    }

    fn addresses(&self, addresses: &mut [Address]) -> Option<()> {
        addresses.iter_mut().try_for_each(|address| match address {
            Address::Table(id) => self.table(id),
            Address::Prefix(_) | Address::Interface { .. } => Some(()),
        })
    }

    fn matching(&self, m: &mut Match) -> Option<()> {
        self.addresses(&mut m.from.addresses)?;
        self.addresses(&mut m.to.addresses)
    }

    /// Puts the numbers of now into a map. None: it names a table that is no more.
    pub fn map(&self, map: &mut Map) -> Option<()> {
        self.addresses(&mut map.inner.addresses)?;
        self.addresses(&mut map.outer.addresses)?;
        self.matching(&mut map.filter)
    }

    /// Puts the numbers of now into a rule. None: it names a table or a procedure that is no more.
    pub fn rule(&self, rule: &mut Rule) -> Option<()> {
        if let Some(id) = &mut rule.apply {
            *id = self.procedures.get(id.0).copied().flatten()?;
        }
        rule.limits.iter_mut().filter_map(|l| l.overload.as_mut()).try_for_each(|(id, _)| self.table(id))?;
        match &mut rule.filter {
            Filter::Match(m) => self.matching(m),
            Filter::Pcap(_) | Filter::Ether(_) => Some(()),
        }
    }
}
