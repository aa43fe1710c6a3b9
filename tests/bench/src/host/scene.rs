//! Two hosts, and what forwards between them.

use serde_json::Value;
use smpnet_lab::{Daemon, Host, Lab, LabError, Offloads, Ping, Result, TwoHosts, VethEnd, mac, veth};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// What forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// The kernel of the host between the others.
    #[value(skip)]
    Kernel,
    /// smpnet, on packet sockets.
    AfPacket,
    /// smpnet, on AF_XDP sockets.
    AfXdp,
    /// smpnet, with the sender's own kernel behind a TAP device and the receiver behind a packet socket.
    Tap,
}

impl Way {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Way::Kernel => "kernel",
            Way::AfPacket => "af_packet",
            Way::AfXdp => "af_xdp",
            Way::Tap => "tap to af_packet",
        }
    }
}

/// The hosts. A and B have the router R between them; T has a router in itself, and B behind that.
pub struct Scene {
    net: TwoHosts,
    tap: (Host, Host),
}

/// A way from one host to another.
pub struct Between<'a> {
    /// Who sends.
    pub from: &'a Host,
    /// Who receives.
    pub to: &'a Host,
    /// The receiver's address.
    pub address: Ipv4Addr,
    /// The router, unless it is a kernel.
    pub daemon: Option<&'a Daemon>,
}

/// Nobody else has our addresses here: they need no probes, which take seconds.
const NO_PROBES: &str = "[sysctl]\n\"net.inet.ip.dad_count\" = 0\n\n";

impl Scene {
    /// Makes the hosts.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(lab: Lab) -> Result<Scene> {
        let net = TwoHosts::new(lab)?;
        let (t, b) = (Host::new(lab, "T")?, Host::new(lab, "TB")?);
        let end = |host, name, station| VethEnd { host, name, mac: mac(4, station) };
        veth(&end(&t, "right", 1), &end(&b, "eth0", 2), smpnet_lab::MTU)?;
        b.add_addr("eth0", TwoHosts::B, 24)?;
        b.add_route(Ipv4Addr::UNSPECIFIED, 0, TwoHosts::R_RIGHT)?;
        Ok(Scene { net, tap: (t, b) })
    }

    /// Lets one way forward over links with these offloads, and calls `f` when it does.
    ///
    /// # Errors
    /// When the way cannot be made, nothing passes on it, or `f` fails.
    pub fn through<R>(&mut self, way: Way, offloads: Offloads, f: impl FnOnce(&Between<'_>) -> Result<R>) -> Result<R> {
        // Before a port is opened: while the other end of a veth has an XDP program, some can no longer be switched.
        for (host, link) in self.wires() {
            host.set_offloads(link, offloads)?;
        }
        match way {
            Way::Kernel => self.through_kernel(f),
            Way::AfPacket => self.through_ports("af_packet", f),
            Way::AfXdp => self.through_ports("af_xdp", f),
            Way::Tap => self.through_tap(offloads, f),
        }
    }

    /// The links that stay.
    fn wires(&self) -> [(&Host, &str); 6] {
        let (TwoHosts { a, r, b }, (t, tb)) = (&self.net, &self.tap);
        [(a, "eth0"), (r, "left"), (r, "right"), (b, "eth0"), (t, "right"), (tb, "eth0")]
    }

    fn through_kernel<R>(&mut self, f: impl FnOnce(&Between<'_>) -> Result<R>) -> Result<R> {
        let r = &self.net.r;
        self.net.route_with_linux()?;
        let done = self.between(None, f);
        r.set_forwarding(false)?;
        r.delete_addr("left", TwoHosts::R_LEFT, 24)?;
        r.delete_addr("right", TwoHosts::R_RIGHT, 24)?;
        done
    }

    fn through_ports<R>(&mut self, driver: &str, f: impl FnOnce(&Between<'_>) -> Result<R>) -> Result<R> {
        let port = |name, ip| port(driver, name, &format!("device = \"{name}\""), ip);
        let config = format!("{NO_PROBES}{}{}", port("left", TwoHosts::R_LEFT), port("right", TwoHosts::R_RIGHT));
        let mut daemon = start(&self.net.r, driver, &config)?;
        let done = self.between(Some(&daemon), f);
        daemon.stop()?;
        done
    }

    fn between<R>(&self, daemon: Option<&Daemon>, f: impl FnOnce(&Between<'_>) -> Result<R>) -> Result<R> {
        ready(Between { from: &self.net.a, to: &self.net.b, address: TwoHosts::B, daemon }, f)
    }

    fn through_tap<R>(&mut self, offloads: Offloads, f: impl FnOnce(&Between<'_>) -> Result<R>) -> Result<R> {
        let (t, b) = &self.tap;
        let config = format!(
            "{NO_PROBES}{}{}",
            port("tap", "tap0", "", TwoHosts::R_LEFT),
            port("af_packet", "right", "device = \"right\"", TwoHosts::R_RIGHT)
        );
        let mut daemon = start(t, "tap", &config)?;
        t.add_addr("tap0", TwoHosts::A, 24)?;
        t.add_route(Ipv4Addr::UNSPECIFIED, 0, TwoHosts::R_LEFT)?;
        t.set_offloads("tap0", offloads)?;
        let way = Between { from: t, to: b, address: TwoHosts::B, daemon: Some(&daemon) };
        let done = ready(way, f);
        // The device, its address and the route go with the daemon.
        daemon.stop()?;
        done
    }
}

/// A port as a piece of configuration; its interface is named after `name`.
fn port(driver: &str, name: &str, options: &str, ip: Ipv4Addr) -> String {
    let interface = if driver == "tap" { name.to_owned() } else { format!("{name}0") };
    format!(
        "[[interface]]\nname = \"{interface}\"\ndriver = \"{driver}\"\noptions = {{ {options} }}\naddresses = [\"{ip}/24\"]\n\n"
    )
}

/// Starts the router, unless it has no such driver.
fn start(host: &Host, driver: &str, config: &str) -> Result<Daemon> {
    if driver == "af_xdp" {
        let mut plain = Daemon::start(host, "")?;
        let plugins = plain.json(&["plugin", "list"])?;
        plain.stop()?;
        if !mentions(&plugins, driver) {
            return Err(LabError::Failed(format!("no plugin has a driver {driver}")));
        }
    }
    Daemon::start(host, config)
}

/// Whether a text stands anywhere in a list of plugins.
pub fn mentions(value: &Value, what: &str) -> bool {
    match value {
        Value::String(text) => text == what,
        Value::Array(list) => list.iter().any(|v| mentions(v, what)),
        Value::Object(map) => map.values().any(|v| mentions(v, what)),
        _ => false,
    }
}

/// Calls `f` when a ping has passed.
fn ready<R>(way: Between<'_>, f: impl FnOnce(&Between<'_>) -> Result<R>) -> Result<R> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !Ping::to(way.address).count(1).timeout(Duration::from_millis(300)).run(way.from)?.clean() {
        if Instant::now() > deadline {
            let log = way.daemon.map_or(String::new(), |d| d.log_tail(10));
            return Err(LabError::Failed(format!("no ping passes\n{log}")));
        }
    }
    f(&way)
}
