//! TCP as a firewall sees it: which state both ends are in, and which segments can be theirs.
//!
//! A [`TcpState`] is pure: a segment goes in, a verdict comes out. "Forward" is the way of the segment that opened the
//! connection.
//!
//! Where this differs from NetBSD's npf, on purpose:
//!
//! * What the table of moves does not name moves nothing; there it closed the connection. So a FIN that is sent again in
//!   `LastAck` leaves it there.
//! * A FIN is acknowledged by an acknowledgement of *it*, not by any that comes after it.
//! * RFC 5961: a reset closes only if its sequence number is exact, and a SYN in the midst of a connection changes nothing.
//!   Both ends answer those with a challenge, and the exact reset that may follow is known by its number.
//! * The handshake is complete when the responder's SYN was really acknowledged, so that nobody who does not see the
//!   answers opens a connection that stays for a day.
//! * A connection that was joined in its midst takes windows for scaled by the most that is possible.

use crate::packet::{Tcp, tcp_flag};
use serde::{Deserialize, Serialize};

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// It was reset.
    Closed,
    /// A SYN went forward.
    SynSent,
    /// A SYN went either way (RFC 9293 3.5, figure 7).
    SynBoth,
    /// One SYN was acknowledged with another.
    SynReceived,
    /// Its beginning was not seen, and nothing has come back yet.
    PickedUp,
    /// Both sides may send.
    Established,
    /// The opener has closed.
    FinSent,
    /// The responder has closed.
    FinReceived,
    /// The opener has closed, and the responder knows.
    FinWait,
    /// The responder has closed, and the opener knows.
    CloseWait,
    /// Both have closed, and none knows of the other.
    Closing,
    /// Both have closed, and one knows.
    LastAck,
    /// Both have closed, and know.
    TimeWait,
}

const PHASES: usize = Phase::TimeWait as usize + 1;

impl Phase {
    /// Its name in listings.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Closed => "CLOSED",
            Phase::SynSent => "SYN_SENT",
            Phase::SynBoth => "SIMSYN_SENT",
            Phase::SynReceived => "SYN_RECEIVED",
            Phase::PickedUp => "PICKED_UP",
            Phase::Established => "ESTABLISHED",
            Phase::FinSent => "FIN_SENT",
            Phase::FinReceived => "FIN_RECEIVED",
            Phase::FinWait => "FIN_WAIT",
            Phase::CloseWait => "CLOSE_WAIT",
            Phase::Closing => "CLOSING",
            Phase::LastAck => "LAST_ACK",
            Phase::TimeWait => "TIME_WAIT",
        }
    }

    /// The handshake is not complete.
    pub fn is_embryonic(self) -> bool {
        matches!(self, Phase::SynSent | Phase::SynBoth | Phase::SynReceived | Phase::PickedUp)
    }

    /// Nothing of worth can come any more; a SYN may open another connection in its place.
    pub fn is_over(self) -> bool {
        matches!(self, Phase::Closed | Phase::TimeWait)
    }

    /// The side, forward or not, has sent its FIN.
    fn has_closed(self, forward: bool) -> bool {
        match self {
            Phase::Closing | Phase::LastAck | Phase::TimeWait => true,
            Phase::FinSent | Phase::FinWait => forward,
            Phase::FinReceived | Phase::CloseWait => !forward,
            _ => false,
        }
    }
}

/// What a segment says that can move a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// SYN.
    Syn,
    /// SYN and ACK.
    SynAck,
    /// ACK.
    Ack,
    /// FIN.
    Fin,
    /// ACK, of the other side's FIN.
    AckOfFin,
    /// FIN, and ACK of the other side's.
    FinAckOfFin,
    /// With this both FINs are acknowledged.
    Done,
}

const EVENTS: usize = Event::Done as usize + 1;

/// Which way a segment goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Forward,
    Backward,
    Either,
}

