//! Connections that one router saves and another one, or the same after a restart, takes in.

use super::{mapped::Workers, *};
use crate::state::{ConnectionRecord, RecordError, Refused};

const RULES: &str = "map npftest0 dynamic proto tcp 10.1.1.80 port 80 <- 192.0.2.1 port 8080\n\
     map npftest0 dynamic 10.1.1.0/25 -> 192.0.2.1\n\
     map npftest0 dynamic endpoint-independent hairpin 10.1.1.128/25 -> 192.0.2.2\n\
     procedure \"p\" { normalize: \"min-ttl\" 9 }\n\
     group \"int\" on npftest1 { pass stateful in final from 10.1.1.0/24\n pass out all }\n\
     group default {\n\
       pass stateful out final proto udp to any port 123 limit states 1 per source\n\
       pass stateful out final all apply \"p\" tag \"t\"\n\
       pass stateful in final proto tcp to 192.0.2.1 port 8080\n\
       block all }";

/// All connections, in pages, by way of JSON; those with a translation first.
fn saved(w: &Workers, now: u64) -> Vec<ConnectionRecord> {
    let mut all = Vec::new();
    for e in &w.engines {
        let mut from = Some(0);
        while let Some(first) = from {
            let (page, next) = e.records(first..first + 7, Millis(now));
            assert!(page.len() <= 7);
            let text = serde_json::to_string(&page).unwrap();
            all.extend(serde_json::from_str::<Vec<ConnectionRecord>>(&text).unwrap());
            from = next;
        }
    }
    all.sort_by_key(|r| r.nat.is_none());
    all
}

/// Loads a record where it says that it belongs. How many had to be asked.
fn load(w: &mut Workers, record: &ConnectionRecord) -> Result<usize, LoadError> {
    match w.engines[0].load(record, Millis(w.ms)) {
        Ok(_) => Ok(1),
        Err(LoadError::Elsewhere(worker)) => w.engines[usize::from(worker)].load(record, Millis(w.ms)).map(|_| 2),
        Err(other) => Err(other),
    }
}

fn port_of(w: &mut Workers, host: &str, port: u16, to: (&str, u16)) -> (IpAddr, u16) {
    w.out(&udp((host, port), to, b"x"))[0]
}

#[test]
fn what_was_saved_goes_on_after_a_restart_whatever_the_number_of_workers() {
    const FAR: (&str, u16) = ("198.51.100.1", 53);
    for (before, after) in [(1, 1), (1, 3), (3, 2), (4, 1)] {
        let mut old = Workers::new(before, RULES);
        let hosts: Vec<String> = [1, 2, 3, 4, 130, 131, 132, 133].iter().map(|n| format!("10.1.1.{n}")).collect();
        let seen: Vec<_> = hosts.iter().map(|h| port_of(&mut old, h, 5000, FAR)).collect();
        let syn = tcp(("203.0.113.1", 999), ("192.0.2.1", 8080), 2, 100, 0);
        assert!(old.pass("npftest0", Where::In, &syn).is_some());
        let [_, turned] = [0, seen[5].1];
        old.turn(&udp(("10.1.1.130", 5000), ("192.0.2.2", turned), b"x"));
        let records = saved(&old, 1000);

        let mut new = Workers::new(after, RULES);
        new.ms = 500_000;
        let asked: usize = records.iter().map(|r| load(&mut new, r).unwrap_or_else(|e| panic!("{e}: {r:?}"))).sum();
        assert_eq!(asked > records.len(), after > 1);
        let count = |w: &Workers| w.engines.iter().map(|e| e.connections().len()).sum::<usize>();
        assert_eq!((count(&new), count(&old)), (records.len(), records.len()));
        for r in &records {
            let (duplicate, taken) = (RecordError::from(Refused::Duplicate), LoadError::Port);
            let again = load(&mut new, r).unwrap_err();
            assert!(again == duplicate.clone().into() || again == taken, "{again}");
        }
        for (host, outer) in hosts.iter().zip(&seen) {
            // What comes back finds in first, and what goes out is seen as before.
            let back = udp(FAR, (&outer.0.to_string(), outer.1), b"y");
            let back = new.pass("npftest0", Where::In, &back).unwrap();
            assert_eq!(ends(&back)[1], (a(host), 5000), "{before} to {after}");
            assert_eq!(port_of(&mut new, host, 5000, FAR), *outer);
        }
        let answer = tcp(("10.1.1.80", 80), ("203.0.113.1", 999), 0x12, 500, 101);
        let seen_as = new.pass("npftest0", Where::Forward, &answer).unwrap();
        assert_eq!(ends(&seen_as)[0], (a("192.0.2.1"), 8080));
        let back = new.turn(&udp(("10.1.1.131", 5000), ("192.0.2.2", seen[4].1), b"y"));
        assert_eq!(ends(&back), [seen[5], (a("10.1.1.130"), 5000)]);
        // All of it ends, and nothing is left.
        for _ in 0..3 {
            new.ms += 400_000_000;
            new.engines.iter_mut().for_each(|e| (0..40).for_each(|_| e.tick(Millis(new.ms))));
        }
        assert!(new.engines.iter().all(|e| e.is_idle() && e.held.ports.is_empty()), "{before} to {after}");
        assert!(new.elsewhere.is_empty());
    }
}

