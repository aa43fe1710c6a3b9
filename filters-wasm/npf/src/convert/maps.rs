//! Maps, of which the two other languages say nearly the same.

use super::words::{End, Matching, list, quoted};
use crate::config::Family;
use std::net::IpAddr;

/// What is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The source, on the way out.
    Nat,
    /// The destination, on the way in.
    Rdr,
    /// Both.
    Binat,
}

/// What is put into packets.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub kind: Kind,
    pub addresses: Vec<String>,
    pub port: Option<String>,
    pub algo: Option<&'static str>,
    pub static_port: bool,
}

/// The maps that put a target into the packets of an interface that match.
pub(super) fn target_maps(interface: &str, target: &Target, matching: &Matching) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    for family in families(target, matching) {
        let sides = map_sides(target, matching, family)?;
        lines.extend(sides.into_iter().map(|side| format!("map {} dynamic{side}", quoted(interface))));
    }
    Ok(lines)
}

/// The families of which there is a map; None where the addresses say it.
fn families(target: &Target, matching: &Matching) -> Vec<Option<Family>> {
    let (from, to) = (&matching.from, &matching.to);
    let any = match target.kind {
        Kind::Nat => from.addresses.is_empty() || from.not,
        Kind::Rdr => to.addresses.is_empty() || to.not,
        Kind::Binat => false,
    };
    if !any {
        return vec![None];
    }
    let of = |word: &String| {
        let address = word.split('/').next().and_then(|a| a.parse::<IpAddr>().ok());
        address.map(Family::of).or_else(|| match () {
            _ if word.starts_with("inet4(") => Some(Family::V4),
            _ if word.starts_with("inet6(") => Some(Family::V6),
            _ => None,
        })
    };
    let mut known: Vec<_> = target.addresses.iter().filter_map(of).collect();
    known.extend(matching.family);
    for family in [Family::V4, Family::V6] {
        if known.iter().all(|f| *f == family) && !known.is_empty() {
            return vec![Some(family)];
        }
    }
    vec![Some(Family::V4), Some(Family::V6)]
}

/// What stands behind the interface, for each map that is needed.
fn map_sides(target: &Target, matching: &Matching, family: Option<Family>) -> Result<Vec<String>, String> {
    let (from, to) = (&matching.from, &matching.to);
    let several = target.addresses.len() > 1 || target.addresses.iter().any(|a| a.contains(['/', '<']));
    let mut head = String::new();
    match (target.algo, several, target.kind) {
        (_, true, Kind::Binat) => head += " algo netmap",
        (Some(algo), true, _) => head += &format!(" algo {algo}"),
        (None, true, _) => head += " algo round-robin",
        (_, false, _) => {}
    }
    if target.static_port {
        head += " no-ports";
    }
    let any = match family {
        Some(Family::V6) => "::/0",
        _ => "0.0.0.0/0",
    };
    let side = |end: &End| match end.not || end.addresses.is_empty() {
        true => any.to_owned(),
        false => list(&end.addresses),
    };
    let port = target.port.as_ref().map(|port| format!(" port {port}")).unwrap_or_default();
    let new = list(&target.addresses);
    let proto = match matching.protos.is_empty() {
        true => String::new(),
        false => format!(" proto {}", list(&matching.protos)),
    };
    let filter = |to: &End| {
        let (from, to) = (from.clone(), to.clone());
        format!(" pass {}", Matching { family: family.or(matching.family), protos: matching.protos.clone(), from, to })
    };
    Ok(match target.kind {
        Kind::Nat => {
            let sides = format!("{} -> {new}{port}", side(from));
            let plain = !from.not && from.ports.is_empty() && to.is_any();
            vec![if plain { format!("{head}{proto} {sides}") } else { format!("{head} {sides}{}", filter(to)) }]
        }
        Kind::Rdr => {
            // A side has one port or range.
            let ports: Vec<_> = match to.ports.is_empty() {
                true => vec![None],
                false => to.ports.iter().cloned().map(Some).collect(),
            };
            let plain = from.is_any() && !to.not;
            let lines = ports.into_iter().map(|outer_port| {
                let outer = outer_port.as_ref().map(|p| format!(" port {p}")).unwrap_or_default();
                let sides = format!("{new}{port} <- {}{outer}", side(to));
                let to = End { ports: outer_port.into_iter().collect(), ..to.clone() };
                if plain { format!("{head}{proto} {sides}") } else { format!("{head} {sides}{}", filter(&to)) }
            });
            lines.collect()
        }
        Kind::Binat => {
            if from.not || from.addresses.is_empty() || !from.ports.is_empty() || !to.is_any() || !proto.is_empty() {
                return Err("a translation of both ways is for one address or prefix and all that it sends".to_owned());
            }
            vec![format!("{head} {} <-> {new}", side(from))]
        }
    })
}
