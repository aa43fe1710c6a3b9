//! The port: its driver, its one receive queue and its one transmit queue.

use crate::{
    file::{Capture, Link},
    options::Options,
    player::{Next, Player},
    writer::Writer,
};
use smpnet_plugin::{
    Burst, Driver, Error, Host, LinkState, MacAddr, Opened, PortDetails, PortRequest, PortStats, RxQueue, TxQueue,
    Worker, port_flags,
};
use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

/// How long what was sent may wait in memory while nothing more is sent.
const FLUSH_AFTER_NS: u64 = 200_000_000;

/// A pcap port.
pub struct PcapPort {
    shared: Arc<Shared>,
    options: Options,
    truncated: u64,
}

/// What the port and its queues share. Each counter has one writer.
struct Shared {
    host: Host,
    ifindex: u32,
    up: AtomicBool,
    ended: AtomicBool,
    wake: Timer,
    rx_packets: AtomicU64,
    rx_bytes: AtomicU64,
    rx_missed: AtomicU64,
    tx_packets: AtomicU64,
    tx_bytes: AtomicU64,
    tx_errors: AtomicU64,
}

impl Driver for PcapPort {
    const NAME: &'static str = "pcap";
    const SUMMARY: &'static str = "pcap and pcapng files: one to receive, one to send to";
    type Rx = Rx;
    type Tx = Tx;

    fn open(host: Host, req: &PortRequest<'_>) -> Result<Opened<Self>, Error> {
        let options = Options::parse(req.options.clone())?;
        let capture = options.read.as_deref().map(Capture::read).transpose()?;
        let link = options.link(capture.as_ref().map(|c| c.link))?;
        let writer = options.write.as_deref().map(|path| Writer::create(path, link, req.name)).transpose()?;
        let finite = capture.is_some() && options.repeat != 0;
        let truncated = capture.as_ref().map_or(0, |c| c.truncated);
        let raw = link == Link::RawIp;
        let details = PortDetails {
            flags: if raw { port_flags::RAW_IP } else { 0 } | if finite { port_flags::FINITE } else { 0 },
            mtu: if req.mtu == 0 { 1500 } else { req.mtu },
            mtu_max: 65535,
            mac: if raw { MacAddr::default() } else { options.mac()?.unwrap_or(own_mac(req.ifindex)) },
            ..PortDetails::default()
        };
        let shared = Arc::new(Shared {
            host,
            ifindex: req.ifindex,
            up: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            wake: Timer::new()?,
            rx_packets: AtomicU64::new(0),
            rx_bytes: AtomicU64::new(0),
            rx_missed: AtomicU64::new(0),
            tx_packets: AtomicU64::new(0),
            tx_bytes: AtomicU64::new(0),
            tx_errors: AtomicU64::new(0),
        });
        let player = Player::new(options.timing, options.repeat);
        let rx = Rx { shared: shared.clone(), capture, player };
        let tx = Tx { shared: shared.clone(), writer, flat: Vec::new(), unwritten: false, flushed_ns: 0 };
        Ok(Opened { port: PcapPort { shared, options, truncated }, rx: vec![rx], tx: vec![tx], details })
    }

    fn set_up(&self, up: bool) -> Result<(), Error> {
        self.shared.up.store(up, Relaxed);
        // The worker may sleep: it looks again.
        self.shared.wake.at(1)?;
        Ok(())
    }

    fn link_state(&self) -> LinkState {
        LinkState { state: u32::from(!self.shared.ended.load(Relaxed)), full_duplex: 1, speed: 0, _pad: 0 }
    }

    fn stats(&self) -> PortStats {
        let s = &self.shared;
        PortStats {
            rx_packets: s.rx_packets.load(Relaxed),
            rx_bytes: s.rx_bytes.load(Relaxed),
            rx_missed: s.rx_missed.load(Relaxed),
            rx_errors: 0,
            tx_packets: s.tx_packets.load(Relaxed),
            tx_bytes: s.tx_bytes.load(Relaxed),
            tx_errors: s.tx_errors.load(Relaxed),
        }
    }

    fn counters(&self) -> Vec<(String, u64)> {
        vec![("rx_truncated_in_capture".into(), self.truncated)]
    }

    fn status(&self) -> serde_json::Value {
        serde_json::json!({
            "read": self.options.read,
            "write": self.options.write,
            "ended": self.shared.ended.load(Relaxed),
        })
    }
}

