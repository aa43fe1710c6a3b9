//! Lists for people: connections, and what rules have decided.

use super::Npf;
use crate::{
    config::RuleId,
    packet::address_of,
    state::{Connection, Direction, Millis, Tally},
};
use std::net::IpAddr;

/// Slots of a worker's table that are looked at between two bursts.
const PAGE: u32 = 1024;

/// A connection, as it is listed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Listed {
    /// The worker that has it.
    pub worker: usize,
    /// Its protocol.
    pub proto: u8,
    /// Where its first packet came from: address and port, or identifier of an ICMP query, or 0.
    pub source: (IpAddr, u16),
    /// Where that went.
    pub destination: (IpAddr, u16),
    /// The interface on which it began.
    pub interface: Option<String>,
    /// Its first packet came in, or left.
    pub incoming: Option<bool>,
    /// What stands for the source, or the destination, after translation.
    pub translated: Option<(IpAddr, u16)>,
    /// The source is translated, and not the destination.
    pub source_translated: bool,
    /// Its state.
    pub state: &'static str,
    /// The rule that let it pass.
    pub rule: Option<String>,
    /// Milliseconds since it began, and since its last packet.
    pub age: u64,
    /// Milliseconds since its last packet.
    pub idle: u64,
    /// What went the way of the first packet: packets and bytes.
    pub sent: (u64, u64),
    /// What came back.
    pub received: (u64, u64),
}

/// What a rule has decided.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RuleTally {
    /// Its identity.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// Packets, those of its connections included.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl Npf {
    /// All connections for which `wants` is true, at most `most`; the second value: there are more.
    ///
    /// A worker is asked for a thousand at a time, between two bursts; connections that come and go meanwhile may be told or
    /// not.
    pub fn list(&self, most: usize, wants: impl Fn(&Listed) -> bool) -> (Vec<Listed>, bool) {
        let mut all = Vec::new();
        for worker in 0..self.stack.workers() {
            let mut from = Some(0);
            while let Some(start) = from {
                let page = self.ask(worker, move |slot, now| {
                    let (page, next) = slot.engine.connections().page(start..start.saturating_add(PAGE));
                    let interface = |n: u16| slot.engine.interface_name(n).map(str::to_owned);
                    (page.map(|(_, c)| listed(c, worker, now, &interface)).collect::<Vec<_>>(), next)
                });
                let Some((page, next)) = page else { break };
                for one in page.into_iter().filter(&wants) {
                    if all.len() == most {
                        return (all, true);
                    }
                    all.push(one);
                }
                from = next;
            }
        }
        (all, false)
    }

    /// What each rule has decided, in the order of the rules.
    pub fn tallies(&self) -> Vec<RuleTally> {
        let ruleset = self.ruleset();
        let mut sums = vec![Tally::default(); ruleset.rules.len()];
        for (serial, tallies) in
            self.ask_all(|slot, _| (slot.engine.ruleset().map(|r| r.serial), slot.engine.tallies().to_vec()))
        {
            // A reload in between has other rules.
            if serial == Some(ruleset.serial) {
                for (sum, tally) in sums.iter_mut().zip(tallies) {
                    sum.packets += tally.packets;
                    sum.bytes += tally.bytes;
                }
            }
        }
        let of = |(rule, sum): (&crate::config::Rule, Tally)| RuleTally {
            id: rule.id.to_string(),
            name: rule.name.clone(),
            packets: sum.packets,
            bytes: sum.bytes,
        };
        ruleset.rules.iter().zip(sums).map(of).collect()
    }
}

fn listed(c: &Connection, worker: usize, now: Millis, interface: &impl Fn(u16) -> Option<String>) -> Listed {
    let key = c.forward();
    let end = |(address, id): (u128, u16)| (address_of(key.family(), address), id);
    let count = |t: Tally| (t.packets, t.bytes);
    Listed {
        worker,
        proto: key.proto(),
        source: end(key.source_end()),
        destination: end(key.destination_end()),
        interface: c.facts.interface.and_then(interface),
        incoming: key.direction().map(|d| d == Direction::In),
        translated: c.nat().map(|n| end(n.translated)),
        source_translated: c.nat().is_some_and(|n| n.kind == crate::state::NatKind::Source),
        state: c.state().name(),
        rule: c.facts.rule.map(|RuleId(id)| format!("{id:x}")),
        age: now.since(c.created()),
        idle: now.since(c.last()),
        sent: count(c.tally(true)),
        received: count(c.tally(false)),
    }
}
