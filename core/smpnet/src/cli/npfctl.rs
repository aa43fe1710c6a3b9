//! `smpnet npfctl`: configurations of NPF, without a daemon: what they mean, and what they do to packets.

use super::{
    bpf_capture_file::CaptureFile,
    context::{Context, Failure, Output},
    npf_control as control, npf_watch as watch,
};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use smpnet_bpf::Dlt;
use smpnet_npf::{
    convert,
    engine::{By, Engine},
    evaluate::Where,
    language::{Diagnostics, Disk, Parsed, parse, print as print_config},
    npflog,
    replay::{Judged, Replay},
    state::{Limits, Millis},
};
use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where NetBSD has it.
const DEFAULT_CONFIG: &str = "/etc/npf.conf";
/// Where NetBSD keeps what is saved.
const DEFAULT_STATE: &str = "/var/db/npf.db";
/// Longest line of a file of packets: two hex digits for each byte of the longest packet, and the rest of the line.
const LINE_MAX: u64 = 256 * 1024;

/// NPF, the packet filter: load rules, look at connections and tables; check and try configurations without a daemon
#[derive(Debug, Args)]
#[command(
    infer_subcommands = true,
    after_help = "\
Examples:
  smpnet npfctl reload npf.conf
  smpnet npfctl show
  smpnet npfctl table blocked add 192.0.2.7
  smpnet npfctl rule guests add block in from 10.0.9.0/24
  smpnet npfctl list -v
  smpnet npfctl validate npf.conf
  smpnet npfctl replay --config npf.conf --packets packets.jsonl
  smpnet npfctl convert pf /etc/pf.conf > npf.conf
  smpnet npfctl replay --config npf.conf --packets lan0.pcap --interface lan0 --dir in --address wan0=192.0.2.1"
)]
pub struct NpfctlArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Have packets judged, by what is loaded
    Start,
    /// Have packets judged no more; rules, tables and connections stay
    Stop,
    /// Put a configuration in force: every packet is judged by the old or the new one
    Reload {
        /// The configuration; - for standard input
        #[arg(default_value = DEFAULT_CONFIG)]
        file: PathBuf,
        /// Only have the daemon check it
        #[arg(long)]
        dry_run: bool,
    },
    /// Take rules, tables and connections away; packets pass
    Flush,
    /// Print what is in force, with the ids of rules
    Show,
    /// Change the rules of a dynamic ruleset
    Rule(control::RuleArgs),
    /// Change the entries of a table
    Table(control::TableArgs),
    /// Save the configuration, tables and connections of the running router
    Save {
        /// The file
        #[arg(default_value = DEFAULT_STATE)]
        file: PathBuf,
    },
    /// Load what was saved, connections included; by another version of smpnet too
    Load {
        /// The file
        #[arg(default_value = DEFAULT_STATE)]
        file: PathBuf,
    },
    /// Print counters
    Stats,
    /// List connections
    List(control::ListArgs),
    /// Show the busiest rules and connections
    Top(control::TopArgs),
    Trace(watch::TraceArgs),
    Log(watch::LogArgs),
    /// Check a configuration and print what it means: its parsed form, with all parameters
    Validate {
        /// The configuration; - for standard input
        #[arg(default_value = DEFAULT_CONFIG)]
        file: PathBuf,
    },
    Replay(ReplayArgs),
    /// Convert the firewall of another system; what cannot be carried over is told, and stands in the text as a comment
    Convert {
        /// pf: a pf.conf; nft: what `nft -j list ruleset` prints
        #[arg(value_enum)]
        from: Foreign,
        /// The file; - for standard input
        file: PathBuf,
    },
}

/// Whose firewall is converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Foreign {
    Pf,
    Nft,
}

