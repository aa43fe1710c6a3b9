//! Modules of others: what they are, the engine that they run in, and a way to run them without a router.
//!
//! A module is looked through before anything of it is compiled ([`inspect`]), compiled for an engine that watches the time,
//! and instantiated once for each worker. It sees copies of packets in its own memory and can call four functions of the
//! host. What it may do besides passing and dropping, its operator grants.
//!
//! ```text
//! bytes -> inspect: size, features, manifest, imports, exports, memory
//!       -> GuestEngine::compile (or the cache) -> GuestCode
//!       -> GuestEngine::instantiate: tables, start, _initialize, smpnet_ring, smpnet_init -> GuestInstance
//! burst -> begin, put each packet into its window, run -> verdicts, marks, patches, counters -> the host acts on them
//! ```

mod engine;
mod fault;
mod imports;
mod inspect;
mod instance;
mod limits;
mod manifest;
mod module_error;
mod patch;
mod ring;
mod runner;
mod ticker;

pub use fault::{Fault, FaultKind};
pub use inspect::{FEATURE_NAMES, ModuleInfo, has_manifest, inspect, problems};
pub use limits::ModuleLimits;
pub use manifest::{Capabilities, Capability, Manifest, TableKind, TableUse};
pub use module_error::ModuleError;
pub use runner::{Judged, RunHead, RunPacket, RunStats, Runner};

pub(crate) use engine::{For, GuestCode, GuestEngine};
pub(crate) use imports::Lines;
pub(crate) use instance::{GuestInstance, Head, Said};
pub(crate) use manifest::is_name;
pub(crate) use patch::{Bytes, apply};
pub(crate) use ring::Meta;
