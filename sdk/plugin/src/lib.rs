//! What the author of a native smpnet plugin depends on: safe packets, drivers, interface kinds and filters.
//!
//! A plugin is a `cdylib` crate with this one dependency. It implements [`Driver`] (a port with queues), [`IfKind`] (an
//! interface made of software) or [`Filter`] (a native packet filter), and names what it has in [`plugin!`]. A panic in
//! any of its functions is caught here: it quarantines the one port, interface or filter, and never ends the router.
//!
//! # A whole plugin
//!
//! A port that sends back what it is given:
//!
//! ```
//! use smpnet_plugin::*;
//!
//! struct Echo;
//! struct Queue(std::sync::mpsc::Receiver<Packet>);
//! struct Sender(std::sync::mpsc::SyncSender<Packet>);
//!
//! impl Driver for Echo {
//!     const NAME: &'static str = "echo";
//!     const SUMMARY: &'static str = "gives back what it is sent";
//!     type Rx = Queue;
//!     type Tx = Sender;
//!
//!     fn open(_host: Host, _req: &PortRequest<'_>) -> Result<Opened<Self>, Error> {
//!         let (tx, rx) = std::sync::mpsc::sync_channel(1024);
//!         Ok(Opened { port: Echo, rx: vec![Queue(rx)], tx: vec![Sender(tx)], details: PortDetails::default() })
//!     }
//! }
//!
//! impl RxQueue for Queue {
//!     fn rx_burst(&mut self, _cx: &mut Worker<'_>, out: &mut Burst, max: usize) {
//!         for packet in self.0.try_iter().take(max) {
//!             let _fits = out.push(packet);
//!         }
//!     }
//! }
//!
//! impl TxQueue for Sender {
//!     fn tx_burst(&mut self, _cx: &mut Worker<'_>, burst: &mut Burst) {
//!         while let Some(packet) = burst.pop_front() {
//!             if self.0.try_send(packet).is_err() {
//!                 break;
//!             }
//!         }
//!     }
//! }
//!
//! smpnet_plugin::plugin! {
//!     name: "echo",
//!     summary: "gives back what it is sent",
//!     license: "MIT OR Apache-2.0",
//!     privileges: 0,
//!     pci: [],
//!     drivers: [Echo],
//!     ifkinds: [],
//!     filters: [],
//! }
//! # fn main() {}
//! ```
//!
//! # Threads
//!
//! A function that takes a [`Worker`] is on the packet path: it must not sleep, lock, allocate, log more than rarely, or
//! make a system call that the device does not need. All others are called by control threads, one at a time per object.
//!
//! # Memory
//!
//! [`Packet`] and [`Burst`] own cells of the router's packet pool. Dropping one gives the cells back, which is right
//! everywhere and slow; on a worker [`Worker::free`] is the fast way.

mod burst;
mod counter;
mod driver;
mod error;
mod filter;
mod host;
mod ifkind;
mod log;
mod memory;
mod module;
mod packet;
mod shim;
pub mod testing;
#[cfg(test)]
mod tests;
mod worker;

pub use burst::{BURST_MAX, Burst};
pub use counter::Counter;
pub use driver::{Driver, Opened, PortDetails, PortRequest, RxQueue, TxQueue};
pub use error::Error;
pub use filter::{Direction, Filter, FilterRequest, Judged};
pub use host::{Attachment, Callout, EncapKey, Host, SysctlNode, SysctlSet};
pub use ifkind::{IfDetails, IfKind, IfRequest, IfType};
pub use log::Level;
pub use packet::{Header, Packet, PacketData, Segments};
pub use worker::Worker;

pub use smpnet_abi::{
    DropReason, IfInfo, LinkState, MacAddr, PciId, PortStats, offload, pkt_flags, port_flags, privilege,
};

/// The ABI itself, for tables that are not made by the traits of this crate.
pub use smpnet_abi as abi;

pub use serde;
pub use serde_json;

/// What [`plugin!`] expands to; no part of the API.
#[doc(hidden)]
pub mod __private {
    pub use crate::driver::table as driver_table;
    pub use crate::filter::table as filter_table;
    pub use crate::ifkind::table as ifkind_table;
    pub use crate::log::line;
    pub use crate::module::{Exports, erased_module, kinds};
    pub use abi_stable::library::{CheckTypeLayout, LibHeader};
    pub use smpnet_abi::{Manifest, PluginMod_Ref, TableEntry, table_kind};
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
