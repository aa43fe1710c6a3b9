//! Translation: `nat-to`, `rdr-to` and `binat-to`, and the older `nat`, `rdr` and `binat`.

use super::{
    Pf,
    cursor::{Cursor, Read},
    emit::combinations,
    hosts::ports,
    rule::PfRule,
};
use crate::{
    config::Family,
    convert::{
        maps::{Kind, Target, target_maps},
        output::Origin,
        words::Matching,
    },
};

/// A translation of a rule.
#[derive(Clone, Debug)]
pub(super) struct Translation {
    target: Target,
    /// What is left out.
    pub dropped: Vec<String>,
}

/// A map, to be written when all are known.
#[derive(Debug)]
pub(super) struct MapLine {
    pub at: Origin,
    pub what: String,
    pub line: String,
}

impl Pf {
    /// What stands behind `nat-to` and the like.
    pub(super) fn translation(&self, kind: Kind, cursor: &mut Cursor<'_>, family: Option<Family>) -> Read<Translation> {
        let hosts = cursor.list(|cursor| self.host(cursor, family))?;
        if hosts.is_empty() || hosts.iter().any(|host| host.any || host.not) {
            return Err("an address is missing that is put into packets".to_owned());
        }
        let addresses: Vec<_> = hosts.into_iter().flat_map(|host| host.words).collect();
        let target = Target { kind, addresses, port: None, algo: None, static_port: false };
        let mut translation = Translation { target, dropped: Vec::new() };
        if cursor.take_word("port") {
            let mut range = ports(cursor)?;
            translation.target.port = range.pop();
            if translation.target.port.is_none() || !range.is_empty() {
                return Err("one port or one range is put into packets".to_owned());
            }
        }
        loop {
            match cursor.word() {
                "round-robin" => translation.target.algo = Some("round-robin"),
                "bitmask" => translation.target.algo = Some("netmap"),
                "source-hash" => {
                    translation.target.algo = Some("ip-hash");
                    cursor.next();
                    if cursor.word().starts_with("0x") || cursor.word().len() == 32 {
                        cursor.next();
                        translation.dropped.push("the key of source-hash".to_owned());
                    }
                    continue;
                }
                "static-port" => translation.target.static_port = true,
                "random" => {
                    translation.target.algo = Some("round-robin");
                    translation.dropped.push("random: addresses are taken in turn".to_owned());
                }
                "sticky-address" => translation.dropped.push("sticky-address".to_owned()),
                "least-states" => return Err("\"least-states\" is not known here".to_owned()),
                _ => return Ok(translation),
            }
            cursor.next();
        }
    }

    /// The maps that a translation of a rule makes.
    pub(super) fn map_lines(
        &self,
        at: &Origin,
        what: &str,
        rule: &PfRule,
        translation: &Translation,
    ) -> Read<Vec<MapLine>> {
        let wrong_way = match translation.target.kind {
            Kind::Nat => rule.direction == Some("in"),
            Kind::Rdr => rule.direction == Some("out"),
            Kind::Binat => false,
        };
        if wrong_way {
            return Err("sources are translated on the way out, and destinations on the way in".to_owned());
        }
        if rule.tagged.is_some() || !rule.icmp.is_empty() {
            return Err("a map looks at neither tags nor types of ICMP".to_owned());
        }
        let mut lines = Vec::new();
        for (interface, from, to) in combinations(rule)? {
            let interface = interface.ok_or("a map needs an interface: \"on\" is missing")?;
            let matching = Matching { family: rule.family, protos: rule.protos.clone(), from, to };
            for line in target_maps(&interface, &translation.target, &matching)? {
                lines.push(MapLine { at: at.clone(), what: what.to_owned(), line });
            }
        }
        Ok(lines)
    }

    /// `nat`, `rdr` and `binat`, of which the first that matches counts.
    pub(super) fn old_translation(&mut self, at: &Origin, what: &str, cursor: &mut Cursor<'_>) -> Read<()> {
        let kind = match cursor.text("the kind of translation")? {
            "nat" => Kind::Nat,
            "rdr" => Kind::Rdr,
            "binat" => Kind::Binat,
            _ => return Err("exceptions from translation are not known here".to_owned()),
        };
        let mut rule = PfRule { action: "pass", ..PfRule::default() };
        let passes = cursor.take_word("pass");
        self.head(&mut rule, cursor)?;
        rule.direction = match kind {
            Kind::Nat => Some("out"),
            Kind::Rdr => Some("in"),
            Kind::Binat => None,
        };
        if cursor.take_word("from") {
            rule.from = self.hosts(cursor, rule.family)?;
        }
        if cursor.take_word("to") {
            rule.to = self.hosts(cursor, rule.family)?;
        }
        if !cursor.take("->") {
            return Err("\"->\" is missing, or something before it is not known".to_owned());
        }
        let translation = self.translation(kind, cursor, rule.family)?;
        if !cursor.at_end() {
            return Err("something behind the address is not known".to_owned());
        }
        for left_out in &translation.dropped {
            self.out.note(at, what, format!("left out: {left_out}"));
        }
        let maps = self.map_lines(at, what, &rule, &translation)?;
        self.quick_maps.extend(maps);
        if passes {
            rule.quick = true;
            self.emit_filter(at, what, &rule)?;
        }
        Ok(())
    }
}
