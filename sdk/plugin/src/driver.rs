//! Drivers: ports with queues.

use crate::shim::{Health, host_of, making, options, say, text};
use crate::{Burst, DropReason, Error, Host, LinkState, MacAddr, PortStats, Worker, memory};
use serde::de::DeserializeOwned;
use smpnet_abi::{
    Cell, DriverTable, ErrBuf, FAILED, HostServices, NamedCounter, OK, PortConfig, PortInfo, RX_FAULT, Text,
};
use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::os::fd::RawFd;

/// A kind of port: a NIC, a host interface, a file.
///
/// Functions are called by control threads, one at a time per port, while workers are in the queues; what both touch
/// must be atomic.
pub trait Driver: Sized + Send + Sync + 'static {
    /// Name in the configuration (`driver = "..."`).
    const NAME: &'static str;
    /// One line on what it drives.
    const SUMMARY: &'static str;
    /// Its receive queues.
    type Rx: RxQueue;
    /// Its transmit queues.
    type Tx: TxQueue;

    /// Opens a port: at least one queue of each sort. On failure nothing stays behind.
    fn open(host: Host, req: &PortRequest<'_>) -> Result<Opened<Self>, Error>;

    /// Lets packets in or stops them.
    fn set_up(&self, up: bool) -> Result<(), Error> {
        let _ = up;
        Ok(())
    }

    /// The link state. Up, if the driver does not say.
    fn link_state(&self) -> LinkState {
        LinkState { state: 1, full_duplex: 1, speed: 0, _pad: 0 }
    }

    /// The statistics that every port has.
    fn stats(&self) -> PortStats {
        PortStats::default()
    }

    /// Counters of the driver's own, in the style `rx_crc_errors`; names beyond 39 bytes are cut.
    fn counters(&self) -> Vec<(String, u64)> {
        Vec::new()
    }

    /// Promiscuous mode.
    fn set_promisc(&self, on: bool) -> Result<(), Error> {
        let _ = on;
        Err(Error::unsupported())
    }

    /// The whole list of multicast addresses to receive, or every one.
    fn set_multicast(&self, list: &[MacAddr], all: bool) -> Result<(), Error> {
        let _ = (list, all);
        Err(Error::unsupported())
    }

    /// The port's own address.
    fn set_mac(&self, mac: MacAddr) -> Result<(), Error> {
        let _ = mac;
        Err(Error::unsupported())
    }

    /// The MTU, in bytes of the network layer.
    fn set_mtu(&self, mtu: u32) -> Result<(), Error> {
        let _ = mtu;
        Err(Error::unsupported())
    }

    /// Turns on exactly these of the offered [`crate::offload`] bits.
    fn set_offloads(&self, mask: u32) -> Result<(), Error> {
        let _ = mask;
        Err(Error::unsupported())
    }

    /// RSS key and redirection table, of the sizes that [`PortDetails`] gave.
    fn set_rss(&self, key: &[u8], table: &[u16]) -> Result<(), Error> {
        let _ = (key, table);
        Err(Error::unsupported())
    }

    /// The state of the port, for people: a JSON object.
    fn status(&self) -> serde_json::Value {
        serde_json::json!({})
    }

    /// Ends the port: no worker calls its queues any more. The queues are dropped first, and give back their packets by
    /// being dropped.
    fn close(&self) {}
}

/// A receive queue, called by one worker.
pub trait RxQueue: Send + 'static {
    /// Adds at most `max` received packets to `out`, which is empty and takes no more. Sets what the driver knows of
    /// them in their headers; `rcvif` is set by the SDK.
    fn rx_burst(&mut self, cx: &mut Worker<'_>, out: &mut Burst, max: usize);

    /// A descriptor that is readable while packets wait and the queue is armed. Asked once, when the port is opened.
    fn event_fd(&self) -> Option<RawFd> {
        None
    }

    /// The worker is about to sleep. True when packets wait already, so that it does not.
    fn arm(&mut self) -> bool {
        false
    }

    /// The worker is awake: events are not needed.
    fn disarm(&mut self) {}
}

