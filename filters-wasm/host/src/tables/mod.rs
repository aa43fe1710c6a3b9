//! Tables that modules look into: named, filled by the operator, shared by all filters.
//!
//! A table belongs to nobody's generation: it stays when filters are swapped or go. Its content is a persistent trie. A
//! change makes a new version that shares almost everything with the old one and is published at once, so a burst of
//! changes, or the replacement of a whole table, is seen by packets as one step, or not yet. Readers look at the newest
//! version without a lock or an allocation; versions that nobody looks at any more are freed by whoever changes the table
//! next, never by a worker.

mod key;
#[cfg(test)]
mod tests;

use crate::TableKind;
use crate::error::nearest;
use crate::guest::is_name;
use arc_swap::{ArcSwap, Cache};
pub use key::TableKey;
use serde::Serialize;
use smpnet_filter_abi::ABSENT;
use smpnet_trie::{ExactMap, PrefixMap};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most tables of a router.
pub const TABLES_MAX: usize = 256;
/// Most entries of a table unless its maker says otherwise.
pub const ENTRIES_DEFAULT: usize = 1 << 20;
/// Most entries that a table may be made for.
pub const ENTRIES_MAX: usize = 1 << 24;

/// Why a change of tables was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// No table has that name.
    #[error("no table is named {name}{hint}")]
    NotFound {
        /// What was asked for.
        name: String,
        /// The nearest name, in parentheses, or nothing.
        hint: String,
    },
    /// A table of that name is there.
    #[error("a table named {0} is there already")]
    Exists(String),
    /// The name is empty, too long, or has characters that do not belong in a name.
    #[error("{0:?} is not a name for a table: 1 to 63 of the characters A-Z a-z 0-9 . _ -")]
    BadName(String),
    /// There are as many tables as there may be.
    #[error("there are {TABLES_MAX} tables already, which is the most")]
    TooMany,
    /// It would have more entries than it may have.
    #[error("table {name} would have {entries} entries, {most} are allowed")]
    Full {
        /// Name of the table.
        name: String,
        /// Entries that it would have.
        entries: usize,
        /// Its limit.
        most: usize,
    },
    /// The limit of entries is none that can be.
    #[error("a table is made for 1 to {ENTRIES_MAX} entries, not for {0}")]
    BadLimit(usize),
    /// The key belongs to another kind of table.
    #[error("table {name} is of kind {kind}: {key} is no key of it")]
    WrongKey {
        /// Name of the table.
        name: String,
        /// Its kind.
        kind: TableKind,
        /// The key.
        key: String,
    },
    /// The value that means "not there".
    #[error("{ABSENT:#x} is no value of an entry: it says that a key is not there")]
    BadValue,
    /// A filter looks into the table.
    #[error("table {name} is in use by {users}: detach it first")]
    InUse {
        /// Name of the table.
        name: String,
        /// Names of the filters.
        users: String,
    },
}

/// How a table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableStatus {
    /// Name.
    pub name: String,
    /// How its keys are looked up.
    pub kind: TableKind,
    /// Entries in it.
    pub entries: usize,
    /// Entries that it may have.
    pub most: usize,
    /// Changes that were published.
    pub changes: u64,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableEntry {
    /// The key, as [`TableKey::parse`] reads it.
    pub key: TableKey,
    /// The value.
    pub value: u32,
}

/// All tables of a router. Cheap to clone: clones are the same tables.
///
/// Methods may be called on any thread but a worker.
#[derive(Clone, Default)]
pub struct Tables {
    tables: Arc<Mutex<BTreeMap<String, Arc<Table>>>>,
}

impl Tables {
    /// Makes an empty table for at most `most` entries ([`ENTRIES_DEFAULT`] unless told).
    ///
    /// # Errors
    /// A bad or known name, too many tables, a limit that cannot be.
    pub fn create(&self, name: &str, kind: TableKind, most: Option<usize>) -> Result<(), TableError> {
        if !is_name(name) {
            return Err(TableError::BadName(name.into()));
        }
        let most = most.unwrap_or(ENTRIES_DEFAULT);
        if !(1..=ENTRIES_MAX).contains(&most) {
            return Err(TableError::BadLimit(most));
        }
        let mut tables = self.lock();
        if tables.contains_key(name) {
            return Err(TableError::Exists(name.into()));
        }
        if tables.len() >= TABLES_MAX {
            return Err(TableError::TooMany);
        }
        tables.insert(name.to_owned(), Arc::new(Table::new(name, kind, most)));
        Ok(())
    }

