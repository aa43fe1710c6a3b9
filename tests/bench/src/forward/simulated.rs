//! A case under callgrind: instructions and cache misses between the ports, those of the ports themselves subtracted.

use super::{Case, Pfil, flows_text, pfil_text, timed};
use crate::{
    callgrind::{self, PerPacket},
    router::{Flows, Router},
};
use smpnet_abi::BURST_MAX;
use std::error::Error;

/// Packets that are counted at least.
const PACKETS: u32 = 1 << 16;

/// Rounds that are counted: whole passes over the flows, so that each weighs the same, or a part of them where they are so many
/// that each is met by chance.
fn rounds(flows: Flows) -> u64 {
    let packets = match flows {
        Flows::Known(n) => n.max(PACKETS.next_multiple_of(n.min(PACKETS))),
        Flows::Random => 1 << 19,
    };
    u64::from(packets.div_ceil(BURST_MAX))
}

/// What a packet takes.
pub fn count(case: Case) -> Result<PerPacket, Box<dyn Error>> {
    let load = case.load;
    let args = [
        ("--size", load.size.to_string()),
        ("--flows", flows_text(load.flows)),
        ("--routes", load.routes.to_string()),
        ("--pfil", pfil_text(case.pfil).to_owned()),
    ];
    let mut line = vec!["forward".to_owned(), "--watched".to_owned()];
    line.extend(args.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    let packets = rounds(load.flows) * u64::from(BURST_MAX);
    match callgrind::watch(&line)?[..] {
        [whole, ports] => Ok(whole.per(packets) - ports.per(packets)),
        ref other => Err(format!("callgrind wrote {} counts where two were asked for", other.len()).into()),
    }
}

/// Forwards under callgrind's eyes.
pub fn be_watched(case: Case) -> Result<(), Box<dyn Error>> {
    let mut router = Router::new(case.load)?;
    if let Pfil::Bpf(layer) = case.pfil {
        router.set_filter(Some(layer))?;
    }
    if let Pfil::Npf(rules) = case.pfil {
        router.set_npf(Some(rules))?;
    }
    if case.pfil == Pfil::Empty {
        router.set_filter(Some(smpnet_wasm::Layer::Inet))?;
        router.set_filter(None)?;
    }
    timed::warm_up(&mut router, case);
    callgrind::start();
    // Simulated caches begin cold.
    router.rounds(rounds(case.load.flows));
    callgrind::zero();
    router.rounds(rounds(case.load.flows));
    callgrind::dump();
    router.pass_by(rounds(case.load.flows));
    callgrind::dump();
    Ok(())
}
