//! The two engines of a router, started when they are first needed.

use crate::build::wasm_error;
use crate::cache::CodeCache;
use crate::guest::{For, GuestCode, GuestEngine, Lines};
use crate::slot::{Handover, Instance, Prepared};
use crate::tables::Tables;
use crate::version::{Code, FilterVersion};
use crate::{Attach, FilterError, GeneratedEngine};
use std::sync::{Arc, Mutex, PoisonError};

/// Engines, and what modules share.
pub(crate) struct Engines {
    attach: Arc<dyn Attach>,
    pub(crate) tables: Tables,
    pub(crate) cache: Mutex<Option<Arc<CodeCache>>>,
    generated: Mutex<Option<Arc<GeneratedEngine>>>,
    guest: Mutex<Option<Arc<GuestEngine>>>,
}

impl Engines {
    pub(crate) fn new(attach: Arc<dyn Attach>) -> Engines {
        Engines {
            attach,
            tables: Tables::default(),
            cache: Mutex::default(),
            generated: Mutex::default(),
            guest: Mutex::default(),
        }
    }

    /// The engine for generated modules.
    pub(crate) fn generated(&self, name: &str) -> Result<Arc<GeneratedEngine>, FilterError> {
        let mut engine = self.generated.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = &*engine {
            return Ok(engine.clone());
        }
        let new = GeneratedEngine::new(&self.attach.pool(), self.attach.workers()).map_err(|e| wasm_error(name, e))?;
        self.attach.warm_up();
        Ok(engine.insert(Arc::new(new)).clone())
    }

    /// The engine for modules of others.
    pub(crate) fn guest(&self, name: &str) -> Result<Arc<GuestEngine>, FilterError> {
        let mut engine = self.guest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = &*engine {
            return Ok(engine.clone());
        }
        let new = GuestEngine::new(self.attach.workers()).map_err(|e| wasm_error(name, e))?;
        self.attach.warm_up();
        Ok(engine.insert(Arc::new(new)).clone())
    }

    pub(crate) fn cache(&self) -> Option<Arc<CodeCache>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One instance for each worker.
    pub(crate) fn instances(
        &self,
        name: &str,
        version: &Arc<FilterVersion>,
        lines: &Arc<Lines>,
    ) -> Result<Vec<Handover>, FilterError> {
        (0..self.attach.workers()).map(|worker| self.instance(name, version, worker, lines)).collect()
    }

    /// An instance for one worker.
    pub(crate) fn instance(
        &self,
        name: &str,
        version: &Arc<FilterVersion>,
        worker: usize,
        lines: &Arc<Lines>,
    ) -> Result<Handover, FilterError> {
        let instance = match &version.artefact.code {
            Code::Generated(module) => {
                let engine = self.generated(name)?;
                Instance::Generated(engine.instantiate(module).map_err(|e| wasm_error(name, e))?)
            }
            Code::Guest(code) => {
                let engine = self.guest(name)?;
                let whose = For { generation: version.generation, worker };
                let make = || self.guest_instance(name, &engine, code, lines, whose);
                let guest = make()?;
                let succeeds = guest.takes_state() && version.generation > 1;
                let spare = if succeeds { Some(make()?) } else { None };
                Instance::Guest { guest, spare }
            }
        };
        Ok(Box::new(Prepared { version: version.clone(), instance, broken: false }))
    }

    fn guest_instance(
        &self,
        name: &str,
        engine: &GuestEngine,
        code: &GuestCode,
        lines: &Arc<Lines>,
        whose: For,
    ) -> Result<Box<crate::guest::GuestInstance>, FilterError> {
        let made = engine.instantiate(code, &self.tables, lines, whose);
        made.map(Box::new).map_err(|e| wasm_error(name, e))
    }
}
