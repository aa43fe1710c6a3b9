//! `peer`: smpnet beside DPDK's testpmd, between the same two ends, over the same kind of shared-memory interface:
//!
//! ```text
//! an end that sends -- memif -- the one that is measured -- memif -- an end that takes
//! ```
//!
//! testpmd in its modes `io` and `macswap` looks up no route, decrements nothing and looks at no more than an Ethernet header: it is
//! the bound from above. Both ends are one thread of this program ([`ends`]), so that two processors suffice. What is told is packets
//! per second of the measured one's processor time. That needs packets waiting at all times, which is checked.

mod ends;
mod testpmd;

use crate::{
    machine::{allowed_cpus, process_ns},
    reading::{self, Reading},
    report::median,
};
use ends::{Ends, Frame, Waiting};
use smpnet_lab::{Daemon, Host, Lab, TempDir, on_interrupt};
use smpnet_stack::wire::checksum::checksum;
use std::{
    error::Error,
    path::Path,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};
use testpmd::{LOG2_RING, Testpmd};

/// Why nothing is claimed of one processor.
const FEW: &str = "two processors are needed: one for both ends, one for what is measured";
/// Share of the looks that may find less than half a burst waiting for the measured one: more, and the ends were too slow.
const STARVED: f64 = 0.02;
/// Share of the clock that the measured one must have had its processor. It polls on while its ends have lost theirs, and one
/// that sleeps then would look better than one that never does.
const UNDISTURBED: f64 = 0.9;
/// Flows, told apart by their source ports.
const FLOWS: u16 = 256;
/// Where packets come from and go to.
const FROM: [u8; 4] = [198, 18, 0, 2];
/// See [`FROM`].
const TO: [u8; 4] = [198, 19, 0, 2];

/// Options of `peer`.
#[derive(clap::Args)]
pub struct Args {
    /// Milliseconds of each measurement.
    #[arg(long, default_value_t = 2000)]
    millis: u64,
    /// Rounds, in each of which every one is measured in its turn; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Bytes of a frame, without FCS.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(60..=1514))]
    size: u32,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dut {
    Io,
    Macswap,
    /// Packets are copied out of the interfaces' memory and into it.
    Smpnet,
    /// The interfaces' memory is the router's own.
    SmpnetZeroCopy,
}

/// What it did.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Millions of packets per second of its processor time.
    own: f64,
    /// The same on the clock.
    wall: f64,
    /// Share of the looks that found hardly anything waiting for it.
    starved: f64,
}

/// Runs the benchmark.
pub fn run(args: &Args, json: bool) -> Result<bool, Box<dyn Error>> {
    let lab = Lab::enter()?;
    on_interrupt(|| {})?;
    let bench = Bench { host: Host::new(lab, "peer")?, cpus: allowed_cpus()?, args };
    let all = [Dut::Io, Dut::Macswap, Dut::Smpnet, Dut::SmpnetZeroCopy];
    let mut rates = all.map(|_| Ok::<Vec<Rate>, String>(Vec::new()));
    for _ in 0..args.rounds {
        for (dut, rates) in all.into_iter().zip(&mut rates) {
            if let Ok(list) = rates {
                match bench.measure(dut) {
                    Ok(rate) => list.push(rate),
                    Err(e) => *rates = Err(e.to_string().trim().replace('\n', "; ")),
                }
            }
        }
    }
    let few = bench.cpus.len() < 2;
    let own = |rates: &Result<Vec<Rate>, String>| {
        if few && rates.is_ok() {
            return Err(FEW.into());
        }
        rates.as_ref().map_err(Clone::clone).map(|list| median(&mut list.iter().map(|r| r.own).collect::<Vec<_>>()))
    };
    let [io, macswap, ..] = &rates;
    let (io, macswap) = (own(io).ok(), own(macswap).ok());
    let mut readings = Vec::new();
    for (dut, rates) in all.into_iter().zip(&rates) {
        let case = |name: &str| format!("memif to memif, {} B, {name}, by its own processor time", args.size + 4);
        let dressed = |mut r: Reading| {
            if let Ok(list) = rates {
                let mid = |of: fn(&Rate) -> f64| median(&mut list.iter().map(of).collect::<Vec<_>>());
                r = r.detail(serde_json::json!({ "own_mpps": mid(|r| r.own), "wall_mpps": mid(|r| r.wall), "starved": mid(|r| r.starved) }));
                if !few && mid(|r| r.wall) < UNDISTURBED * mid(|r| r.own) {
                    r = r.note("other programs took processor time meanwhile, from this one or from its ends: not to be compared");
                } else if !few && mid(|r| r.starved) > STARVED {
                    r = r.note("it was not always kept busy: at least so much");
                }
            }
            r
        };
        let reading = |name: &str| Reading::of("peer", case(name), own(rates), "Mpps");
        match dut {
            Dut::Io => readings.push(dressed(reading("testpmd io"))),
            Dut::Macswap => readings.push(dressed(reading("testpmd macswap").beside("testpmd io", io))),
            Dut::Smpnet | Dut::SmpnetZeroCopy => {
                let name = if dut == Dut::Smpnet { "smpnet" } else { "smpnet without copies" };
                readings.push(dressed(reading(name).beside("testpmd io", io)));
                readings.push(dressed(reading(name).beside("testpmd macswap", macswap)));
            }
        }
    }
    Ok(reading::print(&readings, json))
}

