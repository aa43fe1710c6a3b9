//! Huge pages of this machine, lent to a test.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::error::{Context, LabError, Result};
use crate::harness::skip;

const COUNT: &str = "/proc/sys/vm/nr_hugepages";

/// Huge pages of 2 MiB that the system keeps free for who wants them. They go back when this value is dropped, and also when
/// the process dies without dropping it.
#[derive(Debug)]
pub struct HugePages {
    /// Waits for the end of its input, and then sets the old number.
    keeper: Child,
}

impl HugePages {
    /// Makes the system reserve `pages` more.
    ///
    /// # Errors
    /// [`LabError::Skipped`] where the process may not, or memory is too scattered.
    pub fn reserve(pages: u64) -> Result<HugePages> {
        let before = number(COUNT)?;
        if let Err(e) = fs::OpenOptions::new().write(true).open(COUNT) {
            return Err(skip(format!("huge pages are reserved by root only, in {COUNT} ({e})")));
        }
        let script = format!("read line; echo {before} > {COUNT}");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Ctrl-C must not end it before its work is done.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let keeper = HugePages { keeper: command.spawn().context("starting sh")? };
        let free = free_huge_pages()?;
        fs::write(COUNT, (before + pages).to_string()).context(COUNT)?;
        let got = free_huge_pages()?.saturating_sub(free);
        if got < pages {
            return Err(skip(format!("this machine has {got} huge pages to spare and not {pages}")));
        }
        Ok(keeper)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // It writes one number; if it is gone already, so are the pages.
        self.keeper.wait().ok();
    }
}

/// Huge pages of 2 MiB that are reserved and that nobody uses.
///
/// # Errors
/// When the kernel has no huge pages at all.
pub fn free_huge_pages() -> Result<u64> {
    number("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
}

fn number(path: &str) -> Result<u64> {
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(skip(format!("this kernel has no huge pages of 2 MiB ({path})")));
        }
        other => other.context(path)?,
    };
    text.trim().parse().map_err(|_| LabError::Failed(format!("{path} holds no number: {text}")))
}
