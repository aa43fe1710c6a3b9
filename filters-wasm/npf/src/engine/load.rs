//! Connections that were saved, and are taken in again.

use super::{Engine, Interfaces, Ruleset, held::inner_of};
use crate::{
    nat::{mapping::End, ports::Translated},
    state::{ConnId, Connection, ConnectionRecord, Millis, Names, Nat, NatKind, RecordError, Refused},
};
use std::ops::Range;

/// Why a connection that was saved is not taken in. Nothing of it is left then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// It is that of another worker: to be handed there.
    #[error("it is that of worker {0}")]
    Elsewhere(u8),
    /// It is no connection here, or the table does not take it.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The rule that let it pass is not in force.
    #[error("its rule is not in force")]
    Rule,
    /// The map that translates it is not in force, or is none that would.
    #[error("its map is not in force")]
    Map,
    /// Its translated port, or the mapping that it would be translated by, is another one's.
    #[error("its translated port is taken")]
    Port,
    /// No more can be written down of packets that belong to another worker than their hash says.
    #[error("there is no room to say whose it is")]
    Claim,
    /// Its source has no room under the limits of its rule.
    #[error("there is no room for its source under a limit")]
    Limit,
}

/// Names of now.
struct Known<'a> {
    ruleset: &'a Ruleset,
    interfaces: &'a Interfaces,
}

impl Names for Known<'_> {
    fn interface(&self, number: u16) -> Option<String> {
        self.interfaces.all.get(usize::from(number)).map(|i| i.name.clone())
    }

    fn interface_number(&self, name: &str) -> Option<u16> {
        self.interfaces.numbers.get(name).copied()
    }

    fn procedure(&self, number: u16) -> Option<String> {
        self.ruleset.procedure_name(number).map(str::to_owned)
    }

    fn procedure_number(&self, name: &str) -> Option<u16> {
        self.ruleset.procedure_number(name)
    }

    fn tag(&self, number: u16) -> Option<String> {
        self.ruleset.tag(number).map(str::to_owned)
    }

    fn tag_number(&self, name: &str) -> Option<u16> {
        Some(self.ruleset.tag_number(Some(name))).filter(|number| *number != u16::MAX)
    }
}

impl Engine {
    /// The connections in some slots of the table, to be saved, and the slot to go on from; None: there are none behind.
    pub fn records(&self, slots: Range<u32>, now: Millis) -> (Vec<ConnectionRecord>, Option<u32>) {
        let Some(ruleset) = &self.ruleset else { return (Vec::new(), None) };
        let names = Known { ruleset, interfaces: &self.interfaces };
        let (page, next) = self.connections.page(slots);
        (page.map(|(_, c)| ConnectionRecord::new(c, &names, now)).collect(), next)
    }

    /// Takes in a connection that was saved: with its port, counted under the limits of its rule whatever they say, and
    /// such that its packets find it. Those with a translation are to be loaded first, because whose the others are may follow
    /// from them. Which calls of PPTP hang on which control connection is not saved: such a call ends when it is not used.
    ///
    /// # Errors
    /// When it belongs to another worker, or cannot be here.
    pub fn load(&mut self, record: &ConnectionRecord, now: Millis) -> Result<ConnId, LoadError> {
        // It is there but for the time of a packet.
        let Some(ruleset) = self.ruleset.clone() else { return Err(LoadError::Rule) };
        let at = record.nat.as_ref().and_then(|nat| nat.interface.as_ref());
        for name in [&record.bound_to, &record.interface].into_iter().flatten().chain(at) {
            self.interfaces.number_of(name, &ruleset);
        }
        let mut connection = record.connection(&Known { ruleset: &ruleset, interfaces: &self.interfaces }, now)?;
        connection.facts = ruleset.facts_now(connection.facts, None).ok_or(LoadError::Rule)?;
        if let Some(nat) = connection.nat() {
            let map = ruleset.map(nat.map).ok_or(LoadError::Map)?;
            if map.is_static || nat.hold.mapped && !map.endpoint_independent || nat.hold.hairpin && !map.hairpin {
                return Err(LoadError::Map);
            }
        }
        if let Some(owner) = self.owner_of(&ruleset, &connection) {
            return Err(LoadError::Elsewhere(owner));
        }
        let keys = [connection.forward(), connection.backward()];
        if keys.into_iter().filter_map(|key| self.connections.lookup(key)).next().is_some() {
            return Err(RecordError::from(Refused::Duplicate).into());
        }
        self.hold_translation(&ruleset, &mut connection)?;
        if !self.held.limited.begun(&self.held.limits, &connection) {
            self.held.release_translation(&connection);
            return Err(LoadError::Limit);
        }
        let (held, copy) = (&mut self.held, connection.clone());
        self.connections.insert(connection, now, &mut |id, c| held.release(id, c)).map_err(|refused| {
            self.held.limited.ended(&self.held.limits, &copy);
            self.held.release_translation(&copy);
            RecordError::from(refused).into()
        })
    }

    /// The worker that packets of a connection come to, if it is another one.
    fn owner_of(&self, ruleset: &Ruleset, connection: &Connection) -> Option<u8> {
        let share = self.held.share.as_ref()?;
        match connection.nat().filter(|nat| nat.hold.mapped) {
            Some(nat) => {
                Some(share.of_end(&inner_of(&nat, connection.forward().proto()))).filter(|owner| *owner != share.me())
            }
            None => {
                let forward = connection.forward();
                share.owner(forward, || self.mapping_owner(ruleset, share, forward))
            }
        }
    }

    /// Takes what a connection's translation needs: all of it, or nothing.
    fn hold_translation(&mut self, ruleset: &Ruleset, connection: &mut Connection) -> Result<(), LoadError> {
        let Some(nat) = connection.nat() else { return Ok(()) };
        let (forward, back) = (*connection.forward(), *connection.backward());
        let proto = forward.proto();
        let (address, port) = nat.translated;
        let of = Translated { address, proto };
        let inner = (nat.map, inner_of(&nat, proto));
        if nat.hold.mapped {
            let (address, port) = if nat.kind == NatKind::Source { nat.translated } else { nat.original };
            if !self.rejoin(inner, End { address, port, proto }) {
                return Err(LoadError::Port);
            }
        } else if nat.port_taken && !self.held.ports.take(of, port) {
            return Err(LoadError::Port);
        }
        let Some(share) = &self.held.share else { return Ok(()) };
        let is_call = nat.hold.call.is_some();
        let claimed = is_call || !self.is_ours_by_itself(ruleset, share, &back);
        let is_claimed = !claimed
            || share.claim(&back) && {
                let both = !is_call || share.claim(&forward);
                if !both {
                    share.disclaim(&back);
                }
                both
            };
        if is_claimed {
            let hold = crate::state::Hold { claimed, ..nat.hold };
            connection.translate(Nat { hold, ..nat });
            return Ok(());
        }
        if nat.hold.mapped {
            self.held.mappings.leave(inner, self.held.now);
        } else if nat.port_taken {
            self.held.ports.release(of, port);
        }
        Err(LoadError::Claim)
    }
}
