//! PPTP (RFC 2637): its tunnels are GRE packets that carry a call id instead of ports, and the control connection on TCP
//! port 1723 tells which.
//!
//! Each side names its end of a call by an id of its own. A message carries the sender's id (its own), the receiver's
//! (the peer's), or both; a GRE packet carries the receiver's. An inner host's id is translated as its port is:
//!
//! ```text
//! out: own ids of control messages become outer ones       GRE and peer's ids stay
//! in:  peer's ids of control messages become inner ones    GRE: the call id becomes the inner one
//! ```
//!
//! Control messages are read as far as they lie in one segment each, from its beginning on: they are a few dozen to some
//! hundred bytes, and every implementation sends each by itself. What is cut or begins elsewhere is left alone.

use crate::{
    edit::Edit,
    packet::{Packet, Upper, be16, be32, proto},
};

/// The port of control connections (section 2).
pub const PORT: u16 = 1723;

/// Control messages that carry call ids, with their numbers (section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The client (PNS) asks for a call: its id.
    OutgoingCallRequest = 7,
    /// The answer of the server (PAC): both ids.
    OutgoingCallReply = 8,
    /// The server asks: its id.
    IncomingCallRequest = 9,
    /// The client's answer: both ids.
    IncomingCallReply = 10,
    /// The call that the server asked for is connected: the client's id.
    IncomingCallConnected = 11,
    /// The client clears a call: its id.
    CallClearRequest = 12,
    /// The server has disconnected a call: its id.
    CallDisconnectNotify = 13,
    /// The server tells of errors: the client's id.
    WanErrorNotify = 14,
    /// The client sets options: the server's id.
    SetLinkInfo = 15,
}

impl Kind {
    fn of(number: u16) -> Option<Kind> {
        Some(match number {
            7 => Kind::OutgoingCallRequest,
            8 => Kind::OutgoingCallReply,
            9 => Kind::IncomingCallRequest,
            10 => Kind::IncomingCallReply,
            11 => Kind::IncomingCallConnected,
            12 => Kind::CallClearRequest,
            13 => Kind::CallDisconnectNotify,
            14 => Kind::WanErrorNotify,
            15 => Kind::SetLinkInfo,
            _ => return None,
        })
    }

    /// Where the id is in a message.
    fn place(self, whose: Whose) -> Option<usize> {
        use Kind::*;
        match (self, whose) {
            (IncomingCallConnected | WanErrorNotify | SetLinkInfo, Whose::Peer) => Some(12),
            (IncomingCallConnected | WanErrorNotify | SetLinkInfo, Whose::Own) => None,
            (_, Whose::Own) => Some(12),
            (OutgoingCallReply | IncomingCallReply, Whose::Peer) => Some(14),
            (_, Whose::Peer) => None,
        }
    }

    /// No more is said of the call: its ids are free some time later.
    pub fn is_end(self) -> bool {
        matches!(self, Kind::CallClearRequest | Kind::CallDisconnectNotify)
    }
}

/// Whose id one is, seen from the sender of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whose {
    /// The sender's.
    Own,
    /// The receiver's.
    Peer,
}

/// A control message with call ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Which.
    pub kind: Kind,
    /// The sender's id, if it is there.
    pub own: Option<u16>,
    /// The receiver's id, if it is there.
    pub peer: Option<u16>,
    /// Where the message begins in the packet.
    at: usize,
}

/// The control messages with call ids in a packet; none if it is not of a control connection.
pub fn messages<'a>(bytes: &'a [u8], packet: &Packet) -> impl Iterator<Item = Message> + use<'a> {
    let (mut at, end) = control_data(bytes, packet).unwrap_or((0, 0));
    std::iter::from_fn(move || {
        let (message, next) = next(bytes, at, end)?;
        at = next;
        Some(message)
    })
}

/// The first message with call ids from there on, and where what follows it begins.
fn next(bytes: &[u8], mut at: usize, end: usize) -> Option<(Message, usize)> {
    loop {
        let (kind, len) = header(bytes.get(at..end)?)?;
        if let Some(kind) = Kind::of(kind) {
            let id = |whose| {
                let place = kind.place(whose).filter(|place| place + 2 <= len)?;
                Some(be16(bytes, at + place))
            };
            return Some((Message { kind, own: id(Whose::Own), peer: id(Whose::Peer), at }, at + len));
        }
        at += len;
    }
}

