//! `smpnet filter check`.

use super::super::context::{Failure, Output};
use super::offline::ModuleArgs;
use clap::Args;
use serde_json::json;
use smpnet_wasm::guest::{FEATURE_NAMES, ModuleInfo, problems};

/// Say whether a module is one for smpnet, and what it asks for; needs no daemon
#[derive(Debug, Args)]
#[command(after_help = "\
Looks at the size, the WebAssembly features, the manifest, imports, exports and memory; then makes an instance, with the
configuration that is given, whose start is part of what can go wrong. Exit code 1 when anything is wrong.

Examples:
  smpnet filter check syn-flood.wasm
  smpnet filter check syn-flood.wasm --config 'rate = 20' --memory 16")]
pub struct CheckArgs {
    #[command(flatten)]
    module: ModuleArgs,
}

pub fn run(args: &CheckArgs) -> Result<Output, Failure> {
    let spec = args.module.spec()?;
    let file = args.module.file.display();
    let found = problems(&spec.wasm, &spec.limits);
    if !found.is_empty() {
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        let text: String = lines.iter().map(|l| format!("{file}: {l}\n")).collect();
        return Ok(Output::new(text, json!({"file": args.module.file, "good": false, "problems": lines})).code(1));
    }
    let runner = args.module.runner()?;
    let info = runner.info();
    let json = json!({"file": args.module.file, "good": true, "problems": [], "module": info});
    Ok(Output::new(describe(&file.to_string(), info), json))
}

fn describe(file: &str, info: &ModuleInfo) -> String {
    let m = &info.manifest;
    let list = |all: Vec<String>| if all.is_empty() { "none".to_owned() } else { all.join(", ") };
    let mut text = format!("{file}: a filter for ABI {}, and in order\n", m.abi);
    let mut line = |what: &str, value: String| text.push_str(&format!("  {what:<14}{value}\n"));
    let words = [Some(m.name.as_str()), m.version.as_deref(), m.summary.as_deref()];
    line("name", words.into_iter().flatten().collect::<Vec<_>>().join(", "));
    line("size", format!("{} bytes, {} functions", info.bytes, info.functions));
    line("sees", format!("{} bytes of each packet", m.window));
    line("memory", format!("{} to {} pages of 64 KiB", info.memory_min, info.memory_max));
    let usual = smpnet_wasm::Capabilities::usual();
    let more: Vec<String> = m.capabilities.iter().filter(|c| !usual.has(*c)).map(|c| c.to_string()).collect();
    let allow = if more.is_empty() { String::new() } else { format!(" (--allow {})", more.join(",")) };
    line("asks for", format!("{}{allow}", list(m.capabilities.iter().map(|c| c.to_string()).collect())));
    line("tables", list(m.tables.iter().map(|t| format!("{} ({})", t.name, t.kind)).collect()));
    line("counters", list(m.counters.clone()));
    line("tick", m.tick_ms.map_or("none".to_owned(), |ms| format!("every {ms} ms")));
    line("imports", list(info.imports.clone()));
    line("exports", list(info.exports.clone()));
    line("features", format!("none besides {}", FEATURE_NAMES.join(", ")));
    text
}
