//! What a difference consists of, and that a transaction that fails leaves nothing behind.

use super::*;
use crate::config::{Config, read};
use serde_json::Value;
use std::collections::BTreeMap;

fn config(text: &str) -> Config {
    let (config, report) = read("r.toml", text, &|p| Err(std::io::Error::other(p.display().to_string())));
    assert!(report.problems.is_empty(), "{report}");
    config
}

fn steps(old: &str, new: &str) -> Vec<String> {
    let original = BTreeMap::from([("net.inet.ip.ttl".to_owned(), "255".to_owned())]);
    let now = |n: &str| (n == "net.inet.ip.ttl").then(|| "255".to_owned());
    let p = plan(&config(old), &config(new), &SysctlState { now: &now, original: &original });
    p.ops.iter().map(Op::to_string).collect()
}

const TWO_PORTS: &str = r#"
[[interface]]
name = "lan0"
driver = "null"
addresses = ["10.0.1.1/24"]
[[interface]]
name = "wan0"
driver = "null"
addresses = ["10.0.2.1/24"]
[[route]]
to = "default"
via = "10.0.2.2"
[[filter]]
name = "f"
drop = "udp port 5000"
[sysctl]
"net.inet.ip.ttl" = 64
"#;

#[test]
fn from_nothing_interfaces_go_up_last() {
    assert_eq!(
        steps("", TWO_PORTS),
        [
            "create interface lan0 (driver null)",
            "create interface wan0 (driver null)",
            "sysctl net.inet.ip.ttl: 255 -> 64",
            "lan0: add address 10.0.1.1/24",
            "wan0: add address 10.0.2.1/24",
            "add route 0.0.0.0/0 via 10.0.2.2",
            "load filter f: drop \"udp port 5000\"",
            "lan0: up",
            "wan0: up",
        ]
    );
}

#[test]
fn to_nothing_everything_goes_and_sysctl_gets_its_value_back() {
    assert_eq!(
        steps(TWO_PORTS, ""),
        [
            "lan0: down",
            "wan0: down",
            "detach filter f",
            "remove route 0.0.0.0/0 via 10.0.2.2",
            "lan0: remove address 10.0.1.1/24",
            "wan0: remove address 10.0.2.1/24",
            "destroy interface wan0",
            "destroy interface lan0",
            "sysctl net.inet.ip.ttl: 64 -> 255",
        ]
    );
}

#[test]
fn the_same_configuration_is_no_step() {
    assert_eq!(steps(TWO_PORTS, TWO_PORTS), [""; 0]);
    let moved = format!("\n\n# a comment\n{TWO_PORTS}");
    assert_eq!(steps(TWO_PORTS, &moved), [""; 0]);
}

#[test]
fn small_changes_are_small_steps() {
    let to = |from: &str, to: &str| steps(TWO_PORTS, &TWO_PORTS.replace(from, to));
    assert_eq!(to("via = \"10.0.2.2\"", "via = \"10.0.2.3\""), ["change route 0.0.0.0/0 via 10.0.2.3"]);
    assert_eq!(to("udp port 5000", "udp port 5001"), ["swap filter f: drop \"udp port 5001\""]);
    assert_eq!(to("drop = ", "pass = "), ["swap filter f: pass \"udp port 5000\""]);
    let native = "native = \"loss\"\noptions = { one_in = 3 }";
    assert_eq!(
        to("drop = \"udp port 5000\"", native),
        ["detach filter f", "load filter f: native loss {\"one_in\":3}"],
        "a filter of another kind cannot take its place"
    );
    let one = TWO_PORTS.replace("drop = \"udp port 5000\"", native);
    let two = one.replace("one_in = 3", "one_in = 4");
    assert_eq!(steps(&one, &two), ["swap filter f: native loss {\"one_in\":4}"]);
    assert_eq!(
        to("name = \"f\"", "name = \"f\"\nattach = \"ether\""),
        ["detach filter f", "load filter f: drop \"udp port 5000\""]
    );
    assert_eq!(to("ttl\" = 64", "ttl\" = 65"), ["sysctl net.inet.ip.ttl: 64 -> 65"]);
    assert_eq!(to("10.0.1.1/24", "10.0.1.9/24"), ["lan0: remove address 10.0.1.1/24", "lan0: add address 10.0.1.9/24"]);
    assert_eq!(
        to("name = \"lan0\"", "name = \"lan0\"\nmtu = 1400\nup = false"),
        ["lan0: down", "lan0: mtu the device's own -> 1400"]
    );
}

#[test]
fn what_leans_on_an_interface_that_is_made_anew_is_made_anew_too() {
    let old = format!("{TWO_PORTS}\n[[interface]]\nname=\"v7\"\nkind=\"vlan\"\noptions={{parent=\"wan0\",vid=7}}\n");
    let old = old.replace("name = \"f\"", "name = \"f\"\ninterface = \"wan0\"");
    let new = old.replace("name = \"wan0\"", "name = \"wan0\"\noptions = { rate = 1 }");
    assert_eq!(
        steps(&old, &new),
        [
            "wan0: down",
            "v7: down",
            "detach filter f",
            "remove route 0.0.0.0/0 via 10.0.2.2",
            "wan0: remove address 10.0.2.1/24",
            "destroy interface v7",
            "destroy interface wan0",
            "create interface wan0 (driver null)",
            "create interface v7 (kind vlan)",
            "wan0: add address 10.0.2.1/24",
            "add route 0.0.0.0/0 via 10.0.2.2",
            "load filter f: drop \"udp port 5000\"",
            "wan0: up",
            "v7: up",
        ]
    );
}

