//! An AF_XDP socket of one queue of a device, with its memory and its four rings.

use super::{
    area::Area,
    options::{BusyPoll, Sizes},
    rings::{Consumer, Producer},
};
use crate::sys;
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    time::{Duration, Instant},
};

/// Bytes before a packet for `struct xsk_tx_metadata`: its flags and the checksum's place (Linux 6.8).
pub const TX_METADATA: u32 = 16;
/// Most skbs of one sendto(2) in copy mode (Linux 6.17; before, it is 32).
const XDP_MAX_TX_SKB_BUDGET: i32 = 9;
const SO_PREFER_BUSY_POLL: i32 = 69;
const SO_BUSY_POLL_BUDGET: i32 = 70;
/// Send buffer: copies of packets that the device has not sent.
const SEND_BUFFER: u32 = 4 << 20;
/// How long a queue may take to be given up by a socket before: the kernel does that after close(2) has returned.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a socket reaches its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The device writes into the memory and reads from it itself.
    pub zero_copy: bool,
    /// Frames in several cells.
    pub multi_buffer: bool,
}

/// What a socket is made with.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The memory.
    pub area: Area,
    /// Index of the device.
    pub device: i32,
    /// The queue.
    pub queue: u32,
    /// Sizes of its rings.
    pub sizes: Sizes,
    /// How it reaches the device.
    pub way: Way,
}

/// The rings of a socket.
pub struct Rings {
    /// Frames received.
    pub rx: Consumer<libc::xdp_desc>,
    /// Cells for frames to come.
    pub fill: Producer<u64>,
    /// Packets to send.
    pub tx: Producer<libc::xdp_desc>,
    /// Cells of packets that were sent.
    pub completion: Consumer<u64>,
}

/// A socket that is bound.
pub struct Bound {
    /// It.
    pub fd: OwnedFd,
    /// Its rings.
    pub rings: Rings,
    /// Whether a packet may have [`TX_METADATA`] before it.
    pub metadata: bool,
}

/// Why there is no socket: which step the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}{advice}")]
pub struct SocketError {
    step: &'static str,
    /// The kernel's answer.
    pub source: io::Error,
    advice: &'static str,
}

fn at(step: &'static str) -> impl Fn(io::Error) -> SocketError {
    move |source| {
        let advice = match source.raw_os_error() {
            Some(libc::ENOBUFS) => {
                " (the packet pool exceeds RLIMIT_MEMLOCK: give CAP_IPC_LOCK, or LimitMEMLOCK=infinity in the systemd unit)"
            }
            Some(libc::EPERM) => " (needs CAP_NET_RAW, and CAP_BPF with CAP_NET_ADMIN)",
            Some(libc::EAFNOSUPPORT) => " (the kernel lacks CONFIG_XDP_SOCKETS)",
            Some(libc::EBUSY) => " (another AF_XDP socket has the queue)",
            _ => "",
        };
        SocketError { step, source, advice }
    }
}

impl Setup {
    /// Makes the socket and binds it to its queue. Nothing arrives before the XDP program knows it.
    pub fn bind(&self) -> Result<Bound, SocketError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.bind_once() {
                // A socket that was closed a moment ago has the queue until the kernel's worker has come to it.
                Err(e) if e.source.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                other => return other,
            }
        }
    }

    fn bind_once(&self) -> Result<Bound, SocketError> {
        let fd = sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0).map_err(at("an AF_XDP socket"))?;
        let raw = fd.as_raw_fd();
        let set = |option, value: u32| sys::setsockopt(raw, libc::SOL_XDP, option, &value);
        let register = |metadata| {
            let registration = self.area.registration(metadata);
            sys::setsockopt(raw, libc::SOL_XDP, libc::XDP_UMEM_REG, &registration)
        };
        // Kernels before 6.8 do not know of metadata.
        let metadata = register(TX_METADATA).is_ok();
        if !metadata {
            register(0).map_err(at("registering the packet pool (XDP_UMEM_REG)"))?;
        }
        let Sizes { rx, fill, tx } = self.sizes;
        for (option, size) in [
            (libc::XDP_UMEM_FILL_RING, fill),
            (libc::XDP_UMEM_COMPLETION_RING, tx),
            (libc::XDP_RX_RING, rx),
            (libc::XDP_TX_RING, tx),
        ] {
            set(option, size).map_err(at("the rings"))?;
        }
        let rings = map(raw, self.sizes).map_err(at("mapping the rings"))?;
        // Without it (before 6.17) more system calls are made.
        let _budget = set(XDP_MAX_TX_SKB_BUDGET, tx.min(256));
        let sent = |option| sys::setsockopt(raw, libc::SOL_SOCKET, option, &SEND_BUFFER).is_ok();
        let _buffer = sent(libc::SO_SNDBUFFORCE) || sent(libc::SO_SNDBUF);
        let mut flags = libc::XDP_USE_NEED_WAKEUP;
        flags |= if self.way.zero_copy { libc::XDP_ZEROCOPY } else { libc::XDP_COPY };
        flags |= if self.way.multi_buffer { libc::XDP_USE_SG } else { 0 };
        bind(raw, self.device, self.queue, flags).map_err(at(match self.way.zero_copy {
            true => "binding to the device without copying",
            false => "binding to the device",
        }))?;
        Ok(Bound { fd, rings, metadata })
    }
}

