//! A hash table of pslists that grows while it is read, and tells its statistics in `kern.hashstat`.
//!
//! Each entry has two links. The table that is current uses one of them; a table that replaces it uses the other, so the
//! same entries hang in both for a while and nothing is copied: readers of the old table finish undisturbed. The second
//! link is free again one grace period after the swap, and only then can the table grow once more. An entry removed
//! meanwhile stays reachable through old links until its own grace period, which outlasts every reader of the old table.

use crate::{
    Domain, Section,
    pserialize::Bound,
    sync::{Arc, AtomicBool, AtomicPtr, AtomicUsize, Mutex, Ordering, lock},
};
use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hash, Hasher},
    marker::PhantomData,
    ptr,
};

struct Node<K, V> {
    links: [AtomicPtr<Node<K, V>>; 2],
    hash: u64,
    key: K,
    value: V,
}

type Bucket<K, V> = AtomicPtr<Node<K, V>>;

struct Table<K, V> {
    /// A power of two of them.
    buckets: Box<[Bucket<K, V>]>,
    /// Which link of the entries this table uses.
    link: usize,
}

impl<K, V> Table<K, V> {
    fn new(buckets: usize, link: usize) -> *mut Self {
        let buckets = (0..buckets).map(|_| AtomicPtr::new(ptr::null_mut())).collect();
        Box::into_raw(Box::new(Table { buckets, link }))
    }

    #[inline(always)]
    fn bucket(&self, hash: u64) -> &Bucket<K, V> {
        &self.buckets[hash as usize & (self.buckets.len() - 1)]
    }
}

/// How full a hash table is: what `kern.hashstat.<name>` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashStats {
    /// Buckets.
    pub buckets: u64,
    /// Buckets with at least one entry.
    pub used: u64,
    /// Entries.
    pub items: u64,
    /// Entries of the fullest bucket.
    pub longest: u64,
}

/// A map that workers read without lock while control threads change it.
pub struct PsHash<K, V> {
    table: AtomicPtr<Table<K, V>>,
    items: AtomicUsize,
    max_buckets: usize,
    hasher: FoldHash,
    bound: Bound,
    writer: Mutex<()>,
    /// Readers of the table before this one may still be about: the entries' other link is in use.
    moving: Arc<AtomicBool>,
    _owns: PhantomData<(K, V)>,
}

// SAFETY: readers share entries (Sync), whichever thread removes or drops them (Send).
unsafe impl<K: Send + Sync, V: Send + Sync> Send for PsHash<K, V> {}
// SAFETY: as above.
unsafe impl<K: Send + Sync, V: Send + Sync> Sync for PsHash<K, V> {}

