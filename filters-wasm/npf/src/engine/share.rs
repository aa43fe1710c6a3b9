//! Which of several workers a connection belongs to: one of them has all of its packets, of both ways, at every interface.
//!
//! Mostly the packet says so by itself: the symmetric hash by which network cards and the stack spread packets
//! ([`smpnet_stack::toeplitz`]) names the worker, the same one for both ways. Translation breaks that, since what
//! comes back has other addresses. Where a port is chosen, one is chosen whose answers belong to the same worker
//! ([`Share::is_ours`]). Where there is nothing to choose (a port that is forwarded, an address that stands for another, a
//! protocol without ports), the worker writes down that these packets are its own, whatever their hash says: [`Elsewhere`].
//!
//! **Endpoint-independent mappings.** An inner end (address, port, protocol) has one outer end for all whom it talks to, and
//! no port could be chosen whose answers from everybody belong to the same worker. So the inner end decides: all packets
//! from it and to it, at every interface, belong to the worker that a hash of the end names, whoever is at the other end
//! ([`Share::of_end`]); of two inner ends, the lower one. That needs nothing to be written down, for which addresses are inner
//! ones the maps say. Packets to an outer end, from known hosts and from unknown ones, find the same worker because it has
//! written down the outer end alone, once for all ([`Share::claim_end`]). What is looked at first is what is written down of
//! a connection, then this, then the packet's own hash.
//!
//! A **hairpin** is two translations one after the other: of the source, as if the packet left, and of the destination, as if
//! it came in. Each belongs to the worker of its inner end; in between the packet goes from the one to the other, with both
//! outer ends in it. Such a packet is handed over by npf alone: one that came in like that stays where it is, so that nobody
//! gets by the rules by writing outer ends into it.

use crate::{
    config::Family,
    nat::mapping::End,
    packet::proto,
    state::{Key, NatKind},
};
use smpnet_stack::toeplitz;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Most workers: an [`Elsewhere`] has a byte for them.
pub const WORKERS_MAX: usize = 255;

/// The part of one worker.
#[derive(Clone, Debug)]
pub struct Share {
    me: u8,
    workers: u8,
    elsewhere: Arc<Elsewhere>,
}

impl Share {
    /// The part of worker `me` of `workers`, which share an [`Elsewhere`].
    pub fn new(me: usize, workers: usize, elsewhere: &Arc<Elsewhere>) -> Share {
        let byte = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        Share { me: byte(me), workers: byte(workers.clamp(1, WORKERS_MAX)), elsewhere: elsewhere.clone() }
    }

    /// How many workers there are.
    pub(super) fn workers(&self) -> usize {
        usize::from(self.workers)
    }

    /// This worker.
    pub(super) fn me(&self) -> u8 {
        self.me
    }

    /// The worker that packets with a key belong to, if it is another one. `mapped` is who has them by endpoint-independent
    /// mapping.
    pub(super) fn owner(&self, key: &Key, mapped: impl FnOnce() -> Option<u8>) -> Option<u8> {
        let own = if self.elsewhere.is_empty() { None } else { self.elsewhere.find(name_of(key)) };
        Some(own.or_else(mapped).unwrap_or_else(|| self.natural(key))).filter(|owner| *owner != self.me)
    }

    /// The worker of an inner end of an endpoint-independent map.
    pub(super) fn of_end(&self, end: &End) -> u8 {
        ((name_of_end(end) >> 24) % u64::from(self.workers)) as u8
    }

    /// The worker that has the mapping of an outer end.
    pub(super) fn mapped_by(&self, end: &End) -> Option<u8> {
        if self.elsewhere.is_empty() { None } else { self.elsewhere.find(name_of_end(end)) }
    }

    /// Says that an outer end is that of a mapping of this worker. False: there is no room, or it is another one's.
    pub(super) fn claim_end(&self, end: &End) -> bool {
        self.elsewhere.insert(name_of_end(end), self.me)
    }

    /// It is no longer.
    pub(super) fn disclaim_end(&self, end: &End) {
        self.elsewhere.remove(name_of_end(end), self.me);
    }

    /// Whether packets with a key come here by their hash.
    pub(super) fn is_natural(&self, key: &Key) -> bool {
        self.natural(key) == self.me
    }

    /// Whether what comes back of a translated connection can be told to be this worker's by an id that is chosen for it.
    /// Identifiers of ICMP are not in the hash, so workers share them out.
    pub(super) fn is_ours(&self, forward: &Key, kind: NatKind, address: u128, id: u16) -> bool {
        match forward.proto() {
            proto::TCP | proto::UDP => {
                let after = match kind {
                    NatKind::Source => forward.with_source(address, id),
                    NatKind::Destination => forward.with_destination(address, id),
                };
                self.is_natural(&after)
            }
            _ => self.has_number(id),
        }
    }

