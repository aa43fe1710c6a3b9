//! `update`: routes and neighbours change at 100,000 a second while a worker forwards as fast as it can. How much slower is it, and
//! does any packet go where an update that had returned no longer lets it go?

mod witness;

use crate::{
    live::{Done, Live},
    machine::thread_ns,
    reading::{self, Budget, Reading},
    report::median,
    router::{Flows, GATEWAYS, Load, Ports, Random, gateway, route_to},
};
use smpnet_stack::{ArpSpec, RouteStep};
use std::{
    error::Error,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use witness::{Seen, Witness, mac_after};

/// What throughput may lose, in percent.
const LOSS: f64 = 5.0;
/// Updates that are made at once, before the clock is looked at again.
const LOT: u32 = 50;
/// Routes of one transaction.
const TRANSACTION: u32 = 50;
/// How much of a rate must be reached so that the rate may be claimed.
const REACHED: f64 = 0.98;

/// Options of `update`.
#[derive(clap::Args)]
pub struct Args {
    /// Updates a second.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(100..))]
    rate: u32,
    /// Routes, among which those are chosen that change.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    routes: u32,
    /// Flows.
    #[arg(long, default_value_t = 10_000)]
    flows: u32,
    /// Milliseconds of each measurement.
    #[arg(long, default_value_t = 500)]
    millis: u64,
    /// Measurements with updates, each between two without; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

/// What changes.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// Each route in a call of its own.
    Routes,
    /// Routes in transactions.
    Transactions,
    /// Neighbours, each in a call of its own.
    Neighbours,
}

impl Change {
    fn name(self) -> String {
        match self {
            Change::Routes => "routes, each by itself".into(),
            Change::Transactions => format!("routes, {TRANSACTION} in a transaction"),
            Change::Neighbours => "neighbours, each by itself".into(),
        }
    }
}

/// Runs the benchmark. False when a budget is not met.
pub fn run(args: &Args, json: bool) -> Result<bool, Box<dyn Error>> {
    let load = Load { size: 64, flows: Flows::Known(args.flows), routes: args.routes };
    let ports = Ports { seen: witness::witnessed, ..Ports::default() };
    // One worker: updates have a processor of their own where there are two.
    let live = Live::start(1, load, ports)?;
    let witness = witness::install(live.runtime.clone(), args.routes)?;
    let mut bench = Bench { live, witness, random: Random::new(), args, made: 0, made_ns: 0 };
    bench.live.flow(true)?;
    std::thread::sleep(Duration::from_millis(300));
    let mut readings = Vec::new();
    for change in [Change::Routes, Change::Transactions, Change::Neighbours] {
        readings.extend(bench.throughput(change)?);
        readings.push(bench.ways(change)?);
    }
    bench.live.flow(false)?;
    bench.live.end();
    Ok(reading::print(&readings, json))
}

struct Bench<'a> {
    live: Live,
    witness: &'static Witness,
    random: Random,
    args: &'a Args,
    /// Updates made so far, and nanoseconds of processor time that they took the thread that made them.
    made: u64,
    made_ns: u64,
}

/// Packets a second: of the worker's processor time, and on the clock.
struct Rate {
    own: f64,
    wall: f64,
}

