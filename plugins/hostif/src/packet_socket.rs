//! A packet(7) socket on one device, with the options that the driver needs.

use crate::{
    error::{HostError, NET_RAW},
    sys,
    uapi::*,
};
use smpnet_plugin::MacAddr;
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

/// How a fanout group spreads frames over its sockets (packet(7), `PACKET_FANOUT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fanout {
    /// By the symmetric hash of the flow, so that both directions of a flow reach the same queue.
    Hash,
    /// By the CPU that received the frame.
    Cpu,
    /// One after the other.
    Lb,
    /// At random.
    Rnd,
    /// By the queue of the device.
    Qm,
}

impl Fanout {
    fn code(self) -> u16 {
        match self {
            Fanout::Hash => PACKET_FANOUT_HASH,
            Fanout::Cpu => PACKET_FANOUT_CPU,
            Fanout::Lb => PACKET_FANOUT_LB,
            Fanout::Rnd => PACKET_FANOUT_RND,
            Fanout::Qm => PACKET_FANOUT_QM,
        }
    }
}

/// What a membership asks the device for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// Every frame.
    Promiscuous,
    /// Every multicast.
    AllMulticast,
    /// One multicast address.
    Multicast(MacAddr),
    /// One more unicast address.
    Unicast(MacAddr),
}

/// A packet socket.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    index: i32,
    /// Whether frames have a virtio-net header before them.
    vnet: bool,
}

impl PacketSocket {
    /// A socket for device `index` that receives nothing yet, with `TPACKET_V3` chosen. With `vnet`, frames have a
    /// virtio-net header if the kernel has that; see [`PacketSocket::has_vnet`].
    pub fn new(index: i32, vnet: bool) -> Result<Self, HostError> {
        let fd = sys::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0)
            .map_err(HostError::of("a packet socket", NET_RAW))?;
        let vnet = vnet && sys::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, PACKET_VNET_HDR, &1i32).is_ok();
        let socket = PacketSocket { fd, index, vnet };
        socket.set(PACKET_VERSION, &TPACKET_V3).map_err(HostError::of("TPACKET_V3", NET_RAW))?;
        Ok(socket)
    }

    /// The descriptor.
    pub fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Whether frames have a virtio-net header before them.
    pub fn has_vnet(&self) -> bool {
        self.vnet
    }

    /// Sets an option of the packet level.
    pub fn set<T: Copy>(&self, option: i32, value: &T) -> io::Result<()> {
        sys::setsockopt(self.raw_fd(), libc::SOL_PACKET, option, value)
    }

    /// Binds the socket to its device: with `receive`, every frame that arrives there comes here from now on; without,
    /// it only sends.
    pub fn bind(&self, receive: bool) -> io::Result<()> {
        // SAFETY: sockaddr_ll is plain data for which all bits zero is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = if receive { (libc::ETH_P_ALL as u16).to_be() } else { 0 };
        address.sll_ifindex = self.index;
        // SAFETY: address is a sockaddr_ll, and its size is given.
        sys::check(unsafe {
            libc::bind(
                self.raw_fd(),
                std::ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })?;
        Ok(())
    }

    /// Refuses every frame by a socket filter, or takes the filter off again.
    pub fn refuse_all(&self, refuse: bool) -> io::Result<()> {
        if !refuse {
            return match sys::setsockopt(self.raw_fd(), libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0i32) {
                // There is none.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
                other => other,
            };
        }
        // ret 0
        let mut program = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 }];
        let filter = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
        sys::setsockopt(self.raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
    }

    /// Opens a fanout group of its own, with this socket as its first member, and returns its id. The socket must be
    /// bound and its device up.
    pub fn fanout_open(&self, mode: Fanout) -> io::Result<u16> {
        let flags = PACKET_FANOUT_FLAG_UNIQUEID | PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
        self.set(PACKET_FANOUT, &(u32::from(mode.code() | flags) << 16))?;
        Ok(sys::getsockopt::<u32>(self.raw_fd(), libc::SOL_PACKET, PACKET_FANOUT)? as u16)
    }

    /// Joins the group `id` of [`PacketSocket::fanout_open`].
    pub fn fanout_join(&self, mode: Fanout, id: u16) -> io::Result<()> {
        // The flags of all members must agree.
        let flags = PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
        self.set(PACKET_FANOUT, &(u32::from(mode.code() | flags) << 16 | u32::from(id)))
    }

    /// Frames that the kernel had for this socket and those of them that it lost because the ring was full, since the
    /// last call.
    pub fn take_statistics(&self) -> TpacketStatsV3 {
        sys::getsockopt(self.raw_fd(), libc::SOL_PACKET, PACKET_STATISTICS).unwrap_or_default()
    }

    /// Asks the device for more frames; lasts until the socket is closed.
    pub fn join(&self, membership: Membership) -> io::Result<()> {
        self.set(PACKET_ADD_MEMBERSHIP, &self.mreq(membership))
    }

    /// Ends [`PacketSocket::join`].
    pub fn leave(&self, membership: Membership) -> io::Result<()> {
        self.set(PACKET_DROP_MEMBERSHIP, &self.mreq(membership))
    }

    /// Asks for `bytes` of send buffer, above the system's limit where we may, and returns what there is now.
    pub fn set_send_buffer(&self, bytes: u32) -> u32 {
        let set = |option| sys::setsockopt(self.raw_fd(), libc::SOL_SOCKET, option, &bytes).is_ok();
        // Without either, the default stays.
        let _set = set(libc::SO_SNDBUFFORCE) || set(libc::SO_SNDBUF);
        let got: io::Result<u32> = sys::getsockopt(self.raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF);
        // The kernel reports twice what it was asked for.
        got.unwrap_or(0) / 2
    }

    fn mreq(&self, membership: Membership) -> PacketMreq {
        let (kind, mac) = match membership {
            Membership::Promiscuous => (PACKET_MR_PROMISC, None),
            Membership::AllMulticast => (PACKET_MR_ALLMULTI, None),
            Membership::Multicast(mac) => (PACKET_MR_MULTICAST, Some(mac)),
            Membership::Unicast(mac) => (PACKET_MR_UNICAST, Some(mac)),
        };
        let mut address = [0; 8];
        if let Some(mac) = mac {
            address[..6].copy_from_slice(&mac.bytes);
        }
        PacketMreq { ifindex: self.index, kind, alen: if mac.is_some() { 6 } else { 0 }, address }
    }
}