/// Where the data of a control connection's segment begin and end.
fn control_data(bytes: &[u8], packet: &Packet) -> Option<(usize, usize)> {
    let Upper::Tcp(tcp) = packet.upper else { return None };
    let is_control = tcp.ports.src == PORT || tcp.ports.dst == PORT;
    (is_control && packet.len <= bytes.len()).then_some((packet.header + tcp.header, packet.len))
}

/// The number and length of a control message that begins here and is whole (section 2.1).
fn header(data: &[u8]) -> Option<(u16, usize)> {
    const CONTROL: u16 = 1;
    const COOKIE: u32 = 0x1a2b_3c4d;
    let head = data.first_chunk::<12>()?;
    let len = usize::from(be16(head, 0));
    let is_control = be16(head, 2) == CONTROL && be32(head, 4) == COOKIE;
    (is_control && (12..=data.len()).contains(&len)).then_some((be16(head, 8), len))
}

/// Gives ids of control messages new values, and the TCP checksum is put right. `to` is asked for each id of that kind and
/// gives the new one, or None to leave it. Gives how many were changed.
pub fn rewrite(
    bytes: &mut [u8],
    packet: &Packet,
    whose: Whose,
    mut to: impl FnMut(Message, u16) -> Option<u16>,
) -> u32 {
    let mut changed = 0;
    let (mut at, end) = control_data(bytes, packet).unwrap_or((0, 0));
    while let Some((message, next)) = next(bytes, at, end) {
        at = next;
        let (Some(place), Some(id)) = (message.kind.place(whose), message.id(whose)) else { continue };
        let Some(id) = to(message, id) else { continue };
        let mut edit = Edit::new(bytes, packet);
        let delta = edit.put(message.at + place, &id.to_be_bytes());
        // An open checksum is that of the pseudo-header, in which no id is.
        if !edit.checksum_is_open() {
            edit.fix(packet.header + 16, delta);
        }
        changed += 1;
    }
    changed
}

impl Message {
    /// One of its ids.
    pub fn id(&self, whose: Whose) -> Option<u16> {
        match whose {
            Whose::Own => self.own,
            Whose::Peer => self.peer,
        }
    }
}

/// The call id of an enhanced GRE packet (section 4.1): the receiver's. None: it is none.
pub fn gre_call_id(bytes: &[u8], packet: &Packet) -> Option<u16> {
    const PPP: u16 = 0x880b;
    let first = packet.fragment.is_none_or(|f| f.offset == 0);
    let head = packet.here(bytes).get(packet.header..)?.first_chunk::<8>()?;
    // Key present, version 1; no checksum, no routing.
    let enhanced = head[0] & 0xe0 == 0x20 && head[1] & 7 == 1 && be16(head, 2) == PPP;
    (packet.proto == proto::GRE && first && enhanced).then(|| be16(head, 6))
}

