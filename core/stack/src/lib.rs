//! The network stack: interfaces, Ethernet, ARP, IPv4, ICMP, routing, adjacencies.
//!
//! A [`Stack`] stands on a runtime. Its workers carry bursts of packets the whole way from a port's receive queue to a
//! port's transmit queue; control threads change what they find on the way. The way of a burst is the way of the files:
//!
//! ```text
//! net/poller -> net/ether -> inet/input -> route/fib -> adjacency | inet/forward -> neigh/table -> net/output -> net/tx
//! ```
//!
//! What workers read is published and never changed in place; what they leave to be done goes to the control thread
//! through one bounded queue ([`Stack::tick`]). Decisions (`inet/decide`, `neigh/machine`, `neigh/dad`) are pure
//! functions, so that tests and [`Stack::explain`] use the very same ones.

mod adjacency;
mod bpf;
mod control;
mod error;
mod hash;
mod inet;
mod lazy;
mod neigh;
mod net;
mod route;
mod slow;
mod stack;
#[cfg(test)]
mod tests;
mod tunables;
mod types;
pub mod wire;

pub use bpf::{
    BpfFilter, CaptureReader, Captured, CpuStatus, Ended, IfTally, Injected, Link, Listener, ListenerOwner,
    ListenerSpec, ListenerStatus, Seen, What, WriteFilter,
};
pub use control::{
    AdjacencyStatus, ArpSpec, AtHook, Beside, FilterOpinion, OFFLOADS, ProtocolStats, Segments, StackEvent, encap_key,
};
pub use error::StackError;
pub use hash::{RSS_KEY, toeplitz};
pub use route::{Fib, FibError, FibStats, NextHop, NextHopId, NextHopKind, Way};
pub use smpnet_runtime::{Dir, Layer as HookLayer};
pub use stack::Stack;
pub use types::{
    Accounting, AddrOptions, AddrState, AddrStatus, ArpStatus, Dirs, DropCount, ExplainStep, HookStatus, IfCounters,
    IfIndex, IfStatus, Ipv4Net, Layer, NextHopSpec, NextHopStatus, RouteAnswer, RouteKind, RouteSpec, RouteStatus,
    RouteStep, RssStatus, mac_text, parse_mac,
};