impl<K, V> PsHash<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// An empty table of `buckets` buckets, which grows up to `max_buckets` (both rounded up to powers of two).
    pub fn new(buckets: usize, max_buckets: usize) -> Self {
        let buckets = buckets.max(1).next_power_of_two();
        PsHash {
            table: AtomicPtr::new(Table::new(buckets, 0)),
            items: AtomicUsize::new(0),
            max_buckets: max_buckets.next_power_of_two().max(buckets),
            hasher: FoldHash::random(),
            bound: Bound::default(),
            writer: Mutex::new(()),
            moving: Arc::new(AtomicBool::new(false)),
            _owns: PhantomData,
        }
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.items.load(Ordering::Relaxed)
    }

    /// Whether there are no entries: one load.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline(always)]
    fn hash<Q: Hash + ?Sized>(&self, key: &Q) -> u64 {
        self.hasher.of(key)
    }

    /// The value of `key`.
    #[inline]
    pub fn get<'a>(&'a self, section: Section<'a>, key: &K) -> Option<&'a V> {
        self.bound.check(section);
        let hash = self.hash(key);
        // SAFETY: a table is freed only after a grace period in which it was not the current one.
        let table = unsafe { &*self.table.load(Ordering::Acquire) };
        let mut at = table.bucket(hash).load(Ordering::Acquire);
        // SAFETY: an entry reached in a section is freed only after the section ended, and 'a ends with it.
        while let Some(node) = unsafe { at.as_ref::<'a>() } {
            if node.hash == hash && node.key == *key {
                return Some(&node.value);
            }
            at = node.links[table.link].load(Ordering::Acquire);
        }
        None
    }

    /// Runs `f` on every entry. Entries that come or go meanwhile may or may not be seen.
    pub fn for_each<'a>(&'a self, section: Section<'a>, mut f: impl FnMut(&'a K, &'a V)) {
        self.bound.check(section);
        // SAFETY: as in `get`.
        let table: &'a Table<K, V> = unsafe { &*self.table.load(Ordering::Acquire) };
        for bucket in &table.buckets {
            let mut at = bucket.load(Ordering::Acquire);
            // SAFETY: as in `get`.
            while let Some(node) = unsafe { at.as_ref::<'a>() } {
                f(&node.key, &node.value);
                at = node.links[table.link].load(Ordering::Acquire);
            }
        }
    }

    /// Runs `f` on every entry with writers locked out. Control threads.
    pub fn for_each_control(&self, mut f: impl FnMut(&K, &V)) {
        let _writer = lock(&self.writer);
        let table = self.current();
        for bucket in &table.buckets {
            let mut at = bucket.load(Ordering::Acquire);
            // SAFETY: entries are freed only after they were unlinked, which takes the lock held here.
            while let Some(node) = unsafe { at.as_ref() } {
                f(&node.key, &node.value);
                at = node.links[table.link].load(Ordering::Acquire);
            }
        }
    }

    /// The caller holds the writers' lock, as long as it uses the result.
    fn current(&self) -> &Table<K, V> {
        // SAFETY: only writers replace it.
        unsafe { &*self.table.load(Ordering::Acquire) }
    }

    /// Adds an entry; gives key and value back when the key is there already. Control threads.
    ///
    /// # Errors
    /// The key and value, when the key is taken.
    pub fn insert(&self, domain: &Domain, key: K, value: V) -> Result<(), (K, V)> {
        self.bound.check_writer(domain);
        let _writer = lock(&self.writer);
        let hash = self.hash(&key);
        if self.find(hash, &key).is_some() {
            return Err((key, value));
        }
        self.link(hash, key, value);
        self.grow(domain);
        Ok(())
    }

    /// Adds an entry, or takes the place of the one that has its key; a reader sees the old or the new one. Returns
    /// whether there was one; it is dropped after a grace period. Control threads.
    pub fn replace(&self, domain: &Domain, key: K, value: V) -> bool {
        self.bound.check_writer(domain);
        let _writer = lock(&self.writer);
        let hash = self.hash(&key);
        let old = self.find(hash, &key);
        // The new one is linked at the head of the chain, so it hides the old one from then on.
        self.link(hash, key, value);
        if let Some(old) = old {
            self.unlink(old);
            domain.retire(Box::new(Unlinked(old)));
        } else {
            self.grow(domain);
        }
        old.is_some()
    }

    /// Removes an entry; whether there was one. It is dropped after a grace period. Control threads.
    pub fn remove(&self, domain: &Domain, key: &K) -> bool {
        self.bound.check_writer(domain);
        let _writer = lock(&self.writer);
        let Some(node) = self.find(self.hash(key), key) else { return false };
        self.unlink(node);
        domain.retire(Box::new(Unlinked(node)));
        true
    }

    /// Removes an entry, waits until no reader can see it, and hands it out. Never on a worker.
    pub fn take(&self, domain: &Domain, key: &K) -> Option<(K, V)> {
        self.bound.check_writer(domain);
        let node = {
            let _writer = lock(&self.writer);
            let node = self.find(self.hash(key), key)?;
            self.unlink(node);
            Unlinked(node)
        };
        domain.perform();
        Some(node.into_entry())
    }

    /// Removes the entries for which `keep` does not hold and returns how many. Control threads.
    pub fn retain(&self, domain: &Domain, mut keep: impl FnMut(&K, &V) -> bool) -> usize {
        self.bound.check_writer(domain);
        let _writer = lock(&self.writer);
        let mut gone = Vec::new();
        let table = self.current();
        for bucket in &table.buckets {
            let mut link = bucket;
            loop {
                let at = link.load(Ordering::Acquire);
                // SAFETY: entries are freed only after they were unlinked, which takes the lock held here.
                let Some(node) = (unsafe { at.as_ref() }) else { break };
                if keep(&node.key, &node.value) {
                    link = &node.links[table.link];
                } else {
                    link.store(node.links[table.link].load(Ordering::Acquire), Ordering::Release);
                    gone.push(Unlinked(at));
                }
            }
        }
        let n = gone.len();
        self.items.fetch_sub(n, Ordering::Relaxed);
        if n > 0 {
            domain.retire(Box::new(gone));
        }
        n
    }

    /// The caller holds the writers' lock.
    fn find(&self, hash: u64, key: &K) -> Option<*mut Node<K, V>> {
        let table = self.current();
        let mut at = table.bucket(hash).load(Ordering::Acquire);
        // SAFETY: entries are freed only after they were unlinked, which takes the lock held by the caller.
        while let Some(node) = unsafe { at.as_ref() } {
            if node.hash == hash && node.key == *key {
                return Some(at);
            }
            at = node.links[table.link].load(Ordering::Acquire);
        }
        None
    }

    /// The caller holds the writers' lock.
    fn link(&self, hash: u64, key: K, value: V) {
        let table = self.current();
        let bucket = table.bucket(hash);
        let links = [AtomicPtr::new(ptr::null_mut()), AtomicPtr::new(ptr::null_mut())];
        links[table.link].store(bucket.load(Ordering::Acquire), Ordering::Relaxed);
        bucket.store(Box::into_raw(Box::new(Node { links, hash, key, value })), Ordering::Release);
        self.items.fetch_add(1, Ordering::Relaxed);
    }

    /// The caller holds the writers' lock, and `node` is in the table.
    fn unlink(&self, node: *mut Node<K, V>) {
        let table = self.current();
        // SAFETY: in the table, so not freed.
        let target = unsafe { &*node };
        let mut link = table.bucket(target.hash);
        loop {
            let at = link.load(Ordering::Acquire);
            if ptr::eq(at, node) {
                break;
            }
            // SAFETY: entries are freed only after they were unlinked, which takes the lock held by the caller.
            match unsafe { at.as_ref() } {
                Some(before) => link = &before.links[table.link],
                None => return,
            }
        }
        link.store(target.links[table.link].load(Ordering::Acquire), Ordering::Release);
        self.items.fetch_sub(1, Ordering::Relaxed);
    }

    /// Doubles the table when there are more entries than buckets, if it may and nobody uses the second links.
    /// The caller holds the writers' lock.
    fn grow(&self, domain: &Domain) {
        let old = self.current();
        let buckets = old.buckets.len();
        if self.len() <= buckets || buckets >= self.max_buckets || self.moving.load(Ordering::Acquire) {
            return;
        }
        let new_ptr = Table::new((self.len() * 2).next_power_of_two().min(self.max_buckets), 1 - old.link);
        // SAFETY: just made.
        let new = unsafe { &*new_ptr };
        for bucket in &old.buckets {
            let mut at = bucket.load(Ordering::Acquire);
            // SAFETY: in the table, and writers are locked out.
            while let Some(node) = unsafe { at.as_ref() } {
                let to = new.bucket(node.hash);
                node.links[new.link].store(to.load(Ordering::Relaxed), Ordering::Relaxed);
                to.store(at, Ordering::Relaxed);
                at = node.links[old.link].load(Ordering::Acquire);
            }
        }
        self.moving.store(true, Ordering::Release);
        // Release: the links of the new table are seen by who sees the table.
        let old = self.table.swap(new_ptr, Ordering::AcqRel);
        domain.retire(Box::new(OldTable { table: old, moving: self.moving.clone() }));
    }

    /// The numbers now. Walks the whole table.
    pub fn stats(&self) -> HashStats {
        let _writer = lock(&self.writer);
        let table = self.current();
        let mut stats = HashStats { buckets: table.buckets.len() as u64, ..HashStats::default() };
        for bucket in &table.buckets {
            let (mut n, mut at) = (0, bucket.load(Ordering::Acquire));
            // SAFETY: entries are freed only after they were unlinked, which takes the lock held here.
            while let Some(node) = unsafe { at.as_ref() } {
                n += 1;
                at = node.links[table.link].load(Ordering::Acquire);
            }
            stats.used += u64::from(n > 0);
            stats.items += n;
            stats.longest = stats.longest.max(n);
        }
        stats
    }

    /// Registers `kern.hashstat.<name>.{buckets,used,items,longest}`, as long as the table lives.
    #[cfg(not(loom))]
    pub fn register(self: &Arc<Self>, tree: &crate::Sysctl, name: &str) {
        crate::sysctl_nodes::hash(tree, name, {
            let this = Arc::downgrade(self);
            move || this.upgrade().map(|t| t.stats())
        });
    }
}

