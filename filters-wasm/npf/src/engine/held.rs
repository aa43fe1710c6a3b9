//! What connections hold as long as they are there: ports, places under limits, packets that belong here whatever their hash
//! says. All of it is given back in one place.

use super::{
    Share,
    limits::{Limited, Limits},
};
use crate::{
    nat::ports::{PortMap, Translated},
    state::Connection,
};
use std::sync::Arc;

/// What the connections of a worker hold.
#[derive(Debug)]
pub(super) struct Held {
    pub ports: PortMap,
    /// Those of the ruleset, for all workers.
    pub limits: Arc<Limits>,
    /// Which limits the connections here are under.
    pub limited: Limited,
    pub share: Option<Share>,
}

impl Held {
    pub fn new(limits: Arc<Limits>) -> Held {
        Held { ports: PortMap::new(), limits, limited: Limited::default(), share: None }
    }

    /// A connection has ended: its port is free again, its rule has one less, and no worker looks for it here.
    pub fn release(&mut self, connection: &Connection) {
        if let Some(nat) = connection.nat() {
            if nat.port_taken {
                self.ports.release(
                    Translated { address: nat.translated.0, proto: connection.forward().proto() },
                    nat.translated.1,
                );
            }
            if let Some(share) = &self.share {
                share.disclaim(connection.backward());
            }
        }
        self.limited.ended(&self.limits, connection);
    }
}
