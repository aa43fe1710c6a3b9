//! Interpreter, generated WebAssembly and libpcap's interpreter give the same verdict, and what the compiler makes is a
//! valid module of the promised form.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{CELL_SIZE, Packet, Random, WasmFilter, Way};
use smpnet_bpf::{CompileOptions, Insn, Program, compile_wasm};
use wasmparser::{Operator, Parser, Payload, Validator, WasmFeatures};

struct Vector {
    name: String,
    insns: Vec<Insn>,
    pkt: Vec<u8>,
    wirelen: u32,
    /// `None`: must be refused.
    ret: Option<u32>,
}

fn vectors(text: &str) -> Vec<Vector> {
    text.lines()
        .map(|line| {
            let v: serde_json::Value = serde_json::from_str(line).unwrap();
            let number = |v: &serde_json::Value| u32::try_from(v.as_u64().unwrap()).unwrap();
            let insn = |i: &serde_json::Value| Insn {
                code: number(&i[0]) as u16,
                jt: number(&i[1]) as u8,
                jf: number(&i[2]) as u8,
                k: number(&i[3]),
            };
            let hex = v["pkt"].as_str().unwrap();
            let mut pkt: Vec<u8> =
                (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
            pkt.truncate(number(&v["buflen"]) as usize);
            Vector {
                name: v["name"].as_str().unwrap().to_owned(),
                insns: v["insns"].as_array().unwrap().iter().map(insn).collect(),
                pkt,
                wirelen: number(&v["wirelen"]),
                ret: v["ret"].as_u64().map(|r| r as u32),
            }
        })
        .collect()
}

#[test]
fn recorded_executions_of_netbsd_come_out_the_same_on_both_engines() {
    let engine = common::fast_engine();
    let vectors = vectors(include_str!("vectors/bpf-netbsd.jsonl"));
    assert_eq!(vectors.len(), 577);
    for v in vectors {
        // NetBSD's user-space library has no flow analysis: its test stx3 reads words that it never wrote.
        let program = Program::with_zeroed_scratch(v.insns.clone()).unwrap_or_else(|e| panic!("{}: {e}", v.name));
        assert_eq!(Some(program.run(&v.pkt, v.wirelen)), v.ret, "interpreter: {}", v.name);
        for way in [Way::Described, Way::Cells] {
            let wasm = WasmFilter::new(&engine, &program, way).judge(&[(&v.pkt, v.wirelen)]);
            assert_eq!(Some(wasm[0]), v.ret, "wasm, {way:?}: {}", v.name);
        }
        assert_eq!(Program::new(v.insns).is_err(), v.name == "stx3", "strict validator: {}", v.name);
    }
}

#[test]
fn programs_that_break_a_rule_are_refused() {
    let vectors = vectors(include_str!("vectors/bpf-validator.jsonl"));
    assert_eq!(vectors.len(), 13);
    for v in vectors {
        assert!(v.ret.is_none());
        assert!(Program::new(v.insns).is_err(), "{}", v.name);
    }
}

/// Programs that are compiled together.
const TOGETHER: u64 = 40;
/// Packets that each program judges.
const PACKETS: usize = 16;

#[test]
fn random_programs_give_one_verdict_on_every_engine() {
    let pcap = common::libpcap("comparison of random programs with libpcap's interpreter");
    let rounds = common::rounds(10_000, 1_000_000) / TOGETHER;
    common::on_all_cpus(|thread, threads| {
        let engines = [common::fast_engine(), common::engine()];
        for round in (thread..rounds).step_by(threads as usize) {
            // One in eight as the router compiles it, with all of Cranelift's rewriting.
            let engine = &engines[usize::from(!(round / threads).is_multiple_of(8))];
            random_programs(engine, round, pcap);
        }
    });
}

fn random_programs(engine: &wasmtime::Engine, round: u64, pcap: Option<&smpnet_bpf::pcap::Libpcap>) {
    let mut random = Random(round);
    let long = |i: u64| if i.is_multiple_of(40) { 500 } else { 24 };
    let programs: Vec<Program> = (0..TOGETHER).map(|i| common::random_program(&mut random, long(i))).collect();
    // As the router asks, and with packets of any length and place.
    let way = if round.is_multiple_of(2) { Way::Cells } else { Way::Described };
    let mut batch = common::Batch::new(engine, &programs, way);
    for (i, program) in programs.iter().enumerate() {
        let packets: Vec<(Vec<u8>, u32)> = (0..PACKETS).map(|_| common::noise(&mut random)).collect();
        let packets: Vec<Packet<'_>> = packets.iter().map(|(b, w)| (b.as_slice(), *w)).collect();
        let wasm = batch.judge(i, &packets);
        for (&(bytes, wirelen), wasm) in packets.iter().zip(wasm) {
            let expected = program.run(bytes, wirelen);
            let context = || format!("round {round}, packet {bytes:02x?}\n{}", smpnet_bpf::disasm(program.insns()));
            assert_eq!(wasm, expected, "wasm differs from the interpreter: {}", context());
            if let Some(pcap) = pcap.and_then(|p| p.bpf_filter(program, bytes, wirelen)) {
                assert_eq!(pcap, expected, "libpcap differs from the interpreter: {}", context());
            }
        }
        // A packet in several cells.
        let (bytes, wirelen) = packets[0];
        let (a, b) = (random.below(bytes.len() as u64 + 1) as usize, random.below(bytes.len() as u64 + 1) as usize);
        let pieces = [&bytes[..a.min(b)], &bytes[a.min(b)..a.max(b)], &bytes[a.max(b)..]];
        assert_eq!(program.run_segments(&pieces, wirelen), program.run(bytes, wirelen), "round {round}");
    }
}

#[test]
fn every_generated_module_is_valid_and_of_the_promised_form() {
    let mut random = Random(7);
    for round in 0..1000 {
        let program = common::random_program(&mut random, if round % 20 == 0 { 511 } else { 40 });
        let cell_size = (round % 2 == 0).then_some(2112);
        let options = CompileOptions { pool_pages: 1 + round % 65536, cell_size };
        let wasm = compile_wasm(&program, &options);
        assert_eq!(wasm, compile_wasm(&program, &options));
        let features = WasmFeatures::WASM1 | WasmFeatures::MULTI_MEMORY | WasmFeatures::SIMD;
        Validator::new_with_features(features).validate_all(&wasm).unwrap();
        check_form(&wasm, 1 + round % 65536);
    }
}

fn check_form(wasm: &[u8], pages: u32) {
    let mut exports = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.unwrap() {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.unwrap();
                    assert_eq!((import.module, import.name), ("smpnet", "pool"));
                    let wasmparser::TypeRef::Memory(m) = import.ty else { panic!("not a memory") };
                    assert_eq!((m.initial, m.maximum), (u64::from(pages), Some(u64::from(pages))));
                }
            }
            Payload::ExportSection(section) => exports = section.into_iter().map(|e| e.unwrap().name).collect(),
            Payload::DataSection(_) | Payload::StartSection { .. } => panic!("not promised"),
            Payload::CodeSectionEntry(body) => {
                for operator in body.get_operators_reader().unwrap() {
                    match operator.unwrap() {
                        Operator::I32Store { memarg } => assert_eq!(memarg.memory, 1, "a write outside io"),
                        Operator::I32Load8U { memarg } | Operator::I32Load16U { memarg } => {
                            assert_eq!(memarg.memory, 0);
                        }
                        Operator::I64Store { memarg } => assert_eq!((memarg.memory, memarg.offset), (1, 1280)),
                        Operator::MemoryGrow { .. } | Operator::MemoryFill { .. } => {
                            panic!("not promised")
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    assert_eq!(exports, ["io", "filter", "abi"]);
}

#[test]
fn a_burst_longer_than_the_descriptors_counts_as_64_and_none_as_none() {
    let program = Program::new(vec![Insn::stmt(0x80, 0), Insn::stmt(0x16, 0)]).unwrap();
    let mut filter = WasmFilter::new(&common::engine(), &program, Way::Described);
    for i in 0..64 {
        filter.io()[i * 16 + 8] = i as u8 + 1;
    }
    let marks = |f: &mut WasmFilter| f.io()[1024..].chunks(4).filter(|c| c[0] != 0).count();
    filter.call(0);
    assert_eq!(marks(&mut filter), 0);
    filter.call(3);
    assert_eq!(marks(&mut filter), 3);
    for n in [64, 65, i32::MAX, -1] {
        filter.io()[1024..].fill(0);
        filter.call(n);
        assert_eq!(marks(&mut filter), 64, "n = {n}");
        assert_eq!(filter.io()[1024 + 63 * 4], 64);
    }
}

#[test]
fn packets_in_cells_are_summed_up_and_those_of_several_cells_are_told() {
    let program = Program::new(vec![Insn::stmt(0x30, 0), Insn::stmt(0x16, 0)]).unwrap();
    let mut filter = WasmFilter::new(&common::engine(), &program, Way::Cells);
    let totals = |f: &mut WasmFilter| {
        let io = f.io();
        (u64::from_le_bytes(io[1280..1288].try_into().unwrap()), u32::from_le_bytes(io[1288..1292].try_into().unwrap()))
    };
    // A length on the wire that does not fit 31 bits is summed up without its sign.
    let packets: [Packet<'_>; 3] = [(&[7, 1], 2), (&[8], 1500), (&[], u32::MAX)];
    assert_eq!(filter.judge(&packets), [7, 8, 0]);
    assert_eq!(totals(&mut filter), (1502 + u64::from(u32::MAX), 0));
    // The second of three packets, which lie in the last cells.
    filter.pool()[62 * CELL_SIZE..][..4].copy_from_slice(&5u32.to_le_bytes());
    filter.call(3);
    assert_eq!(totals(&mut filter).1, 1);
    filter.call(1);
    assert_eq!(totals(&mut filter), (2, 0));
}

#[test]
fn shifts_by_a_constant_of_32_or_more_give_zero_in_wasm_too() {
    let engine = common::engine();
    for (code, k) in [(0x64, 32), (0x74, 32), (0x64, 33), (0x74, u32::MAX)] {
        let insns = vec![Insn::stmt(0x00, u32::MAX), Insn::stmt(code, k), Insn::stmt(0x16, 0)];
        let program = Program::new(insns).unwrap();
        assert_eq!(WasmFilter::new(&engine, &program, Way::Cells).judge(&[(&[], 0)]), [0]);
    }
}
