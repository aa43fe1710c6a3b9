//! What is wrong between the values of a configuration, and between it and the machine.

use super::{
    FilterTable,
    model::*,
    source::{Problem, Report, did_you_mean, nearest},
};
use std::{collections::HashMap, net::Ipv4Addr};

/// Compiles a filter's source, for a router with these tables; `Err` is what is wrong with it.
pub type CompileFilter<'w> = &'w dyn Fn(&Filter, &[FilterTable]) -> Result<(), FilterFault>;

/// Why a filter could not be compiled.
#[derive(Clone, Debug)]
pub struct FilterFault {
    /// What is wrong, in one line.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// False when the filter may be right, and only this machine cannot tell (libpcap is missing).
    pub fatal: bool,
}

/// What the checks know of the machine. `None` leaves a check out.
#[derive(Clone, Copy, Default)]
pub struct World<'w> {
    /// Drivers of the plugins found.
    pub drivers: Option<&'w [String]>,
    /// Interface kinds of the plugins found.
    pub kinds: Option<&'w [String]>,
    /// Native filters of the plugins found.
    pub natives: Option<&'w [String]>,
    /// Sysctl nodes that can be written.
    pub sysctl: Option<&'w [String]>,
    /// Network devices of the host, for drivers that take one over.
    pub devices: Option<&'w [String]>,
    /// The filter compiler.
    pub compile: Option<CompileFilter<'w>>,
}

/// Adds to `report` what is wrong with `config`.
pub fn check(config: &Config, world: &World<'_>, report: &mut Report) {
    let mut c = Check { config, world, problems: Vec::new() };
    c.interfaces();
    c.addresses();
    c.routes();
    c.arp();
    c.tables();
    c.filters();
    c.sysctl();
    report.problems.extend(c.problems);
    report.sort();
}

struct Check<'c> {
    config: &'c Config,
    world: &'c World<'c>,
    problems: Vec<Problem>,
}

impl<'c> Check<'c> {
    fn say(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    fn interface_names(&self) -> Vec<&'c str> {
        let mut names: Vec<&str> = self.config.interfaces.iter().map(|i| i.name.as_str()).collect();
        if !names.contains(&"lo0") {
            names.push("lo0");
        }
        names
    }

    fn interfaces(&mut self) {
        let mut first: HashMap<&str, &Interface> = HashMap::new();
        let mut devices: HashMap<&str, &Interface> = HashMap::new();
        let names = self.interface_names();
        for i in &self.config.interfaces {
            if let Some(earlier) = first.insert(&i.name, i) {
                self.problems.push(Problem::error(
                    i.at,
                    format!("interface \"{}\" is there twice; the first is in line {}", i.name, earlier.at.line),
                ));
            }
            if let Some(parent) = i.options.get("parent").and_then(|p| p.as_str())
                && matches!(i.backing, Backing::Kind(_))
                && (!names.contains(&parent) || parent == i.name)
            {
                let hint = did_you_mean(parent, &names);
                let message = format!("the parent \"{parent}\" of {} is not an interface here", i.name);
                self.problems.push(Problem::error(i.options_at, message).hint(hint));
            }
            if let Some(device) = i.options.get("device").and_then(|d| d.as_str())
                && matches!(&i.backing, Backing::Driver(d) if d == "af_packet" || d == "af_xdp")
            {
                if let Some(earlier) = devices.insert(device, i) {
                    let message = format!("the device \"{device}\" is taken by {} already", earlier.name);
                    self.problems.push(Problem::error(i.options_at, message));
                }
                if let Some(known) = self.world.devices
                    && !known.iter().any(|d| d == device)
                {
                    let message = format!("there is no network device \"{device}\"");
                    let hint = did_you_mean(device, known);
                    self.problems.push(Problem::error(i.options_at, message).hint(hint));
                }
            }
        }
        let config = self.config;
        for i in &config.interfaces {
            self.backing(i);
        }
    }

    fn backing(&mut self, i: &Interface) {
        let (what, key, name, known, other_key, other) = match &i.backing {
            Backing::Driver(d) => ("driver", "driver", d, self.world.drivers, "kind", self.world.kinds),
            Backing::Kind(k) => ("interface kind", "kind", k, self.world.kinds, "driver", self.world.drivers),
            Backing::Loopback => return,
        };
        let Some(known) = known.filter(|k| !k.contains(name)) else { return };
        let mut p = Problem::error(i.backing_at, format!("unknown {what} \"{name}\""));
        p.hint = if other.is_some_and(|o| o.contains(name)) {
            Some(format!("it is a {other_key}: write {other_key} = \"{name}\" instead of {key}"))
        } else if known.is_empty() {
            Some("no plugin with one was found; see [plugins] dirs and `smpnet doctor`".into())
        } else {
            did_you_mean(name, known)
        };
        self.say(p);
    }

    fn addresses(&mut self) {
        let config = self.config;
        let all: Vec<_> = config.interfaces.iter().flat_map(|i| i.addresses.iter().map(move |a| (i, a))).collect();
        for (n, (i, a)) in all.iter().enumerate() {
            for (j, b) in &all[..n] {
                let line = b.at.line;
                if a.value.addr == b.value.addr {
                    let message = format!("{} is an address of {} already (line {line})", a.value.addr, j.name);
                    self.say(Problem::error(a.at, message));
                } else if i.name != j.name && a.value.overlaps(b.value) {
                    let message = format!(
                        "{} of {} overlaps {} of {} (line {line}): hosts in both would be reachable through one only",
                        a.value, i.name, b.value, j.name
                    );
                    self.say(Problem::error(a.at, message));
                }
            }
        }
    }

