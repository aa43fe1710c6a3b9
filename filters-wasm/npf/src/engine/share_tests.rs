//! Several engines as the workers of a router: wherever a packet comes in, its connection is found.

use super::*;
use crate::{
    evaluate::NoInterfaces,
    language::{NoFiles, parse},
    packet::{address_of, proto},
    testing::{error, ip, is_right, udp},
};
use std::{collections::HashSet, net::IpAddr};

const RULES: &str = "\
    map wan dynamic 10.0.0.0/8 -> 192.0.2.1\n\
    map wan dynamic 10.0.0.80 port 8000 <- 192.0.2.1 port 80\n\
    map wan dynamic 10.0.0.53 <-> 192.0.2.53\n\
    group default { pass stateful out final on wan all\n pass stateful in final to 192.0.2.1 port 80\n\
    pass stateful in final to 192.0.2.53\n pass in final on lan all\n pass out final on lan all\n block in all }";

struct Workers {
    engines: Vec<Engine>,
    /// Packets that were handed over.
    handed_over: usize,
}

impl Workers {
    fn new(n: usize, rules: &str) -> Workers {
        let config = Arc::new(parse("share.conf", rules, &NoFiles).unwrap_or_else(|e| panic!("{e}")).config);
        let addresses: Addresses = Arc::new(NoInterfaces);
        let ruleset = Arc::new(Ruleset::new(config.clone(), &*addresses).unwrap());
        let elsewhere = Arc::new(Elsewhere::new(1 << 12));
        let engine = |i| {
            let (tables, limits) = (Tables::new(&config), TableLimits::default());
            let mut engine = Engine::new(ruleset.clone(), tables, addresses.clone(), limits, 7 + i as u64, Millis(0));
            engine.share(Share::new(i, n, &elsewhere));
            engine
        };
        Workers { engines: (0..n).map(engine).collect(), handed_over: 0 }
    }

    /// A packet comes to a worker; where it belongs to another one, it is handed over, once.
    fn take(&mut self, at: usize, interface: &str, way: Where, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = bytes.to_vec();
        let place = Place { interface, way, now: Millis(1) };
        let mut outcome = self.engines[at].handle(&mut bytes, &place, 0);
        if let Some(to) = outcome.steer {
            self.handed_over += 1;
            assert_ne!(usize::from(to), at);
            outcome = self.engines[usize::from(to)].handle(&mut bytes, &place, 0);
            assert_eq!(outcome.steer, None, "workers do not agree on whose it is");
        }
        assert!(is_right(&bytes));
        outcome.pass.then_some(bytes)
    }
}

fn ends(bytes: &[u8]) -> [(IpAddr, u16); 2] {
    let p = Packet::read(bytes).unwrap();
    let (src, dst) = p.ports().map_or((0, 0), |p| (p.src, p.dst));
    [(address_of(p.family, p.src), src), (address_of(p.family, p.dst), dst)]
}

fn echo(from: &str, to: &str, kind: u8, id: u16) -> Vec<u8> {
    let [hi, lo] = id.to_be_bytes();
    ip(from, to, proto::ICMP, &[kind, 0, 0, 0, hi, lo, 0, 1])
}

fn text(end: (IpAddr, u16)) -> (String, u16) {
    (end.0.to_string(), end.1)
}

#[test]
fn answers_to_translated_packets_are_found_wherever_they_come_in() {
    for n in [1, 2, 3, 8] {
        let mut workers = Workers::new(n, RULES);
        let mut ports = HashSet::new();
        for flow in 0..200u16 {
            let (host, server) = (format!("10.1.0.{}", flow % 250), format!("198.51.100.{}", flow % 7));
            let sent = udp((&host, 1000 + flow), (&server, 53), b"q");
            let seen = workers.take(usize::from(flow) % n, "wan", Where::Forward, &sent).unwrap();
            let [own, _] = ends(&seen).map(text);
            assert_eq!(own.0, "192.0.2.1");
            assert!(ports.insert((own.1, server.clone())), "a port twice to the same server");
            for at in 0..n {
                let back = udp((&server, 53), (&own.0, own.1), b"a");
                let back = workers.take(at, "wan", Where::In, &back).unwrap_or_else(|| panic!("{n} workers, {at}"));
                assert_eq!(text(ends(&back)[1]), (host.clone(), 1000 + flow));
                // The error of somebody on the way finds it, too.
                let about = error("203.0.113.9", "192.0.2.1", 3, &seen);
                assert!(workers.take(at, "wan", Where::In, &about).is_some(), "{n} workers, error at {at}");
            }
        }
        let states: usize = workers.engines.iter().map(|e| e.connections().len()).sum();
        assert_eq!(states, 200);
        // The port brings answers to the worker by their hash: nothing has to be remembered for that.
        assert!(workers.engines.iter().all(|e| e.held.share.as_ref().unwrap().elsewhere_len() == 0));
    }
}

#[test]
fn a_forwarded_port_and_an_address_for_another_find_their_way_back() {
    for n in [1, 2, 5] {
        let mut workers = Workers::new(n, RULES);
        for (outer, port, inner, inner_port) in
            [("192.0.2.1", 80, "10.0.0.80", 8000), ("192.0.2.53", 53, "10.0.0.53", 53)]
        {
            for client in 0..100u16 {
                let from = format!("203.0.113.{client}");
                let at = usize::from(client) % n;
                let came = udp((&from, 2000 + client), (outer, port), b"x");
                let inside = workers.take(at, "wan", Where::In, &came).unwrap();
                assert_eq!(text(ends(&inside)[1]), (inner.to_owned(), inner_port));
                assert!(workers.take(at, "lan", Where::Forward, &inside).is_some());
                for at in 0..n {
                    let back = udp((inner, inner_port), (&from, 2000 + client), b"y");
                    let back = workers.take(at, "wan", Where::Forward, &back).unwrap();
                    assert_eq!(text(ends(&back)[0]), (outer.to_owned(), port), "{n} workers, at {at}");
                }
            }
        }
        let elsewhere = workers.engines[0].held.share.as_ref().unwrap().elsewhere_len();
        // The hash is linear: of two workers, a map's addresses lead all of its connections to the other one, or none.
        assert!(n != 1 || elsewhere == 0, "one worker has everything anyway");
        assert!(n != 5 || elsewhere > 0, "{elsewhere} with {n} workers");
        // When the connections end, nobody is looked for any more.
        for engine in &mut workers.engines {
            (0..64).for_each(|n| engine.tick(Millis(100_000_000 + n * 1000)));
            assert!(engine.connections().is_empty());
        }
        assert_eq!(workers.engines[0].held.share.as_ref().unwrap().elsewhere_len(), 0);
    }
}

#[test]
fn pings_of_all_workers_to_one_host_have_identifiers_of_their_own() {
    let mut workers = Workers::new(4, RULES);
    let mut seen = HashSet::new();
    for host in 0..100 {
        let from = format!("10.2.0.{host}");
        let out = workers.take(host % 4, "wan", Where::Forward, &echo(&from, "198.51.100.1", 8, 77)).unwrap();
        let id = u16::from_be_bytes([out[24], out[25]]);
        assert!(seen.insert(id));
        for at in 0..4 {
            let back = workers.take(at, "wan", Where::In, &echo("198.51.100.1", "192.0.2.1", 0, id)).unwrap();
            assert_eq!((ends(&back)[1].0.to_string(), [back[24], back[25]]), (from.clone(), [0, 77]));
        }
    }
    assert!(workers.handed_over > 0);
}
