use super::*;
use crate::testpool::{DATA_OFF, first_byte_is, module};
use crate::testrouter::{TestRouter, asked, udp, udp_frame};
use crate::{GeneratedWasm, Layer, OnFault, State};
use smpnet_abi::verdict::{DROP, PASS};

/// Faults that are too many unless told.
const FAULTS_MAX: u64 = 8;

fn expr(text: &str) -> Source {
    Source::Expr(text.into())
}

/// A router of two workers; cells 0, 1 and 2 hold UDP packets to ports 5000, 5001 and 5002.
fn router() -> (Arc<TestRouter>, FilterManager) {
    let router = TestRouter::new(64, 2);
    for cell in 0..3 {
        router.pool.put(cell, &udp(5000 + cell as u16, 10));
    }
    let manager = FilterManager::new(router.clone()).unwrap();
    (router, manager)
}

fn generated(wasm: Vec<u8>) -> Source {
    Source::Generated(GeneratedWasm(wasm))
}

fn drop_5000() -> FilterSpec {
    FilterSpec::new("block", expr("udp port 5000"), Action::Drop)
}

/// Traps on packets whose first byte is 0x45.
fn trapping(router: &TestRouter) -> Source {
    let text = "(if (i32.eq (i32.load8_u $pool (local.get $off)) (i32.const 0x45)) (then (unreachable))) (i32.const 1)";
    generated(module(router.pool.pages(), text))
}

