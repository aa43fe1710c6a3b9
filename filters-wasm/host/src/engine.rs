//! The engine for modules that smpnet generated itself, and the ready-to-run instances it makes.

use crate::memory::{BuildingPool, Creator, GUARD, IoPages, PoolWindow, RESERVATION};
use crate::verify::{FEATURES, POOL_IMPORT};
use crate::{WasmError, verify};
use smpnet_abi::{BURST_MAX, Cell, PoolDesc};
use smpnet_bpf::CompileOptions;
use smpnet_bpf::wasm::MODULE_ABI_CELLS;
use std::ptr::NonNull;
use std::sync::Arc;
use wasm_encoder::{ExportKind, ExportSection, MemorySection, MemoryType, Module as Encoder};
use wasmtime::{Config, Engine, Instance, Module, OptLevel, Store, Strategy, TypedFunc, WasmFeatures};

/// Bytes of stack that compiled code may use. Generated functions hold their registers in locals and do not recurse.
const WASM_STACK: usize = 128 * 1024;

/// What the host writes for a packet: one of 64 at the start of the io page.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// Byte offset in the pool of the first byte that the filter sees.
    pub(crate) off: u32,
    /// Bytes that are there.
    pub(crate) buflen: u32,
    /// Bytes that the packet has.
    pub(crate) wirelen: u32,
    /// Always 0.
    pub(crate) reserved: u32,
}

/// Packets and results: the start of the io page, as `smpnet_bpf` says.
#[repr(C)]
pub(crate) struct Io {
    pub(crate) packets: Packets,
    pub(crate) results: [u32; BURST_MAX as usize],
    pub(crate) bytes: u64,
    pub(crate) chained: u32,
}

/// The packets that a module is asked about, in the way that it takes them.
#[repr(C)]
pub(crate) union Packets {
    pub(crate) descriptors: [Descriptor; BURST_MAX as usize],
    pub(crate) cells: [Cell; BURST_MAX as usize],
}

const _: () = {
    use smpnet_bpf::wasm::{IO_BYTES, IO_CHAINED, IO_DESC_SIZE, IO_RESULTS};
    use std::mem::offset_of;
    assert!(offset_of!(Io, results) == IO_RESULTS as usize && size_of::<Descriptor>() == IO_DESC_SIZE as usize);
    assert!(offset_of!(Io, bytes) == IO_BYTES as usize && offset_of!(Io, chained) == IO_CHAINED as usize);
};

/// The engine for generated modules over one packet pool.
///
/// It trusts the *termination* of its modules (they come from smpnet's own compilers), so it runs them without fuel and
/// epochs; what they may *touch* is proved by [`verify`] for each module. Third-party modules need another engine.
pub struct GeneratedEngine {
    engine: Engine,
    pool_module: Module,
    window: Arc<PoolWindow>,
    cell_size: u32,
}

impl GeneratedEngine {
    /// Maps the pool and starts an engine. Installs wasmtime's SIGSEGV handler, which passes on what is not its own.
    /// `workers` is how many instances each filter has; the memory of the instances of two swaps is kept for the next.
    pub fn new(pool: &PoolDesc, workers: usize) -> Result<GeneratedEngine, WasmError> {
        let window = Arc::new(PoolWindow::map(pool)?);
        let mut config = config();
        let io = Arc::new(IoPages::new(2 * workers.max(1)));
        config.with_host_memory(Arc::new(Creator { window: window.clone(), io }));
        let engine = Engine::new(&config).map_err(|e| WasmError::engine("cannot start the engine", &e))?;
        let pool_module = Module::new(&engine, pool_module(window.pages()))
            .map_err(|e| WasmError::engine("cannot compile the pool's module", &e))?;
        Ok(GeneratedEngine { engine, pool_module, window, cell_size: pool.cell_size })
    }

    /// WebAssembly pages of the pool, which generated modules must import: `CompileOptions::pool_pages`.
    pub fn pool_pages(&self) -> u32 {
        self.window.pages()
    }

    /// How a program is compiled for packets in this pool's cells.
    pub fn options(&self) -> CompileOptions {
        CompileOptions { pool_pages: self.pool_pages(), cell_size: Some(self.cell_size) }
    }

    /// Verifies and compiles a generated module. Takes about a millisecond; for control threads.
    pub fn compile(&self, wasm: &[u8]) -> Result<CompiledModule, WasmError> {
        verify(wasm, self.pool_pages())?;
        let module = Module::new(&self.engine, wasm).map_err(|e| WasmError::engine("cannot compile the module", &e))?;
        Ok(CompiledModule { module })
    }

    /// Makes an instance and runs it once over empty packets, so that its code and its page are in memory. For control
    /// threads.
    pub fn instantiate(&self, module: &CompiledModule) -> Result<FilterInstance, WasmError> {
        let error = |e: wasmtime::Error| WasmError::engine("cannot instantiate the module", &e);
        let mut store = Store::new(&self.engine, ());
        let pool = {
            let _flag = BuildingPool::enter();
            Instance::new(&mut store, &self.pool_module, &[]).map_err(error)?
        };
        let missing = |what| WasmError::Engine { what: "cannot instantiate the module", reason: what };
        let pool = pool.get_memory(&mut store, POOL_IMPORT.1).ok_or_else(|| missing("no pool".into()))?;
        let instance = Instance::new(&mut store, &module.module, &[pool.into()]).map_err(error)?;
        let io = instance.get_memory(&mut store, "io").ok_or_else(|| missing("no io memory".into()))?;
        let filter = instance.get_typed_func(&mut store, "filter").map_err(error)?;
        let io = NonNull::new(io.data_ptr(&store).cast::<Io>()).ok_or_else(|| missing("no io page".into()))?;
        let abi = instance.get_global(&mut store, "abi").and_then(|g| g.get(&mut store).i32());
        let in_cells = abi == Some(MODULE_ABI_CELLS as i32);
        let mut instance = FilterInstance { store, filter, io, in_cells };
        instance.run(BURST_MAX as usize).map_err(|e| missing(e.to_string()))?;
        Ok(instance)
    }

