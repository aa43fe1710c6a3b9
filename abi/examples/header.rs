//! Writes `sdk/include/smpnet_plugin.h`, the C view of the ABI: `cargo run -p smpnet-abi --example header`.
//!
//! Structures come from cbindgen, which reads the sources of this crate; constants are taken from the same sources here,
//! because C has no modules and `kind::DRIVER` needs another name than `table_kind::DRIVER`; the reasons for drops come
//! from the enum itself; and every size and offset is asserted, so that a C compiler checks what it makes of it.

mod parts;

use parts::{c_name, constants, layouts};
use smpnet_abi::*;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Sources that C can use, in the order of the header. `module.rs` is for Rust alone (abi_stable).
const SOURCES: &[&str] = &["lib", "version", "packet", "text", "manifest", "driver", "ifkind", "filter", "host"];

const PREFIX: &str = "smpnet";
const PREFIX_UPPER: &str = "SMPNET";

const HEAD: &str = "\
/* smpnet's plugin ABI, generated from abi/src: cargo run -p smpnet-abi --example header
 *
 * What the functions do, who calls them on which thread and who owns what is said in the documentation of the Rust
 * crate (abi/src/lib.rs and the comments here). SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef SMPNET_PLUGIN_H
#define SMPNET_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus)
#define SMPNET_ASSERT static_assert
#define SMPNET_ALIGNED(n) alignas(n)
#else
#define SMPNET_ASSERT _Static_assert
#define SMPNET_ALIGNED(n) __attribute__((aligned(n)))
#endif

/* First bytes of the manifest, and the symbol that it stands at. */
#define SMPNET_MANIFEST_MAGIC \"smpnetPL\"
#define SMPNET_MANIFEST_SYMBOL smpnet_plugin_manifest
";

#[allow(dead_code)] // the test that includes this file has its own entry
fn main() -> std::io::Result<()> {
    std::fs::write(path(), generate())
}

/// Where the header stands.
pub fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk/include/smpnet_plugin.h")
}

/// The header as it should be.
pub fn generate() -> String {
    let mut out = String::from(HEAD);
    for source in SOURCES {
        constants(&read(source), PREFIX_UPPER, false, &mut out);
    }
    drop_reasons(&mut out);
    out.push('\n');
    out.push_str(&structures());
    assertions(PREFIX, &mut out);
    out.push_str("\n#endif /* SMPNET_PLUGIN_H */\n");
    out
}

fn source_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name).with_extension("rs")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(source_path(name)).expect("the sources stand beside this file")
}

fn drop_reasons(out: &mut String) {
    out.push_str("\n/* Why a packet was dropped: the `reason` of pkt_drop. */\n");
    for reason in DropReason::ALL {
        let name = reason.name().to_uppercase();
        let _ = writeln!(out, "/* {} */\n#define SMPNET_DROP_{name} {}u", reason.text(), *reason as u16);
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
    config.export.item_types = vec![cbindgen::ItemType::Structs, cbindgen::ItemType::Typedefs];
    config.layout.aligned_n = Some("SMPNET_ALIGNED".to_owned());
    for name in NAMES.iter().chain(FUNCTIONS) {
        config.export.rename.insert((*name).to_owned(), c_name(PREFIX, name));
        config.export.include.push((*name).to_owned());
    }
    config.export.rename.insert("PCI_IDS_MAX".to_owned(), "SMPNET_PCI_IDS_MAX".to_owned());
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES.iter().filter(|s| **s != "lib") {
        builder = builder.with_src(source_path(source));
    }
    let mut text = Vec::new();
    builder.generate().expect("cbindgen reads the sources").write(&mut text);
    String::from_utf8(text).expect("cbindgen writes UTF-8")
}

const FUNCTIONS: &[&str] = &["Cell", "CalloutFn", "WorkFn", "SysctlGetFn", "SysctlSetFn"];

layouts! {
    PktHdr { next pkt_len data_off data_len rcvif l2_off l3_off l4_off ether_type flow_hash vlan_tci l4_proto nsegs flags gso_size csum_start csum_offset rx_queue mark scratch }
    PoolDesc { size cell_size base bytes cells data_off fd page_size }
    Text { ptr len _pad }
    ErrBuf { ptr cap len }
    PciId { vendor device subvendor subdevice }
    Manifest { magic size abi_major abi_minor kinds privileges name version license summary pci }
    MacAddr { bytes }
    PortConfig { size ifindex name options rx_queues tx_queues workers mtu _pad }
    PortInfo { size flags port rx_queues tx_queues mtu mtu_max offloads mac rss_table rss_key _pad }
    LinkState { state full_duplex speed _pad }
    PortStats { rx_packets rx_bytes rx_missed rx_errors tx_packets tx_bytes tx_errors }
    NamedCounter { name value }
    DriverTable { size flags name summary open close set_up rx_burst tx_burst event_fd rx_arm rx_disarm link_state stats counters set_promisc set_multicast set_mac set_mtu set_offloads set_rss status }
    IfConfig { size ifindex name options workers mtu }
    IfKindInfo { size if_type handle mtu mtu_min mtu_max offloads parent mac _pad }
    IfKindTable { size flags name summary create destroy configure output input status }
    FilterConfig { size workers name options }
    FilterTable { size flags name summary create destroy filter status }
    IfInfo { size ifindex if_type flags mtu offloads mac _pad name }
    EncapKey { version protocol _pad remote local }
    CounterDesc { size stride base owner name }
    HostServices { size abi_major abi_minor workers _pad pool pkt_alloc pkt_free pkt_drop if_input if_output ip_output now_ns callout callout_stop work encap_attach encap_detach vlan_attach vlan_detach ether_attach ether_detach if_lookup if_info link_event fault counter sysctl sysctl_remove log }
}