/// The moves of a connection (RFC 9293 3.3.2, seen from between the two ends). Whatever is not here moves nothing.
#[rustfmt::skip]
const MOVES: &[(Phase, Way, Event, Phase)] = &[
    (Phase::SynSent,     Way::Backward, Event::Syn,         Phase::SynBoth),
    (Phase::SynSent,     Way::Backward, Event::SynAck,      Phase::SynReceived),
    (Phase::SynBoth,     Way::Either,   Event::SynAck,      Phase::SynReceived),
    (Phase::SynBoth,     Way::Either,   Event::Ack,         Phase::Established),
    (Phase::SynReceived, Way::Forward,  Event::Ack,         Phase::Established),
    (Phase::SynReceived, Way::Forward,  Event::SynAck,      Phase::Established),
    (Phase::SynReceived, Way::Forward,  Event::Fin,         Phase::FinSent),
    (Phase::SynReceived, Way::Backward, Event::Fin,         Phase::FinReceived),
    (Phase::PickedUp,    Way::Backward, Event::Ack,         Phase::Established),
    (Phase::PickedUp,    Way::Backward, Event::Fin,         Phase::FinReceived),
    (Phase::Established, Way::Forward,  Event::Fin,         Phase::FinSent),
    (Phase::Established, Way::Backward, Event::Fin,         Phase::FinReceived),
    (Phase::FinSent,     Way::Backward, Event::AckOfFin,    Phase::FinWait),
    (Phase::FinSent,     Way::Backward, Event::Fin,         Phase::Closing),
    (Phase::FinSent,     Way::Backward, Event::FinAckOfFin, Phase::LastAck),
    (Phase::FinReceived, Way::Forward,  Event::AckOfFin,    Phase::CloseWait),
    (Phase::FinReceived, Way::Forward,  Event::Fin,         Phase::Closing),
    (Phase::FinReceived, Way::Forward,  Event::FinAckOfFin, Phase::LastAck),
    (Phase::FinWait,     Way::Backward, Event::Fin,         Phase::LastAck),
    (Phase::FinWait,     Way::Backward, Event::FinAckOfFin, Phase::LastAck),
    (Phase::CloseWait,   Way::Forward,  Event::Fin,         Phase::LastAck),
    (Phase::CloseWait,   Way::Forward,  Event::FinAckOfFin, Phase::LastAck),
    (Phase::Closing,     Way::Either,   Event::AckOfFin,    Phase::LastAck),
    (Phase::Closing,     Way::Either,   Event::FinAckOfFin, Phase::LastAck),
    (Phase::Closing,     Way::Either,   Event::Done,        Phase::TimeWait),
    (Phase::LastAck,     Way::Either,   Event::Done,        Phase::TimeWait),
];

/// [`MOVES`] by phase, way and event.
static NEXT: [[[Option<Phase>; EVENTS]; 2]; PHASES] = {
    let mut next = [[[None; EVENTS]; 2]; PHASES];
    let mut i = 0;
    while i < MOVES.len() {
        let (from, way, event, to) = MOVES[i];
        if !matches!(way, Way::Forward) {
            next[from as usize][0][event as usize] = Some(to);
        }
        if !matches!(way, Way::Backward) {
            next[from as usize][1][event as usize] = Some(to);
        }
        i += 1;
    }
    next
};

/// What parameters say of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpRules {
    /// A reset that is in the window and not exact is invalid; else it passes. It closes nothing either way.
    pub strict_order_rst: bool,
    /// Bytes by which an acknowledgement may be late, or ahead of what was seen.
    pub max_ack_win: u32,
}

/// What a segment is to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpVerdict {
    /// It belongs to it.
    Pass,
    /// It does not, and changed nothing.
    Invalid(TcpFault),
    /// The connection is over, and this SYN opens another one. Nothing was changed.
    Over,
}

/// Why a segment does not belong to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpFault {
    /// Its flags contradict each other, or there are none.
    Flags,
    /// It cannot come while the handshake is going on.
    Handshake,
    /// Its sequence numbers are not in the window.
    Sequence,
    /// It acknowledges what was not sent, or too long ago.
    Acknowledgement,
    /// A reset that is not exact.
    Reset,
}

