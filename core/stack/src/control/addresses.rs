//! Interface addresses: the routes that come with them, and duplicate detection.

use super::Control;
use crate::error::StackError;
use crate::neigh::dad::{Dad, Step};
use crate::net::ifnet::{IfAddr, Ifnet, Medium};
use crate::route::{NextHop, Route, RouteOwner};
use crate::stack::{LOOPBACK, Stack};
use crate::types::{AddrOptions, AddrState, IfIndex, Ipv4Net};
use smpnet_abi::MacAddr;
use smpnet_runtime::now_ns;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Between two defences of an address (RFC 5227, DEFEND_INTERVAL).
const DEFEND_INTERVAL: u64 = 10_000_000_000;

impl Stack {
    /// Gives an interface an address. On Ethernet it is tentative until duplicate detection is over; the network is routed
    /// to at once, the address itself is ours from then on.
    ///
    /// # Errors
    /// [`StackError::NoInterface`], [`StackError::BadAddress`], [`StackError::Overlap`] with another interface's network,
    /// [`StackError::RouteExists`] for a static route to the same network, [`StackError::TableFull`].
    pub fn addr_add(&self, index: IfIndex, net: Ipv4Net, options: AddrOptions) -> Result<(), StackError> {
        let mut control = self.lock();
        let ifp = self.interface(index)?;
        check_host(net)?;
        for other in self.ifs.all() {
            for a in other.addrs.iter() {
                let same = other.index == index;
                if same && a.net.addr() == net.addr() || !same && a.net.overlaps(net) {
                    return Err(StackError::Overlap(net, a.net, other.name.to_string()));
                }
                if same && a.net.overlaps(net) && a.net.trunc() != net.trunc() {
                    return Err(StackError::Overlap(net, a.net, other.name.to_string()));
                }
            }
        }
        let ether = ifp.medium == Medium::Ether;
        let probes = options.dad_count.unwrap_or_else(|| self.tunables.dad_count.load(Relaxed));
        let at_once = !ether || probes == 0;
        let network = net.trunc();
        let shared = ifp.addrs.iter().any(|a| a.net.trunc() == network);
        if net.prefix_len() < 32 && !shared {
            self.owned_route(&mut control, network, NextHop::connected(index), index)?;
        }
        if at_once && let Err(e) = self.address_routes(&mut control, index, net) {
            if net.prefix_len() < 32 && !shared {
                self.forget_route(&mut control, network);
            }
            return Err(e);
        }
        let state = if at_once { AddrState::Preferred } else { AddrState::Tentative };
        let mut addrs = ifp.addrs.to_vec();
        addrs.push(IfAddr { net, state });
        self.put(Ifnet { addrs: addrs.into(), ..(*ifp).clone() });
        if ether {
            let random = self.lock_arp().random();
            let key = (index.get(), net.addr().to_bits());
            let mut dad = Dad::new(now_ns(), probes, random);
            if at_once {
                // The address is in use already; the announcement is left to the clock.
                dad.step(now_ns(), random);
            }
            control.dads.insert(key, dad);
        }
        self.bump();
        self.slow.wake();
        self.emit("address", &ifp.name, format!("{net} {}", if at_once { "added" } else { "tentative" }));
        Ok(())
    }

    /// Takes an address away, with its routes.
    ///
    /// # Errors
    /// [`StackError::NoInterface`], [`StackError::NoAddress`].
    pub fn addr_del(&self, index: IfIndex, net: Ipv4Net) -> Result<(), StackError> {
        let mut control = self.lock();
        let ifp = self.interface(index)?;
        if !ifp.addrs.iter().any(|a| a.net == net) {
            return Err(StackError::NoAddress(net, ifp.name.to_string()));
        }
        let rest: Vec<IfAddr> = ifp.addrs.iter().filter(|a| a.net != net).cloned().collect();
        self.address_gone(&mut control, index, net, &rest);
        self.put(Ifnet { addrs: rest.into(), ..(*ifp).clone() });
        self.bump();
        self.emit("address", &ifp.name, format!("{net} deleted"));
        Ok(())
    }

