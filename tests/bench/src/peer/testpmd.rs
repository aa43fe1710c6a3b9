//! DPDK's testpmd, steered through its prompt.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

/// Its name; Debian's package is `dpdk`.
pub const PROGRAM: &str = "dpdk-testpmd";
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Packet buffers of each process, of 2 KiB and some: enough for full rings of two ports.
const BUFFERS: &str = "--total-num-mbufs=40960";
/// Descriptors of a ring, as a power of two: the longest, so that programs which share a processor take turns without a loss.
pub const RING: u32 = 13;

/// Where packets of the mode `txonly` come from, and where they go. All are of one flow.
pub const FROM: &str = "198.18.0.2";
/// See [`FROM`].
pub const TO: &str = "198.19.0.2";

/// An end of a memif connection.
pub struct End<'a> {
    /// The socket.
    pub socket: &'a Path,
    /// Listens, and does not call; the caller's memory is used.
    pub server: bool,
}

/// A running testpmd.
pub struct Testpmd {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

/// Counters of a port by their names, such as `RX-packets`.
pub type Counters = HashMap<String, u64>;

impl Testpmd {
    /// Starts it with its ports on one processor, and waits for its prompt. It dies with the calling thread.
    ///
    /// # Errors
    /// When it is not installed or refuses; with what it said.
    pub fn start(name: &str, cpu: usize, ends: &[End<'_>]) -> io::Result<Testpmd> {
        if !is_installed() {
            return Err(io::Error::other(format!("{PROGRAM} is not installed; Debian: apt-get install dpdk")));
        }
        // Into a pipe the C library would write when its buffer is full, and not when a line is.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", PROGRAM]);
        // Two logical cores, one for the prompt and one that forwards; without huge pages, which few machines have prepared.
        command.args(["--no-pci", "--no-huge", "-m", "512", "--no-telemetry", &format!("--lcores=0@{cpu},1@{cpu}")]);
        command.arg(format!("--file-prefix=smpnet-bench-{}-{name}", std::process::id()));
        for (i, end) in ends.iter().enumerate() {
            let role = if end.server { "server" } else { "client" };
            let socket = end.socket.display();
            command
                .arg(format!("--vdev=net_memif{i},role={role},id=0,rsize={RING},socket={socket},socket-abstract=no"));
        }
        command.args(["--", "--interactive", "--no-mlockall", BUFFERS]);
        command.arg(format!("--tx-ip={FROM},{TO}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // SAFETY: prctl is async-signal-safe.
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut command, || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                Ok(())
            });
        }
        let mut child = command
            .spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("stdbuf {PROGRAM} cannot be started: {e}")))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("no pipes"));
        };
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut testpmd = Testpmd { child, stdin, lines };
        testpmd.ask("show config fwd")?;
        Ok(testpmd)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types a line and returns what is printed before the prompt is back.
    ///
    /// # Errors
    /// When it ended or does not answer.
    pub fn ask(&mut self, line: &str) -> io::Result<Vec<String>> {
        // A command that does not exist is the mark at which the answer has ended.
        writeln!(self.stdin, "{line}\n{MARK}")?;
        self.stdin.flush()?;
        let mut said = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                // The prompt repeats what is typed.
                Ok(l) if l.contains(NOT_FOUND) && said.last().is_some_and(|l: &String| l.contains(MARK)) => break,
                Ok(l) => said.push(l),
                Err(e) => {
                    let end: Vec<&str> = said.iter().rev().take(6).map(String::as_str).collect();
                    let end = end.into_iter().rev().collect::<Vec<_>>().join("; ");
                    let what = if e == RecvTimeoutError::Timeout { "does not answer" } else { "ended" };
                    return Err(io::Error::other(format!("{PROGRAM} {what}: {end}")));
                }
            }
        }
        match said.iter().find(|l| l.contains(NOT_FOUND) || l.contains("Bad arguments")) {
            Some(_) => Err(io::Error::other(format!("{PROGRAM} does not know \"{line}\""))),
            None => Ok(said),
        }
    }

    /// Types several lines.
    ///
    /// # Errors
    /// As [`Testpmd::ask`].
    pub fn tell(&mut self, lines: &[&str]) -> io::Result<()> {
        lines.iter().try_for_each(|l| self.ask(l).map(drop))
    }

    /// What a port counted while it forwarded.
    ///
    /// # Errors
    /// As [`Testpmd::ask`].
    pub fn counters(&mut self, port: u32) -> io::Result<Counters> {
        let said = self.ask("show fwd stats all")?;
        Ok(counters(&said, port))
    }

    /// Whether a port's link is up: its other end is there.
    ///
    /// # Errors
    /// As [`Testpmd::ask`].
    pub fn is_up(&mut self, port: u32) -> io::Result<bool> {
        let said = self.ask(&format!("show port info {port}"))?;
        Ok(said.iter().any(|l| l.contains("Link status: up")))
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // It removes its files when it is asked to end; if it does not, it is ended.
        let _ = writeln!(self.stdin, "stop\nquit");
        let _ = self.stdin.flush();
        for _ in 0..100 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(PROGRAM).is_file())
}

const MARK: &str = "smpnet-bench-mark";
const NOT_FOUND: &str = "Command not found";

/// The counters of a port in the answer to `show fwd stats all`: `RX-packets: 5   RX-dropped: 0 ...` below its headline.
fn counters(said: &[String], port: u32) -> Counters {
    let headline = format!("Forward statistics for port {port} ");
    let below = said.iter().skip_while(|l| !l.contains(&headline)).skip(1);
    let mut all = Counters::new();
    for line in below.take_while(|l| !l.contains("-----")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        for pair in words.windows(2) {
            if let (Some(name), Ok(n)) = (pair[0].strip_suffix(':'), pair[1].parse::<u64>()) {
                // DPDK 22.11 takes what came before the start from what came since, below zero if need be.
                all.insert(name.to_owned(), if n > 1 << 63 { 0 } else { n });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::counters;

    #[test]
    fn counters_are_those_of_the_port() {
        let text = "
  ---------------------- Forward statistics for port 0  ----------------------
  RX-packets: 0              RX-dropped: 0             RX-total: 0
  TX-packets: 7827616        TX-dropped: 45274240      TX-total: 53101856
  ----------------------------------------------------------------------------

  ---------------------- Forward statistics for port 1  ----------------------
  RX-packets: 18446744073709547552 RX-dropped: 0       RX-total: 7
  ----------------------------------------------------------------------------
";
        let said: Vec<String> = text.lines().map(String::from).collect();
        let (zero, one) = (counters(&said, 0), counters(&said, 1));
        assert_eq!((zero["TX-packets"], zero["TX-dropped"]), (7_827_616, 45_274_240));
        assert_eq!((one["RX-packets"], one["RX-total"], one.get("TX-packets")), (0, 7, None));
    }
}