/// Shift count that is used where none is known: the most that there is (RFC 7323 2.3).
const SCALE_MAX: u8 = 14;

/// What is known of one side. All numbers are of the sequence space of the wire, and windows are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Side {
    /// Behind the last byte that it sent.
    end: u32,
    /// Behind the last that it may send.
    max_end: u32,
    /// The largest window that it offered, at least 1: with a window of zero the other side still probes with one byte
    /// (RFC 9293 3.8.6.1).
    max_win: u32,
    /// What it acknowledged last; the other side's first number as long as it acknowledged nothing.
    acked: u32,
    /// How its windows are scaled.
    scale: u8,
    /// Of [`KNOWN`], [`ACKED`], [`SCALES`].
    flags: u8,
}

/// It has sent something; `end`, `max_end` and `max_win` are true.
const KNOWN: u8 = 1;
/// It has acknowledged something.
const ACKED: u8 = 2;
/// Its SYN has offered window scaling.
const SCALES: u8 = 4;

impl Side {
    fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A TCP connection between its two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpState {
    /// The responder's side and the opener's, so that `forward as usize` is the sender.
    sides: [Side; 2],
    phase: Phase,
}

/// How far `a` is behind `b` in sequence space (RFC 9293 3.4).
fn ahead(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b) as i32
}

/// Behind the last number that a segment takes.
fn end_of(tcp: &Tcp) -> u32 {
    let flags = u32::from(tcp.flags & tcp_flag::SYN != 0) + u32::from(tcp.flags & tcp_flag::FIN != 0);
    tcp.seq.wrapping_add(tcp.data as u32).wrapping_add(flags)
}

fn has(tcp: &Tcp, flag: u8) -> bool {
    tcp.flags & flag != 0
}

impl TcpState {
    /// The connection that a segment opens: with a SYN, or, in the midst of it, with an ACK. `scale` is its SYN's window
    /// scale option. None for segments that open none.
    pub fn open(tcp: &Tcp, scale: Option<u8>) -> Option<TcpState> {
        let end = end_of(tcp);
        let mut sides = [Side::default(); 2];
        // The responder has acknowledged nothing: what it will acknowledge is above the first number.
        sides[0].acked = tcp.seq;
        sides[1] = Side { end, max_end: end, max_win: u32::from(tcp.window).max(1), flags: KNOWN, ..Side::default() };
        let opener = &mut sides[1];
        let phase = match tcp.flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::FIN | tcp_flag::RST) {
            tcp_flag::SYN => {
                if let Some(shift) = scale {
                    opener.scale = shift.min(SCALE_MAX);
                    opener.flags |= SCALES;
                }
                Phase::SynSent
            }
            tcp_flag::ACK => {
                opener.scale = SCALE_MAX;
                opener.max_win <<= SCALE_MAX;
                opener.acked = tcp.ack;
                opener.flags |= ACKED;
                sides[0].scale = SCALE_MAX;
                Phase::PickedUp
            }
            _ => return None,
        };
        Some(TcpState { sides, phase })
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Judges a segment, and learns from it if it belongs to the connection. `scale` is the window scale option of a SYN.
    pub fn inspect(&mut self, forward: bool, tcp: &Tcp, scale: Option<u8>, rules: &TcpRules) -> TcpVerdict {
        let verdict = match tcp.flags & (tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST) {
            tcp_flag::RST => self.reset(forward, tcp, rules),
            tcp_flag::SYN if !has(tcp, tcp_flag::ACK) => match self.syn(forward, tcp, scale) {
                Ok(true) => return TcpVerdict::Over,
                other => other.map(|_| ()),
            },
            // Without ACK there is nothing that an end would take (RFC 9293 3.10.7.4), but for FINs of old stacks.
            0 if !has(tcp, tcp_flag::ACK) => Err(TcpFault::Flags),
            tcp_flag::SYN | tcp_flag::FIN | 0 => self.segment(forward, tcp, scale, rules),
            _ => Err(TcpFault::Flags),
        };
        verdict.map_or_else(TcpVerdict::Invalid, |()| TcpVerdict::Pass)
    }

