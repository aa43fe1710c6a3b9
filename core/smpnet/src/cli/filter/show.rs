//! What is known of filters, for people.

use super::super::{
    context::{Failure, Output, Read},
    table::table,
};
use serde_json::Value;

/// What a load, swap, rollback or promotion did.
pub fn report(what: &str, r: Value) -> Result<Output, Failure> {
    let us = |key: &str| r.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    let made = match r.text("kind") {
        "native" => format!("native {}", r.text("native")),
        _ if us("compile_us") == 0.0 => "compiled before".to_owned(),
        _ => format!("compiled in {:.0} us", us("compile_us")),
    };
    let text = format!(
        "{} {what}: generation {}, {made}, instantiated in {:.0} us, adopted by {} workers in {:.0} us",
        r.text("name"),
        r.number("generation"),
        us("instantiate_us"),
        r.number("workers"),
        us("adopt_us"),
    );
    Ok(Output::new(text, r))
}

/// A line for each filter.
pub fn list(all: &Value) -> String {
    let rows: Vec<Vec<String>> = all
        .items()
        .iter()
        .map(|f| {
            let interface = if f.text("interface").is_empty() { "all" } else { f.text("interface") };
            let mut row: Vec<String> =
                ["name", "kind", "state", "action"].iter().map(|k| f.text(k).to_owned()).collect();
            row.push(format!("{} {interface} {}", f.text("layer"), f.text("dirs")));
            row.push(f.get("priority").map_or_else(String::new, Value::to_string));
            for key in ["generation", "packets", "matched", "dropped", "faults"] {
                // What a native filter does not count.
                row.push(f.get(key).map_or("-".to_owned(), Value::to_string));
            }
            if row[3].is_empty() {
                row[3].push('-');
            }
            row.push(f.text("text").to_owned());
            row
        })
        .collect();
    let head = [
        "Name", "Kind", "State", "Action", "Attached", "Prio", "Gen", "Packets", "Matched", "Dropped", "Faults",
        "Program",
    ];
    let mut text = table(&head, &rows);
    for f in all.items().iter().filter(|f| !f.text("failed").is_empty()) {
        text.push_str(&format!("{}: {} (`apply` or `filter swap` tries again)\n", f.text("name"), f.text("failed")));
    }
    text
}

/// All about one filter.
pub fn show(f: &Value) -> String {
    // Shown below, in words of their own.
    const APART: [&str; 11] = [
        "program",
        "generations",
        "module",
        "faults",
        "log",
        "counters",
        "config",
        "code_cache",
        "adopted",
        "fault_limit",
        "last_fault",
    ];
    let mut out = String::new();
    for (k, v) in f.as_object().into_iter().flatten() {
        match v {
            Value::Null => {}
            _ if APART.contains(&k.as_str()) => {}
            Value::String(s) => out.push_str(&format!("{k}: {s}\n")),
            v => out.push_str(&format!("{k}: {v}\n")),
        }
    }
    let limit = &f["fault_limit"];
    if limit.is_object() {
        out.push_str(&format!("faults that are too many: {} in {} s\n", limit.number("max"), limit.number("seconds")));
    }
    module(f, &mut out);
    if !f.list("generations").is_empty() {
        out.push_str("history:\n");
    }
    for g in f.list("generations") {
        let c = &g["counts"];
        out.push_str(&format!(
            "  generation {} ({:.12}): {} packets, {} passed, {} dropped\n",
            g.number("generation"),
            g.text("sha256"),
            c.number("packets"),
            c.number("passed"),
            c.number("dropped")
        ));
    }
    if f.list("faults").is_empty() && !f.text("last_fault").is_empty() {
        out.push_str(&format!("last fault: {}\n", f.text("last_fault")));
    }
    for (n, fault) in f.list("faults").iter().enumerate() {
        let head = if n == 0 { "faults:\n" } else { "" };
        let (generation, worker) = (fault.number("generation"), fault.number("worker"));
        out.push_str(&format!("{head}  generation {generation}, worker {worker}: {}\n", fault.text("line")));
        for (n, frame) in fault.list("trace").iter().filter_map(Value::as_str).enumerate() {
            out.push_str(&format!("    {n}: {frame}\n"));
        }
    }
    for (n, line) in f.list("log").iter().enumerate() {
        let head = if n == 0 { "log:\n" } else { "" };
        out.push_str(&format!("{head}  {}: {}\n", line.text("level"), line.text("text")));
    }
    if !f.list("program").is_empty() {
        out.push_str("program:\n");
    }
    for line in f.list("program").iter().filter_map(Value::as_str) {
        out.push_str(&format!("  {line}\n"));
    }
    out
}

