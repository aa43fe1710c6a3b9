//! Writes `sdk/include/smpnet_filter.h`, the C view of the filter ABI: `cargo run -p smpnet-filter-abi --example header`.
//!
//! Constants and structures come from the source of this crate, as those of the plugin ABI's header do; what a filter in C
//! writes with them (manifest, ring, reading and changing packets) stands in `helpers.h` beside this file. Every size and
//! offset is asserted, so that a C compiler checks what it makes of it.

#[path = "../../examples/parts/mod.rs"]
mod parts;

use parts::{c_name, constants, layouts};
use smpnet_filter_abi::*;
use std::fmt::Write;
use std::path::{Path, PathBuf};

const PREFIX: &str = "smpnet_filter";

const HEAD: &str = "\
/* smpnet's filter ABI, generated from abi/filter: cargo run -p smpnet-filter-abi --example header
 *
 * For authors of packet filters in C, built with clang --target=wasm32; it needs no C library. The words that go with it
 * stand below and, at the end, what each helper does. SPDX-License-Identifier: MIT OR Apache-2.0
 *
";

const OPEN: &str = " */
#ifndef SMPNET_FILTER_H
#define SMPNET_FILTER_H

#include <stddef.h>
#include <stdint.h>

#ifndef SMPNET_ASSERT
#if defined(__cplusplus)
#define SMPNET_ASSERT static_assert
#else
#define SMPNET_ASSERT _Static_assert
#endif
#endif

";

const HELPERS: &str = include_str!("helpers.h");

#[allow(dead_code)] // the test that includes this file has its own entry
fn main() -> std::io::Result<()> {
    std::fs::write(path(), generate())
}

/// Where the header stands.
pub fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk/include/smpnet_filter.h")
}

/// The header as it should be.
pub fn generate() -> String {
    let source = std::fs::read_to_string(source_path()).expect("the source stands beside this file");
    let mut out = String::from(HEAD);
    words(&source, &mut out);
    out.push_str(OPEN);
    constants(&source, "SMPNET_FILTER", true, &mut out);
    out.push('\n');
    out.push_str(&structures());
    assertions(PREFIX, &mut out);
    out.push('\n');
    out.push_str(HELPERS);
    out.push_str("\n#endif /* SMPNET_FILTER_H */\n");
    out
}

fn source_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")
}

/// The documentation of the crate, as the rest of the comment that was begun. Links lose their brackets and paths.
fn words(source: &str, out: &mut String) {
    for line in source.lines().map_while(|l| l.strip_prefix("//!")) {
        let text = line.replace("*/", "* /").replace("[`", "`").replace("`]", "`");
        let _ = writeln!(out, " *{}", text.trim_end());
    }
}

fn structures() -> String {
    let mut config = cbindgen::Config {
        language: cbindgen::Language::C,
        cpp_compat: true,
        no_includes: true,
        style: cbindgen::Style::Both,
        documentation_style: cbindgen::DocumentationStyle::C,
        ..Default::default()
    };
    config.export.item_types = vec![cbindgen::ItemType::Structs];
    for name in NAMES {
        config.export.rename.insert((*name).to_owned(), c_name(PREFIX, name));
        config.export.include.push((*name).to_owned());
    }
    for name in ["BURST_MAX", "COUNTERS_MAX", "PATCH_BYTES"] {
        config.export.rename.insert(name.to_owned(), format!("SMPNET_FILTER_{name}"));
    }
    let mut text = Vec::new();
    let bindings = cbindgen::Builder::new().with_config(config).with_src(source_path()).generate();
    bindings.expect("cbindgen reads the source").write(&mut text);
    // A cast in the length of an array is Rust's need, not C's.
    String::from_utf8(text).expect("cbindgen writes UTF-8").replace("(uintptr_t)", "")
}

layouts! {
    Packet { data cap_len flags wire_len flow_hash mark rcvif l3_off l4_off ether_type vlan_tci }
    Verdict { verdict mark }
    Patch { packet flags off len reserved }
    Ring { n layer direction ifindex now_ns generation worker workers window patch_len reserved packets verdicts counters patches }
}
