//! Filters on the hooks of the network stack.

use crate::{Attach, AttachPoint, Dirs, Filter, FilterDecision, FilterManager, GeneratedEngine, Layer};
use smpnet_abi::PoolDesc;
use smpnet_runtime::Runtime;
use smpnet_stack::{Dir, FilterOpinion, HookLayer, IfIndex, Stack};
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

    fn edits(&self, handle: u64, filter: Arc<Filter>) {
        if let Err(e) = self.stack.pfil_replace(handle, filter) {
            tracing::debug!(handle, %e, "a filter's hook was gone already");
        }
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
    pub fn opinions(&self, layer: HookLayer, ifindex: IfIndex, dir: Dir, packet: &[u8]) -> Vec<FilterOpinion> {
        let layer = match layer {
            HookLayer::Ether => Layer::Ether,
            HookLayer::Inet => Layer::Inet,
            HookLayer::Inet6 => return Vec::new(),
        };
        let dirs = match dir {
            Dir::In => Dirs::In,
            Dir::Out => Dirs::Out,
        };
        let decisions = self.explain(layer, ifindex.get(), dirs, packet);
        decisions.into_iter().map(opinion).collect()
    }

    /// What one filter says of a packet that begins with the header of its layer; `None` when there is none of that name.
    pub fn opinion(&self, name: &str, packet: &[u8]) -> Option<FilterOpinion> {
        self.decide(name, packet).map(opinion)
    }
}

fn opinion(d: FilterDecision) -> FilterOpinion {
    FilterOpinion {
        pass: d.verdict != "drop",
        detail: match d.matched {
            None => format!("generation {}: a module that explain cannot run", d.generation),
            Some(m) => {
                let what = if m { "matches" } else { "does not match" };
                format!("generation {}: {what} `{}`", d.generation, d.text)
            }
        },
        name: d.filter,
    }
}
