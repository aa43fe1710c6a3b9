//! What tables say, and what they do not take.

use super::*;
use crate::config::Place;
use std::net::IpAddr;

fn table(kind: TableKind, timeout: Option<u64>) -> Tables {
    let timeout = timeout.map(std::time::Duration::from_millis);
    let (source, at) = (TableSource::Empty, Place::default());
    let table = Table { name: "t".into(), kind, source, entries: Vec::new(), timeout, counters: false, at };
    Tables::new(&Config { tables: vec![table], ..Config::default() })
}

fn prefix(text: &str) -> TableEntry {
    let (address, len) = text.split_once('/').unwrap();
    let prefix = Prefix::new(address.parse().unwrap(), len.parse().unwrap()).unwrap();
    TableEntry { prefix, service: None }
}

fn finds(tables: &Tables, text: &str) -> Option<u8> {
    let address: IpAddr = text.parse().unwrap();
    tables.find(TableId(0), Family::of(address), number_of(address), None).map(|e| e.prefix.len)
}

#[test]
fn overlapping_prefixes_go_in_in_any_order_and_out_by_their_names() {
    let mut tables = table(TableKind::Lpm, None);
    for text in ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "0.0.0.0/0", "2001:db8::/32", "2001:db8:1::/48"] {
        tables.add(TableId(0), prefix(text), Millis(0), None).unwrap();
    }
    assert_eq!(tables.add(TableId(0), prefix("10.1.0.0/16"), Millis(0), None), Err(TableError::Exists));
    assert_eq!(["10.1.2.3", "10.1.3.3", "10.2.0.1", "11.0.0.1"].map(|a| finds(&tables, a)), [24, 16, 8, 0].map(Some));
    tables.remove(TableId(0), &prefix("10.1.0.0/16")).unwrap();
    assert_eq!(tables.remove(TableId(0), &prefix("10.1.0.0/16")), Err(TableError::NotFound));
    assert_eq!(["10.1.2.3", "10.1.3.3"].map(|a| finds(&tables, a)), [Some(24), Some(8)]);
    assert_eq!(["2001:db8:1::1", "2001:db8:2::1", "2002::1"].map(|a| finds(&tables, a)), [Some(48), Some(32), None]);
}

#[test]
fn an_entry_goes_when_its_time_has_come_unless_it_is_added_again() {
    let mut tables = table(TableKind::Ipset, Some(1000));
    let one = host(Family::V4, number_of("192.0.2.1".parse().unwrap()));
    tables.add(TableId(0), one, Millis(0), None).unwrap();
    tables.add(TableId(0), one, Millis(500), None).unwrap();
    assert_eq!((tables.expire(Millis(1499)), tables.expire(Millis(1500)), tables.expire(Millis(9999))), (0, 1, 0));
}

#[test]
fn a_table_takes_what_its_kind_says() {
    let net = prefix("10.0.0.0/8");
    assert!(matches!(table(TableKind::Ipset, None).add(TableId(0), net, Millis(0), None), Err(TableError::Kind(_))));
    assert!(matches!(table(TableKind::IpPort, None).add(TableId(0), net, Millis(0), None), Err(TableError::Kind(_))));
    assert_eq!(table(TableKind::Const, None).add(TableId(0), net, Millis(0), None), Err(TableError::Constant));
    assert_eq!(table(TableKind::Lpm, None).flush(TableId(1)), Err(TableError::NoTable));
    let mut tables = table(TableKind::IpPort, None);
    let web = TableEntry { service: Some((6, 80)), ..host(Family::V4, number_of("192.0.2.1".parse().unwrap())) };
    tables.add(TableId(0), web, Millis(0), None).unwrap();
    let asked = |service| tables.contains(TableId(0), Family::V4, number_of("192.0.2.1".parse().unwrap()), service);
    assert_eq!([Some((6, 80)), Some((17, 80)), Some((6, 81)), None].map(asked), [true, false, false, false]);
}

#[test]
fn a_prefix_holds_what_its_bits_say() {
    for (prefix_, address, holds) in [
        ("0.0.0.0/0", "1.2.3.4", true),
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("10.0.0.1/32", "10.0.0.1", true),
        ("::/0", "2001:db8::1", true),
        ("::/0", "1.2.3.4", false),
        ("2001:db8::/33", "2001:db8:8000::1", false),
    ] {
        let address: IpAddr = address.parse().unwrap();
        let p = prefix(prefix_).prefix;
        assert_eq!(lies_in(&p, Family::of(address), number_of(address)), holds, "{prefix_} {address}");
        assert_eq!(p.contains(address), holds, "{prefix_} {address}");
    }
}

