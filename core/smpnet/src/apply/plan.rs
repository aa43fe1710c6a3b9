//! The difference between two configurations, as a list of steps.

use super::op::{Op, Setting};
use crate::config::{Backing, Config, Filter, Interface, NextHop, NpfSection, Prefix, Route, RouteTarget};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What is to be done, and what cannot be done without a restart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The steps, in order.
    pub ops: Vec<Op>,
    /// Changes that take effect when the daemon starts again.
    pub notes: Vec<String>,
}

/// The sysctl values that a plan needs.
pub struct SysctlState<'s> {
    /// The value that a node has now.
    pub now: &'s dyn Fn(&str) -> Option<String>,
    /// The values that nodes had before the configuration first changed them.
    pub original: &'s BTreeMap<String, String>,
}

/// The steps from `old` to `new`. First what goes is taken down, from the outside in (filters, routes, addresses,
/// interfaces); then what comes is built up in the opposite order, and interfaces go up last, when everything that
/// judges and routes their packets is in place. What both have is not touched, unless it leans on an interface that has
/// to be made anew.
pub fn plan<'c>(old: &'c Config, new: &'c Config, sysctl: &SysctlState<'_>) -> Plan {
    let made_anew = made_anew(old, new);
    let gone: BTreeSet<&str> = old
        .interfaces
        .iter()
        .map(|i| i.name.as_str())
        .filter(|n| new.interface(n).is_none() || made_anew.contains(n))
        .collect();
    let by_destination = |c: &'c Config| c.routes.iter().map(|r| (r.to, r)).collect();
    let (old_routes, new_routes) = (by_destination(old), by_destination(new));
    let mut p = Planner { old, new, old_routes, new_routes, gone, ops: Vec::new() };
    p.take_down();
    p.build_up(sysctl);
    Plan { ops: p.ops, notes: notes(old, new) }
}

struct Planner<'c> {
    old: &'c Config,
    new: &'c Config,
    /// There may be very many routes, so they are found by their destinations.
    old_routes: HashMap<Prefix, &'c Route>,
    new_routes: HashMap<Prefix, &'c Route>,
    gone: BTreeSet<&'c str>,
    ops: Vec<Op>,
}

impl<'c> Planner<'c> {
    fn take_down(&mut self) {
        let (old, new) = (self.old, self.new);
        for i in old.interfaces.iter().filter(|i| i.up) {
            if self.gone.contains(i.name.as_str()) || new.interface(&i.name).is_some_and(|n| !n.up) {
                self.ops.push(Op::SetUp(i.name.clone(), false));
            }
        }
        for f in &old.filters {
            if self.filter_kept(f).is_none() {
                self.ops.push(Op::DetachFilter(f.clone()));
            }
        }
        for t in &old.tables {
            if new.tables.iter().any(|n| n.name == t.name && !n.same_shape(t)) {
                self.ops.push(Op::RemoveTable(t.clone()));
            }
        }
        for r in &old.routes {
            if self.route_kept(r).is_none() {
                self.ops.push(Op::RemoveRoute(r.clone()));
            }
        }
        for a in &old.arp {
            if !new.arp.contains(a) || self.arp_leans(a) {
                self.ops.push(Op::RemoveArp(a.clone()));
            }
        }
        for i in &old.interfaces {
            for a in &i.addresses {
                let kept = !self.gone.contains(i.name.as_str())
                    && new.interface(&i.name).is_some_and(|n| n.addresses.iter().any(|b| b.value == a.value));
                if !kept {
                    self.ops.push(Op::RemoveAddress(i.name.clone(), a.value));
                }
            }
        }
        for i in creation_order(old).into_iter().rev().filter(|i| self.gone.contains(i.name.as_str())) {
            self.ops.push(Op::DestroyInterface(Box::new(bare(i))));
        }
    }

