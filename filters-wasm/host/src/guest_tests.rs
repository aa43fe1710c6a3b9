//! Modules of others on the hooks of a router.

use crate::testguest::{Guest, RING, drop_port, drops_port, guest};
use crate::testpool::DATA_OFF;
use crate::testrouter::{TestRouter, udp, udp_frame};
use crate::{
    Action, Capabilities, Capability, FaultLimit, FilterError, FilterManager, FilterSpec, Layer, ModuleSpec, OnFault,
    Source, State, TableKey, TableKind,
};
use smpnet_abi::verdict::{DROP, PASS};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A router of two workers; cells 0, 1 and 2 hold UDP packets to ports 5000, 5001 and 5002.
fn router() -> (Arc<TestRouter>, FilterManager) {
    let router = TestRouter::new(128, 2);
    for cell in 0..3 {
        router.pool.put(cell, &udp(5000 + cell as u16, 10));
    }
    let manager = FilterManager::new(router.clone()).unwrap();
    (router, manager)
}

fn module(wasm: Vec<u8>) -> Source {
    Source::Module(ModuleSpec::new(wasm))
}

fn allowing(wasm: Vec<u8>, allow: &[Capability]) -> Source {
    Source::Module(ModuleSpec { allow: allow.iter().copied().collect(), ..ModuleSpec::new(wasm) })
}

fn spec(source: Source) -> FilterSpec {
    FilterSpec::new("f", source, Action::Drop)
}

