//! What a device says by `SIOCETHTOOL` (linux/ethtool.h): its queues and what it takes off frames.

use crate::sys;
use std::{io, os::fd::AsRawFd};

const SIOCETHTOOL: u64 = 0x8946;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// Queues in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues {
    /// That receive.
    pub rx: u32,
    /// That transmit.
    pub tx: u32,
}

/// The queues of `device`, in the network namespace of this thread. Devices without channels (tun, bridge) refuse.
pub fn queues(device: &str) -> io::Result<Queues> {
    /// `struct ethtool_channels`.
    #[repr(C)]
    #[derive(Default)]
    struct Channels {
        cmd: u32,
        max: [u32; 4],
        rx: u32,
        tx: u32,
        other: u32,
        combined: u32,
    }
    let mut channels = Channels { cmd: ETHTOOL_GCHANNELS, ..Channels::default() };
    request(device, &mut channels)?;
    Ok(Queues { rx: channels.combined + channels.rx, tx: channels.combined + channels.tx })
}

/// Whether `device` takes 802.1Q tags off the frames that it receives.
pub fn takes_tags_off(device: &str) -> io::Result<bool> {
    /// `struct ethtool_value`.
    #[repr(C)]
    struct Value {
        cmd: u32,
        data: u32,
    }
    let mut value = Value { cmd: ETHTOOL_GFLAGS, data: 0 };
    request(device, &mut value)?;
    Ok(value.data & ETH_FLAG_RXVLAN != 0)
}

/// `T` must be the structure of the command that it begins with.
fn request<T>(device: &str, command: &mut T) -> io::Result<()> {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut request = sys::ifreq(device);
    request.ifr_ifru.ifru_data = std::ptr::from_mut(command).cast();
    sys::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &mut request).map(drop)
}
