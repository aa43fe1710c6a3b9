//! Who holds how much memory, and who must go for others.

use super::{Why, piece::Key};
use crate::config::Family;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What a datagram takes besides its pieces, in bytes: its places in the tables.
pub(super) const DATAGRAM_COST: usize = 384;

/// What a piece takes besides its data.
pub(super) const PIECE_COST: usize = 48;

/// How much may be there at the same time, on one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in all, with what the tables take.
    pub bytes: usize,
    /// Datagrams in all.
    pub datagrams: usize,
    /// Bytes of one source: an address of IPv4, a /64 of IPv6.
    pub source_bytes: usize,
    /// Datagrams of one source.
    pub source_datagrams: usize,
    /// Pieces of one datagram. The longest packet has 119 over links of 576 bytes, and 54 over those of IPv6.
    pub pieces: usize,
}

impl Default for Limits {
    /// 4 MiB and 4096 datagrams, of which a source may have a quarter; 128 pieces.
    fn default() -> Limits {
        Limits { bytes: 4 << 20, datagrams: 4096, source_bytes: 1 << 20, source_datagrams: 1024, pieces: 128 }
    }
}

/// The books.
#[derive(Debug)]
pub(super) struct Ledger {
    limits: Limits,
    bytes: usize,
    /// Datagrams by age, those of IPv4 and those of IPv6.
    order: [BTreeMap<u64, Key>; 2],
    sources: HashMap<u128, Share>,
    next_serial: u64,
}

/// What a source has.
#[derive(Debug, Default)]
struct Share {
    bytes: usize,
    datagrams: BTreeSet<u64>,
}

impl Ledger {
    pub fn new(limits: Limits) -> Ledger {
        Ledger { limits, bytes: 0, order: Default::default(), sources: HashMap::new(), next_serial: 0 }
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The datagram of a family that is there for the longest time.
    pub fn oldest(&self, family: Family) -> Option<Key> {
        self.order[index(family)].values().next().copied()
    }

    /// Who must go before so many bytes can be charged to a datagram. None: nobody. `own`: its serial, if it is there.
    ///
    /// An error when there is nobody else, and still no room.
    pub fn must_go(&self, key: Key, own: Option<u64>, cost: usize) -> Result<Option<Key>, Why> {
        let limits = &self.limits;
        let new = usize::from(own.is_none());
        let (bytes, datagrams) = self.sources.get(&source(key)).map_or((0, 0), |s| (s.bytes, s.datagrams.len()));
        if bytes + cost > limits.source_bytes || datagrams + new > limits.source_datagrams {
            let serials = self.sources.get(&source(key)).map(|s| &s.datagrams);
            let oldest = serials.and_then(|s| s.iter().copied().find(|&serial| Some(serial) != own));
            let oldest = oldest.and_then(|serial| self.order.iter().find_map(|order| order.get(&serial)));
            return oldest.copied().map(Some).ok_or(Why::SourceLimit);
        }
        let count = self.order.iter().map(BTreeMap::len).sum::<usize>();
        if self.bytes + cost > limits.bytes || count + new > limits.datagrams {
            let others = self.order.iter().filter_map(|order| order.iter().find(|&(&serial, _)| Some(serial) != own));
            return others.min_by_key(|&(&serial, _)| serial).map(|(_, &key)| Some(key)).ok_or(Why::MemoryFull);
        }
        Ok(None)
    }

    /// A datagram begins; its serial.
    pub fn open(&mut self, key: Key) -> u64 {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.order[index(key.family)].insert(serial, key);
        self.sources.entry(source(key)).or_default().datagrams.insert(serial);
        serial
    }

    /// It takes more.
    pub fn charge(&mut self, key: Key, bytes: usize) {
        self.bytes += bytes;
        self.sources.entry(source(key)).or_default().bytes += bytes;
    }

    /// It gives something back.
    pub fn refund(&mut self, key: Key, bytes: usize) {
        self.bytes -= bytes;
        if let Some(share) = self.sources.get_mut(&source(key)) {
            share.bytes -= bytes;
        }
    }

    /// It ends, and gives back all that it has.
    pub fn close(&mut self, key: Key, serial: u64, bytes: usize) {
        self.refund(key, bytes);
        self.order[index(key.family)].remove(&serial);
        if let Some(share) = self.sources.get_mut(&source(key)) {
            share.datagrams.remove(&serial);
            if share.datagrams.is_empty() {
                self.sources.remove(&source(key));
            }
        }
    }
}

fn index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

/// Whoever has an address of IPv6 has its /64. IPv4 addresses are `::ffff:a.b.c.d`, which no source of IPv6 is.
fn source(key: Key) -> u128 {
    match key.family {
        Family::V4 => key.src,
        Family::V6 => key.src >> 64 << 64,
    }
}
