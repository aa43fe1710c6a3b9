//! The engine for modules of others, and the instances it makes.

use super::fault::{Fault, FaultKind};
use super::imports::{Cx, Lines, linker};
use super::instance::{GuestInstance, Parts};
use super::ticker::{Inside, Ticker, Watch};
use super::{Capabilities, Judged, ModuleError, ModuleInfo, ModuleLimits, RunHead, RunPacket, inspect, runner};
use crate::cache::CodeCache;
use crate::memory::{GUARD, RESERVATION};
use crate::tables::Tables;
use crate::{ModuleSpec, WasmError};
use sha2::{Digest, Sha256};
use smpnet_filter_abi::export;
use std::num::NonZeroUsize;
use std::sync::Arc;
use wasmtime::{
    Config, Engine, InstancePre, Linker, Module, OptLevel, Store, StoreLimitsBuilder, Strategy, UpdateDeadline,
    WasmFeatures,
};

/// Bytes of stack that compiled code may use; deeper recursion traps.
const WASM_STACK: usize = 128 * 1024;
/// Frames of a trap that are named.
const FRAMES: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// The engine for modules of strangers: each has its own memory, its time is watched, and nothing but four functions of the
/// host can be called. It never sees packet memory.
pub(crate) struct GuestEngine {
    engine: Engine,
    linker: Linker<Cx>,
    ticker: Arc<Ticker>,
    workers: usize,
}

/// Compiled code of a module, to be instantiated once for each worker.
pub(crate) struct GuestCode {
    pub(crate) info: ModuleInfo,
    pub(crate) limits: ModuleLimits,
    pub(crate) granted: Capabilities,
    config: Vec<u8>,
    /// The host's name of each table of the manifest.
    pub(crate) tables: Vec<String>,
    pre: InstancePre<Cx>,
}

/// For whom an instance is made.
#[derive(Clone, Copy)]
pub(crate) struct For {
    pub(crate) generation: u64,
    /// Index of the worker.
    pub(crate) worker: usize,
}

/// An instance for one question of a control thread. While it lives, the engine's clock runs.
pub(crate) struct Aside<'e> {
    guest: GuestInstance,
    _inside: Inside<'e>,
}

impl Aside<'_> {
    /// Judges one packet.
    ///
    /// # Errors
    /// A fault; the instance is of no use after it.
    pub(crate) fn judge(&mut self, head: &RunHead, packet: RunPacket) -> Result<Judged, Fault> {
        let burst = [packet];
        let patches = runner::ask(&mut self.guest, head, &burst)?;
        let mut judged = runner::hear(&mut self.guest, &burst, patches);
        // One verdict for each packet of the burst.
        judged.pop().ok_or_else(|| Fault::new(FaultKind::Result, "no verdict"))
    }
}

impl GuestEngine {
    /// Starts an engine and its clock. `workers` is how many threads run modules at the same time.
    pub(crate) fn new(workers: usize) -> Result<GuestEngine, WasmError> {
        let error = |e: wasmtime::Error| WasmError::engine("cannot start the engine for modules", &e);
        let engine = Engine::new(&config()).map_err(error)?;
        let linker = linker(&engine).map_err(error)?;
        let ticker = Ticker::start(&engine, workers)
            .map_err(|source| WasmError::Map { what: "a thread that watches modules", source })?;
        Ok(GuestEngine { engine, linker, ticker, workers })
    }

    /// Looks through a module and compiles it, or takes the code from the cache. For control threads.
    pub(crate) fn compile(&self, spec: &ModuleSpec, cache: Option<&CodeCache>) -> Result<GuestCode, WasmError> {
        let info = inspect(&spec.wasm, &spec.limits)?;
        let asked = info.manifest.capabilities;
        // `log` and `clock` may be refused without harm; what else a module asks for it needs.
        let missing = asked.iter().filter(|c| !spec.allow.has(*c) && !Capabilities::usual().has(*c));
        let names: Vec<String> = missing.map(|c| c.to_string()).collect();
        if !names.is_empty() {
            return Err(ModuleError::NotGranted { names }.into());
        }
        let all = Capabilities::usual().iter().chain(asked.iter());
        let granted: Capabilities = all.filter(|c| spec.allow.has(*c)).collect();
        let tables = &info.manifest.tables;
        let tables = tables.iter().map(|t| spec.tables.get(&t.name).unwrap_or(&t.name).clone()).collect();
        if let Some(odd) = spec.tables.keys().find(|k| !info.manifest.tables.iter().any(|t| t.name == **k)) {
            let names: Vec<&str> = info.manifest.tables.iter().map(|t| t.name.as_str()).collect();
            let hint = crate::error::nearest(odd, &names);
            return Err(ModuleError::Table(format!("the module looks into no table named {odd}{hint}")).into());
        }
        let module = self.code(&spec.wasm, cache)?;
        let pre = self.linker.instantiate_pre(&module).map_err(|e| WasmError::engine("cannot link the module", &e))?;
        Ok(GuestCode { info, limits: spec.limits, granted, config: spec.config.clone(), tables, pre })
    }

