//! What an operator lets modules of others take.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Limits of a module. Every one may be changed; the defaults suit packet filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModuleLimits {
    /// Bytes of the module: 4 MiB.
    pub module_bytes: usize,
    /// Pages of 64 KiB of its memory: 64. An instruction on a whole memory is not interrupted, so this bounds it, too.
    pub memory_pages: u32,
    /// Entries of its tables of functions: 10,000.
    pub table_elements: usize,
    /// Microseconds of processor time for a burst: 1,000.
    pub burst_us: u32,
    /// Microseconds for making an instance, and for `smpnet_init`: 500,000 each.
    pub init_us: u32,
    /// Microseconds for `smpnet_tick`: 1,000.
    pub tick_us: u32,
    /// Microseconds for handing state from one generation to the next, on each worker: 2,000.
    pub state_us: u32,
}

impl Default for ModuleLimits {
    fn default() -> Self {
        ModuleLimits {
            module_bytes: 4 << 20,
            memory_pages: 64,
            table_elements: 10_000,
            burst_us: 1_000,
            init_us: 500_000,
            tick_us: 1_000,
            state_us: 2_000,
        }
    }
}

impl ModuleLimits {
    pub(crate) fn burst(&self) -> Duration {
        Duration::from_micros(self.burst_us.into())
    }

    pub(crate) fn init(&self) -> Duration {
        Duration::from_micros(self.init_us.into())
    }

    pub(crate) fn tick(&self) -> Duration {
        Duration::from_micros(self.tick_us.into())
    }

    pub(crate) fn state(&self) -> Duration {
        Duration::from_micros(self.state_us.into())
    }
}
