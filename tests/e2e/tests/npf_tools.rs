//! NPF's translation under what people use: iperf3, curl, and the name server of a network.

use std::net::Ipv4Addr;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use smpnet_e2e::Rig;
use smpnet_lab::{Host, Lab, LabError, Result, TempDir, TwoHosts, check, run_tests, tests};

fn main() -> ExitCode {
    run_tests(&tests![
        iperf3_measures_both_ways_through_the_translation,
        curl_fetches_a_page_through_the_translation,
        names_are_resolved_through_the_translation,
    ])
}

const PATIENCE: Duration = Duration::from_secs(10);

/// A is behind one address; B is outside and knows no way to A's network.
const NAT: &str = "\
    map right0 dynamic 10.0.1.0/24 -> 10.0.2.1\n\
    group \"out\" on right0 { pass stateful out final from 10.0.1.0/24\n block in all }\n\
    group default { pass all }\n";

fn failed(e: impl std::fmt::Display) -> LabError {
    LabError::Failed(e.to_string())
}

fn firewall(lab: Lab) -> Result<Rig> {
    let rig = Rig::start(lab, "")?;
    rig.net.b.delete_route(Ipv4Addr::UNSPECIFIED, 0)?;
    let path = rig.router.dir().write("npf.conf", NAT)?;
    rig.router.ok(&["npfctl", "reload", &path.display().to_string()])?;
    Ok(rig)
}

/// A program that runs as long as this lives.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn server(host: &Host, words: &[&str]) -> Result<Running> {
    let mut command = command(words);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    host.run(|| command.spawn())?.map(Running).map_err(|e| failed(format!("{}: {e}", words[0])))
}

fn run(host: &Host, words: &[&str]) -> Result<Output> {
    host.run(|| command(words).output())?.map_err(|e| failed(format!("{}: {e}", words[0])))
}

/// Runs a program until it succeeds: its server may still be on its way up.
fn succeeds(host: &Host, words: &[&str]) -> Result<Output> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = run(host, words)?;
        if output.status.success() {
            return Ok(output);
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        check(Instant::now() < deadline, || format!("{}: {said}", words.join(" ")))?;
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn iperf3_measures_both_ways_through_the_translation(lab: Lab) -> Result<()> {
    let rig = firewall(lab)?;
    let _server = server(&rig.net.b, &["iperf3", "-s"])?;
    let to = TwoHosts::B.to_string();
    for more in [&[][..], &["-R"], &["-P", "4"], &["-u", "-b", "20M"], &["-u", "-b", "20M", "-R"]] {
        let words = [&["iperf3", "-J", "-t", "1", "-c", &to], more].concat();
        let output = succeeds(&rig.net.a, &words)?;
        let said: Value = serde_json::from_slice(&output.stdout).map_err(failed)?;
        let sum = if more.contains(&"-u") { &said["end"]["sum"] } else { &said["end"]["sum_received"] };
        let bytes = sum["bytes"].as_f64().unwrap_or(0.0);
        check(bytes > 500_000.0, || format!("iperf3 {more:?}: {bytes} bytes came: {said}"))?;
    }
    let stats = rig.router.json(&["npfctl", "stats"])?;
    check(stats["passed_connections"].as_u64() > Some(1000), || format!("{stats}"))?;
    check(stats["invalid_state"] == 0 && stats["nat_conflict"] == 0, || format!("{stats}"))
}

fn curl_fetches_a_page_through_the_translation(lab: Lab) -> Result<()> {
    let rig = firewall(lab)?;
    let dir = TempDir::new("page")?;
    let page: Vec<u8> = (0..3_000_000u32).map(|n| (n ^ n >> 9) as u8).collect();
    std::fs::write(dir.path().join("page"), &page).map_err(failed)?;
    let root = dir.path().display().to_string();
    let _server = server(&rig.net.b, &["busybox", "httpd", "-f", "-p", "8080", "-h", &root])?;
    let url = format!("http://{}:8080/page", TwoHosts::B);
    let output = succeeds(&rig.net.a, &["curl", "-sSf", "--max-time", "20", &url])?;
    check(output.stdout == page, || format!("{} bytes came of {}", output.stdout.len(), page.len()))?;
    let list = rig.router.json(&["npfctl", "list", "-n"])?;
    let all = list["connections"].as_array().map_or(&[][..], Vec::as_slice);
    let is_page = |c: &&Value| c["proto"] == 6 && c["destination"][1] == 8080 && c["translated"][0] == "10.0.2.1";
    check(all.iter().any(|c| is_page(&c)), || format!("{list}"))
}

fn names_are_resolved_through_the_translation(lab: Lab) -> Result<()> {
    let rig = firewall(lab)?;
    let listen = format!("--listen-address={}", TwoHosts::B);
    let own = ["--keep-in-foreground", "--no-resolv", "--no-hosts", "--bind-interfaces", "--user=root", "--pid-file="];
    let addresses = ["--address=/router.example/192.0.2.77", "--address=/router.example/2001:db8::77"];
    let known = ["--conf-file=/dev/null", &listen, addresses[0], addresses[1]];
    let _server = server(&rig.net.b, &[&["dnsmasq"][..], &own, &known].concat())?;
    let at = TwoHosts::B.to_string();
    let output = succeeds(&rig.net.a, &["busybox", "nslookup", "router.example", &at])?;
    let said = String::from_utf8_lossy(&output.stdout);
    check(said.contains("192.0.2.77"), || said.clone().into_owned())?;
    let list = rig.router.json(&["npfctl", "list", "-n"])?;
    let all = list["connections"].as_array().map_or(&[][..], Vec::as_slice);
    let is_query = |c: &&Value| c["proto"] == 17 && c["destination"][1] == 53 && c["state"] == "ESTABLISHED";
    check(all.iter().any(|c| is_query(&c)), || format!("{list}"))
}
