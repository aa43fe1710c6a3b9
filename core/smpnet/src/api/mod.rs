//! The control API: HTTP and JSON on a Unix socket. This module is the machinery; what the endpoints do stands in
//! [`daemon`](crate::daemon).

mod endpoint;
mod events;
mod server;
mod stream;

pub use endpoint::{ApiError, Call, Endpoint, Handler, Param, Peer, Stream, openapi};
pub use events::{Bus, EventBody};
pub use server::router;
