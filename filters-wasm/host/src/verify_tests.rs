use super::*;
use crate::testpool::{module, text};

const PAGES: u32 = 4;

fn good() -> String {
    text(PAGES, "(i32.load8_u $pool (local.get $off))")
}

/// The good module with one piece of its text replaced.
fn with(from: &str, to: &str) -> Result<(), VerifyError> {
    let text = good();
    assert!(text.contains(from), "{from:?} is not in the module");
    verify(&wat::parse_str(text.replacen(from, to, 1)).unwrap(), PAGES)
}

fn prog(text: &str) -> Result<(), VerifyError> {
    verify(&module(PAGES, text), PAGES)
}

/// The good module with another field at its end.
fn plus(field: &str) -> Result<(), VerifyError> {
    let text = good();
    let end = text.rfind(')').unwrap();
    verify(&wat::parse_str(format!("{} {field})", &text[..end])).unwrap(), PAGES)
}

#[test]
fn a_module_of_the_contract_is_accepted() {
    assert_eq!(verify(&wat::parse_str(good()).unwrap(), PAGES), Ok(()));
}

#[test]
fn stores_to_the_pool_are_refused_in_every_width() {
    for op in ["i32.store", "i32.store8", "i32.store16"] {
        let e = prog(&format!("({op} $pool (i32.const 0) (i32.const 0)) (i32.const 0)"));
        assert!(matches!(&e, Err(VerifyError::WritesPool { function: 0, .. })), "{op}: {e:?}");
    }
    for op in ["i64.store", "i64.store8", "i64.store16", "i64.store32"] {
        let e = prog(&format!("({op} $pool (i32.const 0) (i64.const 0)) (i32.const 0)"));
        assert!(matches!(&e, Err(VerifyError::WritesPool { function: 0, .. })), "{op}: {e:?}");
    }
    assert_eq!(prog("(i32.store8 $io (i32.const 4096) (i32.const 0)) (i32.const 0)"), Ok(()));
}

#[test]
fn bulk_instructions_are_refused_on_any_memory() {
    let three = "(i32.const 0) (i32.const 0) (i32.const 1)";
    for op in [
        "memory.fill $pool",
        "memory.fill $io",
        "memory.copy $pool $io",
        "memory.copy $io $pool",
        "memory.copy $pool $pool",
    ] {
        let e = prog(&format!("({op} {three}) (i32.const 0)"));
        assert!(matches!(&e, Err(VerifyError::Bulk { function: 0, .. })), "{op}: {e:?}");
    }
}

#[test]
fn growing_a_memory_is_refused() {
    assert_eq!(prog("(memory.grow $pool (i32.const 1))"), Err(VerifyError::Grows(0)));
    assert_eq!(prog("(memory.grow $io (i32.const 0))"), Err(VerifyError::Grows(0)));
}

