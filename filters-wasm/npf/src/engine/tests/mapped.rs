//! Endpoint-independent mapping and hairpins, of one worker and of several.

use super::*;
use crate::{
    engine::{Elsewhere, Share},
    nat::mapping::LINGER,
    testing::error,
};

const RULES: &str = "map npftest0 dynamic endpoint-independent hairpin 10.1.1.0/24 -> 192.0.2.1\n\
     group \"int\" on npftest1 { pass stateful in final from 10.1.1.0/24\n pass out all }\n\
     group default { pass stateful out all\n block in all\n pass in proto udp from 203.0.113.0/24 }";

/// Engines of one router.
pub(super) struct Workers {
    pub(super) engines: Vec<Engine>,
    pub(super) elsewhere: Arc<Elsewhere>,
    /// Whom the next packet comes to first.
    next: usize,
    pub(super) ms: u64,
}

/// One packet, for one of them.
struct One<'a> {
    bytes: &'a mut [u8],
    was_steered: bool,
    outcome: Option<Outcome>,
}

impl Burst for One<'_> {
    fn len(&self) -> usize {
        1
    }

    fn item(&mut self, _: usize) -> Item<'_> {
        Item { was_steered: self.was_steered, ..Item::new(self.bytes) }
    }

    fn done(&mut self, _: usize, outcome: Outcome, _: &Ruleset) {
        self.outcome = Some(outcome);
    }
}

impl Workers {
    pub(super) fn new(n: usize, conf: &str) -> Workers {
        let elsewhere = Arc::new(Elsewhere::new(1 << 12));
        let mut engines = vec![engine(conf)];
        let ruleset = engines[0].ruleset().unwrap().clone();
        for i in 1..n {
            let (tables, addresses) = (engines[0].tables().clone(), engines[0].addresses.clone());
            let seed = i as u64;
            engines.push(Engine::new(ruleset.clone(), tables, addresses, TableLimits::default(), seed, Millis(0)));
        }
        if n > 1 {
            engines.iter_mut().enumerate().for_each(|(i, e)| e.share(Share::new(i, n, &elsewhere)));
        }
        Workers { engines, elsewhere, next: 0, ms: 0 }
    }

    /// A packet comes to some worker, and is judged; what it is then, if it passed.
    pub(super) fn pass(&mut self, interface: &str, way: Where, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = bytes.to_vec();
        self.next += 1;
        let mut at = self.next % self.engines.len();
        let mut was_steered = false;
        for _ in 0..3 {
            let mut one = One { bytes: &mut bytes, was_steered, outcome: None };
            self.engines[at].handle_burst(&mut one, &Place { interface, way, now: Millis(self.ms) });
            let outcome = one.outcome.unwrap();
            match outcome.steer {
                Some(to) => (at, was_steered) = (usize::from(to), true),
                None if outcome.pass => {
                    assert!(is_right(&bytes), "{}", hex(&bytes));
                    return Some(bytes);
                }
                None => return None,
            }
        }
        panic!("a packet that goes round in circles");
    }

    /// A packet from inside to somebody outside: comes in, goes out.
    pub(super) fn out(&mut self, packet: &[u8]) -> [(IpAddr, u16); 2] {
        let seen = self.pass("npftest1", Where::In, packet).unwrap();
        assert_eq!(ends(&seen), ends(packet));
        ends(&self.pass("npftest0", Where::Forward, &seen).unwrap())
    }

    /// One from inside to an outer end: comes in, is translated twice, goes out inside.
    pub(super) fn turn(&mut self, packet: &[u8]) -> Vec<u8> {
        let seen = self.pass("npftest1", Where::In, packet).unwrap();
        self.pass("npftest1", Where::Forward, &seen).unwrap()
    }
}

fn from(host: u8, port: u16, to: (&str, u16)) -> Vec<u8> {
    udp((&format!("10.1.1.{host}"), port), to, b"x")
}

