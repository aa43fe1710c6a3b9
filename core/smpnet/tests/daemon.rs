//! The program as a whole, as a child process: null ports, no privilege, one socket in a folder of its own.

#![allow(clippy::unwrap_used)] // a test ends where something fails, helpers included

#[path = "support/daemon.rs"]
mod support;

use serde_json::{Value, json};
use smpnet::client::ClientError;
use std::{
    fs,
    io::Read,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use support::{Daemon, TWO_PORTS, program, wait_for};

/// What the configuration made of the router, for comparison.
fn state(d: &Daemon) -> Value {
    let mut interfaces = d.json(&["ifconfig"]);
    for i in interfaces.as_array_mut().unwrap() {
        let o = i.as_object_mut().unwrap();
        o.retain(|k, _| ["name", "up", "mtu", "addresses", "description", "driver"].contains(&k.as_str()));
    }
    let mut filters = d.json(&["filter", "list"]);
    for f in filters.as_array_mut().unwrap() {
        f.as_object_mut().unwrap().retain(|k, _| ["name", "text", "action", "interface"].contains(&k.as_str()));
    }
    json!([interfaces, d.json(&["route", "show"]), filters, d.json(&["sysctl", "net.inet.ip.forwarding"])])
}

#[test]
fn a_router_starts_answers_every_command_and_ends_without_a_trace() {
    let d = Daemon::start("commands", TWO_PORTS);
    let interfaces = d.json(&["ifconfig"]);
    let names: Vec<&str> = interfaces.as_array().unwrap().iter().filter_map(|i| i["name"].as_str()).collect();
    assert!(names.contains(&"lan0") && names.contains(&"wan0") && names.contains(&"lo0"), "{names:?}");
    assert_eq!(d.json(&["ifconfig", "lan0"])["up"], true);
    assert!(d.text(&["ifconfig"]).contains("\tinet 10.0.1.1/24 broadcast 10.0.1.255"));
    assert!(d.text(&["route", "-n"]).contains("default"));
    assert_eq!(d.json(&["route", "get", "8.8.8.8"])["route"]["dst"], "0.0.0.0/0");
    assert!(d.text(&["arp", "-a"]).contains("02:00:00:00:02:02"));
    assert!(d.json(&["netstat", "-i"]).is_array());
    assert!(d.text(&["netstat", "-s"]).contains("ip:"));
    assert!(
        d.json(&["netstat", "-s", "-p", "ip"])["ip"].is_object()
            || d.json(&["netstat", "-s", "-p", "ip"])["ip"].is_array()
    );
    assert!(d.json(&["netstat", "-q"]).is_array());
    assert!(d.json(&["netstat", "-d"]).is_array());
    assert_eq!(d.json(&["sysctl", "net.inet.ip.forwarding"])[0]["value"], 1);
    assert!(d.text(&["plugin", "list"]).contains("null"));
    assert!(d.text(&["filter", "list"]).contains("udp port 5000"));
    assert_eq!(d.json(&["filter", "show", "block"])["generation"], 1);
    assert_eq!(d.json(&["filter", "stats", "block"])["name"], "block");
    assert!(d.text(&["stats", "--prometheus"]).contains("smpnet_interface_receive_packets_total{interface=\"lan0\"}"));
    assert_eq!(d.json(&["stats"])["accounting"]["missing"], 0);
    let folder = d.folder.clone();
    let kept = fs::read_dir(&folder).unwrap().count();
    let socket = d.socket().to_owned();
    assert!(socket.exists() && kept == 3);
    let (status, log) = d.stop();
    assert!(status.success(), "{log}");
    assert!(!log.contains("ERROR"), "{log}");
    assert!(!socket.exists() && !socket.parent().unwrap().exists());
}

#[test]
fn filters_are_loaded_swapped_rolled_back_and_detached_over_the_socket() {
    let d = Daemon::start("filters", TWO_PORTS);
    let swapped = d.json(&["filter", "swap", "block", "--drop", "udp port 5001"]);
    assert_eq!(swapped["generation"], 2);
    assert!(swapped["adopt_us"].is_number());
    assert!(d.text(&["filter", "swap", "block", "--pass", "tcp"]).starts_with("block swapped: generation 3"));
    assert_eq!(d.json(&["filter", "show", "block"])["action"], "pass");
    assert_eq!(d.json(&["filter", "rollback", "block"])["generation"], 4);
    assert_eq!(d.json(&["filter", "show", "block"])["action"], "drop");
    d.text(&[
        "filter",
        "load",
        "web",
        "--drop",
        "tcp port 80",
        "--attach",
        "ether",
        "--interface",
        "wan0",
        "--direction",
        "both",
    ]);
    let e = d.refused(&["filter", "load", "web", "--drop", "tcp"], 1);
    assert!(e.contains("a filter \"web\" is there already"), "{e}");
    let e = d.refused(&["filter", "swap", "wep", "--drop", "tcp"], 1);
    assert!(e.contains("no filter \"wep\"") && e.contains("did you mean \"web\"?"), "{e}");
    let e = d.refused(&["filter", "swap", "web", "--drop", "tcp porrt"], 1);
    assert!(e.starts_with("smpnet: "), "{e}");
    assert_eq!(d.json(&["filter", "show", "web"])["generation"], 1, "a filter that does not compile changes nothing");
    let file = d.folder.join("icmp.ddd");
    fs::write(&file, d.text(&["bpf", "compile", "icmp", "-ddd"])).unwrap();
    assert_eq!(d.json(&["filter", "load", "p", "--program", "icmp.ddd"])["generation"], 1);
    d.text(&["filter", "detach", "web"]);
    assert_eq!(d.json(&["filter", "list"]).as_array().unwrap().len(), 2);
}

#[test]
fn native_filters_stand_beside_the_others_in_file_commands_and_explain() {
    let native = "[[filter]]\nname = \"bad-line\"\nnative = \"loss\"\noptions = { one_in = 100 }\npriority = -3\n";
    let d = Daemon::start("natives", &format!("{TWO_PORTS}\n{native}"));
    let list = d.text(&["filter", "list"]);
    assert!(list.contains("native loss {\"one_in\":100}") && list.contains("wasm"), "{list}");
    let shown = d.json(&["filter", "show", "bad-line"]);
    assert_eq!((&shown["kind"], &shown["native"]), (&json!("native"), &json!("loss")));
    assert_eq!((&shown["report"]["lost"], &shown["priority"]), (&json!(0), &json!(-3)));
    assert_eq!(d.json(&["filter", "stats", "bad-line"])["per_worker"][0]["consumed"], 0);
    assert!(d.text(&["filter", "stats", "bad-line"]).contains("By policy"));
    let loaded =
        d.text(&["filter", "load", "n", "--native", "loss", "--options", "{\"one_in\": 2}", "--direction", "out"]);
    assert!(loaded.starts_with("n loaded: generation 1, native loss, instantiated in "), "{loaded}");
    let swapped = d.json(&["filter", "swap", "n", "--native", "loss", "--options", "{\"one_in\": 3}"]);
    assert_eq!(
        (&swapped["generation"], &d.json(&["filter", "show", "n"])["options"]["one_in"]),
        (&json!(2), &json!(3))
    );
    assert_eq!(d.json(&["filter", "rollback", "n"])["generation"], 3);
    assert_eq!(d.json(&["filter", "show", "n"])["options"]["one_in"], 2);
    for (args, says) in [
        (&["filter", "load", "m", "--native", "los"][..], "unknown native filter \"los\" (did you mean \"loss\"?)"),
        (&["filter", "load", "m", "--native", "loss"], "needs \"one_in\" or \"probability\""),
        (&["filter", "swap", "n", "--drop", "udp"], "n is a native filter: no swap leads to the other kind"),
        (&["filter", "swap", "block", "--native", "loss"], "block is a filter that is compiled"),
        (&["filter", "load", "block", "--native", "loss"], "a filter \"block\" is there already"),
    ] {
        let e = d.refused(args, 1);
        assert!(e.contains(says), "{args:?}: {e}");
    }
    assert!(d.refused(&["filter", "load", "m", "--native", "loss", "--options", "[]"], 2).contains("a JSON object"));
    let mac = d.json(&["ifconfig", "lan0"])["mac"].as_str().unwrap().replace(':', "");
    let udp = format!("{mac} 020000000102 0800 4500001c0000000040115fc00a00010208080808 0fa0 1388 0008 0000");
    let steps = d.json(&["explain", "--in", "lan0", "--packet", &udp]);
    let filters: Vec<&str> = steps
        .as_array()
        .unwrap()
        .iter()
        .filter(|s| s["stage"] == "pfil")
        .filter_map(|s| s["detail"].as_str())
        .collect();
    assert_eq!(filters.len(), 2, "{steps}");
    assert!(
        filters[0].starts_with("bad-line (in): native loss {\"one_in\":100}: not asked: it keeps state"),
        "{steps}"
    );
    assert!(filters[1].starts_with("block (in): generation 1: matches"), "{steps}");
    d.text(&["filter", "detach", "n"]);
    let kinds: Vec<Value> =
        d.json(&["filter", "list"]).as_array().unwrap().iter().map(|f| json!([f["name"], f["kind"]])).collect();
    assert_eq!(kinds, [json!(["bad-line", "native"]), json!(["block", "wasm"])]);
}

#[test]
fn commands_change_the_router_and_a_wrong_one_changes_nothing() {
    let d = Daemon::start("change", TWO_PORTS);
    d.text(&["ifconfig", "lan0", "mtu", "1400", "description", "office", "10.0.5.1/24", "alias"]);
    let lan0 = d.json(&["ifconfig", "lan0"]);
    assert_eq!((&lan0["mtu"], &lan0["description"]), (&json!(1400), &json!("office")));
    assert_eq!(lan0["addresses"].as_array().unwrap().len(), 2);
    d.text(&["ifconfig", "lan0", "10.0.5.1/24", "delete"]);
    let before = state(&d);
    // The second of the two steps fails, so the first is undone.
    let e = d.refused(&["ifconfig", "lan0", "mtu", "1300", "10.0.2.9/24"], 1);
    assert!(e.contains("overlaps") && e.contains("undone"), "{e}");
    assert_eq!(state(&d), before);
    d.text(&["route", "add", "10.9.0.0/16", "-reject"]);
    assert_eq!(d.json(&["route", "get", "10.9.1.1"])["route"]["kind"], "reject");
    let e = d.refused(&["route", "add", "10.9.0.0/16", "10.0.2.2"], 1);
    assert!(e.contains("File exists"), "{e}");
    d.text(&["route", "change", "10.9.0.0/16", "10.0.2.2"]);
    assert_eq!(d.json(&["route", "get", "10.9.1.1"])["route"]["kind"], "forward");
    d.text(&["route", "delete", "10.9.0.0/16"]);
    let e = d.refused(&["route", "add", "10.9.0.0/16", "10.77.0.1"], 1);
    assert!(e.contains("10.77.0.1"), "{e}");
    d.text(&["arp", "-s", "10.0.1.9", "02:00:00:00:00:09"]);
    assert!(d.text(&["arp", "-a"]).contains("10.0.1.9"));
    d.text(&["arp", "-d", "10.0.1.9"]);
    assert!(!d.text(&["arp", "-a"]).contains("10.0.1.9"));
    assert_eq!(d.text(&["sysctl", "-w", "net.inet.ip.forwarding=0"]).trim(), "net.inet.ip.forwarding: 1 -> 0");
    let e = d.refused(&["sysctl", "net.inet.ip.forwardin"], 1);
    assert!(e.contains("did you mean \"net.inet.ip.forwarding\"?"), "{e}");
    d.text(&["ifconfig", "extra0", "create", "driver", "null", "sink_only=true", "10.0.7.1/24", "up"]);
    assert_eq!(d.json(&["ifconfig", "extra0"])["up"], true);
    let e = d.refused(&["ifconfig", "extra1", "create", "driver", "nul"], 1);
    assert!(e.contains("did you mean \"null\"?"), "{e}");
    let e = d.refused(&["ifconfig", "extra1", "create", "driver", "null", "ratee=1"], 1);
    assert!(e.contains("ratee"), "{e}");
    d.text(&["ifconfig", "extra0", "destroy"]);
    let e = d.refused(&["ifconfig", "extra0"], 1);
    assert!(e.contains("no interface \"extra0\""), "{e}");
}

#[test]
fn a_file_is_applied_as_a_whole_or_not_at_all() {
    let d = Daemon::start("apply", TWO_PORTS);
    let before = state(&d);
    let file = d.folder.join("new.toml");
    // Mistakes that are seen before anything is done.
    fs::write(&file, TWO_PORTS.replace("mac =", "mack =")).unwrap();
    let e = d.refused(&["apply", "new.toml"], 1);
    assert!(e.contains("new.toml:19:1: error: unknown key \"mack\" in [[arp]] (did you mean \"mac\"?)"), "{e}");
    assert_eq!(state(&d), before);
    // A step that fails after others were done: the driver refuses its options.
    let broken = TWO_PORTS.replace("10.0.1.1/24", "10.0.8.1/24")
        + "[[interface]]\nname = \"bad0\"\ndriver = \"null\"\noptions = { ratee = 1 }\n";
    fs::write(&file, broken).unwrap();
    let e = d.refused(&["apply", "new.toml"], 1);
    assert!(e.contains("create interface bad0") && e.contains("undone"), "{e}");
    assert_eq!(state(&d), before);
    // What is right is found first, then done, then there is nothing left to do.
    fs::write(
        &file,
        TWO_PORTS.replace("udp port 5000", "udp port 5001").replace("via = \"10.0.2.2\"", "type = \"reject\""),
    )
    .unwrap();
    let plan = d.json(&["apply", "--dry-run", "new.toml"]);
    let steps = json!(["change route 0.0.0.0/0 reject", "swap filter block: drop \"udp port 5001\""]);
    assert_eq!(plan["steps"], steps);
    assert_eq!(state(&d), before);
    assert_eq!(d.json(&["apply", "new.toml"])["steps"], steps);
    assert_eq!(d.json(&["filter", "show", "block"])["generation"], 2, "the filter was swapped, not loaded anew");
    assert_eq!(d.text(&["apply", "new.toml"]).trim(), "nothing to change");
    // What commands changed since is put back.
    d.text(&["ifconfig", "lan0", "down"]);
    assert!(d.text(&["apply", "new.toml"]).contains("lan0: up"));
}

#[test]
fn sighup_applies_the_file_again_and_a_bad_file_changes_nothing() {
    let d = Daemon::start("hup", TWO_PORTS);
    let file = d.folder.join("router.toml");
    fs::write(&file, TWO_PORTS.replace("10.0.1.1/24", "10.0.9.1/24")).unwrap();
    d.signal("HUP");
    wait_for("the new address", &d, || d.text(&["ifconfig", "lan0"]).contains("10.0.9.1/24"));
    let before = state(&d);
    fs::write(&file, "[[interface]]\nname = 7\n").unwrap();
    d.signal("HUP");
    wait_for("the refusal", &d, || d.log().contains("SIGHUP: "));
    wait_for("the reason", &d, || {
        d.log().contains("router.toml:2:8: error: \"name\" in [[interface]] must be a string")
    });
    assert_eq!(state(&d), before);
}

#[test]
fn a_second_daemon_on_the_same_socket_is_refused() {
    let d = Daemon::start("second", TWO_PORTS);
    let out = d.run(&["run", "router.toml", "--socket", d.socket().to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(1));
    let e = String::from_utf8_lossy(&out.stderr);
    assert!(e.contains("another smpnet runs already and answers on"), "{e}");
    assert!(d.client.get("/v1/version").is_ok());
}

#[test]
fn without_a_daemon_one_line_says_so_and_how_to_start_one() {
    let out = Command::new(program()).args(["ifconfig", "--socket", "/nonexistent/s.sock"]).output().unwrap();
    assert_eq!(out.status.code(), Some(3));
    assert_eq!(
        String::from_utf8_lossy(&out.stderr),
        "smpnet: no smpnet daemon answers on /nonexistent/s.sock (there is no such socket); start one with `smpnet run FILE.toml`\n"
    );
}

#[test]
fn a_file_with_mistakes_does_not_start_and_leaves_nothing() {
    let folder = std::env::temp_dir().join(format!("smpnet-test-{}-mistakes", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("r.toml");
    let run = |text: &str| {
        fs::write(&file, text).unwrap();
        let out = Command::new(program())
            .args(["run", "r.toml", "--socket", "run/s.sock", "--log", "error"])
            .current_dir(&folder)
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(1));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "only the file is left");
        String::from_utf8(out.stderr).unwrap()
    };
    let e = run("[[interface]]\nname = \"a0\"\ndriver = \"nul\"\n");
    assert!(e.contains("r.toml:3:10: error: unknown driver \"nul\" (did you mean \"null\"?)"), "{e}");
    let e = run("[[interface]]\nname = \"a0\"\ndriver = \"null\"\noptions = { ratee = 1 }\n");
    assert!(e.contains("r.toml:4:11: create interface a0 (driver null): ") && e.contains("ratee"), "{e}");
    let out = Command::new(program()).args(["check", "r.toml", "--json"]).current_dir(&folder).output().unwrap();
    let checked: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(checked["ok"], true, "what only the driver knows is not known before it is opened: {checked}");
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn every_operation_of_the_openapi_document_is_served() {
    let d = Daemon::start("openapi", TWO_PORTS);
    let document = d.client.get("/openapi.json").unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let mut operations = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().filter(|_| path != "/v1/events") {
            operations += 1;
            let path = path.replace("{name}", "nothing").replace("{address}", "192.0.2.99");
            // Bodies and queries are missing, so most are refused; what must not be is 404 for the path or 405.
            let empty = json!({});
            let answer = match method.as_str() {
                "get" => d.client.get_text(&path).map(Value::from),
                "post" if path.ends_with("/flush") => continue,
                "post" => d.client.post(&path, &empty),
                "put" => d.client.put(&path, &empty),
                "patch" => d.client.patch(&path, &empty),
                "delete" => d.client.delete(&path),
                other => panic!("{other}"),
            };
            if let Err(ClientError::Refused { status, error, body, .. }) = answer {
                assert_ne!(status, 405, "{method} {path}");
                assert!(!error.starts_with("there is no "), "{method} {path}: {error}");
                assert!(body["error"].is_string(), "{method} {path}: {body}");
            }
        }
    }
    assert!(operations > 30, "{operations}");
    let e = d.client.get("/v1/nothing").unwrap_err();
    assert!(matches!(e, ClientError::Refused { status: 404, .. }), "{e}");
}

#[test]
fn events_are_told_as_they_happen() {
    let d = Daemon::start("events", TWO_PORTS);
    let mut listener = Command::new(program())
        .args(["events", "--count", "2"])
        .env("SMPNET_SOCKET", d.socket())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The listener says when it listens.
    let mut out = listener.stdout.take().unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !seen.ends_with(b"\n") {
        let n = out.read(&mut buffer).unwrap();
        assert!(n > 0);
        seen.extend_from_slice(&buffer[..n]);
    }
    d.text(&["filter", "swap", "block", "--drop", "icmp"]);
    d.text(&["ifconfig", "x0", "create", "driver", "null", "sink_only=true"]);
    out.read_to_end(&mut seen).unwrap();
    assert!(listener.wait().unwrap().success());
    let events: Vec<Value> =
        String::from_utf8(seen).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let what: Vec<&str> = events.iter().filter_map(|e| e["event"].as_str()).collect();
    assert_eq!(what[..2], ["listening", "filter"]);
    assert_eq!(events[1]["generation"], 2);
    assert_eq!(events.len(), 3);
}

#[test]
fn the_service_manager_is_told_how_it_goes() {
    use std::os::{linux::net::SocketAddrExt, unix::net};
    let name = format!("smpnet-test-notify-{}", std::process::id());
    let manager = net::UnixDatagram::bind_addr(&net::SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let next = |wanted: &str| {
        let mut buffer = [0; 256];
        loop {
            let n = manager.recv(&mut buffer).unwrap_or_else(|e| panic!("waiting for {wanted}: {e}"));
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            if text.contains(wanted) {
                return text;
            }
        }
    };
    let notify = format!("@{name}");
    let d = Daemon::start_with("notify", TWO_PORTS, &[("NOTIFY_SOCKET", &notify), ("WATCHDOG_USEC", "200000")]);
    next("READY=1");
    next("WATCHDOG=1");
    next("WATCHDOG=1");
    d.signal("HUP");
    assert!(next("RELOADING=1").contains("MONOTONIC_USEC="));
    next("READY=1");
    let (status, log) = d.stop();
    assert!(status.success(), "{log}");
    next("STOPPING=1");
}

#[test]
fn a_packet_is_explained() {
    let d = Daemon::start("explain", TWO_PORTS);
    let mac = d.json(&["ifconfig", "lan0"])["mac"].as_str().unwrap().replace(':', "");
    // UDP from 10.0.1.2:4000 to 8.8.8.8:5000, which the filter drops; to 5001, which is forwarded.
    let packet =
        |port: &str| format!("{mac} 020000000102 0800 4500001c0000000040115fc00a00010208080808 0fa0 {port} 0008 0000");
    let dropped = d.json(&["explain", "--in", "lan0", "--packet", &packet("1388")]);
    let last = dropped.as_array().unwrap().last().unwrap().to_string();
    assert!(last.contains("filter") || last.contains("drop"), "{dropped}");
    let sent = d.json(&["explain", "--in", "lan0", "--packet", &packet("1389")]);
    assert!(sent.to_string().contains("wan0"), "{sent}");
    let e = d.refused(&["explain", "--in", "lan1", "--packet", "00"], 1);
    assert!(e.contains("no interface \"lan1\" (did you mean \"lan0\"?)"), "{e}");
}

/// A capture file of Ethernet frames.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for (n, frame) in frames.iter().enumerate() {
        let len = frame.len() as u32;
        for word in [1, n as u32, len, len] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(frame);
    }
    out
}

/// An Ethernet frame to lan0 of the example with a TCP packet to 192.0.2.9 and `port`.
fn tcp(port: u16) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 1, 2, 192, 0, 2, 9];
    let sum: u32 = ip.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 2, 8, 0];
    frame.extend(ip);
    frame.extend([0x0f, 0xa0]);
    frame.extend(port.to_be_bytes());
    frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
    frame
}

