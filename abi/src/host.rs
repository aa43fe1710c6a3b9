//! What smpnet gives a plugin: one table of services.

use crate::{Cell, LinkState, MacAddr, PoolDesc, Text};
use std::ffi::c_void;

/// The `worker` of a caller that is no worker: a control thread. Allowed where a function says "any thread".
pub const WORKER_NONE: u32 = u32::MAX;

/// Levels of [`HostServices::log`].
pub mod log_level {
    /// Something failed.
    pub const ERROR: u32 = 1;
    /// Something is wrong but goes on.
    pub const WARN: u32 = 2;
    /// Something that an operator wants to know.
    pub const INFO: u32 = 3;
    /// For whoever looks for a fault.
    pub const DEBUG: u32 = 4;
}

/// A function called once by a worker or a work thread with the argument that was given.
pub type CalloutFn = unsafe extern "C" fn(arg: *mut c_void, worker: u32);
/// Work that may sleep, called on a control thread.
pub type WorkFn = unsafe extern "C" fn(arg: *mut c_void);
/// Reads a sysctl node's value.
pub type SysctlGetFn = unsafe extern "C" fn(arg: *mut c_void) -> u64;
/// Writes a sysctl node's value; returns 0, or -1 when the value is out of range.
pub type SysctlSetFn = unsafe extern "C" fn(arg: *mut c_void, value: u64) -> i32;

/// Bits of [`IfInfo::flags`].
pub mod if_flags {
    /// Configured up.
    pub const UP: u32 = 1 << 0;
    /// The link is up.
    pub const RUNNING: u32 = 1 << 1;
}

/// What `if_info` tells of an interface.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct IfInfo {
    /// Bytes of this structure, set by the caller.
    pub size: u32,
    /// The interface.
    pub ifindex: u32,
    /// One of [`crate::if_type`].
    pub if_type: u32,
    /// Bits of [`if_flags`].
    pub flags: u32,
    /// MTU in bytes.
    pub mtu: u32,
    /// Bits of [`crate::offload`].
    pub offloads: u32,
    /// Ethernet address.
    pub mac: MacAddr,
    /// Always 0.
    pub _pad: u16,
    /// Name, NUL-padded.
    pub name: [u8; 16],
}

/// Which encapsulated packets an interface takes: outer addresses and protocol. An address that is all zero matches any.
/// IPv4 addresses stand in the first four bytes, in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EncapKey {
    /// 4 or 6: version of the outer header.
    pub version: u8,
    /// Protocol number in the outer header (4 for IPv4 in IP).
    pub protocol: u8,
    /// Always 0.
    pub _pad: u16,
    /// Outer source of packets that come in: the far end.
    pub remote: [u8; 16],
    /// Outer destination of packets that come in: our end.
    pub local: [u8; 16],
}

/// A counter of the plugin's own: one u64 per worker, plainly stored by that worker, summed by readers.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CounterDesc {
    /// Bytes of this structure.
    pub size: u32,
    /// Bytes from one worker's value to the next one's; a multiple of 64 keeps workers off each other's cache lines.
    pub stride: u32,
    /// Worker 0's value. The memory lives until the process ends.
    pub base: *const u64,
    /// Whom it belongs to: an interface or plugin name.
    pub owner: Text,
    /// Its name, such as `no_session`.
    pub name: Text,
}

