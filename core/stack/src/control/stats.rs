//! Counters, summed up.

use crate::net::counters::{Account, ArpStat, FlowStat, IcmpStat, IfCounter, IpStat, REASONS, base};
use crate::net::ifnet::Ifnet;
use crate::stack::Stack;
use crate::types::{Accounting, DropCount, IfCounters};
use serde::Serialize;
use smpnet_abi::DropReason;
use std::sync::atomic::Ordering;

/// Counters of the protocols by NetBSD's names, in their order, for `netstat -s`.
#[derive(Clone, Debug, Serialize)]
pub struct ProtocolStats {
    /// IPv4 (41 counters).
    pub ip: Vec<(&'static str, u64)>,
    /// ICMP.
    pub icmp: Vec<(&'static str, u64)>,
    /// ARP.
    pub arp: Vec<(&'static str, u64)>,
}

/// The flow caches of all workers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FlowStatus {
    /// Packets that took the remembered way.
    pub hits: u64,
    /// Packets that took the long way.
    pub misses: u64,
    /// Of these, packets whose flow was remembered from before a change.
    pub stale: u64,
    /// Flows remembered.
    pub inserts: u64,
    /// Flows forgotten for want of space.
    pub evictions: u64,
    /// Entries of each worker's table.
    pub capacity: u64,
}

impl Stack {
    /// Protocol counters.
    pub fn protocol_stats(&self) -> ProtocolStats {
        let sum = |base: usize, names: &[&'static str]| -> Vec<(&'static str, u64)> {
            names.iter().enumerate().map(|(i, n)| (*n, self.counters.sum(base + i))).collect()
        };
        ProtocolStats {
            ip: sum(base::IP, &IpStat::NAMES),
            icmp: sum(base::ICMP, &IcmpStat::NAMES),
            arp: sum(base::ARP, &ArpStat::NAMES),
        }
    }

    /// Statistics of the flow caches.
    pub fn flow_status(&self) -> FlowStatus {
        let sum = |c: FlowStat| self.counters.sum(base::FLOW + c as usize);
        FlowStatus {
            hits: sum(FlowStat::Hits),
            misses: sum(FlowStat::Misses),
            stale: sum(FlowStat::Stale),
            inserts: sum(FlowStat::Inserts),
            evictions: sum(FlowStat::Evictions),
            capacity: match self.tunables.maxflows.load(Ordering::Relaxed) {
                0 => 0,
                n => u64::from(n.next_power_of_two()).max(crate::flow::MIN_FLOWS as u64),
            },
        }
    }

    /// Every drop that happened, by interface and reason; what belongs to no interface (or to one that is gone) has an
    /// empty name. `Consumed` is not a loss but counted in the same way.
    pub fn drops(&self) -> Vec<DropCount> {
        let mut all: Vec<DropCount> = self.ifs.all().iter().flat_map(|i| if_drops(i)).collect();
        for reason in DropReason::ALL {
            let packets = self.counters.sum(base::DROPS + *reason as usize);
            if packets > 0 {
                all.push(DropCount { interface: String::new(), reason: *reason, packets });
            }
        }
        all
    }

    /// Packets dropped for a reason, over all interfaces.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops().iter().filter(|d| d.reason == reason).map(|d| d.packets).sum()
    }

    /// What entered and left the stack, and what it holds.
    pub fn accounting(&self) -> Accounting {
        let sum = |a: Account| self.counters.sum(base::ACCOUNT + a as usize);
        Accounting {
            received: sum(Account::Received),
            made: sum(Account::Made),
            from_plugins: sum(Account::FromPlugins),
            sent: sum(Account::Sent),
            dropped: sum(Account::Dropped),
            consumed: sum(Account::Consumed),
            to_plugins: sum(Account::ToPlugins),
            held: sum(Account::HeldIn).wrapping_sub(sum(Account::HeldOut)),
        }
    }

    /// The drops of an interface that is taken out are kept under no name.
    pub(super) fn keep_counts(&self, ifp: &Ifnet) {
        for i in 0..REASONS {
            let n = ifp.shared.counters.sum(IfCounter::N + i);
            if n > 0 {
                self.counters.add_control(base::DROPS + i, n);
            }
        }
    }
}

/// The drops of an interface.
pub(super) fn if_drops(ifp: &Ifnet) -> Vec<DropCount> {
    DropReason::ALL
        .iter()
        .filter_map(|reason| {
            let packets = ifp.shared.counters.sum(IfCounter::N + *reason as usize);
            (packets > 0).then(|| DropCount { interface: ifp.name.to_string(), reason: *reason, packets })
        })
        .collect()
}

/// The counters of an interface.
pub(super) fn if_counters(ifp: &Ifnet) -> IfCounters {
    let sum = |c: IfCounter| ifp.shared.counters.sum(c as usize);
    IfCounters {
        ipackets: sum(IfCounter::Ipackets),
        ierrors: sum(IfCounter::Ierrors),
        opackets: sum(IfCounter::Opackets),
        oerrors: sum(IfCounter::Oerrors),
        collisions: sum(IfCounter::Collisions),
        ibytes: sum(IfCounter::Ibytes),
        obytes: sum(IfCounter::Obytes),
        imcasts: sum(IfCounter::Imcasts),
        omcasts: sum(IfCounter::Omcasts),
        iqdrops: sum(IfCounter::Iqdrops),
        noproto: sum(IfCounter::Noproto),
    }
}
