//! Modules of somebody else in the program: what is told of their faults and counters, explain, the cache of their code.

// clippy.toml allows it in test functions; here are their helpers too.
#![allow(clippy::unwrap_used)]

#[path = "support/daemon.rs"]
mod support;

use serde_json::Value;
use std::fs;
use support::{Daemon, TWO_PORTS};

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
