//! `cargo xtask soak`: full load, 20 swaps a second, for as long as one likes.

use serde_json::json;
use smpnet_lab::{Lab, LabError, on_interrupt};

use crate::args::Args;
use crate::build;
use crate::demo::round;
use crate::progress::Progress;
use crate::scene::{Scene, Spread};
use crate::table::{Table, micros, thousands};

const SWAPS_PER_SECOND: u32 = 20;
/// Growth of the resident memory after the first tenth that still counts as steady, in bytes.
const STEADY: u64 = 8 << 20;

/// Builds, loads, prints. True when nothing was lost and the memory stayed.
pub fn run(args: &Args) -> Result<bool, String> {
    if !args.no_build {
        build::program()?;
    }
    soak(args).map_err(|e| e.to_string())
}

fn soak(args: &Args) -> Result<bool, LabError> {
    let lab = Lab::enter()?;
    on_interrupt(|| eprintln!("\ninterrupted; everything is taken down"))?;
    let seconds = args.seconds.unwrap_or(600);
    let swaps = seconds as u32 * SWAPS_PER_SECOND;
    let mut progress = Progress::new();
    let mut scene = Scene::start(lab, args.workers)?;
    progress.say(&format!("full load for {seconds} s with {SWAPS_PER_SECOND} swaps a second"));
    let load = scene.load(seconds as f64, swaps, |n, received| {
        progress.update(&format!("swap {n} of {swaps}, {} packets received", thousands(received)));
    })?;
    scene.daemon.stop()?;

    let b = &load.books;
    let early = load.resident[load.resident.len() / 10];
    let last = load.resident.last().copied().unwrap_or(0);
    let grown = last.saturating_sub(early);
    let (probes, probes_in, probes_out) = load.probes;
    let accounted = probes - probes_in - probes_out <= b.dropped_sum() + b.hosts_dropped
        && b.sent == b.forwarded + b.filtered + b.dropped_sum() + b.hosts_dropped;
    let ok = b.lost == 0 && b.wrong == 0 && accounted && grown < STEADY && load.swaps.len() == swaps as usize;
    let request = Spread::of(load.swaps.iter().map(|s| s.request_us));
    let adopt = Spread::of(load.swaps.iter().map(|s| s.adopt_us));
    if args.json {
        let object = json!({
            "ok": ok, "seconds": seconds, "packets": b, "accounted": accounted,
            "packets_per_second": load.rate.round(), "reordered": load.reordered,
            "swaps": {
                "count": load.swaps.len(), "median_us": round(request.median_us), "worst_us": round(request.worst_us),
                "adopt_median_us": round(adopt.median_us), "adopt_worst_us": round(adopt.worst_us),
            },
            "resident_bytes": {"early": early, "last": last, "grown": grown},
            "router": {"received": load.counters.received, "sent": load.counters.sent, "unaccounted": load.counters.missing, "cpu_seconds": round(load.cpu.0)},
        });
        println!("{object}");
        return Ok(ok);
    }
    let mut t = Table::new(&format!("{seconds} s of full load, {SWAPS_PER_SECOND} swaps a second"));
    t.row(["packets sent".to_string(), thousands(b.sent), format!("{} a second", thousands(load.rate as u64))]);
    t.row(["packets forwarded".to_string(), thousands(b.forwarded)]);
    t.row(["packets filtered".to_string(), thousands(b.filtered)]);
    t.row(["packets dropped".to_string(), thousands(b.dropped_sum()), format!("{:?}", b.dropped)]);
    t.row(["packets lost".to_string(), thousands(b.lost)]);
    t.row(["swaps".to_string(), thousands(load.swaps.len() as u64)]);
    t.row([
        "swap time, median".to_string(),
        micros(request.median_us),
        format!("adoption {}", micros(adopt.median_us)),
    ]);
    t.row(["swap time, worst".to_string(), micros(request.worst_us), format!("adoption {}", micros(adopt.worst_us))]);
    let memory = format!("after a tenth of the time {} KiB, grown by {} KiB", early >> 10, grown >> 10);
    t.row(["resident KiB at the end".to_string(), thousands(last >> 10), memory]);
    println!("\n{}  {}", t.render(), if ok { "everything is as it should be" } else { "the soak failed" });
    Ok(ok)
}
