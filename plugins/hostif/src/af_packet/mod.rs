//! The driver `af_packet`: a network device of the kernel as a port, by packet sockets (packet(7)).
//!
//! # Receiving
//!
//! Each receive queue is a socket with a `TPACKET_V3` ring; [`crate::ring`] says why V3 and what it costs. The sockets
//! form a fanout group that spreads flows by their symmetric hash. A virtio-net header before each frame carries
//! checksum and segmentation offload, so a 64 KiB TCP packet that a virtual host sent comes as one packet of many cells
//! and leaves as one.
//!
//! # Sending
//!
//! Each transmit queue is a socket of its own. One system call sends a burst: by a `TPACKET_V3` ring on devices with
//! hardware behind them, by sendmmsg(2) out of the cells on the others (the option `tx.mode` decides otherwise).
//! Software devices hand the packet to a receiver in this machine and therefore copy what a ring only lends, at the price
//! of a page for each packet; on a veth pair that costs more than sendmmsg's one copy. Packets that do not fit a slot
//! of the ring, which are those for segmentation offload, go by sendmmsg after what stands in the ring, in order.
//!
//! # Accounting
//!
//! Every frame that the kernel had for us is in `rx_packets`, `rx_missed` (the ring was full), `rx_errors`, or the
//! counter `rx_while_down` (it stood in the ring when the port went down; a port that is down takes no more). A frame stays in the ring while no cell is free, so a lack of cells shows as `rx_missed`.

mod options;
mod rx;
mod tx;

pub use options::{Options, RingOptions, TxMode, TxOptions};
pub use rx::PacketRx;
pub use tx::PacketTx;

use crate::{
    device::Device,
    error::{HostError, NET_RAW},
    exclusive::Exclusive,
    link::Monitor,
    membership::Memberships,
    packet_socket::{Fanout, PacketSocket},
    ring::{RxRing, TxRing},
    stats::{self, RxStats, TxStats},
    sys, uapi,
};
use smpnet_plugin::{
    Driver, Error, Host, LinkState, MacAddr, Opened, PortDetails, PortRequest, PortStats, info, offload, warn,
};
use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

/// Send buffer of a transmit queue: what a device may have in flight.
const SEND_BUFFER: u32 = 4 << 20;
/// Most sockets of a transmit queue, of which each gives its part of that.
const SEND_SOCKETS: u32 = 24;

/// What control threads and queues share.
pub(crate) struct Shared {
    /// Whether packets are let in.
    up: AtomicBool,
    /// Offloads turned on.
    offloads: AtomicU32,
    /// MTU in force.
    mtu: AtomicU32,
}

/// A port of the driver.
pub struct AfPacket {
    // Stopped before anything else goes.
    monitor: Mutex<Option<Monitor>>,
    device: Device,
    memberships: Memberships,
    rx: Vec<Arc<RxHandle>>,
    tx: Vec<Arc<TxHandle>>,
    shared: Arc<Shared>,
    exclusive: Mutex<Option<Exclusive>>,
    bound: Mutex<bool>,
    options: Options,
    vnet: bool,
    offered: u32,
}

/// A receive queue's part that control threads use as well.
pub(crate) struct RxHandle {
    socket: PacketSocket,
    stats: RxStats,
    missed: AtomicU64,
    freezes: AtomicU64,
}

/// A transmit queue's part that control threads use as well.
pub(crate) struct TxHandle {
    stats: TxStats,
    way: &'static str,
}

impl Driver for AfPacket {
    const NAME: &'static str = "af_packet";
    const SUMMARY: &'static str = "a network device of the kernel, by packet sockets";
    type Rx = PacketRx;
    type Tx = PacketTx;

