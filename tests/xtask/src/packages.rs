//! The system packages that tests use, and how to get them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// A package and what shows that it is there.
struct Package {
    debian: &'static str,
    why: &'static str,
    shows: Shows,
}

enum Shows {
    /// A shared library whose name begins so.
    Library(&'static str),
    /// A program in `PATH`.
    Program(&'static str),
}

impl Package {
    fn is_there(&self) -> bool {
        match self.shows {
            Shows::Library(name) => has_library(name),
            Shows::Program(name) => has_program(name),
        }
    }
}

/// What the tests use beyond rustup and git. Building and the demo use none of it.
const PACKAGES: &[Package] = &[
    Package {
        debian: "libpcap0.8",
        why: "filter expressions are compared with libpcap's",
        shows: Shows::Library("libpcap.so"),
    },
    Package { debian: "clang", why: "it compiles filters in C", shows: Shows::Program("clang") },
    Package { debian: "lld", why: "it links filters in C", shows: Shows::Program("wasm-ld") },
];

fn has_program(name: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
}

fn has_library(name: &str) -> bool {
    let mut folders = vec!["/usr/lib".to_string(), "/usr/lib64".into(), "/lib".into(), "/usr/local/lib".into()];
    let arch = std::env::consts::ARCH;
    folders.extend([format!("/usr/lib/{arch}-linux-gnu"), format!("/lib/{arch}-linux-gnu")]);
    folders.iter().any(|f| {
        let Ok(entries) = fs::read_dir(Path::new(f)) else { return false };
        entries.flatten().any(|e| e.file_name().to_string_lossy().starts_with(name))
    })
}

fn is_debian() -> bool {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    text.lines()
        .any(|l| (l.starts_with("ID=") || l.starts_with("ID_LIKE=")) && (l.contains("debian") || l.contains("ubuntu")))
}

/// True when the effective user is root.
pub fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|l| l.strip_prefix("Uid:").is_some_and(|r| r.split_whitespace().nth(1) == Some("0")))
}

/// Installs what is missing, as root on Debian or Ubuntu; otherwise says what to type. Returns a reason for each package
/// that is still missing.
pub fn provide() -> Vec<String> {
    let missing: Vec<&Package> = PACKAGES.iter().filter(|p| !p.is_there()).collect();
    if missing.is_empty() {
        return vec![];
    }
    let names: Vec<&str> = missing.iter().map(|p| p.debian).collect();
    let line = format!("apt-get install -y --no-install-recommends {}", names.join(" "));
    if is_debian() && is_root() {
        println!("installing {} ({line})", names.join(", "));
        if !apt(&["install", "-y", "--no-install-recommends"], &names) {
            // A fresh container has no package lists.
            apt(&["update"], &[]);
            apt(&["install", "-y", "--no-install-recommends"], &names);
        }
    } else if is_debian() {
        println!("for all tests, type once:  sudo {line}");
    } else {
        println!("for all tests, install what your distribution calls: {}", names.join(" "));
    }
    let still = missing.iter().filter(|p| !p.is_there());
    still.map(|p| format!("system package {} is missing: {}", p.debian, p.why)).collect()
}

fn apt(verb: &[&str], names: &[&str]) -> bool {
    let status = Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-qq", "-o", "Dpkg::Use-Pty=0"])
        .args(verb)
        .args(names)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    status.is_ok_and(|s| s.success())
}
