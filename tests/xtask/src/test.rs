//! `cargo xtask test`: everything that this project claims, shown.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::build::{cargo, root};
use crate::packages;
use crate::parse::Counts;
use crate::steps::{Judge, Runner, end_current};
use crate::table::Table;

/// Runs all steps. True when none failed.
pub fn run(args: &Args) -> Result<bool, String> {
    let start = Instant::now();
    // Steps are process groups of their own, which Ctrl-C does not reach.
    smpnet_lab::on_interrupt(end_current).map_err(|e| e.to_string())?;
    let target = target_dir();
    let mut r = Runner::new(target.join("xtask"))?;

    let missing = packages::provide();
    r.finish("system packages", Counts { skipped: missing, ..Counts::one(true) }, start.elapsed());
    r.run("formatting", Judge::Status, with(cargo(), &["fmt", "--all", "--check"]));
    let lint = ["clippy", "--workspace", "--all-targets", "--release", "--", "-D", "warnings"];
    r.run("clippy", Judge::Status, with(cargo(), &lint));
    let (built, _) = r.run("build", Judge::Status, with(cargo(), &["build", "--workspace", "--release"]));
    let unit = ["test", "--workspace", "--exclude", "smpnet-e2e", "--release", "--no-fail-fast", "--", "--show-output"];
    let mut unit = with(cargo(), &unit);
    if args.long {
        // Property tests make more rounds.
        unit.env("SMPNET_LONG", "1");
    }
    r.run("unit, doc and layout tests", Judge::Tests, unit);
    if args.quick {
        r.skip("loom", "--quick");
        r.skip("miri", "--quick");
    } else {
        loom(&mut r, &target);
        miri(&mut r, &target);
    }
    if built {
        let e2e = ["test", "-p", "smpnet-e2e", "--release", "--no-fail-fast", "--", "--show-output"];
        let mut e2e = with(cargo(), &e2e);
        if args.long {
            // Storms take longer.
            e2e.env("SMPNET_LONG", "1");
        }
        r.run("end-to-end tests", Judge::Tests, e2e);
        show(&mut r, "demo", &["demo", "--json", "--no-build"])?;
        if args.long {
            show(&mut r, "soak, 10 minutes", &["soak", "--json", "--no-build", "--seconds", "600"])?;
        }
        if args.long {
            crate::fuzz::steps(&mut r, None, 30)?;
        }
    } else {
        r.skip("end-to-end tests", "the build failed");
        r.skip("demo", "the build failed");
    }
    Ok(report(&r, start.elapsed()))
}

fn with(mut c: Command, args: &[&str]) -> Command {
    c.args(args);
    c
}

/// Where this program was built to: `target` of `target/release/xtask`.
pub fn target_dir() -> std::path::PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    exe.ancestors().nth(2).map_or_else(|| root().join("target"), Path::to_path_buf)
}

/// The runtime's lists, references and queues under every interleaving that loom finds.
fn loom(r: &mut Runner, target: &Path) {
    let mut c = with(
        cargo(),
        &["test", "-p", "smpnet-runtime", "--release", "--no-fail-fast", "--test", "loom_*", "--", "--show-output"],
    );
    c.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", target.join("loom"));
    r.run("loom", Judge::Tests, c);
}

/// The runtime and the ABI under miri, where a nightly toolchain has it.
fn miri(r: &mut Runner, target: &Path) {
    // Only rustup's own cargo understands `+nightly`; CARGO names that of the pinned toolchain.
    let nightly = || {
        let mut c = Command::new("cargo");
        c.arg("+nightly").current_dir(root()).env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC");
        c
    };
    let there = nightly().args(["miri", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !there.is_ok_and(|s| s.success()) {
        let how = "rustup toolchain install nightly --component miri --component rust-src";
        r.skip("miri", &format!("there is no nightly toolchain with miri ({how})"));
        return;
    }
    let mut c = with(nightly(), &["miri", "test", "-p", "smpnet-abi", "-p", "smpnet-runtime", "--lib"]);
    c.env("CARGO_TARGET_DIR", target.join("miri")).env("MIRIFLAGS", "-Zmiri-disable-isolation");
    r.run("miri", Judge::SlowTests, c);
}

/// Runs one of our own commands and looks at the object it prints.
fn show(r: &mut Runner, name: &str, args: &[&str]) -> Result<(), String> {
    // By its name: building the workspace has put a new file in this program's place.
    let mut c = Command::new(target_dir().join("release/xtask"));
    c.args(args);
    let before = r.done.len();
    let (ok, output) = r.run(name, Judge::Status, c);
    let object = output.lines().rev().find_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    let fine = ok && object.as_ref().is_some_and(|o| o["ok"] == true);
    if let Some(done) = r.done.get_mut(before) {
        if let Some(reason) = object.as_ref().and_then(|o| o["skipped"].as_str()) {
            done.counts = Counts { skipped: vec![format!("{name}: {reason}")], ..Counts::default() };
        } else if ok && !fine {
            done.counts = Counts::one(false);
        }
    }
    if let Some(o) = object {
        println!("{name}: {o}");
    }
    Ok(())
}

fn report(r: &Runner, time: Duration) -> bool {
    let mut table = Table::new("cargo xtask test");
    table.row(["step", "time", "passed", "failed", "skipped"]);
    let mut sum = Counts::default();
    for d in &r.done {
        sum.add(&d.counts);
        let c = &d.counts;
        let row = [
            d.name.clone(),
            format!("{:.0} s", d.time.as_secs_f64()),
            c.passed.to_string(),
            c.failed.to_string(),
            c.skipped.len().to_string(),
        ];
        table.row(row);
    }
    println!("\n{}", table.render());
    if !sum.skipped.is_empty() {
        println!("skipped, and why:");
        sum.skipped.iter().for_each(|s| println!("  {s}"));
        println!();
    }
    if !sum.failures.is_empty() {
        println!("failed:");
        sum.failures.iter().for_each(|f| println!("  {f}"));
        println!();
    }
    println!("all steps: {:.0} s; the output of each is in {}", time.as_secs_f64(), r.logs.display());
    println!("{} passed, {} failed, {} skipped", sum.passed, sum.failed, sum.skipped.len());
    sum.failed == 0
}
