//! What `smpnet npfctl` asks of a running router, in the words and the forms of NetBSD's npfctl(8).

use super::{
    context::{Context, Failure, Output, Read},
    npfctl::{read_text, refused},
    table::table as columns,
};
use crate::{client::encode, config::NpfSource};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::{
    io::{BufRead, Write},
    path::{Path, PathBuf},
};

/// A rule of a dynamic ruleset, or a map of one for maps.
#[derive(Debug, Args)]
pub struct RuleArgs {
    /// The ruleset
    name: String,
    #[command(subcommand)]
    action: RuleAction,
}

#[derive(Debug, Subcommand)]
enum RuleAction {
    /// Add a rule, or a map, as npf.conf has it; prints its id
    Add {
        #[arg(required = true, num_args = 1.., allow_hyphen_values = true, value_name = "RULE")]
        rule: Vec<String>,
    },
    /// Remove a rule by what it says
    #[command(visible_alias = "del")]
    Rem {
        #[arg(required = true, num_args = 1.., allow_hyphen_values = true, value_name = "RULE")]
        rule: Vec<String>,
    },
    /// Remove a rule by its id
    RemId { id: String },
    /// Print the rules
    List,
    /// Remove all rules
    Flush,
}

/// Entries of a table.
#[derive(Debug, Args)]
pub struct TableArgs {
    /// The table
    name: String,
    #[command(subcommand)]
    action: TableAction,
}

#[derive(Debug, Subcommand)]
enum TableAction {
    /// Add an entry: an address, a prefix, or for ipport tables ADDRESS PROTOCOL PORT
    Add {
        #[arg(required = true, num_args = 1.., value_name = "ENTRY")]
        entry: Vec<String>,
        /// Seconds that it stays; without this as long as the table says
        #[arg(long, value_name = "SECONDS")]
        stay: Option<f64>,
    },
    /// Remove an entry
    #[command(visible_alias = "del")]
    Rem {
        #[arg(required = true, num_args = 1.., value_name = "ENTRY")]
        entry: Vec<String>,
    },
    /// Whether an address is in the table: exit code 1 when it is not
    Test {
        #[arg(required = true, num_args = 1.., value_name = "ADDRESS")]
        entry: Vec<String>,
    },
    /// Print the entries
    List,
    /// Remove all entries
    Flush,
    /// Give the table the entries of a file, all at once
    Replace {
        /// The file; - for standard input
        file: PathBuf,
    },
}

/// Which connections are listed.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct ListArgs {
    /// Only IPv4
    #[arg(short = '4', conflicts_with = "v6")]
    v4: bool,
    /// Only IPv6
    #[arg(short = '6')]
    v6: bool,
    /// Without a head
    #[arg(short = 'h')]
    no_head: bool,
    /// Only connections that are translated
    #[arg(short = 'n')]
    nat: bool,
    /// Only those that began on this interface
    #[arg(short = 'i', value_name = "IF")]
    interface: Option<String>,
    /// In columns, with protocol, state and what was carried
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Most connections
    #[arg(long, value_name = "N")]
    most: Option<usize>,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

/// What is busiest.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// How many rules and connections
    #[arg(long, value_name = "N", default_value_t = 10)]
    most: usize,
    /// Seconds over which it is measured
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    seconds: f64,
}

pub fn start(cx: &Context) -> Result<Output, Failure> {
    Ok(Output::silent(cx.client.post("/v1/npf/start", &json!({}))?))
}

pub fn stop(cx: &Context) -> Result<Output, Failure> {
    Ok(Output::silent(cx.client.post("/v1/npf/stop", &json!({}))?))
}

pub fn flush(cx: &Context) -> Result<Output, Failure> {
    Ok(Output::silent(cx.client.post("/v1/npf/flush", &json!({}))?))
}