    fn routes(&mut self) {
        let names = self.interface_names();
        let mut first: HashMap<Prefix, &Route> = HashMap::new();
        let config = self.config;
        for r in &config.routes {
            if let Some(earlier) = first.insert(r.to, r) {
                let line = earlier.at.line;
                let message = format!("a route to {} is there already (line {line})", r.to);
                let hint = "several gateways are written via = [\"…\", \"…\"]".to_owned();
                self.problems.push(Problem::error(r.at, message).hint(hint));
            }
            let RouteTarget::NextHops(hops) = &r.target else { continue };
            for hop in hops {
                if let Some(dev) = &hop.dev
                    && !names.contains(&dev.as_str())
                {
                    let message = format!("the route to {} leads to \"{dev}\", which is not an interface here", r.to);
                    self.problems.push(Problem::error(r.at, message).hint(did_you_mean(dev, &names)));
                }
                if let Some(via) = hop.via {
                    self.gateway(r, via, hop.dev.as_deref());
                }
            }
        }
    }

    fn gateway(&mut self, r: &Route, via: Ipv4Addr, dev: Option<&str>) {
        let own = self.config.interfaces.iter().find(|i| i.addresses.iter().any(|a| a.value.addr == via));
        if let Some(own) = own {
            let message =
                format!("the gateway {via} of the route to {} is this router's own address on {}", r.to, own.name);
            self.say(Problem::error(r.at, message));
        } else if dev.is_none() && self.config.connected(via).is_none() {
            let message = format!("the gateway {via} of the route to {} is in no interface's network", r.to);
            let hint = "give an interface an address in its network, or name the \"dev\"".to_owned();
            self.say(Problem::error(r.at, message).hint(hint));
        }
    }

    fn arp(&mut self) {
        let names = self.interface_names();
        let mut first = HashMap::new();
        for a in &self.config.arp {
            if let Some(line) = first.insert(a.address, a.at.line) {
                let message = format!("a neighbour {} is there already (line {line})", a.address);
                self.problems.push(Problem::error(a.at, message));
            }
            match &a.interface {
                Some(i) if !names.contains(&i.as_str()) => {
                    let message = format!("the neighbour {} is on \"{i}\", which is not an interface here", a.address);
                    self.problems.push(Problem::error(a.at, message).hint(did_you_mean(i, &names)));
                }
                None if self.config.connected(a.address).is_none() => {
                    let message = format!("the neighbour {} is in no interface's network", a.address);
                    let hint = "name its \"interface\"".to_owned();
                    self.problems.push(Problem::error(a.at, message).hint(hint));
                }
                _ => {}
            }
        }
    }

    fn tables(&mut self) {
        let mut first = HashMap::new();
        for t in &self.config.tables {
            if let Some(line) = first.insert(t.name.as_str(), t.at.line) {
                let message = format!("table \"{}\" is there twice; the first is in line {line}", t.name);
                self.problems.push(Problem::error(t.at, message));
            }
        }
    }

    fn filters(&mut self) {
        let names = self.interface_names();
        let mut first = HashMap::new();
        for f in &self.config.filters {
            if let Some(line) = first.insert(f.name.as_str(), f.at.line) {
                let message = format!("filter \"{}\" is there twice; the first is in line {line}", f.name);
                self.problems.push(Problem::error(f.at, message));
            }
            if let Some(i) = &f.interface
                && !names.contains(&i.as_str())
            {
                let message = format!("filter \"{}\" is on \"{i}\", which is not an interface here", f.name);
                self.problems.push(Problem::error(f.at, message).hint(did_you_mean(i, &names)));
            }
            if let (FilterSource::Native { filter, .. }, Some(known)) = (&f.source, self.world.natives)
                && !known.contains(filter)
            {
                let mut p = Problem::error(f.source_at, format!("unknown native filter \"{filter}\""));
                p.hint = if known.is_empty() {
                    Some("no plugin with one was found; see [plugins] dirs and `smpnet doctor`".into())
                } else {
                    did_you_mean(filter, known)
                };
                self.problems.push(p);
            }
            if let Some(Err(fault)) = self.world.compile.map(|compile| compile(f, &self.config.tables)) {
                let message = format!("filter \"{}\": {}", f.name, fault.message);
                let p = if fault.fatal {
                    Problem::error(f.source_at, message)
                } else {
                    Problem::warning(f.source_at, message)
                };
                self.problems.push(p.hint(fault.hint));
            }
        }
    }

    fn sysctl(&mut self) {
        let Some(known) = self.world.sysctl else { return };
        for (name, value) in &self.config.sysctl {
            // Nodes of interfaces and devices come and go with them.
            let dynamic = name.strip_prefix("net.interfaces.").is_some_and(|rest| {
                self.config.interfaces.iter().any(|i| rest.strip_prefix(&i.name).is_some_and(|r| r.starts_with('.')))
            });
            if known.contains(name) || dynamic || name.starts_with("hw.") {
                continue;
            }
            let hint = nearest(name, known).map(|n| format!("did you mean \"{n}\"?"));
            let message = format!("unknown or read-only sysctl \"{name}\"");
            self.problems.push(Problem::error(value.at, message).hint(hint));
        }
    }
}
