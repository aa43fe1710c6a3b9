//! Connections: which there are, which packets belong to them, and when they end.
//!
//! ```text
//! Packet -- Key::of --> Connections::inspect --> None | Over ...... the rules; with `stateful`:
//!                                            |                      Connection::open, translate, Connections::insert
//!                                            |-> Invalid .......... counted, and the rules
//!                                            |-> Pass, Related .... no rules; translation and procedure of the connection
//! ```
//!
//! A [`Connections`] belongs to one worker: nothing in it is shared, locked or atomic. Time comes in as [`Millis`]. Packets
//! allocate nothing but, as the table grows for the first time, one piece of memory every 131,072 connections.
//!
//! The state engine of `npf_state.c`, `npf_state_tcp.c`, `npf_conn.c` in NetBSD, with its faults left out.

mod generic;
mod index;
mod key;
mod record;
mod table;
mod tcp;
mod wheel;

pub use generic::Generic;
pub use key::{Binding, Crossing, Direction, INTERFACES_MAX, Key, Quoted, read_quoted};
pub(crate) use key::{Bound, ShortKey};
pub use record::{ConnectionRecord, Names, NatRecord, RecordError};
pub(crate) use table::Quick;
pub use table::{CAPACITY_MAX, ConnId, Connections, Counters, Gone, Inspect, Limits, Refused};
pub use tcp::{Phase, TcpFault, TcpRules, TcpState, TcpVerdict, window_scale};

use crate::{
    config::{RuleId, Stateful},
    packet::{IcmpClass, Packet, Upper, proto, tcp_flag},
    params::{Key as Param, Params},
};

/// Milliseconds since some start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// So many milliseconds later.
    pub fn after(self, milliseconds: u64) -> Millis {
        Millis(self.0.saturating_add(milliseconds))
    }

    /// Milliseconds since then; 0 if that is yet to come.
    pub fn since(self, then: Millis) -> u64 {
        self.0.saturating_sub(then.0)
    }
}

/// A connection.
///
/// What a packet of an established connection reads and writes lies in its first 128 bytes, two cache lines that are
/// neighbours, and what was decided when it began in the third.
#[derive(Clone, Debug)]
#[repr(C, align(128))]
pub struct Connection {
    forward: Key,
    last: Millis,
    tally: [Tally; 2],
    state: State,
    /// Of the table: odd as long as the connection is in it.
    generation: u32,
    mark: Option<NatMark>,
    /// What was decided when it began. The engine's to change.
    pub facts: Facts,
    backward: Key,
    created: Millis,
}

/// Of a connection, what packets on the straight way look at.
const LOOKED_AT: usize = 192;

const _: () = assert!(
    std::mem::offset_of!(Connection, generation) == 124 && std::mem::offset_of!(Connection, backward) == LOOKED_AT
);

/// What was decided when a connection began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The rule that let it pass; None where only translation made it.
    pub rule: Option<RuleId>,
    /// The rule's number in the ruleset of `serial`.
    pub number: u32,
    /// The ruleset in which all of this was last looked up.
    pub serial: u32,
    /// The procedure that its packets go through: a number that the ruleset gives.
    pub procedure: Option<u16>,
    /// The interface on which it began, whatever its key is bound to.
    pub interface: Option<u16>,
    /// The tag that its packets carry: a number that the ruleset gives, 0 for none.
    pub tag: u16,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Bytes of them, from the IP header on.
    pub bytes: u64,
}

/// How a connection is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat {
    /// The map that says so.
    pub map: RuleId,
    /// What of forward packets is translated.
    pub kind: NatKind,
    /// What forward packets have before, as their key says: address and port, or ICMP identifier, or 0.
    pub original: (u128, u16),
    /// What they have after.
    pub translated: (u128, u16),
    /// The translated port was taken from the map's and has to be given back.
    pub port_taken: bool,
    /// The interface at which it is translated: the number that the engine has given to its name.
    pub interface: Option<u16>,
    /// More of it.
    pub hold: Hold,
}

/// What a translation has besides addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    /// The outer end is that of an endpoint-independent mapping.
    pub mapped: bool,
    /// It turns packets back inside: they are translated where they come in, and so are those that answer them.
    pub hairpin: bool,
    /// Packets that come back are said to belong to this worker, whatever their hash says.
    pub claimed: bool,
    /// It is a call of PPTP, which the inner host knows by this id, and everybody outside by the translated one.
    pub call: Option<u16>,
}

