//! Modules of somebody else in the program: what is told of their faults and counters, explain, the cache of their code.

// clippy.toml allows it in test functions; here are their helpers too.
#![allow(clippy::unwrap_used)]

#[path = "support/daemon.rs"]
mod support;

use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};
use support::{Daemon, TWO_PORTS, program, wait_for};

/// Two ports, of which the first receives UDP packets to port 9.
fn traffic() -> String {
    TWO_PORTS.replacen("sink_only = true", "rate = 2000, dst = \"198.19.0.0/16\", dst_port = 9", 1)
}

/// A module whose function `judge` says what becomes of a packet at `$data`.
fn module(name: &str, judge: &str) -> Vec<u8> {
    let text = format!(
        r#"(module ${name}
  (memory (export "memory") 1)
  (func (export "smpnet_ring") (result i32) (i32.const 1024))
  (func $judge (param $data i32) (result i32) {judge})
  (func $filter (export "smpnet_filter") (param $n i32) (result i32) (local $i i32)
    (loop $next
      (i32.store offset=3136 (i32.mul (local.get $i) (i32.const 8))
        (call $judge (i32.load offset=1088 (i32.mul (local.get $i) (i32.const 32)))))
      (i64.store offset=3648 (i32.const 0) (i64.add (i64.load offset=3648 (i32.const 0)) (i64.const 1)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (local.get $n))))
    (local.get $n))
  (@custom "smpnet.filter" "{{\"abi\":\"1.0\",\"name\":\"{name}\",\"version\":\"1\",\"counters\":[\"seen\"]}}"))"#
    );
    wat::parse_str(text).unwrap()
}

/// `smpnet events`, line by line. Listens when this returns.
struct Events {
    child: Child,
    lines: Receiver<Value>,
}

