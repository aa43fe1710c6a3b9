//! Routing: the forwarding table that workers read, and the table of routes that it is made from.

mod fib;
mod nexthop;
mod rib;

pub(crate) use fib::Tables;
pub use fib::{Fib, FibError, FibStats};
pub use nexthop::{NextHop, NextHopId, NextHopKind, Way};
pub(crate) use rib::{Rib, Route, RouteOwner};

#[cfg(test)]
mod tests;
