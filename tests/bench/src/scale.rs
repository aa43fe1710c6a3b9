//! `scale`: what more workers bring, on distinct flows from ports with a queue for each worker, and from a port with one queue
//! whose packets are steered to their workers in software.
//!
//! Each rate is told twice. On the clock is what came out, which needs as many processors as there are workers, for these alone. Of
//! the workers' own processor time is what would have come out on such processors: it shows what workers cost each other, and is
//! blind to what other programs take from them.

use crate::{
    live::{Done, Live},
    machine::allowed_cpus,
    reading::{self, Budget, Reading},
    report::median,
    router::{Flows, Load, Ports, Router},
};
use smpnet_abi::BURST_MAX;
use std::{error::Error, time::Duration};

/// What two workers must bring over one.
const TWO: f64 = 1.9;
/// The same from a port with one queue.
const TWO_STEERED: f64 = 1.6;
/// What each worker must have of a processor so that packets do not wait for it, in percent.
const ENOUGH: f64 = 90.0;
/// Until caches are filled.
const RAMP: Duration = Duration::from_millis(200);

/// Options of `scale`.
#[derive(clap::Args)]
pub struct Args {
    /// Most workers; as many as processors without it.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: Option<u16>,
    /// Flows.
    #[arg(long, default_value_t = 10_000)]
    flows: u32,
    /// Routes.
    #[arg(long, default_value_t = 100_000)]
    routes: u32,
    /// Milliseconds of each measurement.
    #[arg(long, default_value_t = 700)]
    millis: u64,
    /// Measurements of each number of workers, in turns; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

/// What some workers did, one entry for each measurement.
#[derive(Clone, Default)]
struct Rates {
    /// Millions of packets a second of processor time.
    own: Vec<f64>,
    /// The same on the clock.
    wall: Vec<f64>,
    /// Nanoseconds of processor time of the worker that receives, for each packet that was sent by any.
    receiver_ns: Vec<f64>,
    /// Share of the received packets that were not sent, in percent.
    lost: Vec<f64>,
    /// Share of the time for which the worker that had the least of it had a processor, in percent.
    had: Vec<f64>,
}

/// Runs the benchmark. False when a budget is not met.
pub fn run(args: &Args, json: bool) -> Result<bool, Box<dyn Error>> {
    let cpus = allowed_cpus()?.len();
    let most = args.workers.map_or(cpus, usize::from);
    let load = Load { size: 64, flows: Flows::Known(args.flows), routes: args.routes };
    let numbers = numbers(most);
    let mut queues = vec![Rates::default(); numbers.len()];
    let mut steered = queues.clone();
    for _ in 0..args.runs {
        for (i, &n) in numbers.iter().enumerate() {
            queues[i].measure(n, load, false, args.millis)?;
            steered[i].measure(n, load, true, args.millis)?;
        }
    }
    let source = source_ns(load)?;
    let on_the_clock = |n: usize, what: String, mpps: f64| {
        let r = Reading::new("scale", what, mpps, "Mpps");
        if n <= cpus { r } else { r.note(format!("{n} workers share {cpus} processors: of no use on the clock")) }
    };
    let mut readings = Vec::new();
    let [one, one_steered] = [queues[0].own_mpps(), steered[0].receiver()];
    for ((n, queues), steered) in numbers.iter().zip(&mut queues).zip(&mut steered) {
        let case = |what: &str| format!("{n} worker{}, {what}", if *n == 1 { "" } else { "s" });
        let own = queues.own_mpps();
        let mut r = Reading::new("scale", case("a queue each, by their own processor time"), own, "Mpps")
            .beside("one worker", Some(one));
        if *n == 2 {
            r = r.budget(Budget::RatioAtLeast(TWO));
        }
        readings.push(r);
        let wall = median(&mut queues.wall.clone());
        readings.push(on_the_clock(*n, case("a queue each, on the clock"), wall));
        // The worker that has the queue is the one that is never idle; what the source costs it is not the router's.
        let (ns, lost) = (steered.receiver() - source, median(&mut steered.lost));
        let mut r = Reading::new(
            "scale",
            case("one queue steered, by the receiver's processor time"),
            1e3 / ns,
            "Mpps",
        )
        .beside("one worker", Some(1e3 / (one_steered - source)))
        .detail(serde_json::json!({
            "lost_percent": lost, "source_ns": source, "ratio_with_the_source": one_steered / steered.receiver(),
        }));
        if *n == 2 {
            r = r.budget(Budget::RatioAtLeast(TWO_STEERED));
        }
        let had = median(&mut steered.had);
        if had < ENOUGH && *n > 1 {
            // Packets wait for a worker that waits for its processor, until there is no more room for them.
            r.met = None;
            r = r.note(format!("not judged: a worker had a processor for {had:.0} % of the time only"));
        }
        readings.push(r);
        let wall = median(&mut steered.wall);
        readings.push(on_the_clock(*n, case("one queue steered, on the clock"), wall));
    }
    Ok(reading::print(&readings, json))
}

/// The numbers of workers that are measured: all up to 4, then each half as much more, and the most.
fn numbers(most: usize) -> Vec<usize> {
    let mut all: Vec<usize> = std::iter::successors(Some(1), |n| Some(if *n < 4 { n + 1 } else { n + n / 2 }))
        .take_while(|n| *n < most)
        .collect();
    all.push(most);
    all
}

impl Rates {
    fn own_mpps(&self) -> f64 {
        median(&mut self.own.clone())
    }

