//! `smpnet run`, `check`, `apply`, `explain`, `events` and `stats`.

use super::{
    context::{Context, Failure, Output, Read, print},
    table::table,
};
use crate::{check, daemon};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Run the router in the foreground
#[derive(Debug, Args)]
#[command(after_help = "\
SIGTERM and SIGINT end it and leave nothing behind; SIGHUP applies the file again.
Under systemd use Type=notify-reload and, if you like, WatchdogSec=.

Example:
  smpnet run router.toml")]
pub struct RunArgs {
    /// The configuration file
    file: PathBuf,
    /// End when every finite port (a capture file) is at its end, and print a summary
    #[arg(long)]
    once: bool,
}

pub fn run(cx: &Context, args: &RunArgs) -> Result<Output, Failure> {
    let options = daemon::Options { file: args.file.clone(), once: args.once, socket: cx.socket.clone() };
    match daemon::run(&options) {
        Ok(None) => Ok(Output::silent(json!({"stopped": true}))),
        Ok(Some(summary)) => Ok(Output::new(summary_text(&summary), summary)),
        Err(e) => {
            let body = e.report().map_or(Value::Null, |r| json!({"error": "the file cannot be used", "report": r}));
            // The lines of a report begin with the file; they stand alone.
            if let Some(report) = e.report().filter(|_| !cx.json) {
                eprintln!("{report}");
                return Err(Failure::new(format!("{} errors; not started", report.errors())));
            }
            Err(Failure { body, ..Failure::new(e.to_string()) })
        }
    }
}

/// What a finished run did, for people.
fn summary_text(summary: &Value) -> String {
    let mut rows = Vec::new();
    for i in summary.list("interfaces") {
        let c = &i["counters"];
        rows.push(vec![
            i.text("name").to_owned(),
            c.number("ipackets").to_string(),
            c.number("opackets").to_string(),
            i.list("drops")
                .iter()
                .map(|d| format!("{} {}", d.number("packets"), d.text("reason")))
                .collect::<Vec<_>>()
                .join(", "),
        ]);
    }
    let mut text = table(&["Interface", "Received", "Sent", "Dropped"], &rows);
    let a = &summary["accounting"];
    let missing = a.get("missing").and_then(Value::as_i64).unwrap_or(0);
    text.push_str(&format!(
        "received {}, made here {}, sent {}, dropped {}, delivered {}, unaccounted {missing}\n",
        a.number("received"),
        a.number("made"),
        a.number("sent"),
        a.number("dropped"),
        a.number("consumed"),
    ));
    text
}

/// Say what is wrong with a configuration file, without a daemon
#[derive(Debug, Args)]
#[command(after_help = "\
Every mistake is printed as FILE:LINE:COLUMN: error: WHAT (HINT). The exit code is 1 when there is an error.

Example:
  smpnet check router.toml")]
pub struct CheckArgs {
    /// The configuration file
    file: PathBuf,
}

pub fn check(args: &CheckArgs) -> Result<Output, Failure> {
    let name = args.file.display().to_string();
    let text = read(&args.file)?;
    let checked = check::check_file(&name, &text);
    let report = checked.report;
    let code = u8::from(report.has_errors());
    let mut lines: Vec<String> = report.to_string().lines().map(str::to_owned).collect();
    if code == 0 {
        lines.push(format!("{name}: good"));
    }
    let json = json!({"ok": code == 0, "file": name, "problems": report.problems});
    Ok(Output::new(lines.join("\n"), json).code(code))
}

/// Change the running router to what a file says, as one transaction
#[derive(Debug, Args)]
#[command(after_help = "\
The difference to what runs is found and made step by step; when a step fails, all before it are undone.
What was changed by other commands since (ifconfig, route, ...) is put back to what the file says.

Examples:
  smpnet apply --dry-run router.toml
  smpnet apply router.toml")]
pub struct ApplyArgs {
    /// The configuration file
    file: PathBuf,
    /// Print the steps and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub fn apply(cx: &Context, args: &ApplyArgs) -> Result<Output, Failure> {
    let text = read(&args.file)?;
    let file = std::path::absolute(&args.file).unwrap_or_else(|_| args.file.clone());
    let body = json!({"file": file, "text": text, "dry_run": args.dry_run});
    let answer = match cx.client.post("/v1/apply", &body) {
        Ok(answer) => answer,
        Err(e) => {
            let failure = Failure::from(e);
            let lines: Vec<&str> = failure.body.list("lines").iter().filter_map(Value::as_str).collect();
            if !cx.json {
                lines.iter().for_each(|l| eprintln!("{l}"));
            }
            return Err(failure);
        }
    };
    let mut lines: Vec<String> =
        answer.list("steps").iter().filter_map(Value::as_str).map(|s| format!("  {s}")).collect();
    let n = lines.len();
    lines.extend(answer.list("notes").iter().filter_map(Value::as_str).map(|s| format!("note: {s}")));
    lines.push(match (n, args.dry_run) {
        (0, _) => "nothing to change".into(),
        (1, true) => "1 step; nothing was changed".into(),
        (n, true) => format!("{n} steps; nothing was changed"),
        (1, false) => "1 step done".into(),
        (n, false) => format!("{n} steps done"),
    });
    Ok(Output::new(lines.join("\n"), answer))
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|e| Failure::new(format!("{}: {e}", file.display())))
}