/// Judge packets by a configuration: one line out for each packet
///
/// Fragments, connections, translation, procedures and limits are looked after; time is that of the packets.
#[derive(Debug, Args)]
#[command(after_help = "\
Packets are lines of JSON, or a pcap or pcapng file. A line in, and the line that comes out with --json:
  {\"t\":0.5,\"if\":\"lan0\",\"dir\":\"in|out|forw\",\"pkt\":\"hex from the IP header\"}
  {\"n\":1,\"verdict\":\"pass|block|kept\",\"rule\":\"id\",\"conn\":\"state\",\"out\":\"hex\",\"reply\":\"hex\"}
`out` is the packet after translation and procedures, `reply` what its sender is told, `kept` a fragment that waits for the
others. What is not there is null. A block without a rule has `why`; `tag`, `route` and `logs` stand where there are some.")]
struct ReplayArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// The packets; - for lines from standard input
    #[arg(long, value_name = "FILE")]
    packets: PathBuf,
    /// Of a capture: the interface that all packets cross
    #[arg(long, value_name = "NAME", requires = "dir")]
    interface: Option<String>,
    /// Of a capture: which way they cross it
    #[arg(long, value_enum, requires = "interface")]
    dir: Option<Way>,
    /// An address that an interface has, for ifaddrs() and answers; as often as there are some
    #[arg(long, value_name = "NAME=ADDRESS", value_parser = address)]
    address: Vec<(String, IpAddr)>,
    /// What finds the rule: decision structures, or the literal evaluator, rule by rule
    #[arg(long, value_enum, default_value = "plan")]
    engine: Rules,
    /// Write logged packets to this file, as npflog has them: for tcpdump and tshark
    #[arg(long, value_name = "FILE")]
    npflog: Option<PathBuf>,
    /// Where random numbers begin: translated ports are the same for the same number
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// What finds the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rules {
    Plan,
    Reference,
}

impl From<Rules> for By {
    fn from(rules: Rules) -> By {
        match rules {
            Rules::Plan => By::Plan,
            Rules::Reference => By::Literal,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    In,
    Out,
    Forw,
}

impl From<Way> for Where {
    fn from(way: Way) -> Where {
        match way {
            Way::In => Where::In,
            Way::Out => Where::Out,
            Way::Forw => Where::Forward,
        }
    }
}

fn address(text: &str) -> Result<(String, IpAddr), String> {
    let (name, address) = text.split_once('=').ok_or("an interface and its address: lan0=192.0.2.1")?;
    let address = address.parse().map_err(|_| format!("{address} is no address"))?;
    Ok((name.to_owned(), address))
}

pub fn run(cx: &Context, args: &NpfctlArgs) -> Result<Output, Failure> {
    match &args.command {
        Command::Start => control::start(cx),
        Command::Stop => control::stop(cx),
        Command::Reload { file, dry_run } => control::reload(cx, file, *dry_run),
        Command::Flush => control::flush(cx),
        Command::Show => control::show(cx),
        Command::Rule(args) => control::rule(cx, args),
        Command::Table(args) => control::table(cx, args),
        Command::Save { file } => control::save(cx, file),
        Command::Load { file } => control::load(cx, file),
        Command::Stats => control::stats(cx),
        Command::List(args) => control::list(cx, args),
        Command::Top(args) => control::top(cx, args),
        Command::Trace(args) => watch::trace(cx, args),
        Command::Log(args) => watch::log(cx, args),
        Command::Validate { file } => validate(file),
        Command::Replay(args) => replay(cx, args),
        Command::Convert { from, file } => convert(*from, file),
    }
}

fn validate(file: &Path) -> Result<Output, Failure> {
    let Parsed { config, warnings } = read(file)?;
    warn(&warnings);
    let text = print_config(&config);
    let json = json!({ "text": text, "warnings": warnings, "rules": config.rules().count(),
                       "tables": config.tables.len(), "maps": config.maps.len() });
    Ok(Output::new(text, json))
}

fn convert(from: Foreign, file: &Path) -> Result<Output, Failure> {
    let (name, text) = read_text(file)?;
    let converted = match from {
        Foreign::Pf => convert::pf(&text),
        Foreign::Nft => convert::nft(&text).map_err(|e| Failure::new(format!("{name}: {e}")))?,
    };
    for note in &converted.notes {
        eprintln!("{name}: {note}");
    }
    let json = json!({ "text": converted.text, "notes": converted.notes });
    Ok(Output::new(converted.text, json))
}

/// A file's name in messages, and what is in it.
pub(super) fn read_text(file: &Path) -> Result<(String, String), Failure> {
    let is_stdin = file == Path::new("-");
    let (name, text) = if is_stdin {
        ("stdin".to_owned(), std::io::read_to_string(std::io::stdin()))
    } else {
        (file.display().to_string(), std::fs::read_to_string(file))
    };
    text.map(|text| (name.clone(), text)).map_err(|e| Failure::new(format!("{name}: {e}")))
}

/// Reads and parses a configuration.
fn read(file: &Path) -> Result<Parsed, Failure> {
    let (name, text) = read_text(file)?;
    parse(&name, &text, &Disk).map_err(|found| refused(&name, &found))
}

/// Everything that is wrong with a configuration.
pub(super) fn refused(name: &str, found: &Diagnostics) -> Failure {
    let n = found.errors().count();
    let summary = if n == 1 { "1 error".to_owned() } else { format!("{n} errors") };
    let mut failure = Failure::new(format!("{name}: {summary}\n{found}"));
    failure.body = json!({ "error": format!("{name}: {summary}"), "diagnostics": found });
    failure
}

fn warn(warnings: &Diagnostics) {
    if !warnings.is_empty() {
        eprintln!("{warnings}");
    }
}

fn replay(cx: &Context, args: &ReplayArgs) -> Result<Output, Failure> {
    let Parsed { config, warnings } = read(&args.config)?;
    warn(&warnings);
    let mut interfaces: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for (name, address) in &args.address {
        interfaces.entry(name.clone()).or_default().push(*address);
    }
    let mut engine = Engine::alone(Arc::new(config), Arc::new(interfaces), Limits::default(), args.seed, Millis(0))
        .map_err(|e| Failure::new(format!("{}: {e}", args.config.display())))?;
    engine.look_up_by(args.engine.into());
    let mut replay = Replay::new(engine);
    let mut out = Lines { out: std::io::stdout().lock(), json: cx.json, log: None };
    if let Some(path) = &args.npflog {
        let failed = |e: std::io::Error| Failure::new(format!("{}: {e}", path.display()));
        let mut file = std::fs::File::create(path).map_err(failed)?;
        file.write_all(&npflog::file_header()).map_err(failed)?;
        replay.keep_log();
        out.log = Some((path.clone(), file));
    }
    if is_capture(&args.packets) {
        replay_capture(args, &mut replay, &mut out)?;
    } else {
        replay_lines(&args.packets, &mut replay, &mut out)?;
    }
    Ok(Output::printed())
}

fn replay_capture(args: &ReplayArgs, replay: &mut Replay, out: &mut Lines<'_>) -> Result<(), Failure> {
    let name = args.packets.display();
    let (Some(interface), Some(dir)) = (&args.interface, args.dir) else {
        return Err(Failure::usage(format!("{name} is a capture: --interface and --dir say where its packets are")));
    };
    let file = CaptureFile::read(&args.packets).map_err(Failure::new)?;
    let skip = match file.dlt().map_err(|e| Failure::new(format!("{name}: {e}")))? {
        Some(Dlt::En10mb) => Dlt::En10mb.network_offset() as usize,
        _ => 0,
    };
    let start = file.captured().map(|p| p.ns).min().unwrap_or(0);
    for packet in file.captured() {
        let mut bytes = packet.bytes.get(skip..).unwrap_or_default().to_vec();
        let now = Millis((packet.ns - start) / 1_000_000);
        let judged = replay.packet(&mut bytes, interface, dir.into(), now);
        if !out.put(&judged, &replay.take_log())? {
            break;
        }
    }
    Ok(())
}

fn replay_lines(packets: &Path, replay: &mut Replay, out: &mut Lines<'_>) -> Result<(), Failure> {
    let name = packets.display();
    let lines: Box<dyn BufRead> = if packets == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let file = std::fs::File::open(packets).map_err(|e| Failure::new(format!("{name}: {e}")))?;
        Box::new(BufReader::new(file))
    };
    let mut lines = lines.take(u64::MAX);
    for number in 1u64.. {
        let mut line = String::new();
        lines.set_limit(LINE_MAX);
        let n = lines.read_line(&mut line).map_err(|e| Failure::new(format!("{name}:{number}: {e}")))?;
        if n == 0 {
            break;
        }
        if n as u64 == LINE_MAX && !line.ends_with('\n') {
            return Err(Failure::new(format!("{name}:{number}: the line is longer than {LINE_MAX} bytes")));
        }
        if line.trim().is_empty() {
            continue;
        }
        let judged = replay.line(&line).map_err(|e| {
            Failure::new(format!("{name}:{number}: {e}"))
                .hint(Some(r#"a line is {"t":0.5,"if":"lan0","dir":"in","pkt":"hex from the IP header"}"#.to_owned()))
        })?;
        if !out.put(&judged, &replay.take_log())? {
            break;
        }
    }
    Ok(())
}

/// Whether a file is a pcap or pcapng file. Lines of JSON begin with none of their first bytes.
fn is_capture(path: &Path) -> bool {
    let mut first = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut first));
    read.is_ok() && first.iter().any(|b| !b.is_ascii() || *b < b' ' && !b.is_ascii_whitespace())
        || first == [0x0a, 0x0d, 0x0d, 0x0a]
}

/// Where lines go.
struct Lines<'o> {
    out: std::io::StdoutLock<'o>,
    json: bool,
    /// Where logged packets go.
    log: Option<(PathBuf, std::fs::File)>,
}

impl Lines<'_> {
    /// Prints what became of a packet, and writes what was logged of it. False when nobody reads any more.
    fn put(&mut self, judged: &Judged, logged: &[u8]) -> Result<bool, Failure> {
        if let Some((path, file)) = &mut self.log {
            file.write_all(logged).map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
        }
        let text = if self.json { serde_json::to_string(judged).unwrap_or_default() } else { words(judged) };
        Ok(writeln!(self.out, "{text}").is_ok())
    }
}

/// A line for people.
fn words(j: &Judged) -> String {
    let mut text = format!("{} {}", j.n, j.verdict);
    let mut add = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            text.push_str(&format!(" {name} {value}"));
        }
    };
    add("rule", j.rule.as_deref());
    add("conn", j.conn);
    add("why", j.why.as_deref());
    add("tag", j.tag.as_deref());
    add("route", j.route.as_deref());
    for log in &j.logs {
        add("log", Some(log));
    }
    add("out", j.out.as_deref());
    add("reply", j.reply.as_deref());
    text
}
