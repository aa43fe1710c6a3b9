//! The C header in `sdk/include` is what the sources say, and a C compiler finds the same layout as Rust.

// It runs compilers, which miri does not do.
#![cfg(not(miri))]

#[path = "../examples/header.rs"]
mod header;

use std::process::Command;

#[test]
fn the_committed_header_is_the_generated_one() {
    let committed = std::fs::read_to_string(header::path()).unwrap_or_default();
    assert!(
        committed == header::generate(),
        "sdk/include/smpnet_plugin.h is not what abi/src says: run `cargo run -p smpnet-abi --example header`"
    );
}

#[test]
fn c_and_cpp_compilers_find_the_same_layout() {
    let dir = tempfile::tempdir().unwrap();
    for (compiler, file, standard) in [("cc", "check.c", "-std=c11"), ("c++", "check.cpp", "-std=c++17")] {
        if Command::new(compiler).arg("--version").output().is_err() {
            println!("SKIPPED: no `{compiler}` on this machine (Debian: apt-get install build-essential)");
            continue;
        }
        let source = dir.path().join(file);
        // Uses the header as a driver does: the manifest and a constant out of each sort.
        let text = "#include \"smpnet_plugin.h\"\n\
             extern const smpnet_manifest smpnet_plugin_manifest;\n\
             const smpnet_manifest smpnet_plugin_manifest = { { 's','m','p','n','e','t','P','L' },\n\
               sizeof(smpnet_manifest), SMPNET_ABI_MAJOR, SMPNET_ABI_MINOR, SMPNET_KIND_DRIVER, 0,\n\
               \"c\", \"1.0.0\", \"MIT\", \"a driver in C\", { { 0, 0, 0, 0 } } };\n\
             uint32_t get(const smpnet_host_services *h, smpnet_cell *c);\n\
             uint32_t get(const smpnet_host_services *h, smpnet_cell *c) {\n\
               return h->pkt_alloc(SMPNET_WORKER_NONE, c, SMPNET_BURST_MAX);\n\
             }\n";
        std::fs::write(&source, text).unwrap();
        let include = header::path();
        let out = Command::new(compiler)
            .args([standard, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I"])
            .arg(include.parent().unwrap())
            .arg(&source)
            .output()
            .unwrap();
        assert!(out.status.success(), "{compiler}: {}", String::from_utf8_lossy(&out.stderr));
    }
}
