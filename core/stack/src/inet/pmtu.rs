//! Path MTUs that ICMP has told (RFC 1191): for packets that this router itself sends, those of its tunnels above all.
//!
//! Control keeps the table and replaces it as a whole; workers look destinations up in it. What was learned is forgotten
//! after `net.inet.ip.mtudisctimeout` seconds, so that a way that became wider is found again (RFC 1191, section 6.3).

use crate::net::path::Path;
use crate::stack::Stack;
use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

/// Least MTU that a path has (RFC 791).
pub(crate) const LEAST: u32 = 68;
/// Destinations remembered at most; a new one takes the place of the one that would be forgotten first.
const MOST: usize = 1024;
/// Where MTUs cluster (RFC 1191, section 7.1), for routers that do not say theirs.
const PLATEAUS: [u32; 11] = [65_535, 32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 508, 296, LEAST];

/// The MTU that an error gives: the one told, else the next plateau below the packet that was too large. Never as much as
/// that packet had, because it did not pass.
pub(crate) fn told(next_hop_mtu: u16, total_len: u16) -> u32 {
    let (told, len) = (u32::from(next_hop_mtu), u32::from(total_len));
    if told != 0 && told < len {
        return told.max(LEAST);
    }
    PLATEAUS.into_iter().find(|p| *p < len).unwrap_or(LEAST)
}

/// What is known of one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    mtu: u32,
    until: u64,
}

/// The table.
#[derive(Clone, Debug, Default)]
pub(crate) struct PathMtus(HashMap<u32, Known>);

impl PathMtus {
    /// The MTU of the path to a destination, if it is less than the way out's.
    pub(crate) fn get(&self, dst: u32) -> Option<u32> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&dst).map(|k| k.mtu)
    }

    /// Takes an MTU in. One that is wider than what is known is not believed: it is about a packet from before.
    fn learn(&mut self, dst: u32, mtu: u32, until: u64) {
        if let Some(known) = self.0.get_mut(&dst) {
            *known = Known { mtu: known.mtu.min(mtu), until };
            return;
        }
        if self.0.len() >= MOST
            && let Some(first) = self.0.iter().min_by_key(|(_, k)| k.until).map(|(dst, _)| *dst)
        {
            self.0.remove(&first);
        }
        self.0.insert(dst, Known { mtu, until });
    }

    fn next(&self) -> Option<u64> {
        self.0.values().map(|k| k.until).min()
    }

    /// Destinations with their MTUs.
    fn list(&self) -> Vec<(u32, u32)> {
        let mut all: Vec<_> = self.0.iter().map(|(dst, k)| (*dst, k.mtu)).collect();
        all.sort_unstable();
        all
    }
}

impl Stack {
    /// An error told the MTU of a path.
    pub(crate) fn learn_path_mtu(&self, now: u64, dst: u32, mtu: u32) {
        let until = now + u64::from(self.tunables.mtudisctimeout.load(Relaxed)) * 1_000_000_000;
        self.path_mtus.update(&self.domain, |old| {
            let mut new = old.clone();
            new.learn(dst, mtu, until);
            (new, ())
        });
        tracing::debug!(to = %std::net::Ipv4Addr::from_bits(dst), mtu, "path MTU learned");
    }

    /// Forgets path MTUs whose time is over. Returns when the next one's is.
    pub(crate) fn path_mtu_tick(&self, now: u64) -> Option<u64> {
        let next = self.path_mtus.load_control().next()?;
        if next > now {
            return Some(next);
        }
        self.path_mtus.update(&self.domain, |old| {
            let mut new = old.clone();
            new.0.retain(|_, k| k.until > now);
            let next = new.next();
            (new, next)
        })
    }

    /// Every path MTU that is known: destination and MTU.
    pub(crate) fn path_mtu_list(&self) -> Vec<(u32, u32)> {
        self.path_mtus.load_control().list()
    }
}

impl<'a> Path<'a> {
    /// The MTU of the path to `dst`, out of an interface with this MTU.
    #[inline]
    pub(crate) fn path_mtu(&self, dst: u32, mtu: u32) -> u32 {
        self.s.path_mtus.read(self.section).get(dst).map_or(mtu, |known| known.min(mtu))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routers_that_do_not_say_their_mtu_have_the_next_plateau() {
        assert_eq!((told(1400, 1500), told(0, 1500), told(0, 1492), told(0, 576)), (1400, 1492, 1006, 508));
        assert_eq!((told(20, 1500), told(0, 68), told(0, 20)), (LEAST, LEAST, LEAST), "never below 68");
        assert_eq!(told(1500, 1500), 1492, "the packet itself did not pass");
        assert_eq!(told(9000, 1500), 1492);
    }

    #[test]
    fn a_path_only_becomes_narrower_until_it_is_forgotten() {
        let mut t = PathMtus::default();
        t.learn(1, 1400, 10);
        t.learn(1, 1450, 20);
        assert_eq!((t.get(1), t.get(2), t.next()), (Some(1400), None, Some(20)));
        t.learn(1, 1300, 30);
        assert_eq!(t.list(), [(1, 1300)]);
    }

    #[test]
    fn the_table_is_bounded_and_gives_up_what_would_go_first() {
        let mut t = PathMtus::default();
        for i in 0..MOST as u32 + 10 {
            t.learn(i, 1400, u64::from(i));
        }
        assert_eq!((t.0.len(), t.get(9), t.get(10)), (MOST, None, Some(1400)));
    }
}
