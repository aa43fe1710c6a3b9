//! `latency`: what the router adds to a packet's way through the real loop of a worker, at parts of the rate that it can do at most, and
//! while it is being changed; the first packet after a pause; and what an idle router costs.

mod device;
mod idle;

use crate::{
    live::{Done, Live},
    machine::allowed_cpus,
    reading::{self, Budget, Reading},
    router::{Flows, GATEWAYS, Load, Ports, Random, route_to},
    spread::{Histogram, Spread},
};
use device::{Schedule, Seen};
use smpnet_stack::{Dirs, ListenerOwner, ListenerSpec};
use smpnet_wasm::{Action, FilterManager, FilterSpec, Source, StackAttach};
use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

/// What the first packet after a pause may wait longer than one that finds the worker awake, in microseconds.
const WAKING_US: f64 = 20.0;
/// Parts of the maximal rate.
const PARTS: [u32; 3] = [10, 50, 90];
/// Pause after which a worker sleeps, and one that it spends looking.
const SLEEPS: Duration = Duration::from_millis(2);
const LOOKS: Duration = Duration::from_micros(20);

/// Options of `latency`.
#[derive(clap::Args)]
pub struct Args {
    /// Milliseconds of each measurement.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(50..))]
    millis: u64,
    /// Flows.
    #[arg(long, default_value_t = 10_000)]
    flows: u32,
    /// Routes.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    routes: u32,
    /// Pauses, after each of which one packet arrives.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..))]
    pauses: u32,
    /// Seconds for which an idle router is watched; 0 leaves that out.
    #[arg(long, default_value_t = 10)]
    idle: u64,
}

/// What happens while packets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    /// A bpf filter that all packets meet is swapped, 200 times a second.
    Swaps,
    /// Routes change, 10,000 a second.
    Routes,
    /// A capture takes the heads of all packets that one source port sends.
    Capture,
}

/// Runs the benchmark. False when a budget is not met.
pub fn run(args: &Args, json: bool) -> Result<bool, Box<dyn Error>> {
    // First of all: namespaces want a process of one thread.
    let mut readings = Vec::new();
    if args.idle > 0 {
        readings.push(idle::measure(Duration::from_secs(args.idle)));
    }
    let load = Load { size: 64, flows: Flows::Known(args.flows), routes: args.routes };
    let live = Live::start(1, load, Ports { seen: device::scheduled, ..Ports::default() })?;
    let attach = StackAttach::new(live.runtime.clone(), live.stack.clone());
    let bench = Bench { manager: FilterManager::new(Arc::new(attach))?, live, routes: args.routes };
    let time = Duration::from_millis(args.millis);
    let most = bench.most(time)?;
    readings.push(Reading::new("latency", "maximal rate, by the worker's processor time", most * 1e3, "Mpps"));
    for part in PARTS {
        readings.extend(bench.waited(most, part, Meanwhile::Nothing, time)?);
    }
    // A capture's filter is asked about every packet and costs more than half of what forwarding it does.
    for (meanwhile, part) in [(Meanwhile::Swaps, 50), (Meanwhile::Routes, 50), (Meanwhile::Capture, 10)] {
        readings.extend(bench.waited(most, part, meanwhile, time)?);
    }
    readings.extend(bench.pauses(args.pauses)?);
    drop(bench.manager);
    bench.live.end();
    Ok(reading::print(&readings, json))
}

struct Bench {
    live: Live,
    manager: FilterManager,
    routes: u32,
}

impl Bench {
    fn schedule<R>(
        &self,
        schedule: Schedule,
        f: impl FnOnce() -> Result<R, Box<dyn Error>>,
    ) -> Result<(R, Seen), Box<dyn Error>> {
        self.live.runtime.domain().perform();
        let port = self.live.source_port().info.port;
        // SAFETY: the source is down since before the grace period.
        unsafe { device::start(port, schedule, self.live.runtime.pool().desc().cells, self.live.cycles_per_us) };
        self.live.flow(true)?;
        let done = f();
        self.live.flow(false)?;
        // SAFETY: as above.
        let seen = unsafe { device::stop() };
        Ok((done?, seen))
    }

    /// Packets that the worker forwards in a nanosecond of its processor time.
    fn most(&self, time: Duration) -> Result<f64, Box<dyn Error>> {
        let measure = || {
            std::thread::sleep(Duration::from_millis(300));
            let before = self.live.done();
            std::thread::sleep(time);
            let Done { sent, cpu_ns, .. } = self.live.done().since(&before);
            Ok(sent as f64 / cpu_ns[0] as f64)
        };
        Ok(self.schedule(Schedule::Always, measure)?.0)
    }