/// The file is read here, with all that it names; the daemon reads none.
pub fn reload(cx: &Context, file: &Path, dry_run: bool) -> Result<Output, Failure> {
    let (name, text) = read_text(file)?;
    let read = |path: &str| smpnet_npf::language::Files::read(&smpnet_npf::language::Disk, path);
    let (source, warnings) = NpfSource::read(&name, text, &read).map_err(|found| refused(&name, &found))?;
    if !warnings.is_empty() {
        eprintln!("{warnings}");
    }
    let mut body = json!(source.pack());
    body["dry_run"] = dry_run.into();
    let answer = cx.client.put("/v1/npf", &body)?;
    Ok(Output::silent(answer))
}

/// Lines of a state that travel together.
const LINES: usize = 2000;

pub fn save(cx: &Context, file: &Path) -> Result<Output, Failure> {
    let failed = |e: std::io::Error| Failure::new(format!("{}: {e}", file.display()));
    // What is not whole does not take the place of what is.
    let part = file.with_extension("part");
    let mut out = std::io::BufWriter::new(std::fs::File::create(&part).map_err(failed)?);
    let (mut lines, mut wrong, mut end) = (0u64, None, false);
    cx.client.lines("/v1/npf/state", |line| {
        end = line.starts_with("{\"kind\":\"end\"");
        lines += 1;
        wrong = writeln!(out, "{line}").err();
        wrong.is_none()
    })?;
    let done = wrong.map_or(Ok(()), Err).and_then(|()| out.flush()).and_then(|()| out.get_ref().sync_all());
    if !end {
        let _ = std::fs::remove_file(&part);
        return Err(Failure::new("the router broke off before it had told everything; nothing was saved"));
    }
    done.and_then(|()| std::fs::rename(&part, file)).map_err(failed)?;
    Ok(Output::silent(json!({ "file": file, "lines": lines })))
}

pub fn load(cx: &Context, file: &Path) -> Result<Output, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::new(format!("{}: {e}", file.display()));
    let input = std::io::BufReader::new(std::fs::File::open(file).map_err(|e| failed(&e))?);
    let (mut batch, mut sum, mut first) = (Vec::new(), json!({ "connections": 0, "commands": 0, "refused": {} }), true);
    let mut send = |batch: &mut Vec<Value>| -> Result<(), Failure> {
        let answer = cx.client.post("/v1/npf/state", &json!({ "lines": std::mem::take(batch) }))?;
        for key in ["connections", "commands"] {
            sum[key] = (sum.number(key) + answer.number(key)).into();
        }
        for (why, n) in answer["refused"].as_object().into_iter().flatten() {
            sum["refused"][why] = (sum["refused"].number(why) + n.as_u64().unwrap_or(0)).into();
        }
        Ok(())
    };
    let (mut n, mut end) = (0u64, false);
    for line in input.lines() {
        let line = line.map_err(|e| failed(&e))?;
        n += 1;
        let value: Value = serde_json::from_str(&line).map_err(|e| failed(&format!("line {n}: {e}")))?;
        if std::mem::take(&mut first) {
            if (value.text("kind"), value.number("version")) != ("npf", 1) {
                return Err(failed(
                    &"this is no state of npf that `npfctl save` of this version or an older one has written",
                ));
            }
            let body = json!({ "file": value["file"], "text": value["text"], "files": value["files"] });
            cx.client.put("/v1/npf", &body)?;
            let switch = if value.flag("active") { "start" } else { "stop" };
            cx.client.post(&format!("/v1/npf/{switch}"), &json!({}))?;
            continue;
        }
        end = value.text("kind") == "end";
        batch.push(value);
        if batch.len() == LINES {
            send(&mut batch)?;
        }
    }
    send(&mut batch)?;
    for (why, n) in sum["refused"].as_object().into_iter().flatten() {
        eprintln!("smpnet: {n} not loaded: {why}");
    }
    if !end {
        return Err(failed(&"it ends too early: what is there was loaded"));
    }
    Ok(Output::silent(sum))
}