/// What a filter's module is, may and counted.
fn module(f: &Value, out: &mut String) {
    let m = &f["module"];
    if !m.is_object() {
        return;
    }
    let manifest = &m["manifest"];
    let words = |v: &Value| v.items().iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
    out.push_str(&format!("module: {} {}", manifest.text("name"), manifest.text("version")));
    let summary = manifest.text("summary");
    out.push_str(&if summary.is_empty() { "\n".to_owned() } else { format!(": {summary}\n") });
    out.push_str(&format!(
        "  ABI {}, {} bytes, sees {} bytes of a packet, {} to {} pages of memory\n",
        manifest.text("abi"),
        m.number("bytes"),
        manifest.number("window"),
        m.number("memory_min"),
        m.number("memory_max")
    ));
    out.push_str(&format!("  asks for: {}\n  may: {}\n", words(&manifest["capabilities"]), words(&m["granted"])));
    if !m.list("tables").is_empty() {
        out.push_str(&format!("  tables: {}\n", words(&m["tables"])));
    }
    let config = f["config"].text("config");
    if !config.is_empty() {
        out.push_str(&format!("  config: {}\n", config.trim_end().replace('\n', "\n          ")));
    }
    if let Value::Object(limits) = &m["limits"] {
        let limits: Vec<String> = limits.iter().map(|(k, v)| format!("{k}={v}")).collect();
        out.push_str(&format!("  limits: {}\n", limits.join(" ")));
    }
    let cache = &f["code_cache"];
    if cache.is_object() {
        out.push_str(&format!(
            "  code cache of the router: {} hits, {} misses, {} refused\n",
            cache.number("hits"),
            cache.number("misses"),
            cache.number("refused")
        ));
    }
    counters(f, out);
}

/// A module's own counters, by worker.
fn counters(f: &Value, out: &mut String) {
    if f.list("counters").is_empty() {
        return;
    }
    let row = |c: &Value| {
        let each = c.list("per_worker").iter().map(Value::to_string).collect::<Vec<_>>().join(" ");
        vec![c.text("name").to_owned(), c.number("total").to_string(), each]
    };
    let rows: Vec<Vec<String>> = f.list("counters").iter().map(row).collect();
    out.push_str(&table(&["Counter", "Total", "By worker"], &rows));
}

/// What a filter counted.
pub fn stats(s: &Value) -> String {
    // The columns that not all kinds have.
    let (third, seventh, heads) = match s.text("kind") {
        "native" => ("consumed", "fault_packets", ("Consumed", "By policy")),
        "module" => ("matched", "fault_packets", ("Matched", "By policy")),
        _ => ("matched", "interpreted", ("Matched", "Interpreted")),
    };
    let row = |who: String, c: &Value| {
        let mut row = vec![who];
        for key in ["packets", "bytes", third, "passed", "dropped", "bursts", seventh, "faults"] {
            row.push(c.number(key).to_string());
        }
        let (packets, ns) = (c.number("sampled_packets"), c.number("sampled_ns"));
        row.push(if packets == 0 { String::new() } else { format!("{:.1}", ns as f64 / packets as f64) });
        row
    };
    let mut rows = vec![row("total".into(), &s["total"])];
    rows.extend(s.list("per_worker").iter().enumerate().map(|(n, c)| row(format!("worker {n}"), c)));
    rows.extend(
        s.list("generations").iter().map(|g| row(format!("generation {}", g.number("generation")), &g["counts"])),
    );
    let head = ["", "Packets", "Bytes", heads.0, "Passed", "Dropped", "Bursts", heads.1, "Faults", "ns/packet"];
    let mut text = table(&head, &rows);
    counters(s, &mut text);
    text
}
