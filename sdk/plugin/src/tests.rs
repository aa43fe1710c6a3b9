//! The shims between the ABI's tables and the traits: called as the router calls them.

use crate::*;
use smpnet_abi::{ErrBuf, FAULT, HostServices, OK, PortConfig, PortInfo, RX_FAULT, Text, UNSUPPORTED};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A port that receives `give` packets a burst and accepts `take` of what is sent.
struct Toy {
    closed: Arc<AtomicU32>,
}

struct Rx {
    give: usize,
    held: Vec<Packet>,
}

struct Tx {
    take: usize,
    reorder: bool,
}

impl Driver for Toy {
    const NAME: &'static str = "toy";
    const SUMMARY: &'static str = "for tests";
    type Rx = Rx;
    type Tx = Tx;

    fn open(host: Host, req: &PortRequest<'_>) -> Result<Opened<Self>, Error> {
        let number = |name: &str| req.options[name].as_u64().unwrap_or(0) as usize;
        if number("fail") == 1 {
            return Err(Error::from("no such toy").context(req.name));
        }
        assert_ne!(number("fail"), 2, "open fails");
        let rx = Rx { give: number("give"), held: host.alloc().into_iter().collect() };
        let tx = Tx { take: number("take"), reorder: number("reorder") == 1 };
        let queues = if number("queueless") == 1 { vec![] } else { vec![rx] };
        Ok(Opened { port: Toy { closed: Arc::default() }, rx: queues, tx: vec![tx], details: PortDetails::default() })
    }

    fn counters(&self) -> Vec<(String, u64)> {
        vec![("rx_toys".to_owned(), 7), ("x".repeat(60), 8)]
    }

    fn set_mtu(&self, mtu: u32) -> Result<(), Error> {
        if mtu > 9000 { Err("too large".into()) } else { Ok(()) }
    }

    fn status(&self) -> serde_json::Value {
        serde_json::json!({ "toy": true })
    }

    fn close(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }
}

impl RxQueue for Rx {
    fn rx_burst(&mut self, cx: &mut Worker<'_>, out: &mut Burst, _max: usize) {
        assert_ne!(self.give, 99, "the toy is broken");
        cx.alloc_burst(self.give, out);
        for packet in out {
            packet.set_data(b"toy");
        }
        self.held.clear();
    }

    fn event_fd(&self) -> Option<std::os::fd::RawFd> {
        Some(42)
    }

    fn arm(&mut self) -> bool {
        self.give > 0
    }
}

impl TxQueue for Tx {
    fn tx_burst(&mut self, cx: &mut Worker<'_>, burst: &mut Burst) {
        assert_ne!(self.take, 99, "the toy is broken");
        if self.reorder {
            burst.as_mut_slice().reverse();
        }
        cx.free(burst.take_front(self.take));
    }
}

struct Port(PortInfo);

fn host() -> *const HostServices {
    testing::services()
}

fn open(options: &str) -> Result<Port, (i32, String)> {
    let config = PortConfig {
        size: size_of::<PortConfig>() as u32,
        ifindex: 9,
        name: Text::new("toy0"),
        options: Text::new(options),
        rx_queues: 1,
        tx_queues: 1,
        workers: 1,
        mtu: 0,
        _pad: 0,
    };
    // SAFETY: numbers and a pointer, of which zero is a value.
    let mut info: PortInfo = unsafe { std::mem::zeroed() };
    let mut text = [0; 200];
    let mut err = ErrBuf::new(&mut text);
    // SAFETY: everything passed lives through the call.
    match unsafe { (driver::table::<Toy>().open)(host(), &config, &mut info, &mut err) } {
        OK => Ok(Port(info)),
        // SAFETY: the buffer is `text`.
        code => Err((code, unsafe { err.get() })),
    }
}

impl Port {
    fn receive(&self, max: u32) -> (u32, Vec<Packet>) {
        let mut cells = [0; BURST_MAX];
        // SAFETY: an open port, and room for `max`.
        let n = unsafe { (driver::table::<Toy>().rx_burst)(self.0.port, 0, 0, cells.as_mut_ptr(), max) };
        let got = if n == RX_FAULT { 0 } else { n as usize };
        // SAFETY: what was received is ours.
        (n, cells[..got].iter().map(|c| unsafe { Packet::from_cell(*c) }).collect())
    }