pub fn show(cx: &Context) -> Result<Output, Failure> {
    let answer = cx.client.get("/v1/npf")?;
    let word = |flag, yes: &'static str, no: &'static str| if answer.flag(flag) { yes } else { no };
    let text = format!(
        "# filtering:\t{}\n# config:\t{}\n{}",
        word("active", "active", "inactive"),
        word("loaded", "loaded", "empty"),
        answer.text("text")
    );
    Ok(Output::new(text, answer))
}

pub fn rule(cx: &Context, args: &RuleArgs) -> Result<Output, Failure> {
    let path = format!("/v1/npf/rulesets/{}", encode(&args.name));
    Ok(match &args.action {
        RuleAction::Add { rule } => {
            let answer = cx.client.post(&path, &json!({ "rule": rule.join(" ") }))?;
            Output::new(format!("OK {}", answer.text("id")), answer)
        }
        RuleAction::Rem { rule } => {
            Output::silent(cx.client.delete(&format!("{path}?rule={}", encode(&rule.join(" "))))?)
        }
        RuleAction::RemId { id } => Output::silent(cx.client.delete(&format!("{path}?id={}", encode(id)))?),
        RuleAction::Flush => Output::silent(cx.client.delete(&path)?),
        RuleAction::List => {
            let answer = cx.client.get(&path)?;
            let lines: Vec<String> =
                answer.items().iter().map(|r| format!("{} # id=\"{}\"", r.text("text"), r.text("id"))).collect();
            Output::new(lines.join("\n"), answer)
        }
    })
}

pub fn table(cx: &Context, args: &TableArgs) -> Result<Output, Failure> {
    let path = format!("/v1/npf/tables/{}", encode(&args.name));
    let success = |answer| Output::new("npfctl: success", answer);
    let query = |entry: &[String]| format!("?entry={}", encode(&entry.join(" ")));
    Ok(match &args.action {
        TableAction::Add { entry, stay } => {
            let mut body = json!({ "entry": entry.join(" ") });
            if let Some(stay) = stay {
                body["stay"] = json!(stay);
            }
            success(cx.client.post(&path, &body)?)
        }
        TableAction::Rem { entry } => success(cx.client.delete(&(path + &query(entry)))?),
        TableAction::Flush => success(cx.client.delete(&path)?),
        TableAction::Test { entry } => {
            let answer = cx.client.get(&format!("{path}/test{}", query(entry)))?;
            let (text, code) = if answer.flag("match") { ("npfctl: match", 0) } else { ("npfctl: not found", 1) };
            Output::new(text, answer).code(code)
        }
        TableAction::List => {
            let answer = cx.client.get(&path)?;
            let lines: Vec<&str> = answer.list("entries").iter().map(|e| e.text("entry")).collect();
            Output::new(lines.join("\n"), answer)
        }
        TableAction::Replace { file } => {
            let (_, text) = read_text(file)?;
            Output::silent(cx.client.put(&path, &json!({ "entries": text }))?)
        }
    })
}

