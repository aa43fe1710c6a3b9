//! The forwarding table: DIR-24-8 (Gupta, Lin, McKeown: Routing Lookups in Hardware at Memory Access Speeds, 1998).
//!
//! A table of 2^24 entries is indexed by the first 24 bits of the destination; where longer prefixes exist, the entry
//! names a group of 256 entries for the last 8. So a lookup is one memory access, or two. An entry of 0 falls back to the
//! slot of the default route, so that a change of `0.0.0.0/0` is one store, and an empty table costs no memory.
//!
//! One writer at a time (the caller's lock; `&mut self`) changes entries by plain atomic stores, and every reader sees
//! each destination go from its old to its new next hop at once. Groups and next-hop slots that go out of use are used
//! again only after a grace period of the `Domain`, because a reader may still hold their number.

use super::nexthop::{NextHop, NextHopId, NextHopKind, Way};
use crate::adjacency::Next;
use crate::lazy::{LazyArray, LazyTable};
use crate::types::Ipv4Net;
use smpnet_runtime::Domain;
use smpnet_runtime::prefetch;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const TOP: usize = 1 << 24;
/// Groups of 256 entries: prefixes longer than 24 bits can lie in as many different /24s.
const GROUPS: usize = 1 << 20;
const HOPS: usize = 1 << 22;
const IS_GROUP: u32 = 1 << 31;

/// Why a route cannot be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FibError {
    /// All groups are in use.
    #[error("no group is free: prefixes longer than /24 lie in {GROUPS} different /24 networks")]
    NoGroup,
    /// All next-hop slots are in use.
    #[error("no next-hop slot is free")]
    NoHop,
    /// A route has 1 to 64 ways.
    #[error("a route has 1 to 64 ways")]
    Ways,
    /// The memory could not be reserved.
    #[error("cannot reserve memory for the table")]
    Memory,
}

/// Sizes of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct FibStats {
    /// Routes.
    pub routes: usize,
    /// Groups in use, those of several ways included.
    pub groups: usize,
    /// Next-hop slots in use.
    pub nexthops: usize,
}

/// What workers read. Every field is written by the one writer only.
pub(crate) struct Tables {
    top: LazyTable<AtomicU32, TOP>,
    groups: LazyArray<AtomicU32>,
    hops: LazyTable<AtomicU64, HOPS>,
    default: AtomicU32,
}

/// The longest-prefix-match table for IPv4.
///
/// ```
/// use smpnet_stack::{Fib, Ipv4Net, NextHop, IfIndex};
/// let mut fib = Fib::new().unwrap();
/// let out = IfIndex::new(3).unwrap();
/// fib.insert("10.0.0.0/8".parse().unwrap(), NextHop::connected(out)).unwrap();
/// let id = fib.lookup(0x0a01_0203);
/// assert_eq!(fib.nexthop(id), NextHop::connected(out));
/// assert_eq!(fib.lookup(0x0b00_0000), 0);
/// ```
pub struct Fib {
    tables: Arc<Tables>,
    /// Prefix length plus one of the route that each entry of `top` stands for; 0 where there is none.
    top_len: LazyArray<AtomicU8>,
    group_len: LazyArray<AtomicU8>,
    /// Routes longer than /24 in each group.
    group_routes: HashMap<u32, u32>,
    /// Entries of `group_routes` are keyed by group; ECMP groups are not in it.
    routes: [HashMap<u32, NextHopId>; 33],
    hop_ids: HashMap<HopKey, NextHopId>,
    hop_refs: HashMap<NextHopId, (u32, HopKey)>,
    free: Arc<Free>,
    next_group: u32,
    next_hop: u32,
    groups_used: usize,
    domain: Option<Arc<Domain>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum HopKey {
    One(NextHop),
    Many(Vec<Way>),
}

#[derive(Default)]
struct Free {
    groups: Mutex<Vec<u32>>,
    hops: Mutex<Vec<u32>>,
}

/// Gives numbers back when it is dropped, which the domain does after a grace period.
struct Recycle {
    free: Arc<Free>,
    group: Option<u32>,
    hop: Option<u32>,
}

impl Drop for Recycle {
    fn drop(&mut self) {
        if let Some(g) = self.group {
            self.free.groups.lock().unwrap_or_else(PoisonError::into_inner).push(g);
        }
        if let Some(h) = self.hop {
            self.free.hops.lock().unwrap_or_else(PoisonError::into_inner).push(h);
        }
    }
}

impl Fib {
    /// An empty table without a grace period, for one thread.
    pub fn new() -> Result<Fib, FibError> {
        Self::make(None)
    }

