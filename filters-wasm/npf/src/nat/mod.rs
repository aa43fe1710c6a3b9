//! Address translation: what is done to a packet, and where translated addresses and ports come from.
//!
//! ```text
//! a new connection: choose (which address) -- ports, mapping (which port) --> a Change for each direction
//! each packet of it: rewrite; an ICMP error about it: icmp_error; PPTP: pptp
//! no connection, IPv6 prefixes: npt66
//! ```
//!
//! Nothing here knows of connections or rules. Randomness comes in as a function that gives 64 random bits, from a
//! generator that nobody outside can foretell (RFC 6056, section 3.1).

pub mod choose;
pub mod icmp_error;
pub mod mapping;
pub mod npt66;
pub mod ports;
pub mod pptp;
pub mod rewrite;

mod headers;
#[cfg(test)]
pub(crate) mod quoted;
#[cfg(test)]
mod reference_tests;

pub use rewrite::{Change, Side, rewrite};

/// A number below `n`, as likely as any other, from 64 random bits. The error is below `n` in 2^64.
pub(crate) fn below(n: u64, random: u64) -> u64 {
    ((u128::from(random) * u128::from(n)) >> 64) as u64
}