/// Heads, each with the counters under it: where the number is, and NetBSD's word for it.
const STATS: [(&str, &[(&str, &str)]); 8] = [
    ("Packets passed", &[("/passed_rules", "ruleset pass"), ("/passed_connections", "state pass")]),
    ("Packets blocked", &[("/blocked_default", "default block"), ("/blocked_rules", "ruleset block")]),
    (
        "State and NAT entries",
        &[
            ("/connections", "states"),
            ("/half_open", "half-open states"),
            ("/states/inserted", "state allocations"),
            ("/states/expired", "states expired"),
            ("/states/evicted", "half-open states evicted"),
            ("/states/removed", "states removed"),
            ("/states/full", "states refused: table full"),
            ("/not_opened", "states that were not opened"),
            ("/nat_ports_exhausted", "translations without a port"),
            ("/nat_no_address", "translations without an address"),
            ("/nat_no_state", "packets that could not be translated"),
        ],
    ),
    (
        "Workers",
        &[
            ("/steered", "packets handed to the worker of their state"),
            ("/taken_over", "packets taken over"),
            ("/queue_full", "packets dropped: hand-over queue full"),
            ("/elsewhere", "states that their hash does not lead to"),
        ],
    ),
    ("Invalid packet state cases", &[("/invalid_state", "cases in total"), ("/malformed", "malformed packets")]),
    ("Packet race cases", &[("/nat_conflict", "NAT association conflicts"), ("/states/duplicate", "duplicate states")]),
    (
        "Fragmentation",
        &[
            ("/fragments_kept", "fragments"),
            ("/reassembled", "reassembled"),
            ("/fragments_dropped", "failed reassembly"),
        ],
    ),
    (
        "Other",
        &[
            ("/options", "packets with IP options dropped"),
            ("/procedures", "packets dropped by procedures"),
            ("/overloads", "sources over a limit"),
            ("/answers", "resets and ICMP errors sent"),
            ("/answers_limited", "resets and ICMP errors not sent"),
        ],
    ),
];

pub fn stats(cx: &Context) -> Result<Output, Failure> {
    let answer = cx.client.get("/v1/npf/stats")?;
    let mut text = String::new();
    for (head, counters) in STATS {
        text.push_str(&format!("{head}:\n"));
        for (at, name) in counters {
            let n = answer.pointer(at).and_then(Value::as_u64).unwrap_or(0);
            text.push_str(&format!("\t{n} {name}\n"));
        }
    }
    Ok(Output::new(text, answer))
}

