//! Drops DNS queries for listed names.
//!
//! The list is a table of the router, `names`, which the operator changes while the filter runs. A query is dropped when its
//! name or one of its parents stands there: `example.org` blocks `www.example.org` too. Names in the table are in lower case,
//! without a dot at their end, and have at most 10 labels. The value of an entry says what to do: 0 drops, 1 lets the name and
//! what is below it through, whatever its parents say, 2 only counts.
//!
//! All names of a burst are looked up in one call, or a few when it asks for very many. Answers, DNS over TCP and over TLS are
//! not looked at; a message that is not to be understood passes, counted.

#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

use alloc::boxed::Box;
use smpnet_filter::config::Options;
use smpnet_filter::wire::{Dns, Name};
use smpnet_filter::{Burst, Error, Filter, Keys, Packet, fail};

smpnet_filter::filter! {
    name: "dns-blocklist",
    summary: "drops DNS queries for listed names",
    // Ethernet with two tags, IPv4 with options or IPv6 with an extension header, UDP, and a question of the greatest length.
    window: 384,
    memory: 32,
    capabilities: [tables, reject],
    counters: [queries, blocked, allowed, noted, malformed],
    tables: [names: exact],
    type: DnsBlocklist,
}

/// Labels of the longest name in the table. A query with more is looked up by its last ones, so that a sender cannot make
/// the work of a burst as large as he likes.
const LABELS: usize = 10;
/// Keys of one call.
const KEYS: usize = 256;
/// Most ports.
const PORTS: usize = 8;

/// What an entry of the table says.
mod entry {
    /// The name and what is below it are not blocked.
    pub const ALLOW: u32 = 1;
    /// The query is counted and passes.
    pub const NOTE: u32 = 2;
}

/// The filter.
pub struct DnsBlocklist {
    ports: [u16; PORTS],
    port_count: usize,
    /// Whether the sender of a query is told.
    reject: bool,
    keys: Box<Keys<256, KEYS>>,
}

impl Filter for DnsBlocklist {
    fn new(config: &[u8]) -> Result<DnsBlocklist, Error> {
        let options = Options::parse(config, &["ports", "action"])?;
        let mut ports = [0; PORTS];
        let mut port_count = options.list("ports", &mut ports)?;
        if port_count == 0 {
            (ports[0], port_count) = (53, 1);
        }
        let reject = match options.text("action") {
            None | Some("drop") => false,
            Some("reject") => true,
            Some(other) => fail!("action = {other}: drop or reject"),
        };
        Ok(DnsBlocklist { ports, port_count, reject, keys: Box::default() })
    }

    fn filter(&mut self, burst: &mut Burst<'_>) {
        // Each packet has its keys in a row, the shortest first.
        let mut asked = Asked::new();
        for packet in burst.packets() {
            let Some(name) = self.question(packet, burst) else { continue };
            if self.keys.room() < LABELS || asked.is_full() {
                self.answer(&mut asked, burst);
            }
            let from = self.keys.len();
            for suffix in name.suffixes(LABELS) {
                // At most 253 bytes, and there is room for all of them.
                self.keys.push(suffix);
            }
            asked.push(packet, self.keys.len() - from);
        }
        self.answer(&mut asked, burst);
    }
}

impl DnsBlocklist {
    /// The name that a packet asks for, if it asks for one.
    fn question(&self, packet: Packet<'_>, burst: &mut Burst<'_>) -> Option<Name> {
        let udp = packet.udp()?;
        if !self.ports[..self.port_count].contains(&udp.destination_port()) {
            return None;
        }
        let question = match Dns::parse(udp.payload()) {
            Some(dns) if !dns.is_query() || dns.opcode() != 0 => return None,
            Some(dns) => dns.questions().next(),
            None => None,
        };
        match question {
            Some(Ok(question)) => {
                burst.count(counters::queries, 1);
                Some(question.name)
            }
            _ => {
                burst.count(counters::malformed, 1);
                None
            }
        }
    }

    /// Looks up what was gathered, and judges those who asked.
    fn answer(&mut self, asked: &mut Asked<'_>, burst: &mut Burst<'_>) {
        let mut values = tables::names.look_up(&mut self.keys);
        for (packet, keys) in asked.drain() {
            // The longest name that is listed decides.
            let listed = values.by_ref().take(keys).flatten().last();
            match listed {
                None => {}
                Some(entry::ALLOW) => burst.count(counters::allowed, 1),
                Some(entry::NOTE) => burst.count(counters::noted, 1),
                Some(_) if self.reject => {
                    burst.count(counters::blocked, 1);
                    burst.reject(packet);
                }
                Some(_) => {
                    burst.count(counters::blocked, 1);
                    burst.drop(packet);
                }
            }
        }
        drop(values);
        self.keys.clear();
    }
}

/// Packets that wait for an answer, each with the number of its keys.
struct Asked<'a> {
    packets: [Option<(Packet<'a>, usize)>; 64],
    len: usize,
}

impl<'a> Asked<'a> {
    fn new() -> Asked<'a> {
        Asked { packets: [None; 64], len: 0 }
    }

    fn is_full(&self) -> bool {
        self.len == self.packets.len()
    }

    fn push(&mut self, packet: Packet<'a>, keys: usize) {
        if let Some(slot) = self.packets.get_mut(self.len) {
            *slot = Some((packet, keys));
            self.len += 1;
        }
    }

    fn drain(&mut self) -> impl Iterator<Item = (Packet<'a>, usize)> + '_ {
        let len = core::mem::take(&mut self.len);
        self.packets[..len].iter_mut().filter_map(Option::take)
    }
}

#[cfg(test)]
mod tests;
