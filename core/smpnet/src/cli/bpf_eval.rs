//! `smpnet bpf eval`: what a program says about packets, by the interpreter and by the compiled code.

use super::bpf_capture_file::CaptureFile;
use super::bpf_vectors::{self, Expected, Vector};
use super::context::{Failure, Output};
use clap::{ArgGroup, Args, ValueEnum};
use serde_json::json;
use smpnet_bpf::{Dlt, Program, compile_expr, load_program};
use smpnet_wasm::{Evaluation, Evaluator};
use std::path::{Path, PathBuf};

/// Run a program over packets and print what it returns: bytes to keep, 0 for no match
#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("code").args(["program", "expr"])),
    group(ArgGroup::new("packets").required(true).args(["packet", "pcap", "vectors"])),
    after_help = "\
A vectors file has one JSON object a line:
  {\"name\": \"...\", \"insns\": [[code, jt, jf, k], ...], \"pkt\": \"hex\", \"wirelen\": n, \"buflen\": n, \"ret\": n}
with \"ret\": \"reject\" where the validator must refuse the program. Lines without insns take the program of --program or
--expr. A program with a number as ret may read scratch words that it never wrote; they give 0, as they do in libpcap.

Exit code 1 when the two engines differ, or a vector fails.

Examples:
  smpnet bpf eval --expr 'tcp port 80' --packet 450000280000000040060000c0a80001c0a800020050a1b2
  smpnet bpf eval --program web.ddd --packet 4500002800000000 --wirelen 1500 --engine interp
  smpnet bpf eval --expr 'arp or icmp' --pcap lan0.pcapng
  smpnet bpf eval --vectors bpf.jsonl --json"
)]
pub struct EvalArgs {
    /// The program, as `tcpdump -ddd` and `smpnet bpf compile -ddd` print it
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// An expression (pcap-filter(7)) to be compiled
    #[arg(long, value_name = "EXPR")]
    expr: Option<String>,
    /// One packet in hex; blanks and colons are ignored
    #[arg(long, value_name = "HEX")]
    packet: Option<String>,
    /// With --packet: its length on the wire [default: the length of HEX]
    #[arg(long, value_name = "N", requires = "packet", conflicts_with_all = ["pcap", "vectors"])]
    wirelen: Option<u32>,
    /// All packets of a pcap or pcapng file
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Test vectors: programs, packets and what must come out
    #[arg(long, value_name = "FILE")]
    vectors: Option<PathBuf>,
    /// With --expr: what packets begin with, RAW (an IP header) or EN10MB (Ethernet) [default: RAW, or as the capture says]
    #[arg(long)]
    dlt: Option<Dlt>,
    /// What runs the program; `both` compares and a difference is an error
    #[arg(long, value_enum, default_value = "both")]
    engine: Engines,
}

/// Which engines run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Engines {
    /// WebAssembly, compiled and run as on the packet path
    Wasm,
    /// The reference interpreter
    Interp,
    /// Both
    Both,
}

impl Engines {
    fn name(self) -> &'static str {
        match self {
            Engines::Wasm => "wasm",
            Engines::Interp => "interp",
            Engines::Both => "both",
        }
    }
}

/// Runs the command.
pub fn run(args: &EvalArgs) -> Result<Output, Failure> {
    let mut bench = Bench::new(args.engine).map_err(Failure::new)?;
    if let Some(hex) = &args.packet {
        let packet = bpf_vectors::bytes(hex).map_err(|e| Failure::usage(format!("--packet: {e}")))?;
        let program = required(program(args, args.dlt.unwrap_or(Dlt::Raw))?)?;
        return one(&mut bench, &program, &packet, args.wirelen);
    }
    if let Some(file) = &args.pcap {
        return capture(&mut bench, args, file);
    }
    let Some(file) = &args.vectors else {
        return Err(Failure::usage("say what to judge: --packet HEX, --pcap FILE or --vectors FILE"));
    };
    let text = std::fs::read_to_string(file).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
    let vectors = bpf_vectors::read(&text).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
    let own = program(args, args.dlt.unwrap_or(Dlt::Raw))?;
    replay(&mut bench, &vectors, own.as_ref())
}