    /// An empty table whose readers are the workers and readers of `domain`.
    pub fn with_domain(domain: Arc<Domain>) -> Result<Fib, FibError> {
        Self::make(Some(domain))
    }

    fn make(domain: Option<Arc<Domain>>) -> Result<Fib, FibError> {
        let mem = |_| FibError::Memory;
        Ok(Fib {
            tables: Arc::new(Tables {
                top: LazyTable::new(true).map_err(mem)?,
                groups: LazyArray::new(GROUPS * 256, false).map_err(mem)?,
                hops: LazyTable::new(false).map_err(mem)?,
                default: AtomicU32::new(0),
            }),
            top_len: LazyArray::new(TOP, false).map_err(mem)?,
            group_len: LazyArray::new(GROUPS * 256, false).map_err(mem)?,
            group_routes: HashMap::new(),
            routes: std::array::from_fn(|_| HashMap::new()),
            hop_ids: HashMap::new(),
            hop_refs: HashMap::new(),
            free: Arc::default(),
            next_group: 0,
            next_hop: 1,
            groups_used: 0,
            domain,
        })
    }

    /// What workers hold.
    pub(crate) fn tables(&self) -> Arc<Tables> {
        self.tables.clone()
    }

    /// Enters a route or changes the one to that destination. Returns whether it is new.
    pub fn insert(&mut self, dst: Ipv4Net, hop: NextHop) -> Result<bool, FibError> {
        self.put(dst, HopKey::One(hop))
    }

    /// Enters a route with several ways, or changes the one to that destination. Flows are spread over 256 shares in
    /// proportion to the weights.
    pub fn insert_ways(&mut self, dst: Ipv4Net, ways: &[Way]) -> Result<bool, FibError> {
        match ways {
            [] => Err(FibError::Ways),
            [one] => self.insert(dst, one.hop),
            many if many.len() > 64 => Err(FibError::Ways),
            many => self.put(dst, HopKey::Many(many.to_vec())),
        }
    }

    /// Removes the route to exactly that destination. Returns whether there was one.
    pub fn remove(&mut self, dst: Ipv4Net) -> bool {
        let (net, len) = (dst.network(), dst.prefix_len());
        let Some(old) = self.routes[usize::from(len)].remove(&net) else { return false };
        let (parent, parent_len) = self.parent(net, len);
        self.fill(net, len, parent, parent_len);
        if len > 24 {
            self.shrink_group(net);
        }
        self.unref(old);
        true
    }

    /// The next hop of the most specific route to `dst` (host byte order), or 0.
    #[inline(always)]
    pub fn lookup(&self, dst: u32) -> NextHopId {
        self.tables.lookup(dst)
    }

    /// Many lookups; memory accesses overlap. `out` is as long as `dsts`.
    pub fn lookup_batch(&self, dsts: &[u32], out: &mut [NextHopId]) {
        self.tables.lookup_batch(dsts, out);
    }

    /// The next hop in a slot; NONE for 0.
    pub fn nexthop(&self, id: NextHopId) -> NextHop {
        self.tables.nexthop(id)
    }

    /// The next hop in a slot with the way chosen by `hash` where there are several.
    pub fn resolve(&self, id: NextHopId, hash: u32) -> NextHop {
        self.tables.resolve(id, hash)
    }

