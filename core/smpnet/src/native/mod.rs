//! Native packet filters: instances of the filter tables that plugins provide, on the hooks of the stack.
//!
//! ```text
//!  load/swap/detach (control)                  worker
//!
//!  create an instance ---- hook on a pfil head ----> one call per burst: FilterTable::filter
//!        |                                               | wrong verdict, panic, spoiled packet
//!        |                                               v
//!        |                                           the hook is faulted: no further call, packets by policy
//!  destroy, when no worker               <------ bell (workqueue): off its hooks when packets pass, event, count
//!  can be inside any more
//! ```
//!
//! A filter that breaks the rules is taken out of service and nothing else. What became of its packets stands in its
//! counters: every packet that it was asked about passed, was dropped or was consumed.

mod counts;
mod filters;
mod hook;
mod instance;

pub use counts::NativeCounts;
pub use filters::{
    NativeDetail, NativeFilters, NativePlace, NativeReport, NativeSpec, NativeStats, NativeStatus, Quarantined,
};
