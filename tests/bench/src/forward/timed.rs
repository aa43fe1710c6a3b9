//! A case on the clock, and on the processor's own counters where it has some.

use super::{Case, Pfil};
use crate::{
    clock::{self, Stretch, Took},
    counters::CacheMisses,
    report::{self, Figure},
    router::{Flows, Router},
};
use smpnet_abi::BURST_MAX;
use std::error::Error;

/// What an empty head may seem to add, in cycles, on a machine that measures any better than that.
const NOTHING: f64 = 1.0;

/// What was measured of each run.
#[derive(Default)]
struct Runs {
    ns: Vec<f64>,
    cycles: Vec<f64>,
    core_per_tsc: Vec<f64>,
    misses: Vec<f64>,
    /// Without the filter, in cycles, and what the filter added.
    without: Vec<f64>,
    added: Vec<f64>,
}

/// What a packet costs between the ports.
pub fn measure(case: Case, packets: u64, runs: usize) -> Result<Figure, Box<dyn Error>> {
    let mut router = Router::new(case.load)?;
    let rounds = packets.div_ceil(u64::from(BURST_MAX));
    let mut counter = CacheMisses::open();
    let mut r = Runs::default();
    warm_up(&mut router, case);
    for _ in 0..runs {
        let mut without = None;
        if case.pfil != Pfil::None {
            without = Some(forwarded(&mut router, rounds, &mut counter)?);
            take_filter(&mut router, case.pfil)?;
            warm_up(&mut router, case);
        }
        let whole = forwarded(&mut router, rounds, &mut counter)?;
        match case.pfil {
            Pfil::Bpf(_) => router.set_filter(None)?,
            Pfil::Npf(_) => router.set_npf(None)?,
            Pfil::None | Pfil::Empty => {}
        }
        if matches!(case.pfil, Pfil::Bpf(_) | Pfil::Npf(_)) {
            warm_up(&mut router, case);
        }
        let ports = generator(&mut router, rounds, &mut counter);
        r.ns.push(whole.took.ns - ports.took.ns);
        r.cycles.push(whole.took.cycles - ports.took.cycles);
        r.misses.push(whole.misses - ports.misses);
        r.core_per_tsc.extend(clock::core_per_tsc());
        if let Some(without) = without {
            r.without.push(without.took.cycles - ports.took.cycles);
            r.added.push(whole.took.cycles - without.took.cycles);
        }
    }
    Ok(r.figure(case, counter.err()))
}

impl Runs {
    fn figure(mut self, case: Case, no_counter: Option<String>) -> Figure {
        let cycles = report::median(&mut self.cycles);
        let core = (!self.core_per_tsc.is_empty()).then(|| report::median(&mut self.core_per_tsc));
        let noise = quartiles(&mut self.without);
        let mut f = Figure {
            ns_per_packet: Some(report::median(&mut self.ns)),
            cycles_per_packet: Some(cycles),
            core_cycles_per_packet: core.map(|c| cycles * c),
            added_cycles: (!self.added.is_empty()).then(|| report::median(&mut self.added)),
            hardware_cache_misses_per_packet: no_counter.is_none().then(|| report::median(&mut self.misses)),
            note: no_counter.map(|why| format!("no hardware cache misses: {why}")),
            ..Figure::default()
        };
        if case.pfil == Pfil::Empty {
            // What cannot be told from the same path measured twice is nothing.
            f.budget_added_cycles = Some(NOTHING.max(noise));
        }
        f
    }
}

/// How far the middle half of some measurements reaches.
fn quartiles(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values.get(values.len() * part / 4).copied().unwrap_or(0.0);
    at(3) - at(1)
}

/// Puts the filter of a case in; of an empty head also out again.
fn take_filter(router: &mut Router, pfil: Pfil) -> Result<(), Box<dyn Error>> {
    match pfil {
        Pfil::None => Ok(()),
        Pfil::Bpf(layer) => router.set_filter(Some(layer)),
        Pfil::Npf(rules) => router.set_npf(Some(rules)),
        Pfil::Empty => {
            router.set_filter(Some(smpnet_wasm::Layer::Inet))?;
            // It is asked, so that the head is one that was in use.
            router.rounds(100);
            router.set_filter(None)
        }
    }
}

/// Lets every flow pass twice, so that caches are as they will stay; or as many packets as show that they do not help.
pub(super) fn warm_up(router: &mut Router, case: Case) {
    let packets = match case.load.flows {
        Flows::Known(n) => 2 * n,
        Flows::Random => 1 << 19,
    };
    router.rounds(u64::from(packets.div_ceil(BURST_MAX)) + 100);
}

/// What a packet took.
struct Cost {
    took: Took,
    misses: f64,
}

fn stretch(counter: &mut Result<CacheMisses, String>, f: impl FnOnce() -> u64) -> (Cost, u64) {
    let mut misses = || counter.as_mut().map_or(0, CacheMisses::read);
    let before = misses();
    let stretch = Stretch::begin();
    let packets = f();
    let took = stretch.end().per(packets);
    (Cost { took, misses: (misses() - before) as f64 / packets as f64 }, packets)
}

fn forwarded(
    router: &mut Router,
    rounds: u64,
    counter: &mut Result<CacheMisses, String>,
) -> Result<Cost, Box<dyn Error>> {
    let (cost, sent) = stretch(counter, || {
        let before = router.sent();
        router.rounds(rounds);
        router.sent() - before
    });
    if sent != rounds * u64::from(BURST_MAX) {
        let drops = router.stack.drops();
        return Err(format!("{sent} of {} packets were forwarded; {drops:?}", rounds * u64::from(BURST_MAX)).into());
    }
    Ok(cost)
}

/// What the ports cost: the same packets from the source straight into the sink.
fn generator(router: &mut Router, rounds: u64, counter: &mut Result<CacheMisses, String>) -> Cost {
    stretch(counter, || router.pass_by(rounds)).0
}
