//! `swap`: a filter is swapped a thousand times while each worker forwards as fast as it can. Is a packet lost, is a burst
//! judged by two generations, how long does a burst take meanwhile, and what does memory look like afterwards?
//!
//! On a machine that others use, most long bursts are not ours. So the same is measured without swaps, and with swaps of a
//! filter that no packet meets (they compile, publish and free as the others do, but no worker adopts anything); and each
//! burst has two times: that on the clock, and the processor time of its worker. Where they differ, the worker lost its
//! processor to somebody else; such bursts are counted and not blamed on the swap, provided that the worker never slept of its
//! own accord and touched no fresh page.

use crate::{
    clock::tsc,
    router::{Load, NullPort, furnish},
    stamps::{self, Recorded, Sample},
};
use serde::Serialize;
use smpnet_runtime::{PoolConfig, Runtime, RuntimeConfig};
use smpnet_stack::{IfIndex, Stack};
use smpnet_wasm::{Action, FilterManager, FilterSpec, Source, StackAttach};
use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

/// What a swap may delay a burst, in microseconds, on a machine that does not delay bursts longer by itself.
const BUDGET_US: f64 = 50.0;
/// Bursts at the beginning of a phase that count for nothing: caches fill.
const WARM_UP: usize = 20_000;
/// Bursts that are kept of each worker and phase.
const ROOM: usize = 4 << 20;
/// Runs of a phase, of which the best counts.
const RUNS: usize = 3;
/// Growth of resident memory that is no leak: a page lost with each of a thousand swaps is twice that.
const GROWTH_KIB: i64 = 2048;
/// Mappings that may come and go with allocators and threads.
const GROWTH_MAPS: i64 = 64;

/// Options of `swap`.
#[derive(clap::Args)]
pub struct Args {
    /// Swaps of each phase.
    #[arg(long, default_value_t = 1000)]
    swaps: u32,
    /// Flows.
    #[arg(long, default_value_t = 10_000)]
    flows: u32,
}

/// One phase, as it is printed.
#[derive(Debug, Serialize)]
struct Line {
    bench: &'static str,
    case: &'static str,
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
    worst_delay_us: f64,
    /// What the kernel counted of the workers.
    kernel: Kernel,
    /// Packets that were not sent.
    lost: u64,
}

/// What the kernel counts of a thread.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Kernel {
    /// Times that it lost its processor to somebody else.
    preemptions: i64,
    /// Times that it slept of its own accord.
    sleeps: i64,
    /// Fresh pages that it touched.
    page_faults: i64,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Spread {
    p50: f64,
    p99: f64,
    p999: f64,
    worst: f64,
}

/// What the whole run says.
#[derive(Debug, Serialize)]
struct Verdict {
    bench: &'static str,
    case: &'static str,
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
    met: bool,
}

/// Runs the benchmark.
pub fn run(args: &Args, json: bool) -> Result<bool, Box<dyn Error>> {
    let swaps = args.swaps.max(10);
    let bench = Bench::start(args.flows)?;
    let (quiet, lost_quiet) = bench.best(None, "no swaps", swaps)?;
    let filter = Some(("elsewhere", PASSING));
    let (elsewhere, lost_elsewhere) = bench.best(filter, "swaps of a filter that no packet meets", swaps)?;
    // What a phase recorded is freed when its line is made.
    let before = Memory::settled();
    let filter = Some(("inward", PASSING));
    let (swapping, lost_swapping) = bench.best(filter, "swaps under full load", swaps)?;
    let after = Memory::settled();
    // Generations that drop everything take turns with such that drop nothing: a burst of both shows itself.
    let split = bench.phase(Some(("inward", ALTERNATING)), swaps)?;
    if split.sum(|r| r.dropped) == 0 {
        return Err("no burst met the generations that drop everything".into());
    }
    let mixed = split.sum(|r| r.split);
    let worst = swapping.worst_delay_us;
    let by_itself = quiet.burst_own_us.worst - quiet.burst_own_us.p50;
    let Kernel { sleeps, page_faults, .. } = swapping.kernel;
    let grown = after.maps > before.maps + GROWTH_MAPS || after.resident_kib > before.resident_kib + GROWTH_KIB;
    let lines = [quiet, elsewhere, swapping];
    let lost = lost_quiet + lost_elsewhere + lost_swapping;
    let verdict = Verdict {
        bench: "swap",
        case: "all",
        workers: bench.runtime.workers(),
        swaps: (2 * RUNS as u64 + 1) * u64::from(swaps),
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
        met: lost == 0 && mixed == 0 && !grown && sleeps == 0 && worst <= BUDGET_US.max(by_itself),
    };
    print(&lines, &verdict, json)?;
    bench.end();
    Ok(verdict.met)
}

