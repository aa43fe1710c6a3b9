//! The router under test: `smpnet run` in a host, and what can be asked of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use crate::cleanup::TempDir;
use crate::error::{Context, LabError, Result};
use crate::host::Host;
use crate::http::Client;

/// A program of the workspace, built in the profile of the running one: `SMPNET_BIN_DIR`, or beside the running program.
///
/// # Errors
/// When it was not built; the text says how.
pub fn binary(name: &str) -> Result<PathBuf> {
    let mut dirs: Vec<PathBuf> = std::env::var_os("SMPNET_BIN_DIR").map(PathBuf::from).into_iter().collect();
    if let Ok(exe) = std::env::current_exe() {
        // target/release/xtask, or target/release/deps/a_test-0123
        dirs.extend(exe.ancestors().skip(1).take(2).map(Path::to_path_buf));
    }
    dirs.iter().map(|d| d.join(name)).find(|p| p.is_file()).ok_or_else(|| {
        let places = dirs.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(", ");
        LabError::Failed(format!("{name} is not in {places}: build it first with `cargo build --release --workspace`"))
    })
}

/// A running `smpnet run`. It dies with the thread that started it, or when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    dir: TempDir,
    program: PathBuf,
}

impl Daemon {
    /// Starts smpnet on `host` with `config` and waits until it answers on its control socket.
    ///
    /// # Errors
    /// With the end of its log, when it ends or does not answer within 30 seconds.
    pub fn start(host: &Host, config: &str) -> Result<Daemon> {
        let mut d = Self::spawn(host, config)?;
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = d.child.try_wait().context("waiting for smpnet")? {
                return Err(LabError::Failed(format!("smpnet ended at once ({status}):\n{}", d.log_tail(30))));
            }
            if d.client().request("GET", "/v1/interfaces", None).is_ok() {
                return Ok(d);
            }
            if Instant::now() > deadline {
                return Err(LabError::Failed(format!("smpnet did not answer in 30 s:\n{}", d.log_tail(30))));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts smpnet without waiting for it.
    ///
    /// # Errors
    /// When the program is not there.
    pub fn spawn(host: &Host, config: &str) -> Result<Daemon> {
        let program = binary("smpnet")?;
        let dir = TempDir::new("smpnet")?;
        let path = dir.write("smpnet.toml", &Self::full_config(&dir, config))?;
        let log = File::create(dir.path().join("log")).context("creating the log")?;
        let mut command = Command::new(&program);
        command.arg("run").arg(&path).stdin(Stdio::null());
        command.stdout(log.try_clone().context("log")?).stderr(log);
        host.ns().attach(&mut command);
        let child = command.spawn().context(format!("starting {}", program.display()))?;
        Ok(Daemon { child, dir, program })
    }

    fn full_config(dir: &TempDir, config: &str) -> String {
        format!("[control]\nsocket = \"{}\"\n\n{config}", dir.path().join("control.sock").display())
    }

    /// Replaces its configuration file; it takes effect on SIGHUP or `apply`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_config(&self, config: &str) -> Result<PathBuf> {
        self.dir.write("smpnet.toml", &Self::full_config(&self.dir, config))
    }

    /// A folder for files that concern it; removed with it.
    pub fn dir(&self) -> &TempDir {
        &self.dir
    }

    /// Its configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("smpnet.toml")
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    /// A new client of its control socket.
    pub fn client(&self) -> Client {
        Client::new(&self.socket())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs a subcommand of `smpnet` against it.
    ///
    /// # Errors
    /// When the program cannot be started; its own failures are in the [`Output`].
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        Command::new(&self.program)
            .env("SMPNET_SOCKET", self.socket())
            .args(args)
            .output()
            .context(format!("smpnet {}", args.join(" ")))
    }

    /// Runs a subcommand that must succeed; gives what it printed.
    ///
    /// # Errors
    /// With its error text when it fails.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let out = self.cli(args)?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if out.status.success() {
            return Ok(text);
        }
        let err = String::from_utf8_lossy(&out.stderr);
        Err(LabError::Failed(format!("smpnet {} failed ({}): {err}{text}", args.join(" "), out.status)))
    }

    /// Runs a subcommand with `--json` that must succeed.
    ///
    /// # Errors
    /// When it fails or prints no JSON.
    pub fn json(&self, args: &[&str]) -> Result<serde_json::Value> {
        let mut with = args.to_vec();
        with.push("--json");
        let text = self.ok(&with)?;
        serde_json::from_str(&text)
            .map_err(|e| LabError::Failed(format!("smpnet {}: not JSON ({e}): {text}", with.join(" "))))
    }

    /// Runs a subcommand that must fail; gives its error text.
    ///
    /// # Errors
    /// When it succeeds.
    pub fn fails(&self, args: &[&str]) -> Result<String> {
        let out = self.cli(args)?;
        if out.status.success() {
            return Err(LabError::Failed(format!("smpnet {} should have failed", args.join(" "))));
        }
        Ok(format!("{}{}", String::from_utf8_lossy(&out.stderr), String::from_utf8_lossy(&out.stdout)))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: i32) -> Result<()> {
        // SAFETY: kill takes numbers; the child is ours and not yet reaped, so the id is its own.
        if unsafe { libc::kill(self.child.id() as i32, signal) } != 0 {
            return Err(LabError::last("kill"));
        }
        Ok(())
    }

    /// True while it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it still runs after `patience`.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().context("waiting for smpnet")? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(LabError::Failed(format!("smpnet still runs after {patience:?}:\n{}", self.log_tail(20))));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it with SIGTERM.
    ///
    /// # Errors
    /// When it does not end within 10 seconds.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        self.wait(Duration::from_secs(10))
    }

    /// Resident memory in bytes; 0 when it is gone.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    /// Processor time that it used so far.
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The command name may hold blanks; the fields after it are numbers. utime and stime are fields 14 and 15.
        let after = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        // SAFETY: sysconf takes a number.
        let hz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
        Duration::from_millis(ticks * 1000 / hz)
    }

    /// The last `lines` lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.is_running() {
            if std::thread::panicking() {
                eprintln!("the end of smpnet's log:\n{}", self.log_tail(30));
            }
            // It may have ended between the two calls; then there is nothing to kill or wait for.
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}