#[test]
fn the_pcap_example_runs_over_its_files_and_ends_with_a_summary() {
    let plugin = program().with_file_name("libsmpnet_pcap.so");
    assert!(plugin.exists(), "`cargo build --release -p smpnet-plugin-pcap` makes {}", plugin.display());
    let folder = std::env::temp_dir().join(format!("smpnet-test-{}-pcap", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/pcap.toml"), folder.join("pcap.toml")).unwrap();
    let frames: Vec<_> = (0..100).map(|n| tcp(if n % 4 == 0 { 23 } else { 80 })).collect();
    fs::write(folder.join("in.pcap"), pcap(&frames)).unwrap();
    let out = Command::new(program()).args(["run", "pcap.toml", "--json"]).current_dir(&folder).output().unwrap();
    let log = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{log}");
    let summary: Value = serde_json::from_slice(&out.stdout).unwrap();
    let dropped = |reason: &str| {
        let all = summary["drops"].as_array().unwrap().iter();
        all.filter(|d| d["reason"] == reason).filter_map(|d| d["packets"].as_u64()).sum::<u64>()
    };
    assert_eq!(summary["accounting"]["received"], 100, "{summary:#}\n{log}");
    assert_eq!(dropped("filtered"), 25, "{summary:#}\n{log}");
    assert_eq!(summary["accounting"]["missing"], 0, "{summary:#}\n{log}");
    let written = fs::read(folder.join("out.pcap")).unwrap();
    let forwarded = written.windows(4).filter(|w| *w == [192, 0, 2, 9]).count();
    assert_eq!(forwarded, 75, "{summary:#}\n{log}");
    assert!(!folder.join("smpnet.sock").exists());
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn controls_of_a_port_come_from_the_file_and_from_ifconfig_and_a_refusal_changes_nothing() {
    let with = |keys: &str| TWO_PORTS.replacen("driver = \"null\"", &format!("driver = \"null\"\n{keys}"), 1);
    let d = Daemon::start("controls", &with("promisc = true"));
    let lan = || d.json(&["ifconfig", "lan0"]);
    assert_eq!(lan()["promisc"], true);
    assert!(d.text(&["ifconfig", "lan0"]).contains("PROMISC"));
    d.text(&["ifconfig", "lan0", "-promisc"]);
    assert_eq!(lan()["promisc"], false);
    let steps = d.json(&["apply", "router.toml"]);
    assert_eq!(steps["steps"], json!(["lan0: promiscuous mode on"]), "the file's word counts again");
    // A null port has one address for ever and no list of multicasts: the other steps are undone.
    let before = lan();
    fs::write(d.folder.join("wrong.toml"), with("mac = \"02:00:00:00:00:77\"\nmtu = 1400")).unwrap();
    let said = d.refused(&["apply", "wrong.toml"], 1);
    assert!(said.contains("cannot change the Ethernet address: not supported"), "{said}");
    assert_eq!((&lan()["mac"], &lan()["mtu"], &lan()["promisc"]), (&before["mac"], &before["mtu"], &before["promisc"]));
    let said = d.refused(&["ifconfig", "lan0", "tso4"], 1);
    assert!(said.contains("the port does not offer tso4; it offers none"), "{said}");
    for (keys, says) in [
        ("offloads = [\"tso9\"]", "unknown offload \"tso9\" (did you mean \"tso"),
        ("mac = \"01:00:5e:00:00:01\"", "01:00:5e:00:00:01 is not the address of a station"),
        ("multicast = [\"02:00:00:00:00:01\"]", "02:00:00:00:00:01 is not a multicast address"),
    ] {
        fs::write(d.folder.join("wrong.toml"), with(keys)).unwrap();
        let said = d.refused(&["apply", "wrong.toml"], 1);
        assert!(said.contains("wrong.toml:10:") && said.contains(says), "{said}");
    }
    d.text(&["ifconfig", "v7", "create", "kind", "vlan", "parent=lan0", "id=7"]);
    d.text(&["ifconfig", "lan0", "-promisc"]);
    d.text(&["ifconfig", "v7", "link", "02:00:00:00:00:77"]);
    assert_eq!(lan()["promisc"], true, "frames to the vlan's own address arrive by it");
    assert_eq!(d.json(&["sysctl", "net.interfaces.lan0.promisc"])[0]["value"], 1);
    d.text(&["ifconfig", "v7", "-link"]);
    assert_eq!(lan()["promisc"], false);
    assert_eq!(d.json(&["ifconfig", "v7"])["mac"], lan()["mac"]);
}

/// A module that fails on every burst.
fn failing() -> Vec<u8> {
    let text = r#"(module
  (memory (export "memory") 1)
  (func (export "smpnet_ring") (result i32) (i32.const 1024))
  (func (export "smpnet_filter") (param i32) (result i32) (unreachable))
  (@custom "smpnet.filter" "{\"abi\":\"1.0\",\"name\":\"failing\",\"version\":\"1\"}"))"#;
    wat::parse_str(text).unwrap()
}

#[test]
fn a_filter_that_failed_is_told_and_apply_tries_it_again() {
    let traffic = TWO_PORTS.replacen("sink_only = true", "rate = 2000, dst = \"198.19.0.0/16\"", 1);
    let traffic = traffic.replace("drop = \"udp port 5000\"", "drop = \"udp port 5000\"\nfaults = \"1/60\"");
    let d = Daemon::start("failing", &traffic);
    fs::write(d.folder.join("bad.wasm"), failing()).unwrap();
    let bad = traffic.replace("drop = \"udp port 5000\"", "module = \"bad.wasm\"");
    fs::write(d.folder.join("bad.toml"), &bad).unwrap();
    d.text(&["apply", "bad.toml"]);
    let failed = || d.json(&["filter", "list"])[0]["failed"].as_str().map(str::to_owned);
    wait_for("the filter fails", &d, || failed().is_some());
    let list = d.text(&["filter", "list"]);
    assert!(list.contains("udp port 5000") && list.contains("block: generation 2 failed"), "{list}");
    let config = d.client.get("/v1/config").unwrap();
    assert_eq!(config["filters"][0]["source"]["expr"], "udp port 5000", "what came back is what is said to run");
    // The file asks for the program that failed: it is no empty difference.
    let steps = d.json(&["apply", "--dry-run", "bad.toml"]);
    let step = steps["steps"][0].as_str().unwrap();
    assert!(step.starts_with("swap filter block: module bad.wasm ("), "{steps:#}");
    assert!(steps["notes"][0].as_str().unwrap().contains("it is tried again"), "{steps:#}");
    assert!(steps["warnings"][0]["message"].as_str().unwrap().contains("does not run what it was told to"));
    // The file as it was before says what runs.
    assert_eq!(
        d.json(&["apply", "--dry-run", "router.toml"])["steps"],
        json!(["swap filter block: drop \"udp port 5000\""])
    );
    d.text(&["apply", "router.toml"]);
    assert_eq!(failed(), None);
    assert_eq!(d.json(&["apply", "router.toml"])["steps"], json!([]));
}

#[test]
fn many_routes_come_as_one_transaction_and_a_wrong_one_is_named() {
    // Addresses are ours at once, so that no route comes later.
    let two_ports = format!("{TWO_PORTS}\"net.inet.ip.dad_count\" = 0\n");
    let d = Daemon::start("bulk", &two_ports);
    let count = || d.json(&["sysctl", "net.inet.ip.routes"])[0]["value"].as_u64().unwrap();
    let own = count();
    let file = |name: &str, text: &str| fs::write(d.folder.join(name), text).unwrap();
    file("few.txt", "# three\n172.16.0.0/16 10.0.2.2\nadd 172.17.0.0/16 -reject\n172.18.0.0/16 10.0.2.3 10.0.1.3\n");
    assert_eq!(d.text(&["route", "-f", "few.txt"]), "3 added, 0 changed, 0 deleted\n");
    file("more.txt", "change 172.16.0.0/16 10.0.2.9\ndelete 172.17.0.0/16\nadd 172.17.0.0/16 -blackhole\n");
    assert_eq!(d.text(&["route", "add", "--file", "more.txt"]), "1 added, 1 changed, 1 deleted\n");
    assert_eq!(d.json(&["route", "get", "172.16.0.1"])["route"]["nexthops"][0]["via"], "10.0.2.9");
    let before = d.json(&["route"]);
    for (text, says) in [
        ("172.20.0.0/16 10.0.2.2\n172.21.0.1/16 10.0.2.2\n", "wrong.txt:2: 172.21.0.1/16 has bits behind"),
        ("172.20.0.0/16 10.0.2.2\n\n172.16.0.0/16 10.0.2.2\n", "wrong.txt:3: add route 172.16.0.0/16"),
        ("172.20.0.0/16 10.0.2.2\n172.21.0.0/16 10.7.7.7\n", "wrong.txt:2: add route 172.21.0.0/16"),
        ("delete 172.16.0.0/16\ndelete 172.16.0.0/16\n", "wrong.txt:2: delete net 172.16.0.0/16: not in table"),
    ] {
        file("wrong.txt", text);
        let said = d.refused(&["route", "-f", "wrong.txt"], 1);
        assert!(said.contains(says) && said.contains("nothing was changed"), "{said}");
        assert_eq!(d.json(&["route"]), before);
    }
    let entries =
        json!({"routes": [{"to": "172.30.0.0/16", "via": "10.0.2.2"}, {"to": "172.16.0.0/16", "type": "reject"}]});
    let Err(ClientError::Refused { error, .. }) = d.client.post("/v1/routes/bulk", &entries) else { panic!("taken") };
    assert!(error.starts_with("entry 2: add route 172.16.0.0/16"), "{error}");
    let large = json!({"text": "#".repeat(130 << 20)});
    let Err(ClientError::Refused { status, error, .. }) = d.client.post("/v1/routes/bulk", &large) else {
        panic!("taken")
    };
    assert_eq!((status, error.as_str()), (413, "the request's body is larger than 128 MiB; nothing was changed"));
    assert_eq!(d.json(&["route"]), before);
    let line = |n: u32| format!("{}/24 10.0.2.2\n", std::net::Ipv4Addr::from(0x1400_0000 + (n << 8)));
    file("million.txt", &(0..1_000_000).map(line).collect::<String>());
    let began = Instant::now();
    d.text(&["route", "-f", "million.txt"]);
    println!("a million routes by `route -f` in {:?}", began.elapsed());
    assert_eq!(count(), own + 3 + 1_000_000);
    assert_eq!(d.json(&["route", "get", "20.1.2.3"])["route"]["dst"], "20.1.2.0/24");
    d.text(&["route", "flush"]);
    let toml: String = (0..100_000)
        .map(|n| {
            format!("[[route]]\nto = \"{}/24\"\nvia = \"10.0.2.2\"\n", std::net::Ipv4Addr::from(0x1400_0000 + (n << 8)))
        })
        .collect();
    file("large.toml", &format!("{two_ports}{toml}"));
    let began = Instant::now();
    d.text(&["apply", "large.toml"]);
    println!("100,000 routes by `apply` in {:?}", began.elapsed());
    let began = Instant::now();
    d.text(&["apply", "router.toml"]);
    println!("and away again in {:?}", began.elapsed());
    assert_eq!(count(), own, "{}", d.log());
}

#[test]
fn a_published_neighbour_without_an_address_has_the_interfaces_own() {
    let d = Daemon::start("auto", TWO_PORTS);
    d.text(&["arp", "-s", "10.0.1.9", "auto", "pub"]);
    let entry = || d.json(&["arp", "10.0.1.9"])[0].clone();
    assert_eq!((&entry()["state"], &entry()["mac"]), (&json!("published"), &d.json(&["ifconfig", "lan0"])["mac"]));
    let said = d.refused(&["arp", "-s", "10.0.1.8", "auto"], 2);
    assert!(said.contains("which only \"pub\" has a use for"), "{said}");
    let with = |keys: &str| format!("{TWO_PORTS}\n[[arp]]\naddress = \"10.0.1.9\"\nmac = \"auto\"\n{keys}\n");
    fs::write(d.folder.join("auto.toml"), with("")).unwrap();
    assert!(d.refused(&["apply", "auto.toml"], 1).contains("is \"auto\" only with publish = true"));
    fs::write(d.folder.join("auto.toml"), with("publish = true")).unwrap();
    assert_eq!(d.json(&["apply", "auto.toml"])["steps"], json!([]), "the file and the command say the same");
}
