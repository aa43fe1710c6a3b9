//! ping and traceroute.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Context, Result};
use crate::host::Host;
use crate::sock::{self, checksum, ipv4, recv, send_to, set, set_timeout};

/// An ICMP error that answered something we sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct IcmpError {
    /// Who sent it.
    pub from: Ipv4Addr,
    /// ICMP type: 3 unreachable, 5 redirect, 11 time exceeded, 12 parameter problem.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The next hop's MTU (3/4), or the better gateway as a number (5).
    pub extra: u32,
}

impl IcmpError {
    /// The better gateway that a redirect names.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.extra)
    }
}

/// What to ping and how; see [`Ping::to`].
#[derive(Clone, Debug)]
pub struct Ping {
    to: Ipv4Addr,
    count: u16,
    payload: usize,
    ttl: u8,
    dont_fragment: bool,
    interval: Duration,
    timeout: Duration,
}

/// How it went.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PingReport {
    /// Requests that the host sent.
    pub sent: u32,
    /// Answers with the right content, each request counted once.
    pub received: u32,
    /// Answers to a request that was answered already.
    pub duplicates: u32,
    /// Answers whose content differed from the request.
    pub corrupt: u32,
    /// Round trips in microseconds, in the order of the requests.
    pub rtt_us: Vec<f64>,
    /// TTL of the last answer.
    pub ttl: u8,
    /// ICMP errors that came back.
    pub errors: Vec<IcmpError>,
    /// Requests that the host itself refused to send as too large for the path (EMSGSIZE).
    pub too_large: u32,
}

impl PingReport {
    /// Every request was sent and answered exactly once and rightly.
    pub fn clean(&self) -> bool {
        self.sent == self.received && self.sent > 0 && self.duplicates == 0 && self.corrupt == 0 && self.too_large == 0
    }

    /// Median round trip in microseconds; 0 without answers.
    pub fn median_us(&self) -> f64 {
        let mut v = self.rtt_us.clone();
        v.sort_by(f64::total_cmp);
        v.get(v.len() / 2).copied().unwrap_or(0.0)
    }
}

impl Ping {
    /// Three requests of 56 bytes, 10 ms apart, one second of patience after the last.
    pub fn to(to: Ipv4Addr) -> Ping {
        Ping {
            to,
            count: 3,
            payload: 56,
            ttl: 64,
            dont_fragment: false,
            interval: Duration::from_millis(10),
            timeout: Duration::from_secs(1),
        }
    }

    /// How many requests.
    pub fn count(mut self, n: u16) -> Self {
        self.count = n;
        self
    }

    /// Bytes after the ICMP header, 8 to 65,507.
    pub fn payload(mut self, bytes: usize) -> Self {
        self.payload = bytes.clamp(8, 65_507);
        self
    }

    /// Time to live of the requests.
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the DF bit; the host then obeys the path MTU that it learned.
    pub fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    /// Time between requests.
    pub fn interval(mut self, t: Duration) -> Self {
        self.interval = t;
        self
    }

    /// Patience after the last request.
    pub fn timeout(mut self, t: Duration) -> Self {
        self.timeout = t;
        self
    }

    /// Pings from `host`; ends early when every request got an answer or an error.
    ///
    /// # Errors
    /// When the socket cannot be had, or sending fails for a reason that is not the network's.
    pub fn run(&self, host: &Host) -> Result<PingReport> {
        host.run(|| self.run_here())?
    }

    fn run_here(&self) -> Result<PingReport> {
        let fd = sock::icmp()?;
        let fd = fd.as_raw_fd();
        set(fd, libc::IPPROTO_IP, libc::IP_TTL, i32::from(self.ttl)).context("IP_TTL")?;
        let df = if self.dont_fragment { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_DONT };
        set(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, df).context("IP_MTU_DISCOVER")?;
        let id = unique_id();
        let mut report = PingReport::default();
        let mut times: Vec<(Instant, Option<Duration>)> = Vec::new();
        for seq in 0..self.count {
            let packet = self.request(id, seq);
            times.push((Instant::now(), None));
            match send_to(fd, &packet, SocketAddrV4::new(self.to, 0)) {
                Ok(_) => report.sent += 1,
                Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => report.too_large += 1,
                Err(e) if unreachable(&e) => report.sent += 1,
                Err(e) => return Err(e).context(format!("ping {}", self.to)),
            }
            let last = seq + 1 == self.count;
            let until = Instant::now() + if last { self.timeout } else { self.interval };
            self.collect(fd, id, until, &mut times, &mut report)?;
        }
        report.rtt_us = times.iter().filter_map(|t| t.1).map(|d| d.as_secs_f64() * 1e6).collect();
        Ok(report)
    }

    fn request(&self, id: u16, seq: u16) -> Vec<u8> {
        let mut p = vec![8, 0, 0, 0];
        p.extend_from_slice(&id.to_be_bytes());
        p.extend_from_slice(&seq.to_be_bytes());
        p.extend((0..self.payload).map(|i| (i as u16 ^ seq ^ (i as u16 >> 8)) as u8));
        let sum = checksum(&p);
        p[2..4].copy_from_slice(&sum.to_be_bytes());
        p
    }