fn is_shared<T: Send + Sync + Clone>() {}

#[test]
fn versions_go_from_thread_to_thread() {
    is_shared::<Tables>();
    fn is_sync<T: Send + Sync>() {}
    is_sync::<TableCounters>();
    is_sync::<Counting>();
}

#[test]
fn a_version_that_workers_look_at_is_whole_while_others_are_published() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let entry = |i: u32| host(Family::V4, number_of(std::net::Ipv4Addr::from_bits(i).into()));
    let published = std::sync::Mutex::new(table(TableKind::Ipset, None));
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let version = published.lock().unwrap().clone();
                let has =
                    |i| version.find(TableId(0), Family::V4, number_of(std::net::Ipv4Addr::from_bits(i).into()), None);
                // The entries of a version are 500 in a row, beginning anywhere.
                let all: Vec<u32> = (0..4_000).filter(|i| has(*i).is_some()).collect();
                assert!(all.len() == 500 || all.is_empty());
                assert!(all.windows(2).all(|w| w[1] == w[0] + 1));
            }
        });
        let mut now = published.lock().unwrap().clone();
        for begin in 0..3_000 {
            if begin == 0 {
                let first: Vec<_> = (0..500).map(entry).collect();
                now.replace(TableId(0), &first, Millis(0)).unwrap();
            } else {
                let changes = [Change::Remove(entry(begin - 1)), Change::Add(entry(begin + 499), None)];
                now.change(TableId(0), &changes, Millis(0)).unwrap();
            }
            *published.lock().unwrap() = now.clone();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn many_changes_are_made_all_or_none_and_it_is_said_which_one_cannot_be() {
    let mut tables = table(TableKind::Lpm, None);
    let [a, b] = ["10.0.0.0/8", "10.1.0.0/16"].map(prefix);
    tables.change(TableId(0), &[Change::Add(a, None)], Millis(0)).unwrap();
    let refused = tables.change(TableId(0), &[Change::Add(b, None), Change::Remove(a), Change::Remove(a)], Millis(0));
    assert_eq!(refused.unwrap_err().to_string(), "change 3: not found");
    let web = TableEntry { service: Some((6, 80)), ..b };
    let error = ChangesError::Change { index: 1, error: TableError::Kind("prefixes without a port") };
    assert_eq!(tables.replace(TableId(0), &[b, web], Millis(0)), Err(error));
    assert_eq!(tables.prefixes(TableId(0)), [a.prefix]);
    assert_eq!(tables.replace(TableId(0), &[b, b], Millis(0)), Ok(1));
    assert_eq!(tables.prefixes(TableId(0)), [b.prefix]);
    let constant = table(TableKind::Const, None).replace(TableId(0), &[], Millis(0));
    assert_eq!(constant, Err(ChangesError::Table(TableError::Constant)));
}

#[test]
fn a_reload_goes_on_with_entries_of_the_same_table_and_with_counts_when_both_count() {
    let config = |counters, timeout| {
        let timeout = Some(std::time::Duration::from_millis(timeout));
        let (source, at, kind) = (TableSource::Empty, Place::default(), TableKind::Ipset);
        let table = |name: &str| Table {
            name: name.into(),
            kind,
            source: source.clone(),
            entries: Vec::new(),
            timeout,
            counters,
            at: at.clone(),
        };
        Config { tables: vec![table("other"), table("t")], ..Config::default() }
    };
    let (old, new) = (config(true, 1000), config(false, 5000));
    let mut swapped = config(true, 1000);
    swapped.tables.reverse();
    let one = host(Family::V4, number_of("192.0.2.1".parse().unwrap()));
    let mut before = Tables::new(&old);
    before.add(TableId(1), one, Millis(0), None).unwrap();
    let slot = before.slot_of(TableId(1), &one).unwrap();

    let mut counting = Tables::new(&swapped);
    assert_eq!(counting.keep(&swapped, &before, &old), [Some(TableId(1)), Some(TableId(0))]);
    assert_eq!(counting.slot_of(TableId(0), &one), Some(slot));

    let mut silent = Tables::new(&new);
    silent.keep(&new, &before, &old);
    assert_eq!((silent.slot_of(TableId(1), &one), silent.slots(TableId(1))), (None, 0));
    // What it was told to stay, it stays; added again, it stays as long as the new table says.
    assert_eq!(silent.next_expiry(), Some(Millis(1000)));
    silent.add(TableId(1), one, Millis(500), None).unwrap();
    assert_eq!(silent.next_expiry(), Some(Millis(5500)));

    let mut again = Tables::new(&old);
    again.keep(&old, &silent, &new);
    assert_eq!(again.slots(TableId(1)), 1);
}
