//! The exports of a plugin: manifest, root module, tables.

use crate::{log, memory, shim};
use abi_stable::library::RootModuleResult;
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{RErr, ROk, RResult, RSlice, RString};
use smpnet_abi::{
    ABI_MAJOR, Description, HostPtr, HostServices, PluginMod, PluginMod_Ref, TableEntry, kind, table_kind,
};

/// What a plugin exports; implemented by [`crate::plugin!`].
#[doc(hidden)]
pub trait Exports: 'static {
    /// Name of the plugin.
    const NAME: &'static str;
    /// Its version.
    const VERSION: &'static str;
    /// One line on what it is.
    const SUMMARY: &'static str;
    /// Its tables.
    const TABLES: &'static [TableEntry];
}

/// Called through the library's header. A panic would end the process here, and nothing that this calls panics.
#[doc(hidden)]
pub extern "C" fn erased_module<P: Exports>() -> RootModuleResult {
    abi_stable::library::__call_root_module_loader(root::<P>)
}

fn root<P: Exports>() -> PluginMod_Ref {
    PluginMod { describe: describe::<P>, start: start::<P>, tables: tables::<P>, stop }.leak_into_prefix()
}

extern "C" fn describe<P: Exports>() -> Description {
    Description {
        name: P::NAME.into(),
        version: P::VERSION.into(),
        summary: P::SUMMARY.into(),
        built_with: concat!("smpnet-plugin ", env!("CARGO_PKG_VERSION")).into(),
    }
}

extern "C" fn start<P: Exports>(host: HostPtr) -> RResult<(), RString> {
    // SAFETY: the host passes its table, which lives as long as the process.
    let Some(host) = (unsafe { host.0.cast::<HostServices>().as_ref() }) else {
        return RErr("the host gave no services".into());
    };
    if host.abi_major != ABI_MAJOR || (host.size as usize) < size_of::<HostServices>() {
        return RErr(RString::from(format!(
            "the host offers services of ABI {}.{} ({} bytes), this plugin needs {ABI_MAJOR}.x with {} bytes",
            host.abi_major,
            host.abi_minor,
            host.size,
            size_of::<HostServices>(),
        )));
    }
    memory::install(host);
    log::set_target(P::NAME);
    shim::install_panic_hook();
    ROk(())
}

extern "C" fn tables<P: Exports>() -> RSlice<'static, TableEntry> {
    RSlice::from_slice(P::TABLES)
}

extern "C" fn stop() {}

/// The kinds of a manifest, out of the tables.
#[doc(hidden)]
pub const fn kinds(tables: &[TableEntry]) -> u32 {
    let (mut bits, mut i) = (0, 0);
    while i < tables.len() {
        bits |= match tables[i].kind {
            table_kind::DRIVER => kind::DRIVER,
            table_kind::IFKIND => kind::IFKIND,
            table_kind::FILTER => kind::FILTER,
            _ => 0,
        };
        i += 1;
    }
    bits
}

/// Exports a plugin: its manifest, its root module and its tables. Once per library; every field in this order.
///
/// `name` is `[a-z][a-z0-9_-]*` of at most 31 bytes, `privileges` bits of [`crate::privilege`], `pci` a list of
/// [`crate::PciId`]; the version is the crate's. An example stands at the top of this documentation.
///
/// Tables of the ABI that were not made by the traits of this crate (written in C, or by hand) follow as `tables: [..]`,
/// entries of [`crate::abi::TableEntry`].
#[macro_export]
macro_rules! plugin {
    (
        name: $name:expr,
        summary: $summary:expr,
        license: $license:expr,
        privileges: $privileges:expr,
        pci: [$($pci:expr),* $(,)?],
        drivers: [$($driver:ty),* $(,)?],
        ifkinds: [$($ifkind:ty),* $(,)?],
        filters: [$($filter:ty),* $(,)?]
        $(, tables: [$($table:expr),* $(,)?])? $(,)?
    ) => {
        #[allow(unsafe_code, non_upper_case_globals)]
        const _: () = {
            use $crate::__private as p;
            const _: () = assert!(cfg!(panic = "unwind"), "a plugin must be built with panic = \"unwind\"");

            struct Plugin;

            impl p::Exports for Plugin {
                const NAME: &'static str = $name;
                const VERSION: &'static str = env!("CARGO_PKG_VERSION");
                const SUMMARY: &'static str = $summary;
                const TABLES: &'static [p::TableEntry] = &[
                    $(p::TableEntry {
                        kind: p::table_kind::DRIVER,
                        _pad: 0,
                        table: ::core::ptr::from_ref(p::driver_table::<$driver>()).cast(),
                    },)*
                    $(p::TableEntry {
                        kind: p::table_kind::IFKIND,
                        _pad: 0,
                        table: ::core::ptr::from_ref(p::ifkind_table::<$ifkind>()).cast(),
                    },)*
                    $(p::TableEntry {
                        kind: p::table_kind::FILTER,
                        _pad: 0,
                        table: ::core::ptr::from_ref(p::filter_table::<$filter>()).cast(),
                    },)*
                    $($($table,)*)?
                ];
            }

            #[used]
            #[unsafe(no_mangle)]
            pub static smpnet_plugin_manifest: p::Manifest = p::Manifest::new(
                $name,
                env!("CARGO_PKG_VERSION"),
                $license,
                $summary,
                p::kinds(<Plugin as p::Exports>::TABLES),
                $privileges,
                &[$($pci),*],
            );

            // The name that abi_stable looks for; a test of this crate compares it with
            // abi_stable::library::ROOT_MODULE_LOADER_NAME.
            #[used]
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            pub static root_module: p::LibHeader =
                // SAFETY: erased_module gives the root module of exactly this type.
                unsafe {
                    p::LibHeader::from_constructor::<p::PluginMod_Ref>(
                        p::erased_module::<Plugin>,
                        p::CheckTypeLayout::Yes,
                    )
                };
        };
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_macro_exports_the_name_that_abi_stable_looks_for() {
        assert_eq!(abi_stable::library::ROOT_MODULE_LOADER_NAME, "_1as_0lib_1header_0root_bmodule_bloader");
    }
}
