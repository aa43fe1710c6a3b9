//! `swap`: a filter is swapped a thousand times while each worker forwards as fast as it can. Is a packet lost, is a burst
//! judged by two generations, how long does a burst take meanwhile, and what does memory look like afterwards? First a bpf filter,
//! which smpnet compiles; then a module of somebody else's.
//!
//! On a machine that others use, most long bursts are not ours. So the same is measured without swaps, and with swaps of a
//! filter that no packet meets (they compile, publish and free as the others do, but no worker adopts anything); and each
//! burst has two times: that on the clock, and the processor time of its worker. Where they differ, the worker lost its
//! processor to somebody else; such bursts are counted and not blamed on the swap, provided that the worker never slept of its
//! own accord and touched no fresh page.

mod line;
mod module;

use crate::{
    clock::tsc,
    live::Live,
    machine::{Kernel, Memory},
    router::{Flows, Load, Ports},
    stamps::{self, Recorded},
};
use line::{Line, Verdict};
use smpnet_wasm::{Action, FilterManager, FilterSpec, Source, StackAttach};
use std::{error::Error, sync::Arc, time::Duration};

/// Bursts that are kept of each worker and phase.
const ROOM: usize = 4 << 20;
/// Runs of a phase, of which the best counts.
const RUNS: usize = 3;

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

/// Two sources that take turns under one name.
struct Pair {
    name: &'static str,
    sources: [Source; 2],
}

/// What is swapped: a filter that packets meet and one that they do not, and generations that take all or none of them.
struct Kind {
    what: &'static str,
    met: Pair,
    elsewhere: Pair,
    alternating: Pair,
}

impl Kind {
    fn bpf() -> Kind {
        let pair = |name, [a, b]: [&str; 2]| Pair { name, sources: [Source::Expr(a.into()), Source::Expr(b.into())] };
        // No packet of the load, which is UDP, matches any of these.
        let passing = ["ip and tcp port 80", "ip and tcp port 81"];
        Kind {
            what: "bpf",
            met: pair("inward", passing),
            elsewhere: pair("elsewhere", passing),
            alternating: pair("inward", ["udp", "tcp"]),
        }
    }

    fn modules() -> Result<Kind, Box<dyn Error>> {
        let pair = |name, takes: [bool; 2]| -> Result<Pair, Box<dyn Error>> {
            // The same code would be no new generation worth the name: each has a version of its own.
            Ok(Pair { name, sources: [module::source("1", takes[0])?, module::source("2", takes[1])?] })
        };
        Ok(Kind {
            what: "modules",
            met: pair("inward-module", [false; 2])?,
            elsewhere: pair("elsewhere-module", [false; 2])?,
            alternating: pair("inward-module", [true, false])?,
        })
    }
}

/// Runs the benchmark.
pub fn run(args: &Args, json: bool) -> Result<bool, Box<dyn Error>> {
    let swaps = args.swaps.max(10);
    let bench = Bench::start(args.flows)?;
    let quiet = bench.best(None, "no swaps", swaps)?;
    let (mut lines, mut verdicts) = (vec![quiet.0.clone()], Vec::new());
    for kind in [Kind::bpf(), Kind::modules()?] {
        let (more, verdict) = bench.judge(&kind, &quiet, swaps)?;
        lines.extend(more);
        verdicts.push(verdict);
    }
    line::print(&lines, &verdicts, json)?;
    bench.live.end();
    Ok(verdicts.iter().all(|v| v.met))
}

