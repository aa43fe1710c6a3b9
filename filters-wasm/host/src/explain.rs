//! explain: what filters would say of a packet, without touching anything that judges packets.
//!
//! A program is run by the reference interpreter. A module of somebody else may keep state, so no running instance is asked:
//! a fresh one is made of the generation in force, with its configuration, tables and rights, and thrown away. The manager is
//! not locked meanwhile, so that a module that is slow to set up keeps nobody waiting but whoever asked.

use crate::engines::Engines;
use crate::guest::{For, GuestCode, Judged, Lines, RunHead, RunPacket};
use crate::version::FilterVersion;
use crate::{Action, Dirs, Filter, FilterDecision, Layer, OnFault};
use smpnet_filter_abi::layer;
use smpnet_runtime::now_ns;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A packet at a hook.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// What it begins with.
    pub layer: Layer,
    /// The interface of the hook.
    pub ifindex: u32,
    /// Whether it goes out.
    pub out: bool,
    /// The interface that it came through; 0 for none.
    pub rcvif: u32,
    /// Its mark.
    pub mark: u32,
    /// Its bytes.
    pub packet: &'a [u8],
}

impl<'a> Question<'a> {
    /// A packet that comes in through an interface.
    pub fn incoming(layer: Layer, ifindex: u32, packet: &'a [u8]) -> Question<'a> {
        Question { layer, ifindex, out: false, rcvif: ifindex, mark: 0, packet }
    }

    pub(crate) fn dirs(&self) -> Dirs {
        if self.out { Dirs::Out } else { Dirs::In }
    }
}

/// A filter and its generation in force, held without the manager's lock.
pub(crate) struct Witness {
    pub(crate) filter: Arc<Filter>,
    pub(crate) version: Arc<FilterVersion>,
}

impl Witness {
    /// What the filter would say. Counts nothing.
    pub(crate) fn ask(&self, engines: &Engines, q: &Question<'_>) -> FilterDecision {
        let version = &*self.version;
        let artefact = &version.artefact;
        let mut decision = FilterDecision {
            filter: self.filter.name().into(),
            generation: version.generation,
            text: artefact.text.clone(),
            action: version.action,
            matched: None,
            verdict: "unknown",
            fresh: false,
            mark: None,
            bytes: None,
            fault: None,
        };
        if version.quarantined.load(Relaxed) {
            decision.fault = Some("it failed too often".into());
            decision.verdict = self.policy();
        } else if let Some(program) = &artefact.program {
            let wirelen = u32::try_from(q.packet.len()).unwrap_or(u32::MAX);
            let matched = program.run(q.packet, wirelen) != 0;
            decision.matched = Some(matched);
            decision.verdict = if matched == (version.action == Action::Pass) { "pass" } else { "drop" };
        } else if let Some(code) = artefact.guest() {
            decision.fresh = true;
            match self.ask_fresh(engines, code, q) {
                Ok(Ok(judged)) => {
                    decision.verdict = judged.verdict;
                    (decision.mark, decision.bytes) = (judged.mark, judged.bytes);
                }
                Ok(Err(fault)) => {
                    decision.fault = Some(fault);
                    decision.verdict = self.policy();
                }
                // What the running instances would say nobody knows.
                Err(reason) => decision.fault = Some(reason),
            }
        }
        decision
    }

    /// What the fault policy makes of packets.
    fn policy(&self) -> &'static str {
        if self.filter.on_fault() == OnFault::Drop { "drop" } else { "pass" }
    }

    /// Makes an instance and asks it; the inner error is its fault, the outer one says why there is none.
    fn ask_fresh(
        &self,
        engines: &Engines,
        code: &GuestCode,
        q: &Question<'_>,
    ) -> Result<Result<Judged, String>, String> {
        let engine = engines.guest(self.filter.name()).map_err(|e| e.to_string())?;
        // What it writes to the log is not the filter's.
        let lines = Lines::new(|| {});
        let whose = For { generation: self.version.generation, worker: 0 };
        let mut fresh = engine.aside(code, &engines.tables, &lines, whose).map_err(|e| e.to_string())?;
        let layer = match (q.layer, q.packet.first().map(|b| b >> 4)) {
            (Layer::Ether, _) => layer::ETHER,
            (Layer::Inet, Some(6)) => layer::INET6,
            (Layer::Inet, _) => layer::INET,
        };
        let head = RunHead { layer, out: q.out, ifindex: q.ifindex, now_ns: now_ns() };
        let packet = RunPacket { bytes: q.packet.to_vec(), mark: q.mark, rcvif: q.rcvif, ..RunPacket::default() };
        Ok(fresh.judge(&head, packet).map_err(|fault| fault.line))
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
