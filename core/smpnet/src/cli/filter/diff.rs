//! `smpnet filter diff`.

use super::super::{
    context::{Context, Failure, Output, Read},
    table::table,
};
use crate::capture::{Interface, PacketOptions, Pcapng, flags};
use crate::client::encode;
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args;
use serde_json::Value;
use smpnet_stack::Link;
use std::path::{Path, PathBuf};

/// Tell how a filter's shadow differs from it
#[derive(Debug, Args)]
#[command(after_help = "\
Packets on which the two differ are kept until they are asked for, the first 256 of them; each is given out once.

Examples:
  smpnet filter diff syn
  smpnet filter diff syn -w differences.pcapng")]
pub struct DiffArgs {
    /// The filter
    name: String,
    /// Write the packets to a pcapng file, with what both said as comments
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    write: Option<PathBuf>,
}

pub fn run(cx: &Context, args: &DiffArgs) -> Result<Output, Failure> {
    let diff = cx.client.get(&format!("/v1/filters/{}/diff", encode(&args.name)))?;
    let c = &diff["counts"];
    let numbers = ["packets", "same", "verdict", "mark", "edit", "unsampled"].map(|k| c.number(k).to_string());
    let mut text =
        format!("{}: generation {} and in its shadow {}\n", args.name, diff.number("generation"), diff.text("text"));
    let head = ["Packets", "Same", "Verdict differs", "Mark differs", "Bytes differ", "Not sampled"];
    text.push_str(&table(&head, &[numbers.to_vec()]));
    if !diff.text("fault").is_empty() {
        text.push_str(&format!("the shadow failed and ended: {}\n", diff.text("fault")));
    }
    let samples = diff.list("samples");
    if let Some(file) = &args.write {
        write(file, samples).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
        text.push_str(&format!("{} packets in {}\n", samples.len(), file.display()));
    } else {
        for s in samples {
            let way = if s.flag("out") { "out" } else { "in" };
            let length = s.number("wire_len");
            text.push_str(&format!("  {way} {} {length} bytes: {}\n", s.text("interface"), said(s)));
        }
    }
    Ok(Output::new(text, diff))
}

/// What both said, on one line.
fn said(s: &Value) -> String {
    let one = |who: &str| {
        let o = &s[who];
        let mark = if o.number("mark") == 0 { String::new() } else { format!(", mark {}", o.number("mark")) };
        let edit = if o.text("bytes").is_empty() { "" } else { ", changed" };
        format!("{}{mark}{edit}", o.text("verdict"))
    };
    format!("filter: {}; shadow: {}", one("live"), one("shadow"))
}

/// Writes pcapng: an interface of frames and one of IP packets, and the packets with their comments.
fn write(file: &Path, samples: &[Value]) -> std::io::Result<()> {
    let mut capture = Pcapng::new(0, "Linux", "packets that a filter and its shadow judge differently");
    let of = |name: &str| Interface { name: name.into(), ..Interface::default() };
    let (frames, packets) =
        (capture.interface(Link::Ether, &of("frames")), capture.interface(Link::Raw, &of("packets")));
    for s in samples {
        let bytes = STANDARD.decode(s.text("packet")).unwrap_or_default();
        let interface = if s.text("layer") == "ether" { frames } else { packets };
        let direction = if s.flag("out") { flags::OUT } else { flags::IN };
        let options = PacketOptions { flags: direction, comment: Some(&said(s)), ..PacketOptions::default() };
        capture.packet(interface, s.number("now_ns"), s.number("wire_len") as u32, &bytes, &options);
    }
    std::fs::write(file, &capture.out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bpf_capture_file::CaptureFile;
    use serde_json::json;

    #[test]
    fn differences_are_a_capture_file_with_what_both_said() {
        let sample = json!({
            "layer": "inet", "packet": STANDARD.encode([0x45, 0, 0, 20, 7]), "wire_len": 60, "now_ns": 5_000_000_123u64,
            "live": {"verdict": "pass", "mark": 3, "bytes": null}, "shadow": {"verdict": "drop", "mark": 0},
        });
        assert_eq!(said(&sample), "filter: pass, mark 3; shadow: drop");
        let file = std::env::temp_dir().join(format!("smpnet-diff-{}.pcapng", std::process::id()));
        write(&file, &[sample]).unwrap();
        let read = CaptureFile::read(&file);
        let bytes = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let read = read.unwrap();
        let packet = read.captured().next().unwrap();
        assert_eq!((packet.bytes, packet.wirelen, packet.ns), (&[0x45, 0, 0, 20, 7][..], 60, 5_000_000_123));
        assert_eq!(read.dlt().unwrap(), Some(smpnet_bpf::Dlt::Raw));
        assert!(bytes.windows(12).any(|w| w == b"shadow: drop"));
    }
}
