//! Rulesets of NPF as modules: made off the packet path, verified, one instance for each worker, swapped between two bursts.
//!
//! ```text
//!  Plan -- smpnet_npf::wasm --> module -- verify --> machine code -- an instance for each worker --> mailbox --> worker
//! ```
//!
//! A module ([`smpnet_npf::wasm`]) decides on up to 64 packets a call. The worker writes what is known of them
//! ([`Facts`](smpnet_npf::wasm::Facts)) into its instance, calls, and reads numbers of rules. What changes while a ruleset is in force
//! (tables, limits) and the programs of pcap-filter rules are asked of a [`RulesetHost`].
//!
//! - [`verify`] proves that a module touches its own memory only, calls nothing but the host's three functions, and ends.
//!   The packet pool is not among what it can reach.
//! - Modules are made by this process. There is no way in for others.
//! - A trap (which only an error in the compiler could bring about) is an error of that burst, and the instance goes on.
//! - The plan's arrays are mapped from one image by all instances of a ruleset; only what a worker writes is its own.
//!
//! ```
//! use smpnet_npf::{config::Config, evaluate::{Dynamic, NoInterfaces, Programs}, plan::Plan, wasm::NONE};
//! use smpnet_wasm::ruleset::{NoHost, RulesetEngine};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let plan = Plan::new(&Config::default(), &Programs::default(), &NoInterfaces, &Dynamic::new());
//! let mut instance = RulesetEngine::new()?.compile(&plan)?.instantiate()?;
//! instance.facts()[0].sport = 80;
//! assert_eq!(instance.decide(1, &mut NoHost)?, [NONE]);
//! # Ok(()) }
//! ```

mod asking;
mod engine;
mod instance;
mod swap;
#[cfg(test)]
mod tests;
mod verify;

pub use self::{
    asking::NoHost,
    engine::{Ruleset, RulesetEngine, RulesetError},
    instance::RulesetInstance,
    swap::{RulesetWorker, Rulesets},
    verify::{BrokenRuleset, verify},
};
pub use smpnet_npf::wasm::RulesetHost;
