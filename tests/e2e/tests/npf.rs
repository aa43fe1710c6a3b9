//! NPF in the running router, between Linux hosts: A is inside, B is outside and knows no way to A's network.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use smpnet_e2e::{Rig, does_not_reach, elements, reaches, second_link};
use smpnet_lab::{
    Amount, Capture, Host, Lab, LabError, Offloads, Ping, Result, TempDir, TwoHosts, check, run_tests, tests,
    traceroute, transfer,
};

fn main() -> ExitCode {
    run_tests(&tests![
        the_inside_is_hidden_behind_one_address,
        a_port_is_forwarded_to_a_server_inside,
        what_is_blocked_is_answered_as_the_rule_says,
        a_capture_of_drops_names_the_rule,
        a_trace_shows_the_way_through_the_rules,
        a_log_is_read_by_tcpdump,
        a_hairpin_brings_a_host_inside_to_a_server_inside,
        connections_of_two_workers_meet_their_answers,
        commands_print_what_npfctl_of_netbsd_prints,
        a_source_over_its_limit_is_shut_out_by_all_workers,
        the_path_mtu_is_learned_through_the_translation,
        fragments_pass_as_the_packet_that_they_are_of,
        connections_outlive_the_daemon,
        a_procedure_sends_packets_another_way,
        a_bad_configuration_changes_nothing,
        the_file_of_the_router_names_the_rules;
        alone:
        a_stream_outlives_fifty_reloads,
        no_packet_is_judged_by_half_a_configuration,
        offloads_and_translation_go_together,
    ])
}

const PATIENCE: Duration = Duration::from_secs(10);

fn failed(e: impl std::fmt::Display) -> LabError {
    LabError::Failed(e.to_string())
}

/// One address for all inside, a port for a server there, and nothing else comes in.
const NAT: &str = r#"
$wan = "right0"
$lan = "left0"
map $wan dynamic 10.0.1.0/24 -> 10.0.2.1
map $wan dynamic 10.0.1.2 port 8000 <- 10.0.2.1 port 80
map ruleset "map:guests" on $wan
table <shut> type ipset
procedure "plain" { normalize: "max-mss" 1400 }
group "out" on $wan {
    block in final from <shut>
    pass stateful out final from 10.0.1.0/24 name "way out"
    pass stateful in final proto tcp to 10.0.2.1 port 80
    pass stateful in final proto icmp icmp-type echo to 10.0.2.1
    ruleset "guests"
    block in all name "stranger"
}
group default { pass all }
"#;

/// The rig with `workers`, rules in force, and B without a way to A.
fn firewall(lab: Lab, workers: usize, rules: &str) -> Result<Rig> {
    let net = TwoHosts::new(lab)?;
    let config = format!("[runtime]\nworkers = {workers}\n\n{}", net.ports(""));
    start(net, &config, rules)
}

fn start(net: TwoHosts, config: &str, rules: &str) -> Result<Rig> {
    let rig = Rig::with(net, config)?;
    rig.net.b.delete_route(Ipv4Addr::UNSPECIFIED, 0)?;
    load(&rig, "npf.conf", rules)?;
    Ok(rig)
}

fn load(rig: &Rig, name: &str, rules: &str) -> Result<Value> {
    let path = rig.router.dir().write(name, rules)?;
    rig.router.json(&["npfctl", "reload", &path.display().to_string()])
}

/// A server on `host` that tells each client who it is to the server.
fn mirror(host: &Host, at: SocketAddrV4, clients: usize) -> Result<std::thread::JoinHandle<std::io::Result<()>>> {
    let listener = host.run(|| TcpListener::bind(at))?.map_err(failed)?;
    host.ns().spawn(move || {
        for _ in 0..clients {
            let (mut client, from) = listener.accept()?;
            client.write_all(format!("{from}\n").as_bytes())?;
        }
        Ok(())
    })
}

/// Who a client on `host` is to the server at `at`.
fn seen_as(host: &Host, at: SocketAddrV4) -> Result<SocketAddr> {
    let said = host.run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&at.into(), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    })?;
    said.map_err(|e| failed(format!("{} to {at}: {e}", host.name())))?.trim().parse().map_err(failed)
}

