//! Rules as a module: what a decision costs in bursts, and how long it takes until the module of a changed configuration runs.

use super::median_of;
use crate::{
    clock::Stretch,
    reading::{Budget, Reading},
};
use smpnet_npf::{
    plan::{Numbered, Plan},
    wasm::{BURST, Facts},
};
use smpnet_wasm::ruleset::{NoHost, RulesetEngine};
use std::{error::Error, hint::black_box};

/// Milliseconds from 1,000 rules to an instance that runs.
const LIVE_MS: f64 = 50.0;

/// Asks the module of a plan about packets in bursts; `by_plan` is what the plan takes for one. `make` makes the plan anew.
pub fn readings(
    runs: u32,
    n: u32,
    plan: &Plan,
    asked: &[Numbered<'_>],
    make: impl Fn() -> Plan,
) -> Result<Vec<Reading>, Box<dyn Error>> {
    let engine = RulesetEngine::new()?;
    let mut instance = engine.compile(plan)?.instantiate()?;
    let mut failed = None;
    let mut decide = |burst: &[Numbered<'_>]| {
        instance.facts().iter_mut().zip(burst).for_each(|(facts, asked)| *facts = Facts::of(asked));
        match instance.decide(burst.len(), &mut NoHost) {
            Ok(rules) => _ = black_box(rules),
            Err(trap) => failed = Some(trap),
        }
    };
    let rounds = 16;
    let cycles = median_of(runs, || {
        let stretch = Stretch::begin();
        for _ in 0..rounds {
            black_box(asked).chunks(BURST as usize).for_each(&mut decide);
        }
        stretch.end().per(rounds * asked.len() as u64).cycles
    });
    if let Some(trap) = failed {
        return Err(trap.into());
    }
    let by_plan = median_of(runs, || {
        let stretch = Stretch::begin();
        for _ in 0..rounds {
            let tables = smpnet_npf::tables::Tables::default();
            asked.iter().for_each(|a| _ = black_box(plan.decide_numbered(a, &tables, &|_| true, &mut ())));
        }
        stretch.end().per(rounds * asked.len() as u64).cycles
    });
    let mut failed = None;
    let live_ms = median_of(runs, || {
        let stretch = Stretch::begin();
        let made = engine.compile(&make()).and_then(|ruleset| ruleset.instantiate());
        let ms = stretch.end().ns / 1e6;
        failed = made.err();
        ms
    });
    if let Some(e) = failed {
        return Err(e.into());
    }
    let decision =
        Reading::new("npf", format!("{n} rules, random traffic, as a module in bursts of 64"), cycles, "cycles");
    let live = Reading::new("npf", format!("{n} rules, from the configuration to a module that runs"), live_ms, "ms");
    Ok(vec![
        decision.beside("plan, one by one", Some(by_plan)),
        if n == 1000 { live.budget(Budget::AtMost(LIVE_MS)) } else { live },
    ])
}
