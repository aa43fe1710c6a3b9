//! The compiler to WebAssembly, and the layout that a host of such a module relies on.
//!
//! # The module
//!
//! | | |
//! |---|---|
//! | import `smpnet.pool` | memory 0, 32-bit, of exactly [`CompileOptions::pool_pages`] pages: the packets. Only read. |
//! | export `io` | memory 1, one page: descriptors in, results out. |
//! | export `filter` | `(n: i32)`: judges the first n descriptors; more than [`IO_SLOTS`] count as [`IO_SLOTS`]. |
//! | export `abi` | global, constant, [`MODULE_ABI`]. |
//!
//! In `io`, descriptor i stands at `i * 16`: four little-endian u32 `{offset in the pool of the first byte that the filter
//! sees, buflen: bytes that may be read there, wirelen: length of the packet, reserved}`. The result for it, the number of
//! bytes to keep or 0, is written at [`IO_RESULTS`]` + i * 4`.
//!
//! The module has no data segment, writes to no byte of memory 0, grows no memory and calls nothing outside. Every load
//! is checked against `buflen`; with descriptors inside the pool it cannot trap.

mod emit;
mod plan;

use crate::Program;
use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, EntityType, ExportKind, ExportSection, Function, FunctionSection, GlobalSection,
    GlobalType, ImportSection, Instruction as I, MemArg, MemorySection, MemoryType, Module, TypeSection, ValType,
};

/// Value of the exported global `abi`.
pub const MODULE_ABI: u32 = 0x0001_0000;
/// How many descriptors `io` holds.
pub const IO_SLOTS: u32 = 64;
/// Size of a descriptor in bytes.
pub const IO_DESC_SIZE: u32 = 16;
/// Where the results start in `io`.
pub const IO_RESULTS: u32 = IO_SLOTS * IO_DESC_SIZE;

const MEM_POOL: u32 = 0;
const MEM_IO: u32 = 1;
const PROG_OFF: u32 = 0;
const PROG_BUFLEN: u32 = 1;
const PROG_WIRELEN: u32 = 2;

/// What the compiler must know about the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompileOptions {
    /// Size of the packet pool in WebAssembly pages of 64 KiB, 1 to 65536: minimum and maximum of the imported memory.
    pub pool_pages: u32,
}

/// Compiles a program to a module of the form above. The output depends on nothing but the arguments.
pub fn compile_wasm(program: &Program, options: &CompileOptions) -> Vec<u8> {
    let mut types = TypeSection::new();
    types.ty().function([ValType::I32; 3], [ValType::I32]);
    types.ty().function([ValType::I32], []);

    let memory = |pages: u32| MemoryType {
        minimum: u64::from(pages),
        maximum: Some(u64::from(pages)),
        memory64: false,
        shared: false,
        page_size_log2: None,
    };
    let mut imports = ImportSection::new();
    imports.import("smpnet", "pool", EntityType::Memory(memory(options.pool_pages)));
    let mut memories = MemorySection::new();
    memories.memory(memory(1));

    let mut functions = FunctionSection::new();
    functions.function(0);
    functions.function(1);

    let mut globals = GlobalSection::new();
    globals.global(
        GlobalType { val_type: ValType::I32, mutable: false, shared: false },
        &ConstExpr::i32_const(MODULE_ABI as i32),
    );

    let mut exports = ExportSection::new();
    exports.export("io", ExportKind::Memory, MEM_IO);
    exports.export("filter", ExportKind::Func, 1);
    exports.export("abi", ExportKind::Global, 0);

    let ops = program.ops();
    let mut code = CodeSection::new();
    code.function(&emit::program(ops, &plan::plan(ops)));
    code.function(&driver());

    let mut module = Module::new();
    module
        .section(&types)
        .section(&imports)
        .section(&functions)
        .section(&memories)
        .section(&globals)
        .section(&exports)
        .section(&code);
    module.finish()
}

/// `filter(n)`: one call of function 0 per descriptor.
fn driver() -> Function {
    const N: u32 = 0;
    const DESC: u32 = 1;
    const RESULT: u32 = 2;
    let word = |offset: u32| MemArg { offset: u64::from(offset), align: 2, memory_index: MEM_IO };
    let mut f = Function::new([(2, ValType::I32)]);
    let mut op = |i: I<'_>| {
        f.instruction(&i);
    };
    // n = min(n, slots), unsigned; nothing to do for 0.
    for i in [
        I::LocalGet(N),
        I::I32Const(IO_SLOTS as i32),
        I::LocalGet(N),
        I::I32Const(IO_SLOTS as i32),
        I::I32LtU,
        I::Select,
        I::LocalTee(N),
        I::I32Eqz,
        I::If(BlockType::Empty),
        I::Return,
        I::End,
        // From here n is where the last result ends.
        I::LocalGet(N),
        I::I32Const(2),
        I::I32Shl,
        I::LocalSet(N),
    ] {
        op(i);
    }
    op(I::Loop(BlockType::Empty));
    for i in [
        I::LocalGet(RESULT),
        I::LocalGet(DESC),
        I::I32Load(word(0)),
        I::LocalGet(DESC),
        I::I32Load(word(4)),
        I::LocalGet(DESC),
        I::I32Load(word(8)),
        I::Call(0),
        I::I32Store(word(IO_RESULTS)),
        I::LocalGet(DESC),
        I::I32Const(IO_DESC_SIZE as i32),
        I::I32Add,
        I::LocalSet(DESC),
        I::LocalGet(RESULT),
        I::I32Const(4),
        I::I32Add,
        I::LocalTee(RESULT),
        I::LocalGet(N),
        I::I32LtU,
        I::BrIf(0),
        I::End,
        I::End,
    ] {
        op(i);
    }
    f
}
