//! The running router, and doing one step to it.

use super::device::{Device, Wish};
use crate::{
    api::Bus,
    apply::{Executor, Op},
    config::{
        Action, ArpEntry, AttachLayer, Backing, Entries, Filter, FilterDirection, FilterSource, FilterTable, Interface,
        Mac, Multicast, NpfSection, Prefix, Route, RouteTarget, did_you_mean,
    },
    native::{NativeFilters, NativePlace, NativeSpec, Quarantined},
    plugins::Plugins,
};
use serde_json::{Value, json};
use smpnet_abi::MacAddr;
use smpnet_npf::{evaluate::Where, router::Npf};
use smpnet_runtime::Runtime;
use smpnet_stack::{
    AddrOptions, ArpSpec, AtHook, Dir, FilterOpinion, HookLayer, IfIndex, Ipv4Net, NextHopSpec, RouteKind, RouteSpec,
    RouteStep, Stack,
};
use smpnet_wasm::{FilterManager, FilterSpec, Source, TableKey};
use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Everything that runs. Dropping it does not stop it; the daemon stops it in order.
pub struct Router {
    /// Workers and memory.
    pub runtime: Arc<Runtime>,
    /// The network stack.
    pub stack: Arc<Stack>,
    /// The filters that are compiled to WebAssembly.
    pub filters: FilterManager,
    /// The filters of plugins.
    pub natives: NativeFilters,
    /// The plugins.
    pub plugins: Plugins,
    /// Where events go.
    pub bus: Bus,
    attached: Mutex<BTreeMap<String, Attached>>,
    /// Made when it is first asked for.
    npf: Mutex<Option<Arc<Npf>>>,
    /// What the last generations of each filter were made of: faults may bring any of them back.
    programs: Mutex<BTreeMap<String, VecDeque<(u64, Filter)>>>,
}

/// Generations of a filter that are remembered.
const GENERATIONS: usize = 16;

/// How a filter stands to what it was told to run.
pub enum Standing {
    /// It runs this.
    Runs,
    /// It failed, and runs this again: what it ran before.
    FellBack(Box<Filter>, String),
    /// It failed and runs nothing.
    Failed(String),
}

/// An interface that this daemon made.
struct Attached {
    index: IfIndex,
    device: Device,
    /// MTU when nobody asked for another.
    mtu: u32,
    options: Value,
}

impl Router {
    /// A router without interfaces.
    pub fn new(runtime: Arc<Runtime>, stack: Arc<Stack>, filters: FilterManager, plugins: Plugins, bus: Bus) -> Router {
        let (noted, told) = (plugins.clone(), bus.clone());
        let tell = move |q: &Quarantined| {
            noted.quarantine(&q.native, &format!("filter \"{}\": {}", q.filter, q.reason));
            let fields = json!({
                "filter": q.filter, "native": q.native, "detail": q.reason, "on_fault": q.on_fault,
            });
            told.publish("quarantine", fields);
        };
        let natives = NativeFilters::new(runtime.clone(), stack.clone(), plugins.host(), tell);
        Router {
            runtime,
            stack,
            filters,
            natives,
            plugins,
            bus,
            attached: Mutex::default(),
            npf: Mutex::default(),
            programs: Mutex::default(),
        }
    }

    fn attached(&self) -> MutexGuard<'_, BTreeMap<String, Attached>> {
        // Nothing in here is left half-changed by a panic.
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Index of an interface, or what is wrong with its name.
    pub fn index(&self, name: &str) -> Result<IfIndex, String> {
        self.stack.if_by_name(name).ok_or_else(|| {
            let names: Vec<String> = self.stack.interfaces().into_iter().map(|i| i.name).collect();
            let hint = did_you_mean(name, &names).map(|h| format!(" ({h})")).unwrap_or_default();
            format!("no interface \"{name}\"{hint}")
        })
    }

    /// What the plugin says of an interface: its state and its own counters.
    pub fn device_report(&self, name: &str) -> Value {
        let attached = self.attached();
        let Some(a) = attached.get(name) else { return json!({}) };
        let (counters, stats, status) =
            self.stack.with_ports(|| (a.device.counters(), a.device.port_stats(), a.device.status()));
        let counters: serde_json::Map<String, Value> = counters.into_iter().map(|(n, v)| (n, v.into())).collect();
        json!({"status": status, "driver_stats": stats, "driver_counters": counters, "options": a.options})
    }

