//! `steady`: the proof that the packet path neither allocates, locks nor enters the kernel. A child process forwards
//! packets; its worker is stepped through whole bursts, one instruction at a time.

use crate::{
    forward,
    router::{Flows, Load, Router},
    step,
};
use smpnet_abi::BURST_MAX;
use smpnet_wasm::Layer;
use std::{
    error::Error,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
};

/// Bursts that are stepped through.
const BURSTS: u64 = 16;
/// Ports whose `rx_burst` is called in each round: the source, which gives a burst, and the sink, which never does.
const PORTS: u64 = 2;
/// Most instructions that are stepped through.
const MAX_STEPS: u64 = 20_000_000;
/// Functions of the C library that allocate.
const ALLOCATORS: [&str; 6] = ["malloc", "calloc", "realloc", "free", "posix_memalign", "aligned_alloc"];

/// Options of `steady`.
#[derive(clap::Args)]
pub struct Args {
    /// Flows.
    #[arg(long, default_value_t = 10_000)]
    flows: u32,
    /// With a filter of bpf at this layer.
    #[arg(long, value_name = "ether|inet", value_parser = forward::layer)]
    filter: Option<Layer>,
    /// Be the process that is watched.
    #[arg(long, hide = true)]
    child: bool,
}

/// Runs the check.
pub fn run(args: &Args, json: bool) -> Result<bool, Box<dyn Error>> {
    if args.child {
        return child(args);
    }
    one_cpu()?;
    let mut watched = Watched::start(args)?;
    let rx_burst = watched.addresses[0];
    let seen = step::thread(watched.tid, &watched.addresses, BURSTS * PORTS, MAX_STEPS)?;
    let bursts = seen.hits.first().copied().unwrap_or(0) / PORTS;
    let packets = bursts * u64::from(BURST_MAX);
    if bursts < BURSTS {
        return Err(format!("only {bursts} bursts in {MAX_STEPS} instructions (rx_burst at {rx_burst:#x})").into());
    }
    watched.stop();
    let allocations: u64 = seen.hits[1..].iter().sum();
    let clean = allocations == 0 && seen.syscalls == 0 && seen.locked <= bursts;
    if json {
        let line = serde_json::json!({
            "bench": "steady", "case": "allocations, locks, system calls", "packets": packets, "instructions_per_packet": seen.instructions as f64 / packets as f64,
            "allocations": allocations, "syscalls": seen.syscalls, "locked": seen.locked, "bursts": bursts, "met": clean,
        });
        println!("{line}");
    } else {
        println!("stepped through {packets} packets in {bursts} bursts");
        println!("instructions per packet  {:.1}", seen.instructions as f64 / packets as f64);
        println!("calls of the allocator   {allocations}");
        println!("system calls             {}", seen.syscalls);
        println!("locked instructions      {} (at most one a burst is allowed)", seen.locked);
    }
    if !clean {
        for (at, n) in &seen.locked_at {
            eprintln!("locked instruction at {at:#x}, {n} times");
        }
    }
    Ok(clean)
}

/// Keeps this process and its children on one CPU: the two take turns, and a step then wakes no other CPU.
fn one_cpu() -> std::io::Result<()> {
    // SAFETY: all zero is an empty cpu_set_t, and the CPU that runs this is below its size.
    let rc = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu().max(0) as usize, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if rc == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// The child process, forwarding.
struct Watched {
    child: Child,
    stdin: Option<ChildStdin>,
    tid: i32,
    /// `rx_burst` of the source, then the allocators.
    addresses: Vec<u64>,
}

impl Watched {
    fn start(args: &Args) -> Result<Watched, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["steady", "--child", "--flows", &args.flows.to_string()])
            .args(args.filter.iter().flat_map(|l| ["--filter", forward::layer_name(*l)]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or("the child has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let tid = numbers.next().ok_or("the child ended before it forwarded anything")?? as i32;
        let addresses = numbers.collect::<Result<_, _>>()?;
        Ok(Watched { child, stdin, tid, addresses })
    }

    fn stop(&mut self) {
        // The child ends when its input does; one that ended already needs nothing.
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Forwards until the input ends, after telling its thread and the addresses to watch.
fn child(args: &Args) -> Result<bool, Box<dyn Error>> {
    let mut router = Router::new(Load { size: 64, flows: Flows::Known(args.flows), routes: 1000 })?;
    if args.filter.is_some() {
        router.set_filter(args.filter)?;
    }
    router.rounds(2 * u64::from(args.flows.div_ceil(BURST_MAX)) + 100);
    // SAFETY: no arguments, and it cannot fail.
    let tid = unsafe { libc::gettid() };
    let mut line = format!("{tid} {}", router.source.table.rx_burst as usize);
    for name in ALLOCATORS {
        let name = std::ffi::CString::new(name)?;
        // SAFETY: a NUL-terminated name; RTLD_DEFAULT searches what is loaded.
        let at = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        line.push_str(&format!(" {}", at as usize));
    }
    println!("{line}");
    std::io::stdout().flush()?;
    // A parent that dies takes this process with it.
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    loop {
        router.rounds(1 << 30);
    }
}
