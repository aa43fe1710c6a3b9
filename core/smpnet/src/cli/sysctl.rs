//! `smpnet sysctl`.

use super::context::{Context, Failure, Output, Read};
use crate::client::encode;
use clap::Args;
use serde_json::{Value, json};

/// Show and write statistics, tables and settings
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  smpnet sysctl net.inet.ip
  smpnet sysctl -d net.inet.ip.forwarding
  smpnet sysctl -w net.inet.ip.forwarding=1")]
pub struct SysctlArgs {
    /// All nodes (also without a name)
    #[arg(short = 'a')]
    all: bool,
    /// Describe the nodes
    #[arg(short = 'd')]
    describe: bool,
    /// Values only
    #[arg(short = 'n')]
    values: bool,
    /// Write: NAME=VALUE
    #[arg(short = 'w')]
    write: bool,
    /// Nodes or the beginnings of their names, or NAME=VALUE with -w
    names: Vec<String>,
}

pub fn run(cx: &Context, args: &SysctlArgs) -> Result<Output, Failure> {
    if args.write || args.names.iter().any(|n| n.contains('=')) {
        return write(cx, args);
    }
    let mut found = Vec::new();
    let everything = [String::new()];
    let names = if args.names.is_empty() { &everything[..] } else { &args.names };
    for name in names {
        let answer = cx.client.get(&format!("/v1/sysctl?prefix={}", encode(name)))?;
        found.extend(answer.items().iter().cloned());
    }
    let line = |n: &Value| match (args.describe, args.values) {
        (true, _) => format!("{}: {}", n.text("name"), n.text("doc")),
        (false, true) => value(n),
        (false, false) => format!("{} = {}", n.text("name"), value(n)),
    };
    let text = found.iter().map(line).collect::<Vec<_>>().join("\n");
    Ok(Output::new(text, found.into()))
}

fn write(cx: &Context, args: &SysctlArgs) -> Result<Output, Failure> {
    if args.names.is_empty() {
        return Err(Failure::usage("-w needs NAME=VALUE").hint("see `smpnet sysctl --help`".to_owned()));
    }
    let (mut lines, mut answers) = (Vec::new(), Vec::new());
    for word in &args.names {
        let (name, value) =
            word.split_once('=').ok_or_else(|| Failure::usage(format!("\"{word}\" is not NAME=VALUE")))?;
        let answer = cx.client.put("/v1/sysctl", &json!({"name": name.trim(), "value": value.trim()}))?;
        lines.push(format!("{}: {} -> {}", answer.text("name"), plain(&answer["old"]), plain(&answer["new"])));
        answers.push(answer);
    }
    Ok(Output::new(lines.join("\n"), answers.into()))
}

fn value(node: &Value) -> String {
    plain(node.get("value").unwrap_or(&Value::Null))
}

fn plain(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}
