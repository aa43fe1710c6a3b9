//! The body of an answer that comes piece by piece.

use super::endpoint::{Peer, Stream};
use axum::{
    body::Bytes,
    extract::connect_info::Connected,
    http::{HeaderMap, HeaderName, HeaderValue},
    serve::IncomingStream,
};
use hyper::body::{Body, Frame};
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::net::UnixListener;

/// A stream as a body. Dropped by the server when the client goes away.
pub(super) struct StreamBody {
    stream: Stream,
    /// The pieces are over, and the trailer went out.
    over: bool,
}

impl StreamBody {
    pub(super) fn new(stream: Stream) -> StreamBody {
        StreamBody { stream, over: false }
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.over {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.stream.chunks.poll_recv(cx)) {
            Some(chunk) => Some(Ok(Frame::data(chunk))),
            None => {
                self.over = true;
                let (name, value) = &self.stream.trailer;
                let value = value().map(HeaderValue::from_static);
                value.map(|v| Ok(Frame::trailers(HeaderMap::from_iter([(HeaderName::from_static(name), v)]))))
            }
        })
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        self.stream.chunks.close();
        (self.stream.gone)();
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
