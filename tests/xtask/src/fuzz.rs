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
    // With the features of the whole workspace, so that nothing is compiled a second time.
    let mut build = crate::build::cargo();
    build.args(["build", "--release", "--workspace", "--bin", "seeds"]);
    if !r.run("fuzz: build of the seeds", Judge::Status, build).0 {
        return Ok(());
    }
    let mut make = Command::new(target_dir().join("release/seeds"));
    make.arg(&seeds);
    if !r.run("fuzz: seeds", Judge::Status, make).0 {
        return Ok(());
    }
    let heavy = heavy()?;
    for name in targets.iter().filter(|t| only.is_none_or(|o| o == *t)) {
        let corpus: PathBuf = root().join("tests/fuzz/corpus").join(name);
        std::fs::create_dir_all(&corpus).map_err(|e| format!("{}: {e}", corpus.display()))?;
        let mut c = fuzzer();
        c.args(["fuzz", "run", "--fuzz-dir", "tests/fuzz"]);
        if !heavy.contains(name) {
            c.arg("--no-default-features");
        }
        c.arg(name).arg(corpus).arg(seeds.join(name));
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

/// Targets that need the program, and with it wasmtime, which their build compiles once more, with a sanitizer.
fn heavy() -> Result<Vec<String>, String> {
    #[derive(serde::Deserialize)]
    struct Manifest {
        bin: Vec<Bin>,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Bin {
        name: String,
        #[serde(default)]
        required_features: Vec<String>,
    }
    let file = root().join("tests/fuzz/Cargo.toml");
    let text = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    let manifest: Manifest = toml::from_str(&text).map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(manifest.bin.into_iter().filter(|b| !b.required_features.is_empty()).map(|b| b.name).collect())
}

/// cargo with the pinned compiler, which has the sanitizer as a nightly one has it, and takes its flags when told to.
fn fuzzer() -> Command {
    let mut c = crate::build::cargo();
    c.env("RUSTC_BOOTSTRAP", "1");
    c
}

/// What is missing for a run, and the line that provides it.
fn missing() -> Option<String> {
    let status = fuzzer().args(["fuzz", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match status.is_ok_and(|s| s.success()) {
        true => None,
        false => Some("there is no cargo-fuzz (cargo install cargo-fuzz)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_that_need_the_program_are_told_from_the_others() {
        let (all, heavy) = (targets().unwrap(), heavy().unwrap());
        assert!(heavy.iter().all(|h| all.contains(h)) && heavy.contains(&"wasm_verify".to_owned()), "{heavy:?}");
        assert!(heavy.len() < all.len() && !heavy.contains(&"frame".to_owned()), "{heavy:?}");
    }
}