impl Events {
    fn of(d: &Daemon) -> Events {
        let mut child = Command::new(program())
            .arg("events")
            .env("SMPNET_SOCKET", d.socket())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = tell.send(serde_json::from_str(&line).unwrap());
            }
        });
        let events = Events { child, lines };
        assert_eq!(events.next("listening")["event"], "listening");
        events
    }

    #[track_caller]
    fn next(&self, what: &str) -> Value {
        self.lines.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|e| panic!("no event: {what}: {e}"))
    }

    /// The next event of this filter that is `what`.
    #[track_caller]
    fn filter(&self, name: &str, what: &str) -> Value {
        loop {
            let e = self.next(what);
            if e["event"] == "filter" && e["filter"] == name && e["what"] == what {
                return e;
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn events_and_log_tell_of_faults_with_names_of_what_came_back_and_of_what_was_detached() {
    let d = Daemon::start(
        "fault-events",
        &traffic().replace("drop = \"udp port 5000\"", "drop = \"udp port 5000\"\nfaults = \"1/60\""),
    );
    fs::write(d.folder.join("bad.wasm"), module("bad", "(unreachable)")).unwrap();
    let events = Events::of(&d);

    // In the place of something that ran: that comes back.
    d.text(&["filter", "swap", "block", "--module", "bad.wasm"]);
    let fault = events.filter("block", "fault");
    assert_eq!((&fault["kind"], &fault["generation"]), (&json!("trap"), &json!(2)), "{fault}");
    assert_eq!(fault["trace"], json!(["judge", "filter"]), "{fault}");
    let reason = fault["reason"].as_str().unwrap();
    assert!(reason.contains("unreachable") && reason.ends_with("in judge"), "{fault}");
    assert!(fault["faults"].as_u64() >= Some(1) && fault["worker"].is_number() && fault["time_ms"].is_number());
    let failed = events.filter("block", "failed");
    assert_eq!(failed["reason"], "generation 2 failed; what ran before it was put back");
    let show = d.json(&["filter", "show", "block"]);
    assert_eq!(
        (&show["generation"], &show["restored_from"], &show["state"]),
        (&json!(3), &json!(1), &json!("running"))
    );
    assert_eq!((&show["faults"][0]["trace"], &show["faults"][0]["line"]), (&fault["trace"], &fault["reason"]));
    let text = d.text(&["filter", "show", "block"]);
    assert!(text.contains("generation 2, worker") && text.contains("    0: judge\n    1: filter\n"), "{text}");

    // Where nothing ran before: it leaves its hooks.
    d.text(&["filter", "load", "g", "--module", "bad.wasm", "--on-fault", "detach", "--priority", "5"]);
    let fault = events.filter("g", "fault");
    assert_eq!((&fault["generation"], &fault["trace"]), (&json!(1), &json!(["judge", "filter"])));
    let failed = events.filter("g", "failed");
    assert!(failed["reason"].as_str().unwrap().contains("unreachable"), "{failed}");
    assert_eq!(d.json(&["filter", "show", "g"])["state"], "detached");

    // One that goes on failing without being too bad is told of again, with how often.
    d.text(&["filter", "load", "h", "--module", "bad.wasm", "--faults", "1000/1", "--priority", "6"]);
    assert_eq!(events.filter("h", "fault")["state"], "recovering");
    assert!(events.filter("h", "fault")["faults"].as_u64() >= Some(1));
    let log = d.log();
    assert!(log.contains("filter faulted: smpnet_filter: ") && log.contains("judge < filter"), "{log}");
    assert!(log.contains("previous generation restored") && log.contains("was detached: packets pass"), "{log}");
}

/// The value of a sample of `/metrics`.
#[track_caller]
fn sample(page: &str, name_and_labels: &str) -> f64 {
    let line = page.lines().find_map(|l| l.strip_prefix(name_and_labels)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name_and_labels} is not in\n{page}")).parse().unwrap()
}

#[test]
fn metrics_have_packets_verdicts_time_and_faults_of_each_module_on_each_worker() {
    let d = Daemon::start("filter-metrics", &traffic());
    // The last bit of the destination decides; of packets to port 9, nothing but that differs.
    let odd = module("odd", "(i32.and (i32.load8_u offset=19 (local.get $data)) (i32.const 1))");
    fs::write(d.folder.join("odd.wasm"), odd).unwrap();
    fs::write(d.folder.join("bad.wasm"), module("bad", "(unreachable)")).unwrap();
    d.text(&["filter", "load", "odd", "--module", "odd.wasm"]);
    d.text(&[
        "filter",
        "load",
        "bad",
        "--module",
        "bad.wasm",
        "--on-fault",
        "drop",
        "--faults",
        "3/60",
        "--priority",
        "9",
    ]);
    wait_for("a fault too many", &d, || d.json(&["filter", "show", "bad"])["state"] == "faulted");
    wait_for("a sampled burst", &d, || d.json(&["filter", "stats", "odd"])["total"]["sampled_packets"] != 0);
    // No packet comes any more, so that two looks see the same.
    d.text(&["ifconfig", "lan0", "down"]);
    let stats = |name: &str| d.json(&["filter", "stats", name]);
    wait_for("rest", &d, || {
        let before = stats("odd");
        std::thread::sleep(Duration::from_millis(50));
        before == stats("odd")
    });
    let page = d.text(&["stats", "--prometheus"]);
    for name in ["odd", "bad", "block"] {
        let per_worker = stats(name)["per_worker"].as_array().unwrap().clone();
        for (worker, counts) in per_worker.iter().enumerate() {
            let worker = if worker < 2 { worker.to_string() } else { "none".to_owned() };
            let of = |what: &str| {
                sample(&page, &format!("smpnet_filter_{what}_total{{filter=\"{name}\",worker=\"{worker}\"}}"))
            };
            for key in
                ["packets", "bytes", "matched", "passed", "dropped", "rejected", "bursts", "faults", "sampled_packets"]
            {
                assert_eq!(of(key), counts[key].as_f64().unwrap(), "{name} {worker} {key}");
            }
            assert_eq!(of("policy_packets"), counts["fault_packets"].as_f64().unwrap());
            let seconds = counts["sampled_ns"].as_f64().unwrap() / 1e9;
            assert!((of("sampled_seconds") - seconds).abs() < 1e-9, "{name} {worker}");
            assert_eq!(of("packets"), of("passed") + of("dropped"), "{name} {worker}");
        }
    }
    let all = |metric: &str, filter: &str| -> f64 {
        ["0", "1", "none"]
            .iter()
            .map(|w| sample(&page, &format!("smpnet_filter_{metric}_total{{filter=\"{filter}\",worker=\"{w}\"}}")))
            .sum()
    };
    assert!(all("packets", "odd") > 0.0 && all("sampled_seconds", "odd") > 0.0 && all("faults", "odd") == 0.0);
    assert!(all("faults", "bad") >= 3.0 && all("policy_packets", "bad") > 0.0);
    assert_eq!(all("dropped", "bad"), all("packets", "bad"), "its policy drops all");
    let seen: f64 = ["0", "1"]
        .iter()
        .map(|w| {
            sample(
                &page,
                &format!("smpnet_filter_module_counter_total{{filter=\"odd\",counter=\"seen\",worker=\"{w}\"}}"),
            )
        })
        .sum();
    assert_eq!(seen, all("packets", "odd"), "the module counts every packet once");
    assert_eq!(sample(&page, "smpnet_filter_running{filter=\"odd\"}"), 1.0);
    assert_eq!(sample(&page, "smpnet_filter_running{filter=\"bad\"}"), 0.0);
    assert_eq!(sample(&page, "smpnet_filter_generation{filter=\"odd\"}"), 1.0);
}

#[test]
fn explain_asks_a_module_by_a_fresh_instance_and_the_running_ones_do_not_notice() {
    let d = Daemon::start("explain-module", TWO_PORTS);
    // Lets one packet through in its life; those to port 7 it does not survive.
    let once = module(
        "once",
        "(if (i32.eq (i32.load16_u offset=22 (local.get $data)) (i32.const 0x700)) (then (unreachable)))
         (i32.store (i32.const 64) (i32.add (i32.load (i32.const 64)) (i32.const 1)))
         (i32.gt_u (i32.load (i32.const 64)) (i32.const 1))",
    );
    fs::write(d.folder.join("once.wasm"), once).unwrap();
    d.text(&["filter", "load", "once", "--module", "once.wasm", "--on-fault", "detach"]);
    let before = (d.json(&["filter", "show", "once"]), d.json(&["filter", "stats", "once"]));
    let mac = d.json(&["ifconfig", "lan0"])["mac"].as_str().unwrap().replace(':', "");
    let explain = |port: &str| {
        let packet = format!("{mac} 020000000102 0800 4500001c0000000040115fc00a00010208080808 0fa0 {port} 0008 0000");
        d.json(&["explain", "--in", "lan0", "--packet", &packet])
    };
    let said = |steps: &Value| -> Vec<String> {
        let all = steps.as_array().unwrap().iter().filter(|s| s["stage"] == "pfil");
        all.map(|s| format!("{}: {}", s["decision"].as_str().unwrap(), s["detail"].as_str().unwrap())).collect()
    };
    for _ in 0..3 {
        let steps = explain("1389");
        assert_eq!(
            said(&steps)[0],
            "pass: once (in): generation 1: module once 1: passes (a fresh instance was asked, without the state of those \
             that judge packets)",
            "every time it is the first packet"
        );
        assert!(steps.to_string().contains("wan0"), "and the packet goes on: {steps}");
    }
    let steps = explain("0007");
    assert!(
        said(&steps)[0].contains("fails (smpnet_filter: ") && said(&steps)[0].contains("passes by its fault policy"),
        "{steps}"
    );
    let after = (d.json(&["filter", "show", "once"]), d.json(&["filter", "stats", "once"]));
    assert_eq!(before, after, "nothing was counted, no fault, the same generation");
    assert_eq!(after.0["state"], "running");
}

#[test]
fn the_doctor_finds_damage_in_the_code_cache_and_the_daemon_makes_it_good() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("wasm");
    let config = format!("[filters]\ncache = \"{}\"\n{TWO_PORTS}", cache.display());
    let doctor = |d: &Daemon| {
        let all = d.json(&["doctor", "--cache", cache.to_str().unwrap()]);
        all.as_array().unwrap().iter().find(|f| f["check"] == "code cache").unwrap().clone()
    };
    let cached = |d: &Daemon| d.json(&["filter", "show", "m"])["code_cache"].clone();
    let d = Daemon::start("doctor-cache", &config);
    fs::write(d.folder.join("m.wasm"), module("m", "(i32.const 0)")).unwrap();
    d.text(&["filter", "load", "m", "--module", "m.wasm"]);
    assert_eq!(cached(&d), json!({"hits": 0, "misses": 1, "refused": 0}));
    let found = doctor(&d);
    assert!(found["level"] == "ok" && found["found"].as_str().unwrap().contains(": 1 files, "), "{found}");

    let file = fs::read_dir(&cache).unwrap().map(|e| e.unwrap().path()).find(|p| p.extension().is_some()).unwrap();
    let mut code = fs::read(&file).unwrap();
    let middle = code.len() / 2;
    code[middle] ^= 1;
    fs::write(&file, code).unwrap();
    let found = doctor(&d);
    assert!(found["level"] == "warn" && found["found"].as_str().unwrap().contains("its HMAC is wrong"), "{found}");
    assert!(found["advice"].as_str().unwrap().contains("compiles their modules anew"), "{found}");

    d.text(&["filter", "load", "n", "--module", "m.wasm"]);
    assert_eq!(cached(&d), json!({"hits": 0, "misses": 1, "refused": 1}));
    assert_eq!(doctor(&d)["level"], "ok", "the daemon has put a good one in its place");
    d.text(&["filter", "load", "o", "--module", "m.wasm"]);
    assert_eq!(cached(&d)["hits"], 1);
}
