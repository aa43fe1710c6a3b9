//! Limits how often each source may open TCP connections.
//!
//! A source is an IPv4 address, or the /64 network of an IPv6 address, as whoever has one of those has all of its
//! addresses. Each source has a token bucket for packets that open a connection (SYN without ACK); all other packets pass
//! untouched. Sources stand in a table of fixed size. One that is not in it must take a token from the bucket of new sources
//! too, so that a flood from addresses that never come twice is limited as well.
//!
//! The limits hold for the whole router: each worker applies its share of them to the flows that it has. At a swap the
//! buckets go to the next generation, which may have other limits.

#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

use core::net::IpAddr;
use smpnet_filter::config::Options;
use smpnet_filter::{Burst, Error, Filter, Lru, Records, TokenBucket, fail};

smpnet_filter::filter! {
    name: "syn-flood",
    summary: "limits how often each source may open TCP connections",
    window: 128,
    memory: 48,
    state: keep,
    counters: [syns, limited, limited_new, sources_new, sources_forgotten],
    type: SynFlood,
}

/// Most sources of a worker: what their state takes fits into what a swap hands on.
const SOURCES_MAX: usize = 32_768;

/// A source as a key: an IPv4 address mapped into IPv6, or a /64 network.
type Source = [u8; 16];

/// The filter.
pub struct SynFlood {
    limits: Limits,
    /// Whether packets over the limit pass, counted.
    only_count: bool,
    sources: Lru<Source, TokenBucket>,
    new_sources: Option<TokenBucket>,
    export: Cursor,
    import: Records<RECORD>,
}

/// What the operator allows, in SYNs a second and at once.
#[derive(Clone, Copy)]
struct Limits {
    rate: u32,
    burst: u32,
    new_rate: u32,
    new_burst: u32,
}

impl Filter for SynFlood {
    fn new(config: &[u8]) -> Result<SynFlood, Error> {
        let known = ["rate", "burst", "new_rate", "new_burst", "sources", "only_count"];
        let options = Options::parse(config, &known)?;
        let number = |key, default| Ok::<u32, Error>(options.number(key)?.unwrap_or(default));
        let (rate, new_rate) = (number("rate", 20)?, number("new_rate", 10_000)?);
        let limits = Limits {
            rate,
            burst: number("burst", rate.saturating_mul(2))?,
            new_rate,
            new_burst: number("new_burst", new_rate)?,
        };
        let sources = number("sources", 8192)? as usize;
        if rate == 0 || limits.burst == 0 || new_rate == 0 || limits.new_burst == 0 {
            fail!("rates and bursts of 0 would let no connection through; use only_count = yes to try limits out");
        }
        if !(8..=SOURCES_MAX).contains(&sources) {
            fail!("sources = {sources}: from 8 to {SOURCES_MAX}");
        }
        Ok(SynFlood {
            limits,
            only_count: options.flag("only_count")?.unwrap_or(false),
            sources: Lru::new(sources),
            new_sources: None,
            export: Cursor::default(),
            import: Records::new(),
        })
    }

    fn filter(&mut self, burst: &mut Burst<'_>) {
        let now = burst.now_ns();
        // Nobody outside knows the nanosecond of the first burst.
        self.sources.seed(now);
        let limits = self.limits.of_one(burst.workers());
        for packet in burst.packets() {
            if !packet.tcp().is_some_and(|tcp| tcp.is_open()) {
                continue;
            }
            let Some(source) = packet.ip().map(|ip| key(ip.source())) else { continue };
            burst.count(counters::syns, 1);
            let allowed = match self.sources.get(&source) {
                Some(bucket) => bucket.take(limits.rate, limits.burst, now),
                None => self.meet(source, limits, now, burst),
            };
            if !allowed {
                burst.count(counters::limited, 1);
                if !self.only_count {
                    burst.drop(packet);
                }
            }
        }
    }

    fn export_state(&mut self, offset: usize, out: &mut [u8]) -> usize {
        let at = self.export.slot(offset);
        let records = out.chunks_exact_mut(RECORD);
        let mut written = 0;
        let mut next = at;
        // Tokens as they were: limits, and with them what is full, may be others in the next generation.
        for ((slot, source, bucket), record) in self.sources.entries(at).zip(records) {
            write_record(record, source, bucket);
            (next, written) = (slot + 1, written + RECORD);
        }
        self.export = Cursor { offset: offset + written, slot: next };
        written
    }

    fn import_state(&mut self, _offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let sources = &mut self.sources;
        self.import.feed(bytes, |record| {
            let (source, bucket) = read_record(record);
            sources.insert(source, bucket);
        });
        Ok(())
    }
}

impl SynFlood {
    /// A source that is not in the table: it is let in when new sources may still come.
    fn meet(&mut self, source: Source, limits: Limits, now: u64, burst: &mut Burst<'_>) -> bool {
        let new = self.new_sources.get_or_insert(TokenBucket::full(limits.new_burst, now));
        if !new.take(limits.new_rate, limits.new_burst, now) {
            burst.count(counters::limited_new, 1);
            return false;
        }
        burst.count(counters::sources_new, 1);
        let (bucket, forgotten) = self.sources.insert(source, TokenBucket::full(limits.burst, now));
        let allowed = bucket.take(limits.rate, limits.burst, now);
        burst.count(counters::sources_forgotten, u64::from(forgotten.is_some()));
        allowed
    }
}

impl Limits {
    /// The share of one worker, rounded up: a limit of 1 remains one.
    fn of_one(self, workers: u32) -> Limits {
        Limits {
            rate: self.rate.div_ceil(workers),
            burst: self.burst.div_ceil(workers),
            new_rate: self.new_rate.div_ceil(workers),
            new_burst: self.new_burst.div_ceil(workers),
        }
    }
}

fn key(address: IpAddr) -> Source {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => {
            let mut network = a.octets();
            network[8..].fill(0);
            network
        }
    }
}

/// A source in the state: key, level and time of the bucket, little-endian. 32 of them are 1 KiB.
const RECORD: usize = 32;

const _: () = assert!(SOURCES_MAX * RECORD <= smpnet_filter::abi::STATE_MAX as usize);

/// Where the export stands, so that not every call walks over the table from its beginning.
#[derive(Clone, Copy, Default)]
struct Cursor {
    offset: usize,
    slot: usize,
}

impl Cursor {
    /// The slot at which the export goes on; another offset than the one that comes next begins anew.
    fn slot(self, offset: usize) -> usize {
        if offset == self.offset { self.slot } else { 0 }
    }
}

fn write_record(record: &mut [u8], source: &Source, bucket: &TokenBucket) {
    let (level, at) = bucket.parts();
    record[..16].copy_from_slice(source);
    record[16..24].copy_from_slice(&level.to_le_bytes());
    record[24..32].copy_from_slice(&at.to_le_bytes());
}

fn read_record(record: &[u8; RECORD]) -> (Source, TokenBucket) {
    let word = |at: usize| record[at..].first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
    let source = *record.first_chunk::<16>().unwrap_or(&[0; 16]);
    (source, TokenBucket::from_parts(word(16), word(24)))
}

#[cfg(test)]
mod tests;
