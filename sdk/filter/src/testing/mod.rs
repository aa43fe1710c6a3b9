//! A router for the tests of a filter: the same code as in the module, run natively.
//!
//! [`Harness`] does what smpnet does: it calls the filter with a ring that was filled by the rules of the ABI, keeps a clock
//! and tables, and holds the filter to the rules. What would be a fault there (a patch outside of the packet, a verdict
//! without its capability, a table that is not in the manifest) is a panic here that says what the filter did wrong.

mod frame;
pub(crate) mod host;
mod patch;
mod read;
#[cfg(test)]
mod tests;

pub use frame::{Frame, dns_query};
pub use host::Line;

use crate::guest::blank_ring;
use crate::{Burst, Direction, Layer, Level, Module};
use host::Host;
use smpnet_filter_abi as abi;
use std::boxed::Box;
use std::format;
use std::path::Path;
use std::string::String;
use std::time::Duration;
use std::vec;
use std::vec::Vec;

/// A filter with all that smpnet would be to it.
pub struct Harness<F: Module> {
    filter: F,
    host: Host,
    ring: Box<abi::Ring>,
    windows: Vec<u8>,
    counters: Vec<u64>,
    ticked: u64,
    generation: u64,
    place: Place,
}

/// Where and how the filter is asked.
#[derive(Clone, Copy, Debug)]
struct Place {
    layer: Layer,
    direction: Direction,
    ifindex: u32,
    worker: u32,
    workers: u32,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Pass,
    /// It goes on with this mark.
    Mark(u32),
    /// It was dropped.
    Drop,
    /// It was dropped, and its sender told.
    Reject,
}

/// A packet that was judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What became of it.
    pub fate: Fate,
    /// Its bytes, with the filter's changes.
    pub bytes: Vec<u8>,
}

impl<F: Module> Harness<F> {
    /// Makes the filter with a configuration, for packets that come in at the layer of Ethernet, on the only worker, one
    /// second after boot.
    ///
    /// # Errors
    /// What the filter says when it refuses the configuration.
    pub fn new(config: &str) -> Result<Harness<F>, String> {
        F::MANIFEST.check();
        let window = F::MANIFEST.window as usize;
        let host = Host::new(&F::MANIFEST);
        let (host, filter) = host.lend(|| F::new(config.as_bytes()));
        let filter = filter.map_err(|e| String::from(e.as_str()))?;
        let place = Place { layer: Layer::Ether, direction: Direction::In, ifindex: 1, worker: 0, workers: 1 };
        Ok(Harness {
            filter,
            ticked: host.now_ns,
            host,
            ring: Box::new(blank_ring()),
            windows: vec![0; window * abi::BURST_MAX as usize],
            counters: vec![0; F::MANIFEST.counters.len()],
            generation: 1,
            place,
        })
    }

    /// The packets to come begin with this layer's header.
    pub fn layer(&mut self, layer: Layer) -> &mut Self {
        self.place.layer = layer;
        self
    }

    /// The packets to come go this way.
    pub fn direction(&mut self, direction: Direction) -> &mut Self {
        self.place.direction = direction;
        self
    }

    /// The filter is asked at this interface.
    pub fn ifindex(&mut self, ifindex: u32) -> &mut Self {
        self.place.ifindex = ifindex;
        self
    }

    /// The instance is that of one worker of so many.
    pub fn worker(&mut self, worker: u32, workers: u32) -> &mut Self {
        (self.place.worker, self.place.workers) = (worker, workers);
        self
    }

    /// Fills an exact table, in the place of what it had.
    pub fn table<K: AsRef<[u8]>>(&mut self, name: &str, entries: &[(K, u32)]) -> &mut Self {
        self.host.fill_exact(name, entries.iter().map(|(k, v)| (k.as_ref().to_vec(), *v)));
        self
    }

    /// Fills a table of prefixes, `10.0.0.0/8` or `2001:db8::/32`, in the place of what it had.
    pub fn prefixes(&mut self, name: &str, entries: &[(&str, u32)]) -> &mut Self {
        self.host.fill_prefixes(name, entries);
        self
    }

    /// Lets time pass. A tick that is due comes before the next burst.
    pub fn advance(&mut self, time: Duration) -> &mut Self {
        self.host.now_ns += u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self
    }

    /// The time: nanoseconds since boot.
    pub fn now_ns(&self) -> u64 {
        self.host.now_ns
    }

    /// Judges one packet.
    pub fn packet(&mut self, bytes: &[u8]) -> Judged {
        self.burst(&[bytes]).remove(0)
    }

    /// Judges packets, in bursts of up to 64.
    ///
    /// # Panics
    /// When the filter breaks a rule of the ABI, which smpnet would take as a fault.
    pub fn burst<B: AsRef<[u8]>>(&mut self, packets: &[B]) -> Vec<Judged> {
        let bursts = packets.chunks(abi::BURST_MAX as usize);
        bursts.flat_map(|burst| self.one_burst(&burst.iter().map(AsRef::as_ref).collect::<Vec<_>>())).collect()
    }

    fn one_burst(&mut self, packets: &[&[u8]]) -> Vec<Judged> {
        self.tick_if_due();
        self.fill(packets);
        let (filter, ring, windows) = (&mut self.filter, &mut *self.ring, &self.windows[..]);
        let host = core::mem::take(&mut self.host);
        let (host, ()) = host.lend(|| filter.filter(&mut Burst::new(ring, windows, BASE, packets.len())));
        self.host = host;
        for (sum, more) in self.counters.iter_mut().zip(&self.ring.counters) {
            *sum += more;
        }
        if let Err(fault) = read::check(&self.ring, &F::MANIFEST, self.windows.len() / abi::BURST_MAX as usize) {
            panic!("smpnet would take this as a fault: {fault}");
        }
        let fates = self.ring.verdicts.iter().map(read::fate);
        let mut judged: Vec<Judged> =
            packets.iter().zip(fates).map(|(p, fate)| Judged { fate, bytes: p.to_vec() }).collect();
        for edit in read::patches(&self.ring) {
            let l3_off = self.ring.packets[edit.packet].l3_off;
            patch::apply(&mut judged[edit.packet].bytes, usize::from(l3_off), &edit);
        }
        judged
    }