    /// The routes of an address that is ours: itself, and the broadcast addresses of its network.
    pub(super) fn host_nets(&self, medium: Medium, net: Ipv4Net) -> Vec<(Ipv4Net, bool)> {
        let mut all = vec![(Ipv4Net::host(net.addr()), true)];
        if medium == Medium::Ether && net.prefix_len() <= 30 {
            // The last address, and the first (the old form of broadcast, RFC 1122, section 3.3.6).
            all.push((Ipv4Net::host(Ipv4Addr::from_bits(net.last())), false));
            all.push((Ipv4Net::host(Ipv4Addr::from_bits(net.network())), false));
        }
        all
    }

    /// Enters the routes of an address that is ours from now on.
    pub(crate) fn address_routes(&self, control: &mut Control, index: IfIndex, net: Ipv4Net) -> Result<(), StackError> {
        let medium = self.interface(index)?.medium;
        if index.get() == LOOPBACK && net.prefix_len() < 32 && control.rib.get(net.trunc()).is_none() {
            self.owned_route(control, net.trunc(), NextHop::connected(index), index)?;
        }
        let mut done = Vec::new();
        for (host, ours) in self.host_nets(medium, net) {
            let hop = if ours { NextHop::local(index) } else { NextHop::broadcast(index) };
            // A second address of a network shares its broadcast addresses.
            if !ours && control.rib.get(host).is_some_and(|r| r.owner == RouteOwner::Address(index)) {
                continue;
            }
            if let Err(e) = self.owned_route(control, host, hop, index) {
                for host in done {
                    self.forget_route(control, host);
                }
                return Err(e);
            }
            done.push(host);
        }
        Ok(())
    }

    fn owned_route(&self, control: &mut Control, dst: Ipv4Net, hop: NextHop, index: IfIndex) -> Result<(), StackError> {
        if control.rib.get(dst).is_some() {
            return Err(StackError::RouteExists(dst));
        }
        self.enter_route(control, Route::one(dst, hop, RouteOwner::Address(index)))
    }

    fn address_gone(&self, control: &mut Control, index: IfIndex, net: Ipv4Net, rest: &[IfAddr]) {
        control.dads.remove(&(index.get(), net.addr().to_bits()));
        self.forget_route(control, Ipv4Net::host(net.addr()));
        if !rest.iter().any(|a| a.net.trunc() == net.trunc()) {
            for (host, ours) in self.host_nets(Medium::Ether, net) {
                let owned = control.rib.get(host).is_some_and(|r| r.owner == RouteOwner::Address(index));
                if !ours && owned {
                    self.forget_route(control, host);
                }
            }
            if net.prefix_len() < 32 {
                self.forget_route(control, net.trunc());
            }
            let gone: Vec<u32> = self
                .lock_arp()
                .list()
                .iter()
                .filter(|(k, _)| k.0 == index.get() && net.contains(Ipv4Addr::from_bits(k.1)))
                .map(|(k, _)| k.1)
                .collect();
            self.neighbours_forget(index.get(), &gone);
        }
    }

    /// Every address of an interface that is taken out.
    pub(super) fn addresses_removed(&self, control: &mut Control, ifp: &Ifnet) {
        let mut rest = ifp.addrs.to_vec();
        while let Some(a) = rest.pop() {
            self.address_gone(control, ifp.index, a.net, &rest);
        }
    }

    fn set_addr_state(&self, key: (u32, u32), state: AddrState) -> Option<(Arc<Ifnet>, Ipv4Net)> {
        let ifp = self.ifs.get_control(key.0)?;
        let mut addrs = ifp.addrs.to_vec();
        let a = addrs.iter_mut().find(|a| a.net.addr().to_bits() == key.1)?;
        a.state = state;
        let net = a.net;
        self.put(Ifnet { addrs: addrs.into(), ..(*ifp).clone() });
        self.bump();
        Some((ifp, net))
    }

