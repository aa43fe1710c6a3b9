//! `cargo xtask fuzz`: the fuzz targets, fed by coverage.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::args::Args;
use crate::build::root;
use crate::steps::{Judge, Runner, end_current};
use crate::test::target_dir;

/// Runs the targets. True when they found nothing.
pub fn run(args: &Args) -> Result<bool, String> {
    smpnet_lab::on_interrupt(end_current).map_err(|e| e.to_string())?;
    let mut r = Runner::new(target_dir().join("xtask"))?;
    steps(&mut r, args.target.as_deref(), args.seconds.unwrap_or(60))?;
    for d in &r.done {
        d.counts.skipped.iter().for_each(|s| println!("skipped: {s}"));
    }
    let failed: u64 = r.done.iter().map(|d| d.counts.failed).sum();
    if failed > 0 {
        println!("what was found is in tests/fuzz/artifacts; the output of each target is in {}", r.logs.display());
    }
    let all_skipped = r.done.iter().all(|d| d.counts.passed + d.counts.failed == 0);
    Ok(failed == 0 && !all_skipped)
}

/// One step for each target, or for the one that is named.
pub fn steps(r: &mut Runner, only: Option<&str>, seconds: u64) -> Result<(), String> {
    let targets = targets()?;
    if let Some(name) = only.filter(|o| !targets.iter().any(|t| t == o)) {
        return Err(format!("there is no fuzz target \"{name}\"; there are {}", targets.join(", ")));
    }
    if let Some(missing) = missing() {
        r.skip("fuzz", &missing);
        return Ok(());
    }
    let seeds = target_dir().join("fuzz-seeds");
    let mut make = crate::build::cargo();
    make.args(["run", "--release", "-p", "smpnet-fuzz-targets", "--bin", "seeds"]).arg(&seeds);
    let (made, _) = r.run("fuzz: seeds", Judge::Status, make);
    if !made {
        return Ok(());
    }
    for name in targets.iter().filter(|t| only.is_none_or(|o| o == *t)) {
        let corpus: PathBuf = root().join("tests/fuzz/corpus").join(name);
        std::fs::create_dir_all(&corpus).map_err(|e| format!("{}: {e}", corpus.display()))?;
        let mut c = nightly();
        c.args(["fuzz", "run", "--fuzz-dir", "tests/fuzz", name]).arg(corpus).arg(seeds.join(name));
        c.args(["--", &format!("-max_total_time={seconds}"), "-max_len=8192", "-timeout=20", "-rss_limit_mb=4096"]);
        c.env("CARGO_TARGET_DIR", target_dir().join("fuzz"));
        r.run(&format!("fuzz: {name}"), Judge::Status, c);
    }
    Ok(())
}

/// Names of all targets: the programs of `tests/fuzz`.
fn targets() -> Result<Vec<String>, String> {
    let folder = root().join("tests/fuzz/fuzz_targets");
    let entries = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let name = |e: std::fs::DirEntry| Some(e.path().file_stem()?.to_str()?.to_owned());
    let mut names: Vec<String> = entries.flatten().filter_map(name).collect();
    names.sort();
    Ok(names)
}

/// Only rustup's own cargo understands `+nightly`; CARGO names that of the pinned toolchain.
fn nightly() -> Command {
    let mut c = Command::new("cargo");
    c.arg("+nightly").current_dir(root()).env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC");
    c
}

/// What is missing for a run, and the line that provides it.
fn missing() -> Option<String> {
    let there = |args: &[&str]| {
        let status = nightly().args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|s| s.success())
    };
    if !there(&["--version"]) {
        return Some("there is no nightly toolchain (rustup toolchain install nightly --profile minimal)".to_owned());
    }
    if !there(&["fuzz", "--version"]) {
        return Some("there is no cargo-fuzz (cargo install cargo-fuzz)".to_owned());
    }
    None
}