    fn open(host: Host, req: &PortRequest<'_>) -> Result<Opened<Self>, Error> {
        let options = Options::of(req)?;
        let device = Device::find(&options.device)?;
        // The order matters for clean-up: on an early return, what was made so far is dropped, the device last.
        let memberships = Memberships::new(device.index(), device.name())?;
        let shared = Arc::new(Shared {
            up: AtomicBool::new(false),
            offloads: AtomicU32::new(0),
            mtu: AtomicU32::new(device.before().mtu),
        });

        let queues = options.queues.unwrap_or(req.rx_queues).max(1);
        let geometry = options.ring.geometry(queues);
        let mut rx_handles = Vec::new();
        let mut rx = Vec::new();
        for queue in 0..queues {
            let handle = Arc::new(rx_handle(&device, &options)?);
            let what = format!("a receive ring of {geometry} for {}", device.name());
            let ring = RxRing::new(handle.socket.raw_fd(), geometry).map_err(HostError::of(what, NET_RAW))?;
            rx.push(PacketRx::new(handle.clone(), ring, shared.clone(), queue as u16));
            rx_handles.push(handle);
        }
        let vnet = rx_handles.iter().all(|h| h.socket.has_vnet());
        if !vnet {
            let why = if options.offload { "the kernel refuses PACKET_VNET_HDR" } else { "offload = false" };
            info!("{}: {why}; checksums are completed in software, no segmentation offload", device.name());
        }

        let ring_tx = match options.tx.mode {
            TxMode::Auto => device.before().parent.is_some(),
            TxMode::Ring => true,
            TxMode::Sendmmsg => false,
        };
        let mut tx_handles = Vec::new();
        let mut tx = Vec::new();
        for _ in 0..req.tx_queues.max(1) {
            let (handle, queue) = tx_queue(&device, &options, &shared, vnet, ring_tx)?;
            tx_handles.push(handle);
            tx.push(queue);
        }

        let exclusive = if options.exclusive { take_over(&device)? } else { None };
        // From here on `port` undoes everything when it is dropped.
        let port = AfPacket {
            monitor: Mutex::new(None),
            memberships,
            rx: rx_handles,
            tx: tx_handles,
            shared,
            exclusive: Mutex::new(exclusive),
            bound: Mutex::default(),
            vnet,
            offered: offered(vnet),
            options,
            device,
        };
        port.shared.offloads.store(port.offered, Ordering::Relaxed);
        if req.mtu != 0 && req.mtu != port.device.before().mtu {
            port.set_mtu(req.mtu)?;
        }
        if port.options.promisc {
            port.set_promisc(true)?;
        }
        let ifindex = req.ifindex;
        let event = move |state| host.link_event(ifindex, state);
        *lock(&port.monitor) = Some(Monitor::start(port.device.index(), port.link_state(), event)?);
        let before = port.device.before();
        let details = PortDetails {
            mtu: if req.mtu != 0 { req.mtu } else { before.mtu },
            mtu_max: if before.mtu_max == 0 { 65535 } else { before.mtu_max },
            offloads: port.offered,
            mac: before.mac,
            ..PortDetails::default()
        };
        Ok(Opened { port, rx, tx, details })
    }

    fn set_up(&self, up: bool) -> Result<(), Error> {
        if up {
            self.device.set_up(true)?;
            self.bind()?;
        }
        self.shared.up.store(up, Ordering::Relaxed);
        // A port that is down gets no frames at all, or each would wake its worker in vain.
        for handle in &self.rx {
            handle
                .socket
                .refuse_all(!up)
                .map_err(HostError::of(format!("a socket filter on {}", self.device.name()), NET_RAW))?;
        }
        if !up {
            self.device.set_up(false)?;
        }
        Ok(())
    }

    fn link_state(&self) -> LinkState {
        self.device.link_state()
    }

    fn stats(&self) -> PortStats {
        self.read_kernel_statistics();
        let missed = self.rx.iter().map(|h| h.missed.load(Ordering::Relaxed)).sum();
        stats::port_stats(self.rx.iter().map(|h| &h.stats), self.tx.iter().map(|h| &h.stats), missed)
    }

    fn counters(&self) -> Vec<(String, u64)> {
        let mut all = stats::named(self.rx.iter().map(|h| &h.stats), self.tx.iter().map(|h| &h.stats));
        let freezes = self.rx.iter().map(|h| h.freezes.load(Ordering::Relaxed)).sum();
        all.push(("rx_ring_full".into(), freezes));
        all
    }

