//! Which map translates a packet, and to what.

use super::{
    Engine, Fault, PlacedMap, Ruleset,
    held::{Held, inner_of},
};
use crate::{
    config::{Address, Arrow, Config, Family, Map, MapAlgo, PortRange, Prefix, RuleId, Segment},
    evaluate::{Evaluator, Interfaces, Where},
    nat::{
        Change, Side, choose, icmp_error,
        mapping::End,
        npt66::{Npt66, Way},
        ports::Translated,
        pptp, rewrite,
    },
    packet::{IcmpClass, Packet, Upper, number_of, proto},
    params::Key as Param,
    state::{ConnId, Crossing, Hold, Key, Nat, NatKind},
    tables::Tables,
};
use std::collections::HashMap;

/// What is to be done with a packet that a map is for.
pub(super) enum Translation {
    /// Nothing is remembered.
    Static(Change),
    /// RFC 6296.
    Npt(Npt66, Way),
    /// A connection remembers it.
    Dynamic(Plan),
}

/// How a connection is to be translated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub map: RuleId,
    pub kind: NatKind,
    pub address: u128,
    pub port: Port,
    pub hold: Hold,
}

/// The port of a translated packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// Stays as it is.
    Same,
    /// Becomes this.
    This(u16),
    /// One of these that is free.
    Free(PortRange),
}

/// Which side of a packet a map changes; None if it is not for packets that go that way.
fn side(map: &Map, way: Where) -> Option<Side> {
    match (way, map.arrow) {
        (Where::In, Arrow::In | Arrow::Both) => Some(Side::Dst),
        (Where::Out | Where::Forward, Arrow::Out | Arrow::Both) => Some(Side::Src),
        _ => None,
    }
}

/// The addresses of a segment as they are now.
fn pool(segment: &Segment, tables: &Tables, interfaces: &dyn Interfaces) -> Vec<Prefix> {
    let mut all = Vec::new();
    for address in &segment.addresses {
        match address {
            Address::Prefix(prefix) => all.push(*prefix),
            Address::Table(table) => all.extend(tables.prefixes(*table)),
            Address::Interface { name, family, .. } => all.extend(
                interfaces
                    .addresses(name)
                    .into_iter()
                    .filter(|a| family.is_none_or(|f| f == Family::of(*a)))
                    .map(Prefix::host),
            ),
        }
    }
    all
}

/// The only prefix of a segment.
fn prefix(segment: &Segment) -> Option<Prefix> {
    match segment.addresses[..] {
        [Address::Prefix(prefix)] => Some(prefix),
        _ => None,
    }
}

/// Whether a packet is one that a map is for.
fn is_for(map: &Map, side: Side, packet: &Packet, evaluator: &Evaluator<'_, '_>) -> bool {
    let (segment, address) = match side {
        Side::Src => (&map.inner, packet.src),
        Side::Dst => (&map.outer, packet.dst),
    };
    let port = packet.ports().map(|p| if side == Side::Src { p.src } else { p.dst });
    evaluator.fits(&map.filter, packet)
        && (map.has_filter
            || segment.addresses.iter().any(|a| evaluator.is_address(a, packet.family, address, None))
                && segment.ports.is_none_or(|range| port.is_some_and(|p| range.contains(p))))
}

/// What a look for a map needs of the engine.
pub(super) struct Maps<'a> {
    pub(super) config: &'a Config,
    pub(super) maps: &'a [PlacedMap],
    pub(super) tables: &'a Tables,
    pub(super) interfaces: &'a dyn Interfaces,
    /// Only maps without connections are looked at.
    pub(super) only_static: bool,
    pub(super) cursors: &'a mut HashMap<RuleId, u64>,
    pub(super) held: &'a Held,
    /// It is the second half of a hairpin.
    pub(super) turned: bool,
}

/// What a map does with a packet.
enum Via {
    /// What its arrow says.
    Arrow(Side),
    /// It goes to whom an outer end stands for.
    Inward(End),
    /// It comes from inside and goes to an outer end.
    Turn,
}

/// Where a packet goes, if its protocol is one of which ends are mapped.
fn outer_end(packet: &Packet) -> Option<End> {
    let ports = match packet.upper {
        Upper::Tcp(tcp) => tcp.ports,
        Upper::Udp(ports) => ports,
        _ => return None,
    };
    Some(End { address: packet.dst, port: ports.dst, proto: packet.proto })
}