    /// As [`TcpState::inspect`] for what most segments are: with ACK and without SYN, FIN and RST, of an established connection.
    /// False: it is to be judged there; nothing has changed.
    #[inline]
    pub fn pass_in_midst(&mut self, forward: bool, tcp: &Tcp, rules: &TcpRules) -> bool {
        let end = end_of(tcp);
        let passes = self.phase == Phase::Established
            && self.sides[0].flags & self.sides[1].flags & KNOWN != 0
            && tcp.flags & (tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST | tcp_flag::ACK) == tcp_flag::ACK
            && self.check_sequence(forward, tcp.seq, end).is_ok()
            && self.check_acknowledgement(forward, tcp.ack, rules).is_ok();
        if passes {
            self.learn(forward, tcp, end);
        }
        passes
    }

    /// Whether an ICMP error can be about a segment that went forward, or backward, with this sequence number
    /// (RFC 5927 4.1): one that is on its way.
    pub fn is_on_its_way(&self, forward: bool, seq: u32) -> bool {
        let (sender, peer) = (&self.sides[usize::from(forward)], &self.sides[usize::from(!forward)]);
        let oldest = if peer.is(KNOWN) { sender.end.wrapping_sub(peer.max_win) } else { peer.acked };
        sender.is(KNOWN) && ahead(seq, sender.end) <= 0 && ahead(seq, oldest) >= 0
    }

    /// SYN without ACK. True: it opens another connection.
    fn syn(&mut self, forward: bool, tcp: &Tcp, scale: Option<u8>) -> Result<bool, TcpFault> {
        let sender = &self.sides[usize::from(forward)];
        match self.phase {
            Phase::Closed => return Ok(true),
            // RFC 1122 4.2.2.13: with a number above the last one it is no old duplicate. Else the ends answer with an ACK.
            Phase::TimeWait => return Ok(ahead(tcp.seq, sender.end) > 0),
            // Sent again, maybe with other data (RFC 7413), or a new attempt from the same port. Of an offer to scale that
            // is not repeated (some stacks leave options out in the end) the answer says whether it was heard.
            Phase::SynSent if forward => {
                let offered = sender.is(SCALES).then_some(sender.scale);
                let again = self.sides[0].acked == tcp.seq;
                if let Some(fresh) = TcpState::open(tcp, scale.or(offered.filter(|_| again))) {
                    let (end, max_win) = (sender.end, sender.max_win);
                    *self = fresh;
                    let sender = &mut self.sides[1];
                    if again && ahead(end, sender.end) > 0 {
                        (sender.end, sender.max_end) = (end, end);
                    }
                    if again {
                        sender.max_win = sender.max_win.max(max_win);
                    }
                }
            }
            Phase::SynSent => {
                self.begin(forward, tcp, scale);
                self.step(forward, Event::Syn);
            }
            // RFC 5961 4: whatever its number, the receiver answers with a challenge and stays as it is; so do we. But what
            // is out of the window is left to the rules.
            _ if sender.is(KNOWN) => self.check_sequence(forward, tcp.seq, end_of(tcp))?,
            _ => {}
        }
        Ok(false)
    }

