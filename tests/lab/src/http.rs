//! A small blocking HTTP/1.1 client over a Unix socket, for a router's control API.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::error::{Context, LabError, Result};

/// A connection that is kept open between requests and made anew when the server closed it.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: Option<BufReader<UnixStream>>,
}

/// What the server answered.
#[derive(Clone, Debug)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON of a 2xx answer.
    ///
    /// # Errors
    /// With the server's text for any other status, and when the body is no JSON.
    pub fn json(&self) -> Result<Value> {
        if !(200..300).contains(&self.status) {
            return Err(LabError::Failed(format!("status {}: {}", self.status, self.text())));
        }
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body).map_err(|e| LabError::Failed(format!("not JSON ({e}): {}", self.text())))
    }
}

impl Client {
    /// A client of the socket at `path`; connects with the first request.
    pub fn new(path: &Path) -> Client {
        Client { path: path.into(), stream: None }
    }

    /// Sends one request and waits up to 30 seconds for the answer.
    ///
    /// # Errors
    /// When nobody listens or the connection breaks.
    pub fn request(&mut self, method: &str, target: &str, body: Option<&Value>) -> Result<Response> {
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: smpnet\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        // A kept connection may have been closed in the meantime; that shows before any answer, and only then.
        let kept = self.stream.is_some();
        match self.exchange(&head, &body) {
            Err(_) if kept && self.stream.take().is_some() => self.exchange(&head, &body),
            other => other,
        }
        .map_err(|e| {
            self.stream = None;
            match e {
                LabError::Io { what, source } => LabError::Io { what: format!("{method} {target}: {what}"), source },
                e => e,
            }
        })
    }

    fn exchange(&mut self, head: &str, body: &str) -> Result<Response> {
        let stream = match &mut self.stream {
            Some(s) => s,
            None => {
                let s = UnixStream::connect(&self.path).context(format!("connecting to {}", self.path.display()))?;
                s.set_read_timeout(Some(Duration::from_secs(30))).context("SO_RCVTIMEO")?;
                self.stream.insert(BufReader::new(s))
            }
        };
        stream.get_mut().write_all(format!("{head}{body}").as_bytes()).context("sending")?;
        let (response, close) = read_response(stream)?;
        if close {
            self.stream = None;
        }
        Ok(response)
    }

    /// GET, as JSON.
    ///
    /// # Errors
    /// As [`request`](Self::request) and [`Response::json`].
    pub fn get(&mut self, target: &str) -> Result<Value> {
        self.request("GET", target, None)?.json().map_err(|e| LabError::Failed(format!("GET {target}: {e}")))
    }

    /// POST of JSON, answered by JSON.
    ///
    /// # Errors
    /// As [`request`](Self::request) and [`Response::json`].
    pub fn post(&mut self, target: &str, body: &Value) -> Result<Value> {
        self.request("POST", target, Some(body))?.json().map_err(|e| LabError::Failed(format!("POST {target}: {e}")))
    }
}

/// One line without its end.
fn line(s: &mut impl BufRead) -> Result<String> {
    let mut l = String::new();
    if s.read_line(&mut l).context("receiving")? == 0 {
        return Err(LabError::Failed("the server closed the connection".into()));
    }
    Ok(l.trim_end().to_string())
}

fn read_response(s: &mut impl BufRead) -> Result<(Response, bool)> {
    let first = line(s)?;
    let status = first.split(' ').nth(1).and_then(|c| c.parse().ok());
    let status = status.ok_or_else(|| LabError::Failed(format!("not HTTP: {first}")))?;
    let (mut length, mut chunked, mut close) = (None, false, false);
    loop {
        let l = line(s)?.to_ascii_lowercase();
        if l.is_empty() {
            break;
        }
        let (name, value) = l.split_once(':').unwrap_or((&l, ""));
        match (name, value.trim()) {
            ("content-length", v) => length = v.parse::<usize>().ok(),
            ("transfer-encoding", "chunked") => chunked = true,
            ("connection", "close") => close = true,
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let size = line(s)?;
            let n = usize::from_str_radix(size.split(';').next().unwrap_or("").trim(), 16)
                .map_err(|_| LabError::Failed(format!("bad chunk size {size}")))?;
            let at = body.len();
            body.resize(at + n, 0);
            s.read_exact(&mut body[at..]).context("receiving")?;
            line(s)?;
            if n == 0 {
                break;
            }
        }
    } else if let Some(n) = length {
        body.resize(n, 0);
        s.read_exact(&mut body).context("receiving")?;
    } else if status != 204 && status != 304 {
        s.read_to_end(&mut body).context("receiving")?;
        close = true;
    }
    Ok((Response { status, body }, close))
}

#[cfg(test)]
mod tests {
    use super::read_response;

    #[test]
    fn bodies_with_a_length_and_in_chunks_are_read_and_the_next_answer_follows() {
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull\
                    HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let mut s = text.as_bytes();
        let (a, close) = read_response(&mut s).unwrap();
        assert_eq!((a.status, a.text().as_str(), close), (200, "null", false));
        assert!(a.json().unwrap().is_null());
        let (b, _) = read_response(&mut s).unwrap();
        assert_eq!((b.status, b.text().as_str()), (404, "abcde"));
        assert!(b.json().is_err());
    }
}
