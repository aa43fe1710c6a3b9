//! The compiler to WebAssembly, and the layout that a host of such a module relies on.
//!
//! # The module
//!
//! | | |
//! |---|---|
//! | import `smpnet.pool` | memory 0, 32-bit, of exactly [`CompileOptions::pool_pages`] pages: the packets. Only read. |
//! | export `io` | memory 1, one page: packets in, results out. |
//! | export `filter` | `(n: i32)`: judges the first n packets; more than [`IO_SLOTS`] count as [`IO_SLOTS`]. |
//! | export `abi` | global, constant: [`MODULE_ABI`] or [`MODULE_ABI_CELLS`]. |
//!
//! Packets come in one of two ways, by [`CompileOptions::cell_size`]:
//!
//! - Described: in `io`, descriptor i stands at `i * 16`: four little-endian u32 `{offset in the pool of the first byte that
//!   the filter sees, buflen: bytes that may be read there, wirelen: length of the packet, reserved}`.
//! - In cells, as on the packet path: in `io`, the index of packet i's cell stands at `i * 4`, and the module reads the
//!   cell's [`PktHdr`] itself. It judges the bytes of that cell alone. Of all packets of the call it writes the sum of
//!   `pkt_len` as a u64 at [`IO_BYTES`], and at [`IO_CHAINED`] a u32 that is not 0 when one of them has a next cell.
//!
//! The result for packet i, the number of bytes to keep or 0, is written at [`IO_RESULTS`]` + i * 4`.
//!
//! The module has no data segment, writes to no byte of memory 0, grows no memory and calls nothing: it is one function. Every load
//! is checked against the packet's length; with packets inside the pool it cannot trap.

mod emit;
mod plan;
mod runs;

use crate::Program;
use smpnet_abi::PktHdr;
use wasm_encoder::{
    CodeSection, ConstExpr, EntityType, ExportKind, ExportSection, FunctionSection, GlobalSection, GlobalType,
    ImportSection, MemorySection, MemoryType, Module, TypeSection, ValType,
};

/// Value of the exported global `abi` of a module whose packets are described.
pub const MODULE_ABI: u32 = 0x0001_0000;
/// The same of one that finds them in their cells.
pub const MODULE_ABI_CELLS: u32 = 0x0001_0001;
/// How many descriptors `io` holds.
pub const IO_SLOTS: u32 = 64;
/// Size of a descriptor in bytes.
pub const IO_DESC_SIZE: u32 = 16;
/// Where the results start in `io`.
pub const IO_RESULTS: u32 = IO_SLOTS * IO_DESC_SIZE;
/// Where the bytes of all packets stand.
pub const IO_BYTES: u32 = IO_RESULTS + IO_SLOTS * 4;
/// Where it stands whether one of them has several cells.
pub const IO_CHAINED: u32 = IO_BYTES + 8;

const MEM_POOL: u32 = 0;
const MEM_IO: u32 = 1;

/// What the compiler must know about the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompileOptions {
    /// Size of the packet pool in WebAssembly pages of 64 KiB, 1 to 65536: minimum and maximum of the imported memory.
    pub pool_pages: u32,
    /// Bytes of a cell of the pool, for a module that reads the headers of packets itself; `None` for one whose packets are
    /// described.
    pub cell_size: Option<u32>,
}

// What the module relies on: two loads get all of a header that it needs.
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(PktHdr, next) == 0 && offset_of!(PktHdr, pkt_len) == 4);
    assert!(offset_of!(PktHdr, data_off) == 8 && offset_of!(PktHdr, data_len) == 10);
    assert!(smpnet_abi::CELL_NONE == u32::MAX && smpnet_abi::BURST_MAX == IO_SLOTS);
};

/// Compiles a program to a module of the form above. The output depends on nothing but the arguments.
pub fn compile_wasm(program: &Program, options: &CompileOptions) -> Vec<u8> {
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
    imports.import("smpnet", "pool", EntityType::Memory(memory(options.pool_pages)));
    let mut memories = MemorySection::new();
    memories.memory(memory(1));

    let mut functions = FunctionSection::new();
    functions.function(0);

    let mut globals = GlobalSection::new();
    globals.global(
        GlobalType { val_type: ValType::I32, mutable: false, shared: false },
        &ConstExpr::i32_const(if options.cell_size.is_some() { MODULE_ABI_CELLS } else { MODULE_ABI } as i32),
    );

    let mut exports = ExportSection::new();
    exports.export("io", ExportKind::Memory, MEM_IO);
    exports.export("filter", ExportKind::Func, 0);
    exports.export("abi", ExportKind::Global, 0);

    let ops = program.ops();
    let mut code = CodeSection::new();
    let plan = plan::plan(ops);
    code.function(&emit::filter(ops, &plan, &runs::runs(ops, &plan), options.cell_size));

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
