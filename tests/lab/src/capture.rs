//! Frames as they stand on a host's link: seen and sent by packet(7).

use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::error::{Context, LabError, Result};
use crate::host::Host;
use crate::sock;

const ETH_P_ALL: u16 = 3;

/// A frame seen on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// All its bytes, its 802.1Q tag included.
    pub bytes: Vec<u8>,
    /// The host sent it (otherwise it came in).
    pub outgoing: bool,
}

impl Frame {
    /// The EtherType, or 0 for a runt.
    pub fn ether_type(&self) -> u16 {
        self.bytes.get(12..14).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
    }

    /// The IPv4 packet in it.
    pub fn ipv4(&self) -> Option<sock::Ipv4View<'_>> {
        if self.ether_type() == 0x0800 { sock::ipv4(&self.bytes[14..]) } else { None }
    }

    /// The ARP message in it, when it is one for Ethernet and IPv4.
    pub fn arp(&self) -> Option<Arp> {
        let a = self.bytes.get(14..42)?;
        if self.ether_type() != 0x0806 || a[..6] != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        Some(Arp {
            op: u16::from_be_bytes([a[6], a[7]]),
            sender_mac: a[8..14].try_into().ok()?,
            sender: <[u8; 4]>::try_from(&a[14..18]).ok()?.into(),
            target: <[u8; 4]>::try_from(&a[24..28]).ok()?.into(),
        })
    }
}

/// An ARP message for IPv4 over Ethernet (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// 1 request, 2 reply.
    pub op: u16,
    /// Hardware address of the sender.
    pub sender_mac: [u8; 6],
    /// Protocol address of the sender; 0.0.0.0 in a probe.
    pub sender: std::net::Ipv4Addr,
    /// Protocol address that is asked for.
    pub target: std::net::Ipv4Addr,
}

/// A packet socket on one link of a host.
#[derive(Debug)]
pub struct Capture {
    fd: OwnedFd,
    name: String,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Auxdata {
    status: u32,
    len: u32,
    snaplen: u32,
    mac: u16,
    net: u16,
    vlan_tci: u16,
    vlan_tpid: u16,
}

impl Capture {
    /// Sees every frame on `link` from now on, in both directions, and can send some.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn open(host: &Host, link: &str) -> Result<Capture> {
        let index = host.link(link)?.index as i32;
        let fd = host.run(|| sock::open(libc::AF_PACKET, libc::SOCK_RAW, 0, "packet"))??;
        let raw = fd.as_raw_fd();
        sock::grow_rcvbuf(raw, 16 << 20)?;
        sock::set(raw, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1i32).context("PACKET_AUXDATA")?;
        // SAFETY: sockaddr_ll is plain data for which zero is valid.
        let mut sa: libc::sockaddr_ll = unsafe { mem::zeroed() };
        sa.sll_family = libc::AF_PACKET as _;
        sa.sll_protocol = ETH_P_ALL.to_be();
        sa.sll_ifindex = index;
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the pointer and the length describe `sa`.
        if unsafe { libc::bind(raw, (&raw const sa).cast(), len) } != 0 {
            return Err(LabError::last(format!("packet socket on {link}")));
        }
        Ok(Capture { fd, name: format!("{}:{link}", host.name()) })
    }

    /// Sends a frame as it is.
    ///
    /// # Errors
    /// When the link is down or the frame too long.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the buffer is valid for its length; the socket is bound to its link.
        let n = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if n < 0 { Err(LabError::last(format!("sending a frame on {}", self.name))) } else { Ok(()) }
    }

    /// The next frame, or `None` when none comes within `patience`.
    ///
    /// # Errors
    /// When the link vanished.
    pub fn next(&self, patience: Duration) -> Result<Option<Frame>> {
        let fd = self.fd.as_raw_fd();
        sock::set_timeout(fd, patience).context("SO_RCVTIMEO")?;
        let mut data = vec![0u8; 70_000];
        let mut control = [0u64; 16];
        // SAFETY: sockaddr_ll and msghdr are plain data for which zero is valid.
        let (mut from, mut msg): (libc::sockaddr_ll, libc::msghdr) = unsafe { (mem::zeroed(), mem::zeroed()) };
        let mut iov = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
        msg.msg_name = (&raw mut from).cast();
        msg.msg_namelen = size_of::<libc::sockaddr_ll>() as _;
        msg.msg_iov = &raw mut iov;
        msg.msg_iovlen = 1;
        msg.msg_control = control.as_mut_ptr().cast();
        msg.msg_controllen = size_of_val(&control) as _;
        // SAFETY: the header points at buffers that live on until the call is over.
        let n = unsafe { libc::recvmsg(fd, &raw mut msg, 0) };
        if n < 0 {
            let e = std::io::Error::last_os_error();
            return match e.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(None),
                _ => Err(LabError::Io { what: format!("capturing on {}", self.name), source: e }),
            };
        }
        data.truncate(n as usize);
        if let Some((tci, tpid)) = vlan_tag(&msg) {
            // The kernel keeps the outermost tag beside the packet; on the wire it stood after the addresses.
            let at = 12.min(data.len());
            data.splice(at..at, tpid.to_be_bytes().into_iter().chain(tci.to_be_bytes()));
        }
        Ok(Some(Frame { bytes: data, outgoing: from.sll_pkttype == 4 }))
    }

    /// Waits for a frame that `wanted` likes, throwing away the others.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn wait(&self, what: &str, patience: Duration, mut wanted: impl FnMut(&Frame) -> bool) -> Result<Frame> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LabError::Failed(format!("{}: no {what} within {patience:?}", self.name)));
            }
            if let Some(f) = self.next(left)?
                && wanted(&f)
            {
                return Ok(f);
            }
        }
    }

    /// Every frame that comes during `time`.
    ///
    /// # Errors
    /// When the link vanished.
    pub fn collect(&self, time: Duration) -> Result<Vec<Frame>> {
        let until = Instant::now() + time;
        let mut out = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(out);
            }
            out.extend(self.next(left)?);
        }
    }
}

/// The 802.1Q tag that the kernel took out of the packet: TCI and TPID.
fn vlan_tag(msg: &libc::msghdr) -> Option<(u16, u16)> {
    const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
    // SAFETY: the kernel filled the control area of this header, which is still alive; CMSG_* stay inside its length.
    unsafe {
        let mut c = libc::CMSG_FIRSTHDR(msg);
        while !c.is_null() {
            if (*c).cmsg_level == libc::SOL_PACKET && (*c).cmsg_type == libc::PACKET_AUXDATA {
                let aux: Auxdata = std::ptr::read_unaligned(libc::CMSG_DATA(c).cast());
                let tpid = if aux.vlan_tpid == 0 { 0x8100 } else { aux.vlan_tpid };
                return (aux.status & TP_STATUS_VLAN_VALID != 0).then_some((aux.vlan_tci, tpid));
            }
            c = libc::CMSG_NXTHDR(msg, c);
        }
    }
    None
}
