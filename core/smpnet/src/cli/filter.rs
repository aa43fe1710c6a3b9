//! `smpnet filter`.

use super::{
    context::{Context, Failure, Output, Read},
    table::table,
};
use crate::client::encode;
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Load, swap and watch packet filters
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  smpnet filter load block --drop 'udp port 5000'
  smpnet filter swap block --drop 'udp port 5000 or udp port 5001'
  smpnet filter rollback block
  smpnet filter load bad-line --native loss --options '{\"one_in\": 100}' --interface wan0
  smpnet filter load web --pass 'tcp port 80' --interface lan0 --direction out --on-fault drop
  smpnet filter stats block")]
pub struct FilterArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compile a filter, or make a native one, and attach it
    #[command(group(ArgGroup::new("source").required(true)))]
    Load {
        /// Its name
        name: String,
        #[command(flatten)]
        source: Source,
        /// Where it sits
        #[arg(long, value_enum, default_value = "inet")]
        attach: Layer,
        /// The interface
        #[arg(long, value_name = "IF", default_value = "all")]
        interface: String,
        /// Which packets it sees
        #[arg(long, value_enum, default_value = "in")]
        direction: Direction,
        /// Lower runs earlier
        #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
        priority: i32,
        /// What happens to packets when the filter fails
        #[arg(long, value_enum, value_name = "ACTION", default_value = "pass")]
        on_fault: Action,
    },
    /// Put another program in a filter's place: every packet is judged by the one or the other, and none is lost
    #[command(group(ArgGroup::new("source").required(true)))]
    Swap {
        /// The filter
        name: String,
        #[command(flatten)]
        source: Source,
    },
    /// Go back to the program before the last swap
    Rollback {
        /// The filter
        name: String,
    },
    /// Take a filter away
    Detach {
        /// The filter
        name: String,
    },
    /// List filters
    List,
    /// Show a filter: program, history, faults
    Show {
        /// The filter
        name: String,
    },
    /// Show a filter's counters, by worker and generation
    Stats {
        /// The filter
        name: String,
    },
}

