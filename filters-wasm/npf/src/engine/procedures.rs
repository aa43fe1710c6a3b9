//! Procedures: what is done with packets that a rule decided on.

use super::{Engine, Outcome};
use crate::{
    config::{Call, Config},
    packet::Packet,
    procedure::{RateLimit, blocks, normalize},
    state::Millis,
};
use std::time::Duration;

/// The log of rules that say `log`.
pub(super) const DEFAULT_LOG: &str = "npflog0";

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
    /// Runs a procedure over a packet. False when it drops the packet.
    pub(super) fn procedure(
        &mut self,
        config: &Config,
        number: Option<usize>,
        bytes: &mut [u8],
        packet: &Packet,
        outcome: &mut Outcome,
        now: Millis,
    ) -> bool {
        let Some(number) = number else { return true };
        let (Some(procedure), Some(memory)) = (config.procedures.get(number), self.procedures.list.get_mut(number))
        else {
            return true;
        };
        for (call, memory) in procedure.calls.iter().zip(memory) {
            let goes_on = match (call, memory) {
                (Call::Log { interface }, _) => {
                    outcome.logs.push(interface.clone());
                    true
                }
                (Call::Normalize(how), _) => {
                    normalize(bytes, packet, how, &mut || self.random.next());
                    true
                }
                (Call::Route { interface }, _) => {
                    outcome.route = Some(interface.clone());
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