/// A transmit queue, called by one worker.
pub trait TxQueue: Send + 'static {
    /// Sends packets: takes those it accepts off the front of `burst`; what stays was not accepted. An empty burst asks
    /// to reap sent packets and flush what is pending.
    fn tx_burst(&mut self, cx: &mut Worker<'_>, burst: &mut Burst);
}

/// How the router asks for a port.
pub struct PortRequest<'a> {
    /// Name of the interface.
    pub name: &'a str,
    /// Its index.
    pub ifindex: u32,
    /// The driver's own options: a JSON object.
    pub options: serde_json::Value,
    /// Receive queues wished for; fewer are fine, at least 1.
    pub rx_queues: usize,
    /// Transmit queues wished for; fewer are fine, at least 1.
    pub tx_queues: usize,
    /// Workers of this router.
    pub workers: usize,
    /// MTU wished for; 0 for the device's own.
    pub mtu: u32,
}

impl PortRequest<'_> {
    /// The options as a type of the driver's (with `#[serde(deny_unknown_fields)]`, so that a typing error is one).
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_value(self.options.clone()).map_err(|e| Error::from(e).context("options"))
    }
}

/// A port that was opened.
pub struct Opened<D: Driver> {
    /// The port.
    pub port: D,
    /// Its receive queues.
    pub rx: Vec<D::Rx>,
    /// Its transmit queues.
    pub tx: Vec<D::Tx>,
    /// What the router should know of it.
    pub details: PortDetails,
}

/// What the router should know of a port.
#[derive(Clone, Debug)]
pub struct PortDetails {
    /// Bits of [`crate::port_flags`].
    pub flags: u32,
    /// MTU in force.
    pub mtu: u32,
    /// Largest MTU that `set_mtu` takes.
    pub mtu_max: u32,
    /// Bits of [`crate::offload`] that the port can do.
    pub offloads: u32,
    /// The port's own address; zero for RAW_IP ports.
    pub mac: MacAddr,
    /// Entries of the RSS redirection table; 0 without RSS.
    pub rss_table: u16,
    /// Bytes of the RSS key; 0 without RSS.
    pub rss_key: u16,
}

impl Default for PortDetails {
    /// An Ethernet port with an MTU of 1500, without offloads and with an address of zero.
    fn default() -> Self {
        PortDetails {
            flags: 0,
            mtu: 1500,
            mtu_max: 1500,
            offloads: 0,
            mac: MacAddr::default(),
            rss_table: 0,
            rss_key: 0,
        }
    }
}

/// What the router's handle of a port points to.
struct Handle<D: Driver> {
    // Before `port`, so that the queues end first.
    rx: Vec<UnsafeCell<D::Rx>>,
    tx: Vec<UnsafeCell<D::Tx>>,
    event_fds: Vec<RawFd>,
    port: D,
    ifindex: u32,
    health: Health,
}

/// The table of a driver.
pub const fn table<D: Driver>() -> &'static DriverTable {
    const {
        &DriverTable {
            size: size_of::<DriverTable>() as u32,
            flags: 0,
            name: Text::new(D::NAME),
            summary: Text::new(D::SUMMARY),
            open: open::<D>,
            close: close::<D>,
            set_up: set_up::<D>,
            rx_burst: rx_burst::<D>,
            tx_burst: tx_burst::<D>,
            event_fd: event_fd::<D>,
            rx_arm: rx_arm::<D>,
            rx_disarm: rx_disarm::<D>,
            link_state: link_state::<D>,
            stats: stats::<D>,
            counters: counters::<D>,
            set_promisc: set_promisc::<D>,
            set_multicast: set_multicast::<D>,
            set_mac: set_mac::<D>,
            set_mtu: set_mtu::<D>,
            set_offloads: set_offloads::<D>,
            set_rss: set_rss::<D>,
            status: status::<D>,
        }
    }
}

