//! UDP senders and receivers that account for every packet.
//!
//! Each datagram carries its flow and sequence number and a payload derived from both, so that the receiver counts
//! received, lost, duplicated, reordered and corrupt packets exactly. A [`Window`] couples both ends: a sender never has
//! more packets on the way than the receiver's socket can hold, so that nothing is lost in the *receiving host* and what
//! is missing was lost by the router.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Context, LabError, Result};
use crate::host::Host;
use crate::sock;

/// Smallest payload: magic, flow, sequence number, check.
pub const MIN_PAYLOAD: usize = 18;
const MAGIC: u16 = 0x534e;
const BATCH: usize = 64;
/// Kernel memory that one small datagram takes in a receive buffer, at most.
const TRUESIZE: usize = 2304;

/// What both ends of a set of flows share.
#[derive(Debug, Default)]
pub struct Window {
    sent: AtomicU64,
    received: AtomicU64,
    /// Packets given up after a stall: they no longer count as being on the way.
    written_off: AtomicU64,
    limit: AtomicU64,
    stop: AtomicBool,
}

impl Window {
    fn room(&self) -> usize {
        let gone = self.received.load(Ordering::Acquire) + self.written_off.load(Ordering::Relaxed);
        let on_the_way = self.sent.load(Ordering::Relaxed).saturating_sub(gone);
        self.limit.load(Ordering::Relaxed).saturating_sub(on_the_way) as usize
    }
}

/// What a sender did.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct SendReport {
    /// Datagrams that the kernel took.
    pub sent: u64,
    /// Seconds from the first to the last.
    pub seconds: f64,
    /// ICMP errors that the socket reported (connection refused, host unreachable).
    pub refused: u64,
    /// Times that nothing arrived for 300 ms with a full window.
    pub stalls: u64,
}

/// What one flow of a receiver saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FlowReport {
    /// Different sequence numbers received.
    pub received: u64,
    /// Packets received again.
    pub duplicates: u64,
    /// Packets that came after one with a higher sequence number.
    pub reordered: u64,
    /// Packets whose content was not what was sent.
    pub corrupt: u64,
    /// Highest sequence number received plus one; 0 for none.
    pub expected: u64,
}

/// What a receiver saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ReceiveReport {
    /// One entry for each flow, in order.
    pub flows: Vec<FlowReport>,
    /// Datagrams that belong to no flow.
    pub foreign: u64,
    /// Datagrams that the receiving host's own socket dropped (SO_RXQ_OVFL): not the router's doing.
    pub socket_drops: u64,
}

impl ReceiveReport {
    /// Sum over all flows.
    pub fn total(&self) -> FlowReport {
        self.flows.iter().fold(FlowReport::default(), |mut t, f| {
            t.received += f.received;
            t.duplicates += f.duplicates;
            t.reordered += f.reordered;
            t.corrupt += f.corrupt;
            t.expected += f.expected;
            t
        })
    }
}

fn mix(flow: u16, seq: u64) -> u64 {
    let mut x = seq ^ (u64::from(flow) << 48) ^ 0x9e37_79b9_7f4a_7c15;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 27)
}

