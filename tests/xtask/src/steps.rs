//! One step of `cargo xtask test`: a program that is run, watched and judged.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::parse::{self, Counts};
use crate::progress::Progress;

/// A finished step.
pub struct Done {
    /// Its name.
    pub name: String,
    /// What it found.
    pub counts: Counts,
    /// How long it took.
    pub time: Duration,
}

/// How the output of a step is judged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Judge {
    /// It passed when the program says so.
    Status,
    /// Its tests are counted.
    Tests,
    /// Its tests are counted; those for which [`SLOW_LIMIT`] does not suffice are skipped.
    SlowTests,
}

/// Runs steps one after the other and keeps what they did.
pub struct Runner {
    /// Where the output of each step is kept.
    pub logs: PathBuf,
    /// What was done so far.
    pub done: Vec<Done>,
    progress: Progress,
}

/// The process group of the step that runs; 0 between steps.
static CURRENT: AtomicU32 = AtomicU32::new(0);

/// Ends the step that runs, with all that it started.
pub fn end_current() {
    let group = CURRENT.swap(0, Ordering::Relaxed);
    if group != 0 {
        // It may have ended by itself in this moment.
        Command::new("kill").args(["-KILL", "--", &format!("-{group}")]).status().ok();
    }
}

/// No step takes so long unless it hangs.
const LIMIT: Duration = Duration::from_secs(40 * 60);
/// What slow tests may take, so that the whole stays under 25 minutes on two processors.
pub const SLOW_LIMIT: Duration = Duration::from_secs(5 * 60);

/// Lines of output shown of a step that failed.
const SHOWN: usize = 120;

impl Runner {
    /// Output goes to files in `logs`.
    pub fn new(logs: PathBuf) -> Result<Runner, String> {
        fs::create_dir_all(&logs).map_err(|e| format!("{}: {e}", logs.display()))?;
        Ok(Runner { logs, done: vec![], progress: Progress::new() })
    }

    /// Runs a step; returns whether it passed and what it printed.
    pub fn run(&mut self, name: &str, judge: Judge, mut command: Command) -> (bool, String) {
        let start = Instant::now();
        let path = self.logs.join(name.replace(|c: char| !c.is_ascii_alphanumeric(), "-") + ".log");
        self.progress.say(&format!("{name} ..."));
        let limit = if judge == Judge::SlowTests { SLOW_LIMIT } else { LIMIT };
        let (end, output) = match self.watch(name, &path, &mut command, limit) {
            Ok(end) => (end, fs::read_to_string(&path).unwrap_or_default()),
            Err(e) => (Some(false), e),
        };
        let mut ok = end == Some(true);
        let mut counts = match judge {
            Judge::Status => Counts::one(ok),
            Judge::Tests | Judge::SlowTests => parse::tests(&output),
        };
        if end.is_none() && judge == Judge::SlowTests && counts.failed == 0 {
            ok = !output.contains("FAILED");
            counts.passed = output.lines().filter(|l| l.starts_with("test ") && l.ends_with("... ok")).count() as u64;
            counts.skipped.push(format!("{name}: the tests that came after {} s", SLOW_LIMIT.as_secs()));
        }
        if !ok && counts.failed == 0 {
            counts.failed = 1;
        }
        if counts.failed > 0 {
            let why = parse::why(&output, SHOWN);
            eprintln!("\n{why}\n{name} failed; all of its output is in {}\n", path.display());
        }
        self.finish(name, counts, start.elapsed());
        (ok, output)
    }

    /// Notes a step that was done elsewhere.
    pub fn finish(&mut self, name: &str, counts: Counts, time: Duration) {
        let word = if counts.failed > 0 {
            "FAILED"
        } else if counts.passed == 0 && !counts.skipped.is_empty() {
            "skipped"
        } else {
            "ok"
        };
        self.progress.say(&format!("{name} {word} ({:.0} s)", time.as_secs_f64()));
        self.done.push(Done { name: name.into(), counts, time });
    }

    /// Notes a step that cannot be done here.
    pub fn skip(&mut self, name: &str, reason: &str) {
        let counts = Counts { skipped: vec![format!("{name}: {reason}")], ..Counts::default() };
        self.finish(name, counts, Duration::ZERO);
    }

    /// Runs it to its end, or to the limit: then `None`.
    fn watch(
        &mut self,
        name: &str,
        path: &PathBuf,
        command: &mut Command,
        limit: Duration,
    ) -> Result<Option<bool>, String> {
        let start = Instant::now();
        // A group of its own, so that what it started ends with it.
        command.process_group(0);
        let file = File::create(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let out = file.try_clone().map_err(|e| e.to_string())?;
        let child = command.stdin(Stdio::null()).stdout(out).stderr(file).spawn();
        let mut child = child.map_err(|e| format!("{:?} cannot be started: {e}", command.get_program()))?;
        CURRENT.store(child.id(), Ordering::Relaxed);
        loop {
            if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
                CURRENT.store(0, Ordering::Relaxed);
                return Ok(Some(status.success()));
            }
            if start.elapsed() > limit {
                end_current();
                child.wait().ok();
                return Ok(None);
            }
            let text = fs::read_to_string(path).unwrap_or_default();
            let last = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default().trim();
            self.progress.update(&format!("{name}: {}", last.chars().take(100).collect::<String>()));
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}
