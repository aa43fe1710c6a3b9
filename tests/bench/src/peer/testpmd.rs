//! DPDK's testpmd, steered through its prompt.

use std::{
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

/// Its name; Debian's package is `dpdk-dev`.
pub const PROGRAM: &str = "dpdk-testpmd";
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Packet buffers, of 2 KiB and some: enough for full rings of two ports.
const BUFFERS: &str = "--total-num-mbufs=16384";
/// Descriptors of a ring, as a power of two: what memif has where nothing is said.
pub const LOG2_RING: u32 = 10;

/// A running testpmd.
pub struct Testpmd {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Testpmd {
    /// Starts it with a memif client's port for each socket on one processor, and waits for its prompt. It dies with the
    /// calling thread.
    ///
    /// # Errors
    /// When it is not installed or refuses; with what it said.
    pub fn start(name: &str, cpu: usize, sockets: &[&Path]) -> io::Result<Testpmd> {
        if !is_installed() {
            return Err(io::Error::other(format!("{PROGRAM} is not installed; Debian: apt-get install dpdk-dev")));
        }
        // Into a pipe the C library would write when its buffer is full, and not when a line is.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", PROGRAM]);
        // Two logical cores, one for the prompt and one that forwards; without huge pages, which few machines have prepared.
        command.args(["--no-pci", "--no-huge", "-m", "512", "--no-telemetry", &format!("--lcores=0@{cpu},1@{cpu}")]);
        command.arg(format!("--file-prefix=smpnet-bench-{}-{name}", std::process::id()));
        for (i, socket) in sockets.iter().enumerate() {
            let socket = socket.display();
            command.arg(format!(
                "--vdev=net_memif{i},role=client,id=0,rsize={LOG2_RING},socket={socket},socket-abstract=no"
            ));
        }
        command.args(["--", "--interactive", "--no-mlockall", BUFFERS]);
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
