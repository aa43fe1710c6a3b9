//! What a module costs, when asked (`cargo test --release -p smpnet-wasm --lib -- --ignored --nocapture what_a_ruleset_costs`).

use super::*;
use std::{hint::black_box, time::Instant};

/// Rules for networks and ports of IPv4 that few random packets meet, all final.
fn sparse(rules: u64) -> String {
    let mut dice = Dice::new(rules);
    let mut text = String::from("group default {\n");
    for _ in 1..rules {
        let [a, b, c] = [16, 256, 256].map(|n| dice.below(n));
        let (proto, port) = (dice.pick(&["tcp", "udp"]), dice.below(65536));
        text += &format!("pass in final proto {proto} from 10.{a}.{b}.0/24 to 172.16.{c}.0/24 port {port}\n");
    }
    text + "block in final all\n}\n"
}

fn sparse_packet(dice: &mut Dice) -> Question {
    let [a, b, c, d, e] = [16, 256, 256, 256, 256].map(|n| dice.below(n));
    let (src, dst) = (format!("10.{a}.{b}.{c}"), format!("172.16.{d}.{e}"));
    Question::new(udp((&src, 4000), (&dst, dice.below(65536) as u16), b""))
}

#[test]
#[ignore = "prints times, which say nothing on a busy machine"]
fn what_a_ruleset_costs() {
    let engine = RulesetEngine::new().unwrap();
    for (rules, is_sparse) in [10, 100, 1_000, 10_000].into_iter().flat_map(|n| [(n, false), (n, true)]) {
        let text = if is_sparse { sparse(rules) } else { many(rules, false) };
        let config = parse("test.conf", &text, &NoFiles).unwrap().config;
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
        let questions: Vec<Question> =
            (0..4096).map(|_| if is_sparse { sparse_packet(&mut dice) } else { many_packet(&mut dice) }).collect();
        let numbered: Vec<Numbered<'_>> = questions.iter().map(|q| plan.numbered(&q.asked())).collect();
        let (mut instance, tables) = (ruleset.instantiate().unwrap(), Tables::default());
        let by_plan = (0..30).map(|_| {
            let start = Instant::now();
            for numbered in &numbered {
                black_box(plan.decide_numbered(black_box(numbered), &tables, &|_| true, &mut ()));
            }
            start.elapsed()
        });
        let by_plan = by_plan.min().unwrap_or_default().as_nanos() as f64 / 4096.0;
        let by_module = (0..30).map(|_| {
            let start = Instant::now();
            for burst in numbered.chunks(64) {
                instance.facts().iter_mut().zip(burst).for_each(|(facts, asked)| *facts = Facts::of(black_box(asked)));
                black_box(instance.decide(burst.len(), &mut NoHost).unwrap());
            }
            start.elapsed()
        });
        let by_module = by_module.min().unwrap_or_default().as_nanos() as f64 / 4096.0;
        println!(
            "{rules:6} rules{}: plan {planned:?} ({} KiB), module {emitted:?} ({} KiB), verified {verified:?}, compiled {compiled:?} \
             with that, instance {instantiated:?}; a packet: plan {by_plan:.1} ns, module {by_module:.1} ns",
            if is_sparse { ", few met" } else { "" },
            plan.bytes() / 1024,
            module.len() / 1024,
        );
    }
}
