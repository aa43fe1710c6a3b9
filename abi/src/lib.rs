//! Everything that crosses the boundary between smpnet and a native plugin, and nothing else.
//!
//! # The idea
//!
//! A plugin is a shared library. It provides *drivers* (ports with queues), *interface kinds* (cloners such as
//! `gif`) or *native packet filters*. smpnet gives it one table of services, [`HostServices`]. What crosses the
//! boundary is of two sorts:
//!
//! - the **data path**: tables of `extern "C"` functions that take bursts of packets. A packet is a [`Cell`], the
//!   index of a cell in the packet pool; a burst is an array of at most [`BURST_MAX`] of them. One call is paid per
//!   burst, never per packet;
//! - the **control path**: a plain-C [`Manifest`] that smpnet reads out of the file before it loads any of its code,
//!   then the root module [`PluginMod`], whose layout `abi_stable` compares when the library is loaded.
//!
//! # Life of a plugin
//!
//! ```text
//! file --(ELF checks)--> manifest --(magic, ABI version, kinds)--> dlopen --(abi_stable layout check)--> root module
//!      --> start(host) --> tables() --> driver.open | ifkind.create | filter.create  ... close | destroy --> stop()
//! ```
//!
//! A library is never unloaded: what it handed out (function pointers, names) stays valid until the process ends.
//!
//! # Ownership of packets
//!
//! A cell has one owner at a time. `rx_burst` gives ownership to the caller, `tx_burst` takes that of the cells it
//! accepted, `pkt_alloc` gives and `pkt_free` takes. Touching a cell that one does not own is a data race.
//!
//! # Threads
//!
//! Every function says who calls it: *control* (one control thread at a time per object, may sleep) or *worker* (the
//! worker whose index is passed; must not sleep, lock, allocate or make system calls other than the device needs).
//!
//! # Versions
//!
//! The rules stand in [`version`]. In short: every table starts with its `size`, grows only at its end, and a plugin
//! of an older minor version of the same major version is loaded for ever.
//!
//! The C view of this crate is generated into `sdk/include/smpnet_plugin.h`.

mod driver;
mod drop;
mod filter;
mod host;
mod ifkind;
mod manifest;
mod module;
mod packet;
mod text;
pub mod version;

pub use driver::{
    DriverTable, LinkState, MacAddr, NamedCounter, PortConfig, PortInfo, PortStats, RX_FAULT, offload, port_flags,
};
pub use drop::DropReason;
pub use filter::{FilterConfig, FilterTable, direction, filter_flags, verdict};
pub use host::{
    CalloutFn, CounterDesc, EncapKey, HostServices, IfInfo, SysctlGetFn, SysctlSetFn, WORKER_NONE, WorkFn, if_flags,
    log_level,
};
pub use ifkind::{IfConfig, IfKindInfo, IfKindTable, if_type};
pub use manifest::{MANIFEST_MAGIC, MANIFEST_SYMBOL, Manifest, PCI_IDS_MAX, PciId, kind, privilege};
pub use module::{Description, HostPtr, PluginMod, PluginMod_Ref, TableEntry, table_kind};
pub use packet::{BURST_MAX, CELL_NONE, Cell, HEADER_SIZE, PktHdr, PoolDesc, pkt_flags};
pub use text::{ErrBuf, Text};
pub use version::{ABI_MAJOR, ABI_MINOR};

/// What a function of the ABI returns when it succeeded.
pub const OK: i32 = 0;
/// What a function of the ABI returns when it failed; the [`ErrBuf`] of the call, where it has one, says why.
pub const FAILED: i32 = -1;
/// What the SDK returns when the plugin's code panicked: smpnet quarantines the object.
pub const FAULT: i32 = -2;
/// The function is not supported by this plugin.
pub const UNSUPPORTED: i32 = -3;
