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
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut c = Command::new(program);
    c.current_dir(root());
    for (name, _) in std::env::vars_os() {
        let n = name.to_string_lossy();
        if n.starts_with("CARGO_PKG_") || n.starts_with("CARGO_MANIFEST") || n == "CARGO_BIN_NAME" || n == "CARGO" {
            c.env_remove(&name);
        }
    }
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
