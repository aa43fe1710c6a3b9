//! Thin safe wrappers over the socket calls that std lacks.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::error::{Context, LabError, Result};

/// Opens a socket in the calling thread's namespace.
pub(crate) fn open(domain: i32, kind: i32, protocol: i32, what: &str) -> Result<OwnedFd> {
    // SAFETY: socket(2) takes numbers; the result is checked before it is owned.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(LabError::last(format!("{what} socket")));
    }
    // SAFETY: the descriptor is fresh and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets an option whose value is plain data.
pub(crate) fn set<T: Copy>(fd: RawFd, level: i32, option: i32, value: T) -> io::Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the size describe `value`.
    let rc = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), size) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option that is an `int`.
pub(crate) fn get_int(fd: RawFd, level: i32, option: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let mut size = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the pointer and the size describe `value`.
    let rc = unsafe { libc::getsockopt(fd, level, option, (&raw mut value).cast(), &raw mut size) };
    if rc == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Makes receiving calls give up after `t`.
pub(crate) fn set_timeout(fd: RawFd, t: Duration) -> io::Result<()> {
    let usec = t.as_micros().max(1);
    let tv = libc::timeval { tv_sec: (usec / 1_000_000) as _, tv_usec: (usec % 1_000_000) as _ };
    set(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, tv)
}

/// Gives a socket the largest receive buffer that the process may have, up to `bytes`; returns what it got, which the
/// kernel counts with its own overhead.
pub(crate) fn grow_rcvbuf(fd: RawFd, bytes: i32) -> Result<usize> {
    // Only the real root may pass rmem_max.
    if set(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes).is_err() {
        set(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes).context("SO_RCVBUF")?;
    }
    Ok(get_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUF).context("SO_RCVBUF")? as usize)
}

fn sockaddr(to: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as _,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*to.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

/// Sends one datagram.
pub(crate) fn send_to(fd: RawFd, bytes: &[u8], to: SocketAddrV4) -> io::Result<usize> {
    let sa = sockaddr(to);
    // SAFETY: both pointers are valid for the lengths given.
    let n = unsafe {
        libc::sendto(
            fd,
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
            (&raw const sa).cast(),
            size_of::<libc::sockaddr_in>() as libc::socklen_t,
        )
    };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// Receives one datagram; `None` when the time set by [`set_timeout`] ran out.
pub(crate) fn recv(fd: RawFd, buf: &mut [u8]) -> io::Result<Option<usize>> {
    // SAFETY: the buffer is valid for its length.
    let n = unsafe { libc::recv(fd, buf.as_mut_ptr().cast(), buf.len(), 0) };
    if n >= 0 {
        return Ok(Some(n as usize));
    }
    let e = io::Error::last_os_error();
    match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
        _ => Err(e),
    }
}

/// A raw ICMP socket in the calling thread's namespace. It sees every ICMP packet delivered to the host, IP header first.
pub(crate) fn icmp() -> Result<OwnedFd> {
    let fd = open(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP, "raw ICMP")?;
    grow_rcvbuf(fd.as_raw_fd(), 1 << 20)?;
    Ok(fd)
}

/// The Internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An IPv4 packet taken apart: its addresses, protocol, time to live and payload. `None` when it is none.
pub fn ipv4(packet: &[u8]) -> Option<Ipv4View<'_>> {
    let ihl = usize::from(packet.first()? & 15) * 4;
    if packet[0] >> 4 != 4 || ihl < 20 || packet.len() < ihl {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let end = if (ihl..=packet.len()).contains(&total) { total } else { packet.len() };
    let addr = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
    Some(Ipv4View {
        src: addr(12),
        dst: addr(16),
        protocol: packet[9],
        ttl: packet[8],
        fragment: u16::from_be_bytes([packet[6], packet[7]]),
        payload: &packet[ihl..end],
    })
}

/// See [`ipv4`].
#[derive(Clone, Copy, Debug)]
pub struct Ipv4View<'a> {
    /// Source.
    pub src: Ipv4Addr,
    /// Destination.
    pub dst: Ipv4Addr,
    /// IP protocol number.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Flags and fragment offset as they stand in the header.
    pub fragment: u16,
    /// What follows the header.
    pub payload: &'a [u8],
}