    /// Names of the ports that end by themselves.
    pub fn finite_ports(&self) -> Vec<String> {
        self.attached().iter().filter(|(_, a)| a.device.is_finite()).map(|(n, _)| n.clone()).collect()
    }

    /// Notes with the plugin that something which it made failed.
    pub fn quarantined(&self, interface: &str, reason: &str) {
        let driver = self.stack.interfaces().into_iter().find(|i| i.name == interface).map(|i| i.driver);
        if let Some(driver) = driver {
            self.plugins.quarantine(&driver, reason);
        }
    }

    fn create(&self, i: &Interface) -> Result<Value, String> {
        if i.backing == Backing::Loopback {
            let index = self.index(&i.name)?;
            if let Some(mtu) = i.mtu {
                self.stack.set_mtu(index, mtu).map_err(text)?;
            }
            self.stack.set_description(index, &i.description).map_err(text)?;
            return Ok(Value::Null);
        }
        let index = self.stack.if_reserve(&i.name).map_err(text)?;
        let made = self.create_at(index, i);
        if made.is_err() && self.stack.if_by_name(&i.name) == Some(index) {
            // The name is free again. That nothing is attached to it is what we want.
            let _ = self.stack.detach(index);
        }
        made
    }

    fn create_at(&self, index: IfIndex, i: &Interface) -> Result<Value, String> {
        let workers = self.runtime.workers();
        let queues = |wish: Option<u16>| wish.unwrap_or(workers as u16);
        let wish = Wish {
            name: &i.name,
            ifindex: index.get(),
            options: &i.options,
            rx_queues: queues(i.rx_queues),
            tx_queues: queues(i.tx_queues),
            workers: workers as u32,
            mtu: i.mtu.unwrap_or(0),
        };
        let host = self.plugins.host();
        let device = match &i.backing {
            Backing::Driver(driver) => {
                Device::open(host, self.plugins.driver(driver)?, &wish).map_err(|e| self.plugins.not_made(driver, &e))
            }
            Backing::Kind(kind) => {
                Device::create(host, self.plugins.kind(kind)?, &wish).map_err(|e| self.plugins.not_made(kind, &e))
            }
            Backing::Loopback => Ok(Device::Loopback),
        }?;
        let attached = match &device {
            Device::Port(table, info) => self.stack.attach_port(index, table, *info),
            Device::Kind(table, info) => self.stack.attach_kind(index, table, *info),
            Device::Loopback => Ok(()),
        };
        if let Err(e) = attached {
            close(&i.name, device);
            return Err(text(e));
        }
        let finished = self.finish(index, &device, i);
        if let Err(e) = finished {
            if let Err(e) = self.stack.detach(index) {
                tracing::error!(interface = i.name, %e, "cannot detach");
            }
            close(&i.name, device);
            return Err(e);
        }
        let mtu = match &device {
            Device::Port(_, info) => info.mtu,
            Device::Kind(_, info) => info.mtu,
            Device::Loopback => 0,
        };
        let attached = Attached { index, device, mtu, options: i.options.clone() };
        self.attached().insert(i.name.clone(), attached);
        self.bus.publish("interface", json!({"interface": i.name, "what": "created"}));
        Ok(json!({"interface": i.name, "index": index}))
    }

    fn finish(&self, index: IfIndex, device: &Device, i: &Interface) -> Result<(), String> {
        if !i.description.is_empty() {
            self.stack.set_description(index, &i.description).map_err(text)?;
        }
        if let (Device::Port(..), Some(mtu)) = (device, i.mtu) {
            self.stack.set_mtu(index, mtu).map_err(text)?;
        }
        // The address first: nothing has been sent from another one yet.
        if i.mac.is_some() {
            self.stack.set_mac(index, i.mac.map(abi_mac)).map_err(text)?;
        }
        if let Some(names) = &i.offloads {
            self.stack.set_offloads(index, Some(offload_mask(names))).map_err(text)?;
        }
        if i.multicast != Multicast::default() {
            self.set_multicast(index, &i.multicast)?;
        }
        if i.promisc { self.stack.set_promisc(index, true).map_err(text) } else { Ok(()) }
    }

