//! The example filters of the SDK as WebAssembly modules, built when they are asked for.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Context, LabError, Result};
use crate::harness::skip;

/// Names of the example filters: folders in `sdk/examples`, and names of the modules.
pub const EXAMPLE_FILTERS: [&str; 3] = ["syn-flood", "dns-blocklist", "gtsm"];

/// What clang is told in order to make a filter of a C file.
pub const CLANG_FLAGS: [&str; 7] =
    ["--target=wasm32", "-std=c11", "-O2", "-nostdlib", "-ffreestanding", "-fno-builtin", "-Wl,--no-entry"];

/// Builds an example filter, unless it is built already, and returns its module: `target/filters/NAME.wasm`.
///
/// # Errors
/// Skips the test where clang or wasm-ld is needed and missing. When the name is none of [`EXAMPLE_FILTERS`], or the build
/// fails.
pub fn example_filter(name: &str) -> Result<PathBuf> {
    if !EXAMPLE_FILTERS.contains(&name) {
        return Err(LabError::Failed(format!("there is no example filter \"{name}\"; there are {EXAMPLE_FILTERS:?}")));
    }
    let source = root().join("sdk/examples").join(name);
    let out = target_dir().join("filters").join(format!("{name}.wasm"));
    std::fs::create_dir_all(target_dir().join("filters")).context("making target/filters")?;
    if source.join("Cargo.toml").is_file() {
        rust_filter(&source, &target_dir(), &format!("{}.wasm", name.replace('-', "_")), &out)?;
    } else {
        c_filter(&source.join(format!("{}.c", name.replace('-', "_"))), &out)?;
    }
    Ok(out)
}

/// Builds the crate of a filter with the profile that its workspace has for that (`filter` in this one, `release`
/// elsewhere), and copies `file` of what was built to `out`.
///
/// # Errors
/// With the compiler's words.
pub fn rust_filter(folder: &Path, target: &Path, file: &str, out: &Path) -> Result<()> {
    let profile = if folder.starts_with(root()) { "filter" } else { "release" };
    let mut cargo = cargo();
    cargo.current_dir(folder).args(["build", "--quiet", "--target", WASM, "--profile", profile, "--target-dir"]);
    cargo.arg(target);
    if profile == "release" {
        // Tests run where there is no network; all that a filter's crate needs was there to build this one.
        cargo.arg("--offline");
    }
    run(&mut cargo)?;
    publish(&target.join(WASM).join(profile).join(file), out)
}

const WASM: &str = "wasm32-unknown-unknown";

/// Builds a filter of one C file.
///
/// # Errors
/// Skips the test where clang or wasm-ld is missing. With the compiler's words when it fails.
pub fn c_filter(source: &Path, out: &Path) -> Result<()> {
    for program in ["clang", "wasm-ld"] {
        if Command::new(program).arg("--version").output().is_err() {
            return Err(skip(format!("{program} is missing: apt-get install clang lld")));
        }
    }
    let fresh = fresh(out);
    let include = root().join("sdk/include");
    let strict = ["-Wall", "-Wextra", "-Werror"].map(OsStr::new);
    let mut clang = Command::new("clang");
    clang.args(CLANG_FLAGS).args(strict).arg("-I").arg(include).arg("-o").arg(&fresh).arg(source);
    run(&mut clang)?;
    std::fs::rename(&fresh, out).context(format!("moving {} to its place", out.display()))
}

/// A cargo command without what the cargo that started us put into the environment.
pub fn cargo() -> Command {
    let mut c = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let n = name.to_string_lossy();
        let ours = n.starts_with("CARGO_PKG_") || n.starts_with("CARGO_MANIFEST");
        if ours || matches!(&*n, "CARGO" | "CARGO_BIN_NAME" | "CARGO_CRATE_NAME" | "CARGO_PRIMARY_PACKAGE") {
            c.env_remove(&name);
        }
    }
    c
}

/// A name beside `out` that no other thread or process uses: tests run beside each other.
fn fresh(out: &Path) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    out.with_extension(format!("{}-{}.wasm", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// Puts a copy in its place at once.
fn publish(built: &Path, out: &Path) -> Result<()> {
    let fresh = fresh(out);
    std::fs::copy(built, &fresh).context(format!("copying {}", built.display()))?;
    std::fs::rename(&fresh, out).context(format!("moving {} to its place", out.display()))
}

fn run(command: &mut Command) -> Result<()> {
    let name = format!("running {}", command.get_program().to_string_lossy());
    let out = command.output().context(name.clone())?;
    if out.status.success() {
        return Ok(());
    }
    Err(LabError::Failed(format!("{name}: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr))))
}

/// The folder of the workspace: this crate lies at tests/lab.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// Where cargo builds to, as the place of this program says: `target` of `target/release/deps/a_test`.
fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    let profile = exe.ancestors().find(|p| p.file_name().is_some_and(|n| n == "release" || n == "debug"));
    profile.and_then(Path::parent).map_or_else(|| root().join("target"), Path::to_path_buf)
}