    fn build_up(&mut self, sysctl: &SysctlState<'_>) {
        let (old, new) = (self.old, self.new);
        for file in &new.plugins.load {
            if !old.plugins.load.contains(file) {
                self.ops.push(Op::LoadPlugin(file.value.clone()));
            }
        }
        for i in creation_order(new) {
            match old.interface(&i.name).filter(|_| !self.gone.contains(i.name.as_str())) {
                None => self.ops.push(Op::CreateInterface(Box::new(bare(i)))),
                Some(o) => self.change_interface(o, i),
            }
        }
        // After the interfaces, which have nodes of their own; before the addresses, whose probes they govern.
        self.sysctl(sysctl);
        for i in &new.interfaces {
            let had = old.interface(&i.name).filter(|_| !self.gone.contains(i.name.as_str()));
            for a in &i.addresses {
                if !had.is_some_and(|o| o.addresses.iter().any(|b| b.value == a.value)) {
                    self.ops.push(Op::AddAddress(i.name.clone(), a.value));
                }
            }
        }
        for a in &new.arp {
            if !old.arp.contains(a) || self.arp_leans(a) {
                self.ops.push(Op::AddArp(a.clone()));
            }
        }
        for r in &new.routes {
            match self.old_routes.get(&r.to).copied().filter(|o| self.route_kept(o).is_some()) {
                None => self.ops.push(Op::AddRoute(r.clone())),
                Some(o) if o != r => self.ops.push(Op::ChangeRoute(o.clone(), r.clone())),
                Some(_) => {}
            }
        }
        for t in &new.tables {
            match old.tables.iter().find(|o| o.same_shape(t)) {
                None => self.ops.push(Op::CreateTable(t.clone())),
                Some(o) if o.entries != t.entries => self.ops.push(Op::FillTable(o.clone(), t.clone())),
                Some(_) => {}
            }
        }
        for f in &new.filters {
            match old.filters.iter().find(|o| o.name == f.name && self.filter_kept(o).is_some()) {
                None => self.ops.push(Op::LoadFilter(f.clone())),
                Some(o) if o != f => self.ops.push(Op::SwapFilter(o.clone(), f.clone())),
                Some(_) => {}
            }
        }
        if old.npf != new.npf {
            let boxed = |npf: &Option<NpfSection>| npf.clone().map(Box::new);
            self.ops.push(Op::SetNpf(boxed(&old.npf), boxed(&new.npf)));
        }
        // When no filter looks into them any more.
        for t in old.tables.iter().filter(|t| !new.tables.iter().any(|n| n.name == t.name)) {
            self.ops.push(Op::RemoveTable(t.clone()));
        }
        for i in new.interfaces.iter().filter(|i| i.up) {
            let was_up = old.interface(&i.name).is_some_and(|o| o.up) && !self.gone.contains(i.name.as_str());
            if !was_up {
                self.ops.push(Op::SetUp(i.name.clone(), true));
            }
        }
    }

    fn change_interface(&mut self, old: &Interface, new: &Interface) {
        let name = || new.name.clone();
        if old.options != new.options {
            self.ops.push(Op::Reconfigure(Box::new(old.clone()), Box::new(new.clone())));
        }
        if old.mtu != new.mtu {
            self.ops.push(Op::SetMtu(name(), old.mtu, new.mtu));
        }
        if old.description != new.description {
            self.ops.push(Op::SetDescription(name(), old.description.clone(), new.description.clone()));
        }
        if old.promisc != new.promisc {
            self.ops.push(Op::SetPromisc(name(), new.promisc));
        }
        if old.mac != new.mac {
            self.ops.push(Op::SetMac(name(), old.mac, new.mac));
        }
        if old.multicast != new.multicast {
            self.ops.push(Op::SetMulticast(name(), old.multicast.clone(), new.multicast.clone()));
        }
        if old.offloads != new.offloads {
            self.ops.push(Op::SetOffloads(name(), old.offloads.clone(), new.offloads.clone()));
        }
    }

    fn sysctl(&mut self, state: &SysctlState<'_>) {
        let configured = |v: &str| Setting { value: v.to_owned(), configured: true };
        for (name, value) in &self.new.sysctl {
            let from = match self.old.sysctl.get(name) {
                Some(v) if v == value => continue,
                Some(v) => configured(&v.value),
                None => Setting { value: (state.now)(name).unwrap_or_default(), configured: false },
            };
            self.ops.push(Op::SetSysctl(name.clone(), from, configured(&value.value)));
        }
        for (name, value) in &self.old.sysctl {
            if let (false, Some(original)) = (self.new.sysctl.contains_key(name), state.original.get(name)) {
                let to = Setting { value: original.clone(), configured: false };
                self.ops.push(Op::SetSysctl(name.clone(), configured(&value.value), to));
            }
        }
    }