    fn set_multicast(&self, index: IfIndex, m: &Multicast) -> Result<(), String> {
        let list: Vec<MacAddr> = m.list.iter().copied().map(abi_mac).collect();
        self.stack.set_multicast(index, &list, m.all).map_err(text)
    }

    fn destroy(&self, i: &Interface) -> Result<Value, String> {
        if i.backing == Backing::Loopback {
            return Ok(Value::Null);
        }
        let index = self.index(&i.name)?;
        self.stack.detach(index).map_err(text)?;
        if let Some(a) = self.attached().remove(&i.name) {
            close(&i.name, a.device);
        }
        self.bus.publish("interface", json!({"interface": i.name, "what": "destroyed"}));
        Ok(Value::Null)
    }

    fn reconfigure(&self, i: &Interface) -> Result<Value, String> {
        let mut attached = self.attached();
        let a = attached.get_mut(&i.name).ok_or_else(|| format!("no interface \"{}\"", i.name))?;
        let wish = Wish {
            name: &i.name,
            ifindex: a.index.get(),
            options: &i.options,
            rx_queues: 0,
            tx_queues: 0,
            workers: self.runtime.workers() as u32,
            mtu: i.mtu.unwrap_or(0),
        };
        let info = a.device.configure(&wish)?;
        a.options = i.options.clone();
        let index = a.index;
        drop(attached);
        self.stack.kind_changed(index, info).map_err(text)?;
        Ok(Value::Null)
    }

    fn set_mtu(&self, name: &str, mtu: Option<u32>) -> Result<Value, String> {
        let index = self.index(name)?;
        let own = self.attached().get(name).map(|a| a.mtu);
        let mtu = mtu.or(own).ok_or("this interface has no MTU of its own")?;
        self.stack.set_mtu(index, mtu).map_err(text)?;
        Ok(Value::Null)
    }

    fn add_arp(&self, a: &ArpEntry) -> Result<Value, String> {
        let index = match &a.interface {
            Some(i) => self.index(i)?,
            None => self
                .stack
                .interfaces()
                .iter()
                .find(|i| i.addresses.iter().any(|net| net.address.contains(a.address)))
                .map(|i| i.index)
                .ok_or_else(|| format!("{} is in no interface's network; name its interface", a.address))?,
        };
        let spec = ArpSpec { address: a.address, mac: a.mac.map(abi_mac), publish: a.publish };
        self.stack.arp_set(index, &spec).map_err(text)?;
        Ok(Value::Null)
    }

    fn load_filter(&self, f: &Filter) -> Result<Value, String> {
        if let FilterSource::Native { filter, options } = &f.source {
            return self.load_native(f, filter, options);
        }
        let mut spec = FilterSpec::new(&f.name, source(&f.source)?, action(f.action));
        let NativePlace { layer, ifindex, dirs, priority, on_fault } = self.place(f)?;
        (spec.layer, spec.ifindex, spec.dirs, spec.priority, spec.on_fault) =
            (layer, ifindex, dirs, priority, on_fault);
        spec.faults = f.faults;
        let report = self.filters.load(spec).map_err(text)?;
        self.adopted(f, report.generation);
        Ok(self.filter_event("loaded", json!(report)))
    }

    /// Where a filter sits, in the words of the filter hosts.
    fn place(&self, f: &Filter) -> Result<NativePlace, String> {
        Ok(NativePlace {
            layer: match f.attach {
                AttachLayer::Inet => smpnet_wasm::Layer::Inet,
                AttachLayer::Ether => smpnet_wasm::Layer::Ether,
            },
            ifindex: f.interface.as_deref().map(|i| self.index(i)).transpose()?.map(IfIndex::get),
            dirs: match f.direction {
                FilterDirection::In => smpnet_wasm::Dirs::In,
                FilterDirection::Out => smpnet_wasm::Dirs::Out,
                FilterDirection::Both => smpnet_wasm::Dirs::Both,
            },
            priority: f.priority,
            on_fault: f.on_fault,
        })
    }

