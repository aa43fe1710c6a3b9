//! `smpnet filter test`.

use super::super::context::{Failure, Output};
use super::offline::{At, ModuleArgs, Packets, Seen};
use clap::Args;
use pcap_file::{
    DataLink,
    pcap::{PcapHeader, PcapPacket, PcapWriter},
};
use serde::Deserialize;
use serde_json::{Value, json};
use smpnet_bpf::Dlt;
use smpnet_wasm::guest::{Judged, RunHead, Runner};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Run a module over the packets of a capture file; needs no daemon
#[derive(Debug, Args)]
#[command(after_help = "\
Packets are judged one by one, at the times that the file has for them. The filter is asked at the IP header, as it is
where `filter load` puts it; --attach ether gives it whole frames. It is not asked about what is no IP packet then.

An expectation file has a line for each packet: pass, drop, reject, `-` for one that the filter is not asked about, or a JSON
object: {\"verdict\": \"pass\", \"mark\": 7, \"bytes\": \"4500...\"}. Exit code 1 when a packet is judged otherwise, or the
module fails.

Examples:
  smpnet filter test syn-flood.wasm --pcap flood.pcapng --config 'rate = 20'
  smpnet filter test dns-blocklist.wasm --pcap dns.pcap --table names=blocklist.txt --expect dns.expect
  smpnet filter test dns-blocklist.wasm --pcap dns.pcap --write-expect dns.expect -w passed.pcap")]
pub struct TestArgs {
    #[command(flatten)]
    module: ModuleArgs,
    /// The packets: a pcap or pcapng file
    #[arg(long, value_name = "FILE")]
    pcap: PathBuf,
    /// What each packet begins with where the filter is asked
    #[arg(long, value_enum, default_value = "inet")]
    attach: At,
    /// The packets go out instead of coming in
    #[arg(long)]
    out: bool,
    /// Compare with what is expected
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// Write down what was said, to be expected from then on
    #[arg(long, value_name = "FILE")]
    write_expect: Option<PathBuf>,
    /// Write the packets that passed, as they were changed, to a pcap file
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    write: Option<PathBuf>,
}

/// What is said, or expected, of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    verdict: String,
    #[serde(default)]
    mark: Option<u32>,
    #[serde(default)]
    bytes: Option<String>,
}

impl Line {
    fn new(verdict: &str) -> Line {
        Line { verdict: verdict.to_owned(), mark: None, bytes: None }
    }

    fn of(j: &Judged) -> Line {
        let hex = |b: &Vec<u8>| b.iter().map(|b| format!("{b:02x}")).collect();
        Line { verdict: j.verdict.to_owned(), mark: j.mark, bytes: j.bytes.as_ref().map(hex) }
    }

    /// As a line of an expectation file.
    fn text(&self) -> String {
        match (self.mark, &self.bytes) {
            (None, None) => self.verdict.clone(),
            _ => {
                let mut o = json!({"verdict": self.verdict});
                if let Some(m) = self.mark {
                    o["mark"] = m.into();
                }
                if let Some(b) = &self.bytes {
                    o["bytes"] = b.clone().into();
                }
                o.to_string()
            }
        }
    }

    fn parse(text: &str) -> Result<Line, String> {
        match text {
            "pass" | "drop" | "reject" | "-" => Ok(Line::new(text)),
            _ if text.starts_with('{') => serde_json::from_str(text).map_err(|e| e.to_string()),
            _ => Err(format!("\"{text}\" is neither pass, drop, reject, - nor a JSON object")),
        }
    }
}

pub fn run(args: &TestArgs) -> Result<Output, Failure> {
    let mut runner = args.module.runner()?;
    let packets = Packets::read(&args.pcap, args.attach)?;
    let said = judge(args, &mut runner, &packets)?;
    let lines: Vec<Line> = said.iter().map(|j| j.as_ref().map_or_else(|| Line::new("-"), Line::of)).collect();
    if let Some(file) = &args.write_expect {
        let text: String = lines.iter().map(|l| l.text() + "\n").collect();
        std::fs::write(file, text).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
    }
    if let Some(file) = &args.write {
        write(file, &packets, &said).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
    }
    let differences = match &args.expect {
        Some(file) => compare(file, &lines)?,
        None => Vec::new(),
    };
    Ok(output(args, &mut runner, &lines, differences))
}

