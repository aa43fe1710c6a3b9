//! Nodes of the sysctl tree, by NetBSD's names where it has one.

use super::stats::rx_missed;
use crate::neigh::machine::Timings;
use crate::net::counters::{Account, AdjStat, ArpStat, IcmpStat, IfCounter, IpStat, TcpStat, base};
use crate::net::ifnet::Attach;
use crate::stack::Stack;
use crate::types::IfIndex;
use smpnet_runtime::{Node, Value};
use std::sync::Weak;
use std::sync::atomic::Ordering::Relaxed;

/// A timing of ARP: name, line, least and most, and how it is read and written. Milliseconds unless it says otherwise.
type Timing = (&'static str, &'static str, u64, u64, fn(&Timings) -> u64, fn(&mut Timings, u64));

const MS: u64 = 1_000_000;

const TIMINGS: [Timing; 6] = [
    (
        "nd_delay",
        "seconds from the use of a stale entry to the first probe",
        0,
        3600,
        |t| t.delay_ns / 1000 / MS,
        |t, v| {
            t.delay_ns = v * 1000 * MS;
        },
    ),
    ("nd_retrans", "milliseconds between requests", 100, 60_000, |t| t.retrans_ns / MS, |t, v| t.retrans_ns = v * MS),
    (
        "nd_reachable",
        "milliseconds that an answer is good for",
        1000,
        3_600_000,
        |t| t.reachable_ns / MS,
        |t, v| {
            t.reachable_ns = v * MS;
        },
    ),
    ("nd_bmaxtries", "broadcast requests", 1, 10, |t| t.broadcast_tries.into(), |t, v| t.broadcast_tries = v as u8),
    ("nd_umaxtries", "unicast probes", 1, 10, |t| t.unicast_tries.into(), |t, v| t.unicast_tries = v as u8),
    (
        "keep",
        "seconds that an unused stale entry is kept",
        1,
        86_400,
        |t| t.keep_ns / 1000 / MS,
        |t, v| {
            t.keep_ns = v * 1000 * MS;
        },
    ),
];

fn ranged(v: Value, min: u64, max: u64) -> Result<u64, String> {
    match v {
        Value::UInt(n) if (min..=max).contains(&n) => Ok(n),
        _ => Err(format!("must be a number from {min} to {max}")),
    }
}

impl Stack {
    pub(crate) fn register_sysctl(&self) {
        let tree = self.rt.sysctl();
        for (i, (path, doc, min, max, _)) in self.tunables.each().into_iter().enumerate() {
            let (get, set) = (self.tunables.clone(), self.tunables.clone());
            let weak = self.me.clone();
            let node = Node::writable(
                move || u64::from(get.each()[i].4.load(Relaxed)),
                move |v| {
                    let n = ranged(v, u64::from(min), u64::from(max))?;
                    set.each()[i].4.store(n as u32, Relaxed);
                    if let Some(s) = weak.upgrade() {
                        s.bump();
                    }
                    Ok(())
                },
            );
            tree.add(path, doc, node);
        }
        for (name, doc, min, max, get, set) in TIMINGS {
            let (reader, writer) = (self.me.clone(), self.me.clone());
            let node = Node::writable(
                move || reader.upgrade().map_or(0, |s| get(&s.lock_arp().timings)),
                move |v| {
                    let n = ranged(v, min, max)?;
                    if let Some(s) = writer.upgrade() {
                        set(&mut s.lock_arp().timings, n);
                    }
                    Ok(())
                },
            );
            tree.add(&format!("net.inet.arp.{name}"), doc, node);
        }
        let groups: [(&str, usize, &[&str], &str); 6] = [
            ("net.inet.ip.stats", base::IP, &IpStat::NAMES, "IPv4 packets"),
            ("net.inet.icmp.stats", base::ICMP, &IcmpStat::NAMES, "ICMP messages"),
            ("net.inet.arp.stats", base::ARP, &ArpStat::NAMES, "ARP packets"),
            ("net.inet.tcp.stats", base::TCP, &TcpStat::NAMES, "TCP segments that were joined on their way out"),
            ("net.inet.ip.adjacency", base::ADJACENCY, &AdjStat::NAMES, "adjacencies"),
            ("kern.accounting", base::ACCOUNT, &Account::NAMES, "packets that entered and left the stack"),
        ];
        for (prefix, base, names, doc) in groups {
            for (i, name) in names.iter().enumerate() {
                self.reading(&format!("{prefix}.{name}"), doc, move |s| s.counters.sum(base + i));
            }
        }
        self.reading("net.inet.arp.entries", "neighbours", |s| s.lock_arp().len() as u64);
        self.reading("net.inet.ip.routes", "routes", |s| s.lock().rib.len() as u64);
        self.reading("net.inet.ip.fib.groups", "groups of the table for prefixes longer than /24", |s| {
            s.lock().fib.stats().groups as u64
        });
        self.reading("net.inet.ip.fib.nexthops", "next hops in use", |s| s.lock().fib.stats().nexthops as u64);
        self.reading("kern.slowq.drops", "events for the control thread that were lost", |s| s.slow.dropped());
        let weak = self.me.clone();
        let list = move || {
            let known = weak.upgrade().map_or_else(Vec::new, |s| s.path_mtu_list());
            let text = known.iter().map(|(dst, mtu)| format!("{} {mtu}", std::net::Ipv4Addr::from_bits(*dst)));
            text.collect::<Vec<_>>().join(", ")
        };
        tree.add("net.inet.ip.pathmtu", "path MTUs that ICMP told: destinations and bytes", Node::read_only(list));
        self.reading("net.inet.ip.generation", "changes that made every adjacency be prepared anew", |s| {
            u64::from(s.generation.load(Relaxed))
        });
    }

