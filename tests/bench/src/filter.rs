//! `filter`: modules of others behind a pfil hook, as the daemon runs them, over the mixed traffic of `bpf`. One that reads
//! the first 64 bytes of each packet stands beside native Rust that does the same; then ten of them on one hook.

use crate::{
    bpf::{Desk, Native, Place},
    report::{self, Figure},
};
use smpnet_runtime::{PfilHead, PfilHook};
use smpnet_wasm::{Action, Filter, FilterManager, FilterSpec, Layer, ModuleSpec, Source};
use std::{
    error::Error,
    hint::black_box,
    sync::{Arc, Mutex, PoisonError},
};

/// Measurements of a case, of which the median counts.
const RUNS: usize = 15;
/// Nanoseconds per packet that a module may cost over native Rust.
const OVER_NATIVE: f64 = 10.0;
/// Windows of modules, in bytes. What a module gets unless it asks for another is 128.
const WINDOWS: [u32; 6] = [64, 128, 256, 512, 1024, 1536];
/// Modules on one hook.
const CHAIN: usize = 10;
/// Where the ring of a module lies in its memory.
const RING: u32 = 1024;
/// How much more than the median one more module may cost.
const STEP: f64 = 2.0;
/// What the 64 bytes of no frame of the traffic come to.
const NEVER: u64 = 0x5eed_0bad_cafe_f00d;

/// Options of `filter`.
#[derive(clap::Args)]
pub struct Args {
    /// Times that each measurement judges all frames.
    #[arg(long, default_value_t = 10)]
    passes: u32,
}

/// A manager and a place to load modules at.
struct House {
    place: Arc<Place>,
    manager: FilterManager,
}

impl House {
    fn new(desk: &Desk) -> Result<House, Box<dyn Error>> {
        let place = Arc::new(Place { pool: *desk.runtime.pool().desc(), filter: Mutex::default() });
        Ok(House { manager: FilterManager::new(place.clone())?, place })
    }

    fn load(&self, name: String, window: u32, ring: u32) -> Result<Arc<Filter>, Box<dyn Error>> {
        let source = Source::Module(ModuleSpec::new(wat::parse_str(text(window, ring))?));
        self.manager.load(FilterSpec { layer: Layer::Ether, ..FilterSpec::new(name, source, Action::Drop) })?;
        let filter = self.place.filter.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(filter.ok_or("the filter was not attached")?)
    }

    /// That no module failed: a figure of one that did is a figure of the fault policy.
    fn healthy(&self) -> Result<(), Box<dyn Error>> {
        match self.manager.list().iter().find(|f| f.counts.faults > 0) {
            Some(f) => Err(format!("{} failed {} times while it was measured", f.name, f.counts.faults).into()),
            None => Ok(()),
        }
    }
}

/// Runs the benchmark. False when a budget is not met.
pub fn run(args: &Args, json: bool) -> Result<bool, Box<dyn Error>> {
    let mut desk = Desk::new()?;
    let house = House::new(&desk)?;
    let mut figures = windows(&mut desk, &house, args.passes)?;
    figures.extend(chain(&mut desk, &house, args.passes)?);
    house.healthy()?;
    report::print(&figures, json);
    Ok(figures.iter().all(|f| f.met != Some(false)))
}

fn windows(desk: &mut Desk, house: &House, passes: u32) -> Result<Vec<Figure>, Box<dyn Error>> {
    let native = desk.hook(Arc::new(Native(|p: &[u8]| sum(p) == NEVER)));
    let mut heads = Vec::new();
    for window in WINDOWS {
        heads.push((window, desk.hook(house.load(format!("window-{window}"), window, RING)?)));
    }
    let mut base = Vec::new();
    let mut ns = vec![Vec::new(); heads.len()];
    for _ in 0..RUNS {
        base.push(desk.through(&native, passes));
        for ((_, head), ns) in heads.iter().zip(&mut ns) {
            ns.push(desk.through(head, passes));
        }
    }
    let base = report::median(&mut base);
    let figure = |(window, mut ns): (u32, Vec<f64>)| {
        let ns = report::median(&mut ns);
        // The copy of a larger window is what its module asked for.
        let judged = window <= 128;
        Figure {
            bench: "filter".into(),
            case: format!("64 bytes read, window {window}"),
            ns_per_packet: Some(ns),
            peer: Some("native".into()),
            peer_ns_per_packet: Some(base),
            met: judged.then_some(ns - base < OVER_NATIVE),
            note: Some(format!(
                "{:.1} ns over native{}",
                ns - base,
                match (judged, ns - base < OVER_NATIVE) {
                    (false, _) => "",
                    (true, true) => ", at most 10: met",
                    (true, false) => ", at most 10: MISSED",
                }
            )),
            ..Figure::default()
        }
    };
    Ok(WINDOWS.into_iter().zip(ns).map(figure).collect())
}

