//! Which ports of translated addresses are taken.
//!
//! Ports, and identifiers of ICMP queries, are counted for each address and protocol by itself. A port is drawn at random
//! and is as likely as any other that is free (RFC 6056, section 3.3.2, without its bias towards ports behind taken
//! ones). Who asks for a port that suits him, as the port that the packet already has (RFC 4787, section 4.2.1), tries
//! [`PortMap::take`] first; who wants its parity kept (RFC 4787, REQ-4) says so by [`PortMap::get_where`]. That a port
//! below 1024 stays below it (REQ-3) is not offered: `portmap.min_port` is at least 1024.

use super::below;
use crate::config::PortRange;
use std::collections::HashMap;

/// Ports of one protocol of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Translated {
    /// The translated address, in the form of [`crate::packet::Packet`].
    pub address: u128,
    /// The protocol.
    pub proto: u8,
}

/// The ports that are taken of all translated addresses.
///
/// An address of which no port is taken needs no memory, one with ports 8 KiB for each protocol.
#[derive(Debug, Default)]
pub struct PortMap {
    taken: HashMap<Translated, Taken>,
}

/// A bit for each port.
#[derive(Debug)]
struct Taken {
    words: Box<[u64; 1024]>,
    count: u32,
}

/// So many ports are drawn before the free ones are counted, for which up to 1024 words are looked at twice. While at most
/// half of a range is taken, one port in 256 needs it.
const DRAWS: usize = 8;
/// The same where a port has to fit: with one of 16 that does, one in 60 needs to look at them one by one.
const FITTING: usize = 64;

impl PortMap {
    /// None is taken.
    pub fn new() -> PortMap {
        PortMap::default()
    }

    /// Takes a free port of a range, each as likely as the others. `random` gives 64 random bits. None: all are taken,
    /// which the caller counts; the packet must not go out untranslated.
    pub fn get(&mut self, of: Translated, range: PortRange, random: &mut impl FnMut() -> u64) -> Option<u16> {
        let taken = self.taken.entry(of).or_insert_with(Taken::new);
        let port = taken.draw(range, random, |_| true).or_else(|| taken.pick(range, random()));
        self.settle(of, port)
    }

    /// The same for ports that fit. When few of them are free, those behind others that are not are likelier.
    pub fn get_where(
        &mut self,
        of: Translated,
        range: PortRange,
        random: &mut impl FnMut() -> u64,
        fits: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let taken = self.taken.entry(of).or_insert_with(Taken::new);
        let port = taken.draw_of(FITTING, range, random, &fits).or_else(|| taken.next(range, random(), &fits));
        self.settle(of, port)
    }

    /// Takes this very port: of a connection that is loaded, or that keeps its port. False: it is taken.
    pub fn take(&mut self, of: Translated, port: u16) -> bool {
        self.taken.entry(of).or_insert_with(Taken::new).set(port)
    }

    /// Gives a port back. False: it was free.
    pub fn release(&mut self, of: Translated, port: u16) -> bool {
        let Some(taken) = self.taken.get_mut(&of) else { return false };
        let was = taken.clear(port);
        if taken.count == 0 {
            self.taken.remove(&of);
        }
        was
    }

    /// Ports that are taken.
    pub fn count(&self, of: Translated) -> u32 {
        self.taken.get(&of).map_or(0, |taken| taken.count)
    }

    /// Addresses and protocols of which ports are taken.
    pub fn len(&self) -> usize {
        self.taken.len()
    }

    /// Whether no port is taken.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Takes the port that was found; without one, no memory is kept for nothing.
    fn settle(&mut self, of: Translated, port: Option<u16>) -> Option<u16> {
        let taken = self.taken.get_mut(&of)?;
        let port = port.filter(|&port| taken.set(port));
        if taken.count == 0 {
            self.taken.remove(&of);
        }
        port
    }
}

impl Taken {
    fn new() -> Taken {
        Taken { words: Box::new([0; 1024]), count: 0 }
    }

    fn is_free(&self, port: u16) -> bool {
        self.words[usize::from(port >> 6)] & bit(port) == 0
    }

