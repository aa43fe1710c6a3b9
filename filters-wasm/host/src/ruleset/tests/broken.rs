//! Modules that are damaged or made by somebody else are refused, and what passes nevertheless harms nobody.

use super::*;

fn good() -> Vec<u8> {
    let text = "table <t> type ipset\ngroup default {\npass from <t>\npass stateful from any limit states 5\n\
                pass pcap-filter \"tcp\"\npass family inet6 to { <t>, 2001:db8::/32 }\n}";
    let config = parse("test.conf", text, &NoFiles).unwrap().config;
    let programs = Programs::new(&config).unwrap();
    smpnet_npf::wasm::compile(&Plan::new(&config, &programs, &NoInterfaces, &Dynamic::new())).unwrap()
}

fn wat(text: &str) -> Result<(), BrokenRuleset> {
    verify(&wat::parse_str(text).unwrap())
}

/// The smallest module of the contract, with other items and another body.
fn small(items: &str, body: &str) -> Result<(), BrokenRuleset> {
    wat(&format!(
        r#"(module {items} (memory (export "memory") 1 1) (global (export "abi") i32 (i32.const 0x20000))
             (func (export "decide") (param i32) (local $c i32) (local $d i32) {body}))"#
    ))
}

const LOOP: &str = "(block (local.set $c (i32.const 9)) (loop
    (br_if 1 (i32.eqz (local.get $c))) (local.set $c (i32.add (local.get $c) (i32.const -1)))";

#[test]
fn the_contract_is_kept_to_the_letter() {
    assert_eq!(verify(&good()), Ok(()));
    assert_eq!(small("", ""), Ok(()));
    assert_eq!(small("", &format!("{LOOP} (br 0)))")), Ok(()));
    let import = |text: &str| matches!(small(text, ""), Err(BrokenRuleset::Import(_)));
    assert!(import(r#"(import "env" "table" (func (param i32 i32 i32) (result i32)))"#));
    assert!(import(r#"(import "smpnet" "log" (func (param i32 i32) (result i32)))"#));
    assert!(import(r#"(import "smpnet" "table" (func (param i32 i32) (result i32)))"#));
    assert!(import(r#"(import "smpnet" "pool" (global i32))"#));
    let within = r#"(import "smpnet" "within" (func (param i32 i32) (result i32)))"#;
    assert_eq!(small(within, "(drop (call 0 (i32.const 0) (i32.const 0)))"), Ok(()));
    assert!(import(&format!("{within} {within}")));
    assert_eq!(small("(table 1 funcref)", ""), Err(BrokenRuleset::Section("table")));
    assert_eq!(small("(func $f) (start $f)", ""), Err(BrokenRuleset::Section("start function")));
    let op = |body: &str| matches!(small("", body), Err(BrokenRuleset::Operator { function: 0, .. }));
    assert!(op("(drop (memory.grow (i32.const 1)))"));
    assert!(op("(memory.fill (i32.const 0) (i32.const 0) (i32.const 1))"));
    assert!(op("(drop (f32.const 0))"));
    for data in [r#"(data (i32.const 0) "x")"#, r#"(data (i32.const 65536) "x")"#, r#"(data "x")"#] {
        assert!(small(data, "").is_err(), "{data}");
    }
    assert_eq!(small(r#"(data (i32.const 65535) "x")"#, ""), Ok(()));
    assert_eq!(small(r#"(func (export "more"))"#, ""), Err(BrokenRuleset::Export("more".into())));
    for memory in ["0 0", "1", "1 2", "i64 1 1", "70000 70000"] {
        let e = wat(&format!(r#"(module (memory (export "memory") {memory}))"#));
        assert!(matches!(e, Err(BrokenRuleset::Memory(_) | BrokenRuleset::Invalid(_))), "{memory}: {e:?}");
    }
    assert!(matches!(wat("(module)"), Err(BrokenRuleset::Memory(_))));
}

#[test]
fn loops_that_may_not_end_are_refused() {
    let bad = |body: &str| assert_eq!(small("", body), Err(BrokenRuleset::Loop(0)), "{body}");
    bad("(loop (br 0))");
    bad("(block (loop (br_if 1 (local.get 0)) (br 0)))");
    bad("(block (local.set $c (local.get 0)) (loop (br_if 1 (i32.eqz (local.get $c)))))");
    // Its counter is written elsewhere, is that of another loop, does not end the loop, or counts up.
    bad(&format!("{LOOP} (local.set $c (i32.const 5)) (br 0)))"));
    bad(&format!("{LOOP} {LOOP} (br 0))) (br 0)))"));
    bad(&format!("{LOOP} (br 0)))").replace("br_if 1", "br_if 0"));
    bad(&format!("{LOOP} (br 0)))").replace("(i32.const -1)", "(i32.const 1)"));
    bad(&format!("{LOOP} (br 0)))").replace("(i32.const 9)", "(i32.const -9)"));
    assert_eq!(small("", "(call 0 (i32.const 0))"), Err(BrokenRuleset::Call(0)));
    assert_eq!(small("", "(call 1)").err(), small("(func $a (call 1))", "").err().map(|_| BrokenRuleset::Call(0)));
}

#[test]
fn a_damaged_module_is_refused_or_harms_nobody() {
    let engine = RulesetEngine::new().unwrap();
    let module = good();
    let mut refused = 0;
    let mut attempt = |bytes: &[u8]| match engine.load(bytes, Vec::new().into()) {
        Err(e) => {
            assert!(!e.to_string().contains('\n'), "{e}");
            refused += 1;
        }
        // It passed: wrong constants perhaps. It ends, whatever it says.
        Ok(ruleset) => {
            if let Ok(mut instance) = ruleset.instantiate() {
                let _ = instance.decide(64, &mut NoHost);
            }
        }
    };
    (0..module.len()).step_by(7).for_each(|end| attempt(&module[..end]));
    let mut dice = Dice::new(1);
    for _ in 0..1500 {
        let mut bytes = module.clone();
        bytes[dice.below(module.len() as u64) as usize] ^= 1 << dice.below(8);
        attempt(&bytes);
    }
    assert!(refused > 500, "{refused}");
    // The process goes on, and so do good modules.
    let mut instance = engine.load(&module, Vec::new().into()).unwrap().instantiate().unwrap();
    assert_eq!(instance.decide(1, &mut NoHost).unwrap(), [NONE]);
}

#[test]
fn a_trap_is_an_error_of_the_burst_alone() {
    let text = r#"(module (memory (export "memory") 1 1) (global (export "abi") i32 (i32.const 0x20000))
        (func (export "decide") (param i32)
          (if (i32.eq (i32.load (i32.const 32)) (i32.const 7)) (then (drop (i32.load (i32.const 65536)))))
          (i32.store (i32.const 4096) (i32.const 3))))"#;
    let engine = RulesetEngine::new().unwrap();
    let mut instance = engine.load(&wat::parse_str(text).unwrap(), Vec::new().into()).unwrap().instantiate().unwrap();
    for _ in 0..3 {
        instance.facts()[0].sport = 7;
        let trap = instance.decide(1, &mut NoHost).unwrap_err().to_string();
        assert!(trap.contains("out of bounds"), "{trap}");
        instance.facts()[0].sport = 0;
        assert_eq!(instance.decide(1, &mut NoHost).unwrap(), [3]);
    }
}