struct Bench<'a> {
    host: Host,
    cpus: Vec<usize>,
    args: &'a Args,
}

impl Bench<'_> {
    /// The processors of the ends and of the measured one.
    fn places(&self) -> [usize; 2] {
        match self.cpus[..] {
            [a, b, ..] => [a, b],
            [a] => [a; 2],
            [] => [0; 2],
        }
    }

    fn measure(&self, dut: Dut) -> Result<Rate, Box<dyn Error>> {
        let dir = TempDir::new("smpnet-bench")?;
        let (left, right) = (dir.path().join("left.sock"), dir.path().join("right.sock"));
        let waiting = [Waiting::at(&left)?, Waiting::at(&right)?];
        let [_, at_dut] = self.places();
        let mode = match dut {
            Dut::Smpnet | Dut::SmpnetZeroCopy => {
                let daemon = self.smpnet(&left, &right, at_dut, dut == Dut::SmpnetZeroCopy)?;
                let ends = waiting.map(Waiting::connect);
                let mac = mac_of(&daemon, "left0")?;
                let (rate, last) = self.rate(ends, mac, daemon.pid())?;
                // It routed: the packet's time to live is one less, and its checksum right.
                return match (last[22], checksum(&last[14..34])) {
                    (63, 0) => Ok(rate),
                    (ttl, sum) => Err(format!("what arrived has the TTL {ttl} and the checksum {sum:#06x}").into()),
                };
            }
            Dut::Io => "io",
            Dut::Macswap => "macswap",
        };
        let mut testpmd = Testpmd::start("dut", at_dut, &[&left, &right])?;
        let ends = waiting.map(Waiting::connect);
        testpmd.tell(&[&format!("set fwd {mode}"), "start"])?;
        let (rate, last) = self.rate(ends, [2, 0, 0, 0, 0x99, 2], testpmd.pid())?;
        match last[22] {
            64 => Ok(rate),
            ttl => Err(format!("what arrived has the TTL {ttl}").into()),
        }
    }

    /// The router, with a route from one port to the other.
    fn smpnet(&self, left: &Path, right: &Path, cpu: usize, zero_copy: bool) -> Result<Daemon, Box<dyn Error>> {
        let mut plain = Daemon::start(&self.host, "")?;
        let plugins = plain.json(&["plugin", "list"])?;
        plain.stop()?;
        if !crate::host::mentions(&plugins, "memif") {
            return Err("no plugin has a driver memif".into());
        }
        let port = |name: &str, socket: &Path, address: &str| {
            format!(
                "[[interface]]\nname = \"{name}\"\ndriver = \"memif\"\noptions = {{ socket = \"{}\", role = \"client\", \
                 ring_size = {}, zero_copy = {zero_copy} }}\naddresses = [\"{address}\"]\n\n",
                socket.display(),
                1 << LOG2_RING
            )
        };
        let config = format!(
            "[runtime]\ncpus = [{cpu}]\n\n[pool]\ncells = 65536\n\n[sysctl]\n\"net.inet.ip.dad_count\" = 0\n\n{}{}\
             [[arp]]\naddress = \"{}\"\nmac = \"02:00:00:00:99:01\"\n",
            port("left0", left, "198.18.255.1/16"),
            port("right0", right, "198.19.255.1/16"),
            std::net::Ipv4Addr::from(TO),
        );
        Ok(Daemon::start(&self.host, &config)?)
    }

    /// What the measured one forwards, and one of the frames that arrived.
    fn rate(
        &self,
        ends: [Result<ends::End, Box<dyn Error>>; 2],
        to: [u8; 6],
        pid: u32,
    ) -> Result<(Rate, Frame), Box<dyn Error>> {
        let [left, right] = ends;
        let frames = (0..FLOWS).map(|flow| frame(to, flow, self.args.size as u16)).collect();
        let [at_ends, at_dut] = self.places();
        settle(pid, at_dut);
        let ends = Ends::start(left?, right?, frames, self.args.size, at_ends);
        std::thread::sleep(Duration::from_millis(500));
        let before = Look::at(&ends, pid)?;
        std::thread::sleep(Duration::from_millis(self.args.millis));
        let after = Look::at(&ends, pid)?;
        let last = ends.stop()?;
        let since = |of: fn(&Look) -> u64| of(&after).saturating_sub(of(&before)) as f64;
        let received = since(|l| l.received);
        if received == 0.0 {
            return Err("no packet arrived".into());
        }
        let rate = Rate {
            own: received / since(|l| l.cpu_ns) * 1e3,
            wall: received / after.when.duration_since(before.when).as_secs_f64() / 1e6,
            starved: since(|l| l.starved) / since(|l| l.looks).max(1.0),
        };
        Ok((rate, last))
    }
}

