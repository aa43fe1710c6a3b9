//! `smpnet-bench`: every performance figure that smpnet claims, measured.
//!
//! Timings on shared machines move by a third within minutes: compare ratios of one run, and instruction counts.

mod all;
mod bpf;
mod callgrind;
mod clock;
mod counters;
mod filter;
mod forward;
mod host;
mod latency;
mod live;
mod machine;
mod npf;
mod peer;
mod reading;
mod report;
mod router;
mod scale;
mod spread;
mod stamps;
mod steady;
mod step;
mod swap;
mod update;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Measures smpnet. Example: `smpnet-bench forward`, `smpnet-bench --json forward --instructions`
#[derive(Parser)]
#[command(name = "smpnet-bench", version)]
struct Cli {
    /// Prints one JSON line for each case.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Every benchmark, as JSON lines or a line for each figure, and which budgets are met: a quarter of an hour at most. Exits with
    /// 2 when one could not be run, with --strict also with 1 when a budget is missed. Example: `smpnet-bench --json all`
    All(all::Args),
    /// A classic BPF program in bursts of 64: WebAssembly beside native Rust, the interpreter, libpcap's interpreter and
    /// the kernel's JIT. Exits with 1 when a budget is missed.
    Bpf(bpf::Args),
    /// Modules of others in bursts of 64: what one that reads 64 bytes costs over the same in native Rust, by the size of its
    /// window, and what each of ten on one hook adds. Exits with 1 when a budget is missed. Example: `smpnet-bench filter`
    Filter(filter::Args),
    /// IPv4 forwarding between two null ports, over the whole path, by packet size, flows, routes and filters. Exits with 1 when
    /// a budget is missed. Example: `smpnet-bench forward --flows 1000000,random --routes 100000,1000000`
    Forward(forward::Args),
    /// smpnet between two network namespaces, through each kind of host port, beside the kernel's own forwarding: UDP floods, and
    /// TCP by iperf3. Root, or user namespaces. Exits with 1 when a budget is missed. Example: `smpnet-bench host --ways af-packet`
    Host(host::Args),
    /// What the router adds to a packet's way, at parts of the rate that it can do at most and while it is changed; the first packet
    /// after a pause; what an idle router costs. Exits with 1 when a budget is missed.
    Latency(latency::Args),
    /// What rules, connections and translation of NPF cost by themselves: rules as a plan beside the literal evaluator, packets of
    /// established connections, new connections. Exits with 1 when a budget is missed. Example: `smpnet-bench npf --rules 10,1000`
    Npf(npf::Args),
    /// smpnet beside DPDK's testpmd, over memif: packets per second, and their ratio. Root, or user namespaces, and dpdk-testpmd.
    Peer(peer::Args),
    /// What more workers bring: a queue for each, and one queue steered in software. Exits with 1 when a budget is missed.
    /// Example: `smpnet-bench scale --workers 8`
    Scale(scale::Args),
    /// Steps through the packet path one instruction at a time and counts what must not be there: allocations, locked
    /// instructions, system calls. Exits with 1 when one is found.
    Steady(steady::Args),
    /// A bpf filter, and a module of somebody else's, swapped a thousand times under full load: packets lost, bursts judged by two generations, how long bursts
    /// take, memory before and after. Exits with 1 when the budget is missed. Example: `smpnet-bench swap --swaps 5000`
    Swap(swap::Args),
    /// Routes and neighbours that change 100,000 times a second under full load: throughput lost, packets misrouted. Exits with 1
    /// when a budget is missed.
    Update(update::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.what {
        What::All(args) => all::run(&args, cli.json),
        What::Bpf(args) => bpf::run(&args, cli.json),
        What::Filter(args) => filter::run(&args, cli.json),
        What::Forward(args) => forward::run(&args, cli.json),
        What::Host(args) => host::run(&args, cli.json),
        What::Latency(args) => latency::run(&args, cli.json),
        What::Npf(args) => npf::run(&args, cli.json),
        What::Peer(args) => peer::run(&args, cli.json),
        What::Scale(args) => scale::run(&args, cli.json),
        What::Steady(args) => steady::run(&args, cli.json),
        What::Swap(args) => swap::run(&args, cli.json),
        What::Update(args) => update::run(&args, cli.json),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("smpnet-bench: {e}");
            ExitCode::from(2)
        }
    }
}