fn fill(buf: &mut [u8], flow: u16, seq: u64) {
    let key = mix(flow, seq);
    buf[0..2].copy_from_slice(&MAGIC.to_be_bytes());
    buf[2..4].copy_from_slice(&flow.to_be_bytes());
    buf[4..12].copy_from_slice(&seq.to_be_bytes());
    for (chunk, i) in buf[12..].chunks_mut(8).zip(0u64..) {
        let word = (key ^ i.wrapping_mul(0x0101_0101_0101_0101)).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// Flow, sequence number and whether the rest is what [`fill`] made.
fn parse(buf: &[u8], scratch: &mut [u8]) -> Option<(u16, u64, bool)> {
    if buf.len() < MIN_PAYLOAD || buf[0..2] != MAGIC.to_be_bytes() || buf.len() > scratch.len() {
        return None;
    }
    let flow = u16::from_be_bytes([buf[2], buf[3]]);
    let seq = u64::from_be_bytes(buf[4..12].try_into().ok()?);
    let want = &mut scratch[..buf.len()];
    fill(want, flow, seq);
    Some((flow, seq, want == buf))
}

/// Seen sequence numbers of one flow.
#[derive(Default)]
struct Seen {
    bits: Vec<u64>,
    report: FlowReport,
}

impl Seen {
    fn note(&mut self, seq: u64) {
        // A corrupt number must not make us allocate the world; 2^34 packets are an hour at 5 million a second.
        if seq >= 1 << 34 {
            self.report.corrupt += 1;
            return;
        }
        let (word, bit) = ((seq / 64) as usize, 1u64 << (seq % 64));
        if word >= self.bits.len() {
            self.bits.resize((word + 1).next_power_of_two(), 0);
        }
        if self.bits[word] & bit != 0 {
            self.report.duplicates += 1;
            return;
        }
        self.bits[word] |= bit;
        self.report.received += 1;
        if seq < self.report.expected {
            self.report.reordered += 1;
        }
        self.report.expected = self.report.expected.max(seq + 1);
    }
}

/// A running receiver.
pub struct UdpReceiver {
    window: Arc<Window>,
    thread: JoinHandle<Result<ReceiveReport>>,
}

impl UdpReceiver {
    /// Starts a receiver of `flows` flows on `host`: flow `i` comes to `port + i`. At most 1,024 flows.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn start(host: &Host, ip: Ipv4Addr, port: u16, flows: u16) -> Result<UdpReceiver> {
        let window = Arc::new(Window::default());
        let sockets = host.run(|| -> Result<Vec<UdpSocket>> {
            (0..flows)
                .map(|i| {
                    let s =
                        UdpSocket::bind(SocketAddrV4::new(ip, port + i)).context(format!("UDP port {}", port + i))?;
                    let fd = s.as_raw_fd();
                    let room = sock::grow_rcvbuf(fd, 64 << 20)?;
                    // The window is shared by all flows, so that any one socket can hold all of it.
                    window.limit.store(((room / TRUESIZE) as u64).clamp(32, 4096), Ordering::Relaxed);
                    sock::set(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1i32).context("SO_RXQ_OVFL")?;
                    s.set_nonblocking(true).context("O_NONBLOCK")?;
                    Ok(s)
                })
                .collect()
        })??;
        let shared = window.clone();
        let thread = host.ns().spawn(move || receive(&sockets, &shared))?;
        Ok(UdpReceiver { window, thread })
    }

    /// What senders to this receiver share with it.
    pub fn window(&self) -> Arc<Window> {
        self.window.clone()
    }

    /// Packets received until now, duplicates included.
    pub fn received(&self) -> u64 {
        self.window.received.load(Ordering::Acquire)
    }

    /// Waits until `n` packets have come, or until none came for `quiet`; true in the first case.
    pub fn wait_for(&self, n: u64, quiet: Duration) -> bool {
        let mut last = (self.received(), Instant::now());
        while last.0 < n {
            std::thread::sleep(Duration::from_millis(2));
            let now = self.received();
            if now != last.0 {
                last = (now, Instant::now());
            } else if last.1.elapsed() > quiet {
                return false;
            }
        }
        true
    }

    /// Takes what is still in the sockets and ends.
    ///
    /// # Errors
    /// When receiving failed.
    pub fn finish(self) -> Result<ReceiveReport> {
        self.window.stop.store(true, Ordering::Release);
        self.thread.join().unwrap_or_else(|p| std::panic::resume_unwind(p))
    }
}

/// Storage of one `recvmmsg` or `sendmmsg`: the headers point into the rest, so it stays boxed and in place.
struct Batch {
    data: Vec<[u8; 2048]>,
    control: Vec<[u64; 8]>,
    iov: Vec<libc::iovec>,
    msgs: Vec<libc::mmsghdr>,
}

impl Batch {
    fn new() -> Batch {
        let mut b = Batch {
            data: vec![[0; 2048]; BATCH],
            control: vec![[0; 8]; BATCH],
            iov: Vec::with_capacity(BATCH),
            msgs: Vec::with_capacity(BATCH),
        };
        for i in 0..BATCH {
            b.iov.push(libc::iovec { iov_base: b.data[i].as_mut_ptr().cast(), iov_len: 2048 });
        }
        for i in 0..BATCH {
            // SAFETY: mmsghdr is plain data for which zero is valid.
            let mut m: libc::mmsghdr = unsafe { mem::zeroed() };
            m.msg_hdr.msg_iov = &raw mut b.iov[i];
            m.msg_hdr.msg_iovlen = 1;
            b.msgs.push(m);
        }
        b
    }

    /// Receives up to a batch without waiting; 0 when there is nothing.
    fn recv(&mut self, fd: RawFd) -> io::Result<usize> {
        for (m, c) in self.msgs.iter_mut().zip(&mut self.control) {
            m.msg_hdr.msg_control = c.as_mut_ptr().cast();
            m.msg_hdr.msg_controllen = size_of_val(c) as _;
        }
        // SAFETY: every header points at a buffer and a control area of this Batch, both valid for their lengths.
        let n = unsafe {
            libc::recvmmsg(fd, self.msgs.as_mut_ptr(), BATCH as u32, libc::MSG_DONTWAIT as _, std::ptr::null_mut())
        };
        if n >= 0 {
            return Ok(n as usize);
        }
        let e = io::Error::last_os_error();
        if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR | libc::ECONNREFUSED)) { Ok(0) } else { Err(e) }
    }

    /// The socket's drop counter as the message `i` carries it.
    fn overflow(&self, i: usize) -> Option<u32> {
        let hdr = &self.msgs[i].msg_hdr;
        // SAFETY: the kernel filled the control area of this header, which is still alive; CMSG_* stay inside its length.
        unsafe {
            let mut c = libc::CMSG_FIRSTHDR(hdr);
            while !c.is_null() {
                if (*c).cmsg_level == libc::SOL_SOCKET && (*c).cmsg_type == libc::SO_RXQ_OVFL {
                    return Some(std::ptr::read_unaligned(libc::CMSG_DATA(c).cast::<u32>()));
                }
                c = libc::CMSG_NXTHDR(hdr, c);
            }
        }
        None
    }
}