    fn tick_if_due(&mut self) {
        let every = u64::from(F::MANIFEST.tick_ms) * 1_000_000;
        if every > 0 && self.host.now_ns - self.ticked >= every {
            self.ticked = self.host.now_ns;
            let (filter, now) = (&mut self.filter, self.ticked);
            let (host, ()) = core::mem::take(&mut self.host).lend(|| filter.tick(now));
            self.host = host;
        }
    }

    /// Writes the ring as the host does before a call.
    fn fill(&mut self, packets: &[&[u8]]) {
        let Place { layer, direction, ifindex, worker, workers } = self.place;
        let window = F::MANIFEST.window as usize;
        *self.ring = abi::Ring {
            n: packets.len() as u32,
            layer: match layer {
                Layer::Ether => abi::layer::ETHER,
                Layer::Inet => abi::layer::INET,
                Layer::Inet6 => abi::layer::INET6,
            },
            direction: if direction == Direction::In { abi::direction::IN } else { abi::direction::OUT },
            ifindex,
            now_ns: self.host.now_ns,
            generation: self.generation,
            worker,
            workers,
            window: F::MANIFEST.window,
            ..blank_ring()
        };
        // What an earlier burst left must not help a filter that reads too far.
        self.windows.fill(0xee);
        for (i, bytes) in packets.iter().enumerate() {
            let cap = bytes.len().min(window);
            self.windows[i * window..i * window + cap].copy_from_slice(&bytes[..cap]);
            self.ring.packets[i] = read::describe(bytes, layer, window, BASE + (i * window) as u32, ifindex);
        }
    }

    /// What a counter came to, by its name.
    ///
    /// # Panics
    /// When the manifest has no such counter.
    pub fn counter(&self, name: &str) -> u64 {
        let at = F::MANIFEST.counters.iter().position(|c| *c == name);
        self.counters[at.unwrap_or_else(|| panic!("there is no counter {name}; there are {:?}", F::MANIFEST.counters))]
    }

    /// The lines that the filter logged.
    pub fn log(&self) -> &[Line] {
        &self.host.log
    }

    /// Whether the filter logged a line of that level with these words in it.
    pub fn logged(&self, level: Level, words: &str) -> bool {
        self.host.log.iter().any(|l| l.level == level && l.text.contains(words))
    }

    /// How many calls to tables the filter made.
    pub fn calls_to_tables(&self) -> u64 {
        self.host.look_ups
    }

    /// The filter itself.
    pub fn filter(&mut self) -> &mut F {
        &mut self.filter
    }

    /// Puts a new generation in the place of the filter: another version, or the same with another configuration. Tables and
    /// clock stay; the state goes over when both keep state.
    ///
    /// # Errors
    /// What the new one says when it refuses the configuration; the harness is then lost.
    pub fn swap<N: Module>(self, config: &str) -> Result<Harness<N>, String> {
        let mut new = Harness::<N>::new(config)?;
        new.host.take_over(&self.host);
        (new.ticked, new.generation, new.place) = (self.ticked, self.generation + 1, self.place);
        if !(F::KEEPS_STATE && N::KEEPS_STATE) {
            return Ok(new);
        }
        let mut old = self.filter;
        let (mut buffer, mut state) = (vec![0; self.windows.len()], Vec::new());
        loop {
            let n = old.export_state(state.len(), &mut buffer);
            assert!(
                n <= buffer.len(),
                "export_state returns {n}, more than the {} bytes that it may write",
                buffer.len()
            );
            state.extend_from_slice(&buffer[..n]);
            assert!(state.len() <= abi::STATE_MAX as usize, "more than {} bytes of state", abi::STATE_MAX);
            if n == 0 {
                break;
            }
        }
        let mut at = 0;
        for part in state.chunks(new.windows.len()) {
            if let Err(e) = new.filter.import_state(at, part) {
                // As smpnet does: what is left is an instance that never saw any state.
                let mut fresh = Harness::<N>::new(config)?;
                fresh.host.take_over(&self.host);
                fresh.host.log.push(Line { level: Level::Error, text: format!("state: {e}") });
                (fresh.ticked, fresh.generation, fresh.place) = (new.ticked, new.generation, new.place);
                return Ok(fresh);
            }
            at += part.len();
        }
        Ok(new)
    }

    /// Judges the packets of a pcap or pcapng file, with the times that stand in it, in bursts of one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn pcap(&mut self, file: &Path) -> Result<Vec<Judged>, String> {
        let packets = read::pcap(file)?;
        let first = packets.first().map_or(Duration::ZERO, |(time, _)| *time);
        let start = self.host.now_ns;
        let judge = |(time, bytes): &(Duration, Vec<u8>)| {
            let since = u64::try_from(time.saturating_sub(first).as_nanos()).unwrap_or(u64::MAX);
            self.host.now_ns = self.host.now_ns.max(start.saturating_add(since));
            self.packet(bytes)
        };
        Ok(packets.iter().map(judge).collect())
    }
}

/// Where the windows begin, in the terms of the ring.
const BASE: u32 = size_of::<abi::Ring>() as u32;
