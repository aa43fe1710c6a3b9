//! Chains of type nat.

use super::{
    Nft,
    chains::{Chain, Ruleset, expressions, rule_path},
    emit::tag,
    matching::Criteria,
    values::{Read, Sets, compared},
};
use crate::convert::{
    maps::{Kind, Target, target_maps},
    output::{Origin, Part},
    words::{Words, quoted},
};
use serde_json::Value;

impl Nft {
    /// The maps of a chain; the first that matches counts, here too.
    pub(super) fn nat_chain(&mut self, ruleset: &Ruleset<'_>, chain: &Chain<'_>) {
        for rule in &chain.rules {
            let what = expressions(rule);
            let at = Origin::Path(rule_path(rule));
            if let Err(why) = self.nat_rule(ruleset, chain, rule, &at, &what) {
                self.out.leave_out(Part::Maps, &at, &what, why);
            }
        }
    }

    fn nat_rule(
        &mut self,
        ruleset: &Ruleset<'_>,
        chain: &Chain<'_>,
        rule: &Value,
        at: &Origin,
        what: &str,
    ) -> Read<()> {
        let sets = Sets { ruleset, id: chain.id };
        let mut criteria = Criteria::default();
        criteria.family = chain.family();
        for expression in rule.get("expr").and_then(Value::as_array).into_iter().flatten() {
            let Some((key, inner)) = expression.as_object().and_then(|map| map.iter().next()) else {
                return Err("an expression is not understood".to_owned());
            };
            match (key.as_str(), chain.hook) {
                ("match", _) => criteria.add(inner, sets)?,
                ("counter", _) => {}
                ("masquerade" | "snat", Some("postrouting")) | ("dnat" | "redirect", Some("prerouting")) => {
                    return self.translate((key, inner), &criteria, sets, (at, what));
                }
                (other, _) => return Err(format!("\"{other}\" is not known in this chain")),
            }
        }
        Ok(())
    }

    /// Writes the maps of a translation. `at` and `what` say which rule it is of.
    fn translate<'v>(
        &mut self,
        (word, value): (&str, &'v Value),
        criteria: &Criteria,
        sets: Sets<'_, 'v>,
        (at, what): (&Origin, &str),
    ) -> Read<()> {
        let kind = if matches!(word, "masquerade" | "snat") { Kind::Nat } else { Kind::Rdr };
        let (interfaces, other) = match kind {
            Kind::Nat => (&criteria.out_interfaces, &criteria.in_interfaces),
            _ => (&criteria.in_interfaces, &criteria.out_interfaces),
        };
        let Some(interfaces) = interfaces else {
            return Err("a map needs an interface: none is asked for".to_owned());
        };
        if other.is_some() || criteria.states.is_some() || criteria.limit.is_some() {
            return Err("a map looks at one interface, addresses, protocols and ports only".to_owned());
        }
        let port = match value.get("port") {
            None => None,
            Some(port) => match compared("==", &sets.ports(port)?)?.as_slice() {
                [port] => Some(port.clone()),
                _ => return Err("one port or one range is put into packets".to_owned()),
            },
        };
        let given = match value.get("addr") {
            Some(addr) => Some(sets.addresses(addr)?),
            None if word == "snat" || word == "dnat" => return Err("an address is missing".to_owned()),
            None => None,
        };
        for flag in
            value.get("flags").into_iter().flat_map(|f| f.as_array().cloned().unwrap_or_else(|| vec![f.clone()]))
        {
            self.out.note(at, what, format!("left out: {flag}"));
        }
        let matching = criteria.matching()?;
        for interface in interfaces {
            let addresses = given.clone().unwrap_or_else(|| vec![format!("ifaddrs({})", quoted(interface))]);
            let target = Target { kind, addresses, port: port.clone(), algo: None, static_port: false };
            for line in target_maps(interface, &target, &matching)? {
                self.out.map(at, what, line);
            }
            if kind == Kind::Rdr {
                let why = "rules see destinations before translation when packets come in; those of nftables see them \
                           after it";
                self.out.note(at, what, why);
            }
            if word == "dnat" {
                // It is for an address of this host still, and goes on to another.
                self.translated.push(Words {
                    action: "pass",
                    state: self.stateful.then_some("stateful-all"),
                    direction: Some("in"),
                    is_final: true,
                    interface: Some(interface.clone()),
                    matching: matching.clone(),
                    options: vec![format!("tag {}", quoted(&tag(interface)))],
                });
            }
        }
        Ok(())
    }
}
