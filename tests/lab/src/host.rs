//! A host: one network namespace with a name, quiet defaults and the means to act in it.

use std::fs;

use crate::enter::Lab;
use crate::error::{Context, LabError, Result};
use crate::netlink::Netlink;
use crate::ns::NetNs;

/// A Linux host of the laboratory. Sockets, threads and programs can be put into it; it vanishes with the process.
#[derive(Debug)]
pub struct Host {
    name: String,
    ns: NetNs,
    netlink: Netlink,
}

/// Which offloads a link uses. What is off is done by the host in software before the packet reaches the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums of sent packets are left open for the device.
    pub tx_checksum: bool,
    /// TCP sends packets larger than the MTU, to be cut by the device.
    pub tso: bool,
    /// Large packets are made at all.
    pub gso: bool,
    /// Received packets are merged.
    pub gro: bool,
}

impl Offloads {
    /// Every packet on the wire is complete and no larger than the MTU.
    pub const NONE: Offloads = Offloads { tx_checksum: false, tso: false, gso: false, gro: false };
    /// What a veth has by default.
    pub const ALL: Offloads = Offloads { tx_checksum: true, tso: true, gso: true, gro: true };
}

impl Host {
    /// Makes a host: `lo` up, no IPv6 (its announcements would disturb exact counts), no reverse-path filter,
    /// forwarding off.
    ///
    /// # Errors
    /// When the namespace cannot be made.
    pub fn new(_: Lab, name: &str) -> Result<Host> {
        let ns = NetNs::new()?;
        let netlink = ns.run(Netlink::open)??;
        let host = Host { name: name.into(), ns, netlink };
        host.set_up("lo", true)?;
        for scope in ["all", "default"] {
            // A kernel without IPv6 has no such file, and needs none.
            host.sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "1").ok();
            host.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
        }
        // An error message more or less must not depend on how many came before.
        host.sysctl("net/ipv4/icmp_ratelimit", "0")?;
        Ok(host)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn ns(&self) -> &NetNs {
        &self.ns
    }

    pub(crate) fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// Runs `f` on a thread inside the host and waits for it.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> Result<R> {
        self.ns.run(f)
    }

    /// Writes a sysctl of this host; `path` is that below `/proc/sys`.
    ///
    /// # Errors
    /// When it does not exist or refuses the value.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        self.run(|| fs::write(format!("/proc/sys/{path}"), value))?
            .context(format!("{}: sysctl {path}={value}", self.name))
    }

    /// Lets the Linux kernel of this host forward.
    ///
    /// # Errors
    /// When the sysctl refuses.
    pub fn set_forwarding(&self, on: bool) -> Result<()> {
        self.sysctl("net/ipv4/ip_forward", if on { "1" } else { "0" })
    }

    /// Reads a file of `/proc/net` as this host sees it.
    ///
    /// # Errors
    /// When there is none.
    pub fn proc_net(&self, file: &str) -> Result<String> {
        self.run(|| fs::read_to_string(format!("/proc/thread-self/net/{file}")))?
            .context(format!("{}: /proc/net/{file}", self.name))
    }

    /// One counter of `/proc/net/snmp`, such as `("Udp", "RcvbufErrors")`.
    ///
    /// # Errors
    /// When the kernel has no such counter.
    pub fn snmp(&self, protocol: &str, counter: &str) -> Result<u64> {
        let text = self.proc_net("snmp")?;
        let mut lines = text.lines().filter(|l| l.strip_prefix(protocol).is_some_and(|r| r.starts_with(':')));
        let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        names
            .split_whitespace()
            .zip(values.split_whitespace())
            .find(|(n, _)| *n == counter)
            .and_then(|(_, v)| v.parse().ok())
            .ok_or_else(|| LabError::Failed(format!("{}: no counter {protocol} {counter}", self.name)))
    }

    /// Switches the offloads of a link (ethtool(8) -K).
    ///
    /// # Errors
    /// When there is no such link or it refuses.
    pub fn set_offloads(&self, link: &str, o: Offloads) -> Result<()> {
        // ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO of linux/ethtool.h.
        let settings = [(0x17, o.tx_checksum), (0x1f, o.tso), (0x24, o.gso), (0x2c, o.gro)];
        self.run(|| settings.into_iter().try_for_each(|(cmd, on)| ethtool(link, cmd, on)))?
            .context(format!("{}: offloads of {link}", self.name))
    }
}

/// One `SIOCETHTOOL` request with a value, in the calling thread's namespace.
fn ethtool(link: &str, cmd: u32, on: bool) -> std::io::Result<()> {
    #[repr(C)]
    struct Value {
        cmd: u32,
        data: u32,
    }
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut value = Value { cmd, data: u32::from(on) };
    // SAFETY: ifreq is plain data for which zero is valid.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in req.ifr_name.iter_mut().zip(link.bytes().take(15)) {
        *to = from as libc::c_char;
    }
    req.ifr_ifru.ifru_data = (&raw mut value).cast();
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    // SAFETY: `req` names a link and points at `value`, both alive during the call; the command reads 8 bytes of it.
    let rc = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), SIOCETHTOOL as _, &raw mut req) };
    if rc == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
