//! The net of the demo and the loads that are put on it.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use smpnet_lab::{
    Amount, Client, Daemon, FlowReport, Lab, LabError, Ping, PingReport, Result, TcpReport, TwoHosts, UdpReceiver,
    UdpSender, transfer,
};

use crate::account::{Books, Snapshot};

/// Name of the filter that is swapped.
pub const FILTER: &str = "ports";
/// First port of the main flows; no generation of the filter drops them.
const MAIN_PORT: u16 = 4000;
/// Main flows.
const MAIN_FLOWS: u16 = 4;
/// Two ports, of which each generation of the filter drops one.
const PROBE_PORT: u16 = 5001;
/// The port that is blocked and unblocked.
const BLOCK_PORT: u16 = 5000;
/// Packets of each step of blocking.
const BLOCK_PACKETS: u64 = 500;

/// Hosts A and B with smpnet between them.
pub struct Scene {
    /// The hosts.
    pub net: TwoHosts,
    /// The router.
    pub daemon: Daemon,
    /// Its control API.
    pub client: Client,
}

/// The expression of the generations that drop `port`.
fn expression(port: u16) -> String {
    format!("udp dst port {port}")
}

/// A swap as it was seen and as smpnet tells it, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Swap {
    /// From the request to the answer: compiled, instantiated, published, adopted by every worker.
    pub request_us: f64,
    /// From publishing until the last worker had adopted it.
    pub adopt_us: f64,
}

/// Median and worst of some times.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Spread {
    /// Median, microseconds.
    pub median_us: f64,
    /// Worst, microseconds.
    pub worst_us: f64,
}

impl Spread {
    /// Of these microseconds.
    pub fn of(values: impl Iterator<Item = f64>) -> Spread {
        let mut v: Vec<f64> = values.collect();
        v.sort_by(f64::total_cmp);
        Spread { median_us: v.get(v.len() / 2).copied().unwrap_or(0.0), worst_us: v.last().copied().unwrap_or(0.0) }
    }
}

/// What a UDP load brought.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// The books.
    pub books: Books,
    /// Probes sent, received and, by smpnet's count, filtered.
    pub probes: (u64, u64, u64),
    /// Packets out of order.
    pub reordered: u64,
    /// Packets a second of the main flows.
    pub rate: f64,
    /// The swaps.
    pub swaps: Vec<Swap>,
    /// smpnet's counters over the load.
    pub counters: Snapshot,
    /// Resident memory of smpnet in bytes, about once a second.
    pub resident: Vec<u64>,
    /// Processor seconds that smpnet used, and seconds of the load.
    pub cpu: (f64, f64),
}

/// What one step of blocking brought.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BlockStep {
    /// Sent.
    pub sent: u64,
    /// Received.
    pub received: u64,
    /// Filtered by smpnet's count.
    pub filtered: u64,
}

