//! Tables against a plain model, through changes of any kind; versions stay what they were.

use super::*;
use crate::config::Place;
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

const TABLE: TableId = TableId(0);

/// Address, length and service: entries in their order.
type Name = (IpAddr, u8, Option<(u8, u16)>);

/// What a table is said to be, in the plainest words.
#[derive(Clone)]
struct Model {
    kind: TableKind,
    timeout: Option<Millis>,
    entries: BTreeMap<Name, Entry>,
}

fn name(entry: &TableEntry) -> Name {
    (entry.prefix.address, entry.prefix.len, entry.service)
}

impl Model {
    fn until(&self, now: Millis, stay: Option<Millis>) -> Option<Millis> {
        stay.or(self.timeout).map(|t| now.after(t.0))
    }

    fn add(&mut self, entry: &TableEntry, now: Millis, stay: Option<Millis>) -> Result<(), TableError> {
        let until = self.until(now, stay);
        match self.entries.get_mut(&name(entry)) {
            Some(known) if known.until.is_some() => known.until = until,
            Some(_) => return Err(TableError::Exists),
            None => {
                self.entries.insert(name(entry), Entry { until, ..Entry::default() });
            }
        }
        Ok(())
    }

    fn remove(&mut self, entry: &TableEntry) -> Result<(), TableError> {
        self.entries.remove(&name(entry)).map(|_| ()).ok_or(TableError::NotFound)
    }

    fn replace(&mut self, entries: &[TableEntry], now: Millis) -> usize {
        let until = self.until(now, None);
        let old = std::mem::take(&mut self.entries);
        let kept = |entry| (name(entry), Entry { until, ..old.get(&name(entry)).copied().unwrap_or_default() });
        self.entries = entries.iter().map(kept).collect();
        self.entries.len()
    }

    fn expire(&mut self, now: Millis) -> usize {
        let before = self.entries.len();
        self.entries.retain(|_, e| e.until.is_none_or(|until| until > now));
        before - self.entries.len()
    }

    fn find(&mut self, asked: &TableEntry) -> Option<(TableEntry, &mut Entry)> {
        let service = if self.kind == TableKind::IpPort { asked.service } else { None };
        let holds = |(address, len, s): &Name| {
            Prefix { address: *address, len: *len }.contains(asked.prefix.address) && *s == service
        };
        let mut found: Vec<_> = self.entries.iter_mut().filter(|(k, _)| holds(k)).collect();
        found.sort_by_key(|((_, len, _), _)| *len);
        let ((address, len, service), entry) = found.pop()?;
        Some((TableEntry { prefix: Prefix { address: *address, len: *len }, service: *service }, entry))
    }

