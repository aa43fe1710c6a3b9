//! The little of rtnetlink(7) that the drivers need: links, addresses, and traffic control requests.

use crate::{sys, uapi};
use smpnet_plugin::MacAddr;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

const HEADER: usize = 16;
const IFINFO: usize = 16;

/// What the kernel tells of a link.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// Its index.
    pub index: i32,
    /// Its name.
    pub name: String,
    /// `IFF_*` flags.
    pub flags: u32,
    /// ARPHRD type; 1 for Ethernet.
    pub hw_type: u16,
    /// MTU in bytes.
    pub mtu: u32,
    /// Largest MTU; 0 when the kernel does not say.
    pub mtu_max: u32,
    /// Address.
    pub mac: MacAddr,
    /// Whether the medium is there.
    pub carrier: bool,
    /// Kind of a software device, such as `veth`.
    pub kind: Option<String>,
    /// Packets for the device that the kernel dropped (`tx_dropped`).
    pub tx_dropped: u64,
    /// Name of the bus device behind it; none for software devices.
    pub parent: Option<String>,
    /// How many ask for every frame.
    pub promiscuity: u32,
    /// Receive queues that it has room for; not all need be in use.
    pub rx_queues: u32,
    /// Transmit queues that it has room for.
    pub tx_queues: u32,
    /// The XDP program on it, by its id; 0 for none.
    pub xdp_program: u32,
}

impl Link {
    /// Whether the device is configured up.
    pub fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP as u32 != 0
    }

    /// Whether packets can go through: up, and the medium there.
    pub fn is_running(&self) -> bool {
        self.is_up() && self.carrier
    }
}

/// What to change of a link; what is `None` stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkChange {
    /// Configured up.
    pub up: Option<bool>,
    /// MTU.
    pub mtu: Option<u32>,
    /// Address.
    pub mac: Option<MacAddr>,
}

/// One message from the kernel.
#[derive(Debug)]
pub struct Message {
    /// `RTM_*`.
    pub kind: u16,
    /// What follows the netlink header.
    pub payload: Vec<u8>,
}

/// A request's body: a fixed head, then attributes.
#[derive(Default)]
pub struct Body(Vec<u8>);

impl Body {
    /// A body that begins with `head`.
    pub fn new(head: &[u8]) -> Self {
        Body(head.to_vec())
    }

    /// Appends an attribute.
    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        let len = 4 + value.len();
        self.0.extend_from_slice(&(len as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Appends an attribute that holds a text with its final NUL.
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Appends an attribute that holds attributes.
    pub fn nest(self, kind: u16, inner: Body) -> Self {
        self.attr(kind | libc::NLA_F_NESTED as u16, &inner.0)
    }
}

/// The attributes in `bytes`; stops at the first that does not fit.
pub fn attrs(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

/// Reads an `RTM_NEWLINK` or `RTM_DELLINK`.
pub fn parse_link(payload: &[u8]) -> Option<Link> {
    let mut link = Link {
        hw_type: u16_at(payload, 2)?,
        index: u32_at(payload, 4)? as i32,
        flags: u32_at(payload, 8)?,
        ..Link::default()
    };
    link.carrier = link.flags & libc::IFF_LOWER_UP as u32 != 0;
    for (kind, value) in attrs(payload.get(IFINFO..)?) {
        match kind {
            uapi::IFLA_IFNAME => link.name = text(value),
            uapi::IFLA_MTU => link.mtu = u32_at(value, 0)?,
            uapi::IFLA_MAX_MTU => link.mtu_max = u32_at(value, 0)?,
            uapi::IFLA_CARRIER => link.carrier = *value.first()? != 0,
            uapi::IFLA_PROMISCUITY => link.promiscuity = u32_at(value, 0)?,
            uapi::IFLA_NUM_RX_QUEUES => link.rx_queues = u32_at(value, 0)?,
            uapi::IFLA_NUM_TX_QUEUES => link.tx_queues = u32_at(value, 0)?,
            uapi::IFLA_XDP => {
                let id = attrs(value).find(|(k, _)| *k == uapi::IFLA_XDP_PROG_ID).map(|(_, v)| v);
                link.xdp_program = id.and_then(|v| u32_at(v, 0)).unwrap_or(0);
            }
            uapi::IFLA_PARENT_DEV_NAME => link.parent = Some(text(value)),
            uapi::IFLA_ADDRESS => {
                if let Ok(bytes) = value.try_into() {
                    link.mac = MacAddr { bytes };
                }
            }
            // struct rtnl_link_stats64: rx and tx of packets, bytes, errors, dropped.
            uapi::IFLA_STATS64 => {
                if let Some(bytes) = value.get(56..64).and_then(|b| b.try_into().ok()) {
                    link.tx_dropped = u64::from_ne_bytes(bytes);
                }
            }
            uapi::IFLA_LINKINFO => {
                link.kind = attrs(value).find(|(k, _)| *k == uapi::IFLA_INFO_KIND).map(|(_, v)| text(v));
            }
            _ => {}
        }
    }
    Some(link)
}

/// Splits what one recv(2) brought into messages.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let len = u32_at(bytes, 0)? as usize;
        let (kind, seq) = (u16_at(bytes, 4)?, u32_at(bytes, 8)?);
        let payload = bytes.get(HEADER..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, seq, payload))
    })
}

