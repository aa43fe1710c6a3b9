//! The counters in Prometheus' text format.

use super::state::Daemon;
use serde_json::Value;
use std::fmt::Write;

/// The page at `/metrics`.
pub fn render(d: &Daemon) -> String {
    let mut page = Page::default();
    let stack = &d.router.stack;
    let interfaces: Vec<Value> =
        stack.interfaces().iter().map(|i| serde_json::to_value(i).unwrap_or_default()).collect();
    interface_metrics(&mut page, &interfaces);
    page.head("smpnet_drops_total", "counter", "Packets dropped, by reason and interface.");
    for drop in stack.drops() {
        let labels = [("interface", drop.interface.as_str()), ("reason", drop.reason.name())];
        page.sample("smpnet_drops_total", &labels, drop.packets);
    }
    let accounting = serde_json::to_value(stack.accounting()).unwrap_or_default();
    page.object("smpnet_packets", "Packets by what became of them, whole router.", "counter", &accounting);
    protocol_metrics(&mut page, &super::show::protocols(stack));
    let adjacencies = serde_json::to_value(stack.adjacency_status()).unwrap_or_default();
    page.object("smpnet_adjacency", "Prepared ways to next hops, of all workers together.", "counter", &adjacencies);
    filter_metrics(&mut page, d);
    module_metrics(&mut page, d);
    bpf_metrics(&mut page, d);
    npf_metrics(&mut page, d);
    runtime_metrics(&mut page, d);
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.text.push_str(name);
        for (n, (key, v)) in labels.iter().enumerate() {
            let open = if n == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{key}=\"{}\"", escape(v));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// The numbers of an object, each a metric of its own.
    fn object(&mut self, prefix: &str, help: &str, kind: &str, object: &Value) {
        let suffix = if kind == "counter" { "_total" } else { "" };
        for (key, value) in object.as_object().into_iter().flatten() {
            if let Some(n) = value.as_u64() {
                let name = format!("{prefix}_{}{suffix}", clean(key));
                self.head(&name, kind, help);
                self.sample(&name, &[], n);
            }
        }
    }
}

fn interface_metrics(page: &mut Page, interfaces: &[Value]) {
    let name = |i: &Value| i["name"].as_str().unwrap_or("").to_owned();
    page.head("smpnet_interface_up", "gauge", "1 while the interface is up and its link is not down.");
    for i in interfaces {
        page.sample("smpnet_interface_up", &[("interface", &name(i))], u8::from(i["running"] == true));
    }
    page.head("smpnet_interface_quarantined", "gauge", "1 after the interface's plugin failed.");
    for i in interfaces {
        page.sample("smpnet_interface_quarantined", &[("interface", &name(i))], u8::from(!i["quarantine"].is_null()));
    }
    for (key, metric, help) in [
        ("ipackets", "receive_packets", "Packets received."),
        ("ibytes", "receive_bytes", "Bytes received."),
        ("ierrors", "receive_errors", "Errors on reception."),
        ("imcasts", "receive_multicast", "Multicasts received."),
        ("iqdrops", "receive_queue_drops", "Packets dropped on reception."),
        ("noproto", "receive_noproto", "Packets of no known protocol."),
        ("path_errors", "path_errors", "ICMP errors that came back for packets of a tunnel."),
        ("opackets", "transmit_packets", "Packets sent."),
        ("obytes", "transmit_bytes", "Bytes sent."),
        ("oerrors", "transmit_errors", "Errors on transmission."),
        ("omcasts", "transmit_multicast", "Multicasts sent."),
    ] {
        let metric = format!("smpnet_interface_{metric}_total");
        page.head(&metric, "counter", help);
        for i in interfaces {
            page.sample(&metric, &[("interface", &name(i))], i["counters"][key].as_u64().unwrap_or(0));
        }
    }
}

fn protocol_metrics(page: &mut Page, protocols: &Value) {
    page.head("smpnet_protocol_total", "counter", "Protocol statistics, as netstat -s shows them.");
    for (protocol, counters) in protocols.as_object().into_iter().flatten() {
        let mut sample = |name: &str, value: u64| {
            page.sample("smpnet_protocol_total", &[("protocol", protocol), ("counter", name)], value);
        };
        let numbers = counters.as_object().into_iter().flatten().filter_map(|(k, v)| Some((k, v.as_u64()?)));
        numbers.for_each(|(k, v)| sample(k, v));
    }
}

