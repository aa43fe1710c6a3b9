//! The filter ABI, version 1: what smpnet and a WebAssembly packet filter of anybody's say to each other.
//!
//! A filter is one core WebAssembly module (wasm32, its own memory) with a manifest. smpnet makes one instance of it for each
//! worker, so a filter is never entered by two threads and needs no atomics. Packets come in bursts of up to
//! [`BURST_MAX`]: smpnet copies what the filter may see of them into the module's memory, calls it once, and reads the
//! verdicts. The module never touches packet memory.
//!
//! # Manifest
//! A custom section named [`MANIFEST_SECTION`] holds one JSON object:
//! ```json
//! { "abi": "1.0", "name": "dns-blocklist", "version": "0.1.0", "summary": "drops queries for listed names",
//!   "window": 256, "memory": 17, "tick_ms": 1000,
//!   "capabilities": ["tables"], "counters": ["queries", "blocked"],
//!   "tables": [{ "name": "names", "kind": "exact" }] }
//! ```
//! `abi` and `name` are required. `window` is how many bytes of each packet are copied ([`WINDOW_DEFAULT`] unless told, at
//! most [`WINDOW_MAX`], a multiple of 16), `memory` the most pages of 64 KiB that the memory may grow to, `tick_ms` how often
//! [`export::TICK`] is called at most. `capabilities` are those of [`capability`] that the module uses: the operator grants
//! them. `counters` (at most [`COUNTERS_MAX`]) and `tables` are used by their place in the list.
//!
//! # Exports
//! | name | type | |
//! |---|---|---|
//! | `memory` | memory | required; not imported |
//! | [`export::RING`] | `() -> i32` | required: address of a [`Ring`] and the windows behind it, aligned to 16; called once |
//! | [`export::FILTER`] | `(n: i32) -> i32` | required: judges the first `n` packets of the ring, returns `n` |
//! | [`export::INIT`] | `(len: i32) -> i32` | the configuration, `len` bytes at the windows; not 0 refuses it |
//! | [`export::TICK`] | `(now_ns: i64)` | before the first burst after `tick_ms` have passed |
//! | [`export::STATE_EXPORT`] | `(off: i32) -> i32` | writes state from `off` on to the windows, returns how many bytes; 0 ends |
//! | [`export::STATE_IMPORT`] | `(off: i32, len: i32) -> i32` | takes that; not 0 discards it, the instance is then made anew |
//!
//! A Rust `_initialize` or a `start` function is run first. State is exported from the old generation's instance of a worker
//! and imported into the new one's at a swap, when both have the function; at most [`STATE_MAX`] bytes.
//!
//! # Imports
//! All from module [`import::MODULE`], all optional. A wrong pointer, length or table number ends the call with a fault.
//! | name | type | |
//! |---|---|---|
//! | [`import::LOG`] | `(level: i32, ptr: i32, len: i32)` | a line for the log, at most [`LOG_MAX`] bytes, rate-limited; needs `log` |
//! | [`import::CLOCK`] | `() -> i64` | nanoseconds since boot; needs `clock`. [`Ring::now_ns`] costs nothing |
//! | [`import::EXACT`] | `(table, keys, stride, n, out: i32) -> i32` | looks up `n` keys; needs `tables` |
//! | [`import::PREFIX`] | `(table, keys, n, out: i32) -> i32` | the longest prefixes of `n` addresses; needs `tables` |
//!
//! Look-ups are for many keys at once (at most [`LOOKUPS_MAX`]), as a call out of a module costs several nanoseconds. An exact
//! key is a `u16` length and as many bytes (at most [`KEY_MAX`]), one key every `stride` bytes; an address is 4 bytes (`ipv4`
//! tables) or 16 (`ipv6`) in network order, one after the other. `out` takes a `u32` for each: the value, or [`ABSENT`]. The
//! result is how many were there.
//!
//! # Verdicts
//! One [`Verdict`] a packet, all PASS before the call. DROP ends the packet's life, counted as `filtered`;
//! [`verdict::REJECT`] also answers with ICMP (needs `reject`); [`verdict::MARK`] sets the packet's mark (needs `mark`).
//! Packets are changed by patches: records of a [`Patch`] and its bytes, padded to 4, one after the other from
//! [`Ring::patches`] on; the filter sets [`Ring::patch_len`] (needs `edit`).
//!
//! # Faults
//! A trap, an overrun time budget, a result other than `n`, an unknown verdict, a patch outside of the packet or an action
//! without its capability is a fault: the whole burst is judged by the operator's policy, the instance is thrown away and made
//! anew.
//!
//! # Versions
//! The major number changes when an old module could not run any more, the minor number when something is added. A host of
//! version 1.N runs every module of 1.0 to 1.N, for ever. What is reserved is written as 0 and not read.
//!
//! All integers in memory are little-endian. Nothing here has padding, and tests keep every size and offset where it is.