    /// How long packets waited at a part of the maximal rate.
    fn waited(
        &self,
        most: f64,
        part: u32,
        meanwhile: Meanwhile,
        time: Duration,
    ) -> Result<[Reading; 2], Box<dyn Error>> {
        let per_ns = most * f64::from(part) / 100.0;
        let cycles = self.live.cycles_per_us / 1e3 / per_ns;
        let ((), seen) = self.schedule(Schedule::Every(cycles), || self.meanwhile(meanwhile, time))?;
        let us = 1.0 / self.live.cycles_per_us;
        let mut all = seen.waited.clone();
        all.merge(&seen.disturbed);
        let disturbed = 100.0 * seen.disturbed.count() as f64 / all.count().max(1) as f64;
        let doing = match meanwhile {
            Meanwhile::Nothing => "",
            Meanwhile::Swaps => ", filters swapped",
            Meanwhile::Routes => ", routes changed",
            Meanwhile::Capture => ", capture",
        };
        let case = |which: &str| format!("{part} % of the maximal rate{doing}, {which}");
        let reading = |which: &str, h: &Histogram| {
            let spread: Spread = h.spread(us);
            match h.count() {
                0 => Reading::missing("latency", case(which), "us, p50", "there were none"),
                n => Reading::new("latency", case(which), spread.p50, "us, p50")
                    .detail(serde_json::json!({ "us": spread, "packets": n }))
                    .note(format!("p50, p99, p99.9, worst: {spread}")),
            }
        };
        let lost = format!("{disturbed:.2} % of the packets met a worker without its processor, {} times", seen.losses);
        Ok([reading("undisturbed packets", &seen.waited).note(lost), reading("all packets", &all)])
    }

    fn meanwhile(&self, what: Meanwhile, time: Duration) -> Result<(), Box<dyn Error>> {
        let start = Instant::now();
        let goes_on = || start.elapsed() < time;
        match what {
            Meanwhile::Nothing => std::thread::sleep(time),
            Meanwhile::Swaps => {
                let source = |port: u32| Source::Expr(format!("ip and tcp port {port}"));
                let spec = FilterSpec::new("swapped", source(80), Action::Drop);
                self.manager.load(FilterSpec { ifindex: Some(self.live.source.get()), ..spec })?;
                for port in 80.. {
                    if !goes_on() {
                        break;
                    }
                    self.manager.swap("swapped", source(80 + port % 2), None)?;
                    std::thread::sleep(Duration::from_millis(5));
                }
                self.manager.detach("swapped")?;
            }
            Meanwhile::Routes => {
                let mut random = Random::new();
                while goes_on() {
                    for _ in 0..10 {
                        let route = route_to(random.below(self.routes), random.below(GATEWAYS))?;
                        self.live.stack.route_change(&route)?;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            Meanwhile::Capture => {
                let mut reader = self.live.stack.bpf_open(ListenerSpec {
                    interface: Some(self.live.source),
                    dirs: Dirs::In,
                    drops: false,
                    promisc: false,
                    snaplen: 96,
                    ring_bytes: 0,
                    filter: None,
                    owner: ListenerOwner::default(),
                })?;
                while goes_on() {
                    reader.drain(|_| true);
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        Ok(())
    }

    /// The first packet after a pause, beside one that finds the worker awake.
    fn pauses(&self, n: u32) -> Result<[Reading; 2], Box<dyn Error>> {
        let us = 1.0 / self.live.cycles_per_us;
        let measure = |pause: Duration| {
            let run = || {
                for _ in 0..n {
                    if pause < Duration::from_millis(1) {
                        let start = Instant::now();
                        while start.elapsed() < pause {
                            std::hint::spin_loop();
                        }
                    } else {
                        std::thread::sleep(pause);
                    }
                    device::arrive().map_err(|e| format!("{e}; {:?}", self.live.stack.drops()))?;
                }
                Ok(())
            };
            let ((), seen) = self.schedule(Schedule::Called, run)?;
            Ok::<_, Box<dyn Error>>(seen.waited.spread(us))
        };
        let (awake, asleep) = (measure(LOOKS)?, measure(SLEEPS)?);
        let told = |case: &str, spread: &Spread| {
            Reading::new("latency", case, spread.p50, "us, p50")
                .detail(serde_json::json!({ "us": spread, "packets": n }))
                .note(format!("p50, p99, p99.9, worst: {spread}"))
        };
        let added = Reading::new(
            "latency",
            "a packet after a pause of 2 ms, over one after 20 us",
            asleep.p50 - awake.p50,
            "us, p50",
        )
        .budget(Budget::AtMost(WAKING_US))
        .detail(serde_json::json!({ "us": asleep, "packets": n }))
        .note(format!("p50, p99, p99.9, worst after a pause of 2 ms: {asleep}"));
        let added = match allowed_cpus()?.len() {
            0 | 1 => added.note("on one processor: waking means a switch of threads as well"),
            _ => added.note("waking another processor; a virtual one has to be woken by its host"),
        };
        Ok([told("a packet after a pause of 20 us, the worker awake", &awake), added])
    }
}
