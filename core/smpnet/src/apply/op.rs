//! The steps that a running router is changed by. Each has an inverse, so that a list of them can be undone.

use crate::config::{
    ArpEntry, Config, Filter, FilterTable, Interface, Located, Mac, Multicast, NpfSection, Prefix, Route,
};
use std::{collections::HashMap, fmt, path::PathBuf};

/// The value of a sysctl node, and whether the configuration asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The value as text.
    pub value: String,
    /// False for the value that the node has by itself.
    pub configured: bool,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Loads a plugin. Not undone: a library stays loaded, and does no harm.
    LoadPlugin(PathBuf),
    /// Makes an interface: down, without addresses, with its MTU.
    CreateInterface(Box<Interface>),
    /// Ends an interface that is down and has no addresses.
    DestroyInterface(Box<Interface>),
    /// Gives a kind's interface other options.
    Reconfigure(Box<Interface>, Box<Interface>),
    /// Configures an interface up or down.
    SetUp(String, bool),
    /// MTU, before and after; `None` is the device's own.
    SetMtu(String, Option<u32>, Option<u32>),
    /// Description, before and after.
    SetDescription(String, String, String),
    /// Promiscuous mode.
    SetPromisc(String, bool),
    /// Ethernet address, before and after; `None` is the device's own.
    SetMac(String, Option<Mac>, Option<Mac>),
    /// Multicasts to receive, before and after.
    SetMulticast(String, Multicast, Multicast),
    /// Offloads by name, before and after; `None` is all that the device offers.
    SetOffloads(String, Option<Vec<String>>, Option<Vec<String>>),
    /// Gives an interface an address.
    AddAddress(String, Prefix),
    /// Takes an address away.
    RemoveAddress(String, Prefix),
    /// Adds a route.
    AddRoute(Route),
    /// Removes a route.
    RemoveRoute(Route),
    /// Makes a route lead elsewhere; packets take the one or the other.
    ChangeRoute(Route, Route),
    /// Adds a static neighbour.
    AddArp(ArpEntry),
    /// Removes a static neighbour.
    RemoveArp(ArpEntry),
    /// Makes a table that modules look into, with what is in it.
    CreateTable(FilterTable),
    /// Removes a table that no filter looks into.
    RemoveTable(FilterTable),
    /// Gives a table other entries; packets see the old or the new ones.
    FillTable(FilterTable, FilterTable),
    /// Compiles and attaches a filter.
    LoadFilter(Filter),
    /// Puts another program in a filter's place; every packet is judged by the one or the other.
    SwapFilter(Filter, Filter),
    /// Takes a filter away.
    DetachFilter(Filter),
    /// Gives npf another configuration, before and after; every packet is judged by the one or the other.
    SetNpf(Option<Box<NpfSection>>, Option<Box<NpfSection>>),
    /// Writes a sysctl node, before and after.
    SetSysctl(String, Setting, Setting),
}

impl Op {
    /// The step that undoes this one.
    pub fn inverse(&self) -> Option<Op> {
        Some(match self.clone() {
            Op::LoadPlugin(_) => return None,
            Op::CreateInterface(i) => Op::DestroyInterface(i),
            Op::DestroyInterface(i) => Op::CreateInterface(i),
            Op::Reconfigure(from, to) => Op::Reconfigure(to, from),
            Op::SetUp(i, up) => Op::SetUp(i, !up),
            Op::SetMtu(i, from, to) => Op::SetMtu(i, to, from),
            Op::SetDescription(i, from, to) => Op::SetDescription(i, to, from),
            Op::SetPromisc(i, on) => Op::SetPromisc(i, !on),
            Op::SetMac(i, from, to) => Op::SetMac(i, to, from),
            Op::SetMulticast(i, from, to) => Op::SetMulticast(i, to, from),
            Op::SetOffloads(i, from, to) => Op::SetOffloads(i, to, from),
            Op::AddAddress(i, a) => Op::RemoveAddress(i, a),
            Op::RemoveAddress(i, a) => Op::AddAddress(i, a),
            Op::AddRoute(r) => Op::RemoveRoute(r),
            Op::RemoveRoute(r) => Op::AddRoute(r),
            Op::ChangeRoute(from, to) => Op::ChangeRoute(to, from),
            Op::AddArp(a) => Op::RemoveArp(a),
            Op::RemoveArp(a) => Op::AddArp(a),
            Op::CreateTable(t) => Op::RemoveTable(t),
            Op::RemoveTable(t) => Op::CreateTable(t),
            Op::FillTable(from, to) => Op::FillTable(to, from),
            Op::LoadFilter(f) => Op::DetachFilter(f),
            Op::SwapFilter(from, to) => Op::SwapFilter(to, from),
            Op::DetachFilter(f) => Op::LoadFilter(f),
            Op::SetNpf(from, to) => Op::SetNpf(to, from),
            Op::SetSysctl(n, from, to) => Op::SetSysctl(n, to, from),
        })
    }

