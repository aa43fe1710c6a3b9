use super::*;
use crate::VerifyError;
use crate::testpool::{CELL_SIZE, DATA_OFF, Shape, TestPool, first_byte_is, module};

fn descriptor(cell: u32, len: u32) -> Descriptor {
    Descriptor { off: cell * CELL_SIZE as u32 + u32::from(DATA_OFF), buflen: len, wirelen: len, reserved: 0 }
}

fn judge(instance: &mut FilterInstance, descriptors: &[Descriptor]) -> Vec<u32> {
    instance.descriptors()[..descriptors.len()].copy_from_slice(descriptors);
    instance.run(descriptors.len()).unwrap();
    instance.results()[..descriptors.len()].to_vec()
}

#[test]
fn a_filter_reads_packets_in_place() {
    let pool = TestPool::new(64);
    let engine = GeneratedEngine::new(&pool.desc, 1).unwrap();
    let compiled = engine.compile(&module(pool.pages(), &first_byte_is(0x45))).unwrap();
    let mut instance = engine.instantiate(&compiled).unwrap();
    pool.put(3, &[0x45, 1]);
    pool.put(63, &[0x46, 1]);
    assert_eq!(judge(&mut instance, &[descriptor(3, 2), descriptor(63, 2), descriptor(3, 0)]), [1, 0, 0]);
    // What is written afterwards is seen: no copy was made.
    pool.put(63, &[0x45, 1]);
    assert_eq!(judge(&mut instance, &[descriptor(63, 2)]), [1]);
}

#[test]
fn instances_share_the_pool_and_nothing_else() {
    let pool = TestPool::new(31);
    let engine = GeneratedEngine::new(&pool.desc, 1).unwrap();
    let compiled = engine.compile(&module(pool.pages(), &first_byte_is(7))).unwrap();
    let mut a = engine.instantiate(&compiled).unwrap();
    let mut b = engine.instantiate(&compiled).unwrap();
    pool.put(0, &[7]);
    assert_eq!(judge(&mut a, &[descriptor(0, 1)]), [1]);
    assert_ne!(a.io, b.io);
    assert_eq!(b.descriptors()[0], Descriptor { off: 0, buflen: 0, wirelen: 0, reserved: 0 });
    // The page of an instance that is gone serves the next one, clean.
    let page = a.io;
    drop(a);
    let mut c = engine.instantiate(&compiled).unwrap();
    assert_eq!(c.io, page);
    assert_eq!(c.descriptors()[0].off, 0);
    assert_eq!(judge(&mut c, &[descriptor(0, 1)]), [1]);
}

#[test]
fn a_load_beyond_the_pool_traps_and_the_instance_goes_on() {
    // 33 cells end in the 18th page of 4 KiB; the rest of the second WebAssembly page has no memory behind it.
    let pool = TestPool::new(33);
    assert_eq!(pool.pages(), 2);
    let engine = GeneratedEngine::new(&pool.desc, 1).unwrap();
    let compiled = engine.compile(&module(2, &first_byte_is(1))).unwrap();
    let mut instance = engine.instantiate(&compiled).unwrap();
    pool.put(32, &[1]);
    for off in [18 << 12, 2 << 16, u32::MAX - 3] {
        instance.descriptors()[0] = Descriptor { off, buflen: 1, wirelen: 1, reserved: 0 };
        let trap = instance.run(1).unwrap_err().to_string();
        assert!(trap.contains("out of bounds"), "{trap}");
        assert_eq!(judge(&mut instance, &[descriptor(32, 1)]), [1]);
    }
}

#[test]
fn other_traps_are_errors_too() {
    let pool = TestPool::new(31);
    let engine = GeneratedEngine::new(&pool.desc, 1).unwrap();
    for (prog, what) in [
        ("(if (local.get $buflen) (then (unreachable))) (i32.const 0)", "unreachable"),
        ("(i32.div_u (i32.const 1) (i32.eqz (local.get $buflen)))", "divide by zero"),
    ] {
        let mut instance = engine.instantiate(&engine.compile(&module(1, prog)).unwrap()).unwrap();
        instance.descriptors()[0].buflen = 1;
        let trap = instance.run(1).unwrap_err().to_string();
        assert!(trap.contains(what), "{trap}");
    }
}

