//! Interfaces as told.

use super::stats::{if_counters, if_drops};
use crate::net::ifnet::{Attach, Medium};
use crate::net::poller::port_of;
use crate::stack::Stack;
use crate::types::{AddrStatus, IfStatus, mac_text};
use smpnet_abi::{Text, offload};
use std::net::Ipv4Addr;

const OFFLOADS: [(u32, &str); 10] = [
    (offload::RX_CSUM, "rx_csum"),
    (offload::TX_CSUM, "tx_csum"),
    (offload::TSO4, "tso4"),
    (offload::TSO6, "tso6"),
    (offload::USO, "uso"),
    (offload::LRO, "lro"),
    (offload::RX_VLAN, "rx_vlan"),
    (offload::TX_VLAN, "tx_vlan"),
    (offload::SCATTER, "scatter"),
    (offload::RSS, "rss"),
];

impl Stack {
    /// Every interface in the order of the indices.
    pub fn interfaces(&self) -> Vec<IfStatus> {
        let control = self.lock();
        self.ifs
            .all()
            .iter()
            .map(|i| {
                let ic = control.ifs.get(&i.index);
                let name = |t: Text| {
                    // SAFETY: names of drivers and kinds are static.
                    unsafe { t.to_str_lossy() }.into_owned()
                };
                let port = port_of(&i.attach);
                let ether = i.medium == Medium::Ether && !matches!(i.attach, Attach::None);
                IfStatus {
                    index: i.index,
                    name: i.name.to_string(),
                    attachment: match i.attach {
                        Attach::None => "reserved",
                        Attach::Port(_) => "port",
                        Attach::Kind(_) => "kind",
                        Attach::Loopback => "loopback",
                    },
                    driver: match &i.attach {
                        Attach::Port(p) => name(p.table.name),
                        Attach::Kind(k) => name(k.table.name),
                        _ => String::new(),
                    },
                    medium: if i.medium == Medium::Ether { "ether" } else { "raw_ip" },
                    up: i.up,
                    link: ["down", "up", "unknown"][i.link.min(2) as usize],
                    speed: i.speed,
                    running: i.running,
                    quarantine: ic.and_then(|c| c.quarantine.clone()),
                    mtu: i.mtu,
                    mac: if ether { mac_text(i.mac) } else { String::new() },
                    description: ic.map(|c| c.description.clone()).unwrap_or_default(),
                    offloads: OFFLOADS.iter().filter(|(bit, _)| i.offloads & bit != 0).map(|(_, n)| *n).collect(),
                    parent: (i.parent != 0).then(|| self.if_name(i.parent)),
                    rx_queues: port.map_or(0, |p| p.rx_queues),
                    tx_queues: port.map_or(0, |p| p.tx_queues),
                    addresses: i
                        .addrs
                        .iter()
                        .map(|a| AddrStatus {
                            address: a.net,
                            broadcast: (ether && a.net.prefix_len() <= 30).then(|| Ipv4Addr::from_bits(a.net.last())),
                            state: a.state,
                        })
                        .collect(),
                    counters: if_counters(i),
                    drops: if_drops(i),
                }
            })
            .collect()
    }
}
