//! The engine for modules of rulesets, and their compiled code.

use super::{
    BrokenRuleset, RulesetInstance,
    asking::{Asking, link},
    verify,
};
use crate::WasmError;
use smpnet_bpf::Program;
use smpnet_npf::{
    plan::Plan,
    wasm::{self, RulesetCompiler, RunningRuleset, TooLarge},
};
use std::sync::Arc;
use wasmtime::{Engine, InstancePre, Linker, Module};

/// Why a ruleset could not be made ready to run. What was in force still is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RulesetError {
    /// Too many rules.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The module is none that the compiler of rulesets makes.
    #[error("not a ruleset's module that smpnet generates: {0}")]
    Broken(#[from] BrokenRuleset),
    /// wasmtime refused: the engine's configuration, a module that passed the verifier, or memory for an instance.
    #[error(transparent)]
    Wasm(#[from] WasmError),
}

/// The engine for modules of rulesets. Cheap to clone; one is enough for a router.
///
/// It has neither fuel nor epochs: that its modules end is proved by [`verify`], and they are made by this process.
#[derive(Clone)]
pub struct RulesetEngine {
    engine: Engine,
    linker: Arc<Linker<Asking>>,
}

impl RulesetEngine {
    /// Starts an engine. Installs wasmtime's SIGSEGV handler, which passes on what is not its own.
    ///
    /// # Errors
    /// wasmtime refuses.
    pub fn new() -> Result<RulesetEngine, RulesetError> {
        let mut config = crate::engine::config();
        // Memories are wasmtime's own here, so that data may be mapped: instances share the image of a ruleset.
        config.memory_init_cow(true);
        let engine = Engine::new(&config).map_err(|e| WasmError::engine("cannot start the engine", &e))?;
        let mut linker = Linker::new(&engine);
        link(&mut linker).map_err(|e| WasmError::engine("cannot offer the host's functions", &e))?;
        Ok(RulesetEngine { engine, linker: Arc::new(linker) })
    }

    /// Makes the module of a plan ready to run. For control threads; takes some milliseconds, whatever the number of rules.
    ///
    /// # Errors
    /// The plan is too large. (That the module does not pass the verifier would be an error in its compiler.)
    pub fn compile(&self, plan: &Plan) -> Result<Ruleset, RulesetError> {
        self.load(&wasm::compile(plan)?, plan.programs().into())
    }

    /// Verifies and compiles a module with the programs that it names by their numbers.
    pub(super) fn load(&self, module: &[u8], programs: Arc<[Program]>) -> Result<Ruleset, RulesetError> {
        verify(module)?;
        let module =
            Module::new(&self.engine, module).map_err(|e| WasmError::engine("cannot compile the ruleset", &e))?;
        let pre = self.linker.instantiate_pre(&module);
        let pre = pre.map_err(|e| WasmError::engine("cannot link the ruleset", &e))?;
        Ok(Ruleset { pre, programs })
    }
}

/// Compiled code of a ruleset, to be instantiated for each worker. Cheap to clone.
#[derive(Clone)]
pub struct Ruleset {
    pre: InstancePre<Asking>,
    programs: Arc<[Program]>,
}

impl Ruleset {
    /// Makes an instance and runs it once over empty packets, so that its code and data are in memory. For control threads.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn instantiate(&self) -> Result<RulesetInstance, RulesetError> {
        let asking = Asking::new(self.programs.clone());
        Ok(RulesetInstance::new(&self.pre, asking)?)
    }
}

impl RulesetCompiler for RulesetEngine {
    fn run(&self, plan: &Plan, workers: usize) -> Result<Vec<Box<dyn RunningRuleset>>, String> {
        let ruleset = self.compile(plan).map_err(|e| e.to_string())?;
        let instance = || ruleset.instantiate().map(|i| Box::new(i) as Box<dyn RunningRuleset>);
        (0..workers).map(|_| instance().map_err(|e| e.to_string())).collect()
    }
}
