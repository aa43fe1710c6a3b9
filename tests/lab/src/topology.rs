//! The net that most tests and the demo use: two hosts and a router between them.

use std::net::Ipv4Addr;

use crate::enter::Lab;
use crate::error::Result;
use crate::host::Host;
use crate::link::{Mac, VethEnd, veth};

/// MTU of the links, in bytes.
pub const MTU: u32 = 1500;

/// The locally administered address of station `host` on net `net`.
pub fn mac(net: u8, host: u8) -> Mac {
    [2, 0, 0, 0, net, host]
}

/// Hosts A and B and the router R between them.
///
/// ```text
///  A eth0 10.0.1.2/24 ---- left  R  right ---- 10.0.2.2/24 eth0 B
///                          10.0.1.1 10.0.2.1
/// ```
/// R's links have no addresses in its kernel: they belong to the router under test.
#[derive(Debug)]
pub struct TwoHosts {
    /// The host on the left.
    pub a: Host,
    /// The router's namespace, with the links `left` and `right`.
    pub r: Host,
    /// The host on the right.
    pub b: Host,
}

impl TwoHosts {
    /// A's address.
    pub const A: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
    /// B's address.
    pub const B: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
    /// The router's address on A's side.
    pub const R_LEFT: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
    /// The router's address on B's side.
    pub const R_RIGHT: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);

    /// Makes the hosts and links; every offload of the links is on, as Linux makes them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(lab: Lab) -> Result<TwoHosts> {
        let net = TwoHosts { a: Host::new(lab, "A")?, r: Host::new(lab, "R")?, b: Host::new(lab, "B")? };
        let end = |host, name, net, station| VethEnd { host, name, mac: mac(net, station) };
        veth(&end(&net.a, "eth0", 1, 2), &end(&net.r, "left", 1, 1), MTU)?;
        veth(&end(&net.r, "right", 2, 1), &end(&net.b, "eth0", 2, 2), MTU)?;
        net.a.add_addr("eth0", Self::A, 24)?;
        net.b.add_addr("eth0", Self::B, 24)?;
        net.a.add_route(Ipv4Addr::UNSPECIFIED, 0, Self::R_LEFT)?;
        net.b.add_route(Ipv4Addr::UNSPECIFIED, 0, Self::R_RIGHT)?;
        Ok(net)
    }

    /// Makes R's Linux kernel the router: the control experiment.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn route_with_linux(&self) -> Result<()> {
        self.r.add_addr("left", Self::R_LEFT, 24)?;
        self.r.add_addr("right", Self::R_RIGHT, 24)?;
        self.r.set_forwarding(true)
    }

    /// The interfaces of smpnet on R's links, as a piece of its configuration; `options` goes into each port's options
    /// table after the device, such as `, workers = 2`.
    pub fn ports(&self, options: &str) -> String {
        let port = |name: &str, ip: Ipv4Addr| {
            format!(
                "[[interface]]\nname = \"{name}0\"\ndriver = \"af_packet\"\noptions = {{ device = \"{name}\"{options} }}\n\
                 addresses = [\"{ip}/24\"]\n\n"
            )
        };
        port("left", Self::R_LEFT) + &port("right", Self::R_RIGHT)
    }

    /// Frames that the kernel dropped inside the links because a backlog was full: the laboratory's own losses.
    ///
    /// # Errors
    /// When a link is gone.
    pub fn link_drops(&self) -> Result<u64> {
        let mut sum = 0;
        for (host, link) in [(&self.a, "eth0"), (&self.r, "left"), (&self.r, "right"), (&self.b, "eth0")] {
            sum += host.link(link)?.stats.tx_dropped;
        }
        Ok(sum)
    }
}