fn the_inside_is_hidden_behind_one_address(lab: Lab) -> Result<()> {
    let rig = firewall(lab, 1, NAT)?;
    reaches(&rig.net.a, TwoHosts::B)?;
    does_not_reach(&rig.net.b, TwoHosts::A)?;
    reaches(&rig.net.b, TwoHosts::R_RIGHT)?;
    let server = mirror(&rig.net.b, SocketAddrV4::new(TwoHosts::B, 5001), 2)?;
    let at = SocketAddrV4::new(TwoHosts::B, 5001);
    let (one, two) = (seen_as(&rig.net.a, at)?, seen_as(&rig.net.a, at)?);
    for seen in [one, two] {
        check(seen.ip() == TwoHosts::R_RIGHT, || format!("A is {seen} to B"))?;
    }
    check(one.port() != two.port(), || "two connections with one port".into())?;
    server.join().map_err(|_| failed("the server panicked"))?.map_err(failed)?;
    // UDP, and the error of a port that is closed finds back.
    let asked = rig.net.a.run(|| -> std::io::Result<ErrorKind> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((TwoHosts::B, 9))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(b"anybody?")?;
        Ok(socket.recv(&mut [0; 9]).map_or_else(|e| e.kind(), |_| ErrorKind::Other))
    })?;
    check(asked.as_ref().is_ok_and(|e| *e == ErrorKind::ConnectionRefused), || format!("{asked:?}"))?;
    let hops = traceroute(&rig.net.a, TwoHosts::B, 5)?;
    let from: Vec<_> = hops.iter().map(|h| (h.from, h.reached)).collect();
    check(from == [(Some(TwoHosts::R_LEFT), false), (Some(TwoHosts::B), true)], || format!("{hops:?}"))?;
    let sent = transfer(&rig.net.a, &rig.net.b, TwoHosts::B, 5002, Amount::Bytes(20 << 20))?;
    check(sent.clean(), || format!("{sent:?}"))?;
    rig.balanced()
}

fn a_port_is_forwarded_to_a_server_inside(lab: Lab) -> Result<()> {
    for workers in [1, 2] {
        let rig = firewall(lab, workers, NAT)?;
        let server = mirror(&rig.net.a, SocketAddrV4::new(TwoHosts::A, 8000), 20)?;
        for _ in 0..20 {
            let seen = seen_as(&rig.net.b, SocketAddrV4::new(TwoHosts::R_RIGHT, 80))?;
            check(seen.ip() == TwoHosts::B, || format!("{workers} workers: B is {seen} to A"))?;
        }
        server.join().map_err(|_| failed("the server panicked"))?.map_err(failed)?;
        rig.balanced()?;
    }
    Ok(())
}

/// How a connection of `host` to `to` ends.
fn connects(host: &Host, to: Ipv4Addr, port: u16) -> Result<std::result::Result<(), ErrorKind>> {
    let at = SocketAddr::from((to, port));
    Ok(host.run(|| TcpStream::connect_timeout(&at, Duration::from_millis(700)))?.map(drop).map_err(|e| e.kind()))
}

fn what_is_blocked_is_answered_as_the_rule_says(lab: Lab) -> Result<()> {
    let rig = firewall(
        lab,
        2,
        "group default {\n pass all\n block return-rst in on right0 proto tcp to any port 81\n \
         block return-icmp in on right0 proto tcp to any port 82\n block in on right0 proto tcp to any port 83\n \
         block return out on right0 proto tcp to any port 84\n}",
    )?;
    rig.net.b.add_route(Ipv4Addr::UNSPECIFIED, 0, TwoHosts::R_RIGHT)?;
    let wanted = [(81, ErrorKind::ConnectionRefused), (82, ErrorKind::HostUnreachable), (83, ErrorKind::TimedOut)];
    for (port, kind) in wanted {
        let end = connects(&rig.net.b, TwoHosts::A, port)?;
        check(end == Err(kind), || format!("port {port}: {end:?}, not {kind:?}"))?;
    }
    let end = connects(&rig.net.a, TwoHosts::B, 84)?;
    check(end == Err(ErrorKind::ConnectionRefused), || format!("port 84: {end:?}"))?;
    let stats = rig.router.json(&["npfctl", "stats"])?;
    check(stats["answers"].as_u64() >= Some(3), || format!("{stats}"))?;
    check(rig.drops("filtered")? >= 4, || "drops are not counted".into())?;
    rig.balanced()
}

fn a_capture_of_drops_names_the_rule(lab: Lab) -> Result<()> {
    let rig = firewall(lab, 1, NAT)?;
    let (dir, socket) = (TempDir::new("npf")?, rig.router.socket());
    let file = dir.path().join("drops.pcapng");
    let mut capture = Command::new(smpnet_lab::binary("smpnet")?)
        .args(["--socket", &socket.display().to_string(), "bpf", "capture", "-i", "any", "--drops", "-c", "1", "-w"])
        .arg(&file)
        .spawn()
        .map_err(failed)?;
    let deadline = Instant::now() + PATIENCE;
    while capture.try_wait().map_err(failed)?.is_none() {
        check(Instant::now() < deadline, || "nothing was captured".into())?;
        let _ = connects(&rig.net.b, TwoHosts::R_RIGHT, 4444)?;
    }
    let bytes = fs::read(&file).map_err(failed)?;
    let said = String::from_utf8_lossy(&bytes);
    check(said.contains("\"stranger\""), || "the capture does not name the rule".into())
}

