//! What a phase and a kind of filter come to, and how it is printed.

use super::Phase;
use crate::{
    machine::{Kernel, Memory},
    report::word,
    spread::Spread,
    stamps::Sample,
};
use serde::Serialize;
use std::error::Error;

/// Times that a worker may sleep in a phase: when it is asked what it did, before and after, it may have to wait for whoever
/// takes the answer. No swap makes it sleep.
const SLEEPS: i64 = 2;

/// What a swap may delay a burst, in microseconds, on a machine that does not delay bursts longer by itself.
const BUDGET_US: f64 = 50.0;
/// Bursts at the beginning of a phase that count for nothing, a quarter of them at most: caches fill.
const WARM_UP: usize = 20_000;
/// Growth of resident memory that is no leak: a page lost with each of a thousand swaps is twice that.
const GROWTH_KIB: i64 = 2048;
/// Mappings that may come and go with allocators and threads.
const GROWTH_MAPS: i64 = 64;

/// One phase, as it is printed.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    bench: &'static str,
    case: String,
    swaps: usize,
    /// Full bursts of 64 that were timed.
    bursts: usize,
    /// All bursts, on the clock.
    burst_us: Spread,
    /// The same of the bursts during which the worker kept its processor, in its processor time.
    burst_own_us: Spread,
    /// The longest burst around each swap, on the clock (without swaps: around as many moments at random).
    at_swap_us: Spread,
    /// The same of the bursts during which the worker kept its processor, in its processor time.
    at_swap_own_us: Spread,
    /// Bursts around a swap during which the worker lost its processor.
    disturbed: usize,
    /// How much longer than the median burst the longest undisturbed burst around a swap was.
    pub worst_delay_us: f64,
    /// What the kernel counted of the workers.
    kernel: Kernel,
    /// Packets that were not sent.
    pub lost: u64,
}

impl Line {
    /// What a phase comes to.
    pub fn of(phase: &Phase, case: &str, cycles_per_us: f64) -> Line {
        let us = |s: &Sample| f64::from(s.cycles) / cycles_per_us;
        let own = |s: &Sample| f64::from(s.own_ns) / 1e3;
        // A switch to another thread and back takes some microseconds by itself.
        let kept = |s: &&Sample| us(s) - own(s) < 5.0;
        let warm = || phase.recorded.iter().map(|r| &r.samples[(r.samples.len() / 4).min(WARM_UP)..]);
        let mut all: Vec<f64> = warm().flatten().map(us).collect();
        let burst_us = Spread::of(&mut all);
        let burst_own_us = Spread::of(&mut warm().flatten().filter(kept).map(own).collect::<Vec<_>>());
        let (mut at, mut at_own, mut disturbed) = (Vec::new(), Vec::new(), 0);
        for samples in warm() {
            for &(from, to) in &phase.moments {
                let near = around(samples, from, to);
                at.extend(near.iter().map(us).reduce(f64::max));
                at_own.extend(near.iter().filter(kept).map(own).reduce(f64::max));
                disturbed += near.len() - near.iter().filter(kept).count();
            }
        }
        let at_swap_own_us = Spread::of(&mut at_own);
        Line {
            bench: "swap",
            case: case.to_owned(),
            swaps: phase.swaps,
            bursts: all.len(),
            burst_us,
            burst_own_us,
            at_swap_us: Spread::of(&mut at),
            worst_delay_us: at_swap_own_us.worst - burst_own_us.p50,
            at_swap_own_us,
            disturbed,
            kernel: phase.kernel,
            lost: phase.sum(|r| r.unsent),
        }
    }
}

/// The bursts, in order of time, that were in work at some moment from `from` to `to`.
fn around(samples: &[Sample], from: u64, to: u64) -> &[Sample] {
    let first = samples.partition_point(|s| s.began + u64::from(s.cycles) < from);
    let end = samples.partition_point(|s| s.began <= to);
    &samples[first..end.max(first)]
}

