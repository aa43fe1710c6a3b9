//! The root module: the door that `abi_stable` guards.

// abi_stable names the reference type after the prefix type.
#![allow(non_camel_case_types)]

use crate::HostServices;
use abi_stable::{
    StableAbi,
    library::RootModule,
    sabi_types::VersionStrings,
    std_types::{RResult, RSlice, RStr, RString},
};
use std::ffi::c_void;

/// What a [`TableEntry`] points to.
pub mod table_kind {
    /// A [`crate::DriverTable`].
    pub const DRIVER: u32 = 1;
    /// An [`crate::IfKindTable`].
    pub const IFKIND: u32 = 2;
    /// A [`crate::FilterTable`].
    pub const FILTER: u32 = 3;
}

/// One table that a plugin provides; static. Tables of a kind that the host does not know are left alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, StableAbi)]
pub struct TableEntry {
    /// One of [`table_kind`].
    pub kind: u32,
    /// Always 0.
    pub _pad: u32,
    /// The table, of a type given by `kind`.
    pub table: *const c_void,
}

// SAFETY: points to a constant table that lives as long as the process.
unsafe impl Send for TableEntry {}
// SAFETY: as above.
unsafe impl Sync for TableEntry {}

/// What a plugin says of itself at run time.
#[repr(C)]
#[derive(Clone, Debug, StableAbi)]
pub struct Description {
    /// Name, as in the manifest.
    pub name: RStr<'static>,
    /// Version, as in the manifest.
    pub version: RStr<'static>,
    /// One line on what it is.
    pub summary: RStr<'static>,
    /// Compiler and SDK that it was built with, for reports.
    pub built_with: RStr<'static>,
}

/// Pointer to the host's table, opaque to `abi_stable` so that the table may grow.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, StableAbi)]
pub struct HostPtr(pub *const c_void);

impl HostPtr {
    /// Wraps the host's table.
    pub fn new(host: &'static HostServices) -> Self {
        HostPtr(std::ptr::from_ref(host).cast())
    }
}

/// The root module of a plugin.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginMod_Ref)))]
#[sabi(missing_field(panic))]
pub struct PluginMod {
    /// Describes the plugin.
    pub describe: extern "C" fn() -> Description,
    /// Called once after loading, on a control thread. An error refuses the plugin.
    pub start: extern "C" fn(host: HostPtr) -> RResult<(), RString>,
    /// The tables that the plugin provides.
    pub tables: extern "C" fn() -> RSlice<'static, TableEntry>,
    /// Called once before the process ends, after every object of the plugin was closed.
    #[sabi(last_prefix_field)]
    pub stop: extern "C" fn(),
}

impl RootModule for PluginMod_Ref {
    abi_stable::declare_root_module_statics! {PluginMod_Ref}
    const BASE_NAME: &'static str = "smpnet_plugin";
    const NAME: &'static str = "smpnet_plugin";
    // The version of this module's layout, which is not the version of any crate: it changes with ABI_MAJOR.
    const VERSION_STRINGS: VersionStrings = VersionStrings::new("1.0.0");
}
