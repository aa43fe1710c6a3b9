//! Neighbours as operators see them, and what the control side of ARP wants done.

use crate::error::StackError;
use crate::neigh::control::{Key, Todo};
use crate::net::ifnet::Medium;
use crate::stack::Stack;
use crate::types::{ArpStatus, IfIndex, mac_text};
use smpnet_abi::MacAddr;
use smpnet_runtime::now_ns;
use std::net::Ipv4Addr;

/// An ARP entry that the operator makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpSpec {
    /// IPv4 address.
    pub address: Ipv4Addr,
    /// Its Ethernet address; for a published entry none means the interface's own (proxy ARP).
    pub mac: Option<MacAddr>,
    /// Answer requests for it on the interface, instead of sending to it.
    pub publish: bool,
}

impl Stack {
    /// Every neighbour and every published entry.
    pub fn arp_list(&self) -> Vec<ArpStatus> {
        let now = now_ns();
        let list = self.lock_arp().list();
        let mut all: Vec<ArpStatus> = list
            .into_iter()
            .map(|((ifindex, ip), n)| ArpStatus {
                address: Ipv4Addr::from_bits(ip),
                mac: if n.mac.bytes == [0; 6] { String::new() } else { mac_text(n.mac) },
                interface: self.if_name(ifindex),
                state: n.state.name(),
                expires_s: n.deadline.map(|d| d.saturating_sub(now) / 1_000_000_000),
            })
            .collect();
        for ((ifindex, ip), mac) in self.published.load_control().iter() {
            let own = self.ifs.get_control(*ifindex).map(|i| i.mac).unwrap_or_default();
            all.push(ArpStatus {
                address: Ipv4Addr::from_bits(*ip),
                mac: mac_text(mac.unwrap_or(own)),
                interface: self.if_name(*ifindex),
                state: "published",
                expires_s: None,
            });
        }
        all.sort_by_key(|a| (a.address, a.interface.clone()));
        all
    }

    /// Enters a permanent neighbour, or a published (proxy) entry, in place of what was there.
    ///
    /// # Errors
    /// [`StackError::NoInterface`], [`StackError::BadNeighbour`], [`StackError::TableFull`].
    pub fn arp_set(&self, index: IfIndex, spec: &ArpSpec) -> Result<(), StackError> {
        let _control = self.lock();
        let ifp = self.interface(index)?;
        let bad = |why| Err(StackError::BadNeighbour(spec.address, why));
        if ifp.medium != Medium::Ether {
            return bad("the interface has no link-layer addresses");
        }
        let ip = spec.address.to_bits();
        if ifp.has_addr(ip) {
            return bad("it is an address of the interface itself");
        }
        if spec.mac.is_some_and(|m| m.bytes[0] & 1 != 0 || m.bytes == [0; 6]) {
            return bad("the Ethernet address is no station's");
        }
        let key = (index.get(), ip);
        if spec.publish {
            self.published.update(&self.domain, |old| {
                let mut new = old.clone();
                new.insert(key, spec.mac);
                (new, ())
            });
            return Ok(());
        }
        let Some(mac) = spec.mac else { return bad("a permanent entry needs an Ethernet address") };
        let mut todo = Vec::new();
        if !self.lock_arp().set_permanent(key, mac, &ifp.shared.neigh, &mut todo) {
            return Err(StackError::TableFull("table of neighbours", crate::neigh::table::SLOTS));
        }
        self.perform(todo);
        Ok(())
    }

