//! The example filters as modules: what the ABI asks of a module holds for each, and the one in C passes its own tests.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use smpnet_lab::{LabError, example_filter, require};
use std::path::{Path, PathBuf};
use std::process::Command;
use wasmparser::{ExternalKind, Parser, Payload, TypeRef};

/// A module, read.
#[derive(Default)]
struct Module {
    manifest: serde_json::Value,
    exports: Vec<(String, ExternalKind)>,
    imports: Vec<String>,
    named: bool,
    pages: u64,
    bytes: usize,
}

fn read(file: &Path) -> Module {
    let bytes = std::fs::read(file).unwrap();
    let mut module = Module { bytes: bytes.len(), ..Module::default() };
    for payload in Parser::new(0).parse_all(&bytes) {
        match payload.unwrap() {
            Payload::CustomSection(s) if s.name() == smpnet_filter_abi::MANIFEST_SECTION => {
                module.manifest = serde_json::from_slice(s.data()).unwrap();
            }
            Payload::CustomSection(s) => module.named |= s.name() == "name",
            Payload::ExportSection(s) => {
                module.exports = s.into_iter().map(|e| e.unwrap()).map(|e| (e.name.into(), e.kind)).collect();
            }
            Payload::MemorySection(s) => module.pages = s.into_iter().next().unwrap().unwrap().initial,
            Payload::ImportSection(s) => {
                for import in s.into_imports() {
                    let import = import.unwrap();
                    assert!(matches!(import.ty, TypeRef::Func(_)), "{} is no function", import.name);
                    module.imports.push(format!("{}.{}", import.module, import.name));
                }
            }
            _ => {}
        }
    }
    module
}

/// The module of an example, or `None` where its compiler is missing.
fn example(name: &str) -> Option<PathBuf> {
    match example_filter(name) {
        Ok(file) => Some(file),
        Err(LabError::Skipped(reason)) => {
            require(false, &reason);
            None
        }
        Err(e) => panic!("{name}: {e}"),
    }
}

#[test]
fn each_example_is_a_module_as_the_abi_asks() {
    use smpnet_filter_abi::export;
    for (name, window, state, imports) in [
        ("syn-flood", 128, true, &["smpnet.log"][..]),
        ("dns-blocklist", 384, false, &["smpnet.log", "smpnet.table_exact"]),
        ("gtsm", 128, false, &["smpnet.log"]),
    ] {
        let Some(file) = example(name) else { continue };
        let mut m = read(&file);
        assert_eq!((m.manifest["abi"].as_str(), m.manifest["name"].as_str()), (Some("1.0"), Some(name)));
        assert_eq!(m.manifest["window"], window, "{name}");
        let exported = |what: &str, kind| m.exports.iter().any(|(n, k)| n == what && *k == kind);
        assert!(exported(export::MEMORY, ExternalKind::Memory), "{name}");
        for function in [export::RING, export::FILTER, export::INIT] {
            assert!(exported(function, ExternalKind::Func), "{name} has no {function}");
        }
        for function in [export::STATE_EXPORT, export::STATE_IMPORT] {
            assert_eq!(exported(function, ExternalKind::Func), state, "{name}: {function}");
        }
        m.imports.sort();
        assert_eq!(m.imports, imports, "{name}");
        assert!(m.pages <= m.manifest["memory"].as_u64().unwrap(), "{name} begins with {} pages", m.pages);
        assert!(m.named, "{name}: functions have no names for the report of a trap");
        assert!(m.bytes < 64 << 10, "{name} has {} bytes", m.bytes);
    }
}

#[test]
fn the_example_in_c_passes_its_tests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/gtsm");
    if !require(Command::new("cc").arg("--version").output().is_ok(), "cc is missing: apt-get install build-essential")
    {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("test");
    let build = |sanitize: &[&str]| {
        let mut cc = Command::new("cc");
        cc.current_dir(&folder).args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-I", "../../include"]);
        cc.args(sanitize).arg("-o").arg(&program).arg("test.c").output().unwrap()
    };
    let sanitized = build(&["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]);
    if !sanitized.status.success() {
        // A compiler without the sanitizers' libraries.
        let plain = build(&[]);
        assert!(plain.status.success(), "{}", String::from_utf8_lossy(&plain.stderr));
    }
    let out = Command::new(&program).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && text.contains("tests passed"), "{text}{}", String::from_utf8_lossy(&out.stderr));
}
