//! Interface kinds (cloners): interfaces that are made of software, such as vlan and gif.

use crate::{Cell, ErrBuf, HostServices, MacAddr, Text};
use std::ffi::c_void;

/// What the packets of an interface begin with.
pub mod if_type {
    /// An Ethernet header.
    pub const ETHER: u32 = 1;
    /// An IP header.
    pub const RAW_IP: u32 = 2;
}

/// How smpnet asks for an interface of a kind. Valid only during the call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct IfConfig {
    /// Bytes of this structure.
    pub size: u32,
    /// Index of the interface.
    pub ifindex: u32,
    /// Name of the interface (`gif0`).
    pub name: Text,
    /// The kind's own options: a UTF-8 JSON object out of the configuration file or the command.
    pub options: Text,
    /// Workers of this router.
    pub workers: u32,
    /// MTU wished for; 0 for the kind's own.
    pub mtu: u32,
}

/// What `create` and `configure` say of the interface.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct IfKindInfo {
    /// Bytes of this structure, set by the caller.
    pub size: u32,
    /// One of [`if_type`].
    pub if_type: u32,
    /// The kind's handle of the interface.
    pub handle: *mut c_void,
    /// MTU in force.
    pub mtu: u32,
    /// Smallest MTU that `configure` takes.
    pub mtu_min: u32,
    /// Largest MTU that `configure` takes.
    pub mtu_max: u32,
    /// Bits of [`crate::offload`] that the interface can do.
    pub offloads: u32,
    /// Interface that carries this one (a vlan's parent); 0 for none. Link state follows it.
    pub parent: u32,
    /// Address of an Ethernet interface; zero lets smpnet choose one.
    pub mac: MacAddr,
    /// Always 0.
    pub _pad: u16,
}

/// An interface kind.
///
/// Threads: `output` and `input` are called by workers, any number at once for one interface (each passes its own
/// `worker`); the rest by control threads, one at a time per interface. `destroy` is called when no worker can be in
/// `output` or `input` any more.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct IfKindTable {
    /// Bytes of this table.
    pub size: u32,
    /// Always 0.
    pub flags: u32,
    /// Name of the kind (`gif`); static. Interfaces are named by it and a number.
    pub name: Text,
    /// One line on what it is; static.
    pub summary: Text,
    /// Makes an interface. On failure `err` says why and nothing stays behind.
    pub create: unsafe extern "C" fn(
        host: *const HostServices,
        config: *const IfConfig,
        out: *mut IfKindInfo,
        err: *mut ErrBuf,
    ) -> i32,
    /// Ends an interface.
    pub destroy: unsafe extern "C" fn(handle: *mut c_void) -> i32,
    /// Changes an interface to the given configuration, as a whole or, on failure, not at all; packets in flight see the
    /// old or the new one. `out` is filled as by `create`.
    pub configure: unsafe extern "C" fn(
        handle: *mut c_void,
        config: *const IfConfig,
        out: *mut IfKindInfo,
        err: *mut ErrBuf,
    ) -> i32,
    /// Sends packets: Ethernet frames or IP packets by [`IfKindInfo::if_type`]. The kind takes them all, and hands on to
    /// `HostServices::if_output` or `ip_output`, or gives them up through `pkt_drop`. Returns 0 or [`crate::FAULT`].
    pub output: unsafe extern "C" fn(handle: *mut c_void, worker: u32, cells: *const Cell, n: u32) -> i32,
    /// Takes packets that a demultiplexer (vlan tag, EtherType, encapsulation) found to be this interface's. For vlan
    /// and EtherType the data begins at the Ethernet header, for encapsulation at the outer IP header (`l3_off`, with
    /// `l4_off` at the payload). The kind hands the inner packets to `HostServices::if_input`. Returns as `output`.
    pub input: unsafe extern "C" fn(handle: *mut c_void, worker: u32, cells: *const Cell, n: u32) -> i32,
    /// One JSON object on the state of the interface.
    pub status: unsafe extern "C" fn(handle: *mut c_void, out: *mut ErrBuf) -> i32,
}