/// What of a [`Nat`] does not follow from the two keys.
#[derive(Clone, Copy, Debug)]
struct NatMark {
    map: RuleId,
    kind: NatKind,
    port_taken: bool,
    interface: Option<u16>,
    hold: Hold,
}

/// What of forward packets is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    /// Where they come from.
    Source,
    /// Where they go.
    Destination,
}

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum State {
    /// Of TCP.
    Tcp(TcpState),
    /// Of anything else.
    Generic(Generic),
}

impl State {
    /// The state that a packet opens. None if it cannot: ICMP that is no request, TCP that is neither a SYN nor an ACK.
    fn open(bytes: &[u8], packet: &Packet) -> Option<State> {
        match packet.upper {
            Upper::Tcp(tcp) => TcpState::open(&tcp, scale_of(bytes, packet)).map(State::Tcp),
            Upper::Icmp(icmp) if !matches!(icmp.class, IcmpClass::Request(_)) => None,
            _ => Some(State::Generic(Generic::New)),
        }
    }

    /// Its name in listings.
    pub fn name(&self) -> &'static str {
        match self {
            State::Tcp(tcp) => tcp.phase().name(),
            State::Generic(generic) => generic.name(),
        }
    }

    /// Tells states apart of which the timeouts differ.
    fn stage(&self) -> (bool, u8) {
        match self {
            State::Tcp(tcp) => (true, tcp.phase() as u8),
            State::Generic(generic) => (false, *generic as u8),
        }
    }

    /// Nothing that the other side said has completed it.
    pub fn is_embryonic(&self) -> bool {
        match self {
            State::Tcp(tcp) => tcp.phase().is_embryonic(),
            State::Generic(generic) => *generic == Generic::New,
        }
    }

    /// It has ended, and another one may take its place.
    pub fn is_over(&self) -> bool {
        match self {
            State::Tcp(tcp) => tcp.phase().is_over(),
            State::Generic(generic) => *generic == Generic::Closed,
        }
    }
}

/// The window scale option of a packet that is a SYN.
fn scale_of(bytes: &[u8], packet: &Packet) -> Option<u8> {
    match packet.upper {
        Upper::Tcp(tcp) if tcp.flags & tcp_flag::SYN != 0 => {
            window_scale(bytes.get(packet.header + 20..packet.header + tcp.header)?)
        }
        _ => None,
    }
}

impl Connection {
    /// The connection that a packet opens, in no table yet. None for packets that open none: protocols without state, ICMP
    /// that is no query, TCP in the midst of an ending.
    ///
    /// `bytes` are those that `packet` was read from.
    pub fn open(bytes: &[u8], packet: &Packet, at: Crossing, binding: Binding, now: Millis) -> Option<Connection> {
        let forward = Key::of(packet, at, binding)?;
        let state = State::open(bytes, packet)?;
        let facts = Facts { interface: at.interface, ..Facts::default() };
        let mut connection = Connection::new(forward, state, facts, now);
        connection.count(true, packet.len);
        Some(connection)
    }

    /// A call of PPTP that a control connection tells of, in no table yet. Its packets carry the receiver's id each
    /// (RFC 2637, section 4.1): the server has `server`.
    pub(crate) fn of_call(control: &Connection, server: u16, now: Millis) -> Connection {
        let forward = control.forward.of_gre().to_call(server);
        Connection::new(forward, State::Generic(Generic::New), control.facts, now)
    }

    fn new(forward: Key, state: State, facts: Facts, now: Millis) -> Connection {
        Connection {
            forward,
            last: now,
            tally: [Tally::default(); 2],
            state,
            generation: 0,
            created: now,
            backward: forward.reverse(),
            mark: None,
            facts,
        }
    }

    /// Has it translated: what comes back has the translated address where forward packets get it.
    /// In a table: [`Connections::translate`].
    pub fn translate(&mut self, nat: Nat) {
        let (address, id) = nat.translated;
        let after = match nat.kind {
            NatKind::Source => self.forward.with_source(address, id),
            NatKind::Destination => self.forward.with_destination(address, id),
        };
        self.backward = after.reverse();
        if nat.hold.hairpin {
            // Answers come in too, at the interface of whoever answers.
            let direction = self.forward.direction();
            let binding = Binding { interface: false, direction: direction.is_some() };
            let at = Crossing { interface: None, direction: direction.unwrap_or(Direction::In) };
            self.backward = self.backward.bound(at, binding);
        }
        if nat.hold.call.is_some() {
            self.backward = self.backward.to_call(id);
        }
        let Nat { map, kind, port_taken, interface, hold, .. } = nat;
        self.mark = Some(NatMark { map, kind, port_taken, interface, hold });
    }

