//! `forward`: IPv4 over the whole path of the plan, from `rx_burst` of one null port to `tx_burst` of another one. What the
//! ports themselves cost is measured apart and subtracted.

mod simulated;
mod timed;

use crate::{
    report::{self, Figure},
    router::{Flows, Load, NpfRules},
};
use smpnet_wasm::Layer;
use std::error::Error;

/// What a bpf filter may add, in cycles.
const FILTER_ADDS: f64 = 15.0;
/// What npf may add for established connections, 250 of them and a million; and for fifty rules, as for 250.
const NPF_ADDS: f64 = 60.0;
const NPF_ADDS_MANY: f64 = 150.0;

/// Options of `forward`. Without any of the first four, a choice of cases in which each thing varies by itself; with one of
/// them, all combinations of what is given, and of 64 bytes, 10,000 flows, 1 route and no filter where nothing is.
#[derive(clap::Args)]
pub struct Args {
    /// Bytes of a frame, FCS included: 64 to 1500.
    #[arg(long, value_delimiter = ',', value_name = "N,N...", value_parser = clap::value_parser!(u32).range(64..=1500))]
    size: Vec<u32>,
    /// Flows: 1 to 16777216, or `random` for a million destinations in random order.
    #[arg(long, value_delimiter = ',', value_name = "N|random,...", value_parser = flows)]
    flows: Vec<Flows>,
    /// Routes (/24) that the destinations are spread over: 1 to 1048576.
    #[arg(long, value_delimiter = ',', value_name = "N,N...", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    routes: Vec<u32>,
    /// What packets meet: nothing, a head whose filter was taken out, one bpf filter at a layer on the way in, or npf at both
    /// ends: a connection for each flow, one that is translated, fifty rules.
    #[arg(long, value_delimiter = ',', value_name = "none|empty|ether|inet|npf|nat|rules,...", value_parser = pfil)]
    pfil: Vec<Pfil>,
    /// Packets of one measurement.
    #[arg(long, default_value_t = 2_000_000)]
    packets: u64,
    /// Measurements of a case, of which the median counts.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Counts instructions and simulated cache misses with callgrind as well: some minutes.
    #[arg(long)]
    instructions: bool,
    /// With --instructions: leaves the clock out.
    #[arg(long, requires = "instructions")]
    untimed: bool,
    /// Be the process that callgrind watches.
    #[arg(long, hide = true)]
    watched: bool,
}

/// What packets meet on the way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pfil {
    /// No filter was ever there.
    None,
    /// A filter was there and is gone.
    Empty,
    /// A bpf filter, which drops none of them.
    Bpf(Layer),
    /// npf at both ends.
    Npf(NpfRules),
}

/// A case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    load: Load,
    pfil: Pfil,
}

/// Runs the benchmark. False when a budget is not met.
pub fn run(args: &Args, json: bool) -> Result<bool, Box<dyn Error>> {
    let cases = args.cases();
    if args.watched {
        for case in cases {
            simulated::be_watched(case)?;
        }
        return Ok(true);
    }
    let mut figures = Vec::new();
    for case in cases {
        let mut figure = match args.untimed {
            true => Figure::default(),
            false => timed::measure(case, args.packets, args.runs as usize)?,
        };
        if args.instructions {
            let counts = simulated::count(case)?;
            figure.instructions_per_packet = Some(counts.instructions);
            figure.d1_misses_per_packet = Some(counts.d1_misses);
            figure.ll_misses_per_packet = Some(counts.ll_misses);
        }
        figures.push(case.judged(figure));
    }
    report::print(&figures, json);
    Ok(figures.iter().all(|f| f.met != Some(false)))
}

impl Args {
    fn cases(&self) -> Vec<Case> {
        if self.size.is_empty() && self.flows.is_empty() && self.routes.is_empty() && self.pfil.is_empty() {
            return choice();
        }
        fn or<T: Clone>(given: &[T], usual: T) -> Vec<T> {
            if given.is_empty() { vec![usual] } else { given.to_vec() }
        }
        let mut cases = Vec::new();
        for size in or(&self.size, 64) {
            for flows in or(&self.flows, Flows::Known(10_000)) {
                for routes in or(&self.routes, 1) {
                    for pfil in or(&self.pfil, Pfil::None) {
                        cases.push(Case { load: Load { size, flows, routes }, pfil });
                    }
                }
            }
        }
        cases
    }
}