fn chain(desk: &mut Desk, house: &House, passes: u32) -> Result<Vec<Figure>, Box<dyn Error>> {
    let mut filters: Vec<Arc<dyn PfilHook>> = Vec::new();
    for n in 0..CHAIN {
        // Modules of different authors have their rings at different places.
        let ring = RING + n as u32 * (smpnet_filter_abi::ring_bytes(128) as u32 + 1024).next_multiple_of(16);
        filters.push(house.load(format!("chain-{n}"), 128, ring)?);
    }
    let heads: Vec<PfilHead> = (0..=CHAIN)
        .map(|n| {
            let head = PfilHead::new(desk.runtime.domain());
            filters[..n].iter().enumerate().for_each(|(prio, f)| _ = head.add(prio as i32, f.clone()));
            head
        })
        .collect();
    let mut ns = vec![Vec::new(); heads.len()];
    for _ in 0..RUNS {
        for (head, ns) in heads.iter().zip(&mut ns) {
            ns.push(desk.through(head, passes));
        }
    }
    let ns: Vec<f64> = ns.iter_mut().map(|ns| report::median(ns)).collect();
    let added: Vec<f64> = ns.windows(2).map(|w| w[1] - w[0]).collect();
    let usual = report::median(&mut added.clone());
    let figure = |(n, (ns, added)): (usize, (&f64, &f64))| Figure {
        bench: "filter".into(),
        case: format!("{} on one hook", n + 1),
        ns_per_packet: Some(*ns),
        met: Some(*added <= usual * STEP),
        note: Some(format!("the last added {added:.1} ns, the median one {usual:.1}")),
        ..Figure::default()
    };
    Ok(ns[1..].iter().zip(&added).enumerate().map(figure).collect())
}

/// The first 64 bytes, as one number.
#[inline(always)]
fn sum(p: &[u8]) -> u64 {
    match p.first_chunk::<64>() {
        Some(p) => black_box(p).as_chunks::<8>().0.iter().fold(0, |sum, w| sum ^ u64::from_le_bytes(*w)),
        None => 0,
    }
}

/// A module that does the same as [`sum`], with the ring that `smpnet-filter-abi` describes at `ring`.
fn text(window: u32, ring: u32) -> String {
    let pages = (ring as usize + smpnet_filter_abi::ring_bytes(window)).div_ceil(65_536);
    let loads = (1..8).map(|i| format!("(i64.xor (i64.load offset={} (local.get $p))", i * 8)).collect::<String>();
    let sum = format!("{loads}(i64.load (local.get $p)){}", ")".repeat(7));
    format!(
        r#"(module
  (memory (export "memory") {pages})
  (func (export "smpnet_ring") (result i32) (i32.const {ring}))
  (func (export "smpnet_filter") (param $n i32) (result i32) (local $i i32) (local $at i32) (local $p i32)
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
        (local.set $at (i32.add (i32.const {ring}) (i32.mul (local.get $i) (i32.const 32))))
        (local.set $p (i32.load offset=64 (local.get $at)))
        (if (i32.ge_u (i32.load16_u offset=68 (local.get $at)) (i32.const 64))
          (then (i32.store offset=2112 (i32.add (i32.const {ring}) (i32.mul (local.get $i) (i32.const 8)))
            (i64.eq {sum} (i64.const {NEVER})))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    (local.get $n))
  (@custom "smpnet.filter" "{{\"abi\":\"1.0\",\"name\":\"sum\",\"version\":\"1\",\"window\":{window}}}"))"#
    )
}
