//! A Linux machine of its own: Debian's kernel in QEMU, with every module that the running kernel may lack.
//!
//! It is a peer that a network namespace cannot be: it brings 802.1Q, ipip, gre, l2tp and the like, and huge pages. QEMU
//! emulates the processor (no KVM), which every machine can do in the same way; it is ready in about four seconds. Its
//! memory is all the disk it has, and its network cards are TAP devices of laboratory hosts.
//!
//! ```no_run
//! use smpnet_lab::{Guest, Host, Lab};
//! # fn main() -> Result<(), smpnet_lab::LabError> {
//! let lab = Lab::enter()?;
//! let host = Host::new(lab, "H")?;
//! let guest = Guest::new().module("8021q").program("ip").nic(&host, "tap0", [2, 0, 0, 0, 0, 9]);
//! let mut peer = guest.boot()?;
//! peer.ok("ip link set eth0 up; ip addr add 10.0.0.2/24 dev eth0")?;
//! # Ok(())
//! # }
//! ```

mod cpio;
mod initramfs;
mod kernel;
mod tap;

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::cleanup::TempDir;
use crate::error::{Context, LabError, Result};
use crate::harness::skip;
use crate::host::Host;
use crate::link::Mac;

pub use kernel::{Kernel, kernel_cache};

const QEMU: &str = "qemu-system-x86_64";
/// What the guest needs before its first command.
const OWN_MODULES: [&str; 3] = ["virtio_pci", "virtio_console", "virtio_net"];
/// Emulation takes four seconds on an idle machine; this one may be busy.
const BOOT_PATIENCE: Duration = Duration::from_secs(60);
/// Lines that are not the script's begin so.
const MARK: &str = "=== ";

/// A guest to be booted.
#[derive(Debug)]
pub struct Guest<'a> {
    modules: Vec<String>,
    programs: Vec<PathBuf>,
    nics: Vec<Nic<'a>>,
    memory_mib: u32,
    patience: Duration,
    kernel_arguments: String,
}

#[derive(Debug)]
struct Nic<'a> {
    host: &'a Host,
    link: String,
    mac: Mac,
    /// What the card is told beyond its address.
    more: &'static str,
}

/// The guest gets frames as they are on the wire, and the card reads and writes where the guest's kernel mapped memory for
/// it (VIRTIO_F_ACCESS_PLATFORM): both are needed for XDP without copying.
const FOR_XDP: &str =
    ",iommu_platform=on,disable-legacy=on,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off";

impl Default for Guest<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Guest<'a> {
    /// 256 MiB of memory, busybox, no network card.
    pub fn new() -> Guest<'a> {
        Guest {
            modules: OWN_MODULES.map(String::from).to_vec(),
            programs: Vec::new(),
            nics: Vec::new(),
            memory_mib: 256,
            patience: Duration::from_secs(30),
            kernel_arguments: String::new(),
        }
    }

    /// Loads a kernel module, and what it depends on, before the first command.
    pub fn module(mut self, name: &str) -> Self {
        self.modules.push(name.into());
        self
    }

    /// Takes a program of this machine along, with its shared libraries: a path, or a name to be looked up. In the guest it
    /// goes by its name alone.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.programs.push(program.into());
        self
    }

    /// Adds a network card: `eth0`, `eth1` and so on in the order of these calls. Its cable ends in a TAP device of `host`
    /// named `link`, which is made and brought up at boot and vanishes with the guest.
    pub fn nic(mut self, host: &'a Host, link: &str, mac: Mac) -> Self {
        self.nics.push(Nic { host, link: link.into(), mac, more: "" });
        self
    }

    /// As [`nic`](Self::nic), with a card that the guest's XDP sockets can read and write without copies.
    pub fn xdp_nic(mut self, host: &'a Host, link: &str, mac: Mac) -> Self {
        self.nics.push(Nic { host, link: link.into(), mac, more: FOR_XDP });
        self
    }

    /// Memory in MiB; 128 at least.
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib.max(128);
        self
    }

    /// How long one command may take (30 seconds unless told).
    pub fn patience(mut self, t: Duration) -> Self {
        self.patience = t;
        self
    }

    /// Appends to the kernel's command line, `hugepages=64` for example.
    pub fn kernel_arguments(mut self, text: &str) -> Self {
        self.kernel_arguments = text.into();
        self
    }

    /// Boots it and waits until it takes commands.
    ///
    /// # Errors
    /// [`LabError::Skipped`] where this machine has no QEMU, busybox or kernel with these modules; otherwise with what its
    /// console said when it does not come up.
    pub fn boot(&self) -> Result<Peer> {
        let qemu = initramfs::look_up(Path::new(QEMU))
            .ok_or_else(|| skip(format!("{QEMU} is not installed (package qemu-system-x86)")))?;
        let modules: Vec<&str> = self.modules.iter().map(String::as_str).collect();
        let kernel = Kernel::find(&modules)?;
        let dir = TempDir::new("smpnet-guest")?;
        let initrd = dir.path().join("initrd");
        initramfs::write(&initrd, &kernel, &modules, &self.programs)?;
        let taps = self.nics.iter().map(|n| tap::open(n.host, &n.link)).collect::<Result<Vec<OwnedFd>>>()?;
        let mut command = Command::new(qemu);
        self.arguments(&mut command, &kernel, dir.path(), &taps);
        Peer::start(command, dir, self.patience)
    }

    fn arguments(&self, c: &mut Command, kernel: &Kernel, dir: &Path, taps: &[OwnedFd]) {
        let append = format!(
            "console=ttyS0 quiet panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check {}",
            self.kernel_arguments
        );
        c.args(["-accel", "tcg", "-machine", "q35", "-cpu", "max,la57=off", "-nodefaults", "-nographic", "-no-reboot"])
            .arg("-m")
            .arg(self.memory_mib.to_string())
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(dir.join("initrd"))
            .args(["-append", &append])
            .arg("-serial")
            .arg(format!("file:{}", dir.join("console").display()))
            .args(["-chardev", "stdio,id=commands,signal=off", "-device", "virtio-serial-pci"])
            .args(["-device", "virtserialport,chardev=commands,nr=1"]);
        for (i, (nic, tap)) in self.nics.iter().zip(taps).enumerate() {
            let mac = nic.mac.map(|b| format!("{b:02x}")).join(":");
            c.arg("-netdev").arg(format!("tap,id=n{i},fd={},vhost=off", tap.as_raw_fd()));
            c.arg("-device").arg(format!("virtio-net-pci,netdev=n{i},mac={mac},romfile={}", nic.more));
        }
        let fds: Vec<i32> = taps.iter().map(AsRawFd::as_raw_fd).collect();
        let parent = std::process::id();
        // SAFETY: between fork and exec only async-signal-safe calls are made: fcntl, prctl and getppid.
        unsafe {
            c.pre_exec(move || {
                for fd in &fds {
                    if libc::fcntl(*fd, libc::F_SETFD, 0) != 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                // It ends with the thread that started it, whatever becomes of that.
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                // The parent may have died before prctl.
                if libc::getppid() as u32 != parent {
                    return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
                }
                Ok(())
            });
        }
        c.process_group(0);
    }
}

