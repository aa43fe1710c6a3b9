//! Links, addresses, routes and neighbours of a namespace, over rtnetlink.

use std::net::Ipv4Addr;

use crate::error::{LabError, Result};
use crate::host::Host;
use crate::netlink::{NESTED, Request, attrs, u16_at, u32_at, u64_at};

// Numbers of linux/if_link.h, if_addr.h, rtnetlink.h, neighbour.h and veth.h.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKINFO: u16 = 18;
const IFLA_STATS64: u16 = 23;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// What the kernel says of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its index in the namespace.
    pub index: u32,
    /// IFF_ flags.
    pub flags: u32,
    /// MTU in bytes.
    pub mtu: u32,
    /// Its address; zero where it has none.
    pub mac: Mac,
    /// Its counters.
    pub stats: LinkStats,
}

/// Counters of a link (rtnl_link_stats64).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LinkStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets received and dropped by the kernel for want of room.
    pub rx_dropped: u64,
    /// Packets to send that the kernel dropped (for a veth: the peer's backlog was full).
    pub tx_dropped: u64,
}

/// One entry of the kernel's neighbour table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The neighbour.
    pub ip: Ipv4Addr,
    /// Its Ethernet address, once known.
    pub mac: Option<Mac>,
    /// NUD_ state bits (0x02 reachable, 0x04 stale, 0x20 failed, 0x80 permanent).
    pub state: u16,
}

/// One end of a veth pair to be made.
pub struct VethEnd<'a> {
    /// Where it stands.
    pub host: &'a Host,
    /// Its name there, at most 15 bytes.
    pub name: &'a str,
    /// Its Ethernet address.
    pub mac: Mac,
}

/// Makes a veth pair of the given MTU and brings both ends up.
///
/// # Errors
/// When a name is taken or the kernel lacks veth.
pub fn veth(a: &VethEnd<'_>, b: &VethEnd<'_>, mtu: u32) -> Result<()> {
    let mut r = Request::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &[0; 16]);
    r.text(IFLA_IFNAME, a.name).attr(IFLA_ADDRESS, &a.mac).u32(IFLA_MTU, mtu).nest(IFLA_LINKINFO | NESTED, |r| {
        r.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA | NESTED, |r| {
            r.nest(VETH_INFO_PEER | NESTED, |r| {
                r.raw(&[0; 16]);
                r.text(IFLA_IFNAME, b.name).attr(IFLA_ADDRESS, &b.mac).u32(IFLA_MTU, mtu);
                r.u32(IFLA_NET_NS_FD, b.host.ns().raw_fd() as u32);
            });
        });
    });
    a.host.netlink().ask(&format!("making the veth pair {} - {}", a.name, b.name), r)?;
    a.host.set_up(a.name, true)?;
    b.host.set_up(b.name, true)
}

fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut b = [0; 16];
    b[4..8].copy_from_slice(&index.to_ne_bytes());
    b[8..12].copy_from_slice(&flags.to_ne_bytes());
    b[12..16].copy_from_slice(&change.to_ne_bytes());
    b
}

/// The fixed part of a route message (struct rtmsg) for a unicast route of the main table.
fn rtmsg(prefix: u8, scope: u8) -> [u8; 12] {
    [libc::AF_INET as u8, prefix, 0, 0, libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, scope, libc::RTN_UNICAST, 0, 0, 0, 0]
}

