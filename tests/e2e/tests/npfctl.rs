//! `smpnet npfctl` without a daemon: what it says of configurations, and what it does with the packets of real hosts.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use smpnet_e2e::{Rig, reaches};
use smpnet_lab::{
    Amount, Host, Lab, LabError, Offloads, Result, TempDir, TwoHosts, UdpReceiver, UdpSender, binary, check, run_tests,
    skip, tests, transfer,
};

fn main() -> ExitCode {
    run_tests(&tests![
        all_errors_of_a_file_are_told_each_at_its_place,
        what_validate_prints_means_the_same,
        a_pf_conf_is_carried_over_and_what_is_not_is_told,
        both_engines_replay_alike,
        tcpdump_reads_what_was_logged_and_which_rule_it_was,
        a_pcap_file_is_replayed_too,
        every_packet_of_linux_tcp_belongs_to_its_connection,
        what_translation_makes_of_linux_packets_is_right_to_tshark,
    ])
}

fn failed(e: impl std::fmt::Display) -> LabError {
    LabError::Failed(e.to_string())
}

fn npfctl(args: &[&str]) -> Result<Output> {
    Command::new(binary("smpnet")?).arg("npfctl").args(args).output().map_err(failed)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn file(dir: &TempDir, name: &str, content: &str) -> Result<String> {
    let path = dir.path().join(name);
    fs::write(&path, content).map_err(failed)?;
    path.to_str().map(str::to_owned).ok_or_else(|| failed("the path is no text"))
}

fn all_errors_of_a_file_are_told_each_at_its_place(_lab: Lab) -> Result<()> {
    let dir = TempDir::new("npfctl").map_err(failed)?;
    let bad = "set portmap.min_port 99\ngroup default {\n\tpass stateful out finl all\n\tpass in from <nope>\n}\n";
    let path = file(&dir, "bad.conf", bad)?;
    let out = npfctl(&["validate", &path])?;
    let said = text(&out.stderr);
    check(out.status.code() == Some(1), || format!("{:?}: {said}", out.status))?;
    for part in
        ["bad.conf:1:22: error:", "bad.conf:3:20: error:", "did you mean \"final\"?", "bad.conf:4:15: error:", "^~~~"]
    {
        check(said.contains(part), || format!("{part:?} is missing in:\n{said}"))?;
    }
    let out = npfctl(&["validate", &path, "--json"])?;
    let all: Value = serde_json::from_slice(&out.stdout).map_err(failed)?;
    let lines: Vec<&Value> = all["diagnostics"].as_array().into_iter().flatten().map(|d| &d["line"]).collect();
    check(lines == [1, 3, 4], || format!("{all:#}"))
}

const HOME: &str = "\
$wan = \"eth0\"
table <friends> type lpm
map $wan dynamic 10.0.0.80 port 80 <- 192.0.2.1 port 8080
map $wan dynamic { 10.0.0.0/16 } -> 192.0.2.1
procedure \"plain\" { normalize: \"max-mss\" 1200, \"no-df\" }
group \"wan\" on $wan {
	pass stateful out final all apply \"plain\"
	pass stateful in final proto tcp from <friends> to 192.0.2.1 port { 22, 8080 } name \"web\" limit states 100 per source
	block return in final family inet6 all log
	block in all
}
group default { pass all }
";

fn what_validate_prints_means_the_same(_lab: Lab) -> Result<()> {
    let dir = TempDir::new("npfctl").map_err(failed)?;
    let once = npfctl(&["validate", &file(&dir, "home.conf", HOME)?])?;
    check(once.status.success(), || text(&once.stderr))?;
    let twice = npfctl(&["valid", &file(&dir, "printed.conf", &text(&once.stdout))?])?;
    check(once.stdout == twice.stdout, || format!("{}\nbecame\n{}", text(&once.stdout), text(&twice.stdout)))
}

/// What becomes of lines of packets by a configuration.
fn replay(dir: &TempDir, config: &str, lines: &str, more: &[&str]) -> Result<Vec<Value>> {
    let (config, packets) = (file(dir, "npf.conf", config)?, file(dir, "packets", lines)?);
    let mut args = vec!["replay", "--json", "--config", &config, "--packets", &packets];
    args.extend(more);
    let out = npfctl(&args)?;
    check(out.status.success(), || text(&out.stderr))?;
    text(&out.stdout).lines().map(|l| serde_json::from_str(l).map_err(failed)).collect()
}

