//! What connections hold as long as they are there: ports, places under limits, packets that belong here whatever their hash
//! says. All of it is given back in one place.

use super::{
    Share,
    calls::Calls,
    limits::{Limited, Limits},
};
use crate::{
    nat::{
        mapping::{End, Mappings},
        ports::{PortMap, Translated},
    },
    state::{ConnId, Connection, Millis, Nat, NatKind},
};
use std::sync::Arc;

/// What the connections of a worker hold.
#[derive(Debug)]
pub(super) struct Held {
    pub ports: PortMap,
    /// Endpoint-independent ones, and their ports.
    pub mappings: Mappings,
    /// What control connections of PPTP have said.
    pub calls: Calls,
    /// Those of the ruleset, for all workers.
    pub limits: Arc<Limits>,
    /// Which limits the connections here are under.
    pub limited: Limited,
    pub share: Option<Share>,
    /// The time, as it was when a packet came last.
    pub now: Millis,
}

impl Held {
    pub fn new(limits: Arc<Limits>) -> Held {
        Held {
            ports: PortMap::new(),
            mappings: Mappings::new(),
            calls: Calls::default(),
            limits,
            limited: Limited::default(),
            share: None,
            now: Millis(0),
        }
    }

    /// A connection has ended: its port is free again, its rule has one less, and no worker looks for it here.
    pub fn release(&mut self, id: ConnId, connection: &Connection) {
        self.calls.ended(id, connection, &mut self.ports);
        self.limited.ended(&self.limits, connection);
        self.release_translation(connection);
    }

    /// What a connection has for its translation is given back.
    pub fn release_translation(&mut self, connection: &Connection) {
        if let Some(nat) = connection.nat() {
            if nat.port_taken {
                self.ports.release(
                    Translated { address: nat.translated.0, proto: connection.forward().proto() },
                    nat.translated.1,
                );
            }
            if nat.hold.mapped {
                self.mappings.leave((nat.map, inner_of(&nat, connection.forward().proto())), self.now);
            }
            if let Some(share) = self.share.as_ref().filter(|_| nat.hold.claimed) {
                share.disclaim(connection.backward());
                if nat.hold.call.is_some() {
                    share.disclaim(connection.forward());
                }
            }
        }
    }

    /// Mappings that nobody has used for long are no more, and their ports are free.
    pub fn expire(&mut self, now: Millis) {
        while let Some(outer) = self.mappings.expire(now) {
            self.give_back(&outer);
        }
    }

    /// The outer end of a mapping is nobody's.
    pub fn give_back(&mut self, outer: &End) {
        self.ports.release(Translated { address: outer.address, proto: outer.proto }, outer.port);
        if let Some(share) = &self.share {
            share.disclaim_end(outer);
        }
    }

    /// Whether an outer end is that of a mapping, of whichever worker.
    pub fn is_mapped(&self, outer: &End) -> bool {
        self.mappings.inner_of(*outer).is_some() || self.share.as_ref().is_some_and(|s| s.mapped_by(outer).is_some())
    }
}

/// The inner end of a connection that is translated by a mapping.
pub(super) fn inner_of(nat: &Nat, proto: u8) -> End {
    let (address, port) = match nat.kind {
        NatKind::Source => nat.original,
        NatKind::Destination => nat.translated,
    };
    End { address, port, proto }
}