/// An address with a port as NetBSD prints it.
pub(super) fn end(v: &Value) -> String {
    let (address, port) = (v[0].as_str().unwrap_or_default(), v[1].as_u64().unwrap_or(0));
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

pub(super) fn proto(number: u64) -> String {
    match number {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        47 => "gre".into(),
        50 => "esp".into(),
        51 => "ah".into(),
        58 => "icmpv6".into(),
        132 => "sctp".into(),
        other => other.to_string(),
    }
}

pub fn list(cx: &Context, args: &ListArgs) -> Result<Output, Failure> {
    let mut query = Vec::new();
    if args.v4 || args.v6 {
        query.push(format!("family={}", if args.v4 { 4 } else { 6 }));
    }
    if args.nat {
        query.push("nat=1".into());
    }
    if let Some(i) = &args.interface {
        query.push(format!("interface={}", encode(i)));
    }
    if let Some(n) = args.most {
        query.push(format!("most={n}"));
    }
    let answer = cx.client.get(&format!("/v1/npf/connections?{}", query.join("&")))?;
    let all = answer.list("connections");
    let nat = |c: &Value| if c["translated"].is_null() { "-".to_owned() } else { end(&c["translated"]) };
    let interface = |c: &Value| c["interface"].as_str().unwrap_or("-").to_owned();
    let text = if args.verbose {
        let row = |c: &Value| {
            let side = |key: &str| c[key][0].as_u64().unwrap_or(0).to_string();
            let ago = format!("{:.0}s", c.number("idle") as f64 / 1000.0);
            vec![
                proto(c.number("proto")),
                end(&c["source"]),
                end(&c["destination"]),
                interface(c),
                nat(c),
                c.text("state").to_owned(),
                side("sent"),
                side("received"),
                ago,
                c.text("rule").to_owned(),
            ]
        };
        let rows: Vec<Vec<String>> = all.iter().map(row).collect();
        columns(&["Proto", "Source", "Destination", "If", "NAT", "State", "Sent", "Received", "Idle", "Rule"], &rows)
    } else {
        let mut text = String::new();
        if !args.no_head {
            text.push_str("# src-addr:port dst-addr:port interface nat-addr:port\n");
        }
        for c in all {
            text.push_str(&format!("{} {} {} {}\n", end(&c["source"]), end(&c["destination"]), interface(c), nat(c)));
        }
        text
    };
    if answer.flag("more") {
        eprintln!("smpnet: there are more connections than these");
    }
    Ok(Output::new(text, answer))
}

/// Looks twice, and tells what grew most in between.
pub fn top(cx: &Context, args: &TopArgs) -> Result<Output, Failure> {
    if !(0.05..=3600.0).contains(&args.seconds) {
        return Err(Failure::usage("--seconds must be from 0.05 to 3600"));
    }
    let look = || -> Result<(Value, Value), Failure> {
        Ok((cx.client.get("/v1/npf/rules")?, cx.client.get("/v1/npf/connections")?))
    };
    let (rules, connections) = look()?;
    std::thread::sleep(std::time::Duration::from_secs_f64(args.seconds));
    let (rules_now, connections_now) = look()?;
    let name = |c: &Value| format!("{}{}{}{}", c["proto"], c["source"], c["destination"], c["interface"]);
    let carried = |c: &Value, i: usize| c["sent"][i].as_u64().unwrap_or(0) + c["received"][i].as_u64().unwrap_or(0);
    let before: std::collections::HashMap<String, (u64, u64)> =
        connections.list("connections").iter().map(|c| (name(c), (carried(c, 0), carried(c, 1)))).collect();
    let mut busy: Vec<(u64, u64, &Value)> = (connections_now.list("connections").iter())
        .map(|c| {
            let (packets, bytes) = before.get(&name(c)).copied().unwrap_or_default();
            (carried(c, 0).saturating_sub(packets), carried(c, 1).saturating_sub(bytes), c)
        })
        .filter(|(packets, ..)| *packets > 0)
        .collect();
    busy.sort_by_key(|(packets, bytes, _)| std::cmp::Reverse((*bytes, *packets)));
    busy.truncate(args.most);
    let was = |id: &str| rules.items().iter().find(|r| r.text("id") == id);
    let mut rated: Vec<(u64, u64, &Value)> = (rules_now.items().iter())
        .map(|r| {
            let old = was(r.text("id"));
            let grew = |key: &str| r.number(key).saturating_sub(old.map_or(0, |o| o.number(key)));
            (grew("packets"), grew("bytes"), r)
        })
        .filter(|(packets, ..)| *packets > 0)
        .collect();
    rated.sort_by_key(|(packets, bytes, _)| std::cmp::Reverse((*packets, *bytes)));
    rated.truncate(args.most);
    let rate = |n: u64| format!("{:.0}", n as f64 / args.seconds);
    let bits = |n: u64| format!("{:.0}", n as f64 * 8.0 / args.seconds / 1000.0);
    let rule_rows: Vec<Vec<String>> = rated
        .iter()
        .map(|(packets, bytes, r)| {
            vec![rate(*packets), bits(*bytes), r.text("id").into(), r.text("name").into(), r.text("text").into()]
        })
        .collect();
    let rows: Vec<Vec<String>> = busy
        .iter()
        .map(|(packets, bytes, c)| {
            let (from, to) = (end(&c["source"]), end(&c["destination"]));
            vec![rate(*packets), bits(*bytes), proto(c.number("proto")), from, to, c.text("state").into()]
        })
        .collect();
    let text = format!(
        "{}\n{}",
        columns(&["Packets/s", "kbit/s", "Rule", "Name", "Text"], &rule_rows),
        columns(&["Packets/s", "kbit/s", "Proto", "Source", "Destination", "State"], &rows)
    );
    let of = |(packets, bytes, v): &(u64, u64, &Value)| {
        let mut v = (*v).clone();
        v["packets_per_second"] = json!(*packets as f64 / args.seconds);
        v["bytes_per_second"] = json!(*bytes as f64 / args.seconds);
        v
    };
    let json = json!({ "rules": rated.iter().map(of).collect::<Vec<_>>(), "connections": busy.iter().map(of).collect::<Vec<_>>() });
    Ok(Output::new(text, json))
}
