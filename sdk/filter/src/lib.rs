//! What the author of a WebAssembly packet filter for smpnet depends on.
//!
//! A filter is a small Rust crate that is compiled to one WebAssembly module. smpnet gives it packets in bursts; it reads
//! their headers and says what becomes of them. It runs on the packet path, cannot harm the router, and is replaced under
//! full load without a lost packet. The same code runs natively in `cargo test`, where [`testing::Harness`] stands for
//! smpnet. The words of the ABI beneath are in [`abi`].
//!
//! # A whole filter
//!
//! ```
//! // In a filter's crate: #![cfg_attr(not(test), no_std)]
//! use smpnet_filter::{Burst, Error, Filter, config::Options, fail};
//!
//! smpnet_filter::filter! {
//!     name: "no-telnet",
//!     summary: "drops what goes to one TCP port",
//!     counters: [dropped],
//!     type: NoTelnet,
//! }
//!
//! struct NoTelnet {
//!     port: u16,
//! }
//!
//! impl Filter for NoTelnet {
//!     fn new(config: &[u8]) -> Result<Self, Error> {
//!         let options = Options::parse(config, &["port"])?;
//!         Ok(NoTelnet { port: options.number("port")?.unwrap_or(23) })
//!     }
//!
//!     fn filter(&mut self, burst: &mut Burst<'_>) {
//!         for packet in burst.packets() {
//!             if packet.tcp().is_some_and(|tcp| tcp.destination_port() == self.port) {
//!                 burst.drop(packet);
//!                 burst.count(counters::dropped, 1);
//!             }
//!         }
//!     }
//! }
//!
//! // In a test:
//! use smpnet_filter::testing::{Fate, Frame, Harness};
//! let mut h = Harness::<NoTelnet>::new("port = 2323").unwrap();
//! assert_eq!(h.packet(&Frame::tcp("10.0.0.1:4000", "10.0.0.2:2323").bytes()).fate, Fate::Drop);
//! assert_eq!(h.packet(&Frame::tcp("10.0.0.1:4000", "10.0.0.2:23").bytes()).fate, Fate::Pass);
//! assert_eq!(h.counter("dropped"), 1);
//! ```
//!
//! `cargo build --release --target wasm32-unknown-unknown` makes the module; `smpnet filter check`, `test` and `bench` try
//! it without a daemon, `smpnet filter load NAME --module FILE` and `swap` put it to work.
//!
//! # What to know
//!
//! - **Threads.** Each worker has an instance of its own, which no two threads enter. Limits that an operator configures
//!   are divided by [`Burst::workers`]; flows keep to their worker.
//! - **Time.** [`Burst::now_ns`] is free. A burst must be judged within the operator's budget: keep every loop bounded by
//!   what you can afford for 64 packets of an attacker.
//! - **Calls out** cost about as much as judging two packets. Look keys up for the whole burst at once ([`Keys`]), and do
//!   not log per packet.
//! - **Memory.** Allocate in [`Filter::new`], not in [`Filter::filter`]: `Vec` and `Box` are there with the feature `alloc`
//!   (on unless refused), all of `std` with the feature `std`.
//! - **Panics** become traps: smpnet judges the burst by the operator's policy, logs the message, makes the instance anew
//!   and detaches a filter that goes on failing.
//! - **Versions.** A module that was built with this version runs on every later minor version.

#![no_std]

#[cfg(any(feature = "std", not(target_arch = "wasm32")))]
extern crate std;

mod bucket;
mod burst;
pub mod config;
mod error;
mod filter;
mod guest;
mod host;
mod lru;
mod macros;
mod manifest;
mod packet;
mod state;
mod table;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
pub mod wire;

pub use bucket::TokenBucket;
pub use burst::{Burst, Counter, Direction, Fix, NoRoom, Packets};
pub use error::{Error, Text};
pub use filter::{Filter, Module};
pub use host::{Level, clock_ns};
#[cfg(any(feature = "alloc", feature = "std", not(target_arch = "wasm32")))]
pub use lru::{Lru, hash};
pub use manifest::{Manifest, TableKind};
pub use packet::{Layer, Packet};
pub use state::Records;
pub use table::{ExactTable, Ipv4Table, Ipv6Table, Keys};

/// The ABI beneath.
pub use smpnet_filter_abi as abi;

/// What [`filter!`] and the log macros expand to; no part of the API.
#[doc(hidden)]
pub mod __private {
    pub use crate::guest::{Instance, Memory};
    pub use crate::host::log;
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
