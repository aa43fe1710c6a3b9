//! `alg "pptp"`: calls of PPTP (RFC 2637) through translation.
//!
//! ```text
//! control connection, TCP to port 1723        A: outgoing call request, id 7  ->  X: id 4007
//!                                             S: reply, id 99, to 4007        ->  to 7;    from here on the call is known
//! the call, GRE                               A -> S  id 99                   ->  X -> S  id 99
//!                                             S -> X  id 4007                 ->  S -> A  id 7
//! ```
//!
//! A packet of a call carries the id that its receiver has given to it and nothing of its sender's. So a call is a connection
//! whose two keys have one id each, and are found by that: two inner hosts that gave their calls the same id, to the same server,
//! have different ones outside. A call passes by the rule that let its control connection pass, and ends with it.
//!
//! Of several workers, the one of the control connection has its calls, and writes that down for both ways.

use super::{Engine, Ruleset, Seat};
use crate::{
    config::PortRange,
    nat::{
        ports::{PortMap, Translated},
        pptp::{self, Kind, PORT, Whose},
    },
    packet::{Packet, proto},
    state::{ConnId, Connection, Hold, Key, Nat, NatKind},
};
use std::collections::HashMap;

/// Calls of a control connection at once. What asks for more is left as it is.
const CALLS_MAX: usize = 16;
/// Any id will do but 0.
const IDS: PortRange = PortRange { first: 1, last: u16::MAX };

/// What control connections have said.
#[derive(Debug, Default)]
pub(super) struct Calls {
    of: HashMap<ConnId, Vec<Call>>,
    /// Connections of calls whose control connection is gone.
    pub over: Vec<ConnId>,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    /// The inner host's id.
    inner: u16,
    /// That outside.
    outer: u16,
    /// The server's, and the connection, as soon as both ids are known. It has the outer id then.
    begun: Option<(u16, ConnId)>,
}

impl Calls {
    /// A connection is gone, perhaps one that calls hang on.
    pub fn ended(&mut self, id: ConnId, connection: &Connection, ports: &mut PortMap) {
        if self.of.is_empty() {
            return;
        }
        let (Some(calls), Some(nat)) = (self.of.remove(&id), connection.nat()) else { return };
        for call in calls {
            match call.begun {
                Some((_, conn)) => self.over.push(conn),
                None => _ = ports.release(Translated { address: nat.translated.0, proto: proto::GRE }, call.outer),
            }
        }
    }

    fn call(&mut self, control: ConnId, is: impl Fn(&Call) -> bool) -> Option<&mut Call> {
        self.of.get_mut(&control)?.iter_mut().find(|call| is(call))
    }
}

/// The key of a packet of a call, if calls are looked after.
#[inline(never)]
pub(super) fn call_key(ruleset: &Ruleset, bytes: &[u8], packet: &Packet) -> Option<Key> {
    if !ruleset.pptp || packet.proto != proto::GRE {
        return None;
    }
    let id = pptp::gre_call_id(bytes, packet)?;
    Some(Key::unbound(packet)?.to_call(id))
}

impl Engine {
    /// Translates what a packet of a control connection says of calls, and has those begin and end.
    #[inline(never)]
    pub(super) fn follow_calls(
        &mut self,
        bytes: &mut [u8],
        packet: &Packet,
        control: ConnId,
        forward: bool,
        seat: &Seat<'_>,
    ) {
        let Some(nat) = self.connections.get(control).and_then(Connection::nat) else { return };
        let of = if forward { packet.ports().map(|p| p.dst) } else { packet.ports().map(|p| p.src) };
        if packet.proto != proto::TCP
            || of != Some(PORT)
            || nat.kind != NatKind::Source
            || nat.interface != seat.at.interface
        {
            return;
        }
        // What is told here and there; memory is allocated for the messages of a call alone.
        let (mut begun, mut ended) = (Vec::new(), Vec::new());
        if forward {
            pptp::rewrite(bytes, packet, Whose::Own, |message, inner| {
                let is_first = matches!(message.kind, Kind::OutgoingCallRequest | Kind::IncomingCallReply);
                let outer = self.outer_call(control, nat.translated.0, inner, is_first)?;
                if let (Kind::IncomingCallReply, Some(server)) = (message.kind, message.peer) {
                    begun.push((outer, server));
                }
                Some(outer)
            });
        } else {
            let notices = pptp::messages(bytes, packet).filter(|m| m.kind == Kind::CallDisconnectNotify);
            ended.extend(notices.filter_map(|m| m.own));
            pptp::rewrite(bytes, packet, Whose::Peer, |message, outer| {
                let call = self.held.calls.call(control, |c| c.outer == outer)?;
                if let (Kind::OutgoingCallReply, Some(server)) = (message.kind, message.own) {
                    begun.push((outer, server));
                }
                Some(call.inner)
            });
        }
        for (outer, server) in begun {
            self.begin_call(control, nat, outer, server, seat);
        }
        for server in ended {
            self.end_call(control, server);
        }
    }

    /// The outer id of a call, which gets one with its first message.
    fn outer_call(&mut self, control: ConnId, address: u128, inner: u16, is_first: bool) -> Option<u16> {
        if let Some(call) = self.held.calls.call(control, |c| c.inner == inner) {
            return Some(call.outer);
        }
        if !is_first || self.held.calls.of.get(&control).is_some_and(|calls| calls.len() >= CALLS_MAX) {
            return None;
        }
        let of = Translated { address, proto: proto::GRE };
        let random = &mut || self.random.next();
        let share = self.held.share.as_ref();
        let outer = self.held.ports.get_where(of, IDS, random, |id| share.is_none_or(|s| s.has_number(id)))?;
        self.held.calls.of.entry(control).or_default().push(Call { inner, outer, begun: None });
        Some(outer)
    }

    /// Both ids of a call are known: its packets pass from now on.
    fn begin_call(&mut self, control: ConnId, nat: Nat, outer: u16, server: u16, seat: &Seat<'_>) {
        let Some(call) = self.held.calls.call(control, |c| c.outer == outer && c.begun.is_none()).copied() else {
            return;
        };
        let Some(by) = self.connections.get(control) else { return };
        let mut connection = Connection::of_call(by, server, seat.now);
        let claimed = self.held.share.is_some();
        let hold = Hold { call: Some(call.inner), claimed, ..Hold::default() };
        let (original, translated) = ((nat.original.0, 0), (nat.translated.0, outer));
        connection.translate(Nat { original, translated, port_taken: true, hold, ..nat });
        let keys = [*connection.forward(), *connection.backward()];
        if let Some(share) = &self.held.share {
            if !share.claim(&keys[0]) {
                return;
            }
            if !share.claim(&keys[1]) {
                return share.disclaim(&keys[0]);
            }
        }
        match self.insert(connection, seat.now) {
            Some(conn) => {
                if let Some(call) = self.held.calls.call(control, |c| c.outer == outer) {
                    call.begun = Some((server, conn));
                }
            }
            None => {
                if let Some(share) = &self.held.share {
                    keys.iter().for_each(|key| share.disclaim(key));
                }
            }
        }
    }

    /// The server says that a call is over.
    fn end_call(&mut self, control: ConnId, server: u16) {
        let Some(calls) = self.held.calls.of.get_mut(&control) else { return };
        let is_it = |call: &Call| call.begun.is_some_and(|(id, _)| id == server);
        let Some((_, conn)) = calls.iter().find(|c| is_it(c)).and_then(|c| c.begun) else { return };
        calls.retain(|call| !is_it(call));
        self.end(conn);
    }
}