unsafe extern "C" fn open<D: Driver>(
    host: *const HostServices,
    config: *const PortConfig,
    out: *mut PortInfo,
    err: *mut ErrBuf,
) -> i32 {
    making("open", err, || {
        // SAFETY: the host passes its table, a configuration and a place for the answer, all valid during the call.
        let (host, config, out) = unsafe { (host_of(host)?, &*config, &mut *out) };
        // SAFETY: texts of the configuration, as above.
        let (name, options) = unsafe { (text(config.name)?, options(config.options)?) };
        let req = PortRequest {
            name,
            ifindex: config.ifindex,
            options,
            rx_queues: usize::from(config.rx_queues),
            tx_queues: usize::from(config.tx_queues),
            workers: config.workers as usize,
            mtu: config.mtu,
        };
        let Opened { port, rx, tx, details } = D::open(host, &req)?;
        let queues = |n: usize, what: &str| match u16::try_from(n) {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(Error::new(format!("the driver opened {n} {what} queues"))),
        };
        let (rx_queues, tx_queues) = (queues(rx.len(), "receive")?, queues(tx.len(), "transmit")?);
        let handle = Handle::<D> {
            event_fds: rx.iter().map(|q| q.event_fd().unwrap_or(-1)).collect(),
            rx: rx.into_iter().map(UnsafeCell::new).collect(),
            tx: tx.into_iter().map(UnsafeCell::new).collect(),
            port,
            ifindex: config.ifindex,
            health: Health::default(),
        };
        *out = PortInfo {
            size: size_of::<PortInfo>() as u32,
            flags: details.flags,
            port: Box::into_raw(Box::new(handle)).cast(),
            rx_queues,
            tx_queues,
            mtu: details.mtu,
            mtu_max: details.mtu_max,
            offloads: details.offloads,
            mac: details.mac,
            rss_table: details.rss_table,
            rss_key: details.rss_key,
            _pad: [0; 3],
        };
        Ok(())
    })
}

unsafe extern "C" fn close<D: Driver>(port: *mut c_void) -> i32 {
    // SAFETY: made by `open`; the host gives it up, and no worker is in it.
    let handle = unsafe { Box::from_raw(port.cast::<Handle<D>>()) };
    let Handle { rx, tx, port, ifindex, .. } = *handle;
    // Each step on its own, whether or not a function has panicked before: what one of them holds must not stay behind
    // because of another.
    let end = |f: &mut dyn FnMut()| Health::default().run(ifindex, "close", f).is_some();
    let (mut queues, mut port) = (Some((rx, tx)), Some(port));
    let ended =
        [end(&mut || drop(queues.take())), end(&mut || port.iter().for_each(D::close)), end(&mut || drop(port.take()))];
    if ended == [true; 3] { OK } else { FAILED }
}

/// # Safety
/// `port` was made by `open::<D>` and not closed.
#[inline]
unsafe fn handle<'a, D: Driver>(port: *mut c_void) -> &'a Handle<D> {
    // SAFETY: the caller's word.
    unsafe { &*port.cast::<Handle<D>>() }
}

unsafe extern "C" fn rx_burst<D: Driver>(
    port: *mut c_void,
    queue: u32,
    worker: u32,
    cells: *mut Cell,
    max: u32,
) -> u32 {
    // SAFETY: a handle of `open`, by the ABI.
    let h = unsafe { handle::<D>(port) };
    let (Some(rx), Some(host)) = (h.rx.get(queue as usize), memory::host()) else { return 0 };
    let mut burst = Burst::with_limit(max as usize);
    let done = h.health.run(h.ifindex, "rx_burst", || {
        // SAFETY: only the worker that serves this queue calls, and only this and rx_arm and rx_disarm touch it.
        let rx = unsafe { &mut *rx.get() };
        // SAFETY: the host calls on that worker.
        rx.rx_burst(&mut unsafe { Worker::new(host, worker) }, &mut burst, max as usize);
    });
    if done.is_none() {
        return RX_FAULT;
    }
    for packet in &mut burst {
        packet.hdr_mut().rcvif = h.ifindex;
    }
    let n = burst.len();
    // SAFETY: the host has room for `max` cells, and the burst takes no more.
    unsafe { std::ptr::copy_nonoverlapping(burst.as_cells().as_ptr(), cells, n) };
    burst.forget();
    n as u32
}

