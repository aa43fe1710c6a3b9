//! Keys of any bytes to values: a persistent hash trie.
//!
//! A change copies the nodes on the way to one bucket and shares all else with the version before, which readers may go on
//! using. The hash is SipHash with a key of this process, so that nobody can choose keys that share a bucket.

use smpnet_filter_abi::ABSENT;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

const BITS: u32 = 5;
const FAN: usize = 1 << BITS;
/// Entries of a bucket before it is divided.
const BUCKET: usize = 8;

#[derive(Clone)]
pub(crate) struct Exact {
    hasher: RandomState,
    root: Child,
    len: usize,
}

#[derive(Clone, Default)]
enum Child {
    #[default]
    Empty,
    Bucket(Arc<Vec<Entry>>),
    Inner(Arc<[Child; FAN]>),
}

#[derive(Clone)]
struct Entry {
    hash: u64,
    key: Arc<[u8]>,
    value: u32,
}

impl Exact {
    pub(super) fn new() -> Exact {
        Exact { hasher: RandomState::new(), root: Child::Empty, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn hash(&self, key: &[u8]) -> u64 {
        let mut h = self.hasher.build_hasher();
        h.write(key);
        h.finish()
    }

    /// The value of a key, or `ABSENT`.
    pub(super) fn get(&self, key: &[u8]) -> u32 {
        let hash = self.hash(key);
        let (mut child, mut rest) = (&self.root, hash);
        loop {
            match child {
                Child::Empty => return ABSENT,
                Child::Inner(kids) => {
                    child = &kids[rest as usize % FAN];
                    rest >>= BITS;
                }
                Child::Bucket(b) => {
                    let entry = b.iter().find(|e| e.hash == hash && *e.key == *key);
                    return entry.map_or(ABSENT, |e| e.value);
                }
            }
        }
    }

    /// Enters a key or changes its value. Returns whether it is new.
    pub(super) fn insert(&mut self, key: &[u8], value: u32) -> bool {
        let entry = Entry { hash: self.hash(key), key: key.into(), value };
        let new = insert(&mut self.root, 0, entry);
        self.len += usize::from(new);
        new
    }

    /// Takes a key out. Returns whether it was there.
    pub(super) fn remove(&mut self, key: &[u8]) -> bool {
        let hash = self.hash(key);
        // Looked up first, so that nothing is copied for a key that is not there.
        if self.get(key) == ABSENT {
            return false;
        }
        remove(&mut self.root, 0, hash, key);
        self.len -= 1;
        true
    }

    pub(super) fn for_each(&self, f: &mut impl FnMut(&[u8], u32)) {
        walk(&self.root, f);
    }
}

fn insert(child: &mut Child, shift: u32, entry: Entry) -> bool {
    match child {
        Child::Empty => {
            *child = Child::Bucket(Arc::new(vec![entry]));
            true
        }
        Child::Inner(kids) => {
            let i = (entry.hash >> shift) as usize % FAN;
            insert(&mut Arc::make_mut(kids)[i], shift + BITS, entry)
        }
        Child::Bucket(bucket) => {
            let entries = Arc::make_mut(bucket);
            if let Some(e) = entries.iter_mut().find(|e| e.hash == entry.hash && e.key == entry.key) {
                e.value = entry.value;
                return false;
            }
            entries.push(entry);
            if entries.len() > BUCKET && shift + BITS <= u64::BITS {
                let mut kids: [Child; FAN] = std::array::from_fn(|_| Child::Empty);
                for e in entries.drain(..) {
                    insert(&mut kids[(e.hash >> shift) as usize % FAN], shift + BITS, e);
                }
                *child = Child::Inner(Arc::new(kids));
            }
            true
        }
    }
}

/// Takes out a key that is there; empty nodes go with it.
fn remove(child: &mut Child, shift: u32, hash: u64, key: &[u8]) {
    let empty = match child {
        Child::Empty => false,
        Child::Inner(kids) => {
            let kids = Arc::make_mut(kids);
            remove(&mut kids[(hash >> shift) as usize % FAN], shift + BITS, hash, key);
            kids.iter().all(|k| matches!(k, Child::Empty))
        }
        Child::Bucket(bucket) => {
            let entries = Arc::make_mut(bucket);
            entries.retain(|e| e.hash != hash || *e.key != *key);
            entries.is_empty()
        }
    };
    if empty {
        *child = Child::Empty;
    }
}

fn walk(child: &Child, f: &mut impl FnMut(&[u8], u32)) {
    match child {
        Child::Empty => {}
        Child::Inner(kids) => kids.iter().for_each(|k| walk(k, f)),
        Child::Bucket(b) => b.iter().for_each(|e| f(&e.key, e.value)),
    }
}