    /// Number of routes, groups and next hops.
    pub fn stats(&self) -> FibStats {
        FibStats {
            routes: self.routes.iter().map(HashMap::len).sum(),
            groups: self.groups_used,
            nexthops: self.hop_refs.len(),
        }
    }

    fn put(&mut self, dst: Ipv4Net, key: HopKey) -> Result<bool, FibError> {
        let (net, len) = (dst.network(), dst.prefix_len());
        let id = self.hop(key)?;
        if len > 24
            && !self.routes[usize::from(len)].contains_key(&net)
            && let Err(e) = self.grow_group(net)
        {
            self.unref(id);
            return Err(e);
        }
        let old = self.routes[usize::from(len)].insert(net, id);
        self.fill(net, len, id, len + 1);
        if let Some(old) = old {
            self.unref(old);
        }
        Ok(old.is_none())
    }

    /// The next longest route around a prefix: its hop and its length plus one, or zeroes. The default route is not
    /// entered in the tables and so does not count.
    fn parent(&self, net: u32, len: u8) -> (NextHopId, u8) {
        for l in (1..len).rev() {
            let routes = &self.routes[usize::from(l)];
            if !routes.is_empty()
                && let Some(id) = routes.get(&(net & (u32::MAX << (32 - u32::from(l)))))
            {
                return (*id, l + 1);
            }
        }
        (0, 0)
    }

    /// Writes `id` (of a route of length `depth - 1`) over every entry of the prefix that belongs to no longer route.
    fn fill(&mut self, net: u32, len: u8, id: NextHopId, depth: u8) {
        let t = &self.tables;
        // An entry belongs to a longer route when its depth is above this one's, whether we enter or remove it.
        let mine = len + 1;
        if len == 0 {
            t.default.store(id, Ordering::Release);
            return;
        }
        if len > 24 {
            let group = t.top[(net >> 8) as usize].load(Ordering::Relaxed) & !IS_GROUP;
            let base = group as usize * 256;
            let first = base + (net & 0xff) as usize;
            for i in first..first + (1usize << (32 - len)) {
                set(&t.groups[i], &self.group_len[i], mine, id, depth);
            }
            return;
        }
        let first = (net >> 8) as usize;
        for i in first..first + (1usize << (24 - len)) {
            let e = t.top[i].load(Ordering::Relaxed);
            if e & IS_GROUP == 0 {
                set(&t.top[i], &self.top_len[i], mine, id, depth);
            } else {
                let base = (e & !IS_GROUP) as usize * 256;
                for j in base..base + 256 {
                    set(&t.groups[j], &self.group_len[j], mine, id, depth);
                }
            }
        }
    }

    /// Counts a route longer than /24 into the group of its /24, made when there is none yet.
    fn grow_group(&mut self, net: u32) -> Result<(), FibError> {
        let i = (net >> 8) as usize;
        let e = self.tables.top[i].load(Ordering::Relaxed);
        if e & IS_GROUP != 0 {
            *self.group_routes.entry(e & !IS_GROUP).or_insert(0) += 1;
            return Ok(());
        }
        let g = self.take_group()?;
        let depth = self.top_len[i].load(Ordering::Relaxed);
        for j in g as usize * 256..g as usize * 256 + 256 {
            self.tables.groups[j].store(e, Ordering::Relaxed);
            self.group_len[j].store(depth, Ordering::Relaxed);
        }
        self.tables.top[i].store(g | IS_GROUP, Ordering::Release);
        self.group_routes.insert(g, 1);
        Ok(())
    }