/// The receive queue: the file that is played.
pub struct Rx {
    shared: Arc<Shared>,
    capture: Option<Capture>,
    player: Player,
}

impl RxQueue for Rx {
    fn rx_burst(&mut self, cx: &mut Worker<'_>, out: &mut Burst, max: usize) {
        let (Some(capture), true) = (&self.capture, self.shared.up.load(Relaxed)) else { return };
        let now = cx.now_ns();
        let (mut packets, mut bytes) = (0, 0);
        while out.len() < max {
            let entry = match self.player.next(capture, now) {
                Next::Due(entry) => entry,
                Next::At(_) => break,
                Next::End => {
                    self.shared.end();
                    break;
                }
            };
            let data = capture.packet(entry);
            match copy_in(cx, data) {
                Some(packet) => {
                    // There is room: the burst has fewer than `max`.
                    drop(out.push(packet));
                    packets += 1;
                    bytes += data.len() as u64;
                }
                None => bump(&self.shared.rx_missed, 1),
            }
        }
        bump(&self.shared.rx_packets, packets);
        bump(&self.shared.rx_bytes, bytes);
    }

    fn event_fd(&self) -> Option<RawFd> {
        Some(self.shared.wake.fd.as_raw_fd())
    }

    fn arm(&mut self) -> bool {
        let (Some(capture), true) = (&self.capture, self.shared.up.load(Relaxed)) else { return false };
        match self.player.peek(capture, self.shared.host.now_ns()) {
            Next::Due(_) => true,
            // A timer that cannot be set is no reason to sleep for ever.
            Next::At(due) => self.shared.wake.at(due).is_err(),
            Next::End => {
                self.shared.end();
                false
            }
        }
    }

    fn disarm(&mut self) {
        self.shared.wake.clear();
    }
}

/// The transmit queue: the file that is written.
pub struct Tx {
    shared: Arc<Shared>,
    writer: Option<Writer>,
    /// Where packets of several cells are laid out in one piece.
    flat: Vec<u8>,
    unwritten: bool,
    flushed_ns: u64,
}

impl TxQueue for Tx {
    fn tx_burst(&mut self, cx: &mut Worker<'_>, burst: &mut Burst) {
        if burst.is_empty() {
            self.flush_if_due(cx.now_ns());
            return;
        }
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let all = burst.take_front(burst.len());
        let (mut packets, mut bytes, mut errors) = (0, 0, 0);
        for packet in all.iter() {
            let data = if packet.hdr().nsegs() == 1 {
                packet.data()
            } else {
                self.flat.clear();
                packet.segments().for_each(|s| self.flat.extend_from_slice(s));
                &self.flat
            };
            match self.writer.as_mut().map(|w| w.packet(time, data)) {
                Some(Err(e)) => {
                    if errors == 0 && self.shared.tx_errors.load(Relaxed) == 0 {
                        smpnet_plugin::error!("interface {}: cannot write: {e}", self.shared.ifindex);
                    }
                    errors += 1;
                }
                // Without a file, what is sent is counted and gone.
                _ => {
                    packets += 1;
                    bytes += data.len() as u64;
                }
            }
        }
        self.unwritten = true;
        cx.free(all);
        bump(&self.shared.tx_packets, packets);
        bump(&self.shared.tx_bytes, bytes);
        bump(&self.shared.tx_errors, errors);
    }
}

impl Tx {
    fn flush_if_due(&mut self, now_ns: u64) {
        if self.unwritten && now_ns.saturating_sub(self.flushed_ns) >= FLUSH_AFTER_NS {
            (self.unwritten, self.flushed_ns) = (false, now_ns);
            if self.writer.as_mut().is_some_and(|w| w.flush().is_err()) {
                bump(&self.shared.tx_errors, 1);
            }
        }
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if let Some(Err(e)) = self.writer.as_mut().map(Writer::flush) {
            smpnet_plugin::error!("interface {}: the end of the file is lost: {e}", self.shared.ifindex);
        }
    }
}

impl Shared {
    /// The file is at its end: the link goes down, once.
    fn end(&self) {
        if !self.ended.swap(true, Relaxed) {
            self.host.link_event(self.ifindex, LinkState { state: 0, full_duplex: 1, speed: 0, _pad: 0 });
        }
    }
}

/// Adds to a counter that only this thread writes.
fn bump(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed) + n, Relaxed);
}

