//! The example filters of the SDK, in Rust and C, as modules on this host: the same packets through the module and through the
//! SDK's native harness have the same fate, and what an operator changes (tables, configuration, generation) takes effect.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use dns_blocklist::DnsBlocklist;
use smpnet_abi::{Cell, PoolDesc, verdict};
use smpnet_filter::Module;
use smpnet_filter::testing::{Fate, Frame, Harness, dns_query};
use smpnet_lab::{LabError, example_filter, require};
use smpnet_runtime::{Cpu, Pool, PoolConfig};
use smpnet_wasm::{
    Action, Asked, Attach, AttachPoint, Capability, Filter, FilterManager, FilterSpec, Layer, ModuleSpec, Source,
    TableKey, TableKind,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use syn_flood::SynFlood;

const BURST: usize = 64;

/// One worker, no hooks: the test judges itself.
struct Bench {
    pool: Pool,
    filter: Mutex<Option<Arc<Filter>>>,
}

impl Attach for Bench {
    fn pool(&self) -> PoolDesc {
        *self.pool.desc()
    }

    fn workers(&self) -> usize {
        1
    }

    fn warm_up(&self) {}

    fn synchronize(&self) {}

    fn attach(&self, _: &AttachPoint, filter: Arc<Filter>) -> Result<u64, String> {
        *self.filter.lock().unwrap_or_else(PoisonError::into_inner) = Some(filter);
        Ok(0)
    }

    fn detach(&self, _: u64) {}
}

/// A host with one filter, asked for Ethernet frames that come in.
struct Host {
    manager: FilterManager,
    bench: Arc<Bench>,
    cells: [Cell; BURST],
    now_ns: u64,
}

impl Host {
    /// The module of an example; `None` where its compiler is missing.
    fn new(name: &str, config: &str, names: &[(&str, u32)]) -> Option<Host> {
        let pool = Pool::new(&PoolConfig { cells: 1024, workers: 1, ..PoolConfig::default() }).unwrap();
        let bench = Arc::new(Bench { pool, filter: Mutex::default() });
        let mut cells = [0; BURST];
        // SAFETY: the only thread that uses the pool.
        let cpu = unsafe { Cpu::assume(0) };
        assert_eq!(bench.pool.alloc(cpu, &mut cells), BURST);
        let manager = FilterManager::new(bench.clone()).unwrap();
        let host = Host { manager, bench, cells, now_ns: 1_000_000_000 };
        host.manager.tables().create("names", TableKind::Exact, None).unwrap();
        host.list(names);
        let source = source(name, config)?;
        host.manager.load(FilterSpec { layer: Layer::Ether, ..FilterSpec::new("f", source, Action::Drop) }).unwrap();
        Some(host)
    }

    fn list(&self, names: &[(&str, u32)]) {
        let entries: Vec<(TableKey, u32)> =
            names.iter().map(|(n, v)| (TableKey::parse(TableKind::Exact, n).unwrap(), *v)).collect();
        self.manager.tables().replace("names", &entries).unwrap();
    }

    /// Judges a burst of at most 64 frames: true is passed.
    fn burst(&self, frames: &[Vec<u8>]) -> Vec<bool> {
        for (&cell, frame) in self.cells.iter().zip(frames) {
            assert!(self.bench.pool.packet(cell).set_data(frame));
        }
        let filter = self.bench.filter.lock().unwrap().clone().unwrap();
        let mut verdicts = vec![verdict::PASS; frames.len()];
        let asked =
            Asked { worker: 0, out: false, ifindex: 1, layer: smpnet_filter_abi::layer::ETHER, now_ns: self.now_ns };
        // SAFETY: the only thread that judges as worker 0, and the owner of the packets.
        unsafe { filter.judge(&asked, &self.cells[..frames.len()], &mut verdicts) };
        verdicts.iter().map(|v| *v == verdict::PASS).collect()
    }

    fn counter(&self, name: &str) -> u64 {
        self.manager.stats("f").unwrap().counters.iter().find(|c| c.name == name).unwrap().total
    }

    fn faults(&self) -> u64 {
        self.manager.stats("f").unwrap().total.faults
    }
}

fn source(name: &str, config: &str) -> Option<Source> {
    let file = match example_filter(name) {
        Ok(file) => file,
        Err(LabError::Skipped(reason)) => {
            require(false, &reason);
            return None;
        }
        Err(e) => panic!("{name}: {e}"),
    };
    let allow = [Capability::Log, Capability::Clock, Capability::Tables, Capability::Reject].into_iter().collect();
    let spec = ModuleSpec { config: config.into(), allow, ..ModuleSpec::new(std::fs::read(file).unwrap()) };
    Some(Source::Module(spec))
}

/// Frames of every sort, the same in each run: good ones, and such that an attacker would send.
fn traffic(bursts: usize) -> Vec<Vec<Vec<u8>>> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let names = ["ads.example", "x.ads.example", "fine.example", "a.zip", "ADS.example", "good.ads.example", "."];
    let mut frame = move || {
        let (source, port) = (random(40), random(60_000) + 1);
        let v4 = |rest: &str| format!("10.0.0.{source}:{rest}");
        let mut bytes = match random(6) {
            0 | 1 => Frame::tcp(&v4(&port.to_string()), "10.9.0.1:80").bytes(),
            2 => Frame::tcp(&format!("[2001:db8:{source}::1]:{port}"), "[2001:db8::80]:80").vlan(5).bytes(),
            3 => Frame::tcp(&v4("80"), "10.9.0.1:4000").flags(random(64) as u8).bytes(),
            _ => {
                let query = dns_query(names[random(names.len() as u64) as usize]);
                Frame::udp(&v4(&port.to_string()), "10.9.0.1:53").payload(&query).bytes()
            }
        };
        // One in four is damaged somewhere, one in eight cut.
        if random(4) == 0 {
            let at = random(bytes.len() as u64) as usize;
            bytes[at] = random(256) as u8;
        }
        if random(8) == 0 {
            bytes.truncate(random(bytes.len() as u64) as usize + 1);
        }
        bytes
    };
    (0..bursts).map(|i| (0..1 + i * 7 % BURST).map(|_| frame()).collect()).collect()
}