#[test]
fn sections_that_are_read_at_start_only_are_named() {
    let now = |_: &str| None;
    let p = plan(
        &config(""),
        &config("[runtime]\nworkers = 2\n[pool]\ncells = 2048\n"),
        &SysctlState { now: &now, original: &BTreeMap::new() },
    );
    assert_eq!(p.ops, []);
    assert_eq!(p.notes.len(), 2);
    assert_eq!(p.notes[0], "[runtime] changed; it takes effect when the daemon starts again");
}

#[test]
fn a_hundred_thousand_routes_are_planned_and_taken_over_at_once() {
    let mut old = config(TWO_PORTS);
    let route = |n: u32| crate::config::Route {
        at: Default::default(),
        to: crate::config::Prefix { addr: (0x1400_0000 + (n << 8)).into(), len: 24 },
        target: crate::config::RouteTarget::Reject,
    };
    old.routes.extend((0..100_000).map(route));
    let mut new = old.clone();
    new.routes.retain(|r| r.to.addr.octets()[2] != 7);
    let began = std::time::Instant::now();
    let p = plan(&old, &new, &SysctlState { now: &|_| None, original: &BTreeMap::new() });
    assert_eq!(p.ops.len(), 391);
    Op::edit_all(&p.ops, &mut old);
    assert_eq!(essence(&old), essence(&new));
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
}

/// A router that is only a configuration, and fails at the step it is told to.
struct Model {
    config: Config,
    fail_at: usize,
    done: usize,
}

impl Executor for Model {
    fn execute(&mut self, op: &Op) -> Result<Value, String> {
        if self.done == self.fail_at {
            self.fail_at = usize::MAX;
            return Err("told to fail".into());
        }
        self.done += 1;
        op.edit(&mut self.config);
        Ok(Value::Null)
    }
}

/// The parts of a configuration that steps change, without their order.
fn essence(c: &Config) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for i in &c.interfaces {
        let mut addresses: Vec<_> = i.addresses.iter().map(|a| a.value).collect();
        addresses.sort();
        let i = crate::config::Interface { addresses: Vec::new(), ..i.clone() };
        all.push(format!("{} {addresses:?}", serde_json::to_string(&i).unwrap()));
    }
    all.extend(c.routes.iter().map(|r| format!("{r}")));
    all.extend(c.arp.iter().map(|r| format!("{r:?}")));
    all.extend(c.filters.iter().map(|f| serde_json::to_string(f).unwrap()));
    all.extend(c.sysctl.iter().map(|(k, v)| format!("{k}={}", v.value)));
    all.sort();
    all
}

#[test]
fn steps_lead_from_each_configuration_to_each_other_and_back_from_every_failure() {
    let other = r#"
[[interface]]
name = "wan0"
driver = "null"
options = { rate = 9 }
addresses = ["10.0.2.1/24", "10.0.2.7/24"]
promisc = true
[[interface]]
name = "v7"
kind = "vlan"
options = { parent = "wan0", vid = 7 }
addresses = ["10.7.0.1/24"]
description = "seven"
[[route]]
to = "default"
via = ["10.0.2.2", "10.7.0.2"]
[[route]]
to = "10.99.0.0/16"
type = "blackhole"
[[arp]]
address = "10.0.2.2"
mac = "02:00:00:00:00:02"
[[filter]]
name = "f"
drop = "tcp"
[[filter]]
name = "g"
pass = "udp"
interface = "v7"
[[filter]]
name = "lossy"
native = "loss"
options = { one_in = 3 }
[sysctl]
"net.inet.ip.x" = 3
"#;
    let all = ["", TWO_PORTS, other];
    for from in all {
        for to in all {
            let (old, new) = (config(from), config(to));
            let original =
                BTreeMap::from([("net.inet.ip.ttl".into(), "255".into()), ("net.inet.ip.x".into(), "0".into())]);
            let state = SysctlState { now: &|n| original.get(n).cloned(), original: &original };
            let p = plan(&old, &new, &state);
            let mut model = Model { config: old.clone(), fail_at: usize::MAX, done: 0 };
            transact(&mut model, &p.ops).unwrap();
            assert_eq!(essence(&model.config), essence(&new));
            for fail_at in 0..p.ops.len() {
                let mut model = Model { config: old.clone(), fail_at, done: 0 };
                let failed = transact(&mut model, &p.ops).unwrap_err();
                assert_eq!(*failed.op, p.ops[fail_at]);
                assert_eq!(failed.undone, fail_at);
                assert_eq!(failed.left_behind, [""; 0]);
                assert_eq!(essence(&model.config), essence(&old), "failed at {}", failed.op);
            }
        }
    }
}