#[test]
fn a_loaded_connection_has_its_procedure_its_tag_and_its_place_under_a_limit() {
    let mut old = Workers::new(1, RULES);
    port_of(&mut old, "10.1.1.1", 5000, ("198.51.100.1", 53));
    port_of(&mut old, "10.1.1.1", 5001, ("198.51.100.1", 123));
    let mut new = Workers::new(1, RULES);
    for record in saved(&old, 0) {
        load(&mut new, &record).unwrap();
    }
    let mut first = udp(("10.1.1.1", 5000), ("198.51.100.1", 53), b"x");
    first[8] = 3;
    first[10..12].fill(0);
    let sum = checksum::of_ipv4_header(&first[..20]);
    first[10..12].copy_from_slice(&sum.to_be_bytes());
    let (sent, outcome) = pass_at(&mut new.engines[0], "npftest0", Where::Forward, &first, 0);
    assert_eq!((sent.unwrap()[8], outcome.connection), (9, Some("NEW")));
    assert_eq!(new.engines[0].ruleset().unwrap().tag(outcome.tag), Some("t"));
    let second = udp(("10.1.1.1", 5002), ("198.51.100.1", 123), b"x");
    let (_, outcome) = pass_at(&mut new.engines[0], "npftest0", Where::Forward, &second, 0);
    assert_eq!(new.engines[0].ruleset().unwrap().tag(outcome.tag), Some("t"), "the limited rule is full");
}

#[test]
fn a_record_that_does_not_fit_what_is_in_force_is_refused_and_leaves_nothing() {
    let mut old = Workers::new(1, RULES);
    port_of(&mut old, "10.1.1.1", 5000, ("198.51.100.1", 53));
    port_of(&mut old, "10.1.1.130", 5000, ("198.51.100.1", 53));
    let records = saved(&old, 0);
    let by = |mapped| records.iter().find(|r| r.nat.as_ref().is_some_and(|n| n.mapped == mapped)).unwrap();
    let (plain, mapped) = (by(false), by(true));
    let mut e = engine(RULES);
    let mut refused = |of: &ConnectionRecord, change: &dyn Fn(&mut ConnectionRecord)| {
        let mut record = of.clone();
        change(&mut record);
        let said = e.load(&record, Millis(0)).unwrap_err();
        assert!(e.is_idle() && e.held.ports.is_empty());
        said
    };
    fn nat(r: &mut ConnectionRecord) -> &mut crate::state::NatRecord {
        r.nat.as_mut().unwrap()
    }
    assert_eq!(refused(plain, &|r| r.rule = Some(1)), LoadError::Rule);
    assert_eq!(refused(plain, &|r| nat(r).map = 1), LoadError::Map);
    assert_eq!(refused(mapped, &|r| nat(r).map = plain.nat.as_ref().unwrap().map), LoadError::Map);
    let contradicts = LoadError::Record(RecordError::Translation);
    assert_eq!(refused(mapped, &|r| nat(r).port_taken = true), contradicts);
    assert_eq!(refused(plain, &|r| nat(r).hairpin = true), contradicts);
    assert_eq!(refused(plain, &|r| nat(r).call = Some(1)), contradicts);
    let unknown = RecordError::Unknown { what: "procedure", name: "q".to_owned() };
    assert_eq!(refused(plain, &|r| r.procedure = Some("q".to_owned())), unknown.into());
    // A port that another connection has.
    e.load(plain, Millis(0)).unwrap();
    let mut other = plain.clone();
    other.destination.1 = 54;
    assert_eq!(e.load(&other, Millis(0)), Err(LoadError::Port));
    assert_eq!(e.connections().len(), 1);
}
