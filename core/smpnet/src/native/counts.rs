//! What native filters count: per worker, by plain stores.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter with one writer.
#[derive(Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    #[inline(always)]
    pub(super) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    #[inline(always)]
    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one worker, on cache lines of their own; written by it alone.
        #[derive(Default)]
        #[repr(align(128))]
        pub(super) struct Books { $(pub(super) $name: Count,)* }

        impl Books {
            pub(super) fn read(&self) -> NativeCounts {
                NativeCounts { $($name: self.$name.get(),)* }
            }
        }

        /// What a native filter counted.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct NativeCounts { $($(#[$doc])* pub $name: u64,)* }

        impl NativeCounts {
            pub(super) fn add(&mut self, other: &NativeCounts) {
                $(self.$name = self.$name.wrapping_add(other.$name);)*
            }
        }
    };
}

counts! {
    /// Packets that it was asked about; always `passed` + `dropped` + `consumed`.
    packets,
    /// Their bytes, from the layer that the filter sees.
    bytes,
    /// Packets that went on.
    passed,
    /// Packets that were dropped.
    dropped,
    /// Packets that it took.
    consumed,
    /// Bursts.
    bursts,
    /// Faults: a filter has at most one for each worker before it is no longer asked.
    faults,
    /// Packets judged by the fault policy.
    fault_packets,
    /// Packets of the bursts whose time was taken.
    sampled_packets,
    /// Nanoseconds that those bursts took.
    sampled_ns,
}

impl NativeCounts {
    /// Nanoseconds per packet of the bursts whose time was taken.
    pub fn ns_per_packet(&self) -> Option<f64> {
        (self.sampled_packets > 0).then(|| self.sampled_ns as f64 / self.sampled_packets as f64)
    }
}