/// What filters of both kinds counted, on each worker.
fn filter_metrics(page: &mut Page, d: &Daemon) {
    let filters = super::show::filter_list(d).unwrap_or_default();
    let name = |f: &Value| f["name"].as_str().unwrap_or("").to_owned();
    let stats: Vec<(String, Value)> =
        filters.iter().map(|f| (name(f), super::show::stats_of(d, &name(f)).unwrap_or_default())).collect();
    for (key, metric, help) in [
        ("packets", "packets", "Packets that the filter judged: those passed, dropped and, by native filters, taken."),
        ("bytes", "bytes", "Their bytes."),
        ("matched", "matched", "Packets that matched."),
        ("passed", "passed", "Packets that it passed."),
        ("dropped", "dropped", "Packets that it dropped, those rejected included."),
        ("rejected", "rejected", "Packets that it dropped and whose senders were told."),
        ("consumed", "consumed", "Packets that a native filter took."),
        ("marked", "marked", "Packets that it marked."),
        ("edited", "edited", "Packets that it changed."),
        ("bursts", "bursts", "Times that it was asked about a burst."),
        ("faults", "faults", "Times that it failed."),
        ("fault_packets", "policy_packets", "Packets judged by the fault policy in its place."),
        ("sampled_packets", "sampled_packets", "Packets of the bursts whose time was taken, one in 64."),
        ("sampled_ns", "sampled_seconds", "The time of those bursts: over their packets, the time per packet."),
    ] {
        let metric = format!("smpnet_filter_{metric}_total");
        page.head(&metric, "counter", help);
        for (filter, stats) in &stats {
            for (worker, counts) in stats["per_worker"].as_array().into_iter().flatten().enumerate() {
                // Not all kinds count all of it.
                let Some(n) = counts[key].as_u64() else { continue };
                let worker = worker_name(d, worker);
                let labels = [("filter", filter.as_str()), ("worker", worker.as_str())];
                if key == "sampled_ns" {
                    page.sample(&metric, &labels, n as f64 / 1e9);
                } else {
                    page.sample(&metric, &labels, n);
                }
            }
        }
    }
    page.head("smpnet_filter_generation", "gauge", "Programs that it has run; grows with each swap.");
    for f in &filters {
        page.sample("smpnet_filter_generation", &[("filter", &name(f))], f["generation"].as_u64().unwrap_or(0));
    }
    page.head(
        "smpnet_filter_running",
        "gauge",
        "1 while the filter judges; 0 while it is detached, faulted or recovering.",
    );
    for f in &filters {
        page.sample("smpnet_filter_running", &[("filter", &name(f))], u8::from(f["state"] == "running"));
    }
}

/// Behind the workers comes what nobody's worker counted.
fn worker_name(d: &Daemon, index: usize) -> String {
    if index < d.router.runtime.workers() { index.to_string() } else { "none".to_owned() }
}

/// Who listens, and what all listeners that there ever were have counted.
fn bpf_metrics(page: &mut Page, d: &Daemon) {
    let listeners = d.router.stack.bpf_listeners();
    page.head("smpnet_bpf_listeners", "gauge", "Listeners.");
    page.sample("smpnet_bpf_listeners", &[], listeners.len());
    let nodes = d.router.runtime.sysctl().walk("net.bpf.stats");
    for (key, metric, help) in [
        ("recv", "received", "Packets that the filters of listeners saw."),
        ("capt", "matched", "Packets that the filters of listeners accepted."),
        ("drop", "dropped", "Accepted packets that found no room in a listener's buffer."),
    ] {
        let metric = format!("smpnet_bpf_{metric}_total");
        page.head(&metric, "counter", help);
        let value = nodes.iter().find(|(name, ..)| name.ends_with(key)).and_then(|(_, v, _)| v.to_json().as_u64());
        page.sample(&metric, &[], value.unwrap_or(0));
    }
    for (metric, help) in
        [("received", "Packets that the filter saw."), ("dropped", "Accepted packets that found no room.")]
    {
        let metric = format!("smpnet_bpf_listener_{metric}_total");
        page.head(&metric, "counter", help);
        for l in &listeners {
            for cpu in &l.cpus {
                let value = if metric.contains("received") { cpu.received } else { cpu.dropped };
                let labels = [("listener", l.id.to_string()), ("worker", cpu.worker.to_string())];
                page.sample(&metric, &labels.each_ref().map(|(k, v)| (*k, v.as_str())), value);
            }
        }
    }
}

