//! The body of an answer that comes piece by piece.

use super::endpoint::{Peer, Stream};
use axum::{body::Bytes, extract::connect_info::Connected, serve::IncomingStream};
use hyper::body::{Body, Frame};
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::net::UnixListener;

/// A stream as a body. Dropped by the server when the client goes away.
pub(super) struct StreamBody(pub Stream);

impl Body for StreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.chunks.poll_recv(cx).map(|chunk| chunk.map(|c| Ok(Frame::data(c))))
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        self.0.chunks.close();
        (self.0.gone)();
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Peer {
        // Without credentials the peer stays unknown; the socket's mode has let it in.
        stream
            .io()
            .peer_cred()
            .map_or(Peer::default(), |c| Peer { pid: c.pid().map_or(0, i32::unsigned_abs), uid: c.uid() })
    }
}