    /// Connections of all workers that are elsewhere than their hash says.
    #[cfg(test)]
    pub(super) fn elsewhere_len(&self) -> usize {
        self.elsewhere.len()
    }

    /// Whether a number that workers share out is this one's.
    pub(super) fn has_number(&self, id: u16) -> bool {
        id % u16::from(self.workers) == u16::from(self.me)
    }

    fn natural(&self, key: &Key) -> u8 {
        let ports = match key.proto() {
            proto::TCP | proto::UDP => u32::from(key.ids().0) << 16 | u32::from(key.ids().1),
            _ => 0,
        };
        // The hash of the 32-bit words one by one is the hash of their sum.
        let word = |a: u128| (a >> 96) as u32 ^ (a >> 64) as u32 ^ (a >> 32) as u32 ^ a as u32;
        let (src, dst) = match key.family() {
            Family::V4 => (key.source() as u32, key.destination() as u32),
            Family::V6 => (word(key.source()), word(key.destination())),
        };
        (toeplitz(src, dst, ports) % u32::from(self.workers)) as u8
    }

    /// Says that packets with a key, and those of the other way, belong to this worker, though they would not by themselves.
    /// False: there is no room, or they are another one's.
    pub(super) fn claim(&self, key: &Key) -> bool {
        self.elsewhere.insert(name_of(key), self.me)
    }

    /// They do no longer.
    pub(super) fn disclaim(&self, key: &Key) {
        self.elsewhere.remove(name_of(key), self.me);
    }
}

/// Connections whose packets belong to another worker than their hash says. Shared by all workers; no lock.
///
/// A cell names a connection by 40 bits, the worker by 8, and counts by 16 how many connections it stands for (the same
/// addresses, bound to several interfaces). Bits that are the same by chance send a packet to the wrong worker, which then
/// judges it by the rules: of a million connections one in a million.
#[derive(Debug)]
pub struct Elsewhere {
    cells: Box<[AtomicU64]>,
    used: AtomicU64,
}

/// Cells that are looked at one after the other, before there is no room: four cache lines.
const NEAR: usize = 32;
const NAME: u64 = !0 << 24;
const COUNT: u64 = 0xffff;

impl Elsewhere {
    /// Room for so many connections.
    pub fn new(connections: usize) -> Elsewhere {
        // Twice as many cells: near cells are then hardly ever all in use.
        let cells = (connections.max(NEAR) * 2).next_power_of_two();
        Elsewhere { cells: (0..cells).map(|_| AtomicU64::new(0)).collect(), used: AtomicU64::new(0) }
    }

