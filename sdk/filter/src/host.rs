//! What smpnet does for a filter: the imports of the module, and natively the harness in their place.

use crate::error::Text;
use core::fmt;
use smpnet_filter_abi as abi;

/// How much a line of the log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Level {
    /// Something is wrong.
    Error = abi::level::ERROR,
    /// Something may be wrong.
    Warn = abi::level::WARN,
    /// Worth knowing.
    Info = abi::level::INFO,
    /// For the author of the filter.
    Debug = abi::level::DEBUG,
}

/// Writes a line to smpnet's log; the macros come here.
pub fn log(level: Level, arguments: fmt::Arguments<'_>) {
    // A text without arguments needs no copy.
    match arguments.as_str() {
        Some(text) => imp::log(level, text),
        None => imp::log(level, Text::<{ abi::LOG_MAX as usize }>::format(arguments).as_str()),
    }
}

/// Nanoseconds since boot, now. Needs the capability `clock`; [`Burst::now_ns`](crate::Burst::now_ns) is free.
pub fn clock_ns() -> u64 {
    imp::clock_ns()
}

pub(crate) use imp::{exact, prefix};

#[cfg(target_arch = "wasm32")]
mod imp {
    use super::Level;
    use crate::TableKind;

    mod import {
        #[link(wasm_import_module = "smpnet")]
        unsafe extern "C" {
            pub fn log(level: i32, ptr: *const u8, len: i32);
            pub safe fn clock_ns() -> i64;
            pub fn table_exact(table: i32, keys: *const u8, stride: i32, n: i32, out: *mut u32) -> i32;
            pub fn table_prefix(table: i32, keys: *const u8, n: i32, out: *mut u32) -> i32;
        }
    }

    pub fn log(level: Level, text: &str) {
        // SAFETY: smpnet reads the text, which lives until the call returns, and no more than that.
        unsafe { import::log(level as i32, text.as_ptr(), text.len() as i32) }
    }

    pub fn clock_ns() -> u64 {
        import::clock_ns() as u64
    }

    pub fn exact(table: u32, keys: &[u8], stride: usize, out: &mut [u32]) -> usize {
        assert!(keys.len() >= stride * out.len(), "a key is missing");
        // SAFETY: there are `out.len()` keys of `stride` bytes, as asserted, and as many numbers to be written.
        unsafe {
            import::table_exact(table as i32, keys.as_ptr(), stride as i32, out.len() as i32, out.as_mut_ptr()) as usize
        }
    }

    pub fn prefix(table: u32, kind: TableKind, keys: &[u8], out: &mut [u32]) -> usize {
        let bytes = if kind == TableKind::Ipv6 { 16 } else { 4 };
        assert!(keys.len() >= bytes * out.len(), "an address is missing");
        // SAFETY: there are `out.len()` addresses, as asserted, and as many numbers to be written.
        unsafe { import::table_prefix(table as i32, keys.as_ptr(), out.len() as i32, out.as_mut_ptr()) as usize }
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod imp {
    pub use crate::testing::host::{clock_ns, exact, log, prefix};
}
