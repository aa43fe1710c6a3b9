//! `filter check`, `test` and `bench` with the examples of the SDK: no daemon, no privileges.

#![allow(clippy::unwrap_used)] // a test ends where something fails, helpers included

use serde_json::Value;
use smpnet_lab::example_filter;
use std::{path::Path, process::Command};

fn smpnet(args: &[&str]) -> (i32, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_smpnet")).args(args).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    (out.status.code().unwrap_or(-1), text)
}

/// A pcap of raw IP packets, a second apart: DNS queries for these names.
fn queries(names: &[&str]) -> Vec<u8> {
    let words = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 101];
    let mut file: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    for (second, name) in names.iter().enumerate() {
        let mut dns = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            dns.push(label.len() as u8);
            dns.extend(label.as_bytes());
        }
        dns.extend([0, 0, 1, 0, 1]);
        let (udp, total) = (dns.len() as u16 + 8, dns.len() as u16 + 28);
        let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        ip.extend([4000u16, 53, udp, 0].iter().flat_map(|w| w.to_be_bytes()));
        ip.extend(dns);
        file.extend([second as u32, 0, ip.len() as u32, ip.len() as u32].iter().flat_map(|w| w.to_le_bytes()));
        file.extend(ip);
    }
    file
}

fn at(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}

#[test]
fn modules_are_checked_tested_and_measured_without_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let module = example_filter("dns-blocklist").unwrap().display().to_string();
    let (code, text) = smpnet(&["filter", "check", &module]);
    assert!(code == 0 && text.contains("--allow tables,reject") && text.contains("names (exact)"), "{text}");

    let pcap = at(dir.path(), "dns.pcap", queries(&["ads.example.com", "example.org", "www.ads.example.com"]));
    let table = format!("names={}", at(dir.path(), "names.txt", "ads.example.com\n"));
    let expect = dir.path().join("dns.expect").display().to_string();
    let passed = dir.path().join("passed.pcap").display().to_string();
    let test = |more: &[&str]| {
        let mut args = vec!["filter", "test", &module, "--pcap", &pcap, "--table", &table];
        args.extend(more);
        smpnet(&args)
    };
    let (code, text) = test(&["--write-expect", &expect, "-w", &passed]);
    assert!(code == 0 && text.contains("1 passed, 2 dropped") && text.contains("blocked: 2"), "{text}");
    assert_eq!(std::fs::read_to_string(&expect).unwrap(), "drop\npass\ndrop\n");
    assert_eq!(std::fs::read(&passed).unwrap().len(), queries(&["example.org"]).len());
    let (code, text) = test(&["--expect", &expect]);
    assert!(code == 0 && text.contains("all as expected"), "{text}");
    std::fs::write(&expect, "drop\ndrop\ndrop\npass\n").unwrap();
    let (code, text) = test(&["--expect", &expect, "--json"]);
    let answer: Value = serde_json::from_str(&text).unwrap();
    let wrong: Vec<u64> =
        answer["differences"].as_array().unwrap().iter().filter_map(|d| d["packet"].as_u64()).collect();
    assert_eq!((code, wrong), (1, vec![2, 4]));

    let (code, text) =
        smpnet(&["filter", "bench", &module, "--pcap", &pcap, "--table", &table, "--time", "50", "--json"]);
    let figures: Value = serde_json::from_str(&text).unwrap();
    assert!(code == 0 && figures["ns_per_packet"].as_f64() > figures["native_ns_per_packet"].as_f64(), "{text}");
}

#[test]
fn all_that_is_wrong_with_a_module_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"(module (import "smpnet" "lock" (func)) (import "env" "puts" (func)) (func (export "smpnet_filtr"))
      (func (return_call 0))
      (@custom "smpnet.filter" "{\"abi\":\"1.0\",\"name\":\"x y\",\"windw\":64}"))"#;
    let module = at(dir.path(), "x.wasm", wat::parse_str(text).unwrap());
    let (code, text) = smpnet(&["filter", "check", &module]);
    let words = [
        "tail-call",
        "`windw` (did you mean window?)",
        "`name` is \"x y\"",
        "smpnet.lock",
        "env.puts",
        "smpnet_ring",
        "does not export smpnet_filter",
        "exports smpnet_filtr",
        "memory",
    ];
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!((code, text.lines().count()), (1, words.len()), "one line for each: {text}");
    assert!(text.lines().all(|l| l.starts_with(&module)), "{text}");
    let (code, json) = smpnet(&["filter", "check", &module, "--json"]);
    let answer: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (code, answer["good"].as_bool(), answer["problems"].as_array().unwrap().len()),
        (1, Some(false), words.len())
    );
    let (code, text) = smpnet(&["filter", "check", &at(dir.path(), "y.wasm", b"\x7fELF")]);
    assert!(code == 1 && text.contains("precompiled code is never taken"), "{text}");
    let module = example_filter("syn-flood").unwrap().display().to_string();
    let (code, text) = smpnet(&["filter", "check", &module, "--config", "rat = 1"]);
    assert!(code == 1 && text.contains("rat"), "{text}");
}
