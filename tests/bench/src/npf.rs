//! `npf`: what rules, connections and translation of NPF cost by themselves, packet by packet, before they are on the packet path:
//! rules as a plan beside the literal evaluator and as a module, packets of established connections, and new connections.

mod ruleset;

use crate::{
    clock::Stretch,
    reading::{self, Budget, Reading},
    report::median,
};
use smpnet_npf::{
    config::Config,
    engine::{Engine, Outcome, Packets, Place},
    evaluate::{Asked, Dynamic, Evaluator, NoInterfaces, Programs, Where},
    language::{NoFiles, parse},
    packet::Packet,
    plan::Plan,
    state::{Limits, Millis},
    tables::Tables,
};
use std::{error::Error, hint::black_box, sync::Arc};

/// Packets that rules are asked about, again and again.
const PACKETS: usize = 4096;
/// What the plan may take at 1,000 rules, as a multiple of what it takes at 10; and how much faster than the evaluator it must be there.
const GROWTH: f64 = 4.0;
const AGAINST_EVALUATOR: f64 = 0.1;
/// Cycles that a packet of an established connection may take, with 250 of them and with a million.
const ESTABLISHED: [(u32, f64); 3] = [(250, 60.0), (10_000, 0.0), (1_000_000, 150.0)];
/// Nanoseconds of a new connection with translation: 500,000 a second.
const NEW_NS: f64 = 2000.0;

/// Options of `npf`.
#[derive(clap::Args)]
pub struct Args {
    /// Measurements of a case, of which the median counts.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Rules of a configuration.
    #[arg(long, value_delimiter = ',', value_name = "N,N...", default_value = "1,10,100,1000,10000",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rules: Vec<u32>,
}

/// Runs the benchmark. False when a budget is not met.
pub fn run(args: &Args, json: bool) -> Result<bool, Box<dyn Error>> {
    let mut readings = rules(args)?;
    for (n, budget) in ESTABLISHED {
        readings.push(established(args, n, budget)?);
    }
    for (what, maps) in
        [("", ""), (", translated", "map eth0 dynamic 10.0.0.0/8 -> 192.0.2.0/24 pass from 10.0.0.0/8\n")]
    {
        let maps = maps.replace("dynamic", "dynamic algo ip-hash");
        let reading = Reading::new("npf", format!("a new UDP connection{what}"), new_connections(args, &maps)?, "ns");
        readings.push(if what.is_empty() { reading } else { reading.budget(Budget::AtMost(NEW_NS)) });
    }
    Ok(reading::print(&readings, json))
}

/// splitmix64
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn config(text: &str) -> Result<Config, Box<dyn Error>> {
    Ok(parse("bench.conf", text, &NoFiles)?.config)
}

/// Rules for random networks and ports, of which the first that matches decides; the last one takes what is left.
fn random_rules(n: u32, random: &mut Random) -> String {
    let mut text = "group default {\n".to_owned();
    for _ in 1..n {
        let r = random.next().to_le_bytes();
        let proto = if r[7] & 1 == 0 { "tcp" } else { "udp" };
        let port = u16::from_le_bytes([r[5], r[6]]);
        let rule = format!(
            "pass in final proto {proto} from 10.{}.{}.0/24 to 172.16.{}.0/24 port {port}\n",
            r[0] % 16,
            r[1],
            r[2]
        );
        text.push_str(&rule);
    }
    text + "block in final all\n}\n"
}

/// A UDP packet without data, from one address and port to another.
fn udp(src: [u8; 4], sport: u16, dst: [u8; 4], dport: u16) -> Vec<u8> {
    let mut p = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    p.extend(src.iter().chain(&dst));
    p.extend([sport.to_be_bytes(), dport.to_be_bytes(), [0, 8], [0, 0]].concat());
    p
}

fn median_of(runs: u32, mut once: impl FnMut() -> f64) -> f64 {
    median(&mut (0..runs).map(|_| once()).collect::<Vec<_>>())
}

