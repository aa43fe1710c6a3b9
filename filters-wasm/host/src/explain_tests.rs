use super::*;
use crate::testguest::{Guest, RING, drop_port, drops_port};
use crate::testrouter::{TestRouter, udp};
use crate::{Capabilities, FilterManager, FilterSpec, ModuleSpec, Source};
use smpnet_abi::verdict::{DROP, PASS};
use std::time::Duration;

fn router() -> (Arc<TestRouter>, FilterManager) {
    let router = TestRouter::new(128, 2);
    router.pool.put(0, &udp(5000, 10));
    let manager = FilterManager::new(router.clone()).unwrap();
    (router, manager)
}

fn module(wasm: Vec<u8>) -> Source {
    Source::Module(ModuleSpec { allow: Capabilities::all(), ..ModuleSpec::new(wasm) })
}

fn at(name: &str, priority: i32, source: Source) -> FilterSpec {
    FilterSpec { priority, ..FilterSpec::new(name, source, Action::Drop) }
}

fn explain(manager: &FilterManager, port: u16) -> Vec<FilterDecision> {
    manager.explain(&Question::incoming(Layer::Inet, 1, &udp(port, 10)))
}

/// Counts its packets in a word of its own memory and in a counter, and drops all but the first.
fn counting() -> Vec<u8> {
    let prog = format!(
        "(i32.store (i32.const 64) (i32.add (i32.load (i32.const 64)) (i32.const 1)))
         (i64.store offset=2624 (i32.const {RING}) (i64.add (i64.load offset=2624 (i32.const {RING})) (i64.const 1)))
         (i32.gt_u (i32.load (i32.const 64)) (i32.const 1))"
    );
    Guest { prog: &prog, manifest: r#","counters":["seen"]"#, ..Guest::default() }.wasm()
}

#[test]
fn a_module_with_state_is_asked_as_a_fresh_instance_and_its_running_ones_do_not_notice() {
    let (router, manager) = router();
    manager.load(at("f", 0, module(counting()))).unwrap();
    assert_eq!(router.burst(0, &[0, 0]), [PASS, DROP]);
    let before = (manager.stats("f").unwrap(), manager.show("f").unwrap());
    for _ in 0..5 {
        let all = explain(&manager, 5000);
        assert_eq!((all[0].verdict, all[0].fresh, all[0].matched), ("pass", true, None), "it has seen no packet");
    }
    assert_eq!((manager.stats("f").unwrap(), manager.show("f").unwrap()), before, "nothing was counted or adopted");
    assert_eq!(router.burst(0, &[0]), [DROP], "the running instance knows its packets");
    assert_eq!(router.burst(1, &[0]), [PASS], "and the other worker's has seen none");
}

#[test]
fn workers_judge_while_explain_asks_and_every_packet_is_judged_as_without() {
    let (router, manager) = router();
    manager.load(at("f", 0, module(counting()))).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let asked = std::thread::scope(|s| {
        let worker = s.spawn(|| {
            let mut bursts = 0u64;
            while !stop.load(Relaxed) {
                let passed = router.burst(0, &[0, 0, 0]).iter().filter(|v| **v == PASS).count();
                assert_eq!(passed, usize::from(bursts == 0));
                bursts += 1;
            }
            bursts
        });
        for _ in 0..200 {
            assert_eq!(explain(&manager, 5000)[0].verdict, "pass");
        }
        stop.store(true, Relaxed);
        worker.join().unwrap()
    });
    let stats = manager.stats("f").unwrap();
    assert_eq!((stats.total.packets, stats.total.faults), (3 * asked, 0));
    assert_eq!((stats.counters[0].total, manager.list()[0].generation), (3 * asked, 1));
}

#[test]
fn each_filter_sees_what_the_one_before_made_of_the_packet() {
    let (_router, manager) = router();
    // Turns port 5001 into 5000 (0x1388) and sets the mark 7.
    let prog = format!(
        "(if {} (then
           (i32.store offset=2880 (i32.const {RING}) (i32.or (local.get $i) (i32.const 0x160000)))
           (i32.store offset=2884 (i32.const {RING}) (i32.const 2))
           (i32.store offset=2888 (i32.const {RING}) (i32.const 0x8813))
           (i32.store offset=44 (i32.const {RING}) (i32.const 12))
           (i32.store offset=2116 (i32.add (i32.const {RING}) (i32.mul (local.get $i) (i32.const 8))) (i32.const 7))
           (return (i32.const 0x100))))
         (i32.const 0)",
        drop_port(5001)
    );
    let edits = Guest { prog: &prog, manifest: r#","capabilities":["edit","mark"]"#, ..Guest::default() }.wasm();
    manager.load(at("edits", 1, module(edits))).unwrap();
    // Drops what has the mark 7, which lies at 16 of the packet's description.
    let prog = format!(
        "(i32.eq (i32.load offset=80 (i32.add (i32.const {RING}) (i32.mul (local.get $i) (i32.const 32)))) (i32.const 7))"
    );
    let marked = Guest { prog: &prog, ..Guest::default() }.wasm();
    manager.load(at("block", 2, Source::Expr("udp dst port 5000".into()))).unwrap();
    let said =
        |port| -> Vec<(String, &str)> { explain(&manager, port).into_iter().map(|d| (d.filter, d.verdict)).collect() };
    let named = |all: &[(&str, &'static str)]| all.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect::<Vec<_>>();
    assert_eq!(said(5001), named(&[("edits", "pass"), ("block", "drop")]));
    assert_eq!(said(5002), named(&[("edits", "pass"), ("block", "pass")]));
    let first = &explain(&manager, 5001)[0];
    assert_eq!((first.mark, first.bytes.as_ref().map(|b| b[22..24].to_vec())), (Some(7), Some(vec![0x13, 0x88])));
    manager.swap("block", module(marked), None).unwrap();
    assert_eq!(said(5001), named(&[("edits", "pass"), ("block", "drop")]));
    assert_eq!(said(5002), named(&[("edits", "pass"), ("block", "pass")]));
}

#[test]
fn an_instance_that_fails_when_asked_is_told_and_no_fault_of_the_filter() {
    let (router, manager) = router();
    let prog =
        format!("(if {} (then (unreachable))) (loop $l (br_if $l {})) (i32.const 0)", drop_port(6666), drop_port(6667));
    let wasm = Guest { prog: &prog, ..Guest::default() }.wasm();
    manager.load(FilterSpec { on_fault: OnFault::Detach, ..at("f", 0, module(wasm.clone())) }).unwrap();
    manager.load(FilterSpec { on_fault: OnFault::Drop, ..at("g", 1, module(wasm)) }).unwrap();
    for (port, words) in [(6666, "unreachable"), (6667, "budget")] {
        let all = explain(&manager, port);
        let verdicts: Vec<_> = all.iter().map(|d| d.verdict).collect();
        assert_eq!(verdicts, ["pass", "drop"], "each by its fault policy");
        assert!(all.iter().all(|d| d.fault.as_ref().is_some_and(|f| f.contains(words))), "{all:?}");
    }
    // Somebody would have told the supervisor by now.
    std::thread::sleep(Duration::from_millis(50));
    assert!(manager.list().iter().all(|f| f.state == crate::State::Running && f.counts.faults == 0));
    assert!(manager.show("f").unwrap().faults.is_empty());
    assert_eq!((router.burst(0, &[0]), router.hooks()), (vec![PASS], 2));
}

#[test]
fn a_filter_that_failed_too_often_is_told_by_its_policy() {
    let (router, manager) = router();
    let wasm = Guest { prog: "(unreachable)", ..Guest::default() }.wasm();
    let faults = crate::FaultLimit { max: 1, seconds: 60 };
    manager.load(FilterSpec { on_fault: OnFault::Drop, faults, ..at("f", 0, module(wasm)) }).unwrap();
    router.burst(0, &[0]);
    let began = std::time::Instant::now();
    while manager.list()[0].state != crate::State::Faulted {
        assert!(began.elapsed().as_secs() < 20);
        std::thread::sleep(Duration::from_millis(1));
    }
    let d = &explain(&manager, 5000)[0];
    assert_eq!((d.verdict, d.fresh, d.fault.as_deref()), ("drop", false, Some("it failed too often")));
}

#[test]
fn tables_and_the_configuration_in_force_are_those_of_the_running_instances() {
    let (_router, manager) = router();
    manager.load(at("f", 0, module(drops_port(5000)))).unwrap();
    assert_eq!(explain(&manager, 5000)[0].verdict, "drop");
    manager.swap("f", module(drops_port(5001)), None).unwrap();
    let d = &explain(&manager, 5001)[0];
    assert_eq!((d.verdict, d.generation), ("drop", 2));
    manager.rollback("f").unwrap();
    assert_eq!(explain(&manager, 5001)[0].verdict, "pass");
}
