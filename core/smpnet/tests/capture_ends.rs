//! How a capture ends that its client did not end: what the client is told, and what is in the file.

// clippy.toml allows it in test functions; here are their helpers too.
#![allow(clippy::unwrap_used)]

#[path = "support/daemon.rs"]
mod support;

use pcap_file::pcapng::{Block, PcapNgReader};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};
use support::{Daemon, TWO_PORTS, program, wait_for};

/// Packets come in by lan0 all the time.
fn traffic() -> String {
    TWO_PORTS.replacen("sink_only = true", "rate = 2000, dst = \"198.19.0.0/16\"", 1)
}

/// `smpnet bpf capture ARGS -w cap.pcapng`, once packets of it are in the file.
fn capture(d: &Daemon, args: &[&str]) -> Child {
    let file = d.folder.join("cap.pcapng");
    let child = Command::new(program())
        .args(["bpf", "capture", "-w"])
        .arg(&file)
        .args(args)
        .env("SMPNET_SOCKET", d.socket())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("packets in the file", d, || fs::metadata(&file).is_ok_and(|m| m.len() > 4096));
    child
}

/// Exit code, stdout and stderr.
fn end(child: Child) -> (i32, String, String) {
    let out = child.wait_with_output().unwrap();
    let text = |b| String::from_utf8(b).unwrap();
    (out.status.code().unwrap_or(-1), text(out.stdout), text(out.stderr))
}

/// Packets, and statistics blocks with the packets received, as another implementation reads them: the file is whole.
fn read(file: &Path) -> (u64, Vec<u64>) {
    use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption::IsbIfRecv;
    let bytes = fs::read(file).unwrap();
    let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
    let (mut packets, mut statistics) = (0, Vec::new());
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::EnhancedPacket(_) => packets += 1,
            Block::InterfaceStatistics(s) => {
                let received = s.options.iter().find_map(|o| if let IsbIfRecv(n) = o { Some(*n) } else { None });
                statistics.push(received.unwrap());
            }
            _ => {}
        }
    }
    (packets, statistics)
}

fn captured(stderr: &str) -> u64 {
    stderr.split(' ').next().unwrap().parse().unwrap_or_else(|e| panic!("{e}: {stderr}"))
}

#[test]
fn a_capture_whose_interface_is_removed_says_so_and_has_its_statistics() {
    let d = Daemon::start("capture-gone", &traffic());
    let child = capture(&d, &["-i", "lan0"]);
    d.text(&["ifconfig", "lan0", "destroy"]);
    let (code, _, error) = end(child);
    let last = error.lines().last().unwrap();
    assert_eq!(last, "smpnet: the capture that began on lan0 ended because its interface was removed");
    assert_eq!((code, error.lines().count()), (1, 4), "{error}");
    let (packets, statistics) = read(&d.folder.join("cap.pcapng"));
    assert_eq!((packets, &statistics[..]), (captured(&error), &[packets][..]), "{error}");
    assert!(packets > 10 && d.json(&["bpf", "list"]).as_array().unwrap().is_empty());
}

#[test]
fn captures_and_events_end_with_a_word_when_the_daemon_stops() {
    let d = Daemon::start("capture-stop", &traffic());
    let child = capture(&d, &["-i", "any", "--json"]);
    let mut events = Command::new(program())
        .arg("events")
        .env("SMPNET_SOCKET", d.socket())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("listening"));
    let file = d.folder.join("cap.pcapng");
    // The daemon's folder goes with it.
    let kept = tempfile::tempdir().unwrap();
    let copy = kept.path().join("cap.pcapng");
    fs::hard_link(&file, &copy).or_else(|_| fs::copy(&file, &copy).map(drop)).unwrap();
    let (status, log) = d.stop();
    assert!(status.success() && !log.contains("ERROR"), "{log}");
    let (code, out, error) = end(child);
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out} {error}"));
    assert_eq!((code, answer["error"].as_str()), (3, Some("the capture ended because the daemon stopped")), "{error}");
    let (packets, statistics) = read(&copy);
    assert_eq!(answer["captured"], packets);
    assert_eq!(statistics.iter().sum::<u64>(), packets, "every packet that was heard is in the file");
    let told: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(told.iter().all(|l| serde_json::from_str::<serde_json::Value>(l).is_ok()), "{told:?}");
    let (code, _, error) = end(events);
    assert_eq!((code, error.as_str()), (3, "smpnet: the daemon stopped\n"));
}

#[test]
fn a_capture_from_a_daemon_that_is_killed_breaks_off_with_whole_packets() {
    let mut d = Daemon::start("capture-kill", &traffic());
    let child = capture(&d, &["-i", "lan0"]);
    d.child.kill().unwrap();
    let (code, _, error) = end(child);
    let last = error.lines().last().unwrap();
    assert!(code == 3 && last.starts_with("smpnet: the capture broke off because the daemon is gone ("), "{error}");
    let (packets, statistics) = read(&d.folder.join("cap.pcapng"));
    assert_eq!((packets, statistics.len()), (captured(&error), 0), "{error}");
}

#[test]
fn a_capture_that_somebody_closes_ends_in_order_and_says_so() {
    let d = Daemon::start("capture-close", &traffic());
    let child = capture(&d, &["-i", "lan0"]);
    let id = d.json(&["bpf", "list"])[0]["id"].to_string();
    d.text(&["bpf", "close", &id]);
    let (code, _, error) = end(child);
    assert_eq!((code, error.lines().last()), (0, Some("the capture was ended by `smpnet bpf close`")));
    assert_eq!(read(&d.folder.join("cap.pcapng")).1.len(), 1);
    // One that its client ends by its count says nothing of that kind.
    let (code, _, error) = end(capture(&d, &["-i", "lan0", "-c", "500"]));
    assert_eq!((code, captured(&error), error.lines().count()), (0, 500, 3), "{error}");
}