    /// Cells in use.
    pub fn len(&self) -> usize {
        self.used.load(Relaxed) as usize
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn near(&self, name: u64) -> impl Iterator<Item = &AtomicU64> {
        let mask = self.cells.len() - 1;
        let start = (name >> 24) as usize & mask & !7;
        (0..NEAR).map(move |n| &self.cells[(start + n) & mask])
    }

    fn find(&self, name: u64) -> Option<u8> {
        let cell = self.near(name).map(|c| c.load(Relaxed)).find(|c| (c ^ name) & NAME == 0 && *c != 0)?;
        Some((cell >> 16) as u8)
    }

    fn insert(&self, name: u64, owner: u8) -> bool {
        let new = name & NAME | u64::from(owner) << 16 | 1;
        for cell in self.near(name) {
            let mut seen = cell.load(Relaxed);
            while seen != 0 && (seen ^ name) & NAME == 0 {
                if (seen >> 16) as u8 != owner || seen & COUNT == COUNT {
                    return false;
                }
                match cell.compare_exchange_weak(seen, seen + 1, Relaxed, Relaxed) {
                    Ok(_) => return true,
                    Err(now) => seen = now,
                }
            }
        }
        for cell in self.near(name) {
            if cell.compare_exchange(0, new, Relaxed, Relaxed).is_ok() {
                self.used.fetch_add(1, Relaxed);
                return true;
            }
        }
        false
    }

    fn remove(&self, name: u64, owner: u8) {
        for cell in self.near(name) {
            let mut seen = cell.load(Relaxed);
            while seen != 0 && (seen ^ name) & NAME == 0 && (seen >> 16) as u8 == owner {
                let left = if seen & COUNT <= 1 { 0 } else { seen - 1 };
                match cell.compare_exchange_weak(seen, left, Relaxed, Relaxed) {
                    Ok(_) => {
                        if left == 0 {
                            self.used.fetch_sub(1, Relaxed);
                        }
                        return;
                    }
                    Err(now) => seen = now,
                }
            }
        }
    }
}

/// The name of a connection in the upper 40 bits: the same for both ways, and wherever it is bound to. Never 0.
fn name_of(key: &Key) -> u64 {
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    let end = |(address, id): (u128, u16)| {
        fold(
            (address >> 64) as u64 ^ 0xa076_1d64_78bd_642f ^ u64::from(id) << 32,
            address as u64 ^ 0xe703_7ed1_a0b4_28db,
        )
    };
    let (a, b) = (end(key.source_end()), end(key.destination_end()));
    let both = fold(a ^ b ^ 0x8ebc_6af0_9c88_c6e3, a.wrapping_add(b) ^ 0x5896_36e4_4a1d_7e35 ^ u64::from(key.proto()));
    both | 1 << 24
}

/// The name of an end by itself: that of packets between it and nobody.
fn name_of_end(end: &End) -> u64 {
    name_of(&Key::new(Family::V6, end.proto, (end.address, end.port), (0, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::v4;

    fn key(proto: u8, src: u32, sport: u16, dst: u32, dport: u16) -> Key {
        Key::new(Family::V4, proto, (v4(src), sport), (v4(dst), dport))
    }

    fn shares(workers: usize) -> Vec<Share> {
        let elsewhere = Arc::new(Elsewhere::new(1 << 10));
        (0..workers).map(|me| Share::new(me, workers, &elsewhere)).collect()
    }

    #[test]
    fn both_ways_belong_to_one_worker_and_all_workers_have_some() {
        let shares = shares(5);
        let mut seen = [0; 5];
        for n in 0..2000u32 {
            for proto in [6, 17, 1, 47] {
                let key = key(proto, 0x0a00_0000 + n, 1000 + n as u16, 0xc633_6401 ^ n << 3, 443);
                let owners: Vec<usize> = (0..5).filter(|w| shares[*w].owner(&key, || None).is_none()).collect();
                assert_eq!(owners.len(), 1);
                assert_eq!(shares[owners[0]].owner(&key.reverse(), || None), None);
                seen[owners[0]] += 1;
            }
        }
        assert!(seen.iter().all(|n| (1200..2000).contains(n)), "{seen:?}");
    }

    #[test]
    fn what_is_claimed_comes_to_who_claimed_it_until_the_last_claim_is_gone() {
        let shares = shares(2);
        let key = (0..).map(|n| key(6, 0x0a00_0001, n, 0xc633_6401, 80)).find(|k| shares[1].is_natural(k)).unwrap();
        assert_eq!(shares[0].owner(&key, || None), Some(1));
        assert!(shares[0].claim(&key) && shares[0].claim(&key.reverse()));
        assert_eq!([shares[0].owner(&key, || None), shares[1].owner(&key.reverse(), || None)], [None, Some(0)]);
        assert!(!shares[1].elsewhere.insert(name_of(&key), 1), "another one has it");
        shares[0].disclaim(&key);
        assert_eq!(shares[1].owner(&key, || Some(1)), Some(0), "a claim goes before a mapping");
        shares[0].disclaim(&key);
        assert_eq!((shares[1].owner(&key, || None), shares[1].elsewhere.len()), (None, 0));
    }

    #[test]
    fn a_full_table_says_so_and_forgets_nothing() {
        let elsewhere = Elsewhere::new(1);
        let names: Vec<u64> = (1..=200u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 24).collect();
        let taken: Vec<u64> = names.iter().copied().filter(|n| elsewhere.insert(*n, 3)).collect();
        assert_eq!(taken.len(), elsewhere.cells.len());
        assert!(taken.iter().all(|n| elsewhere.find(*n) == Some(3)));
        taken.iter().for_each(|n| elsewhere.remove(*n, 3));
        assert!(elsewhere.is_empty() && names.iter().all(|n| elsewhere.find(*n).is_none()));
    }

    #[test]
    fn an_outer_end_leads_everybody_to_the_worker_of_its_mapping() {
        let shares = shares(3);
        let end = |port| End { address: v4(0xc000_0201), port, proto: 17 };
        assert!(shares[2].claim_end(&end(5000)) && !shares[1].claim_end(&end(5000)));
        assert_eq!([5000, 5001].map(|p| shares[0].mapped_by(&end(p))), [Some(2), None]);
        assert_eq!(shares[0].mapped_by(&End { proto: 6, ..end(5000) }), None);
        shares[2].disclaim_end(&end(5000));
        assert!(shares[1].claim_end(&end(5000)));
        // Inner ends are spread over all workers, the same way by all of them.
        let mut seen = [0; 3];
        (0..3000).for_each(|p| seen[usize::from(shares[0].of_end(&end(p)))] += 1);
        assert!(seen.iter().all(|n| (900..1100).contains(n)), "{seen:?}");
    }
}
