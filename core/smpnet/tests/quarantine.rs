//! A plugin that fails at run time takes its own interface out of service and nothing else: the others go on
//! forwarding, the reason is named by an event and the interface's state, and no packet is missing from the accounts.

// clippy.toml allows it in test functions; here are their helpers too.
#![allow(clippy::unwrap_used)]

#[path = "support/router.rs"]
mod router;

use router::Router;
use smpnet_abi::{ErrBuf, FAULT, IfConfig, OK, Text};
use smpnet_stack::{AddrOptions, RouteSpec};

#[test]
fn a_panic_in_open_is_an_error_with_the_panics_text_and_place() {
    let mut router = Router::forwarding();
    let (code, text) = router.port("bad0", "fixture_panic_open", "{}").unwrap_err();
    assert_eq!(code, FAULT);
    assert!(text.contains("panic in open: the fixture does not open bad0 at ") && text.contains("panics.rs"), "{text}");
    let told = router.registry.not_made("fixture_panic_open", &text);
    assert!(told.contains(&text) && told.contains("libfixture_drivers.so"), "{told}");
    assert_eq!(router.runtime.sysctl().get("kern.plugin.not_made").unwrap().to_string(), "1");
    router.progress();
    router.end();
}

#[test]
fn a_panic_in_rx_burst_quarantines_the_port() {
    let mut router = Router::forwarding();
    let events = router.stack.events();
    let bad = router.port("bad0", "fixture_panic_rx", r#"{"after": 3}"#).unwrap();
    router.up(bad, "10.3.0.1/24");
    router.quarantined(&events, "bad0", "panic in rx_burst: the fixture receives no more");
    assert_eq!(router.interface("bad0").counters.ipackets, 3, "what it received before counts");
    router.end();
}

#[test]
fn a_panic_in_tx_burst_quarantines_the_port_and_the_packets_are_dropped_by_name() {
    let mut router = Router::forwarding();
    let events = router.stack.events();
    let bad = router.port("bad0", "fixture_panic_tx", "{}").unwrap();
    // Bringing it up announces its address by ARP, which is what it is to send.
    let probes = AddrOptions { dad_count: Some(0) };
    router.stack.addr_add(bad, "10.3.0.1/24".parse().unwrap(), probes).unwrap();
    router.stack.set_up(bad, true).unwrap();
    router.quarantined(&events, "bad0", "panic in tx_burst: the fixture sends nothing");
    router.end();
}

#[test]
fn too_many_packets_quarantine_the_port() {
    let mut router = Router::forwarding();
    let events = router.stack.events();
    let bad = router.port("bad0", "fixture_too_many", "{}").unwrap();
    router.up(bad, "10.3.0.1/24");
    router.quarantined(&events, "bad0", "more packets than it was asked for");
    router.end();
}

#[test]
fn a_bad_cell_index_quarantines_the_port() {
    let mut router = Router::forwarding();
    let events = router.stack.events();
    let bad = router.port("bad0", "fixture_bad_cell", "{}").unwrap();
    router.up(bad, "10.3.0.1/24");
    router.quarantined(&events, "bad0", "bad packet (cell 2147483647)");
    assert_eq!(router.interface("bad0").counters.ierrors, 1);
    router.end();
}

#[test]
fn a_port_that_receives_a_packet_twice_is_quarantined_and_no_cell_is_freed_twice() {
    let mut router = Router::forwarding();
    let events = router.stack.events();
    let bad = router.port("bad0", "fixture_twice", "{}").unwrap();
    router.up(bad, "10.3.0.1/24");
    router.quarantined(&events, "bad0", "the same cell twice in one burst");
    assert_eq!(router.interface("bad0").counters.ipackets, 3, "each packet counts once");
    assert_eq!(router.runtime.pool().stats().bad_frees, 0);
    router.end();
}

#[test]
fn a_port_that_receives_a_broken_packet_is_quarantined_and_no_cell_is_lost() {
    let mut router = Router::forwarding();
    let events = router.stack.events();
    let bad = router.port("bad0", "fixture_broken", "{}").unwrap();
    router.up(bad, "10.3.0.1/24");
    router.quarantined(&events, "bad0", "pkt_len does not match the chain");
    let dropped = router.interface("bad0").drops;
    let faults = dropped.iter().find(|d| d.reason == smpnet_abi::DropReason::PluginFault).unwrap();
    assert_eq!(faults.packets, 2, "the broken one and what came after it");
    router.end();
}

#[test]
fn a_panic_in_the_output_of_a_kind_quarantines_the_interface() {
    let router = Router::forwarding();
    let events = router.stack.events();
    let index = router.stack.if_reserve("fix0").unwrap();
    let table = router.registry.kind("fixkind").unwrap();
    let config = IfConfig {
        size: size_of::<IfConfig>() as u32,
        ifindex: index.get(),
        name: Text::new("fix0"),
        options: Text::new("{}"),
        workers: 2,
        mtu: 0,
    };
    // SAFETY: plain numbers and a pointer, of which zero is a value.
    let mut info: smpnet_abi::IfKindInfo = unsafe { std::mem::zeroed() };
    let mut text = [0; 512];
    // SAFETY: the table was checked by the loader; everything passed lives through the call.
    let code = unsafe { (table.create)(router.host, &config, &mut info, &mut ErrBuf::new(&mut text)) };
    assert_eq!(code, OK);
    router.stack.attach_kind(index, table, info).unwrap();
    router.up(index, "10.4.0.1/24");
    // Some of the source's packets go that way from now on.
    let out = smpnet_stack::RouteKind::Forward(vec![smpnet_stack::NextHopSpec {
        via: None,
        ifindex: Some(index),
        weight: 1,
    }]);
    let some = "198.19.0.0/26".parse().unwrap();
    router.stack.route_add(&RouteSpec { dst: some, kind: out }).unwrap();
    router.quarantined(&events, "fix0", "panic in output: the fixture carries none");
    let dropped = router.interface("fix0").drops;
    assert!(dropped.iter().any(|d| d.reason == smpnet_abi::DropReason::PluginFault), "{dropped:?}");
    router.stack.detach(index).unwrap();
    // SAFETY: made above, detached, and not used again.
    assert_eq!(unsafe { (table.destroy)(info.handle) }, OK);
    router.end();
}
