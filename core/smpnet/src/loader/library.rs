//! Loading a library whose file was found to be in order, and asking its root module.

use super::elf::host_abi;
use super::tables::Table;
use super::{LoadError, elf};
use abi_stable::library::{AbiHeaderRef, LibraryError, ROOT_MODULE_LOADER_NAME, ROOT_MODULE_LOADER_NAME_WITH_NUL};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use smpnet_abi::{HostPtr, HostServices, MANIFEST_SYMBOL, Manifest, PluginMod_Ref};
use std::path::Path;

/// A library in memory, which stays there until the process ends.
pub(super) struct Loaded {
    pub(super) root: PluginMod_Ref,
    pub(super) tables: Vec<Table>,
}

/// Loads the library of `file`. `known` tells whether the system's loader gave this manifest's address before: then it
/// did not load the file but found an older one under its name.
pub(super) fn load(
    file: &Path,
    manifest: &Manifest,
    host: &'static HostServices,
    known: impl FnOnce(usize) -> bool,
) -> Result<Loaded, LoadError> {
    // libc's constant, which libloading does not have: not even the process's end unloads it.
    let flags = RTLD_NOW | RTLD_LOCAL | libc::RTLD_NODELETE;
    // SAFETY: runs the initialisers of a file that the operator named as a plugin, and trusts as such.
    let library = unsafe { Library::open(Some(file), flags) }
        .map_err(|e| LoadError::Open { file: file.into(), reason: one_line(&chain(&e)) })?;
    let missing = |symbol: &str| LoadError::MissingSymbol { file: file.into(), symbol: symbol.to_owned() };
    // SAFETY: the symbol is a Manifest, as its magic in the file said.
    let in_memory: *const Manifest = match unsafe { library.get::<*const Manifest>(MANIFEST_SYMBOL) } {
        Ok(symbol) => *symbol,
        Err(_) => return Err(missing(MANIFEST_SYMBOL)),
    };
    // SAFETY: by abi_stable, this symbol is a LibHeader, which begins with its AbiHeader.
    let header: AbiHeaderRef = match unsafe { library.get(ROOT_MODULE_LOADER_NAME_WITH_NUL) } {
        Ok(symbol) => *symbol,
        Err(_) => return Err(missing(ROOT_MODULE_LOADER_NAME)),
    };
    // Never closed: functions, names and threads of the library may be in use until the process ends.
    std::mem::forget(library);
    // SAFETY: as above; the library stays.
    let same = elf::text(&unsafe { (*in_memory).name }) == elf::text(&manifest.name)
        // SAFETY: as above.
        && elf::text(&unsafe { (*in_memory).version }) == elf::text(&manifest.version);
    if known(in_memory.addr()) || !same {
        return Err(LoadError::Stale { file: file.into() });
    }
    let layout = |e: LibraryError| LoadError::Layout { file: file.into(), host: host_abi(), reason: library_error(&e) };
    // Not `PluginMod_Ref::load_from`, which keeps one module per type and would hand out the first plugin's again.
    let root = header.upgrade().map_err(layout)?.init_root_module::<PluginMod_Ref>().map_err(layout)?;
    let described = root.describe()();
    if elf::text(&manifest.name).as_deref() != Some(described.name.as_str()) {
        let detail = format!("it is named otherwise by the code, {:?}", described.name.as_str());
        return Err(LoadError::BadManifest { file: file.into(), detail });
    }
    root.start()(HostPtr::new(host))
        .into_result()
        .map_err(|e| LoadError::Start { file: file.into(), reason: one_line(&e) })?;
    let mut tables = Vec::new();
    for (i, entry) in root.tables()().iter().enumerate() {
        // SAFETY: static tables of the kind and size that they say, by the ABI.
        match unsafe { Table::read(entry.kind, entry.table) } {
            Ok(table) => tables.extend(table),
            Err(reason) => {
                let table = format!("table {i} of {}", described.name.as_str());
                return Err(LoadError::Table { file: file.into(), table, reason });
            }
        }
    }
    Ok(Loaded { root, tables })
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}

fn library_error(error: &LibraryError) -> String {
    let what = match error {
        LibraryError::InvalidAbiHeader(_) => "built with another version of abi_stable",
        LibraryError::IncompatibleVersionNumber { .. } => "another version of the root module",
        LibraryError::AbiInstability(_) => "its fields differ",
        LibraryError::RootModule { .. } => "it could not be made",
        other => return one_line(&other.to_string()),
    };
    what.to_owned()
}

/// A text of several lines as one, cut at a length that an operator reads.
fn one_line(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > 300 {
        let end = (0..=300).rev().find(|i| line.is_char_boundary(*i)).unwrap_or(0);
        line.truncate(end);
        line.push_str(" ...");
    }
    line
}