fn a_pf_conf_is_carried_over_and_what_is_not_is_told(_lab: Lab) -> Result<()> {
    let dir = TempDir::new("npfctl").map_err(failed)?;
    let pf = "ext = \"em0\"\ntable <bad> persist\nmatch out on $ext from 10.0.0.0/8 nat-to 192.0.2.1\nblock in quick from <bad>\n\
              pass in on $ext proto tcp to port { 22 80 } keep state label \"web\"\nscrub in all no-df\nblock in log all\n";
    let out = npfctl(&["convert", "pf", &file(&dir, "pf.conf", pf)?])?;
    let (text_, notes) = (text(&out.stdout), text(&out.stderr));
    check(out.status.success() && notes.contains("scrub"), || format!("{notes}\n{text_}"))?;
    for part in ["map \"em0\" dynamic 10.0.0.0/8 -> 192.0.2.1", "<bad>", "name \"web\"", "# not carried over: scrub"] {
        check(text_.contains(part), || format!("{part:?} is missing in:\n{text_}"))?;
    }
    let valid = npfctl(&["validate", &file(&dir, "npf.conf", &text_)?])?;
    check(valid.status.success(), || text(&valid.stderr))
}

fn both_engines_replay_alike(_lab: Lab) -> Result<()> {
    let dir = TempDir::new("npfctl").map_err(failed)?;
    let packet = |i: u32| {
        let mut bytes = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, if i.is_multiple_of(3) { 6 } else { 17 }, 0, 0, 10, 0];
        bytes.extend([(i % 7) as u8, i as u8, 192, 0, 2, 1, 4, 1, 0, (i % 90) as u8, 0, 8, 0, 0]);
        bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let dir_of = |i: u32| if i.is_multiple_of(2) { "in" } else { "out" };
    let line = |i: u32| json!({ "t": i, "if": "eth0", "dir": dir_of(i), "pkt": packet(i) }).to_string() + "\n";
    let lines: String = (0..500).map(line).collect();
    let rules = "group \"w\" in on eth0 {\n pass proto udp from 10.0.1.0/24 to any port 1-40\n block final from 10.0.2.0/23\n\
                 group \"x\" { pass from { 10.0.4.0/24, 10.0.5.0/24 } to any port { 53, 80 } name \"y\" }\n}\n\
                 group default { pass stateful out final proto udp all\n block in all }";
    let plan = replay(&dir, rules, &lines, &[])?;
    let literal = replay(&dir, rules, &lines, &["--engine", "reference"])?;
    let passed = plan.iter().filter(|j| j["verdict"] == "pass").count();
    check(plan == literal && (50..450).contains(&passed), || {
        format!("{passed} of 500 passed, alike: {}", plan == literal)
    })
}

fn tcpdump_reads_what_was_logged_and_which_rule_it_was(_lab: Lab) -> Result<()> {
    let dir = TempDir::new("npfctl").map_err(failed)?;
    let rules = "group \"w\" on eth0 {\n pass out final all log\n block in final proto udp to any port 53 name \"dns\" log\n block all\n}\n\
                 group default { block all }";
    // UDP from 10.0.0.1, port 1025, to 192.0.2.1, without data.
    let packet = |port: &str| format!("4500001c00000000401100000a000001c00002010401{port}00080000");
    let line = |t: u32, dir: &str, port: &str| {
        json!({ "t": t, "if": "eth0", "dir": dir, "pkt": packet(port) }).to_string() + "\n"
    };
    let lines = [line(1, "out", "0050"), line(2, "in", "0035"), line(3, "in", "0050")].concat();
    let log = dir.path().join("npflog.pcap");
    replay(&dir, rules, &lines, &["--npflog", log.to_str().ok_or_else(|| failed("the path is no text"))?])?;
    let out = Command::new("tcpdump").args(["-n", "-e", "-tt", "-r"]).arg(&log).output();
    let said = text(&out.map_err(|_| skip("needs tcpdump (Debian: apt-get install tcpdump)"))?.stdout);
    let rows: Vec<&str> = said.lines().collect();
    let good = rows.len() == 2
        && rows[0].starts_with("1.000000 rule 0")
        && rows[0].contains("pass out on eth0: 10.0.0.1.1025 > 192.0.2.1.80: UDP")
        && rows[1].contains("rule 1.dns")
        && rows[1].contains("block in on eth0: 10.0.0.1.1025 > 192.0.2.1.53");
    check(good, || format!("tcpdump said:\n{said}"))
}