fn judge(args: &TestArgs, runner: &mut Runner, packets: &Packets) -> Result<Vec<Option<Judged>>, Failure> {
    let one = |seen: &Seen| {
        let Some(packet) = &seen.packet else { return Ok(None) };
        let head = RunHead { layer: args.attach.layer(packet), out: args.out, ifindex: 1, now_ns: seen.ns };
        let judged = runner.judge(&head, std::slice::from_ref(packet)).map_err(|fault| {
            let trace: String = fault.trace.iter().map(|f| format!("\n  in {f}")).collect();
            Failure::new(format!("packet {}: the module failed: {}{trace}", seen.number, fault.line))
        })?;
        Ok(judged.into_iter().next())
    };
    packets.seen.iter().map(one).collect()
}

fn compare(file: &Path, lines: &[Line]) -> Result<Vec<Value>, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
    let mut expected = Vec::new();
    for (n, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let line = Line::parse(line.trim());
        expected.push(line.map_err(|e| Failure::new(format!("{}:{}: {e}", file.display(), n + 1)))?);
    }
    let mut differences = Vec::new();
    for i in 0..expected.len().max(lines.len()) {
        let (want, got) = (expected.get(i).map(Line::text), lines.get(i).map(Line::text));
        if want != got {
            let none = || "no such packet".to_owned();
            let (want, got) = (want.unwrap_or_else(none), got.unwrap_or_else(none));
            differences.push(json!({"packet": i + 1, "expected": want, "said": got}));
        }
    }
    Ok(differences)
}

fn output(args: &TestArgs, runner: &mut Runner, lines: &[Line], differences: Vec<Value>) -> Output {
    let count = |v: &str| lines.iter().filter(|l| l.verdict == v).count();
    let [passed, dropped, rejected, not_asked] = ["pass", "drop", "reject", "-"].map(count);
    let mut text = format!(
        "{} packets: {passed} passed, {dropped} dropped, {rejected} rejected, {not_asked} not asked about\n",
        lines.len()
    );
    let counters = runner.counters();
    for (name, n) in counters.iter().filter(|(_, n)| *n > 0) {
        text.push_str(&format!("  {name}: {n}\n"));
    }
    let log = runner.log();
    for line in &log {
        text.push_str(&format!("  log, {}: {}\n", line.level, line.text));
    }
    for d in &differences {
        let show = |k: &str| d[k].as_str().unwrap_or("").to_owned();
        text.push_str(&format!("packet {}: expected {}, said {}\n", d["packet"], show("expected"), show("said")));
    }
    match (&args.expect, differences.len()) {
        (Some(_), 0) => text.push_str("all as expected\n"),
        (Some(_), n) => text.push_str(&format!("{n} packets were judged otherwise\n")),
        (None, _) => {}
    }
    let counters: serde_json::Map<String, Value> = counters.into_iter().map(|(k, v)| (k, v.into())).collect();
    let code = u8::from(!differences.is_empty());
    let verdicts: Vec<&str> = lines.iter().map(|l| l.verdict.as_str()).collect();
    let json = json!({
        "packets": lines.len(), "passed": passed, "dropped": dropped, "rejected": rejected, "not_asked": not_asked,
        "verdicts": verdicts, "counters": counters, "log": log, "differences": differences,
    });
    Output::new(text, json).code(code)
}

/// Writes what passed, with the bytes that the filter did not see before what it made of the rest.
fn write(file: &Path, packets: &Packets, said: &[Option<Judged>]) -> Result<(), Box<dyn std::error::Error>> {
    let link = if packets.dlt == Some(Dlt::En10mb) { DataLink::ETHERNET } else { DataLink::RAW };
    let header = PcapHeader { datalink: link, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(std::fs::File::create(file)?, header)?;
    for ((seen, captured), judged) in packets.seen.iter().zip(packets.capture.captured()).zip(said) {
        if judged.as_ref().is_some_and(|j| j.verdict != "pass") {
            continue;
        }
        let mut bytes = captured.bytes.to_vec();
        if let Some(new) = judged.as_ref().and_then(|j| j.bytes.as_ref()) {
            bytes.truncate(seen.before);
            bytes.extend(new);
        }
        writer.write_packet(&PcapPacket::new(Duration::from_nanos(seen.ns), captured.wirelen, &bytes))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_are_words_or_objects_and_come_back_as_they_were_written() {
        for text in ["pass", "drop", "reject", "-", r#"{"mark":7,"verdict":"pass"}"#] {
            assert_eq!(Line::parse(text).unwrap().text(), text);
        }
        assert!(Line::parse("passs").unwrap_err().contains("neither"));
        assert!(Line::parse(r#"{"verdict":"pass","marc":1}"#).unwrap_err().contains("marc"));
    }
}
