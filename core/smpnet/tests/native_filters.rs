//! Native filters on a router that forwards: what they do to packets, what they may not do, and that no packet is missing
//! from the accounts whatever they do.

// clippy.toml allows it in test functions; here are their helpers too.
#![allow(clippy::unwrap_used)]

#[path = "support/router.rs"]
mod router;

use router::{Router, wait};
use serde_json::{Value, json};
use smpnet::native::{NativeCounts, NativeFilters, NativePlace, NativeSpec, NativeStatus, Quarantined};
use smpnet_abi::DropReason;
use smpnet_stack::{AtHook, Dir, HookLayer, IfIndex};
use smpnet_wasm::{Dirs, Layer, OnFault, State};
use std::sync::mpsc::{Receiver, channel};

fn filters(router: &Router) -> (NativeFilters, Receiver<Quarantined>) {
    let (tell, told) = channel();
    let tell = move |q: &Quarantined| drop(tell.send(q.clone()));
    (NativeFilters::new(router.runtime.clone(), router.stack.clone(), router.host, tell), told)
}

fn place(on_fault: OnFault) -> NativePlace {
    NativePlace { layer: Layer::Inet, ifindex: None, dirs: Dirs::In, priority: 0, on_fault }
}

fn spec(router: &Router, native: &str, options: Value, place: NativePlace) -> NativeSpec {
    let table = router.registry.filter(native).unwrap();
    NativeSpec { name: "f".into(), table, native: native.into(), options, place }
}

fn status(filters: &NativeFilters) -> NativeStatus {
    filters.list().into_iter().find(|f| f.name == "f").unwrap()
}

/// What the filter counted when it judges no more, and that the books are right.
#[track_caller]
fn final_counts(router: &Router, filters: NativeFilters) -> NativeCounts {
    router.stack.set_up(router.stack.if_by_name("src0").unwrap(), false).unwrap();
    router.runtime.domain().perform();
    let c = status(&filters).counts;
    assert_eq!(c.packets, c.passed + c.dropped + c.consumed, "{c:?}");
    assert_eq!(filters.stats("f").unwrap().total, c);
    drop(filters);
    assert!(router.stack.hooks().is_empty());
    c
}

