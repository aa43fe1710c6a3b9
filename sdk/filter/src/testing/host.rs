//! What stands for the imports of the module.

use crate::{Level, Manifest, TableKind};
use smpnet_filter_abi as abi;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::string::String;
use std::vec::Vec;

/// A line that the filter logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// How much it matters.
    pub level: Level,
    /// The line.
    pub text: String,
}

/// Clock, log and tables of a harness.
#[derive(Default)]
pub struct Host {
    pub now_ns: u64,
    pub log: Vec<Line>,
    pub look_ups: u64,
    may: Vec<&'static str>,
    tables: Vec<Table>,
}

#[derive(Clone)]
struct Table {
    name: &'static str,
    kind: TableKind,
    exact: HashMap<Vec<u8>, u32>,
    /// By address and length of the prefix.
    prefixes: Vec<(Vec<u8>, u8, u32)>,
}

std::thread_local! {
    /// The host of the harness that calls a filter on this thread.
    static CURRENT: RefCell<Option<Host>> = const { RefCell::new(None) };
}

impl Host {
    pub fn new(manifest: &Manifest) -> Host {
        let table = |(name, kind): &(&'static str, TableKind)| Table {
            name,
            kind: *kind,
            exact: HashMap::new(),
            prefixes: Vec::new(),
        };
        Host {
            now_ns: 1_000_000_000,
            log: Vec::new(),
            look_ups: 0,
            may: manifest.capabilities.to_vec(),
            tables: manifest.tables.iter().map(table).collect(),
        }
    }

    /// Is there for what the filter calls while `f` runs.
    pub fn lend<R>(self, f: impl FnOnce() -> R) -> (Host, R) {
        /// Takes the host back when a test catches the filter's panic.
        struct Back;
        impl Drop for Back {
            fn drop(&mut self) {
                CURRENT.with_borrow_mut(Option::take);
            }
        }
        CURRENT.with_borrow_mut(|c| *c = Some(self));
        let _back = Back;
        let result = f();
        let host = CURRENT.with_borrow_mut(Option::take).unwrap_or_default();
        (host, result)
    }

    /// Clock, log and tables of the last generation.
    pub fn take_over(&mut self, old: &Host) {
        self.now_ns = old.now_ns;
        self.log.splice(0..0, old.log.iter().cloned());
        for table in &mut self.tables {
            if let Some(same) = old.tables.iter().find(|t| t.name == table.name && t.kind == table.kind) {
                *table = same.clone();
            }
        }
    }

    fn named(&mut self, name: &str) -> &mut Table {
        let names: Vec<&str> = self.tables.iter().map(|t| t.name).collect();
        let at = names.iter().position(|n| *n == name);
        let at = at.unwrap_or_else(|| panic!("there is no table {name}; there are {names:?}"));
        &mut self.tables[at]
    }

    pub fn fill_exact(&mut self, name: &str, entries: impl Iterator<Item = (Vec<u8>, u32)>) {
        let table = self.named(name);
        assert_eq!(table.kind, TableKind::Exact, "{name} is a table of prefixes");
        table.exact = entries.collect();
        assert!(table.exact.values().all(|v| *v != abi::ABSENT), "{:#x} is no value of an entry", abi::ABSENT);
        assert!(
            table.exact.keys().all(|k| k.len() <= abi::KEY_MAX as usize),
            "a key has at most {} bytes",
            abi::KEY_MAX
        );
    }

    pub fn fill_prefixes(&mut self, name: &str, entries: &[(&str, u32)]) {
        let table = self.named(name);
        assert_ne!(table.kind, TableKind::Exact, "{name} is an exact table");
        let wanted = if table.kind == TableKind::Ipv4 { 4 } else { 16 };
        let entry = |(text, value): &(&str, u32)| {
            let (address, len) = text.split_once('/').unwrap_or((text, if wanted == 4 { "32" } else { "128" }));
            let bytes = match address.parse() {
                Ok(IpAddr::V4(a)) => a.octets().to_vec(),
                Ok(IpAddr::V6(a)) => a.octets().to_vec(),
                Err(e) => panic!("{text}: {e}"),
            };
            let len: u8 = len.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert!(bytes.len() == wanted && usize::from(len) <= wanted * 8, "{text} does not belong into {name}");
            (bytes, len, *value)
        };
        table.prefixes = entries.iter().map(entry).collect();
    }

    fn table(&mut self, table: u32, kind: TableKind) -> &Table {
        assert!(self.may.contains(&abi::capability::TABLES), "a look-up without the capability tables");
        self.look_ups += 1;
        let table = self.tables.get(table as usize).unwrap_or_else(|| panic!("there is no table {table}"));
        assert_eq!(table.kind, kind, "table {} is of another kind", table.name);
        table
    }
}

/// Runs with the host of the harness, if the filter is called by one.
fn with_host<R>(f: impl FnOnce(&mut Host) -> R) -> Option<R> {
    CURRENT.with_borrow_mut(|c| c.as_mut().map(f))
}

/// `smpnet.log`. Outside of a harness the line is printed.
pub fn log(level: Level, text: &str) {
    let mut end = text.len().min(abi::LOG_MAX as usize);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let line = Line { level, text: text[..end].into() };
    let taken = with_host(|host| host.log.push(line));
    if taken.is_none() {
        std::eprintln!("{level:?}: {text}");
    }
}

/// `smpnet.clock_ns`.
pub fn clock_ns() -> u64 {
    let time = with_host(|host| {
        assert!(host.may.contains(&abi::capability::CLOCK), "the clock without the capability clock");
        host.now_ns
    });
    time.unwrap_or(0)
}

/// `smpnet.table_exact`.
pub fn exact(table: u32, keys: &[u8], stride: usize, out: &mut [u32]) -> usize {
    out.fill(abi::ABSENT);
    let found = with_host(|host| {
        let table = host.table(table, TableKind::Exact);
        for (key, out) in keys.chunks(stride).zip(&mut *out) {
            let len = usize::from(u16::from_le_bytes([key[0], key[1]]));
            if let Some(value) = table.exact.get(&key[2..2 + len]) {
                *out = *value;
            }
        }
        out.iter().filter(|v| **v != abi::ABSENT).count()
    });
    found.unwrap_or(0)
}

/// `smpnet.table_prefix`.
pub fn prefix(table: u32, kind: TableKind, keys: &[u8], out: &mut [u32]) -> usize {
    out.fill(abi::ABSENT);
    let found = with_host(|host| {
        let table = host.table(table, kind);
        let bytes = if kind == TableKind::Ipv6 { 16 } else { 4 };
        for (address, out) in keys.chunks(bytes).zip(&mut *out) {
            let within = table.prefixes.iter().filter(|(prefix, len, _)| covers(prefix, *len, address));
            if let Some((_, _, value)) = within.max_by_key(|(_, len, _)| *len) {
                *out = *value;
            }
        }
        out.iter().filter(|v| **v != abi::ABSENT).count()
    });
    found.unwrap_or(0)
}

fn covers(prefix: &[u8], len: u8, address: &[u8]) -> bool {
    let (whole, bits) = (usize::from(len / 8), len % 8);
    let mask = !(0xffu16 >> bits) as u8;
    prefix[..whole] == address[..whole] && (bits == 0 || (prefix[whole] ^ address[whole]) & mask == 0)
}