/// Gives the same traffic to the module and to the harness and compares what became of each packet, and the counters.
fn module_and_harness_agree<F: Module>(host: &mut Host, harness: &mut Harness<F>) {
    for (i, burst) in traffic(120).iter().enumerate() {
        harness.advance(Duration::from_millis(7));
        host.now_ns = harness.now_ns();
        let native: Vec<bool> = harness.burst(burst).iter().map(|j| j.fate == Fate::Pass).collect();
        assert_eq!(host.burst(burst), native, "burst {i}");
    }
    for counter in F::MANIFEST.counters {
        assert_eq!(host.counter(counter), harness.counter(counter), "{counter}");
    }
    assert_eq!(host.faults(), 0);
}

#[test]
fn the_syn_flood_limiter_does_as_a_module_what_it_does_natively() {
    let config = "rate = 3; burst = 5; new_rate = 20; new_burst = 25; sources = 16";
    let Some(mut host) = Host::new("syn-flood", config, &[]) else { return };
    let mut harness = Harness::<SynFlood>::new(config).unwrap();
    module_and_harness_agree(&mut host, &mut harness);
    assert!(harness.counter("limited") > 50 && harness.counter("sources_forgotten") > 0, "the traffic tests nothing");
}

#[test]
fn the_dns_blocklist_does_as_a_module_what_it_does_natively() {
    let names = [("ads.example", 0), ("good.ads.example", 1), ("zip", 0)];
    let Some(mut host) = Host::new("dns-blocklist", "", &names) else { return };
    let mut harness = Harness::<DnsBlocklist>::new("").unwrap();
    harness.table("names", &names);
    module_and_harness_agree(&mut host, &mut harness);
    assert!(harness.counter("blocked") > 50 && harness.counter("malformed") > 0, "the traffic tests nothing");
}

#[test]
fn the_table_of_a_blocklist_is_changed_while_it_runs() {
    let Some(host) = Host::new("dns-blocklist", "", &[("ads.example", 0)]) else { return };
    let query = |name: &str| Frame::udp("10.0.0.1:5353", "10.0.0.2:53").payload(&dns_query(name)).bytes();
    let burst = [query("www.ads.example"), query("www.other.example")];
    assert_eq!(host.burst(&burst), [false, true]);
    host.list(&[("other.example", 0)]);
    assert_eq!(host.burst(&burst), [true, false]);
}

#[test]
fn buckets_of_sources_live_through_a_swap() {
    let Some(host) = Host::new("syn-flood", "rate = 10; burst = 10", &[]) else { return };
    let syns = |n: usize| vec![Frame::tcp("10.0.0.1:1", "10.0.0.2:80").bytes(); n];
    let passed = |n: usize| host.burst(&syns(n)).iter().filter(|p| **p).count();
    assert_eq!(passed(8), 8);
    let new = source("syn-flood", "rate = 30; burst = 30").unwrap();
    host.manager.swap("f", new, None).unwrap();
    assert_eq!(passed(40), 2, "a swap fills no bucket");
    assert_eq!(host.counter("sources_new"), 1);
}

#[test]
fn a_configuration_that_a_module_refuses_is_told_in_its_words() {
    let Some(host) = Host::new("syn-flood", "", &[]) else { return };
    let new = source("syn-flood", "rte = 5").unwrap();
    let error = host.manager.swap("f", new, None).unwrap_err().to_string();
    assert!(error.contains("there is no key \"rte\"; there are: rate, burst"), "{error}");
    if let Some(gtsm) = source("gtsm", "bgp = yes") {
        let error = host.manager.swap("f", gtsm, None).unwrap_err().to_string();
        assert!(error.contains("179 = 255"), "{error}");
    }
}

#[test]
fn a_filter_in_c_judges_packets() {
    let Some(host) = Host::new("gtsm", "179 = 255; 646 = 254", &[]) else { return };
    let bgp = |ttl: u8| Frame::tcp("10.0.0.1:4000", "10.0.0.2:179").ttl(ttl).bytes();
    let ldp = |ttl: u8| Frame::udp("[2001:db8::1]:646", "[2001:db8::2]:646").ttl(ttl).vlan(9).bytes();
    let other = Frame::tcp("10.0.0.1:4000", "10.0.0.2:443").ttl(3).bytes();
    let burst = [bgp(255), bgp(254), ldp(255), ldp(254), ldp(253), other];
    assert_eq!(host.burst(&burst), [true, false, true, true, false, true]);
    assert_eq!((host.counter("checked"), host.counter("dropped"), host.faults()), (5, 2, 0));
    for burst in traffic(60) {
        host.burst(&burst);
    }
    assert_eq!(host.faults(), 0);
}
