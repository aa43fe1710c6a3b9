//! What modules of others do to harm the router, and what comes of it: each hazard that is known, by name.

use crate::guest::{Fault, FaultKind, RunHead, RunPacket, Runner};
use crate::testguest::{Guest, RING, drop_port, guest};
use crate::testpool::{Shape, TestPool, first_byte_is, module as generated};
use crate::testrouter::{TestRouter, udp};
use crate::{
    Action, Capabilities, FilterManager, FilterSpec, GeneratedEngine, ModuleError, ModuleLimits, ModuleSpec, Source,
    State, Tables, WasmError,
};
use smpnet_abi::verdict::PASS;
use smpnet_filter_abi::layer;
use std::time::{Duration, Instant};

fn head() -> RunHead {
    RunHead { layer: layer::INET, ..RunHead::default() }
}

fn packet() -> Vec<RunPacket> {
    vec![RunPacket { bytes: udp(5000, 10), ..RunPacket::default() }]
}

fn runner(wasm: Vec<u8>) -> Result<Runner, WasmError> {
    Runner::new(&ModuleSpec { allow: Capabilities::all(), ..ModuleSpec::new(wasm) }, &Tables::default())
}

/// The fault that a module ends in, after which a fresh instance of a good one still works in the same process.
fn fault(wasm: Vec<u8>) -> Fault {
    let fault = runner(wasm).unwrap().judge(&head(), &packet()).unwrap_err();
    let mut good = runner(guest(&drop_port(5000))).unwrap();
    assert_eq!(good.judge(&head(), &packet()).unwrap()[0].verdict, "drop");
    assert!(!fault.line.contains('\n'));
    fault
}