/// The services. One table for the life of the process; it never moves. "worker" functions are called with the index of
/// the calling worker; "any thread" also takes [`WORKER_NONE`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HostServices {
    /// Bytes of this table.
    pub size: u32,
    /// [`crate::ABI_MAJOR`] of the host.
    pub abi_major: u16,
    /// [`crate::ABI_MINOR`] of the host.
    pub abi_minor: u16,
    /// Workers; their indices are below it.
    pub workers: u32,
    /// Always 0.
    pub _pad: u32,
    /// The packet pool.
    pub pool: *const PoolDesc,
    /// Gives at most `n` fresh single-cell packets (header as of `PktHdr::empty(pool.data_off)`) and returns how many.
    /// Any thread.
    pub pkt_alloc: unsafe extern "C" fn(worker: u32, cells: *mut Cell, n: u32) -> u32,
    /// Takes packets back, chains as a whole. Any thread.
    pub pkt_free: unsafe extern "C" fn(worker: u32, cells: *const Cell, n: u32),
    /// Drops packets for one [`crate::DropReason`], counted against `ifindex` (0: none). Worker.
    pub pkt_drop: unsafe extern "C" fn(worker: u32, ifindex: u32, reason: u32, cells: *const Cell, n: u32),
    /// Packets received by an interface: frames for ETHER, IP packets for RAW_IP (with `ether_type` set). They are taken
    /// up after the calling function returned, so calls do not nest. Worker.
    pub if_input: unsafe extern "C" fn(worker: u32, ifindex: u32, cells: *const Cell, n: u32),
    /// Complete frames (or IP packets, for RAW_IP) to send out of an interface; taken up as in `if_input`. Worker.
    pub if_output: unsafe extern "C" fn(worker: u32, ifindex: u32, cells: *const Cell, n: u32),
    /// IPv4 or IPv6 packets made here (by `ether_type`), to be routed; taken up as in `if_input`. Worker.
    pub ip_output: unsafe extern "C" fn(worker: u32, cells: *const Cell, n: u32),
    /// Nanoseconds of the monotonic clock. Any thread.
    pub now_ns: unsafe extern "C" fn() -> u64,
    /// Calls `func(arg, worker)` on that worker after `delay_ns`; returns an id that is never 0, or 0 when `worker` is
    /// none. Any thread.
    pub callout: unsafe extern "C" fn(worker: u32, delay_ns: u64, func: CalloutFn, arg: *mut c_void) -> u64,
    /// Stops a callout; returns 0 when it will not run, -1 when it ran or is running. Any thread.
    pub callout_stop: unsafe extern "C" fn(id: u64) -> i32,
    /// Calls `func(arg)` on a control thread, where it may sleep; returns 0, or -1 when the queue is full. Any thread.
    pub work: unsafe extern "C" fn(func: WorkFn, arg: *mut c_void) -> i32,
    /// Packets that match `key` go to `ifindex`'s `input`; -1 when the key is taken. Control.
    pub encap_attach: unsafe extern "C" fn(ifindex: u32, key: *const EncapKey) -> i32,
    /// Ends `encap_attach`. When it returns, no worker is in `input` for it. Control.
    pub encap_detach: unsafe extern "C" fn(ifindex: u32, key: *const EncapKey) -> i32,
    /// Frames of `parent` with the 802.1Q id `vid` (1 to 4094) go to `ifindex`'s `input`; -1 when taken. Control.
    pub vlan_attach: unsafe extern "C" fn(parent: u32, vid: u32, ifindex: u32) -> i32,
    /// Ends `vlan_attach`, as `encap_detach`. Control.
    pub vlan_detach: unsafe extern "C" fn(parent: u32, vid: u32, ifindex: u32) -> i32,
    /// Frames of `parent` with this EtherType go to `ifindex`'s `input`; -1 when taken. Control.
    pub ether_attach: unsafe extern "C" fn(parent: u32, ether_type: u32, ifindex: u32) -> i32,
    /// Ends `ether_attach`, as `encap_detach`. Control.
    pub ether_detach: unsafe extern "C" fn(parent: u32, ether_type: u32, ifindex: u32) -> i32,
    /// Index of the interface of that name, or 0. Any thread.
    pub if_lookup: unsafe extern "C" fn(name: Text) -> u32,
    /// Fills `out`; -1 when there is no such interface. Any thread.
    pub if_info: unsafe extern "C" fn(ifindex: u32, out: *mut IfInfo) -> i32,
    /// The link of an interface changed. Any thread.
    pub link_event: unsafe extern "C" fn(ifindex: u32, link: *const LinkState),
    /// The plugin's code panicked or found itself broken: the interface is quarantined and `what` logged. Any thread.
    pub fault: unsafe extern "C" fn(ifindex: u32, what: Text),
    /// Registers a counter; -1 when the name is taken. Control.
    pub counter: unsafe extern "C" fn(desc: *const CounterDesc) -> i32,
    /// Registers a sysctl node (`hw.null0.burst`); `set` null makes it read-only; -1 when the name is taken. Control.
    // `set` is a SysctlSetFn, written out because cbindgen sees through Option only so.
    pub sysctl: unsafe extern "C" fn(
        path: Text,
        get: SysctlGetFn,
        set: Option<unsafe extern "C" fn(arg: *mut c_void, value: u64) -> i32>,
        arg: *mut c_void,
    ) -> i32,
    /// Removes a sysctl node. When it returns, neither `get` nor `set` runs. Control.
    pub sysctl_remove: unsafe extern "C" fn(path: Text) -> i32,
    /// Logs one line. Any thread; on a worker only for what is rare.
    pub log: unsafe extern "C" fn(level: u32, target: Text, message: Text),
}

// SAFETY: a table of functions and a pointer to a description that lives as long as the process.
unsafe impl Send for HostServices {}
// SAFETY: as above.
unsafe impl Sync for HostServices {}
