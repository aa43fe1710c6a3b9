//! Procedures: what is done with packets that a rule decided on.

use super::{Engine, Outcome, Ruleset};
use crate::{
    config::{Call, Config},
    packet::Packet,
    procedure::{RateLimit, blocks, normalize},
    state::Millis,
};
use std::time::Duration;

/// What procedures remember.
#[derive(Debug, Default)]
pub(super) struct Procedures {
    list: Vec<Vec<Memory>>,
}

#[derive(Debug)]
enum Memory {
    Nothing,
    Rate(RateLimit),
    /// Packets so far.
    Count(u64),
}

impl Procedures {
    pub(super) fn new(config: &Config, now: Millis) -> Procedures {
        let memory = |call: &Call| match *call {
            Call::RateLimit { bitrate, normal_burst, extended_burst } => {
                Memory::Rate(RateLimit::new(bitrate, normal_burst, extended_burst, Duration::from_millis(now.0)))
            }
            Call::RndBlock(_) => Memory::Count(0),
            _ => Memory::Nothing,
        };
        Procedures { list: config.procedures.iter().map(|p| p.calls.iter().map(memory).collect()).collect() }
    }
}

impl Engine {
    /// Runs a procedure, by its place in the configuration, over a packet. False when it drops the packet.
    pub(super) fn procedure(
        &mut self,
        ruleset: &Ruleset,
        procedure: Option<usize>,
        bytes: &mut [u8],
        packet: &Packet,
        outcome: &mut Outcome,
        now: Millis,
    ) -> bool {
        let Some(at) = procedure else { return true };
        let (Some(procedure), Some(memory)) = (ruleset.config.procedures.get(at), self.procedures.list.get_mut(at))
        else {
            return true;
        };
        for ((call, memory), note) in procedure.calls.iter().zip(memory).zip(ruleset.notes(at)) {
            let goes_on = match (call, memory) {
                (Call::Log { .. }, _) => {
                    outcome.logs |= note;
                    true
                }
                (Call::Normalize(how), _) => {
                    normalize(bytes, packet, how, &mut || self.random.next());
                    true
                }
                (Call::Route { .. }, _) => {
                    outcome.route = Some(*note as u16);
                    true
                }
                (Call::RateLimit { .. }, Memory::Rate(limit)) => limit.passes(packet.len, Duration::from_millis(now.0)),
                (Call::RndBlock(which), Memory::Count(n)) => {
                    *n += 1;
                    !blocks(*which, self.random.next(), *n)
                }
                // Modules are run by the daemon, which has them.
                _ => true,
            };
            if !goes_on {
                return false;
            }
        }
        true
    }
}