    fn load_native(&self, f: &Filter, native: &str, options: &Value) -> Result<Value, String> {
        let table = self.plugins.filter(native)?;
        let (name, native, options) = (f.name.clone(), native.to_owned(), options.clone());
        let spec = NativeSpec { name, table, native: native.clone(), options, place: self.place(f)? };
        let report = self.natives.load(spec).map_err(|e| self.plugins.not_made(&native, &e))?;
        Ok(self.filter_event("loaded", json!(report)))
    }

    fn swap_filter(&self, f: &Filter) -> Result<Value, String> {
        if let FilterSource::Native { filter, options } = &f.source {
            let table = self.plugins.filter(filter)?;
            let swapped = self.natives.swap(&f.name, filter, table, options);
            let report = swapped.map_err(|e| self.plugins.not_made(filter, &e))?;
            return Ok(self.filter_event("swapped", json!(report)));
        }
        let report = self.filters.swap(&f.name, source(&f.source)?, Some(action(f.action))).map_err(text)?;
        self.adopted(f, report.generation);
        Ok(self.filter_event("swapped", json!(report)))
    }

    /// Runs what a filter is to be beside what it is.
    pub fn shadow_load(&self, f: &Filter) -> Result<Value, String> {
        self.filters.shadow_load(&f.name, source(&f.source)?, Some(action(f.action))).map_err(text)?;
        let report = json!({"name": f.name, "shadow": f.what()});
        self.bus.publish("filter", json!({"filter": f.name, "what": "shadow loaded", "shadow": f.what()}));
        Ok(report)
    }

    /// Puts the shadow of a filter in its place; `f` is what it then is.
    pub fn promote(&self, f: &Filter) -> Result<Value, String> {
        let report = self.filters.promote(&f.name).map_err(text)?;
        self.adopted(f, report.generation);
        Ok(self.filter_event("promoted", json!(report)))
    }

    fn programs(&self) -> MutexGuard<'_, BTreeMap<String, VecDeque<(u64, Filter)>>> {
        // Nothing in here is left half-changed by a panic.
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a generation of a filter was made of.
    pub fn adopted(&self, f: &Filter, generation: u64) {
        let mut programs = self.programs();
        let list = programs.entry(f.name.clone()).or_default();
        list.push_back((generation, f.clone()));
        if list.len() > GENERATIONS {
            list.pop_front();
        }
    }

    /// What a filter of bytecode runs by now. None for one that the filter host does not have.
    pub fn standing(&self, name: &str) -> Option<Standing> {
        let now = self.filters.show(name).ok()?;
        let why = || now.last_fault.clone().unwrap_or_else(|| "see the log".into());
        let generation = now.status.generation;
        if !matches!(now.status.state, smpnet_wasm::State::Running | smpnet_wasm::State::Recovering) {
            return Some(Standing::Failed(format!("generation {generation} failed: {}", why())));
        }
        let ran = |g: u64| Some(self.programs().get(name)?.iter().find(|(n, _)| *n == g)?.1.clone());
        if ran(generation).is_some() {
            return Some(Standing::Runs);
        }
        let f = ran(now.restored_from?)?;
        self.adopted(&f, generation);
        let why = format!("generation {} failed; what ran before it was put back", generation - 1);
        Some(Standing::FellBack(Box::new(f), why))
    }

    fn create_table(&self, t: &FilterTable) -> Result<Value, String> {
        let tables = self.filters.tables();
        tables.create(&t.name, t.kind, Some(t.most)).map_err(text)?;
        if let Err(e) = tables.replace(&t.name, &list(&t.entries)) {
            // Just made, so nobody looks into it.
            let _ = tables.remove(&t.name);
            return Err(text(e));
        }
        self.bus.publish("table", json!({"table": t.name, "what": "created", "entries": t.entries.len()}));
        Ok(json!({"table": t.name, "entries": t.entries.len(), "added": t.entries.len(), "removed": 0}))
    }