    fn receiver(&self) -> f64 {
        median(&mut self.receiver_ns.clone())
    }

    /// Lets `workers` forward for a while.
    fn measure(&mut self, workers: usize, load: Load, steer: bool, millis: u64) -> Result<(), Box<dyn Error>> {
        let live = Live::start(workers, load, Ports { one_queue: steer, ..Ports::default() })?;
        live.stack.set_rps(live.source, steer && workers > 1)?;
        live.flow(true)?;
        std::thread::sleep(RAMP);
        let before = live.done();
        std::thread::sleep(Duration::from_millis(millis));
        let Done { sent, received, cpu_ns, at } = live.done().since(&before);
        live.flow(false)?;
        let seconds = at as f64 / live.cycles_per_us / 1e6;
        live.end();
        if sent == 0 {
            return Err(format!("{workers} workers sent nothing").into());
        }
        let cpu: u64 = cpu_ns.iter().sum();
        self.own.push(sent as f64 * workers as f64 / cpu as f64 * 1e3);
        self.wall.push(sent as f64 / seconds / 1e6);
        // The first port's first queue is the first worker's.
        self.receiver_ns.push(cpu_ns[0] as f64 / sent as f64);
        let least = cpu_ns.iter().copied().min().unwrap_or(0);
        self.had.push(least as f64 / seconds / 1e7);
        self.lost.push(100.0 * received.saturating_sub(sent) as f64 / received.max(1) as f64);
        Ok(())
    }
}

/// Nanoseconds of processor time that the source takes for a packet.
fn source_ns(load: Load) -> Result<f64, Box<dyn Error>> {
    let mut router = Router::new(load)?;
    let rounds = 1_000_000 / u64::from(BURST_MAX);
    let mut times: Vec<f64> = (0..5)
        .map(|_| {
            let before = crate::machine::thread_ns();
            let packets = router.pass_by(rounds);
            (crate::machine::thread_ns() - before) as f64 / packets as f64
        })
        .collect();
    Ok(median(&mut times))
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn the_curve_goes_up_to_all_processors() {
        assert_eq!(numbers(1), [1]);
        assert_eq!(numbers(2), [1, 2]);
        assert_eq!(numbers(16), [1, 2, 3, 4, 6, 9, 13, 16]);
    }
}