    /// Does to the model of the running configuration what the step does to the router.
    pub fn edit(&self, config: &mut Config) {
        match self.clone() {
            Op::LoadPlugin(file) => config.plugins.load.push(Located { value: file, at: Default::default() }),
            Op::CreateInterface(i) => {
                config.interfaces.push(Interface { up: false, addresses: Vec::new(), ..*i });
            }
            Op::DestroyInterface(i) => config.interfaces.retain(|j| j.name != i.name),
            Op::Reconfigure(_, to) => on(config, &to.name, |i| i.options = to.options.clone()),
            Op::SetUp(name, up) => on(config, &name, |i| i.up = up),
            Op::SetMtu(name, _, to) => on(config, &name, |i| i.mtu = to),
            Op::SetDescription(name, _, to) => on(config, &name, |i| i.description = to),
            Op::SetPromisc(name, to) => on(config, &name, |i| i.promisc = to),
            Op::SetMac(name, _, to) => on(config, &name, |i| i.mac = to),
            Op::SetMulticast(name, _, to) => on(config, &name, |i| i.multicast = to),
            Op::SetOffloads(name, _, to) => on(config, &name, |i| i.offloads = to),
            Op::AddAddress(name, a) => on(config, &name, |i| {
                i.addresses.push(Located { value: a, at: Default::default() });
            }),
            Op::RemoveAddress(name, a) => on(config, &name, |i| i.addresses.retain(|b| b.value != a)),
            Op::AddRoute(r) => config.routes.push(r),
            Op::RemoveRoute(r) => config.routes.retain(|o| o.to != r.to),
            Op::ChangeRoute(_, r) => {
                if let Some(o) = config.routes.iter_mut().find(|o| o.to == r.to) {
                    *o = r;
                }
            }
            Op::AddArp(a) => config.arp.push(a),
            Op::RemoveArp(a) => config.arp.retain(|o| o.address != a.address),
            Op::CreateTable(t) => config.tables.push(t),
            Op::RemoveTable(t) => config.tables.retain(|o| o.name != t.name),
            Op::FillTable(_, t) => {
                if let Some(o) = config.tables.iter_mut().find(|o| o.name == t.name) {
                    *o = t;
                }
            }
            Op::LoadFilter(f) => config.filters.push(f),
            Op::SwapFilter(_, f) => {
                if let Some(o) = config.filters.iter_mut().find(|o| o.name == f.name) {
                    *o = f;
                }
            }
            Op::DetachFilter(f) => config.filters.retain(|o| o.name != f.name),
            Op::SetNpf(_, to) => config.npf = to.map(|n| *n),
            Op::SetSysctl(name, _, to) => {
                if to.configured {
                    config.sysctl.insert(name, Located { value: to.value, at: Default::default() });
                } else {
                    config.sysctl.remove(&name);
                }
            }
        }
    }

    /// Whether the step concerns a route.
    pub fn is_route(&self) -> bool {
        matches!(self, Op::AddRoute(_) | Op::RemoveRoute(_) | Op::ChangeRoute(..))
    }

    /// Does to the model what a list of steps does to the router. There may be very many routes among them.
    pub fn edit_all(ops: &[Op], config: &mut Config) {
        if ops.iter().filter(|op| op.is_route()).count() < 16 {
            return ops.iter().for_each(|op| op.edit(config));
        }
        let mut routes: Vec<Option<Route>> = std::mem::take(&mut config.routes).into_iter().map(Some).collect();
        let mut places: HashMap<Prefix, usize> =
            routes.iter().enumerate().filter_map(|(n, r)| Some((r.as_ref()?.to, n))).collect();
        for op in ops {
            match op {
                Op::AddRoute(r) => {
                    places.insert(r.to, routes.len());
                    routes.push(Some(r.clone()));
                }
                Op::RemoveRoute(r) => {
                    if let Some(n) = places.remove(&r.to) {
                        routes[n] = None;
                    }
                }
                Op::ChangeRoute(_, r) => {
                    if let Some(n) = places.get(&r.to) {
                        routes[*n] = Some(r.clone());
                    }
                }
                other => other.edit(config),
            }
        }
        config.routes = routes.into_iter().flatten().collect();
    }