/// Waits for the supervisor.
fn eventually(what: &str, mut true_: impl FnMut() -> bool) {
    let began = Instant::now();
    while !true_() {
        assert!(began.elapsed().as_secs() < 10, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn a_filter_drops_what_matches_and_counts_it() {
    let (router, manager) = router();
    assert_eq!(manager.load(drop_5000()).unwrap().generation, 1);
    assert_eq!(router.burst(0, &[0, 1, 2, 0]), [DROP, PASS, PASS, DROP]);
    assert_eq!(router.burst(1, &[1]), [PASS]);
    let stats = manager.stats("block").unwrap();
    let worker0 =
        Counts { packets: 4, bytes: 4 * 38, matched: 2, passed: 2, dropped: 2, bursts: 1, ..Counts::default() };
    let worker1 = Counts { packets: 1, bytes: 38, passed: 1, bursts: 1, ..Counts::default() };
    assert_eq!(stats.per_worker, [worker0, worker1, Counts::default()]);
    assert_eq!(manager.show("block").unwrap().adopted, [1, 1]);
}

#[test]
fn a_pass_filter_drops_what_does_not_match() {
    let (router, manager) = router();
    manager.load(FilterSpec { action: Action::Pass, ..drop_5000() }).unwrap();
    assert_eq!(router.burst(0, &[0, 1, 2]), [PASS, DROP, DROP]);
}

#[test]
fn bursts_of_any_length_are_judged() {
    let (router, manager) = router();
    manager.load(drop_5000()).unwrap();
    for n in [0usize, 1, 63, 64, 65, 200] {
        let cells: Vec<u32> = (0..n as u32).map(|i| i % 3).collect();
        let expected: Vec<u32> = cells.iter().map(|c| u32::from(*c == 0)).collect();
        assert_eq!(router.burst(0, &cells), expected, "{n}");
    }
    assert_eq!(manager.stats("block").unwrap().total.packets, 1 + 63 + 64 + 65 + 200);
}

#[test]
fn a_packet_that_another_filter_dropped_is_not_judged_again() {
    let (router, manager) = router();
    manager.load(drop_5000()).unwrap();
    let second = FilterSpec::new("second", expr("udp port 5001"), Action::Drop);
    manager.load(FilterSpec { priority: 1, ..second }).unwrap();
    assert_eq!(router.burst(0, &[0, 1, 2]), [DROP, DROP, PASS]);
    assert_eq!(manager.stats("second").unwrap().total.packets, 2);
}

#[test]
fn a_filter_sees_a_packet_from_where_its_data_begins() {
    let (router, manager) = router();
    let ether = FilterSpec::new("ether", expr("ether[0] = 2 and udp port 5000"), Action::Drop);
    manager.load(FilterSpec { layer: Layer::Ether, ..ether }).unwrap();
    manager.load(FilterSpec::new("inet", expr("udp port 5001"), Action::Drop)).unwrap();
    for (cell, port) in [(10, 5000), (11, 5001), (12, 5002)] {
        router.pool.put(cell, &udp_frame(port, 0));
    }
    assert_eq!(router.burst_at(Layer::Ether, 0, &[10, 11, 12]), [DROP, PASS, PASS]);
    for cell in 10..13 {
        // The stack takes the Ethernet header off; where other headers were does not matter.
        router.pool.header(cell, |h| {
            h.l2_off = 77;
            h.data_off += 14;
            h.data_len -= 14;
            h.pkt_len -= 14;
        });
    }
    assert_eq!(router.burst(0, &[10, 11, 12]), [PASS, DROP, PASS]);
    assert_eq!(manager.stats("ether").unwrap().total.bytes, 3 * 42);
    assert_eq!(manager.stats("inet").unwrap().total.bytes, 3 * 28);
}

#[test]
fn packets_of_several_cells_are_judged_whole() {
    let (router, manager) = router();
    // The ports lie in the second cell, and the last byte in the third.
    let bytes = udp(5000, 100);
    for (cell, range, next) in [(20u32, 0..20, 21), (21, 20..60, 22), (22, 60..128, u32::MAX)] {
        router.pool.put_at(cell, DATA_OFF, &bytes[range]);
        router.pool.header(cell, |h| h.next = next);
    }
    router.pool.header(20, |h| {
        h.pkt_len = 128;
        h.nsegs = 3;
    });
    manager.load(drop_5000()).unwrap();
    manager.load(FilterSpec::new("last", expr("ip[127] = 0xaa and len = 128"), Action::Pass)).unwrap();
    assert_eq!(router.burst(0, &[1, 20, 2]), [DROP, DROP, DROP]);
    assert_eq!(manager.stats("block").unwrap().total.interpreted, 1);
    manager.detach("block").unwrap();
    assert_eq!(router.burst(0, &[1, 20, 2]), [DROP, PASS, DROP]);
    assert_eq!(manager.stats("last").unwrap().total.bytes, 38 * 4 + 128);
    // A chain that never ends and one that leads out of the pool stop somewhere.
    router.pool.header(22, |h| h.next = 22);
    assert_eq!(router.burst(0, &[20]), [PASS]);
    router.pool.header(21, |h| h.next = 1_000_000);
    assert_eq!(router.burst(0, &[20]), [DROP]);
}

#[test]
fn a_cell_outside_of_the_pool_is_judged_by_the_fault_policy() {
    let (router, manager) = router();
    manager.load(FilterSpec { on_fault: OnFault::Drop, ..drop_5000() }).unwrap();
    assert_eq!(router.burst(0, &[1, 64, u32::MAX]), [PASS, DROP, DROP]);
    let total = manager.stats("block").unwrap().total;
    assert_eq!((total.packets, total.passed, total.dropped, total.fault_packets), (3, 1, 2, 2));
}

#[test]
fn a_worker_that_nobody_announced_is_counted_and_judged_by_the_fault_policy() {
    let (router, manager) = router();
    manager.load(drop_5000()).unwrap();
    let filter = manager.inner.lock().entries["block"].filter.clone();
    let mut verdicts = [PASS];
    // SAFETY: no other thread judges.
    unsafe { filter.judge(&asked(Layer::Inet, 7), &[0], &mut verdicts) };
    assert_eq!(verdicts, [PASS]);
    let stats = manager.stats("block").unwrap();
    assert_eq!(stats.per_worker[2].fault_packets, 1);
    assert_eq!(router.burst(0, &[0]), [DROP]);
}

#[test]
fn a_swap_changes_the_verdict_of_the_next_burst() {
    let (router, manager) = router();
    manager.load(drop_5000()).unwrap();
    assert_eq!(router.burst(0, &[0, 1]), [DROP, PASS]);
    let report = manager.swap("block", expr("udp port 5001"), None).unwrap();
    assert_eq!((report.generation, report.workers), (2, 2));
    assert_eq!(router.burst(0, &[0, 1]), [PASS, DROP]);
    manager.swap("block", expr("udp port 5001"), Some(Action::Pass)).unwrap();
    assert_eq!(router.burst(0, &[0, 1]), [DROP, PASS]);
    let stats = manager.stats("block").unwrap();
    let per_generation: Vec<_> = stats.generations.iter().map(|g| (g.generation, g.counts.packets)).collect();
    assert_eq!(per_generation, [(1, 2), (2, 2), (3, 2)]);
    assert_eq!(stats.total.packets, 6);
}

#[test]
fn rollback_goes_back_and_forth() {
    let (router, manager) = router();
    manager.load(drop_5000()).unwrap();
    assert!(matches!(manager.rollback("block"), Err(FilterError::NoPrevious(_))));
    manager.swap("block", expr("udp port 5001"), Some(Action::Pass)).unwrap();
    assert_eq!(router.burst(0, &[0, 1]), [DROP, PASS]);
    let report = manager.rollback("block").unwrap();
    assert_eq!(report.generation, 3);
    assert_eq!(router.burst(0, &[0, 1]), [DROP, PASS]);
    assert_eq!(router.burst(0, &[0, 2]), [DROP, PASS]);
    let detail = manager.show("block").unwrap();
    assert_eq!((detail.restored_from, detail.previous), (Some(1), Some(2)));
    assert_eq!(detail.status.text, "udp port 5000");
    manager.rollback("block").unwrap();
    assert_eq!(router.burst(0, &[0, 2]), [DROP, DROP]);
}

#[test]
fn a_refused_operation_leaves_everything_as_it_was() {
    let (router, manager) = router();
    manager.load(drop_5000()).unwrap();
    let before = manager.list();
    let errors = [
        manager.load(drop_5000()).unwrap_err(),
        manager.load(FilterSpec { name: "a b".into(), ..drop_5000() }).unwrap_err(),
        manager.load(FilterSpec { name: String::new(), ..drop_5000() }).unwrap_err(),
        manager.load(FilterSpec { name: "x".repeat(64), ..drop_5000() }).unwrap_err(),
        manager.load(FilterSpec { name: "n".into(), source: expr("udp prot 1"), ..drop_5000() }).unwrap_err(),
        manager.load(FilterSpec { name: "n".into(), source: generated(vec![1]), ..drop_5000() }).unwrap_err(),
        manager.swap("block", expr("no such thing"), None).unwrap_err(),
        manager.swap("block", generated(b"\0asm\x01\0\0\0".to_vec()), None).unwrap_err(),
        manager.swap("blok", expr("udp"), None).unwrap_err(),
        manager.rollback("blok").unwrap_err(),
        manager.detach("blok").unwrap_err(),
        manager.show("blok").unwrap_err(),
    ];
    for e in errors {
        let text = e.to_string();
        assert!(!text.is_empty() && !text.contains('\n'), "{text}");
    }
    *router.refuse.lock().unwrap() = Some("interface lan7 is not there".into());
    let e = manager.load(FilterSpec { name: "n".into(), ..drop_5000() }).unwrap_err();
    assert_eq!(e.to_string(), "filter n: cannot attach: interface lan7 is not there");
    assert_eq!(manager.list(), before);
    assert_eq!(router.burst(0, &[0, 1]), [DROP, PASS]);
}

#[test]
fn a_detached_filter_judges_no_more_and_leaves_nothing_behind() {
    let (router, manager) = router();
    manager.load(drop_5000()).unwrap();
    let filter = Arc::downgrade(&manager.inner.lock().entries["block"].filter);
    router.burst(0, &[0]);
    manager.detach("block").unwrap();
    assert_eq!(router.burst(0, &[0]), [PASS]);
    assert!(manager.list().is_empty());
    eventually("the filter is freed", || filter.strong_count() == 0);
    // Its name is free again.
    manager.load(drop_5000()).unwrap();
    drop(manager);
    assert_eq!(router.hooks(), 0);
}

#[test]
fn a_worker_that_sleeps_does_not_hold_up_a_swap_and_adopts_when_it_wakes() {
    let (router, manager) = router();
    manager.load(drop_5000()).unwrap();
    router.burst(0, &[0]);
    for port in 0..20 {
        manager.swap("block", expr(&format!("udp port {port}")), None).unwrap();
        router.burst(1, &[0]);
    }
    assert_eq!(manager.show("block").unwrap().adopted, [1, 21]);
    manager.swap("block", expr("udp port 5001"), None).unwrap();
    assert_eq!(router.burst(0, &[0, 1]), [PASS, DROP]);
    assert_eq!(manager.show("block").unwrap().adopted, [22, 21]);
}

#[test]
fn before_a_worker_has_its_instance_the_interpreter_judges() {
    let (router, manager) = router();
    manager.load(drop_5000()).unwrap();
    let filter = manager.inner.lock().entries["block"].filter.clone();
    // What a control thread does for a moment between two swaps.
    let taken: Vec<_> = filter.slots().map(|s| s.offer_nothing()).collect();
    assert_eq!(router.burst(0, &[0, 1]), [DROP, PASS]);
    let total = manager.stats("block").unwrap().total;
    assert_eq!((total.packets, total.interpreted, total.matched), (2, 2, 1));
    drop(taken);
}

#[test]
fn faults_are_judged_by_policy_and_bring_the_previous_generation_back() {
    for (on_fault, verdict) in [(OnFault::Pass, PASS), (OnFault::Drop, DROP)] {
        let (router, manager) = router();
        manager.load(FilterSpec { on_fault, ..drop_5000() }).unwrap();
        manager.swap("block", trapping(&router), None).unwrap();
        for _ in 0..FAULTS_MAX - 1 {
            assert_eq!(router.burst(0, &[0, 1]), [verdict, verdict]);
        }
        let detail = manager.show("block").unwrap();
        assert_eq!((detail.status.generation, detail.status.state), (2, State::Running));
        assert!(detail.last_fault.unwrap().contains("unreachable"));
        assert_eq!(router.burst(0, &[0, 1]), [verdict, verdict]);
        eventually("generation 1 is restored", || manager.list()[0].generation == 3);
        assert_eq!(router.burst(0, &[0, 1]), [DROP, PASS]);
        let detail = manager.show("block").unwrap();
        assert_eq!((detail.restored_from, detail.previous), (Some(1), None));
        let total = manager.stats("block").unwrap().total;
        assert_eq!(total.faults, FAULTS_MAX);
        assert_eq!((total.packets, total.fault_packets), (2 * FAULTS_MAX + 2, 2 * FAULTS_MAX));
        assert_eq!(total.passed + total.dropped, total.packets);
    }
}

#[test]
fn a_failing_filter_without_a_previous_generation_leaves_its_hook_or_drops() {
    let (router, manager) = router();
    manager.load(FilterSpec { source: trapping(&router), ..drop_5000() }).unwrap();
    (0..FAULTS_MAX).for_each(|_| assert_eq!(router.burst(0, &[0]), [PASS]));
    eventually("it is detached", || manager.list()[0].state == State::Detached);
    assert_eq!(router.hooks(), 0);
    *router.refuse.lock().unwrap() = Some("the interface is gone".into());
    manager.swap("block", expr("udp port 5000"), None).unwrap_err();
    assert_eq!((manager.list()[0].state, manager.list()[0].generation), (State::Detached, 1));
    // New code puts it back.
    manager.swap("block", expr("udp port 5000"), None).unwrap();
    assert_eq!((manager.list()[0].state, router.burst(0, &[0, 1])), (State::Running, vec![DROP, PASS]));

    let closed = FilterSpec { name: "closed".into(), source: trapping(&router), ..drop_5000() };
    manager.load(FilterSpec { on_fault: OnFault::Drop, ..closed }).unwrap();
    (0..FAULTS_MAX + 5).for_each(|_| assert_eq!(router.burst(0, &[1]), [DROP]));
    let status = &manager.list()[1];
    assert_eq!((status.state, status.counts.faults), (State::Faulted, FAULTS_MAX));
}

#[test]
fn a_generated_module_without_a_program_judges_by_the_first_cell() {
    let (router, manager) = router();
    let source = generated(module(router.pool.pages(), &first_byte_is(0x45)));
    manager.load(FilterSpec { source, ..drop_5000() }).unwrap();
    router.pool.put(5, &[0x60]);
    router.pool.header(5, |h| h.next = 0);
    assert_eq!(router.burst(0, &[0, 5]), [DROP, PASS]);
    assert_eq!(manager.show("block").unwrap().program, Vec::<String>::new());
}

#[test]
fn explain_asks_the_filters_of_a_place_in_order() {
    let (_router, manager) = router();
    let at = |name: &str, text: &str, priority, ifindex| FilterSpec {
        priority,
        ifindex,
        ..FilterSpec::new(name, expr(text), Action::Drop)
    };
    manager.load(at("second", "udp port 5001", 30, None)).unwrap();
    manager.load(at("first", "udp port 5000", 10, None)).unwrap();
    manager.load(at("third", "udp port 5002", 20, Some(7))).unwrap();
    let ask = |ifindex, port| -> Vec<(String, &str)> {
        let all = manager.explain(&Question::incoming(Layer::Inet, ifindex, &udp(port, 0)));
        all.into_iter().map(|d| (d.filter, d.verdict)).collect()
    };
    let said = |list: &[(&str, &'static str)]| list.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect::<Vec<_>>();
    assert_eq!(ask(7, 5001), said(&[("first", "pass"), ("second", "drop")]));
    assert_eq!(ask(7, 5002), said(&[("first", "pass"), ("second", "pass"), ("third", "drop")]));
    assert_eq!(ask(8, 5002), said(&[("first", "pass"), ("second", "pass")]));
    let packet = udp(5000, 0);
    assert!(manager.explain(&Question { out: true, ..Question::incoming(Layer::Inet, 7, &packet) }).is_empty());
    assert!(manager.explain(&Question::incoming(Layer::Ether, 7, &packet)).is_empty());
    assert_eq!(manager.stats("first").unwrap().total.packets, 0);
}

#[test]
fn show_names_the_program_and_its_hash() {
    let (_router, manager) = router();
    let report = manager.load(drop_5000()).unwrap();
    let detail = manager.show("block").unwrap();
    assert_eq!(detail.sha256, report.sha256);
    assert_eq!(detail.sha256.len(), 64);
    assert!(detail.program.len() > 3 && detail.wasm_bytes > 100 && detail.created_unix_ms > 1_600_000_000_000);
    // The same program compiles to the same module.
    assert_eq!(manager.swap("block", expr("udp port 5000"), None).unwrap().sha256, report.sha256);
}