    fn reading(&self, path: &str, doc: &str, f: impl Fn(&Stack) -> u64 + Send + Sync + 'static) {
        let weak: Weak<Stack> = self.me.clone();
        self.rt.sysctl().add(path, doc, Node::read_only(move || weak.upgrade().map_or(0, |s| f(&s))));
    }

    pub(super) fn register_if_sysctl(&self, name: &str, index: IfIndex) {
        let prefix = if_prefix(name);
        for (i, counter) in IfCounter::NAMES.iter().enumerate() {
            self.reading(&format!("{prefix}.{counter}"), "interface counter", move |s| {
                s.ifs.get_control(index.get()).map_or(0, |ifp| ifp.shared.counters.sum(i))
            });
        }
        self.reading(&format!("{prefix}.rx_missed"), "packets that the port lost before smpnet saw them", move |s| {
            let _control = s.lock();
            s.ifs.get_control(index.get()).map_or(0, |ifp| rx_missed(&ifp))
        });
        self.reading(&format!("{prefix}.promisc"), "1 while frames of other stations are looked at", move |s| {
            s.ifs.get_control(index.get()).map_or(0, |ifp| ifp.promisc.into())
        });
        let (reader, writer) = (self.me.clone(), self.me.clone());
        let node = Node::writable(
            move || {
                let ifp = reader.upgrade().and_then(|s| s.ifs.get_control(index.get()));
                match ifp.as_ref().map(|i| &i.attach) {
                    Some(Attach::Port(p)) if p.rps.load(Relaxed) != 0 => "toeplitz".to_owned(),
                    _ => "none".to_owned(),
                }
            },
            move |v| {
                let on = match &v {
                    Value::Text(t) if t == "toeplitz" => true,
                    Value::Text(t) if t == "none" => false,
                    _ => return Err("must be `none` or `toeplitz`".into()),
                };
                match writer.upgrade() {
                    Some(s) => s.set_rps(index, on).map_err(|e| e.to_string()),
                    None => Err("the stack is gone".into()),
                }
            },
        );
        self.rt.sysctl().add(
            &format!("{prefix}.rps_hash"),
            "spread received flows over workers: none or toeplitz",
            node,
        );
    }

    pub(super) fn remove_if_sysctl(&self, name: &str) {
        self.rt.sysctl().remove_tree(&if_prefix(name));
    }
}

/// Dots separate levels of the tree, so those of a name become underscores.
fn if_prefix(name: &str) -> String {
    format!("net.interfaces.{}", name.replace('.', "_"))
}