fn rules(args: &Args) -> Result<Vec<Reading>, Box<dyn Error>> {
    let mut readings = Vec::new();
    let mut at_ten = None;
    for &n in &args.rules {
        let mut random = Random(u64::from(n));
        let config = config(&random_rules(n, &mut random))?;
        let programs = Programs::new(&config).map_err(|(text, e)| format!("{text}: {e}"))?;
        let (tables, dynamic) = (Tables::new(&config), Dynamic::new());
        let began = Stretch::begin();
        let plan = Plan::new(&config, &programs, &NoInterfaces, &dynamic);
        let built_ms = began.end().ns / 1e6;
        let packets: Vec<(Vec<u8>, Packet)> = (0..PACKETS)
            .map(|_| {
                let r = random.next().to_le_bytes();
                let port = u16::from_le_bytes([r[5], r[6]]);
                let bytes = udp([10, r[0] % 16, r[1], r[2]], 4000, [172, 16, r[3], r[4]], port);
                Packet::read(&bytes).map(|packet| (bytes, packet))
            })
            .collect::<Result<_, _>>()?;
        let asked: Vec<Asked<'_>> = packets
            .iter()
            .map(|(bytes, packet)| Asked { packet, bytes, interface: "eth0", way: Where::In, tag: None })
            .collect();
        let within = |_: &_| true;
        let evaluator = Evaluator::new(&programs, &tables, &NoInterfaces, &dynamic, &within);
        let cycles = median_of(args.runs, || {
            let stretch = Stretch::begin();
            for _ in 0..16 {
                asked.iter().for_each(|a| _ = black_box(plan.decide(a, &tables, &|_| true)));
            }
            stretch.end().per(16 * PACKETS as u64).cycles
        });
        // What takes microseconds a packet needs no more packets than these.
        let some = &asked[..PACKETS.min(4_000_000 / n as usize)];
        let literal = median_of(args.runs.min(3), || {
            let stretch = Stretch::begin();
            some.iter().for_each(|a| _ = black_box(evaluator.decide(&config, a)));
            stretch.end().per(some.len() as u64).cycles
        });
        let case = format!("{n} rules, random traffic");
        let detail = serde_json::json!({ "plan_bytes": plan.bytes(), "built_ms": built_ms });
        let mut reading =
            Reading::new("npf", &case, cycles, "cycles").beside("literal evaluator", Some(literal)).detail(detail);
        if n == 10 {
            at_ten = Some(cycles);
        }
        if n == 1000 {
            let ten_times = cycles <= literal * AGAINST_EVALUATOR;
            reading = reading.note(if ten_times {
                "ten times faster than rule by rule: met"
            } else {
                "not ten times faster than rule by rule: MISSED"
            });
            if let Some(ten) = at_ten {
                reading = reading.budget(Budget::AtMost(ten * GROWTH));
            }
        }
        readings.push(reading);
        let numbered: Vec<_> = asked.iter().map(|asked| plan.numbered(asked)).collect();
        let make = || Plan::new(&config, &programs, &NoInterfaces, &dynamic);
        readings.extend(ruleset::readings(args.runs, n, &plan, &numbered, make)?);
    }
    Ok(readings)
}

fn engine(text: &str, connections: usize) -> Result<Engine, Box<dyn Error>> {
    let limits = Limits { capacity: connections, half_open_percent: 100 };
    Ok(Engine::alone(Arc::new(config(text)?), Arc::new(NoInterfaces), limits, 7, Millis(0))?)
}

/// Packets that are forwarded.
fn leaving(ms: u64) -> Place<'static> {
    Place { interface: "eth0", way: Where::Forward, now: Millis(ms) }
}

/// A flow of many, told apart by addresses and ports.
fn flow(i: u32) -> Vec<u8> {
    let [_, b, c, d] = i.to_be_bytes();
    udp([10, b, c, d], 1024 + (i % 50_000) as u16, [198, 51, 100, 1], 53)
}

/// Makes a packet that of another flow.
fn become_flow(bytes: &mut [u8], i: u32) {
    let [_, b, c, d] = i.to_be_bytes();
    bytes[13..16].copy_from_slice(&[b, c, d]);
    bytes[20..22].copy_from_slice(&(1024 + (i % 50_000) as u16).to_be_bytes());
}

fn established(args: &Args, n: u32, budget: f64) -> Result<Reading, Box<dyn Error>> {
    let mut engine = engine("group default { pass stateful out final all }", 1 << 21)?;
    // A few packets become each in turn: a million of them would be fetched from memory, which is not what is measured.
    let mut burst: Vec<Vec<u8>> = vec![flow(0); 64];
    let mut send = |engine: &mut Engine, flows: &[u32], ms| {
        let burst = &mut burst[..flows.len()];
        burst.iter_mut().zip(flows).for_each(|(bytes, i)| become_flow(bytes, *i));
        engine.handle_burst(&mut Packets(burst, |_, outcome: Outcome| _ = black_box(outcome.pass)), &leaving(ms));
    };
    let all: Vec<u32> = (0..n).collect();
    all.chunks(64).for_each(|flows| send(&mut engine, flows, 0));
    if engine.connections().len() != n as usize {
        return Err(format!("{} of {n} connections began", engine.connections().len()).into());
    }
    let mut random = Random(1);
    let order: Vec<u32> = (0..400_000).map(|_| (random.next() % u64::from(n)) as u32).collect();
    let cycles = median_of(args.runs, || {
        let stretch = Stretch::begin();
        order.chunks(64).for_each(|flows| send(&mut engine, flows, 1));
        stretch.end().per(order.len() as u64).cycles
    });
    let reading = Reading::new(
        "npf",
        format!("a packet of {n} established connections, whole engine, bursts of 64"),
        cycles,
        "cycles",
    );
    Ok(if budget > 0.0 { reading.budget(Budget::AtMost(budget)) } else { reading })
}

fn new_connections(args: &Args, maps: &str) -> Result<f64, Box<dyn Error>> {
    const NEW: u32 = 200_000;
    let mut failed = None;
    let ns = median_of(args.runs.min(3), || {
        let made = engine(&format!("{maps}group default {{ pass stateful out final all }}"), 1 << 19);
        let mut engine = match made {
            Ok(engine) => engine,
            Err(e) => {
                failed = Some(e.to_string());
                return 0.0;
            }
        };
        let mut packets: Vec<Vec<u8>> = (0..NEW).map(flow).collect();
        let stretch = Stretch::begin();
        for bytes in &mut packets {
            black_box(engine.handle(bytes, &leaving(0), 0));
        }
        let ns = stretch.end().per(u64::from(NEW)).ns;
        if engine.connections().len() != NEW as usize {
            failed = Some(format!("{} of {NEW} connections began", engine.connections().len()));
        }
        ns
    });
    failed.map_or(Ok(ns), |why| Err(why.into()))
}
