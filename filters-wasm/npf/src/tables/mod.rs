//! Tables while they are in use: what is in them, and what is asked of them.
//!
//! ```text
//! control thread                                           workers
//! Tables -- add, remove, replace, expire --> Tables        look up in the version that they took up last, lock-free
//!    clone: a version, published -------------------------> find --> Found { entry, slot } --> Counting::count(slot)
//!    sum(slot, counters of all workers) <----------------- TableCounters, one for each worker and table
//! ```
//!
//! Contents are persistent: a clone of [`Tables`] costs a count for each table, and a change of one copies the way to what is
//! changed and leaves other clones what they were. What is changed between two clones is one version. Whoever publishes
//! versions keeps the old ones until no worker has them any more, so that a worker never frees one.

mod contents;
mod counters;
#[cfg(test)]
mod figures;
mod index;
#[cfg(test)]
mod properties;
mod slot;
#[cfg(test)]
mod tests;

pub use counters::{Counting, TableCounters, sum};
pub use slot::Slot;

use crate::{
    config::{Config, Family, Prefix, Table, TableEntry, TableId, TableKind, TableSource},
    packet::{address_of, number_of},
    state::Millis,
};
use contents::Contents;
use index::{Known, Service};
use std::sync::Arc;

/// All tables of a configuration. A clone is a version.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    list: Vec<Arc<Contents>>,
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

/// Why many changes were not made. None of them was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangesError {
    /// The table cannot be changed.
    #[error(transparent)]
    Table(TableError),
    /// One of the changes cannot be made.
    #[error("change {}: {error}", .index + 1)]
    Change {
        /// Which one, from 0.
        index: usize,
        /// Why.
        error: TableError,
    },
}

/// A change of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// As [`Tables::add`] does: an entry, and how long it stays, in milliseconds.
    Add(TableEntry, Option<Millis>),
    /// As [`Tables::remove`] does.
    Remove(TableEntry),
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

/// What a look-up found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The entry.
    pub entry: TableEntry,
    /// Where its packets are counted, when its table has `counters`.
    pub slot: Option<Slot>,
}

impl Tables {
    /// The tables of a configuration with what their files say.
    pub fn new(config: &Config) -> Tables {
        Tables { list: config.tables.iter().map(|t| Arc::new(Contents::of(t))).collect() }
    }

    /// Takes over what commands put into tables that are still there: of the same name and kind, and filled by no file.
    ///
    /// Returns, for each table of `config`, which one of `of` it goes on from: its counters of before go on, too, and only
    /// they, provided that both count.
    pub fn keep(&mut self, config: &Config, old: &Tables, of: &Config) -> Vec<Option<TableId>> {
        let kept = |(table, now): (&mut Arc<Contents>, &Table)| {
            let same = |t: &Table| t.name == now.name && t.kind == now.kind;
            let from = of.tables.iter().position(same).filter(|_| now.source == TableSource::Empty)?;
            Arc::make_mut(table).take_over(old.list.get(from)?);
            Some(TableId(from))
        };
        self.list.iter_mut().zip(&config.tables).map(kept).collect()
    }

    /// Whether an address, with a protocol and its port where it has them, is in a table.
    #[inline]
    pub fn contains(&self, table: TableId, family: Family, address: u128, service: Option<(u8, u16)>) -> bool {
        self.known(table, family, address, service).is_some()
    }

    /// The entry that a look-up finds.
    #[inline]
    pub fn find(
        &self,
        table: TableId,
        family: Family,
        address: u128,
        service: Option<(u8, u16)>,
    ) -> Option<TableEntry> {
        self.look_up(table, family, address, service).map(|found| found.entry)
    }

    /// The entry that a look-up finds, and where it is counted. Allocates nothing.
    #[inline]
    pub fn look_up(&self, table: TableId, family: Family, address: u128, service: Option<(u8, u16)>) -> Option<Found> {
        let (service, len, known) = self.known(table, family, address, service)?;
        let prefix = Prefix::new(address_of(family, address), len)?;
        Some(Found { entry: TableEntry { prefix, service }, slot: known.mark.slot() })
    }

    /// Where an entry is counted, which is named as it was added. None when it is not there, or its table does not count.
    pub fn slot_of(&self, table: TableId, entry: &TableEntry) -> Option<Slot> {
        self.list.get(table.0)?.index.get(entry)?.mark.slot()
    }

    /// How many cells [`TableCounters`] need for the entries of a table: 0 when it does not count.
    pub fn slots(&self, table: TableId) -> usize {
        self.list.get(table.0).map_or(0, |t| t.marks.used())
    }

