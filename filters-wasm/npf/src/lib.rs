//! NPF, NetBSD's packet filter: its language, its rules, its connections and its address translation.
//!
//! ```text
//! npf.conf -- language --> Config -- a plan, or the literal evaluator --> the rule that decides
//! packet -- Packet::read --> fragments -> connections -> rules -> translation -> procedures
//! ```
//!
//! Nothing here does I/O but through traits; time comes in with each packet.

#![forbid(unsafe_code)]

/// Counters of one worker and of another are summed up, field by field.
macro_rules! sum_of {
    ($counters:ident { $($field:ident),* $(,)? }) => {
        impl $counters {
            /// These and those together.
            pub fn and(self, other: &$counters) -> $counters {
                $counters { $($field: self.$field + other.$field),* }
            }
        }
    };
}
pub(crate) use sum_of;

pub mod checksum;
pub mod config;
pub mod convert;
mod edit;
pub mod engine;
pub mod evaluate;
pub mod fragments;
pub mod language;
pub mod nat;
pub mod npflog;
pub mod packet;
pub mod params;
mod plain;
pub mod plan;
pub mod procedure;
pub mod replay;
pub mod reply;
pub mod router;
pub mod state;
pub mod tables;
pub mod wasm;

#[cfg(test)]
mod no_panic_tests;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