    fn set(&mut self, port: u16) -> bool {
        let free = self.is_free(port);
        self.words[usize::from(port >> 6)] |= bit(port);
        self.count += u32::from(free);
        free
    }

    fn clear(&mut self, port: u16) -> bool {
        let was = !self.is_free(port);
        self.words[usize::from(port >> 6)] &= !bit(port);
        self.count -= u32::from(was);
        was
    }

    /// A few free ports at random, of which the first that fits is it.
    fn draw(&self, range: PortRange, random: &mut impl FnMut() -> u64, fits: impl Fn(u16) -> bool) -> Option<u16> {
        self.draw_of(DRAWS, range, random, fits)
    }

    fn draw_of(
        &self,
        draws: usize,
        range: PortRange,
        random: &mut impl FnMut() -> u64,
        fits: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        (0..draws).map(|_| start(range, random())).find(|&port| self.is_free(port) && fits(port))
    }

    /// One of the free ports of a range, by counting them.
    fn pick(&self, range: PortRange, random: u64) -> Option<u16> {
        let free = || self.free_words(range);
        let count: u32 = free().map(|(_, word)| word.count_ones()).sum();
        let mut skip = below(u64::from(count), random) as u32;
        for (first, mut word) in free() {
            let here = word.count_ones();
            if skip >= here {
                skip -= here;
                continue;
            }
            for _ in 0..skip {
                word &= word - 1;
            }
            return Some(first | word.trailing_zeros() as u16);
        }
        None
    }

    /// The first free port that fits, from a random one on and around.
    fn next(&self, range: PortRange, random: u64, fits: impl Fn(u16) -> bool) -> Option<u16> {
        let start = start(range, random);
        let from = |first, last| {
            self.free_words(PortRange { first, last }).flat_map(|(first, mut word)| {
                std::iter::from_fn(move || {
                    let port = (word != 0).then(|| first | word.trailing_zeros() as u16);
                    word &= word.wrapping_sub(1);
                    port
                })
            })
        };
        from(start, range.last).chain(from(range.first, start)).find(|&port| fits(port))
    }

    /// The words that hold a range: the first port of each, and a bit for each port that is free and in the range.
    fn free_words(&self, range: PortRange) -> impl Iterator<Item = (u16, u64)> {
        let PortRange { first, last } = range;
        (first >> 6..=last >> 6).map(move |i| {
            let mut free = !self.words[usize::from(i)];
            if i == first >> 6 {
                free &= u64::MAX << (first & 63);
            }
            if i == last >> 6 {
                free &= u64::MAX >> (63 - (last & 63));
            }
            (i << 6, free)
        })
    }
}

fn bit(port: u16) -> u64 {
    1 << (port & 63)
}

