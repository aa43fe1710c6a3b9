//! What can go wrong with a port of this driver, each with its way out.

use crate::wire::WireError;
use std::io;

/// Why a port could not be opened, or why a connection ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemifError {
    /// An option of the configuration is wrong.
    #[error("options: {0}")]
    Option(String),
    /// Another process listens there.
    #[error("{0}: another program listens on this socket already; choose another socket, or end that program")]
    SocketInUse(String),
    /// Something else is there.
    #[error("{0}: there is a file of this name that is no socket; choose another name, or remove it")]
    NotASocket(String),
    /// Two ports of this process want the same.
    #[error("{socket}: id {id} is taken by another interface of this router; give each its own id")]
    IdTaken {
        /// The socket.
        socket: String,
        /// The id.
        id: u32,
    },
    /// The pool cannot be shared.
    #[error("zero_copy: {0}")]
    Pool(String),
    /// Nobody listens there, or not yet.
    #[error("nobody listens on {socket} ({source}); start the server, or check the path and its permissions")]
    NoServer {
        /// The socket.
        socket: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Os {
        /// What was being done.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The peer went away.
    #[error("the peer closed the connection")]
    Gone,
    /// The peer said goodbye, in its words.
    #[error("the peer disconnected: {0}")]
    Disconnected(String),
    /// The peer took too long.
    #[error("the peer did not answer in time")]
    Silent,
    /// The peer sent what is no message.
    #[error("the peer sent {0}")]
    Wire(#[from] WireError),
    /// The peer broke the protocol or asked for what we do not have.
    #[error("{0}")]
    Refused(String),
    /// The peer's memory cannot be used.
    #[error("the peer's memory: {0}")]
    Memory(String),
    /// The peer's memory can be taken away under us.
    #[error(
        "the peer's memory is not sealed: the peer could cut it off and so end this daemon; if you trust the peer with \
         that, set unsealed = true"
    )]
    Unsealed,
    /// A ring of the peer's is in a state that cannot be.
    #[error("queue {queue}: {what}")]
    Ring {
        /// The queue.
        queue: u16,
        /// What is wrong.
        what: &'static str,
    },
    /// The interface was set down.
    #[error("the interface is down")]
    Down,
    /// The port is being closed.
    #[error("the interface is closed")]
    Closed,
}

impl MemifError {
    /// For `map_err`: names what was being done.
    pub fn os<W: Into<String>>(what: W) -> impl FnOnce(io::Error) -> MemifError {
        let what = what.into();
        move |source| MemifError::Os { what, source }
    }
}

impl From<MemifError> for smpnet_plugin::Error {
    fn from(e: MemifError) -> Self {
        smpnet_plugin::Error::new(e.to_string())
    }
}