/// A table that no new reader finds.
struct OldTable<K, V> {
    table: *mut Table<K, V>,
    moving: Arc<AtomicBool>,
}

// SAFETY: buckets are only pointers here; the entries belong to the new table.
unsafe impl<K, V> Send for OldTable<K, V> {}

impl<K, V> Drop for OldTable<K, V> {
    fn drop(&mut self) {
        // SAFETY: it came from a Box, and a grace period has passed since it was replaced.
        drop(unsafe { Box::from_raw(self.table) });
        self.moving.store(false, Ordering::Release);
    }
}

/// An entry that no new reader can reach; readers from before may still stand on it.
struct Unlinked<K, V>(*mut Node<K, V>);

// SAFETY: it is the only owner of the entry; readers share it (Sync), and it may be dropped anywhere (Send).
unsafe impl<K: Send + Sync, V: Send + Sync> Send for Unlinked<K, V> {}

impl<K, V> Unlinked<K, V> {
    /// Only after a grace period.
    fn into_entry(self) -> (K, V) {
        let node = self.0;
        std::mem::forget(self);
        // SAFETY: it came from a Box, this is its only owner, and `self` does not free it again.
        let node = *unsafe { Box::from_raw(node) };
        (node.key, node.value)
    }
}

impl<K, V> Drop for Unlinked<K, V> {
    fn drop(&mut self) {
        // SAFETY: it came from a Box and this is its only owner: the grace period is over.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

impl<K, V> Drop for PsHash<K, V> {
    fn drop(&mut self) {
        // SAFETY: exclusive access; it came from a Box.
        let table = unsafe { Box::from_raw(self.table.load(Ordering::Acquire)) };
        for bucket in &table.buckets {
            let mut at = bucket.load(Ordering::Acquire);
            while !at.is_null() {
                // SAFETY: exclusive access, and entries came from boxes.
                let node = unsafe { Box::from_raw(at) };
                at = node.links[table.link].load(Ordering::Acquire);
            }
        }
    }
}

/// Hashes a few words by folded multiplications, keyed so that outsiders cannot aim at one bucket.
struct FoldHash(u64);

impl FoldHash {
    fn random() -> Self {
        FoldHash(RandomState::new().hash_one(0u8))
    }

    #[inline(always)]
    fn of<Q: Hash + ?Sized>(&self, key: &Q) -> u64 {
        let mut h = Fold(self.0);
        key.hash(&mut h);
        h.finish()
    }
}

struct Fold(u64);

impl Hasher for Fold {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for w in words {
            self.write_u64(u64::from_le_bytes(*w));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.write_u64(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
        }
    }

    #[inline(always)]
    fn write_u8(&mut self, v: u8) {
        self.write_u64(v.into());
    }

    #[inline(always)]
    fn write_u16(&mut self, v: u16) {
        self.write_u64(v.into());
    }

    #[inline(always)]
    fn write_u32(&mut self, v: u32) {
        self.write_u64(v.into());
    }

    #[inline(always)]
    fn write_u64(&mut self, v: u64) {
        let product = u128::from(self.0 ^ v) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product as u64) ^ (product >> 64) as u64 ^ v.rotate_left(32);
    }

    #[inline(always)]
    fn write_usize(&mut self, v: usize) {
        self.write_u64(v as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        let product = u128::from(self.0) * 0xd6e8_feb8_6659_fd93;
        (product as u64) ^ (product >> 64) as u64
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn get(t: &PsHash<u32, u32>, r: &crate::Reader, k: u32) -> Option<u32> {
        let g = r.enter();
        t.get(g.section(), &k).copied()
    }

    #[test]
    fn entries_are_found_through_growth_replacement_and_removal() {
        let (domain, table) = (Domain::new(1), PsHash::new(2, 1 << 16));
        let reader = domain.register();
        let n = if cfg!(miri) { 200 } else { 20_000 };
        for k in 0..n {
            table.insert(&domain, k, k + 1).unwrap();
            assert_eq!(get(&table, &reader, k), Some(k + 1));
            if k.is_power_of_two() {
                domain.flush();
            }
        }
        assert_eq!(table.insert(&domain, 5, 0), Err((5, 0)));
        assert!(table.replace(&domain, 5, 50));
        assert!((0..n).all(|k| get(&table, &reader, k) == Some(if k == 5 { 50 } else { k + 1 })));
        let s = table.stats();
        assert_eq!(s.items, u64::from(n));
        assert!(s.buckets >= s.items / 2, "it grows: {s:?}");
        assert!(s.used > s.buckets.min(s.items) / 3 && s.longest < 20, "it spreads: {s:?}");
        assert_eq!(table.take(&domain, &7), Some((7, 8)));
        assert!(!table.remove(&domain, &7));
        assert!(table.remove(&domain, &8));
        assert_eq!(table.retain(&domain, |k, _| k % 2 == 0), n as usize / 2 - 1);
        assert_eq!(table.len(), n as usize / 2 - 1);
        let g = reader.enter();
        let mut sum = 0;
        table.for_each(g.section(), |_, _| sum += 1);
        assert_eq!(sum, table.len());
    }

    #[test]
    fn readers_find_everything_while_the_table_grows() {
        let (domain, table) = (Domain::new(1), Arc::new(PsHash::new(1, 1 << 16)));
        let n = if cfg!(miri) { 60 } else { 5_000 };
        let done = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let (d, t, seen) = (domain.clone(), table.clone(), done.clone());
        let reader = std::thread::spawn(move || {
            let reader = d.register();
            loop {
                let limit = seen.load(Ordering::Acquire);
                for k in 0..limit {
                    assert_eq!(get(&t, &reader, k), Some(k));
                }
                if limit == n {
                    return;
                }
            }
        });
        for k in 0..n {
            table.insert(&domain, k, k).unwrap();
            done.store(k + 1, Ordering::Release);
        }
        reader.join().unwrap();
    }

    #[test]
    fn statistics_stand_in_the_tree() {
        let (domain, tree) = (Domain::new(1), crate::Sysctl::new());
        let table = Arc::new(PsHash::<u32, ()>::new(4, 4));
        table.register(&tree, "t");
        table.insert(&domain, 1, ()).unwrap();
        let value = |n: &str| tree.get(&format!("kern.hashstat.t.{n}")).unwrap();
        assert_eq!(["buckets", "used", "items", "longest"].map(value), [4u64, 1, 1, 1].map(Into::into));
    }
}
