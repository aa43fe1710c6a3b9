//! An instance of a ruleset: what a worker asks.

use super::{
    RulesetHost,
    asking::{Asking, NoHost},
};
use crate::{Trap, WasmError};
use smpnet_npf::wasm::{BURST, FACTS, Facts, RULES, RunningRuleset};
use std::{hint::black_box, mem::offset_of, ptr::NonNull};
use wasmtime::{InstancePre, Store, TypedFunc};

/// Bytes of a page of memory, as the processor maps it.
const MAPPED: usize = 4096;

/// Where a module's memory begins, as [`smpnet_npf::wasm`] says.
#[repr(C)]
struct Burst {
    facts: [Facts; BURST as usize],
    rules: [u32; BURST as usize],
}

const _: () = assert!(offset_of!(Burst, facts) == FACTS as usize && offset_of!(Burst, rules) == RULES as usize);

/// One instance of a ruleset: for one thread at a time.
pub struct RulesetInstance {
    store: Store<Asking>,
    decide: TypedFunc<i32, ()>,
    burst: NonNull<Burst>,
}

// SAFETY: `burst` points into a memory that the store owns, which is used through this value only; all else is Send.
unsafe impl Send for RulesetInstance {}

impl RulesetInstance {
    pub(super) fn new(pre: &InstancePre<Asking>, asking: Asking) -> Result<RulesetInstance, WasmError> {
        let what = "cannot instantiate the ruleset";
        let error = |e: wasmtime::Error| WasmError::engine(what, &e);
        let missing = |reason: String| WasmError::Engine { what, reason };
        let mut store = Store::new(pre.module().engine(), asking);
        let instance = pre.instantiate(&mut store).map_err(error)?;
        let memory = instance.get_memory(&mut store, "memory").ok_or_else(|| missing("no memory".into()))?;
        let decide = instance.get_typed_func(&mut store, "decide").map_err(error)?;
        if memory.data_size(&store) < size_of::<Burst>() {
            return Err(missing("its memory is too small".into()));
        }
        // Mapped now, and not by the first packets.
        memory.data(&store).iter().step_by(MAPPED).for_each(|byte| _ = black_box(*byte));
        let burst = NonNull::new(memory.data_ptr(&store).cast::<Burst>()).ok_or_else(|| missing("no memory".into()))?;
        // SAFETY: the memory is large enough, begins on a page, and lives as long as the store; it is of fixed size, so
        // that it does not move.
        unsafe { store.data_mut().set_facts(&raw const (*burst.as_ptr()).facts) };
        let mut new = RulesetInstance { store, decide, burst };
        // The first write to a page of the image makes a copy of it, which is not for a worker to wait for either.
        new.facts().fill(Facts::default());
        new.decide(BURST as usize, &mut NoHost).map_err(|e| missing(e.to_string()))?;
        Ok(new)
    }

    /// What is known of the packets of a burst, to be written before [`decide`](Self::decide).
    #[inline]
    pub fn facts(&mut self) -> &mut [Facts; BURST as usize] {
        // SAFETY: the memory lives as long as the store, is larger than a Burst and begins on a page; it is written through
        // `self` and by the module in `decide` only, which both need `self` mutably. Every bit pattern is a value.
        unsafe { &mut (*self.burst.as_ptr()).facts }
    }

    /// Decides on the first `n` packets, at most 64: the number of the rule of each, or
    /// [`NONE`](smpnet_npf::wasm::NONE). No memory is taken.
    ///
    /// A panic of the host passes through.
    ///
    /// # Errors
    /// The module stopped, which only an error in its compiler could bring about; nothing is decided, and the instance can
    /// be asked again.
    #[inline]
    pub fn decide(&mut self, n: usize, host: &mut dyn RulesetHost) -> Result<&[u32], Trap> {
        let n = n.min(BURST as usize);
        let mut host: &mut dyn RulesetHost = host;
        // SAFETY: `host` lives until this function ends, before which it is taken away again; where a panic comes in
        // between, the next call puts its own in place, and there are no calls of the module but by this function.
        unsafe { self.store.data_mut().set_host((&raw mut host).cast()) };
        let called = self.decide.call(&mut self.store, n as i32);
        // SAFETY: nobody is to be asked.
        unsafe { self.store.data_mut().set_host(std::ptr::null_mut::<&mut dyn RulesetHost>()) };
        called.map_err(|e| crate::engine::trap(&e))?;
        // SAFETY: as in `facts`.
        let rules = unsafe { &(*self.burst.as_ptr()).rules };
        Ok(&rules[..n])
    }
}

impl RunningRuleset for RulesetInstance {
    fn facts(&mut self) -> &mut [Facts; BURST as usize] {
        RulesetInstance::facts(self)
    }

    fn decide(&mut self, n: usize, host: &mut dyn RulesetHost) -> Result<&[u32], String> {
        RulesetInstance::decide(self, n, host).map_err(|trap| trap.to_string())
    }
}
