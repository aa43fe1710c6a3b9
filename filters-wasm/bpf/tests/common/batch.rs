//! Many programs in one module, each function exactly as the compiler made it: starting a module costs more than
//! compiling a program, and property tests compile a million.

use super::{POOL_PAGES, Packet, Way, write_packets};
use smpnet_bpf::{Program, compile_wasm};
use wasm_encoder::{
    CodeSection, EntityType, ExportKind, ExportSection, FunctionSection, ImportSection, MemorySection, MemoryType,
    TypeSection, ValType,
};
use wasmparser::{Parser, Payload};
use wasmtime::{Engine, Instance, Memory, Module, Store, TypedFunc};

/// Programs that were compiled together.
pub struct Batch {
    store: Store<()>,
    pool: Memory,
    io: Memory,
    filters: Vec<TypedFunc<i32, ()>>,
    way: Way,
}

impl Batch {
    pub fn new(engine: &Engine, programs: &[Program], way: Way) -> Batch {
        let module = Module::new(engine, merged(programs, way)).unwrap();
        let mut store = Store::new(engine, ());
        let ty = wasmtime::MemoryType::new(POOL_PAGES, Some(POOL_PAGES));
        let pool = Memory::new(&mut store, ty).unwrap();
        let instance = Instance::new(&mut store, &module, &[pool.into()]).unwrap();
        let io = instance.get_memory(&mut store, "io").unwrap();
        let filters =
            (0..programs.len()).map(|i| instance.get_typed_func(&mut store, &i.to_string()).unwrap()).collect();
        Batch { store, pool, io, filters, way }
    }

    /// What program `i` says of up to 64 packets.
    pub fn judge(&mut self, i: usize, packets: &[Packet<'_>]) -> Vec<u32> {
        write_packets(&mut self.store, self.pool, self.io, packets, self.way);
        self.filters[i].call(&mut self.store, packets.len() as i32).expect("a generated module does not trap");
        let results = &self.io.data(&self.store)[1024..];
        (0..packets.len()).map(|i| u32::from_le_bytes(results[i * 4..i * 4 + 4].try_into().unwrap())).collect()
    }
}

fn merged(programs: &[Program], way: Way) -> Vec<u8> {
    let mut types = TypeSection::new();
    types.ty().function([ValType::I32], []);
    let memory = |pages: u32| MemoryType {
        minimum: u64::from(pages),
        maximum: Some(u64::from(pages)),
        memory64: false,
        shared: false,
        page_size_log2: None,
    };
    let mut imports = ImportSection::new();
    imports.import("smpnet", "pool", EntityType::Memory(memory(POOL_PAGES)));
    let mut memories = MemorySection::new();
    memories.memory(memory(1));
    let (mut functions, mut exports, mut code) = (FunctionSection::new(), ExportSection::new(), CodeSection::new());
    exports.export("io", ExportKind::Memory, 1);
    for (i, program) in programs.iter().enumerate() {
        functions.function(0);
        exports.export(&i.to_string(), ExportKind::Func, i as u32);
        let wasm = compile_wasm(program, &way.options());
        let bodies = Parser::new(0).parse_all(&wasm).filter_map(|payload| match payload.unwrap() {
            Payload::CodeSectionEntry(body) => Some(body.range()),
            _ => None,
        });
        let bodies: Vec<_> = bodies.collect();
        assert_eq!(bodies.len(), 1, "one function per program");
        code.raw(&wasm[bodies[0].clone()]);
    }
    let mut module = wasm_encoder::Module::new();
    module.section(&types).section(&imports).section(&functions).section(&memories).section(&exports).section(&code);
    module.finish()
}
