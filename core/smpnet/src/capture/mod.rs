//! Capture: what listeners hear, as pcapng.
//!
//! [`Capture`] is the daemon's side: a thread for each capture reads its listener and turns what it hears into pcapng, which
//! goes to the client as it comes. A client that is slow makes the thread wait, and the listener's rings count what they
//! could not take; neither workers nor the daemon wait for it. [`blocks`] is the client's side: it takes such a stream apart
//! again, to count, to print and to cut it into files.

pub mod blocks;
mod filter;
mod pcapng;
mod session;

pub use filter::Expression;
pub use pcapng::{EPB, IDB, ISB, Interface, PacketOptions, Pcapng, SHB, flags};
pub use session::{Capture, CaptureError, Request, compile};
