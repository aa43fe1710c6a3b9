//! Tables while they are in use: what is in them, and what is asked of them.

use crate::{
    config::{Config, Family, Prefix, Table, TableEntry, TableId, TableKind, TableSource},
    packet::{address_of, number_of},
    state::Millis,
};
use std::collections::{BTreeMap, HashMap};

/// All tables of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    list: Vec<Contents>,
}

/// Why a table was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// No table has the number.
    #[error("there is no such table")]
    NoTable,
    /// It is of the kind `const`.
    #[error("the table is constant: it changes only with its file, by a reload")]
    Constant,
    /// The entry is there already.
    #[error("entry already exists or is conflicting")]
    Exists,
    /// It is not there.
    #[error("not found")]
    NotFound,
    /// A prefix in a table of addresses, a service where none belongs, or none where one does.
    #[error("the table takes {0}")]
    Kind(&'static str),
}

#[derive(Clone, Debug)]
struct Contents {
    kind: TableKind,
    timeout: Option<Millis>,
    entries: HashMap<TableEntry, Entry>,
    /// Some entry may have a time at which it goes.
    timed: bool,
    /// How many prefixes of each length there are, by family, so that a look-up tries only lengths that are there.
    lengths: [BTreeMap<u8, usize>; 2],
}

/// What is known of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// When it goes; None for never.
    pub until: Option<Millis>,
    /// Packets that a rule found it for.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Tables {
    /// The tables of a configuration with what their files say.
    pub fn new(config: &Config) -> Tables {
        Tables { list: config.tables.iter().map(Contents::of).collect() }
    }

    /// Takes over what commands put into tables that are still there: of the same name and kind, and filled by no file.
    pub fn keep(&mut self, config: &Config, old: &Tables, of: &Config) {
        for (table, now) in self.list.iter_mut().zip(&config.tables) {
            let same = |t: &(&Table, &Contents)| t.0.name == now.name && t.0.kind == now.kind;
            if now.source == TableSource::Empty
                && let Some((_, contents)) = of.tables.iter().zip(&old.list).find(same)
            {
                (table.entries, table.lengths) = (contents.entries.clone(), contents.lengths.clone());
                table.timed = contents.timed;
            }
        }
    }

    /// Whether an address, with a protocol and its port where it has them, is in a table.
    pub fn contains(&self, table: TableId, family: Family, address: u128, service: Option<(u8, u16)>) -> bool {
        self.list.get(table.0).is_some_and(|t| t.find(family, address, service).is_some())
    }

    /// The entry that a look-up finds.
    pub fn find(
        &self,
        table: TableId,
        family: Family,
        address: u128,
        service: Option<(u8, u16)>,
    ) -> Option<TableEntry> {
        self.list.get(table.0)?.find(family, address, service)
    }

    /// Adds an entry. It stays as long as the table says, or `stay`.
    ///
    /// # Errors
    /// When it is there, or cannot be there.
    pub fn add(
        &mut self,
        table: TableId,
        entry: TableEntry,
        now: Millis,
        stay: Option<Millis>,
    ) -> Result<(), TableError> {
        let table = self.changeable(table)?;
        table.check(&entry)?;
        let until = stay.or(table.timeout).map(|t| now.after(t.0));
        table.timed |= until.is_some();
        match table.entries.get_mut(&entry) {
            // Adding again is how an entry is kept.
            Some(known) if known.until.is_some() => known.until = until,
            Some(_) => return Err(TableError::Exists),
            None => table.insert(entry, Entry { until, ..Entry::default() }),
        }
        Ok(())
    }

    /// Removes an entry, which is named as it was added.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&mut self, table: TableId, entry: &TableEntry) -> Result<(), TableError> {
        let table = self.changeable(table)?;
        if table.take(entry) { Ok(()) } else { Err(TableError::NotFound) }
    }

    /// Removes all entries.
    ///
    /// # Errors
    /// When the table is constant, or none.
    pub fn flush(&mut self, table: TableId) -> Result<(), TableError> {
        let table = self.changeable(table)?;
        table.entries.clear();
        table.lengths = Default::default();
        Ok(())
    }

    /// Removes entries whose time has come. Returns how many.
    pub fn expire(&mut self, now: Millis) -> usize {
        let mut gone = 0;
        for table in self.list.iter_mut().filter(|t| t.timed) {
            let over: Vec<TableEntry> =
                table.entries.iter().filter(|(_, e)| e.until.is_some_and(|u| u <= now)).map(|(k, _)| *k).collect();
            table.timed = table.entries.values().any(|e| e.until.is_some_and(|u| u > now));
            gone += over.iter().filter(|entry| table.take(entry)).count();
        }
        gone
    }

    /// The entries of a table, in the order of their addresses.
    pub fn entries(&self, table: TableId) -> Vec<(TableEntry, Entry)> {
        let mut all: Vec<_> =
            self.list.get(table.0).into_iter().flat_map(|t| t.entries.iter().map(|(k, e)| (*k, *e))).collect();
        all.sort_by_key(|(k, _)| (k.prefix.address, k.prefix.len, k.service));
        all
    }

    /// The prefixes of a table: a pool of addresses for translation.
    pub fn prefixes(&self, table: TableId) -> Vec<Prefix> {
        self.entries(table).into_iter().map(|(k, _)| k.prefix).collect()
    }

    fn changeable(&mut self, table: TableId) -> Result<&mut Contents, TableError> {
        match self.list.get_mut(table.0) {
            None => Err(TableError::NoTable),
            Some(t) if t.kind == TableKind::Const => Err(TableError::Constant),
            Some(t) => Ok(t),
        }
    }
}