#![no_std]
#![forbid(unsafe_code)]

/// Version of this ABI, as the manifest writes it.
pub const VERSION: &str = "1.0";
/// Major version.
pub const VERSION_MAJOR: u32 = 1;
/// Minor version.
pub const VERSION_MINOR: u32 = 0;
/// Name of the custom section that holds the manifest.
pub const MANIFEST_SECTION: &str = "smpnet.filter";

/// Most packets in one call.
pub const BURST_MAX: u32 = 64;
/// Bytes that are copied of each packet when the manifest says nothing.
pub const WINDOW_DEFAULT: u32 = 128;
/// Most bytes that a manifest may ask for of each packet.
pub const WINDOW_MAX: u32 = 2048;
/// Most counters of a module.
pub const COUNTERS_MAX: u32 = 32;
/// Most tables of a module.
pub const TABLES_MAX: u32 = 16;
/// Most bytes of an exact key.
pub const KEY_MAX: u32 = 255;
/// Most keys in one look-up; more end the call with a fault.
pub const LOOKUPS_MAX: u32 = 1024;
/// Most bytes of a log line; the rest is cut off.
pub const LOG_MAX: u32 = 256;
/// Most bytes of state that pass from one generation to the next.
pub const STATE_MAX: u32 = 1 << 20;
/// What a look-up writes for a key that is not in the table; no value of an entry.
pub const ABSENT: u32 = 0xffff_ffff;
/// An offset in [`Packet`] that is not known.
pub const NO_OFFSET: u16 = 0xffff;

/// Names of what a module exports.
pub mod export {
    /// Its memory.
    pub const MEMORY: &str = "memory";
    /// Where the ring is.
    pub const RING: &str = "smpnet_ring";
    /// Judges packets.
    pub const FILTER: &str = "smpnet_filter";
    /// Takes the configuration.
    pub const INIT: &str = "smpnet_init";
    /// Time passes.
    pub const TICK: &str = "smpnet_tick";
    /// Gives state to the next generation.
    pub const STATE_EXPORT: &str = "smpnet_state_export";
    /// Takes state from the last generation.
    pub const STATE_IMPORT: &str = "smpnet_state_import";
}

/// Names of what a module may import.
pub mod import {
    /// The module that all of them are in.
    pub const MODULE: &str = "smpnet";
    /// Writes a line to the log.
    pub const LOG: &str = "log";
    /// The time.
    pub const CLOCK: &str = "clock_ns";
    /// Exact look-up in a table of the host.
    pub const EXACT: &str = "table_exact";
    /// Longest-prefix look-up in a table of the host.
    pub const PREFIX: &str = "table_prefix";
}

/// What a module may be allowed to do.
pub mod capability {
    /// Write to the log. Granted unless the operator refuses it.
    pub const LOG: &str = "log";
    /// Read the clock. Granted unless the operator refuses it.
    pub const CLOCK: &str = "clock";
    /// Look into tables of the host.
    pub const TABLES: &str = "tables";
    /// Set marks.
    pub const MARK: &str = "mark";
    /// Change packets.
    pub const EDIT: &str = "edit";
    /// Answer with ICMP errors.
    pub const REJECT: &str = "reject";
}

/// Values of [`Ring::layer`]: what the packets' data begins with.
pub mod layer {
    /// An Ethernet header.
    pub const ETHER: u32 = 1;
    /// An IPv4 header.
    pub const INET: u32 = 2;
    /// An IPv6 header.
    pub const INET6: u32 = 3;
}

/// Values of [`Ring::direction`].
pub mod direction {
    /// Coming in.
    pub const IN: u32 = 1;
    /// Going out.
    pub const OUT: u32 = 2;
}

/// Bits of [`Packet::flags`].
pub mod packet_flags {
    /// The packet came as a link-level broadcast.
    pub const BROADCAST: u16 = 1 << 0;
    /// The packet came as a link-level multicast.
    pub const MULTICAST: u16 = 1 << 1;
    /// `flow_hash` is valid.
    pub const HASH: u16 = 1 << 2;
    /// `vlan_tci` is valid: the packet carries an 802.1Q tag that is not in its bytes.
    pub const VLAN: u16 = 1 << 3;
    /// The packet is longer than the window.
    pub const CUT: u16 = 1 << 4;
    /// The packet will be cut into segments when it leaves.
    pub const GSO: u16 = 1 << 5;
    /// Made by this machine, not forwarded.
    pub const LOCAL: u16 = 1 << 6;
}

/// Values of [`Verdict::verdict`]: the low 8 bits are one of the first three.
pub mod verdict {
    /// Goes on.
    pub const PASS: u32 = 0;
    /// Is dropped.
    pub const DROP: u32 = 1;
    /// Is dropped, and its sender is told by ICMP.
    pub const REJECT: u32 = 3;
    /// The packet's mark becomes [`super::Verdict::mark`]; may be added to PASS.
    pub const MARK: u32 = 1 << 8;
}