#[test]
fn an_inner_end_is_seen_as_the_same_outer_end_by_everybody_whatever_worker_its_packets_come_to() {
    for n in [1, 3] {
        let mut w = Workers::new(n, RULES);
        for (host, port) in [(1, 5000), (1, 5001), (2, 5000), (9, 77)] {
            let mut outer = None;
            for far in 1..20 {
                let to = format!("198.51.100.{far}");
                let [seen, dst] = w.out(&from(host, port, (&to, 53)));
                assert_eq!(dst, (a(&to), 53));
                assert_eq!((seen.0, seen.1 % 2), (a("192.0.2.1"), port % 2), "and the port's parity stays");
                assert_eq!(*outer.get_or_insert(seen), seen, "{n} workers");
                // The answer finds back, and in.
                let back = udp((&to, 53), ("192.0.2.1", seen.1), b"y");
                let back = w.pass("npftest0", Where::In, &back).unwrap();
                assert_eq!(ends(&back)[1], (a(&format!("10.1.1.{host}")), port));
                assert!(w.pass("npftest1", Where::Forward, &back).is_some());
            }
        }
        let mappings: usize = w.engines.iter().map(|e| e.held.mappings.len()).sum();
        assert_eq!(mappings, 4);
        // All of it ends two minutes after the last connection.
        w.ms = 200_000;
        w.engines.iter_mut().for_each(|e| (0..20).for_each(|_| e.tick(Millis(w.ms))));
        assert!(w.engines.iter().all(|e| e.connections().is_empty() && !e.held.mappings.is_empty() || n > 1));
        w.ms += LINGER + 1000;
        w.engines.iter_mut().for_each(|e| e.tick(Millis(w.ms)));
        assert!(w.engines.iter().all(|e| e.is_idle() && e.held.ports.is_empty()));
        assert!(w.elsewhere.is_empty());
    }
}

#[test]
fn who_was_not_talked_to_reaches_a_mapping_when_rules_let_him_and_is_answered() {
    for n in [1, 4] {
        let mut w = Workers::new(n, RULES);
        let [outer, _] = w.out(&from(1, 5000, ("198.51.100.1", 53)));
        for far in 1..10 {
            let stranger = format!("203.0.113.{far}");
            let sent = udp((&stranger, 9), ("192.0.2.1", outer.1), b"hello");
            let seen = w.pass("npftest0", Where::In, &sent).unwrap();
            assert_eq!(ends(&seen), [(a(&stranger), 9), (a("10.1.1.1"), 5000)]);
            assert!(w.pass("npftest1", Where::Forward, &seen).is_some());
            assert_eq!(w.out(&from(1, 5000, (&stranger, 9))), [outer, (a(&stranger), 9)]);
        }
        let refused = udp(("198.51.100.77", 9), ("192.0.2.1", outer.1), b"hello");
        assert_eq!(w.pass("npftest0", Where::In, &refused), None, "filtering is the rules' business");
        let nobody = udp(("203.0.113.1", 9), ("192.0.2.1", outer.1 ^ 1), b"hello");
        assert_eq!(ends(&w.pass("npftest0", Where::In, &nobody).unwrap()), ends(&nobody));
    }
}

#[test]
fn a_hairpin_comes_back_inside_with_both_ends_translated_and_so_does_its_answer() {
    for n in [1, 3] {
        let mut w = Workers::new(n, RULES);
        for host in 2..12u8 {
            let address = format!("10.1.1.{host}");
            let [b, _] = w.out(&from(host, 6000, ("198.51.100.1", 53)));
            // The first has a mapping already, and the second gets one now.
            for port in [5000, 5000 + u16::from(host)] {
                let seen = w.turn(&from(1, port, ("192.0.2.1", b.1)));
                let [src, dst] = ends(&seen);
                assert_eq!(dst, (a(&address), 6000), "{n} workers, host {host}");
                assert_eq!(src, w.out(&from(1, port, ("198.51.100.1", 53)))[0], "as everybody sees it");
                let back = w.turn(&udp((&address, 6000), ("192.0.2.1", src.1), b"answer"));
                assert_eq!(ends(&back), [b, (a("10.1.1.1"), port)]);
                assert_eq!(ends(&w.turn(&from(1, port, ("192.0.2.1", b.1)))), [src, dst]);
                // The host says that nobody listens there.
                let said = w.turn(&error(&address, "192.0.2.1", 3, &seen));
                assert_eq!(ends(&said).map(|e| e.0), [b.0, a("10.1.1.1")]);
                let quoted = &said[28..];
                assert_eq!(ends(quoted), [(a("10.1.1.1"), port), b]);
            }
        }
    }
}

