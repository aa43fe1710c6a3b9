//! `smpnet filter bench`.

use super::super::context::{Failure, Output};
use super::offline::{At, ModuleArgs, Packets};
use clap::Args;
use serde_json::json;
use smpnet_filter_abi::layer;
use smpnet_wasm::guest::{RunHead, RunPacket, Runner};
use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const BURST: usize = 64;
/// Bursts that are thrown away before it counts.
const WARM_UP: usize = 200;

/// Measure what a module costs for each packet; needs no daemon
#[derive(Debug, Args)]
#[command(after_help = "\
Bursts of 64 packets are copied into the module's windows and judged by it. Beside it runs native code that copies as much
and reads the addresses and ports of each packet: what the module costs over that is the price of WebAssembly and of what
the module does besides.

Examples:
  smpnet filter bench syn-flood.wasm
  smpnet filter bench dns-blocklist.wasm --pcap dns.pcap --table names=blocklist.txt --json")]
pub struct BenchArgs {
    #[command(flatten)]
    module: ModuleArgs,
    /// Packets of a pcap or pcapng file [default: UDP packets of 512 flows]
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Without --pcap: bytes of a packet from the IP header on
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u16).range(28..=9000))]
    size: u16,
    /// What each packet begins with where the filter is asked
    #[arg(long, value_enum, default_value = "inet")]
    attach: At,
    /// How long to measure, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    time: u64,
}

pub fn run(args: &BenchArgs) -> Result<Output, Failure> {
    let mut runner = args.module.runner()?;
    let packets: Vec<RunPacket> = match &args.pcap {
        Some(file) => Packets::read(file, args.attach)?.seen.into_iter().filter_map(|s| s.packet).collect(),
        None => flows(args.size.into(), args.attach),
    };
    if packets.is_empty() {
        return Err(Failure::new("the file has no packet that the filter would be asked about"));
    }
    let (v6, v4): (Vec<_>, Vec<_>) = packets.into_iter().partition(|p| args.attach.layer(p) == layer::INET6);
    let bursts = bursts(v4).into_iter().chain(bursts(v6)).collect::<Vec<_>>();
    let window = runner.info().manifest.window as usize;
    let time = Duration::from_millis(args.time);
    let module = measure(&bursts, time, |head, burst| wasm(&mut runner, args.attach, head, burst))?;
    let mut room = vec![0u8; BURST * window];
    let native = measure(&bursts, time / 4, |_, burst| Ok(native(&mut room, window, burst)))?;
    Ok(output(args, &runner, window, &module, &native))
}

/// Bursts of 64, the last of them filled up from the front. All packets of a burst are of one layer.
fn bursts(packets: Vec<RunPacket>) -> Vec<Vec<RunPacket>> {
    let burst = |b: usize| (0..BURST).map(|i| packets[(b * BURST + i) % packets.len()].clone()).collect();
    (0..packets.len().div_ceil(BURST)).map(burst).collect()
}

/// Nanoseconds of each burst, in order.
struct Times(Vec<u64>);

impl Times {
    fn per_packet(&self, part: f64) -> f64 {
        let i = ((self.0.len() - 1) as f64 * part) as usize;
        self.0[i] as f64 / BURST as f64
    }
}

fn measure(
    bursts: &[Vec<RunPacket>],
    time: Duration,
    mut judge: impl FnMut(u64, &[RunPacket]) -> Result<u64, Failure>,
) -> Result<Times, Failure> {
    let began = Instant::now();
    let mut times = Vec::new();
    for (n, burst) in bursts.iter().cycle().enumerate() {
        let ns = judge(began.elapsed().as_nanos() as u64, burst)?;
        if n >= WARM_UP {
            times.push(ns);
        }
        if n > WARM_UP && n % 64 == 0 && began.elapsed() > time {
            break;
        }
    }
    times.sort_unstable();
    Ok(Times(times))
}

fn wasm(runner: &mut Runner, at: At, now_ns: u64, burst: &[RunPacket]) -> Result<u64, Failure> {
    let layer = burst.first().map_or(0, |p| at.layer(p));
    let head = RunHead { layer, now_ns, ..RunHead::default() };
    runner.measure(&head, burst).map_err(|fault| Failure::new(format!("the module failed: {}", fault.line)))
}

/// Copies as much as a module gets, and reads addresses and ports.
#[inline(never)]
fn native(room: &mut [u8], window: usize, burst: &[RunPacket]) -> u64 {
    let began = Instant::now();
    let mut sum = 0u32;
    for (to, p) in room.chunks_exact_mut(window.max(1)).zip(burst) {
        let n = to.len().min(p.bytes.len());
        to[..n].copy_from_slice(&p.bytes[..n]);
        let word = |at: usize| to.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
        let ports = usize::from(to.first().copied().unwrap_or(0) & 15) * 4;
        sum ^= word(12) ^ word(16) ^ word(ports);
    }
    black_box(sum);
    began.elapsed().as_nanos() as u64
}

/// UDP packets of 512 flows.
fn flows(size: usize, at: At) -> Vec<RunPacket> {
    let one = |n: u16| {
        let mut ip = vec![0u8; size];
        ip[..10].copy_from_slice(&[0x45, 0, (size >> 8) as u8, size as u8, 0, 0, 0x40, 0, 64, 17]);
        ip[12..20].copy_from_slice(&[10, 0, (n >> 8) as u8, n as u8, 10, 1, 0, 1]);
        ip[20..22].copy_from_slice(&(1024 + n).to_be_bytes());
        ip[22..24].copy_from_slice(&53u16.to_be_bytes());
        ip[24..26].copy_from_slice(&((size - 20) as u16).to_be_bytes());
        if at == At::Ether {
            let ether = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
            ip.splice(0..0, ether);
        }
        RunPacket {
            bytes: ip,
            rcvif: 1,
            flow_hash: Some(u32::from(n).wrapping_mul(0x9e37_79b9)),
            ..RunPacket::default()
        }
    };
    (0..512).map(one).collect()
}

fn output(args: &BenchArgs, runner: &Runner, window: usize, module: &Times, native: &Times) -> Output {
    let (ns, base) = (module.per_packet(0.5), native.per_packet(0.5));
    let worst_us = module.0.last().copied().unwrap_or(0) as f64 / 1000.0;
    let name = &runner.info().manifest.name;
    let text = format!(
        "{name}: {ns:.1} ns a packet, {:.1} over native ({base:.1}); windows of {window} bytes\n  \
         99 of 100 bursts below {:.1} ns a packet, the longest burst took {worst_us:.1} us; {} packets measured\n",
        ns - base,
        module.per_packet(0.99),
        module.0.len() * BURST,
    );
    let json = json!({
        "module": name, "file": args.module.file, "window": window, "packets": module.0.len() * BURST,
        "ns_per_packet": ns, "native_ns_per_packet": base, "over_native_ns": ns - base,
        "ns_per_packet_p99": module.per_packet(0.99), "worst_burst_us": worst_us,
    });
    Output::new(text, json)
}
