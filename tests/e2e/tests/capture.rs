//! Captures of the running router, read by tcpdump, tshark and capinfos, beside what tcpdump saw at the far ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use smpnet_e2e::{Rig, elements, reaches};
use smpnet_lab::{
    Host, Lab, LabError, Offloads, Result, TwoHosts, UdpReceiver, UdpSender, binary, check, run_tests, skip, tests,
};

fn main() -> ExitCode {
    run_tests(&tests![
        a_capture_has_the_packets_that_were_on_the_wire_in_both_directions,
        tshark_and_capinfos_read_interfaces_directions_stamps_and_counts,
        drops_are_captured_with_reason_and_filter,
        a_filter_is_replaced_without_a_packet_missed_or_seen_twice,
        a_capture_ends_with_its_count_its_signal_or_its_client,
        a_ring_of_files_keeps_the_newest,
        a_locked_listener_sends_what_its_write_filter_accepts_and_nothing_else_changes,
        packets_are_injected_out_of_an_interface_and_into_it,
        what_is_asked_wrongly_is_refused,
        a_promiscuous_capture_hears_frames_to_other_stations,
        wireshark_captures_through_extcap;
        alone:
        a_reader_that_stands_still_loses_copies_and_no_packets,
    ])
}

const PORT: u16 = 5000;

fn need(program: &str) -> Result<()> {
    match Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(_) => Ok(()),
        Err(_) => Err(skip(format!("needs {program} (Debian: apt-get install tcpdump tshark)"))),
    }
}

/// Runs a program that must succeed; what it printed.
fn tool(program: &str, args: &[&str]) -> Result<String> {
    need(program)?;
    let out = Command::new(program).args(args).output().map_err(|e| LabError::Failed(format!("{program}: {e}")))?;
    check(out.status.success(), || format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr)))?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A program that runs beside the test: `smpnet bpf capture`, or tcpdump on a host.
struct Running {
    child: Option<Child>,
    file: PathBuf,
}

impl Running {
    fn file(&self) -> &str {
        self.file.to_str().unwrap_or_default()
    }

