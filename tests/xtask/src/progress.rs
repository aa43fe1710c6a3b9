//! Says what is being done, on stderr, so that stdout stays the result's.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// Lines with the time that has passed. On a terminal [`Progress::update`] rewrites its line.
pub struct Progress {
    start: Instant,
    terminal: bool,
    open: bool,
    last: Instant,
}

impl Progress {
    /// Time begins now.
    pub fn new() -> Progress {
        Progress { start: Instant::now(), terminal: stderr().is_terminal(), open: false, last: Instant::now() }
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn stamp(&self) -> String {
        format!("[{:5.1} s]", self.start.elapsed().as_secs_f64())
    }

    /// A line that stays.
    pub fn say(&mut self, text: &str) {
        let clear = if self.open { "\r\x1b[K" } else { "" };
        eprintln!("{clear}{} {text}", self.stamp());
        self.open = false;
    }

    /// A line that the next one replaces; elsewhere than on a terminal one every ten seconds.
    pub fn update(&mut self, text: &str) {
        if self.terminal {
            eprint!("\r\x1b[K{} {text}", self.stamp());
            stderr().flush().ok();
            self.open = true;
        } else if self.last.elapsed() > Duration::from_secs(10) {
            eprintln!("{} {text}", self.stamp());
            self.last = Instant::now();
        }
    }
}
