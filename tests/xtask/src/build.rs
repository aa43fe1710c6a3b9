//! Runs cargo.

use std::path::PathBuf;
use std::process::Command;

/// The folder of the workspace.
pub fn root() -> PathBuf {
    // This crate lies at tests/xtask.
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// A cargo command in the workspace, without what the cargo that started us put into the environment.
pub fn cargo() -> Command {
    let mut c = smpnet_lab::cargo();
    c.current_dir(root());
    c
}

/// The program and every plugin in the tree.
const PROGRAM: &[&str] = &[
    "smpnet",
    "smpnet-plugin-null",
    "smpnet-plugin-hostif",
    "smpnet-plugin-vlan",
    "smpnet-plugin-gif",
    "smpnet-plugin-pcap",
];

/// Builds the program and its plugins in release mode; cargo shows its progress on stderr.
pub fn program() -> Result<(), String> {
    let mut c = cargo();
    c.args(["build", "--release"]);
    for p in PROGRAM {
        c.args(["-p", p]);
    }
    match c.stdout(std::process::Stdio::null()).status() {
        Ok(s) if s.success() => Ok(()),
        Ok(s) => Err(format!("cargo build ended with {s}")),
        Err(e) => Err(format!("cargo cannot be started: {e}")),
    }
}

/// Builds the example filters into `target/filters` and prints what they weigh. True also when one is skipped because its
/// compiler is missing, which is said.
pub fn filters() -> Result<bool, String> {
    for name in smpnet_lab::EXAMPLE_FILTERS {
        match smpnet_lab::example_filter(name) {
            Ok(file) => {
                let bytes = std::fs::metadata(&file).map_err(|e| format!("{}: {e}", file.display()))?.len();
                println!("{:>8} bytes  {}", bytes, file.display());
            }
            Err(smpnet_lab::LabError::Skipped(reason)) => println!("SKIPPED: {name}: {reason}"),
            Err(e) => return Err(format!("{name}: {e}")),
        }
    }
    Ok(true)
}
