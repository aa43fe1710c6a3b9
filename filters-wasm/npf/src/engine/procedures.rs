//! Procedures: what is done with packets that a rule decided on.

use super::{Engine, Outcome, Ruleset, Share};
use crate::{
    config::{Call, Config},
    packet::Packet,
    procedure::{Meter, RateLimit, blocks, normalize},
    state::Millis,
};
use std::{sync::Arc, time::Duration};

/// What the workers have together of the procedures of a configuration, by places of procedures and of their calls.
#[derive(Debug)]
pub(super) struct Meters {
    list: Vec<Vec<Option<Arc<Meter>>>>,
}

impl Meters {
    pub(super) fn new(config: &Config) -> Meters {
        let meter = |call: &Call| match *call {
            Call::RateLimit { bitrate, normal_burst, .. } => Some(Arc::new(Meter::new(bitrate, normal_burst))),
            _ => None,
        };
        Meters { list: config.procedures.iter().map(|p| p.calls.iter().map(meter).collect()).collect() }
    }
}

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
    /// Of a worker that has a share, or of the only one.
    pub(super) fn new(ruleset: &Ruleset, share: Option<&Share>, now: Millis) -> Procedures {
        let memory = |(call, meter): (&Call, &Option<Arc<Meter>>)| match (call, meter) {
            (Call::RateLimit { bitrate, normal_burst, extended_burst }, Some(meter)) => Memory::Rate(match share {
                Some(share) => RateLimit::part_of(meter, share.workers(), *extended_burst),
                None => RateLimit::new(*bitrate, *normal_burst, *extended_burst, Duration::from_millis(now.0)),
            }),
            (Call::RndBlock(_), _) => Memory::Count(0),
            _ => Memory::Nothing,
        };
        let procedures = ruleset.config.procedures.iter().zip(&ruleset.meters.list);
        Procedures { list: procedures.map(|(p, meters)| p.calls.iter().zip(meters).map(memory).collect()).collect() }
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
