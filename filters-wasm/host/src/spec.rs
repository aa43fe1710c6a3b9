//! What an operator says about a filter, and what a manager needs of the router.

use crate::Filter;
use serde::{Deserialize, Serialize};
use smpnet_abi::PoolDesc;
use smpnet_bpf::{Dlt, Program};
use std::sync::Arc;

/// What the data of the packets begins with where a filter is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// The Ethernet header, with its 802.1Q tag in the bytes even where a driver took it off or will put it in.
    Ether,
    /// The IP header.
    Inet,
}

impl Layer {
    /// The link type that expressions are compiled for.
    pub const fn dlt(self) -> Dlt {
        match self {
            Layer::Ether => Dlt::En10mb,
            Layer::Inet => Dlt::Raw,
        }
    }
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// What matches passes, all else is dropped.
    Pass,
    /// What matches is dropped, all else passes.
    Drop,
}

/// Directions that a filter is asked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dirs {
    /// Packets coming in.
    In,
    /// Packets going out.
    Out,
    /// All packets.
    Both,
}

impl Dirs {
    pub(crate) fn covers(self, other: Dirs) -> bool {
        self == Dirs::Both || other == Dirs::Both || self == other
    }
}

/// What becomes of packets while a filter fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFault {
    /// They pass.
    Pass,
    /// They are dropped.
    Drop,
}

/// Where the code of a filter comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// An expression in libpcap's language.
    Expr(String),
    /// A classic BPF program.
    Program(Program),
    /// A generated module, made by a compiler of this process and by nobody else: that it ends is taken on trust.
    /// Packets of several cells are judged by their first cell.
    Wasm(Vec<u8>),
}

/// A filter to be loaded.
#[derive(Clone, Debug)]
pub struct FilterSpec {
    /// Its name: 1 to 63 of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// Its code.
    pub source: Source,
    /// What a match means.
    pub action: Action,
    /// What it sees.
    pub layer: Layer,
    /// The interface; `None` for all.
    pub ifindex: Option<u32>,
    /// Directions.
    pub dirs: Dirs,
    /// Order among the filters of a place: lower numbers are asked first.
    pub priority: i32,
    /// What becomes of packets while it fails.
    pub on_fault: OnFault,
}

impl FilterSpec {
    /// A filter on incoming IP packets of all interfaces, of priority 0, that lets packets pass when it fails.
    pub fn new(name: impl Into<String>, source: Source, action: Action) -> Self {
        FilterSpec {
            name: name.into(),
            source,
            action,
            layer: Layer::Inet,
            ifindex: None,
            dirs: Dirs::In,
            priority: 0,
            on_fault: OnFault::Pass,
        }
    }

    pub(crate) fn place(&self) -> AttachPoint {
        AttachPoint { layer: self.layer, ifindex: self.ifindex, dirs: self.dirs, priority: self.priority }
    }
}

/// Where a filter is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AttachPoint {
    /// What it sees.
    pub layer: Layer,
    /// The interface; `None` for all.
    pub ifindex: Option<u32>,
    /// Directions.
    pub dirs: Dirs,
    /// Order among the filters of a place: lower numbers are asked first.
    pub priority: i32,
}

/// What a [`crate::FilterManager`] needs of the router. All of it is called on control threads.
pub trait Attach: Send + Sync {
    /// The packet pool, which outlives the manager.
    fn pool(&self) -> PoolDesc;

    /// How many workers judge packets; their indices are below it.
    fn workers(&self) -> usize;

    /// Calls [`crate::GeneratedEngine::warm_up_thread`] on every worker.
    fn warm_up(&self);

    /// Returns when every worker has left whatever it was in at the call: no burst that began before is still judged.
    /// Workers that sleep are left out.
    fn synchronize(&self);

    /// Puts a filter on its hooks and returns a handle for [`detach`](Self::detach). The error says why not, on one line.
    fn attach(&self, at: &AttachPoint, filter: Arc<Filter>) -> Result<u64, String>;

    /// Takes a filter off its hooks; returns when no worker can be inside of it any more.
    fn detach(&self, handle: u64);
}
