//! What the loader says of files that are no plugins, or not for this smpnet: one clear error with file and reason, a
//! counter, and everything else goes on.

// clippy.toml allows it in test functions; here are their helpers too.
#![allow(clippy::unwrap_used)]

#[path = "support/libraries.rs"]
mod libraries;

use libraries::{built, copy_to, patched};
use smpnet::loader::{LoadError, PluginRegistry, PluginState};
use smpnet_abi::{DriverTable, Manifest};
use std::mem::offset_of;
use std::path::Path;
use std::sync::Arc;

const MAGIC: &[u8] = b"smpnetPL";

fn registry() -> Arc<PluginRegistry> {
    Arc::new(PluginRegistry::new(smpnet_plugin::testing::services()))
}

/// Loads a file that must be refused; gives the error and checks that it names the file, has one line, stands on the
/// list and is counted.
#[track_caller]
fn refused(file: &Path, code: &str) -> String {
    let registry = registry();
    let sysctl = smpnet_runtime::Sysctl::default();
    registry.register_sysctl(&sysctl);
    let error = registry.load(file).map(|_| ()).expect_err("the file must be refused");
    let text = error.to_string();
    assert_eq!(error.code(), code, "{text}");
    assert!(text.contains(file.file_name().unwrap().to_str().unwrap()), "{text} does not name the file");
    assert!(!text.contains('\n'), "{text} has more than one line");
    let list = registry.list();
    assert_eq!(list.len(), 1);
    assert_eq!((list[0].state, list[0].error.as_ref()), (PluginState::Refused, Some(&text)));
    let count = sysctl.get(&format!("kern.plugin.refused.{code}")).unwrap();
    assert_eq!(count.to_string(), "1");
    // The registry goes on: a good plugin loads.
    if code != "already_loaded" {
        assert!(registry.load(&built("smpnet_null")).is_ok());
    }
    text
}

#[test]
fn a_good_plugin_is_listed_with_all_that_is_known_of_it() {
    let registry = registry();
    let status = registry.load(&built("smpnet_null")).unwrap();
    assert_eq!((status.name.as_str(), status.abi.as_str(), status.state), ("null", "1.0", PluginState::Loaded));
    assert_eq!((status.version.as_str(), status.kinds.as_slice()), ("0.1.0", ["driver", "filter"].as_slice()));
    assert_eq!(status.sha256.len(), 64);
    assert_eq!((status.provides[0].what, status.provides[0].name), ("driver", "null"));
    let json = serde_json::to_value(registry.list()).unwrap();
    assert_eq!(json[0]["state"], "loaded");
    assert_eq!(json[0]["license"], "MIT OR Apache-2.0");
    assert!(registry.driver("null").is_some());
    assert!(registry.kind("null").is_none() && registry.driver("nul").is_none());
}

#[test]
fn a_file_that_is_not_a_library_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("libsmpnet_text.so");
    std::fs::write(&file, "this is no library\n").unwrap();
    assert!(refused(&file, "not_a_library").contains("it is text"));
    std::fs::write(&file, "").unwrap();
    assert!(refused(&file, "not_a_library").contains("empty"));
}

#[test]
fn a_file_that_is_not_there_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refused(&dir.path().join("libsmpnet_nowhere.so"), "read").contains("No such file"));
    assert!(refused(dir.path(), "read").contains("not a regular file"));
}

#[test]
fn a_truncated_library_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(built("smpnet_null")).unwrap();
    for n in [40, 64, 4096, whole.len() / 2, whole.len() - 1] {
        let file = dir.path().join("libsmpnet_cut.so");
        std::fs::write(&file, &whole[..n]).unwrap();
        assert!(refused(&file, "truncated").contains("truncated"), "{n} bytes");
    }
}

#[test]
fn a_library_for_another_architecture_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    // e_machine of the ELF header; 183 is AArch64, 243 RISC-V.
    let machine: u16 = if cfg!(target_arch = "aarch64") { 243 } else { 183 };
    let file = patched(dir.path(), "smpnet_null", |bytes| bytes[18..20].copy_from_slice(&machine.to_ne_bytes()));
    let text = refused(&file, "architecture");
    assert!(text.contains(if machine == 183 { "aarch64" } else { "riscv" }) && text.contains("Build"), "{text}");
    // EI_CLASS: 32 bits.
    let file = patched(dir.path(), "smpnet_null", |bytes| bytes[4] = 1);
    assert!(refused(&file, "architecture").contains("32-bit"));
}

#[test]
fn a_library_without_the_symbols_of_a_plugin_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for symbol in ["smpnet_plugin_manifest", abi_stable::library::ROOT_MODULE_LOADER_NAME] {
        let file = patched(dir.path(), "smpnet_null", |bytes| {
            let mut other = symbol.as_bytes().to_vec();
            other[8] = b'X';
            assert!(libraries::replace(bytes, symbol.as_bytes(), &other) > 0);
        });
        let text = refused(&file, "missing_symbol");
        assert!(text.contains(symbol) && text.contains("not an smpnet plugin"), "{text}");
    }
}