unsafe extern "C" fn tx_burst<D: Driver>(
    port: *mut c_void,
    queue: u32,
    worker: u32,
    cells: *const Cell,
    n: u32,
) -> u32 {
    // SAFETY: a handle of `open`, by the ABI.
    let h = unsafe { handle::<D>(port) };
    let (Some(tx), Some(host)) = (h.tx.get(queue as usize), memory::host()) else { return 0 };
    let cells: &[Cell] = match n {
        0 => &[],
        // SAFETY: the host passes n cells.
        n => unsafe { std::slice::from_raw_parts(cells, n as usize) },
    };
    // SAFETY: the packets are ours until we say which were not accepted.
    let mut burst = unsafe { Burst::from_cells(cells) };
    // SAFETY: the host calls on that worker.
    let mut cx = unsafe { Worker::new(host, worker) };
    let done = h.health.run(h.ifindex, "tx_burst", || {
        // SAFETY: only the worker that serves this queue calls, and nothing else touches it.
        unsafe { &mut *tx.get() }.tx_burst(&mut cx, &mut burst);
    });
    if done.is_some() && cells.ends_with(burst.as_cells()) {
        let accepted = cells.len() - burst.len();
        burst.forget();
        return accepted as u32;
    }
    if done.is_some() {
        h.health.fault(h.ifindex, "tx_burst left packets that are not the last of the burst");
    }
    cx.drop_packets(h.ifindex, DropReason::PluginFault, burst);
    RX_FAULT
}

unsafe extern "C" fn event_fd<D: Driver>(port: *mut c_void, queue: u32) -> i32 {
    // SAFETY: a handle of `open`, by the ABI.
    unsafe { handle::<D>(port) }.event_fds.get(queue as usize).copied().unwrap_or(-1)
}

unsafe extern "C" fn rx_arm<D: Driver>(port: *mut c_void, queue: u32) -> i32 {
    // SAFETY: a handle of `open`, by the ABI.
    let h = unsafe { handle::<D>(port) };
    let Some(rx) = h.rx.get(queue as usize) else { return 0 };
    // SAFETY: as in rx_burst.
    h.health.run(h.ifindex, "arm", || unsafe { &mut *rx.get() }.arm()).map_or(0, i32::from)
}

unsafe extern "C" fn rx_disarm<D: Driver>(port: *mut c_void, queue: u32) -> i32 {
    // SAFETY: a handle of `open`, by the ABI.
    let h = unsafe { handle::<D>(port) };
    let Some(rx) = h.rx.get(queue as usize) else { return 0 };
    // SAFETY: as in rx_burst.
    h.health.run(h.ifindex, "disarm", || unsafe { &mut *rx.get() }.disarm()).map_or(FAILED, |()| OK)
}

unsafe extern "C" fn link_state<D: Driver>(port: *mut c_void, out: *mut LinkState) -> i32 {
    // SAFETY: a handle of `open`, by the ABI.
    let h = unsafe { handle::<D>(port) };
    let Some(state) = h.health.run(h.ifindex, "link_state", || h.port.link_state()) else { return FAILED };
    // SAFETY: the host passes a place for the answer.
    unsafe { out.write(state) };
    OK
}

unsafe extern "C" fn stats<D: Driver>(port: *mut c_void, out: *mut PortStats) -> i32 {
    // SAFETY: a handle of `open`, by the ABI.
    let h = unsafe { handle::<D>(port) };
    let Some(stats) = h.health.run(h.ifindex, "stats", || h.port.stats()) else { return FAILED };
    // SAFETY: the host passes a place for the answer.
    unsafe { out.write(stats) };
    OK
}

