//! The driver `tap`: a network device made for the purpose, whose other end is this port (`Documentation/networking/tuntap.rst`).
//!
//! What the kernel (or a virtual machine that bridges the device) sends into the device is received here, and what is sent
//! here arrives there. So the two ends are two stations: the kernel's end has an address of its own, and the port has
//! another, made of the interface's name unless the option `mac` gives one.
//!
//! Each queue is a descriptor of the multi-queue device and serves one receive and one transmit queue. A packet costs a
//! system call, which is all that the interface offers; its bytes go straight into and out of cells, with the virtio-net
//! header before them.

mod queue;

pub use queue::{TapRx, TapTx};

use crate::{
    cells::local_mac,
    device::{self, Device},
    error::{HostError, NET_ADMIN},
    link::Monitor,
    stats::{self, RxStats, TxStats},
    sys, uapi,
    vnet::VNET_HDR_LEN,
};
use serde::Deserialize;
use smpnet_plugin::{
    Driver, Error, Host, LinkState, MacAddr, Opened, PortDetails, PortRequest, PortStats, info, offload,
};
use std::{
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

/// `options = { ... }` of an interface with `driver = "tap"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Name of the device in the kernel; the interface's own name if it is not given.
    pub name: String,
    /// Queues; as many as the router wants if it is not given.
    pub queues: Option<usize>,
    /// The port's address, `02:00:00:00:00:01`.
    pub mac: Option<String>,
    /// Bring the kernel's end up.
    pub up: bool,
    /// Leave the device behind on close.
    pub persist: bool,
    /// User who may attach to a persistent device.
    pub owner: Option<u32>,
    /// Checksum and segmentation offload.
    pub offload: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { name: String::new(), queues: None, mac: None, up: true, persist: false, owner: None, offload: true }
    }
}

/// What control threads and queues share.
pub(crate) struct Shared {
    up: AtomicBool,
}

/// One queue's part that control threads use as well.
pub(crate) struct QueueHandle {
    fd: OwnedFd,
    rx: RxStats,
    tx: TxStats,
}

/// A port of the driver.
pub struct Tap {
    monitor: Mutex<Option<Monitor>>,
    device: Device,
    queues: Vec<Arc<QueueHandle>>,
    shared: Arc<Shared>,
    mac: Mutex<MacAddr>,
    offered: u32,
    /// Packets that the kernel had dropped before the port was opened (a persistent device).
    dropped_before: u64,
    options: Options,
}

impl Driver for Tap {
    const NAME: &'static str = "tap";
    const SUMMARY: &'static str = "a new network device of the kernel, whose other end is the port";
    type Rx = TapRx;
    type Tx = TapTx;

    fn open(host: Host, req: &PortRequest<'_>) -> Result<Opened<Self>, Error> {
        let mut options: Options = if req.options.is_null() { Options::default() } else { req.parse()? };
        if options.name.is_empty() {
            options.name = req.name.to_owned();
        }
        device::check_name(&options.name)?;
        let mac = match &options.mac {
            Some(text) => parse_mac(text)?,
            None => local_mac(req.name),
        };
        let wanted = options.queues.unwrap_or(req.rx_queues.max(req.tx_queues)).clamp(1, 256);
        let fds = open_queues(&options.name, wanted)?;
        let offered = set_up_queues(&fds, &options)?;
        let device = Device::find(&options.name)?;
        let shared = Arc::new(Shared { up: AtomicBool::new(false) });
        let queues: Vec<_> = fds
            .into_iter()
            .map(|fd| Arc::new(QueueHandle { fd, rx: RxStats::default(), tx: TxStats::default() }))
            .collect();
        let rx = queues.iter().enumerate().map(|(i, q)| TapRx::new(q.clone(), shared.clone(), i as u16)).collect();
        let tx = queues.iter().map(|q| TapTx::new(q.clone())).collect();
        let dropped_before = device.before().tx_dropped;
        let port = Tap {
            monitor: Mutex::new(None),
            device,
            queues,
            shared,
            mac: Mutex::new(mac),
            offered,
            dropped_before,
            options,
        };
        port.carrier(false)?;
        if req.mtu != 0 && req.mtu != port.device.before().mtu {
            port.device.set_mtu(req.mtu)?;
        }
        if port.options.up {
            port.device.set_up(true)?;
        }
        let ifindex = req.ifindex;
        let event = move |state| host.link_event(ifindex, state);
        *lock(&port.monitor) = Some(Monitor::start(port.device.index(), port.link_state(), event)?);
        let before = port.device.before();
        let details = PortDetails {
            mtu: if req.mtu != 0 { req.mtu } else { before.mtu },
            mtu_max: if before.mtu_max == 0 { 65521 } else { before.mtu_max },
            offloads: offered,
            mac,
            ..PortDetails::default()
        };
        Ok(Opened { port, rx, tx, details })
    }

