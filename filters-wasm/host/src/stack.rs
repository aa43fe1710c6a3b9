//! Filters on the hooks of the network stack.

use crate::{Attach, AttachPoint, Dirs, Filter, FilterDecision, FilterManager, GeneratedEngine, Layer, Question};
use smpnet_abi::PoolDesc;
use smpnet_runtime::Runtime;
use smpnet_stack::{AtHook, Dir, FilterOpinion, HookLayer, IfIndex, Stack};
use std::sync::Arc;

/// The router as a [`FilterManager`] sees it.
pub struct StackAttach {
    runtime: Arc<Runtime>,
    stack: Arc<Stack>,
}

impl StackAttach {
    /// `stack` stands on `runtime`.
    pub fn new(runtime: Arc<Runtime>, stack: Arc<Stack>) -> Self {
        StackAttach { runtime, stack }
    }
}

impl Attach for StackAttach {
    fn pool(&self) -> PoolDesc {
        *self.runtime.pool().desc()
    }

    fn workers(&self) -> usize {
        self.runtime.workers()
    }

    fn warm_up(&self) {
        for worker in 0..self.runtime.workers() {
            self.runtime.run_on(worker, Box::new(|_| GeneratedEngine::warm_up_thread()));
        }
    }

    fn synchronize(&self) {
        self.runtime.domain().perform();
    }

    fn attach(&self, at: &AttachPoint, filter: Arc<Filter>) -> Result<u64, String> {
        let ifindex = match at.ifindex {
            None => None,
            Some(n) => Some(IfIndex::new(n).ok_or_else(|| format!("no interface has the index {n}"))?),
        };
        let layer = match at.layer {
            Layer::Ether => smpnet_stack::Layer::Ether,
            Layer::Inet => smpnet_stack::Layer::Inet,
        };
        let dirs = match at.dirs {
            Dirs::In => smpnet_stack::Dirs::In,
            Dirs::Out => smpnet_stack::Dirs::Out,
            Dirs::Both => smpnet_stack::Dirs::Both,
        };
        self.stack.pfil_attach(layer, ifindex, dirs, at.priority, filter).map_err(|e| e.to_string())
    }

    fn detach(&self, handle: u64) {
        if let Err(e) = self.stack.pfil_detach(handle) {
            // The interface went away with its hooks.
            tracing::debug!(handle, %e, "a filter's hook was gone already");
        }
    }
}

impl FilterManager {
    /// What the filters at a hook say of a packet, for `Stack::explain`.
    pub fn opinions(&self, at: &AtHook<'_>) -> Vec<FilterOpinion> {
        question(at).map_or(Vec::new(), |q| self.explain(&q).into_iter().map(opinion).collect())
    }

    /// What one filter says of a packet that begins with the header of its layer; `None` when there is none of that name.
    pub fn opinion(&self, name: &str, at: &AtHook<'_>) -> Option<FilterOpinion> {
        self.decide(name, &question(at)?).map(opinion)
    }
}

fn question<'a>(at: &AtHook<'a>) -> Option<Question<'a>> {
    let layer = match at.layer {
        HookLayer::Ether => Layer::Ether,
        HookLayer::Inet => Layer::Inet,
        HookLayer::Inet6 => return None,
    };
    let (ifindex, out, rcvif) = (at.ifindex.get(), at.dir == Dir::Out, at.rcvif.get());
    Some(Question { layer, ifindex, out, rcvif, mark: at.mark, packet: at.bytes })
}

fn opinion(d: FilterDecision) -> FilterOpinion {
    let said = match (&d.fault, d.matched) {
        (Some(fault), _) if d.verdict == "unknown" => format!("{}: cannot be asked: {fault}; taken to pass", d.text),
        (Some(fault), _) => {
            let what = if d.verdict == "drop" { "is dropped" } else { "passes" };
            format!("{}: fails ({fault}); the packet {what} by its fault policy", d.text)
        }
        (None, Some(true)) => format!("matches `{}`", d.text),
        (None, Some(false)) => format!("does not match `{}`", d.text),
        (None, None) if d.fresh => {
            let what = match d.verdict {
                "pass" => "passes",
                "reject" => "rejects",
                _ => "drops",
            };
            let mark = d.mark.map(|m| format!(", with the mark {m}")).unwrap_or_default();
            let changed = if d.bytes.is_some() { ", changed" } else { "" };
            format!("{}: {what}{changed}{mark}", d.text)
        }
        (None, None) => format!("{}: explain cannot run it; taken to pass", d.text),
    };
    let fresh =
        if d.fresh { " (a fresh instance was asked, without the state of those that judge packets)" } else { "" };
    FilterOpinion {
        pass: !matches!(d.verdict, "drop" | "reject"),
        detail: format!("generation {}: {said}{fresh}", d.generation),
        name: d.filter,
        mark: d.mark,
        bytes: d.bytes,
    }
}
