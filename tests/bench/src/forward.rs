//! `forward`: IPv4 over the whole path of the plan, from `rx_burst` of one null port to `tx_burst` of another one. What the
//! ports themselves cost is measured apart and subtracted.

use crate::{
    callgrind,
    clock::{Stretch, Took},
    report::{self, Figure},
    router::{Load, Router},
};
use smpnet_abi::BURST_MAX;
use smpnet_wasm::Layer;
use std::error::Error;

/// Budget at 10,000 flows and 100,000 routes, in cycles of the reference machine.
const BUDGET: f64 = 150.0;
/// Measurements of a case, of which the median counts.
const RUNS: usize = 9;

/// Options of `forward`.
#[derive(clap::Args)]
pub struct Args {
    /// Packets of one measurement.
    #[arg(long, default_value_t = 2_000_000)]
    packets: u64,
    /// Only the case with this many flows; with --routes and --size.
    #[arg(long)]
    flows: Option<u32>,
    /// Routes of that case.
    #[arg(long, default_value_t = 100_000)]
    routes: u32,
    /// Bytes of a frame of that case, without FCS.
    #[arg(long, default_value_t = 60)]
    size: u32,
    /// With a filter of bpf at this layer in that case.
    #[arg(long, value_name = "ether|inet", value_parser = layer)]
    filter: Option<Layer>,
    /// Counts instructions with callgrind instead of time.
    #[arg(long)]
    instructions: bool,
    /// Runs the case once and prints nothing: what callgrind watches.
    #[arg(long, hide = true)]
    bare: bool,
    /// With --bare: the ports alone.
    #[arg(long, hide = true)]
    ports: bool,
}

/// Runs the benchmark.
pub fn run(args: &Args, json: bool) -> Result<bool, Box<dyn Error>> {
    let loads = match args.flows {
        Some(flows) => vec![Load { size: args.size, flows, routes: args.routes, filter: args.filter }],
        None => sweep(),
    };
    if args.bare {
        for load in loads {
            let mut router = Router::new(load)?;
            let rounds = args.packets / u64::from(BURST_MAX);
            if args.ports {
                generator(&mut router, rounds);
            } else {
                router.rounds(rounds);
            }
        }
        return Ok(true);
    }
    let mut figures = Vec::new();
    for load in loads {
        let filter = match load.filter {
            None => "",
            Some(layer) => &format!(", bpf at {}", layer_name(layer)),
        };
        let of_budget = load.flows == 10_000 && load.routes == 100_000 && load.size == 60 && load.filter.is_none();
        let mut figure = Figure {
            bench: "forward".into(),
            case: format!("ipv4 {} B, {} flows, {} routes{filter}", load.size + 4, load.flows, load.routes),
            budget_cycles: of_budget.then_some(BUDGET),
            ..Figure::default()
        };
        if args.instructions {
            figure.instructions_per_packet = Some(instructions(load)?);
        } else {
            let took = measure(load, args.packets)?;
            (figure.ns_per_packet, figure.cycles_per_packet) = (Some(took.ns), Some(took.cycles));
        }
        figures.push(figure);
    }
    report::print(&figures, json);
    Ok(true)
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

fn sweep() -> Vec<Load> {
    let load = |size, flows, routes| Load { size, flows, routes, filter: None };
    let filtered = |layer| Load { filter: Some(layer), ..load(60, 10_000, 100_000) };
    vec![
        load(60, 1, 1),
        load(60, 10_000, 1),
        load(60, 10_000, 100_000),
        filtered(Layer::Inet),
        filtered(Layer::Ether),
        load(508, 10_000, 100_000),
        load(1496, 10_000, 100_000),
        load(60, 1_000_000, 100_000),
        load(60, 1_000_000, 1_000_000),
    ]
}

/// What a packet costs between the ports.
fn measure(load: Load, packets: u64) -> Result<Took, Box<dyn Error>> {
    let mut router = Router::new(load)?;
    let rounds = packets.div_ceil(u64::from(BURST_MAX));
    // Every flow passes twice before anything counts: the caches are as they will stay.
    router.rounds(2 * u64::from(load.flows.div_ceil(BURST_MAX)) + 100);
    let (mut ns, mut cycles) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let whole = forwarded(&mut router, rounds)?;
        let ports = generator(&mut router, rounds);
        ns.push(whole.ns - ports.ns);
        cycles.push(whole.cycles - ports.cycles);
    }
    Ok(Took { ns: report::median(&mut ns), cycles: report::median(&mut cycles) })
}

fn forwarded(router: &mut Router, rounds: u64) -> Result<Took, Box<dyn Error>> {
    let before = router.sent();
    let stretch = Stretch::begin();
    router.rounds(rounds);
    let took = stretch.end();
    let sent = router.sent() - before;
    if sent != rounds * u64::from(BURST_MAX) {
        let drops = router.stack.drops();
        return Err(format!("{sent} of {} packets were forwarded; {drops:?}", rounds * u64::from(BURST_MAX)).into());
    }
    Ok(took.per(sent))
}

/// What the ports cost: the same packets from the source straight into the sink.
fn generator(router: &mut Router, rounds: u64) -> Took {
    let (source, sink) = (router.source, router.sink);
    let stretch = Stretch::begin();
    let packets = router.worker.with(|cx| {
        let worker = cx.cpu.index() as u32;
        let mut cells = [0; BURST_MAX as usize];
        let mut packets = 0u64;
        for _ in 0..rounds {
            // SAFETY: this is the one worker, and the router's own poller does not run meanwhile; the cells that the
            // source gives are handed to the sink as they are.
            unsafe {
                let n = (source.table.rx_burst)(source.info.port, 0, worker, cells.as_mut_ptr(), BURST_MAX);
                packets += u64::from((sink.table.tx_burst)(sink.info.port, 0, worker, cells.as_ptr(), n));
            }
        }
        packets
    });
    stretch.end().per(packets)
}

/// Instructions of a packet between the ports: those of the whole path less those of the ports alone.
fn instructions(load: Load) -> Result<f64, Box<dyn Error>> {
    // Whole passes over the flows, so that both runs do the same work per packet.
    let pass = u64::from(load.flows.max(BURST_MAX * 1000));
    let count = |ports: bool| {
        callgrind::per_packet(2 * pass, 4 * pass, |packets| {
            let numbers = [("--flows", load.flows), ("--routes", load.routes), ("--size", load.size)];
            let mut args = vec!["forward".to_owned(), "--bare".to_owned()];
            args.extend(numbers.iter().flat_map(|(name, n)| [(*name).to_owned(), n.to_string()]));
            args.extend(["--packets".to_owned(), packets.to_string()]);
            if let Some(layer) = load.filter {
                args.extend(["--filter", layer_name(layer)].map(str::to_owned));
            }
            args.extend(ports.then(|| "--ports".to_owned()));
            args
        })
    };
    Ok(count(false)? - count(true)?)
}