/// The cases that are measured when none is asked for.
fn choice() -> Vec<Case> {
    let case = |size, flows, routes| Case { load: Load { size, flows, routes }, pfil: Pfil::None };
    let known = |flows, routes| case(64, Flows::Known(flows), routes);
    let small = known(10_000, 1);
    vec![
        small,
        known(1, 1),
        case(512, Flows::Known(10_000), 1),
        case(1500, Flows::Known(10_000), 1),
        known(10_000, 100_000),
        known(10_000, 1_000_000),
        known(1_000_000, 1),
        known(1_000_000, 100_000),
        known(1_000_000, 1_000_000),
        case(64, Flows::Random, 1),
        case(64, Flows::Random, 100_000),
        case(64, Flows::Random, 1_000_000),
        Case { pfil: Pfil::Empty, ..small },
        Case { pfil: Pfil::Npf(NpfRules::Connections), ..known(250, 1) },
        Case { pfil: Pfil::Npf(NpfRules::Connections), ..known(1_000_000, 1) },
        Case { pfil: Pfil::Npf(NpfRules::Translation), ..known(250, 1) },
        Case { pfil: Pfil::Npf(NpfRules::Fifty), ..known(250, 1) },
        Case { pfil: Pfil::Bpf(Layer::Inet), ..small },
        Case { pfil: Pfil::Bpf(Layer::Ether), ..small },
    ]
}

impl Case {
    fn name(&self) -> String {
        let Load { size, flows, routes } = self.load;
        let flows = match flows {
            Flows::Known(1) => "1 flow".to_owned(),
            Flows::Known(n) => format!("{n} flows"),
            Flows::Random => "random destinations".to_owned(),
        };
        let plural = if routes == 1 { "" } else { "s" };
        let pfil = match self.pfil {
            Pfil::None => "",
            Pfil::Empty => ", an empty head",
            Pfil::Bpf(layer) => &format!(", bpf at {}", layer_name(layer)),
            Pfil::Npf(NpfRules::Connections) => ", npf, connections",
            Pfil::Npf(NpfRules::Translation) => ", npf, translation",
            Pfil::Npf(NpfRules::Fifty) => ", npf, fifty rules",
        };
        format!("ipv4 {size} B, {flows}, {routes} route{plural}{pfil}")
    }

    /// What the case may cost, in cycles of the time-stamp counter.
    fn budget(&self) -> Option<f64> {
        let Load { size, flows, routes } = self.load;
        match (size, flows, routes, self.pfil) {
            (64, Flows::Known(10_000), 1, Pfil::None) => Some(55.0),
            (64, Flows::Random, 1_000_000, Pfil::None) => Some(100.0),
            (64, Flows::Known(1_000_000), 100_000, Pfil::None) => Some(130.0),
            _ => None,
        }
    }

    /// The figure with its budget and whether that is met.
    fn judged(&self, figure: Figure) -> Figure {
        let mut f = Figure { bench: "forward".into(), case: self.name(), budget_cycles: self.budget(), ..figure };
        let within = |cost: Option<f64>, most: Option<f64>| Some(cost? <= most?);
        match (self.pfil, self.load.flows) {
            (Pfil::Bpf(_), _) => f.budget_added_cycles = Some(FILTER_ADDS),
            (Pfil::Npf(NpfRules::Connections), Flows::Known(250)) | (Pfil::Npf(NpfRules::Fifty), _) => {
                f.budget_added_cycles = Some(NPF_ADDS);
            }
            (Pfil::Npf(NpfRules::Connections), Flows::Known(1_000_000)) => f.budget_added_cycles = Some(NPF_ADDS_MANY),
            _ => {}
        }
        f.met = within(f.cycles_per_packet, f.budget_cycles).or(within(f.added_cycles, f.budget_added_cycles));
        f
    }
}