fn receive(sockets: &[UdpSocket], window: &Window) -> Result<ReceiveReport> {
    let mut seen: Vec<Seen> = sockets.iter().map(|_| Seen::default()).collect();
    let mut report = ReceiveReport::default();
    let mut overflow = vec![0u32; sockets.len()];
    let mut batch = Batch::new();
    let mut scratch = [0u8; 2048];
    let mut polls: Vec<libc::pollfd> =
        sockets.iter().map(|s| libc::pollfd { fd: s.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    let mut stop_at: Option<Instant> = None;
    loop {
        // SAFETY: the array is valid for its length.
        unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as _, 20) };
        let mut got = 0;
        for (i, p) in polls.iter().enumerate().filter(|(_, p)| p.revents != 0) {
            let n = batch.recv(p.fd).context("recvmmsg")?;
            for m in 0..n {
                let len = batch.msgs[m].msg_len as usize;
                match parse(&batch.data[m][..len.min(2048)], &mut scratch) {
                    Some((flow, seq, true)) if usize::from(flow) == i => seen[i].note(seq),
                    Some((flow, _, _)) if usize::from(flow) < seen.len() => seen[i].report.corrupt += 1,
                    _ => report.foreign += 1,
                }
            }
            if n > 0 {
                overflow[i] = batch.overflow(n - 1).unwrap_or(overflow[i]);
                window.received.fetch_add(n as u64, Ordering::Release);
            }
            got += n;
        }
        if window.stop.load(Ordering::Acquire) {
            let end = *stop_at.get_or_insert_with(|| Instant::now() + Duration::from_millis(50));
            if got == 0 && Instant::now() >= end {
                break;
            }
        }
    }
    report.flows = seen.into_iter().map(|s| s.report).collect();
    report.socket_drops = overflow.into_iter().map(u64::from).sum();
    Ok(report)
}

/// What to send; see [`UdpSender::new`].
#[derive(Clone)]
pub struct UdpSender {
    to: Ipv4Addr,
    port: u16,
    flows: u16,
    payload: usize,
    rate: Option<f64>,
    window: Option<Arc<Window>>,
    first_seq: u64,
}

impl UdpSender {
    /// A sender of one flow of 64-byte frames to `to:port`, as fast as it can.
    pub fn new(to: Ipv4Addr, port: u16) -> UdpSender {
        UdpSender { to, port, flows: 1, payload: MIN_PAYLOAD, rate: None, window: None, first_seq: 0 }
    }

    /// Sends `n` flows in turn, flow `i` to `port + i`.
    pub fn flows(mut self, n: u16) -> Self {
        self.flows = n.max(1);
        self
    }

    /// Bytes of UDP payload, [`MIN_PAYLOAD`] to 2,048.
    pub fn payload(mut self, bytes: usize) -> Self {
        self.payload = bytes.clamp(MIN_PAYLOAD, 2048);
        self
    }

    /// Packets per second, evenly spread.
    pub fn rate(mut self, pps: f64) -> Self {
        self.rate = Some(pps);
        self
    }

    /// Never more on the way than the receiver can hold.
    pub fn window(mut self, w: Arc<Window>) -> Self {
        self.window = Some(w);
        self
    }

    /// Number of the first packet of each flow, to go on where another sender ended.
    pub fn first_seq(mut self, seq: u64) -> Self {
        self.first_seq = seq;
        self
    }

    /// Sends exactly `count` packets from `host`.
    ///
    /// # Errors
    /// When sending fails for a reason that is not the network's.
    pub fn send(&self, host: &Host, count: u64) -> Result<SendReport> {
        let stop = AtomicBool::new(false);
        host.run(|| self.run_here(count, &stop))?
    }

    /// Starts sending from `host` on a thread of its own until [`Sending::stop`].
    ///
    /// # Errors
    /// When the thread cannot enter the host.
    pub fn start(&self, host: &Host) -> Result<Sending> {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let (sender, flag) = (self.clone(), stop.clone());
        let thread = host.ns().spawn(move || sender.run_here(u64::MAX, &flag))?;
        drop(sent);
        Ok(Sending { stop, thread })
    }