fn a_pcap_file_is_replayed_too(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let mut tcpdump = Tcpdump::start(&rig, &rig.net.a, "icmp")?;
    reaches(&rig.net.a, TwoHosts::B)?;
    let captured = tcpdump.finish()?;
    let path = tcpdump.file.to_str().ok_or_else(|| failed("the path is no text"))?;
    let dir = TempDir::new("npfctl").map_err(failed)?;
    let config = file(&dir, "npf.conf", "group default { pass in final proto icmp icmp-type echo all\n block all }")?;
    let out =
        npfctl(&["replay", "--json", "--config", &config, "--packets", path, "--interface", "lan0", "--dir", "in"])?;
    check(out.status.success(), || text(&out.stderr))?;
    let verdicts: Vec<Value> =
        text(&out.stdout).lines().map(|l| serde_json::from_str(l).map_err(failed)).collect::<Result<_>>()?;
    let passed = verdicts.iter().filter(|v| v["verdict"] == "pass").count();
    let asked = captured.iter().filter(|p| p.bytes[20] == 8).count();
    check(asked > 0 && passed == asked && verdicts.len() == captured.len(), || {
        format!("{asked} requests: {verdicts:?}")
    })
}

/// tcpdump on a host's interface.
struct Tcpdump {
    child: Option<Child>,
    file: std::path::PathBuf,
}

/// A packet of a capture, from its IP header on.
struct Packet {
    seconds: f64,
    bytes: Vec<u8>,
}

