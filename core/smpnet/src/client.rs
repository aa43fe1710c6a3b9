//! A client of the control API: HTTP/1.1 over the daemon's Unix socket.

use crate::daemon::{ENDED_TRAILER, LISTENER_HEADER};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, body::Bytes};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use smpnet_stack::Ended;
use std::path::{Path, PathBuf};
use tokio::signal::unix::{SignalKind, signal};

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("no smpnet daemon answers on {} ({reason}); start one with `smpnet run FILE.toml`", socket.display())]
    NoDaemon {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The daemon refused.
    #[error("{error}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Why.
        error: String,
        /// What to do about it.
        hint: Option<String>,
        /// The whole answer.
        body: Value,
    },
    /// The connection broke, or what came back is not what this version understands.
    #[error("the daemon's answer cannot be used: {0}")]
    Answer(String),
}

/// How a capture came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaptureEnd {
    /// As this client wanted: by its count, its signal, or because it takes no more.
    Wanted,
    /// The daemon ended it.
    Ended(Ended),
    /// The connection broke off, and why: the daemon was killed. What it had not sent yet, and its statistics, are lost.
    Broken(String),
}

/// A daemon, by its socket. Every request has a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The daemon that listens on `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Client {
        Client { socket: socket.into() }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Reads a resource.
    pub fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.request(Method::GET, path, None)
    }

    /// Reads a resource that is text.
    pub fn get_text(&self, path: &str) -> Result<String, ClientError> {
        let bytes = self.send(Method::GET, path, None)?;
        String::from_utf8(bytes).map_err(|_| ClientError::Answer("not text".into()))
    }

    /// Makes something, or asks for work to be done.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.request(Method::POST, path, Some(body))
    }

    /// Replaces something.
    pub fn put(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.request(Method::PUT, path, Some(body))
    }

    /// Changes something.
    pub fn patch(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.request(Method::PATCH, path, Some(body))
    }

    /// Removes something.
    pub fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.request(Method::DELETE, path, None)
    }

    /// Reads a resource line by line as the lines come, until it ends or `line` returns false.
    pub fn lines(&self, path: &str, mut line: impl FnMut(&str) -> bool) -> Result<(), ClientError> {
        block_on(async {
            let mut response = self.open(Method::GET, path, None).await?;
            let mut pending = Vec::new();
            while let Some(frame) = response.body_mut().frame().await {
                let frame = frame.map_err(|e| ClientError::Answer(e.to_string()))?;
                pending.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d));
                while let Some(end) = pending.iter().position(|b| *b == b'\n') {
                    let rest = pending.split_off(end + 1);
                    let text = String::from_utf8_lossy(&pending[..end]).into_owned();
                    pending = rest;
                    if !line(&text) {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
    }

    /// Captures packets: `piece` gets the pcapng as it comes, until it ends or `piece` returns false. On SIGINT and SIGTERM
    /// the daemon is asked to end the stream, so that it ends with its statistics; a second signal ends it at once.
    ///
    /// # Errors
    /// When the capture does not begin. Once it has begun, the answer says how it ended.
    pub fn capture(&self, request: &Value, mut piece: impl FnMut(&[u8]) -> bool) -> Result<CaptureEnd, ClientError> {
        block_on(async {
            let failed = |e: std::io::Error| ClientError::Answer(e.to_string());
            let (mut term, mut int) =
                (signal(SignalKind::terminate()).map_err(failed)?, signal(SignalKind::interrupt()).map_err(failed)?);
            let mut response = self.open(Method::POST, "/v1/bpf/capture", Some(request)).await?;
            let id = response.headers().get(LISTENER_HEADER).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
            let (mut asked, mut ended) = (false, CaptureEnd::Wanted);
            loop {
                let frame = tokio::select! {
                    frame = response.body_mut().frame() => Some(frame),
                    _ = term.recv() => None,
                    _ = int.recv() => None,
                };
                let frame = match frame {
                    Some(Some(Ok(frame))) => frame,
                    Some(Some(Err(e))) => return Ok(CaptureEnd::Broken(e.to_string())),
                    Some(None) => return Ok(if asked { CaptureEnd::Wanted } else { ended }),
                    None if asked => return Ok(CaptureEnd::Wanted),
                    None => {
                        asked = true;
                        // It may have ended by itself; then the stream ends as well.
                        let _ = self.open(Method::DELETE, &format!("/v1/bpf/listeners/{id}"), None).await;
                        continue;
                    }
                };
                let why = frame.trailers_ref().and_then(|t| t.get(ENDED_TRAILER)?.to_str().ok());
                if let Some(why) = why.and_then(|why| Ended::ALL.into_iter().find(|e| e.name() == why)) {
                    ended = CaptureEnd::Ended(why);
                }
                if !frame.data_ref().is_none_or(|bytes| piece(bytes)) {
                    return Ok(CaptureEnd::Wanted);
                }
            }
        })
    }

    fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let bytes = self.send(method, path, body)?;
        serde_json::from_slice(&bytes).map_err(|e| ClientError::Answer(e.to_string()))
    }

    fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Vec<u8>, ClientError> {
        block_on(async {
            let response = self.open(method, path, body).await?;
            let body = response.into_body().collect().await;
            Ok(body.map_err(|e| ClientError::Answer(e.to_string()))?.to_bytes().to_vec())
        })
    }

    async fn open(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<hyper::Response<hyper::body::Incoming>, ClientError> {
        let no_daemon = |e: std::io::Error| ClientError::NoDaemon { socket: self.socket.clone(), reason: reason(&e) };
        let stream = tokio::net::UnixStream::connect(&self.socket).await.map_err(no_daemon)?;
        let answer = |e: hyper::Error| ClientError::Answer(e.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(answer)?;
        tokio::spawn(connection);
        let bytes = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "smpnet")
            .header("content-type", "application/json")
            .header("te", "trailers")
            .body(Full::new(Bytes::from(bytes)))
            .map_err(|e| ClientError::Answer(e.to_string()))?;
        let response = sender.send_request(request).await.map_err(answer)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = response.into_body().collect().await.map_err(answer)?.to_bytes();
        let body: Value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        let text = |key: &str| body.get(key).and_then(Value::as_str).map(str::to_owned);
        Err(ClientError::Refused {
            status: status.as_u16(),
            error: text("error").unwrap_or_else(|| format!("HTTP status {status}")),
            hint: text("hint"),
            body,
        })
    }
}

fn reason(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::NotFound => "there is no such socket".into(),
        std::io::ErrorKind::ConnectionRefused => "nobody listens on it".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied; are you the user that runs it?".into(),
        _ => e.to_string(),
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| ClientError::Answer(e.to_string()))?
        .block_on(work)
}

/// Makes any text fit for a path segment or a query value.
pub fn encode(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(char::from(b));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}