#[test]
fn data_segments_are_refused() {
    assert_eq!(plus(r#"(data (memory $pool) (i32.const 0) "x")"#), Err(VerifyError::Section("data segment")));
    assert_eq!(plus(r#"(data (memory $io) (i32.const 0) "x")"#), Err(VerifyError::Section("data segment")));
    assert_eq!(plus(r#"(data "x")"#), Err(VerifyError::Section("data segment")));
}

#[test]
fn instructions_beyond_integers_are_refused() {
    for (text, op) in [
        ("(i32.trunc_f32_u (f32.load $pool (i32.const 0)))", "F32Load"),
        ("(i8x16.all_true (v128.load $pool (i32.const 0)))", "V128Load"),
        ("(i32.atomic.load $io (i32.const 0))", "I32AtomicLoad"),
        ("(i32.atomic.rmw.add $pool (i32.const 0) (i32.const 1))", "I32AtomicRmwAdd"),
        ("(i32.atomic.store $pool (i32.const 0) (i32.const 1)) (i32.const 0)", "I32AtomicStore"),
        ("(v128.store $pool (i32.const 0) (v128.const i64x2 0 0)) (i32.const 0)", "V128Store"),
        ("(i32x4.extract_lane 0 (v128.const i64x2 0 0))", "I32x4ExtractLane"),
        ("(return_call 0 (i32.const 0) (i32.const 0) (i32.const 0))", "ReturnCall"),
        ("(ref.is_null (ref.null func))", "RefNull"),
    ] {
        assert_eq!(prog(text), Err(VerifyError::Operator { function: 0, op: op.into() }), "{text}");
    }
}

#[test]
fn values_are_compared_with_vectors_of_constants() {
    for lanes in ["i32x4", "i16x8"] {
        let vector = "(v128.const i64x2 1 2)";
        let equal = format!("({lanes}.eq (v128.and ({lanes}.splat (local.get $off)) {vector}) {vector})");
        assert_eq!(prog(&format!("(v128.any_true (v128.or {equal} {equal}))")), Ok(()));
    }
}

#[test]
fn other_imports_are_refused() {
    let pool = r#"(import "smpnet" "pool" (memory $pool 4 4))"#;
    for (import, named) in [
        (r#"(import "env" "log" (func))"#, "env.log"),
        (r#"(import "smpnet" "pool2" (memory 1 1))"#, "smpnet.pool2"),
        (r#"(import "smpnet" "pool" (memory 4 4))"#, "smpnet.pool"),
        (r#"(import "smpnet" "pool" (global i32))"#, "smpnet.pool"),
        (r#"(import "smpnet" "table" (table 1 funcref))"#, "smpnet.table"),
    ] {
        assert_eq!(with(pool, &format!("{pool} {import}")), Err(VerifyError::Import(named.into())), "{import}");
    }
    assert!(with(r#"(import "smpnet" "pool" (memory $pool 4 4))"#, "(memory $pool 1 1)").is_err());
}

#[test]
fn a_pool_of_another_type_is_refused() {
    for ty in ["4", "4 5", "3 4", "5 5", "i64 4 4", "4 4 shared"] {
        let e = with("(memory $pool 4 4)", &format!("(memory $pool {ty})"));
        assert!(matches!(e, Err(VerifyError::PoolType { pages: PAGES, .. })), "{ty}: {e:?}");
    }
}

#[test]
fn an_io_memory_of_another_type_is_refused() {
    for ty in ["1", "0 1", "2 2", "i64 1 1", "1 1 shared", "1 1 (pagesize 1)"] {
        let e = with("(memory $io 1 1)", &format!("(memory $io {ty})"));
        assert!(matches!(e, Err(VerifyError::IoMemory(_))), "{ty}: {e:?}");
    }
    assert!(matches!(plus("(memory 1 1)"), Err(VerifyError::IoMemory(_))), "two memories");
}

#[test]
fn exports_are_exactly_those_of_the_contract() {
    let missing = |e: Result<(), VerifyError>| assert!(matches!(e, Err(VerifyError::Missing(_))), "{e:?}");
    missing(with(r#"(export "io" (memory $io))"#, ""));
    missing(with(r#"(export "io" (memory $io))"#, r#"(export "io" (memory $pool))"#));
    missing(with(r#"(export "filter")"#, r#"(export "filters")"#));
    missing(with(r#"(export "filter") (param $n i32)"#, r#"(export "filter") (param $n i32) (param i32)"#));
    missing(with(r#"(export "abi" (global $abi))"#, ""));
    missing(with("(global $abi i32", "(global $abi (mut i32)"));
    assert_eq!(with("0x00010000", "0x00020000"), Err(VerifyError::Abi(0x20000)));
    assert_eq!(plus(r#"(export "pool" (memory $pool))"#), Err(VerifyError::Export("pool".into())));
}

#[test]
fn tables_start_functions_and_tags_are_refused() {
    assert_eq!(plus("(table 1 funcref)"), Err(VerifyError::Section("table")));
    assert_eq!(plus("(func $s) (start $s)"), Err(VerifyError::Section("start function")));
    assert_eq!(plus("(elem func $prog)"), Err(VerifyError::Section("table element")));
    assert_eq!(plus("(tag)"), Err(VerifyError::Section("exception tag")));
}

#[test]
fn loops_outside_the_filter_and_recursion_are_refused() {
    assert_eq!(prog("(loop $l (br $l)) (i32.const 0)"), Err(VerifyError::Unbounded(0)));
    assert_eq!(
        prog("(call $prog (local.get $off) (local.get $buflen) (local.get $wirelen))"),
        Err(VerifyError::Unbounded(0))
    );
    assert_eq!(plus("(func $a (call $b)) (func $b (call $a))"), Err(VerifyError::Unbounded(2)));
    assert_eq!(plus("(func $a (call $b)) (func $b)"), Ok(()));
}

#[test]
fn what_is_not_a_module_is_refused() {
    for bytes in [&b""[..], b"\0asm", b"\x7fELF\x02\x01\x01", b"\0asm\x0d\0\x01\0"] {
        assert!(verify(bytes, PAGES).is_err(), "{bytes:?}");
    }
    assert_eq!(verify(&vec![0; MODULE_MAX + 1], PAGES), Err(VerifyError::TooLong(MODULE_MAX + 1)));
    // Ill-typed code.
    let mut module = wat::parse_str(good()).unwrap();
    let at = module.windows(3).position(|w| w == [0x20, 0x00, 0x2d]).unwrap();
    module[at] = 0x01;
    module[at + 1] = 0x01;
    assert!(matches!(verify(&module, PAGES), Err(VerifyError::Invalid(_))));
}

#[test]
fn no_cut_and_no_flipped_bit_makes_the_verifier_panic() {
    let module = wat::parse_str(good()).unwrap();
    for end in 0..module.len() {
        let _ = verify(&module[..end], PAGES);
    }
    for at in 0..module.len() {
        for bit in 0..8 {
            let mut bytes = module.clone();
            bytes[at] ^= 1 << bit;
            let _ = verify(&bytes, PAGES);
        }
    }
}
