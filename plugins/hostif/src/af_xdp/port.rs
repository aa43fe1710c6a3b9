//! A port by AF_XDP: opened by the best way that device and kernel offer, and its control functions.

use super::{
    Area, QueueHandle, Shared,
    options::{Choice, Mode, Options, Sizes},
    program::Attached,
    rx::XskRx,
    socket::{self, Bound, Probe, Setup, Way},
    tx::{self, XskTx},
};
use crate::{
    device::Device,
    error::{HostError, NET_ADMIN},
    ethtool::{self, Queues},
    link::Monitor,
    membership::Memberships,
    stats::{self, Count, RxStats, TxStats},
};
use smpnet_plugin::{Host, LinkState, MacAddr, PortDetails, PortRequest, PortStats, info, offload, warn};
use std::{
    fmt::Write,
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

/// Bytes of an Ethernet header with one 802.1Q tag.
const LINK_HEADER: usize = 18;

/// A port by AF_XDP.
pub struct XskPort {
    // Stopped before anything else goes.
    monitor: Mutex<Option<Monitor>>,
    attached: Mutex<Option<Attached>>,
    memberships: Memberships,
    queues: Mutex<Vec<Arc<QueueHandle>>>,
    drops: Mutex<Drops>,
    device: Device,
    shared: Arc<Shared>,
    reached: Reached,
    sizes: Sizes,
    mtu_max: u32,
    offered: u32,
}

/// By which way the device was reached.
#[derive(Clone, Debug)]
struct Reached {
    mode: Mode,
    way: Way,
    /// Why not by a better one.
    fallbacks: Vec<String>,
}

/// What the program dropped, by what the port was at the time.
#[derive(Clone, Copy, Debug, Default)]
struct Drops {
    /// The program's count when it was last read.
    read: u64,
    while_down: u64,
    no_socket: u64,
}

/// Why a port could not be opened.
pub enum Failed {
    /// Nothing else would help.
    Config(smpnet_plugin::Error),
    /// Device or kernel lack something; packet sockets may do.
    Kernel(String),
}

impl From<HostError> for Failed {
    fn from(e: HostError) -> Self {
        match e {
            HostError::Permission { .. } | HostError::Kernel { .. } => Failed::Kernel(e.to_string()),
            other => Failed::Config(other.into()),
        }
    }
}

/// A port that was opened.
pub struct Parts {
    /// The port.
    pub port: XskPort,
    /// Its receive queues.
    pub rx: Vec<XskRx>,
    /// Its transmit queues.
    pub tx: Vec<XskTx>,
    /// What the router should know of it.
    pub details: PortDetails,
}

/// The program and the sockets by one way.
struct Sockets {
    attached: Attached,
    bound: Vec<(u32, Bound)>,
    reached: Reached,
}

/// Opens a port by the best way that there is.
pub fn open(host: Host, req: &PortRequest<'_>, options: &Options) -> Result<Parts, Failed> {
    let device = Device::find(&options.device).map_err(|e| match e {
        HostError::Permission { .. } => Failed::from(e),
        other => Failed::Config(other.into()),
    })?;
    let area = Area::of(host.pool()).map_err(Failed::Kernel)?;
    let queues = queues_of(&device);
    let served = options.queues.map_or(queues.rx, |n| n.min(queues.rx));
    if served < queues.rx {
        warn!(
            "{}: {} receive queues, of which {served} are served: what the others receive is dropped (rx_no_socket); run `ethtool -L {} combined {served}`",
            device.name(),
            queues.rx,
            device.name()
        );
    }
    let sizes = options.ring.sizes(area.cells(), served);
    let memberships = Memberships::new(device.index(), device.name())?;
    let mtu = if req.mtu != 0 { req.mtu } else { device.before().mtu };
    let sockets = reach(&device, area, sizes, served, options, mtu)?;
    let mtu_max = mtu_max(area, sockets.reached.way).min(match device.before().mtu_max {
        0 => u32::MAX,
        max => max,
    });
    let shared = Arc::new(Shared {
        up: AtomicBool::new(false),
        running: AtomicBool::new(device.before().is_running()),
        mtu: AtomicU32::new(device.before().mtu),
    });
    let open_checksums = match options.open_checksums {
        Choice::Auto => device.before().parent.is_none(),
        choice => choice == Choice::Yes,
    };
    hints(&device, &sockets.reached, options);

    let Sockets { attached, bound, reached } = sockets;
    let (mut handles, mut rx, mut tx) = (Vec::new(), Vec::new(), Vec::new());
    for (queue, Bound { fd, rings, metadata }) in bound {
        let mut busy_poll = false;
        if let Some(busy) = options.busy_poll {
            match socket::set_busy_poll(fd.as_raw_fd(), busy) {
                Ok(()) => busy_poll = true,
                Err(e) => warn!("{}: no busy polling: {e} (needs Linux 5.11 and CAP_NET_ADMIN)", device.name()),
            }
        }
        let zero_copy = socket::is_zero_copy(fd.as_raw_fd());
        let probe =
            Probe::new(area, device.index(), queue).map_err(|e| Failed::Kernel(format!("an AF_XDP socket: {e}")))?;
        let handle = Arc::new(QueueHandle {
            socket: Some(fd),
            probe: Some(probe),
            area,
            queue,
            zero_copy,
            multi_buffer: reached.way.multi_buffer,
            // Drivers that read the memory themselves each have their own mind about metadata.
            metadata: metadata && !zero_copy,
            open_checksums,
            busy_poll,
            rx: RxStats::default(),
            tx: TxStats::default(),
            csum_open: Count::default(),
            csum_completed: Count::default(),
            left: Mutex::default(),
        });
        rx.push(XskRx::new(rings.rx, rings.fill, handle.clone(), shared.clone()));
        // A queue that only receives would take packets and keep them.
        if queue < queues.tx.max(1) {
            tx.push(XskTx::new(rings.tx, rings.completion, handle.clone(), shared.clone()));
        }
        handles.push(handle);
    }
    device.quiet_ipv6();
    let scatter = if reached.way.multi_buffer { offload::SCATTER } else { 0 };
    // From here on `port` undoes everything when it is dropped.
    let port = XskPort {
        monitor: Mutex::new(None),
        attached: Mutex::new(Some(attached)),
        memberships,
        queues: Mutex::new(handles),
        drops: Mutex::default(),
        shared,
        reached,
        sizes,
        mtu_max,
        offered: offload::TX_CSUM | scatter,
        device,
    };
    if req.mtu != 0 && req.mtu != port.device.before().mtu {
        port.set_mtu(req.mtu)?;
    }
    if options.promisc {
        port.memberships.set_promisc(true)?;
    }
    let (ifindex, running) = (req.ifindex, port.shared.clone());
    let event = move |state: LinkState| {
        running.running.store(state.state == 1, Ordering::Relaxed);
        host.link_event(ifindex, state);
    };
    *lock(&port.monitor) = Some(Monitor::start(port.device.index(), port.link_state(), event)?);
    let details = PortDetails {
        mtu,
        mtu_max: port.mtu_max,
        offloads: port.offered,
        mac: port.device.before().mac,
        ..PortDetails::default()
    };
    Ok(Parts { port, rx, tx, details })
}

impl XskPort {
    /// See [`smpnet_plugin::Driver::set_up`].
    pub fn set_up(&self, up: bool) -> Result<(), HostError> {
        let failed = || HostError::of(format!("the sockets of {}", self.device.name()), NET_ADMIN);
        if up {
            self.device.set_up(true)?;
            self.shared.running.store(self.link_state().state == 1, Ordering::Relaxed);
        }
        // What was dropped until now was dropped for what the port was until now.
        self.read_drops();
        self.shared.up.store(up, Ordering::Relaxed);
        if let Some(attached) = &*lock(&self.attached) {
            for handle in &*lock(&self.queues) {
                match up {
                    true => attached.admit(handle.queue, handle.raw_fd()).map_err(failed())?,
                    false => attached.shut(handle.queue).map_err(failed())?,
                }
            }
        }
        if !up {
            self.device.set_up(false)?;
        }
        Ok(())
    }

    /// See [`smpnet_plugin::Driver::link_state`].
    pub fn link_state(&self) -> LinkState {
        self.device.link_state()
    }

    /// See [`smpnet_plugin::Driver::stats`].
    pub fn stats(&self) -> PortStats {
        let (queues, drops) = (lock(&self.queues), self.read_drops());
        let kernel = kernel_statistics(&queues);
        let missed = kernel.rx_dropped + kernel.rx_ring_full + drops.no_socket;
        let mut stats = stats::port_stats(queues.iter().map(|q| &q.rx), queues.iter().map(|q| &q.tx), missed);
        stats.tx_errors += kernel.tx_invalid;
        stats
    }

    /// See [`smpnet_plugin::Driver::counters`].
    pub fn counters(&self) -> Vec<(String, u64)> {
        let (queues, drops) = (lock(&self.queues), self.read_drops());
        let kernel = kernel_statistics(&queues);
        let mut all = stats::named(queues.iter().map(|q| &q.rx), queues.iter().map(|q| &q.tx));
        if let Some((_, while_down)) = all.iter_mut().find(|(name, _)| name == "rx_while_down") {
            *while_down += drops.while_down;
        }
        let sum = |count: fn(&QueueHandle) -> &Count| queues.iter().map(|q| count(q).get()).sum::<u64>();
        let own = [
            ("rx_csum_open", sum(|q| &q.csum_open)),
            ("tx_csum_completed", sum(|q| &q.csum_completed)),
            ("rx_no_socket", drops.no_socket),
            ("rx_dropped", kernel.rx_dropped),
            ("rx_ring_full", kernel.rx_ring_full),
            ("rx_fill_empty", kernel.fill_empty),
            ("rx_invalid_descs", kernel.rx_invalid),
            ("tx_invalid_descs", kernel.tx_invalid),
        ];
        all.extend(own.map(|(name, value)| (name.to_owned(), value)));
        all
    }

    /// What the device is asked for.
    pub fn memberships(&self) -> &Memberships {
        &self.memberships
    }

    /// Bits of [`offload`] that the port can do.
    pub fn offered(&self) -> u32 {
        self.offered
    }

    /// See [`smpnet_plugin::Driver::set_mac`].
    pub fn set_mac(&self, mac: MacAddr) -> Result<(), HostError> {
        self.device.set_mac(mac)
    }

    /// See [`smpnet_plugin::Driver::set_mtu`].
    pub fn set_mtu(&self, mtu: u32) -> Result<(), HostError> {
        if mtu > self.mtu_max {
            return Err(HostError::Option(too_long(self.device.name(), mtu, self.mtu_max, self.reached.way)));
        }
        self.device.set_mtu(mtu)?;
        self.shared.mtu.store(mtu, Ordering::Relaxed);
        Ok(())
    }

    /// See [`smpnet_plugin::Driver::status`].
    pub fn status(&self) -> serde_json::Value {
        let memberships = self.memberships.state();
        let queues = lock(&self.queues);
        let of = |q: &Arc<QueueHandle>| {
            let kernel = socket::statistics(q.raw_fd());
            serde_json::json!({
                "queue": q.queue,
                "rx_packets": q.rx.packets.get(),
                "rx_missed": kernel.rx_dropped + kernel.rx_ring_full,
                "tx_packets": q.tx.packets.get(),
                "kicks": q.tx.kicks.get(),
                "zero_copy": q.zero_copy,
                "busy_poll": q.busy_poll,
                "checksums": if q.metadata { "kernel" } else { "software" },
            })
        };
        serde_json::json!({
            "device": self.device.name(),
            "kernel_ifindex": self.device.index(),
            "kind": self.device.before().kind,
            "bus_device": self.device.before().parent,
            "mode": self.reached.mode,
            "zero_copy": self.reached.way.zero_copy,
            "multi_buffer": self.reached.way.multi_buffer,
            "fallbacks": self.reached.fallbacks,
            "running": self.shared.running.load(Ordering::Relaxed),
            "mtu_max": self.mtu_max,
            "rings": self.sizes,
            "promisc": memberships.promisc,
            "all_multicast": memberships.all_multicast,
            "multicast": memberships.multicast.len(),
            "queues": queues.iter().map(of).collect::<Vec<_>>(),
        })
    }

    /// See [`smpnet_plugin::Driver::close`].
    pub fn close(&self) {
        drop(lock(&self.monitor).take());
        // No frame is on its way to the sockets when they are closed.
        drop(lock(&self.attached).take());
        lock(&self.queues).clear();
        self.device.restore();
    }

    /// Sorts what the program dropped since last time.
    fn read_drops(&self) -> Drops {
        let mut drops = lock(&self.drops);
        if let Some(attached) = &*lock(&self.attached) {
            let now = attached.dropped();
            let new = now.saturating_sub(drops.read);
            match self.shared.up.load(Ordering::Relaxed) {
                true => drops.no_socket += new,
                false => drops.while_down += new,
            }
            drops.read = now;
        }
        *drops
    }
}

impl Drop for XskPort {
    fn drop(&mut self) {
        self.close();
    }
}

/// What the device has; one of each where it does not say.
fn queues_of(device: &Device) -> Queues {
    match ethtool::queues(device.name()) {
        Ok(queues) => Queues { rx: queues.rx.clamp(1, 256), tx: queues.tx.clamp(1, 256) },
        // No channels (a tun device): as many as the kernel lets us have.
        Err(_) => {
            let rx = device.before().rx_queues.clamp(1, 256);
            Queues { rx, tx: device.before().tx_queues.clamp(1, 256) }
        }
    }
}

/// Puts the program on the device and binds a socket to each queue, by the best way that works.
fn reach(
    device: &Device,
    area: Area,
    sizes: Sizes,
    queues: u32,
    options: &Options,
    mtu: u32,
) -> Result<Sockets, Failed> {
    let mut fallbacks = Vec::new();
    let modes: &[Mode] = match options.mode {
        Mode::Auto => &[Mode::Native, Mode::Generic],
        Mode::Native => &[Mode::Native],
        Mode::Generic => &[Mode::Generic],
    };
    for mode in modes {
        let ways = ways(area, *mode, options, mtu, &mut fallbacks);
        if ways.is_empty() {
            continue;
        }
        let attached = match attach(device, *mode, queues, options) {
            Ok(attached) => attached,
            Err(why) => {
                fallbacks.push(why);
                continue;
            }
        };
        for way in ways {
            match bind_all(device, area, sizes, queues, way) {
                Ok(bound) => {
                    for why in &fallbacks {
                        info!("{}: {why}", device.name());
                    }
                    return Ok(Sockets { attached, bound, reached: Reached { mode: *mode, way, fallbacks } });
                }
                Err(why) => fallbacks.push(format!("{}: {why}", describe(*mode, way))),
            }
        }
    }
    Err(Failed::Kernel(fallbacks.join("; ")))
}

fn attach(device: &Device, mode: Mode, queues: u32, options: &Options) -> Result<Attached, String> {
    // Kernels before 5.18, and drivers that cannot, refuse a program for frames in several buffers.
    let with_frags = if options.multi_buffer == Choice::No { &[false][..] } else { &[true, false] };
    let mut why = String::new();
    for frags in with_frags {
        match Attached::new(device.index(), mode, queues, *frags) {
            Ok(attached) => return Ok(attached),
            Err(e) => {
                why = match e.raw_os_error() {
                    Some(libc::EBUSY | libc::EEXIST) => {
                        format!(
                            "another XDP program is on {} (`ip link set {} xdp off` takes it off)",
                            device.name(),
                            device.name()
                        )
                    }
                    Some(libc::ERANGE) => "the driver takes no frames of this MTU in one buffer".into(),
                    Some(libc::EPERM) => "bpf(2) needs CAP_BPF and CAP_NET_ADMIN of the machine".into(),
                    _ => e.to_string(),
                };
            }
        }
    }
    Err(format!("no XDP program in {} mode: {why}", word(mode)))
}

/// The ways to be tried in a mode, the best first.
fn ways(area: Area, mode: Mode, options: &Options, mtu: u32, fallbacks: &mut Vec<String>) -> Vec<Way> {
    let mut copying = Vec::new();
    if mode == Mode::Native && options.zero_copy != Choice::No {
        if area.is_huge() {
            copying.push(true);
        } else {
            fallbacks.push(
                "no zero copy: the packet pool is not in huge pages (`sysctl -w vm.nr_hugepages=...` before smpnet starts)"
                    .into(),
            );
        }
    }
    if options.zero_copy != Choice::Yes {
        copying.push(false);
    }
    let buffers: &[bool] = match options.multi_buffer {
        Choice::Auto => &[true, false],
        Choice::Yes => &[true],
        Choice::No => &[false],
    };
    let all =
        copying.into_iter().flat_map(|zero_copy| buffers.iter().map(move |b| Way { zero_copy, multi_buffer: *b }));
    let fits = |way: &Way| match mtu_max(area, *way) {
        max if max >= mtu => true,
        max => {
            fallbacks.push(too_long("", mtu, max, *way).trim_start().into());
            false
        }
    };
    all.collect::<Vec<_>>().into_iter().filter(fits).collect()
}

fn bind_all(device: &Device, area: Area, sizes: Sizes, queues: u32, way: Way) -> Result<Vec<(u32, Bound)>, String> {
    let mut bound = Vec::new();
    for queue in 0..queues {
        match (Setup { area, device: device.index(), queue, sizes, way }.bind()) {
            Ok(one) => bound.push((queue, one)),
            // Devices that do not tell how many queues they have in use.
            Err(e) if queue > 0 && e.source.raw_os_error() == Some(libc::EINVAL) => break,
            Err(e) => return Err(format!("queue {queue}: {e}")),
        }
    }
    Ok(bound)
}

/// The longest frame's network part.
fn mtu_max(area: Area, way: Way) -> u32 {
    let cells = if way.multi_buffer && !area.cells_exceed_chunks() { tx::CELLS_MAX } else { 1 };
    (area.room() * cells - LINK_HEADER) as u32
}

fn too_long(device: &str, mtu: u32, max: u32, way: Way) -> String {
    let mut text = format!("{device} MTU {mtu} is too large: at most {max}");
    let _written = match way.multi_buffer {
        true => write!(text, " in {} cells of the packet pool; a larger cell_size in [pool] gives more", tx::CELLS_MAX),
        false => write!(
            text,
            " in one cell of the packet pool; a larger cell_size in [pool] gives more (up to 3822), or driver = \"af_packet\""
        ),
    };
    text
}

fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Generic => "generic",
        _ => "native",
    }
}

