//! Connections as `save` writes them and `load` reads them.
//!
//! Times are ages, for no start is that of another run; interfaces, procedures and tags are names, for their numbers are
//! those of one configuration. Of keys only the forward one is written: the other one follows from it and the translation.

use super::{
    ConnId, Connection, Connections, Crossing, Direction, Facts, Hold, Millis, Nat, NatKind, Refused, State, Tally,
    key::{Binding, Key},
    table::Gone,
};
use crate::{
    config::{Family, RuleId},
    packet::{address_of, number_of, proto::GRE},
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A connection as it is saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRecord {
    /// Protocol.
    pub proto: u8,
    /// Where forward packets come from.
    pub source: (IpAddr, u16),
    /// Where they go, before they are translated.
    pub destination: (IpAddr, u16),
    /// The interface that the key is bound to.
    pub bound_to: Option<String>,
    /// The direction of forward packets that the key is bound to.
    pub direction: Option<Direction>,
    /// How it is translated.
    pub nat: Option<NatRecord>,
    /// Its state.
    pub state: State,
    /// The rule that let it pass.
    pub rule: Option<u64>,
    /// The interface on which it began.
    pub interface: Option<String>,
    /// The procedure of its packets.
    pub procedure: Option<String>,
    /// Their tag.
    pub tag: Option<String>,
    /// Milliseconds since it began.
    pub age: u64,
    /// Milliseconds since it was used.
    pub idle: u64,
    /// Packets and bytes that went forward.
    pub sent: (u64, u64),
    /// And that came back.
    pub received: (u64, u64),
}

/// Translation as it is saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatRecord {
    /// The map.
    pub map: u64,
    /// The source of forward packets is translated, and not the destination.
    pub source: bool,
    /// What they have before.
    pub original: (IpAddr, u16),
    /// What they have after.
    pub translated: (IpAddr, u16),
    /// The port was taken from the map's.
    pub port_taken: bool,
    /// The interface at which it is translated.
    pub interface: Option<String>,
    /// The outer end is that of an endpoint-independent mapping.
    #[serde(default)]
    pub mapped: bool,
    /// It turns packets back inside.
    #[serde(default)]
    pub hairpin: bool,
    /// The inner host's id of a PPTP call.
    #[serde(default)]
    pub call: Option<u16>,
}

/// The names of what connections have numbers of, in the configuration of the time.
pub trait Names {
    /// The name of an interface.
    fn interface(&self, number: u16) -> Option<String>;
    /// The number of one.
    fn interface_number(&self, name: &str) -> Option<u16>;
    /// The name of a procedure.
    fn procedure(&self, number: u16) -> Option<String>;
    /// The number of one.
    fn procedure_number(&self, name: &str) -> Option<u16>;
    /// A tag.
    fn tag(&self, number: u16) -> Option<String>;
    /// The number of one.
    fn tag_number(&self, name: &str) -> Option<u16>;
}

