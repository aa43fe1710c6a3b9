//! A new version beside the one in force.

use crate::testguest::{Guest, RING, drop_port, drops_port, guest};
use crate::testrouter::{TestRouter, udp};
use crate::{Action, Capabilities, FilterError, FilterManager, FilterSpec, ModuleSpec, Source, State};
use smpnet_abi::verdict::{DROP, PASS};
use std::sync::Arc;

/// A router of two workers; cells 0 to 3 hold UDP packets to ports 5000 to 5003.
fn router() -> (Arc<TestRouter>, FilterManager) {
    let router = TestRouter::new(64, 2);
    (0..4).for_each(|cell| router.pool.put(cell, &udp(5000 + cell as u16, 10)));
    let manager = FilterManager::new(router.clone()).unwrap();
    (router, manager)
}

fn module(wasm: Vec<u8>) -> Source {
    Source::Module(ModuleSpec { allow: Capabilities::all(), ..ModuleSpec::new(wasm) })
}

#[test]
fn a_shadow_is_counted_and_sampled_and_never_acted_upon_until_it_is_promoted() {
    let expr = |text: &str| Source::Expr(text.into());
    // All four pairs of kinds.
    for (old, new) in [
        (module(drops_port(5000)), module(drops_port(5001))),
        (expr("udp port 5000"), module(drops_port(5001))),
        (module(drops_port(5000)), expr("udp port 5001")),
        (expr("udp port 5000"), expr("udp port 5001")),
    ] {
        let (router, manager) = router();
        manager.load(FilterSpec::new("f", old, Action::Drop)).unwrap();
        assert!(matches!(manager.diff("f"), Err(FilterError::NoShadow(_))));
        manager.shadow_load("f", new, None).unwrap();
        for worker in [0, 1] {
            assert_eq!(router.burst(worker, &[0, 1, 2, 3, 0]), [DROP, PASS, PASS, PASS, DROP]);
        }
        let diff = manager.diff("f").unwrap();
        assert_eq!((diff.counts.packets, diff.counts.same, diff.counts.verdict), (10, 4, 6));
        assert_eq!((diff.per_worker[0].verdict, diff.per_worker[1].verdict, diff.fault), (3, 3, None));
        assert_eq!(diff.samples.len(), 6);
        let first = &diff.samples[0];
        assert_eq!((first.live.verdict, first.shadow.verdict, first.worker), ("drop", "pass", 0));
        assert_eq!((first.packet.clone(), first.wire_len), (udp(5000, 10), 38));
        assert_eq!((diff.samples[1].live.verdict, diff.samples[1].shadow.verdict), ("pass", "drop"));
        // Samples are given out once, counts stay.
        let again = manager.diff("f").unwrap();
        assert_eq!((again.samples.len(), again.counts.verdict), (0, 6));
        // What the filter counted is what was done, and nothing of the shadow's.
        let stats = manager.stats("f").unwrap();
        assert_eq!((stats.generation, stats.total.packets, stats.total.dropped), (1, 10, 4));
        let report = manager.promote("f").unwrap();
        assert_eq!(report.generation, 2);
        assert_eq!(router.burst(0, &[0, 1, 2]), [PASS, DROP, PASS]);
        assert!(matches!(manager.diff("f"), Err(FilterError::NoShadow(_))));
        manager.rollback("f").unwrap();
        assert_eq!(router.burst(0, &[0, 1, 2]), [DROP, PASS, PASS]);
    }
}

#[test]
fn a_shadow_may_mark_and_edit_in_its_own_mind_only() {
    let (router, manager) = router();
    let prog = format!(
        "(if {} (then
           (i32.store offset=2880 (i32.const {RING}) (i32.or (local.get $i) (i32.const 0x80000)))
           (i32.store offset=2884 (i32.const {RING}) (i32.const 1))
           (i32.store offset=2888 (i32.const {RING}) (i32.const 9))
           (i32.store offset=44 (i32.const {RING}) (i32.const 12))))
         (if {} (then
           (i32.store offset=2116 (i32.add (i32.const {RING}) (i32.mul (local.get $i) (i32.const 8))) (i32.const 77))
           (return (i32.const 0x100))))
         (i32.const 0)",
        drop_port(5000),
        drop_port(5001)
    );
    let wasm = Guest { manifest: r#","capabilities":["edit","mark"]"#, prog: &prog, ..Guest::default() }.wasm();
    manager.load(FilterSpec::new("f", module(guest("(i32.const 0)")), Action::Drop)).unwrap();
    manager.shadow_load("f", module(wasm), None).unwrap();
    let before = router.pool.bytes(0);
    assert_eq!(router.burst(0, &[0, 1, 2]), [PASS; 3]);
    assert_eq!(router.pool.bytes(0), before);
    router.pool.header(1, |h| assert_eq!(h.mark, 0));
    let diff = manager.diff("f").unwrap();
    assert_eq!((diff.counts.edit, diff.counts.mark, diff.counts.same), (1, 1, 1));
    assert_eq!(diff.samples[0].shadow.bytes.as_ref().map(|b| b[8]), Some(9));
    assert_eq!((diff.samples[0].live.bytes.clone(), diff.samples[1].shadow.mark), (None, 77));
    // Promoted, it does what it said, and agrees with itself.
    manager.promote("f").unwrap();
    assert_eq!(router.burst(0, &[0, 1, 2]), [PASS; 3]);
    assert_eq!(router.pool.bytes(0)[8], 9);
    router.pool.header(1, |h| assert_eq!(h.mark, 77));
}

#[test]
fn a_fault_of_a_shadow_ends_the_shadow_only() {
    for bad in ["(unreachable)", "(loop $l (br $l)) (i32.const 0)", "(i32.const 2)"] {
        let (router, manager) = router();
        manager.load(FilterSpec::new("f", module(drops_port(5000)), Action::Drop)).unwrap();
        manager.shadow_load("f", module(guest(bad)), None).unwrap();
        (0..20).for_each(|_| assert_eq!(router.burst(0, &[0, 1]), [DROP, PASS]));
        let diff = manager.diff("f").unwrap();
        assert!(diff.fault.is_some() && diff.counts.packets == 0, "{diff:?}");
        let status = &manager.list()[0];
        assert_eq!((status.state, status.counts.faults, status.generation), (State::Running, 0, 1));
        manager.shadow_drop("f").unwrap();
        assert!(manager.shadow_drop("f").is_err());
    }
}

#[test]
fn samples_are_bounded_and_what_is_too_much_is_counted() {
    let (router, manager) = router();
    manager.load(FilterSpec::new("f", module(guest("(i32.const 0)")), Action::Drop)).unwrap();
    manager.shadow_load("f", module(guest("(i32.const 1)")), None).unwrap();
    (0..10).for_each(|_| assert_eq!(router.burst(0, &[2; 64]), [PASS; 64]));
    let diff = manager.diff("f").unwrap();
    assert_eq!((diff.counts.verdict, diff.samples.len(), diff.counts.unsampled), (640, 256, 384));
    // A shadow gives way to another one; the filter's end is its end.
    manager.shadow_load("f", module(guest("(i32.const 0)")), None).unwrap();
    router.burst(0, &[2; 64]);
    let diff = manager.diff("f").unwrap();
    assert_eq!((diff.counts.packets, diff.counts.same), (64, 64));
    manager.detach("f").unwrap();
    assert!(matches!(manager.diff("f"), Err(FilterError::NotFound(_))));
}