/// What was counted until some moment.
struct Look {
    received: u64,
    looks: u64,
    starved: u64,
    /// Processor time of the measured one.
    cpu_ns: u64,
    when: Instant,
}

impl Look {
    fn at(ends: &Ends, pid: u32) -> Result<Look, Box<dyn Error>> {
        let counts = ends.counts();
        Ok(Look {
            received: counts.received.load(Relaxed),
            looks: counts.looks.load(Relaxed),
            starved: counts.starved.load(Relaxed),
            cpu_ns: process_ns(pid).ok_or("the measured one ended")?,
            when: Instant::now(),
        })
    }
}

/// A UDP packet of a flow in a frame of `size` bytes, of which those behind 64 are whatever lies in the buffer.
fn frame(to: [u8; 6], flow: u16, size: u16) -> Frame {
    let mut f = [0; 64];
    f[..6].copy_from_slice(&to);
    f[6..12].copy_from_slice(&[2, 0, 0, 0, 0x99, 0]);
    f[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    f[16..18].copy_from_slice(&(size - 14).to_be_bytes());
    (f[22], f[23]) = (64, 17);
    f[26..30].copy_from_slice(&FROM);
    f[30..34].copy_from_slice(&TO);
    let sum = checksum(&f[14..34]);
    f[24..26].copy_from_slice(&sum.to_be_bytes());
    f[34..36].copy_from_slice(&(1024 + flow).to_be_bytes());
    f[36..38].copy_from_slice(&9u16.to_be_bytes());
    f[38..40].copy_from_slice(&(size - 34).to_be_bytes());
    f
}

/// The Ethernet address of an interface.
fn mac_of(daemon: &Daemon, name: &str) -> Result<[u8; 6], Box<dyn Error>> {
    let all = daemon.json(&["ifconfig"])?;
    let of = |list: &serde_json::Value| {
        list.as_array()?.iter().find(|i| i["name"] == name)?["mac"].as_str().map(str::to_owned)
    };
    let text = of(&all).or_else(|| of(&all["interfaces"]));
    text.and_then(|t| smpnet_stack::parse_mac(&t))
        .map(|m| m.bytes)
        .ok_or_else(|| format!("{name} has no Ethernet address").into())
}

/// Keeps all threads of a process on a processor.
fn settle(pid: u32, cpu: usize) {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for tid in tasks.filter_map(|t| t.file_name().to_str()?.parse::<i32>().ok()) {
        // A thread that ended meanwhile needs it no more.
        // SAFETY: all zero is an empty cpu_set_t, which lives through the calls.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut set);
            libc::sched_setaffinity(tid, size_of::<libc::cpu_set_t>(), &set);
        }
    }
}
