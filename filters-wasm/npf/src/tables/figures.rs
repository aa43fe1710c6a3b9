//! What look-ups and changes take. Not a test of anything: `cargo test --release -p smpnet-npf figures -- --ignored --nocapture`.

use super::*;
use crate::config::Place;
use std::{
    collections::{BTreeMap, HashMap},
    hint::black_box,
    net::{Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

const TABLE: TableId = TableId(0);
const ENTRIES: u32 = 100_000;

/// A name, a kind of table, and its entries.
type Filled = (&'static str, TableKind, fn(u32) -> TableEntry);

/// Numbers that look random, each once.
fn scattered(i: u32) -> u32 {
    i.wrapping_mul(0x9e37_79b9)
}

fn v4(i: u32, len: u8) -> TableEntry {
    TableEntry { prefix: Prefix::new(Ipv4Addr::from_bits(scattered(i)).into(), len).unwrap(), service: None }
}

/// In no order that a machine could guess.
fn random(i: u32) -> u32 {
    let x = (u64::from(i) + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((x ^ (x >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32) as u32
}

/// Networks of a few providers, as lists of networks have them.
fn v6(i: u32, len: u8) -> TableEntry {
    let high = 0x2001_0db8_0000_0000u64 + (u64::from(i % 50) << 48) + u64::from(scattered(i) >> 1);
    let address = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(scattered(!i)));
    TableEntry { prefix: Prefix::new(address.into(), len).unwrap(), service: None }
}

/// As many prefixes of each length from 1 on as there can be, most of them long.
fn of_all_lengths(i: u32) -> TableEntry {
    v4(i, 32 - (i % 32) as u8)
}

fn tables(kind: TableKind, counters: bool, timeout: Option<Duration>) -> Tables {
    let (source, at) = (TableSource::Empty, Place::default());
    let table = Table { name: "t".into(), kind, source, entries: Vec::new(), timeout, counters, at };
    Tables::new(&Config { tables: vec![table], ..Config::default() })
}

/// How tables were before: a hash table, which prefixes of each length that is there are looked up in.
struct Before {
    entries: HashMap<TableEntry, Entry>,
    lengths: [BTreeMap<u8, usize>; 2],
}

impl Before {
    fn of(entries: &[TableEntry]) -> Before {
        let mut lengths: [BTreeMap<u8, usize>; 2] = Default::default();
        entries
            .iter()
            .for_each(|e| *lengths[Family::of(e.prefix.address) as usize].entry(e.prefix.len).or_default() += 1);
        Before { entries: entries.iter().map(|e| (*e, Entry::default())).collect(), lengths }
    }

    fn find(&self, kind: TableKind, family: Family, address: u128) -> Option<TableEntry> {
        let address = address_of(family, address);
        let with = |prefix| Some(TableEntry { prefix, service: None }).filter(|e| self.entries.contains_key(e));
        match kind {
            TableKind::Lpm => {
                let lengths = self.lengths[family as usize].keys().rev();
                lengths.filter_map(|&len| Prefix::new(address, len)).find_map(with)
            }
            _ => with(Prefix::host(address)),
        }
    }
}

/// Nanoseconds that one of `n` takes, on a machine that others use too: of a hundred parts, each at its best of some rounds,
/// the one in the middle.
fn each(rounds: usize, n: u32, mut f: impl FnMut(u32)) -> f64 {
    let part = n / 100;
    let mut best = [f64::MAX; 100];
    for _ in 0..rounds {
        for (k, best) in (0..).zip(&mut best) {
            let began = Instant::now();
            (k * part..(k + 1) * part).for_each(&mut f);
            *best = best.min(began.elapsed().as_nanos() as f64 / f64::from(part));
        }
    }
    best.sort_by(f64::total_cmp);
    best[50]
}

/// Milliseconds, the best of five.
fn whole(mut f: impl FnMut() -> Duration) -> f64 {
    (0..5).map(|_| f().as_secs_f64() * 1e3).fold(f64::MAX, f64::min)
}

#[test]
#[ignore = "figures"]
fn figures_of_look_ups() {
    let kinds: [Filled; 6] = [
        ("ipset, IPv4", TableKind::Ipset, |i| v4(i, 32)),
        ("ipset, IPv6", TableKind::Ipset, |i| v6(i, 128)),
        ("lpm, IPv4 /24", TableKind::Lpm, |i| v4(i, 24)),
        ("lpm, IPv4 /1 to /32", TableKind::Lpm, of_all_lengths),
        ("lpm, IPv6 /48", TableKind::Lpm, |i| v6(i, 48)),
        ("lpm, IPv6 /64 and /128", TableKind::Lpm, |i| v6(i, if i % 2 == 0 { 64 } else { 128 })),
    ];
    for count in [100, 10_000, ENTRIES] {
        for (name, kind, entry) in kinds {
            let entries: Vec<_> = (0..count).map(entry).collect();
            let mut now = tables(kind, true, None);
            now.replace(TABLE, &entries, Millis(0)).unwrap();
            let before = Before::of(&entries);
            for what in ["found", "not found"] {
                let family = Family::of(entries[0].prefix.address);
                let shift = if what == "found" { 0 } else { count };
                let any = |i: u32| ((u64::from(random(i)) * u64::from(count)) >> 32) as u32;
                let asked: Vec<u128> = (0..count).map(|i| number_of(entry(any(i) + shift).prefix.address)).collect();
                let ask = |i: u32| asked[(i % count) as usize];
                let old = each(10, 100_000, |i| {
                    black_box(before.find(kind, family, ask(i)));
                });
                let contains = each(10, 100_000, |i| {
                    black_box(now.contains(TABLE, family, ask(i), None));
                });
                let look_up = each(10, 100_000, |i| {
                    black_box(now.look_up(TABLE, family, ask(i), None));
                });
                println!(
                    "{count:>7} {name:<24} {what:<10} before {old:>6.1} ns, contains {contains:>5.1} ns, look_up {look_up:>5.1} ns"
                );
            }
        }
    }
}

#[test]
#[ignore = "figures"]
fn figures_of_changes() {
    let kinds: [Filled; 4] = [
        ("ipset, IPv4", TableKind::Ipset, |i| v4(i, 32)),
        ("lpm, IPv4 /1 to /32", TableKind::Lpm, of_all_lengths),
        ("lpm, IPv4 /32", TableKind::Lpm, |i| v4(i, 32)),
        ("lpm, IPv6 /64 and /128", TableKind::Lpm, |i| v6(i, if i % 2 == 0 { 64 } else { 128 })),
    ];
    for (name, kind, entry) in kinds {
        for (counters, timeout) in [(false, None), (true, None), (true, Some(Duration::from_secs(60)))] {
            let list: Vec<_> = (0..ENTRIES).map(entry).collect();
            let mut full = tables(kind, counters, timeout);
            let first = whole(|| {
                full = tables(kind, counters, timeout);
                let began = Instant::now();
                full.replace(TABLE, &list, Millis(0)).unwrap();
                began.elapsed()
            });
            let again = whole(|| {
                let mut now = full.clone();
                let began = Instant::now();
                now.replace(TABLE, &list[ENTRIES as usize / 2..], Millis(1)).unwrap();
                began.elapsed()
            });
            let mut now = full;
            // Each change is published, and the version before it freed by us.
            let mut published = now.clone();
            let mut new = ENTRIES * 2;
            let add = each(1, 2_000, |_| {
                new += 1;
                // Short prefixes are few: they may be there.
                let _ = now.add(TABLE, entry(new), Millis(2), None);
                published = now.clone();
            });
            let mut at = 0;
            let remove = each(1, 2_000, |_| {
                at = (at + 7) % ENTRIES;
                let _ = now.remove(TABLE, &list[at as usize]);
                published = now.clone();
            });
            let len = published.len(TABLE);
            let began = Instant::now();
            let gone = now.expire(Millis(1_000));
            let nothing = began.elapsed();
            assert_eq!(gone, 0);
            println!(
                "{name:<24} counters {counters:<5} timeout {:<5}: {ENTRIES} put in place of none in {first:.1} ms, half of them in \
                 place of all in {again:.1} ms; among {len} entries, add {:.2} us, remove {:.2} us, expire of nothing {} ns",
                timeout.is_some(),
                add / 1e3,
                remove / 1e3,
                nothing.as_nanos()
            );
        }
    }
}
