//! Black-box tests against real peers: the built program between Linux hosts.
//!
//! The tests stand in `tests/`, one file for each part of the program; this is what they share.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use serde_json::Value;
use smpnet_lab::{Daemon, Host, Lab, LabError, Ping, Result, TwoHosts, VethEnd, check, mac, veth};

/// Addresses are used at once, without the seconds of RFC 5227's probes.
const AT_ONCE: &str = "[sysctl]\n\"net.inet.ip.dad_count\" = 0\n\n";

/// Hosts A and B with smpnet on R between them.
pub struct Rig {
    /// The hosts.
    pub net: TwoHosts,
    /// smpnet.
    pub router: Daemon,
}

impl Rig {
    /// Starts smpnet on R's two links with `extra` at the end of its configuration, and waits until both hosts reach it.
    ///
    /// # Errors
    /// When it does not start, or does not answer pings within ten seconds.
    pub fn start(lab: Lab, extra: &str) -> Result<Rig> {
        let net = TwoHosts::new(lab)?;
        let router = Daemon::start(&net.r, &format!("{AT_ONCE}{}{extra}", net.ports("")))?;
        Rig { net, router }.ready()
    }

    /// Starts smpnet with a configuration of its own.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn with(net: TwoHosts, config: &str) -> Result<Rig> {
        let router = Daemon::start(&net.r, &format!("{AT_ONCE}{config}"))?;
        Rig { net, router }.ready()
    }

    /// The interfaces as they stand in the file of [`start`](Self::start), to write that file anew.
    pub fn base(&self) -> String {
        format!("{AT_ONCE}{}", self.net.ports(""))
    }

    fn ready(self) -> Result<Rig> {
        let deadline = Instant::now() + Duration::from_secs(10);
        for (host, ip) in [(&self.net.a, TwoHosts::R_LEFT), (&self.net.b, TwoHosts::R_RIGHT)] {
            while !Ping::to(ip).count(1).timeout(Duration::from_millis(200)).run(host)?.clean() {
                check(Instant::now() < deadline, || {
                    format!("smpnet does not answer on {ip}:\n{}", self.router.log_tail(30))
                })?;
            }
        }
        Ok(self)
    }

    /// Packets dropped for `reason`, over all interfaces.
    ///
    /// # Errors
    /// When smpnet does not answer.
    pub fn drops(&self, reason: &str) -> Result<u64> {
        let all = self.router.client().get("/v1/drops")?;
        let of_it = elements(&all).iter().filter(|d| d["reason"] == reason);
        Ok(of_it.filter_map(|d| d["packets"].as_u64()).sum())
    }

    /// Packets that the kernel dropped because the ring of a port was full, before smpnet saw them.
    ///
    /// # Errors
    /// When smpnet does not answer.
    pub fn missed(&self) -> Result<u64> {
        self.drops("rx_missed")
    }

    /// Waits until `smpnet ARGS --json` satisfies `wanted`.
    ///
    /// # Errors
    /// With the last answer when it does not within `patience`.
    pub fn wait(&self, args: &[&str], patience: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + patience;
        loop {
            let answer = self.router.json(args)?;
            if wanted(&answer) {
                return Ok(answer);
            }
            if Instant::now() > deadline {
                return Err(LabError::Failed(format!("smpnet {} after {patience:?}: {answer}", args.join(" "))));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Every packet that smpnet received or made went somewhere with a name.
    ///
    /// # Errors
    /// When the books do not balance within a second.
    pub fn balanced(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            let stats = self.router.client().get("/v1/stats")?;
            if stats["accounting"]["missing"].as_i64() == Some(0) {
                return Ok(());
            }
            // Packets on their way are in no counter yet.
            check(Instant::now() < deadline, || format!("the books do not balance: {}", stats["accounting"]))?;
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A second link between R (`right2`) and B (`eth1`, 10.0.3.2/24), and its port in smpnet's configuration.
///
/// # Errors
/// When the kernel refuses.
pub fn second_link(net: &TwoHosts) -> Result<String> {
    let end = |host: &'static str, station| (host, mac(3, station));
    let ((r, r_mac), (b, b_mac)) = (end("right2", 1), end("eth1", 2));
    veth(&VethEnd { host: &net.r, name: r, mac: r_mac }, &VethEnd { host: &net.b, name: b, mac: b_mac }, 1500)?;
    net.b.add_addr("eth1", [10, 0, 3, 2].into(), 24)?;
    Ok("[[interface]]\nname = \"right1\"\ndriver = \"af_packet\"\noptions = { device = \"right2\" }\n\
        addresses = [\"10.0.3.1/24\"]\n\n"
        .into())
}

/// The elements of a JSON array, or of nothing.
pub fn elements(v: &Value) -> &[Value] {
    v.as_array().map_or(&[], Vec::as_slice)
}

/// Pings from `host` that must all be answered.
///
/// # Errors
/// When one is not.
pub fn reaches(host: &Host, to: std::net::Ipv4Addr) -> Result<()> {
    let report = Ping::to(to).count(3).run(host)?;
    check(report.clean(), || format!("{} -> {to}: {report:?}", host.name()))
}

/// Pings from `host` of which none may be answered.
///
/// # Errors
/// When one is.
pub fn does_not_reach(host: &Host, to: std::net::Ipv4Addr) -> Result<()> {
    let report = Ping::to(to).count(2).timeout(Duration::from_millis(300)).run(host)?;
    check(report.received == 0, || format!("{} -> {to}: {report:?}", host.name()))
}