    /// Packets see all of a change or nothing. Where there is only more or only less, no more than that is done.
    fn fill_table(&self, from: &FilterTable, to: &FilterTable) -> Result<Value, String> {
        let began = std::time::Instant::now();
        let tables = self.filters.tables();
        let changed: Entries =
            to.entries.iter().filter(|(k, v)| from.entries.get(k) != Some(v)).map(|(k, v)| (k.clone(), *v)).collect();
        let gone: Vec<_> = from.entries.keys().filter(|k| !to.entries.contains_key(k)).cloned().collect();
        match (changed.is_empty(), gone.is_empty()) {
            (true, true) => Ok(0),
            (false, true) => tables.insert(&to.name, &list(&changed)),
            (true, false) => tables.delete(&to.name, &gone),
            (false, false) => tables.replace(&to.name, &list(&to.entries)),
        }
        .map_err(text)?;
        let new = changed.keys().filter(|k| !from.entries.contains_key(k)).count();
        let report = json!({
            "table": to.name, "entries": to.entries.len(), "added": new, "changed": changed.len() - new,
            "removed": gone.len(), "fill_us": began.elapsed().as_micros() as u64,
        });
        let mut event = report.clone();
        event["what"] = json!("filled");
        self.bus.publish("table", event);
        Ok(report)
    }

    /// Publishes what happened to a filter, and gives the report back.
    pub fn filter_event(&self, what: &str, report: Value) -> Value {
        let fields = json!({
            "filter": report["name"], "what": what, "generation": report["generation"],
            "adopt_us": report["adopt_us"], "sha256": report["sha256"],
        });
        self.bus.publish("filter", fields);
        report
    }

