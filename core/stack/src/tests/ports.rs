//! The controls of ports: what the device is told, and what workers do from then on.

use super::frames::*;
use super::rig::*;
use super::tunnels::{VLAN, kind};
use crate::error::StackError;
use crate::types::{AddrOptions, Dirs, IfStatus, Layer};
use crate::wire::arp::REQUEST;
use crate::wire::ethernet::Ethernet;
use smpnet_abi::{DropReason, MacAddr, offload};
use smpnet_runtime::{HookCx, PfilHook};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const OTHER: &str = "02:00:00:00:00:77";
const NEW: &str = "02:00:00:00:99:99";

fn status(r: &Rig, port: usize) -> IfStatus {
    let index = r.index(port);
    r.stack.interfaces().into_iter().find(|i| i.index == index).unwrap()
}

/// Counts the frames that it sees.
struct Witness(Arc<AtomicU64>);

impl PfilHook for Witness {
    fn name(&self) -> &str {
        "witness"
    }

    fn filter(&self, _: &HookCx<'_>, cells: &[smpnet_abi::Cell], _: &mut [u32]) -> bool {
        self.0.fetch_add(cells.len() as u64, Relaxed);
        false
    }
    fn status(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

#[test]
fn a_promiscuous_port_shows_the_frames_of_others_to_the_hooks_and_drops_them_then() {
    let mut r = Rig::router();
    let seen = Arc::new(AtomicU64::new(0));
    r.stack.pfil_attach(Layer::Ether, None, Dirs::In, 0, Arc::new(Witness(seen.clone()))).unwrap();
    let strange = || ip_frame(mac(OTHER), mac(HOST_A), &udp("10.0.1.2", "10.0.2.2", 1, 2, b"not for the router"));
    r.send(0, strange());
    assert_eq!((seen.load(Relaxed), r.dropped(DropReason::NotForUs)), (0, 1));
    r.stack.set_promisc(r.index(0), true).unwrap();
    r.send(0, strange());
    assert_eq!((seen.load(Relaxed), r.dropped(DropReason::NotForUs)), (1, 2));
    assert!(r.take(1).is_empty(), "it is not forwarded");
    let steps = r.stack.explain(r.index(0), &strange(), &|_| vec![]);
    assert_eq!(steps.last().unwrap().decision, "drop not_for_us");
    r.host_a(&udp("10.0.1.2", "10.0.2.2", 1, 2, b"for the router"));
    assert_eq!(r.take(1).len(), 1, "what is ours goes on as before");
    r.balanced();
}

#[test]
fn wishes_for_promiscuous_mode_are_counted_and_the_device_is_told_of_the_first_and_the_last() {
    let r = Rig::router();
    let i = r.index(0);
    let told = || r.wire(0).told();
    r.stack.set_promisc(i, true).unwrap();
    r.stack.set_promisc(i, true).unwrap();
    r.stack.promisc_acquire(i).unwrap();
    assert_eq!(told(), ["promisc 1"]);
    r.stack.set_promisc(i, false).unwrap();
    assert!(told().is_empty(), "a capture still wants it");
    assert!(status(&r, 0).promisc);
    r.stack.promisc_release(i).unwrap();
    assert_eq!(told(), ["promisc 0"]);
    assert!(!status(&r, 0).promisc);
    r.stack.promisc_release(i).unwrap();
    assert!(told().is_empty(), "one release too many is none");
}

#[test]
fn a_device_that_refuses_leaves_everything_as_it_was() {
    let r = Rig::router();
    let i = r.index(0);
    let before = serde_json::to_string(&status(&r, 0)).unwrap();
    let refuses = |what| *r.wire(0).refuses.lock().unwrap() = Some(what);
    refuses("promisc");
    let e = r.stack.set_promisc(i, true).unwrap_err();
    assert_eq!(e.to_string(), "interface `a0`: cannot be made promiscuous: it does not want to");
    refuses("mac");
    assert!(matches!(r.stack.set_mac(i, Some(mac(NEW))), Err(StackError::Plugin { .. })));
    refuses("multicast");
    assert!(matches!(r.stack.set_multicast(i, &[mac("01:00:5e:00:00:05")], true), Err(StackError::Plugin { .. })));
    assert_eq!(serde_json::to_string(&status(&r, 0)).unwrap(), before);
    assert!(r.wire(0).told().is_empty());
}

#[test]
fn a_new_ethernet_address_is_answered_for_at_once_and_announced() {
    let mut r = Rig::router();
    let (i, old) = (r.index(1), r.mac(1));
    r.host_a(&udp("10.0.1.2", "10.0.2.2", 1, 2, b"the flow is remembered"));
    r.take(1);
    r.stack.set_mac(i, Some(mac(NEW))).unwrap();
    assert_eq!(r.wire(1).told(), [format!("mac {NEW}")]);
    r.run();
    let out = r.take(1);
    let told = arp_of(&out[0]).unwrap();
    assert_eq!((told.op, told.sha, told.spa, told.tpa), (REQUEST, mac(NEW), ip("10.0.2.1"), ip("10.0.2.1")));
    r.host_a(&udp("10.0.1.2", "10.0.2.2", 1, 2, b"sent from the new address"));
    let out = r.take(1);
    assert_eq!(Ethernet::parse(&out[0]).unwrap().src, mac(NEW));
    let back = udp("10.0.2.2", "10.0.1.2", 2, 1, b"");
    r.send(1, ip_frame(mac(NEW), mac(HOST_B), &back));
    assert_eq!(r.take(0).len(), 1);
    r.send(1, ip_frame(old, mac(HOST_B), &back));
    assert!(r.take(0).is_empty());
    assert_eq!(r.dropped(DropReason::NotForUs), 1);
    r.stack.set_mac(i, None).unwrap();
    assert_eq!(status(&r, 1).mac, crate::mac_text(old), "it has its own back");
    for bad in ["00:00:00:00:00:00", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff"] {
        assert!(matches!(r.stack.set_mac(i, Some(mac(bad))), Err(StackError::BadMac(..))), "{bad}");
    }
    r.balanced();
}

#[test]
fn a_vlan_follows_its_parents_address_and_one_of_its_own_makes_the_parent_promiscuous() {
    let mut r = Rig::router();
    let parent = r.index(1);
    let v = kind(&r, "vlan10", &VLAN, "0.0.0.0", "0.0.0.0", parent.get(), 10);
    r.stack.vlan_attach(parent, 10, v).unwrap();
    r.stack.addr_add(v, net("10.0.10.1/24"), AddrOptions { dad_count: Some(0) }).unwrap();
    let of_vlan = |r: &Rig| r.stack.interfaces().into_iter().find(|i| i.index == v).unwrap();
    r.stack.set_mac(parent, Some(mac(NEW))).unwrap();
    assert_eq!(of_vlan(&r).mac, NEW);
    assert!(!status(&r, 1).promisc);
    r.stack.set_mac(v, Some(mac(OTHER))).unwrap();
    assert!(status(&r, 1).promisc);
    r.run();
    r.take(1);
    let tagged = |dst: MacAddr| {
        let f = ip_frame(dst, mac(HOST_B), &echo("10.0.10.2", "10.0.10.1", 1, b"tagged"));
        let mut t = f[..12].to_vec();
        t.extend_from_slice(&[0x81, 0, 0, 10]);
        t.extend_from_slice(&f[12..]);
        t
    };
    let before = r.stat("delivered");
    r.send(1, tagged(mac(OTHER)));
    assert_eq!(r.stat("delivered"), before + 1, "the vlan's own address");
    r.send(1, tagged(mac(NEW)));
    assert_eq!(r.stat("delivered"), before + 1, "the parent's address is not the vlan's any more");
    assert_eq!(r.dropped(DropReason::NotForUs), 1);
    r.stack.promisc_acquire(v).unwrap();
    r.stack.set_mac(v, None).unwrap();
    assert!(status(&r, 1).promisc, "the vlan is promiscuous itself");
    r.detach(v);
    assert!(!status(&r, 1).promisc);
}

#[test]
fn offloads_are_changed_to_exactly_those_that_are_named() {
    let mut r = Rig::new(1);
    let offered = offload::RX_CSUM | offload::TX_CSUM | offload::TSO4;
    let i = r.port_with("a0", "10.0.1.1/24", offered, 1, 1);
    r.stack.set_offloads(i, Some(offload::RX_CSUM)).unwrap();
    r.stack.set_offloads(i, Some(offload::RX_CSUM)).unwrap();
    assert_eq!(r.wire(0).told(), ["offloads 0x1"]);
    let s = status(&r, 0);
    assert_eq!((s.capabilities, s.offloads), (vec!["rx_csum", "tx_csum", "tso4"], vec!["rx_csum"]));
    let e = r.stack.set_offloads(i, Some(offload::LRO | offload::RX_CSUM)).unwrap_err().to_string();
    assert_eq!(e, "interface `a0`: the port does not offer lro; it offers rx_csum, tx_csum, tso4");
    r.stack.set_offloads(i, None).unwrap();
    assert_eq!(status(&r, 0).offloads, ["rx_csum", "tx_csum", "tso4"]);
}

#[test]
fn the_multicast_list_is_told_as_a_whole() {
    let r = Rig::router();
    let i = r.index(0);
    let (a, b) = (mac("01:00:5e:00:00:05"), mac("01:00:5e:00:00:12"));
    r.stack.set_multicast(i, &[b, a, b], false).unwrap();
    r.stack.set_multicast(i, &[a, b], false).unwrap();
    r.stack.set_multicast(i, &[], true).unwrap();
    assert_eq!(r.wire(0).told(), ["multicast [01:00:5e:00:00:05 01:00:5e:00:00:12] 0", "multicast [] 1"]);
    assert!(status(&r, 0).allmulti);
    for bad in [OTHER, "ff:ff:ff:ff:ff:ff"] {
        assert!(matches!(r.stack.set_multicast(i, &[mac(bad)], false), Err(StackError::BadMac(..))), "{bad}");
    }
}

#[test]
fn a_port_of_several_queues_is_programmed_with_the_symmetric_key() {
    let mut r = Rig::new(2);
    r.port_with("a0", "", offload::RSS, 2, 2);
    let told = r.wire(0).told();
    assert!(told[0].starts_with("rss [6d, 5a, 6d, 5a"), "{told:?}");
    assert!(told[0].ends_with("[0, 1, 0, 1, 0, 1, 0, 1]"), "{told:?}");
    let rss = status(&r, 0).rss.unwrap();
    assert!(rss.programmed);
    assert_eq!((rss.table, rss.queues), (8, 2));
    r.port_with("b0", "", offload::RSS, 1, 1);
    assert!(r.wire(1).told().is_empty() && status(&r, 1).rss.is_none(), "one queue has nothing to spread");
}

#[test]
fn a_port_that_refuses_the_key_works_without() {
    let mut r = Rig::new(2);
    let port = MemPort { refuses: Some("rss").into(), ..MemPort::default() };
    r.port_of("a0", "10.0.1.1/24", port, offload::RSS, 2, 2);
    let rss = status(&r, 0).rss.unwrap();
    assert!(!rss.programmed);
    assert!(rss.reason.unwrap().ends_with("it does not want to"));
    assert!(status(&r, 0).running);
}

#[test]
fn what_a_port_lost_before_the_stack_saw_it_is_a_drop_with_a_name() {
    let mut r = Rig::router();
    assert_eq!(r.dropped(DropReason::RxMissed), 0);
    r.wire(0).missed.store(7, Relaxed);
    r.wire(1).missed.store(2, Relaxed);
    assert_eq!(r.dropped(DropReason::RxMissed), 9);
    assert_eq!(status(&r, 0).drops.last().map(|d| (d.reason, d.packets)), Some((DropReason::RxMissed, 7)));
    r.stack.quarantine(r.index(0), "a test").unwrap();
    r.wire(0).missed.store(1_000_000, Relaxed);
    assert_eq!(r.dropped(DropReason::RxMissed), 9, "a quarantined port is not asked");
    r.detach(r.index(1));
    assert_eq!(r.dropped(DropReason::RxMissed), 9, "what it lost is remembered when it is gone");
    assert_eq!(r.stack.accounting().missing(), 0, "what was never received is no part of the books");
}
