//! What happens in the router, told to whoever listens.

use axum::body::Bytes;
use hyper::body::{Body, Frame};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::{broadcast, mpsc, watch};

/// Where events are published. Clones publish to the same listeners.
#[derive(Clone)]
pub struct Bus {
    sender: broadcast::Sender<Arc<str>>,
    closed: watch::Sender<bool>,
}

impl Default for Bus {
    fn default() -> Self {
        Bus { sender: broadcast::channel(1024).0, closed: watch::Sender::new(false) }
    }
}

impl Bus {
    /// Publishes an event: `kind` and the fields of `fields`, with the time added.
    pub fn publish(&self, kind: &str, fields: Value) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let mut event = json!({"time_ms": time, "event": kind});
        if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields) {
            event.extend(fields);
        }
        // Nobody listening is no error.
        let _ = self.sender.send(event.to_string().into());
    }

    /// Ends every stream, once it has told what was published until now: the daemon stops.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// The events from now on, as the body of a response: JSON lines, or server-sent events when `sse`. Must be called
    /// in the runtime that serves the response.
    pub fn stream(&self, sse: bool) -> EventBody {
        let (mut receiver, mut closed) = (self.sender.subscribe(), self.closed.subscribe());
        let (sender, lines) = mpsc::channel(64);
        tokio::spawn(async move {
            loop {
                // In this order, so that what was published before the end is still told.
                let next = tokio::select! {
                    biased;
                    next = receiver.recv() => next,
                    _ = closed.wait_for(|closed| *closed) => return,
                };
                let line = match next {
                    Ok(line) => line,
                    Err(broadcast::error::RecvError::Lagged(n)) => {
                        json!({"event": "lost", "events": n}).to_string().into()
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                };
                let text = if sse { format!("data: {line}\n\n") } else { format!("{line}\n") };
                let sent = tokio::select! {
                    sent = sender.send(text) => sent,
                    () = sender.closed() => return,
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        // The first line goes out at once, so that the listener knows that it listens.
        let hello = json!({"event": "listening"});
        let first = if sse { format!("data: {hello}\n\n") } else { format!("{hello}\n") };
        EventBody { first: Some(first), lines }
    }
}

/// The body of an event stream. Ends when the bus does.
pub struct EventBody {
    first: Option<String>,
    lines: mpsc::Receiver<String>,
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let line = match self.first.take() {
            Some(first) => Some(first),
            None => ready!(self.lines.poll_recv(cx)),
        };
        Poll::Ready(line.map(|l| Ok(Frame::data(Bytes::from(l)))))
    }
}
