//! A daemon as a child process: null ports, no privilege, one socket in a folder of its own.

// clippy.toml allows it in test functions; here are their helpers too.
#![allow(clippy::unwrap_used)]
// Not every file of tests uses all of it.
#![allow(dead_code)]

use serde_json::Value;
use smpnet::client::Client;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

pub const TWO_PORTS: &str = r#"
[runtime]
workers = 2
[pool]
cells = 8192
huge_pages = "never"
[[interface]]
name = "lan0"
driver = "null"
options = { sink_only = true }
addresses = ["10.0.1.1/24"]
[[interface]]
name = "wan0"
driver = "null"
options = { sink_only = true }
addresses = ["10.0.2.1/24"]
[[arp]]
address = "10.0.2.2"
mac = "02:00:00:00:02:02"
[[route]]
to = "default"
via = "10.0.2.2"
[[filter]]
name = "block"
drop = "udp port 5000"
interface = "lan0"
[sysctl]
"net.inet.ip.forwarding" = 1
"#;

/// The program, and plugins built beside it.
pub fn program() -> PathBuf {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_smpnet"));
    let plugin = program.with_file_name("libsmpnet_null.so");
    assert!(
        plugin.exists(),
        "{} is missing: `cargo build --release -p smpnet-plugin-null` makes it; the tests of the program need the null plugin",
        plugin.display()
    );
    program
}

/// A daemon with a folder of its own, ended when dropped.
pub struct Daemon {
    pub child: Child,
    pub folder: PathBuf,
    pub client: Client,
}

impl Daemon {
    pub fn start(name: &str, config: &str) -> Daemon {
        Daemon::start_with(name, config, &[])
    }

    pub fn start_with(name: &str, config: &str, environment: &[(&str, &str)]) -> Daemon {
        let folder = std::env::temp_dir().join(format!("smpnet-test-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("router.toml"), config).unwrap();
        let socket = folder.join("run/s.sock");
        let log = fs::File::create(folder.join("log")).unwrap();
        let child = Command::new(program())
            .args(["run", "router.toml", "--socket"])
            .arg(&socket)
            .current_dir(&folder)
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Daemon { child, client: Client::new(socket), folder };
        let began = Instant::now();
        while daemon.client.get("/v1/version").is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "it does not answer:\n{}", daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    pub fn socket(&self) -> &Path {
        self.client.socket()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub fn run(&self, args: &[&str]) -> Output {
        Command::new(program())
            .args(args)
            .env("SMPNET_SOCKET", self.socket())
            .current_dir(&self.folder)
            .output()
            .unwrap()
    }

    /// What a command prints with --json.
    pub fn json(&self, args: &[&str]) -> Value {
        let out = self.run(&[args, &["--json"]].concat());
        let text = String::from_utf8_lossy(&out.stdout);
        serde_json::from_str(&text).unwrap_or_else(|e| {
            panic!(
                "{args:?}: {e}\nstdout: {text}\nstderr: {}\nlog: {}",
                String::from_utf8_lossy(&out.stderr),
                self.log()
            )
        })
    }

    /// What a command prints, which must succeed.
    pub fn text(&self, args: &[&str]) -> String {
        let out = self.run(args);
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{args:?}: {error}\nlog: {}", self.log());
        String::from_utf8(out.stdout).unwrap()
    }

    /// What a command says on stderr, which must fail with `code`.
    pub fn refused(&self, args: &[&str], code: i32) -> String {
        let out = self.run(args);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&out.stdout));
        String::from_utf8(out.stderr).unwrap()
    }

    pub fn signal(&self, name: &str) {
        let done = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(done.unwrap().success());
    }

    /// Ends it by SIGTERM and waits.
    pub fn stop(mut self) -> (std::process::ExitStatus, String) {
        self.signal("TERM");
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, self.log());
            }
            assert!(began.elapsed() < Duration::from_secs(20), "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

pub fn wait_for(what: &str, daemon: &Daemon, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(10), "{what}:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}
