//! Drivers: ports with queues, by hardware or by the host.

use crate::{Cell, ErrBuf, HostServices, Text};
use std::ffi::c_void;

/// What `rx_burst` and `tx_burst` return when the plugin's code panicked; smpnet quarantines the port.
pub const RX_FAULT: u32 = u32::MAX;

/// An Ethernet address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MacAddr {
    /// In transmission order.
    pub bytes: [u8; 6],
}

/// Offloads of a port: bits of [`PortInfo::offloads`] and of `set_offloads`.
pub mod offload {
    /// Verifies IPv4, TCP and UDP checksums on reception.
    pub const RX_CSUM: u32 = 1 << 0;
    /// Completes `CSUM_PARTIAL` packets on transmission.
    pub const TX_CSUM: u32 = 1 << 1;
    /// Takes `GSO_TCP4` packets.
    pub const TSO4: u32 = 1 << 2;
    /// Takes `GSO_TCP6` packets.
    pub const TSO6: u32 = 1 << 3;
    /// Takes `GSO_UDP` packets.
    pub const USO: u32 = 1 << 4;
    /// May deliver packets larger than the MTU with a GSO flag set.
    pub const LRO: u32 = 1 << 5;
    /// Takes 802.1Q tags off on reception (`pkt_flags::VLAN`).
    pub const RX_VLAN: u32 = 1 << 6;
    /// Inserts 802.1Q tags on transmission.
    pub const TX_VLAN: u32 = 1 << 7;
    /// Takes and delivers packets of several cells.
    pub const SCATTER: u32 = 1 << 8;
    /// Fills `flow_hash` by the symmetric Toeplitz key.
    pub const RSS: u32 = 1 << 9;
}

/// Bits of [`PortInfo::flags`].
pub mod port_flags {
    /// A point-to-point medium without link-layer addresses: packets begin with their IP header.
    pub const RAW_IP: u32 = 1 << 0;
    /// The port ends by itself (a file): when every queue is at its end, link state goes down for good.
    pub const FINITE: u32 = 1 << 1;
    /// The device must be polled: it has no event descriptor, and a worker that serves it never sleeps.
    pub const POLL_ONLY: u32 = 1 << 2;
}

/// How smpnet asks for a port. All of it is valid only during `open`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PortConfig {
    /// Bytes of this structure.
    pub size: u32,
    /// Index of the interface that the port will be.
    pub ifindex: u32,
    /// Name of the interface, at most 15 bytes.
    pub name: Text,
    /// The driver's own options: a UTF-8 JSON object out of the configuration file.
    pub options: Text,
    /// Receive queues wished for; the driver may open fewer, at least 1.
    pub rx_queues: u16,
    /// Transmit queues wished for; the driver may open fewer, at least 1.
    pub tx_queues: u16,
    /// Workers of this router.
    pub workers: u32,
    /// MTU wished for; 0 for the device's own.
    pub mtu: u32,
    /// Always 0.
    pub _pad: u32,
}

/// What `open` says of the port.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PortInfo {
    /// Bytes of this structure, set by the caller.
    pub size: u32,
    /// Bits of [`port_flags`].
    pub flags: u32,
    /// The driver's handle of the port, passed back in every call.
    pub port: *mut c_void,
    /// Receive queues opened.
    pub rx_queues: u16,
    /// Transmit queues opened.
    pub tx_queues: u16,
    /// MTU in force.
    pub mtu: u32,
    /// Largest MTU that `set_mtu` takes.
    pub mtu_max: u32,
    /// Bits of [`offload`] that the port can do.
    pub offloads: u32,
    /// The port's own address; zero for RAW_IP ports.
    pub mac: MacAddr,
    /// Entries of the RSS redirection table; 0 without RSS.
    pub rss_table: u16,
    /// Bytes of the RSS key; 0 without RSS.
    pub rss_key: u16,
    /// Always 0.
    pub _pad: [u16; 3],
}

/// Link state.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// 0 down, 1 up, 2 unknown.
    pub state: u32,
    /// 1 when full duplex.
    pub full_duplex: u32,
    /// Mbit/s; 0 for unknown.
    pub speed: u32,
    /// Always 0.
    pub _pad: u32,
}

/// The statistics that every port has, since `open`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets given to the core.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets lost because no cell or ring entry was free when they came.
    pub rx_missed: u64,
    /// Packets refused for being malformed.
    pub rx_errors: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets that the device failed to send after it had accepted them.
    pub tx_errors: u64,
}

/// A counter of the driver's own.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NamedCounter {
    /// Name, NUL-padded ASCII in the style `rx_crc_errors`.
    pub name: [u8; 40],
    /// Value since `open`.
    pub value: u64,
}