/// The router, and the filters that are swapped in it.
struct Bench {
    live: Live,
    manager: FilterManager,
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
        let load = Load { size: 64, flows: Flows::Known(flows), routes: 1000 };
        let workers = Live::usual_workers()?.min(stamps::WORKERS);
        let live = Live::start(workers, load, Ports { seen: stamps::stamped, ..Ports::default() })?;
        let attach = StackAttach::new(live.runtime.clone(), live.stack.clone());
        Ok(Bench { manager: FilterManager::new(Arc::new(attach))?, live })
    }

    /// Puts all of one kind's phases to the proof.
    fn judge(&self, kind: &Kind, quiet: &(Line, u64), swaps: u32) -> Result<(Vec<Line>, Verdict), Box<dyn Error>> {
        let (source, sink) = (self.live.source, self.live.sink);
        for (pair, at) in [(&kind.met, source), (&kind.elsewhere, sink)] {
            let spec = FilterSpec::new(pair.name, pair.sources[1].clone(), Action::Drop);
            self.manager.load(FilterSpec { ifindex: Some(at.get()), ..spec })?;
        }
        let named = |case: &str| format!("{}: {case}", kind.what);
        let elsewhere = self.best(Some(&kind.elsewhere), &named("swaps of a filter that no packet meets"), swaps)?;
        // What a phase recorded is freed when its line is made.
        let before = Memory::settled();
        let swapping = self.best(Some(&kind.met), &named("swaps under full load"), swaps)?;
        let after = Memory::settled();
        // Generations that drop everything take turns with such that drop nothing: a burst of both shows itself.
        let split = self.phase(Some(&kind.alternating), swaps)?;
        if split.sum(|r| r.dropped) == 0 {
            return Err(format!("{}: no burst met the generations that drop everything", kind.what).into());
        }
        // What failed was judged by the policy for faults, and not by the module that is measured.
        if let Some(f) = self.manager.list().iter().find(|f| f.counts.faults > 0) {
            return Err(format!("{} failed {} times while it was measured", f.name, f.counts.faults).into());
        }
        for pair in [&kind.met, &kind.elsewhere] {
            self.manager.detach(pair.name)?;
        }
        let verdict = Verdict::new(
            kind.what,
            self.live.runtime.workers(),
            (2 * RUNS as u64 + 1) * u64::from(swaps),
            [&quiet.0, &elsewhere.0, &swapping.0],
            quiet.1 + elsewhere.1 + swapping.1,
            split.sum(|r| r.split),
            (before, after),
        );
        Ok((vec![elsewhere.0, swapping.0], verdict))
    }

    /// The one of several runs of a phase whose longest burst was the shortest: what a swap does by itself it does in each of
    /// them. And the packets lost in all of them.
    fn best(&self, filter: Option<&Pair>, case: &str, swaps: u32) -> Result<(Line, u64), Box<dyn Error>> {
        let mut lines = Vec::new();
        for _ in 0..RUNS {
            lines.push(Line::of(&self.phase(filter, swaps)?, case, self.live.cycles_per_us));
        }
        let lost = lines.iter().map(|l| l.lost).sum();
        let best = lines.into_iter().min_by(|a, b| a.worst_delay_us.total_cmp(&b.worst_delay_us));
        Ok((best.ok_or("no run")?, lost))
    }

    /// Forwards at full load while the filter is swapped `swaps` times between two sources, or as long as that would take.
    fn phase(&self, filter: Option<&Pair>, swaps: u32) -> Result<Phase, Box<dyn Error>> {
        let workers = self.live.runtime.workers();
        self.live.runtime.domain().perform();
        // SAFETY: the source is down since before the grace period.
        unsafe { stamps::start(workers, ROOM) };
        self.live.flow(true)?;
        // The first bursts prepare the ways and fill the caches.
        std::thread::sleep(Duration::from_millis(200));
        let before = self.live.kernel();
        let mut moments = Vec::with_capacity(swaps as usize);
        let mut result = Ok(());
        for i in 0..swaps as usize {
            match filter {
                Some(pair) => match self.manager.swap(pair.name, pair.sources[i % 2].clone(), None) {
                    Ok(report) => {
                        let end = tsc();
                        moments.push((end - (report.adopt_us * self.live.cycles_per_us) as u64, end));
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
                    moments.push((now - (5.0 * self.live.cycles_per_us) as u64, now));
                }
            }
        }
        let kernel = self.live.kernel().since(before);
        self.live.flow(false)?;
        // SAFETY: as above.
        let recorded = unsafe { stamps::stop(workers) };
        result?;
        let swaps = if filter.is_some() { moments.len() } else { 0 };
        Ok(Phase { recorded, moments, swaps, kernel })
    }
}

impl Phase {
    fn sum(&self, which: impl Fn(&Recorded) -> u64) -> u64 {
        self.recorded.iter().map(which).sum()
    }
}