    /// Counts a removed route out of its group; the last one takes the group away.
    fn shrink_group(&mut self, net: u32) {
        let i = (net >> 8) as usize;
        let g = self.tables.top[i].load(Ordering::Relaxed) & !IS_GROUP;
        let Some(n) = self.group_routes.get_mut(&g) else { return };
        *n -= 1;
        if *n > 0 {
            return;
        }
        self.group_routes.remove(&g);
        let j = g as usize * 256;
        self.top_len[i].store(self.group_len[j].load(Ordering::Relaxed), Ordering::Relaxed);
        let e = self.tables.groups[j].load(Ordering::Relaxed);
        self.tables.top[i].store(e, Ordering::Release);
        self.give_group(g);
    }

    fn take_group(&mut self) -> Result<u32, FibError> {
        let free = self.free.groups.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let g = match free {
            Some(g) => g,
            None if (self.next_group as usize) < GROUPS => {
                self.next_group += 1;
                self.next_group - 1
            }
            None => return Err(FibError::NoGroup),
        };
        self.groups_used += 1;
        Ok(g)
    }

    fn give_group(&mut self, g: u32) {
        self.groups_used -= 1;
        self.recycle(Recycle { free: self.free.clone(), group: Some(g), hop: None });
    }

    fn recycle(&self, r: Recycle) {
        match &self.domain {
            Some(d) => d.retire(Box::new(r)),
            None => drop(r),
        }
    }

    /// The slot of a next hop, with one reference more.
    fn hop(&mut self, key: HopKey) -> Result<NextHopId, FibError> {
        if let Some(id) = self.hop_ids.get(&key) {
            if let Some((n, _)) = self.hop_refs.get_mut(id) {
                *n += 1;
            }
            return Ok(*id);
        }
        let free = self.free.hops.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let id = match free {
            Some(id) => id,
            None if (self.next_hop as usize) < HOPS => {
                self.next_hop += 1;
                self.next_hop - 1
            }
            None => return Err(FibError::NoHop),
        };
        let packed = match &key {
            HopKey::One(h) => h.pack(),
            HopKey::Many(ways) => match self.spread(ways) {
                Ok(group) => NextHop { kind: NextHopKind::Multipath, ifindex: 0, gateway: group }.pack(),
                Err(e) => {
                    self.free.hops.lock().unwrap_or_else(PoisonError::into_inner).push(id);
                    return Err(e);
                }
            },
        };
        self.tables.hops[id as usize].store(packed, Ordering::Release);
        self.hop_ids.insert(key.clone(), id);
        self.hop_refs.insert(id, (1, key));
        Ok(id)
    }

    fn unref(&mut self, id: NextHopId) {
        let Some((n, _)) = self.hop_refs.get_mut(&id) else { return };
        *n -= 1;
        if *n > 0 {
            return;
        }
        let Some((_, key)) = self.hop_refs.remove(&id) else { return };
        if let HopKey::Many(ways) = &key {
            let group = self.tables.nexthop(id).gateway;
            self.give_group(group);
            for w in ways {
                if let Some(id) = self.hop_ids.get(&HopKey::One(w.hop)).copied() {
                    self.unref(id);
                }
            }
        }
        self.hop_ids.remove(&key);
        self.recycle(Recycle { free: self.free.clone(), group: None, hop: Some(id) });
    }