/// A driver. `port` is the handle out of [`PortInfo`]. Functions that a driver lacks are still there and return
/// [`crate::UNSUPPORTED`].
///
/// Threads: `rx_burst`, `rx_arm` and `rx_disarm` of a queue are called by one worker only; `tx_burst` of a queue by one
/// worker only; all else by control threads, one at a time per port. Control functions may run while workers are in
/// `rx_burst` and `tx_burst`; only `close` may not.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DriverTable {
    /// Bytes of this table.
    pub size: u32,
    /// Always 0.
    pub flags: u32,
    /// Name of the driver (`driver = "..."` in the configuration); static.
    pub name: Text,
    /// One line on what it drives; static.
    pub summary: Text,
    /// Opens a port. `host` stays valid for ever. On failure `err` says why, and nothing stays behind.
    pub open: unsafe extern "C" fn(
        host: *const HostServices,
        config: *const PortConfig,
        out: *mut PortInfo,
        err: *mut ErrBuf,
    ) -> i32,
    /// Closes the port: no worker calls it any more. Every cell it still holds goes back to the pool, every trace it left
    /// in the system is removed.
    pub close: unsafe extern "C" fn(port: *mut c_void) -> i32,
    /// Lets packets in (`up` 1) or stops them (`up` 0).
    pub set_up: unsafe extern "C" fn(port: *mut c_void, up: u32, err: *mut ErrBuf) -> i32,
    /// Receives at most `max` (1 to BURST_MAX) packets into `cells` and returns how many, or [`RX_FAULT`]. Cells come
    /// from `HostServices::pkt_alloc` of the same worker; ownership goes to the caller. The driver fills `next`,
    /// `pkt_len`, `data_off`, `data_len`, `nsegs`, `flags`, `rx_queue` and what its offloads promise; it sets `rcvif` to
    /// the port's interface and `mark` to 0.
    pub rx_burst: unsafe extern "C" fn(port: *mut c_void, queue: u32, worker: u32, cells: *mut Cell, max: u32) -> u32,
    /// Sends the packets `cells[0..n]` in order and returns how many it accepted, or [`RX_FAULT`]. The accepted ones are
    /// the driver's, which frees them by `pkt_free` of the same worker when they are sent; the rest stay the caller's.
    /// `n` 0 asks to reap sent packets and flush what is pending. With [`RX_FAULT`] all `n` are the plugin's.
    pub tx_burst: unsafe extern "C" fn(port: *mut c_void, queue: u32, worker: u32, cells: *const Cell, n: u32) -> u32,
    /// A descriptor that is readable while packets wait on the queue and it is armed; -1 when there is none.
    pub event_fd: unsafe extern "C" fn(port: *mut c_void, queue: u32) -> i32,
    /// The worker is about to sleep: from now on the event descriptor tells of packets. Returns 1 when packets wait
    /// already (so the worker does not sleep), else 0.
    pub rx_arm: unsafe extern "C" fn(port: *mut c_void, queue: u32) -> i32,
    /// The worker is awake: events are no longer needed.
    pub rx_disarm: unsafe extern "C" fn(port: *mut c_void, queue: u32) -> i32,
    /// Reads the link state.
    pub link_state: unsafe extern "C" fn(port: *mut c_void, out: *mut LinkState) -> i32,
    /// Reads the statistics.
    pub stats: unsafe extern "C" fn(port: *mut c_void, out: *mut PortStats) -> i32,
    /// Writes at most `max` counters of the driver's own and returns how many there are.
    pub counters: unsafe extern "C" fn(port: *mut c_void, out: *mut NamedCounter, max: u32) -> u32,
    /// Promiscuous mode.
    pub set_promisc: unsafe extern "C" fn(port: *mut c_void, on: u32, err: *mut ErrBuf) -> i32,
    /// The whole list of multicast addresses to receive; `all` 1 receives every multicast.
    pub set_multicast:
        unsafe extern "C" fn(port: *mut c_void, list: *const MacAddr, n: u32, all: u32, err: *mut ErrBuf) -> i32,
    /// The port's own address.
    pub set_mac: unsafe extern "C" fn(port: *mut c_void, mac: *const MacAddr, err: *mut ErrBuf) -> i32,
    /// The MTU, in bytes of the network layer.
    pub set_mtu: unsafe extern "C" fn(port: *mut c_void, mtu: u32, err: *mut ErrBuf) -> i32,
    /// Turns on exactly these bits of [`offload`], all of them offered by [`PortInfo::offloads`].
    pub set_offloads: unsafe extern "C" fn(port: *mut c_void, mask: u32, err: *mut ErrBuf) -> i32,
    /// RSS key and redirection table; sizes as in [`PortInfo`].
    pub set_rss: unsafe extern "C" fn(
        port: *mut c_void,
        key: *const u8,
        key_len: u32,
        table: *const u16,
        table_len: u32,
        err: *mut ErrBuf,
    ) -> i32,
    /// One JSON object on the state of the port, for `smpnet ifconfig -v`.
    pub status: unsafe extern "C" fn(port: *mut c_void, out: *mut ErrBuf) -> i32,
}