/// `smpnet npfctl ARGS` of a router, running, with its standard output.
fn npfctl(rig: &Rig, args: &[&str]) -> Result<std::process::Child> {
    let socket = rig.router.socket().display().to_string();
    Command::new(smpnet_lab::binary("smpnet")?)
        .args(["--socket", &socket, "npfctl"])
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)
}

fn a_trace_shows_the_way_through_the_rules(lab: Lab) -> Result<()> {
    let rig = firewall(lab, 2, NAT)?;
    let mut trace = npfctl(&rig, &["trace", "-c", "2", "--json", "tcp", "and", "dst", "port", "4444"])?;
    let deadline = Instant::now() + PATIENCE;
    while trace.try_wait().map_err(failed)?.is_none() {
        check(Instant::now() < deadline, || "nothing was traced".into())?;
        let _ = connects(&rig.net.b, TwoHosts::R_RIGHT, 4444)?;
    }
    let out = trace.wait_with_output().map_err(failed)?;
    let first = out.stdout.split(|b| *b == b'\n').next().unwrap_or_default();
    let said: Value = serde_json::from_slice(first).map_err(failed)?;
    check(said["verdict"] == "block" && said["rule"]["name"] == "stranger", || format!("{said}"))?;
    let matches = elements(&said["matches"]);
    check(matches.last().is_some_and(|m| m["name"] == "stranger"), || format!("{said}"))?;
    // A packet that is translated, and what it becomes.
    let mut trace =
        npfctl(&rig, &["trace", "-c", "1", "udp", "dst", "port", "4445", "and", "src", "net", "10.0.1.0/24"])?;
    let deadline = Instant::now() + PATIENCE;
    let mut seen = String::new();
    while trace.try_wait().map_err(failed)?.is_none() {
        check(Instant::now() < deadline, || "nothing was traced".into())?;
        let sent = rig.net.a.run(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", (TwoHosts::B, 4445)))?;
        sent.map_err(failed)?;
        std::thread::sleep(Duration::from_millis(20));
    }
    trace.stdout.take().map(|mut o| o.read_to_string(&mut seen)).transpose().map_err(failed)?;
    check(seen.contains("udp 10.0.1.2:"), || seen.clone())?;
    rig.balanced()
}

fn a_log_is_read_by_tcpdump(lab: Lab) -> Result<()> {
    let rig = firewall(lab, 2, &NAT.replace("block in all name", "block in all log name"))?;
    let (dir, deadline) = (TempDir::new("npf")?, Instant::now() + PATIENCE);
    let file = dir.path().join("log.pcap");
    let mut log = npfctl(&rig, &["log", "-c", "3", "-w", &file.display().to_string()])?;
    while log.try_wait().map_err(failed)?.is_none() {
        check(Instant::now() < deadline, || "nothing was logged".into())?;
        let _ = connects(&rig.net.b, TwoHosts::R_RIGHT, 4444)?;
    }
    let read = Command::new("tcpdump").args(["-n", "-e", "-r"]).arg(&file).output();
    let said = read.map_err(|e| failed(format!("tcpdump, of the package tcpdump: {e}")))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    check(said.matches("block in on right0").count() == 3 && said.contains("10.0.2.1.4444"), || said.clone())?;
    let wrong = rig.router.fails(&["npfctl", "log", "-i", "npflog7"])?;
    check(wrong.contains("there is npflog0"), || wrong.clone())
}

fn a_hairpin_brings_a_host_inside_to_a_server_inside(lab: Lab) -> Result<()> {
    for workers in [1, 2] {
        let rules = NAT.replace(
            "map $wan dynamic 10.0.1.0/24 -> 10.0.2.1\n",
            "map $wan dynamic endpoint-independent hairpin 10.0.1.0/24 -> 10.0.2.1\n",
        );
        let rig = firewall(lab, workers, &rules)?;
        // One socket inside talks to the outside, and another one inside to where the first one is seen.
        let server = rig.net.b.run(|| UdpSocket::bind((TwoHosts::B, 3478)))?.map_err(failed)?;
        let told =
            rig.net.b.ns().spawn(move || -> std::io::Result<SocketAddr> { Ok(server.recv_from(&mut [0; 16])?.1) })?;
        let first = rig.net.a.run(|| UdpSocket::bind("0.0.0.0:0"))?.map_err(failed)?;
        first.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        first.send_to(b"who am I", (TwoHosts::B, 3478)).map_err(failed)?;
        let outer = told.join().map_err(|_| failed("the server panicked"))?.map_err(failed)?;
        check(outer.ip() == TwoHosts::R_RIGHT, || format!("{outer}"))?;
        let second = rig.net.a.run(|| UdpSocket::bind("0.0.0.0:0"))?.map_err(failed)?;
        second.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        second.send_to(b"hello", outer).map_err(failed)?;
        let mut buffer = [0; 16];
        let (n, from) = first.recv_from(&mut buffer).map_err(|e| failed(format!("{workers} workers: {e}")))?;
        check(&buffer[..n] == b"hello" && from.ip() == TwoHosts::R_RIGHT, || format!("from {from}"))?;
        first.send_to(b"back", from).map_err(failed)?;
        let (n, from) = second.recv_from(&mut buffer).map_err(|e| failed(format!("{workers} workers, back: {e}")))?;
        check(&buffer[..n] == b"back" && from == outer, || format!("back from {from}"))?;
        rig.balanced()?;
    }
    Ok(())
}

fn connections_of_two_workers_meet_their_answers(lab: Lab) -> Result<()> {
    const EACH: usize = 100;
    let rig = firewall(lab, 2, NAT)?;
    let server = mirror(&rig.net.b, SocketAddrV4::new(TwoHosts::B, 5001), EACH)?;
    for _ in 0..EACH {
        seen_as(&rig.net.a, SocketAddrV4::new(TwoHosts::B, 5001))?;
    }
    server.join().map_err(|_| failed("the server panicked"))?.map_err(failed)?;
    for _ in 0..20 {
        reaches(&rig.net.a, TwoHosts::B)?;
    }
    let echo = rig.net.b.run(|| UdpSocket::bind((TwoHosts::B, 5353)))?.map_err(failed)?;
    let server = rig.net.b.ns().spawn(move || -> std::io::Result<()> {
        let mut buffer = [0; 64];
        for _ in 0..EACH {
            let (n, from) = echo.recv_from(&mut buffer)?;
            echo.send_to(&buffer[..n], from)?;
        }
        Ok(())
    })?;
    let asked = rig.net.a.run(|| -> std::io::Result<()> {
        for _ in 0..EACH {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send_to(b"query", (TwoHosts::B, 5353))?;
            socket.recv(&mut [0; 64])?;
        }
        Ok(())
    })?;
    asked.map_err(failed)?;
    server.join().map_err(|_| failed("the server panicked"))?.map_err(failed)?;
    let listed = rig.router.json(&["npfctl", "list", "-n"])?;
    let workers: std::collections::BTreeSet<u64> =
        elements(&listed["connections"]).iter().filter_map(|c| c["worker"].as_u64()).collect();
    check(workers.len() == 2, || format!("connections are on workers {workers:?}"))?;
    check(elements(&listed["connections"]).len() >= 2 * EACH, || "connections are missing".into())?;
    let stats = rig.router.json(&["npfctl", "stats"])?;
    check(stats["taken_over"].as_u64() > Some(0) && stats["queue_full"] == 0, || format!("{stats}"))?;
    check(stats["invalid_state"] == 0 && stats["nat_conflict"] == 0, || format!("{stats}"))?;
    rig.balanced()
}

fn commands_print_what_npfctl_of_netbsd_prints(lab: Lab) -> Result<()> {
    let rig = firewall(lab, 2, NAT)?;
    let ok = |args: &[&str]| rig.router.ok(&[&["npfctl"], args].concat());
    let shown = ok(&["show"])?;
    check(shown.starts_with("# filtering:\tactive\n# config:\tloaded\n") && shown.contains("# id=\""), || {
        shown.clone()
    })?;
    check(ok(&["table", "shut", "add", "10.0.2.2"])?.trim() == "npfctl: success", || "table add".into())?;
    check(ok(&["table", "shut", "test", "10.0.2.2"])?.trim() == "npfctl: match", || "table test".into())?;
    check(ok(&["table", "shut", "list"])?.trim() == "10.0.2.2", || "table list".into())?;
    does_not_reach(&rig.net.b, TwoHosts::R_RIGHT)?;
    let again = rig.router.fails(&["npfctl", "table", "shut", "add", "10.0.2.2"])?;
    check(again.contains("entry already exists or is conflicting"), || again.clone())?;
    let wrong = rig.router.fails(&["npfctl", "table", "shut", "add", "10.0.0.0/8"])?;
    check(wrong.contains("holds addresses"), || wrong.clone())?;
    ok(&["table", "shut", "rem", "10.0.2.2"])?;
    reaches(&rig.net.b, TwoHosts::R_RIGHT)?;
    let missing = rig.router.fails(&["npfctl", "table", "shut", "rem", "10.0.2.2"])?;
    check(missing.contains("not found"), || missing.clone())?;

    let added = ok(&["rule", "guests", "add", "pass", "in", "final", "proto", "udp", "to", "10.0.2.1", "port", "7"])?;
    let id = added.trim().strip_prefix("OK ").ok_or_else(|| failed(&added))?.to_owned();
    check(ok(&["rule", "guests", "list"])?.contains(&id), || "rule list".into())?;
    let asked = rig.net.b.run(|| -> std::io::Result<ErrorKind> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((TwoHosts::R_RIGHT, 7))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(b"echo")?;
        Ok(socket.recv(&mut [0; 9]).map_or_else(|e| e.kind(), |_| ErrorKind::Other))
    })?;
    check(asked.as_ref().is_ok_and(|e| *e == ErrorKind::ConnectionRefused), || format!("the rule lets in: {asked:?}"))?;
    ok(&["rule", "guests", "rem-id", &id])?;
    check(ok(&["rule", "guests", "list"])?.trim().is_empty(), || "the rule is still there".into())?;
    let forward = "map right0 dynamic 10.0.1.2 port 8001 <- 10.0.2.1 port 81";
    let added = ok(&["rule", "map:guests", "add", forward])?;
    let id = added.trim().strip_prefix("OK ").ok_or_else(|| failed(&added))?.to_owned();
    ok(&["rule", "guests", "add", "pass stateful in final proto tcp to 10.0.2.1 port 81"])?;
    let list = ok(&["rule", "map:guests", "list"])?;
    check(list.contains(&id) && list.contains("10.0.1.2 port 8001"), || list.clone())?;
    let inside = rig.net.a.run(|| TcpListener::bind((TwoHosts::A, 8001)))?.map_err(failed)?;
    let knock = || rig.net.b.run(|| TcpStream::connect_timeout(&(TwoHosts::R_RIGHT, 81).into(), PATIENCE / 5));
    knock()?.map_err(failed)?;
    drop(inside);
    for refused in ["map right0 dynamic 10.0.1.2 <-", "pass all"] {
        let said = rig.router.fails(&["npfctl", "rule", "map:guests", "add", refused])?;
        check(said.contains("expected"), || said.clone())?;
    }
    ok(&["rule", "map:guests", "rem", forward])?;
    check(ok(&["rule", "map:guests", "list"])?.trim().is_empty(), || "the map is still there".into())?;
    check(knock()?.is_err(), || "the port is still forwarded".into())?;
    let metrics = rig.router.client().request("GET", "/metrics", None)?.text();
    for sample in
        ["smpnet_npf_passed_rules_total ", "smpnet_npf_connections ", "smpnet_npf_rule_packets_total{rule=\"way out\""]
    {
        check(metrics.contains(sample), || format!("{sample}\n{metrics}"))?;
    }
    let unknown = rig.router.fails(&["npfctl", "rule", "nobody", "list"])?;
    check(unknown.contains("ruleset \"nobody\" not found"), || unknown.clone())?;

    reaches(&rig.net.a, TwoHosts::B)?;
    let list = ok(&["list"])?;
    check(list.starts_with("# src-addr:port dst-addr:port interface nat-addr:port\n"), || list.clone())?;
    check(list.contains(" right0 10.0.2.1:"), || list.clone())?;
    check(ok(&["stats"])?.contains(" ruleset pass\n"), || "stats".into())?;
    ok(&["stop"])?;
    check(ok(&["show"])?.starts_with("# filtering:\tinactive\n# config:\tloaded\n"), || "stop".into())?;
    ok(&["start"])?;
    ok(&["flush"])?;
    let shown = ok(&["show"])?;
    check(shown.starts_with("# filtering:\tactive\n"), || shown.clone())?;
    check(ok(&["list"])?.lines().count() == 1, || "connections outlive a flush".into())?;
    rig.balanced()
}