    /// Prepares the calling thread for running filters (wasmtime's signal stack), which the first call on a thread would
    /// do otherwise.
    pub fn warm_up_thread() {
        Engine::tls_eager_initialize();
    }
}

/// Compiled code of a generated module, to be instantiated once per worker. Cheap to clone.
#[derive(Clone)]
pub struct CompiledModule {
    module: Module,
}

/// One instance: for one thread at a time.
pub struct FilterInstance {
    store: Store<()>,
    filter: TypedFunc<i32, ()>,
    io: NonNull<Io>,
    in_cells: bool,
}

// SAFETY: `io` points into a memory that the store owns, which is used through this value only; all else is Send.
unsafe impl Send for FilterInstance {}

/// Compiled code stopped: a load beyond the pool, a division by zero, too deep a stack.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Trap(String);

impl FilterInstance {
    /// Whether it finds packets in their cells, or wants them described.
    #[inline]
    pub(crate) fn in_cells(&self) -> bool {
        self.in_cells
    }

    #[inline]
    fn io(&self) -> &Io {
        // SAFETY: the io page lives as long as the store and is written only through `self` (see `io_mut`) and by the
        // module in `run`, is larger than Io and page-aligned; every bit pattern is an Io.
        unsafe { self.io.as_ref() }
    }

    #[inline]
    fn io_mut(&mut self) -> &mut Io {
        // SAFETY: as in `io`, and `self` is borrowed mutably.
        unsafe { self.io.as_mut() }
    }

    /// The descriptors, to be written before [`run`](Self::run).
    #[inline]
    pub(crate) fn descriptors(&mut self) -> &mut [Descriptor; BURST_MAX as usize] {
        // SAFETY: every bit pattern is a Descriptor.
        unsafe { &mut self.io_mut().packets.descriptors }
    }

    /// The cells, to be written before [`run`](Self::run).
    #[inline]
    pub(crate) fn cells(&mut self) -> &mut [Cell; BURST_MAX as usize] {
        // SAFETY: every bit pattern is an index.
        unsafe { &mut self.io_mut().packets.cells }
    }

    /// One result for each packet of the last run.
    #[inline]
    pub(crate) fn results(&self) -> &[u32; BURST_MAX as usize] {
        &self.io().results
    }

    /// The results, to be put right.
    #[inline]
    pub(crate) fn results_mut(&mut self) -> &mut [u32; BURST_MAX as usize] {
        &mut self.io_mut().results
    }

    /// Bytes of all packets of the last run over cells, and whether one of them has several.
    #[inline]
    pub(crate) fn totals(&self) -> (u64, bool) {
        let io = self.io();
        (io.bytes, io.chained != 0)
    }

    /// Judges the first `n` packets, at most 64.
    #[inline]
    pub(crate) fn run(&mut self, n: usize) -> Result<(), Trap> {
        debug_assert!(n <= BURST_MAX as usize);
        self.filter.call(&mut self.store, n as i32).map_err(|e| trap(&e))
    }
}

#[cold]
pub(crate) fn trap(e: &wasmtime::Error) -> Trap {
    Trap(crate::error::one_line(&format!("{e:#}")))
}

pub(crate) fn config() -> Config {
    let mut c = Config::new();
    c.strategy(Strategy::Cranelift).cranelift_opt_level(OptLevel::Speed);
    // Loads are not checked one by one: what is out of bounds ends in the guard, and the signal becomes a trap.
    c.memory_reservation(RESERVATION as u64).memory_guard_size(GUARD as u64).memory_may_move(false);
    c.signals_based_traps(true);
    // With memories of one's own, a data segment makes wasmtime abort the process unless this is off.
    c.memory_init_cow(false);
    c.epoch_interruption(false).consume_fuel(false);
    // Traps cost microseconds with backtraces, and nobody reads backtraces of generated code.
    c.wasm_backtrace_max_frames(None).generate_address_map(false).native_unwind_info(false);
    c.max_wasm_stack(WASM_STACK);
    c.concurrency_support(false);
    // The second proof of what the verifier allows: the engine knows no other feature.
    c.wasm_features(WasmFeatures::all().difference(FEATURES), false);
    c.wasm_features(FEATURES, true);
    c
}

/// A module that defines and exports the pool: only module instances get memories from a memory creator, host-made
/// ones (`Memory::new`) do not.
fn pool_module(pages: u32) -> Vec<u8> {
    let pages = u64::from(pages);
    let mut memories = MemorySection::new();
    memories.memory(MemoryType {
        minimum: pages,
        maximum: Some(pages),
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    let mut exports = ExportSection::new();
    exports.export(POOL_IMPORT.1, ExportKind::Memory, 0);
    let mut module = Encoder::new();
    module.section(&memories).section(&exports);
    module.finish()
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