/// Sets the call id of an enhanced GRE packet, which has no checksum. False: it is none.
#[inline(never)]
pub fn set_gre_call_id(bytes: &mut [u8], packet: &Packet, id: u16) -> bool {
    let is = gre_call_id(bytes, packet).is_some();
    if is {
        Edit::new(bytes, packet).put(packet.header + 6, &id.to_be_bytes());
    }
    is
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ip, is_right, tcp};
    use proptest::prelude::*;

    fn message(kind: u16, ids: [u16; 2], len: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(len.to_be_bytes());
        bytes.extend([0, 1, 0x1a, 0x2b, 0x3c, 0x4d]);
        bytes.extend([kind.to_be_bytes(), [0, 0], ids[0].to_be_bytes(), ids[1].to_be_bytes()].concat());
        bytes.resize(usize::from(len).max(16), 0x55);
        bytes
    }

    fn out(data: &[u8]) -> Vec<u8> {
        tcp(("10.1.1.1", 40000), ("198.51.100.1", PORT), 0x18, &[1, 1], data)
    }

    fn seen(bytes: &[u8]) -> Vec<(Kind, Option<u16>, Option<u16>)> {
        let packet = Packet::read(bytes).unwrap();
        messages(bytes, &packet).map(|m| (m.kind, m.own, m.peer)).collect()
    }

    #[test]
    fn a_request_and_its_reply_are_translated() {
        let before = out(&message(7, [7, 0x1111], 168));
        let mut bytes = before.clone();
        let packet = Packet::read(&bytes).unwrap();
        assert_eq!(seen(&bytes), [(Kind::OutgoingCallRequest, Some(7), None)]);
        assert_eq!(rewrite(&mut bytes, &packet, Whose::Own, |_, id| Some(id + 4000)), 1);
        assert_eq!(seen(&bytes), [(Kind::OutgoingCallRequest, Some(4007), None)]);
        assert!(is_right(&bytes));
        assert_eq!(bytes.iter().zip(&before).filter(|(a, b)| a != b).count(), 4);

        let mut bytes = tcp(("198.51.100.1", PORT), ("10.1.1.1", 40000), 0x18, &[], &message(8, [99, 4007], 32));
        let packet = Packet::read(&bytes).unwrap();
        assert_eq!(rewrite(&mut bytes, &packet, Whose::Peer, |_, id| (id == 4007).then_some(7)), 1);
        assert_eq!(seen(&bytes), [(Kind::OutgoingCallReply, Some(99), Some(7))]);
        assert!(is_right(&bytes));
    }

    #[test]
    fn all_messages_of_a_segment_are_seen_and_those_without_ids_are_skipped() {
        let data = [message(5, [0, 0], 16), message(15, [1, 2], 24), message(12, [3, 4], 16), message(9, [5, 6], 220)];
        let kinds = [
            (Kind::SetLinkInfo, None, Some(1)),
            (Kind::CallClearRequest, Some(3), None),
            (Kind::IncomingCallRequest, Some(5), None),
        ];
        assert_eq!(seen(&out(&data.concat())), kinds);
        let mut bytes = out(&data.concat());
        let packet = Packet::read(&bytes).unwrap();
        assert_eq!(rewrite(&mut bytes, &packet, Whose::Own, |_, id| Some(id + 10)), 2);
        assert_eq!(seen(&bytes)[1..].iter().map(|m| m.1).collect::<Vec<_>>(), [Some(13), Some(15)]);
        assert!(is_right(&bytes));
    }

    #[test]
    fn cut_and_foreign_data_are_left_alone() {
        let whole = message(7, [7, 0], 168);
        for data in [&whole[..167], &whole[..11], &whole[1..], b"", &message(7, [7, 0], 0)] {
            assert_eq!(seen(&out(data)), []);
        }
        // Too short for the id that it should have.
        assert_eq!(seen(&out(&message(7, [7, 0], 12)[..12])), [(Kind::OutgoingCallRequest, None, None)]);
        assert_eq!(seen(&tcp(("10.1.1.1", 1), ("10.1.1.2", 80), 0x18, &[], &whole)), []);
    }

    #[test]
    fn gre_carries_the_receivers_id() {
        let gre = [0x30, 0x81, 0x88, 0x0b, 0, 4, 0x0f, 0xa7, 0, 0, 0, 1, 0, 0, 0, 2, 1, 2, 3, 4];
        let mut bytes = ip("198.51.100.1", "192.0.2.1", 47, &gre);
        let packet = Packet::read(&bytes).unwrap();
        assert_eq!(gre_call_id(&bytes, &packet), Some(4007));
        assert!(set_gre_call_id(&mut bytes, &packet, 7));
        assert_eq!((gre_call_id(&bytes, &packet), is_right(&bytes)), (Some(7), true));
        for (at, byte) in [(1, 0x80), (0, 0x10), (0, 0xb0), (2, 8)] {
            let mut gre = gre;
            gre[at] = byte;
            let mut bytes = ip("198.51.100.1", "192.0.2.1", 47, &gre);
            let packet = Packet::read(&bytes).unwrap();
            assert!(!set_gre_call_id(&mut bytes, &packet, 7));
        }
        let short = ip("198.51.100.1", "192.0.2.1", 47, &gre[..7]);
        assert_eq!(gre_call_id(&short, &Packet::read(&short).unwrap()), None);
    }

    proptest! {
        #[test]
        fn any_data_leave_a_right_checksum(
            parts in prop::collection::vec((any::<u16>(), 0u16..18, 0u16..40, any::<u16>()), 0..6),
            cut in any::<prop::sample::Index>(), whose in prop::sample::select(vec![Whose::Own, Whose::Peer]),
        ) {
            let mut data: Vec<u8> = parts.iter().flat_map(|&(id, kind, len, b)| message(kind, [id, b], len)).collect();
            data.truncate(cut.index(data.len() + 1));
            let mut bytes = out(&data);
            let packet = Packet::read(&bytes).unwrap();
            rewrite(&mut bytes, &packet, whose, |_, id| Some(id ^ 0x5aa5));
            prop_assert!(is_right(&bytes));
            rewrite(&mut bytes, &packet, whose, |_, id| Some(id ^ 0x5aa5));
            prop_assert_eq!(bytes, out(&data));
        }
    }
}
