//! Fragments are put together before rules see them: IPv4 (RFC 791, RFC 815) and IPv6 (RFC 8200, section 4.5).
//!
//! ```text
//! fragment -- Piece::read --> one piece -- Ledger: is there room? --> Datagram -- all there --> a whole packet
//! ```
//!
//! Whatever comes, memory is bounded: in all, for each source, and for each datagram. Where room is wanted the oldest
//! datagram goes, first of the same source. Fragments that overlap spoil their datagram, in both families (RFC 5722): the
//! rules must see the very bytes that the receiver sees, and receivers do not agree on what overlapping ones mean. A
//! spoiled datagram is remembered until its time is over, so that nothing that comes late can make it whole.

mod datagram;
mod ledger;
mod outcome;
mod piece;
#[cfg(test)]
mod tests;

pub use ledger::Limits;
pub use outcome::{Counters, Outcome, Why};

use crate::{config::Family, packet::Packet};
use datagram::Datagram;
use ledger::Ledger;
use piece::{Key, Piece};
use std::collections::HashMap;

/// How long a datagram of IPv4 may take from its first fragment on, in milliseconds (RFC 791 says 15 s as a start, RFC
/// 1122 60 s or more for hosts; systems take 30 s).
pub const TIMEOUT_V4: u64 = 30_000;

/// The same for IPv6 (RFC 8200, section 4.5).
pub const TIMEOUT_V6: u64 = 60_000;

/// Datagrams of which some fragments are there.
///
/// It belongs to one worker, which has to see all fragments of a datagram: they are spread by addresses alone.
///
/// ```
/// use smpnet_npf::{fragments::{Limits, Outcome, Reassembly}, packet::Packet};
///
/// let mut first = vec![0x45, 0, 0, 28, 0, 7, 0x20, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 9, 0, 9, 0, 10, 0, 0];
/// let mut last = first[..20].to_vec();
/// (last[3], last[6], last[7]) = (22, 0, 1);
/// last.extend(b"ok");
///
/// let mut reassembly = Reassembly::new(Limits::default());
/// let packet = Packet::read(&last)?;
/// assert_eq!(reassembly.take(&last, &packet, 0), Outcome::Kept);
/// let packet = Packet::read(&first)?;
/// let Outcome::Whole(whole) = reassembly.take(&first, &packet, 5) else { panic!() };
/// assert_eq!(whole[20..], *b"\x00\x09\x00\x09\x00\x0a\x00\x00ok");
/// # Ok::<(), smpnet_npf::packet::Malformed>(())
/// ```
#[derive(Debug)]
pub struct Reassembly {
    datagrams: HashMap<Key, Datagram>,
    ledger: Ledger,
    counters: Counters,
}

impl Reassembly {
    /// Nothing is there yet.
    pub fn new(limits: Limits) -> Reassembly {
        Reassembly { datagrams: HashMap::new(), ledger: Ledger::new(limits), counters: Counters::default() }
    }

    /// Takes a fragment at the time `now`, in milliseconds since any moment. `packet` is what [`Packet::read`] says of
    /// `bytes`. A packet that is no fragment is given back as it is, without what follows it.
    ///
    /// First fragments that do not hold the whole upper header (RFC 1858, RFC 7112) are malformed for
    /// [`Packet::read`] already where it knows the protocol, and never get here.
    pub fn take(&mut self, bytes: &[u8], packet: &Packet, now: u64) -> Outcome {
        let Some(fragment) = packet.fragment else {
            return Outcome::Whole(bytes.get(..packet.len).unwrap_or(bytes).to_vec());
        };
        self.counters.fragments += 1;
        self.expire(now);
        let outcome = Piece::read(bytes, packet, fragment).and_then(|piece| self.put(&piece, now));
        match outcome {
            Ok(None) => {
                self.counters.kept += 1;
                Outcome::Kept
            }
            Ok(Some(whole)) => {
                self.counters.whole += 1;
                Outcome::Whole(whole)
            }
            Err(why) => {
                self.counters.dropped(why);
                Outcome::Dropped(why)
            }
        }
    }

    /// Forgets the datagrams whose time is over; how many there were. [`Reassembly::take`] does it too.
    pub fn expire(&mut self, now: u64) -> usize {
        let mut gone = 0;
        for (family, timeout) in [(Family::V4, TIMEOUT_V4), (Family::V6, TIMEOUT_V6)] {
            while let Some(key) = self.ledger.oldest(family)
                && self.datagrams.get(&key).is_some_and(|d| now.saturating_sub(d.born) >= timeout)
            {
                self.remove(key);
                gone += 1;
            }
        }
        self.counters.timed_out += gone as u64;
        gone
    }

    /// When [`Reassembly::expire`] has something to do next.
    pub fn next_expiry(&self) -> Option<u64> {
        let of = |family, timeout| {
            let key = self.ledger.oldest(family)?;
            self.datagrams.get(&key).map(|d| d.born.saturating_add(timeout))
        };
        [of(Family::V4, TIMEOUT_V4), of(Family::V6, TIMEOUT_V6)].into_iter().flatten().min()
    }

    /// What has happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Datagrams that are not whole, spoiled ones too.
    pub fn datagrams(&self) -> usize {
        self.datagrams.len()
    }

    /// Bytes that they take, as the limits count them.
    pub fn bytes(&self) -> usize {
        self.ledger.bytes()
    }

    /// Puts a piece where it belongs. The packet, if it is whole now.
    fn put(&mut self, piece: &Piece<'_>, now: u64) -> Result<Option<Vec<u8>>, Why> {
        // An atomic fragment has nothing to do with others of the same identification (RFC 6946).
        if piece.is_everything() {
            return Datagram::of(piece, 0, now).assemble(piece.key.family).map(Some);
        }
        let key = piece.key;
        let known = match self.datagrams.get_mut(&key) {
            None => None,
            Some(datagram) => {
                if let Err(why) = datagram.check(piece, self.ledger.limits().pieces) {
                    if why.spoils() {
                        let freed = datagram.spoil();
                        self.ledger.refund(key, freed);
                    }
                    return Err(why);
                }
                Some(datagram.serial)
            }
        };
        let cost = piece.cost(known.is_none());
        while let Some(other) = self.ledger.must_go(key, known, cost)? {
            self.remove(other);
            self.counters.evicted += 1;
        }
        let datagram = match known {
            None => {
                let serial = self.ledger.open(key);
                self.datagrams.entry(key).insert_entry(Datagram::of(piece, serial, now)).into_mut()
            }
            // Those that had to go were others.
            Some(_) => {
                let datagram = self.datagrams.get_mut(&key).ok_or(Why::MemoryFull)?;
                datagram.insert(piece);
                datagram
            }
        };
        datagram.cost += cost;
        let whole = datagram.is_whole();
        self.ledger.charge(key, cost);
        if !whole {
            return Ok(None);
        }
        match self.remove(key) {
            Some(datagram) => datagram.assemble(key.family).map(Some),
            None => Ok(None),
        }
    }

    fn remove(&mut self, key: Key) -> Option<Datagram> {
        let datagram = self.datagrams.remove(&key)?;
        self.ledger.close(key, datagram.serial, datagram.cost);
        Some(datagram)
    }
}