/// Tells when the kernel has taken a closed socket off its queue. Only then it has done with the cells: a device that uses
/// them itself goes on until then, and so do socket buffers that lie over them. Made beforehand, because a socket belongs to
/// the network namespace that it was made in, and not to that of the thread which closes the port.
#[derive(Debug)]
pub struct Probe {
    fd: OwnedFd,
    device: i32,
    queue: u32,
}

impl Probe {
    /// For a queue of a device. It takes a page of the area, which it does not write, and nothing of the device.
    pub fn new(area: Area, device: i32, queue: u32) -> io::Result<Probe> {
        let fd = sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0)?;
        let raw = fd.as_raw_fd();
        sys::setsockopt(raw, libc::SOL_XDP, libc::XDP_UMEM_REG, &area.page())?;
        for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING] {
            sys::setsockopt(raw, libc::SOL_XDP, ring, &2u32)?;
        }
        Ok(Probe { fd, device, queue })
    }

    /// Waits until the queue can be had, or is gone. False when it cannot after [`PATIENCE`].
    pub fn wait(self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match bind(self.fd.as_raw_fd(), self.device, self.queue, libc::XDP_COPY) {
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(e) => return e.raw_os_error() != Some(libc::EBUSY),
                Ok(()) => return true,
            }
        }
    }
}

fn map(fd: RawFd, sizes: Sizes) -> io::Result<Rings> {
    let o = mmap_offsets(fd)?;
    Ok(Rings {
        rx: Consumer::new(fd, libc::XDP_PGOFF_RX_RING, o.rx, sizes.rx)?,
        tx: Producer::new(fd, libc::XDP_PGOFF_TX_RING, o.tx, sizes.tx)?,
        fill: Producer::new(fd, libc::XDP_UMEM_PGOFF_FILL_RING as i64, o.fr, sizes.fill)?,
        completion: Consumer::new(fd, libc::XDP_UMEM_PGOFF_COMPLETION_RING as i64, o.cr, sizes.tx)?,
    })
}

/// Where in their mappings the rings have what. Kernels before 5.4 answer with less, without flags, and are refused: they
/// have no links for the program either.
fn mmap_offsets(fd: RawFd) -> io::Result<libc::xdp_mmap_offsets> {
    const NONE: libc::xdp_ring_offset = libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
    let mut offsets = libc::xdp_mmap_offsets { rx: NONE, tx: NONE, fr: NONE, cr: NONE };
    let size = size_of::<libc::xdp_mmap_offsets>() as libc::socklen_t;
    let mut len = size;
    // SAFETY: offsets has `len` writable bytes.
    sys::check(unsafe {
        libc::getsockopt(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, (&raw mut offsets).cast(), &mut len)
    })?;
    if len == size { Ok(offsets) } else { Err(io::ErrorKind::Unsupported.into()) }
}

fn bind(fd: RawFd, device: i32, queue: u32, flags: u16) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: device as u32,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    let len = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
    // SAFETY: address is a sockaddr_xdp, and its size is given.
    sys::check(unsafe { libc::bind(fd, (&raw const address).cast(), len) })?;
    Ok(())
}

/// Has the kernel poll the device when we ask for frames, and not by interrupts.
pub fn set_busy_poll(fd: RawFd, busy: BusyPoll) -> io::Result<()> {
    sys::setsockopt(fd, libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, &1i32)?;
    sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, &(busy.usecs as i32))?;
    sys::setsockopt(fd, libc::SOL_SOCKET, SO_BUSY_POLL_BUDGET, &(busy.budget as i32))
}

/// Whether the device uses the memory itself.
pub fn is_zero_copy(fd: RawFd) -> bool {
    let options: io::Result<u32> = sys::getsockopt(fd, libc::SOL_XDP, libc::XDP_OPTIONS);
    options.is_ok_and(|o| o & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// What the kernel lost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Statistics {
    /// Frames lost for want of a cell, or because they are longer than one and may not be split.
    pub rx_dropped: u64,
    /// Cells that the kernel found unusable.
    pub rx_invalid: u64,
    /// Packets that the kernel found unusable.
    pub tx_invalid: u64,
    /// Frames lost because the receive ring was full.
    pub rx_ring_full: u64,
    /// Times that no cell was in the fill ring.
    pub fill_empty: u64,
    /// Times that the kernel found nothing to send.
    pub tx_empty: u64,
}

/// Reads them (`XDP_STATISTICS`, whose structure has this layout since Linux 5.9).
pub fn statistics(fd: RawFd) -> Statistics {
    sys::getsockopt(fd, libc::SOL_XDP, libc::XDP_STATISTICS).unwrap_or_default()
}

/// Makes the kernel look at the transmit ring.
pub fn kick(fd: RawFd) -> io::Result<()> {
    // SAFETY: no bytes are passed.
    sys::check(unsafe { libc::sendto(fd, std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) } as i32)
        .map(drop)
}

/// Makes the kernel look at the fill ring, or poll the device. A device that is down has nothing.
pub fn poke(fd: RawFd) {
    // SAFETY: no bytes are asked for.
    unsafe {
        libc::recvfrom(fd, std::ptr::null_mut(), 0, libc::MSG_DONTWAIT, std::ptr::null_mut(), std::ptr::null_mut())
    };
}