    fn code(&self, wasm: &[u8], cache: Option<&CodeCache>) -> Result<Module, WasmError> {
        let digest: [u8; 32] = Sha256::digest(wasm).into();
        if let Some(module) = cache.and_then(|c| c.load(&self.engine, &digest)) {
            return Ok(module);
        }
        let module = Module::new(&self.engine, wasm).map_err(|e| WasmError::engine("cannot compile the module", &e))?;
        if let Some(cache) = cache {
            cache.store(&self.engine, &digest, &module);
        }
        Ok(module)
    }

    /// Makes an instance and sets it up. For control threads.
    pub(crate) fn instantiate(
        &self,
        code: &GuestCode,
        tables: &Tables,
        lines: &Arc<Lines>,
        whose: For,
    ) -> Result<GuestInstance, WasmError> {
        self.make(code, tables, lines, whose, &self.ticker)
    }

    /// Makes an instance for a control thread to ask. Its calls are not taken for those of the worker whose index it has.
    pub(crate) fn aside(
        &self,
        code: &GuestCode,
        tables: &Tables,
        lines: &Arc<Lines>,
        whose: For,
    ) -> Result<Aside<'_>, WasmError> {
        let inside = self.ticker.control();
        let guest = self.make(code, tables, lines, whose, &Ticker::unwatched())?;
        Ok(Aside { guest, _inside: inside })
    }

    fn make(
        &self,
        code: &GuestCode,
        tables: &Tables,
        lines: &Arc<Lines>,
        whose: For,
        ticker: &Arc<Ticker>,
    ) -> Result<GuestInstance, WasmError> {
        let manifest = &code.info.manifest;
        let readers = manifest.tables.iter().zip(&code.tables).map(|(t, name)| tables.reader(name, t.kind));
        let readers = readers.collect::<Result<_, _>>().map_err(ModuleError::Table)?;
        let limits = StoreLimitsBuilder::new()
            .memory_size(code.info.memory_max as usize * crate::memory::WASM_PAGE)
            .table_elements(code.limits.table_elements)
            .instances(1)
            .memories(1)
            .tables(16)
            .build();
        let (watch, ticks) = Watch::new(code.limits.init());
        let granted = code.granted;
        let cx = Cx { limits, memory: None, granted, tables: readers, lines: lines.clone(), watch, log: (0, 0) };
        let mut store = Store::new(&self.engine, cx);
        store.limiter(|cx| &mut cx.limits);
        store.epoch_deadline_callback(|mut cx| {
            if cx.data_mut().watch.over() {
                return Err(wasmtime::Error::from(wasmtime::Trap::Interrupt));
            }
            Ok(UpdateDeadline::Continue(1))
        });
        store.set_epoch_deadline(ticks);
        let _inside = self.ticker.control();
        let setup = |call: &str, e: wasmtime::Error| {
            let fault = Fault::of(call, &e);
            // Not a trap but a refusal of wasmtime: its reason is on the whole chain.
            let text = if fault.trace.is_empty() { crate::error::one_line(&format!("{e:#}")) } else { fault.line };
            WasmError::from(ModuleError::Setup(text))
        };
        let instance = code.pre.instantiate(&mut store).map_err(|e| setup("start", e))?;
        let memory = instance.get_memory(&mut store, export::MEMORY);
        let memory = memory.ok_or_else(|| ModuleError::Export("does not export its memory as `memory`".into()))?;
        store.data_mut().memory = Some(memory);
        if let Ok(initialize) = instance.get_typed_func::<(), ()>(&mut store, "_initialize") {
            initialize.call(&mut store, ()).map_err(|e| setup("_initialize", e))?;
        }
        let parts = Parts { store, instance, memory, ticker: ticker.clone() };
        let mut guest = GuestInstance::new(parts, code, whose, self.workers, &setup)?;
        guest.init(&code.config)?;
        Ok(guest)
    }

    #[cfg(test)]
    pub(crate) fn ticker(&self) -> &Ticker {
        &self.ticker
    }
}

fn config() -> Config {
    let mut c = Config::new();
    c.strategy(Strategy::Cranelift).cranelift_opt_level(OptLevel::Speed);
    // The memory lies in front of so much address space that no load needs a check, and it never moves.
    c.memory_reservation(RESERVATION as u64).memory_guard_size(GUARD as u64).memory_may_move(false);
    c.signals_based_traps(true);
    // Data segments are copied: mapped ones cost every running worker an interruption at the first write to a page.
    c.memory_init_cow(false);
    c.epoch_interruption(true).consume_fuel(false);
    // Traps name the functions that they happened in.
    c.wasm_backtrace_max_frames(Some(FRAMES)).native_unwind_info(false);
    c.max_wasm_stack(WASM_STACK);
    c.concurrency_support(false);
    c.wasm_features(WasmFeatures::all().difference(inspect::FEATURES), false);
    c.wasm_features(inspect::FEATURES, true);
    c
}
