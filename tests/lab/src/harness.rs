//! Runs laboratory tests: each in a process of its own, because a user namespace can be entered only by a process with
//! one thread, and because a process takes its namespaces, daemons and sockets with it when it ends.
//!
//! A test file has `harness = false` and
//!
//! ```no_run
//! # use smpnet_lab::{Lab, Result};
//! fn hosts_can_be_made(lab: Lab) -> Result<()> {
//!     smpnet_lab::Host::new(lab, "A").map(drop)
//! }
//! fn main() -> std::process::ExitCode {
//!     smpnet_lab::run_tests(&smpnet_lab::tests![hosts_can_be_made])
//! }
//! ```
//! It takes the arguments of Rust's own harness that matter (a filter, `--exact`, `--list`, `--show-output`) and prints
//! the same lines.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::cleanup::{TempDir, on_interrupt};
use crate::enter::{Lab, Privilege};
use crate::error::{Context, LabError, Result};

const CHILD: &str = "SMPNET_LAB_TEST";
const SKIPPED: i32 = 77;

/// One test.
#[derive(Clone, Copy)]
pub struct Test {
    /// Its name, a sentence.
    pub name: &'static str,
    /// What it does; a panic or an error fails it, [`skip`] skips it.
    pub run: fn(Lab) -> Result<()>,
    /// It measures or loads the machine, so that no other test may run beside it.
    pub alone: bool,
}

/// A list of [`Test`]s of functions; those after `alone:` run one at a time.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)? $(; alone: $($single:ident),* $(,)?)?) => {
        [
            $($crate::Test { name: stringify!($name), run: $name, alone: false },)*
            $($($crate::Test { name: stringify!($single), run: $single, alone: true },)*)?
        ]
    };
}

/// The error that skips a laboratory test: `return Err(skip("the kernel lacks 8021q"))`.
pub fn skip(reason: impl Into<String>) -> LabError {
    LabError::Skipped(reason.into())
}

/// For tests under Rust's own harness: says why a test is skipped where `ok` is false.
/// `if !require(cond, "needs libpcap0.8") { return; }`. `cargo xtask test` collects the reasons.
pub fn require(ok: bool, reason: &str) -> bool {
    if !ok {
        println!("SKIPPED: {reason}");
    }
    ok
}

/// An error with `what` unless `ok`.
///
/// # Errors
/// When not `ok`.
pub fn check(ok: bool, what: impl FnOnce() -> String) -> Result<()> {
    if ok { Ok(()) } else { Err(LabError::Failed(what())) }
}

/// Runs another test of the same file as user 65534 (nobody), who is not root and owns nothing; one that runs as an
/// ordinary user already is the proof itself.
///
/// # Errors
/// When that test fails; skips with that test's reason, or where nobody may not even run this program.
pub fn as_ordinary_user(lab: Lab, name: &str) -> Result<()> {
    if lab.privilege() == Privilege::UserNamespace {
        return Ok(());
    }
    let exe = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new(exe);
    command.env(CHILD, name).env("TMPDIR", "/tmp").uid(65534).gid(65534).stdin(Stdio::null());
    let out = match command.output() {
        Err(e) => return Err(skip(format!("user 65534 may not run this program where it lies ({e})"))),
        Ok(out) => out,
    };
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    // The child says itself what this machine forbids.
    match text.lines().find_map(|l| l.strip_prefix("SKIPPED: ")) {
        Some(reason) => Err(skip(reason)),
        None => check(out.status.success(), || format!("{text}{}", String::from_utf8_lossy(&out.stderr))),
    }
}

enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