/// Why a module is not taken.
fn refused(wasm: Vec<u8>) -> String {
    let e = runner(wasm).err().unwrap().to_string();
    assert!(!e.contains('\n'), "{e}");
    e
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

#[test]
fn bulk_writes_stay_in_the_modules_own_memory_and_never_reach_the_pool() {
    // The generated kind could reach the pool, and is refused.
    let pool = TestPool::new(31);
    let engine = GeneratedEngine::new(&pool.desc, 1).unwrap();
    for op in ["memory.fill $pool", "memory.copy $pool $pool"] {
        let bytes = generated(1, &format!("({op} (i32.const 0) (i32.const 0) (i32.const 1)) (i32.const 0)"));
        assert!(matches!(engine.compile(&bytes), Err(WasmError::Verify(_))));
    }
    // Others have no pool. What ends in their memory is theirs, what does not is a fault.
    for op in ["memory.fill", "memory.copy"] {
        let good = format!("({op} (i32.const 32) (i32.const 0) (i32.const 64)) (i32.const 1)");
        assert_eq!(runner(guest(&good)).unwrap().judge(&head(), &packet()).unwrap()[0].verdict, "drop");
        for (at, len) in [(65_000, 1000), (-1, 1), (0, -1)] {
            let bad = format!("({op} (i32.const {at}) (i32.const 0) (i32.const {len})) (i32.const 1)");
            let fault = fault(guest(&bad));
            assert!(fault.kind == FaultKind::Trap && fault.line.contains("out of bounds"), "{fault}");
        }
    }
    // Over the ring: the module harms itself only.
    let all = "(memory.fill (i32.const 0) (i32.const 0xff) (i32.const 65536)) (i32.const 0)";
    let fault = fault(guest(all));
    assert_ne!(fault.kind, FaultKind::Budget, "{fault}");
}

#[test]
fn a_data_segment_beside_a_custom_memory_does_not_end_the_process() {
    // Generated modules have memories of our making and no data segments; others have data segments and no such memories.
    let pool = TestPool::new(31);
    let engine = GeneratedEngine::new(&pool.desc, 1).unwrap();
    assert!(engine.compile(&wat(r#"(module (memory 1 1) (data (i32.const 0) "x"))"#)).is_err());
    let items = r#"(data (i32.const 100) "\01")"#;
    let wasm = Guest { items, prog: "(i32.load8_u (i32.const 100))", ..Guest::default() }.wasm();
    assert_eq!(runner(wasm).unwrap().judge(&head(), &packet()).unwrap()[0].verdict, "drop");
    let outside = Guest { items: r#"(data (i32.const 65535) "xy")"#, prog: "(i32.const 0)", ..Guest::default() };
    assert!(refused(outside.wasm()).contains("out of bounds"));
}

#[test]
fn a_pool_that_could_be_truncated_is_not_mapped_and_a_sealed_one_cannot_be() {
    let open = TestPool::shaped(Shape { cells: 31, sealed: false });
    assert!(matches!(GeneratedEngine::new(&open.desc, 1), Err(WasmError::PoolNotSealed)));
    let sealed = TestPool::new(31);
    let engine = GeneratedEngine::new(&sealed.desc, 1).unwrap();
    // SAFETY: a system call on our own descriptor.
    assert_eq!(unsafe { libc::ftruncate(sealed.desc.fd, 0) }, -1);
    assert!(engine.compile(&generated(sealed.pages(), &first_byte_is(1))).is_ok());
}

#[test]
fn a_trap_storm_costs_no_core() {
    let router = TestRouter::new(64, 1);
    router.pool.put(0, &udp(5000, 10));
    let manager = FilterManager::new(router.clone()).unwrap();
    let mut spec = FilterSpec::new("f", Source::Module(ModuleSpec::new(guest("(unreachable)"))), Action::Drop);
    // It is never taken off, so that nothing but the growing intervals holds it back.
    spec.faults.max = u32::MAX;
    manager.load(spec).unwrap();
    let (began, mut bursts, mut worst) = (Instant::now(), 0u64, Duration::ZERO);
    while began.elapsed() < Duration::from_secs(2) {
        assert_eq!(router.burst(0, &[0; 64]), [PASS; 64]);
        bursts += 1;
        worst = worst.max(began.elapsed() / bursts as u32);
    }
    let total = manager.stats("f").unwrap().total;
    // After 10, 20, 40 ... ms: at most eight in two seconds, of many thousand bursts.
    assert!((3..=9).contains(&total.faults), "{} faults in {bursts} bursts", total.faults);
    assert!(bursts > 10_000, "{bursts}");
    assert_eq!(total.fault_packets, bursts * 64);
    assert_eq!(manager.list()[0].state, State::Recovering);
    println!("{} traps in {bursts} bursts of 64 packets in two seconds", total.faults);
}

#[test]
fn an_endless_loop_is_ended_in_every_call_within_its_budget() {
    let endless = "(loop $l (br $l))";
    let calls = [
        Guest { prog: &format!("{endless} (i32.const 0)"), ..Guest::default() }.wasm(),
        Guest {
            prog: "(call $f) (i32.const 0)",
            items: "(func $f (call $f2)) (func $f2 (loop $l (br $l)))",
            ..Guest::default()
        }
        .wasm(),
        Guest {
            manifest: r#","tick_ms":1"#,
            items: &format!("(func (export \"smpnet_tick\") (param i64) {endless})"),
            prog: "(i32.const 0)",
            ..Guest::default()
        }
        .wasm(),
    ];
    for wasm in calls {
        let mut runner = runner(wasm).unwrap();
        let began = Instant::now();
        let fault = runner.judge(&RunHead { now_ns: 1, ..head() }, &packet()).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Budget, "{fault}");
        // One millisecond of processor time, twice at most; the rest is for a busy machine.
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
    for items in [
        format!("(func $go {endless}) (start $go)"),
        format!("(func (export \"_initialize\") {endless})"),
        format!("(func (export \"smpnet_init\") (param i32) (result i32) {endless} (i32.const 0))"),
    ] {
        let wasm = Guest { items: &items, prog: "(i32.const 0)", ..Guest::default() }.wasm();
        let mut spec = ModuleSpec::new(wasm);
        spec.limits.init_us = 20_000;
        let e = Runner::new(&spec, &Tables::default()).err().unwrap().to_string();
        assert!(e.contains("took longer than its budget"), "{e}");
    }
}

#[test]
fn deep_recursion_ends_in_a_fault_that_names_the_function() {
    let items = "(func $dig (param i32) (result i32) (i32.add (call $dig (local.get 0)) (i32.const 1)))";
    let fault = fault(Guest { items, prog: "(call $dig (local.get $i))", ..Guest::default() }.wasm());
    assert!(fault.line.contains("call stack exhausted") && fault.line.ends_with("in dig"), "{fault}");
    assert!(fault.trace.len() <= 16 && fault.trace[0] == "dig");
}

#[test]
fn memory_grows_to_the_limit_and_not_beyond_it() {
    let grow = |pages: u32| format!("(i32.ne (memory.grow (i32.const {pages})) (i32.const -1))");
    let verdict = |manifest: &str, prog: &str| {
        let wasm = Guest { manifest, prog, ..Guest::default() }.wasm();
        runner(wasm).unwrap().judge(&head(), &packet()).unwrap()[0].verdict
    };
    // One page is there already. A DROP says that it grew.
    assert_eq!(verdict(r#","memory":4"#, &grow(3)), "drop");
    assert_eq!(verdict(r#","memory":4"#, &grow(4)), "pass");
    assert_eq!(verdict("", &grow(63)), "drop");
    assert_eq!(verdict("", &grow(64)), "pass");
    // The ring stays where it is when the memory grows, and works.
    let wasm = Guest { prog: &format!("(drop {}) {}", grow(1), drop_port(5000)), ..Guest::default() }.wasm();
    let mut runner = runner(wasm).unwrap();
    (0..70).for_each(|_| assert_eq!(runner.judge(&head(), &packet()).unwrap()[0].verdict, "drop"));
    let tables = "(table $t 1 funcref)";
    let prog = "(i32.ne (table.grow $t (ref.null func) (i32.const 100000)) (i32.const -1))";
    let wasm = Guest { items: tables, prog, ..Guest::default() }.wasm();
    assert_eq!(self::runner(wasm).unwrap().judge(&head(), &packet()).unwrap()[0].verdict, "pass");
    let asks = Guest { manifest: r#","memory":65"#, prog: "(i32.const 0)", ..Guest::default() }.wasm();
    assert!(refused(asks).contains("may grow to 65 pages by its manifest, 64 are allowed"));
    let little = Guest { manifest: r#","memory":1"#, prog: "(i32.const 0)", ..Guest::default() };
    let begins = little.text().replace("(memory (export \"memory\") 1)", "(memory (export \"memory\") 2)");
    assert!(refused(wat(&begins)).contains("begins with 2 pages of 64 KiB, 1 are allowed"));
}

#[test]
fn unknown_imports_and_exports_are_named_with_the_nearest_right_ones() {
    fn importing(imports: &str) -> String {
        refused(Guest { imports, prog: "(i32.const 0)", ..Guest::default() }.wasm())
    }
    let log = "(param i32 i32 i32)";
    for (text, says) in [
        (format!(r#"(import "smpnet" "logg" (func {log}))"#), "smpnet.logg, which is not there (did you mean log?)"),
        (format!(r#"(import "env" "log" (func {log}))"#), "env.log, which is not there (did you mean smpnet.log?)"),
        (r#"(import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))"#.into(), "there is no WASI here"),
        (r#"(import "smpnet" "log" (func (param i32)))"#.into(), "as (i32), it must be (i32, i32, i32)"),
        (r#"(import "smpnet" "log" (global i32))"#.into(), "smpnet.log as something else than the function that it is"),
        (
            r#"(import "smpnet" "table_exact" (func (param i32 i32 i32 i32 i32) (result i32)))"#.into(),
            "needs \"tables\" among the `capabilities`",
        ),
    ] {
        let e = importing(&text);
        assert!(e.contains(says), "{e}");
    }
    let text = Guest { prog: "(i32.const 0)", ..Guest::default() }.text();
    for (from, to, says) in [
        ("smpnet_ring", "smpnet_rnig", "does not export smpnet_ring (did you mean smpnet_rnig?)"),
        ("(export \"memory\")", "", "does not export its memory as `memory`"),
        ("(memory (export \"memory\") 1)", "(memory (export \"memory\") 1 2 shared)", "threads"),
        (
            "(result i32) (i32.const 1024)",
            "(result i64) (i64.const 1024)",
            "exports smpnet_ring as () -> i64, it must be () -> i32",
        ),
        ("(i32.const 1024))", "(i32.const 1028))", "smpnet_ring returned 0x404"),
        ("(i32.const 1024))", "(i32.const 65520))", "smpnet_ring returned 0xfff0"),
        (
            "(func $judge",
            "(func (export \"smpnet_tik\")) (func $judge",
            "smpnet never calls (did you mean smpnet_tick?)",
        ),
    ] {
        let e = refused(wat(&text.replacen(from, to, 1)));
        assert!(e.contains(says), "{e}");
    }
}

#[test]
fn a_module_of_another_version_or_without_a_manifest_is_refused_and_older_minors_load() {
    let text = Guest { prog: "(i32.const 0)", ..Guest::default() }.text();
    let with = |version: &str| wat(&text.replace("\\\"1.0\\\"", &format!("\\\"{version}\\\"")));
    assert!(runner(with("1.0")).is_ok());
    assert!(refused(with("1.1")).contains("made for filter ABI 1.1, this smpnet runs 1.0 to 1.0"));
    assert!(refused(with("2.0")).contains("ABI 2.0"));
    let manifest = text.find("(@custom").unwrap();
    let none = format!("{})", &text[..manifest]);
    assert!(refused(wat(&none)).contains("has 0 custom sections `smpnet.filter`"));
    let two = format!("{} {}", &text[..text.len() - 1], &text[manifest..]);
    assert!(refused(wat(&two)).contains("has 2 custom sections"));
}

#[test]
fn precompiled_code_components_text_and_garbage_are_refused_before_they_are_looked_at() {
    let engine = wasmtime::Engine::default();
    let crafted = wasmtime::Module::new(&engine, guest("(i32.const 0)")).unwrap().serialize().unwrap();
    assert!(refused(crafted).contains("precompiled code is never taken"));
    assert!(refused(b"\0asm\x0d\0\x01\0".to_vec()).contains("this is a component"));
    assert!(refused(b" (module)".to_vec()).contains("text form"));
    assert!(refused(b"\0asm\x02\0\0\0".to_vec()).contains("another version"));
    assert!(refused(vec![0; 100]).contains("not a WebAssembly module"));
    assert!(refused(b"\0asm\x01\0\0\0\x01\x7f".to_vec()).contains("invalid WebAssembly"));
    // Cut at every length, a module is an error and nothing else.
    let whole = guest(&drop_port(5000));
    let good = (0..whole.len()).filter(|len| runner(whole[..*len].to_vec()).is_ok()).count();
    // Without the section of names, which comes last, it is a module.
    assert!(good <= 1, "{good}");
}

#[test]
fn a_module_of_ten_megabytes_is_refused_before_it_is_read_and_the_limit_can_be_moved() {
    let mut big = guest("(i32.const 0)");
    // A custom section of ten megabytes: harmless, but nobody needs it.
    let len = 10 << 20;
    big.push(0);
    let mut n = len + 2;
    while n >= 0x80 {
        big.push(n as u8 | 0x80);
        n >>= 7;
    }
    big.push(n as u8);
    big.extend([1, b'x']);
    big.resize(big.len() + len, 0);
    let e = refused(big.clone());
    assert!(e.contains("4194304 are allowed (module_bytes)"), "{e}");
    let limits = ModuleLimits { module_bytes: 16 << 20, ..ModuleLimits::default() };
    assert!(Runner::new(&ModuleSpec { limits, ..ModuleSpec::new(big) }, &Tables::default()).is_ok());
}

#[test]
fn features_beyond_the_pinned_ones_are_named_with_the_switch_that_avoids_them() {
    let text = Guest { prog: "(i32.const 0)", ..Guest::default() }.text();
    let with = |item: &str| refused(wat(&text.replacen("(func $judge", &format!("{item} (func $judge"), 1)));
    for (item, name, hint) in [
        ("(func (atomic.fence))", "threads", "-C target-feature=-atomics"),
        ("(func $t (return_call $t))", "tail-call", "-C target-feature=-tail-call"),
        ("(memory 1)", "multi-memory", "one memory"),
        ("(tag)", "exception-handling", "-fno-exceptions"),
        (
            "(func (param v128 v128) (result v128) (i8x16.relaxed_swizzle (local.get 0) (local.get 1)))",
            "relaxed-simd",
            "-C",
        ),
        ("(func (param externref))", "externref", "numbers"),
        ("(type (struct))", "gc", "linear memory"),
    ] {
        let e = with(item);
        assert!(e.contains(name) && e.contains(hint) && e.contains("which smpnet does not run"), "{item}: {e}");
    }
    let wide = text.replace("(memory (export \"memory\") 1)", "(memory (export \"memory\") i64 1)");
    assert!(matches!(runner(wat(&wide)).err().unwrap(), WasmError::Module(ModuleError::Invalid(_))));
    // What compilers of today use is there.
    for item in [
        "(func (param v128) (result v128) (i32x4.add (local.get 0) (local.get 0)))",
        "(func (param f32) (result i32) (i32.trunc_sat_f32_s (local.get 0)))",
        "(func (param i32) (result i32) (i32.extend8_s (local.get 0)))",
        "(func (result i32 i32) (i32.const 1) (i32.const 2))",
        "(table 1 funcref) (func (drop (table.size 0)))",
        "(global i32 (i32.add (i32.const 1) (i32.const 2)))",
        "(global (export \"g\") (mut i32) (i32.const 0))",
    ] {
        let wasm = wat(&text.replacen("(func $judge", &format!("{item} (func $judge"), 1));
        assert!(runner(wasm).is_ok(), "{item}");
    }
}

#[test]
fn a_module_that_allocates_in_filter_runs_until_its_memory_is_full() {
    // An allocator that never frees: one page for every packet, written to.
    let prog = "(if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then (unreachable)))
         (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (i32.const 7)) (i32.const 0)";
    let mut runner = runner(Guest { manifest: r#","memory":32"#, prog, ..Guest::default() }.wasm()).unwrap();
    let mut good = 0;
    let fault = loop {
        match runner.judge(&head(), &packet()) {
            Ok(_) => good += 1,
            Err(fault) => break fault,
        }
    };
    assert_eq!((good, fault.kind), (31, FaultKind::Trap));
    // A new instance begins with one page again.
    runner.restart().unwrap();
    assert!(runner.judge(&head(), &packet()).is_ok());
}

#[test]
fn what_a_module_writes_where_it_should_not_harms_nobody() {
    // A result other than the number of packets, unknown verdicts, lookups and lines outside of the memory.
    let text = Guest { prog: "(i32.const 2)", ..Guest::default() }.text();
    let wrong = fault(wat(&text));
    assert_eq!((wrong.kind, wrong.line.contains("verdict 0x2")), (FaultKind::Verdict, true), "{wrong}");
    let result = text.replace("(local.get $n))\n  (@custom", "(i32.const 7))\n  (@custom");
    assert_eq!(fault(wat(&result)).kind, FaultKind::Result);
    let imports = r#"(import "smpnet" "log" (func $log (param i32 i32 i32)))
        (import "smpnet" "table_exact" (func $exact (param i32 i32 i32 i32 i32) (result i32)))"#;
    for call in [
        "(call $log (i32.const 1) (i32.const 65530) (i32.const 100))",
        "(call $log (i32.const 1) (i32.const -1) (i32.const -1))",
        "(drop (call $exact (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 1) (i32.const 0)))",
        "(drop (call $exact (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 1025) (i32.const 0)))",
    ] {
        let prog = format!("{call} (i32.const 0)");
        let manifest = r#","capabilities":["tables"]"#;
        let fault = fault(Guest { imports, manifest, prog: &prog, ..Guest::default() }.wasm());
        assert_eq!(fault.kind, FaultKind::Import, "{fault}");
    }
    // Lengths in the ring are the host's word: a module that enlarges its own copy does not patch beyond the window.
    let prog = format!(
        "(i32.store16 offset=68 (i32.const {RING}) (i32.const 0xffff))
         (i32.store offset=2880 (i32.const {RING}) (i32.const 0x7d0000))
         (i32.store offset=2884 (i32.const {RING}) (i32.const 4))
         (i32.store offset=44 (i32.const {RING}) (i32.const 12)) (i32.const 0)"
    );
    let wasm = Guest { manifest: r#","capabilities":["edit"]"#, prog: &prog, ..Guest::default() }.wasm();
    assert_eq!(fault(wasm).kind, FaultKind::Patch);
}

#[test]
fn the_clock_that_ends_loops_sleeps_when_no_module_runs() {
    let engine = crate::guest::GuestEngine::new(2).unwrap();
    let ticker = engine.ticker();
    let parked = |parked: bool| {
        let began = Instant::now();
        while ticker.is_parked() != parked {
            assert!(began.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    parked(true);
    ticker.enter(0);
    assert!(!ticker.is_parked());
    // Somebody who stays inside is not forgotten.
    std::thread::sleep(Duration::from_millis(300));
    assert!(!ticker.is_parked());
    ticker.leave(0);
    parked(true);
    let inside = ticker.control();
    std::thread::sleep(Duration::from_millis(300));
    assert!(!ticker.is_parked());
    drop(inside);
    parked(true);
}
