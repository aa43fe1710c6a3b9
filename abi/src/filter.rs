//! Native packet filters on pfil hooks. Filters from strangers are WebAssembly modules; this table is for those that
//! must be native.

use crate::{Cell, ErrBuf, HostServices, Text};
use std::ffi::c_void;

/// Direction of a packet at a hook.
pub mod direction {
    /// Coming in.
    pub const IN: u32 = 1;
    /// Going out.
    pub const OUT: u32 = 2;
}

/// Bits of [`FilterTable::flags`].
pub mod filter_flags {
    /// A verdict depends on the packet, the interface and the direction alone, no packet is ever taken, and being asked
    /// changes nothing: `smpnet explain` may ask.
    pub const STATELESS: u32 = 1 << 0;
}

/// What a filter says of a packet; any other value is a fault. A native filter writes marks into `PktHdr::mark` itself.
pub mod verdict {
    /// Goes on.
    pub const PASS: u32 = 0;
    /// Is dropped, counted as `filtered`.
    pub const DROP: u32 = 1;
    /// The filter took the packet: it is the filter's now.
    pub const CONSUMED: u32 = 2;
    /// Is dropped, counted as `filtered`, and its sender is told: ICMP "communication administratively prohibited" (type 3,
    /// code 13: RFC 1812, section 5.2.7.1), within the limit on errors, and never about packets that must not be answered
    /// (RFC 1122, section 3.2.2: errors, later fragments, broadcasts, packets of this machine). As DROP for what is not
    /// IPv4.
    pub const REJECT: u32 = 3;
}

/// How smpnet asks for a filter. Valid only during the call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FilterConfig {
    /// Bytes of this structure.
    pub size: u32,
    /// Workers of this router.
    pub workers: u32,
    /// Name of this instance.
    pub name: Text,
    /// The filter's own options: a UTF-8 JSON object.
    pub options: Text,
}

/// A native filter. `filter` is called by workers, any number at once; the rest by control threads.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FilterTable {
    /// Bytes of this table.
    pub size: u32,
    /// Bits of [`filter_flags`].
    pub flags: u32,
    /// Name of the filter; static.
    pub name: Text,
    /// One line on what it does; static.
    pub summary: Text,
    /// Makes an instance; its handle goes to `*out`.
    pub create: unsafe extern "C" fn(
        host: *const HostServices,
        config: *const FilterConfig,
        out: *mut *mut c_void,
        err: *mut ErrBuf,
    ) -> i32,
    /// Ends an instance that no worker can be in any more.
    pub destroy: unsafe extern "C" fn(handle: *mut c_void) -> i32,
    /// Judges `n` packets at a hook of `ifindex`: one of [`verdict`] for each into `verdicts`, which holds PASS for all of
    /// them at the call. Returns 0 or [`crate::FAULT`] (after `HostServices::fault` of interface 0 with the reason); also
    /// with that, packets whose verdict is CONSUMED are the filter's, and only those.
    pub filter: unsafe extern "C" fn(
        handle: *mut c_void,
        worker: u32,
        ifindex: u32,
        direction: u32,
        cells: *const Cell,
        n: u32,
        verdicts: *mut u32,
    ) -> i32,
    /// One JSON object on the state of the instance.
    pub status: unsafe extern "C" fn(handle: *mut c_void, out: *mut ErrBuf) -> i32,
}