    /// Where in the file that asked for it the step comes from, if it does.
    pub fn at(&self) -> crate::config::At {
        match self {
            Op::CreateInterface(i) | Op::Reconfigure(_, i) => i.options_at,
            Op::AddRoute(r) | Op::ChangeRoute(_, r) => r.at,
            Op::AddArp(a) => a.at,
            Op::CreateTable(t) | Op::FillTable(_, t) => t.at,
            Op::LoadFilter(f) | Op::SwapFilter(_, f) => f.source_at,
            Op::SetNpf(_, Some(npf)) => npf.at,
            _ => Default::default(),
        }
    }
}

fn on(config: &mut Config, name: &str, change: impl FnOnce(&mut Interface)) {
    if let Some(i) = config.interfaces.iter_mut().find(|i| i.name == name) {
        change(i);
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::config::Backing;
        let mtu = |m: &Option<u32>| m.map_or("the device's own".to_owned(), |m| m.to_string());
        match self {
            Op::LoadPlugin(file) => write!(f, "load plugin {}", file.display()),
            Op::CreateInterface(i) => match &i.backing {
                Backing::Driver(d) => write!(f, "create interface {} (driver {d})", i.name),
                Backing::Kind(k) => write!(f, "create interface {} (kind {k})", i.name),
                Backing::Loopback => write!(f, "take up interface {}", i.name),
            },
            Op::DestroyInterface(i) => write!(f, "destroy interface {}", i.name),
            Op::Reconfigure(_, i) => write!(f, "{}: options {}", i.name, i.options),
            Op::SetUp(i, up) => write!(f, "{i}: {}", if *up { "up" } else { "down" }),
            Op::SetMtu(i, from, to) => write!(f, "{i}: mtu {} -> {}", mtu(from), mtu(to)),
            Op::SetDescription(i, _, to) => write!(f, "{i}: description \"{to}\""),
            Op::SetPromisc(i, on) => write!(f, "{i}: promiscuous mode {}", if *on { "on" } else { "off" }),
            Op::SetMac(i, _, Some(mac)) => write!(f, "{i}: Ethernet address {mac}"),
            Op::SetMac(i, _, None) => write!(f, "{i}: Ethernet address of the device"),
            Op::SetMulticast(i, _, to) => write!(f, "{i}: multicasts {to}"),
            Op::SetOffloads(i, _, Some(to)) if to.is_empty() => write!(f, "{i}: offloads none"),
            Op::SetOffloads(i, _, Some(to)) => write!(f, "{i}: offloads {}", to.join(", ")),
            Op::SetOffloads(i, _, None) => write!(f, "{i}: all offloads"),
            Op::AddAddress(i, a) => write!(f, "{i}: add address {a}"),
            Op::RemoveAddress(i, a) => write!(f, "{i}: remove address {a}"),
            Op::AddRoute(r) => write!(f, "add route {r}"),
            Op::RemoveRoute(r) => write!(f, "remove route {r}"),
            Op::ChangeRoute(_, r) => write!(f, "change route {r}"),
            Op::AddArp(a) => match a.mac {
                Some(mac) => write!(f, "add neighbour {} {mac}", a.address),
                None => write!(f, "publish neighbour {} as our own", a.address),
            },
            Op::RemoveArp(a) => write!(f, "remove neighbour {}", a.address),
            Op::CreateTable(t) => write!(f, "create table {} ({}, {} entries)", t.name, t.kind, t.entries.len()),
            Op::RemoveTable(t) => write!(f, "remove table {}", t.name),
            Op::FillTable(from, to) => {
                write!(f, "fill table {}: {} -> {} entries", to.name, from.entries.len(), to.entries.len())
            }
            Op::LoadFilter(x) => write!(f, "load filter {}: {}", x.name, x.what()),
            Op::SwapFilter(_, x) => write!(f, "swap filter {}: {}", x.name, x.what()),
            Op::DetachFilter(x) => write!(f, "detach filter {}", x.name),
            Op::SetNpf(_, None) => write!(f, "npf: no configuration"),
            Op::SetNpf(_, Some(to)) => {
                let inactive = if to.active { "" } else { ", not active" };
                write!(f, "npf: {} ({} rules{inactive})", to.source.file, to.source.config.rules().count())
            }
            Op::SetSysctl(n, from, to) => write!(f, "sysctl {n}: {} -> {}", from.value, to.value),
        }
    }
}