/// Walk one packet through the running configuration
#[derive(Debug, Args)]
#[command(after_help = "\
The packet is not sent and no counter changes. PACKET is the frame as the interface receives it, in hex; blanks and
colons are left out. For an interface without Ethernet it begins with the IP header. A module that filters is asked by
a fresh instance, which has none of the state of those that judge packets.

Example:
  smpnet explain --in lan0 --packet '020000000001 020000000002 0800 4500001c...'
  smpnet explain --in lan0 --vlan 5 --segments tcp:1448 --packet '020000000001 020000000002 0800 45000fc8...'")]
pub struct ExplainArgs {
    /// The interface that receives it
    #[arg(long = "in", value_name = "IF")]
    interface: String,
    /// The packet
    #[arg(long, value_name = "HEX")]
    packet: String,
    /// The device took an 802.1Q tag with this tag control information off
    #[arg(long, value_name = "TCI")]
    vlan: Option<u16>,
    /// The packet is to be cut into segments: tcp:BYTES or udp:BYTES of payload each
    #[arg(long, value_name = "PROTO:BYTES")]
    segments: Option<String>,
}

pub fn explain(cx: &Context, args: &ExplainArgs) -> Result<Output, Failure> {
    let mut body = json!({"interface": args.interface, "packet": args.packet});
    if let Some(tci) = args.vlan {
        body["vlan"] = json!(tci);
    }
    if let Some(segments) = &args.segments {
        body["segments"] = json!(segments);
    }
    let steps = cx.client.post("/v1/explain", &body)?;
    let rows: Vec<Vec<String>> = steps
        .items()
        .iter()
        .map(|s| vec![s.text("stage").into(), s.text("decision").into(), s.text("detail").into()])
        .collect();
    Ok(Output::new(table(&["Stage", "Decision", "Detail"], &rows), steps))
}

/// Print events as they happen, one JSON object a line
#[derive(Debug, Args)]
#[command(after_help = "\
Events: interface, link, address, conflict (duplicate address), quarantine, filter, plugin, apply.

Example:
  smpnet events | jq -r .event")]
pub struct EventsArgs {
    /// End after this many
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

pub fn events(cx: &Context, args: &EventsArgs) -> Result<Output, Failure> {
    let mut left = args.count;
    let mut wanted = false;
    cx.client.lines("/v1/events", |line| {
        print(line);
        // The first line says that we listen; it is no event.
        if !line.contains("\"listening\"") {
            left = left.map(|n| n.saturating_sub(1));
        }
        wanted = left == Some(0);
        !wanted
    })?;
    if wanted { Ok(Output::printed()) } else { Err(Failure { code: 3, ..Failure::new("the daemon stopped") }) }
}

/// Show the totals: packets in and out, pool, workers
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  smpnet stats
  smpnet stats --prometheus")]
pub struct StatsArgs {
    /// In Prometheus' text format, as /metrics has it
    #[arg(long)]
    prometheus: bool,
}

pub fn stats(cx: &Context, args: &StatsArgs) -> Result<Output, Failure> {
    if args.prometheus {
        let text = cx.client.get_text("/metrics")?;
        return Ok(Output::new(text.clone(), json!({"metrics": text})));
    }
    let stats = cx.client.get("/v1/stats")?;
    let mut text = String::new();
    for section in ["accounting", "pool", "workers", "daemon"] {
        flatten(section, &stats[section], &mut text);
    }
    Ok(Output::new(text, stats))
}

fn flatten(name: &str, v: &Value, out: &mut String) {
    match v {
        Value::Object(o) => o.iter().for_each(|(k, v)| flatten(&format!("{name}.{k}"), v, out)),
        Value::Array(a) => a.iter().enumerate().for_each(|(n, v)| flatten(&format!("{name}.{n}"), v, out)),
        Value::String(s) => out.push_str(&format!("{name} = {s}\n")),
        Value::Null => {}
        other => out.push_str(&format!("{name} = {other}\n")),
    }
}