    /// RST.
    fn reset(&mut self, forward: bool, tcp: &Tcp, rules: &TcpRules) -> Result<(), TcpFault> {
        let (sender, peer) = (&self.sides[usize::from(forward)], &self.sides[usize::from(!forward)]);
        // RFC 1337: what is in TIME-WAIT stays.
        if self.phase == Phase::TimeWait {
            return Ok(());
        }
        // The next number that it would send (or the one of its FIN), or the number that the other side waits for, which
        // answers a segment or a challenge (RFC 9293 3.10.7.4, RFC 5961 3). Of a side that was never heard: it refuses
        // what was sent to it (RFC 9293 3.10.7.3).
        let exact = (sender.is(KNOWN) && sender.end.wrapping_sub(tcp.seq) <= 1)
            || (peer.is(ACKED) && tcp.seq == peer.acked)
            || (!sender.is(KNOWN)
                && has(tcp, tcp_flag::ACK)
                && ahead(tcp.ack, sender.acked) > 0
                && ahead(tcp.ack, peer.end) <= 0);
        if exact {
            self.phase = Phase::Closed;
            return Ok(());
        }
        // RFC 9293 3.5.1, figure 9: the opener resets a connection of old of which we know no numbers.
        if self.phase == Phase::SynSent && forward {
            return Ok(());
        }
        if rules.strict_order_rst || !sender.is(KNOWN) {
            return Err(TcpFault::Reset);
        }
        self.check_sequence(forward, tcp.seq, tcp.seq)
    }

    /// SYN and ACK, ACK, or FIN.
    fn segment(&mut self, forward: bool, tcp: &Tcp, scale: Option<u8>, rules: &TcpRules) -> Result<(), TcpFault> {
        let [sender, peer] = [self.sides[usize::from(forward)], self.sides[usize::from(!forward)]];
        let (syn, fin, ack) = (has(tcp, tcp_flag::SYN), has(tcp, tcp_flag::FIN), has(tcp, tcp_flag::ACK));
        let end = end_of(tcp);
        // What is in transit answers the SYN of which the other side waits for an acknowledgement.
        let answers =
            ack && ahead(tcp.ack, sender.acked) >= i32::from(!sender.is(ACKED)) && ahead(tcp.ack, peer.end) <= 0;
        let mut fresh = false;
        match self.phase {
            Phase::SynSent if forward => return Err(TcpFault::Handshake),
            Phase::SynSent if syn && answers => fresh = true,
            // RFC 9293 3.5.1, figure 9: the responder has a connection of old and says so. It passes, for the opener has
            // to reset that one.
            Phase::SynSent if tcp.data == 0 && !fin => return Ok(()),
            Phase::SynSent => return Err(TcpFault::Handshake),
            Phase::SynBoth if !answers => return Err(TcpFault::Handshake),
            Phase::SynReceived if forward && !answers => return Err(TcpFault::Handshake),
            // A responder with SYN cookies chooses another number each time that it answers.
            Phase::SynReceived if syn && !forward && !peer.is(ACKED) && tcp.ack == sender.acked => {
                fresh = tcp.seq != peer.acked;
            }
            _ => {}
        }
        fresh |= !sender.is(KNOWN);
        if !fresh && peer.is(KNOWN) {
            self.check_sequence(forward, tcp.seq, end)?;
        }
        if ack && peer.is(KNOWN) {
            self.check_acknowledgement(forward, tcp.ack, rules)?;
        }
        if fresh {
            self.begin(forward, tcp, scale);
        }
        self.learn(forward, tcp, end);
        self.step(forward, self.event(forward, tcp));
        Ok(())
    }

    /// What lies within the window: not beyond what the peer allowed, and not more than a window before the last byte.
    fn check_sequence(&self, forward: bool, seq: u32, end: u32) -> Result<(), TcpFault> {
        let (sender, peer) = (&self.sides[usize::from(forward)], &self.sides[usize::from(!forward)]);
        let first = sender.end.wrapping_sub(peer.max_win);
        if ahead(end, sender.max_end) > 0 || ahead(seq, first) < 0 {
            return Err(TcpFault::Sequence);
        }
        Ok(())
    }

    /// What acknowledges what was sent, and not too long ago.
    fn check_acknowledgement(&self, forward: bool, ack: u32, rules: &TcpRules) -> Result<(), TcpFault> {
        let (sender, peer) = (&self.sides[usize::from(forward)], &self.sides[usize::from(!forward)]);
        let (late, most) = (i64::from(ahead(peer.end, ack)), i64::from(rules.max_ack_win));
        if late < -most || late > most << sender.scale {
            return Err(TcpFault::Acknowledgement);
        }
        Ok(())
    }

