//! `peer`: smpnet beside DPDK's testpmd, between the same two others, over the same kind of shared-memory interface:
//!
//! ```text
//! testpmd txonly -- memif -- the one that is measured -- memif -- testpmd rxonly
//! ```
//!
//! testpmd in its modes `io` and `macswap` looks up no route, decrements nothing and looks at no more than an Ethernet header: it is
//! the bound from above. What is told is packets per second of the measured one's processor time, which is what it would do with a
//! processor of its own. That needs packets waiting at all times: the sender finds its ring full again and again, which is checked.

mod testpmd;

use crate::{
    machine::{allowed_cpus, process_ns},
    reading::{self, Reading},
    report::median,
};
use smpnet_lab::{Daemon, Host, Lab, TempDir, on_interrupt};
use std::{
    error::Error,
    path::Path,
    time::{Duration, Instant},
};
use testpmd::{End, Testpmd};

/// How long a process that shares its processor keeps it: less than its peers' rings can bridge.
const SLICE_NS: u64 = 100_000;
/// Why nothing is claimed of fewer processors than there are processes.
const FEW: &str = "three processors are needed: of two, the measured one and the receiver take turns of a clock tick each, and what a \
                   ring holds for a tick is all that can be forwarded (8,192 in 4 ms are 2.05 Mpps)";
/// Share of the sender's packets that must have found the ring full, so that it was not what limited the rate.
const REFUSED: f64 = 0.02;
/// How long two ends may take to find each other.
const PATIENCE: Duration = Duration::from_secs(10);

