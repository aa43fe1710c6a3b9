//! Maps: what may stand on their sides.

use super::{
    Resolver, TableUse,
    address::{family_name, only_family},
};
use crate::{
    config::{Address, Arrow, Family, Map, MapAlgo, Match, Prefix, RuleId, Segment},
    language::{
        ast::{EndpointDecl, MapDecl},
        source::Span,
    },
};

impl Resolver<'_, '_> {
    pub(super) fn map(&mut self, decl: MapDecl) -> Option<Map> {
        let interface = self.interface(&decl.interface);
        let inner = self.segment(&decl.inner);
        let outer = self.segment(&decl.outer);
        let filter: Option<Match> = self.matching(&decl.filter);
        let map = Map {
            id: RuleId::default(),
            interface: interface?,
            is_static: decl.is_static,
            algo: decl.algo.map(|(algo, _)| algo),
            no_ports: decl.no_ports,
            endpoint_independent: decl.endpoint_independent.is_some(),
            hairpin: decl.hairpin.is_some(),
            arrow: decl.arrow,
            inner: inner?,
            outer: outer?,
            filter: filter?,
            has_filter: decl.has_filter,
            at: self.session.sources.place(decl.span),
        };
        match check(&map) {
            Ok(()) => Some(map),
            Err((whose, message, hint)) => {
                let span: Span = match whose {
                    Whose::Map => decl.span,
                    Whose::Mapping => decl.endpoint_independent.or(decl.hairpin).unwrap_or(decl.span),
                    Whose::Algo => decl.algo.map_or(decl.span, |(_, span)| span),
                    Whose::Inner => decl.inner.span,
                    Whose::Outer => decl.outer.span,
                };
                self.session.error_hint(span, message, hint);
                None
            }
        }
    }

    fn segment(&mut self, decl: &EndpointDecl) -> Option<Segment> {
        let addresses = self.addresses(&decl.addresses);
        let ports = self.ports(&decl.ports);
        let (addresses, ports) = (addresses?, ports?);
        if addresses.is_empty() {
            self.session.error_hint(decl.span, "a side of a map cannot be any address", "write 0.0.0.0/0 or ::/0");
            return None;
        }
        for address in &addresses {
            if let Address::Table(id) = address {
                self.table_uses.push((*id, decl.span, TableUse::Side));
            }
        }
        if ports.len() > 1 {
            self.session.error_hint(decl.span, "a side of a map has one port or one range", "write a map for each");
            return None;
        }
        Some(Segment { addresses, ports: ports.first().copied() })
    }
}

/// What of a map is wrong.
#[derive(Clone, Copy)]
enum Whose {
    Map,
    Mapping,
    Algo,
    Inner,
    Outer,
}

type Check = Result<(), (Whose, String, String)>;

fn wrong(whose: Whose, message: &str, hint: &str) -> Check {
    Err((whose, message.to_owned(), hint.to_owned()))
}

/// Whether a map can be carried out.
fn check(map: &Map) -> Check {
    families(map)?;
    ports(map)?;
    mapping(map)?;
    match map.algo {
        Some(MapAlgo::Netmap) => netmap(map),
        Some(MapAlgo::Npt66) => npt66(map),
        Some(MapAlgo::IpHash | MapAlgo::RoundRobin) if map.is_static || map.arrow == Arrow::Both => {
            let hint = "leave out the algorithm, or use -> or <- with dynamic";
            wrong(Whose::Algo, "one of several addresses is chosen for a connection, which this map has not", hint)
        }
        Some(MapAlgo::IpHash | MapAlgo::RoundRobin) => Ok(()),
        None => one_to_one(map),
    }
}

fn families(map: &Map) -> Check {
    let (inner, outer) = (only_family(&map.inner.addresses), only_family(&map.outer.addresses));
    if let (Some(inner), Some(outer)) = (inner, outer)
        && inner != outer
    {
        let message = format!("one side is {}, the other {}", family_name(inner), family_name(outer));
        return wrong(Whose::Map, &message, "both sides of a map are of one family");
    }
    if let (Some(wanted), Some(side)) = (map.filter.family, inner.or(outer))
        && wanted != side
    {
        return wrong(Whose::Map, "the filter asks for the other family than the addresses", "leave out the family");
    }
    Ok(())
}

