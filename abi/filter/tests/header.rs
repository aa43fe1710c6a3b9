//! The C header in `sdk/include` is what the source says, C compilers find the same layout as Rust, and what it makes for
//! wasm32 is a module with the manifest, exports and imports of the ABI.

// It runs compilers, which miri does not do.
#![cfg(not(miri))]

#[path = "../examples/header.rs"]
mod header;

use std::path::Path;
use std::process::Command;

/// A filter that uses all that the header has.
const SOURCE: &str = r#"
#include "smpnet_filter.h"

SMPNET_FILTER_MANIFEST({ "abi": "1.0", "name": "all", "counters": ["seen"], "capabilities": ["edit", "log"] })
SMPNET_FILTER_RING(SMPNET_FILTER_WINDOW_DEFAULT)

int32_t smpnet_init(int32_t len) {
  uint32_t capacity;
  const uint8_t *config = smpnet_filter_windows(&capacity);
  if (len > 0 && config[0] == '!') {
    SMPNET_FILTER_LOG(SMPNET_FILTER_LEVEL_ERROR, "a configuration must not begin with !");
    return 1;
  }
  return 0;
}

int32_t smpnet_filter(int32_t n) {
  smpnet_filter_ring *ring = smpnet_filter_the_ring();
  for (int32_t i = 0; i < n; i++) {
    smpnet_filter_view udp = smpnet_filter_transport(ring, i, 17);
    smpnet_filter_count(ring, 0, 1);
    if (smpnet_filter_be16(udp, 2) == 53) smpnet_filter_drop(ring, i);
    if (smpnet_filter_be32(udp, 4) == 7) smpnet_filter_reject(ring, i);
    if (smpnet_filter_u8(udp, 8) == 1) smpnet_filter_mark(ring, i, 9);
    if (smpnet_filter_u8(udp, 8) == 2) smpnet_filter_edit(ring, i, 22, "\x01", 1, SMPNET_FILTER_PATCH_FLAGS_FIX_IPV4);
  }
  return n;
}
"#;

#[test]
fn the_committed_filter_header_is_the_generated_one() {
    let committed = std::fs::read_to_string(header::path()).unwrap_or_default();
    assert!(
        committed == header::generate(),
        "sdk/include/smpnet_filter.h is not what abi/filter says: run `cargo run -p smpnet-filter-abi --example header`"
    );
}

#[test]
fn c_and_cpp_compilers_find_the_layout_of_the_ring() {
    let dir = tempfile::tempdir().unwrap();
    for (compiler, file, standard) in [("cc", "check.c", "-std=c11"), ("c++", "check.cpp", "-std=c++17")] {
        if !there_is(compiler) {
            println!("SKIPPED: no `{compiler}` on this machine (Debian: apt-get install build-essential)");
            continue;
        }
        let source = dir.path().join(file);
        std::fs::write(&source, SOURCE).unwrap();
        let warnings = ["-Wall", "-Wextra", "-Werror", "-fsyntax-only"];
        run(Command::new(compiler).arg(standard).args(warnings).arg("-I").arg(folder()).arg(&source));
    }
}

#[test]
fn clang_makes_a_module_with_the_manifest_and_names_of_the_abi() {
    if !there_is("clang") || !there_is("wasm-ld") {
        println!("SKIPPED: no `clang` with `wasm-ld` on this machine (Debian: apt-get install clang lld)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (source, module) = (dir.path().join("all.c"), dir.path().join("all.wasm"));
    std::fs::write(&source, SOURCE).unwrap();
    let flags = ["--target=wasm32", "-O2", "-nostdlib", "-ffreestanding", "-fno-builtin", "-Wl,--no-entry"];
    let strict = ["-Wall", "-Wextra", "-Werror", "-std=c11"];
    run(Command::new("clang").args(flags).args(strict).arg("-I").arg(folder()).arg("-o").arg(&module).arg(&source));
    let bytes = std::fs::read(&module).unwrap();
    assert!(bytes.starts_with(b"\0asm\x01\0\0\0"), "no WebAssembly");
    let has = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    let manifest = r#"{ "abi": "1.0", "name": "all", "counters": ["seen"], "capabilities": ["edit", "log"] }"#;
    // A custom section: id, size, name with its length, content.
    assert!(has(&format!("\r{}{manifest}", smpnet_filter_abi::MANIFEST_SECTION)), "no manifest");
    use smpnet_filter_abi::export::{FILTER, INIT, MEMORY, RING, TICK};
    for name in [MEMORY, RING, FILTER, INIT] {
        assert!(has(name), "{name} is not exported");
    }
    assert!(!has(TICK), "what the filter does not define is not exported");
    assert!(has("\x06smpnet\x03log"), "the log is not imported as smpnet.log");
    assert!(!has("table_exact"), "what the filter does not use is not imported");
}

fn folder() -> std::path::PathBuf {
    header::path().parent().unwrap_or(Path::new(".")).to_owned()
}

fn there_is(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

fn run(command: &mut Command) {
    let out = command.output().expect("the program was found before");
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}
