//! `smpnet npfctl trace` and `smpnet npfctl log`: what npf does to packets, as it does it.

use super::{
    context::{Context, Failure, Output, Read, print},
    npf_control::{end, proto},
};
use crate::client::encode;
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args;
use serde_json::Value;
use smpnet_npf::npflog;
use std::{
    io::Write,
    path::{Path, PathBuf},
};

/// Show the way of packets through the rules, as they come
///
/// Each packet that the expression accepts is told with the rules that match it, in their order: the last one decides, unless it
/// belongs to a connection.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// End after so many packets
    #[arg(short = 'c', value_name = "N")]
    count: Option<u64>,
    /// pcap-filter(7), from the IP header on; all packets without it
    expression: Vec<String>,
}

/// Show what rules and procedures log, or write it to a file for tcpdump and tshark
#[derive(Debug, Args)]
pub struct LogArgs {
    /// The log
    #[arg(short = 'i', value_name = "LOG", default_value = "npflog0")]
    log: String,
    /// Write a pcap file of link type PFLOG; - for standard output
    #[arg(short = 'w', value_name = "FILE")]
    write: Option<PathBuf>,
    /// End after so many packets
    #[arg(short = 'c', value_name = "N")]
    count: Option<u64>,
}

pub fn trace(cx: &Context, args: &TraceArgs) -> Result<Output, Failure> {
    let path = format!("/v1/npf/trace?expr={}", encode(&args.expression.join(" ")));
    follow(cx, &path, args.count, |line, said| {
        print(&if cx.json { line.to_owned() } else { words(said) });
        Ok(())
    })
}

pub fn log(cx: &Context, args: &LogArgs) -> Result<Output, Failure> {
    let path = format!("/v1/npf/log?log={}", encode(&args.log));
    let mut file = args.write.as_deref().map(|p| create(p)).transpose()?;
    follow(cx, &path, args.count, |line, said| match &mut file {
        None => {
            print(&if cx.json { line.to_owned() } else { words(said) });
            Ok(())
        }
        Some((name, file)) => {
            let record = STANDARD.decode(said.text("record")).unwrap_or_default();
            file.write_all(&record).and_then(|()| file.flush()).map_err(|e| Failure::new(format!("{name}: {e}")))
        }
    })
}

/// A file that begins as npflog's do.
fn create(path: &Path) -> Result<(String, Box<dyn Write>), Failure> {
    let name = path.display().to_string();
    let failed = |e: std::io::Error| Failure::new(format!("{name}: {e}"));
    let mut file: Box<dyn Write> = match path == Path::new("-") {
        true => Box::new(std::io::stdout()),
        false => Box::new(std::fs::File::create(path).map_err(failed)?),
    };
    file.write_all(&npflog::file_header()).and_then(|()| file.flush()).map_err(failed)?;
    Ok((name, file))
}

fn follow(
    cx: &Context,
    path: &str,
    count: Option<u64>,
    mut each: impl FnMut(&str, &Value) -> Result<(), Failure>,
) -> Result<Output, Failure> {
    let (mut left, mut failed) = (count, None);
    if left == Some(0) {
        return Ok(Output::printed());
    }
    cx.client.lines(path, |line| {
        let said: Value = serde_json::from_str(line).unwrap_or_default();
        if let Some(lost) = said.get("lost").and_then(Value::as_u64) {
            eprintln!("smpnet: {lost} packets came faster than they could be told");
            return true;
        }
        if let Err(e) = each(line, &said) {
            failed = Some(e);
            return false;
        }
        left = left.map(|n| n - 1);
        left != Some(0)
    })?;
    failed.map_or_else(|| Ok(Output::printed()), Err)
}

/// A packet for people.
fn words(p: &Value) -> String {
    let between = |p: &Value| format!("{} > {}", end(&p["source"]), end(&p["destination"]));
    let mut text = format!(
        "{:.6} {} {} {} {} {}",
        p["t"].as_f64().unwrap_or(0.0),
        p.text("if"),
        p.text("dir"),
        proto(p.number("proto")),
        between(p),
        p.text("verdict")
    );
    let rule = &p["rule"];
    if !rule.is_null() {
        text.push_str(&format!(" rule {}", rule.text("id")));
        if let Some(name) = rule["name"].as_str() {
            text.push_str(&format!(" \"{name}\""));
        }
        text.push_str(&format!(" line {}", rule.number("line")));
    }
    for (key, word) in [("why", "why"), ("conn", "connection"), ("tag", "tag")] {
        if let Some(said) = p[key].as_str() {
            text.push_str(&format!(" {word} {said}"));
        }
    }
    for rule in p.list("matches") {
        text.push_str(&format!("\n    matches {} {}", rule.text("id"), rule.text("text")));
    }
    if !p["becomes"].is_null() {
        text.push_str(&format!("\n    becomes {}", between(&p["becomes"])));
    }
    text
}
