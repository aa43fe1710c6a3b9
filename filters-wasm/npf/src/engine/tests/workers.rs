//! What several workers have together: limits, and rates.

use super::{mapped::Workers, *};

#[test]
fn a_limit_is_one_for_all_workers() {
    let mut w = Workers::new(
        3,
        "group default { pass stateful in final proto udp to any port 53 limit states 5 per source\n\
         pass in final proto udp to any port 54 limit rate 7/10s\n block all }",
    );
    let passed = |w: &mut Workers, from: &str, dport| {
        let sent = |port| udp((from, port), ("192.0.2.1", dport), b"");
        (1000..1100).filter(|port| w.pass("npftest0", Where::In, &sent(*port)).is_some()).count()
    };
    assert_eq!([passed(&mut w, "10.0.0.1", 53), passed(&mut w, "10.0.0.2", 53)], [5, 5]);
    assert_eq!((passed(&mut w, "10.0.0.1", 54), passed(&mut w, "10.0.0.2", 54)), (7, 0));
    // A connection that ends on one of them makes room for all.
    let first = |e: &Engine| e.connections().iter().next().map(|(id, _)| id);
    let (i, id) = w.engines.iter().enumerate().find_map(|(i, e)| Some((i, first(e)?))).unwrap();
    let e = &mut w.engines[i];
    let was = e.connections().get(id).unwrap().forward().source();
    assert!(e.end(id));
    let again = if was == crate::testing::address("10.0.0.1") { "10.0.0.1" } else { "10.0.0.2" };
    let more = |port| udp((again, port), ("192.0.2.1", 53), b"");
    assert_eq!((2000..2100).filter(|port| w.pass("npftest0", Where::In, &more(*port)).is_some()).count(), 1);
    // And what rules of a reload have no more is not counted twice when it comes back.
    let ruleset = w.engines[0].ruleset().unwrap().clone();
    let none = Arc::new(ruleset.reloaded(Arc::new(Config::default()), &NoInterfaces).unwrap());
    let again = Arc::new(none.reloaded(ruleset.config.clone(), &NoInterfaces).unwrap());
    for e in &mut w.engines {
        e.adopt(none.clone(), Millis(0));
        e.tick(Millis(0));
        e.adopt(again.clone(), Millis(0));
        assert!(e.connections().is_empty());
    }
    assert_eq!([passed(&mut w, "10.0.0.1", 53), passed(&mut w, "10.0.0.2", 53)], [5, 5]);
}

#[test]
fn a_ratelimit_is_one_for_all_workers() {
    for n in [1, 3] {
        let mut w = Workers::new(
            n,
            "procedure \"slow\" { ratelimit: \"bitrate\" 80000, \"normal-burst\" 10000, \"extended-burst\" 0 }\n\
             group default { pass in final all apply \"slow\"\n block all }",
        );
        let passed = |w: &mut Workers| {
            let sent = udp(("10.0.0.1", 1), ("192.0.2.1", 53), &[0; 72]);
            (0..1000).filter(|_| w.pass("npftest0", Where::In, &sent).is_some()).count()
        };
        // What is left on a worker may be less than a packet.
        let least = |most: usize| if n == 1 { most } else { most + 1 - n };
        let first = passed(&mut w);
        assert!((least(100)..=100).contains(&first), "the burst, on {n} workers: {first}");
        w.ms = 500;
        let all = first + passed(&mut w);
        assert!((least(150)..=150).contains(&all), "and 80 kbit a second: {all}");
    }
}