    /// `smpnet bpf capture ARGS -w FILE`; returns when its listener is there.
    fn capture(rig: &Rig, name: &str, args: &[&str]) -> Result<Running> {
        let before = listeners(rig)?.len();
        let file = rig.router.dir().path().join(name);
        let child = smpnet(rig).args(["bpf", "capture", "-w"]).arg(&file).args(args).spawn();
        let mut running = Running { child: Some(child.map_err(|e| LabError::Failed(e.to_string()))?), file };
        let deadline = Instant::now() + Duration::from_secs(5);
        while listeners(rig)?.len() <= before {
            if running.over() || Instant::now() > deadline {
                let out = running.finish(None)?;
                let error = String::from_utf8_lossy(&out.stderr).into_owned();
                return Err(LabError::Failed(format!("no listener for {args:?}: {error}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(running)
    }

    /// tcpdump on a host, with a filter; returns when it listens.
    fn tcpdump(rig: &Rig, host: &Host, name: &str, args: &[&str]) -> Result<Running> {
        need("tcpdump")?;
        let file = rig.router.dir().path().join(name);
        let mut command = Command::new("tcpdump");
        command.args(["-Z", "root", "-n", "-U", "-s", "2048", "-B", "16384", "-i", "eth0", "-w"]).arg(&file).args(args);
        host.ns().attach(&mut command);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|e| LabError::Failed(format!("tcpdump: {e}")))?;
        // tcpdump writes the file's header once it listens.
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::metadata(&file).map_or(0, |m| m.len()) < 24 {
            check(Instant::now() < deadline, || "tcpdump does not begin".into())?;
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Running { child: Some(child), file })
    }

    fn over(&mut self) -> bool {
        self.child.as_mut().is_none_or(|c| !matches!(c.try_wait(), Ok(None)))
    }

    fn pid(&self) -> i32 {
        self.child.as_ref().map_or(0, |c| c.id() as i32)
    }

    fn signal(&self, signal: i32) {
        if self.pid() > 0 {
            // SAFETY: kill takes numbers; the child is not yet reaped, so the id is its own.
            unsafe { kill(self.pid(), signal) };
        }
    }

    /// Waits until no more is written: tcpdump gets packets up to a second late, and forgets at its end what it has not
    /// read yet.
    fn settle(&self) {
        let size = || fs::metadata(&self.file).map_or(0, |m| m.len());
        let (mut last, mut since) = (size(), Instant::now());
        while since.elapsed() < Duration::from_millis(1300) {
            std::thread::sleep(Duration::from_millis(20));
            if size() != last {
                (last, since) = (size(), Instant::now());
            }
        }
    }

    /// Sends a signal, if any, and waits for the end.
    fn finish(&mut self, signal: Option<i32>) -> Result<Output> {
        if let Some(s) = signal {
            self.signal(s);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.over() {
            check(Instant::now() < deadline, || format!("{} is written without end", self.file()))?;
            std::thread::sleep(Duration::from_millis(5));
        }
        let child = self.child.take().ok_or_else(|| LabError::Failed("it ended already".into()))?;
        child.wait_with_output().map_err(|e| LabError::Failed(e.to_string()))
    }

    /// Ends as Ctrl-C does.
    fn interrupt(&mut self) -> Result<String> {
        let out = self.finish(Some(INT))?;
        check(out.status.success(), || format!("{:?}: {}", out.status, String::from_utf8_lossy(&out.stderr)))?;
        Ok(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut c) = self.child.take() {
            // It may have ended by itself.
            c.kill().ok();
            c.wait().ok();
        }
    }
}

const INT: i32 = 2;
const KILL: i32 = 9;
const CONT: i32 = 18;
const STOP: i32 = 19;

unsafe extern "C" {
    fn kill(pid: i32, signal: i32) -> i32;
}

fn smpnet(rig: &Rig) -> Command {
    let mut c = Command::new(binary("smpnet").unwrap_or_else(|_| "smpnet".into()));
    c.env("SMPNET_SOCKET", rig.router.socket()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    c
}

fn listeners(rig: &Rig) -> Result<Vec<serde_json::Value>> {
    Ok(elements(&rig.router.client().get("/v1/bpf/listeners")?).to_vec())
}

/// Waits until nobody listens.
fn nobody_listens(rig: &Rig) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(3);
    while !listeners(rig)?.is_empty() {
        check(Instant::now() < deadline, || "a listener stays behind".into())?;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Sends `n` packets from A to B and waits until all of them have come.
fn send(rig: &Rig, port: u16, n: u64, rate: f64) -> Result<()> {
    let receiver = UdpReceiver::start(&rig.net.b, TwoHosts::B, port, 1)?;
    UdpSender::new(TwoHosts::B, port).rate(rate).payload(300).send(&rig.net.a, n)?;
    receiver.wait_for(n, Duration::from_secs(2));
    let came = receiver.finish()?.total().received;
    check(came + rig.missed()? >= n, || format!("{came} of {n} packets came through"))
}

/// The packets of a file in text, with every byte and without times.
fn bytes(file: &Path, filter: &str) -> Result<Vec<String>> {
    let name = file.to_str().unwrap_or_default();
    let text = tool("tcpdump", &["-r", name, "-n", "-t", "-q", "-xx", filter])?;
    let mut packets: Vec<String> = Vec::new();
    for line in text.lines() {
        match (line.starts_with('\t'), packets.last_mut()) {
            (true, Some(p)) => p.push_str(line.trim().split_once(':').map_or("", |(_, hex)| hex)),
            _ => packets.push(String::new()),
        }
    }
    Ok(packets)
}

fn fields(file: &str, names: &[&str]) -> Result<Vec<Vec<String>>> {
    let mut args = vec!["-r", file, "-n", "-T", "fields", "-E", "separator=|"];
    for n in names {
        args.extend(["-e", n]);
    }
    Ok(tool("tshark", &args)?.lines().map(|l| l.split('|').map(str::to_owned).collect()).collect())
}

fn udp() -> String {
    format!("udp port {PORT}")
}

fn a_capture_has_the_packets_that_were_on_the_wire_in_both_directions(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let mut at_a = Running::tcpdump(&rig, &rig.net.a, "a.pcap", &[&udp()])?;
    let mut at_b = Running::tcpdump(&rig, &rig.net.b, "b.pcap", &[&udp()])?;
    let mut came = Running::capture(&rig, "in.pcapng", &["-i", "left0", "--dir", "in", &udp()])?;
    let mut went = Running::capture(&rig, "out.pcapng", &["-i", "right0", "--dir", "out", &udp()])?;
    let mut none = Running::capture(&rig, "none.pcapng", &["-i", "left0", "--dir", "out", &udp()])?;
    let mut all = Running::capture(&rig, "all.pcapng", &["-i", "any", "-s", "60", &udp()])?;
    send(&rig, PORT, 2000, 20_000.0)?;
    let text = came.interrupt()?;
    check(text.contains("2000 packets captured") && text.contains("0 packets dropped"), || text.clone())?;
    for running in [&mut went, &mut none, &mut all, &mut at_a, &mut at_b] {
        running.settle();
        running.finish(Some(INT))?;
    }
    let left = (bytes(&at_a.file, "")?, bytes(&came.file, "")?);
    check(left.0.len() == 2000 && left.0 == left.1, || format!("A sent {}, captured {}", left.0.len(), left.1.len()))?;
    let right = (bytes(&at_b.file, "")?, bytes(&went.file, "")?);
    check(right.0.len() == 2000 && right.0 == right.1, || {
        format!("B received {}, captured {}", right.0.len(), right.1.len())
    })?;
    check(bytes(&none.file, "")?.is_empty(), || "packets went out of left0".into())?;
    let both = bytes(&all.file, "")?;
    check(both.len() == 4000, || format!("{} packets on all interfaces", both.len()))?;
    nobody_listens(&rig)?;
    rig.balanced()
}

fn tshark_and_capinfos_read_interfaces_directions_stamps_and_counts(lab: Lab) -> Result<()> {
    need("tshark")?;
    let rig = Rig::start(lab, "")?;
    let mut all = Running::capture(&rig, "all.pcapng", &["-i", "any", &udp()])?;
    send(&rig, PORT, 500, 5_000.0)?;
    all.interrupt()?;
    let names =
        ["frame.interface_name", "frame.packet_flags_direction", "frame.time_epoch", "frame.len", "udp.dstport"];
    let packets = fields(all.file(), &names)?;
    check(packets.len() == 1000, || format!("{} packets", packets.len()))?;
    let (mut last, mut digits) = (0u128, false);
    for p in &packets {
        let number = |t: &str| t.trim_start_matches("0x").trim_start_matches('0').to_owned();
        let side = (p[0].as_str(), number(&p[1]));
        check(matches!((side.0, side.1.as_str()), ("left0", "1") | ("right0", "2")), || format!("{side:?}"))?;
        check(p[3] == "342" && p[4] == PORT.to_string(), || format!("{p:?}"))?;
        let stamp: u128 = p[2].replace('.', "").parse().map_err(|_| LabError::Failed(format!("{p:?}")))?;
        check(stamp >= last, || format!("the time goes back at {}", p[2]))?;
        digits |= !stamp.is_multiple_of(1000);
        last = stamp;
    }
    check(digits, || "no stamp has nanoseconds".into())?;
    let of = |name: &str| packets.iter().filter(|p| p[0] == name).count();
    check(of("left0") == 500 && of("right0") == 500, || format!("{} and {}", of("left0"), of("right0")))?;
    let info = tool("capinfos", &[all.file()])?;
    for words in
        ["Number of packets:   1000", "nanoseconds", "smpnet", "Capture oper-sys:    Linux", "stat entries = 1"]
    {
        check(info.contains(words), || format!("capinfos does not say \"{words}\":\n{info}"))?;
    }
    check(info.contains("Name = left0") && info.contains("Filter string = udp port 5000"), || info.clone())
}

fn drops_are_captured_with_reason_and_filter(lab: Lab) -> Result<()> {
    need("tshark")?;
    let rig = Rig::start(lab, "[[filter]]\nname = \"block\"\ndrop = \"udp dst port 5001\"\nattach = \"inet\"\n")?;
    let mut drops = Running::capture(&rig, "drops.pcapng", &["-i", "any", "--drops", "udp"])?;
    UdpSender::new(TwoHosts::B, 5001).rate(5000.0).send(&rig.net.a, 100)?;
    UdpSender::new([192, 0, 2, 1].into(), 5002).rate(5000.0).send(&rig.net.a, 10)?;
    send(&rig, PORT, 50, 5000.0)?;
    rig.wait(&["netstat", "-d"], Duration::from_secs(2), |_| rig.drops("filtered").is_ok_and(|n| n == 100))?;
    drops.interrupt()?;
    let packets = fields(drops.file(), &["udp.dstport", "frame.comment", "frame.packet_flags_direction", "eth.src"])?;
    let of = |port: &str| packets.iter().filter(|p| p[0] == port).collect::<Vec<_>>();
    check(of("5001").len() == 100 && of("5002").len() == 10 && packets.len() == 110, || format!("{packets:?}"))?;
    check(of("5001").iter().all(|p| p[1].contains("filtered: block") && p[1].contains("udp dst port 5001")), || {
        format!("{:?}", of("5001")[0])
    })?;
    check(of("5002").iter().all(|p| p[1].starts_with("ip_no_route: no route")), || format!("{:?}", of("5002")[0]))?;
    check(packets.iter().all(|p| p[3] == "02:00:00:00:01:02"), || format!("{:?}", packets[0]))?;
    let verdicts = tool("tshark", &["-r", drops.file(), "-V", "-c", "1"])?;
    check(verdicts.to_lowercase().contains("verdict"), || format!("tshark shows no verdict:\n{verdicts}"))?;
    rig.balanced()
}

fn a_filter_is_replaced_without_a_packet_missed_or_seen_twice(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let mut at_a = Running::tcpdump(&rig, &rig.net.a, "a.pcap", &[&udp()])?;
    let mut came = Running::capture(&rig, "in.pcapng", &["-i", "left0", "--dir", "in", &udp()])?;
    let id = listeners(&rig)?[0]["id"].to_string();
    let sending = UdpSender::new(TwoHosts::B, PORT).rate(20_000.0).payload(100).start(&rig.net.a)?;
    let mut client = rig.router.client();
    for n in 0..200 {
        // Each of these takes every packet of the flow; a packet between two filters would be missing.
        let filter = [udp(), format!("udp dst port {PORT} and len > 20")][n % 2].clone();
        let body = serde_json::json!({"filter": filter});
        client.request("PATCH", &format!("/v1/bpf/listeners/{id}"), Some(&body))?.json()?;
        std::thread::sleep(Duration::from_millis(3));
    }
    let sent = sending.stop()?.sent;
    std::thread::sleep(Duration::from_millis(100));
    let status = &listeners(&rig)?[0];
    check(status["generation"] == 201 && status["dropped"] == 0, || format!("{status}"))?;
    came.interrupt()?;
    at_a.settle();
    at_a.finish(Some(INT))?;
    let (there, here) = (bytes(&at_a.file, "")?, bytes(&came.file, "")?);
    check(there.len() as u64 == sent && there == here || rig.missed()? > 0, || {
        format!("A sent {sent}, tcpdump there saw {}, captured were {}", there.len(), here.len())
    })
}

fn a_capture_ends_with_its_count_its_signal_or_its_client(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let mut ten = Running::capture(&rig, "ten.pcapng", &["-i", "left0", "-c", "10", &udp()])?;
    let mut killed = Running::capture(&rig, "killed.pcapng", &["-i", "any"])?;
    let mut quiet = Running::capture(&rig, "quiet.pcapng", &["-i", "left0", "udp port 9"])?;
    let mut closed = Running::capture(&rig, "closed.pcapng", &["-i", "lo0"])?;
    send(&rig, PORT, 50, 5000.0)?;
    let out = ten.finish(None)?;
    check(String::from_utf8_lossy(&out.stderr).contains("10 packets captured"), || format!("{out:?}"))?;
    check(bytes(&ten.file, "")?.len() == 10, || "not ten packets".into())?;
    check(listeners(&rig)?.len() == 3, || "the listener of the first is still there".into())?;
    let id = listeners(&rig)?[2]["id"].to_string();
    rig.router.ok(&["bpf", "close", &id])?;
    closed.finish(None)?;
    let text = quiet.interrupt()?;
    check(text.contains("0 packets captured") && bytes(&quiet.file, "")?.is_empty(), || text.clone())?;
    killed.finish(Some(KILL))?;
    nobody_listens(&rig)?;
    // A reader at the other end of a pipe that goes away ends the capture as well.
    let script =
        format!("'{}' bpf capture -i left0 -w - 'udp port {PORT}' | tcpdump -n -r - -c 5", binary("smpnet")?.display());
    need("tcpdump")?;
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).env("SMPNET_SOCKET", rig.router.socket()).stdout(Stdio::piped()).stderr(Stdio::null());
    let shell = shell.spawn().map_err(|e| LabError::Failed(e.to_string()))?;
    let deadline = Instant::now() + Duration::from_secs(5);
    while listeners(&rig)?.is_empty() {
        check(Instant::now() < deadline, || "the pipe does not begin".into())?;
        std::thread::sleep(Duration::from_millis(5));
    }
    send(&rig, PORT, 50, 500.0)?;
    let out = shell.wait_with_output().map_err(|e| LabError::Failed(e.to_string()))?;
    let lines = String::from_utf8_lossy(&out.stdout).lines().count();
    check(lines == 5, || format!("tcpdump read {lines} packets from the pipe"))?;
    send(&rig, PORT, 50, 500.0)?;
    nobody_listens(&rig)
}

fn a_ring_of_files_keeps_the_newest(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let mut ring = Running::capture(&rig, "r.pcapng", &["-i", "left0", "--dir", "in", "--ring", "3:32K", &udp()])?;
    send(&rig, PORT, 1000, 10_000.0)?;
    ring.interrupt()?;
    let mut files: Vec<PathBuf> = fs::read_dir(rig.router.dir().path())
        .map_err(|e| LabError::Failed(e.to_string()))?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.to_string_lossy().contains("/r."))
        .collect();
    files.sort();
    check(files.len() == 3, || format!("{files:?}"))?;
    for f in &files {
        let (n, size) = (bytes(f, "")?.len(), fs::metadata(f).map_or(0, |m| m.len()));
        check(n > 0 && size <= 33_000, || format!("{}: {n} packets, {size} bytes", f.display()))?;
    }
    Ok(())
}

fn a_locked_listener_sends_what_its_write_filter_accepts_and_nothing_else_changes(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let args = ["-i", "right0", "--dir", "out", "--write-filter", "udp dst port 7000", "--lock", "udp"];
    let mut sender = Running::capture(&rig, "sender.pcapng", &args)?;
    let mut mute = Running::capture(&rig, "mute.pcapng", &["-i", "right0"])?;
    let all = listeners(&rig)?;
    let (id, other) = (all[0]["id"].to_string(), all[1]["id"].to_string());
    rig.router.ok(&["bpf", "lock", &other])?;
    for line in [
        ["bpf", "setf", &id, "icmp"],
        ["bpf", "setwf", &id, "udp"],
        ["bpf", "setif", &id, "left0"],
        ["bpf", "setf", &other, "icmp"],
        ["bpf", "setwf", &other, "udp"],
    ] {
        let error = rig.router.fails(&line)?;
        check(error.contains("not permitted") && error.contains("locked"), || format!("{line:?}: {error}"))?;
    }
    let receiver = UdpReceiver::start(&rig.net.b, TwoHosts::B, 7000, 1)?;
    let frame = |port: u16| {
        // 02:00:00:00:02:01 (R) to 02:00:00:00:02:03 (B), from 10.0.1.2 to 10.0.2.2, an empty UDP payload.
        let mut ip = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 1, 2];
        ip.extend(TwoHosts::B.octets());
        let sum = smpnet_lab::checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut f = rig.net.b.link("eth0")?.mac.to_vec();
        f.extend([2, 0, 0, 0, 0, 9, 8, 0]);
        f.extend(ip);
        f.extend([0x30, 0x39]);
        f.extend(port.to_be_bytes());
        f.extend([0, 8, 0, 0]);
        Ok::<String, LabError>(f.iter().map(|b| format!("{b:02x}")).collect())
    };
    let (good, bad) = (frame(7000)?, frame(7001)?);
    let done = rig.router.json(&["bpf", "inject", "--listener", &id, "--packet", &good, "--packet", &bad])?;
    check(done["sent"] == 1 && done["refused"] == 1, || format!("{done}"))?;
    let error = rig.router.fails(&["bpf", "inject", "--listener", &other, "--packet", &good])?;
    check(error.contains("cannot be made to send"), || error.clone())?;
    drop(receiver);
    sender.interrupt()?;
    mute.interrupt()?;
    let seen = (bytes(&sender.file, "udp port 7000")?.len(), bytes(&sender.file, "udp port 7001")?.len());
    check(seen == (1, 0), || format!("{seen:?} packets went out"))?;
    rig.balanced()
}

fn packets_are_injected_out_of_an_interface_and_into_it(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    // What is injected has the checksums that the capture saw: complete ones.
    rig.net.a.set_offloads("eth0", Offloads::NONE)?;
    reaches(&rig.net.a, TwoHosts::B)?;
    // A capture of what A sent is played to A's side of the router again: it is forwarded once more.
    let mut came = Running::capture(&rig, "in.pcapng", &["-i", "left0", "--dir", "in", &udp()])?;
    send(&rig, PORT, 300, 10_000.0)?;
    came.interrupt()?;
    let receiver = UdpReceiver::start(&rig.net.b, TwoHosts::B, PORT, 1)?;
    let done = rig.router.json(&["bpf", "inject", "-i", "left0", "--in", "--pcap", came.file()])?;
    check(done["sent"] == 300, || format!("{done}"))?;
    receiver.wait_for(300, Duration::from_secs(2));
    let got = receiver.finish()?.total().received;
    check(got == 300, || format!("{got} of 300 packets came"))?;
    let mut at_b = Running::tcpdump(&rig, &rig.net.b, "b.pcap", &["udp port 5000"])?;
    let done = rig.router.json(&["bpf", "inject", "-i", "right0", "--pcap", came.file(), "--filter", "udp"])?;
    check(done["sent"] == 300, || format!("{done}"))?;
    at_b.settle();
    at_b.finish(Some(INT))?;
    let (there, here) = (bytes(&at_b.file, "")?, bytes(&came.file, "")?);
    check(there == here, || {
        format!("{} of {} frames came to B, first {:?} of {:?}", there.len(), here.len(), there.first(), here.first())
    })?;
    rig.balanced()
}

fn what_is_asked_wrongly_is_refused(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    for (args, word) in [
        (&["bpf", "capture", "-i", "lef0"][..], "left0"),
        (&["bpf", "capture", "-i", "left0", "udp prt 5"], "prt"),
        (&["bpf", "capture", "-i", "left0", "-s", "9999999"], "262144"),
        (&["bpf", "capture", "-i", "left0", "-B", "1G"], "maxbufsize"),
        (&["bpf", "capture", "-i", "left0", "--ring", "3:1M"], "--write"),
        (&["bpf", "setf", "77", "udp"], "no listener with id 77"),
        (&["bpf", "inject", "-i", "left0", "--packet", "0102"], "2 bytes"),
        (&["bpf", "inject", "-i", "any", "--packet", "0102"], "name it"),
    ] {
        let error = rig.router.fails(args)?;
        check(error.contains(word), || format!("{args:?}: {error}"))?;
    }
    check(listeners(&rig)?.is_empty(), || "a listener was left".into())?;
    let line = rig.router.json(&["sysctl", "net.bpf.maxbufsize"])?;
    check(line.to_string().contains("16777216"), || format!("{line}"))
}

fn a_promiscuous_capture_hears_frames_to_other_stations(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let promisc = || Ok::<bool, LabError>(rig.router.ok(&["ifconfig", "left0"])?.contains("PROMISC"));
    check(!promisc()?, || "left0 is promiscuous from the start".into())?;
    let mut one = Running::capture(&rig, "one.pcapng", &["-i", "left0", "--promisc", "ether dst 02:00:00:00:00:77"])?;
    let mut two = Running::capture(&rig, "two.pcapng", &["-i", "left0", "--promisc", "icmp"])?;
    let wire = smpnet_lab::Capture::open(&rig.net.a, "eth0")?;
    let frame = [&[2, 0, 0, 0, 0, 0x77, 2, 0, 0, 0, 1, 2, 0x08, 0][..], &[0; 46]].concat();
    for _ in 0..5 {
        wire.send(&frame)?;
    }
    rig.wait(&["netstat", "-d"], Duration::from_secs(2), |_| rig.drops("not_for_us").is_ok_and(|n| n >= 5))?;
    one.interrupt()?;
    check(bytes(&one.file, "")?.len() == 5, || "the frames to another station were not heard".into())?;
    check(promisc()?, || "the other capture still needs it".into())?;
    two.interrupt()?;
    nobody_listens(&rig)?;
    check(!promisc()?, || "left0 stays promiscuous".into())
}

fn wireshark_captures_through_extcap(lab: Lab) -> Result<()> {
    need("tshark")?;
    let rig = Rig::start(lab, "")?;
    let home = rig.router.dir().path().join("home");
    let folder = home.join("extcap");
    let run = |mut command: Command, args: &[&str]| {
        let out = command.args(args).env("HOME", &home).stdin(Stdio::null()).output();
        out.map_err(|e| LabError::Failed(format!("{args:?}: {e}")))
    };
    // root's Wireshark looks into the system's folder only: ours is put over it, for this tshark alone.
    let folders = tool("tshark", &["-G", "folders"])?;
    let global = folders.lines().find_map(|l| l.strip_prefix("Extcap path:")).map(|p| p.trim().to_owned());
    let global = global.ok_or_else(|| skip("this tshark was built without extcap"))?;
    need("unshare")?;
    let tshark = || {
        let mut c = Command::new("unshare");
        c.args(["-m", "sh", "-c", "mount --bind \"$0\" \"$1\" && shift && exec tshark \"$@\""])
            .arg(&folder)
            .arg(&global);
        c
    };
    fs::create_dir_all(&home).map_err(|e| LabError::Failed(e.to_string()))?;
    let program = binary("smpnet")?.display().to_string();
    let socket = rig.router.socket().display().to_string();
    let out = run(
        Command::new(&program),
        &["--socket", &socket, "extcap", "--install", "--to", &folder.display().to_string()],
    )?;
    check(out.status.success(), || format!("{out:?}"))?;
    let all = String::from_utf8_lossy(&run(tshark(), &["-D"])?.stdout).into_owned();
    for name in ["smpnet_left0", "smpnet_right0", "smpnet_any"] {
        check(all.contains(name), || format!("tshark -D lacks {name}:\n{all}"))?;
    }
    let launcher = folder.join("smpnet").display().to_string();
    let wrong =
        run(Command::new(&launcher), &["--extcap-interface", "smpnet_left0", "--extcap-capture-filter", "udp prt 5"])?;
    check(String::from_utf8_lossy(&wrong.stdout).contains("prt"), || format!("{wrong:?}"))?;
    let right =
        run(Command::new(&launcher), &["--extcap-interface", "smpnet_left0", "--extcap-capture-filter", "udp port 5"])?;
    check(right.stdout.is_empty() && right.status.success(), || format!("{right:?}"))?;
    let config = run(Command::new(&launcher), &["--extcap-interface", "smpnet_left0", "--extcap-config"])?;
    check(String::from_utf8_lossy(&config.stdout).contains("{call=--drops}"), || format!("{config:?}"))?;
    let dlts = run(Command::new(&launcher), &["--extcap-interface", "smpnet_lo0", "--extcap-dlts"])?;
    check(String::from_utf8_lossy(&dlts.stdout).contains("number=101"), || format!("{dlts:?}"))?;
    let file = rig.router.dir().path().join("tshark.pcapng");
    let mut tshark = tshark();
    tshark.args(["-i", "smpnet_left0", "-f", &udp(), "-c", "40", "-w"]).arg(&file);
    tshark.env("HOME", &home).stdin(Stdio::null()).stdout(Stdio::null());
    let child = tshark.stderr(Stdio::piped()).spawn().map_err(|e| LabError::Failed(e.to_string()))?;
    let mut tshark = Running { child: Some(child), file };
    let deadline = Instant::now() + Duration::from_secs(15);
    while listeners(&rig)?.is_empty() {
        if tshark.over() || Instant::now() > deadline {
            return Err(LabError::Failed(format!("tshark does not capture: {:?}", tshark.finish(Some(INT))?)));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    send(&rig, PORT, 100, 1000.0)?;
    tshark.finish(None)?;
    let n = bytes(&tshark.file, &udp())?.len();
    check(n == 40, || format!("tshark wrote {n} packets"))?;
    nobody_listens(&rig)
}

fn a_reader_that_stands_still_loses_copies_and_no_packets(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let mut came = Running::capture(&rig, "in.pcapng", &["-i", "left0", "--dir", "in", "-B", "256K", &udp()])?;
    came.signal(STOP);
    let receiver = UdpReceiver::start(&rig.net.b, TwoHosts::B, PORT, 1)?;
    let sent = UdpSender::new(TwoHosts::B, PORT).payload(1400).window(receiver.window()).send(&rig.net.a, 20_000)?.sent;
    receiver.wait_for(sent, Duration::from_secs(2));
    let got = receiver.finish()?.total().received;
    check(got + rig.missed()? >= sent, || format!("{got} of {sent} packets came while nobody read the capture"))?;
    let status = &listeners(&rig)?[0];
    let of = |key: &str| status[key].as_u64().unwrap_or(0);
    check(of("matched") == got && of("dropped") > 1000, || format!("{status}"))?;
    let fill = rig.router.ok(&["bpf", "list"])?;
    check(fill.contains("9") && fill.contains("left0"), || fill.clone())?;
    came.signal(CONT);
    let text = came.interrupt()?;
    let n = bytes(&came.file, "")?.len() as u64;
    check(n + of("dropped") == got, || format!("{n} captured and {} lost of {got}: {text}", of("dropped")))?;
    check(text.contains(&format!("{} packets dropped", of("dropped"))), || text.clone())?;
    nobody_listens(&rig)?;
    rig.balanced()
}