impl Host {
    /// What the kernel says of the link `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn link(&self, name: &str) -> Result<LinkInfo> {
        let mut r = Request::new(libc::RTM_GETLINK, 0, &[0; 16]);
        r.text(IFLA_IFNAME, name);
        let what = format!("{}: looking up {name}", self.name());
        let answers = self.netlink().ask(&what, r)?;
        let (_, body) = answers.first().ok_or_else(|| LabError::Failed(format!("{what}: no answer")))?;
        let mut info = LinkInfo { index: u32_at(body, 4), flags: u32_at(body, 8), ..LinkInfo::default() };
        for (kind, v) in attrs(body.get(16..).unwrap_or_default()) {
            match kind {
                IFLA_MTU => info.mtu = u32_at(v, 0),
                IFLA_ADDRESS => info.mac = v.try_into().unwrap_or_default(),
                IFLA_STATS64 => {
                    info.stats = LinkStats {
                        rx_packets: u64_at(v, 0),
                        tx_packets: u64_at(v, 8),
                        rx_dropped: u64_at(v, 48),
                        tx_dropped: u64_at(v, 56),
                    }
                }
                _ => {}
            }
        }
        Ok(info)
    }

    /// True when the namespace has a link of that name.
    pub fn has_link(&self, name: &str) -> bool {
        self.link(name).is_ok()
    }

    /// Brings a link up or down.
    ///
    /// # Errors
    /// When there is none, or it refuses.
    pub fn set_up(&self, name: &str, up: bool) -> Result<()> {
        let bit = libc::IFF_UP as u32;
        let body = ifinfo(self.link(name)?.index, if up { bit } else { 0 }, bit);
        let what = format!("{}: bringing {name} {}", self.name(), if up { "up" } else { "down" });
        self.netlink().ask(&what, Request::new(libc::RTM_NEWLINK, 0, &body)).map(drop)
    }

    /// Sets a link's MTU.
    ///
    /// # Errors
    /// When there is none, or it refuses.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> Result<()> {
        let mut r = Request::new(libc::RTM_NEWLINK, 0, &ifinfo(self.link(name)?.index, 0, 0));
        r.u32(IFLA_MTU, mtu);
        self.netlink().ask(&format!("{}: setting the MTU of {name} to {mtu}", self.name()), r).map(drop)
    }

    /// Sets how many packets wait for a link to take them.
    ///
    /// # Errors
    /// When there is none, or it refuses.
    pub fn set_queue_length(&self, name: &str, packets: u32) -> Result<()> {
        let mut r = Request::new(libc::RTM_NEWLINK, 0, &ifinfo(self.link(name)?.index, 0, 0));
        r.u32(IFLA_TXQLEN, packets);
        self.netlink().ask(&format!("{}: setting the queue of {name}", self.name()), r).map(drop)
    }

    /// Sets a link's Ethernet address.
    ///
    /// # Errors
    /// When there is none, or it refuses.
    pub fn set_mac(&self, name: &str, mac: Mac) -> Result<()> {
        let mut r = Request::new(libc::RTM_NEWLINK, 0, &ifinfo(self.link(name)?.index, 0, 0));
        r.attr(IFLA_ADDRESS, &mac);
        self.netlink().ask(&format!("{}: setting the address of {name}", self.name()), r).map(drop)
    }

    /// Deletes a link; the other end of a veth goes with it.
    ///
    /// # Errors
    /// When there is none.
    pub fn delete_link(&self, name: &str) -> Result<()> {
        let r = Request::new(libc::RTM_DELLINK, 0, &ifinfo(self.link(name)?.index, 0, 0));
        self.netlink().ask(&format!("{}: deleting {name}", self.name()), r).map(drop)
    }

    fn address(&self, kind: u16, flags: i32, name: &str, ip: Ipv4Addr, prefix: u8) -> Result<()> {
        let mut body = [libc::AF_INET as u8, prefix, 0, 0, 0, 0, 0, 0];
        body[4..8].copy_from_slice(&self.link(name)?.index.to_ne_bytes());
        let mut r = Request::new(kind, flags, &body);
        r.attr(IFA_LOCAL, &ip.octets()).attr(IFA_ADDRESS, &ip.octets());
        self.netlink().ask(&format!("{}: address {ip}/{prefix} on {name}", self.name()), r).map(drop)
    }

    /// Gives a link an address.
    ///
    /// # Errors
    /// When it has it already, or there is no such link.
    pub fn add_addr(&self, name: &str, ip: Ipv4Addr, prefix: u8) -> Result<()> {
        self.address(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, name, ip, prefix)
    }

    /// Takes an address from a link.
    ///
    /// # Errors
    /// When it does not have it.
    pub fn delete_addr(&self, name: &str, ip: Ipv4Addr, prefix: u8) -> Result<()> {
        self.address(libc::RTM_DELADDR, 0, name, ip, prefix)
    }

    /// Adds a route through a gateway.
    ///
    /// # Errors
    /// When it stands already or the gateway is not reachable.
    pub fn add_route(&self, to: Ipv4Addr, prefix: u8, via: Ipv4Addr) -> Result<()> {
        let mut r = Request::new(
            libc::RTM_NEWROUTE,
            libc::NLM_F_CREATE | libc::NLM_F_EXCL,
            &rtmsg(prefix, libc::RT_SCOPE_UNIVERSE),
        );
        r.attr(RTA_DST, &to.octets()).attr(RTA_GATEWAY, &via.octets());
        self.netlink().ask(&format!("{}: route {to}/{prefix} via {via}", self.name()), r).map(drop)
    }

    /// Adds a route straight out of a link.
    ///
    /// # Errors
    /// When it stands already or there is no such link.
    pub fn add_route_dev(&self, to: Ipv4Addr, prefix: u8, name: &str) -> Result<()> {
        let mut r = Request::new(
            libc::RTM_NEWROUTE,
            libc::NLM_F_CREATE | libc::NLM_F_EXCL,
            &rtmsg(prefix, libc::RT_SCOPE_LINK),
        );
        r.attr(RTA_DST, &to.octets()).u32(RTA_OIF, self.link(name)?.index);
        self.netlink().ask(&format!("{}: route {to}/{prefix} dev {name}", self.name()), r).map(drop)
    }

    /// Removes a route.
    ///
    /// # Errors
    /// When there is none.
    pub fn delete_route(&self, to: Ipv4Addr, prefix: u8) -> Result<()> {
        let mut body = rtmsg(prefix, libc::RT_SCOPE_NOWHERE);
        (body[5], body[7]) = (0, 0);
        let mut r = Request::new(libc::RTM_DELROUTE, 0, &body);
        r.attr(RTA_DST, &to.octets());
        self.netlink().ask(&format!("{}: deleting the route {to}/{prefix}", self.name()), r).map(drop)
    }

    fn ndmsg(&self, name: &str, state: u16) -> Result<[u8; 12]> {
        let mut body = [0; 12];
        body[0] = libc::AF_INET as u8;
        body[4..8].copy_from_slice(&self.link(name)?.index.to_ne_bytes());
        body[8..10].copy_from_slice(&state.to_ne_bytes());
        Ok(body)
    }

    /// Sets a permanent neighbour entry.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn set_neighbour(&self, name: &str, ip: Ipv4Addr, mac: Mac) -> Result<()> {
        let body = self.ndmsg(name, NUD_PERMANENT)?;
        let mut r = Request::new(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &body);
        r.attr(NDA_DST, &ip.octets()).attr(NDA_LLADDR, &mac);
        self.netlink().ask(&format!("{}: neighbour {ip} on {name}", self.name()), r).map(drop)
    }

    /// Forgets a neighbour.
    ///
    /// # Errors
    /// When it is not known.
    pub fn delete_neighbour(&self, name: &str, ip: Ipv4Addr) -> Result<()> {
        let mut r = Request::new(libc::RTM_DELNEIGH, 0, &self.ndmsg(name, 0)?);
        r.attr(NDA_DST, &ip.octets());
        self.netlink().ask(&format!("{}: forgetting {ip}", self.name()), r).map(drop)
    }

    /// The neighbours that the kernel knows on a link.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn neighbours(&self, name: &str) -> Result<Vec<Neighbour>> {
        let index = self.link(name)?.index;
        let mut body = [0; 12];
        body[0] = libc::AF_INET as u8;
        let r = Request::new(libc::RTM_GETNEIGH, libc::NLM_F_DUMP, &body);
        let answers = self.netlink().ask("listing neighbours", r)?;
        let mut out = Vec::new();
        for (_, body) in answers.iter().filter(|(_, b)| u32_at(b, 4) == index) {
            let mut n = Neighbour { ip: Ipv4Addr::UNSPECIFIED, mac: None, state: u16_at(body, 8) };
            for (kind, v) in attrs(body.get(12..).unwrap_or_default()) {
                match (kind, v) {
                    (NDA_DST, &[a, b, c, d]) => n.ip = Ipv4Addr::new(a, b, c, d),
                    (NDA_LLADDR, v) => n.mac = v.try_into().ok(),
                    _ => {}
                }
            }
            out.push(n);
        }
        Ok(out)
    }

    /// The kernel's entry for one neighbour.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn neighbour(&self, name: &str, ip: Ipv4Addr) -> Result<Option<Neighbour>> {
        Ok(self.neighbours(name)?.into_iter().find(|n| n.ip == ip))
    }
}
