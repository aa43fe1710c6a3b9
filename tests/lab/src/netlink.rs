//! As much of netlink (RFC 3549, rtnetlink(7)) as the laboratory needs: build a request, send it, read the answers.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Mutex;

use crate::error::{LabError, Result};

/// Attributes that carry others have this bit.
pub(crate) const NESTED: u16 = 1 << 15;

/// A request under construction.
pub(crate) struct Request {
    buf: Vec<u8>,
}

impl Request {
    /// A request of type `kind` with `flags` (NLM_F_REQUEST and NLM_F_ACK are added) and the fixed part `body`.
    pub(crate) fn new(kind: u16, flags: i32, body: &[u8]) -> Self {
        let flags = (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut buf = vec![0; 16];
        buf[4..6].copy_from_slice(&kind.to_ne_bytes());
        buf[6..8].copy_from_slice(&flags.to_ne_bytes());
        let mut r = Request { buf };
        r.raw(body);
        r
    }

    /// Appends bytes that are no attribute, padded to 4.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.buf.len().is_multiple_of(4) {
            self.buf.push(0);
        }
    }

    /// Appends an attribute.
    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.buf.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.raw(value);
        self
    }

    /// Appends a NUL-terminated string.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut v = value.as_bytes().to_vec();
        v.push(0);
        self.attr(kind, &v)
    }

    /// Appends a 32-bit number in host byte order.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends an attribute that holds what `f` appends.
    pub(crate) fn nest(&mut self, kind: u16, f: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.buf.len();
        self.buf.extend_from_slice(&[0, 0]);
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        f(self);
        let len = (self.buf.len() - at) as u16;
        self.buf[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }

    fn finish(mut self, seq: u32) -> Vec<u8> {
        let len = self.buf.len() as u32;
        self.buf[0..4].copy_from_slice(&len.to_ne_bytes());
        self.buf[8..12].copy_from_slice(&seq.to_ne_bytes());
        self.buf
    }
}

/// A NETLINK_ROUTE socket. It belongs to the namespace in which it was opened, whichever thread uses it.
#[derive(Debug)]
pub(crate) struct Netlink {
    fd: OwnedFd,
    seq: Mutex<u32>,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub(crate) fn open() -> Result<Netlink> {
        // SAFETY: socket(2) with constants; the result is checked before it is owned.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
        if fd < 0 {
            return Err(LabError::last("netlink socket"));
        }
        // SAFETY: the descriptor is fresh and nobody else's.
        Ok(Netlink { fd: unsafe { OwnedFd::from_raw_fd(fd) }, seq: Mutex::new(0) })
    }

    /// Sends `request` and gives the payload (type, body) of every answer up to the acknowledgement.
    pub(crate) fn ask(&self, what: &str, request: Request) -> Result<Vec<(u16, Vec<u8>)>> {
        let mut seq = self.seq.lock().unwrap_or_else(|e| e.into_inner());
        *seq += 1;
        let msg = request.finish(*seq);
        // SAFETY: the buffer is valid for its length.
        let n = unsafe { libc::send(self.fd.as_raw_fd(), msg.as_ptr().cast(), msg.len(), 0) };
        if n < 0 {
            return Err(LabError::last(what));
        }
        let mut answers = Vec::new();
        let mut buf = vec![0u8; 64 << 10];
        loop {
            // SAFETY: the buffer is valid for its length.
            let n = unsafe { libc::recv(self.fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), 0) };
            if n < 0 {
                return Err(LabError::last(what));
            }
            let mut rest = &buf[..n as usize];
            while rest.len() >= 16 {
                let len = u32_at(rest, 0) as usize;
                let (kind, got) = (u16_at(rest, 4), u32_at(rest, 8));
                if len < 16 || len > rest.len() {
                    break;
                }
                let body = &rest[16..len];
                rest = &rest[len.next_multiple_of(4).min(rest.len())..];
                if got != *seq {
                    continue;
                }
                match i32::from(kind) {
                    libc::NLMSG_ERROR => {
                        let code = u32_at(body, 0) as i32;
                        if code != 0 {
                            let source = io::Error::from_raw_os_error(-code);
                            return Err(LabError::Netlink { what: what.into(), source });
                        }
                        return Ok(answers);
                    }
                    libc::NLMSG_DONE => return Ok(answers),
                    _ => answers.push((kind, body.to_vec())),
                }
            }
        }
    }
}

/// Two bytes in host order; 0 beyond the end.
pub(crate) fn u16_at(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2).and_then(|s| s.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

/// Four bytes in host order; 0 beyond the end.
pub(crate) fn u32_at(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).and_then(|s| s.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// Eight bytes in host order; 0 beyond the end.
pub(crate) fn u64_at(b: &[u8], at: usize) -> u64 {
    b.get(at..at + 8).and_then(|s| s.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

/// The attributes in `b`, without the flag bits of their type.
pub(crate) fn attrs(mut b: &[u8]) -> Vec<(u16, &[u8])> {
    let mut out = Vec::new();
    while b.len() >= 4 {
        let (len, kind) = (u16_at(b, 0) as usize, u16_at(b, 2));
        if len < 4 || len > b.len() {
            break;
        }
        out.push((kind & 0x3fff, &b[4..len]));
        b = &b[len.next_multiple_of(4).min(b.len())..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{NESTED, Request, attrs, u32_at};

    #[test]
    fn a_request_carries_nested_attributes_that_can_be_read_back() {
        let mut r = Request::new(16, 0, &[0; 16]);
        r.text(3, "veth0").nest(18 | NESTED, |r| {
            r.text(1, "veth").u32(4, 7);
        });
        let bytes = r.finish(9);
        assert_eq!(u32_at(&bytes, 0) as usize, bytes.len());
        assert_eq!(u32_at(&bytes, 8), 9);
        let top = attrs(&bytes[32..]);
        assert_eq!(top[0], (3, &b"veth0\0"[..]));
        assert_eq!(top[1].0, 18);
        assert_eq!(attrs(top[1].1), vec![(1, &b"veth\0"[..]), (4, &7u32.to_ne_bytes()[..])]);
    }
}
