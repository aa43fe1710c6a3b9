//! The neighbours of one interface as workers see them: a lock-free open-addressed table of addresses over one slab of
//! words for all interfaces.
//!
//! A word is `mac << 16 | use << 12 | version`: one load tells whether a packet can be sent and where. The version changes
//! each time that the slot gets a new neighbour, so a flow that remembers a word notices every change of its neighbour by
//! comparing one word.

use crate::lazy::LazyTable;
use smpnet_abi::MacAddr;
use smpnet_runtime::{Domain, Published, Section};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Neighbours of all interfaces together.
pub(crate) const SLOTS: usize = 1 << 22;

/// How a worker may use a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Usable {
    /// Not resolved.
    No = 0,
    /// Send.
    Yes = 1,
    /// Send, and tell the control side that it is used.
    Stale = 2,
    /// Send; the control side has been told.
    Told = 3,
}

/// A word of the slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(pub u64);

impl Word {
    pub(crate) const fn new(mac: u64, usable: Usable, version: u64) -> Word {
        Word(mac << 16 | (usable as u64) << 12 | version & 0xfff)
    }

    #[inline(always)]
    pub(crate) const fn usable(self) -> Usable {
        match self.0 >> 12 & 0xf {
            1 => Usable::Yes,
            2 => Usable::Stale,
            3 => Usable::Told,
            _ => Usable::No,
        }
    }

    #[inline(always)]
    pub(crate) const fn mac(self) -> u64 {
        self.0 >> 16
    }

    const fn version(self) -> u64 {
        self.0 & 0xfff
    }
}

/// The slab: words, and which of them are free.
pub(crate) struct Slab {
    words: LazyTable<AtomicU64, SLOTS>,
    free: Mutex<FreeSlots>,
}

struct FreeSlots {
    list: Vec<u32>,
    next: u32,
}

impl Slab {
    pub(crate) fn new() -> std::io::Result<Arc<Slab>> {
        Ok(Arc::new(Slab { words: LazyTable::new(false)?, free: Mutex::new(FreeSlots { list: Vec::new(), next: 0 }) }))
    }

    #[inline(always)]
    pub(crate) fn word(&self, slot: u32) -> Word {
        // Every slot that is handed out is below; the remainder only spares the check.
        Word(self.words[slot as usize % SLOTS].load(Ordering::Acquire))
    }