impl Tcpdump {
    fn start(rig: &Rig, host: &Host, filter: &str) -> Result<Tcpdump> {
        let file = rig.router.dir().path().join("traffic.pcap");
        let mut command = Command::new("tcpdump");
        command
            .args(["-Z", "root", "-n", "-U", "-s", "2048", "-B", "65536", "-i", "eth0", "-w"])
            .arg(&file)
            .arg(filter);
        host.ns().attach(&mut command);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|_| skip("needs tcpdump (Debian: apt-get install tcpdump)"))?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::metadata(&file).map_or(0, |m| m.len()) < 24 {
            check(Instant::now() < deadline, || "tcpdump does not begin".into())?;
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Tcpdump { child: Some(child), file })
    }

    /// Ends it when nothing more is written, and reads what it wrote.
    fn finish(&mut self) -> Result<Vec<Packet>> {
        let mut size = 0;
        loop {
            std::thread::sleep(Duration::from_millis(1200));
            let now = fs::metadata(&self.file).map_err(failed)?.len();
            if now == size {
                break;
            }
            size = now;
        }
        self.end();
        read_pcap(&self.file)
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Tcpdump {
    fn drop(&mut self) {
        self.end();
    }
}

/// The IPv4 packets of a pcap file of Ethernet frames, as tcpdump writes it on this machine.
fn read_pcap(path: &Path) -> Result<Vec<Packet>> {
    let bytes = fs::read(path).map_err(failed)?;
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    let (mut all, mut at) = (Vec::new(), 24);
    while let (Some(seconds), Some(micros), Some(len)) = (word(at), word(at + 4), word(at + 8)) {
        let frame = bytes.get(at + 16..at + 16 + len as usize).ok_or_else(|| failed("the capture is cut off"))?;
        let seconds = f64::from(seconds) + f64::from(micros) / 1e6;
        if frame.get(12..14) == Some(&[8, 0]) {
            all.push(Packet { seconds, bytes: frame[14..].to_vec() });
        }
        at += 16 + len as usize;
    }
    Ok(all)
}

fn lines(packets: &[Packet], dir_of: impl Fn(&Packet) -> &'static str) -> String {
    let start = packets.first().map_or(0.0, |p| p.seconds);
    let line = |p: &Packet| {
        let hex: String = p.bytes.iter().map(|b| format!("{b:02x}")).collect();
        json!({ "t": p.seconds - start, "if": "eth0", "dir": dir_of(p), "pkt": hex }).to_string() + "\n"
    };
    packets.iter().map(line).collect()
}

/// Pings, datagrams and a TCP transfer both ways between A and B, as A's interface saw them. Nothing is cut behind tcpdump's back.
fn traffic(rig: &Rig) -> Result<Vec<Packet>> {
    for host in [&rig.net.a, &rig.net.b] {
        host.set_offloads("eth0", Offloads::NONE)?;
    }
    let mut tcpdump = Tcpdump::start(rig, &rig.net.a, "ip")?;
    reaches(&rig.net.a, TwoHosts::B)?;
    let receiver = UdpReceiver::start(&rig.net.b, TwoHosts::B, 5000, 4)?;
    UdpSender::new(TwoHosts::B, 5000).flows(4).payload(100).rate(2000.0).send(&rig.net.a, 200)?;
    receiver.finish()?;
    let report = transfer(&rig.net.a, &rig.net.b, TwoHosts::B, 5001, Amount::Bytes(4_000_000))?;
    check(report.clean(), || format!("{report:?}"))?;
    let all = tcpdump.finish()?;
    let tcp = all.iter().filter(|p| p.bytes[9] == 6).count();
    check(tcp > 1000, || format!("{tcp} TCP packets were captured"))?;
    Ok(all)
}

fn goes_out(p: &Packet) -> bool {
    p.bytes[12..16] == TwoHosts::A.octets()
}

/// Window scaling, selective acknowledgements and closing of a TCP that is not ours: none of it is invalid.
fn every_packet_of_linux_tcp_belongs_to_its_connection(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let all = traffic(&rig)?;
    let dir = TempDir::new("npfctl").map_err(failed)?;
    let config = "group \"a\" on eth0 {\n pass stateful out final all\n block in all\n}\ngroup default { block all }";
    let judged = replay(&dir, config, &lines(&all, |p| if goes_out(p) { "out" } else { "in" }), &[])?;
    check(judged.len() == all.len(), || format!("{} of {} packets", judged.len(), all.len()))?;
    let blocked: Vec<&Value> = judged.iter().filter(|j| j["verdict"] != "pass").collect();
    check(blocked.is_empty(), || format!("{} packets, the first: {}", blocked.len(), blocked[0]))?;
    let last = judged.iter().zip(&all).rfind(|(_, p)| p.bytes[9] == 6).map(|(j, _)| j["conn"].clone());
    check(last.as_ref().is_some_and(|s| s == "TIME_WAIT" || s == "CLOSED"), || format!("it ended as {last:?}"))
}

/// Pings and datagrams with other ports, and TCP, of which only one side is shown, with another address.
const TRANSLATED: &str = "\
map eth0 dynamic proto udp 10.0.1.0/24 -> 192.0.2.1
map eth0 dynamic proto icmp 10.0.1.0/24 -> 192.0.2.1
map eth0 static algo netmap 10.0.1.0/24 <-> 192.0.2.0/24
procedure \"plain\" { normalize: \"random-id\", \"max-mss\" 1200, \"no-df\" }
group default { pass out final all apply \"plain\" }
";

fn what_translation_makes_of_linux_packets_is_right_to_tshark(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let all: Vec<Packet> = traffic(&rig)?.into_iter().filter(goes_out).collect();
    let dir = TempDir::new("npfctl").map_err(failed)?;
    let judged = replay(&dir, TRANSLATED, &lines(&all, |_| "forw"), &[])?;
    let mut pcap = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 101] {
        pcap.extend(word.to_ne_bytes());
    }
    for j in &judged {
        let hex = j["out"].as_str().ok_or_else(|| failed(format!("not passed: {j}")))?;
        let pairs = hex.as_bytes().chunks(2).map(|b| u8::from_str_radix(&text(b), 16).map_err(failed));
        let bytes: Vec<u8> = pairs.collect::<Result<_>>()?;
        for word in [0, 0, bytes.len() as u32, bytes.len() as u32] {
            pcap.extend(word.to_ne_bytes());
        }
        pcap.extend(bytes);
    }
    let path = dir.path().join("out.pcap");
    fs::File::create(&path).and_then(|mut f| f.write_all(&pcap)).map_err(failed)?;
    let options = ["ip", "tcp", "udp"].map(|p| format!("{p}.check_checksum:TRUE"));
    let mut tshark = Command::new("tshark");
    options.iter().for_each(|o| _ = tshark.args(["-o", o]));
    tshark.arg("-r").arg(&path).args(["-T", "fields", "-E", "separator=|"]);
    for field in [
        "ip.src",
        "ip.checksum.status",
        "tcp.checksum.status",
        "udp.checksum.status",
        "icmp.checksum.status",
        "ip.flags.df",
        "tcp.options.mss_val",
    ] {
        tshark.args(["-e", field]);
    }
    let out = tshark.output().map_err(|_| skip("needs tshark (Debian: apt-get install tshark)"))?;
    let rows = text(&out.stdout);
    check(rows.lines().count() == all.len(), || format!("{} rows for {} packets", rows.lines().count(), all.len()))?;
    for row in rows.lines() {
        let [src, ip, tcp, udp, icmp, df, mss] = row.split('|').collect::<Vec<_>>()[..] else {
            return Err(failed(format!("tshark said {row}")));
        };
        let upper = [tcp, udp, icmp].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>();
        let good = src.starts_with("192.0.2.") && ip == "1" && upper == ["1"] && (df == "0" || df == "False");
        check(good && (mss.is_empty() || mss == "1200"), || format!("tshark said {row}"))?;
    }
    Ok(())
}