#[test]
fn a_native_filter_loses_one_packet_in_so_many() {
    let router = Router::forwarding();
    let (filters, _told) = filters(&router);
    let report = filters.load(spec(&router, "loss", json!({"one_in": 4}), place(OnFault::Pass))).unwrap();
    assert_eq!((report.generation, report.workers, report.kind), (1, 2, "native"));
    wait("it judges", || status(&filters).counts.packets > 5000);
    router.progress();
    let shown = filters.show("f").unwrap();
    assert_eq!(shown.status.text, r#"native loss {"one_in":4}"#);
    assert!(shown.report.unwrap()["lost"].as_u64().unwrap() > 1000);
    let c = final_counts(&router, filters);
    assert!(c.dropped.abs_diff(c.packets / 4) <= 2, "{c:?}");
    assert_eq!((c.consumed, c.faults, router.stack.dropped(DropReason::Filtered)), (0, 0, c.dropped));
    router.end();
}

#[test]
fn packets_that_a_filter_takes_are_accounted_for() {
    let router = Router::forwarding();
    let (filters, _told) = filters(&router);
    let before = router.stack.accounting().to_plugins;
    filters.load(spec(&router, "fixture_filter_take", json!({}), place(OnFault::Drop))).unwrap();
    wait("it takes", || status(&filters).counts.consumed > 1000);
    let c = final_counts(&router, filters);
    assert_eq!((c.dropped, c.faults, router.stack.accounting().to_plugins - before), (0, 0, c.consumed));
    router.end();
}

#[test]
fn a_swap_under_traffic_counts_on_and_loses_nothing() {
    let router = Router::forwarding();
    let (filters, _told) = filters(&router);
    let loss = router.registry.filter("loss").unwrap();
    filters.load(spec(&router, "loss", json!({"one_in": 1000}), place(OnFault::Pass))).unwrap();
    for n in 2..30 {
        let report = filters.swap("f", "loss", loss, &json!({"one_in": n})).unwrap();
        assert_eq!(report.generation, n);
        router.progress();
    }
    let refused = filters.swap("f", "loss", loss, &json!({"one_in": 0})).unwrap_err();
    assert!(refused.contains("1 or more"), "{refused}");
    assert_eq!(status(&filters).generation, 29, "the old one goes on");
    router.progress();
    let c = final_counts(&router, filters);
    assert_eq!((c.faults, router.stack.dropped(DropReason::Filtered)), (0, c.dropped));
    router.end();
}

#[test]
fn a_filter_that_breaks_the_rules_is_taken_off_its_hooks_and_the_router_forwards_on() {
    for (native, saying) in [
        ("fixture_filter_panic", "panic in filter: the fixture judges no more at "),
        ("fixture_filter_wrong", "the verdict 9, which is none"),
        ("fixture_filter_spoil", "it spoiled a packet: pkt_len does not match the chain"),
        ("fixture_filter_free", "it spoiled a packet: a cell that was given back already"),
        ("fixture_filter_twice", "it handed in a bad packet: the same cell twice in one burst"),
    ] {
        let router = Router::forwarding();
        let (filters, told) = filters(&router);
        filters.load(spec(&router, native, json!({}), place(OnFault::Pass))).unwrap();
        wait("it is taken off its hooks", || router.stack.hooks().is_empty());
        let q = told.recv_timeout(std::time::Duration::from_secs(5)).unwrap();
        assert!(q.reason.contains(saying), "{native}: {}", q.reason);
        assert_eq!((q.filter.as_str(), q.native.as_str(), q.on_fault), ("f", native, OnFault::Pass));
        router.progress();
        assert!(told.try_recv().is_err(), "it is told once");
        assert_eq!(status(&filters).state, State::Detached);
        let shown = filters.show("f").unwrap();
        assert_eq!((shown.report, shown.last_fault), (None, Some(q.reason)));
        assert!(router.stack.interfaces().iter().all(|i| i.quarantine.is_none()), "no interface is to blame");
        let c = final_counts(&router, filters);
        assert!((1..=2).contains(&c.faults) && c.dropped == 0, "{native}: {c:?}");
        let spoiled = u64::from(matches!(native, "fixture_filter_spoil" | "fixture_filter_free")) * c.faults;
        assert_eq!(router.stack.dropped(DropReason::PluginFault), spoiled, "{native}");
        router.end();
    }
}

#[test]
fn a_failed_filter_whose_policy_is_to_drop_drops_until_it_is_swapped() {
    let router = Router::forwarding();
    let (filters, told) = filters(&router);
    let options = json!({"after": 100});
    filters.load(spec(&router, "fixture_filter_panic", options, place(OnFault::Drop))).unwrap();
    told.recv_timeout(std::time::Duration::from_secs(5)).unwrap();
    wait("its policy drops", || router.stack.dropped(DropReason::Filtered) > 1000);
    assert_eq!((status(&filters).state, router.stack.hooks().len()), (State::Faulted, 1));
    let passed = status(&filters).counts.passed;
    assert!(passed <= 100, "{passed}");
    let loss = router.registry.filter("loss").unwrap();
    filters.swap("f", "loss", loss, &json!({"one_in": 10})).unwrap();
    router.progress();
    assert_eq!(status(&filters).state, State::Running);
    let c = final_counts(&router, filters);
    assert!(c.fault_packets > 1000 && c.faults >= 1, "{c:?}");
    router.end();
}

#[test]
fn a_swap_puts_a_failed_filter_back_on_its_hooks() {
    let router = Router::forwarding();
    let (filters, told) = filters(&router);
    filters.load(spec(&router, "fixture_filter_wrong", json!({}), place(OnFault::Pass))).unwrap();
    told.recv_timeout(std::time::Duration::from_secs(5)).unwrap();
    assert!(router.stack.hooks().is_empty());
    let loss = router.registry.filter("loss").unwrap();
    filters.swap("f", "loss", loss, &json!({"one_in": 2})).unwrap();
    assert_eq!(router.stack.hooks().len(), 1);
    wait("it judges again", || status(&filters).counts.dropped > 100);
    final_counts(&router, filters);
    router.end();
}

#[test]
fn a_filter_that_is_not_made_leaves_nothing_behind() {
    let router = Router::forwarding();
    let (filters, _told) = filters(&router);
    let refused = |native: &str, options| {
        let error = filters.load(spec(&router, native, options, place(OnFault::Pass))).unwrap_err();
        assert!(filters.list().is_empty() && router.stack.hooks().is_empty());
        error
    };
    let text = refused("fixture_filter_create", json!({}));
    assert!(text.contains("panic in create: the fixture does not make f at ") && text.contains("filters.rs"), "{text}");
    assert!(refused("loss", json!({"one_inn": 3})).contains("one_inn"));
    let nowhere = NativePlace { ifindex: Some(4000), ..place(OnFault::Pass) };
    let error = filters.load(spec(&router, "loss", json!({"one_in": 3}), nowhere)).unwrap_err();
    assert!(error.contains("4000") && filters.list().is_empty(), "{error}");
    assert!(filters.detach("f").unwrap_err().contains("no native filter is named f"));
    router.progress();
    drop(filters);
    router.end();
}

#[test]
fn explain_asks_a_filter_only_when_asking_changes_nothing() {
    let router = Router::forwarding();
    let (filters, _told) = filters(&router);
    let src0 = router.stack.if_by_name("src0").unwrap();
    let mut packet = [0; 28];
    (packet[0], packet[19]) = (0x45, 77);
    fn at(i: IfIndex, bytes: &[u8]) -> AtHook<'_> {
        AtHook { layer: HookLayer::Inet, ifindex: i, dir: Dir::In, rcvif: i, mark: 0, bytes }
    }
    let opinion = |packet: &[u8]| filters.opinion("f", &at(src0, packet)).unwrap();
    filters.load(spec(&router, "fixture_filter_last", json!({"last": 77}), place(OnFault::Pass))).unwrap();
    let o = opinion(&packet);
    assert_eq!((o.pass, o.detail.as_str()), (false, r#"native fixture_filter_last {"last":77}: drops"#));
    packet[19] = 78;
    let o = opinion(&packet);
    assert!(o.pass && o.mark == Some(5) && o.detail.ends_with("passes, with the mark 5"), "{}", o.detail);
    assert!(opinion(&[0; 4000]).detail.contains("4000 bytes do not fit one cell"));
    filters.detach("f").unwrap();
    filters.load(spec(&router, "loss", json!({"one_in": 1}), place(OnFault::Pass))).unwrap();
    let o = opinion(&packet);
    assert!(o.pass && o.detail.contains("not asked: it keeps state"), "{}", o.detail);
    assert_eq!(filters.opinion("g", &at(src0, &packet)), None);
    drop(filters);
    router.end();
}