/// What the filter runs: exactly one.
#[derive(Debug, Args)]
#[group(skip)]
struct Source {
    /// Drop what matches this expression (pcap-filter(7))
    #[arg(long, value_name = "EXPR", group = "source")]
    drop: Option<String>,
    /// Pass what matches this expression, drop the rest
    #[arg(long, value_name = "EXPR", group = "source")]
    pass: Option<String>,
    /// Run a program as `tcpdump -ddd` and `smpnet bpf compile -ddd` print it
    #[arg(long, value_name = "FILE", group = "source")]
    program: Option<PathBuf>,
    /// Run a module that `smpnet bpf compile --wasm` wrote
    #[arg(long, value_name = "FILE", group = "source")]
    wasm: Option<PathBuf>,
    /// Run a native filter of a plugin (`smpnet plugin list` shows which there are)
    #[arg(long, value_name = "KIND", group = "source")]
    native: Option<String>,
    /// With --native: the filter's own options, a JSON object
    #[arg(long, value_name = "JSON", requires = "native", value_parser = json_object)]
    options: Option<Value>,
    /// With --program or --wasm: what happens to packets that match [default: drop]
    #[arg(long, value_enum, conflicts_with_all = ["drop", "pass", "native"])]
    action: Option<Action>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Layer {
    /// At the IP header
    Inet,
    /// At the Ethernet header
    Ether,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Direction {
    /// Coming in
    In,
    /// Going out
    Out,
    /// Both
    Both,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Action {
    /// Drop them
    Drop,
    /// Pass them
    Pass,
}

fn json_object(s: &str) -> Result<Value, String> {
    match serde_json::from_str(s) {
        Ok(v @ Value::Object(_)) => Ok(v),
        Ok(_) => Err("it must be a JSON object, as in '{\"one_in\": 100}'".into()),
        Err(e) => Err(e.to_string()),
    }
}

fn word<V: ValueEnum>(v: &V) -> String {
    v.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

impl Source {
    /// Adds the source to a request. The daemon reads files itself, so their names become absolute.
    fn put(&self, body: &mut Value) {
        for (key, expr) in [("drop", &self.drop), ("pass", &self.pass)] {
            if let Some(e) = expr {
                body[key] = e.clone().into();
            }
        }
        for (key, file) in [("program", &self.program), ("wasm", &self.wasm)] {
            if let Some(f) = file {
                body[key] = json!(std::path::absolute(f).unwrap_or_else(|_| f.clone()));
            }
        }
        if let Some(n) = &self.native {
            body["native"] = n.clone().into();
        }
        if let Some(o) = &self.options {
            body["options"] = o.clone();
        }
        if let Some(a) = &self.action {
            body["action"] = word(a).into();
        }
    }
}

pub fn run(cx: &Context, args: &FilterArgs) -> Result<Output, Failure> {
    let path = |name: &str, more: &str| format!("/v1/filters/{}{more}", encode(name));
    match &args.command {
        Command::Load { name, source, attach, interface, direction, priority, on_fault } => {
            let mut body = json!({
                "name": name,
                "attach": word(attach),
                "interface": interface,
                "direction": word(direction),
                "priority": priority,
                "on_fault": word(on_fault),
            });
            source.put(&mut body);
            report("loaded", cx.client.post("/v1/filters", &body)?)
        }
        Command::Swap { name, source } => {
            let mut body = json!({});
            source.put(&mut body);
            report("swapped", cx.client.put(&path(name, ""), &body)?)
        }
        Command::Rollback { name } => report("rolled back", cx.client.post(&path(name, "/rollback"), &json!({}))?),
        Command::Detach { name } => Ok(Output::silent(cx.client.delete(&path(name, ""))?)),
        Command::List => {
            let all = cx.client.get("/v1/filters")?;
            Ok(Output::new(list(&all), all))
        }
        Command::Show { name } => {
            let one = cx.client.get(&path(name, ""))?;
            Ok(Output::new(show(&one), one))
        }
        Command::Stats { name } => {
            let one = cx.client.get(&path(name, "/stats"))?;
            Ok(Output::new(stats(&one), one))
        }
    }
}

fn report(what: &str, r: Value) -> Result<Output, Failure> {
    let us = |key: &str| r.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    let made = match r.text("kind") {
        "native" => format!("native {}", r.text("native")),
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

fn list(all: &Value) -> String {
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

fn show(f: &Value) -> String {
    let mut out = String::new();
    let mut history = String::new();
    if let Value::Object(o) = f {
        for (k, v) in o {
            match (k.as_str(), v) {
                (_, Value::Null) => {}
                ("program", _) => {}
                ("history", Value::Array(list)) => {
                    for g in list {
                        let sha: String = g.text("sha256").chars().take(12).collect();
                        let c = &g["counts"];
                        history.push_str(&format!(
                            "  generation {} ({sha}): {} packets, {} matched, {} dropped\n",
                            g.number("generation"),
                            c.number("packets"),
                            c.number("matched"),
                            c.number("dropped")
                        ));
                    }
                }
                (_, Value::String(s)) => out.push_str(&format!("{k}: {s}\n")),
                (_, v) => out.push_str(&format!("{k}: {v}\n")),
            }
        }
    }
    if !history.is_empty() {
        out.push_str(&format!("history:\n{history}"));
    }
    if f.text("kind") == "native" {
        return out;
    }
    out.push_str("program:\n");
    for line in f.list("program").iter().filter_map(Value::as_str) {
        out.push_str(&format!("  {line}\n"));
    }
    out
}

fn stats(s: &Value) -> String {
    // The column that only one of the two kinds has.
    let native = s.text("kind") == "native";
    let (third, seventh) = if native { ("consumed", "fault_packets") } else { ("matched", "interpreted") };
    let row = |who: String, c: &Value| {
        let mut row = vec![who];
        for key in ["packets", "bytes", third, "passed", "dropped", "bursts", seventh, "faults"] {
            row.push(c.number(key).to_string());
        }
        row
    };
    let mut rows = vec![row("total".into(), &s["total"])];
    rows.extend(s.list("per_worker").iter().enumerate().map(|(n, c)| row(format!("worker {n}"), c)));
    rows.extend(
        s.list("generations").iter().map(|g| row(format!("generation {}", g.number("generation")), &g["counts"])),
    );
    let (third, seventh) = if native { ("Consumed", "By policy") } else { ("Matched", "Interpreted") };
    let head = ["", "Packets", "Bytes", third, "Passed", "Dropped", "Bursts", seventh, "Faults"];
    let mut text = table(&head, &rows);
    if let Some(ns) = s.get("ns_per_packet").and_then(Value::as_f64) {
        text.push_str(&format!("{ns:.1} ns a packet\n"));
    }
    text
}