fn flows(text: &str) -> Result<Flows, String> {
    match text.parse() {
        Ok(n @ 1..=16_777_216) => Ok(Flows::Known(n)),
        _ if text == "random" => Ok(Flows::Random),
        _ => Err("there are 1 to 16777216 flows, or `random` destinations".into()),
    }
}

fn flows_text(flows: Flows) -> String {
    match flows {
        Flows::Known(n) => n.to_string(),
        Flows::Random => "random".to_owned(),
    }
}

fn pfil(text: &str) -> Result<Pfil, String> {
    match text {
        "none" => Ok(Pfil::None),
        "empty" => Ok(Pfil::Empty),
        "npf" => Ok(Pfil::Npf(NpfRules::Connections)),
        "nat" => Ok(Pfil::Npf(NpfRules::Translation)),
        "rules" => Ok(Pfil::Npf(NpfRules::Fifty)),
        _ => layer(text).map(Pfil::Bpf).map_err(|e| format!("{e}; or there is `none`, or an `empty` head")),
    }
}

fn pfil_text(pfil: Pfil) -> &'static str {
    match pfil {
        Pfil::None => "none",
        Pfil::Empty => "empty",
        Pfil::Bpf(layer) => layer_name(layer),
        Pfil::Npf(NpfRules::Connections) => "npf",
        Pfil::Npf(NpfRules::Translation) => "nat",
        Pfil::Npf(NpfRules::Fifty) => "rules",
    }
}

/// A layer by its name.
pub fn layer(name: &str) -> Result<Layer, String> {
    match name {
        "ether" => Ok(Layer::Ether),
        "inet" => Ok(Layer::Inet),
        _ => Err("a filter is asked at `ether` or `inet`".into()),
    }
}

/// The name of a layer.
pub fn layer_name(layer: Layer) -> &'static str {
    match layer {
        Layer::Ether => "ether",
        Layer::Inet => "inet",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_of_a_case_is_the_usual_and_what_is_listed_is_combined() {
        let args = |flows: &[Flows], size: &[u32]| Args {
            size: size.to_vec(),
            flows: flows.to_vec(),
            routes: vec![],
            pfil: vec![],
            packets: 1,
            runs: 1,
            instructions: false,
            untimed: false,
            watched: false,
        };
        assert_eq!(args(&[], &[]).cases().len(), choice().len());
        let cases = args(&[Flows::Known(5), Flows::Random], &[64, 512]).cases();
        let names: Vec<String> = cases.iter().map(Case::name).collect();
        assert_eq!(
            names,
            [
                "ipv4 64 B, 5 flows, 1 route",
                "ipv4 64 B, random destinations, 1 route",
                "ipv4 512 B, 5 flows, 1 route",
                "ipv4 512 B, random destinations, 1 route"
            ]
        );
    }

    #[test]
    fn a_case_is_judged_by_its_own_cost_or_by_what_it_adds() {
        let judged = |i: usize, cycles, added| {
            let f = Figure { cycles_per_packet: Some(cycles), added_cycles: added, ..Figure::default() };
            choice()[i].judged(f).met
        };
        assert_eq!([judged(0, 54.0, None), judged(0, 56.0, None)], [Some(true), Some(false)]);
        assert_eq!(judged(1, 1.0, None), None, "there is no budget for one flow");
        let filtered = choice().len() - 1;
        assert_eq!([judged(filtered, 99.0, Some(14.0)), judged(filtered, 9.0, Some(16.0))], [Some(true), Some(false)]);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for f in [Flows::Known(7), Flows::Random] {
            assert_eq!(flows(&flows_text(f)), Ok(f));
        }
        for p in [Pfil::None, Pfil::Empty, Pfil::Bpf(Layer::Inet), Pfil::Bpf(Layer::Ether), pfil("nat").unwrap()] {
            assert_eq!(pfil(pfil_text(p)), Ok(p));
        }
        assert!(flows("0").is_err() && pfil("pf").is_err());
    }
}