fn a_source_over_its_limit_is_shut_out_by_all_workers(lab: Lab) -> Result<()> {
    let rig = firewall(
        lab,
        2,
        "table <loud> type ipset timeout 1h\ngroup default {\n block in final from <loud>\n \
         pass stateful in final on left0 proto udp all limit states 5 per source overload <loud>\n pass all\n}",
    )?;
    rig.net.b.add_route(Ipv4Addr::UNSPECIFIED, 0, TwoHosts::R_RIGHT)?;
    reaches(&rig.net.a, TwoHosts::B)?;
    rig.net
        .a
        .run(|| -> std::io::Result<()> {
            for port in 0..40 {
                UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", (TwoHosts::B, 7000 + port))?;
            }
            Ok(())
        })?
        .map_err(failed)?;
    rig.wait(&["npfctl", "table", "loud", "list"], PATIENCE, |t| elements(&t["entries"]).len() == 1)?;
    does_not_reach(&rig.net.a, TwoHosts::B)?;
    rig.router.ok(&["npfctl", "table", "loud", "flush"])?;
    reaches(&rig.net.a, TwoHosts::B)
}

fn the_path_mtu_is_learned_through_the_translation(lab: Lab) -> Result<()> {
    let net = TwoHosts::new(lab)?;
    net.r.set_mtu("right", 1280)?;
    net.b.set_mtu("eth0", 1280)?;
    let config = net.ports("").replace("name = \"right0\"", "name = \"right0\"\nmtu = 1280");
    let rig = start(net, &config, NAT)?;
    let report = Ping::to(TwoHosts::B).payload(1400).dont_fragment().count(1).run(&rig.net.a)?;
    check(report.errors.iter().any(|e| (e.kind, e.code, e.extra) == (3, 4, 1280)), || format!("{report:?}"))?;
    let sent = transfer(&rig.net.a, &rig.net.b, TwoHosts::B, 5001, Amount::Bytes(4 << 20))?;
    check(sent.clean(), || format!("{sent:?}"))
}