/// What is to be said of a kind of filter.
#[derive(Debug, Serialize)]
pub struct Verdict {
    bench: &'static str,
    case: String,
    workers: usize,
    swaps: u64,
    lost: u64,
    /// Bursts of which the filter took some packets and left some, while each generation takes all or none.
    bursts_of_two_generations: u64,
    maps_before: i64,
    maps_after: i64,
    resident_kib_before: i64,
    resident_kib_after: i64,
    worst_delay_us: f64,
    /// The longest undisturbed burst without swaps, more than the median: what the machine does by itself.
    worst_without_swaps_us: f64,
    sleeps: i64,
    page_faults: i64,
    budget_us: f64,
    /// Whether all of it is as it should be.
    pub met: bool,
}

impl Verdict {
    /// `lines` are those without swaps, of swaps elsewhere, and of swaps under load.
    pub fn new(
        what: &str,
        workers: usize,
        swaps: u64,
        lines: [&Line; 3],
        lost: u64,
        mixed: u64,
        (before, after): (Memory, Memory),
    ) -> Verdict {
        let [quiet, _, swapping] = lines;
        let worst = swapping.worst_delay_us;
        let by_itself = quiet.burst_own_us.worst - quiet.burst_own_us.p50;
        let Kernel { sleeps, page_faults, .. } = swapping.kernel;
        // Without a burst that was timed nothing was.
        let timed = quiet.bursts > 0 && swapping.at_swap_own_us.worst > 0.0;
        let grown = after.maps > before.maps + GROWTH_MAPS || after.resident_kib > before.resident_kib + GROWTH_KIB;
        Verdict {
            bench: "swap",
            case: format!("{what}: all"),
            workers,
            swaps,
            lost,
            bursts_of_two_generations: mixed,
            maps_before: before.maps,
            maps_after: after.maps,
            resident_kib_before: before.resident_kib,
            resident_kib_after: after.resident_kib,
            worst_delay_us: worst,
            worst_without_swaps_us: by_itself,
            sleeps,
            page_faults,
            budget_us: BUDGET_US,
            met: lost == 0 && mixed == 0 && !grown && sleeps <= SLEEPS && timed && worst <= BUDGET_US.max(by_itself),
        }
    }
}

/// Prints all of it.
pub fn print(lines: &[Line], verdicts: &[Verdict], json: bool) -> Result<(), Box<dyn Error>> {
    if json {
        for l in lines {
            println!("{}", serde_json::to_string(l)?);
        }
        for v in verdicts {
            println!("{}", serde_json::to_string(v)?);
        }
        return Ok(());
    }
    println!("microseconds of a burst of 64: p50, p99, p99.9, worst");
    for l in lines {
        println!("\n{} ({} swaps, {} bursts, {} packets lost)", l.case, l.swaps, l.bursts, l.lost);
        println!("  all bursts                          {}", l.burst_us);
        println!("  undisturbed bursts                  {}", l.burst_own_us);
        println!("  longest at each swap                {}", l.at_swap_us);
        println!("  longest undisturbed at each swap    {}", l.at_swap_own_us);
        let k = l.kernel;
        println!(
            "  disturbed at a swap {}; in all {} preemptions, {} sleeps, {} page faults",
            l.disturbed, k.preemptions, k.sleeps, k.page_faults
        );
    }
    for v in verdicts {
        println!(
            "\n{} ({} swaps): packets lost {}, bursts of two generations {}",
            v.case, v.swaps, v.lost, v.bursts_of_two_generations
        );
        println!(
            "mappings {} -> {}, resident {} -> {} KiB",
            v.maps_before, v.maps_after, v.resident_kib_before, v.resident_kib_after
        );
        println!(
            "worst delay of a burst at a swap {:.1} us (budget {BUDGET_US} us; without swaps {:.1} us): {}",
            v.worst_delay_us,
            v.worst_without_swaps_us,
            word(v.met)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Sample, around};

    #[test]
    fn the_bursts_around_a_moment_are_found() {
        let s: Vec<Sample> = (0..10).map(|i| Sample { began: 100 * i, cycles: 90, own_ns: 0 }).collect();
        let began = |from, to| around(&s, from, to).iter().map(|s| s.began).collect::<Vec<_>>();
        assert_eq!(began(250, 320), [200, 300]);
        assert_eq!(began(295, 299), [] as [u64; 0], "between two bursts");
        assert_eq!(began(5000, 6000), [] as [u64; 0]);
    }
}