    /// Down means that the kernel's end has no carrier, so that the kernel knows too.
    fn set_up(&self, up: bool) -> Result<(), Error> {
        self.shared.up.store(up, Ordering::Relaxed);
        Ok(self.carrier(up)?)
    }

    fn link_state(&self) -> LinkState {
        self.device.link_state()
    }

    fn stats(&self) -> PortStats {
        let dropped = self.device.now().map_or(self.dropped_before, |link| link.tx_dropped);
        let missed = dropped.saturating_sub(self.dropped_before);
        stats::port_stats(self.queues.iter().map(|q| &q.rx), self.queues.iter().map(|q| &q.tx), missed)
    }

    fn counters(&self) -> Vec<(String, u64)> {
        stats::named(self.queues.iter().map(|q| &q.rx), self.queues.iter().map(|q| &q.tx))
    }

    /// Every frame that the kernel sends into the device comes here anyway.
    fn set_promisc(&self, _on: bool) -> Result<(), Error> {
        Ok(())
    }

    /// As [`Tap::set_promisc`].
    fn set_multicast(&self, _list: &[MacAddr], _all: bool) -> Result<(), Error> {
        Ok(())
    }

    fn set_mac(&self, mac: MacAddr) -> Result<(), Error> {
        *lock(&self.mac) = mac;
        Ok(())
    }

    fn set_mtu(&self, mtu: u32) -> Result<(), Error> {
        Ok(self.device.set_mtu(mtu)?)
    }

    fn set_offloads(&self, mask: u32) -> Result<(), Error> {
        if mask & !self.offered != 0 {
            return Err(Error::new(format!("offloads {:#x} are not offered", mask & !self.offered)));
        }
        let (csum, lro) = (mask & offload::RX_CSUM != 0, mask & offload::LRO != 0);
        if lro && !csum {
            return Err("large packets (LRO) need RX_CSUM on a tap".into());
        }
        for queue in &self.queues {
            tun_offload(&queue.fd, csum, lro, self.offered & offload::USO != 0)?;
        }
        Ok(())
    }

    fn status(&self) -> serde_json::Value {
        let mac = lock(&self.mac).bytes.map(|b| format!("{b:02x}")).join(":");
        serde_json::json!({
            "device": self.device.name(),
            "kernel_ifindex": self.device.index(),
            "persist": self.options.persist,
            "mac": mac,
            "queues": self.queues.iter().map(|q| serde_json::json!({
                "rx_packets": q.rx.packets.get(),
                "tx_packets": q.tx.packets.get(),
            })).collect::<Vec<_>>(),
        })
    }

    fn close(&self) {
        drop(lock(&self.monitor).take());
        if self.options.persist {
            self.device.restore();
        }
        // Otherwise the device ends with its last descriptor.
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.close();
    }
}

