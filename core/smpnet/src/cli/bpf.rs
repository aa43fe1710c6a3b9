//! `smpnet bpf`: the filter compiler and its programs, without a daemon; capture, with one.

use super::{
    bpf_eval,
    capture::CaptureCommand,
    context::{Context, Failure, Output},
};
use crate::config::PoolSection;
use clap::{Args, Subcommand};
use serde_json::json;
use smpnet_bpf::{CompileOptions, Dlt, compile_expr, decimal, disasm};
use smpnet_runtime::PoolConfig;
use std::path::PathBuf;

/// Capture packets; compile filter expressions and try programs on packets
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  smpnet bpf capture -i lan0 -w lan0.pcapng 'tcp port 80'
  smpnet bpf list
  smpnet bpf compile 'tcp port 80'
  smpnet bpf compile 'udp and host 10.0.0.1' --dlt EN10MB -ddd > udp.ddd
  smpnet bpf compile 'icmp' --wasm icmp.wasm
  smpnet bpf eval --expr 'tcp port 80' --pcap lan0.pcap")]
pub struct BpfArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Capture(CaptureCommand),
    /// Compile an expression (pcap-filter(7)) and print the program
    Compile {
        /// The expression
        #[arg(required = true)]
        expr: Vec<String>,
        /// What packets begin with: RAW (an IP header, filters at inet) or EN10MB (Ethernet, filters at ether)
        #[arg(long, default_value = "RAW")]
        dlt: Dlt,
        /// -d: a listing, -dd: a C array, -ddd: decimal numbers
        #[arg(short = 'd', action = clap::ArgAction::Count)]
        form: u8,
        /// Write a WebAssembly module instead
        #[arg(long, value_name = "FILE", conflicts_with = "form")]
        wasm: Option<PathBuf>,
        /// With --wasm: cells of the packet pool that the module is for
        #[arg(long, value_name = "N", default_value_t = PoolSection::default().cells)]
        pool_cells: u32,
    },
    Eval(bpf_eval::EvalArgs),
}

pub fn run(cx: &Context, args: &BpfArgs) -> Result<Output, Failure> {
    let (expr, dlt, form, wasm, pool_cells) = match &args.command {
        Command::Capture(command) => return super::capture::run(cx, command),
        Command::Compile { expr, dlt, form, wasm, pool_cells } => (expr, dlt, form, wasm, pool_cells),
        Command::Eval(args) => return bpf_eval::run(args),
    };
    let expr = expr.join(" ");
    let compiled = compile_expr(&expr, *dlt).map_err(|e| Failure::new(e.to_string()))?;
    let program = &compiled.program;
    let listing = disasm(program.insns());
    let mut json = json!({
        "expression": expr,
        "dlt": dlt.to_string(),
        "engine": compiled.engine.to_string(),
        "instructions": program.insns().len(),
        "program": listing.lines().collect::<Vec<_>>(),
        "decimal": decimal(program.insns()),
    });
    if let Some(file) = wasm {
        let pool = PoolConfig { cell_size: PoolSection::default().cell_size, ..PoolConfig::default() };
        let pool_bytes = u64::from(*pool_cells) * u64::from(pool.cell_stride());
        let pool_pages = pool_bytes.div_ceil(65_536) as u32;
        let module =
            smpnet_bpf::compile_wasm(program, &CompileOptions { pool_pages, cell_size: Some(pool.cell_stride()) });
        std::fs::write(file, &module).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
        json["wasm"] = json!({"file": file, "bytes": module.len(), "pool_pages": pool_pages});
        return Ok(Output::new(format!("{}: {} bytes", file.display(), module.len()), json));
    }
    let text = match form {
        0 | 1 => listing,
        2 => smpnet_bpf::c_array(program.insns()),
        _ => decimal(program.insns()),
    };
    Ok(Output::new(text, json))
}