    /// Takes a table out. Filters that look into it go on with what was in it; a [`crate::FilterManager`] refuses then.
    ///
    /// # Errors
    /// An unknown name.
    pub fn remove(&self, name: &str) -> Result<(), TableError> {
        let mut tables = self.lock();
        match tables.remove(name) {
            Some(_) => Ok(()),
            None => Err(not_found(&tables, name)),
        }
    }

    /// Enters keys or changes their values, all in one step for packets. Returns how many are new.
    ///
    /// # Errors
    /// An unknown name, a key of another kind, a table that would be too full. Nothing is changed then.
    pub fn insert(&self, name: &str, entries: &[(TableKey, u32)]) -> Result<usize, TableError> {
        self.get(name)?.change(|w, t| {
            t.check(entries)?;
            let before = w.len();
            let new: BTreeSet<&TableKey> = entries.iter().map(|(k, _)| k).filter(|k| !w.has(k)).collect();
            t.room(before + new.len())?;
            entries.iter().for_each(|(k, v)| w.insert(k, *v));
            Ok(w.len() - before)
        })
    }

    /// Takes keys out, all in one step for packets. Returns how many were there.
    ///
    /// # Errors
    /// An unknown name, a key of another kind. Nothing is changed then.
    pub fn delete(&self, name: &str, keys: &[TableKey]) -> Result<usize, TableError> {
        self.get(name)?.change(|w, t| {
            keys.iter().try_for_each(|k| t.check_key(k))?;
            let before = w.len();
            keys.iter().for_each(|k| w.remove(k));
            Ok(before - w.len())
        })
    }

    /// Puts these entries in place of all that is there, in one step for packets. Of a key that comes twice the last value
    /// holds. Returns how many entries there are.
    ///
    /// # Errors
    /// An unknown name, a key of another kind, too many entries. Nothing is changed then.
    pub fn replace(&self, name: &str, entries: &[(TableKey, u32)]) -> Result<usize, TableError> {
        self.get(name)?.change(|w, t| {
            t.check(entries)?;
            let mut new = Content::new(t.kind);
            entries.iter().for_each(|(k, v)| new.insert(k, *v));
            t.room(new.len())?;
            *w = new;
            Ok(w.len())
        })
    }

    /// The value of a key; for addresses that of the longest prefix. `None` when there is none.
    ///
    /// # Errors
    /// An unknown name, a key of another kind.
    pub fn lookup(&self, name: &str, key: &TableKey) -> Result<Option<u32>, TableError> {
        let table = self.get(name)?;
        table.check_key(key)?;
        let content = table.published.load();
        let value = match key {
            TableKey::Exact(bytes) => content.exact(bytes),
            TableKey::Ipv4(a, _) => content.longest(&a.octets()),
            TableKey::Ipv6(a, _) => content.longest(&a.octets()),
        };
        Ok((value != ABSENT).then_some(value))
    }

    /// All tables, by name.
    pub fn list(&self) -> Vec<TableStatus> {
        self.lock().values().map(|t| t.status()).collect()
    }

    /// How one table is.
    ///
    /// # Errors
    /// An unknown name.
    pub fn status(&self, name: &str) -> Result<TableStatus, TableError> {
        Ok(self.get(name)?.status())
    }

    /// All entries of a table, in the order of their keys.
    ///
    /// # Errors
    /// An unknown name.
    pub fn dump(&self, name: &str) -> Result<Vec<TableEntry>, TableError> {
        Ok(self.get(name)?.dump())
    }