    fn set_promisc(&self, on: bool) -> Result<(), Error> {
        Ok(self.memberships.set_promisc(on)?)
    }

    fn set_multicast(&self, list: &[MacAddr], all: bool) -> Result<(), Error> {
        Ok(self.memberships.set_multicast(list, all)?)
    }

    fn set_mac(&self, mac: MacAddr) -> Result<(), Error> {
        Ok(self.device.set_mac(mac)?)
    }

    fn set_mtu(&self, mtu: u32) -> Result<(), Error> {
        self.device.set_mtu(mtu)?;
        self.shared.mtu.store(mtu, Ordering::Relaxed);
        Ok(())
    }

    fn set_offloads(&self, mask: u32) -> Result<(), Error> {
        if mask & !self.offered != 0 {
            return Err(Error::new(format!("offloads {:#x} are not offered", mask & !self.offered)));
        }
        if self.vnet && mask & offload::LRO == 0 {
            let device = self.device.name();
            return Err(Error::new(format!(
                "a packet socket takes frames as the device gives them; to stop large ones, run `ethtool -K {device} gro off`"
            )));
        }
        self.shared.offloads.store(mask, Ordering::Relaxed);
        Ok(())
    }

    fn status(&self) -> serde_json::Value {
        self.read_kernel_statistics();
        let state = self.memberships.state();
        serde_json::json!({
            "device": self.device.name(),
            "kernel_ifindex": self.device.index(),
            "kind": self.device.before().kind,
            "bus_device": self.device.before().parent,
            "exclusive": lock(&self.exclusive).as_ref().map(Exclusive::way),
            "vnet_hdr": self.vnet,
            "promisc": state.promisc,
            "all_multicast": state.all_multicast,
            "multicast": state.multicast.len(),
            "fanout": if self.rx.len() > 1 { Some(self.options.fanout) } else { None },
            "rx_ring": self.options.ring.geometry(self.rx.len()),
            "rx_queues": self.rx.iter().map(|h| serde_json::json!({
                "packets": h.stats.packets.get(),
                "missed": h.missed.load(Ordering::Relaxed),
            })).collect::<Vec<_>>(),
            "tx_queues": self.tx.iter().map(|h| serde_json::json!({
                "packets": h.stats.packets.get(),
                "kicks": h.stats.kicks.get(),
                "way": h.way,
            })).collect::<Vec<_>>(),
        })
    }

    fn close(&self) {
        drop(lock(&self.monitor).take());
        if let Some(exclusive) = lock(&self.exclusive).take() {
            self.device.with_netlink(|netlink| exclusive.detach(netlink, self.device.index()));
        }
        self.device.restore();
    }
}

impl Drop for AfPacket {
    fn drop(&mut self) {
        self.close();
    }
}

impl AfPacket {
    /// Binds the sockets to the device, once; their filters keep frames out until `set_up` takes them off.
    fn bind(&self) -> Result<(), HostError> {
        let mut bound = lock(&self.bound);
        if *bound {
            return Ok(());
        }
        let failed = |what: &str| HostError::of(format!("{what} on {}", self.device.name()), NET_RAW);
        // A socket can join a fanout group only when it receives, and until then it gets every frame. So all are closed by
        // a filter until the group is complete; `set_up` opens them.
        for handle in &self.rx {
            handle.socket.refuse_all(true).map_err(failed("a socket filter"))?;
            handle.socket.bind(true).map_err(failed("receiving"))?;
        }
        if self.rx.len() > 1 {
            let mode: Fanout = self.options.fanout;
            let [first, others @ ..] = &self.rx[..] else { return Ok(()) };
            let group = first.socket.fanout_open(mode).map_err(failed("a fanout group"))?;
            for handle in others {
                handle.socket.fanout_join(mode, group).map_err(failed("joining a fanout group"))?;
            }
        }
        *bound = true;
        Ok(())
    }