unsafe extern "C" fn counters<D: Driver>(port: *mut c_void, out: *mut NamedCounter, max: u32) -> u32 {
    // SAFETY: a handle of `open`, by the ABI.
    let h = unsafe { handle::<D>(port) };
    let all = h.health.run(h.ifindex, "counters", || h.port.counters()).unwrap_or_default();
    for (i, (text, value)) in all.iter().take(max as usize).enumerate() {
        let mut name = [0; 40];
        let mut n = text.len().min(39);
        while !text.is_char_boundary(n) {
            n -= 1;
        }
        name[..n].copy_from_slice(&text.as_bytes()[..n]);
        // SAFETY: the host has room for `max`.
        unsafe { out.add(i).write(NamedCounter { name, value: *value }) };
    }
    all.len() as u32
}

unsafe extern "C" fn set_up<D: Driver>(port: *mut c_void, up: u32, err: *mut ErrBuf) -> i32 {
    // SAFETY: a handle of `open`, by the ABI.
    let h = unsafe { handle::<D>(port) };
    h.health.control(h.ifindex, "set_up", err, || h.port.set_up(up != 0))
}

unsafe extern "C" fn set_promisc<D: Driver>(port: *mut c_void, on: u32, err: *mut ErrBuf) -> i32 {
    // SAFETY: a handle of `open`, by the ABI.
    let h = unsafe { handle::<D>(port) };
    h.health.control(h.ifindex, "set_promisc", err, || h.port.set_promisc(on != 0))
}

unsafe extern "C" fn set_multicast<D: Driver>(
    port: *mut c_void,
    list: *const MacAddr,
    n: u32,
    all: u32,
    err: *mut ErrBuf,
) -> i32 {
    // SAFETY: a handle of `open`, by the ABI; `n` addresses at `list`.
    let (h, list) = unsafe { (handle::<D>(port), slice(list, n)) };
    h.health.control(h.ifindex, "set_multicast", err, || h.port.set_multicast(list, all != 0))
}

unsafe extern "C" fn set_mac<D: Driver>(port: *mut c_void, mac: *const MacAddr, err: *mut ErrBuf) -> i32 {
    // SAFETY: a handle of `open`, by the ABI; an address.
    let (h, mac) = unsafe { (handle::<D>(port), *mac) };
    h.health.control(h.ifindex, "set_mac", err, || h.port.set_mac(mac))
}

unsafe extern "C" fn set_mtu<D: Driver>(port: *mut c_void, mtu: u32, err: *mut ErrBuf) -> i32 {
    // SAFETY: a handle of `open`, by the ABI.
    let h = unsafe { handle::<D>(port) };
    h.health.control(h.ifindex, "set_mtu", err, || h.port.set_mtu(mtu))
}

unsafe extern "C" fn set_offloads<D: Driver>(port: *mut c_void, mask: u32, err: *mut ErrBuf) -> i32 {
    // SAFETY: a handle of `open`, by the ABI.
    let h = unsafe { handle::<D>(port) };
    h.health.control(h.ifindex, "set_offloads", err, || h.port.set_offloads(mask))
}

unsafe extern "C" fn set_rss<D: Driver>(
    port: *mut c_void,
    key: *const u8,
    key_len: u32,
    table: *const u16,
    table_len: u32,
    err: *mut ErrBuf,
) -> i32 {
    // SAFETY: a handle of `open`, by the ABI; key and table of those lengths.
    let (h, key, table) = unsafe { (handle::<D>(port), slice(key, key_len), slice(table, table_len)) };
    h.health.control(h.ifindex, "set_rss", err, || h.port.set_rss(key, table))
}

unsafe extern "C" fn status<D: Driver>(port: *mut c_void, out: *mut ErrBuf) -> i32 {
    // SAFETY: a handle of `open`, by the ABI.
    let h = unsafe { handle::<D>(port) };
    match h.health.run(h.ifindex, "status", || h.port.status().to_string()) {
        Some(json) => {
            say(out, &json);
            OK
        }
        None => FAILED,
    }
}

/// # Safety
/// `n` values at `ptr`, valid during the call, or `n` is 0.
unsafe fn slice<'a, T>(ptr: *const T, n: u32) -> &'a [T] {
    match n {
        0 => &[],
        // SAFETY: the caller's word.
        n => unsafe { std::slice::from_raw_parts(ptr, n as usize) },
    }
}