#[test]
fn pools_that_would_end_the_process_are_refused() {
    let unsealed = TestPool::shaped(Shape { cells: 31, sealed: false });
    assert!(matches!(GeneratedEngine::new(&unsealed.desc, 1), Err(WasmError::PoolNotSealed)));
    let pool = TestPool::new(31);
    let no_fd = PoolDesc { fd: -1, ..pool.desc };
    assert!(matches!(GeneratedEngine::new(&no_fd, 1), Err(WasmError::PoolWithoutFd)));
    for bytes in [0, pool.desc.bytes + 1, (4 << 30) + 1, u64::MAX] {
        let lying = PoolDesc { bytes, ..pool.desc };
        assert!(matches!(GeneratedEngine::new(&lying, 1), Err(WasmError::PoolSize(b)) if b == bytes), "{bytes}");
    }
}

#[test]
fn a_sealed_pool_cannot_be_truncated_under_the_filters() {
    let pool = TestPool::new(31);
    let _engine = GeneratedEngine::new(&pool.desc, 1).unwrap();
    // SAFETY: a system call on our own descriptor.
    assert_eq!(unsafe { libc::ftruncate(pool.desc.fd, 0) }, -1);
}

/// Everything here ends the process when it is instantiated or run; all of it is refused before it is compiled.
#[test]
fn deadly_modules_are_refused_before_compilation() {
    let pool = TestPool::new(31);
    let engine = GeneratedEngine::new(&pool.desc, 1).unwrap();
    let bulk = module(1, "(memory.fill $pool (i32.const 0) (i32.const 0) (i32.const 1)) (i32.const 0)");
    assert!(matches!(engine.compile(&bulk), Err(WasmError::Verify(VerifyError::Bulk { .. }))));
    let data = r#"(module (memory 1 1) (data (i32.const 0) "x"))"#;
    let data = wat::parse_str(data).unwrap();
    assert!(matches!(engine.compile(&data), Err(WasmError::Verify(_))));
}

/// The engine's own settings are a second wall behind the verifier.
#[test]
fn the_engine_alone_survives_a_data_segment_and_refuses_bulk_instructions() {
    let pool = TestPool::new(31);
    let engine = GeneratedEngine::new(&pool.desc, 1).unwrap();
    let data = wat::parse_str(r#"(module (memory 1 1) (data (i32.const 0) "x"))"#).unwrap();
    let module = Module::new(&engine.engine, data).unwrap();
    let mut store = Store::new(&engine.engine, ());
    Instance::new(&mut store, &module, &[]).unwrap();
    for text in [
        "(module (memory 1 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 1))))",
        "(module (func (param v128) (result v128) (i8x16.relaxed_swizzle (local.get 0) (local.get 0))))",
        "(module (func (result f32) (f32.const 0)))",
        "(module (memory 1 1 shared))",
        "(module (memory i64 1 1))",
        "(module (table 2 externref))",
    ] {
        assert!(Module::new(&engine.engine, wat::parse_str(text).unwrap()).is_err(), "{text}");
    }
}

#[test]
fn the_memory_creator_makes_no_third_kind_of_memory() {
    let pool = TestPool::new(64);
    let engine = GeneratedEngine::new(&pool.desc, 1).unwrap();
    for text in ["(module (memory 2 2))", "(module (memory 1))", "(module (memory 1 2))", "(module (memory 0 0))"] {
        let module = Module::new(&engine.engine, wat::parse_str(text).unwrap()).unwrap();
        let mut store = Store::new(&engine.engine, ());
        assert!(Instance::new(&mut store, &module, &[]).is_err(), "{text}");
    }
}

#[test]
fn precompiled_code_is_never_taken() {
    let pool = TestPool::new(31);
    let engine = GeneratedEngine::new(&pool.desc, 1).unwrap();
    let compiled = engine.compile(&module(1, "(i32.const 1)")).unwrap();
    let native = compiled.module.serialize().unwrap();
    assert!(matches!(engine.compile(&native), Err(WasmError::Verify(_))));
}