impl Contents {
    fn of(table: &Table) -> Contents {
        let timeout = table.timeout.map(|t| Millis(u64::try_from(t.as_millis()).unwrap_or(u64::MAX)));
        let mut contents = Contents {
            kind: table.kind,
            timeout,
            entries: HashMap::with_capacity(table.entries.len()),
            timed: false,
            lengths: Default::default(),
        };
        // What a file says stays until the next one.
        table.entries.iter().for_each(|e| contents.insert(*e, Entry::default()));
        contents
    }

    fn insert(&mut self, entry: TableEntry, known: Entry) {
        if self.entries.insert(entry, known).is_none() {
            *self.lengths_of(&entry).entry(entry.prefix.len).or_default() += 1;
        }
    }

    fn take(&mut self, entry: &TableEntry) -> bool {
        if self.entries.remove(entry).is_none() {
            return false;
        }
        let lengths = self.lengths_of(entry);
        if let Some(n) = lengths.get_mut(&entry.prefix.len) {
            *n -= 1;
            if *n == 0 {
                lengths.remove(&entry.prefix.len);
            }
        }
        true
    }

    fn lengths_of(&mut self, entry: &TableEntry) -> &mut BTreeMap<u8, usize> {
        &mut self.lengths[Family::of(entry.prefix.address) as usize]
    }

    fn check(&self, entry: &TableEntry) -> Result<(), TableError> {
        let is_host = entry.prefix == Prefix::host(entry.prefix.address);
        match self.kind {
            TableKind::Lpm if entry.service.is_none() => Ok(()),
            TableKind::Lpm => Err(TableError::Kind("prefixes without a port")),
            TableKind::IpPort if entry.service.is_some() && is_host => Ok(()),
            TableKind::IpPort => Err(TableError::Kind("addresses, each with a protocol and a port")),
            TableKind::Ipset | TableKind::Const if entry.service.is_none() && is_host => Ok(()),
            TableKind::Ipset | TableKind::Const => Err(TableError::Kind("single addresses")),
        }
    }

    fn find(&self, family: Family, address: u128, service: Option<(u8, u16)>) -> Option<TableEntry> {
        let address = address_of(family, address);
        let service = if self.kind == TableKind::IpPort { Some(service?) } else { None };
        let with = |prefix| Some(TableEntry { prefix, service }).filter(|e| self.entries.contains_key(e));
        match self.kind {
            TableKind::Lpm => {
                let lengths = self.lengths[family as usize].keys().rev();
                lengths.filter_map(|&len| Prefix::new(address, len)).find_map(with)
            }
            _ => with(Prefix::host(address)),
        }
    }
}

/// A single address as an entry.
pub fn host(family: Family, address: u128) -> TableEntry {
    TableEntry { prefix: Prefix::host(address_of(family, address)), service: None }
}

/// Whether an address of a packet lies in a prefix.
pub fn lies_in(prefix: &Prefix, family: Family, address: u128) -> bool {
    if Family::of(prefix.address) != family {
        return false;
    }
    // IPv4 addresses are the last 32 of the 128 bits, and the 96 before are the same in all of them.
    let shift = u32::from(family.bits() - prefix.len);
    let differs = number_of(prefix.address) ^ address;
    differs.checked_shr(shift).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            ["10.1.2.3", "10.1.3.3", "10.2.0.1", "11.0.0.1"].map(|a| finds(&tables, a)),
            [24, 16, 8, 0].map(Some)
        );
        tables.remove(TableId(0), &prefix("10.1.0.0/16")).unwrap();
        assert_eq!(tables.remove(TableId(0), &prefix("10.1.0.0/16")), Err(TableError::NotFound));
        assert_eq!(["10.1.2.3", "10.1.3.3"].map(|a| finds(&tables, a)), [Some(24), Some(8)]);
        assert_eq!(
            ["2001:db8:1::1", "2001:db8:2::1", "2002::1"].map(|a| finds(&tables, a)),
            [Some(48), Some(32), None]
        );
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
        assert!(matches!(
            table(TableKind::Ipset, None).add(TableId(0), net, Millis(0), None),
            Err(TableError::Kind(_))
        ));
        assert!(matches!(
            table(TableKind::IpPort, None).add(TableId(0), net, Millis(0), None),
            Err(TableError::Kind(_))
        ));
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
}