/// A packet of one or more cells that holds `data`; none when the pool is empty.
fn copy_in(cx: &mut Worker<'_>, data: &[u8]) -> Option<smpnet_plugin::Packet> {
    let mut packet = cx.alloc()?;
    let room = packet.buffer_mut().len();
    let (first, rest) = data.split_at(room.min(data.len()));
    packet.append(first);
    for piece in rest.chunks(room.max(1)) {
        // Dropping the packet gives its cells back.
        let mut cell = cx.alloc()?;
        cell.append(piece);
        packet.append_cell(cell).ok()?;
    }
    Some(packet)
}

/// A locally administered address that differs from port to port.
fn own_mac(ifindex: u32) -> MacAddr {
    let [a, b, c, d] = ifindex.to_be_bytes();
    MacAddr { bytes: [0x02, 0x70, a, b, c, d] }
}

/// A timer whose descriptor wakes the worker.
struct Timer {
    fd: OwnedFd,
}

impl Timer {
    fn new() -> io::Result<Timer> {
        // SAFETY: makes a descriptor; no memory is passed.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        Ok(Timer { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Fires at a time of the monotonic clock; times that have passed fire at once.
    fn at(&self, at_ns: u64) -> io::Result<()> {
        let value = libc::timespec {
            tv_sec: (at_ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (at_ns % 1_000_000_000) as libc::c_long,
        };
        let spec = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // SAFETY: the descriptor is a timer and `spec` lives through the call; no old value is asked for.
        let rc =
            unsafe { libc::timerfd_settime(self.fd.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &spec, std::ptr::null_mut()) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Forgets that it fired.
    fn clear(&self) {
        let mut fired = 0u64;
        // SAFETY: reads at most eight bytes into a u64; the descriptor does not block.
        unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut fired).cast(), 8) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smpnet_plugin::testing;
    use std::path::Path;

    fn open(options: serde_json::Value) -> Opened<PcapPort> {
        let req = PortRequest { name: "f0", ifindex: 4, options, rx_queues: 2, tx_queues: 2, workers: 2, mtu: 0 };
        PcapPort::open(testing::host(), &req).unwrap()
    }

    fn written(path: &Path) -> Vec<Vec<u8>> {
        let c = Capture::read(path).unwrap();
        c.entries.iter().map(|e| c.packet(*e).to_vec()).collect()
    }

    #[test]
    fn what_one_port_writes_another_one_reads_also_in_several_cells() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pcapng");
        let packets = [vec![1; 60], vec![2; 1514], (0..9000).map(|i| i as u8).collect::<Vec<u8>>()];
        let mut w = Writer::create(&path, Link::Ethernet, "x").unwrap();
        packets.iter().for_each(|p| w.packet(Duration::from_secs(1), p).unwrap());
        drop(w);

        let copy = dir.path().join("copy.pcap");
        let mut cx = testing::worker(0);
        let mut port = open(serde_json::json!({"read": path, "write": copy, "timing": "fast"}));
        let mut burst = Burst::new();
        port.rx[0].rx_burst(&mut cx, &mut burst, 64);
        assert_eq!(burst.len(), 0, "the port is down");
        port.port.set_up(true).unwrap();
        assert!(port.rx[0].arm(), "packets wait");
        port.rx[0].rx_burst(&mut cx, &mut burst, 64);
        assert_eq!(burst.len(), 3);
        assert_eq!(burst.as_slice()[2].segments().map(<[u8]>::len).sum::<usize>(), 9000);
        assert_eq!(port.port.link_state().state, 0, "the file is at its end");
        port.tx[0].tx_burst(&mut cx, &mut burst);
        assert!(burst.is_empty());
        let stats = port.port.stats();
        assert_eq!((stats.rx_packets, stats.tx_packets, stats.tx_bytes), (3, 3, 60 + 1514 + 9000));
        drop(port.tx);
        assert_eq!(written(&copy), packets);
        assert_eq!(testing::outstanding(), 0);
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let options = serde_json::json!({"read": "/nonexistent.pcap"});
        let req = PortRequest { name: "f0", ifindex: 4, options, rx_queues: 1, tx_queues: 1, workers: 1, mtu: 0 };
        let e = PcapPort::open(testing::host(), &req).map(|_| ()).unwrap_err().to_string();
        assert!(e.starts_with("/nonexistent.pcap: "), "{e}");
    }
}