fn program(args: &EvalArgs, dlt: Dlt) -> Result<Option<Program>, Failure> {
    if let Some(file) = &args.program {
        let fail = |e: &dyn std::fmt::Display| Failure::new(format!("{}: {e}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|e| fail(&e))?;
        return Ok(Some(load_program(&text).map_err(|e| fail(&e))?));
    }
    let compile = |e: &String| compile_expr(e, dlt).map_err(|e| Failure::new(e.to_string()));
    Ok(args.expr.as_ref().map(compile).transpose()?.map(|c| c.program))
}

fn required(program: Option<Program>) -> Result<Program, Failure> {
    program.ok_or_else(|| Failure::usage("say what to run: --program FILE or --expr EXPR"))
}

fn one(bench: &mut Bench, program: &Program, packet: &[u8], wirelen: Option<u32>) -> Result<Output, Failure> {
    let length = u32::try_from(packet.len()).map_err(|_| Failure::usage("--packet: too long"))?;
    let wirelen = wirelen.unwrap_or(length);
    let result = bench.load(program).and_then(|mut b| b.judge(packet, wirelen)).map_err(Failure::new)?;
    let json = json!({
        "result": result, "match": result != 0, "engine": bench.engines.name(),
        "buflen": packet.len(), "wirelen": wirelen,
    });
    Ok(Output::new(result.to_string(), json))
}

fn capture(bench: &mut Bench, args: &EvalArgs, file: &Path) -> Result<Output, Failure> {
    let capture = CaptureFile::read(file).map_err(Failure::new)?;
    let dlt = match (args.expr.as_ref(), args.dlt) {
        (None, _) => Dlt::Raw,
        (Some(_), given) => {
            let found = capture.dlt().map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
            match (given, found) {
                (Some(given), Some(found)) if given != found => {
                    let error = format!("{}: the packets are {found}, not {given}", file.display());
                    return Err(Failure::new(error).hint(format!("use --dlt {found}, or leave --dlt out")));
                }
                (given, found) => given.or(found).unwrap_or(Dlt::Raw),
            }
        }
    };
    let program = required(program(args, dlt)?)?;
    let mut loaded = bench.load(&program).map_err(Failure::new)?;
    let mut results = Vec::new();
    for (packet, wirelen) in capture.packets() {
        let n = results.len() + 1;
        let result = loaded.judge(packet, wirelen);
        results.push(result.map_err(|e| Failure::new(format!("{}: packet {n}: {e}", file.display())))?);
    }
    let matched = results.iter().filter(|r| **r != 0).count();
    let mut text = String::new();
    for (i, result) in results.iter().enumerate().filter(|(_, r)| **r != 0) {
        text.push_str(&format!("packet {}: {result}\n", i + 1));
    }
    text.push_str(&format!("{matched} of {} packets match\n", results.len()));
    let json = json!({
        "packets": results.len(), "matched": matched, "engine": bench.engines.name(), "results": results,
    });
    Ok(Output::new(text, json))
}

fn replay(bench: &mut Bench, vectors: &[Vector], own: Option<&Program>) -> Result<Output, Failure> {
    let mut text = String::new();
    let mut failures = Vec::new();
    for v in vectors {
        let Err(found) = bench.vector(v, own) else { continue };
        let name = if v.name.is_empty() { String::new() } else { format!(" ({})", v.name) };
        text.push_str(&format!("FAILED line {}{name}: expected {}, {found}\n", v.line, v.expected));
        let expected = match v.expected {
            Expected::Returns(n) => json!(n),
            Expected::Refusal => json!("reject"),
        };
        failures.push(json!({"line": v.line, "name": v.name, "expected": expected, "found": found}));
    }
    let (failed, passed) = (failures.len(), vectors.len() - failures.len());
    text.push_str(&format!("{passed} passed, {failed} failed\n"));
    let json = json!({
        "passed": passed, "failed": failed, "failures": failures, "engine": bench.engines.name(),
    });
    Ok(Output::new(text, json).code(u8::from(failed > 0)))
}

/// The engines that were asked for.
struct Bench {
    engines: Engines,
    /// Unless the interpreter runs alone.
    evaluator: Option<Evaluator>,
}

impl Bench {
    fn new(engines: Engines) -> Result<Bench, String> {
        let evaluator = match engines {
            Engines::Interp => None,
            Engines::Wasm | Engines::Both => Some(Evaluator::new().map_err(|e| e.to_string())?),
        };
        Ok(Bench { engines, evaluator })
    }

    fn load<'a>(&'a mut self, program: &'a Program) -> Result<Loaded<'a>, String> {
        let compiled = match &mut self.evaluator {
            Some(evaluator) => Some(evaluator.load(program).map_err(|e| e.to_string())?),
            None => None,
        };
        let interpreted = (self.engines != Engines::Wasm).then_some(program);
        Ok(Loaded { interpreted, compiled })
    }

    /// The error is what came out instead of what was expected.
    fn vector(&mut self, v: &Vector, own: Option<&Program>) -> Result<(), String> {
        let program = match (&v.insns, own) {
            (Some(insns), _) => v.expected.validate(insns.clone()),
            (None, Some(own)) => Ok(own.clone()),
            (None, None) => return Err("the line has no insns, and neither --program nor --expr is given".into()),
        };
        match (v.expected, program) {
            (Expected::Refusal, Err(_)) => Ok(()),
            (Expected::Refusal, Ok(_)) => Err("the validator accepts the program".into()),
            (Expected::Returns(_), Err(e)) => Err(format!("the validator refuses the program: {e}")),
            (Expected::Returns(expected), Ok(program)) => {
                let found = self.load(&program)?.judge(&v.packet, v.wirelen)?;
                if found == expected { Ok(()) } else { Err(format!("got {found}")) }
            }
        }
    }
}

/// A program on the engines that were asked for.
struct Loaded<'a> {
    interpreted: Option<&'a Program>,
    compiled: Option<Evaluation<'a>>,
}

impl Loaded<'_> {
    /// What the program returns; a difference between the engines is an error.
    fn judge(&mut self, packet: &[u8], wirelen: u32) -> Result<u32, String> {
        let interpreted = self.interpreted.map(|p| p.run(packet, wirelen));
        let compiled = match &mut self.compiled {
            Some(c) => Some(c.judge(packet, wirelen).map_err(|e| e.to_string())?),
            None => None,
        };
        match (interpreted, compiled) {
            (Some(i), Some(c)) if i != c => {
                Err(format!("the engines differ: the interpreter returns {i}, the compiled code {c}"))
            }
            (i, c) => i.or(c).ok_or_else(|| "no engine was asked for".to_owned()),
        }
    }
}
