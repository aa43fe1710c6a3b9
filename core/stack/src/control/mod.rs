//! The control side: what operators, the program and plugins ask for. One lock; nothing here runs on a worker.

mod addresses;
pub(crate) mod demux;
pub(crate) mod events;
mod explain;
mod hooks;
mod interfaces;
mod neighbours;
mod ports;
mod routes;
mod services;
mod stats;
mod status;
mod sysctl;
mod tick;

pub use events::StackEvent;
pub use explain::{AtHook, Beside, FilterOpinion, Segments, encap_key};
pub use neighbours::ArpSpec;
pub use ports::OFFLOADS;
pub use stats::{AdjacencyStatus, ProtocolStats};

use crate::neigh::dad::Dad;
use crate::route::{Fib, Rib};
use crate::types::{Dirs, IfIndex, Layer};
use smpnet_runtime::{HookId, PfilHook, PollerId};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What only control threads know.
pub(crate) struct Control {
    pub ifs: BTreeMap<IfIndex, IfControl>,
    pub fib: Fib,
    pub rib: Rib,
    pub hooks: BTreeMap<u64, HookEntry>,
    pub next_hook: u64,
    /// Duplicate detection of each address in progress.
    pub dads: HashMap<(u32, u32), Dad>,
    /// When an address was last defended (RFC 5227, section 2.4).
    pub defended: HashMap<(u32, u32), u64>,
    /// Workers to be asked to give up datagrams, and when.
    pub reass_timers: Vec<(u64, usize)>,
    /// First worker of the next port, so that single-queue ports spread.
    pub next_worker: usize,
}

/// What control knows of an interface beside its snapshot.
#[derive(Default)]
pub(crate) struct IfControl {
    pub description: String,
    pub quarantine: Option<String>,
    pub pollers: Vec<PollerId>,
    pub full_duplex: bool,
    pub port: ports::PortControl,
}

/// A hook that was attached.
pub(crate) struct HookEntry {
    pub hook: Arc<dyn PfilHook>,
    pub layer: Layer,
    pub ifindex: Option<IfIndex>,
    pub dirs: Dirs,
    pub priority: i32,
    /// Its ids in the heads: incoming, outgoing.
    pub ids: [Option<HookId>; 2],
}

impl Control {
    pub(crate) fn new(fib: Fib) -> Control {
        Control {
            ifs: BTreeMap::new(),
            fib,
            rib: Rib::default(),
            hooks: BTreeMap::new(),
            next_hook: 1,
            dads: HashMap::new(),
            defended: HashMap::new(),
            reass_timers: Vec::new(),
            next_worker: 0,
        }
    }
}
