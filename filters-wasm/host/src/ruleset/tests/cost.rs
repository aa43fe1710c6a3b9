//! What a module costs, when asked (`cargo test --release -p smpnet-wasm --lib -- --ignored --nocapture what_a_ruleset_costs`).

use super::*;
use std::{hint::black_box, time::Instant};

#[test]
#[ignore = "prints times, which say nothing on a busy machine"]
fn what_a_ruleset_costs() {
    let engine = RulesetEngine::new().unwrap();
    for rules in [10, 100, 1_000, 10_000] {
        let config = parse("test.conf", &many(rules, false), &NoFiles).unwrap().config;
        let programs = Programs::default();
        let best = |once: &mut dyn FnMut()| {
            let times = (0..5).map(|_| {
                let start = Instant::now();
                once();
                start.elapsed()
            });
            times.min().unwrap_or_default()
        };
        let new = || Plan::new(&config, &programs, &NoInterfaces, &Dynamic::new());
        let plan = new();
        let module = smpnet_npf::wasm::compile(&plan).unwrap();
        let planned = best(&mut || drop(black_box(new())));
        let emitted = best(&mut || drop(black_box(smpnet_npf::wasm::compile(&plan))));
        let verified = best(&mut || verify(&module).unwrap());
        let compiled = best(&mut || drop(black_box(engine.load(&module, Vec::new().into()))));
        let ruleset = engine.compile(&plan).unwrap();
        let instantiated = best(&mut || drop(black_box(ruleset.instantiate())));
        let mut dice = Dice::new(rules);
        let questions: Vec<Question> = (0..4096).map(|_| many_packet(&mut dice)).collect();
        let numbered: Vec<Numbered<'_>> = questions.iter().map(|q| plan.numbered(&q.asked())).collect();
        let (mut instance, tables) = (ruleset.instantiate().unwrap(), Tables::default());
        let by_plan = (0..30).map(|_| {
            let start = Instant::now();
            for numbered in &numbered {
                black_box(plan.decide_numbered(black_box(numbered), &tables, &|_| true, &mut ()));
            }
            start.elapsed()
        });
        let by_plan = by_plan.min().unwrap_or_default() / 4096;
        let by_module = (0..30).map(|_| {
            let start = Instant::now();
            for burst in numbered.chunks(64) {
                instance.facts().iter_mut().zip(burst).for_each(|(facts, asked)| *facts = Facts::of(black_box(asked)));
                black_box(instance.decide(burst.len(), &mut NoHost).unwrap());
            }
            start.elapsed()
        });
        let by_module = by_module.min().unwrap_or_default() / 4096;
        println!(
            "{rules:6} rules: plan {planned:?} ({} KiB), module {emitted:?} ({} KiB), verified {verified:?}, compiled {compiled:?} \
             with that, instance {instantiated:?}; a packet: plan {by_plan:?}, module {by_module:?}",
            plan.bytes() / 1024,
            module.len() / 1024,
        );
    }
}