    /// A group whose 256 entries name the ways in proportion to their weights (largest remainder).
    fn spread(&mut self, ways: &[Way]) -> Result<u32, FibError> {
        let total: u32 = ways.iter().map(|w| u32::from(w.weight.max(1))).sum();
        let mut ids = Vec::with_capacity(ways.len());
        for w in ways {
            match self.hop(HopKey::One(w.hop)) {
                Ok(id) => ids.push(id),
                Err(e) => {
                    ids.into_iter().for_each(|id| self.unref(id));
                    return Err(e);
                }
            }
        }
        let group = match self.take_group() {
            Ok(g) => g,
            Err(e) => {
                ids.into_iter().for_each(|id| self.unref(id));
                return Err(e);
            }
        };
        let mut sum = 0;
        let mut slot = 0u32;
        for (w, id) in ways.iter().zip(ids) {
            sum += u32::from(w.weight.max(1));
            let end = (sum * 256 + total / 2) / total;
            while slot < end {
                self.tables.groups[group as usize * 256 + slot as usize].store(id, Ordering::Relaxed);
                slot += 1;
            }
        }
        Ok(group)
    }
}

/// Sets an entry unless it belongs to a route longer than `mine - 1`.
#[inline]
fn set(entry: &AtomicU32, len: &AtomicU8, mine: u8, id: NextHopId, depth: u8) {
    if len.load(Ordering::Relaxed) <= mine {
        len.store(depth, Ordering::Relaxed);
        entry.store(id, Ordering::Release);
    }
}

impl Tables {
    #[inline(always)]
    pub(crate) fn lookup(&self, dst: u32) -> NextHopId {
        let e = self.top[(dst >> 8) as usize].load(Ordering::Acquire);
        self.finish(e, dst)
    }

    #[inline(always)]
    fn finish(&self, e: u32, dst: u32) -> NextHopId {
        let e = if e & IS_GROUP != 0 {
            self.groups[((e & !IS_GROUP) as usize) * 256 + (dst & 0xff) as usize].load(Ordering::Acquire)
        } else {
            e
        };
        if e == 0 { self.default.load(Ordering::Acquire) } else { e }
    }

    /// Asks for the entry of `dst`, ahead of [`Tables::lookup`].
    #[inline(always)]
    pub(crate) fn prefetch(&self, dst: u32) {
        prefetch(&raw const self.top[(dst >> 8) as usize]);
    }

    pub(crate) fn lookup_batch(&self, dsts: &[u32], out: &mut [NextHopId]) {
        for d in dsts {
            self.prefetch(*d);
        }
        for (d, o) in dsts.iter().zip(out.iter_mut()) {
            *o = self.top[(*d >> 8) as usize].load(Ordering::Acquire);
            if *o & IS_GROUP != 0 {
                prefetch(&raw const self.groups[((*o & !IS_GROUP) as usize) * 256 + (*d & 0xff) as usize]);
            }
        }
        for (d, o) in dsts.iter().zip(out.iter_mut()) {
            *o = self.finish(*o, *d);
        }
    }

    /// The word in a slot. Every number that is handed out is one of a slot; the remainder only spares the check.
    #[inline(always)]
    fn hop(&self, id: NextHopId) -> u64 {
        self.hops[id as usize % HOPS].load(Ordering::Acquire)
    }

    #[inline(always)]
    pub(crate) fn nexthop(&self, id: NextHopId) -> NextHop {
        NextHop::unpack(self.hop(id))
    }

    #[inline(always)]
    pub(crate) fn resolve(&self, id: NextHopId, hash: u32) -> NextHop {
        let h = self.nexthop(id);
        if h.kind != NextHopKind::Multipath {
            return h;
        }
        self.nexthop(self.share(h.gateway, hash))
    }

    /// The slot of the way that a flow takes of a group of several.
    #[inline(always)]
    fn share(&self, group: u32, hash: u32) -> NextHopId {
        self.groups[group as usize * 256 + (hash >> 24) as usize].load(Ordering::Acquire)
    }

    /// As [`Tables::resolve`], where packets to `dst` are sent on to a neighbour; none for every other kind of next hop.
    /// `hash` is asked only where there are several ways.
    #[inline(always)]
    pub(crate) fn neighbour(&self, id: NextHopId, dst: u32, hash: impl FnOnce() -> u32) -> Next {
        let mut word = self.hop(id);
        if word >> 56 == NextHopKind::Multipath as u64 {
            word = self.hop(self.share(word as u32, hash()));
        }
        let ifindex = (word >> 32) as u32 & 0xff_ffff;
        // The numbers of NextHopKind.
        match word >> 56 {
            1 => Next::new(ifindex, word as u32),
            2 => Next::new(ifindex, dst),
            _ => Next::NONE,
        }
    }
}