    /// Removes an entry, whatever its kind; on every interface when none is named.
    ///
    /// # Errors
    /// [`StackError::NoNeighbour`].
    pub fn arp_delete(&self, index: Option<IfIndex>, address: Ipv4Addr) -> Result<(), StackError> {
        let _control = self.lock();
        let ip = address.to_bits();
        let matches = |k: &Key| k.1 == ip && index.is_none_or(|i| i.get() == k.0);
        // Asked for by key: there may be a million others.
        let all = self.ifs.all();
        let arp = self.lock_arp();
        let keys: Vec<Key> =
            all.iter().map(|i| (i.index.get(), ip)).filter(|k| matches(k) && arp.get(*k).is_some()).collect();
        drop(arp);
        for k in &keys {
            self.neighbours_forget(k.0, &[k.1]);
        }
        let unpublished = self.published.update(&self.domain, |old| {
            let mut new = old.clone();
            new.retain(|k, _| !matches(k));
            let n = old.len() - new.len();
            (new, n)
        });
        if keys.is_empty() && unpublished == 0 {
            return Err(StackError::NoNeighbour(address));
        }
        Ok(())
    }

    /// Removes every dynamic neighbour, of one interface or of all. Returns how many.
    pub fn arp_flush(&self, index: Option<IfIndex>) -> usize {
        let _control = self.lock();
        let list = self.lock_arp().list();
        let dynamic = list.into_iter().filter(|(k, n)| {
            n.state != crate::neigh::machine::State::Permanent && index.is_none_or(|i| i.get() == k.0)
        });
        let keys: Vec<Key> = dynamic.map(|(k, _)| k).collect();
        for k in &keys {
            self.neighbours_forget(k.0, &[k.1]);
        }
        keys.len()
    }

    /// Forgets neighbours of an interface.
    pub(super) fn neighbours_forget(&self, ifindex: u32, ips: &[u32]) {
        let table = self.ifs.get_control(ifindex).map(|i| i.shared.neigh.clone());
        let mut todo = Vec::new();
        let mut arp = self.lock_arp();
        for ip in ips {
            arp.forget((ifindex, *ip), table.as_deref(), &mut todo);
        }
        drop(arp);
        self.perform(todo);
    }

    /// Forgets the dynamic neighbours of an interface that went down, or all of one that is taken out.
    pub(super) fn neighbours_removed(&self, index: IfIndex) {
        let attached = self.ifs.get_control(index.get()).is_some_and(|i| !i.addrs.is_empty());
        let ips: Vec<u32> = self
            .lock_arp()
            .list()
            .into_iter()
            .filter(|(k, n)| k.0 == index.get() && !(attached && n.state == crate::neigh::machine::State::Permanent))
            .map(|(k, _)| k.1)
            .collect();
        self.neighbours_forget(index.get(), &ips);
    }

    /// Does what the control side of ARP decided.
    pub(super) fn perform(&self, todo: Vec<Todo>) {
        for t in todo {
            match t {
                Todo::AskAll((ifindex, ip)) => self.ask(ifindex, ip, None),
                Todo::AskOne((ifindex, ip), mac) => self.ask(ifindex, ip, Some(mac)),
                Todo::Release(key, workers) => self.each_of(workers, move |p| p.release(key)),
                Todo::Fail(key, workers) => self.each_of(workers, move |p| p.fail(key)),
            }
        }
    }

    fn each_of(&self, workers: u64, f: impl Fn(&mut crate::net::path::Path<'_>) + Clone + Send + 'static) {
        for w in 0..self.workers() {
            if workers & 1 << w != 0 {
                let f = f.clone();
                self.on_worker(w, move |p| f(p));
            }
        }
    }

    /// Asks for a neighbour from the address of ours that is in its network.
    fn ask(&self, ifindex: u32, ip: u32, to: Option<MacAddr>) {
        let Some(ifp) = self.ifs.get_control(ifindex) else { return };
        // Without an address that is ours yet the question is a probe, which names no sender (RFC 5227).
        self.send_arp(ifindex, ifp.source_for(ip).unwrap_or(0), ip, to);
    }

    /// Sends an ARP request from a worker.
    pub(super) fn send_arp(&self, ifindex: u32, spa: u32, tpa: u32, to: Option<MacAddr>) {
        self.on_worker(ifindex as usize, move |p| {
            if let Some(ifp) = p.ifnet(ifindex).filter(|i| i.running) {
                p.arp_request(ifp, spa, tpa, to);
            }
        });
    }
}