fn fragments_pass_as_the_packet_that_they_are_of(lab: Lab) -> Result<()> {
    for workers in [1, 2] {
        let rig = firewall(lab, workers, NAT)?;
        let report = Ping::to(TwoHosts::B).payload(20_000).count(5).run(&rig.net.a)?;
        let told = || {
            let (drops, stats) = (rig.router.client().get("/v1/drops"), rig.router.json(&["npfctl", "stats"]));
            format!("{workers} workers: {report:?}\n{drops:?}\n{stats:?}")
        };
        check(report.clean(), told)?;
        rig.balanced()?;
    }
    Ok(())
}

fn a_procedure_sends_packets_another_way(lab: Lab) -> Result<()> {
    let net = TwoHosts::new(lab)?;
    let config = format!("{}{}", net.ports(""), second_link(&net)?);
    let rules = "procedure \"round\" { route: \"route-interface\" right1 }\ngroup default {\n pass all\n \
                 pass in on left0 proto udp to any port 53 apply \"round\"\n}\n";
    let rig = Rig::with(net, &config)?;
    load(&rig, "npf.conf", rules)?;
    // B answers there for an address of another network only if it is told so.
    rig.router.ok(&["arp", "-s", "10.0.2.2", "02:00:00:00:03:02", "-i", "right1"])?;
    let seen = |port: u16| -> Result<bool> {
        let capture = Capture::open(&rig.net.b, "eth1")?;
        let sent = rig.net.a.run(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", (TwoHosts::B, port)))?;
        sent.map_err(failed)?;
        let frames = capture.collect(Duration::from_millis(500))?;
        Ok(frames.iter().any(|f| f.ipv4().is_some_and(|ip| ip.protocol == 17)))
    };
    check(seen(53)?, || "it did not leave by right1".into())?;
    check(!seen(54)?, || "what no rule sends there left by right1".into())?;
    rig.balanced()
}

fn connections_outlive_the_daemon(lab: Lab) -> Result<()> {
    let rules = NAT.replace("table <shut> type ipset", "table <shut> type ipset timeout 1h");
    let mut rig = firewall(lab, 2, &rules)?;
    // A stream that is there before the restart and goes on after it, through the translation.
    let listener = rig.net.b.run(|| TcpListener::bind((TwoHosts::B, 5001)))?.map_err(failed)?;
    let server = rig.net.b.ns().spawn(move || -> std::io::Result<String> {
        let (mut stream, _) = listener.accept()?;
        let mut all = String::new();
        stream.read_to_string(&mut all)?;
        Ok(all)
    })?;
    let mut stream = rig.net.a.run(|| TcpStream::connect((TwoHosts::B, 5001)))?.map_err(failed)?;
    stream.write_all(b"before ").map_err(failed)?;
    rig.router.ok(&["npfctl", "table", "shut", "add", "203.0.113.9"])?;
    rig.router.ok(&["npfctl", "rule", "guests", "add", "block", "in", "from", "203.0.113.10"])?;
    let dir = TempDir::new("npf")?;
    let file = dir.path().join("state").display().to_string();
    let saved = rig.router.json(&["npfctl", "save", &file])?;
    check(saved["lines"].as_u64() >= Some(5), || format!("{saved}"))?;
    let before = rig.router.json(&["npfctl", "list", "-n"])?;
    rig.router.stop()?;
    let config = format!("[runtime]\nworkers = 1\n\n{}", rig.net.ports(""));
    let Rig { net, router: _ } = rig;
    let rig = Rig::with(net, &config)?;
    let loaded = rig.router.json(&["npfctl", "load", &file])?;
    check(loaded["refused"].as_object().is_some_and(serde_json::Map::is_empty), || format!("{loaded}"))?;
    check(loaded["connections"].as_u64() >= Some(1), || format!("{loaded}"))?;
    let after = rig.router.json(&["npfctl", "list", "-n"])?;
    let ends = |list: &Value| {
        let all = elements(&list["connections"]).iter();
        all.filter(|c| c["proto"] == 6).map(|c| format!("{} {}", c["source"], c["translated"])).collect::<Vec<_>>()
    };
    check(!ends(&before).is_empty() && ends(&before) == ends(&after), || format!("{before}\n{after}"))?;
    stream.write_all(b"after").map_err(failed)?;
    drop(stream);
    let all = server.join().map_err(|_| failed("the server panicked"))?.map_err(failed)?;
    check(all == "before after", || all.clone())?;
    check(rig.router.ok(&["npfctl", "table", "shut", "list"])?.trim() == "203.0.113.9", || "the table".into())?;
    check(rig.router.ok(&["npfctl", "rule", "guests", "list"])?.contains("203.0.113.10"), || "the rule".into())?;
    rig.balanced()
}

fn a_bad_configuration_changes_nothing(lab: Lab) -> Result<()> {
    let rig = firewall(lab, 1, NAT)?;
    let before = rig.router.ok(&["npfctl", "show"])?;
    let path = rig.router.dir().write("bad.conf", "group default {\n pass in fnal all\n}\n")?;
    let said = rig.router.fails(&["npfctl", "reload", &path.display().to_string()])?;
    check(said.contains("bad.conf:2:10: error:") && said.contains("did you mean \"final\"?"), || said.clone())?;
    check(rig.router.ok(&["npfctl", "show"])? == before, || "something has changed".into())?;
    reaches(&rig.net.a, TwoHosts::B)
}

fn the_file_of_the_router_names_the_rules(lab: Lab) -> Result<()> {
    let dir = TempDir::new("npf")?;
    dir.write("shut.txt", "10.0.2.2\n")?;
    let rules = dir.write(
        "npf.conf",
        "table <shut> type ipset file \"shut.txt\"\ngroup default {\n pass all\n block in from <shut>\n}\n",
    )?;
    let net = TwoHosts::new(lab)?;
    let base = format!("[sysctl]\n\"net.inet.ip.dad_count\" = 0\n\n{}", net.ports(""));
    let config = format!("{base}[npf]\nconfig = \"{}\"\nconnections = 1000\n", rules.display());
    // B does not get an answer, so the rig that waits for one is not for this.
    let router = smpnet_lab::Daemon::start(&net.r, &config)?;
    let rig = Rig { net, router };
    let reached = Ping::to(TwoHosts::R_LEFT).count(50).timeout(Duration::from_millis(200)).run(&rig.net.a)?;
    check(reached.received > 0, || format!("{reached:?}"))?;
    does_not_reach(&rig.net.b, TwoHosts::R_RIGHT)?;
    // Another file of the table is a change of its own.
    dir.write("shut.txt", "10.0.1.2\n")?;
    let applied = rig.router.json(&["apply", &rig.router.config_path().display().to_string()])?;
    check(elements(&applied["steps"]).len() == 1, || format!("{applied}"))?;
    reaches(&rig.net.b, TwoHosts::R_RIGHT)?;
    does_not_reach(&rig.net.a, TwoHosts::R_LEFT)?;
    rig.router.write_config(&base)?;
    rig.router.ok(&["apply", &rig.router.config_path().display().to_string()])?;
    reaches(&rig.net.a, TwoHosts::R_LEFT)?;
    let path = rig.router.write_config(&format!("{base}[npf]\nconfig = \"nowhere.conf\"\n"))?;
    let said = rig.router.fails(&["apply", &path.display().to_string()])?;
    check(said.contains("nowhere.conf"), || said.clone())
}

fn a_stream_outlives_fifty_reloads(lab: Lab) -> Result<()> {
    let rig = firewall(lab, 2, NAT)?;
    // The rules that the stream needs stay; others come and go around them.
    let mut versions = Vec::new();
    for n in 0..2 {
        let more: String =
            (0..200 * n).map(|i| format!("    block in from 203.0.113.{} port {i}\n", i % 256)).collect();
        let rules = NAT.replace("    ruleset \"guests\"\n", &format!("    ruleset \"guests\"\n{more}"));
        versions.push(rig.router.dir().write(&format!("v{n}.conf"), &rules)?);
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    let (stream, reloads) = std::thread::scope(|s| {
        let reloader = s.spawn(|| -> Result<usize> {
            let mut n = 0;
            while n < 50 || !done.load(std::sync::atomic::Ordering::Relaxed) {
                let file = versions[n % 2].display().to_string();
                rig.router.ok(&["npfctl", "reload", &file])?;
                n += 1;
                if n > 2000 {
                    break;
                }
            }
            Ok(n)
        });
        let stream = transfer(&rig.net.a, &rig.net.b, TwoHosts::B, 5001, Amount::Time(Duration::from_secs(4)));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        (stream, reloader.join())
    });
    let (stream, reloads) = (stream?, reloads.map_err(|_| failed("the reloader panicked"))??);
    check(stream.clean() && reloads >= 50, || format!("{stream:?} with {reloads} reloads"))?;
    let listed = rig.router.json(&["npfctl", "list"])?;
    check(!elements(&listed["connections"]).is_empty(), || "the connection is gone".into())?;
    rig.balanced()
}

/// Ten reloads a second; with SMPNET_LONG, for a minute. Each of the two configurations lets out what it has let in itself, by its
/// own tag, and nothing else.
fn no_packet_is_judged_by_half_a_configuration(lab: Lab) -> Result<()> {
    let rules = |tag: &str| {
        format!(
            "group \"left\" on left0 {{ pass in final all tag \"{tag}\"\n pass out final all tagged \"{tag}\"\n block out all }}\n\
             group \"right\" on right0 {{ pass in final all tag \"{tag}\"\n pass out final all tagged \"{tag}\"\n block out all }}\n\
             group default {{ pass all }}\n"
        )
    };
    let net = TwoHosts::new(lab)?;
    let config = format!("[runtime]\nworkers = 2\n\n{}", net.ports(""));
    let rig = Rig::with(net, &config)?;
    let versions =
        [rig.router.dir().write("one.conf", &rules("one"))?, rig.router.dir().write("two.conf", &rules("two"))?];
    rig.router.ok(&["npfctl", "reload", &versions[0].display().to_string()])?;
    reaches(&rig.net.a, TwoHosts::B)?;
    let long = std::env::var_os("SMPNET_LONG").is_some();
    let time = Duration::from_secs(if long { 60 } else { 4 });
    let done = std::sync::atomic::AtomicBool::new(false);
    let (stream, reloads) = std::thread::scope(|s| {
        let reloader = s.spawn(|| -> Result<usize> {
            let (began, mut n) = (Instant::now(), 0);
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                n += 1;
                rig.router.ok(&["npfctl", "reload", &versions[n % 2].display().to_string()])?;
                std::thread::sleep(Duration::from_millis(100 * n as u64).saturating_sub(began.elapsed()));
            }
            Ok(n)
        });
        let stream = transfer(&rig.net.a, &rig.net.b, TwoHosts::B, 5001, Amount::Time(time));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        (stream, reloader.join())
    });
    let (stream, reloads) = (stream?, reloads.map_err(|_| failed("the reloader panicked"))??);
    let stats = rig.router.json(&["npfctl", "stats"])?;
    let blocked = [&stats["blocked_rules"], &stats["blocked_default"]];
    check(blocked == [&Value::from(0), &Value::from(0)], || format!("after {reloads} reloads: {stats}"))?;
    check(stream.clean() && reloads >= 20, || format!("{stream:?} with {reloads} reloads"))?;
    rig.balanced()
}

fn offloads_and_translation_go_together(lab: Lab) -> Result<()> {
    for on in [true, false] {
        let net = TwoHosts::new(lab)?;
        let offloads = if on { Offloads::ALL } else { Offloads::NONE };
        for (host, link) in [(&net.a, "eth0"), (&net.b, "eth0")] {
            host.set_offloads(link, offloads)?;
        }
        let config = format!("[runtime]\nworkers = 2\n\n{}", net.ports(""));
        let rules = NAT.replace("from 10.0.1.0/24 name", "from 10.0.1.0/24 apply \"plain\" name");
        let rig = start(net, &config, &rules)?;
        let sent = transfer(&rig.net.a, &rig.net.b, TwoHosts::B, 5001, Amount::Bytes(50 << 20))?;
        check(sent.clean(), || format!("offloads {on}: {sent:?}"))?;
        rig.balanced()?;
    }
    Ok(())
}