    /// A worker claims to tell of the use of a stale neighbour; whether it is the one to do so.
    pub(crate) fn claim_use(&self, slot: u32, seen: Word) -> bool {
        let told = Word::new(seen.mac(), Usable::Told, seen.version());
        self.words[slot as usize].compare_exchange(seen.0, told.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// The telling failed: the next use tells again.
    pub(crate) fn unclaim_use(&self, slot: u32, seen: Word) {
        let told = Word::new(seen.mac(), Usable::Told, seen.version());
        let _ = self.words[slot as usize].compare_exchange(told.0, seen.0, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Control side: what workers see from now on.
    pub(crate) fn set(&self, slot: u32, mac: u64, usable: Usable) {
        let w = &self.words[slot as usize];
        let version = Word(w.load(Ordering::Relaxed)).version();
        w.store(Word::new(mac, usable, version).0, Ordering::Release);
    }

    fn take(&self) -> Option<u32> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = match free.list.pop() {
            Some(s) => s,
            None if (free.next as usize) < SLOTS => {
                free.next += 1;
                free.next - 1
            }
            None => return None,
        };
        let w = &self.words[slot as usize];
        let version = Word(w.load(Ordering::Relaxed)).version();
        w.store(Word::new(0, Usable::No, version.wrapping_add(1)).0, Ordering::Release);
        Some(slot)
    }
}

/// A slot that goes back to the slab when it is dropped: after a grace period.
struct Returned(Arc<Slab>, u32);

impl Drop for Returned {
    fn drop(&mut self) {
        self.0.free.lock().unwrap_or_else(PoisonError::into_inner).list.push(self.1);
    }
}

const EMPTY: u64 = 0;
const DELETED: u64 = 1;

/// Buckets of `ip << 32 | slot + 2`, or EMPTY, or DELETED; a power of two of them.
struct Buckets(Box<[AtomicU64]>);

impl Buckets {
    fn new(n: usize) -> Buckets {
        Buckets((0..n).map(|_| AtomicU64::new(EMPTY)).collect())
    }

    #[inline(always)]
    fn home(&self, ip: u32) -> usize {
        ((u64::from(ip).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize) & (self.0.len() - 1)
    }

    #[inline]
    fn find(&self, ip: u32) -> Option<(usize, u32)> {
        let mut i = self.home(ip);
        // The table is never full, so an empty bucket ends every search.
        loop {
            let b = self.0[i].load(Ordering::Acquire);
            if b == EMPTY {
                return None;
            }
            if b != DELETED && (b >> 32) as u32 == ip {
                return Some((i, b as u32 - 2));
            }
            i = (i + 1) & (self.0.len() - 1);
        }
    }

    fn put(&self, ip: u32, slot: u32) {
        let mut i = self.home(ip);
        while self.0[i].load(Ordering::Relaxed) > DELETED {
            i = (i + 1) & (self.0.len() - 1);
        }
        self.0[i].store(u64::from(ip) << 32 | u64::from(slot + 2), Ordering::Release);
    }
}

/// The neighbours of one interface. One writer at a time: the owner of the control side's lock.
pub(crate) struct NeighTable {
    slab: Arc<Slab>,
    buckets: Published<Buckets>,
    /// Entries, and buckets that are not EMPTY.
    fill: Mutex<(usize, usize)>,
}

impl NeighTable {
    pub(crate) fn new(slab: Arc<Slab>) -> NeighTable {
        NeighTable { slab, buckets: Published::new(Buckets::new(16)), fill: Mutex::new((0, 0)) }
    }

    /// The slot of a neighbour.
    #[inline]
    pub(crate) fn find(&self, section: Section<'_>, ip: u32) -> Option<u32> {
        self.buckets.read(section).find(ip).map(|(_, slot)| slot)
    }

    /// Enters a neighbour that is not in the table; none when there is no slot.
    pub(crate) fn insert(&self, domain: &Domain, ip: u32) -> Option<u32> {
        let slot = self.slab.take()?;
        let mut fill = self.fill.lock().unwrap_or_else(PoisonError::into_inner);
        let size = self.buckets.load_control().0.len();
        if (fill.1 + 1) * 4 > size * 3 {
            // Half full after growing; a table of mostly deleted entries is rebuilt at its size.
            let n = (fill.0 * 2 + 16).next_power_of_two();
            let fresh = {
                let old = self.buckets.load_control();
                let fresh = Buckets::new(n);
                for b in &old.0 {
                    let b = b.load(Ordering::Relaxed);
                    if b > DELETED {
                        fresh.put((b >> 32) as u32, b as u32 - 2);
                    }
                }
                fresh
            };
            self.buckets.swap(domain, fresh);
            fill.1 = fill.0;
        }
        self.buckets.load_control().put(ip, slot);
        *fill = (fill.0 + 1, fill.1 + 1);
        Some(slot)
    }

    /// Takes a neighbour out; its word is unusable from now on.
    pub(crate) fn remove(&self, domain: &Domain, ip: u32) {
        let buckets = self.buckets.load_control();
        let Some((i, slot)) = buckets.find(ip) else { return };
        self.slab.set(slot, 0, Usable::No);
        buckets.0[i].store(DELETED, Ordering::Release);
        self.fill.lock().unwrap_or_else(PoisonError::into_inner).0 -= 1;
        domain.retire(Box::new(Returned(self.slab.clone(), slot)));
    }
}

/// An Ethernet address as the slab holds it.
pub(crate) fn mac_word(mac: MacAddr) -> u64 {
    crate::wire::ethernet::mac_to_u64(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_neighbours_come_and_go() {
        let domain = Domain::new(0);
        let reader = domain.register();
        let slab = Slab::new().unwrap();
        let table = NeighTable::new(slab.clone());
        let ip = |i: u32| 0x0a00_0000 + i * 3;
        for i in 0..100_000 {
            let slot = table.insert(&domain, ip(i)).unwrap();
            slab.set(slot, u64::from(i), Usable::Yes);
        }
        let guard = reader.enter();
        for i in 0..100_000 {
            let slot = table.find(guard.section(), ip(i)).unwrap();
            assert_eq!((slab.word(slot).mac(), slab.word(slot).usable()), (u64::from(i), Usable::Yes));
            assert!(table.find(guard.section(), ip(i) + 1).is_none());
        }
        drop(guard);
        for i in (0..100_000).step_by(2) {
            table.remove(&domain, ip(i));
        }
        domain.flush();
        let guard = reader.enter();
        for i in 0..100_000 {
            assert_eq!(table.find(guard.section(), ip(i)).is_some(), i % 2 == 1);
        }
        drop(guard);
        let slot = table.insert(&domain, 1).unwrap();
        assert!(slot < 100_000, "a returned slot is used again");
        assert_eq!(slab.word(slot).usable(), Usable::No);
    }

    #[test]
    fn one_worker_tells_of_the_use_of_a_stale_neighbour() {
        let slab = Slab::new().unwrap();
        let slot = slab.take().unwrap();
        slab.set(slot, 5, Usable::Stale);
        let seen = slab.word(slot);
        assert!(slab.claim_use(slot, seen));
        assert!(!slab.claim_use(slot, seen));
        assert_eq!(slab.word(slot).usable(), Usable::Told);
        slab.unclaim_use(slot, seen);
        assert_eq!(slab.word(slot), seen);
    }
}
