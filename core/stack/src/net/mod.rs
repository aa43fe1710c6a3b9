//! Interfaces and what all protocols share: the table of interfaces, Ethernet, transmission, hand-over between workers.

mod coalesce;
pub(crate) mod counters;
pub(crate) mod ether;
pub(crate) mod express;
mod express_hooks;
pub(crate) mod gso;
pub(crate) mod hooks;
pub(crate) mod ifnet;
pub(crate) mod output;
pub(crate) mod path;
pub(crate) mod poller;
pub(crate) mod tx;