fn start(range: PortRange, random: u64) -> u16 {
    let ports = u64::from(range.last.saturating_sub(range.first)) + 1;
    range.first.saturating_add(below(ports, random) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;
    use std::collections::HashSet;

    const OF: Translated = Translated { address: 1, proto: 17 };

    fn range(first: u16, last: u16) -> PortRange {
        PortRange { first, last }
    }

    fn all(range: PortRange, mut get: impl FnMut(&mut PortMap) -> Option<u16>) -> HashSet<u16> {
        let (mut map, mut seen) = (PortMap::new(), HashSet::new());
        while let Some(port) = get(&mut map) {
            assert!(range.contains(port) && seen.insert(port), "{port}");
        }
        assert_eq!(map.count(OF) as usize, seen.len());
        seen
    }

    #[test]
    fn every_port_of_a_range_is_handed_out_once_and_then_none() {
        // 10000-20000 and 1999-3998 are those of which NetBSD finds a single port.
        for (first, last) in [(10000, 20000), (1999, 3998), (1024, 49151), (0, 65535), (5, 5), (63, 64), (64, 127)] {
            let mut random = random(7);
            let range = range(first, last);
            let seen = all(range, |map| map.get(OF, range, &mut random));
            assert_eq!(seen.len(), usize::from(last - first) + 1, "{first}-{last}");
            if seen.len() < 20000 {
                let seen = all(range, |map| map.get_where(OF, range, &mut random, |_| true));
                assert_eq!(seen.len(), usize::from(last - first) + 1, "{first}-{last}");
            }
        }
    }

    #[test]
    fn ports_that_must_fit_are_all_found() {
        let mut random = random(8);
        let range = range(10000, 10999);
        let seen = all(range, |map| map.get_where(OF, range, &mut random, |port| port % 2 == 1));
        assert_eq!(seen.len(), 500);
        assert!(seen.iter().all(|port| port % 2 == 1));
    }

    #[test]
    fn a_port_that_is_given_back_is_the_one_that_is_free() {
        let (mut map, mut random) = (PortMap::new(), random(9));
        let range = range(1024, 49151);
        while map.get(OF, range, &mut random).is_some() {}
        assert!(map.release(OF, 31337));
        assert!(!map.release(OF, 31337));
        assert_eq!(map.get(OF, range, &mut random), Some(31337));
        assert_eq!(map.get(OF, range, &mut random), None);
    }

    #[test]
    fn a_port_that_is_taken_by_name_is_not_handed_out() {
        let (mut map, mut random) = (PortMap::new(), random(1));
        assert!(map.take(OF, 80));
        assert!(!map.take(OF, 80));
        assert_eq!(map.get(OF, range(80, 81), &mut random), Some(81));
        assert_eq!(map.get(OF, range(80, 81), &mut random), None);
    }

    #[test]
    fn addresses_and_protocols_do_not_share_ports() {
        let (mut map, mut random) = (PortMap::new(), random(2));
        let one = range(7, 7);
        for of in [OF, Translated { proto: 6, ..OF }, Translated { address: 2, ..OF }] {
            assert_eq!(map.get(of, one, &mut random), Some(7));
        }
        assert_eq!(map.get(OF, one, &mut random), None);
        assert_eq!(map.len(), 3);
    }

    #[test]
    fn no_port_no_memory() {
        let (mut map, mut random) = (PortMap::new(), random(3));
        assert!(!map.release(OF, 1));
        assert_eq!(map.get_where(OF, range(1, 9), &mut random, |_| false), None);
        let port = map.get(OF, range(1, 9), &mut random).unwrap();
        assert!(map.release(OF, port));
        assert!(map.is_empty());
    }

    /// Chi-square of a distribution over equally likely bins.
    fn chi_square(bins: &[u32]) -> f64 {
        let expected = f64::from(bins.iter().sum::<u32>()) / bins.len() as f64;
        bins.iter().map(|&seen| (f64::from(seen) - expected).powi(2) / expected).sum()
    }

    #[test]
    fn ports_are_uniform_in_an_empty_and_in_a_crowded_range() {
        let mut random = random(4);
        let range = range(10000, 20000);
        // 9999 of 10001 degrees of freedom have a standard deviation of 141; 5 of those are allowed.
        let mut bins = vec![0u32; 10001];
        let mut map = PortMap::new();
        for _ in 0..200_000 {
            let port = map.get(OF, range, &mut random).unwrap();
            bins[usize::from(port) - 10000] += 1;
            map.release(OF, port);
        }
        assert!((chi_square(&bins) - 10000.0).abs() < 5.0 * 141.4, "{}", chi_square(&bins));
        // All but 100 taken, and those in a clump but for one, that a search for the next one would prefer by far.
        let free: Vec<u16> = std::iter::once(19000).chain(12000..12099).collect();
        for port in 10000..=20000 {
            if !free.contains(&port) {
                assert!(map.take(OF, port));
            }
        }
        let mut bins = vec![0u32; free.len()];
        for _ in 0..20_000 {
            let port = map.get(OF, range, &mut random).unwrap();
            bins[free.iter().position(|&p| p == port).unwrap()] += 1;
            map.release(OF, port);
        }
        assert!((chi_square(&bins) - 99.0).abs() < 5.0 * 14.1, "{}", chi_square(&bins));
    }
}
