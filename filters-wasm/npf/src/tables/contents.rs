//! One version of what is in a table.

use super::{
    TableError,
    index::{Index, Known, Until, order},
    slot::Marks,
};
use crate::{
    config::{Prefix, Table, TableEntry, TableKind},
    state::Millis,
};
use smpnet_trie::PrefixMap;

/// A clone is a version: it costs a few counts, and shares all entries.
#[derive(Clone, Debug)]
pub(super) struct Contents {
    pub kind: TableKind,
    timeout: Option<Millis>,
    pub index: Index,
    /// Entries with a time, in its order: by [`due`].
    due: PrefixMap<u128, TableEntry>,
    pub marks: Marks,
}

impl Contents {
    pub(super) fn of(table: &Table) -> Contents {
        let timeout = table.timeout.map(|t| Millis(u64::try_from(t.as_millis()).unwrap_or(u64::MAX)));
        let mut contents = Contents {
            kind: table.kind,
            timeout,
            index: Index::new(table.kind),
            due: PrefixMap::default(),
            marks: Marks::new(table.counters),
        };
        // What a file says stays until the next one.
        contents.fill(&table.entries, Until::NEVER);
        contents
    }

    /// Takes over the entries of another of the same kind, with their times, and their counts when both count.
    pub(super) fn take_over(&mut self, other: &Contents) {
        if self.marks.counts() == other.marks.counts() {
            (self.index, self.due, self.marks) = (other.index.clone(), other.due.clone(), other.marks.clone());
            return;
        }
        self.clear();
        other.index.all().iter().for_each(|(entry, known)| self.enter(entry, known.until));
    }

    pub(super) fn add(&mut self, entry: &TableEntry, now: Millis, stay: Option<Millis>) -> Result<(), TableError> {
        self.check(entry)?;
        let until = Until::of(stay.or(self.timeout).map(|t| now.after(t.0)));
        match self.index.get(entry).copied() {
            // Adding again is how an entry is kept.
            Some(known) if known.until == until && until != Until::NEVER => {}
            Some(known) if known.until != Until::NEVER => self.set(entry, Some(known), Known { until, ..known }),
            Some(_) => return Err(TableError::Exists),
            None => self.enter(entry, until),
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, entry: &TableEntry) -> Result<(), TableError> {
        let known = self.index.remove(entry).ok_or(TableError::NotFound)?;
        self.due_remove(&known);
        self.marks.give_back(known.mark);
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        self.index = Index::new(self.kind);
        self.due.clear();
        self.marks.clear();
    }

    /// Has just these entries, as if added now. Those that were there keep their counts.
    pub(super) fn replace(&mut self, entries: &[TableEntry], now: Millis) {
        self.fill(entries, Until::of(self.timeout.map(|t| now.after(t.0))));
    }

    /// Has just these entries, all until then. One may be named twice.
    fn fill(&mut self, entries: &[TableEntry], until: Until) {
        let mut entries = entries.to_vec();
        entries.sort_unstable_by_key(order);
        entries.dedup();
        let known = |entry: &TableEntry| {
            let mark = self.index.get(entry).map_or_else(|| self.marks.mark(), |known| known.mark);
            (*entry, Known { until, mark })
        };
        let entries: Vec<_> = entries.iter().map(known).collect();
        let old = std::mem::replace(&mut self.index, Index::of(self.kind, &entries));
        let at = |(entry, known): &(TableEntry, Known)| due(known).map(|at| (at, u8::MAX, *entry));
        self.due = entries.iter().filter_map(at).collect();
        if self.marks.counts() {
            old.for_each(|entry, known| {
                if self.index.get(&entry).is_none() {
                    self.marks.give_back(known.mark);
                }
            });
        }
    }

    /// When the first entry goes.
    pub(super) fn first_due(&self) -> Option<Millis> {
        self.due.first().map(|(at, ..)| Millis((at >> 64) as u64))
    }

    /// Takes out entries whose time has come. Returns how many.
    pub(super) fn expire(&mut self, now: Millis) -> usize {
        let before = self.index.len();
        while self.first_due().is_some_and(|until| until <= now)
            && let Some(entry) = self.due.first().map(|(_, _, entry)| *entry)
            && self.remove(&entry).is_ok()
        {}
        before - self.index.len()
    }

    /// Whether an entry may be in a table of this kind.
    pub(super) fn check(&self, entry: &TableEntry) -> Result<(), TableError> {
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

    /// Enters what is not there.
    fn enter(&mut self, entry: &TableEntry, until: Until) {
        let mark = self.marks.mark();
        self.set(entry, None, Known { until, mark });
    }

    fn set(&mut self, entry: &TableEntry, was: Option<Known>, known: Known) {
        if let Some(was) = was {
            self.due_remove(&was);
        }
        self.index.insert(entry, known);
        if let Some(at) = due(&known) {
            self.due.insert(at, u8::MAX, *entry);
        }
    }

    fn due_remove(&mut self, known: &Known) {
        if let Some(at) = due(known) {
            self.due.remove(at, u8::MAX);
        }
    }
}

/// A place in the order of times: the time, and what tells entries of one time apart.
fn due(known: &Known) -> Option<u128> {
    known.until.time().map(|t| u128::from(t.0) << 64 | u128::from(known.mark.number()))
}