/// Runs the tests that the arguments name. To be called first thing in `main`.
pub fn run_tests(tests: &[Test]) -> ExitCode {
    if let Ok(name) = std::env::var(CHILD) {
        return match tests.iter().find(|t| t.name == name) {
            Some(t) => child(t),
            None => ExitCode::FAILURE,
        };
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |a: &str| args.iter().any(|x| x == a);
    let filters: Vec<&String> = args.iter().filter(|a| !a.starts_with('-') && a.parse::<u32>().is_err()).collect();
    let exact = has("--exact");
    let wanted = |t: &&Test| {
        filters.is_empty() || filters.iter().any(|f| if exact { t.name == **f } else { t.name.contains(f.as_str()) })
    };
    let chosen: Vec<Test> = tests.iter().filter(wanted).copied().collect();
    if has("--list") {
        chosen.iter().for_each(|t| println!("{}: test", t.name));
        return ExitCode::SUCCESS;
    }
    // Only needed so that Ctrl-C removes the folders of finished children; without it they stay, no more.
    on_interrupt(|| {}).ok();
    println!("\nrunning {} tests", chosen.len());
    let start = Instant::now();
    let (single, together): (Vec<Test>, Vec<Test>) = chosen.iter().partition(|t| t.alone);
    let results = Mutex::new(Vec::new());
    let queue = Mutex::new(together.into_iter());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(4);
    std::thread::scope(|s| {
        for _ in 0..threads {
            s.spawn(|| {
                while let Some(t) = next(&queue) {
                    let outcome = parent(&t, has("--nocapture"));
                    results.lock().unwrap_or_else(|e| e.into_inner()).push((t.name, outcome));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(|e| e.into_inner());
    results.extend(single.iter().map(|t| (t.name, parent(t, has("--nocapture")))));
    summary(&results, tests.len() - chosen.len(), start.elapsed())
}

fn next(queue: &Mutex<impl Iterator<Item = Test>>) -> Option<Test> {
    queue.lock().unwrap_or_else(|e| e.into_inner()).next()
}

fn summary(results: &[(&str, Outcome)], filtered: usize, time: Duration) -> ExitCode {
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for (name, outcome) in results {
        match outcome {
            Outcome::Passed => passed += 1,
            Outcome::Skipped(_) => ignored += 1,
            Outcome::Failed(text) => {
                let head = if failed == 0 { "\nfailures:\n" } else { "" };
                failed += 1;
                println!("{head}\n---- {name} ----\n{text}");
            }
        }
    }
    println!(
        "\ntest result: {}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; {filtered} filtered out; \
         finished in {:.2}s\n",
        if failed == 0 { "ok" } else { "FAILED" },
        time.as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// In the child: enters the laboratory and runs the test.
fn child(t: &Test) -> ExitCode {
    let result = Lab::enter().and_then(|lab| {
        on_interrupt(|| {})?;
        (t.run)(lab)
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(LabError::Skipped(reason)) => {
            println!("SKIPPED: {reason}");
            ExitCode::from(SKIPPED as u8)
        }
        Err(LabError::Forbidden(text)) => {
            println!("SKIPPED: {}", text.split_whitespace().collect::<Vec<_>>().join(" "));
            ExitCode::from(SKIPPED as u8)
        }
        Err(e) => {
            println!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// In the parent: starts the child and waits for it.
fn parent(t: &Test, show: bool) -> Outcome {
    let start = Instant::now();
    let outcome = spawn(t, show).unwrap_or_else(|e| Outcome::Failed(e.to_string()));
    let word = match &outcome {
        Outcome::Passed => "ok".to_string(),
        Outcome::Skipped(reason) => format!("ignored, {reason}"),
        Outcome::Failed(_) => "FAILED".to_string(),
    };
    println!("test {} ... {word} ({:.1} s)", t.name, start.elapsed().as_secs_f64());
    outcome
}

fn spawn(t: &Test, show: bool) -> Result<Outcome> {
    let limit = Duration::from_secs(if t.alone { 180 } else { 90 });
    let exe = std::env::current_exe().context("finding this program")?;
    let dir = TempDir::new("smpnet-test")?;
    let path = dir.path().join("output");
    let file = std::fs::File::create(&path).context("creating the test's output")?;
    let mut command = Command::new(exe);
    command.env(CHILD, t.name).env("TMPDIR", dir.path()).stdin(Stdio::null());
    if !show {
        command.stdout(file.try_clone().context("output")?).stderr(file);
    }
    // SAFETY: prctl is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            Ok(())
        });
    }
    let mut child = command.spawn().context("starting the test")?;
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().context("waiting for the test")? {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill().ok();
            child.wait().ok();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let output = std::fs::read_to_string(&path).unwrap_or_default();
    Ok(match status {
        None => Outcome::Failed(format!("{output}\nended after {limit:?}: it took too long")),
        Some(s) if s.success() => Outcome::Passed,
        Some(s) if s.code() == Some(SKIPPED) => {
            let reason = output.lines().rev().find_map(|l| l.strip_prefix("SKIPPED: ")).unwrap_or("no reason given");
            Outcome::Skipped(reason.into())
        }
        Some(s) => Outcome::Failed(format!("{output}\n{s}")),
    })
}
