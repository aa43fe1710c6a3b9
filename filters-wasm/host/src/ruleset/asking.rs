//! What a module asks while it decides, and how its calls find whom to ask.

use smpnet_bpf::Program;
use smpnet_npf::{
    config::TableId,
    plan::RuleIndex,
    wasm::{BURST, Facts, IMPORT_PROGRAM, IMPORT_TABLE, IMPORT_WITHIN, IMPORTS, RulesetHost, Side},
};
use std::{ptr::null_mut, sync::Arc};
use wasmtime::{Caller, Linker};

/// Nothing is in a table, nothing within a limit, and packets are empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHost;

impl RulesetHost for NoHost {
    fn is_in_table(&mut self, _: usize, _: &Facts, _: TableId, _: Side) -> bool {
        false
    }

    fn within(&mut self, _: usize, _: RuleIndex) -> bool {
        false
    }

    fn bytes(&mut self, _: usize) -> &[u8] {
        &[]
    }
}

/// What a call of the module goes with.
pub(super) struct Asking {
    /// Points to a `&mut dyn RulesetHost` during a call, and to nothing otherwise.
    host: *mut (),
    /// The facts of the burst, in the module's memory, which the store owns as it owns this.
    facts: *const [Facts; BURST as usize],
    programs: Arc<[Program]>,
}

// SAFETY: `host` is looked at during a call only, in which the store does not change threads and which has set it; `facts`
// points into a memory that the same store owns.
unsafe impl Send for Asking {}

impl Asking {
    /// Nobody is asked yet.
    pub fn new(programs: Arc<[Program]>) -> Asking {
        Asking { host: null_mut(), facts: std::ptr::null(), programs }
    }

    /// Says where the facts are.
    ///
    /// # Safety
    /// They are in a memory of the store that owns this, which neither moves nor ends before it.
    pub unsafe fn set_facts(&mut self, facts: *const [Facts; BURST as usize]) {
        self.facts = facts;
    }

    /// Says whom to ask; null for nobody.
    ///
    /// # Safety
    /// The host outlives the calls that are made before the next of these.
    pub unsafe fn set_host(&mut self, host: *mut &mut dyn RulesetHost) {
        self.host = host.cast();
    }

    /// Whom to ask.
    fn host(&mut self) -> Option<&mut dyn RulesetHost> {
        // SAFETY: the host is not asked for another time before it is done with.
        unsafe { called(self.host) }
    }

    fn facts(&self, packet: u32) -> Option<Facts> {
        // SAFETY: `set_facts` was given facts that live as long as the store, or it is null still. The module, which may
        // write there, waits for our answer. Any bytes are facts.
        let facts = unsafe { self.facts.as_ref() }?;
        facts.get(packet as usize).copied()
    }

    fn is_in_table(&mut self, packet: u32, table: u32, side: u32) -> bool {
        let side = if side == 0 { Side::Source } else { Side::Destination };
        let Some(facts) = self.facts(packet) else { return false };
        let table = TableId(table as usize);
        self.host().is_some_and(|host| host.is_in_table(packet as usize, &facts, table, side))
    }

    fn within(&mut self, packet: u32, rule: u32) -> bool {
        self.host().is_some_and(|host| host.within(packet as usize, RuleIndex(rule)))
    }

    fn program(&mut self, packet: u32, number: u32) -> u32 {
        // SAFETY: as in `host`.
        let host = unsafe { called(self.host) };
        match (self.programs.get(number as usize), host) {
            (Some(program), Some(host)) => {
                let bytes = host.bytes(packet as usize);
                program.run(bytes, bytes.len() as u32)
            }
            _ => 0,
        }
    }
}

/// The host of a call.
///
/// # Safety
/// The pointer is that of [`Asking`], and what it points to is in use nowhere else.
unsafe fn called<'a>(host: *mut ()) -> Option<&'a mut dyn RulesetHost> {
    let host = host.cast::<&mut dyn RulesetHost>();
    // SAFETY: `set_host` was given a host that outlives the call in which we are, or null. The one who gave it waits for
    // the call to end.
    unsafe { host.as_mut() }.map(|host| &mut **host)
}

/// Tells the engine what modules may import.
pub(super) fn link(linker: &mut Linker<Asking>) -> wasmtime::Result<()> {
    type Asked<'a> = Caller<'a, Asking>;
    linker.func_wrap(IMPORTS, IMPORT_TABLE, |mut c: Asked<'_>, packet: u32, table: u32, side: u32| {
        u32::from(c.data_mut().is_in_table(packet, table, side))
    })?;
    linker.func_wrap(IMPORTS, IMPORT_WITHIN, |mut c: Asked<'_>, packet: u32, rule: u32| {
        u32::from(c.data_mut().within(packet, rule))
    })?;
    linker.func_wrap(IMPORTS, IMPORT_PROGRAM, |mut c: Asked<'_>, packet: u32, number: u32| {
        c.data_mut().program(packet, number)
    })?;
    Ok(())
}