#[test]
fn a_plugin_of_an_older_or_newer_abi_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let with_version = |major: u16, minor: u16| {
        patched(dir.path(), "smpnet_null", |bytes| {
            let at = libraries::find(bytes, MAGIC);
            bytes[at + offset_of!(Manifest, abi_major)..][..2].copy_from_slice(&major.to_ne_bytes());
            bytes[at + offset_of!(Manifest, abi_minor)..][..2].copy_from_slice(&minor.to_ne_bytes());
        })
    };
    let older = refused(&with_version(0, 9), "older_abi");
    assert!(older.contains("older plugin ABI 0.9") && older.contains("Build the plugin again"), "{older}");
    assert!(refused(&with_version(2, 0), "newer_abi").contains("newer plugin ABI 2.0"));
    let newer = refused(&with_version(1, 7), "newer_abi");
    assert!(newer.contains("1.7") && newer.contains("smpnet has 1.0"), "{newer}");
}

#[test]
fn a_damaged_manifest_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = patched(dir.path(), "smpnet_null", |bytes| {
        let at = libraries::find(bytes, MAGIC);
        bytes[at + offset_of!(Manifest, name)] = b'!';
    });
    assert!(refused(&file, "bad_manifest").contains("name"));
}

#[test]
fn a_root_module_of_another_layout_is_refused() {
    let text = refused(&built("fixture_layout"), "layout");
    assert!(text.contains("layout mismatch") && text.contains("plugin ABI 1.0"), "{text}");
}

#[test]
fn a_plugin_is_loaded_once() {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry();
    let first = built("smpnet_null");
    registry.load(&first).unwrap();
    let refuse = |file: &Path| {
        let error = registry.load(file).map(|_| ()).unwrap_err();
        assert!(matches!(error, LoadError::AlreadyLoaded { .. }), "{error}");
        assert!(error.to_string().contains(&*first.canonicalize().unwrap().to_string_lossy()), "{error}");
        error.to_string()
    };
    assert!(refuse(&first).contains("this file"));
    let link = dir.path().join("libsmpnet_link.so");
    std::os::unix::fs::symlink(&first, &link).unwrap();
    assert!(refuse(&link).contains("this file"), "a link is the same library to the system's loader");
    assert!(refuse(&copy_to(dir.path(), "smpnet_null")).contains("the same content"));
    let other = patched(dir.path(), "smpnet_null", |bytes| {
        let at = libraries::find(bytes, MAGIC);
        bytes[at + offset_of!(Manifest, summary)] = b'S';
    });
    assert!(refuse(&other).contains("a plugin of this name"));
    let states: Vec<_> = registry.list().iter().map(|p| p.state).collect();
    assert_eq!(states.iter().filter(|s| **s == PluginState::Loaded).count(), 1);
    assert!(registry.driver("null").is_some());
}

#[test]
fn a_new_file_under_the_name_of_one_that_is_in_memory_is_not_mistaken_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry();
    // In memory, and refused for its layout.
    let file = copy_to(dir.path(), "fixture_layout");
    assert_eq!(registry.load(&file).unwrap_err().code(), "layout");
    // A good one in its place: the system's loader goes by the name and gives back the old one.
    std::fs::remove_file(&file).unwrap();
    std::fs::copy(built("smpnet_null"), &file).unwrap();
    let error = registry.load(&file).unwrap_err();
    assert!(error.to_string().contains("still in memory"), "{error}");
}

#[test]
fn a_folder_is_loaded_in_order_and_what_is_refused_does_not_stop_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("libsmpnet_a.so"), "text").unwrap();
    std::fs::write(dir.path().join("readme.txt"), "text").unwrap();
    copy_to(dir.path(), "smpnet_null");
    let registry = registry();
    let errors = registry.load_dir(dir.path()).unwrap();
    assert_eq!(errors.len(), 1);
    assert!(registry.driver("null").is_some());
    assert_eq!(registry.list().len(), 2, "other files are left alone");
    assert_eq!(registry.load_dir(dir.path()).unwrap().len(), 1, "what is loaded is passed over the second time");
    assert!(registry.load_dir(&dir.path().join("none")).is_err());
}

#[test]
fn a_driver_of_an_older_table_is_filled_up() {
    let registry = registry();
    registry.load(&built("fixture_drivers")).unwrap();
    let table: &DriverTable = registry.driver("fixture_old_table").unwrap();
    let mut text = [0; 8];
    // SAFETY: what stands in for a missing `status` touches nothing.
    let code = unsafe { (table.status)(std::ptr::null_mut(), &mut smpnet_abi::ErrBuf::new(&mut text)) };
    assert_eq!(code, smpnet_abi::UNSUPPORTED);
}

#[test]
fn what_fails_later_puts_its_plugin_into_quarantine() {
    let registry = registry();
    registry.load(&built("fixture_drivers")).unwrap();
    registry.quarantine("fixture_bad_cell", "port x0: a cell that the pool does not have");
    let status = &registry.list()[0];
    assert_eq!(status.state, PluginState::Quarantined);
    assert!(status.error.as_ref().unwrap().contains("x0"));
}
