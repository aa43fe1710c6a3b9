//! From an expression to a program, by whichever engine is there.

use crate::Program;
use crate::expr::{self, SubsetError};
use crate::pcap::{Libpcap, PcapError};
use std::fmt;
use std::str::FromStr;

/// What an accepting program returns: keep the whole packet. tcpdump's default.
pub const SNAPLEN: u32 = 262_144;

/// What the first byte that a filter sees belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Dlt {
    /// An IPv4 or IPv6 header: attach point `inet`.
    Raw,
    /// An Ethernet header: attach point `ether`.
    En10mb,
}

impl Dlt {
    /// The number as libpcap's DLT_ value on this system.
    pub const fn number(self) -> i32 {
        match self {
            Dlt::Raw if cfg!(target_os = "openbsd") => 14,
            Dlt::Raw => 12,
            Dlt::En10mb => 1,
        }
    }

    /// Where the network header starts, in bytes.
    pub const fn network_offset(self) -> u32 {
        match self {
            Dlt::Raw => 0,
            Dlt::En10mb => 14,
        }
    }
}

impl fmt::Display for Dlt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dlt::Raw => "RAW",
            Dlt::En10mb => "EN10MB",
        })
    }
}

/// A link type that is not known here.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown link type {0:?}; known are RAW (packets start with the IP header) and EN10MB (Ethernet)")]
pub struct UnknownDlt(pub String);

impl FromStr for Dlt {
    type Err = UnknownDlt;

    fn from_str(s: &str) -> Result<Dlt, UnknownDlt> {
        let name = s.to_ascii_uppercase();
        match name.strip_prefix("DLT_").unwrap_or(&name) {
            "RAW" => Ok(Dlt::Raw),
            "EN10MB" | "ETHERNET" | "ETHER" => Ok(Dlt::En10mb),
            _ => Err(UnknownDlt(s.to_owned())),
        }
    }
}

/// Who compiles an expression.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Engine {
    /// libpcap when it can be loaded, otherwise the subset.
    #[default]
    Auto,
    /// libpcap.
    Libpcap,
    /// The part of the language that [`expr`] knows.
    Subset,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Engine::Auto => "auto",
            Engine::Libpcap => "libpcap",
            Engine::Subset => "subset",
        })
    }
}

/// A program and who made it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compiled {
    /// The program.
    pub program: Program,
    /// [`Engine::Libpcap`] or [`Engine::Subset`].
    pub engine: Engine,
}

/// Why an expression gave no program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExprError {
    /// libpcap refused it, or is missing where it was asked for.
    #[error(transparent)]
    Pcap(#[from] PcapError),
    /// libpcap is not there and the expression needs it, or is wrong.
    #[error("{0}")]
    Subset(#[from] SubsetError),
}

/// Compiles an expression for a link type, with libpcap when it loads, otherwise with the subset of [`expr`]. Both give
/// the same verdict on every packet. Control threads only: libpcap may look up names.
///
/// # Errors
/// What is wrong with the expression and where; without libpcap also which word needs it, with the package to install.
pub fn compile_expr(expr: &str, dlt: Dlt) -> Result<Compiled, ExprError> {
    compile_expr_with(expr, dlt, Engine::Auto)
}

/// Like [`compile_expr`] with a chosen engine.
///
/// # Errors
/// As [`compile_expr`].
pub fn compile_expr_with(expr: &str, dlt: Dlt, engine: Engine) -> Result<Compiled, ExprError> {
    let subset = || Ok(Compiled { program: expr::compile(expr, dlt, SNAPLEN)?, engine: Engine::Subset });
    let pcap = match (engine, Libpcap::load()) {
        (Engine::Subset, _) | (Engine::Auto, Err(_)) => return subset(),
        (_, pcap) => pcap?,
    };
    Ok(Compiled { program: pcap.compile(expr, dlt, SNAPLEN, true)?, engine: Engine::Libpcap })
}