/// Options of `peer`.
#[derive(clap::Args)]
pub struct Args {
    /// Milliseconds of each measurement.
    #[arg(long, default_value_t = 2000)]
    millis: u64,
    /// Rounds, in each of which every one is measured in its turn; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
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
    /// Share of the sender's packets that found the ring full.
    refused: f64,
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
    let few = bench.cpus.len() < 3;
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
                r = r.detail(serde_json::json!({ "own_mpps": mid(|r| r.own), "wall_mpps": mid(|r| r.wall), "refused": mid(|r| r.refused) }));
                if !few && mid(|r| r.refused) < REFUSED {
                    r = r.note("the sender's ring was hardly ever full: at least so much");
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
    /// The processors of sender, measured one and receiver. Of two, the sender has one for itself, and the others take turns on
    /// the other one, so that packets always wait.
    fn places(&self) -> [usize; 3] {
        match self.cpus[..] {
            [a, b, c, ..] => [a, b, c],
            [a, b] => [a, b, b],
            [a] => [a; 3],
            [] => [0; 3],
        }
    }

    fn measure(&self, dut: Dut) -> Result<Rate, Box<dyn Error>> {
        let dir = TempDir::new("smpnet-bench")?;
        let (left, right) = (dir.path().join("left.sock"), dir.path().join("right.sock"));
        let [at_sender, at_dut, at_receiver] = self.places();
        let mut sender = Testpmd::start("tx", at_sender, &[End { socket: &left, server: true }])?;
        let mut receiver = Testpmd::start("rx", at_receiver, &[End { socket: &right, server: true }])?;
        let mode = match dut {
            Dut::Smpnet | Dut::SmpnetZeroCopy => {
                let daemon = self.smpnet(&left, &right, at_dut, dut == Dut::SmpnetZeroCopy)?;
                let mac = mac_of(&daemon, "left0")?;
                sender.tell(&[&format!("set eth-peer 0 {mac}")])?;
                return self.rate(&mut sender, &mut receiver, daemon.pid(), at_dut);
            }
            Dut::Io => "io",
            Dut::Macswap => "macswap",
        };
        let ends = [End { socket: &left, server: false }, End { socket: &right, server: false }];
        let mut dut = Testpmd::start("dut", at_dut, &ends)?;
        dut.tell(&[&format!("set fwd {mode}"), "start"])?;
        self.rate(&mut sender, &mut receiver, dut.pid(), at_dut)
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
                1 << testpmd::RING
            )
        };
        let config = format!(
            "[runtime]\ncpus = [{cpu}]\n\n[pool]\ncells = 65536\n\n[sysctl]\n\"net.inet.ip.dad_count\" = 0\n\n{}{}\
             [[arp]]\naddress = \"{}\"\nmac = \"02:00:00:00:99:01\"\n",
            port("left0", left, "198.18.255.1/16"),
            port("right0", right, "198.19.255.1/16"),
            testpmd::TO,
        );
        Ok(Daemon::start(&self.host, &config)?)
    }

    fn rate(
        &self,
        sender: &mut Testpmd,
        receiver: &mut Testpmd,
        pid: u32,
        at_dut: usize,
    ) -> Result<Rate, Box<dyn Error>> {
        let start = Instant::now();
        while !(sender.is_up(0)? && receiver.is_up(0)?) {
            if start.elapsed() > PATIENCE {
                return Err("the ends of a memif did not find each other".into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        receiver.tell(&["set fwd rxonly", "start"])?;
        sender.tell(&["set fwd txonly", &format!("set txpkts {}", self.args.size), "start"])?;
        let [at_sender, _, at_receiver] = self.places();
        for (pid, cpu) in [(sender.pid(), at_sender), (receiver.pid(), at_receiver), (pid, at_dut)] {
            settle(pid, cpu);
        }
        std::thread::sleep(Duration::from_millis(500));
        let before = Look::at(sender, receiver, pid)?;
        std::thread::sleep(Duration::from_millis(self.args.millis));
        let after = Look::at(sender, receiver, pid)?;
        let since = |of: fn(&Look) -> u64| of(&after).saturating_sub(of(&before)) as f64;
        let (received, sent, refused) = (since(|l| l.received), since(|l| l.sent), since(|l| l.refused));
        if received == 0.0 {
            return Err("no packet arrived".into());
        }
        Ok(Rate {
            own: received / since(|l| l.cpu_ns) * 1e3,
            wall: received / after.when.duration_since(before.when).as_secs_f64() / 1e6,
            refused: refused / (sent + refused).max(1.0),
        })
    }
}

/// What was counted until some moment.
struct Look {
    /// Packets that the receiver got.
    received: u64,
    /// Packets that the sender's ring took, and those that found it full.
    sent: u64,
    refused: u64,
    /// Processor time of the measured one.
    cpu_ns: u64,
    when: Instant,
}

impl Look {
    fn at(sender: &mut Testpmd, receiver: &mut Testpmd, pid: u32) -> Result<Look, Box<dyn Error>> {
        let of = |counters: &testpmd::Counters, name: &str| counters.get(name).copied().unwrap_or(0);
        let (sent, received) = (sender.counters(0)?, receiver.counters(0)?);
        Ok(Look {
            received: of(&received, "RX-packets"),
            sent: of(&sent, "TX-packets"),
            refused: of(&sent, "TX-dropped"),
            cpu_ns: process_ns(pid).ok_or("the measured one ended")?,
            when: Instant::now(),
        })
    }
}

/// The Ethernet address of an interface.
fn mac_of(daemon: &Daemon, name: &str) -> Result<String, Box<dyn Error>> {
    let all = daemon.json(&["ifconfig"])?;
    let of = |list: &serde_json::Value| {
        list.as_array()?.iter().find(|i| i["name"] == name)?["mac"].as_str().map(str::to_owned)
    };
    of(&all).or_else(|| of(&all["interfaces"])).ok_or_else(|| format!("{name} has no Ethernet address").into())
}

/// Keeps all threads of a process on a processor, each for a short time when others want it too. A kernel before 6.12 leaves that time
/// as it is; then rings may run full and empty while a process waits for its turn.
fn settle(pid: u32, cpu: usize) {
    /// sched_attr of linux/sched/types.h as far as its first version goes.
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let attr = Attr { size: size_of::<Attr>() as u32, runtime: SLICE_NS, ..Attr::default() };
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for tid in tasks.filter_map(|t| t.file_name().to_str()?.parse::<i32>().ok()) {
        // A thread that ended meanwhile needs neither.
        // SAFETY: all zero is an empty cpu_set_t; `attr` says its size; both live through the calls.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut set);
            libc::sched_setaffinity(tid, size_of::<libc::cpu_set_t>(), &set);
            libc::syscall(libc::SYS_sched_setattr, tid, &raw const attr, 0);
        }
    }
}
