//! `host`: smpnet between two network namespaces, through each kind of port that stands on the host's own interfaces, beside the
//! kernel's own forwarding on the same wires in the same run.

mod load;
mod scene;

use crate::{
    reading::{self, Budget, Reading},
    report::median,
};
use load::Measured;
pub use scene::mentions;
use scene::{Scene, Way};
use smpnet_lab::{Lab, on_interrupt};
use std::error::Error;

/// Options of `host`.
#[derive(clap::Args)]
pub struct Args {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Rounds, in each of which every way is measured in its turn; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Threads that flood.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    senders: u16,
    /// Only these ways beside the kernel's.
    #[arg(long, value_delimiter = ',', value_enum, value_name = "WAY,...")]
    ways: Vec<Way>,
}

/// What is measured of each way: a name, a unit, what the kernel's is to be compared with, and how it is read.
type What = (&'static str, &'static str, f64, fn(&Measured) -> Result<f64, String>);
const WHAT: [What; 4] = [
    ("UDP, 64 B", "kpps", 1.0, |m| Ok(m.small_kpps)),
    ("UDP, 1500 B", "kpps", 1.0, |m| Ok(m.large_kpps)),
    ("TCP, segments whole", "Gbit/s", 1.0, |m| m.tcp_whole.clone()),
    ("TCP, cut to the MTU", "Gbit/s", 0.5, |m| m.tcp_cut.clone()),
];

/// Runs the benchmark. False when a budget is not met.
pub fn run(args: &Args, json: bool) -> Result<bool, Box<dyn Error>> {
    let lab = Lab::enter()?;
    on_interrupt(|| {})?;
    let ways = if args.ways.is_empty() { vec![Way::AfPacket, Way::AfXdp, Way::Tap] } else { args.ways.clone() };
    let mut scene = Scene::new(lab)?;
    let mut kernel = Vec::new();
    let mut ours: Vec<Result<Vec<Measured>, String>> = ways.iter().map(|_| Ok(Vec::new())).collect();
    for _ in 0..args.rounds {
        kernel.push(load::measure(&mut scene, Way::Kernel, args.seconds, args.senders)?);
        for (way, all) in ways.iter().zip(&mut ours) {
            if let Ok(list) = all {
                match load::measure(&mut scene, *way, args.seconds, args.senders) {
                    Ok(m) => list.push(m),
                    Err(e) => *all = Err(e.to_string().trim().replace('\n', "; ")),
                }
            }
        }
    }
    let mut readings = Vec::new();
    for (case, unit, least, read) in WHAT {
        let of = |all: &[Measured]| -> Result<f64, String> {
            let mut values = all.iter().map(read).collect::<Result<Vec<_>, _>>()?;
            Ok(median(&mut values))
        };
        let by_kernel = of(&kernel);
        readings.push(Reading::of("host", format!("{case}, the kernel's forwarding"), by_kernel.clone(), unit));
        for (way, all) in ways.iter().zip(&ours) {
            let value = all.as_ref().map_err(Clone::clone).and_then(|all| of(all));
            let mut r = Reading::of("host", format!("{case}, {}", way.name()), value, unit)
                .beside("kernel", by_kernel.clone().ok())
                .budget(Budget::RatioAtLeast(least));
            if let Ok(all) = all {
                let cpus = all.iter().map(|m| m.router_cpus).sum::<f64>() / all.len() as f64;
                r = r.detail(serde_json::json!({ "router_cpus": cpus }));
            }
            readings.push(r);
        }
    }
    Ok(reading::print(&readings, json))
}