    fn list(&self) -> Vec<(TableEntry, Entry)> {
        let entry = |((address, len, service), entry): (&Name, &Entry)| {
            (TableEntry { prefix: Prefix { address: *address, len: *len }, service: *service }, *entry)
        };
        self.entries.iter().map(entry).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add(TableEntry, Option<Millis>),
    Remove(TableEntry),
    Replace(Vec<TableEntry>),
    Change(Vec<Change>),
    Flush,
    Reload,
    /// Packets, of the entries' first addresses and services.
    Packets(Vec<TableEntry>),
}

/// Few addresses, so that entries meet.
fn address() -> impl Strategy<Value = IpAddr> {
    let byte = || prop_oneof![Just(0u8), Just(1), Just(0x80), Just(0xff)];
    prop_oneof![
        [Just(10u8).boxed(), byte().boxed(), byte().boxed(), byte().boxed()].prop_map(IpAddr::from),
        [byte(), byte()].prop_map(|[a, b]| IpAddr::from([0x2001, 0xdb8, u16::from(a) << 8, 0, 0, 0, 0, u16::from(b)])),
        // IPv4 as IPv6 writes it is another address.
        byte().prop_map(|a| std::net::Ipv4Addr::new(10, 0, 0, a).to_ipv6_mapped().into()),
    ]
}

fn entry(kind: TableKind) -> impl Strategy<Value = TableEntry> {
    (address(), any::<u8>(), 0..3u16).prop_map(move |(address, n, port)| {
        let len =
            if kind == TableKind::Lpm { n % (Family::of(address).bits() + 1) } else { Family::of(address).bits() };
        let service = (kind == TableKind::IpPort).then_some((6, port));
        TableEntry { prefix: Prefix::new(address, len).unwrap(), service }
    })
}

fn step(kind: TableKind) -> impl Strategy<Value = Step> {
    let stay = || proptest::option::of((1..2_000u64).prop_map(Millis));
    let change = prop_oneof![
        3 => (entry(kind), stay()).prop_map(|(entry, stay)| Change::Add(entry, stay)),
        1 => entry(kind).prop_map(Change::Remove),
    ];
    prop_oneof![
        12 => (entry(kind), stay()).prop_map(|(entry, stay)| Step::Add(entry, stay)),
        5 => entry(kind).prop_map(Step::Remove),
        1 => prop::collection::vec(entry(kind), 0..40).prop_map(Step::Replace),
        2 => prop::collection::vec(change, 0..4).prop_map(Step::Change),
        1 => prop::bool::weighted(0.2).prop_map(|all| if all { Step::Flush } else { Step::Reload }),
        8 => prop::collection::vec(entry(kind), 1..8).prop_map(Step::Packets),
    ]
}

fn config(kind: TableKind, timeout: Option<u64>, counters: bool) -> Config {
    let timeout = timeout.map(Duration::from_millis);
    let (source, at) = (TableSource::Empty, Place::default());
    let table = Table { name: "t".into(), kind, source, entries: Vec::new(), timeout, counters, at };
    Config { tables: vec![table], ..Config::default() }
}

fn look(tables: &Tables, asked: &TableEntry) -> Option<Found> {
    let address = asked.prefix.address;
    tables.look_up(TABLE, Family::of(address), number_of(address), asked.service)
}

/// What a version says, whatever happened since. Counts are not of a version.
fn is_what(tables: &Tables, model: &Model, asked: &[TableEntry]) {
    let mut model = model.clone();
    model.entries.values_mut().for_each(|e| (e.packets, e.bytes) = (0, 0));
    assert_eq!(tables.entries(TABLE), model.list());
    assert_eq!(tables.len(TABLE), model.entries.len());
    assert_eq!(tables.next_expiry(), model.entries.values().filter_map(|e| e.until).min());
    for asked in asked {
        assert_eq!(look(tables, asked).map(|f| f.entry), model.find(asked).map(|(entry, _)| entry), "{asked:?}");
    }
    let slots: Vec<_> = model.list().iter().filter_map(|(entry, _)| tables.slot_of(TABLE, entry)).collect();
    assert!(slots.iter().all(|slot| slot.index() < tables.slots(TABLE)));
    let different: BTreeSet<_> = slots.iter().map(|slot| slot.index()).collect();
    assert_eq!(different.len(), if tables.slots(TABLE) > 0 { model.entries.len() } else { 0 });
}

fn run(kind: TableKind, timeout: Option<u64>, counters: bool, steps: &[(Step, u64)], asked: &[TableEntry]) {
    let config = config(kind, timeout, counters);
    let mut tables = Tables::new(&config);
    let mut model = Model { kind, timeout: timeout.map(Millis), entries: BTreeMap::new() };
    let mut workers = [Counting::new(0), Counting::new(0)];
    let mut versions = Vec::new();
    let mut now = Millis(0);
    for (i, (step, later)) in steps.iter().enumerate() {
        now = now.after(*later);
        assert_eq!(tables.expire(now), model.expire(now));
        match step {
            Step::Add(entry, stay) => {
                assert_eq!(tables.add(TABLE, *entry, now, *stay), model.add(entry, now, *stay));
            }
            Step::Remove(entry) => assert_eq!(tables.remove(TABLE, entry), model.remove(entry)),
            Step::Replace(entries) => {
                assert_eq!(tables.replace(TABLE, entries, now), Ok(model.replace(entries, now)));
            }
            Step::Change(changes) => {
                let mut next = model.clone();
                let made = changes.iter().enumerate().try_for_each(|(index, change)| {
                    let made = match change {
                        Change::Add(entry, stay) => next.add(entry, now, *stay),
                        Change::Remove(entry) => next.remove(entry),
                    };
                    made.map_err(|error| ChangesError::Change { index, error })
                });
                if made.is_ok() {
                    model = next;
                }
                assert_eq!(tables.change(TABLE, changes, now), made);
            }
            Step::Flush => {
                tables.flush(TABLE).unwrap();
                model.entries.clear();
            }
            Step::Reload => {
                let mut new = Tables::new(&config);
                assert_eq!(new.keep(&config, &tables, &config), [Some(TABLE)]);
                tables = new;
            }
            Step::Packets(packets) => {
                workers.iter().for_each(|w| w.counters().reserve(tables.slots(TABLE)));
                for (n, packet) in packets.iter().enumerate() {
                    let Some(found) = look(&tables, packet) else { continue };
                    assert_eq!(found.slot, tables.slot_of(TABLE, &found.entry));
                    assert_eq!(found.slot.is_some(), counters);
                    let Some(slot) = found.slot else { continue };
                    workers[n % 2].count(slot, 60);
                    let (entry, known) = model.find(packet).unwrap();
                    assert_eq!(entry, found.entry);
                    known.packets += 1;
                    known.bytes += 60;
                }
            }
        }
        if i % 8 == 0 {
            versions.push((tables.clone(), model.clone()));
        }
    }
    let seen: Vec<_> = workers.iter().map(|w| w.counters().clone()).collect();
    assert_eq!(tables.counted(TABLE, &seen), model.list());
    assert!(seen.iter().all(|w| w.missed() == 0));
    versions.push((tables, model));
    versions.iter().for_each(|(tables, model)| is_what(tables, model, asked));
}

fn case() -> impl Strategy<Value = (TableKind, Vec<(Step, u64)>, Vec<TableEntry>)> {
    prop_oneof![Just(TableKind::Ipset), Just(TableKind::Lpm), Just(TableKind::IpPort)].prop_flat_map(|kind| {
        let steps = prop::collection::vec((step(kind), prop_oneof![3 => Just(0), 1 => 0..500u64]), 0..150);
        (Just(kind), steps, prop::collection::vec(entry(kind), 20))
    })
}

proptest! {
    #[test]
    fn a_table_says_what_a_plain_one_says_and_its_versions_stay_what_they_were(
        (kind, steps, asked) in case(),
        timeout in proptest::option::of(1..3_000u64),
        counters in any::<bool>(),
    ) {
        run(kind, timeout, counters, &steps, &asked);
    }
}