impl Maps<'_> {
    /// The map that a packet without a translation meets first, and what it makes of it.
    pub(super) fn plan(
        &mut self,
        packet: &Packet,
        interface: &str,
        way: Where,
        evaluator: &Evaluator<'_, '_>,
    ) -> Result<Option<Translation>, Fault> {
        let found = self.maps.iter().find_map(|placed| {
            let map = &placed.map;
            let by_mapping = (map.endpoint_independent && way == Where::In && !self.only_static)
                .then(|| self.by_mapping(map, packet, interface, evaluator))
                .flatten();
            if by_mapping.is_some() || self.turned {
                return by_mapping.map(|via| (map, via));
            }
            let is_here = map.interface == interface && (map.is_static || !self.only_static);
            let side = side(map, way).filter(|_| is_here && placed.is_at(interface, way))?;
            is_for(map, side, packet, evaluator).then_some((map, Via::Arrow(side)))
        });
        let Some((map, via)) = found else { return Ok(None) };
        let hairpin = self.turned || matches!(via, Via::Turn);
        let hold = |mapped| Hold { mapped, hairpin, ..Hold::default() };
        let side = match via {
            Via::Arrow(side) => side,
            Via::Turn => Side::Src,
            Via::Inward(End { address, port, .. }) => {
                let (kind, port) = (NatKind::Destination, Port::This(port));
                return Ok(Some(Translation::Dynamic(Plan { map: map.id, kind, address, port, hold: hold(true) })));
            }
        };
        let target = if side == Side::Src { &map.outer } else { &map.inner };
        let own = if side == Side::Src { packet.src } else { packet.dst };
        if map.algo == Some(MapAlgo::Npt66) {
            let pair = prefix(&map.inner).zip(prefix(&map.outer)).and_then(|(i, o)| Npt66::new(i, o));
            let npt = pair.ok_or(Fault::NoAddress)?;
            return Ok(Some(Translation::Npt(npt, if side == Side::Src { Way::Out } else { Way::In })));
        }
        let pool = pool(target, self.tables, self.interfaces);
        let address = match map.algo {
            Some(MapAlgo::Netmap) => pool.first().and_then(|p| choose::netmap(*p, packet.family, own)),
            Some(MapAlgo::RoundRobin) => {
                choose::round_robin(&pool, packet.family, self.cursors.entry(map.id).or_default())
            }
            _ => choose::ip_hash(&pool, packet.family, packet.src),
        };
        let address = address.ok_or(Fault::NoAddress)?;
        if map.is_static {
            return Ok(Some(Translation::Static(Change { side, address: Some(address), port_or_id: None })));
        }
        let kind = if side == Side::Src { NatKind::Source } else { NatKind::Destination };
        let port = self.port(map, side, packet);
        let hold = hold(map.endpoint_independent && outer_end(packet).is_some());
        Ok(Some(Translation::Dynamic(Plan { map: map.id, kind, address, port, hold })))
    }

    /// What an endpoint-independent map does with a packet that comes in.
    #[inline(never)]
    fn by_mapping(&self, map: &Map, packet: &Packet, interface: &str, evaluator: &Evaluator<'_, '_>) -> Option<Via> {
        let to = outer_end(packet)?;
        let inner = self.held.mappings.inner_of(to).filter(|(id, _)| *id == map.id).map(|(_, inner)| inner);
        if self.turned {
            return inner.filter(|_| map.hairpin).map(Via::Inward);
        }
        if map.hairpin && is_for(map, Side::Src, packet, evaluator) && self.held.is_mapped(&to) {
            return Some(Via::Turn);
        }
        inner.filter(|_| map.interface == interface).map(Via::Inward)
    }

    fn port(&self, map: &Map, side: Side, packet: &Packet) -> Port {
        let target = if side == Side::Src { &map.outer } else { &map.inner };
        let has_ports = matches!(packet.upper, Upper::Tcp(_) | Upper::Udp(_));
        let is_query = matches!(packet.upper, Upper::Icmp(icmp) if matches!(icmp.class, IcmpClass::Request(_)));
        match side {
            Side::Src if !map.no_ports && map.arrow == Arrow::Out && (has_ports || is_query) => {
                Port::Free(target.ports.filter(|_| has_ports).unwrap_or(PortRange {
                    first: self.config.params.get(Param::PortmapMinPort) as u16,
                    last: self.config.params.get(Param::PortmapMaxPort) as u16,
                }))
            }
            Side::Dst if has_ports => match (target.ports, map.outer.ports, packet.ports()) {
                // A range becomes another one, port by port.
                (Some(to), Some(from), Some(ports)) if from.contains(ports.dst) => {
                    Port::This(to.first.saturating_add(ports.dst - from.first).min(to.last))
                }
                (Some(to), ..) => Port::This(to.first),
                _ => Port::Same,
            },
            _ => Port::Same,
        }
    }
}