/// Two sources that take turns; no packet of the load matches either.
const PASSING: [&str; 2] = ["ip and tcp port 80", "ip and tcp port 81"];
/// All packets of the load match the first one, and none the second one.
const ALTERNATING: [&str; 2] = ["udp", "tcp"];

/// The router, its workers on processors of their own where there are enough.
struct Bench {
    runtime: Arc<Runtime>,
    stack: Arc<Stack>,
    manager: FilterManager,
    source: IfIndex,
    cycles_per_us: f64,
    _ports: (NullPort, NullPort),
}

/// What happened in a phase.
struct Phase {
    recorded: Vec<Recorded>,
    /// From when to when each swap made workers adopt something, in cycles of the time-stamp counter.
    moments: Vec<(u64, u64)>,
    swaps: usize,
    kernel: Kernel,
}

impl Bench {
    fn start(flows: u32) -> Result<Bench, Box<dyn Error>> {
        let mut cpus = allowed_cpus()?;
        // Control threads have the first processor for themselves, unless it is the only one.
        let control = cpus[0];
        if cpus.len() > 1 {
            cpus.remove(0);
        }
        cpus.truncate(stamps::WORKERS);
        let config = RuntimeConfig {
            pool: PoolConfig { cells: 16384 * cpus.len() as u32, ..PoolConfig::default() },
            cpus: cpus.into_iter().map(Some).collect(),
            ..RuntimeConfig::default()
        };
        pin(control)?;
        let runtime = Runtime::start(config)?;
        let stack = Stack::new(runtime.clone())?;
        let load = Load { size: 60, flows, routes: 1000, filter: None };
        let ports = furnish(&runtime, &stack, load, stamps::stamped)?;
        let index = |name| stack.if_by_name(name).ok_or_else(|| format!("there is no {name}"));
        let (source, sink) = (index("in0")?, index("out0")?);
        stack.set_up(source, false)?;
        let manager = FilterManager::new(Arc::new(StackAttach::new(runtime.clone(), stack.clone())))?;
        for (name, at) in [("inward", source), ("elsewhere", sink)] {
            let spec = FilterSpec::new(name, Source::Expr(PASSING[1].into()), Action::Drop);
            manager.load(FilterSpec { ifindex: Some(at.get()), ..spec })?;
        }
        let (began, clock) = (tsc(), Instant::now());
        std::thread::sleep(Duration::from_millis(200));
        let cycles_per_us = (tsc() - began) as f64 / clock.elapsed().as_secs_f64() / 1e6;
        Ok(Bench { runtime, stack, manager, source, cycles_per_us, _ports: ports })
    }

    /// The one of several runs of a phase whose longest burst was the shortest: what a swap does by itself it does in each of
    /// them. And the packets lost in all of them.
    fn best(
        &self,
        filter: Option<(&str, [&str; 2])>,
        case: &'static str,
        swaps: u32,
    ) -> Result<(Line, u64), Box<dyn Error>> {
        let mut lines = Vec::new();
        for _ in 0..RUNS {
            lines.push(self.phase(filter, swaps)?.line(case, self.cycles_per_us));
        }
        let lost = lines.iter().map(|l| l.lost).sum();
        let best = lines.into_iter().min_by(|a, b| a.worst_delay_us.total_cmp(&b.worst_delay_us));
        Ok((best.ok_or("no run")?, lost))
    }

