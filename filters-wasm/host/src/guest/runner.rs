//! Modules without a router: to check, test and measure them.

use super::engine::{For, GuestEngine};
use super::imports::Lines;
use super::ring::Meta;
use super::{Fault, GuestCode, GuestInstance, Head, ModuleInfo, apply};
use crate::tables::Tables;
use crate::{LogLine, ModuleSpec, WasmError};
use serde::Serialize;
use smpnet_filter_abi::{BURST_MAX, layer, level, packet_flags, verdict};
use std::sync::Arc;
use std::time::Instant;

/// A packet for a [`Runner`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunPacket {
    /// Its bytes, from the header of the layer on.
    pub bytes: Vec<u8>,
    /// Bytes that it had, when not all of them are here; less than there are means as many as there are.
    pub wire_len: u32,
    /// Its mark.
    pub mark: u32,
    /// The interface that it came through; 0 for none.
    pub rcvif: u32,
    /// Hash of its flow, when it is known.
    pub flow_hash: Option<u32>,
    /// The 802.1Q tag that is not in the bytes, when there is one.
    pub vlan_tci: Option<u16>,
}

/// What is the same for all packets of a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunHead {
    /// What packets begin with: a value of `smpnet_filter_abi::layer`.
    pub layer: u32,
    /// Whether they go out.
    pub out: bool,
    /// The interface.
    pub ifindex: u32,
    /// The time, in nanoseconds.
    pub now_ns: u64,
}

impl Default for RunHead {
    /// Ethernet frames that come in through interface 1 at time 0.
    fn default() -> Self {
        RunHead { layer: layer::ETHER, out: false, ifindex: 1, now_ns: 0 }
    }
}

/// What a module said of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// `pass`, `drop` or `reject`.
    pub verdict: &'static str,
    /// The mark that it set.
    pub mark: Option<u32>,
    /// The packet's bytes after the changes that it asked for; `None` when it asked for none.
    pub bytes: Option<Vec<u8>>,
}

/// What a [`Runner`] measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RunStats {
    /// Bursts judged.
    pub bursts: u64,
    /// Packets in them.
    pub packets: u64,
    /// Nanoseconds from the first window's copy to the last verdict, over all bursts.
    pub total_ns: u64,
    /// The longest burst, in nanoseconds.
    pub worst_ns: u64,
    /// Bursts that ended in a fault.
    pub faults: u64,
}

/// A module, its tables and one instance, without a router. For one thread; what the module may do and take is what it might
/// in a router.
pub struct Runner {
    engine: GuestEngine,
    code: GuestCode,
    tables: Tables,
    lines: Arc<Lines>,
    instance: GuestInstance,
    counters: Vec<u64>,
    stats: RunStats,
}

impl Runner {
    /// Looks through a module, compiles it and makes an instance.
    ///
    /// # Errors
    /// Those of loading it into a router.
    pub fn new(spec: &ModuleSpec, tables: &Tables) -> Result<Runner, WasmError> {
        let engine = GuestEngine::new(1)?;
        let code = engine.compile(spec, None)?;
        let lines = Lines::new(|| {});
        let instance = engine.instantiate(&code, tables, &lines, For { generation: 1, worker: 0 })?;
        let counters = vec![0; code.info.manifest.counters.len()];
        Ok(Runner { engine, code, tables: tables.clone(), lines, instance, counters, stats: RunStats::default() })
    }

    /// What the module is.
    pub fn info(&self) -> &ModuleInfo {
        &self.code.info
    }

    /// Judges packets in bursts of up to 64.
    ///
    /// # Errors
    /// A fault ends the run; [`restart`](Self::restart) makes a new instance.
    pub fn judge(&mut self, head: &RunHead, packets: &[RunPacket]) -> Result<Vec<Judged>, Fault> {
        let mut all = Vec::with_capacity(packets.len());
        for burst in packets.chunks(BURST_MAX as usize) {
            let patches = self.run(head, burst)?;
            all.extend(hear(&mut self.instance, burst, patches));
        }
        Ok(all)
    }

    /// Judges packets in bursts of up to 64 and only measures: verdicts are thrown away. Returns the nanoseconds that it took.
    ///
    /// # Errors
    /// As [`judge`](Self::judge).
    pub fn measure(&mut self, head: &RunHead, packets: &[RunPacket]) -> Result<u64, Fault> {
        let before = self.stats.total_ns;
        packets.chunks(BURST_MAX as usize).try_for_each(|burst| self.run(head, burst).map(drop))?;
        Ok(self.stats.total_ns - before)
    }

    /// Names and values of the module's counters.
    pub fn counters(&self) -> Vec<(String, u64)> {
        self.code.info.manifest.counters.iter().cloned().zip(self.counters.iter().copied()).collect()
    }

    /// What the module wrote to the log since the last call.
    pub fn log(&mut self) -> Vec<LogLine> {
        let line = |l: super::imports::Line| LogLine {
            unix_ms: 0,
            level: match u32::from(l.level) {
                level::ERROR => "error",
                level::WARN => "warn",
                level::INFO => "info",
                _ => "debug",
            },
            text: l.text(),
        };
        self.lines.take().map(line).collect()
    }

    /// What was measured since the runner was made.
    pub fn stats(&self) -> RunStats {
        self.stats
    }

    /// Puts a new instance in place of one that faulted. Counters stay.
    ///
    /// # Errors
    /// The module cannot be set up.
    pub fn restart(&mut self) -> Result<(), WasmError> {
        let whose = For { generation: 1, worker: 0 };
        self.instance = self.engine.instantiate(&self.code, &self.tables, &self.lines, whose)?;
        Ok(())
    }