    /// Reads answers until `until`, or until nothing more can come.
    fn collect(
        &self,
        fd: RawFd,
        id: u16,
        until: Instant,
        times: &mut [(Instant, Option<Duration>)],
        report: &mut PingReport,
    ) -> Result<()> {
        let mut buf = vec![0u8; 70_000];
        let all = times.len() as u32;
        loop {
            let answered = report.received + report.corrupt + report.errors.len() as u32 + report.too_large;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || (answered >= all && all == u32::from(self.count)) {
                return Ok(());
            }
            set_timeout(fd, left).context("SO_RCVTIMEO")?;
            let Some(n) = recv(fd, &mut buf).context("receiving ICMP")? else { continue };
            let Some(ip) = ipv4(&buf[..n]) else { continue };
            let icmp = ip.payload;
            if icmp.len() < 8 {
                continue;
            }
            if icmp[0] == 0 && ip.src == self.to && icmp[4..6] == id.to_be_bytes() {
                let seq = u16::from_be_bytes([icmp[6], icmp[7]]);
                let Some(slot) = times.get_mut(usize::from(seq)) else { continue };
                if icmp[8..] != self.request(id, seq)[8..] {
                    report.corrupt += 1;
                } else if slot.1.is_some() {
                    report.duplicates += 1;
                } else {
                    slot.1 = Some(slot.0.elapsed());
                    report.received += 1;
                    report.ttl = ip.ttl;
                }
            } else if let Some(e) = error_about(ip.src, icmp, |inner| {
                inner.protocol == 1
                    && inner.payload.first() == Some(&8)
                    && inner.payload.get(4..6) == Some(&id.to_be_bytes())
            }) {
                report.errors.push(e);
            }
        }
    }
}

fn unreachable(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ECONNREFUSED))
}

/// The ICMP error in `icmp`, if it is one about a packet of ours.
fn error_about(from: Ipv4Addr, icmp: &[u8], ours: impl FnOnce(&sock::Ipv4View<'_>) -> bool) -> Option<IcmpError> {
    let &[kind @ (3 | 4 | 5 | 11 | 12), code, _, _, a, b, c, d, ..] = icmp else { return None };
    let inner = ipv4(&icmp[8..])?;
    let extra = if kind == 3 { u32::from(u16::from_be_bytes([c, d])) } else { u32::from_be_bytes([a, b, c, d]) };
    ours(&inner).then_some(IcmpError { from, kind, code, extra })
}

/// An id that no other ping of this process uses.
fn unique_id() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(1);
    (std::process::id() as u16) ^ NEXT.fetch_add(1, Ordering::Relaxed).rotate_left(7)
}

/// One line of a traceroute.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hop {
    /// Time to live of the probes.
    pub ttl: u8,
    /// Who answered; `None` for a `*`.
    pub from: Option<Ipv4Addr>,
    /// Its round trip in microseconds.
    pub rtt_us: f64,
    /// The answer was a port unreachable of the destination itself.
    pub reached: bool,
}

/// Finds the way from `host` to `to` by UDP probes of growing TTL, at most `max` hops, one second for each.
///
/// # Errors
/// When the sockets cannot be had.
pub fn traceroute(host: &Host, to: Ipv4Addr, max: u8) -> Result<Vec<Hop>> {
    host.run(|| {
        let icmp = sock::icmp()?;
        let fd = icmp.as_raw_fd();
        let udp = UdpSocket::bind("0.0.0.0:0").context("UDP socket")?;
        let mut hops = Vec::new();
        let mut buf = [0u8; 2048];
        for ttl in 1..=max {
            udp.set_ttl(u32::from(ttl)).context("IP_TTL")?;
            let port = 33434 + u16::from(ttl);
            let start = Instant::now();
            let until = start + Duration::from_secs(1);
            // The host may know already that there is no way; then nobody answers either.
            udp.send_to(&[0; 32], SocketAddrV4::new(to, port)).ok();
            let mut hop = Hop { ttl, from: None, rtt_us: 0.0, reached: false };
            while hop.from.is_none() && Instant::now() < until {
                set_timeout(fd, until.saturating_duration_since(Instant::now())).context("SO_RCVTIMEO")?;
                let Some(n) = recv(fd, &mut buf).context("receiving ICMP")? else { break };
                let Some(ip) = ipv4(&buf[..n]) else { continue };
                let ours = |inner: &sock::Ipv4View<'_>| {
                    inner.protocol == 17 && inner.dst == to && inner.payload.get(2..4) == Some(&port.to_be_bytes())
                };
                if let Some(e) = error_about(ip.src, ip.payload, ours) {
                    hop.from = Some(e.from);
                    hop.rtt_us = start.elapsed().as_secs_f64() * 1e6;
                    hop.reached = e.kind == 3 && e.from == to;
                }
            }
            let end = hop.reached;
            hops.push(hop);
            if end {
                break;
            }
        }
        Ok(hops)
    })?
}
