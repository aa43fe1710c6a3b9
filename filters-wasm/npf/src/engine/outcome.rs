//! What becomes of packets, why, and how often.

use crate::{
    config::{RuleId, TableEntry, TableId},
    state::Millis,
};

/// What is to become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// It goes on.
    pub pass: bool,
    /// It belongs to a connection of another worker, or would open one there, and was not judged.
    pub steer: Option<u8>,
    /// It comes back from where it was going: its destination is inside, and it is to be routed again.
    pub turned: bool,
    /// It came in and goes to an outer end that stands for an inner one: it is for the way out of
    /// [`super::Ruleset::hairpin_interface`], whatever the routes say.
    pub inward: bool,
    /// It is a fragment that waits for the others of its packet.
    pub kept: bool,
    /// The rule that decided, also of the connection that it belongs to.
    pub rule: Option<RuleId>,
    /// Why it does not go on, if no rule said so.
    pub fault: Option<Fault>,
    /// The state of the connection that it belongs to, after it.
    pub connection: Option<&'static str>,
    /// What its sender is told: a whole IP packet.
    pub reply: Option<Vec<u8>>,
    /// The tag that it carries from here on: [`super::Ruleset::tag`]. 0 for none.
    pub tag: u16,
    /// The interface that it leaves by, whatever the routes say: [`super::Ruleset::route`].
    pub route: Option<u16>,
    /// Logs that it is written to: [`super::Ruleset::logs`].
    pub logs: u32,
    /// Its source exceeded a limit, and is in this table from now on.
    pub overload: Option<Overload>,
}

/// A source that exceeded a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overload {
    /// The table that it is put into.
    pub table: TableId,
    /// The source.
    pub entry: TableEntry,
    /// How long it stays; None for as long as the table says.
    pub stay: Option<Millis>,
}

/// Why a packet is dropped though no rule says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It is no whole IP packet.
    #[error("malformed")]
    Malformed,
    /// It has options, and `ip4.drop_options` or `ip6.drop_options` is on.
    #[error("it has options")]
    Options,
    /// It is a fragment that cannot be put together with the others of its packet.
    #[error("a fragment that does not fit the others of its packet, or has no room")]
    Fragment,
    /// No rule matched.
    #[error("no rule matched")]
    NoRule,
    /// A map wants it translated, and no address is there to translate it to.
    #[error("no address to translate to")]
    NoAddress,
    /// All ports of the translated address are taken.
    #[error("all ports of the translated address are taken")]
    PortsExhausted,
    /// It would have to be translated and belongs to no connection, nor can it open one.
    #[error("it cannot be translated: it opens no connection")]
    NoState,
    /// Its translation is that of another connection.
    #[error("another connection has the same translation")]
    Conflict,
    /// A procedure dropped it.
    #[error("a procedure dropped it")]
    Procedure,
}

/// What has happened to packets, since the engine was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Packets that passed by the rules.
    pub passed_rules: u64,
    /// Packets that passed because they belong to a connection.
    pub passed_connections: u64,
    /// Packets that a rule blocked.
    pub blocked_rules: u64,
    /// Packets that no rule matched.
    pub blocked_default: u64,
    /// Malformed packets.
    pub malformed: u64,
    /// Fragments that were kept until the others of their packets came.
    pub fragments_kept: u64,
    /// Packets that were put together out of fragments.
    pub reassembled: u64,
    /// Fragments that were dropped.
    pub fragments_dropped: u64,
    /// Packets with options that were dropped for that.
    pub options: u64,
    /// Packets with the addresses of a connection that cannot belong to it; the rules were asked.
    pub invalid_state: u64,
    /// Connections that a stateful rule could not open.
    pub not_opened: u64,
    /// Packets that no address was found for.
    pub nat_no_address: u64,
    /// Packets that no port was found for.
    pub nat_ports_exhausted: u64,
    /// Packets to be translated that open no connection.
    pub nat_no_state: u64,
    /// Packets whose translation is another connection's.
    pub nat_conflict: u64,
    /// Packets that procedures dropped.
    pub procedures: u64,
    /// Sources that were put into tables for what they exceeded.
    pub overloads: u64,
    /// Packets that were handed to the worker that has their connection.
    pub steered: u64,
    /// Times that the module of the rules stopped and the plan decided: an error in smpnet.
    pub module_faults: u64,
}

impl Outcome {
    /// Another worker judges it.
    pub(super) fn steered_to(&mut self, worker: u8) {
        (self.steer, self.pass) = (Some(worker), false);
    }

    pub(super) fn new() -> Outcome {
        Outcome {
            pass: true,
            steer: None,
            turned: false,
            inward: false,
            kept: false,
            rule: None,
            fault: None,
            connection: None,
            reply: None,
            tag: 0,
            route: None,
            logs: 0,
            overload: None,
        }
    }
}

impl Stats {
    pub(super) fn of(&mut self, fault: Fault) -> &mut u64 {
        match fault {
            Fault::Malformed => &mut self.malformed,
            Fault::Options => &mut self.options,
            Fault::Fragment => &mut self.fragments_dropped,
            Fault::NoRule => &mut self.blocked_default,
            Fault::NoAddress => &mut self.nat_no_address,
            Fault::PortsExhausted => &mut self.nat_ports_exhausted,
            Fault::NoState => &mut self.nat_no_state,
            Fault::Conflict => &mut self.nat_conflict,
            Fault::Procedure => &mut self.procedures,
        }
    }
}

crate::sum_of!(Stats {
    passed_rules,
    passed_connections,
    blocked_rules,
    blocked_default,
    malformed,
    fragments_kept,
    reassembled,
    fragments_dropped,
    options,
    invalid_state,
    not_opened,
    nat_no_address,
    nat_ports_exhausted,
    nat_no_state,
    nat_conflict,
    procedures,
    overloads,
    steered,
    module_faults,
});
