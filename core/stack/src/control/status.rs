//! Interfaces as told.

use super::ports::offload_names;
use super::stats::{if_counters, if_drops};
use crate::net::ifnet::{Attach, Medium};
use crate::net::poller::port_of;
use crate::stack::Stack;
use crate::types::{AddrStatus, IfStatus, mac_text};
use smpnet_abi::Text;
use std::net::Ipv4Addr;

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
                    promisc: i.promisc,
                    allmulti: ic.is_some_and(|c| c.port.allmulti),
                    multicast: ic.map(|c| c.port.multicast.iter().map(|m| mac_text(*m)).collect()).unwrap_or_default(),
                    capabilities: ic.map(|c| offload_names(c.port.offered)).unwrap_or_default(),
                    offloads: offload_names(i.offloads),
                    rss: ic.and_then(|c| c.port.rss.clone()),
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