/// What a script did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it printed on standard output and standard error.
    pub lines: Vec<String>,
}

/// A running guest. It ends when dropped, and with the thread that booted it.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    commands: ChildStdin,
    output: Receiver<String>,
    patience: Duration,
    dir: TempDir,
    /// How long it took until it was ready for commands.
    pub boot_time: Duration,
}

impl Peer {
    fn start(mut command: Command, dir: TempDir, patience: Duration) -> Result<Peer> {
        let start = Instant::now();
        let log = std::fs::File::create(dir.path().join("qemu")).context("creating QEMU's log")?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().context(format!("starting {QEMU}"))?;
        let (Some(commands), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(LabError::Failed("QEMU has no pipes".into()));
        };
        let (send, output) = channel();
        let read = move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(std::result::Result::ok) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\r').to_string();
                if send.send(text).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("guest".into()).spawn(read).context("starting a thread")?;
        let mut peer = Peer { child, commands, output, patience, dir, boot_time: Duration::ZERO };
        peer.until_mark(BOOT_PATIENCE, "boot")?;
        peer.boot_time = start.elapsed();
        Ok(peer)
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs a shell script as root in the guest and waits for its end.
    ///
    /// # Errors
    /// With what was printed so far and the end of the console when it does not end in time, or the guest dies.
    pub fn sh(&mut self, script: &str) -> Result<Ran> {
        let text = format!("{}\n{MARK}run\n", script.trim_end_matches('\n'));
        self.commands.write_all(text.as_bytes()).context("writing to the guest")?;
        let (mark, mut lines) = self.until_mark(self.patience, script)?;
        let code = mark.strip_prefix("exit ").and_then(|c| c.parse().ok());
        let code = code.ok_or_else(|| LabError::Failed(format!("the guest said \"{mark}\" after {script}")))?;
        // The mark stands on a line of its own, whether or not the output ended with a line break.
        if lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        Ok(Ran { code, lines })
    }

    /// Runs a script that must succeed; gives what it printed.
    ///
    /// # Errors
    /// As [`sh`](Self::sh), and with its output when it fails.
    pub fn ok(&mut self, script: &str) -> Result<Vec<String>> {
        let ran = self.sh(script)?;
        if ran.code == 0 {
            return Ok(ran.lines);
        }
        Err(LabError::Failed(format!("in the guest, {script}\nfailed with {}:\n{}", ran.code, ran.lines.join("\n"))))
    }

    /// The rest of the next line with a mark, and the lines before it.
    fn until_mark(&mut self, patience: Duration, what: &str) -> Result<(String, Vec<String>)> {
        let deadline = Instant::now() + patience;
        let mut lines = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(line) => match line.strip_prefix(MARK) {
                    Some(mark) => return Ok((mark.to_string(), lines)),
                    None => lines.push(line),
                },
                Err(e) => {
                    let end = if e == RecvTimeoutError::Timeout { "hangs" } else { "died" };
                    return Err(LabError::Failed(format!(
                        "the guest {end} after {patience:?} at most of: {what}\n{}\nits console:\n{}",
                        lines.join("\n"),
                        self.console(40)
                    )));
                }
            }
        }
    }

    /// The last lines of what QEMU and the guest's kernel said.
    pub fn console(&self, lines: usize) -> String {
        let read = |name: &str| {
            String::from_utf8_lossy(&std::fs::read(self.dir.path().join(name)).unwrap_or_default()).into_owned()
        };
        let text = read("qemu") + &read("console");
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // All that it has is memory: nothing needs an orderly end. It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