    /// Runs duplicate detection and announcements that are due. Returns when the next one is.
    pub(super) fn dad_tick(&self, control: &mut Control, now: u64) -> Option<u64> {
        let keys: Vec<(u32, u32)> = control.dads.keys().copied().collect();
        for key in keys {
            let running = self.ifs.get_control(key.0).is_some_and(|i| i.running);
            loop {
                let random = self.lock_arp().random();
                let Some(d) = control.dads.get_mut(&key) else { break };
                if !running {
                    // Nobody could hear: it begins when the interface runs. Without probes nothing is lost.
                    if d.deadline.is_some_and(|t| t <= now) {
                        d.deadline = Some(now + 500_000_000);
                    }
                    break;
                }
                match d.step(now, random) {
                    Some(Step::Probe) => self.send_arp(key.0, 0, key.1, None),
                    Some(Step::Announce) => self.send_arp(key.0, key.1, key.1, None),
                    Some(Step::Use) => self.address_usable(control, key),
                    None => break,
                }
            }
        }
        control.dads.retain(|_, d| d.deadline.is_some());
        control.dads.values().filter_map(|d| d.deadline).min()
    }

    fn address_usable(&self, control: &mut Control, key: (u32, u32)) {
        let Some((ifp, net)) = self.set_addr_state(key, AddrState::Preferred) else { return };
        if let Err(e) = self.address_routes(control, ifp.index, net) {
            tracing::error!(interface = %ifp.name, address = %net, error = %e, "address cannot be used");
            return;
        }
        self.bump();
        self.emit("address", &ifp.name, format!("{net} preferred"));
    }

    /// Another station claims an address of ours (RFC 5227, sections 2.1.1 and 2.4).
    pub(super) fn address_conflict(&self, control: &mut Control, now: u64, key: (u32, u32), mac: MacAddr) {
        let Some(ifp) = self.ifs.get_control(key.0) else { return };
        let Some(a) = ifp.addrs.iter().find(|a| a.net.addr().to_bits() == key.1) else { return };
        let mac = crate::types::mac_text(mac);
        let tentative = a.state == AddrState::Tentative && control.dads.get(&key).is_none_or(Dad::tentative);
        if tentative {
            control.dads.remove(&key);
            self.set_addr_state(key, AddrState::Duplicated);
            tracing::error!(interface = %ifp.name, address = %a.net, station = %mac, "duplicate address: not used");
            self.emit("conflict", &ifp.name, format!("{} is used by {mac}; not taken", a.net));
        } else if a.state == AddrState::Preferred {
            tracing::warn!(interface = %ifp.name, address = %a.net, station = %mac, "another station uses our address");
            self.emit("conflict", &ifp.name, format!("{} is also used by {mac}", a.net));
            // A router defends its addresses without giving them up (section 2.4, c), but not more often than this.
            let last = control.defended.get(&key).copied();
            if last.is_none_or(|t| now.saturating_sub(t) >= DEFEND_INTERVAL) {
                control.defended.insert(key, now);
                self.send_arp(key.0, key.1, key.1, None);
            }
        }
    }
}

/// Whether an interface can have an address.
fn check_host(net: Ipv4Net) -> Result<(), StackError> {
    let a = net.addr().to_bits();
    let bad = |why| Err(StackError::BadAddress(net, why));
    if a >> 24 == 0 || a >> 24 == 127 {
        return bad("it belongs to \"this network\" or to the loopback");
    }
    if a >= 0xe000_0000 {
        return bad("it is a multicast or reserved address");
    }
    if net.prefix_len() == 0 {
        return bad("a prefix length of 0 would make every address a neighbour");
    }
    if net.prefix_len() <= 30 && (a == net.last() || a == net.network()) {
        return bad("it is the network's own or broadcast address");
    }
    Ok(())
}