    /// npf, if a configuration ever asked for it.
    pub fn npf(&self) -> Option<Arc<Npf>> {
        self.npf.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_npf(&self, to: Option<&NpfSection>) -> Result<Value, String> {
        let mut npf = self.npf.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(to) = to else {
            if let Some(npf) = &*npf {
                npf.stop().and_then(|()| npf.flush()).map_err(text)?;
            }
            return Ok(Value::Null);
        };
        let npf = match &*npf {
            Some(npf) => npf.clone(),
            None => {
                let compiler = Arc::new(smpnet_wasm::ruleset::RulesetEngine::new().map_err(text)?);
                npf.insert(Npf::new(&self.stack, to.settings(), Some(compiler)).map_err(text)?).clone()
            }
        };
        npf.reload(to.source.config.clone()).map_err(text)?;
        if to.active { npf.start() } else { npf.stop() }.map_err(text)?;
        let rules = to.source.config.rules().count();
        self.bus.publish("npf", json!({"what": "loaded", "file": to.source.file, "rules": rules, "active": to.active}));
        Ok(Value::Null)
    }

    /// Takes npf out for good, when nothing is received any more.
    pub fn stop_npf(&self) {
        if let Some(npf) = self.npf.lock().unwrap_or_else(PoisonError::into_inner).take() {
            npf.shutdown();
        }
    }

    /// Loads a plugin from a file.
    pub fn load_plugin(&self, file: &Path) -> Result<Value, String> {
        let loaded = self.plugins.load(file);
        let what = if loaded.is_ok() { "loaded" } else { "refused" };
        let error = loaded.as_ref().err();
        self.bus.publish("plugin", json!({"file": file, "what": what, "error": error}));
        loaded
    }
}

impl Router {
    /// What the filters at a hook say of a packet, in the order in which the stack asks them, up to the first that drops
    /// it. Changes nothing.
    pub fn opinions(&self, at: &AtHook<'_>) -> Vec<FilterOpinion> {
        let own = self.stack.if_info(at.ifindex.get()).map(|i| i.name);
        let own = own.map(|n| String::from_utf8_lossy(&n).trim_end_matches('\0').to_owned());
        let (layer_name, dir_name) = match (at.layer, at.dir) {
            (HookLayer::Ether, Dir::In) => ("ether", "in"),
            (HookLayer::Ether, Dir::Out) => ("ether", "out"),
            (_, Dir::In) => ("inet", "in"),
            (_, Dir::Out) => ("inet", "out"),
        };
        let mut hooks = self.stack.hooks();
        hooks.retain(|h| {
            h.layer == layer_name
                && (h.direction == dir_name || h.direction == "both")
                && (h.interface.is_none() || h.interface == own)
        });
        hooks.sort_by_key(|h| (h.interface.is_some(), h.priority, h.id));
        let mut opinions: Vec<FilterOpinion> = Vec::new();
        let (mut mark, mut bytes) = (at.mark, None::<Vec<u8>>);
        for h in hooks {
            let now = AtHook { mark, bytes: bytes.as_deref().unwrap_or(at.bytes), ..*at };
            let asked = if h.name == "npf" { self.npf_opinion(&now) } else { self.natives.opinion(&h.name, &now) };
            let Some(opinion) = asked.or_else(|| self.filters.opinion(&h.name, &now)) else { continue };
            mark = opinion.mark.unwrap_or(mark);
            bytes = opinion.bytes.clone().or(bytes);
            let last = !opinion.pass;
            opinions.push(opinion);
            if last {
                break;
            }
        }
        opinions
    }
}

impl Router {
    /// What the rules of npf say of a packet, its connections and translation left out.
    fn npf_opinion(&self, at: &AtHook<'_>) -> Option<FilterOpinion> {
        let npf = self.npf()?;
        let info = self.stack.if_info(at.ifindex.get())?;
        let interface = String::from_utf8_lossy(&info.name).trim_end_matches('\0').to_owned();
        let way = match at.dir {
            Dir::In => Where::In,
            Dir::Out if at.rcvif == at.ifindex => Where::Out,
            Dir::Out => Where::Forward,
        };
        let (_, rule) = npf.ask_rules(&interface, way, (at.bytes, at.bytes.len()), (at.mark >> 16) as u16);
        let (pass, detail) = match &rule {
            Some(rule) => {
                let name = rule.name.as_ref().map(|n| format!(" \"{n}\"")).unwrap_or_default();
                let pass = matches!(rule.action, smpnet_npf::config::Action::Pass);
                (pass, format!("rule {}{name} (line {}), if it belongs to no connection", rule.id, rule.at.line))
            }
            None if npf.ruleset().config.groups.is_empty() => (true, "no rules".to_owned()),
            None => (false, "no rule matches, and it is blocked unless it belongs to a connection".to_owned()),
        };
        Some(FilterOpinion { name: "npf".to_owned(), pass, detail, mark: None, bytes: None })
    }
}

impl Executor for &Router {
    fn execute_routes(&mut self, ops: &[Op]) -> Result<(), (usize, String)> {
        let step = |op: &Op| match op {
            Op::RemoveRoute(r) => Ok(RouteStep::Delete(net(r.to)?)),
            Op::ChangeRoute(_, r) => Ok(RouteStep::Change(self.route(r)?)),
            Op::AddRoute(r) => Ok(RouteStep::Add(self.route(r)?)),
            other => Err(format!("{other} concerns no route")),
        };
        let mut steps = Vec::with_capacity(ops.len());
        for (n, op) in ops.iter().enumerate() {
            steps.push(step(op).map_err(|e| (n, e))?);
        }
        self.stack.routes_apply(&steps).map_err(|(n, e)| (n, text(e)))
    }