fn describe(mode: Mode, way: Way) -> String {
    let copy = if way.zero_copy { "zero copy" } else { "copying" };
    let cells = if way.multi_buffer { "frames in several cells" } else { "frames in one cell" };
    format!("{} mode, {copy}, {cells}", word(mode))
}

/// Says what would be lost or slow, and what to type.
fn hints(device: &Device, reached: &Reached, options: &Options) {
    let name = device.name();
    if device.before().parent.is_some() {
        if ethtool::takes_tags_off(name).unwrap_or(false) {
            warn!(
                "{name}: the device takes 802.1Q tags off, and XDP does not see them: run `ethtool -K {name} rxvlan off`"
            );
        }
    } else {
        info!(
            "{name}: 802.1Q tags reach XDP only when the sender puts them into the frame: `ethtool -K DEV txvlan off` there"
        );
        if reached.mode == Mode::Generic {
            warn!(
                "{name}: in generic mode packets for segmentation offload come whole and cannot be cut: run `ethtool -K DEV tso off gso off` at the sender"
            );
        }
    }
    if options.busy_poll.is_some() {
        let zero = |what: &str| {
            let path = format!("/sys/class/net/{name}/{what}");
            std::fs::read_to_string(path).is_ok_and(|v| v.trim() == "0")
        };
        if zero("napi_defer_hard_irqs") || zero("gro_flush_timeout") {
            info!(
                "{name}: busy polling keeps interrupts away only with `echo 2 > /sys/class/net/{name}/napi_defer_hard_irqs` and `echo 200000 > /sys/class/net/{name}/gro_flush_timeout`"
            );
        }
    }
}

fn kernel_statistics(queues: &[Arc<QueueHandle>]) -> socket::Statistics {
    queues.iter().map(|q| socket::statistics(q.raw_fd())).fold(Default::default(), |sum, one| socket::Statistics {
        rx_dropped: sum.rx_dropped + one.rx_dropped,
        rx_invalid: sum.rx_invalid + one.rx_invalid,
        tx_invalid: sum.tx_invalid + one.tx_invalid,
        rx_ring_full: sum.rx_ring_full + one.rx_ring_full,
        fill_empty: sum.fill_empty + one.fill_empty,
        tx_empty: sum.tx_empty + one.tx_empty,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