    /// The kernel's counts begin anew with each reading, so they are added up here.
    fn read_kernel_statistics(&self) {
        for handle in &self.rx {
            let read = handle.socket.take_statistics();
            handle.missed.fetch_add(u64::from(read.drops), Ordering::Relaxed);
            handle.freezes.fetch_add(u64::from(read.freezes), Ordering::Relaxed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

fn offered(vnet: bool) -> u32 {
    let always = offload::RX_CSUM | offload::RX_VLAN | offload::TX_VLAN | offload::SCATTER;
    let with_header = offload::TX_CSUM | offload::TSO4 | offload::TSO6 | offload::LRO;
    match vnet {
        // The header learned of UDP segmentation in both directions with Linux 6.2.
        true if sys::kernel_at_least(6, 2) => always | with_header | offload::USO,
        true => always | with_header,
        false => always,
    }
}

fn rx_handle(device: &Device, options: &Options) -> Result<RxHandle, HostError> {
    let socket = PacketSocket::new(device.index(), options.offload)?;
    // What we send must not come back. Linux 4.20.
    socket.set(uapi::PACKET_IGNORE_OUTGOING, &1i32).map_err(HostError::of("PACKET_IGNORE_OUTGOING", NET_RAW))?;
    Ok(RxHandle { socket, stats: RxStats::default(), missed: AtomicU64::new(0), freezes: AtomicU64::new(0) })
}

fn tx_queue(
    device: &Device,
    options: &Options,
    shared: &Arc<Shared>,
    vnet: bool,
    with_ring: bool,
) -> Result<(Arc<TxHandle>, PacketTx), HostError> {
    let socket = || -> Result<PacketSocket, HostError> {
        let socket = PacketSocket::new(device.index(), vnet)?;
        if options.tx.qdisc_bypass {
            let failed = HostError::of("PACKET_QDISC_BYPASS", NET_RAW);
            socket.set(uapi::PACKET_QDISC_BYPASS, &1i32).map_err(failed)?;
        }
        Ok(socket)
    };
    let bind = |socket: &PacketSocket| {
        socket.bind(false).map_err(HostError::of(format!("sending on {}", device.name()), NET_RAW))
    };
    // An unprivileged process gets 208 KiB for a socket, which is three large TCP packets; several sockets give more.
    let first = socket()?;
    let share = first.set_send_buffer(SEND_BUFFER).max(1);
    let mut direct = vec![first];
    for _ in 1..(SEND_BUFFER / share).clamp(1, SEND_SOCKETS) {
        let one = socket()?;
        one.set_send_buffer(SEND_BUFFER);
        direct.push(one);
    }
    for socket in &direct {
        bind(socket)?;
    }
    let mut ring = None;
    if with_ring {
        let socket = socket()?;
        socket.set_send_buffer(SEND_BUFFER);
        // A frame that the kernel refuses must not block those behind it.
        socket.set(uapi::PACKET_LOSS, &1i32).map_err(HostError::of("PACKET_LOSS", NET_RAW))?;
        let made = TxRing::new(socket.raw_fd(), options.tx.geometry())
            .map_err(HostError::of(format!("a transmit ring for {}", device.name()), NET_RAW))?;
        bind(&socket)?;
        ring = Some((socket, made));
    }
    let way = if ring.is_some() { "ring" } else { "sendmmsg" };
    let handle = Arc::new(TxHandle { stats: TxStats::default(), way });
    let queue = PacketTx::new(handle.clone(), shared.clone(), direct, vnet, ring);
    Ok((handle, queue))
}

/// Keeps the kernel's own stack off the device.
fn take_over(device: &Device) -> Result<Option<Exclusive>, HostError> {
    match device.with_netlink(|netlink| Exclusive::attach(netlink, device.index())) {
        Ok(exclusive) => {
            device.quiet_ipv6();
            Ok(Some(exclusive))
        }
        Err(reason) => match device.addresses().into_iter().next() {
            Some(address) => Err(HostError::NotExclusive { device: device.name().into(), address, reason }),
            None => {
                warn!(
                    "{}: the kernel's stack also receives what arrives here ({reason}); it has no address here, so it \
                     stays silent",
                    device.name()
                );
                Ok(None)
            }
        },
    }
}
