//! `smpnet bpf eval` as a user runs it.

#![allow(clippy::unwrap_used)] // a test ends where something fails, helpers included

use serde_json::Value;
use std::process::{Command, Output};

/// `ip and tcp port 80` over this RAW packet: IPv4, TCP, from port 80.
const TCP_80: &str = "45000028000000004006 0000 c0a80001c0a80002 0050a1b2 00000000";

fn eval(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_smpnet")).args(["bpf", "eval"]).args(args).output().unwrap()
}

fn json(args: &[&str]) -> (Option<i32>, Value) {
    let out = eval(&[args, &["--json"]].concat());
    (out.status.code(), serde_json::from_slice(&out.stdout).unwrap())
}

fn error(args: &[&str], code: i32) -> String {
    let out = eval(args);
    assert_eq!(out.status.code(), Some(code), "{out:?}");
    String::from_utf8(out.stderr).unwrap()
}

fn vectors(name: &str) -> String {
    format!("{}/../../filters-wasm/bpf/tests/vectors/{name}.jsonl", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn all_test_vectors_pass_on_each_engine() {
    for (name, count) in [("bpf-netbsd", 577), ("bpf-validator", 13)] {
        for engine in ["wasm", "interp", "both"] {
            let (code, answer) = json(&["--vectors", &vectors(name), "--engine", engine]);
            assert_eq!((code, &answer["passed"], &answer["failed"]), (Some(0), &count.into(), &0.into()), "{answer}");
        }
    }
}

#[test]
fn a_vector_that_fails_is_named_and_the_exit_code_is_1() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("v.jsonl");
    let text = "{\"name\":\"good\",\"insns\":[[6,0,0,5]],\"pkt\":\"\",\"ret\":5}\n\
                {\"name\":\"bad\",\"insns\":[[6,0,0,5]],\"pkt\":\"\",\"ret\":4}\n\
                {\"name\":\"taken\",\"insns\":[[6,0,0,5]],\"pkt\":\"\",\"ret\":\"reject\"}\n\
                {\"name\":\"own\",\"pkt\":\"0800\",\"ret\":262144}\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let out = eval(&["--vectors", file, "--expr", "less 2"]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(1));
    let expected = "FAILED line 2 (bad): expected 4, got 5\n\
                    FAILED line 3 (taken): expected a refusal, the validator accepts the program\n\
                    2 passed, 2 failed\n";
    assert_eq!(text, expected);
    let (code, answer) = json(&["--vectors", file]);
    assert_eq!((code, &answer["failed"], &answer["failures"][0]["line"]), (Some(1), &3.into(), &2.into()));
    std::fs::write(file, "{\"pkt\":\"\",\"ret\":0}\n[]\n").unwrap();
    assert!(error(&["--vectors", file], 1).contains("v.jsonl: line 2: column "));
}

#[test]
fn one_packet_is_judged_by_expression_or_program() {
    let (code, answer) = json(&["--expr", "ip and tcp port 80", "--packet", TCP_80]);
    assert_eq!((code, &answer["result"], &answer["match"]), (Some(0), &262_144.into(), &true.into()));
    let (_, answer) = json(&["--expr", "udp", "--packet", TCP_80]);
    assert_eq!((&answer["result"], &answer["engine"]), (&0.into(), &"both".into()));
    let (_, answer) = json(&["--expr", "greater 1500", "--packet", "45", "--wirelen", "1500", "--engine", "wasm"]);
    assert_eq!(answer["match"], true);

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("len.ddd");
    std::fs::write(&file, "2\n128 0 0 0\n22 0 0 0\n").unwrap();
    let (_, answer) = json(&["--program", file.to_str().unwrap(), "--packet", "00:01", "--wirelen", "77"]);
    assert_eq!(answer["result"], 77);
    std::fs::write(&file, "1\n128 0 0 0\n").unwrap();
    let error = error(&["--program", file.to_str().unwrap(), "--packet", "00"], 1);
    assert!(error.contains("len.ddd: instruction 0: the last instruction must be a `ret`"), "{error}");
}

#[test]
fn a_capture_is_judged_packet_by_packet_with_its_own_link_type() {
    let frame = |last: u8| {
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0];
        f.extend([10, 0, 0, 1, 10, 0, 0, 2, 0, 53, 0, last, 0, 9, 0, 0, 7]);
        f
    };
    let mut file: Vec<u8> =
        [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1].iter().flat_map(|w| w.to_le_bytes()).collect();
    for last in [53, 54, 53] {
        let frame = frame(last);
        let head = [1, 0, frame.len() as u32, 60];
        file.extend(head.iter().flat_map(|w: &u32| w.to_le_bytes()).chain(frame));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.pcap");
    std::fs::write(&path, &file).unwrap();
    let path = path.to_str().unwrap();
    let out = eval(&["--expr", "udp dst port 53 and not less 59", "--pcap", path]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(text, "packet 1: 262144\npacket 3: 262144\n2 of 3 packets match\n", "{:?}", out.stderr);
    let (_, answer) = json(&["--expr", "ether host 02:00:00:00:00:01", "--pcap", path, "--dlt", "EN10MB"]);
    assert_eq!((&answer["packets"], &answer["matched"]), (&3.into(), &3.into()));
    let error = error(&["--expr", "ip", "--pcap", path, "--dlt", "RAW"], 1);
    assert!(error.contains("the packets are EN10MB, not RAW"), "{error}");
}

#[test]
fn what_is_missing_or_wrong_is_said() {
    assert!(error(&["--packet", "00"], 2).contains("--program FILE or --expr EXPR"));
    assert!(error(&["--expr", "ip"], 2).contains("--vectors"));
    assert!(error(&["--expr", "ip", "--packet", "0x"], 2).contains("'x' at byte 1 is no hex digit"));
    assert!(error(&["--expr", "ip", "--packet", "00", "--engine", "jit"], 2).contains("interp"));
    assert!(error(&["--expr", "ip", "--pcap", "/nonexistent.pcap"], 1).contains("/nonexistent.pcap"));
}