    /// How many entries a table has.
    pub fn len(&self, table: TableId) -> usize {
        self.list.get(table.0).map_or(0, |t| t.index.len())
    }

    /// Whether a table has no entries.
    pub fn is_empty(&self, table: TableId) -> bool {
        self.len(table) == 0
    }

    /// Adds an entry. It stays as long as the table says, or `stay`, in milliseconds.
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
        self.changeable(table)?.add(&entry, now, stay)
    }

    /// Removes an entry, which is named as it was added.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&mut self, table: TableId, entry: &TableEntry) -> Result<(), TableError> {
        self.changeable(table)?.remove(entry)
    }

    /// Makes all changes of one table, in their order.
    ///
    /// # Errors
    /// When one of them cannot be made: none is made then.
    pub fn change(&mut self, table: TableId, changes: &[Change], now: Millis) -> Result<(), ChangesError> {
        let contents = self.changeable(table).map_err(ChangesError::Table)?;
        let mut next = contents.clone();
        for (index, change) in changes.iter().enumerate() {
            let made = match change {
                Change::Add(entry, stay) => next.add(entry, now, *stay),
                Change::Remove(entry) => next.remove(entry),
            };
            made.map_err(|error| ChangesError::Change { index, error })?;
        }
        *contents = next;
        Ok(())
    }

    /// Puts these entries in place of all that a table has, as if added now; an entry may be named twice. Those that were there
    /// already keep their counts. Returns how many entries there are.
    ///
    /// # Errors
    /// When one of them cannot be there: nothing is changed then.
    pub fn replace(&mut self, table: TableId, entries: &[TableEntry], now: Millis) -> Result<usize, ChangesError> {
        let contents = self.changeable(table).map_err(ChangesError::Table)?;
        for (index, entry) in entries.iter().enumerate() {
            contents.check(entry).map_err(|error| ChangesError::Change { index, error })?;
        }
        contents.replace(entries, now);
        Ok(contents.index.len())
    }

    /// Removes all entries.
    ///
    /// # Errors
    /// When the table is constant, or none.
    pub fn flush(&mut self, table: TableId) -> Result<(), TableError> {
        self.changeable(table)?.clear();
        Ok(())
    }

    /// Removes entries whose time has come. Returns how many. Looks at no other ones.
    pub fn expire(&mut self, now: Millis) -> usize {
        let over = |t: &&mut Arc<Contents>| t.first_due().is_some_and(|until| until <= now);
        self.list.iter_mut().filter(over).map(|t| Arc::make_mut(t).expire(now)).sum()
    }

    /// When the next entry goes, of all tables.
    pub fn next_expiry(&self) -> Option<Millis> {
        self.list.iter().filter_map(|t| t.first_due()).min()
    }

    /// The entries of a table, in the order of their addresses, without what was counted.
    pub fn entries(&self, table: TableId) -> Vec<(TableEntry, Entry)> {
        self.counted(table, &[])
    }

    /// The entries of a table, in the order of their addresses, with what all workers counted for it.
    pub fn counted(&self, table: TableId, workers: &[Arc<TableCounters>]) -> Vec<(TableEntry, Entry)> {
        let entry = |(entry, known): (TableEntry, Known)| {
            let tally = known.mark.slot().map(|slot| sum(slot, workers.iter().map(|w| &**w))).unwrap_or_default();
            (entry, Entry { until: known.until.time(), packets: tally.packets, bytes: tally.bytes })
        };
        self.list.get(table.0).map(|t| t.index.all().into_iter().map(entry).collect()).unwrap_or_default()
    }

    /// The prefixes of a table: a pool of addresses for translation.
    pub fn prefixes(&self, table: TableId) -> Vec<Prefix> {
        self.entries(table).into_iter().map(|(k, _)| k.prefix).collect()
    }

    /// What a look-up finds: the service that it was asked by, the length of the prefix, and what is known.
    #[inline]
    fn known(
        &self,
        table: TableId,
        family: Family,
        address: u128,
        service: Option<Service>,
    ) -> Option<(Option<Service>, u8, &Known)> {
        let table = self.list.get(table.0)?;
        let service = if table.kind == TableKind::IpPort { Some(service?) } else { None };
        let (len, known) = table.index.find(family, address, service)?;
        Some((service, len, known))
    }

    fn changeable(&mut self, table: TableId) -> Result<&mut Contents, TableError> {
        match self.list.get_mut(table.0) {
            None => Err(TableError::NoTable),
            Some(t) if t.kind == TableKind::Const => Err(TableError::Constant),
            Some(t) => Ok(Arc::make_mut(t)),
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