    /// Sends packets; what was not accepted is given back.
    fn send(&self, n: usize) -> u32 {
        let cells: Vec<u32> = (0..n).map(|_| testing::packet(b"out").into_cell()).collect();
        // SAFETY: an open port, and n packets that are ours.
        let sent = unsafe { (driver::table::<Toy>().tx_burst)(self.0.port, 0, 0, cells.as_ptr(), n as u32) };
        if sent != RX_FAULT {
            // SAFETY: not accepted, so still ours.
            cells[sent as usize..].iter().for_each(|c| drop(unsafe { Packet::from_cell(*c) }));
        }
        sent
    }

    fn close(self) -> i32 {
        // SAFETY: an open port, not used again.
        unsafe { (driver::table::<Toy>().close)(self.0.port) }
    }
}

#[test]
fn a_port_is_opened_described_and_closed_without_a_trace() {
    let port = open(r#"{"give": 3}"#).ok().unwrap();
    assert_eq!((port.0.rx_queues, port.0.tx_queues, port.0.mtu), (1, 1, 1500));
    let table = driver::table::<Toy>();
    let mut text = [0; 100];
    let mut out = ErrBuf::new(&mut text);
    // SAFETY: an open port, and places for the answers.
    unsafe {
        assert_eq!((table.event_fd)(port.0.port, 0), 42);
        assert_eq!((table.event_fd)(port.0.port, 1), -1);
        assert_eq!((table.rx_arm)(port.0.port, 0), 1);
        assert_eq!((table.status)(port.0.port, &mut out), OK);
        assert_eq!(out.get(), r#"{"toy":true}"#);
        assert_eq!((table.set_mtu)(port.0.port, 9001, &mut out), smpnet_abi::FAILED);
        assert_eq!(out.get(), "too large");
        assert_eq!((table.set_promisc)(port.0.port, 1, &mut out), UNSUPPORTED);
        let mut counters = [smpnet_abi::NamedCounter { name: [0; 40], value: 0 }; 2];
        assert_eq!((table.counters)(port.0.port, counters.as_mut_ptr(), 2), 2);
        assert!(counters[0].name.starts_with(b"rx_toys\0") && counters[1].name[39] == 0);
    }
    assert_eq!(port.close(), OK);
    assert_eq!(testing::outstanding(), 0, "what a queue held went back");
}

#[test]
fn what_open_says_reaches_the_router() {
    let says = |options| open(options).err().unwrap();
    assert_eq!(says(r#"{"fail": 1}"#), (smpnet_abi::FAILED, "toy0: no such toy".to_owned()));
    let (code, text) = says(r#"{"fail": 2}"#);
    assert_eq!(code, FAULT);
    assert!(text.starts_with("panic in open"), "{text}");
    assert!(says(r#"{"queueless": 1}"#).1.contains("0 receive queues"));
    assert!(says("{").1.contains("options"));
    assert_eq!(testing::outstanding(), 0);
}

#[test]
fn a_burst_is_cut_at_what_was_asked_for() {
    let port = open(r#"{"give": 64}"#).ok().unwrap();
    let (n, packets) = port.receive(10);
    assert_eq!((n, packets.len()), (10, 10));
    assert!(packets.iter().all(|p| p.hdr().rcvif == 9 && p.data() == b"toy"));
    drop(packets);
    assert_eq!(port.close(), OK);
    assert_eq!(testing::outstanding(), 0);
}

#[test]
fn what_is_not_accepted_stays_with_the_router() {
    let port = open(r#"{"take": 5}"#).ok().unwrap();
    assert_eq!(port.send(8), 5);
    assert_eq!(port.send(3), 3);
    assert_eq!(port.send(0), 0);
    assert_eq!(port.close(), OK);
    assert_eq!(testing::outstanding(), 0);
}

#[test]
fn leaving_other_packets_than_the_last_is_a_fault() {
    let port = open(r#"{"take": 1, "reorder": 1}"#).ok().unwrap();
    assert_eq!(port.send(4), RX_FAULT);
    assert!(testing::faults(9)[0].contains("tx_burst left packets"));
    assert_eq!(testing::drops(9), [DropReason::PluginFault; 3]);
    assert_eq!(port.close(), OK);
    assert_eq!(testing::outstanding(), 0);
}

#[test]
fn a_panic_is_reported_once_and_the_port_is_not_called_again() {
    let port = open(r#"{"give": 99, "take": 99}"#).ok().unwrap();
    assert_eq!(port.receive(64).0, RX_FAULT);
    assert_eq!(port.receive(64).0, RX_FAULT);
    let faults = testing::faults(9);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("panic in rx_burst"), "{faults:?}");
    assert_eq!(port.send(4), RX_FAULT, "nothing of the port is trusted");
    assert_eq!(testing::drops(9), [DropReason::PluginFault; 4]);
    assert_eq!(port.close(), OK, "what it held is given back all the same");
    assert_eq!(testing::outstanding(), 0);
}

#[test]
fn chains_are_walked_cut_and_copied() {
    let mut packet = testing::packet(b"one ");
    packet.append_cell(testing::packet(b"two ")).unwrap();
    packet.append_cell(testing::packet(b"three")).unwrap();
    assert_eq!((packet.len(), packet.hdr().nsegs()), (13, 3));
    let mut out = [0; 8];
    assert_eq!(packet.copy_to(5, &mut out), 8);
    assert_eq!(&out, b"wo three");
    assert!(!packet.append(b"x") && !packet.set_len(3), "lengths of a chain are not set by cell");
    packet.truncate(6);
    assert_eq!(packet.segments().collect::<Vec<_>>(), [b"one ".as_slice(), b"tw", b""]);
    assert!(packet.push_front(10_000).is_none() && !packet.pull_front(5));
    drop(packet);
    assert_eq!(testing::outstanding(), 0, "chains go back as a whole");
}

#[test]
fn a_chain_comes_apart_into_its_cells() {
    let mut packet = testing::packet(b"one ");
    packet.append_cell(testing::packet(b"two ")).unwrap();
    packet.append_cell(testing::packet(b"three")).unwrap();
    let cells: Vec<_> = packet.into_cells().collect();
    assert_eq!(
        cells.iter().map(|c| (c.data(), c.len(), c.hdr().nsegs())).collect::<Vec<_>>(),
        [(b"one ".as_slice(), 4, 1), (b"two ", 4, 1), (b"three", 5, 1)]
    );
    drop(cells);
    let mut packet = testing::packet(b"one ");
    packet.append_cell(testing::packet(b"two ")).unwrap();
    packet.append_cell(testing::packet(b"three")).unwrap();
    assert_eq!(packet.into_cells().next().unwrap().data(), b"one ");
    assert_eq!(testing::packet(b"one").into_cells().count(), 1);
    assert_eq!(testing::outstanding(), 0, "cells not taken are given back");
}

#[test]
fn a_burst_takes_64_and_keeps_the_order() {
    let mut burst = Burst::new();
    let mut cx = testing::worker(0);
    assert_eq!(cx.alloc_burst(100, &mut burst), 64);
    let order: Vec<u32> = burst.as_cells().to_vec();
    assert!(burst.push(testing::packet(b"x")).is_err());
    let front = burst.take_front(60);
    burst.push(testing::packet(b"x")).unwrap();
    assert_eq!((&order[..60], &order[60..]), (front.as_cells(), &burst.as_cells()[..4]));
    let mut rest = front;
    burst.append(&mut rest);
    assert_eq!((burst.len(), rest.len()), (64, 1));
    drop((burst, rest));
    assert_eq!(testing::outstanding(), 0);
}

#[test]
fn callouts_work_and_nodes_end_with_their_guards() {
    let host = testing::host();
    let ran = Arc::new(AtomicU32::new(0));
    let add = |n: u32| {
        let ran = ran.clone();
        move || {
            ran.fetch_add(n, Ordering::Relaxed);
        }
    };
    let (one, ten) = (add(1), add(10));
    let minute = std::time::Duration::from_secs(60);
    let _runs = host.callout(0, minute, move |_| one()).ok().unwrap();
    let stopped = host.callout(0, minute, move |_| ten()).ok().unwrap();
    assert!(stopped.stop());
    assert!(host.callout(99, minute, |_| ()).is_err(), "there is no such worker");
    testing::run_callouts();
    host.work(add(100)).unwrap();
    host.work(|| panic!("work that fails")).unwrap();
    assert_eq!(ran.load(Ordering::Relaxed), 101);

    let dropped = Arc::new(AtomicBool::new(false));
    struct Flag(Arc<AtomicBool>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let flag = Flag(dropped.clone());
    let get = move || u64::from(flag.0.load(Ordering::Relaxed));
    let node = host.sysctl("hw.toy0.level", get, None).ok().unwrap();
    assert!(host.sysctl("hw.toy0.level", || 0, None).is_err(), "the name is taken");
    drop(node);
    assert!(dropped.load(Ordering::Relaxed), "its functions are gone with it");

    let vlan = host.vlan_attach(3, 100, 7).unwrap();
    assert!(host.vlan_attach(3, 100, 8).is_err());
    assert_eq!(testing::attachments(), ["vlan 3 100 -> 7"]);
    drop(vlan);
    assert!(testing::attachments().is_empty());
}

/// A filter that drops what begins with `d`, rejects what begins with `r`, takes what begins with `t` and marks the rest.
struct Letters;

impl Filter for Letters {
    const NAME: &'static str = "letters";
    const SUMMARY: &'static str = "for tests";

    fn create(_host: Host, _req: &FilterRequest<'_>) -> Result<Self, Error> {
        Ok(Letters)
    }

    fn filter(&self, cx: &mut Worker<'_>, _ifindex: u32, direction: Direction, packets: &mut Judged<'_>) {
        assert_eq!(direction, Direction::In);
        for i in 0..packets.len() {
            match packets.get(i).and_then(|p| p.data().first()) {
                Some(b'd') => packets.drop(i),
                Some(b'r') => packets.reject(i),
                Some(b't') => {
                    let mut taken = Burst::new();
                    taken.push(packets.take(i).unwrap()).unwrap();
                    assert!(packets.take(i).is_none() && packets.get(i).is_none(), "a packet is taken once");
                    packets.drop(i);
                    cx.free(taken);
                }
                _ => packets.get_mut(i).unwrap().hdr_mut().mark = 5,
            }
        }
    }
}

#[test]
fn a_filter_judges_takes_and_marks() {
    let table = filter::table::<Letters>();
    let config = smpnet_abi::FilterConfig {
        size: size_of::<smpnet_abi::FilterConfig>() as u32,
        workers: 1,
        name: Text::new("f"),
        options: Text::new(""),
    };
    let mut handle = std::ptr::null_mut();
    // SAFETY: everything passed lives through the call.
    assert_eq!(unsafe { (table.create)(host(), &config, &mut handle, std::ptr::null_mut()) }, OK);
    let cells = [b"pass", b"drop", b"rjct", b"take"].map(|text| testing::packet(text).into_cell());
    let mut verdicts = [9; 4];
    // SAFETY: an instance, three packets that are ours, and room for their verdicts.
    let code = unsafe { (table.filter)(handle, 0, 1, 1, cells.as_ptr(), 4, verdicts.as_mut_ptr()) };
    use smpnet_abi::verdict::{CONSUMED, DROP, PASS, REJECT};
    assert_eq!((code, verdicts), (OK, [PASS, DROP, REJECT, CONSUMED]));
    // SAFETY: not taken, so still ours.
    let [pass, _drop, _reject] = [cells[0], cells[1], cells[2]].map(|c| unsafe { Packet::from_cell(c) });
    assert_eq!(pass.hdr().mark, 5);
    // SAFETY: not used again.
    assert_eq!(unsafe { (table.destroy)(handle) }, OK);
    drop((pass, _drop, _reject));
    assert_eq!(testing::outstanding(), 0);
}