impl Bench<'_> {
    /// What throughput loses while updates go on.
    fn throughput(&mut self, change: Change) -> Result<[Reading; 2], Box<dyn Error>> {
        let (mut own, mut wall, mut reached, mut base) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        (self.made, self.made_ns) = (0, 0);
        let mut before = self.rate(None)?.0;
        for _ in 0..self.args.runs {
            let (during, updates) = self.rate(Some(change))?;
            let after = self.rate(None)?.0;
            // Compared with what came right before and right after it.
            own.push(100.0 * (1.0 - during.own / f64::midpoint(before.own, after.own)));
            wall.push(100.0 * (1.0 - during.wall / f64::midpoint(before.wall, after.wall)));
            reached.push(updates);
            base.push(after.own / 1e6);
            before = after;
        }
        let (reached, base) = (median(&mut reached), median(&mut base));
        let detail = serde_json::json!({
            "updates_per_second": reached, "mpps_without": base,
            "us_per_update": self.made_ns as f64 / self.made.max(1) as f64 / 1e3,
        });
        let case = |clock: &str| format!("{}, throughput lost {clock}", change.name());
        let mut of_own = Reading::new("update", case("of the worker's processor time"), median(&mut own), "%")
            .budget(Budget::AtMost(LOSS))
            .detail(detail.clone());
        if reached < f64::from(self.args.rate) * REACHED {
            of_own.met = Some(false);
            of_own = of_own.note(format!("only {reached:.0} updates a second were reached"));
        }
        let of_wall = Reading::new("update", case("on the clock"), median(&mut wall), "%")
            .detail(detail)
            .note("of two processors that nobody else uses; not judged");
        Ok([of_own, of_wall])
    }

    /// Packets that went where they may no longer go.
    fn ways(&mut self, change: Change) -> Result<Reading, Box<dyn Error>> {
        let before = self.witness.seen();
        self.witness.looks.store(true, Ordering::SeqCst);
        // What was received before this is not known.
        self.live.runtime.domain().perform();
        let start = self.witness.seen();
        let updates = self.rate(Some(change))?.1;
        self.witness.looks.store(false, Ordering::SeqCst);
        self.live.runtime.domain().perform();
        let Seen { packets, misrouted, misaddressed } = self.witness.seen();
        let wrong = misrouted + misaddressed - start.misrouted - start.misaddressed;
        if packets == before.packets {
            return Err("no packet was looked at".into());
        }
        let detail = serde_json::json!({
            "packets": packets - start.packets, "misrouted": misrouted - start.misrouted,
            "misaddressed": misaddressed - start.misaddressed, "updates_per_second": updates,
        });
        Ok(Reading::new("update", format!("{}, packets misrouted after it returned", change.name()), wrong as f64, "")
            .budget(Budget::AtMost(0.0))
            .detail(detail))
    }

    /// How fast the worker is for a while, with updates or without, and how many of these there were a second.
    fn rate(&mut self, change: Option<Change>) -> Result<(Rate, f64), Box<dyn Error>> {
        let time = Duration::from_millis(self.args.millis);
        let (before, start) = (self.live.done(), Instant::now());
        let updates = match change {
            Some(change) => self.updates(change, time)?,
            None => {
                std::thread::sleep(time);
                0
            }
        };
        let took = start.elapsed().as_secs_f64();
        let Done { sent, cpu_ns, at, .. } = self.live.done().since(&before);
        let own = cpu_ns.iter().sum::<u64>() as f64 / 1e9;
        let wall = at as f64 / self.live.cycles_per_us / 1e6;
        Ok((Rate { own: sent as f64 / own, wall: sent as f64 / wall }, f64::from(updates) / took))
    }

    /// Makes updates at the rate for a while; returns how many.
    fn updates(&mut self, change: Change, time: Duration) -> Result<u32, Box<dyn Error>> {
        let start = Instant::now();
        let mut made = 0;
        while start.elapsed() < time {
            let due = (start.elapsed().as_secs_f64() * f64::from(self.args.rate)) as u32;
            if due < made + LOT {
                // Not slept: a sleep takes longer than a lot.
                std::hint::spin_loop();
                continue;
            }
            let before = thread_ns();
            match change {
                Change::Routes => (0..LOT).try_for_each(|_| self.change_route())?,
                Change::Transactions => (0..LOT.div_ceil(TRANSACTION)).try_for_each(|_| self.change_routes())?,
                Change::Neighbours => (0..LOT).try_for_each(|_| self.change_neighbour())?,
            }
            self.made_ns += thread_ns() - before;
            made += LOT;
            self.made += u64::from(LOT);
        }
        Ok(made)
    }

    fn change_route(&mut self) -> Result<(), Box<dyn Error>> {
        let at = self.random.below(self.args.routes);
        let route = &self.witness.routes[at as usize];
        let number = route.begin();
        self.live.stack.route_change(&route_to(at, number % GATEWAYS)?)?;
        route.end(number);
        Ok(())
    }

    fn change_routes(&mut self) -> Result<(), Box<dyn Error>> {
        let mut begun = Vec::with_capacity(TRANSACTION as usize);
        let mut steps = Vec::with_capacity(TRANSACTION as usize);
        for _ in 0..TRANSACTION {
            let at = self.random.below(self.args.routes);
            let number = self.witness.routes[at as usize].begin();
            begun.push((at, number));
            steps.push(RouteStep::Change(route_to(at, number % GATEWAYS)?));
        }
        self.live.stack.routes_apply(&steps).map_err(|(step, e)| format!("step {step}: {e}"))?;
        for (at, number) in begun {
            self.witness.routes[at as usize].end(number);
        }
        Ok(())
    }

    fn change_neighbour(&mut self) -> Result<(), Box<dyn Error>> {
        let at = self.random.below(GATEWAYS);
        let known = &self.witness.gateways[at as usize];
        let number = known.begin();
        let spec = ArpSpec { address: gateway(at), mac: Some(mac_after(number, at)), publish: false };
        self.live.stack.arp_set(self.live.sink, &spec)?;
        known.end(number);
        Ok(())
    }
}