    /// The filter in the new configuration that this one stays attached for.
    fn filter_kept(&self, f: &Filter) -> Option<&'c Filter> {
        let stays = !f.interface.as_deref().is_some_and(|i| self.gone.contains(i));
        self.new.filters.iter().find(|n| stays && n.same_place(f))
    }

    /// The route in the new configuration that this one stays for, or is changed into.
    fn route_kept(&self, r: &Route) -> Option<&'c Route> {
        let new = *self.new_routes.get(&r.to)?;
        (!self.route_leans(r, self.old)).then_some(new)
    }

    /// True when a route leads through an interface that goes away.
    fn route_leans(&self, r: &Route, config: &Config) -> bool {
        let RouteTarget::NextHops(hops) = &r.target else { return false };
        if self.gone.is_empty() {
            return false;
        }
        hops.iter().any(|NextHop { via, dev }| {
            let dev = dev.as_deref().or_else(|| via.and_then(|v| config.connected(v)).map(|i| i.name.as_str()));
            dev.is_some_and(|d| self.gone.contains(d))
        })
    }

    fn arp_leans(&self, a: &crate::config::ArpEntry) -> bool {
        let dev = a.interface.as_deref().or_else(|| self.old.connected(a.address).map(|i| i.name.as_str()));
        dev.is_some_and(|d| self.gone.contains(d))
    }
}

/// An interface as it is just after it was made.
fn bare(i: &Interface) -> Interface {
    Interface { up: false, addresses: Vec::new(), ..i.clone() }
}

/// Interfaces of both configurations that cannot be changed in place, and those that stand on them.
fn made_anew<'c>(old: &'c Config, new: &'c Config) -> BTreeSet<&'c str> {
    let mut anew: BTreeSet<&str> = BTreeSet::new();
    loop {
        let before = anew.len();
        for n in &new.interfaces {
            let Some(o) = old.interface(&n.name) else { continue };
            let port = matches!(n.backing, Backing::Driver(_));
            let parent = parent(o).or(parent(n));
            if o.backing != n.backing
                || (port && o.options != n.options)
                || (o.rx_queues, o.tx_queues) != (n.rx_queues, n.tx_queues)
                || parent.is_some_and(|p| anew.contains(p) || new.interface(p).is_none())
            {
                anew.insert(&n.name);
            }
        }
        if anew.len() == before {
            return anew;
        }
    }
}

fn parent(i: &Interface) -> Option<&str> {
    match i.backing {
        Backing::Kind(_) => i.options.get("parent")?.as_str(),
        _ => None,
    }
}

/// Interfaces in an order in which each comes after the one it stands on.
fn creation_order(config: &Config) -> Vec<&Interface> {
    let mut left: Vec<&Interface> = config.interfaces.iter().collect();
    let mut order: Vec<&Interface> = Vec::new();
    while !left.is_empty() {
        let stands = |i: &&Interface, order: &[&Interface]| {
            let Some(p) = parent(i) else { return matches!(i.backing, Backing::Driver(_) | Backing::Loopback) };
            order.iter().any(|o| o.name == p) || config.interface(p).is_none()
        };
        // Ports first; then kinds on top of what is there; then kinds that name no parent or stand in a circle.
        let n = (0..left.len()).find(|n| stands(&left[*n], &order)).unwrap_or(0);
        order.push(left.remove(n));
    }
    order
}

fn notes(old: &Config, new: &Config) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |differ: bool, what: &str| {
        if differ {
            notes.push(format!("{what} changed; it takes effect when the daemon starts again"));
        }
    };
    note(old.runtime != new.runtime, "[runtime]");
    note(old.pool != new.pool, "[pool]");
    note(old.control != new.control, "[control]");
    note(old.filter_host != new.filter_host, "[filters]");
    let settled = |c: &Config| c.npf.as_ref().map(NpfSection::settings);
    note(settled(old).zip(settled(new)).is_some_and(|(o, n)| o != n), "[npf] connections or priority");
    note(old.plugins.dirs != new.plugins.dirs, "[plugins] dirs");
    notes
}