    /// Forwards at full load while the filter is swapped `swaps` times between two sources, or as long as that would take.
    fn phase(&self, filter: Option<(&str, [&str; 2])>, swaps: u32) -> Result<Phase, Box<dyn Error>> {
        let workers = self.runtime.workers();
        self.runtime.domain().perform();
        // SAFETY: the source is down since before the grace period.
        unsafe { stamps::start(workers, ROOM) };
        self.stack.set_up(self.source, true)?;
        // The first bursts learn the neighbours and fill the flow cache.
        std::thread::sleep(Duration::from_millis(200));
        let before = self.kernel();
        let mut moments = Vec::with_capacity(swaps as usize);
        let mut result = Ok(());
        for i in 0..swaps as usize {
            match filter {
                Some((name, sources)) => match self.manager.swap(name, Source::Expr(sources[i % 2].into()), None) {
                    Ok(report) => {
                        let end = tsc();
                        moments.push((end - (report.adopt_us * self.cycles_per_us) as u64, end));
                    }
                    Err(e) => {
                        result = Err(e);
                        break;
                    }
                },
                // As long as a swap takes, more or less.
                None => {
                    std::thread::sleep(Duration::from_micros(1500));
                    let now = tsc();
                    moments.push((now - (5.0 * self.cycles_per_us) as u64, now));
                }
            }
        }
        let kernel = self.kernel().since(before);
        self.stack.set_up(self.source, false)?;
        self.runtime.domain().perform();
        // SAFETY: as above.
        let recorded = unsafe { stamps::stop(workers) };
        result?;
        let swaps = if filter.is_some() { moments.len() } else { 0 };
        Ok(Phase { recorded, moments, swaps, kernel })
    }

    /// What the kernel counted of the workers until now.
    fn kernel(&self) -> Kernel {
        let of = |w| {
            self.runtime.run_on_wait(w, |_| {
                // SAFETY: all zero is an rusage, which outlives the call.
                let usage = unsafe {
                    let mut usage: libc::rusage = std::mem::zeroed();
                    libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
                    usage
                };
                Kernel { preemptions: usage.ru_nivcsw, sleeps: usage.ru_nvcsw, page_faults: usage.ru_minflt }
            })
        };
        (0..self.runtime.workers()).filter_map(of).fold(Kernel::default(), |sum, k| Kernel {
            preemptions: sum.preemptions + k.preemptions,
            sleeps: sum.sleeps + k.sleeps,
            page_faults: sum.page_faults + k.page_faults,
        })
    }

    fn end(self) {
        drop(self.manager);
        self.stack.shutdown();
        self.runtime.stop();
    }
}

impl Kernel {
    fn since(self, before: Kernel) -> Kernel {
        Kernel {
            preemptions: self.preemptions - before.preemptions,
            sleeps: self.sleeps - before.sleeps,
            page_faults: self.page_faults - before.page_faults,
        }
    }
}

impl Phase {
    fn sum(&self, which: impl Fn(&Recorded) -> u64) -> u64 {
        self.recorded.iter().map(which).sum()
    }

    fn line(&self, case: &'static str, cycles_per_us: f64) -> Line {
        let us = |s: &Sample| f64::from(s.cycles) / cycles_per_us;
        let own = |s: &Sample| f64::from(s.own_ns) / 1e3;
        // A switch to another thread and back takes some microseconds by itself.
        let kept = |s: &&Sample| us(s) - own(s) < 5.0;
        let warm = || self.recorded.iter().map(|r| &r.samples[r.samples.len().min(WARM_UP)..]);
        let mut all: Vec<f64> = warm().flatten().map(us).collect();
        let burst_us = Spread::of(&mut all);
        let burst_own_us = Spread::of(&mut warm().flatten().filter(kept).map(own).collect::<Vec<_>>());
        let (mut at, mut at_own, mut disturbed) = (Vec::new(), Vec::new(), 0);
        for samples in warm() {
            for &(from, to) in &self.moments {
                let near = around(samples, from, to);
                at.extend(near.iter().map(us).reduce(f64::max));
                at_own.extend(near.iter().filter(kept).map(own).reduce(f64::max));
                disturbed += near.len() - near.iter().filter(kept).count();
            }
        }
        let at_swap_own_us = Spread::of(&mut at_own);
        Line {
            bench: "swap",
            case,
            swaps: self.swaps,
            bursts: all.len(),
            burst_us,
            burst_own_us,
            at_swap_us: Spread::of(&mut at),
            worst_delay_us: at_swap_own_us.worst - burst_own_us.p50,
            at_swap_own_us,
            disturbed,
            kernel: self.kernel,
            lost: self.sum(|r| r.unsent),
        }
    }
}

