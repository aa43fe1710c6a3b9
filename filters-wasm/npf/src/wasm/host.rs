//! What a module asks while it decides, and who runs it.

use super::{BURST, Facts, Side};
use crate::{
    config::TableId,
    plan::{Plan, RuleIndex},
};

/// What changes while a ruleset is in force. `packet` is the place in the burst.
///
/// Packets are decided on one after the other, and a packet's questions come in the order in which
/// [`Plan::decide_numbered`] asks them.
pub trait RulesetHost {
    /// Whether a table has an address of the packet now. The packet is asked once about the first 32 tables.
    fn is_in_table(&mut self, packet: usize, facts: &Facts, table: TableId, side: Side) -> bool;

    /// Whether a rule with limits, which matches otherwise, may match.
    ///
    /// A burst is decided on as a whole. What a limit counts of packets of the same burst (a connection that the one before
    /// begins) has to be counted when this is asked, and given back where nothing comes of it; or such packets are decided
    /// on one by one.
    fn within(&mut self, packet: usize, rule: RuleIndex) -> bool;

    /// The packet from its IP header on, as long as that header says: for the programs of pcap-filter rules.
    fn bytes(&mut self, packet: usize) -> &[u8];
}

/// A module that runs: one worker's.
pub trait RunningRuleset: Send {
    /// What is known of the packets of a burst, to be written before [`RunningRuleset::decide`].
    fn facts(&mut self) -> &mut [Facts; BURST as usize];

    /// Decides on the first `n` packets, at most 64: the number of the rule of each, or [`super::NONE`]. No memory is taken.
    ///
    /// # Errors
    /// The module stopped, which only an error in its compiler could bring about; nothing is decided.
    fn decide(&mut self, n: usize, host: &mut dyn RulesetHost) -> Result<&[u32], String>;
}

/// Who makes modules run.
pub trait RulesetCompiler: Send + Sync {
    /// The module of a plan, running for each of so many workers. Control threads; takes some milliseconds.
    ///
    /// # Errors
    /// Why it cannot be.
    fn run(&self, plan: &Plan, workers: usize) -> Result<Vec<Box<dyn RunningRuleset>>, String>;
}