    /// One burst; returns the bytes of its patches.
    fn run(&mut self, head: &RunHead, burst: &[RunPacket]) -> Result<usize, Fault> {
        let began = Instant::now();
        let said = ask(&mut self.instance, head, burst);
        let ns = began.elapsed().as_nanos() as u64;
        self.stats.bursts += 1;
        self.stats.packets += burst.len() as u64;
        self.stats.total_ns += ns;
        self.stats.worst_ns = self.stats.worst_ns.max(ns);
        match said {
            Ok(_) => {
                self.counters.iter_mut().zip(self.instance.counters()).for_each(|(c, n)| *c = c.wrapping_add(*n));
            }
            Err(_) => self.stats.faults += 1,
        }
        said
    }
}

/// Asks an instance about one burst of up to 64 packets; returns the bytes of its patches.
pub(super) fn ask(instance: &mut GuestInstance, head: &RunHead, burst: &[RunPacket]) -> Result<usize, Fault> {
    use smpnet_filter_abi::direction::{IN, OUT};
    let head = Head {
        layer: head.layer,
        direction: if head.out { OUT } else { IN },
        ifindex: head.ifindex,
        now_ns: head.now_ns,
    };
    instance.begin(&head)?;
    let copy = |packets: &[&RunPacket], windows: &mut [u8], window: usize, lens: &mut [u16; BURST_MAX as usize]| {
        for ((p, to), len) in packets.iter().zip(windows.chunks_exact_mut(window)).zip(lens) {
            let n = window.min(p.bytes.len());
            to[..n].copy_from_slice(&p.bytes[..n]);
            *len = n as u16;
        }
    };
    let packets: Vec<&RunPacket> = burst.iter().collect();
    instance.all_windows().fill(&packets, copy, meta);
    instance.run(burst.len()).map(|said| said.patches)
}

/// What it said of them.
pub(super) fn hear(instance: &mut GuestInstance, burst: &[RunPacket], patches: usize) -> Vec<Judged> {
    let mut judged: Vec<Judged> = instance
        .verdicts(burst.len())
        .iter()
        .map(|v| Judged {
            verdict: match v.verdict & 0xff {
                verdict::PASS => "pass",
                verdict::REJECT => "reject",
                _ => "drop",
            },
            mark: (v.verdict & verdict::MARK != 0).then_some(v.mark),
            bytes: None,
        })
        .collect();
    let told: Vec<_> = (0..burst.len()).map(|i| instance.told(i).at()).collect();
    let mut patches = instance.patches(patches);
    while let Ok(Some((patch, bytes))) = patches.next() {
        let i = usize::from(patch.packet);
        if judged[i].verdict == "pass" {
            let packet = judged[i].bytes.get_or_insert_with(|| burst[i].bytes.clone());
            apply(packet.as_mut_slice(), told[i], false, &patch, bytes);
        }
    }
    judged
}

fn meta(p: &RunPacket) -> Meta {
    let (hash, tag) = (p.flow_hash.map_or(0, |_| packet_flags::HASH), p.vlan_tci.map_or(0, |_| packet_flags::VLAN));
    Meta {
        wire_len: p.wire_len.max(u32::try_from(p.bytes.len()).unwrap_or(u32::MAX)),
        flow_hash: p.flow_hash.unwrap_or(0),
        mark: p.mark,
        rcvif: p.rcvif,
        flags: hash | tag,
        vlan_tci: p.vlan_tci.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testguest::{Guest, RING, drop_port};
    use crate::testrouter::udp;
    use crate::{Capabilities, ModuleSpec};

    fn packet(bytes: Vec<u8>) -> RunPacket {
        RunPacket { bytes, ..RunPacket::default() }
    }

    #[test]
    fn a_module_runs_without_a_router() {
        let prog = format!(
            "(i64.store offset=2624 (i32.const {RING}) (i64.add (i64.load offset=2624 (i32.const {RING})) (i64.const 1)))
             (if {} (then (return (i32.const 1))))
             (if {} (then (unreachable)))
             (i32.store offset=2880 (i32.const {RING}) (i32.or (local.get $i) (i32.const 0x80000)))
             (i32.store offset=2884 (i32.const {RING}) (i32.const 1))
             (i32.store offset=2888 (i32.const {RING}) (i32.const 9))
             (i32.store offset=44 (i32.const {RING}) (i32.const 12))
             (i32.const 0)",
            drop_port(5000),
            drop_port(6666)
        );
        let manifest = r#","counters":["seen"],"capabilities":["edit"]"#;
        let wasm = Guest { manifest, prog: &prog, ..Guest::default() }.wasm();
        let spec = ModuleSpec { allow: Capabilities::all(), ..ModuleSpec::new(wasm) };
        let mut runner = Runner::new(&spec, &Tables::default()).unwrap();
        let head = RunHead { layer: layer::INET, ..RunHead::default() };
        let packets: Vec<RunPacket> = (0..100).map(|n| packet(udp(5000 + n % 2, 0))).collect();
        let judged = runner.judge(&head, &packets).unwrap();
        assert!(judged.iter().step_by(2).all(|j| j.verdict == "drop" && j.bytes.is_none()));
        // The last packet of each burst was changed: time to live.
        assert_eq!(judged[99].bytes.as_ref().map(|b| b[8]), Some(9));
        assert_eq!(runner.counters(), [("seen".to_owned(), 100)]);
        let fault = runner.judge(&head, &[packet(udp(6666, 0))]).unwrap_err();
        assert!(fault.line.contains("unreachable"), "{fault}");
        runner.restart().unwrap();
        assert!(runner.measure(&head, &packets).unwrap() > 0);
        let stats = runner.stats();
        assert_eq!((stats.bursts, stats.packets, stats.faults), (5, 201, 1));
        assert!(stats.worst_ns > 0 && runner.log().is_empty() && runner.info().manifest.name == "test");
    }
}
