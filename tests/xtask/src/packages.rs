//! The system packages that tests use, and how to get them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::kernel;

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
    Package {
        debian: "qemu-system-x86",
        why: "vlan and gif are tested against a Linux kernel that has 8021q and ipip",
        shows: Shows::Program("qemu-system-x86_64"),
    },
    Package {
        debian: "busybox-static",
        why: "it is the system of the guests that QEMU runs",
        shows: Shows::Program("busybox"),
    },
    Package {
        debian: "dpdk-dev",
        why: "memif is tested and measured beside its testpmd",
        shows: Shows::Program("dpdk-testpmd"),
    },
    Package { debian: "iproute2", why: "guests are configured with it", shows: Shows::Program("ip") },
    Package {
        debian: "tcpdump",
        why: "it reads captures, and listens at the far ends",
        shows: Shows::Program("tcpdump"),
    },
    Package {
        debian: "tshark",
        why: "it reads captures, and captures through extcap",
        shows: Shows::Program("tshark"),
    },
    Package {
        debian: "iperf3",
        why: "smpnet-bench host measures TCP with it, and npf translates it",
        shows: Shows::Program("iperf3"),
    },
    Package { debian: "curl", why: "npf translates what it fetches", shows: Shows::Program("curl") },
    Package { debian: "dnsmasq-base", why: "names are asked for through npf", shows: Shows::Program("dnsmasq") },
];

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // An ordinary user's path may lack the folder where ip is.
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).any(|dir| dir.join(name).is_file())
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

/// Installs what is missing, as root on Debian or Ubuntu; otherwise says what to type. Fetches a kernel for guests, which
/// is unpacked and not installed. Returns a reason for each thing that is still missing.
pub fn provide() -> Vec<String> {
    let mut still = install();
    still.extend(add_target());
    still.extend(fetch_crates());
    if let Err(reason) = kernel::provide(is_debian()) {
        still.push(reason);
    }
    still
}

/// The standard library for filters in WebAssembly. rustup fetches it by itself, as `rust-toolchain.toml` asks, but where the
/// environment names another toolchain. Returns why it is missing.
fn add_target() -> Option<String> {
    const TARGET: &str = "wasm32-unknown-unknown";
    let is_there = || {
        let out = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
        out.is_ok_and(|o| PathBuf::from(String::from_utf8_lossy(&o.stdout).trim()).is_dir())
    };
    if is_there() {
        return None;
    }
    println!("fetching the standard library of {TARGET} (rustup target add {TARGET})");
    // Whether it worked is looked for.
    let _ = Command::new("rustup").args(["target", "add", TARGET]).stderr(Stdio::null()).status();
    (!is_there())
        .then(|| format!("the target {TARGET} is missing: filters are built for it (rustup target add {TARGET})"))
}

/// The crates that only filters need: what this machine builds for itself does not fetch them, and tests build filters without
/// the network. Returns why they are missing.
fn fetch_crates() -> Option<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let fetched = Command::new(cargo).args(["fetch", "--locked", "--quiet"]).status();
    let failed = !fetched.is_ok_and(|s| s.success());
    failed.then(|| "crates of filters are missing: the network is needed once (cargo fetch --locked)".to_owned())
}

fn install() -> Vec<String> {
    let missing: Vec<&Package> = PACKAGES.iter().filter(|p| !p.is_there()).collect();
    if missing.is_empty() {
        return vec![];
    }
    let names: Vec<&str> = missing.iter().map(|p| p.debian).collect();
    let line = format!("apt-get install -y --no-install-recommends {}", names.join(" "));
    if is_debian() && is_root() {
        println!("installing {} ({line})", names.join(", "));
        let verb = ["install", "-y", "--no-install-recommends", "--no-remove"];
        if !apt(&verb, &names) {
            // A fresh container has no package lists.
            apt(&["update"], &[]);
            if !apt(&verb, &names) {
                with_removals(&names);
            }
        }
    } else if is_debian() {
        println!("for all tests, type once:  sudo {line}");
    } else {
        println!("for all tests, install what your distribution calls: {}", names.join(" "));
    }
    let still = missing.iter().filter(|p| !p.is_there());
    still.map(|p| format!("system package {} is missing: {}", p.debian, p.why)).collect()
}

/// The last resort: packages that belong to another version of QEMU give way; nothing else may be removed.
fn with_removals(names: &[&str]) {
    let verb = ["install", "-y", "--no-install-recommends"];
    let plan = Command::new("apt-get").arg("-s").args(verb).args(names).stderr(Stdio::null()).output();
    let plan = plan.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let removed: Vec<&str> = plan.lines().filter_map(|l| l.strip_prefix("Remv ")?.split_whitespace().next()).collect();
    if !removed.is_empty() && removed.iter().all(|r| r.starts_with("qemu-")) {
        println!("{} of another version gives way to qemu-system-x86", removed.join(", "));
        apt(&verb, names);
    } else if !removed.is_empty() {
        println!("not installed: apt-get would remove {}", removed.join(", "));
    }
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
