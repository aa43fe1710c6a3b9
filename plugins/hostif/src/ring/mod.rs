//! The rings that a packet socket shares with the kernel (`Documentation/networking/packet_mmap.rst`).
//!
//! Receiving and transmitting use separate sockets, so that each has the ring geometry that suits it and neither waits
//! for the other's lock in the kernel.

mod rx;
mod tx;

pub use rx::{Frame, RxGeometry, RxRing};
pub use tx::{TxGeometry, TxRing, Unsent};
