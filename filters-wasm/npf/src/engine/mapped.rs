//! Endpoint-independent mapping: whose packets are whose, and which outer end an inner one has. How workers share it is told in
//! [`super::share`].

use super::{Engine, Fault, Ruleset, Share};
use crate::{
    config::{Address, Family, PortRange},
    nat::{
        mapping::{End, Inner},
        ports::Translated,
    },
    packet::{IcmpClass, Packet, Upper, proto},
    state::{Key, read_quoted},
    tables::lies_in,
};

/// The key that tells whose a packet is: of an ICMP error, that of an answer to what it quotes.
pub(super) fn key_of(bytes: &[u8], packet: &Packet) -> Option<Key> {
    match packet.upper {
        Upper::Icmp(icmp) => match icmp.class {
            IcmpClass::Error(quoted) => Some(read_quoted(packet.here(bytes).get(quoted..)?)?.answer),
            _ => Key::unbound(packet),
        },
        _ => Key::unbound(packet),
    }
}

impl Engine {
    fn is_inner(&self, ruleset: &Ruleset, family: Family, address: u128) -> bool {
        ruleset.mapped.iter().any(|of| match of {
            Address::Prefix(prefix) => lies_in(prefix, family, address),
            Address::Table(table) => self.tables.contains(*table, family, address, None),
            Address::Interface { .. } => false,
        })
    }

    /// The worker that packets with a key belong to because of a mapping.
    #[inline(never)]
    pub(super) fn mapping_owner(&self, ruleset: &Ruleset, share: &Share, key: &Key) -> Option<u8> {
        if ruleset.mapped.is_empty() || !matches!(key.proto(), proto::TCP | proto::UDP) {
            return None;
        }
        let (source, destination) = (End::source(key), End::destination(key));
        let is_inner = |end: &End| self.is_inner(ruleset, key.family(), end.address);
        match (is_inner(&source), is_inner(&destination)) {
            (true, true) => Some(share.of_end(&source.min(destination))),
            (true, false) => Some(share.of_end(&source)),
            (false, true) => Some(share.of_end(&destination)),
            (false, false) => {
                let owner = share.mapped_by(&destination)?;
                // Between two outer ends only npf hands packets over.
                Some(if share.mapped_by(&source).is_some() { share.me() } else { owner })
            }
        }
    }

    /// Whether packets with a key come to this worker without anything being written down.
    pub(super) fn is_ours_by_itself(&self, ruleset: &Ruleset, share: &Share, key: &Key) -> bool {
        match self.mapping_owner(ruleset, share, key) {
            Some(owner) => owner == share.me(),
            None => share.is_natural(key),
        }
    }

    /// Whether a packet that another worker handed over is half of a hairpin: it has two outer ends in it.
    #[inline(never)]
    pub(super) fn is_turned(&self, ruleset: &Ruleset, bytes: &[u8], packet: &Packet) -> bool {
        !ruleset.mapped.is_empty()
            && key_of(bytes, packet).is_some_and(|key| {
                self.held.is_mapped(&End::source(&key)) && self.held.is_mapped(&End::destination(&key))
            })
    }

    /// Whether a packet that has come in goes to the outer end of a mapping, and not by the interface where that is translated:
    /// the outer address may be the router's own, so that no route leads there.
    pub(super) fn is_inward(&self, ruleset: &Ruleset, bytes: &[u8], packet: &Packet, seat: &super::Seat<'_>) -> bool {
        !ruleset.hairpins.iter().any(|i| i == seat.interface)
            && key_of(bytes, packet).is_some_and(|key| self.held.is_mapped(&End::destination(&key)))
    }

    /// Where the other half of a hairpin is done, if by another worker.
    pub(super) fn turns_to(&self, bytes: &[u8], packet: &Packet) -> Option<u8> {
        let share = self.held.share.as_ref()?;
        let key = key_of(bytes, packet)?;
        share.mapped_by(&End::destination(&key)).filter(|owner| *owner != share.me())
    }

    /// A connection that is loaded uses a mapping with these very ends. False: one of them has another.
    pub(super) fn rejoin(&mut self, inner: Inner, outer: End) -> bool {
        let held = &mut self.held;
        match held.mappings.inner_of(outer) {
            Some(known) => known == inner && held.mappings.join(inner) == Some(outer),
            None => {
                let of = Translated { address: outer.address, proto: outer.proto };
                if !held.ports.take(of, outer.port) {
                    return false;
                }
                if held.share.as_ref().is_some_and(|s| !s.claim_end(&outer)) {
                    held.ports.release(of, outer.port);
                    return false;
                }
                let is_new = held.mappings.insert(inner, outer);
                if !is_new {
                    held.give_back(&outer);
                }
                is_new
            }
        }
    }

    /// The outer end of an inner one, which a connection uses from now on.
    #[inline(never)]
    pub(super) fn outer_of(&mut self, inner: Inner, address: u128, range: PortRange) -> Result<End, Fault> {
        if let Some(outer) = self.held.mappings.join(inner) {
            return Ok(outer);
        }
        let End { port, proto, .. } = inner.1;
        let of = Translated { address, proto };
        let end = |port| End { address, port, proto };
        let random = &mut || self.random.next();
        let share = self.held.share.as_ref();
        let is_free = |port| share.is_none_or(|s| s.mapped_by(&end(port)).is_none());
        let ports = &mut self.held.ports;
        // RTP and RTCP want an even port and an odd one (RFC 4787, REQ-4).
        let outer = ports
            .get_where(of, range, random, |p| p % 2 == port % 2 && is_free(p))
            .or_else(|| ports.get_where(of, range, random, is_free))
            .map(end)
            .ok_or(Fault::PortsExhausted)?;
        // Another worker may have been faster.
        if share.is_some_and(|s| !s.claim_end(&outer)) {
            ports.release(of, outer.port);
            return Err(Fault::PortsExhausted);
        }
        if !self.held.mappings.insert(inner, outer) {
            self.held.give_back(&outer);
            return Err(Fault::Conflict);
        }
        Ok(outer)
    }
}