/// What modules count by themselves, tables, and the cache of compiled code.
fn module_metrics(page: &mut Page, d: &Daemon) {
    page.head("smpnet_filter_module_counter_total", "counter", "Counters of filters' modules.");
    for f in d.router.filters.list().iter().filter(|f| f.kind == smpnet_wasm::Kind::Module) {
        let counters = d.router.filters.stats(&f.name).map(|s| s.counters).unwrap_or_default();
        for c in counters {
            for (worker, n) in c.per_worker.iter().enumerate() {
                let labels = [("filter", f.name.as_str()), ("counter", &c.name), ("worker", &worker_name(d, worker))];
                page.sample("smpnet_filter_module_counter_total", &labels, n);
            }
        }
    }
    page.head("smpnet_filter_table_entries", "gauge", "Entries of tables that modules look into.");
    for t in d.router.filters.tables().list() {
        page.sample("smpnet_filter_table_entries", &[("table", &t.name)], t.entries as u64);
    }
    if let Some(cache) = d.router.filters.cache_stats() {
        page.head("smpnet_filter_code_cache_total", "counter", "Compiled modules that were looked for on disk.");
        for (what, n) in [("hit", cache.hits), ("miss", cache.misses), ("refused", cache.refused)] {
            page.sample("smpnet_filter_code_cache_total", &[("result", what)], n);
        }
    }
}

/// What npf counts, of all workers together, and its rules and tables. Rules without a name are told apart by their ids.
fn npf_metrics(page: &mut Page, d: &Daemon) {
    let Some(npf) = d.router.npf() else { return };
    let totals = serde_json::to_value(npf.totals()).unwrap_or_default();
    let mut counters = serde_json::Map::new();
    for (key, value) in totals.as_object().into_iter().flatten() {
        match value {
            Value::Object(states) => counters.extend(states.iter().map(|(k, v)| (format!("states_{k}"), v.clone()))),
            Value::Number(n) if matches!(key.as_str(), "connections" | "half_open" | "elsewhere") => {
                let name = format!("smpnet_npf_{key}");
                page.head(
                    &name,
                    "gauge",
                    "Connections of npf: all, those not yet answered, those that their hash does not lead to.",
                );
                page.sample(&name, &[], n);
            }
            other => _ = counters.insert(key.clone(), other.clone()),
        }
    }
    page.object("smpnet_npf", "What npf did with packets and connections.", "counter", &Value::Object(counters));
    let (ruleset, tallies, tables) = (npf.ruleset(), npf.tallies(), npf.tables());
    let rules: Vec<(String, &smpnet_npf::config::Rule)> =
        ruleset.rules.iter().map(|r| (r.name.clone().unwrap_or_else(|| r.id.to_string()), r)).collect();
    for (what, help) in [("packets", "Packets that rules decided on."), ("bytes", "Bytes of those packets.")] {
        let name = format!("smpnet_npf_rule_{what}_total");
        page.head(&name, "counter", help);
        for ((rule, r), tally) in rules.iter().zip(&tallies) {
            let n = if what == "packets" { tally.packets } else { tally.bytes };
            let (id, line) = (r.id.to_string(), r.at.line.to_string());
            page.sample(&name, &[("rule", rule), ("id", &id), ("line", &line)], n);
        }
    }
    page.head("smpnet_npf_table_entries", "gauge", "Entries of tables.");
    for (at, table) in ruleset.config.tables.iter().enumerate() {
        let entries = tables.len(smpnet_npf::config::TableId(at));
        page.sample("smpnet_npf_table_entries", &[("table", &table.name)], entries);
    }
}

fn runtime_metrics(page: &mut Page, d: &Daemon) {
    let runtime = &d.router.runtime;
    let pool = runtime.pool().stats();
    page.head("smpnet_pool_cells", "gauge", "Packet cells.");
    for (state, n) in [("total", pool.total), ("in_use", pool.in_use)] {
        page.sample("smpnet_pool_cells", &[("state", state)], n);
    }
    page.head("smpnet_pool_alloc_failures_total", "counter", "Times that no cell was free.");
    page.sample("smpnet_pool_alloc_failures_total", &[], pool.alloc_failures);
    let nodes = runtime.sysctl().walk("kern.cpu");
    let mut last = String::new();
    let mut samples: Vec<(String, String, u64)> = nodes
        .into_iter()
        .filter_map(|(name, value, _)| {
            let (worker, key) = name.strip_prefix("kern.cpu.")?.split_once('.')?;
            Some((clean(key), worker.to_owned(), value.to_json().as_u64()?))
        })
        .collect();
    samples.sort();
    for (key, worker, value) in samples {
        let gauge = matches!(key.as_str(), "utilisation" | "pollers");
        let metric = format!("smpnet_worker_{key}{}", if gauge { "" } else { "_total" });
        if key != last {
            page.head(&metric, if gauge { "gauge" } else { "counter" }, "Of each worker, as kern.cpu has it.");
        }
        page.sample(&metric, &[("worker", &worker)], value);
        last = key;
    }
    page.head("smpnet_uptime_seconds", "gauge", "Seconds since the daemon started.");
    page.sample("smpnet_uptime_seconds", &[], d.started.elapsed().as_secs());
    page.head("smpnet_build_info", "gauge", "Version of the daemon.");
    page.sample("smpnet_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
}

fn clean(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
