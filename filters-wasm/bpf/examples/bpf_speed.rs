//! Nanoseconds per packet of `ip and tcp port 80` in bursts of 64: generated WebAssembly, the reference interpreter,
//! libpcap's interpreter and the same filter written in Rust.
//!
//! `cargo run --release -p smpnet-bpf --example bpf_speed`

#[path = "../tests/common/mod.rs"]
mod common;

use common::WasmFilter;
use smpnet_bpf::pcap::Libpcap;
use smpnet_bpf::{Dlt, Engine, compile_expr_with};
use std::hint::black_box;
use std::time::Instant;

const EXPR: &str = "ip and tcp port 80";
const BURST: usize = 64;
const STRIDE: usize = 1024;

fn main() {
    let packets: Vec<Vec<u8>> = (0..BURST as u8).map(packet).collect();
    report("native", best_of(|| packets.iter().map(|p| u64::from(native(black_box(p)))).sum()));
    for engine in [Engine::Subset, Engine::Libpcap] {
        let Ok(compiled) = compile_expr_with(EXPR, Dlt::En10mb, engine) else {
            println!("SKIPPED: {engine}: libpcap is not installed");
            continue;
        };
        let program = compiled.program;
        println!("{EXPR}: {} instructions by {engine}", program.insns().len());
        let interpreter = || packets.iter().map(|p| u64::from(program.run(black_box(p), 64))).sum();
        report("interpreter", best_of(interpreter));
        if let Ok(pcap) = Libpcap::load() {
            let filter =
                || packets.iter().filter_map(|p| pcap.bpf_filter(&program, black_box(p), 64)).map(u64::from).sum();
            report("libpcap's interpreter", best_of(filter));
        }
        let mut wasm = WasmFilter::new(&common::fast_engine(), &program);
        for (i, p) in packets.iter().enumerate() {
            let at = i * STRIDE;
            wasm.pool()[at..at + p.len()].copy_from_slice(p);
            for (field, value) in [at as u32, p.len() as u32, 64].into_iter().enumerate() {
                let place = i * 16 + field * 4;
                wasm.io()[place..place + 4].copy_from_slice(&value.to_le_bytes());
            }
        }
        report(
            "wasm",
            best_of(|| {
                wasm.call(BURST as i32);
                u64::from(wasm.io()[1024])
            }),
        );
    }
}

/// 64-byte TCP and UDP packets of which half match.
fn packet(n: u8) -> Vec<u8> {
    let mut p = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64];
    p.push(if n % 4 == 3 { 17 } else { 6 });
    p.extend([0, 0, 10, 0, 0, n, 10, 0, 0, 2, 0x30, n, 0, if n % 4 == 2 { 81 } else { 80 }]);
    p.resize(64, 0);
    p
}

fn native(p: &[u8]) -> bool {
    let half = |at: usize| p.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let tcp_80 = || {
        if half(12)? != 0x0800 || *p.get(23)? != 6 || half(20)? & 0x1fff != 0 {
            return Some(false);
        }
        let header = usize::from(*p.get(14)? & 15) * 4;
        Some(half(14 + header)? == 80 || half(16 + header)? == 80)
    };
    tcp_80().unwrap_or(false)
}

fn best_of(mut f: impl FnMut() -> u64) -> f64 {
    const CALLS: usize = 20_000;
    (0..7)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..CALLS {
                black_box(f());
            }
            start.elapsed().as_nanos() as f64 / (CALLS * BURST) as f64
        })
        .fold(f64::INFINITY, f64::min)
}

fn report(engine: &str, ns: f64) {
    println!("  {engine:<24}{ns:7.2} ns per packet");
}