impl Tap {
    /// Carrier of the kernel's end (Linux 4.20).
    fn carrier(&self, on: bool) -> Result<(), HostError> {
        let Some(first) = self.queues.first() else { return Ok(()) };
        let mut value = i32::from(on);
        sys::ioctl(first.fd.as_raw_fd(), libc::TUNSETCARRIER, &mut value)
            .map_err(HostError::of(format!("the carrier of {}", self.device.name()), NET_ADMIN))?;
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Opens the device with `wanted` queues, or with one when it exists already and has only one.
fn open_queues(name: &str, wanted: usize) -> Result<Vec<OwnedFd>, HostError> {
    let base = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let first = match attach(name, base | libc::IFF_MULTI_QUEUE) {
        Ok(fd) => fd,
        Err(HostError::Kernel { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
            // A persistent device that was made without multi_queue, or no tap at all.
            let fd = attach(name, base)?;
            if wanted > 1 {
                info!("{name} exists and was made without multi_queue: one queue");
            }
            return Ok(vec![fd]);
        }
        Err(e) => return Err(e),
    };
    let mut fds = vec![first];
    while fds.len() < wanted {
        fds.push(attach(name, base | libc::IFF_MULTI_QUEUE)?);
    }
    Ok(fds)
}

/// A descriptor of one queue.
fn attach(name: &str, flags: i32) -> Result<OwnedFd, HostError> {
    let path = c"/dev/net/tun";
    // SAFETY: a path that ends with NUL.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK) };
    let fd = sys::owned(fd).map_err(|e| match e.raw_os_error() {
        Some(libc::ENOENT) | Some(libc::ENODEV) | Some(libc::ENXIO) => HostError::NoTun,
        Some(libc::EACCES) => HostError::TunClosed,
        _ => HostError::of("opening /dev/net/tun", NET_ADMIN)(e),
    })?;
    let mut request = sys::ifreq(name);
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    sys::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &mut request).map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => HostError::Option(format!("the tap device {name} is in use by another process")),
        _ => HostError::of(format!("making the tap device {name}"), NET_ADMIN)(e),
    })?;
    Ok(fd)
}

/// Sets header size, offloads, owner and persistence; returns the offloads that the port can do.
fn set_up_queues(fds: &[OwnedFd], options: &Options) -> Result<u32, HostError> {
    let failed = |what: &str| HostError::of(format!("{what} of {}", options.name), NET_ADMIN);
    let mut offered = offload::RX_CSUM | offload::TX_CSUM | offload::TSO4 | offload::TSO6;
    offered |= offload::LRO | offload::USO | offload::TX_VLAN | offload::SCATTER;
    for fd in fds {
        let mut size = VNET_HDR_LEN as i32;
        sys::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &mut size).map_err(failed("the header size"))?;
        if tun_offload(fd, options.offload, options.offload, true).is_err() {
            // Segmentation of UDP came with Linux 6.2.
            offered &= !offload::USO;
            tun_offload(fd, options.offload, options.offload, false).map_err(failed("the offloads"))?;
        }
    }
    let Some(first) = fds.first() else { return Ok(offered) };
    if let Some(owner) = options.owner {
        sys::ioctl_value(first.as_raw_fd(), libc::TUNSETOWNER, u64::from(owner)).map_err(failed("the owner"))?;
    }
    // Also takes persistence away from a device that was left behind with it, unless it is wanted.
    sys::ioctl_value(first.as_raw_fd(), libc::TUNSETPERSIST, u64::from(options.persist))
        .map_err(failed("the persistence"))?;
    Ok(offered)
}

/// What the kernel may leave to us in packets that it gives us.
fn tun_offload(fd: &OwnedFd, csum: bool, large: bool, udp: bool) -> std::io::Result<()> {
    let mut flags = 0;
    if csum {
        flags |= libc::TUN_F_CSUM;
        if large {
            flags |= libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
            if udp {
                flags |= libc::TUN_F_USO4 | libc::TUN_F_USO6;
            }
        }
    }
    sys::ioctl_value(fd.as_raw_fd(), libc::TUNSETOFFLOAD, u64::from(flags)).map(|_| ())
}

fn parse_mac(text: &str) -> Result<MacAddr, HostError> {
    let bad = || {
        HostError::Option(format!("options: mac \"{text}\" is no unicast Ethernet address such as 02:00:00:00:00:01"))
    };
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
    }
    let good = parts.next().is_none() && bytes[0] & 1 == 0 && bytes != uapi::NO_MAC;
    if good { Ok(MacAddr { bytes }) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::parse_mac;

    #[test]
    fn only_unicast_addresses_are_taken() {
        assert_eq!(parse_mac("02:00:00:0a:0B:01").unwrap().bytes, [2, 0, 0, 10, 11, 1]);
        for bad in
            ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "03:00:00:00:00:01", "00:00:00:00:00:00", "2:0:0:0:0:1"]
        {
            assert!(parse_mac(bad).is_err(), "{bad:?}");
        }
    }
}