/// Levels of the log.
pub mod level {
    /// Something is wrong.
    pub const ERROR: u32 = 1;
    /// Something may be wrong.
    pub const WARN: u32 = 2;
    /// Worth knowing.
    pub const INFO: u32 = 3;
    /// For the author of the filter.
    pub const DEBUG: u32 = 4;
}

/// Bits of [`Patch::flags`].
pub mod patch_flags {
    /// The host corrects the IPv4 header checksum for what the patch changes.
    pub const FIX_IPV4: u8 = 1 << 0;
    /// The host corrects the TCP, UDP or ICMP checksum for what the patch changes, addresses included.
    pub const FIX_L4: u8 = 1 << 1;
}

/// What the host says of a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Address of its first byte in the module's memory.
    pub data: u32,
    /// Bytes that are there: the packet's length or the window, whichever is less.
    pub cap_len: u16,
    /// Bits of [`packet_flags`].
    pub flags: u16,
    /// Bytes that the packet has.
    pub wire_len: u32,
    /// Symmetric hash of its flow: both directions have the same.
    pub flow_hash: u32,
    /// Its mark, 0 unless somebody set one.
    pub mark: u32,
    /// The interface that it came through; 0 for none.
    pub rcvif: u32,
    /// Where the network header begins, from `data`, or [`NO_OFFSET`].
    pub l3_off: u16,
    /// Where the transport header begins, from `data`, or [`NO_OFFSET`].
    pub l4_off: u16,
    /// EtherType of the network header in host order; 0 when it is not known.
    pub ether_type: u16,
    /// 802.1Q tag control information, valid with [`packet_flags::VLAN`].
    pub vlan_tci: u16,
}

/// What the filter says of a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// See [`verdict`].
    pub verdict: u32,
    /// The mark, with [`verdict::MARK`].
    pub mark: u32,
}

/// Head of a change to a packet; `len` bytes follow, padded with bytes of any value to a multiple of 4.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Place of the packet in the burst.
    pub packet: u8,
    /// Bits of [`patch_flags`].
    pub flags: u8,
    /// Where the bytes go, from the packet's first byte. They must lie inside of the window.
    pub off: u16,
    /// How many bytes.
    pub len: u16,
    /// Always 0.
    pub reserved: u16,
}

/// Bytes for patches in a [`Ring`].
pub const PATCH_BYTES: usize = 5312;

/// What host and module share: written by the host before a call, except for `verdicts`, `counters`, `patches` and
/// `patch_len`, which the module writes (and finds as zeros, `patches` excepted). [`BURST_MAX`] windows follow, each as
/// many bytes as the manifest says.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    /// Packets in this burst.
    pub n: u32,
    /// See [`layer`].
    pub layer: u32,
    /// See [`direction`].
    pub direction: u32,
    /// The interface that the filter is asked at.
    pub ifindex: u32,
    /// The worker's clock at the start of the burst: nanoseconds since boot.
    pub now_ns: u64,
    /// Generation of the filter: 1 for the first, one more for each swap.
    pub generation: u64,
    /// Index of the worker that this instance belongs to.
    pub worker: u32,
    /// How many workers there are.
    pub workers: u32,
    /// Bytes of a window.
    pub window: u32,
    /// Bytes of patches that the module wrote.
    pub patch_len: u32,
    /// Always 0.
    pub reserved: [u32; 4],
    /// The packets.
    pub packets: [Packet; BURST_MAX as usize],
    /// What the module says of them.
    pub verdicts: [Verdict; BURST_MAX as usize],
    /// What the module adds to its counters in this burst, in the manifest's order.
    pub counters: [u64; COUNTERS_MAX as usize],
    /// Changes to packets.
    pub patches: [u8; PATCH_BYTES],
}

/// Bytes of a ring with its windows.
pub const fn ring_bytes(window: u32) -> usize {
    size_of::<Ring>() + BURST_MAX as usize * window as usize
}

// The places of everything, which never change in version 1.
const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Packet>() == 32 && size_of::<Verdict>() == 8 && size_of::<Patch>() == 8);
    assert!(
        offset_of!(Packet, wire_len) == 8 && offset_of!(Packet, l3_off) == 24 && offset_of!(Packet, vlan_tci) == 30
    );
    assert!(offset_of!(Ring, now_ns) == 16 && offset_of!(Ring, patch_len) == 44 && offset_of!(Ring, packets) == 64);
    assert!(offset_of!(Ring, verdicts) == 2112 && offset_of!(Ring, counters) == 2624);
    assert!(offset_of!(Ring, patches) == 2880 && size_of::<Ring>() == 8192);
};
