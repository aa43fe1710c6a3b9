//! The command line. Each command is a client of the control API, but for `run`, `check`, `bpf`, `doctor` and `sdk`, which
//! work without a daemon.

mod arp;
mod bpf;
mod bpf_capture_file;
mod bpf_eval;
mod bpf_vectors;
mod capture;
mod context;
mod control;
mod doctor;
mod filter;
mod ifconfig;
mod netstat;
mod npf_control;
mod npf_watch;
mod npfctl;
mod plugin;
mod route;
mod sdk;
mod sentences;
mod sysctl;
mod table;

use crate::config::DEFAULT_SOCKET;
use clap::{Parser, Subcommand};
use context::{Context, Failure, Output};
use std::{ffi::OsString, path::PathBuf, process::ExitCode};

/// The environment variable that names the control socket.
const SOCKET_VARIABLE: &str = "SMPNET_SOCKET";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused or failed; nothing was changed, unless the message says otherwise
  2  the command line is wrong
  3  no daemon answers on the socket, or it stopped while a capture or the events were read

Example:
  smpnet check router.toml && smpnet run router.toml";

/// A user-space, multi-core router with plugins, and filters that are swapped under traffic.
#[derive(Debug, Parser)]
#[command(name = "smpnet", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Args {
    /// Print one JSON value instead of text
    #[arg(long, global = true)]
    json: bool,
    /// The daemon's control socket [default: $SMPNET_SOCKET, or /run/smpnet/control.sock]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// What is logged to stderr: error, warn, info, debug, trace, or a filter such as smpnet_stack=debug
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(control::RunArgs),
    Check(control::CheckArgs),
    Apply(control::ApplyArgs),
    Ifconfig(ifconfig::IfconfigArgs),
    Route(route::RouteArgs),
    Arp(arp::ArpArgs),
    Netstat(netstat::NetstatArgs),
    Sysctl(sysctl::SysctlArgs),
    Plugin(plugin::PluginArgs),
    Filter(Box<filter::FilterArgs>),
    Bpf(bpf::BpfArgs),
    Npfctl(npfctl::NpfctlArgs),
    Extcap(capture::extcap::ExtcapArgs),
    Explain(control::ExplainArgs),
    Doctor(doctor::DoctorArgs),
    Events(control::EventsArgs),
    Stats(control::StatsArgs),
    Sdk(sdk::SdkArgs),
}

/// Runs the program with the command line of the process.
pub fn main() -> ExitCode {
    let args = match Args::try_parse_from(hoist(std::env::args_os().collect())) {
        Ok(args) => args,
        Err(e) => {
            // A closed pipe must not become a panic.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    if let Err(e) = start_log(&args.log) {
        eprintln!("smpnet: --log {}: {e}", args.log);
        return ExitCode::from(2);
    }
    let given = args.socket.or_else(|| std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from));
    let socket = given.clone().unwrap_or_else(|| DEFAULT_SOCKET.into());
    let cx = Context::new(socket, given, args.json);
    match run(&cx, args.command) {
        Ok(output) => output.print(args.json),
        Err(failure) => failure.print(args.json),
    }
}

/// Moves the options that every command has out of the words of `ifconfig` and `route`, whose words may begin with a
/// hyphen, to the front.
fn hoist(mut args: Vec<OsString>) -> Vec<OsString> {
    const WITH_VALUE: [&str; 2] = ["--socket", "--log"];
    let mut command = 1;
    while let Some(arg) = args.get(command).and_then(|a| a.to_str()).filter(|a| a.starts_with('-')) {
        command += if WITH_VALUE.contains(&arg) { 2 } else { 1 };
    }
    if !args.get(command).is_some_and(|c| c == "ifconfig" || c == "route") {
        return args;
    }
    let mut words = args.split_off(command + 1).into_iter();
    let (mut options, mut rest) = (Vec::new(), Vec::new());
    while let Some(word) = words.next() {
        let text = word.to_str().unwrap_or("");
        if WITH_VALUE.contains(&text) {
            options.push(word);
            options.extend(words.next());
        } else if text == "--json" || WITH_VALUE.iter().any(|o| text.starts_with(&format!("{o}="))) {
            options.push(word);
        } else if text == "--help" {
            // Help of the command, whatever words were typed already.
            rest.insert(0, word);
        } else {
            rest.push(word);
        }
    }
    args.extend(options);
    args.extend(rest);
    args
}

fn run(cx: &Context, command: Command) -> Result<Output, Failure> {
    match command {
        Command::Run(a) => control::run(cx, &a),
        Command::Check(a) => control::check(&a),
        Command::Apply(a) => control::apply(cx, &a),
        Command::Ifconfig(a) => ifconfig::run(cx, &a),
        Command::Route(a) => route::run(cx, &a),
        Command::Arp(a) => arp::run(cx, &a),
        Command::Netstat(a) => netstat::run(cx, &a),
        Command::Sysctl(a) => sysctl::run(cx, &a),
        Command::Plugin(a) => plugin::run(cx, &a),
        Command::Filter(a) => filter::run(cx, &a),
        Command::Bpf(a) => bpf::run(cx, &a),
        Command::Npfctl(a) => npfctl::run(cx, &a),
        Command::Extcap(a) => capture::extcap::run(cx, &a),
        Command::Explain(a) => control::explain(cx, &a),
        Command::Doctor(a) => doctor::run(&a),
        Command::Events(a) => control::events(cx, &a),
        Command::Stats(a) => control::stats(cx, &a),
        Command::Sdk(a) => sdk::run(&a),
    }
}

/// The log goes to stderr; without times where journald adds them.
fn start_log(level: &str) -> Result<(), String> {
    use tracing_subscriber::{EnvFilter, fmt};
    // wasmtime and cranelift log every instruction at debug; nobody who asks for smpnet's debug lines wants those.
    let filter = EnvFilter::try_new(format!("{level},cranelift_codegen=warn,wasmtime=warn,regalloc2=warn"))
        .map_err(|e| e.to_string())?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.without_time().with_ansi(false).init();
    } else {
        let tty = std::io::IsTerminal::is_terminal(&std::io::stderr());
        builder.with_ansi(tty).init();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