fn ports(map: &Map) -> Check {
    let (inner, outer) = (map.inner.ports, map.outer.ports);
    let side = match (inner, outer) {
        (None, None) => return Ok(()),
        (Some(_), _) => Whose::Inner,
        _ => Whose::Outer,
    };
    if map.is_static {
        return wrong(side, "a static map leaves ports as they are", "use a dynamic map");
    }
    if map.arrow == Arrow::Both {
        return wrong(side, "a map of both ways leaves ports as they are", "use <- to translate a port");
    }
    let translated = if map.arrow == Arrow::Out { outer } else { inner };
    if map.no_ports && translated.is_some() {
        return wrong(side, "the map says no-ports, and which port to use", "leave out one of the two");
    }
    if let (Arrow::In, Some(inner), Some(outer)) = (map.arrow, inner, outer)
        && inner.last - inner.first != outer.last - outer.first
        && inner.first != inner.last
    {
        return wrong(side, "the ranges of ports are not equally long", "write as many ports, or one, on the left");
    }
    Ok(())
}

/// RFC 4787: REQ-1 for the port, REQ-2 for the address, REQ-9 for what comes back.
fn mapping(map: &Map) -> Check {
    let whose = Whose::Mapping;
    if map.hairpin && !map.endpoint_independent {
        let hint = "write: endpoint-independent hairpin";
        return wrong(whose, "hairpin needs outer ports that stay the same", hint);
    }
    if !map.endpoint_independent {
        return Ok(());
    }
    if map.is_static || map.arrow != Arrow::Out {
        return wrong(whose, "only a dynamic map with -> chooses ports", "leave out endpoint-independent");
    }
    if map.no_ports {
        return wrong(whose, "the map says no-ports, and that ports are mapped", "leave out one of the two");
    }
    if map.inner.addresses.iter().any(|a| matches!(a, Address::Interface { .. })) {
        return wrong(Whose::Inner, "endpoint-independent mapping is for the hosts of a network", "write its prefix");
    }
    if matches!(map.algo, Some(MapAlgo::RoundRobin | MapAlgo::Netmap)) {
        let hint = "leave out the algorithm, or use algo ip-hash";
        return wrong(whose, "an inner host has the same outer address for all its ports", hint);
    }
    Ok(())
}

/// The only prefix of a side.
fn only_prefix(side: &Segment) -> Option<Prefix> {
    match side.addresses.as_slice() {
        [Address::Prefix(prefix)] => Some(*prefix),
        _ => None,
    }
}

fn netmap(map: &Map) -> Check {
    match (only_prefix(&map.inner), only_prefix(&map.outer)) {
        (Some(inner), Some(outer)) if inner.len == outer.len => Ok(()),
        (Some(inner), Some(outer)) => {
            let message = format!("netmap needs prefixes of the same length, not /{} and /{}", inner.len, outer.len);
            wrong(Whose::Map, &message, "every address of one side stands for one of the other")
        }
        (None, _) => wrong(Whose::Inner, "netmap needs one prefix on each side", "write a map for each prefix"),
        (_, None) => wrong(Whose::Outer, "netmap needs one prefix on each side", "write a map for each prefix"),
    }
}

/// RFC 6296 changes bits behind the prefix so that checksums stay; behind /64 there would be none left.
fn npt66(map: &Map) -> Check {
    if !map.is_static {
        return wrong(Whose::Algo, "npt66 works without connections", "write: map IF static algo npt66 ...");
    }
    for (side, whose) in [(&map.inner, Whose::Inner), (&map.outer, Whose::Outer)] {
        match only_prefix(side) {
            Some(prefix) if Family::of(prefix.address) == Family::V6 => {
                if prefix.len > 64 {
                    return wrong(
                        whose,
                        "npt66 needs a prefix of 64 bits at most",
                        "RFC 6296 changes the bits behind it",
                    );
                }
            }
            _ => return wrong(whose, "npt66 needs one IPv6 prefix on each side", "such as fd01:203:405::/48"),
        }
    }
    netmap(map).map_err(|(whose, message, hint)| (whose, message.replace("netmap", "npt66"), hint))
}

/// Without an algorithm, an address that is put into packets must be known without a choice.
fn one_to_one(map: &Map) -> Check {
    let both = map.arrow == Arrow::Both || map.is_static;
    for (side, whose, translated) in [
        (&map.inner, Whose::Inner, both || map.arrow == Arrow::In),
        (&map.outer, Whose::Outer, both || map.arrow == Arrow::Out),
    ] {
        if !translated {
            continue;
        }
        let several =
            side.addresses.len() > 1 || only_prefix(side).is_some_and(|p| p.len != Family::of(p.address).bits());
        if several {
            let hint = if both {
                "write one address, or algo netmap with a prefix on each side"
            } else {
                "write one address, or algo ip-hash, round-robin or netmap"
            };
            return wrong(whose, "this is more than one address, and nothing says which to choose", hint);
        }
        if both && side.addresses.iter().any(|a| matches!(a, Address::Table(_))) {
            return wrong(whose, "a table may hold several addresses, and this map is one to one", "write the address");
        }
    }
    Ok(())
}
