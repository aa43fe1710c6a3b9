//! The straight way of a packet to its connection.

use super::{Connections, Hit};
use crate::{
    nat::{Change, Side},
    packet::Tcp,
    state::{Binding, Connection, Crossing, Direction, Generic, LOOKED_AT, Millis, NatKind, NatMark, ShortKey, State},
};
use smpnet_runtime::prefetch;

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// What a connection says of a packet at once.
#[derive(Debug)]
pub(crate) enum Quick<'a> {
    /// There is none with its addresses.
    Unknown,
    /// Its connection runs a procedure, is a hairpin or a call, is one of other rules, or would be changed by it more than timers
    /// bear: nothing has changed yet, and [`Connections::inspect`] knows more.
    Ask,
    /// It passes, and is counted. What is to be changed of it here.
    Passes(&'a Connection, Option<Change>),
}

impl Connection {
    /// What a translation changes of a packet where it crosses; nothing elsewhere than at the interface of its map.
    #[inline]
    fn change_at(&self, mark: &NatMark, forward: bool, at: Crossing) -> Option<Change> {
        let of_source = mark.kind == NatKind::Source;
        let is_here = ((at.direction == Direction::Out) == of_source) == forward && mark.interface == at.interface;
        let (address, port) = match (of_source, forward) {
            (true, true) => self.backward.destination_end(),
            (true, false) => self.forward.source_end(),
            (false, true) => self.backward.source_end(),
            (false, false) => self.forward.destination_end(),
        };
        let side = if of_source == forward { Side::Src } else { Side::Dst };
        is_here.then_some(Change { side, address: Some(address), port_or_id: Some(port) })
    }
}

impl Connections {
    /// How keys are bound, the second way of connections that are bound to no interface, if there are any.
    pub(crate) fn bindings(&self) -> (Binding, Option<Binding>) {
        let (bound, floating) = (self.rules.bound, self.rules.floating);
        (bound, (self.floating() > 0 && bound != floating).then_some(floating))
    }

    /// Whether there are any whose packets may cross an interface.
    #[inline]
    pub(crate) fn any_at(&self, interface: Option<u16>) -> bool {
        let at = interface.map_or(0, |i| usize::from(i) + 1);
        self.floating() > 0 || self.at_interface.get(at).is_some_and(|n| *n > 0)
    }

    /// The hash of a key.
    #[inline]
    pub(crate) fn hash_short(&self, key: &ShortKey) -> u32 {
        self.hasher.hash_short(key)
    }

    /// Has the memory fetched where the search for a hash begins.
    #[inline]
    pub(crate) fn prefetch_search(&self, hash: u32) {
        self.index.prefetch(hash);
    }

    /// Has the connection fetched that the search for a hash probably ends at.
    #[inline]
    pub(crate) fn prefetch_found(&self, hash: u32) {
        if let Some(hit) = self.index.find(hash, |_| true) {
            let connection = (&raw const *self.at(hit.slot)).cast::<u8>();
            for line in (0..LOOKED_AT).step_by(LINE) {
                prefetch(connection.wrapping_add(line));
            }
        }
    }

    /// Has the connection of a packet take it into account, if it may pass by itself. `key` is the packet's, `hash` the key's, and
    /// `tcp` its header, asked for if it is of TCP.
    #[inline]
    pub(crate) fn pass_quickly(
        &mut self,
        (key, hash): (&ShortKey, u32),
        (serial, at, now): (u32, Crossing, Millis),
        len: u16,
        tcp: impl FnOnce() -> Tcp,
    ) -> Quick<'_> {
        let is = |hit: Hit| {
            let connection = self.at(hit.slot);
            match (hit.forward, &connection.mark) {
                (true, _) => key.is(&connection.forward),
                // The other key is farther away, and says the same.
                (false, None) => key.is_reverse(&connection.forward),
                (false, Some(_)) => key.is(&connection.backward),
            }
        };
        let Some(Hit { slot, forward }) = self.index.find(hash, is) else { return Quick::Unknown };
        let rules = self.rules.tcp;
        let connection = self.at_mut(slot);
        let facts = &connection.facts;
        if facts.procedure.is_some() || facts.rule.is_none() || facts.serial != serial {
            return Quick::Ask;
        }
        let change = match &connection.mark {
            None => None,
            Some(mark) if mark.hold.hairpin || mark.hold.call.is_some() => return Quick::Ask,
            Some(mark) => connection.change_at(mark, forward, at),
        };
        let passes = match &mut connection.state {
            State::Tcp(state) => state.pass_in_midst(forward, &tcp(), &rules),
            State::Generic(Generic::Established) => true,
            State::Generic(Generic::New) => forward,
            State::Generic(Generic::Closed) => false,
        };
        if !passes {
            return Quick::Ask;
        }
        connection.count(forward, len.into());
        connection.last = now;
        Quick::Passes(connection, change)
    }
}