    fn sockets(&self) -> Result<Vec<UdpSocket>> {
        (0..self.flows)
            .map(|i| {
                let s = UdpSocket::bind("0.0.0.0:0").context("UDP socket")?;
                s.connect(SocketAddrV4::new(self.to, self.port + i)).context(format!("UDP to {}", self.to))?;
                Ok(s)
            })
            .collect()
    }

    fn run_here(&self, count: u64, stop: &AtomicBool) -> Result<SendReport> {
        let sockets = self.sockets()?;
        let mut next = vec![self.first_seq; sockets.len()];
        let mut batch = Batch::new();
        let mut report = SendReport::default();
        let start = Instant::now();
        let mut turn = 0;
        let mut progress = (0, Instant::now());
        while report.sent < count && !stop.load(Ordering::Relaxed) {
            let mut room = BATCH.min((count - report.sent).try_into().unwrap_or(BATCH));
            if let Some(w) = &self.window {
                room = room.min(w.room());
                let received = w.received.load(Ordering::Relaxed);
                if received != progress.0 || room > 0 {
                    progress = (received, Instant::now());
                } else if progress.1.elapsed() > Duration::from_millis(300) {
                    // What is on the way will not come any more.
                    let lost = w.sent.load(Ordering::Relaxed) - received - w.written_off.load(Ordering::Relaxed);
                    w.written_off.fetch_add(lost, Ordering::Relaxed);
                    report.stalls += 1;
                }
            }
            if let Some(rate) = self.rate {
                let due = (start.elapsed().as_secs_f64() * rate) as u64 + 1;
                room = room.min(due.saturating_sub(report.sent).try_into().unwrap_or(BATCH));
            }
            if room == 0 {
                // A full window clears within a few scheduling rounds; a paced sender has time.
                if self.rate.is_some() {
                    std::thread::sleep(Duration::from_micros(100));
                } else {
                    std::thread::yield_now();
                }
                continue;
            }
            let flow = turn % sockets.len();
            turn += 1;
            // One flow gets a whole burst, so that several flows share the load in bursts, as they do in life.
            let per_flow = if sockets.len() > 1 { room.min(8) } else { room };
            let n = self.burst(&sockets[flow], flow as u16, next[flow], per_flow, &mut batch, &mut report)?;
            next[flow] += n;
            report.sent += n;
            if let Some(w) = &self.window {
                w.sent.fetch_add(n, Ordering::Relaxed);
            }
        }
        report.seconds = start.elapsed().as_secs_f64();
        Ok(report)
    }

    fn burst(
        &self,
        socket: &UdpSocket,
        flow: u16,
        seq: u64,
        n: usize,
        batch: &mut Batch,
        report: &mut SendReport,
    ) -> Result<u64> {
        for i in 0..n {
            fill(&mut batch.data[i][..self.payload], flow, seq + i as u64);
            batch.iov[i].iov_len = self.payload;
            batch.msgs[i].msg_hdr.msg_controllen = 0;
        }
        // SAFETY: every header points at a buffer of the batch that is valid for its length.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), batch.msgs.as_mut_ptr(), n as u32, 0) };
        if sent >= 0 {
            return Ok(sent as u64);
        }
        let e = io::Error::last_os_error();
        match e.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR | libc::ENOBUFS) => Ok(0),
            // An ICMP error that came back for an earlier packet; nothing of this burst was sent.
            Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH) => {
                report.refused += 1;
                Ok(0)
            }
            _ => Err(LabError::Io { what: "sendmmsg".into(), source: e }),
        }
    }
}

/// A sender at work.
pub struct Sending {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<SendReport>>,
}

impl Sending {
    /// Ends it and tells what it did.
    ///
    /// # Errors
    /// When sending failed.
    pub fn stop(self) -> Result<SendReport> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|p| std::panic::resume_unwind(p))
    }

    /// True while it sends; false after it failed.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }
}

#[cfg(test)]
mod tests {
    use super::{Seen, fill, parse};

    #[test]
    fn a_payload_names_its_flow_and_number_and_a_changed_byte_is_seen() {
        let (mut buf, mut scratch) = ([0u8; 61], [0u8; 2048]);
        fill(&mut buf, 3, 77);
        assert_eq!(parse(&buf, &mut scratch), Some((3, 77, true)));
        buf[60] ^= 1;
        assert_eq!(parse(&buf, &mut scratch), Some((3, 77, false)));
    }

    #[test]
    fn duplicates_gaps_and_late_packets_are_told_apart() {
        let mut s = Seen::default();
        for seq in [0, 1, 3, 2, 2, 200] {
            s.note(seq);
        }
        assert_eq!((s.report.received, s.report.duplicates, s.report.reordered, s.report.expected), (5, 1, 1, 201));
    }
}
