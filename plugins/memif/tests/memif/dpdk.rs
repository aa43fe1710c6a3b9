//! Against the memif of DPDK, by its program testpmd.

use super::*;
use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// A running testpmd with one port `net_memif0`.
pub struct Testpmd {
    child: Child,
    output: Arc<Mutex<String>>,
}

impl Testpmd {
    /// `device` are the options of the port, `more` those of testpmd; it forwards as `mode` says from `start` on.
    pub fn start(dir: &TempDir, mode: &str, device: &str, more: &[&str]) -> Result<Testpmd> {
        let program = ["/usr/bin/dpdk-testpmd", "/usr/local/bin/dpdk-testpmd"]
            .into_iter()
            .find(|p| std::fs::exists(p).unwrap_or(false));
        let Some(program) = program else {
            return Err(skip("dpdk-testpmd is missing; it is in Debian's package dpdk-dev"));
        };
        if std::thread::available_parallelism().map_or(1, |n| n.get()) < 2 {
            return Err(skip("dpdk-testpmd needs two processors"));
        }
        let socket = dir.path().join("dpdk.sock");
        // Line by line, or its words come when there are some thousand of them.
        let mut command = Command::new("stdbuf");
        command
            .args(["-oL", program])
            .env("XDG_RUNTIME_DIR", dir.path())
            .args(["-l", "0,1", "--no-pci", "--no-huge", "-m", "128", "--single-file-segments"])
            .args(["--no-shconf", "--no-telemetry"])
            .arg(format!("--vdev=net_memif0,id=0,socket={},socket-abstract=no,{device}", socket.display()))
            // Without the flag it throws away what it finds at `start`.
            .args(["--", "-i", "--no-flush-rx", "--total-num-mbufs=16384", &format!("--forward-mode={mode}")])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        // SAFETY: prctl is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                Ok(())
            });
        }
        let mut child = command.spawn().map_err(|e| LabError::Failed(format!("dpdk-testpmd: {e}")))?;
        let output = Arc::new(Mutex::new(String::new()));
        let (lines, into) = (BufReader::new(child.stdout.take().expect("it is piped")), output.clone());
        std::thread::spawn(move || {
            for line in lines.lines().map_while(|l| l.ok()) {
                let mut text = into.lock().expect("no holder panics");
                text.push_str(&line);
                text.push('\n');
            }
        });
        let testpmd = Testpmd { child, output };
        // The prompt is no line, so that the last line before it is waited for.
        testpmd.wait_for_text("Checking link statuses")?;
        Ok(testpmd)
    }

    fn text(&self) -> String {
        self.output.lock().expect("no holder panics").clone()
    }

    fn wait_for_text(&self, what: &str) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(30);
        while !self.text().contains(what) {
            check(Instant::now() < end, || format!("testpmd does not say {what:?}: {}", self.text()))?;
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Types a command.
    pub fn say(&mut self, command: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        writeln!(stdin, "{command}").and_then(|()| stdin.flush()).map_err(|e| LabError::Failed(e.to_string()))
    }

    /// RX-packets, TX-packets and their like, of now.
    pub fn stats(&mut self) -> Result<HashMap<String, u64>> {
        self.output.lock().expect("no holder panics").clear();
        self.say("show port stats 0")?;
        self.wait_for_text("Tx-bps")?;
        let text = self.text();
        let words: Vec<&str> = text.split_whitespace().collect();
        let pairs = words.windows(2).filter_map(|w| Some((w[0].strip_suffix(':')?.to_owned(), w[1].parse().ok()?)));
        Ok(pairs.collect())
    }

    /// Ends it without a word to anybody.
    pub fn kill(mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A way to be connected with DPDK.
struct Way {
    /// Options of our port.
    ours: Value,
    /// Of DPDK's.
    theirs: &'static str,
}

/// Both roles, with and without zero copy at our end.
fn ways() -> [Way; 3] {
    [
        Way { ours: json!({"role": "server"}), theirs: "role=client" },
        Way { ours: json!({"role": "client"}), theirs: "role=server" },
        Way { ours: json!({"role": "client", "zero_copy": true}), theirs: "role=server" },
    ]
}

impl Way {
    /// Starts both ends. The server is there first, because DPDK's client tries once only.
    fn connect(&self, dir: &TempDir, queues: usize, mode: &str, more: &[&str]) -> Result<(Port, Testpmd)> {
        let mut options = self.ours.clone();
        options["socket"] = dir.path().join("dpdk.sock").to_str().into();
        let open = |options: Value| Port::open("m0", queues, options);
        let (mut port, testpmd) = match self.theirs.contains("client") {
            true => {
                let port = open(options)?;
                (port, Testpmd::start(dir, mode, self.theirs, more)?)
            }
            false => {
                let testpmd = Testpmd::start(dir, mode, self.theirs, more)?;
                (open(options)?, testpmd)
            }
        };
        port.wait(true).map_err(|e| LabError::Failed(format!("{e}: {}", testpmd.text())))?;
        port.poll();
        Ok((port, testpmd))
    }
}

/// Sends frames as DPDK has room for them: it lends buffers when it looks for packets.
fn send_all(port: &mut Port, queue: usize, frames: &[Vec<u8>]) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    let mut sent = 0;
    while sent < frames.len() {
        check(Instant::now() < end, || format!("{sent} of {} accepted; {:?}", frames.len(), port.counters()))?;
        sent += port.send(queue, &frames[sent..]);
    }
    Ok(())
}

fn swapped(frame: &[u8]) -> Vec<u8> {
    [&frame[6..12], &frame[..6], &frame[12..]].concat()
}

pub fn dpdk_gives_every_frame_back_with_its_addresses_swapped(_lab: Lab) -> Result<()> {
    const ROUNDS: usize = 100;
    for way in ways() {
        let dir = TempDir::new("memif")?;
        let (mut port, mut testpmd) = way.connect(&dir, 1, "macswap", &[])?;
        testpmd.say("start")?;
        let lens = (60..100).chain([128, 500, 1000, 1513, 1514, 1900, 2048, 2049, 2500, 4096, 9018]);
        let frames: Vec<_> = lens.enumerate().map(|(n, len)| frame(n, len)).collect();
        let want: Vec<_> = frames.iter().map(|f| swapped(f)).collect();
        for _ in 0..ROUNDS {
            send_all(&mut port, 0, &frames)?;
            if let Err(e) = port.expect(&want) {
                return Err(LabError::Failed(format!("{}: {e}; {:?}", way.ours, testpmd.stats()?)));
            }
        }
        let n = (frames.len() * ROUNDS) as u64;
        let ours = port.driver().stats();
        let theirs = testpmd.stats()?;
        check((ours.tx_packets, ours.rx_packets, ours.rx_errors, ours.tx_errors) == (n, n, 0, 0), || {
            format!("{}: {ours:?} of {n}", way.ours)
        })?;
        check((theirs["RX-packets"], theirs["TX-packets"]) == (n, n), || format!("{}: {theirs:?} of {n}", way.ours))?;
        drop(testpmd);
        port.close();
        nothing_leaks()?;
    }
    Ok(())
}

pub fn dpdk_has_the_same_queues(_lab: Lab) -> Result<()> {
    for way in ways() {
        let dir = TempDir::new("memif")?;
        let (mut port, mut testpmd) = way.connect(&dir, 3, "io", &["--rxq=3", "--txq=3"])?;
        testpmd.say("start")?;
        for round in 0..30 {
            for queue in 0..3 {
                let frames: Vec<_> = (0..50).map(|n| frame(n + queue + round, 60 + n)).collect();
                send_all(&mut port, queue, &frames)?;
                let got = port.receive(50);
                check(got.iter().all(|(q, _)| *q == queue), || format!("{}: not by queue {queue}", way.ours))?;
                let same = got.len() == 50 && got.iter().zip(&frames).all(|((_, p), f)| bytes(p) == *f);
                check(same, || format!("{}: {} of 50, or others", way.ours, got.len()))?;
            }
        }
        drop(testpmd);
        port.close();
        nothing_leaks()?;
    }
    Ok(())
}

pub fn every_packet_that_dpdk_sends_or_takes_is_counted_at_both_ends(_lab: Lab) -> Result<()> {
    for way in ways() {
        let dir = TempDir::new("memif")?;
        let (mut port, mut testpmd) = way.connect(&dir, 1, "txonly", &["--txpkts=64"])?;
        testpmd.say("start")?;
        // As fast as it can, with a full ring now and then, and with sleep in between.
        let mut got = 0;
        for turn in 0..3 {
            let end = Instant::now() + Duration::from_millis(200);
            while Instant::now() < end {
                let packets = port.poll();
                check(packets.iter().all(|(_, p)| p.len() == 64 && p.data()[12..14] == [8, 0]), || {
                    "another frame".into()
                })?;
                got += packets.len() as u64;
            }
            std::thread::sleep(Duration::from_millis(20 * turn));
        }
        testpmd.say("stop")?;
        testpmd.wait_for_text("Accumulated forward statistics")?;
        let theirs = testpmd.stats()?;
        while let n @ 1.. = port.poll().len() {
            got += n as u64;
        }
        let ours = port.driver().stats();
        check(
            got > 10_000 && theirs["TX-packets"] == got && ours.rx_packets == got && ours.rx_bytes == 64 * got,
            || format!("{}: {got} packets; {ours:?}; {theirs:?}", way.ours),
        )?;
        // And the other way round.
        testpmd.say("set fwd rxonly")?;
        testpmd.say("start")?;
        let frames: Vec<_> = (0..64).map(|n| frame(n, 60 + n)).collect();
        let mut sent = 0u64;
        while sent < 50_000 {
            sent += port.send(0, &frames) as u64;
        }
        let mut theirs = HashMap::new();
        for _ in 0..50 {
            theirs = testpmd.stats()?;
            if theirs["RX-packets"] == sent {
                break;
            }
        }
        check(theirs["RX-packets"] == sent && port.driver().stats().tx_packets == sent, || {
            format!("{}: {sent} packets; {theirs:?}", way.ours)
        })?;
        drop(testpmd);
        port.close();
        nothing_leaks()?;
    }
    Ok(())
}

pub fn a_peer_that_dies_in_the_midst_of_a_burst_takes_no_cell_with_it_and_may_come_back(_lab: Lab) -> Result<()> {
    for way in ways() {
        let dir = TempDir::new("memif")?;
        let (mut port, mut testpmd) = way.connect(&dir, 1, "io", &[])?;
        let frames: Vec<_> = (0..64).map(|n| frame(n, 60 + 40 * n)).collect();
        for _ in 0..3 {
            testpmd.say("start tx_first")?;
            for _ in 0..200 {
                port.send(0, &frames);
                drop(port.poll());
            }
            testpmd.kill();
            // The worker goes on meanwhile, and sees it sooner or later.
            let ended = wait_for(|| {
                port.send(0, &frames);
                drop(port.poll());
                !port.is_up()
            });
            check(ended && port.last_end() == "the peer closed the connection", || port.driver().status().to_string())?;
            port.poll();
            port.reap();
            nothing_leaks()?;
            if !way.theirs.contains("client") {
                // A killed DPDK leaves its socket behind, which the next one does not replace.
                std::fs::remove_file(dir.path().join("dpdk.sock")).map_err(|e| LabError::Failed(e.to_string()))?;
            }
            testpmd = Testpmd::start(&dir, "io", way.theirs, &[])?;
            port.wait(true)?;
            port.poll();
        }
        check(port.driver().status()["connections"] == 4, || port.driver().status().to_string())?;
        drop(testpmd);
        port.close();
        nothing_leaks()?;
    }
    Ok(())
}

pub fn memory_of_dpdk_that_it_could_take_away_needs_the_operators_word(_lab: Lab) -> Result<()> {
    let dir = TempDir::new("memif")?;
    let socket = dir.path().join("dpdk.sock");
    let options = |unsealed: bool| json!({"role": "server", "socket": socket.to_str(), "unsealed": unsealed});
    let theirs = "role=client,zero-copy=yes";
    let port = Port::open("m0", 1, options(false))?;
    let testpmd = Testpmd::start(&dir, "macswap", theirs, &[])?;
    check(wait_for(|| port.trouble().contains("set unsealed = true")), || {
        format!("{}: {}", port.driver().status(), testpmd.text())
    })?;
    drop(testpmd);
    port.close();
    let mut port = Port::open("m0", 1, options(true))?;
    let mut testpmd = Testpmd::start(&dir, "macswap", theirs, &[])?;
    port.wait(true)?;
    testpmd.say("start")?;
    let frames: Vec<_> = (0..64).map(|n| frame(n, 60 + 10 * n)).collect();
    let want: Vec<_> = frames.iter().map(|f| swapped(f)).collect();
    for _ in 0..100 {
        send_all(&mut port, 0, &frames)?;
        port.expect(&want)?;
    }
    drop(testpmd);
    port.close();
    nothing_leaks()
}
