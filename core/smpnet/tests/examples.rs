//! The example files say what `smpnet check` calls good.

#![allow(clippy::unwrap_used)] // a test ends where something fails, helpers included

use smpnet::config::{World, check, read};

fn checked(name: &str) {
    let file = format!("{}/examples/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&file).unwrap();
    let (config, mut report) = read(name, &text, &|p| std::fs::read(p));
    let drivers = ["af_packet", "af_xdp", "tap", "pcap", "memif", "null"].map(String::from);
    let kinds = ["gif", "vlan"].map(String::from);
    let devices = ["eth1", "eth2"].map(String::from);
    let world = World {
        drivers: Some(&drivers),
        kinds: Some(&kinds),
        devices: Some(&devices),
        compile: Some(&smpnet::check::compile_filter),
        ..World::default()
    };
    check(&config, &world, &mut report);
    assert!(report.problems.is_empty(), "{report}");
    assert!(config.interfaces.len() == 2 && !config.routes.is_empty() && !config.filters.is_empty());
}

#[test]
fn the_router_example_is_good() {
    checked("router.toml");
}

#[test]
fn the_memif_example_is_good() {
    checked("memif.toml");
}

#[test]
fn the_af_xdp_example_is_good() {
    checked("af_xdp.toml");
}

#[test]
fn the_pcap_example_is_good() {
    checked("pcap.toml");
}
