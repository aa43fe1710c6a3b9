//! What an operator says about a filter, and what a manager needs of the router.

use crate::Filter;
use crate::guest::{Capabilities, ModuleLimits};
use serde::{Deserialize, Serialize};
use smpnet_abi::PoolDesc;
use smpnet_bpf::{Dlt, Program};
use std::collections::BTreeMap;
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

/// What becomes of packets while a filter fails, and of the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFault {
    /// They pass. After too many faults the generation before comes back; when there is none, the filter leaves its hooks.
    Pass,
    /// They are dropped. After too many faults the generation before comes back; when there is none, the filter stays and
    /// drops all packets.
    Drop,
    /// They pass, and the first fault is one too many: see [`OnFault::Pass`].
    Detach,
}

/// How many faults are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultLimit {
    /// So many faults, at least 1: 8.
    pub max: u32,
    /// in so many seconds, at least 1: 60.
    pub seconds: u32,
}

impl Default for FaultLimit {
    fn default() -> Self {
        FaultLimit { max: 8, seconds: 60 }
    }
}

/// Where the code of a filter comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// An expression in libpcap's language.
    Expr(String),
    /// A classic BPF program.
    Program(Program),
    /// A module that a compiler of this process generated. Packets of several cells are judged by their first cell.
    Generated(GeneratedWasm),
    /// A module of somebody else, for the filter ABI (`smpnet-filter-abi`). [`FilterSpec::action`] means nothing to it.
    Module(ModuleSpec),
}

/// A generated module. Only this crate can make one: that such a module ends is taken on trust, so what comes from outside is
/// a [`ModuleSpec`].
#[derive(Clone, Debug)]
pub struct GeneratedWasm(pub(crate) Vec<u8>);

/// A module of somebody else, and what its operator lets it do.
#[derive(Clone, Debug)]
pub struct ModuleSpec {
    /// The module.
    pub wasm: Vec<u8>,
    /// Its configuration, in a form of its own: what `smpnet_init` gets.
    pub config: Vec<u8>,
    /// What it may do.
    pub allow: Capabilities,
    /// What it may take.
    pub limits: ModuleLimits,
    /// Names of tables in the router by the names that the manifest has for them; those of the same name need not be here.
    pub tables: BTreeMap<String, String>,
}

impl ModuleSpec {
    /// A module without configuration that may write to the log and read the clock, under the usual limits.
    pub fn new(wasm: Vec<u8>) -> Self {
        ModuleSpec {
            wasm,
            config: Vec::new(),
            allow: Capabilities::usual(),
            limits: ModuleLimits::default(),
            tables: BTreeMap::new(),
        }
    }
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
    /// How many faults are too many.
    pub faults: FaultLimit,
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
            faults: FaultLimit::default(),
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