/// The bursts, in order of time, that were in work at some moment from `from` to `to`.
fn around(samples: &[Sample], from: u64, to: u64) -> &[Sample] {
    let first = samples.partition_point(|s| s.began + u64::from(s.cycles) < from);
    let end = samples.partition_point(|s| s.began <= to);
    &samples[first..end.max(first)]
}

impl Spread {
    fn of(values: &mut [f64]) -> Spread {
        values.sort_by(f64::total_cmp);
        let at = |p| percentile(values, p);
        Spread { p50: at(0.5), p99: at(0.99), p999: at(0.999), worst: at(1.0) }
    }
}

/// The value that a share of the values, which are in order, does not exceed.
fn percentile(values: &[f64], share: f64) -> f64 {
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0)
}

/// Mappings and resident memory of this process.
#[derive(Clone, Copy)]
struct Memory {
    maps: i64,
    resident_kib: i64,
}

impl Memory {
    /// The least of half a second, in which what swaps left behind is freed.
    fn settled() -> Memory {
        let samples = (0..25).map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            Memory::now()
        });
        samples.fold(Memory { maps: i64::MAX, resident_kib: i64::MAX }, |a, b| Memory {
            maps: a.maps.min(b.maps),
            resident_kib: a.resident_kib.min(b.resident_kib),
        })
    }

    fn now() -> Memory {
        let read = |f: &str| std::fs::read_to_string(f).unwrap_or_default();
        let line = |text: &str| text.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
        let status = read("/proc/self/status");
        let resident = status.lines().find(|l| l.starts_with("VmRSS:")).map_or(0, line);
        Memory { maps: read("/proc/self/maps").lines().count() as i64, resident_kib: resident }
    }
}

/// The processors that this process may use.
fn allowed_cpus() -> std::io::Result<Vec<usize>> {
    // SAFETY: all zero is an empty cpu_set_t, which outlives the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok((0..libc::CPU_SETSIZE as usize).filter(|c| libc::CPU_ISSET(*c, &set)).collect())
    }
}

/// Keeps the calling thread, and those that it starts, on one processor.
fn pin(cpu: usize) -> std::io::Result<()> {
    // SAFETY: all zero is an empty cpu_set_t; `cpu` came from one.
    let rc = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if rc == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn print(lines: &[Line], verdict: &Verdict, json: bool) -> Result<(), Box<dyn Error>> {
    if json {
        for l in lines {
            println!("{}", serde_json::to_string(l)?);
        }
        println!("{}", serde_json::to_string(verdict)?);
        return Ok(());
    }
    println!("microseconds of a burst of 64: p50, p99, p99.9, worst");
    for l in lines {
        let spread = |s: &Spread| format!("{:.1}, {:.1}, {:.1}, {:.1}", s.p50, s.p99, s.p999, s.worst);
        println!("\n{} ({} swaps, {} bursts, {} packets lost)", l.case, l.swaps, l.bursts, l.lost);
        println!("  all bursts                          {}", spread(&l.burst_us));
        println!("  undisturbed bursts                  {}", spread(&l.burst_own_us));
        println!("  longest at each swap                {}", spread(&l.at_swap_us));
        println!("  longest undisturbed at each swap    {}", spread(&l.at_swap_own_us));
        let k = l.kernel;
        println!(
            "  disturbed at a swap {}; in all {} preemptions, {} sleeps, {} page faults",
            l.disturbed, k.preemptions, k.sleeps, k.page_faults
        );
    }
    let v = verdict;
    println!("\nswaps {}, packets lost {}, bursts of two generations {}", v.swaps, v.lost, v.bursts_of_two_generations);
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
    Ok(())
}

fn word(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

#[cfg(test)]
mod tests {
    use super::{Sample, around, percentile};

    #[test]
    fn the_bursts_around_a_moment_are_found() {
        let s: Vec<Sample> = (0..10).map(|i| Sample { began: 100 * i, cycles: 90, own_ns: 0 }).collect();
        let began = |from, to| around(&s, from, to).iter().map(|s| s.began).collect::<Vec<_>>();
        assert_eq!(began(250, 320), [200, 300]);
        assert_eq!(began(295, 299), [] as [u64; 0], "between two bursts");
        assert_eq!(began(5000, 6000), [] as [u64; 0]);
    }

    #[test]
    fn percentiles_reach_from_the_least_to_the_worst() {
        let v: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|p| percentile(&v, p)), [0.0, 50.0, 99.0, 100.0]);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
