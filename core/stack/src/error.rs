//! What a control function answers when it refuses.

use crate::types::Ipv4Net;
use std::net::Ipv4Addr;

/// Why a control function changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StackError {
    /// The name is empty, longer than 15 bytes, or has other characters than letters, digits, `.`, `_` and `-`.
    #[error("`{0}` is not an interface name: 1 to 15 letters, digits, '.', '_' or '-'")]
    BadName(String),
    /// The name is in use.
    #[error("an interface named `{0}` exists already")]
    NameTaken(String),
    /// All 65535 indices are in use.
    #[error("no interface index is free")]
    NoIndex,
    /// There is no such interface.
    #[error("no interface `{0}`")]
    NoInterface(String),
    /// Something is attached to the index already, or nothing is.
    #[error("interface `{0}`: {1}")]
    Attachment(String, &'static str),
    /// The driver or interface kind refused.
    #[error("interface `{interface}`: {what}: {reason}")]
    Plugin {
        /// Interface name.
        interface: String,
        /// What was asked of it.
        what: &'static str,
        /// What it answered.
        reason: String,
    },
    /// The plugin described something impossible.
    #[error("interface `{0}`: the plugin's description is wrong: {1}")]
    BadDescription(String, String),
    /// The MTU is out of range.
    #[error("interface `{interface}`: an MTU of {mtu} is outside {min} to {max}")]
    Mtu {
        /// Interface name.
        interface: String,
        /// What was asked for.
        mtu: u32,
        /// Least.
        min: u32,
        /// Most.
        max: u32,
    },
    /// The Ethernet address is not one of the kind that is wanted.
    #[error("interface `{0}`: {1} is no {2}")]
    BadMac(String, String, &'static str),
    /// The port does not offer the offloads.
    #[error("interface `{interface}`: the port does not offer {missing}; it offers {offered}")]
    Offloads {
        /// Interface name.
        interface: String,
        /// Names that were asked for and are not offered.
        missing: String,
        /// Names that are offered.
        offered: String,
    },
    /// The address is not one that a host can have.
    #[error("{0} cannot be an interface address: {1}")]
    BadAddress(Ipv4Net, &'static str),
    /// The address overlaps another one.
    #[error("{0} overlaps {1} of interface `{2}`")]
    Overlap(Ipv4Net, Ipv4Net, String),
    /// The interface does not have the address.
    #[error("interface `{1}` has no address {0}")]
    NoAddress(Ipv4Net, String),
    /// There is a route to that destination already.
    #[error("a route to {0} exists already")]
    RouteExists(Ipv4Net),
    /// There is no route to that destination.
    #[error("no route to {0}")]
    NoRoute(Ipv4Net),
    /// The route belongs to an interface address.
    #[error("the route to {0} belongs to an address of interface `{1}`; delete that address instead")]
    RouteOwned(Ipv4Net, String),
    /// The ways out are none, too many, or incomplete.
    #[error("route to {0}: {1}")]
    BadRoute(Ipv4Net, &'static str),
    /// The gateway is on no connected network.
    #[error("gateway {0} is on no connected network; name the interface or add an address first")]
    GatewayUnreachable(Ipv4Addr),
    /// A table is full.
    #[error("the {0} is full ({1} entries)")]
    TableFull(&'static str, usize),
    /// There is no such neighbour.
    #[error("no ARP entry for {0}")]
    NoNeighbour(Ipv4Addr),
    /// A dynamic entry would replace a permanent one, or an entry does not fit its interface.
    #[error("ARP entry for {0}: {1}")]
    BadNeighbour(Ipv4Addr, &'static str),
    /// The key of a demultiplexer is in use.
    #[error("{0} is taken by interface `{1}`")]
    KeyTaken(String, String),
    /// The key of a demultiplexer is not in use, or not valid.
    #[error("{0}")]
    BadKey(String),
    /// There is no such hook.
    #[error("no filter hook with id {0}")]
    NoHook(u64),
    /// There is no such listener.
    #[error("no listener with id {0}; `smpnet bpf list` shows them")]
    NoListener(u64),
    /// The listener is locked.
    #[error("operation not permitted: listener {0} is locked, {1}")]
    BpfLocked(u64, &'static str),
    /// A listener or an injection is not possible.
    #[error("{0}")]
    Bpf(String),
    /// The runtime refused (it is stopping).
    #[error("{0}")]
    Runtime(String),
}