impl Scene {
    /// Makes the hosts, starts smpnet and waits until pings pass.
    pub fn start(lab: Lab, workers: Option<u32>) -> Result<Scene> {
        let net = TwoHosts::new(lab)?;
        let runtime = workers.map_or(String::new(), |n| format!("[runtime]\nworkers = {n}\n\n"));
        let filter =
            format!("[[filter]]\nname = \"{FILTER}\"\ndrop = \"{}\"\nattach = \"inet\"\n", expression(PROBE_PORT));
        // Nobody else has our addresses here: they need no probes, which take seconds.
        let sysctl = "[sysctl]\n\"net.inet.ip.dad_count\" = 0\n\n";
        let daemon = Daemon::start(&net.r, &format!("{runtime}{sysctl}{}{filter}", net.ports("")))?;
        let client = daemon.client();
        let scene = Scene { net, daemon, client };
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let ping = Ping::to(TwoHosts::B).count(1).timeout(Duration::from_millis(300)).run(&scene.net.a)?;
            if ping.clean() {
                return Ok(scene);
            }
            if Instant::now() > deadline {
                let log = scene.daemon.log_tail(20);
                return Err(LabError::Failed(format!("no ping passes through smpnet: {ping:?}\n{log}")));
            }
        }
    }

    /// Pings from A to B.
    pub fn ping(&self, count: u16) -> Result<PingReport> {
        Ping::to(TwoHosts::B).count(count).interval(Duration::from_millis(5)).run(&self.net.a)
    }

    /// Puts in the generation that drops `port`.
    pub fn swap(client: &mut Client, port: u16) -> Result<Swap> {
        let start = Instant::now();
        let request =
            client.request("PUT", &format!("/v1/filters/{FILTER}"), Some(&json!({"drop": expression(port)})))?;
        let request_us = start.elapsed().as_secs_f64() * 1e6;
        Ok(Swap { request_us, adopt_us: request.json()?["adopt_us"].as_f64().unwrap_or(0.0) })
    }

    /// Full load from A to B for `seconds` with `swaps` swaps evenly spread over it. `tick` is called after each.
    pub fn load(&mut self, seconds: f64, swaps: u32, mut tick: impl FnMut(u32, u64)) -> Result<LoadReport> {
        let main = UdpReceiver::start(&self.net.b, TwoHosts::B, MAIN_PORT, MAIN_FLOWS)?;
        let probes = UdpReceiver::start(&self.net.b, TwoHosts::B, PROBE_PORT, 2)?;
        let link_drops = self.net.link_drops()?;
        let before = Snapshot::take(&mut self.client, FILTER)?;
        let cpu = self.daemon.cpu_time();
        let start = Instant::now();
        let sending =
            UdpSender::new(TwoHosts::B, MAIN_PORT).flows(MAIN_FLOWS).window(main.window()).start(&self.net.a)?;
        let probing = UdpSender::new(TwoHosts::B, PROBE_PORT).flows(2).rate(2000.0).start(&self.net.a)?;

        let mut report = LoadReport::default();
        let step = seconds / f64::from(swaps.max(1));
        let mut sampled = Instant::now();
        for n in 0..swaps {
            let due = start + Duration::from_secs_f64(step * f64::from(n));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            report.swaps.push(Self::swap(&mut self.client, PROBE_PORT + 1 - (n % 2) as u16)?);
            if sampled.elapsed() > Duration::from_secs(1) {
                sampled = Instant::now();
                report.resident.push(self.daemon.resident());
            }
            if !sending.is_running() {
                break;
            }
            tick(n + 1, main.received());
        }
        std::thread::sleep((start + Duration::from_secs_f64(seconds)).saturating_duration_since(Instant::now()));
        let (sent, probed) = (sending.stop()?, probing.stop()?);
        main.wait_for(sent.sent, Duration::from_millis(500));
        // Nobody knows how many probes come; they are few, and the last is on the way for milliseconds at most.
        probes.wait_for(u64::MAX, Duration::from_millis(200));
        report.cpu = ((self.daemon.cpu_time() - cpu).as_secs_f64(), start.elapsed().as_secs_f64());
        let (main, probes) = (main.finish()?, probes.finish()?);
        report.counters = self.settled()?.since(&before);
        let (m, p): (FlowReport, FlowReport) = (main.total(), probes.total());
        report.probes = (probed.sent, p.received, report.counters.filtered);
        report.reordered = m.reordered + p.reordered;
        report.rate = sent.sent as f64 / sent.seconds;
        report.resident.push(self.daemon.resident());
        report.books = Books {
            sent: sent.sent + probed.sent,
            forwarded: m.received + p.received,
            filtered: report.counters.filtered,
            hosts_dropped: main.socket_drops + probes.socket_drops + (self.net.link_drops()? - link_drops),
            wrong: m.duplicates + m.corrupt + p.duplicates + p.corrupt + main.foreign + probes.foreign,
            ..Books::default()
        }
        .close(&report.counters.drops);
        Ok(report)
    }

    /// TCP from A to B for `seconds`, the filter swapped 20 times a second meanwhile.
    pub fn tcp(&mut self, seconds: f64) -> Result<(TcpReport, u32)> {
        let done = AtomicBool::new(false);
        let (net, client) = (&self.net, &mut self.client);
        std::thread::scope(|s| {
            let swapper = s.spawn(|| -> Result<u32> {
                let mut n = 0;
                while !done.load(Ordering::Relaxed) {
                    Self::swap(client, PROBE_PORT + (n % 2) as u16)?;
                    n += 1;
                    std::thread::sleep(Duration::from_millis(50));
                }
                Ok(n)
            });
            let tcp = transfer(&net.a, &net.b, TwoHosts::B, 5201, Amount::Time(Duration::from_secs_f64(seconds)));
            done.store(true, Ordering::Relaxed);
            let swaps = swapper.join().unwrap_or_else(|p| std::panic::resume_unwind(p));
            Ok((tcp?, swaps?))
        })
    }

    /// A UDP port before it is blocked, blocked by a swap, and unblocked by a rollback. The books go over all three.
    pub fn block(&mut self) -> Result<([BlockStep; 3], Books)> {
        let mut steps = [BlockStep { sent: 0, received: 0, filtered: 0 }; 3];
        let mut books = Books::default();
        let first = Snapshot::take(&mut self.client, FILTER)?;
        for (i, step) in steps.iter_mut().enumerate() {
            match i {
                1 => drop(Self::swap(&mut self.client, BLOCK_PORT)?),
                2 => drop(self.client.post(&format!("/v1/filters/{FILTER}/rollback"), &json!({}))?),
                _ => {}
            }
            let before = Snapshot::take(&mut self.client, FILTER)?;
            let receiver = UdpReceiver::start(&self.net.b, TwoHosts::B, BLOCK_PORT, 1)?;
            let sent = UdpSender::new(TwoHosts::B, BLOCK_PORT).rate(5000.0).send(&self.net.a, BLOCK_PACKETS)?;
            receiver.wait_for(sent.sent, Duration::from_millis(200));
            let got = receiver.finish()?;
            let now = Snapshot::take(&mut self.client, FILTER)?.since(&before);
            *step = BlockStep { sent: sent.sent, received: got.total().received, filtered: now.filtered };
            books.sent += step.sent;
            books.forwarded += step.received;
            books.filtered += step.filtered;
            books.hosts_dropped += got.socket_drops;
            books.wrong += got.total().duplicates + got.total().corrupt + got.foreign;
        }
        let drops = Snapshot::take(&mut self.client, FILTER)?.since(&first).drops;
        Ok((steps, books.close(&drops)))
    }

    /// smpnet's counters once nothing moves any more.
    fn settled(&mut self) -> Result<Snapshot> {
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            let s = Snapshot::take(&mut self.client, FILTER)?;
            if s.missing == 0 || Instant::now() > deadline {
                return Ok(s);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The address of smpnet that a traceroute from A must show first.
    pub fn first_hop() -> Ipv4Addr {
        TwoHosts::R_LEFT
    }
}
