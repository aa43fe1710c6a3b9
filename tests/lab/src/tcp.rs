//! TCP bulk transfer whose content is checked byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Context, LabError, Result};
use crate::host::Host;

const CHUNK: usize = 64 << 10;

/// When a transfer ends.
#[derive(Clone, Copy, Debug)]
pub enum Amount {
    /// After so many bytes.
    Bytes(u64),
    /// After so long.
    Time(Duration),
}

/// How a transfer went.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct TcpReport {
    /// Bytes that the sender wrote.
    pub sent: u64,
    /// Bytes that arrived, in order.
    pub received: u64,
    /// Bytes that differed from what was sent.
    pub corrupt: u64,
    /// Segments that the sender's kernel sent again.
    pub retransmits: u64,
    /// Seconds from the first byte to the end of the stream.
    pub seconds: f64,
}

impl TcpReport {
    /// All that was sent arrived as it was sent.
    pub fn clean(&self) -> bool {
        self.sent == self.received && self.corrupt == 0 && self.sent > 0
    }

    /// Goodput in bits per second.
    pub fn bits_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.received as f64 * 8.0 / self.seconds } else { 0.0 }
    }
}

/// The stream's content: byte `i` depends on `i` alone, with a period that is no power of two.
fn pattern() -> Vec<u8> {
    (0..CHUNK + 65_521).map(|i| ((i % 65_521) as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

/// Sends a stream from `client` to `server` (listening on `ip:port`) and checks every byte.
///
/// # Errors
/// When the connection cannot be made, breaks, or stands still for 15 seconds.
pub fn transfer(client: &Host, server: &Host, ip: Ipv4Addr, port: u16, amount: Amount) -> Result<TcpReport> {
    let at = SocketAddrV4::new(ip, port);
    let listener = server.run(|| TcpListener::bind(at).context(format!("TCP port {port}")))??;
    let stop = Arc::new(AtomicBool::new(false));
    let received = Arc::new(AtomicU64::new(0));
    let (flag, counter) = (stop.clone(), received.clone());
    let reader = server.ns().spawn(move || receive(&listener, &flag, &counter))?;
    let sent = client.run(|| send(at, amount));
    if !matches!(sent, Ok(Ok(_))) {
        stop.store(true, Ordering::Relaxed);
    }
    let got = reader.join().unwrap_or_else(|p| std::panic::resume_unwind(p));
    let (mut report, start) = sent??;
    let (corrupt, end) = got?;
    report.received = received.load(Ordering::Relaxed);
    report.corrupt = corrupt;
    report.seconds = end.duration_since(start).as_secs_f64();
    Ok(report)
}

const PATIENCE: Duration = Duration::from_secs(15);

fn send(at: SocketAddrV4, amount: Amount) -> Result<(TcpReport, Instant)> {
    let mut s = TcpStream::connect_timeout(&at.into(), PATIENCE).context(format!("TCP to {at}"))?;
    s.set_write_timeout(Some(PATIENCE)).context("SO_SNDTIMEO")?;
    let pattern = pattern();
    let start = Instant::now();
    let mut report = TcpReport::default();
    loop {
        let left = match amount {
            Amount::Bytes(n) => n - report.sent,
            Amount::Time(t) if start.elapsed() < t => CHUNK as u64,
            Amount::Time(_) => 0,
        };
        if left == 0 {
            break;
        }
        let from = (report.sent % 65_521) as usize;
        let n = s.write(&pattern[from..from + left.min(CHUNK as u64) as usize]).context("TCP write")?;
        report.sent += n as u64;
    }
    report.retransmits = retransmits(&s);
    s.shutdown(std::net::Shutdown::Write).context("TCP shutdown")?;
    // The peer closes when it has read everything.
    s.set_read_timeout(Some(PATIENCE)).context("SO_RCVTIMEO")?;
    s.read(&mut [0; 1]).context("waiting for the end of the TCP stream")?;
    Ok((report, start))
}

/// Segments sent again, of TCP_INFO; 0 where the kernel does not say.
fn retransmits(s: &TcpStream) -> u64 {
    // SAFETY: tcp_info is plain data for which zero is valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `info`.
    let rc = unsafe {
        libc::getsockopt(s.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut len)
    };
    if rc == 0 { u64::from(info.tcpi_total_retrans) } else { 0 }
}

fn receive(listener: &TcpListener, stop: &AtomicBool, received: &AtomicU64) -> Result<(u64, Instant)> {
    listener.set_nonblocking(true).context("O_NONBLOCK")?;
    let mut s = loop {
        match listener.accept() {
            Ok((s, _)) => break s,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                if stop.load(Ordering::Relaxed) {
                    return Err(LabError::Failed("nobody connected".into()));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(e) => return Err(e).context("accept"),
        }
    };
    s.set_nonblocking(false).context("O_NONBLOCK")?;
    s.set_read_timeout(Some(PATIENCE)).context("SO_RCVTIMEO")?;
    let pattern = pattern();
    let mut buf = vec![0; CHUNK];
    let (mut total, mut corrupt) = (0u64, 0u64);
    loop {
        let n = s.read(&mut buf).context("TCP read")?;
        if n == 0 {
            break;
        }
        let from = (total % 65_521) as usize;
        let want = &pattern[from..from + n];
        if want != &buf[..n] {
            corrupt += want.iter().zip(&buf[..n]).filter(|(a, b)| a != b).count() as u64;
        }
        total += n as u64;
        received.store(total, Ordering::Relaxed);
    }
    Ok((corrupt, Instant::now()))
}
