//! One instance of a native filter, and the calls of the ABI.

use crate::answers::{call, document};
use serde_json::Value;
use smpnet_abi::{Cell, FilterConfig, FilterTable, HostServices, OK, Text, filter_flags};
use std::ffi::c_void;
use std::ptr::{from_ref, null_mut};

/// An instance, from `create` to `destroy`.
pub(super) struct Instance {
    table: &'static FilterTable,
    handle: *mut c_void,
}

// SAFETY: the handle is the plugin's own and only passed back to it; by the ABI any number of workers may call `filter`
// with it at once, and control threads the rest.
unsafe impl Send for Instance {}
// SAFETY: as above.
unsafe impl Sync for Instance {}

impl Instance {
    /// Makes one. The error is the plugin's own.
    pub(super) fn create(
        host: &'static HostServices,
        table: &'static FilterTable,
        name: &str,
        options: &Value,
    ) -> Result<Instance, String> {
        let options = options.to_string();
        let config = FilterConfig {
            size: size_of::<FilterConfig>() as u32,
            workers: host.workers,
            name: Text::new(name),
            options: Text::new(&options),
        };
        let mut handle = null_mut();
        // SAFETY: the table was checked by the loader; everything that is passed lives through the call.
        call(|err| unsafe { (table.create)(from_ref(host), &config, &mut handle, err) })?;
        Ok(Instance { table, handle })
    }

    /// Whether asking changes nothing.
    pub(super) fn is_stateless(&self) -> bool {
        self.table.flags & filter_flags::STATELESS != 0
    }

    /// Asks it about packets: what `filter` returned.
    ///
    /// # Safety
    /// The caller is worker `worker` and owns the packets. The instance was not destroyed.
    #[inline]
    pub(super) unsafe fn filter(
        &self,
        worker: u32,
        ifindex: u32,
        dir: u32,
        cells: &[Cell],
        verdicts: &mut [u32],
    ) -> i32 {
        assert_eq!(cells.len(), verdicts.len());
        let n = cells.len() as u32;
        // SAFETY: the caller's word; n cells and room for n verdicts.
        unsafe { (self.table.filter)(self.handle, worker, ifindex, dir, cells.as_ptr(), n, verdicts.as_mut_ptr()) }
    }

    /// What it says of itself.
    ///
    /// # Safety
    /// It was not destroyed.
    pub(super) unsafe fn status(&self) -> Option<Value> {
        // SAFETY: the handle is that of `create`.
        unsafe { document(self.table.status, self.handle) }
    }

    /// Ends it.
    ///
    /// # Safety
    /// No worker can be inside of it, and nobody calls it again.
    pub(super) unsafe fn destroy(&self) -> Result<(), String> {
        // SAFETY: the caller's word.
        match unsafe { (self.table.destroy)(self.handle) } {
            OK => Ok(()),
            code => Err(format!("destroying it failed with code {code}")),
        }
    }
}
