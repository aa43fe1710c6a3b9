//! `bpf`: one classic BPF program in bursts of 64 over mixed traffic, on every engine in turn. Compiled WebAssembly, the same
//! filter in native Rust, the reference interpreter and libpcap's interpreter stand behind a pfil hook each; the
//! kernel's JIT runs in the kernel. All in one run, each measurement of one engine next to those of the others.

mod kernel;
mod native;
mod traffic;

use crate::{
    clock,
    report::{self, Figure},
};
use smpnet_abi::{BURST_MAX, Cell, PoolDesc, verdict};
use smpnet_bpf::{Dlt, Insn, Program, compile_expr, pcap::Libpcap};
use smpnet_runtime::{Dir, HookCx, ManualWorker, PfilHead, PfilHook, PoolConfig, Runtime, RuntimeConfig};
use smpnet_wasm::{Action, Attach, AttachPoint, Filter, FilterManager, FilterSpec, GeneratedEngine, Layer, Source};
use std::{
    error::Error,
    hint::black_box,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// Measurements of a case, of which the median counts.
const RUNS: usize = 31;
/// Frames that the kernel judges, each many times; a test run takes one frame.
const KERNEL_FRAMES: usize = 256;
/// How often the kernel runs a frame in one measurement.
const KERNEL_REPEAT: u32 = 500;
/// What a filter in WebAssembly may cost beside others: native Rust, the kernel's JIT, libpcap's interpreter.
const AGAINST_NATIVE: f64 = 1.5;
const AGAINST_KERNEL: f64 = 1.0;
const AGAINST_LIBPCAP: f64 = 0.2;

/// Options of `bpf`.
#[derive(clap::Args)]
pub struct Args {
    /// Times that each measurement judges all frames.
    #[arg(long, default_value_t = 20)]
    passes: u32,
    /// Only the cases whose name contains this: web, edge.
    #[arg(long)]
    case: Option<String>,
}

/// A filter of the benchmark.
struct Case {
    name: &'static str,
    expression: String,
    native: fn() -> Arc<dyn PfilHook>,
}

/// Runs the benchmark. False when a budget is not met.
pub fn run(args: &Args, json: bool) -> Result<bool, Box<dyn Error>> {
    let cases = [
        Case { name: "web", expression: native::WEB.to_owned(), native: || Arc::new(Native(native::web)) },
        Case { name: "edge", expression: native::edge_expression(), native: || Arc::new(Native(native::edge)) },
    ];
    let wanted = |c: &&Case| args.case.as_ref().is_none_or(|name| c.name.contains(name.as_str()));
    let mut figures = Vec::new();
    for case in cases.iter().filter(wanted) {
        figures.extend(measure(case, args.passes)?);
    }
    report::print(&figures, json);
    Ok(figures.iter().all(|f| f.met != Some(false)))
}

fn measure(case: &Case, passes: u32) -> Result<Vec<Figure>, Box<dyn Error>> {
    let program = compile_expr(&case.expression, Dlt::En10mb)?.program;
    let mut desk = Desk::new()?;
    let native = desk.hook((case.native)());
    let (wasm, _manager) = desk.filter(case, &program)?;
    let interpreter = {
        let program = program.clone();
        desk.hook(Arc::new(Native(move |p: &[u8]| program.run(p, p.len() as u32) != 0)))
    };
    let pcap = Libpcap::load();
    let libpcap = pcap.as_ref().ok().map(|&pcap| {
        let program = program.clone();
        desk.hook(Arc::new(Native(move |p: &[u8]| pcap.bpf_filter(&program, p, p.len() as u32) != Some(0))))
    });
    let kernel = Kernel::new(&program, &desk.frames);
    desk.agree(&program, &native, &wasm, pcap.as_ref().ok().copied(), kernel.as_ref().ok())?;

    let mut ns = Times::default();
    for _ in 0..RUNS {
        ns.native.push(desk.through(&native, passes));
        ns.wasm.push(desk.through(&wasm, passes));
        ns.interpreter.push(desk.through(&interpreter, passes.div_ceil(4)));
        if let Some(libpcap) = &libpcap {
            ns.libpcap.push(desk.through(libpcap, passes.div_ceil(4)));
        }
        if let Ok(kernel) = &kernel {
            let (whole, empty) = kernel.ns(&desk.frames)?;
            ns.kernel.push(whole - empty);
            ns.kernel_gross.push(whole);
        }
    }
    let libpcap = (median(ns.libpcap), pcap.err().map(|e| e.to_string()));
    let refused = kernel.err().map(|e| e.to_string());
    let (kernel, kernel_gross) = ((median(ns.kernel), refused.clone()), (median(ns.kernel_gross), refused));
    let name = |engine: &str| format!("{} ({} instructions), {engine}", case.name, program.insns().len());
    let alone = |engine: &str, (ns_per_packet, note): (Option<f64>, Option<String>)| Figure {
        bench: "bpf".into(),
        case: name(engine),
        ns_per_packet,
        note,
        ..Figure::default()
    };
    let wasm = median(ns.wasm);
    let against = |peer: &str, (peer_ns, note): (Option<f64>, Option<String>), most: f64| Figure {
        peer: Some(peer.into()),
        peer_ns_per_packet: peer_ns,
        budget_ratio: Some(most),
        met: wasm.zip(peer_ns).map(|(ours, theirs)| ours <= theirs * most),
        ..alone("WebAssembly", (wasm, note))
    };
    Ok(vec![
        against("native Rust", (median(ns.native), None), AGAINST_NATIVE),
        against("kernel JIT", kernel_gross, AGAINST_KERNEL),
        against("libpcap", libpcap, AGAINST_LIBPCAP),
        alone("interpreter", (median(ns.interpreter), None)),
        alone("kernel JIT, less an empty program", kernel),
    ])
}

/// Nanoseconds per packet, one for each measurement.
#[derive(Default)]
struct Times {
    native: Vec<f64>,
    wasm: Vec<f64>,
    interpreter: Vec<f64>,
    libpcap: Vec<f64>,
    /// The program alone, and with the kernel's loop around it.
    kernel: Vec<f64>,
    kernel_gross: Vec<f64>,
}

fn median(mut times: Vec<f64>) -> Option<f64> {
    (!times.is_empty()).then(|| report::median(&mut times))
}

/// A function behind a hook: what matches is dropped.
pub(crate) struct Native<F>(pub(crate) F);

impl<F: Fn(&[u8]) -> bool + Send + Sync> PfilHook for Native<F> {
    fn name(&self) -> &str {
        "native"
    }

    fn filter(&self, cx: &HookCx<'_>, cells: &[Cell], verdicts: &mut [u32]) -> bool {
        for (&cell, verdict) in cells.iter().zip(verdicts) {
            if (self.0)(cx.pool.packet(cell).data()) {
                *verdict = verdict::DROP;
            }
        }
        false
    }

    fn status(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

/// Cells that packets come in: as many as a worker's cache keeps in use under load.
const CELLS: usize = 512;
const BURST: usize = BURST_MAX as usize;

/// A packet pool of a runtime whose one worker is driven by hand, and the frames that come in.
pub(crate) struct Desk {
    pub(crate) runtime: Arc<Runtime>,
    worker: ManualWorker,
    frames: Vec<Vec<u8>>,
    cells: Vec<Cell>,
}

impl Desk {
    pub(crate) fn new() -> Result<Desk, Box<dyn Error>> {
        let frames = traffic::frames();
        let pool = PoolConfig { cells: 2 * CELLS as u32, ..PoolConfig::default() };
        let (runtime, mut workers) = Runtime::start_manual(RuntimeConfig { pool, ..RuntimeConfig::default() })?;
        let worker = workers.pop().ok_or("a runtime without workers")?;
        let mut cells = vec![0; CELLS];
        if runtime.pool().alloc_shared(&mut cells) != CELLS {
            return Err("the packet pool is too small".into());
        }
        let room = runtime.pool().cell_size() - runtime.pool().desc().data_off as usize;
        if let Some(frame) = frames.iter().find(|f| f.len() > room) {
            return Err(format!("a frame of {} bytes does not fit a cell", frame.len()).into());
        }
        Ok(Desk { runtime, worker, frames, cells })
    }

    /// A head with one hook.
    pub(crate) fn hook(&self, hook: Arc<dyn PfilHook>) -> PfilHead {
        let head = PfilHead::new(self.runtime.domain());
        head.add(0, hook);
        head
    }

    /// A head with the filter in WebAssembly, as the daemon loads it, and the manager that keeps it alive.
    fn filter(&self, case: &Case, program: &Program) -> Result<(PfilHead, FilterManager), Box<dyn Error>> {
        let place = Arc::new(Place { pool: *self.runtime.pool().desc(), filter: Mutex::default() });
        let manager = FilterManager::new(place.clone())?;
        let spec = FilterSpec::new(case.name, Source::Program(program.clone()), Action::Drop);
        manager.load(FilterSpec { layer: Layer::Ether, ..spec })?;
        let filter = place.filter.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok((self.hook(filter.ok_or("the filter was not attached")?), manager))
    }

    /// Lets all frames come in as a driver receives them, burst by burst into cells that were used before, and hands each
    /// burst to `judge`. Returns the nanoseconds per packet that `judge` took.
    fn bursts(&mut self, passes: u32, mut judge: impl FnMut(&HookCx<'_>, &[Cell], &mut [u32])) -> f64 {
        let (frames, cells) = (&self.frames, &self.cells);
        let (began, start) = (Instant::now(), clock::tsc());
        let mut ticks = Vec::with_capacity(passes as usize * frames.len() / BURST);
        self.worker.with(|cx| {
            let (cpu, pool, section) = (cx.cpu, cx.pool, cx.section());
            let layer = smpnet_runtime::Layer::Ether;
            let hook = HookCx { cpu, pool, section, dir: Dir::In, ifindex: 1, layer, now_ns: cx.now_ns };
            let mut verdicts = [verdict::PASS; BURST];
            let bursts = (0..passes).flat_map(|_| frames.chunks_exact(BURST));
            for (frames, cells) in bursts.zip(cells.chunks_exact(BURST).cycle()) {
                for (&cell, frame) in cells.iter().zip(frames) {
                    pool.packet(cell).set_data(frame);
                }
                verdicts.fill(verdict::PASS);
                let before = clock::tsc();
                judge(&hook, black_box(cells), &mut verdicts);
                ticks.push(clock::tsc() - before);
                black_box(&mut verdicts);
            }
        });
        let ns_per_tick = began.elapsed().as_nanos() as f64 / (clock::tsc() - start) as f64;
        // A burst that was interrupted says nothing about the filter: the longest twentieth does not count.
        ticks.sort_unstable();
        ticks.truncate(ticks.len() - ticks.len() / 20);
        ticks.iter().sum::<u64>() as f64 * ns_per_tick / (ticks.len() * BURST) as f64
    }

    /// Nanoseconds per packet through a head.
    pub(crate) fn through(&mut self, head: &PfilHead, passes: u32) -> f64 {
        self.bursts(passes, |cx, cells, verdicts| {
            head.run(cx, cells, verdicts);
        })
    }

    /// Checks that all engines say the same of every frame: only then do their times compare.
    fn agree(
        &mut self,
        program: &Program,
        native: &PfilHead,
        wasm: &PfilHead,
        pcap: Option<&Libpcap>,
        kernel: Option<&Kernel>,
    ) -> Result<(), Box<dyn Error>> {
        let (by_native, by_wasm) = (self.verdicts(native), self.verdicts(wasm));
        for (i, frame) in self.frames.iter().enumerate() {
            let len = frame.len() as u32;
            let expected = program.run(frame, len);
            let match_expected = u32::from(expected != 0);
            let same = by_native[i] == match_expected
                && by_wasm[i] == match_expected
                && pcap.and_then(|p| p.bpf_filter(program, frame, len)).is_none_or(|r| r == expected)
                && kernel.map(|k| k.loaded.run(frame, 1)).transpose()?.is_none_or(|r| r.result == expected);
            if !same {
                return Err(format!("the engines differ on frame {i}: {frame:02x?}").into());
            }
        }
        Ok(())
    }

    fn verdicts(&mut self, head: &PfilHead) -> Vec<u32> {
        let mut all = Vec::new();
        self.bursts(1, |cx, cells, verdicts| {
            head.run(cx, cells, verdicts);
            all.extend_from_slice(verdicts);
        });
        all
    }
}

/// Where the manager hangs its filter.
pub(crate) struct Place {
    pub(crate) pool: PoolDesc,
    pub(crate) filter: Mutex<Option<Arc<Filter>>>,
}

impl Attach for Place {
    fn pool(&self) -> PoolDesc {
        self.pool
    }

    fn workers(&self) -> usize {
        1
    }

    fn warm_up(&self) {
        GeneratedEngine::warm_up_thread();
    }

    /// The one worker is driven by the thread that calls this, so it is in no burst.
    fn synchronize(&self) {}

    fn attach(&self, _at: &AttachPoint, filter: Arc<Filter>) -> Result<u64, String> {
        *self.filter.lock().unwrap_or_else(PoisonError::into_inner) = Some(filter);
        Ok(1)
    }

    fn detach(&self, _handle: u64) {}
}

/// The program in the kernel, and one that does nothing: what a test run costs by itself.
struct Kernel {
    loaded: kernel::Loaded,
    empty: kernel::Loaded,
}

impl Kernel {
    fn new(program: &Program, frames: &[Vec<u8>]) -> Result<Kernel, Box<dyn Error>> {
        if !kernel::jit_enabled() {
            return Err("the kernel's JIT is off (sysctl net.core.bpf_jit_enable=1 switches it on)".into());
        }
        let loaded = kernel::Loaded::new(program)?;
        loaded.run(&frames[0], 1)?;
        let empty = kernel::Loaded::new(&Program::new(vec![Insn::stmt(0x06, 0)])?)?;
        Ok(Kernel { loaded, empty })
    }

    /// Nanoseconds per packet as the kernel says them, of the program and of the empty one. It runs each frame many times
    /// in a row, which is the best case for its branches and caches.
    fn ns(&self, frames: &[Vec<u8>]) -> Result<(f64, f64), Box<dyn Error>> {
        let mean = |loaded: &kernel::Loaded| -> std::io::Result<f64> {
            let runs = frames[..KERNEL_FRAMES].iter().map(|frame| loaded.run(frame, KERNEL_REPEAT));
            Ok(f64::from(runs.map(|r| Ok(r?.ns)).sum::<std::io::Result<u32>>()?) / KERNEL_FRAMES as f64)
        };
        Ok((mean(&self.loaded)?, mean(&self.empty)?))
    }
}
