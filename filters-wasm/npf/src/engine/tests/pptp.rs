//! PPTP through translation: two inner hosts with equal call ids, to the same server.

use super::*;
const RULES: &str = "alg \"pptp\"\n\
     map npftest0 dynamic 10.1.1.0/24 -> 192.0.2.1\n\
     group default { pass stateful out final proto tcp to any port 1723\n block all }";
const SERVER: &str = "198.51.100.1";

/// A segment of a control connection. The client has sent 1000 bytes so far, the server 2000.
fn segment(from: (&str, u16), to: (&str, u16), flags: u8, data: &[u8]) -> Vec<u8> {
    let (seq, ack) = if to.1 == 1723 { (1000u32, 2000u32) } else { (2000, 1000) };
    let (seq, ack) = if flags & 2 != 0 { (seq - 1, if flags & 16 != 0 { ack } else { 0 }) } else { (seq, ack) };
    let mut body = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    body.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
    body.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    body.extend_from_slice(data);
    ip(from.0, to.0, proto::TCP, &body)
}

/// A control message as clients and servers send it: length, type 1, cookie, message, and what follows, to that length.
fn message(kind: u8, rest: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = vec![0, len as u8, 0, 1, 0x1a, 0x2b, 0x3c, 0x4d, 0, kind, 0, 0];
    bytes.extend_from_slice(rest);
    bytes.resize(len, 0);
    bytes
}

/// Outgoing call request (RFC 2637, section 2.7): call id, serial number 1, 300 to 100,000,000 bit/s, analog, async, window 64.
fn request(id: u16) -> Vec<u8> {
    let [hi, lo] = id.to_be_bytes();
    message(7, &[hi, lo, 0, 1, 0, 0, 1, 0x2c, 5, 0xf5, 0xe1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 64, 0, 0], 168)
}

/// Outgoing call reply (section 2.8): the server's id, the client's, connected, 100,000,000 bit/s, window 64.
fn reply(own: u16, peer: u16) -> Vec<u8> {
    let ids = [own.to_be_bytes(), peer.to_be_bytes()].concat();
    message(8, &[&ids[..], &[1, 0, 0, 0, 5, 0xf5, 0xe1, 0, 0, 64, 0, 0, 0, 0, 0, 0]].concat(), 32)
}

/// Enhanced GRE (section 4.1) with key and sequence number: an LCP configure request.
fn gre(from: &str, to: &str, id: u16) -> Vec<u8> {
    let [hi, lo] = id.to_be_bytes();
    let lcp = [0xff, 0x03, 0xc0, 0x21, 1, 1, 0, 10, 5, 6, 0x11, 0x22, 0x33, 0x44];
    ip(from, to, proto::GRE, &[&[0x30, 1, 0x88, 0x0b, 0, 14, hi, lo, 0, 0, 0, 0][..], &lcp].concat())
}

fn id_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Sets up a call, of a host that gives it the id 7; its port and id outside.
fn call(e: &mut Engine, host: &str, server_id: u16) -> (u16, u16) {
    let out = |e: &mut Engine, flags, data: &[u8]| {
        pass(e, "npftest0", Where::Forward, &segment((host, 40000), (SERVER, 1723), flags, data)).unwrap()
    };
    let port = ends(&out(e, 2, b""))[0].1;
    let said = segment((SERVER, 1723), ("192.0.2.1", port), 0x12, b"");
    assert!(pass(e, "npftest0", Where::In, &said).is_some());
    out(e, 0x10, b"");
    let asked = out(e, 0x18, &request(7));
    let outer = id_at(&asked, 40 + 12);
    assert_eq!(asked[40 + 14..], request(7)[14..], "nothing else changes");
    assert_eq!(id_at(&out(e, 0x18, &request(7)), 52), outer, "a retransmission says the same");
    let said = segment((SERVER, 1723), ("192.0.2.1", port), 0x18, &reply(server_id, outer));
    let heard = pass(e, "npftest0", Where::In, &said).unwrap();
    assert_eq!((ends(&heard)[1], heard[40..].to_vec()), ((a(host), 40000), reply(server_id, 7)));
    (port, outer)
}

#[test]
fn two_inner_hosts_with_equal_call_ids_have_a_tunnel_each_to_the_same_server() {
    let mut e = engine(RULES);
    let hosts = [("10.1.1.1", 99), ("10.1.1.2", 100)];
    let outer = hosts.map(|(host, server)| call(&mut e, host, server).1);
    assert!(outer[0] != outer[1] && !outer.contains(&0));
    for ((host, server), outer) in hosts.iter().zip(outer) {
        for _ in 0..2 {
            let sent = pass(&mut e, "npftest0", Where::Forward, &gre(host, SERVER, *server)).unwrap();
            assert_eq!(sent, gre("192.0.2.1", SERVER, *server));
            let back = pass(&mut e, "npftest0", Where::In, &gre(SERVER, "192.0.2.1", outer)).unwrap();
            assert_eq!(back, gre(SERVER, host, 7));
        }
    }
    // Ids that no call has do not pass: no rule says so.
    assert_eq!(pass(&mut e, "npftest0", Where::Forward, &gre("10.1.1.1", SERVER, 100)), None);
    let other = (1..).find(|id| !outer.contains(id)).unwrap();
    assert_eq!(pass(&mut e, "npftest0", Where::In, &gre(SERVER, "192.0.2.1", other)), None);
}

