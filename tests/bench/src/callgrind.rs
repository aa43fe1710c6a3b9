//! Instruction counts by callgrind: the same whatever else the machine does.

use std::{io, process::Command};

/// Instructions that this program executes when called with `args`.
///
/// # Errors
/// When valgrind is not installed or the program fails; the text says what to do.
pub fn count(args: &[String]) -> io::Result<u64> {
    let out = std::env::temp_dir().join(format!("smpnet-bench-{}.callgrind", std::process::id()));
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-systime=no"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args(args)
        .output()
        .map_err(|e| {
            io::Error::new(e.kind(), format!("valgrind: {e}; install it (Debian: apt-get install valgrind)"))
        })?;
    let text = std::fs::read_to_string(&out);
    // The file has served; one that was never written needs no removing.
    let _ = std::fs::remove_file(&out);
    if !run.status.success() {
        return Err(io::Error::other(format!("under valgrind: {}", String::from_utf8_lossy(&run.stderr))));
    }
    let text = text?;
    let total = text.lines().find_map(|l| l.strip_prefix("totals: ").or_else(|| l.strip_prefix("summary: ")));
    total
        .and_then(|t| t.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| io::Error::other("callgrind wrote no total"))
}

/// Instructions per packet: the difference between a long and a short run of the same case, so that start-up cancels
/// out. `args` makes the arguments for a number of packets.
pub fn per_packet(short: u64, long: u64, args: impl Fn(u64) -> Vec<String>) -> io::Result<f64> {
    let (a, b) = (count(&args(short))?, count(&args(long))?);
    Ok(b.saturating_sub(a) as f64 / (long - short) as f64)
}