/// A route socket of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    fd: OwnedFd,
    seq: u32,
}

impl Netlink {
    /// A socket for requests.
    pub fn open() -> io::Result<Self> {
        Ok(Netlink { fd: sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?, seq: 0 })
    }

    /// A socket that is told of every change of a link.
    pub fn subscribe_links() -> io::Result<Self> {
        let netlink = Netlink::open()?;
        // SAFETY: sockaddr_nl is plain data for which all bits zero is valid.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = libc::RTMGRP_LINK as u32;
        // SAFETY: address is a sockaddr_nl, and its size is given.
        sys::check(unsafe {
            libc::bind(
                netlink.fd.as_raw_fd(),
                std::ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_nl>() as libc::socklen_t,
            )
        })?;
        Ok(netlink)
    }

    /// The descriptor, for poll(2).
    pub fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// One recv(2), waiting for it; what does not fit `buffer` is cut.
    pub fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        loop {
            // SAFETY: buffer is writable for its length.
            let n = unsafe { libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            if n >= 0 {
                return Ok(&buffer[..n as usize]);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Sends a request and gathers what the kernel answers, up to its acknowledgement or the end of a dump. Errors are
    /// the kernel's.
    pub fn request(&mut self, kind: u16, flags: i32, body: &Body) -> io::Result<Vec<Message>> {
        self.seq += 1;
        let dump = flags & libc::NLM_F_DUMP == libc::NLM_F_DUMP;
        let flags = flags | libc::NLM_F_REQUEST | if dump { 0 } else { libc::NLM_F_ACK };
        let mut message = Vec::with_capacity(HEADER + body.0.len());
        message.extend_from_slice(&((HEADER + body.0.len()) as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(flags as u16).to_ne_bytes());
        message.extend_from_slice(&self.seq.to_ne_bytes());
        message.extend_from_slice(&0u32.to_ne_bytes());
        message.extend_from_slice(&body.0);
        // SAFETY: message is readable for its length.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut answers = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            for (kind, seq, payload) in messages(self.receive(&mut buffer)?) {
                if seq != self.seq {
                    continue;
                }
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(answers),
                    libc::NLMSG_ERROR => {
                        return match u32_at(payload, 0).map_or(-libc::EPROTO, |e| e as i32) {
                            0 => Ok(answers),
                            e => Err(io::Error::from_raw_os_error(-e)),
                        };
                    }
                    _ => answers.push(Message { kind, payload: payload.to_vec() }),
                }
            }
        }
    }

    /// The link of that name, if there is one.
    pub fn link_by_name(&mut self, name: &str) -> io::Result<Option<Link>> {
        let body = Body::new(&ifinfo(0, 0, 0)).text(uapi::IFLA_IFNAME, name);
        self.link(&body)
    }

    /// The link of that index, if there is one.
    pub fn link_by_index(&mut self, index: i32) -> io::Result<Option<Link>> {
        self.link(&Body::new(&ifinfo(index, 0, 0)))
    }

    fn link(&mut self, body: &Body) -> io::Result<Option<Link>> {
        match self.request(libc::RTM_GETLINK, 0, body) {
            Ok(answers) => Ok(answers.iter().find_map(|m| parse_link(&m.payload))),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Every link of the namespace.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.request(libc::RTM_GETLINK, libc::NLM_F_DUMP, &Body::new(&ifinfo(0, 0, 0)))?;
        Ok(answers.iter().filter_map(|m| parse_link(&m.payload)).collect())
    }

    /// Changes a link.
    pub fn change_link(&mut self, index: i32, change: LinkChange) -> io::Result<()> {
        let up = libc::IFF_UP as u32;
        let mut body = Body::new(&ifinfo(
            index,
            if change.up == Some(true) { up } else { 0 },
            if change.up.is_some() { up } else { 0 },
        ));
        if let Some(mtu) = change.mtu {
            body = body.attr(uapi::IFLA_MTU, &mtu.to_ne_bytes());
        }
        if let Some(mac) = change.mac {
            body = body.attr(uapi::IFLA_ADDRESS, &mac.bytes);
        }
        self.request(libc::RTM_NEWLINK, 0, &body)?;
        Ok(())
    }

    /// The addresses that the kernel has on a link, with their prefix lengths.
    pub fn addresses(&mut self, index: i32) -> io::Result<Vec<(IpAddr, u8)>> {
        let answers = self.request(libc::RTM_GETADDR, libc::NLM_F_DUMP, &Body::new(&[0; 8]))?;
        let mut found = Vec::new();
        for message in &answers {
            // struct ifaddrmsg: family, prefix length, flags, scope, index.
            let p = &message.payload;
            let (Some(prefix), Some(at)) = (p.get(1), u32_at(p, 4)) else { continue };
            if at as i32 != index {
                continue;
            }
            let of = |wanted: u16| attrs(p.get(8..).unwrap_or(&[])).find(|(k, _)| *k == wanted).map(|(_, v)| v);
            let Some(value) = of(libc::IFA_LOCAL).or_else(|| of(libc::IFA_ADDRESS)) else { continue };
            if let Ok(v4) = <[u8; 4]>::try_from(value) {
                found.push((IpAddr::V4(Ipv4Addr::from(v4)), *prefix));
            } else if let Ok(v6) = <[u8; 16]>::try_from(value) {
                found.push((IpAddr::V6(Ipv6Addr::from(v6)), *prefix));
            }
        }
        Ok(found)
    }
}

/// A `struct ifinfomsg` of the given index, flags and mask of flags to change.
fn ifinfo(index: i32, flags: u32, change: u32) -> [u8; IFINFO] {
    let mut head = [0; IFINFO];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..16].copy_from_slice(&change.to_ne_bytes());
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_as_they_were_written() {
        let body = Body::new(&[]).attr(1, &[1, 2, 3]).text(2, "ab").nest(3, Body::new(&[]).attr(4, &[9; 4]));
        let seen: Vec<_> = attrs(&body.0).collect();
        assert_eq!(seen[0], (1, &[1u8, 2, 3][..]));
        assert_eq!(seen[1], (2, &b"ab\0"[..]));
        assert_eq!(attrs(seen[2].1).next(), Some((4, &[9u8; 4][..])));
    }

    #[test]
    fn cut_attributes_and_messages_end_the_walk() {
        assert_eq!(attrs(&[8, 0, 1, 0, 7]).count(), 0);
        assert_eq!(attrs(&[0, 0, 0, 0, 0, 0, 0, 0]).count(), 0, "a length of 0 does not loop");
        assert_eq!(messages(&[200, 0, 0, 0, 1]).count(), 0);
        assert!(parse_link(&[0; 5]).is_none());
    }

    #[test]
    fn the_loopback_is_found_by_name_and_by_index() {
        let mut netlink = Netlink::open().unwrap();
        let lo = netlink.link_by_name("lo").unwrap().expect("every namespace has lo");
        assert_eq!(netlink.link_by_index(lo.index).unwrap().expect("the same").name, "lo");
        assert!(netlink.links().unwrap().iter().any(|l| l.name == "lo"));
        assert!(netlink.link_by_name("no-such-dev").unwrap().is_none());
    }
}
