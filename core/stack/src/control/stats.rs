//! Counters, summed up.

use crate::net::counters::{Account, AdjStat, ArpStat, IcmpStat, IfCounter, IpStat, REASONS, base};
use crate::net::ifnet::{Attach, Ifnet};
use crate::stack::Stack;
use crate::types::{Accounting, DropCount, IfCounters};
use serde::Serialize;
use smpnet_abi::{DropReason, OK, PortStats};
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

/// The adjacencies of all workers together: prepared ways to next hops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AdjacencyStatus {
    /// Packets that took a prepared way.
    pub hits: u64,
    /// Packets that might have, and took the long way.
    pub misses: u64,
    /// Of these, packets whose way was prepared before a change.
    pub stale: u64,
    /// Ways prepared.
    pub inserts: u64,
    /// Ways forgotten for want of space.
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

    /// Statistics of the adjacencies.
    pub fn adjacency_status(&self) -> AdjacencyStatus {
        let sum = |c: AdjStat| self.counters.sum(base::ADJACENCY + c as usize);
        AdjacencyStatus {
            hits: sum(AdjStat::Hits),
            misses: sum(AdjStat::Misses),
            stale: sum(AdjStat::Stale),
            inserts: sum(AdjStat::Inserts),
            evictions: sum(AdjStat::Evictions),
            capacity: match self.tunables.maxadjacencies.load(Ordering::Relaxed) {
                0 => 0,
                n => u64::from(n.next_power_of_two()).max(crate::adjacency::MIN_ADJACENCIES as u64),
            },
        }
    }

    /// Every drop that happened, what ports lost before the stack saw it (`RxMissed`) included, by interface and reason; what belongs to no interface (or to one that is gone) has an
    /// empty name. `Consumed` is not a loss but counted in the same way.
    pub fn drops(&self) -> Vec<DropCount> {
        let mut all: Vec<DropCount> = {
            // Drivers are asked, one control thread at a time.
            let _control = self.lock();
            self.ifs.all().iter().flat_map(|i| if_drops(i)).collect()
        };
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
        let missed = rx_missed(ifp);
        if missed > 0 {
            self.counters.add_control(base::DROPS + DropReason::RxMissed as usize, missed);
        }
    }
}

/// The drops of an interface. Caller holds the control lock.
pub(super) fn if_drops(ifp: &Ifnet) -> Vec<DropCount> {
    let missed = rx_missed(ifp);
    DropReason::ALL
        .iter()
        .filter_map(|reason| {
            let lost_before = if *reason == DropReason::RxMissed { missed } else { 0 };
            let packets = ifp.shared.counters.sum(IfCounter::N + *reason as usize) + lost_before;
            (packets > 0).then(|| DropCount { interface: ifp.name.to_string(), reason: *reason, packets })
        })
        .collect()
}

/// What a port lost before the stack saw it, since it was opened. No part of the conservation law: these packets were never
/// received. Caller holds the control lock.
pub(super) fn rx_missed(ifp: &Ifnet) -> u64 {
    let Attach::Port(port) = &ifp.attach else { return 0 };
    if !ifp.faulted() {
        let mut s = PortStats::default();
        // SAFETY: control thread, one at a time (the lock); a port is closed only after its interface has left the table,
        // under the same lock; `s` is valid to write to.
        if unsafe { (port.table.stats)(port.handle.0, &mut s) } == OK {
            port.missed.fetch_max(s.rx_missed, Ordering::Relaxed);
        }
    }
    port.missed.load(Ordering::Relaxed)
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
        path_errors: sum(IfCounter::PathErrors),
    }
}
