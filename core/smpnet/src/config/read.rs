//! From TOML text to [`Config`]. Says what is wrong with each value by itself; what is wrong between values is said by
//! [`check`](super::check).

use super::{
    model::*,
    module::{Module, capabilities, fault_limit, limits},
    npf::{self, CONNECTIONS_MAX, NpfSection, NpfSource},
    source::{At, Located, Problem, Report, did_you_mean},
    table::{Source, Table, to_json},
    table_file::{Entries, FilterTable, parse_entries, parse_line, table_kind},
};
use smpnet_wasm::{ENTRIES_DEFAULT, ENTRIES_MAX, OnFault};
use std::{io, net::Ipv4Addr, path::Path};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Reads files that a configuration names; out of a test, `std::fs::read`.
pub type ReadFile<'f> = &'f dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// Reads `text`, called `file` in messages. Paths in it are relative to the folder of `file`. What was understood comes
/// back even when something was not, so that more can be said of it.
pub fn read(file: &str, text: &str, read_file: ReadFile<'_>) -> (Config, Report) {
    let source = Source::new(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for e in &errors {
        let at = source.at(e.span().map_or(0, |s| s.start));
        source.report(Problem::error(at, e.message().trim().replace('\n', "; ")));
    }
    let base = Path::new(file).parent().unwrap_or(Path::new("")).to_owned();
    let config = Reader { source: &source, base: &base, read_file }.config(document.get_ref());
    let broken: Vec<u32> = errors.iter().map(|e| source.at(e.span().map_or(0, |s| s.start)).line).collect();
    let mut report = Report { file: file.to_owned(), problems: source.problems.into_inner() };
    report.sort();
    // The parser recovers from a broken line by leaving things out, and what is said of those would mislead.
    if !errors.is_empty() {
        report.problems.truncate(errors.len());
        report.problems.retain(|p| broken.contains(&p.at.line));
    }
    (config, report)
}

struct Reader<'s, 't> {
    source: &'s Source<'t>,
    base: &'s Path,
    read_file: ReadFile<'s>,
}

impl<'s, 't> Reader<'s, 't> {
    fn config(&self, document: &'s DeTable<'t>) -> Config {
        let root = Table::new(self.source, "the file", document, 0);
        let mut config = Config::default();
        if let Some(t) = self.section(&root, "runtime", "[runtime]") {
            config.runtime = runtime(t);
        }
        if let Some(t) = self.section(&root, "pool", "[pool]") {
            config.pool = pool(self.source, t);
        }
        if let Some(t) = self.section(&root, "plugins", "[plugins]") {
            config.plugins.dirs = t.texts("dirs").unwrap_or_default().iter().map(|d| self.path(&d.value)).collect();
            config.plugins.load = t
                .texts("load")
                .unwrap_or_default()
                .into_iter()
                .map(|f| Located { value: self.path(&f.value), at: f.at })
                .collect();
            t.finish();
        }
        if let Some(t) = self.section(&root, "control", "[control]") {
            if let Some(socket) = t.text("socket") {
                config.control.socket = socket.value.into();
            }
            t.finish();
        }
        self.each(&root, "interface", "[[interface]]", |t| config.interfaces.extend(self.interface(t)));
        self.each(&root, "route", "[[route]]", |t| config.routes.extend(route(self.source, t)));
        self.each(&root, "arp", "[[arp]]", |t| config.arp.extend(arp(t)));
        if let Some(t) = self.section(&root, "filters", "[filters]") {
            match t.value("cache").map(|v| (v.get_ref().as_bool(), v)) {
                None => {}
                Some((Some(false), _)) => {
                    config.filter_host = FiltersSection { cache: None, cache_given: true };
                }
                Some((Some(true), _)) => config.filter_host.cache_given = true,
                Some((None, _)) => {
                    if let Some(dir) = t.text("cache") {
                        let cache = Some(self.path(&dir.value));
                        config.filter_host = FiltersSection { cache, cache_given: true };
                    }
                }
            }
            t.finish();
        }
        self.each(&root, "table", "[[table]]", |t| config.tables.extend(self.filter_table(t)));
        self.each(&root, "filter", "[[filter]]", |t| config.filters.extend(self.filter(t)));
        if let Some(t) = self.section(&root, "npf", "[npf]") {
            config.npf = self.npf(t);
        }
        if let Some(v) = root.value("sysctl") {
            self.sysctl(&mut config, v);
        }
        root.finish();
        config
    }

    fn path(&self, p: &str) -> std::path::PathBuf {
        self.base.join(p)
    }

    /// The table `[key]`, if it is there.
    fn section(&self, root: &Table<'s, 't>, key: &'static str, name: &'static str) -> Option<Table<'s, 't>> {
        let v = root.value(key)?;
        match v.get_ref() {
            DeValue::Table(t) => Some(Table::new(self.source, name, t, v.span().start)),
            _ => {
                self.source.report(Problem::error(self.source.at(v.span().start), format!("{name} must be a table")));
                None
            }
        }
    }

    /// Every table of `[[key]]`.
    fn each(&self, root: &Table<'s, 't>, key: &'static str, name: &'static str, mut take: impl FnMut(Table<'s, 't>)) {
        let Some(v) = root.value(key) else { return };
        let mut one = |v: &'s Spanned<DeValue<'t>>| match v.get_ref() {
            DeValue::Table(t) => take(Table::new(self.source, name, t, v.span().start)),
            _ => self.source.report(Problem::error(self.source.at(v.span().start), format!("{name} must be a table"))),
        };
        match v.get_ref() {
            DeValue::Array(list) => list.iter().for_each(one),
            DeValue::Table(_) => {
                let message = format!("[{key}] must be written {name}: there may be several");
                self.source.report(Problem::error(self.source.at(v.span().start), message));
            }
            _ => one(v),
        }
    }

    fn interface(&self, t: Table<'s, 't>) -> Option<Interface> {
        let name = t.required_text("name").and_then(|n| t.convert(n, interface_name));
        let driver = t.text("driver");
        let kind = t.text("kind");
        let loopback = name.as_ref().is_some_and(|n| n.value == "lo0");
        let backing = match (driver, kind) {
            (Some(d), None) => Some((Backing::Driver(d.value), d.at)),
            (None, Some(k)) => Some((Backing::Kind(k.value), k.at)),
            (None, None) if loopback => Some((Backing::Loopback, t.at())),
            (Some(_), Some(k)) => {
                self.source.report(Problem::error(k.at, "an interface has a \"driver\" or a \"kind\", not both"));
                None
            }
            (None, None) => {
                // A value of the wrong type was reported already.
                if t.value("driver").is_none() && t.value("kind").is_none() {
                    t.error("[[interface]] lacks \"driver\" (for a port) or \"kind\" (for a tunnel or vlan)");
                }
                None
            }
        };
        let options = t.json("options");
        let addresses = t
            .texts("addresses")
            .unwrap_or_default()
            .into_iter()
            .filter_map(|a| t.convert(a, interface_address))
            .collect();
        let mtu = t.number("mtu", 68, 65_535).map(|n| n as u32);
        let up = t.flag("up").unwrap_or(true);
        let description = t.text("description").map(|d| d.value).unwrap_or_default();
        let rx_queues = t.number("rx_queues", 1, 64).map(|n| n as u16);
        let tx_queues = t.number("tx_queues", 1, 64).map(|n| n as u16);
        let promisc = t.flag("promisc").unwrap_or(false);
        let mac = t.parsed("mac", Mac::station).map(|m| m.value);
        let mut list: Vec<Mac> = t
            .texts("multicast")
            .unwrap_or_default()
            .into_iter()
            .filter_map(|m| t.convert(m, Mac::group).map(|m| m.value))
            .collect();
        list.sort_unstable();
        list.dedup();
        let multicast = Multicast { list, all: t.flag("allmulti").unwrap_or(false) };
        let offloads = t.texts("offloads").map(|names| {
            let names = names.into_iter().filter_map(|n| t.convert(n, offload_name).map(|n| n.value)).collect();
            offload_set(names)
        });
        let at = t.at();
        t.finish();
        let ((backing, backing_at), name) = (backing?, name?);
        let options_at = options.as_ref().map_or(at, |o| o.at);
        let options = options.map_or_else(|| serde_json::json!({}), |o| o.value);
        Some(Interface {
            at,
            name: name.value,
            backing,
            backing_at,
            options,
            options_at,
            addresses,
            mtu,
            up,
            description,
            rx_queues,
            tx_queues,
            promisc,
            mac,
            multicast,
            offloads,
        })
    }

    fn npf(&self, t: Table<'s, 't>) -> Option<NpfSection> {
        let file = t.required_text("config");
        let active = t.flag("active").unwrap_or(true);
        let defaults = smpnet_npf::router::Settings::default();
        let connections = t.number("connections", 1, CONNECTIONS_MAX).map_or(defaults.connections, |n| n as usize);
        let priority = t.number("priority", i32::MIN.into(), i32::MAX.into()).unwrap_or(0) as i32;
        let at = t.at();
        t.finish();
        let file = file?;
        let text = |path: &Path| {
            let bytes = (self.read_file)(path).map_err(|e| e.to_string())?;
            String::from_utf8(bytes).map_err(|_| "it is not text".to_owned())
        };
        let name = npf::beside(self.base, &file.value);
        let main = match text(Path::new(&name)) {
            Ok(main) => main,
            Err(e) => {
                self.source.report(Problem::error(file.at, format!("{name}: {e}")));
                return None;
            }
        };
        let problem = |make: fn(At, String) -> Problem, found: &smpnet_npf::language::Diagnostics| {
            for (message, hint) in npf::told(found) {
                self.source.report(make(file.at, message).hint(hint));
            }
        };
        match NpfSource::read(&name, main, &|path| text(Path::new(path))) {
            Ok((source, warnings)) => {
                problem(Problem::warning, &warnings);
                Some(NpfSection { at, source, active, connections, priority })
            }
            Err(errors) => {
                problem(Problem::error, &errors);
                None
            }
        }
    }

    fn filter(&self, t: Table<'s, 't>) -> Option<Filter> {
        let name = t.required_text("name").and_then(|n| t.convert(n, filter_name));
        let mut sources = Vec::new();
        let mut implied = None;
        for (key, action) in [("drop", Action::Drop), ("pass", Action::Pass)] {
            if let Some(e) = t.text(key) {
                implied = Some(action);
                sources.push(Located { value: FilterSource::Expr(e.value), at: e.at });
            }
        }
        if let Some(p) = t.text("program") {
            let text = |b| String::from_utf8(b).map_err(|_| io::Error::other("is not text"));
            let read = (self.read_file)(&self.path(&p.value)).and_then(text);
            match read {
                Ok(text) => sources.push(Located { value: FilterSource::Program { file: p.value, text }, at: p.at }),
                Err(e) => self.source.report(Problem::error(p.at, format!("{}: {e}", p.value))),
            }
        }
        if let Some(m) = self.module(&t) {
            sources.push(Located { value: FilterSource::Module(Box::new(m.value)), at: m.at });
        }
        let native = t.text("native");
        let options = t.json("options");
        if let (Some(o), None) = (&options, t.value("native")) {
            self.source.report(Problem::error(o.at, "\"options\" in [[filter]] goes with \"native\""));
        }
        if (t.value("native").is_some() || t.value("module").is_some()) && t.value("action").is_some() {
            let message = "\"action\" goes with \"program\"; a native filter or a module decides by itself";
            self.source.report(Problem::error(t.at_of("action"), message));
        }
        if let Some(n) = native {
            let options = options.map_or_else(|| serde_json::json!({}), |o| o.value);
            sources.push(Located { value: FilterSource::Native { filter: n.value, options }, at: n.at });
        }
        let actions = [("drop", Action::Drop), ("pass", Action::Pass)];
        if let (Some(_), Some(_)) = (implied, t.value("action")) {
            let message = "\"action\" goes with \"program\"; \"drop\" and \"pass\" say it already";
            self.source.report(Problem::error(t.at_of("action"), message));
        }
        let action = t.word("action", &actions).or(implied).unwrap_or_default();
        let attach = t.word("attach", &[("inet", AttachLayer::Inet), ("ether", AttachLayer::Ether)]);
        let interface = t.text("interface").map(|i| i.value).filter(|i| i != "all");
        let directions = [("in", FilterDirection::In), ("out", FilterDirection::Out), ("both", FilterDirection::Both)];
        let direction = t.word("direction", &directions).unwrap_or_default();
        let priority = t.number("priority", i32::MIN.into(), i32::MAX.into()).unwrap_or(0) as i32;
        let policies = [("pass", OnFault::Pass), ("drop", OnFault::Drop), ("detach", OnFault::Detach)];
        let on_fault = t.word("on_fault", &policies).unwrap_or(OnFault::Pass);
        let faults = t.parsed("faults", fault_limit).map(|f| f.value).unwrap_or_default();
        let given = ["drop", "pass", "program", "module", "native"].iter().filter(|k| t.value(k).is_some()).count();
        if given != 1 {
            t.error("[[filter]] needs exactly one of \"drop\", \"pass\", \"program\", \"module\" and \"native\"");
        }
        let at = t.at();
        t.finish();
        let source = sources.pop().filter(|_| given == 1)?;
        Some(Filter {
            at,
            name: name?.value,
            source: source.value,
            source_at: source.at,
            action,
            attach: attach.unwrap_or_default(),
            interface,
            direction,
            priority,
            on_fault,
            faults,
        })
    }

    /// A module and what belongs to it.
    fn module(&self, t: &Table<'s, 't>) -> Option<Located<Module>> {
        const OWN: [&str; 5] = ["config", "config_file", "allow", "tables", "limits"];
        let Some(file) = t.text("module") else {
            for key in OWN.into_iter().filter(|k| t.value(k).is_some() && t.value("module").is_none()) {
                let message = format!("\"{key}\" in [[filter]] goes with \"module\"");
                self.source.report(Problem::error(t.at_of(key), message));
            }
            return None;
        };
        let path = self.path(&file.value);
        let bytes = (self.read_file)(&path);
        let bytes = bytes.map_err(|e| self.source.report(Problem::error(file.at, format!("{}: {e}", file.value)))).ok();
        let mut module = Module::new(path.display().to_string(), bytes.as_deref().unwrap_or_default().to_vec());
        if let Some(text) = t.text("config") {
            module.config = text.value.into_bytes();
        }
        if let Some(f) = t.text("config_file") {
            match (self.read_file)(&self.path(&f.value)) {
                _ if t.value("config").is_some() => {
                    let message = "a module has \"config\" or \"config_file\", not both";
                    self.source.report(Problem::error(f.at, message));
                }
                Ok(bytes) => module.config = bytes,
                Err(e) => self.source.report(Problem::error(f.at, format!("{}: {e}", f.value))),
            }
        }
        let one = |name: &str| capabilities([name]).map(|c| c.iter().collect::<Vec<_>>());
        let allowed = t.texts("allow").unwrap_or_default().into_iter().filter_map(|c| t.convert(c, one));
        module.allow = allowed.flat_map(|c| c.value).chain(module.allow.iter()).collect();
        if let Some(l) = t.json("limits") {
            match limits(&module.limits, &l.value) {
                Ok(new) => module.limits = new,
                Err(e) => self.source.report(Problem::error(l.at, e)),
            }
        }
        if let Some(names) = t.json("tables") {
            match serde_json::from_value(names.value) {
                Ok(tables) => module.tables = tables,
                Err(_) => {
                    let message = "\"tables\" in [[filter]] must give names: tables = { names = \"blocklist\" }";
                    self.source.report(Problem::error(names.at, message));
                }
            }
        }
        bytes.map(|_| Located { value: module, at: file.at })
    }

    /// A table that modules look into.
    fn filter_table(&self, t: Table<'s, 't>) -> Option<FilterTable> {
        let name = t.required_text("name").and_then(|n| t.convert(n, filter_name));
        let kind = t.required_text("kind").and_then(|k| t.convert(k, table_kind));
        let most = t.number("most", 1, ENTRIES_MAX as i64).map_or(ENTRIES_DEFAULT, |n| n as usize);
        let file = t.text("file");
        let lines = t.texts("entries").unwrap_or_default();
        let at = t.at();
        t.finish();
        let (name, kind) = (name?.value, kind?.value);
        let mut entries = Entries::new();
        if let Some(f) = file {
            let text = |b| String::from_utf8(b).map_err(|_| io::Error::other("is not text"));
            match (self.read_file)(&self.path(&f.value)).and_then(text) {
                Ok(text) => match parse_entries(kind, &text) {
                    Ok(all) => entries = all,
                    Err((line, e)) => {
                        self.source.report(Problem::error(f.at, format!("{}:{line}: {e}; table {name}", f.value)));
                    }
                },
                Err(e) => self.source.report(Problem::error(f.at, format!("{}: {e}", f.value))),
            }
        }
        for line in lines {
            match parse_line(kind, &line.value) {
                Ok(entry) => entries.extend(entry),
                Err(e) => self.source.report(Problem::error(line.at, e)),
            }
        }
        if entries.len() > most {
            let message = format!("table {name} has {} entries, {most} are allowed (\"most\")", entries.len());
            self.source.report(Problem::error(at, message));
        }
        Some(FilterTable { at, name, kind, most, entries: entries.into() })
    }

    fn sysctl(&self, config: &mut Config, v: &'s Spanned<DeValue<'t>>) {
        let DeValue::Table(t) = v.get_ref() else {
            self.source.report(Problem::error(self.source.at(v.span().start), "[sysctl] must be a table"));
            return;
        };
        self.sysctl_table(config, "", t);
    }

    /// `"net.inet.ip.ttl" = 1` and `net.inet.ip.ttl = 1` (nested tables to TOML) say the same.
    fn sysctl_table(&self, config: &mut Config, prefix: &str, t: &'s DeTable<'t>) {
        for (k, v) in t.iter() {
            let name = if prefix.is_empty() { k.get_ref().to_string() } else { format!("{prefix}.{}", k.get_ref()) };
            let value = match v.get_ref() {
                DeValue::Table(inner) => {
                    self.sysctl_table(config, &name, inner);
                    continue;
                }
                DeValue::Boolean(b) => u8::from(*b).to_string(),
                DeValue::Array(_) => {
                    let message = format!("sysctl {name} must be a number or a string, and is a list");
                    self.source.report(Problem::error(self.source.at(v.span().start), message));
                    continue;
                }
                other => match to_json(other) {
                    serde_json::Value::String(s) => s,
                    other => other.to_string(),
                },
            };
            config.sysctl.insert(name, Located { value, at: self.source.at(k.span().start) });
        }
    }
}

fn runtime(t: Table<'_, '_>) -> RuntimeSection {
    let workers = t.number("workers", 1, 64).map(|n| n as usize);
    let cpus = t.numbers("cpus", 0, 4095).unwrap_or_default().into_iter().map(|n| n as usize).collect::<Vec<_>>();
    let exit_when_done = t.flag("exit_when_done").unwrap_or(false);
    if workers.is_some_and(|w| !cpus.is_empty() && w != cpus.len()) {
        t.error("[runtime] has both \"workers\" and \"cpus\", of different number; \"cpus\" alone is enough");
    }
    t.finish();
    RuntimeSection { workers, cpus, exit_when_done }
}

fn pool(source: &Source<'_>, t: Table<'_, '_>) -> PoolSection {
    let default = PoolSection::default();
    let cells = t.number("cells", 1024, 16_777_216).map_or(default.cells, |n| n as u32);
    let mut cell_size = t.number("cell_size", 2048, 32_768).map_or(default.cell_size, |n| n as u32);
    if !cell_size.is_power_of_two() {
        let message = format!("\"cell_size\" in [pool] must be a power of two, and is {cell_size}");
        source.report(Problem::error(t.at_of("cell_size"), message));
        cell_size = default.cell_size;
    }
    let headroom = t.number("headroom", 64, 1024).map_or(default.headroom, |n| n as u32);
    let words = [("auto", HugePages::Auto), ("never", HugePages::Never), ("require", HugePages::Require)];
    let huge_pages = t.word("huge_pages", &words).unwrap_or_default();
    t.finish();
    PoolSection { cells, cell_size, headroom, huge_pages }
}

fn route(source: &Source<'_>, t: Table<'_, '_>) -> Option<Route> {
    if t.value("to").is_none() {
        t.error("[[route]] lacks \"to\"");
    }
    let to = t.parsed("to", route_destination);
    let via: Option<Vec<Located<Ipv4Addr>>> =
        t.texts("via").map(|list| list.into_iter().filter_map(|g| t.convert(g, address)).collect());
    let dev = t.text("dev");
    let kind = t.word("type", &[("blackhole", blackhole as fn() -> RouteTarget), ("reject", reject)]);
    let at = t.at();
    let target = match (via, dev, kind) {
        (None, None, Some(kind)) => Some(kind()),
        (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
            source.report(Problem::error(t.at_of("type"), "a blackhole or reject route has no \"via\" and no \"dev\""));
            None
        }
        (Some(via), dev, None) => {
            if via.is_empty() && t.value("via").is_some_and(|v| v.get_ref().as_array().is_some_and(|a| a.is_empty())) {
                source.report(Problem::error(t.at_of("via"), "\"via\" in [[route]] is an empty list"));
            }
            let dev = dev.map(|d| d.value);
            let mut hops: Vec<NextHop> =
                via.into_iter().map(|g| NextHop { via: Some(g.value), dev: dev.clone() }).collect();
            hops.sort();
            let before = hops.len();
            hops.dedup();
            if hops.len() != before {
                source.report(Problem::error(t.at_of("via"), "\"via\" in [[route]] names a gateway twice"));
            }
            Some(RouteTarget::NextHops(hops)).filter(|_| before > 0)
        }
        (None, Some(dev), None) => Some(RouteTarget::NextHops(vec![NextHop { via: None, dev: Some(dev.value) }])),
        (None, None, None) => {
            if ["via", "dev", "type"].iter().all(|k| t.value(k).is_none()) {
                t.error("[[route]] leads nowhere: it needs \"via\", \"dev\" or \"type\"");
            }
            None
        }
    };
    t.finish();
    Some(Route { at, to: to?.value, target: target? })
}

fn reject() -> RouteTarget {
    RouteTarget::Reject
}

fn blackhole() -> RouteTarget {
    RouteTarget::Blackhole
}

fn arp(t: Table<'_, '_>) -> Option<ArpEntry> {
    for key in ["address", "mac"] {
        if t.value(key).is_none() {
            t.error(format!("[[arp]] lacks \"{key}\""));
        }
    }
    let address = t.parsed("address", address);
    let mac = t.parsed("mac", mac_or_auto);
    let interface = t.text("interface").map(|i| i.value);
    let publish = t.flag("publish").unwrap_or(false);
    if mac.as_ref().is_some_and(|m| m.value.is_none()) && !publish {
        let at = t.at_of("mac");
        t.problem(at, "\"mac\" in [[arp]] is \"auto\" only with publish = true");
    }
    let at = t.at();
    t.finish();
    Some(ArpEntry { at, address: address?.value, mac: mac?.value, interface, publish })
}

/// An Ethernet address, or `auto` for the interface's own.
pub fn mac_or_auto(s: &str) -> Result<Option<Mac>, String> {
    if s == "auto" { Ok(None) } else { s.parse().map(Some) }
}

fn address(s: &str) -> Result<Ipv4Addr, String> {
    s.parse().map_err(|_| format!("\"{s}\" is not an IPv4 address"))
}

/// The name of an interface as the command line and the file take it.
pub fn interface_name(s: &str) -> Result<String, String> {
    let ok = s.starts_with(|c: char| c.is_ascii_alphabetic())
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        && s.len() <= 15
        && s != "all";
    ok.then(|| s.to_owned()).ok_or_else(|| {
        format!("\"{s}\" is not an interface name (a letter, then letters, digits, \"_\", \"-\", \".\"; at most 15)")
    })
}

/// The name of an offload.
pub fn offload_name(s: &str) -> Result<String, String> {
    let names = smpnet_stack::OFFLOADS.map(|(_, n)| n);
    if names.contains(&s) {
        return Ok(s.to_owned());
    }
    let hint = did_you_mean(s, &names).unwrap_or_else(|| format!("there are {}", names.join(", ")));
    Err(format!("unknown offload \"{s}\" ({hint})"))
}

/// Names of offloads in the order of the bits, each once, so that equal sets are equal.
pub fn offload_set(names: Vec<String>) -> Vec<String> {
    let bits = smpnet_stack::OFFLOADS.iter();
    bits.map(|(_, n)| (*n).to_owned()).filter(|n| names.contains(n)).collect()
}

/// The name of a filter.
pub fn filter_name(s: &str) -> Result<String, String> {
    let ok = s.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        && s.len() <= 63;
    ok.then(|| s.to_owned())
        .ok_or_else(|| format!("\"{s}\" is not a filter name (letters, digits, \"_\", \"-\", \".\"; at most 63)"))
}

/// An address of an interface: a host's address with the length of its network.
pub fn interface_address(s: &str) -> Result<Prefix, String> {
    if !s.contains('/') && s.parse::<Ipv4Addr>().is_ok() {
        return Err(format!("\"{s}\" lacks the prefix length, as in \"{s}/24\""));
    }
    let p: Prefix = s.parse()?;
    let a = p.addr;
    if a.is_multicast() || a.is_broadcast() || a.is_unspecified() || a.octets()[0] == 0 || a.octets()[0] >= 240 {
        return Err(format!("{a} is not the address of a host"));
    }
    if p.len < 31 && p.network().addr == a {
        return Err(format!("{p} is the address of the network, not of a host in it"));
    }
    if p.len < 31 && u32::from(a) | p.mask() == u32::MAX {
        return Err(format!("{p} is the broadcast address of the network, not a host in it"));
    }
    Ok(p)
}

/// The destination of a route: `default`, a prefix without host bits, or a host.
pub fn route_destination(s: &str) -> Result<Prefix, String> {
    if s == "default" {
        return Ok(Prefix { addr: Ipv4Addr::UNSPECIFIED, len: 0 });
    }
    let p: Prefix = s.parse()?;
    if p.network() == p {
        Ok(p)
    } else {
        Err(format!("{p} has bits behind its prefix length; the network is {}", p.network()))
    }
}