    fn execute(&mut self, op: &Op) -> Result<Value, String> {
        let done = |r: Result<(), smpnet_stack::StackError>| r.map(|()| Value::Null).map_err(text);
        match op {
            Op::LoadPlugin(file) => self.load_plugin(file),
            Op::CreateInterface(i) => self.create(i),
            Op::DestroyInterface(i) => self.destroy(i),
            Op::Reconfigure(_, i) => self.reconfigure(i),
            Op::SetUp(i, up) => done(self.stack.set_up(self.index(i)?, *up)),
            Op::SetMtu(i, _, mtu) => self.set_mtu(i, *mtu),
            Op::SetDescription(i, _, to) => done(self.stack.set_description(self.index(i)?, to)),
            Op::SetPromisc(i, on) => done(self.stack.set_promisc(self.index(i)?, *on)),
            Op::SetMac(i, _, mac) => done(self.stack.set_mac(self.index(i)?, mac.map(abi_mac))),
            Op::SetMulticast(i, _, to) => self.set_multicast(self.index(i)?, to).map(|()| Value::Null),
            Op::SetOffloads(i, _, to) => done(self.stack.set_offloads(self.index(i)?, to.as_deref().map(offload_mask))),
            Op::AddAddress(i, a) => done(self.stack.addr_add(self.index(i)?, net(*a)?, AddrOptions::default())),
            Op::RemoveAddress(i, a) => done(self.stack.addr_del(self.index(i)?, net(*a)?)),
            Op::AddRoute(r) => done(self.stack.route_add(&self.route(r)?)),
            Op::RemoveRoute(r) => done(self.stack.route_delete(net(r.to)?)),
            Op::ChangeRoute(_, r) => done(self.stack.route_change(&self.route(r)?)),
            Op::AddArp(a) => self.add_arp(a),
            Op::RemoveArp(a) => {
                let index = a.interface.as_deref().map(|i| self.index(i)).transpose()?;
                done(self.stack.arp_delete(index, a.address))
            }
            Op::CreateTable(t) => self.create_table(t),
            Op::RemoveTable(t) => self.filters.remove_table(&t.name).map(|()| Value::Null).map_err(text),
            Op::FillTable(from, to) => self.fill_table(from, to),
            Op::LoadFilter(f) => self.load_filter(f),
            Op::SwapFilter(_, f) => self.swap_filter(f),
            Op::DetachFilter(f) => {
                if f.is_native() {
                    self.natives.detach(&f.name)?;
                } else {
                    self.filters.detach(&f.name).map_err(text)?;
                }
                self.programs().remove(&f.name);
                Ok(self.filter_event("detached", json!({"name": f.name})))
            }
            Op::SetNpf(_, to) => self.set_npf(to.as_deref()),
            Op::SetSysctl(name, _, to) => {
                self.runtime.sysctl().set(name, &to.value).map_err(text)?;
                Ok(Value::Null)
            }
        }
    }
}

impl Router {
    fn route(&self, r: &Route) -> Result<RouteSpec, String> {
        let kind = match &r.target {
            RouteTarget::Blackhole => RouteKind::Blackhole,
            RouteTarget::Reject => RouteKind::Reject,
            RouteTarget::NextHops(hops) => {
                let mut list = Vec::with_capacity(hops.len());
                for hop in hops {
                    let ifindex = hop.dev.as_deref().map(|d| self.index(d)).transpose()?;
                    list.push(NextHopSpec { via: hop.via, ifindex, weight: 1 });
                }
                RouteKind::Forward(list)
            }
        };
        Ok(RouteSpec { dst: net(r.to)?, kind })
    }
}

fn abi_mac(m: Mac) -> MacAddr {
    MacAddr { bytes: m.0 }
}

/// The bits of offloads; the names were checked when they were read.
fn offload_mask(names: &[String]) -> u32 {
    let bits = smpnet_stack::OFFLOADS.iter().filter(|(_, n)| names.iter().any(|m| m == n));
    bits.fold(0, |mask, (bit, _)| mask | bit)
}

/// The stack's word for a prefix.
pub fn net(p: Prefix) -> Result<Ipv4Net, String> {
    Ipv4Net::new(p.addr, p.len).ok_or_else(|| format!("{p} is no prefix"))
}

/// The filter host's word for a source.
pub fn source(s: &FilterSource) -> Result<Source, String> {
    Ok(match s {
        FilterSource::Expr(e) => Source::Expr(e.clone()),
        FilterSource::Program { file, text } => {
            Source::Program(smpnet_bpf::load_program(text).map_err(|e| format!("{file}: {e}"))?)
        }
        FilterSource::Module(m) => Source::Module(m.spec()),
        FilterSource::Native { filter, .. } => return Err(format!("native {filter} is no program")),
    })
}

fn list(entries: &Entries) -> Vec<(TableKey, u32)> {
    entries.iter().map(|(k, v)| (k.clone(), *v)).collect()
}

fn action(a: Action) -> smpnet_wasm::Action {
    match a {
        Action::Drop => smpnet_wasm::Action::Drop,
        Action::Pass => smpnet_wasm::Action::Pass,
    }
}

fn close(name: &str, device: Device) {
    if let Err(e) = device.close() {
        tracing::error!(interface = name, "{e}");
    }
}

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}