fn eventually(what: &str, mut true_: impl FnMut() -> bool) {
    let began = Instant::now();
    while !true_() {
        assert!(began.elapsed().as_secs() < 20, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn refusal(source: Source) -> String {
    let (_router, manager) = router();
    let text = manager.load(spec(source)).unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn a_module_of_somebody_else_judges_copies_of_packets_and_is_swapped_and_rolled_back() {
    let (router, manager) = router();
    let report = manager.load(spec(module(drops_port(5000)))).unwrap();
    assert_eq!((report.generation, report.workers), (1, 2));
    assert_eq!(router.burst(0, &[0, 1, 2, 0]), [DROP, PASS, PASS, DROP]);
    manager.swap("f", module(drops_port(5001)), None).unwrap();
    assert_eq!(router.burst(0, &[0, 1, 2, 0]), [PASS, DROP, PASS, PASS]);
    manager.rollback("f").unwrap();
    assert_eq!(router.burst(1, &[0, 1]), [DROP, PASS]);
    // From a module to an expression and back.
    manager.swap("f", Source::Expr("udp port 5002".into()), None).unwrap();
    assert_eq!(router.burst(0, &[0, 1, 2]), [PASS, PASS, DROP]);
    manager.rollback("f").unwrap();
    assert_eq!(router.burst(0, &[0, 1, 2]), [DROP, PASS, PASS]);
    let stats = manager.stats("f").unwrap();
    let per_generation: Vec<_> = stats.generations.iter().map(|g| g.counts.packets).collect();
    assert_eq!(per_generation, [4, 4, 2, 3, 3]);
    let detail = manager.show("f").unwrap();
    assert_eq!(detail.status.text, "module test 0.1");
    assert_eq!(detail.module.unwrap().info.manifest.window, 128);
}

#[test]
fn the_host_says_of_each_packet_what_it_knows() {
    let (router, manager) = router();
    // Everything that the host wrote, compared in the module: a difference is its place in the table below.
    let field = |n: usize, load: &str, off: u32, value: u32| {
        format!(
            "(if (i32.ne ({load} offset={off} (i32.const {RING})) (i32.const {value})) (then (unreachable (;{n};))))"
        )
    };
    let at = 64;
    let checks: String = [
        field(1, "i32.load", 0, 2),
        field(2, "i32.load", 4, 1),
        field(3, "i32.load", 8, 1),
        field(4, "i32.load", 12, 1),
        field(5, "i32.load", 24, 1),
        field(6, "i32.load", 32, 1),
        field(7, "i32.load", 36, 2),
        field(8, "i32.load", 40, 128),
        field(9, "i32.load", at, RING + 8192),
        field(10, "i32.load16_u", at + 4, 128),
        field(11, "i32.load16_u", at + 6, 1 << 2 | 1 << 3 | 1 << 4 | 1),
        field(12, "i32.load", at + 8, 14 + 228),
        field(13, "i32.load", at + 12, 77),
        field(14, "i32.load", at + 16, 9),
        field(15, "i32.load", at + 20, 3),
        field(16, "i32.load16_u", at + 24, 14),
        field(17, "i32.load16_u", at + 26, 34),
        field(18, "i32.load16_u", at + 28, 0x800),
        field(19, "i32.load16_u", at + 30, 0x123),
        field(20, "i32.load", at + 32, RING + 8192 + 128),
        field(21, "i32.load16_u", at + 32 + 4, 60),
        field(22, "i32.load16_u", at + 32 + 6, 0),
    ]
    .concat();
    let wasm = guest(&format!("{checks} (i32.const 0)"));
    router.pool.put(4, &udp_frame(5000, 200));
    router.pool.header(4, |h| {
        h.flags = smpnet_abi::pkt_flags::HASH | smpnet_abi::pkt_flags::VLAN | smpnet_abi::pkt_flags::BCAST;
        (h.flow_hash, h.mark, h.rcvif, h.vlan_tci) = (77, 9, 3, 0x123);
    });
    router.pool.put(5, &udp_frame(5000, 18));
    manager.load(FilterSpec { layer: Layer::Ether, ..spec(module(wasm)) }).unwrap();
    assert_eq!(router.burst_at(Layer::Ether, 1, &[4, 5]), [PASS, PASS]);
    eventually("the supervisor looked", || manager.show("f").unwrap().adopted[1] == 1);
    assert_eq!(manager.show("f").unwrap().last_fault, None);
    assert_eq!(manager.stats("f").unwrap().total.faults, 0);
}

#[test]
fn windows_of_packets_in_several_cells_are_gathered() {
    let (router, manager) = router();
    let bytes = udp(5000, 100);
    for (cell, range, next) in [(20u32, 0..21, 21), (21, 21..60, 22), (22, 60..128, u32::MAX)] {
        router.pool.put_at(cell, DATA_OFF, &bytes[range]);
        router.pool.header(cell, |h| h.next = next);
    }
    router.pool.header(20, |h| (h.pkt_len, h.nsegs) = (128, 3));
    let last = "(i32.eq (i32.load8_u offset=127 (local.get $data)) (i32.const 0xaa))";
    let both = format!("(i32.and {} (i32.and {last} (i32.eq (local.get $cap) (i32.const 128))))", drop_port(5000));
    manager.load(spec(module(guest(&both)))).unwrap();
    assert_eq!(router.burst(0, &[1, 20, 2]), [PASS, DROP, PASS]);
}

#[test]
fn marks_rejects_and_edits_need_their_capabilities() {
    for (prog, manifest, capability, check) in [
        ("(i32.const 0x100)", r#","capabilities":["mark"]"#, Capability::Mark, "marked"),
        ("(i32.const 3)", r#","capabilities":["reject"]"#, Capability::Reject, "rejected"),
    ] {
        let wasm = |manifest| Guest { manifest, prog, ..Guest::default() }.wasm();
        // Not in the manifest: a fault. In the manifest, not granted: refused. Granted: done.
        let (router, manager) = router();
        manager.load(spec(allowing(wasm(""), &Capability::ALL))).unwrap();
        assert_eq!(router.burst(0, &[0]), [PASS]);
        eventually("it faulted", || manager.show("f").unwrap().last_fault.is_some());
        let fault = manager.show("f").unwrap().last_fault.unwrap();
        assert!(fault.contains(&format!("without the capability {capability}")), "{fault}");
        let refused = refusal(module(wasm(manifest)));
        assert!(refused.contains(&format!("asks for {capability}, which is not granted")), "{refused}");
        manager.swap("f", allowing(wasm(manifest), &[capability]), None).unwrap();
        let verdict = router.burst(0, &[0])[0];
        assert_eq!(verdict, if check == "rejected" { 3 } else { PASS });
        let total = manager.stats("f").unwrap().total;
        assert_eq!((total.marked, total.rejected), if check == "marked" { (1, 0) } else { (0, 1) });
    }
}

#[test]
fn patches_change_packets_and_their_checksums() {
    let (router, manager) = router();
    // Sets the destination address to 192.168.7.1 in packets to port 5000, header checksum included.
    let prog = format!(
        "(if {} (then
           (i32.store offset=2880 (i32.const {RING}) (i32.or (i32.or (local.get $i) (i32.const 0x0300)) (i32.const 0x100000)))
           (i32.store offset=2884 (i32.const {RING}) (i32.const 4))
           (i32.store offset=2888 (i32.const {RING}) (i32.const 0x0107a8c0))
           (i32.store offset=44 (i32.const {RING}) (i32.const 12))))
         (i32.const 0)",
        drop_port(5000)
    );
    let wasm = Guest { manifest: r#","capabilities":["edit"]"#, prog: &prog, ..Guest::default() }.wasm();
    manager.load(spec(allowing(wasm, &[Capability::Edit]))).unwrap();
    let right = |bytes: &[u8]| smpnet_stack::wire::checksum::checksum(&bytes[..20]) == 0;
    let mut packet = udp(5000, 10);
    let sum = smpnet_stack::wire::checksum::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    assert!(right(&packet));
    router.pool.put(7, &packet);
    // The address lies on the border of two cells.
    router.pool.put_at(8, DATA_OFF, &packet[..18]);
    router.pool.put_at(9, DATA_OFF, &packet[18..]);
    router.pool.header(8, |h| (h.pkt_len, h.next, h.nsegs) = (38, 9, 2));
    for cell in [7, 8] {
        assert_eq!(router.burst(0, &[1, cell, 2]), [PASS, PASS, PASS]);
    }
    let [whole, head, tail] = [7, 8, 9].map(|c| router.pool.bytes(c));
    assert!(whole[16..20] == [192, 168, 7, 1] && right(&whole));
    assert_eq!([head, tail].concat(), whole);
    assert_eq!(manager.stats("f").unwrap().total.edited, 2);
    assert_eq!(router.pool.bytes(1), udp(5001, 10));
}

#[test]
fn a_wrong_patch_is_a_fault_and_changes_nothing() {
    let (router, manager) = router();
    for (packet, off, len, patch_len, says) in [
        (0u32, 125, 4, 12, "ends at 129, its window at 38"),
        (3, 0, 4, 12, "a patch for packet 3, there are 1"),
        (0, 0, 400, 12, "a patch of 400 bytes where 4 are left"),
        (0, 0, 4, 5313, "5313 bytes of patches"),
        (0, 0, 4, 15, "3 bytes behind the last patch"),
        (0x400, 0, 4, 12, "unknown flags 0x4"),
    ] {
        let prog = format!(
            "(i32.store offset=2880 (i32.const {RING}) (i32.const {}))
             (i32.store offset=2884 (i32.const {RING}) (i32.const {len}))
             (i32.store offset=44 (i32.const {RING}) (i32.const {patch_len})) (i32.const 0)",
            packet | off << 16
        );
        let wasm = Guest { manifest: r#","capabilities":["edit"]"#, prog: &prog, ..Guest::default() }.wasm();
        let source = allowing(wasm, &[Capability::Edit]);
        let name = format!("p{packet}-{off}-{len}-{patch_len}");
        manager.load(FilterSpec { name: name.clone(), ..spec(source) }).unwrap();
        assert_eq!(router.burst(0, &[1]), [PASS]);
        eventually("it faulted", || manager.show(&name).unwrap().last_fault.is_some());
        let fault = manager.show(&name).unwrap().last_fault.unwrap();
        assert!(fault.contains(says), "{fault}");
        manager.detach(&name).unwrap();
        assert_eq!(router.pool.bytes(1), udp(5001, 10));
    }
}

#[test]
fn modules_count_and_log_at_a_limited_rate() {
    let (router, manager) = router();
    let wasm = Guest {
        manifest: r#","counters":["seen","twice"]"#,
        imports: r#"(import "smpnet" "log" (func $log (param i32 i32 i32)))"#,
        items: "(data (i32.const 16) \"a line\\0awith \\1b[31mcolour\")",
        prog: &format!(
            "(call $log (i32.const 2) (i32.const 16) (i32.const 23))
             (i64.store offset=2624 (i32.const {RING}) (i64.add (i64.load offset=2624 (i32.const {RING})) (i64.const 1)))
             (i64.store offset=2632 (i32.const {RING}) (i64.add (i64.load offset=2632 (i32.const {RING})) (i64.const 2)))
             (i32.const 0)"
        ),
    }
    .wasm();
    manager.load(spec(module(wasm.clone()))).unwrap();
    (0..5).for_each(|_| drop(router.burst(0, &[0, 1, 2])));
    router.burst(1, &[0]);
    manager.swap("f", module(wasm), None).unwrap();
    router.burst(1, &[0]);
    let counters = manager.stats("f").unwrap().counters;
    assert_eq!(counters[0].per_worker, [15, 2]);
    assert_eq!((counters[1].name.as_str(), counters[1].total), ("twice", 34));
    eventually("lines are read", || manager.show("f").unwrap().log.len() >= 16);
    std::thread::sleep(Duration::from_millis(50));
    let log = manager.show("f").unwrap().log;
    assert!(log.len() <= 20, "{}", log.len());
    assert_eq!((log[0].level, log[0].text.as_str()), ("warn", "a line\\nwith \\u{1b}[31mcolour"));
}

#[test]
fn modules_look_into_tables_that_outlive_them() {
    let (router, manager) = router();
    let prog = "(i32.store (i32.const 16) (i32.load offset=12 (local.get $data)))
         (drop (call $prefix (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 32)))
         (i32.store16 (i32.const 48) (i32.const 2))
         (i32.store16 (i32.const 50) (i32.load16_u offset=22 (local.get $data)))
         (i32.and
           (i32.eq (i32.load (i32.const 32)) (i32.const 7))
           (call $exact (i32.const 0) (i32.const 48) (i32.const 8) (i32.const 1) (i32.const 64)))";
    let wasm = Guest {
        manifest: r#","capabilities":["tables"],"tables":[{"name":"ports","kind":"exact"},{"name":"nets","kind":"ipv4"}]"#,
        imports: r#"(import "smpnet" "table_exact" (func $exact (param i32 i32 i32 i32 i32) (result i32)))
            (import "smpnet" "table_prefix" (func $prefix (param i32 i32 i32 i32) (result i32)))"#,
        prog,
        ..Guest::default()
    }
    .wasm();
    let source = || {
        let mut spec = ModuleSpec::new(wasm.clone());
        spec.allow = Capabilities::all();
        spec.tables.insert("nets".into(), "lan".into());
        spec
    };
    let missing = manager.load(spec(Source::Module(source()))).unwrap_err().to_string();
    assert!(missing.contains("no table is named ports, which the module looks into"), "{missing}");
    let tables = manager.tables();
    tables.create("ports", TableKind::Ipv4, None).unwrap();
    tables.create("lan", TableKind::Ipv4, None).unwrap();
    let wrong = manager.load(spec(Source::Module(source()))).unwrap_err().to_string();
    assert!(wrong.contains("table ports is of kind ipv4, the module looks into one of kind exact"), "{wrong}");
    manager.remove_table("ports").unwrap();
    tables.create("ports", TableKind::Exact, None).unwrap();
    manager.load(spec(Source::Module(source()))).unwrap();
    assert_eq!(router.burst(0, &[0, 1, 2]), [PASS, PASS, PASS]);
    let key = |k, t| TableKey::parse(k, t).unwrap();
    let port = |p: u16| TableKey::Exact(p.to_be_bytes().into());
    tables.insert("lan", &[(key(TableKind::Ipv4, "10.0.0.0/8"), 7)]).unwrap();
    tables.insert("ports", &[(port(5001), 0), (port(5002), 1)]).unwrap();
    assert_eq!(router.burst(0, &[0, 1, 2]), [PASS, DROP, DROP]);
    manager.swap("f", Source::Module(source()), None).unwrap();
    tables.replace("ports", &[(port(5000), 1)]).unwrap();
    assert_eq!(router.burst(0, &[0, 1, 2]), [DROP, PASS, PASS]);
    tables.insert("lan", &[(key(TableKind::Ipv4, "10.0.0.0/30"), 8)]).unwrap();
    assert_eq!(router.burst(0, &[0, 1, 2]), [PASS, PASS, PASS]);
    let e = manager.remove_table("lan").unwrap_err();
    assert!(matches!(e, FilterError::Table(_)) && e.to_string().contains("in use by f"), "{e}");
    manager.detach("f").unwrap();
    manager.remove_table("lan").unwrap();
    assert_eq!(tables.list().len(), 1);
}

#[test]
fn a_configuration_reaches_every_instance_and_may_be_refused() {
    let items = format!(
        "(global $port (mut i32) (i32.const 0))
         (func (export \"smpnet_init\") (param $len i32) (result i32)
           (if (i32.ne (local.get $len) (i32.const 2)) (then (return (i32.const 5))))
           (global.set $port (i32.load16_u offset=8192 (i32.const {RING}))) (i32.const 0))"
    );
    let prog = "(i32.eq (i32.load16_u offset=22 (local.get $data)) (global.get $port))";
    let wasm = Guest { items: &items, prog, ..Guest::default() }.wasm();
    let with = |config: &[u8]| Source::Module(ModuleSpec { config: config.to_vec(), ..ModuleSpec::new(wasm.clone()) });
    let (router, manager) = router();
    manager.load(spec(with(&5001u16.to_be_bytes()))).unwrap();
    assert_eq!([router.burst(0, &[0, 1]), router.burst(1, &[0, 1])], [[PASS, DROP], [PASS, DROP]]);
    assert!(refusal(with(b"abc")).contains("refuses its configuration (smpnet_init returned 5)"));
    assert!(refusal(with(&vec![0; 9000])).contains("a configuration of 9000 bytes, 8192 have room"));
    let none = Source::Module(ModuleSpec { config: b"x".to_vec(), ..ModuleSpec::new(drops_port(1)) });
    assert!(refusal(none).contains("takes no configuration"));
}

#[test]
fn a_module_is_told_the_time_no_more_often_than_it_asks_for() {
    let items = "(global $ticks (mut i32) (i32.const 0))
         (func (export \"smpnet_tick\") (param i64) (global.set $ticks (i32.add (global.get $ticks) (i32.const 1))))";
    // Passes the first five ticks.
    let prog = "(i32.gt_u (global.get $ticks) (i32.const 5))";
    let wasm = Guest { manifest: r#","tick_ms":20"#, items, prog, ..Guest::default() }.wasm();
    let (router, manager) = router();
    manager.load(spec(module(wasm))).unwrap();
    let began = Instant::now();
    while router.burst(0, &[0]) == [PASS] {
        std::thread::yield_now();
    }
    let took = began.elapsed().as_millis();
    assert!((100..1000).contains(&took), "{took} ms");
}

/// Counts packets in a global and hands the count on; drops everything when it came from generation before.
fn counting(items: &str) -> Vec<u8> {
    let items = format!(
        "(global $count (mut i32) (i32.const 0))
         (global $off (mut i32) (i32.const 0))
         (func (export \"smpnet_state_export\") (param $off i32) (result i32)
           (if (local.get $off) (then (return (i32.const 0))))
           (i32.store offset=8192 (i32.const {RING}) (global.get $count)) (i32.const 4))
         {items}"
    );
    let prog = "(global.set $count (i32.add (global.get $count) (i32.const 1)))
         (i32.gt_u (global.get $count) (i32.const 3))";
    Guest { items: &items, prog, ..Guest::default() }.wasm()
}

#[test]
fn state_passes_from_generation_to_generation_and_a_refused_one_begins_anew() {
    let takes = format!(
        "(func (export \"smpnet_state_import\") (param $off i32) (param $len i32) (result i32)
           (global.set $count (i32.load offset=8192 (i32.const {RING}))) (i32.const 0))"
    );
    let refuses = "(func (export \"smpnet_state_import\") (param $off i32) (param $len i32) (result i32)
           (global.set $count (i32.const 1000)) (i32.const 9))";
    let traps = "(func (export \"smpnet_state_import\") (param $off i32) (param $len i32) (result i32)
           (global.set $count (i32.const 1000)) (unreachable))";
    let endless = format!(
        "(func (export \"smpnet_state_import\") (param $off i32) (param $len i32) (result i32)
           (global.set $count (i32.const 1000)) (loop $l (br $l)) (i32.const {RING}))"
    );
    let (router, manager) = router();
    manager.load(spec(module(counting("")))).unwrap();
    assert_eq!(router.burst(0, &[0, 0]), [PASS, PASS]);
    manager.swap("f", module(counting(&takes)), None).unwrap();
    // Two were counted before; the third passes.
    assert_eq!(router.burst(0, &[0, 0, 0]), [PASS, DROP, DROP]);
    // The other worker has its own state.
    assert_eq!(router.burst(1, &[0, 0, 0]), [PASS, PASS, PASS]);
    for bad in [refuses, traps, &endless] {
        manager.swap("f", module(counting(bad)), None).unwrap();
        assert_eq!(router.burst(0, &[0, 0, 0, 0]), [PASS, PASS, PASS, DROP], "fresh, and not what the refusal left");
    }
    assert_eq!(manager.stats("f").unwrap().total.faults, 0);
}

#[test]
fn a_fault_is_judged_by_policy_and_the_instance_is_made_anew() {
    let items = "(func $deep (call $deeper)) (func $deeper (unreachable))";
    let prog = format!("(if {} (then (call $deep))) (i32.const 0)", drop_port(5000));
    let wasm = Guest { items, prog: &prog, ..Guest::default() }.wasm();
    for (on_fault, verdict) in [(OnFault::Pass, PASS), (OnFault::Drop, DROP)] {
        let (router, manager) = router();
        manager.load(FilterSpec { on_fault, ..spec(module(wasm.clone())) }).unwrap();
        assert_eq!(router.burst(0, &[1, 0, 2]), [verdict; 3]);
        // Until there is a new instance the policy judges; the other worker is not concerned.
        assert_eq!(router.burst(1, &[1, 2]), [PASS, PASS]);
        eventually("the fault is written down", || manager.show("f").is_ok_and(|d| !d.faults.is_empty()));
        eventually("a new instance judges", || {
            router.burst(0, &[1]);
            manager.list()[0].state == State::Running && router.burst(0, &[1]) == [PASS]
        });
        let detail = manager.show("f").unwrap();
        let fault = detail.faults.last().unwrap();
        assert_eq!((detail.status.generation, fault.worker, fault.generation), (1, 0, 1));
        assert!(fault.line.contains("unreachable") && fault.line.ends_with("in deeper"), "{}", fault.line);
        assert_eq!(fault.trace, ["deeper", "deep", "judge", "filter"].map(String::from).as_slice().to_vec());
        assert_eq!(detail.status.counts.faults, 1);
    }
}

#[test]
fn too_many_faults_bring_the_previous_generation_back_or_take_the_filter_off() {
    let bad = || module(guest("(unreachable)"));
    let limit = FaultLimit { max: 3, seconds: 60 };
    for (on_fault, max) in [(OnFault::Pass, 3), (OnFault::Drop, 3), (OnFault::Detach, 1)] {
        let (router, manager) = router();
        manager.load(FilterSpec { on_fault, faults: limit, ..spec(module(drops_port(5000))) }).unwrap();
        router.burst(0, &[0]);
        manager.swap("f", bad(), None).unwrap();
        eventually("generation 1 is restored", || {
            router.burst(0, &[0]);
            manager.list()[0].generation == 3
        });
        assert_eq!(router.burst(0, &[0, 1]), [DROP, PASS]);
        let detail = manager.show("f").unwrap();
        assert_eq!((detail.restored_from, detail.previous, detail.status.counts.faults), (Some(1), None, max));
        assert_eq!(detail.status.state, State::Running);
    }
    for (on_fault, state, hooks) in [(OnFault::Detach, State::Detached, 0), (OnFault::Drop, State::Faulted, 1)] {
        let (router, manager) = router();
        manager.load(FilterSpec { on_fault, faults: limit, ..spec(bad()) }).unwrap();
        eventually("it is out of service", || {
            router.burst(0, &[0]);
            manager.list()[0].state == state
        });
        assert_eq!(router.hooks(), hooks);
    }
}

#[test]
fn ten_chained_modules_are_asked_in_order_of_priority_and_counted_each() {
    let (router, manager) = router();
    // Each drops one port; they are loaded in another order than they are asked in.
    (3..13).for_each(|cell| router.pool.put(cell, &udp(6000 + cell as u16, 10)));
    for n in [3u16, 0, 9, 5, 1, 8, 2, 7, 4, 6] {
        let spec = spec(module(drops_port(6003 + n)));
        manager.load(FilterSpec { name: format!("m{n}"), priority: n.into(), ..spec }).unwrap();
    }
    for worker in [0, 1] {
        let cells: Vec<u32> = (3..13).cycle().take(50).collect();
        (0..64).for_each(|_| assert_eq!(router.burst(worker, &cells), [DROP; 50]));
    }
    for n in 0..10 {
        let stats = manager.stats(&format!("m{n}")).unwrap();
        // What the ones before dropped is not asked again.
        let asked = 64 * (50 - 5 * n);
        for counts in &stats.per_worker[..2] {
            assert_eq!((counts.packets, counts.dropped, counts.bursts, counts.faults), (asked, 64 * 5, 64, 0), "m{n}");
            assert_eq!(counts.sampled_packets, 50 - 5 * n);
        }
        assert!(stats.ns_per_packet.unwrap() > 0.0);
    }
}