    /// The first segment of a side.
    fn begin(&mut self, forward: bool, tcp: &Tcp, scale: Option<u8>) {
        let [responder, opener] = &mut self.sides;
        let (sender, peer) = if forward { (opener, responder) } else { (responder, opener) };
        sender.end = end_of(tcp);
        // It may send what the peer's window allows, even before its SYN is acknowledged (RFC 7413).
        sender.max_end = sender.end.wrapping_add(peer.max_win.max(1));
        sender.max_win = 1;
        sender.flags |= KNOWN;
        if !peer.is(ACKED) {
            peer.acked = tcp.seq;
        }
        if has(tcp, tcp_flag::SYN) {
            // RFC 7323 2.2: windows are scaled if both have offered it.
            match scale {
                Some(shift) if peer.is(SCALES) => {
                    sender.scale = shift.min(SCALE_MAX);
                    sender.flags |= SCALES;
                }
                _ => (sender.scale, peer.scale) = (0, 0),
            }
            sender.max_win = u32::from(tcp.window).max(1);
        }
    }

    /// Takes over what a segment says of sequence numbers and windows.
    fn learn(&mut self, forward: bool, tcp: &Tcp, end: u32) {
        let [responder, opener] = &mut self.sides;
        let (sender, peer) = if forward { (opener, responder) } else { (responder, opener) };
        // The window of a SYN is never scaled (RFC 7323 2.2).
        let scale = if has(tcp, tcp_flag::SYN) { 0 } else { sender.scale };
        let window = (u32::from(tcp.window) << scale).max(1);
        sender.max_win = sender.max_win.max(window);
        if ahead(end, sender.end) > 0 {
            sender.end = end;
        }
        if ahead(end, sender.max_end) > 0 {
            sender.max_end = end;
        }
        if !has(tcp, tcp_flag::ACK) {
            return;
        }
        if !sender.is(ACKED) || ahead(tcp.ack, sender.acked) > 0 {
            sender.acked = tcp.ack;
            sender.flags |= ACKED;
        }
        let most = tcp.ack.wrapping_add(window);
        if peer.is(KNOWN) && ahead(most, peer.max_end) > 0 {
            peer.max_end = most;
        }
    }

    /// What a segment says, that was learned from.
    fn event(&self, forward: bool, tcp: &Tcp) -> Event {
        let [responder, opener] = &self.sides;
        let peer = &self.sides[usize::from(!forward)];
        let (syn, fin) = (has(tcp, tcp_flag::SYN), has(tcp, tcp_flag::FIN));
        let both = self.phase.has_closed(true) && self.phase.has_closed(false);
        if both && ahead(opener.acked, responder.end) >= 0 && ahead(responder.acked, opener.end) >= 0 {
            return Event::Done;
        }
        let of_fin = has(tcp, tcp_flag::ACK) && self.phase.has_closed(!forward) && ahead(tcp.ack, peer.end) >= 0;
        match (syn, fin, of_fin) {
            (true, ..) => Event::SynAck,
            (_, true, true) => Event::FinAckOfFin,
            (_, true, false) => Event::Fin,
            (_, false, true) => Event::AckOfFin,
            (_, false, false) => Event::Ack,
        }
    }

    fn step(&mut self, forward: bool, event: Event) {
        if let Some(next) = NEXT[self.phase as usize][usize::from(forward)][event as usize] {
            self.phase = next;
        }
    }
}

/// The window scale option among a SYN's options (RFC 7323 2.2).
pub fn window_scale(options: &[u8]) -> Option<u8> {
    let mut rest = options;
    loop {
        rest = match *rest {
            // No operation (RFC 9293 3.1).
            [1, ref after @ ..] => after,
            [3, 3, shift, ..] => return Some(shift),
            [kind, len, ..] if kind >= 2 && len >= 2 => rest.get(usize::from(len)..)?,
            _ => return None,
        };
    }
}

#[cfg(test)]
mod tests;
