//! memif as a port: the shared-memory packet interface that VPP and DPDK speak.
//!
//! ```toml
//! [[interface]]
//! name = "memif0"
//! driver = "memif"
//! options = { socket = "/run/memif.sock", role = "server" }     # all of them: `Options` in options.rs
//! ```
//!
//! Two processes share memory in which rings of descriptors point to packet buffers. One, the *client*, owns the memory
//! and tells the other, the *server*, about it over a Unix socket; from then on packets pass without a system call, but
//! for an interrupt (an eventfd) to an end that sleeps.
//!
//! # How it is made
//!
//! ```text
//! wire      messages of the control channel          desc      descriptors, and what of them may be believed
//! channel   a socket that carries them               ring      a ring in shared memory
//! session   what a client has told a server          memory    regions, sealed against being cut off
//! client    the thread that connects                 rx, tx    queues: by one copy, or by lent cells
//! server    the thread that listens                  handover  a ring to its worker, and back
//! connection  rings out of an agreement              port      the driver
//! ```
//!
//! All but the queues runs on a thread of the port's own (one for all servers on one socket). It hands a queue its ring
//! through [`handover`]; a worker looks at one number before each burst.
//!
//! # Copies
//!
//! A server copies each packet once, out of the client's memory or into it; so does a client by default. A client with
//! `zero_copy = true` copies nothing: the packet pool is a region of its own, free cells are lent to the server to write
//! packets into, and packets are sent where they lie. That gives the server all packet memory of the router, to read and
//! to write, headers included: it is for a server that is trusted as this process itself.
//!
//! # Trust
//!
//! Without zero copy a peer can do no harm but to its own packets. Whatever it writes into shared memory is read once and
//! checked before it is used: a bad packet is counted and passed over, an index that cannot be ends the connection with
//! one line in the log. What a packet's bytes are is only asked of the copy. [`memory`] says what the memory itself could
//! do to us, and what is left of that; `tx` what an eventfd could.

pub mod channel;
mod client;
mod connection;
pub mod copy;
pub mod handover;
pub mod memory;
pub mod options;
mod port;
pub mod ring;
mod rx;
mod server;
pub mod stats;
mod sys;
mod tx;

pub use port::Memif;
pub use smpnet_memif_protocol::{desc, error, session, wire};

smpnet_plugin::plugin! {
    name: "memif",
    summary: "shared-memory packet interface of VPP and DPDK",
    license: "MIT OR Apache-2.0",
    privileges: 0,
    pci: [],
    drivers: [Memif],
    ifkinds: [],
    filters: [],
}