    /// A table for a module: of that name and kind.
    pub(crate) fn reader(&self, name: &str, kind: TableKind) -> Result<Reader, String> {
        let table =
            self.get(name).map_err(|e| format!("{e}, which the module looks into: make it first (kind {kind})"))?;
        if table.kind != kind {
            return Err(format!("table {name} is of kind {}, the module looks into one of kind {kind}", table.kind));
        }
        Ok(Reader { kind, cache: Cache::new(table.published.clone()) })
    }

    /// Frees versions that nobody looks at any more.
    pub(crate) fn reap(&self) {
        let tables: Vec<_> = self.lock().values().cloned().collect();
        tables.iter().for_each(|t| t.lock().reap());
    }

    fn get(&self, name: &str) -> Result<Arc<Table>, TableError> {
        let tables = self.lock();
        tables.get(name).cloned().ok_or_else(|| not_found(&tables, name))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Table>>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_found(tables: &BTreeMap<String, Arc<Table>>, name: &str) -> TableError {
    let names: Vec<&str> = tables.keys().map(String::as_str).collect();
    TableError::NotFound { name: name.into(), hint: nearest(name, &names) }
}

struct Table {
    name: String,
    kind: TableKind,
    most: usize,
    published: Arc<ArcSwap<Content>>,
    writer: Mutex<Versions>,
}

/// What those who change a table hold, one at a time.
struct Versions {
    now: Content,
    changes: u64,
    /// Published before; a reader may still look at them.
    retired: Vec<Arc<Content>>,
}

impl Versions {
    fn reap(&mut self) {
        // Nobody takes up a version that is not published, so a count of one stays one.
        self.retired.retain(|v| Arc::strong_count(v) > 1);
    }
}

/// One version of what is in a table. A clone costs nothing that grows with it.
#[derive(Clone)]
pub(crate) enum Content {
    /// Hashed by SipHash with a key of this process, so that nobody can choose keys that share a bucket.
    Exact(ExactMap<Arc<[u8]>, u32>),
    Ipv4(PrefixMap<u32, u32>),
    Ipv6(PrefixMap<u128, u32>),
}

impl Content {
    fn new(kind: TableKind) -> Content {
        match kind {
            TableKind::Exact => Content::Exact(ExactMap::default()),
            TableKind::Ipv4 => Content::Ipv4(PrefixMap::default()),
            TableKind::Ipv6 => Content::Ipv6(PrefixMap::default()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Content::Exact(map) => map.len(),
            Content::Ipv4(map) => map.len(),
            Content::Ipv6(map) => map.len(),
        }
    }

    /// Bytes of an address.
    pub(crate) fn address_bytes(&self) -> usize {
        match self {
            Content::Exact(_) => 0,
            Content::Ipv4(_) => 4,
            Content::Ipv6(_) => 16,
        }
    }

    /// The value of a key, or `ABSENT`.
    #[inline]
    pub(crate) fn exact(&self, key: &[u8]) -> u32 {
        match self {
            Content::Exact(map) => map.get(key).copied().unwrap_or(ABSENT),
            Content::Ipv4(_) | Content::Ipv6(_) => ABSENT,
        }
    }

    /// The value of the longest prefix of an address, or `ABSENT`.
    #[inline]
    pub(crate) fn longest(&self, address: &[u8]) -> u32 {
        let longest = match self {
            Content::Exact(_) => None,
            Content::Ipv4(map) => address.try_into().ok().and_then(|a| map.longest(u32::from_be_bytes(a))),
            Content::Ipv6(map) => address.try_into().ok().and_then(|a| map.longest(u128::from_be_bytes(a))),
        };
        longest.map_or(ABSENT, |(_, value)| *value)
    }

    fn has(&self, key: &TableKey) -> bool {
        match (self, key) {
            (Content::Exact(map), TableKey::Exact(bytes)) => map.get(&**bytes).is_some(),
            (Content::Ipv4(map), TableKey::Ipv4(a, len)) => map.get(a.to_bits(), *len).is_some(),
            (Content::Ipv6(map), TableKey::Ipv6(a, len)) => map.get(a.to_bits(), *len).is_some(),
            _ => false,
        }
    }

    fn insert(&mut self, key: &TableKey, value: u32) {
        match (self, key) {
            (Content::Exact(map), TableKey::Exact(bytes)) => map.insert((**bytes).into(), value),
            (Content::Ipv4(map), TableKey::Ipv4(a, len)) => map.insert(a.to_bits(), *len, value),
            (Content::Ipv6(map), TableKey::Ipv6(a, len)) => map.insert(a.to_bits(), *len, value),
            _ => None,
        };
    }

    fn remove(&mut self, key: &TableKey) {
        match (self, key) {
            (Content::Exact(map), TableKey::Exact(bytes)) => map.remove(&**bytes),
            (Content::Ipv4(map), TableKey::Ipv4(a, len)) => map.remove(a.to_bits(), *len),
            (Content::Ipv6(map), TableKey::Ipv6(a, len)) => map.remove(a.to_bits(), *len),
            _ => None,
        };
    }

    /// All entries, in the order of their keys.
    fn entries(&self) -> Vec<TableEntry> {
        let mut all = Vec::with_capacity(self.len());
        match self {
            Content::Exact(map) => {
                map.for_each(|key, value| all.push(TableEntry { key: TableKey::Exact((**key).into()), value: *value }));
                all.sort_by(|a, b| a.key.cmp(&b.key));
            }
            Content::Ipv4(map) => map.for_each(|a, len, value| {
                all.push(TableEntry { key: TableKey::Ipv4(Ipv4Addr::from_bits(a), len), value: *value });
            }),
            Content::Ipv6(map) => map.for_each(|a, len, value| {
                all.push(TableEntry { key: TableKey::Ipv6(Ipv6Addr::from_bits(a), len), value: *value });
            }),
        }
        all
    }
}

impl Table {
    fn new(name: &str, kind: TableKind, most: usize) -> Table {
        let now = Content::new(kind);
        let published = Arc::new(ArcSwap::from_pointee(now.clone()));
        let writer = Mutex::new(Versions { now, changes: 0, retired: Vec::new() });
        Table { name: name.to_owned(), kind, most, published, writer }
    }

    fn lock(&self) -> MutexGuard<'_, Versions> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `f` change what is there, and publishes it when that went well. `f` fails before it changes anything.
    fn change<R>(&self, f: impl FnOnce(&mut Content, &Table) -> Result<R, TableError>) -> Result<R, TableError> {
        let mut versions = self.lock();
        let result = f(&mut versions.now, self)?;
        versions.changes += 1;
        let old = self.published.swap(Arc::new(versions.now.clone()));
        versions.retired.push(old);
        versions.reap();
        Ok(result)
    }

    fn check(&self, entries: &[(TableKey, u32)]) -> Result<(), TableError> {
        if entries.iter().any(|(_, v)| *v == ABSENT) {
            return Err(TableError::BadValue);
        }
        entries.iter().try_for_each(|(k, _)| self.check_key(k))
    }

    fn check_key(&self, key: &TableKey) -> Result<(), TableError> {
        if key.kind() == self.kind {
            return Ok(());
        }
        Err(TableError::WrongKey { name: self.name.clone(), kind: self.kind, key: key.to_string() })
    }

    fn room(&self, entries: usize) -> Result<(), TableError> {
        if entries <= self.most {
            return Ok(());
        }
        Err(TableError::Full { name: self.name.clone(), entries, most: self.most })
    }

    fn status(&self) -> TableStatus {
        let versions = self.lock();
        TableStatus {
            name: self.name.clone(),
            kind: self.kind,
            entries: versions.now.len(),
            most: self.most,
            changes: versions.changes,
        }
    }

    fn dump(&self) -> Vec<TableEntry> {
        let now = self.lock().now.clone();
        now.entries()
    }
}

/// A module's look into a table; of one instance.
pub(crate) struct Reader {
    kind: TableKind,
    cache: Cache<Arc<ArcSwap<Content>>, Arc<Content>>,
}

impl Reader {
    pub(crate) fn kind(&self) -> TableKind {
        self.kind
    }

    /// The newest content.
    #[inline]
    pub(crate) fn content(&mut self) -> &Content {
        self.cache.load()
    }
}