    /// The key of packets that go the way of the first one, before they are translated.
    pub fn forward(&self) -> &Key {
        &self.forward
    }

    /// The key of packets that come back, before they are translated.
    pub fn backward(&self) -> &Key {
        &self.backward
    }

    /// Its state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// How it is translated.
    pub fn nat(&self) -> Option<Nat> {
        let NatMark { map, kind, port_taken, interface, hold } = self.mark?;
        let (original, translated) = match kind {
            NatKind::Source => (self.forward.source_end(), self.backward.destination_end()),
            NatKind::Destination => (self.forward.destination_end(), self.backward.source_end()),
        };
        Some(Nat { map, kind, original, translated, port_taken, interface, hold })
    }

    /// It turns packets back inside, and what they are answered with.
    pub(crate) fn turns_inward(&self) -> bool {
        self.mark.is_some_and(|m| m.hold.hairpin && m.kind == NatKind::Destination)
    }

    /// The map that it is translated by.
    pub fn map(&self) -> Option<RuleId> {
        self.mark.map(|mark| mark.map)
    }

    /// When it began.
    pub fn created(&self) -> Millis {
        self.created
    }

    /// When it was last used.
    pub fn last(&self) -> Millis {
        self.last
    }

    /// What went forward, or came back.
    pub fn tally(&self, forward: bool) -> Tally {
        self.tally[usize::from(forward)]
    }

    fn key(&self, forward: bool) -> &Key {
        if forward { &self.forward } else { &self.backward }
    }

    fn count(&mut self, forward: bool, bytes: usize) {
        let tally = &mut self.tally[usize::from(forward)];
        tally.packets += 1;
        tally.bytes += bytes as u64;
    }
}

/// How long connections stay that are not used, in milliseconds, and what else parameters say of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    closed: u64,
    new: u64,
    established: u64,
    gre: u64,
    tcp_new: u64,
    tcp_established: u64,
    tcp_half_close: u64,
    tcp_close: u64,
    tcp_time_wait: u64,
    tcp: TcpRules,
    /// Keys that are bound to an interface.
    bound: Binding,
    /// Keys that are not, where the rule said `stateful-all`.
    floating: Binding,
}

impl Rules {
    fn new(params: &Params) -> Rules {
        let seconds = |key| u64::from(params.get(key)) * 1000;
        Rules {
            closed: seconds(Param::StateGenericTimeoutClosed),
            new: seconds(Param::StateGenericTimeoutNew),
            established: seconds(Param::StateGenericTimeoutEstablished),
            gre: seconds(Param::StateGenericTimeoutGre),
            tcp_new: seconds(Param::StateTcpTimeoutNew),
            tcp_established: seconds(Param::StateTcpTimeoutEstablished),
            tcp_half_close: seconds(Param::StateTcpTimeoutHalfClose),
            tcp_close: seconds(Param::StateTcpTimeoutClose),
            tcp_time_wait: seconds(Param::StateTcpTimeoutTimeWait),
            tcp: TcpRules {
                strict_order_rst: params.is_on(Param::StateTcpStrictOrderRst),
                max_ack_win: params.get(Param::StateTcpMaxAckWin),
            },
            bound: Binding::new(params, Stateful::Interface),
            floating: Binding::new(params, Stateful::All),
        }
    }

    /// When a connection ends if it is not used.
    fn deadline(&self, connection: &Connection) -> Millis {
        connection.last.after(match &connection.state {
            State::Tcp(tcp) => match tcp.phase() {
                Phase::SynSent | Phase::SynBoth | Phase::SynReceived | Phase::PickedUp => self.tcp_new,
                Phase::Established => self.tcp_established,
                Phase::FinSent | Phase::FinReceived | Phase::FinWait | Phase::CloseWait => self.tcp_half_close,
                Phase::Closing | Phase::LastAck | Phase::TimeWait => self.tcp_time_wait,
                Phase::Closed => self.tcp_close,
            },
            State::Generic(Generic::Established) if connection.forward.proto() == proto::GRE => self.gre,
            State::Generic(Generic::Established) => self.established,
            State::Generic(Generic::New) => self.new,
            State::Generic(Generic::Closed) => self.closed,
        })
    }
}

#[cfg(test)]
mod tests;
