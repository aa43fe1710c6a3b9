//! Swaps under load.

use super::*;
use std::sync::atomic::{AtomicBool, Ordering};

fn ruleset(engine: &RulesetEngine, rules: u64) -> Ruleset {
    let config = parse("test.conf", &many(rules, false), &NoFiles).unwrap().config;
    engine.compile(&Plan::new(&config, &Programs::default(), &NoInterfaces, &Dynamic::new())).unwrap()
}

#[test]
fn a_worker_goes_over_between_two_bursts_and_each_burst_is_of_one_generation() {
    let engine = RulesetEngine::new().unwrap();
    // What the last rule decides tells which of them it was: its number.
    let made = [2, 70].map(|rules| ruleset(&engine, rules));
    let rulesets = Rulesets::new(2);
    let stop = &AtomicBool::new(false);
    let seen: Vec<u64> = std::thread::scope(|scope| {
        let workers = [0, 1].map(|n| {
            let mut worker = rulesets.worker(n).unwrap();
            assert!(worker.current().is_none());
            scope.spawn(move || {
                let (mut last, mut changes) = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    let Some((generation, instance)) = worker.current() else { continue };
                    instance.facts().fill(Facts::default());
                    let rule = if generation % 2 == 1 { 1 } else { 69 };
                    assert_eq!(instance.decide(64, &mut NoHost).unwrap(), [rule; 64]);
                    assert!(generation >= last);
                    changes += u64::from(generation != last);
                    last = generation;
                }
                changes
            })
        });
        for generation in 1..=100 {
            assert_eq!(rulesets.publish(&made[1 - generation as usize % 2]).unwrap(), generation);
            while generation % 10 == 0 && rulesets.adopted() != generation {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
        rulesets.reap();
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    assert!(seen.iter().all(|changes| *changes >= 10), "{seen:?}");
    assert!(rulesets.worker(2).is_none());
}
