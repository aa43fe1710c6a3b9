//! TAP devices: the laboratory's end of a guest's cable.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::error::{Context, LabError, Result};
use crate::harness::skip;
use crate::host::Host;

/// Makes a TAP device on `host` and brings it up. It lives as long as the descriptor. Packets cross it with the header that
/// carries offloads (virtio_net_hdr), so that checksums and segments may be left open, as between virtual machines.
pub fn open(host: &Host, link: &str) -> Result<OwnedFd> {
    let name = link.as_bytes();
    if name.len() >= libc::IFNAMSIZ {
        return Err(LabError::Failed(format!("{link} is too long for a link's name")));
    }
    let fd = host.run(|| -> Result<OwnedFd> {
        let path = "/dev/net/tun";
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = match file {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(skip(format!("this machine has no {path}")));
            }
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(skip(format!("{path} may be opened by root only on this machine")));
            }
            other => other.context(path)?,
        };
        // SAFETY: ifreq is plain data for which zero is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name) {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        // SAFETY: TUNSETIFF reads an ifreq, which lives through the call.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request) } != 0 {
            return Err(LabError::last(format!("making the TAP device {link}")));
        }
        Ok(file.into())
    })??;
    // IPv6 would announce itself.
    host.sysctl(&format!("net/ipv6/conf/{link}/disable_ipv6"), "1").ok();
    // An emulated processor may pause for many packets.
    host.set_queue_length(link, 10_000)?;
    host.set_up(link, true)?;
    Ok(fd)
}