impl Engine {
    /// Gives a connection its translation, and the packet that began it.
    pub(super) fn begin_translation(
        &mut self,
        ruleset: &Ruleset,
        bytes: &mut [u8],
        packet: &Packet,
        conn: ConnId,
        plan: Plan,
        at: Crossing,
    ) -> Result<(), Fault> {
        let Plan { map, kind, mut address, port, hold } = plan;
        let connection = self.connections.get(conn).ok_or(Fault::NoState)?;
        let original = match kind {
            NatKind::Source => connection.forward().source_end(),
            NatKind::Destination => connection.forward().destination_end(),
        };
        let forward = *connection.forward();
        let of = Translated { address, proto: packet.proto };
        let (id, port_taken) = match port {
            Port::Free(range) if hold.mapped => {
                let outer = self.outer_of((map, End::source(&forward)), address, range)?;
                address = outer.address;
                (outer.port, false)
            }
            Port::This(port) if hold.mapped => {
                let inner = End { address, port, proto: packet.proto };
                self.held.mappings.join((map, inner)).ok_or(Fault::NoState)?;
                (port, false)
            }
            Port::Same => (original.1, false),
            Port::This(port) => (port, false),
            Port::Free(range) => {
                let random = &mut || self.random.next();
                let free = match &self.held.share {
                    None => self.held.ports.get(of, range, random),
                    Some(share) => self.held.ports.get_where(of, range, random, |id| {
                        let end = End { address, port: id, proto: packet.proto };
                        share.is_ours(&forward, kind, address, id)
                            && (ruleset.mapped.is_empty() || share.mapped_by(&end).is_none())
                    }),
                };
                (free.ok_or(Fault::PortsExhausted)?, true)
            }
        };
        let nat = Nat { map, kind, original, translated: (address, id), port_taken, interface: at.interface, hold };
        let begun = self.begin_claimed(ruleset, conn, nat, &forward);
        if begun.is_err() && port_taken {
            self.held.ports.release(of, id);
        }
        if begun.is_err() && hold.mapped {
            self.held.mappings.leave((map, inner_of(&nat, packet.proto)), self.held.now);
        }
        begun?;
        change(bytes, packet, nat, true);
        Ok(())
    }

    /// Translates a connection whose packets, those that come back too, are this worker's from now on.
    fn begin_claimed(&mut self, ruleset: &Ruleset, conn: ConnId, mut nat: Nat, forward: &Key) -> Result<(), Fault> {
        let (address, id) = nat.translated;
        let back = match nat.kind {
            NatKind::Source => forward.with_source(address, id),
            NatKind::Destination => forward.with_destination(address, id),
        }
        .reverse();
        if let Some(share) = &self.held.share {
            nat.hold.claimed = !self.is_ours_by_itself(ruleset, share, &back);
            if nat.hold.claimed && !share.claim(&back) {
                return Err(Fault::Conflict);
            }
        }
        self.connections.translate(conn, nat).map_err(|_| {
            if let Some(share) = self.held.share.as_ref().filter(|_| nat.hold.claimed) {
                share.disclaim(&back);
            }
            Fault::Conflict
        })
    }

    /// Translates a packet of a connection that has a translation, where its map's interface is. True: it is a hairpin, and
    /// the other half is to be done.
    pub(super) fn translate_known(
        &mut self,
        bytes: &mut [u8],
        packet: &Packet,
        conn: ConnId,
        forward: bool,
        at: Crossing,
    ) -> bool {
        let Some(nat) = self.connections.get(conn).and_then(|c| c.nat()) else { return false };
        let outward = at.direction == crate::state::Direction::Out;
        // A connection that is bound to no interface is seen on others too, where nothing is translated.
        let here = match nat.hold.hairpin {
            true => !outward,
            false => (outward == (nat.kind == NatKind::Source)) == forward && nat.interface == at.interface,
        };
        if !here {
            return false;
        }
        let turns = nat.hold.hairpin && (nat.kind == NatKind::Source) == forward;
        if matches!(packet.upper, Upper::Icmp(icmp) if matches!(icmp.class, IcmpClass::Error(_))) {
            let target = if forward { nat.translated } else { nat.original };
            let side = match (nat.kind, forward) {
                (NatKind::Source, false) | (NatKind::Destination, true) => Side::Src,
                _ => Side::Dst,
            };
            let change = Change { side, address: Some(target.0), port_or_id: Some(target.1) };
            // An error without a quote is none of a connection.
            icmp_error::translate(bytes, packet, change, Some(target.0));
            return turns;
        }
        change(bytes, packet, nat, forward);
        turns
    }
}

/// Changes a packet as its connection says.
#[inline]
fn change(bytes: &mut [u8], packet: &Packet, nat: Nat, forward: bool) {
    let side = if (nat.kind == NatKind::Source) == forward { Side::Src } else { Side::Dst };
    let (address, id) = if forward { nat.translated } else { nat.original };
    let has_id = !matches!(packet.proto, proto::GRE | proto::ESP | proto::AH | proto::SCTP);
    rewrite(bytes, packet, Change { side, address: Some(address), port_or_id: has_id.then_some(id) });
    if let Some(call) = nat.hold.call.filter(|_| !forward) {
        pptp::set_gre_call_id(bytes, packet, call);
    }
}

/// An address of an interface, for errors that it sends.
pub(super) fn address_on(interfaces: &dyn Interfaces, interface: &str, family: Family) -> Option<u128> {
    interfaces.addresses(interface).into_iter().find(|a| Family::of(*a) == family).map(number_of)
}
