//! `smpnet filter`.

mod bench;
mod check;
mod diff;
mod offline;
mod show;
mod source;
mod tables;
mod test;

use super::context::{Context, Failure, Output};
use crate::{client::encode, config::fault_limit};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use serde_json::json;
use smpnet_wasm::FaultLimit;
use source::{Source, word};

/// Load, swap and watch packet filters
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  smpnet filter load block --drop 'udp port 5000'
  smpnet filter swap block --drop 'udp port 5000 or udp port 5001'
  smpnet filter rollback block
  smpnet filter load syn --module syn-flood.wasm --config 'rate = 20' --on-fault detach
  smpnet filter load --shadow syn --module syn-flood-2.wasm; smpnet filter diff syn; smpnet filter promote syn
  smpnet filter table create names exact; smpnet filter load dns --module dns-blocklist.wasm --allow tables
  smpnet filter check syn-flood.wasm; smpnet filter test syn-flood.wasm --pcap lan0.pcapng
  smpnet filter load bad-line --native loss --options '{\"one_in\": 100}' --interface wan0
  smpnet filter load web --pass 'tcp port 80' --interface lan0 --direction out --on-fault drop
  smpnet filter stats block")]
pub struct FilterArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)]
enum Command {
    /// Compile a filter, take a module or make a native one, and attach it
    #[command(
        group(ArgGroup::new("source").required(true)),
        after_help = "\
A filter that fails does to packets what --on-fault says. After more than N faults in SECONDS (--faults) the program that ran
before comes back by itself; when there is none, a filter that passes packets leaves its hooks.

With --shadow OLD, what is given runs beside the filter OLD, on the same packets, and nobody acts on what it says: `filter
diff OLD` tells how it differs, `filter promote OLD` puts it in OLD's place, `filter drop-shadow OLD` ends it.

Examples:
  smpnet filter load block --drop 'udp port 5000'
  smpnet filter load syn --module syn-flood.wasm --config 'rate = 20; burst = 40' --faults 3/10
  smpnet filter load dns --module dns-blocklist.wasm --allow tables,reject --table names=blocklist
  smpnet filter load --shadow syn --module syn-flood.wasm --config 'rate = 10'"
    )]
    Load {
        /// Its name
        #[arg(required_unless_present = "shadow")]
        name: Option<String>,
        /// Run it in the shadow of this filter instead of attaching it
        #[arg(long, value_name = "OLD", conflicts_with_all = ["name", "attach", "interface", "direction", "priority",
            "on_fault", "faults", "native"])]
        shadow: Option<String>,
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
        /// What happens to packets when the filter fails; detach: they pass, and the first fault is one too many
        #[arg(long, value_enum, value_name = "POLICY", default_value = "pass")]
        on_fault: Policy,
        /// How many faults in how many seconds are too many [default: 8/60]
        #[arg(long, value_name = "N/SECONDS", value_parser = fault_limit)]
        faults: Option<FaultLimit>,
    },
    /// Put another program in a filter's place: every packet is judged by the one or the other, and none is lost
    #[command(
        group(ArgGroup::new("source").required(true)),
        after_help = "\
A module in place of a module keeps the configuration, rights, limits and tables that are not given anew, and the state that
the two hand over.

Examples:
  smpnet filter swap block --drop 'udp port 5001'
  smpnet filter swap syn --module syn-flood.wasm --config 'rate = 50'"
    )]
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
    /// Show a filter: program or module, history, faults, log
    Show {
        /// The filter
        name: String,
    },
    /// Show a filter's counters, by worker and generation
    Stats {
        /// The filter
        name: String,
    },
    Diff(diff::DiffArgs),
    /// Put a filter's shadow in its place
    #[command(after_help = "Example:\n  smpnet filter promote syn")]
    Promote {
        /// The filter
        name: String,
    },
    /// End a filter's shadow
    #[command(after_help = "Example:\n  smpnet filter drop-shadow syn")]
    DropShadow {
        /// The filter
        name: String,
    },
    Table(tables::TableArgs),
    Check(check::CheckArgs),
    Test(test::TestArgs),
    Bench(bench::BenchArgs),
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

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Policy {
    /// They pass
    Pass,
    /// They are dropped
    Drop,
    /// They pass, and the first fault is one too many
    Detach,
}

pub fn run(cx: &Context, args: &FilterArgs) -> Result<Output, Failure> {
    let path = |name: &str, more: &str| format!("/v1/filters/{}{more}", encode(name));
    match &args.command {
        Command::Load { shadow: Some(old), source, .. } => {
            let mut body = json!({});
            source.put(&mut body)?;
            let answer = cx.client.post(&path(old, "/shadow"), &body)?;
            Ok(Output::new(
                format!("{old}: in its shadow now runs {}", answer["shadow"].as_str().unwrap_or("")),
                answer,
            ))
        }
        Command::Load { name, source, attach, interface, direction, priority, on_fault, faults, .. } => {
            let mut body = json!({
                "name": name,
                "attach": word(attach),
                "interface": interface,
                "direction": word(direction),
                "priority": priority,
                "on_fault": word(on_fault),
            });
            if let Some(f) = faults {
                body["faults"] = format!("{}/{}", f.max, f.seconds).into();
            }
            source.put(&mut body)?;
            show::report("loaded", cx.client.post("/v1/filters", &body)?)
        }
        Command::Swap { name, source } => {
            let mut body = json!({});
            source.put(&mut body)?;
            show::report("swapped", cx.client.put(&path(name, ""), &body)?)
        }
        Command::Rollback { name } => {
            show::report("rolled back", cx.client.post(&path(name, "/rollback"), &json!({}))?)
        }
        Command::Detach { name } => Ok(Output::silent(cx.client.delete(&path(name, ""))?)),
        Command::List => {
            let all = cx.client.get("/v1/filters")?;
            Ok(Output::new(show::list(&all), all))
        }
        Command::Show { name } => {
            let one = cx.client.get(&path(name, ""))?;
            Ok(Output::new(show::show(&one), one))
        }
        Command::Stats { name } => {
            let one = cx.client.get(&path(name, "/stats"))?;
            Ok(Output::new(show::stats(&one), one))
        }
        Command::Diff(args) => diff::run(cx, args),
        Command::Promote { name } => show::report("promoted", cx.client.post(&path(name, "/promote"), &json!({}))?),
        Command::DropShadow { name } => Ok(Output::silent(cx.client.delete(&path(name, "/shadow"))?)),
        Command::Table(args) => tables::run(cx, args),
        Command::Check(args) => check::run(args),
        Command::Test(args) => test::run(args),
        Command::Bench(args) => bench::run(args),
    }
}
