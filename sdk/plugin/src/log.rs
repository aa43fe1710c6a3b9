//! Log lines, by the router's own logger.

use crate::memory;
use smpnet_abi::{Text, log_level};
use std::fmt;
use std::sync::OnceLock;

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Level {
    /// Something failed.
    Error = log_level::ERROR,
    /// Something is wrong but goes on.
    Warn = log_level::WARN,
    /// Something that an operator wants to know.
    Info = log_level::INFO,
    /// For whoever looks for a fault.
    Debug = log_level::DEBUG,
}

static TARGET: OnceLock<&'static str> = OnceLock::new();

/// The name that this plugin's lines are logged under.
pub(crate) fn set_target(name: &'static str) {
    TARGET.get_or_init(|| name);
}

/// One line; what the macros expand to.
#[doc(hidden)]
pub fn line(level: Level, message: fmt::Arguments<'_>) {
    let Some(host) = memory::host() else { return };
    let text = message.to_string();
    // SAFETY: both texts live through the call.
    unsafe { (host.log)(level as u32, Text::new(TARGET.get().copied().unwrap_or("plugin")), Text::new(&text)) };
}

/// Logs that something failed. Formats as `println!`, allocates, and may be slow: on a worker only for what is rare.
#[macro_export]
macro_rules! error { ($($arg:tt)*) => { $crate::__private::line($crate::Level::Error, format_args!($($arg)*)) }; }
/// Logs that something is wrong but goes on; otherwise as [`error!`].
#[macro_export]
macro_rules! warn { ($($arg:tt)*) => { $crate::__private::line($crate::Level::Warn, format_args!($($arg)*)) }; }
/// Logs what an operator wants to know; otherwise as [`error!`].
#[macro_export]
macro_rules! info { ($($arg:tt)*) => { $crate::__private::line($crate::Level::Info, format_args!($($arg)*)) }; }
/// Logs for whoever looks for a fault; otherwise as [`error!`].
#[macro_export]
macro_rules! debug { ($($arg:tt)*) => { $crate::__private::line($crate::Level::Debug, format_args!($($arg)*)) }; }
