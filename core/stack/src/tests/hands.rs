//! What plugins hand in that is no packet, no packet any more, or the same packet twice.

use super::frames::*;
use super::rig::*;
use crate::net::path::Caller;
use crate::types::IfIndex;
use smpnet_abi::{CELL_NONE, Cell, DropReason, PktHdr};

/// A cell with a frame in it that nobody answers, spoiled by `f`.
fn cell(r: &Rig, f: impl FnOnce(&mut PktHdr)) -> Cell {
    let mut c = [0];
    assert_eq!(r.rt.pool().alloc_shared(&mut c), 1);
    let mut p = r.rt.pool().packet(c[0]);
    assert!(p.set_data(&ip_frame(r.mac(0), mac(HOST_A), &udp("10.0.1.2", "10.0.2.2", 1, 2, b""))));
    f(p.hdr_mut());
    c[0]
}

fn quarantine(r: &Rig, name: &str) -> Option<String> {
    r.stack.interfaces().into_iter().find(|i| i.name == name).unwrap().quarantine
}

type Spoiled = fn(&Rig) -> (Vec<Cell>, u64);

/// Lists that are wrong in one way each, and how many of their cells were the plugin's to give but no packets.
const WRONG: [(&str, Spoiled); 6] = [
    ("the same cell twice", |r| {
        let c = cell(r, |_| ());
        (vec![c, cell(r, |_| ()), c, c], 0)
    }),
    ("given back already", |r| {
        let free = cell(r, |_| ());
        let good = cell(r, |_| ());
        r.rt.pool().free_shared(&[free]);
        (vec![good, free], 0)
    }),
    ("pkt_len", |r| (vec![cell(r, |_| ()), cell(r, |h| h.pkt_len += 1), cell(r, |_| ())], 1)),
    ("outside of the cell", |r| {
        let bad = cell(r, |h| h.data_len = u16::MAX);
        (vec![bad, cell(r, |_| ()), bad], 1)
    }),
    ("nsegs", |r| {
        let tail = cell(r, |_| ());
        // The chain comes back to its beginning.
        let first = cell(r, |h| h.next = tail);
        r.rt.pool().packet(tail).hdr_mut().next = first;
        (vec![first, tail], 1)
    }),
    ("no such cell", |r| (vec![cell(r, |h| (h.next, h.nsegs) = (9_999_999, 2)), CELL_NONE, cell(r, |_| ())], 1)),
];

#[test]
fn a_port_that_receives_no_packets_is_quarantined_and_no_cell_is_lost_or_freed_twice() {
    for (what, spoiled) in WRONG {
        let mut r = Rig::router();
        r.port("c0", "10.0.9.1/24");
        let (cells, bad) = spoiled(&r);
        *r.wire(2).misbehave.lock().unwrap() = Some((cells.len() as u32, cells));
        r.run();
        assert!(quarantine(&r, "c0").is_some_and(|q| q.contains(what)), "{what}: {:?}", quarantine(&r, "c0"));
        assert!(r.dropped(DropReason::PluginFault) >= bad, "{what}");
        r.balanced();
        assert_eq!(r.rt.pool().stats().bad_frees, 0, "{what}");
        r.host_a(&udp("10.0.1.2", "10.0.2.2", 1, 2, b""));
        assert_eq!(r.take(1).len(), 1, "the router forwards on its other ports");
        r.balanced();
    }
}

/// Hands `cells` in as if a plugin did.
fn hand(r: &mut Rig, index: IfIndex, how: usize, cells: &[Cell]) {
    let stack = r.stack.clone();
    r.workers[0].with(|cx| match how {
        0 => stack.if_input(cx.cpu, index.get(), cells),
        1 => stack.if_output(cx.cpu, index.get(), cells),
        _ => _ = stack.calling(cx.cpu, Caller::Interface(index.get()), || stack.ip_output(cx.cpu, cells)),
    });
    r.run();
}

#[test]
fn an_interface_that_hands_in_no_packets_is_quarantined_and_no_cell_is_lost_or_freed_twice() {
    for how in 0..3 {
        for (what, spoiled) in WRONG {
            let mut r = Rig::router();
            let c0 = r.port("c0", "10.0.9.1/24");
            let (cells, bad) = spoiled(&r);
            hand(&mut r, c0, how, &cells);
            assert!(quarantine(&r, "c0").is_some_and(|q| q.contains(what)), "{what}: {:?}", quarantine(&r, "c0"));
            assert_eq!(quarantine(&r, "a0"), None);
            assert!(r.dropped(DropReason::PluginFault) >= bad, "{what}");
            r.balanced();
            assert_eq!(r.rt.pool().stats().bad_frees, 0, "{what}");
        }
    }
}

#[test]
fn a_packet_that_is_handed_in_again_before_it_is_taken_up_is_taken_up_once() {
    let mut r = Rig::router();
    let (a0, b0) = (r.index(0), r.index(1));
    let c = cell(&r, |_| ());
    let stack = r.stack.clone();
    r.workers[0].with(|cx| {
        stack.if_input(cx.cpu, a0.get(), &[c]);
        // Spoiled meanwhile: it is still the first one's.
        r.rt.pool().packet(c).hdr_mut().pkt_len = 1;
        stack.if_output(cx.cpu, b0.get(), &[c]);
        r.rt.pool().packet(c).hdr_mut().pkt_len = u32::from(r.rt.pool().packet(c).hdr().data_len);
        stack.if_output(cx.cpu, b0.get(), &[c]);
    });
    r.run();
    assert!(quarantine(&r, "b0").is_some() && quarantine(&r, "a0").is_none());
    assert_eq!((r.dropped(DropReason::IfDown), r.stack.accounting().from_plugins), (1, 1));
    r.balanced();
}

#[test]
fn what_a_filter_hands_in_wrongly_is_laid_at_its_own_door() {
    let mut r = Rig::router();
    let stack = r.stack.clone();
    let (c, b0) = (cell(&r, |_| ()), r.index(1).get());
    let wrong = r.workers[0].with(|cx| stack.calling_filter(cx.cpu, || stack.if_output(cx.cpu, b0, &[c, c])).1);
    assert_eq!(wrong, Some(smpnet_runtime::BadPacket::Twice));
    r.run();
    assert_eq!((quarantine(&r, "b0"), r.take(1).len()), (None, 1));
    r.balanced();
}