/// Why a record is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// An address is IPv4 and another one IPv6.
    #[error("the addresses are not of the same family")]
    Family,
    /// It is of TCP and its state is not, or the other way round.
    #[error("the state is not one of protocol {0}")]
    State(u8),
    /// There is no such interface, procedure or tag any more.
    #[error("there is no {what} {name}")]
    Unknown {
        /// What is looked for.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// What it says of its translation cannot all be true.
    #[error("its translation contradicts itself")]
    Translation,
    /// The table does not take it.
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl ConnectionRecord {
    /// What is to be saved of a connection.
    pub fn new(connection: &Connection, names: &impl Names, now: Millis) -> ConnectionRecord {
        let key = connection.forward;
        let address = |number| address_of(key.family(), number);
        let (source_id, destination_id) = key.ids();
        let Facts { rule, procedure, interface, tag, .. } = connection.facts;
        let [received, sent] = connection.tally.map(|t| (t.packets, t.bytes));
        ConnectionRecord {
            proto: key.proto(),
            source: (address(key.source()), source_id),
            destination: (address(key.destination()), destination_id),
            bound_to: key.interface().and_then(|i| names.interface(i)),
            direction: key.direction(),
            nat: connection.nat().map(|nat| NatRecord {
                map: nat.map.0,
                source: nat.kind == NatKind::Source,
                original: (address(nat.original.0), nat.original.1),
                translated: (address(nat.translated.0), nat.translated.1),
                port_taken: nat.port_taken,
                interface: nat.interface.and_then(|i| names.interface(i)),
                mapped: nat.hold.mapped,
                hairpin: nat.hold.hairpin,
                call: nat.hold.call,
            }),
            state: connection.state,
            rule: rule.map(|r| r.0),
            interface: interface.and_then(|i| names.interface(i)),
            procedure: procedure.and_then(|p| names.procedure(p)),
            tag: names.tag(tag),
            age: now.since(connection.created),
            idle: now.since(connection.last),
            sent,
            received,
        }
    }

    /// The connection that was saved.
    ///
    /// # Errors
    /// When it contradicts itself, or something that it names is no more.
    pub fn connection(&self, names: &impl Names, now: Millis) -> Result<Connection, RecordError> {
        let family = Family::of(self.source.0);
        let number = |address: IpAddr| {
            if Family::of(address) == family { Ok(number_of(address)) } else { Err(RecordError::Family) }
        };
        if matches!(self.state, State::Tcp(_)) != (self.proto == crate::packet::proto::TCP) {
            return Err(RecordError::State(self.proto));
        }
        let at = Crossing {
            interface: find("interface", self.bound_to.as_deref(), |name| names.interface_number(name))?,
            direction: self.direction.unwrap_or(Direction::In),
        };
        let binding = Binding { interface: self.bound_to.is_some(), direction: self.direction.is_some() };
        let forward = Key::new(
            family,
            self.proto,
            (number(self.source.0)?, self.source.1),
            (number(self.destination.0)?, self.destination.1),
        );
        let facts = Facts {
            rule: self.rule.map(RuleId),
            procedure: find("procedure", self.procedure.as_deref(), |name| names.procedure_number(name))?,
            interface: find("interface", self.interface.as_deref(), |name| names.interface_number(name))?,
            tag: find("tag", self.tag.as_deref(), |name| names.tag_number(name))?.unwrap_or(0),
            ..Facts::default()
        };
        let mut connection = Connection::new(forward.bound(at, binding), self.state, facts, now);
        connection.created = Millis(now.0.saturating_sub(self.age));
        connection.last = Millis(now.0.saturating_sub(self.idle));
        connection.tally = [self.received, self.sent].map(|(packets, bytes)| Tally { packets, bytes });
        if let Some(nat) = &self.nat {
            let is_call = nat.call.is_some();
            if nat.mapped && nat.port_taken
                || nat.hairpin && !nat.mapped
                || is_call && (self.proto != GRE || !nat.source)
            {
                return Err(RecordError::Translation);
            }
            connection.translate(Nat {
                map: RuleId(nat.map),
                kind: if nat.source { NatKind::Source } else { NatKind::Destination },
                original: (number(nat.original.0)?, nat.original.1),
                translated: (number(nat.translated.0)?, nat.translated.1),
                port_taken: nat.port_taken,
                interface: find("interface", nat.interface.as_deref(), |name| names.interface_number(name))?,
                hold: Hold { mapped: nat.mapped, hairpin: nat.hairpin, claimed: false, call: nat.call },
            });
        }
        Ok(connection)
    }
}

fn find<T>(
    what: &'static str,
    name: Option<&str>,
    number: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, RecordError> {
    name.map(|name| number(name).ok_or_else(|| RecordError::Unknown { what, name: name.to_owned() })).transpose()
}

impl Connections {
    /// All connections, as they are saved.
    pub fn records(&self, names: &impl Names, now: Millis) -> Vec<ConnectionRecord> {
        self.iter().map(|(_, connection)| ConnectionRecord::new(connection, names, now)).collect()
    }

    /// Takes in a connection that was saved.
    ///
    /// # Errors
    /// When it is no connection here, or the table does not take it.
    pub fn load(
        &mut self,
        record: &ConnectionRecord,
        names: &impl Names,
        now: Millis,
        gone: Gone<'_>,
    ) -> Result<ConnId, RecordError> {
        Ok(self.insert(record.connection(names, now)?, now, gone)?)
    }
}