#[test]
fn a_call_ends_with_the_server_s_notice_and_with_its_control_connection() {
    let mut e = engine(RULES);
    let one = call(&mut e, "10.1.1.1", 99);
    call(&mut e, "10.1.1.2", 100);
    let of = Translated { address: crate::testing::address("192.0.2.1"), proto: proto::GRE };
    assert_eq!((e.connections().len(), e.held.ports.count(of)), (4, 2));
    let notice = message(13, &[0, 99, 1, 0, 0, 0, 0, 0], 148);
    let said = segment((SERVER, 1723), ("192.0.2.1", one.0), 0x18, &notice);
    assert!(pass(&mut e, "npftest0", Where::In, &said).is_some());
    assert_eq!((e.connections().len(), e.held.ports.count(of)), (3, 1));
    assert_eq!(pass(&mut e, "npftest0", Where::Forward, &gre("10.1.1.1", SERVER, 99)), None);
    assert!(pass(&mut e, "npftest0", Where::Forward, &gre("10.1.1.2", SERVER, 100)).is_some());
    let controls: Vec<ConnId> =
        e.connections().iter().filter(|(_, c)| c.forward().proto() == proto::TCP).map(|(id, _)| id).collect();
    controls.into_iter().for_each(|id| assert!(e.end(id)));
    e.tick(Millis(0));
    assert!(e.connections().is_empty() && e.held.ports.is_empty());
}

#[test]
fn a_host_that_asks_for_ever_more_calls_gets_no_more_ids() {
    let mut e = engine(RULES);
    call(&mut e, "10.1.1.1", 99);
    for id in 100..200 {
        let asked = segment(("10.1.1.1", 40000), (SERVER, 1723), 0x18, &request(id));
        assert!(pass(&mut e, "npftest0", Where::Forward, &asked).is_some());
    }
    let of = Translated { address: crate::testing::address("192.0.2.1"), proto: proto::GRE };
    assert_eq!(e.held.ports.count(of), 16);
}

#[test]
fn without_the_gateway_ids_stay_and_the_second_tunnel_conflicts() {
    let rules =
        "map npftest0 dynamic 10.1.1.0/24 -> 192.0.2.1\ngroup default { pass stateful out final all\n block all }";
    let mut e = engine(rules);
    assert!(pass(&mut e, "npftest0", Where::Forward, &gre("10.1.1.1", SERVER, 99)).is_some());
    let (_, second) = pass_at(&mut e, "npftest0", Where::Forward, &gre("10.1.1.2", SERVER, 100), 0);
    assert_eq!(second.fault, Some(Fault::Conflict));
}

#[test]
fn calls_find_their_worker_whatever_worker_their_packets_come_to() {
    let mut w = mapped::Workers::new(3, RULES);
    for host in 1..10u8 {
        let (address, server) = (format!("10.1.1.{host}"), 100 + u16::from(host));
        let mut out = |flags, data: &[u8]| {
            w.pass("npftest0", Where::Forward, &segment((&address, 40000), (SERVER, 1723), flags, data)).unwrap()
        };
        let port = ends(&out(2, b""))[0].1;
        let said = segment((SERVER, 1723), ("192.0.2.1", port), 0x12, b"");
        assert!(w.pass("npftest0", Where::In, &said).is_some());
        let asked = segment((&address, 40000), (SERVER, 1723), 0x18, &request(7));
        let outer = id_at(&w.pass("npftest0", Where::Forward, &asked).unwrap(), 52);
        let said = segment((SERVER, 1723), ("192.0.2.1", port), 0x18, &reply(server, outer));
        assert!(w.pass("npftest0", Where::In, &said).is_some());
        for _ in 0..3 {
            let sent = w.pass("npftest0", Where::Forward, &gre(&address, SERVER, server)).unwrap();
            assert_eq!(sent, gre("192.0.2.1", SERVER, server));
            let back = w.pass("npftest0", Where::In, &gre(SERVER, "192.0.2.1", outer)).unwrap();
            assert_eq!(back, gre(SERVER, &address, 7));
        }
    }
    for e in &mut w.engines {
        let all: Vec<ConnId> = e.connections().iter().map(|(id, _)| id).collect();
        all.into_iter().for_each(|id| _ = e.end(id));
        e.tick(Millis(1));
    }
    assert!(w.elsewhere.is_empty() && w.engines.iter().all(|e| e.is_idle() && e.held.ports.is_empty()));
}
