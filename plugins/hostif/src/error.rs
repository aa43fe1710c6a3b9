//! What can go wrong between a driver and the kernel, each with its way out.

use std::io;

/// Why a port could not be opened or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// No device of that name exists in the network namespace.
    #[error("no network device \"{name}\" here{}", hint(.nearest))]
    NoDevice {
        /// The name that was asked for.
        name: String,
        /// The most similar name that exists.
        nearest: Option<String>,
    },
    /// The name cannot be that of a network device.
    #[error("\"{0}\" cannot be the name of a network device (1 to 15 bytes, no '/', no space)")]
    BadName(String),
    /// The process may not do it.
    #[error(
        "{what} needs the capability {capability}: run smpnet as root, or give it by `setcap {}+ep FILE` or by \
         AmbientCapabilities={capability} in its systemd unit", .capability.to_lowercase()
    )]
    Permission {
        /// What was refused.
        what: String,
        /// The capability.
        capability: &'static str,
    },
    /// The TUN/TAP driver is not there.
    #[error(
        "/dev/net/tun is missing: load the module by `modprobe tun`, or create the node by `mknod /dev/net/tun c 10 200`"
    )]
    NoTun,
    /// The TUN/TAP driver is there, but its file may not be opened.
    #[error(
        "/dev/net/tun may not be opened by this user: run smpnet as root, or let everybody by `chmod 0666 /dev/net/tun`, as most distributions do (devices still need CAP_NET_ADMIN)"
    )]
    TunClosed,
    /// The kernel's own stack would answer beside smpnet.
    #[error(
        "{device} carries the kernel's own address {address}, and the kernel's stack could not be kept off it ({reason}): \
         remove the address by `ip address del {address} dev {device}`, or set exclusive = false"
    )]
    NotExclusive {
        /// The device.
        device: String,
        /// One of its addresses.
        address: String,
        /// Why each way failed.
        reason: String,
    },
    /// An option of the configuration is wrong.
    #[error("{0}")]
    Option(String),
    /// A system call failed.
    #[error("{what}: {source}")]
    Kernel {
        /// What was being done.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn hint(name: &Option<String>) -> String {
    name.as_ref().map(|n| format!("; did you mean \"{n}\"?")).unwrap_or_default()
}

impl HostError {
    /// For `map_err`: names what was being done, and the capability that it needs if the kernel refused it.
    pub fn of<W: Into<String>>(what: W, capability: &'static str) -> impl FnOnce(io::Error) -> HostError {
        let what = what.into();
        move |source| match source.raw_os_error() {
            Some(libc::EPERM) | Some(libc::EACCES) => HostError::Permission { what, capability },
            _ => HostError::Kernel { what, source },
        }
    }

    /// The first rule of a driver's options that is broken: whether each is kept, and what it says.
    pub(crate) fn check_rules(rules: &[(bool, &str)]) -> Result<(), HostError> {
        match rules.iter().find(|(good, _)| !good) {
            Some((_, rule)) => Err(HostError::Option(format!("options: {rule}"))),
            None => Ok(()),
        }
    }
}

impl From<HostError> for smpnet_plugin::Error {
    fn from(e: HostError) -> Self {
        smpnet_plugin::Error::new(e.to_string())
    }
}

/// What reads and writes kernel interfaces need.
pub const NET_ADMIN: &str = "CAP_NET_ADMIN";
/// What packet sockets need.
pub const NET_RAW: &str = "CAP_NET_RAW";