#[test]
fn tcp_opens_through_a_hairpin() {
    for n in [1, 3] {
        let mut w = Workers::new(n, RULES);
        let syn = |from: (&str, u16), to: (&str, u16)| tcp(from, to, 2, 100, 0);
        let [b, _] = w.out(&syn(("10.1.1.2", 22), ("198.51.100.1", 80)));
        let seen = w.turn(&syn(("10.1.1.1", 5000), ("192.0.2.1", b.1)));
        let [client, server] = ends(&seen);
        assert_eq!(server, (a("10.1.1.2"), 22));
        let back = w.turn(&tcp(("10.1.1.2", 22), ("192.0.2.1", client.1), 0x12, 500, 101));
        assert_eq!(ends(&back), [b, (a("10.1.1.1"), 5000)]);
        let ack = w.turn(&tcp(("10.1.1.1", 5000), ("192.0.2.1", b.1), 0x10, 101, 501));
        assert_eq!(ends(&ack), [client, server]);
        let stray = tcp(("10.1.1.2", 22), ("192.0.2.1", client.1), 0x10, 5_000_000, 101);
        assert_eq!(w.pass("npftest1", Where::In, &stray), None, "its window does not reach so far");
    }
}

#[test]
fn outer_ends_that_a_stranger_writes_into_a_packet_take_it_past_no_rule() {
    for n in [1, 3] {
        let mut w = Workers::new(n, RULES);
        for host in 1..8 {
            let [one, _] = w.out(&from(host, 5000, ("198.51.100.1", 53)));
            let [two, _] = w.out(&from(host + 50, 6000, ("198.51.100.1", 53)));
            let forged = udp(("192.0.2.1", one.1), ("192.0.2.1", two.1), b"");
            for _ in 0..n {
                assert_eq!(w.pass("npftest0", Where::In, &forged), None);
            }
        }
    }
}

#[test]
fn without_the_words_ports_differ_and_nobody_comes_in() {
    let mut w = Workers::new(1, &RULES.replace(" endpoint-independent hairpin", ""));
    let [one, _] = w.out(&from(1, 5000, ("198.51.100.1", 53)));
    let [two, _] = w.out(&from(1, 5000, ("198.51.100.2", 53)));
    assert_ne!(one.1, two.1);
    let sent = udp(("203.0.113.1", 9), ("192.0.2.1", one.1), b"");
    assert_eq!(ends(&w.pass("npftest0", Where::In, &sent).unwrap()), ends(&sent));
}

#[test]
fn mapped_ports_run_out_and_come_back() {
    let mut w = Workers::new(1, &format!("set portmap.min_port 2000\nset portmap.max_port 2003\n{RULES}"));
    for port in 1..=4 {
        w.out(&from(1, port, ("198.51.100.1", 53)));
    }
    let fifth = from(1, 5, ("198.51.100.1", 53));
    assert!(w.pass("npftest0", Where::Forward, &fifth).is_none());
    assert_eq!(w.engines[0].stats().nat_ports_exhausted, 1);
    w.ms = 31_000;
    assert!(w.pass("npftest0", Where::Forward, &fifth).is_none(), "mappings stay a while");
    w.ms += LINGER + 100;
    assert!(w.pass("npftest0", Where::Forward, &fifth).is_some());
}
