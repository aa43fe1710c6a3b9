//! What a segment is to a connection, as tables: who sends it, its flags, its data, sequence and acknowledgement, window.

use super::*;
use crate::packet::Ports;
use proptest::prelude::*;
use tcp_flag::{ACK, FIN, RST, SYN};

const RULES: TcpRules = TcpRules { strict_order_rst: true, max_ack_win: 66_000 };
const SA: u8 = SYN | ACK;
const FA: u8 = FIN | ACK;
const RA: u8 = RST | ACK;

/// Forward, backward.
const F: bool = true;
const B: bool = false;

fn tcp(flags: u8, data: usize, seq: u32, ack: u32, window: u16) -> Tcp {
    Tcp { ports: Ports { src: 1, dst: 2 }, flags, seq, ack, window, header: 20, data }
}

type Row = (bool, u8, usize, u32, u32, u16, Phase);

/// A row that has to pass.
fn valid(state: &mut Option<TcpState>, row: Row) {
    let (forward, flags, data, seq, ack, window, after) = row;
    let segment = tcp(flags, data, seq, ack, window);
    // As NetBSD's test does: the first one opens the connection, and is judged as well.
    let state = state.get_or_insert_with(|| TcpState::open(&segment, None).unwrap());
    assert_eq!(state.inspect(forward, &segment, None, &RULES), TcpVerdict::Pass, "{row:?} {state:?}");
    assert_eq!(state.phase(), after, "{row:?}");
}

fn after(rows: &[Row]) -> TcpState {
    let mut state = None;
    for row in rows {
        valid(&mut state, *row);
    }
    state.unwrap()
}

/// A segment that must not pass, and must change nothing.
fn invalid(state: &mut TcpState, forward: bool, segment: &Tcp, why: TcpFault) {
    let before = *state;
    assert_eq!(state.inspect(forward, segment, None, &RULES), TcpVerdict::Invalid(why), "{segment:?}");
    assert_eq!(*state, before);
}

fn passes(state: &mut TcpState, forward: bool, segment: &Tcp, after: Phase) {
    assert_eq!(state.inspect(forward, segment, None, &RULES), TcpVerdict::Pass, "{segment:?} {state:?}");
    assert_eq!(state.phase(), after, "{segment:?}");
}

use Phase::*;

const HANDSHAKE: [Row; 3] = [
    (F, SYN, 0, 9999, 0, 4096, SynSent),
    (B, SA, 0, 9, 10000, 2048, SynReceived),
    (F, ACK, 0, 10000, 10, 4096, Established),
];

#[test]
fn netbsds_sequences_pass() {
    // The packets of npf_state_test.c that the reference quotes; the states are this project's.
    after(&[
        HANDSHAKE[0],
        HANDSHAKE[1],
        HANDSHAKE[2],
        (B, ACK, 0, 10, 10000, 2048, Established),
        (F, ACK, 1000, 10000, 10, 4096, Established),
        (F, ACK, 1000, 11000, 10, 4096, Established),
        (B, ACK, 0, 10, 12000, 2048, Established),
        (B, ACK, 0, 10, 13000, 2048, Established),
        (F, ACK, 1000, 12000, 10, 4096, Established),
        (B, ACK, 0, 10, 11000, 1048, Established),
        (F, ACK, 1000, 14000, 10, 4096, Established),
        (B, ACK, 0, 10, 13000, 2048, Established),
    ]);
    after(&[
        (F, SYN, 0, 9999, 0, 1000, SynSent),
        (B, SA, 0, 9, 10000, 4000, SynReceived),
        (F, ACK, 0, 10000, 10, 1000, Established),
        (F, ACK, 1000, 10000, 10, 1000, Established),
        (B, ACK, 0, 10, 11000, 4000, Established),
        (F, ACK, 1000, 11000, 10, 1000, Established),
        (F, ACK, 1000, 12000, 10, 1000, Established),
        (F, ACK, 1000, 13000, 10, 1000, Established),
        (F, ACK, 1000, 14000, 10, 1000, Established),
        (B, ACK, 0, 10, 15000, 4000, Established),
        (B, ACK, 0, 10, 15000, 2000, Established),
        (F, ACK, 1000, 12000, 10, 1000, Established),
    ]);
}

#[test]
fn the_opener_closes_first() {
    after(&[
        HANDSHAKE[0],
        HANDSHAKE[1],
        HANDSHAKE[2],
        (F, FA, 0, 10000, 10, 4096, FinSent),
        (F, FA, 0, 10000, 10, 4096, FinSent),
        // Data that were on the way acknowledge no FIN.
        (B, ACK, 100, 10, 10000, 2048, FinSent),
        (B, ACK, 0, 110, 10001, 2048, FinWait),
        (B, ACK, 500, 110, 10001, 2048, FinWait),
        (F, ACK, 0, 10001, 610, 4096, FinWait),
        (B, FA, 0, 610, 10001, 2048, LastAck),
        (B, FA, 0, 610, 10001, 2048, LastAck),
        (F, FA, 0, 10000, 610, 4096, LastAck),
        (F, ACK, 0, 10001, 611, 4096, TimeWait),
        (B, FA, 0, 610, 10001, 2048, TimeWait),
        (F, ACK, 0, 10001, 611, 4096, TimeWait),
        (B, RST, 0, 611, 0, 0, TimeWait),
    ]);
}

#[test]
fn the_responder_closes_first_and_what_does_not_belong_there_is_invalid() {
    let mut state = after(&[
        HANDSHAKE[0],
        HANDSHAKE[1],
        HANDSHAKE[2],
        (B, FIN | ACK, 10, 10, 10000, 2048, FinReceived),
        (F, ACK, 0, 10000, 20, 4096, FinReceived),
        (F, ACK, 0, 10000, 21, 4096, CloseWait),
        (F, ACK, 500, 10000, 21, 4096, CloseWait),
        (B, ACK, 0, 21, 10500, 2048, CloseWait),
        (F, FA, 0, 10500, 21, 4096, LastAck),
        // Upstream closes here.
        (F, FA, 0, 10500, 21, 4096, LastAck),
        (B, ACK, 0, 21, 10500, 2048, LastAck),
        (B, ACK, 0, 21, 10501, 2048, TimeWait),
    ]);
    invalid(&mut state, F, &tcp(ACK, 0, 90_500, 21, 4096), TcpFault::Sequence);
}

#[test]
fn both_may_close_at_once() {
    let closing = [
        HANDSHAKE[0],
        HANDSHAKE[1],
        HANDSHAKE[2],
        (F, FA, 0, 10000, 10, 4096, FinSent),
        (B, FA, 0, 10, 10000, 2048, Closing),
        (B, FA, 0, 10, 10000, 2048, Closing),
    ];
    let mut state = Some(after(&closing));
    valid(&mut state, (F, ACK, 0, 10001, 11, 4096, LastAck));
    valid(&mut state, (F, ACK, 0, 10001, 11, 4096, LastAck));
    valid(&mut state, (B, ACK, 0, 11, 10001, 2048, TimeWait));
    let mut state = Some(after(&closing[..4]));
    valid(&mut state, (B, FA, 0, 10, 10001, 2048, LastAck));
    valid(&mut state, (F, ACK, 0, 10001, 11, 4096, TimeWait));
}

#[test]
fn both_may_open_at_once() {
    let begin = [(F, SYN, 0, 99, 0, 1000, SynSent), (B, SYN, 0, 499, 0, 1000, SynBoth)];
    let mut state = Some(after(&begin));
    valid(&mut state, (F, SYN, 0, 99, 0, 1000, SynBoth));
    valid(&mut state, (F, SA, 0, 99, 500, 1000, SynReceived));
    valid(&mut state, (B, SA, 0, 499, 100, 1000, SynReceived));
    valid(&mut state, (F, ACK, 0, 100, 500, 1000, Established));
    let mut state = Some(after(&begin));
    valid(&mut state, (B, ACK, 0, 500, 100, 1000, Established));
    let mut state = after(&begin);
    invalid(&mut state, F, &tcp(SA, 0, 99, 499, 1000), TcpFault::Handshake);
    invalid(&mut state, F, &tcp(SA, 0, 99, 501, 1000), TcpFault::Handshake);
}

#[test]
fn only_a_syn_or_in_the_midst_an_ack_opens() {
    for flags in 0..=255u8 {
        let phase = TcpState::open(&tcp(flags, 0, 1, 2, 3), None).map(|s| s.phase());
        let expected = match flags & (SYN | ACK | FIN | RST) {
            SYN => Some(SynSent),
            ACK => Some(PickedUp),
            _ => None,
        };
        assert_eq!(phase, expected, "{flags:#x}");
    }
}

#[test]
fn flags_that_contradict_each_other_are_invalid_and_close_nothing() {
    let phases = [&HANDSHAKE[..1], &HANDSHAKE[..2], &HANDSHAKE[..]];
    for rows in phases {
        let mut state = after(rows);
        for flags in [0, SYN | FIN, SYN | RST, FIN | RST, SYN | FIN | ACK, SYN | FIN | RST | ACK, tcp_flag::URG] {
            for forward in [F, B] {
                invalid(&mut state, forward, &tcp(flags, 0, 10000, 10, 1000), TcpFault::Flags);
            }
        }
    }
}

#[test]
fn a_reset_closes_only_with_the_very_number() {
    let established =
        || after(&[HANDSHAKE[0], HANDSHAKE[1], HANDSHAKE[2], (F, ACK, 1000, 10000, 10, 4096, Established)]);
    // The next number, and the number that the other side waits for: the data were lost behind us.
    for seq in [11000, 10000] {
        passes(&mut established(), F, &tcp(RST, 0, seq, 0, 0), Closed);
        passes(&mut established(), F, &tcp(RA, 0, seq, 0, 0), Closed);
    }
    passes(&mut established(), B, &tcp(RST, 0, 10, 0, 0), Closed);
    // In the window (RFC 5961 3).
    let mut state = established();
    invalid(&mut state, F, &tcp(RST, 0, 11001, 0, 0), TcpFault::Reset);
    invalid(&mut state, F, &tcp(RST, 0, 10500, 0, 0), TcpFault::Reset);
    invalid(&mut state, B, &tcp(RST, 0, 11, 0, 0), TcpFault::Reset);
    let lax = TcpRules { strict_order_rst: false, ..RULES };
    assert_eq!(state.inspect(F, &tcp(RST, 0, 11001, 0, 0), None, &lax), TcpVerdict::Pass);
    assert_eq!(state.phase(), Established);
    let outside = tcp(RST, 0, 990_000, 0, 0);
    assert_eq!(state.inspect(F, &outside, None, &lax), TcpVerdict::Invalid(TcpFault::Sequence));
}

#[test]
fn a_syn_that_is_refused_is_closed_by_who_knows_its_number() {
    let mut state = after(&HANDSHAKE[..1]);
    invalid(&mut state, B, &tcp(RA, 0, 0, 10001, 0), TcpFault::Reset);
    invalid(&mut state, B, &tcp(RA, 0, 0, 9999, 0), TcpFault::Reset);
    invalid(&mut state, B, &tcp(RST, 0, 0, 0, 0), TcpFault::Reset);
    passes(&mut state, B, &tcp(RA, 0, 0, 10000, 0), Closed);
}

#[test]
fn a_syn_in_the_midst_changes_nothing_and_its_challenge_is_understood() {
    let mut state = after(&HANDSHAKE);
    passes(&mut state, F, &tcp(SYN, 0, 10000, 0, 4096), Established);
    // The opener has started again from the same port; what the responder answers, it resets.
    invalid(&mut state, F, &tcp(SYN, 0, 777_000, 0, 4096), TcpFault::Sequence);
    passes(&mut state, B, &tcp(ACK, 0, 10, 10000, 2048), Established);
    passes(&mut state, F, &tcp(RST, 0, 10, 0, 0).with_seq(10000), Closed);
    assert_eq!(state.inspect(F, &tcp(SYN, 0, 777_000, 0, 4096), None, &RULES), TcpVerdict::Over);
}

impl Tcp {
    fn with_seq(self, seq: u32) -> Tcp {
        Tcp { seq, ..self }
    }
}

#[test]
fn a_connection_of_old_at_the_responder_can_be_reset() {
    // RFC 9293 3.5.1, figure 9.
    let mut state = after(&HANDSHAKE[..1]);
    passes(&mut state, B, &tcp(ACK, 0, 300, 100, 2048), SynSent);
    passes(&mut state, F, &tcp(RST, 0, 100, 0, 0), SynSent);
    invalid(&mut state, B, &tcp(ACK, 1, 300, 100, 2048), TcpFault::Handshake);
    invalid(&mut state, F, &tcp(ACK, 0, 10000, 10, 2048), TcpFault::Handshake);
    passes(&mut state, F, &tcp(SYN, 0, 9999, 0, 4096), SynSent);
    passes(&mut state, B, &tcp(SA, 0, 9, 10000, 2048), SynReceived);
}

#[test]
fn who_does_not_see_the_answer_does_not_complete_the_handshake() {
    let mut state = after(&HANDSHAKE[..2]);
    for ack in [9, 11, 12345] {
        invalid(&mut state, F, &tcp(ACK, 0, 10000, ack, 4096), TcpFault::Handshake);
        invalid(&mut state, F, &tcp(FA, 0, 10000, ack, 4096), TcpFault::Handshake);
    }
    // With SYN cookies the responder may answer with another number when the SYN comes again.
    passes(&mut state, F, &tcp(SYN, 0, 9999, 0, 4096), SynReceived);
    passes(&mut state, B, &tcp(SA, 0, 70_000, 10000, 2048), SynReceived);
    passes(&mut state, F, &tcp(ACK, 0, 10000, 70_001, 4096), Established);
}

#[test]
fn a_syn_opens_again_what_is_over() {
    let mut state = after(&HANDSHAKE);
    passes(&mut state, F, &tcp(FA, 0, 10000, 10, 4096), FinSent);
    passes(&mut state, B, &tcp(FA, 0, 10, 10001, 4096), LastAck);
    passes(&mut state, F, &tcp(ACK, 0, 10001, 11, 4096), TimeWait);
    let before = state;
    // RFC 1122 4.2.2.13; an old duplicate is answered by the ends.
    assert_eq!(state.inspect(F, &tcp(SYN, 0, 10002, 0, 4096), None, &RULES), TcpVerdict::Over);
    passes(&mut state, F, &tcp(SYN, 0, 9999, 0, 4096), TimeWait);
    assert_eq!(state, before);
}

#[test]
fn a_syn_with_data_may_be_followed_by_one_without_and_by_another_attempt() {
    let mut state = after(&[(F, SYN, 500, 9999, 0, 4096, SynSent), (F, SYN, 0, 9999, 0, 4096, SynSent)]);
    // RFC 7413: the data count if they were taken, and the responder may send at once.
    let taken = state;
    passes(&mut state, B, &tcp(SA, 0, 9, 10500, 2048), SynReceived);
    passes(&mut state, B, &tcp(ACK, 1000, 10, 10500, 2048), SynReceived);
    passes(&mut state, F, &tcp(ACK, 0, 10500, 10, 4096), Established);
    let mut state = taken;
    passes(&mut state, B, &tcp(SA, 0, 9, 10000, 2048), SynReceived);
    passes(&mut state, F, &tcp(ACK, 500, 10000, 10, 4096), Established);
    let mut state = taken;
    passes(&mut state, F, &tcp(SYN, 0, 50_000, 0, 4096), SynSent);
    passes(&mut state, B, &tcp(SA, 0, 9, 50_001, 2048), SynReceived);
}

#[test]
fn windows_are_scaled_if_both_offer_it() {
    // Scale of the SYN, of its answer, and whether 1000 << 7 bytes may follow.
    for (opener, responder, far) in [
        (Some(7), Some(7), true),
        (Some(7), None, false),
        (None, Some(7), false),
        (None, None, false),
        (Some(0), Some(7), true),
        (Some(200), Some(200), true),
    ] {
        let mut state = TcpState::open(&tcp(SYN, 0, 0, 0, 1000), opener).unwrap();
        assert_eq!(state.inspect(B, &tcp(SA, 0, 0, 1, 1000), responder, &RULES), TcpVerdict::Pass);
        passes(&mut state, F, &tcp(ACK, 0, 1, 1, 1000), Established);
        // The window of the SYN itself is not scaled.
        invalid(&mut state, F, &tcp(ACK, 1001, 1, 1, 1000), TcpFault::Sequence);
        passes(&mut state, B, &tcp(ACK, 0, 1, 1, 1000), Established);
        let segment = tcp(ACK, 0, 1 + 1000 * 128, 1, 1000);
        if far {
            passes(&mut state, F, &segment, Established);
        } else {
            invalid(&mut state, F, &segment, TcpFault::Sequence);
        }
    }
}

#[test]
fn an_offer_to_scale_is_remembered_when_the_syn_is_repeated_without() {
    let mut state = TcpState::open(&tcp(SYN, 0, 0, 0, 1000), Some(3)).unwrap();
    passes(&mut state, F, &tcp(SYN, 0, 0, 0, 1000), SynSent);
    assert_eq!(state.inspect(B, &tcp(SA, 0, 0, 1, 1000), Some(7), &RULES), TcpVerdict::Pass);
    assert_eq!((state.sides[0].scale, state.sides[1].scale), (7, 3));
}

#[test]
fn a_connection_may_be_joined_in_its_midst() {
    let mut state = TcpState::open(&tcp(ACK, 1000, 5000, 70_000, 500), None).unwrap();
    assert_eq!(state.phase(), PickedUp);
    // Nothing is known yet of how much may be sent.
    passes(&mut state, F, &tcp(ACK, 1460, 6000, 70_000, 500), PickedUp);
    passes(&mut state, F, &tcp(ACK, 1460, 9000, 70_000, 500), PickedUp);
    let mut reset = state;
    invalid(&mut reset, B, &tcp(RST, 0, 69_000, 0, 0), TcpFault::Reset);
    passes(&mut reset, B, &tcp(RST, 0, 70_000, 0, 0), Closed);
    passes(&mut state, B, &tcp(ACK, 0, 70_000, 7460, 300), Established);
    // The scale is not known: it may be the largest.
    passes(&mut state, F, &tcp(ACK, 1000, 7460 + (300 << 13), 70_000, 500), Established);
    invalid(&mut state, F, &tcp(ACK, 1000, 7460 + (300 << 14), 70_000, 500), TcpFault::Sequence);
    invalid(
        &mut state,
        B,
        &tcp(ACK, 1, 60_000, 7460, 300).with_seq(70_000u32.wrapping_sub(500 << 15)),
        TcpFault::Sequence,
    );
}

#[test]
fn acknowledgements_may_be_late_and_ahead_within_bounds() {
    let mut state = after(&HANDSHAKE);
    passes(&mut state, B, &tcp(ACK, 0, 10, 10000 + 66_000, 2048), Established);
    invalid(&mut state, B, &tcp(ACK, 0, 10, 10000 + 66_001, 2048), TcpFault::Acknowledgement);
    let mut state = after(&HANDSHAKE);
    passes(&mut state, B, &tcp(ACK, 0, 10, 10000u32.wrapping_sub(66_000), 2048), Established);
    invalid(&mut state, B, &tcp(ACK, 0, 10, 10000u32.wrapping_sub(66_001), 2048), TcpFault::Acknowledgement);
}

#[test]
fn a_closed_window_is_probed_with_one_byte() {
    let mut state = after(&HANDSHAKE);
    passes(&mut state, F, &tcp(ACK, 2048, 10000, 10, 4096), Established);
    passes(&mut state, B, &tcp(ACK, 0, 10, 12048, 0), Established);
    passes(&mut state, F, &tcp(ACK, 1, 12048, 10, 4096), Established);
    invalid(&mut state, F, &tcp(ACK, 2, 12048, 10, 4096), TcpFault::Sequence);
    // Keep-alive (RFC 9293 3.8.4).
    passes(&mut state, F, &tcp(ACK, 0, 12047, 10, 4096), Established);
    // A side that began with no window.
    let mut state = after(&[
        (F, SYN, 0, 9999, 0, 0, SynSent),
        (B, SA, 0, 9, 10000, 0, SynReceived),
        (F, ACK, 0, 10000, 10, 0, Established),
    ]);
    passes(&mut state, F, &tcp(ACK, 1, 10000, 10, 0), Established);
}

#[test]
fn numbers_go_round() {
    let top = u32::MAX;
    let mut state = after(&[
        (F, SYN, 0, top - 1, 0, 4096, SynSent),
        (B, SA, 0, top, top, 4096, SynReceived),
        (F, ACK, 0, top, 0, 4096, Established),
        (F, ACK, 1000, top, 0, 4096, Established),
        (B, ACK, 1000, 0, 999, 4096, Established),
        (F, ACK, 1000, 999, 1000, 4096, Established),
        (F, ACK, 1000, top, 1000, 4096, Established),
        (F, FA, 0, 1999, 1000, 4096, FinSent),
        (B, FA, 0, 1000, 2000, 4096, LastAck),
        (F, ACK, 0, 2000, 1001, 4096, TimeWait),
    ]);
    invalid(&mut state, F, &tcp(ACK, 0, top - 4096, 1001, 4096), TcpFault::Sequence);
}

#[test]
fn an_icmp_error_is_about_what_is_on_its_way() {
    let mut state = after(&HANDSHAKE[..1]);
    assert!(state.is_on_its_way(F, 9999) && !state.is_on_its_way(F, 9998) && !state.is_on_its_way(B, 0));
    passes(&mut state, B, &tcp(SA, 0, 9, 10000, 2048), SynReceived);
    passes(&mut state, F, &tcp(ACK, 0, 10000, 10, 4096), Established);
    passes(&mut state, F, &tcp(ACK, 1460, 10000, 10, 4096), Established);
    assert!(state.is_on_its_way(F, 10000) && !state.is_on_its_way(F, 11461) && !state.is_on_its_way(F, 9000));
}

#[test]
fn the_window_scale_option_is_found() {
    for (options, scale) in [
        (&[][..], None),
        (&[3, 3, 7], Some(7)),
        (&[2, 4, 5, 180, 1, 3, 3, 9, 0], Some(9)),
        (&[2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 7], Some(7)),
        (&[0, 3, 3, 7], None),
        (&[2, 0, 3, 3, 7], None),
        (&[2, 1, 3, 3, 7], None),
        (&[2, 40, 3, 3, 7], None),
        (&[3, 3], None),
        (&[3], None),
        (&[1, 1, 1], None),
    ] {
        assert_eq!(window_scale(options), scale, "{options:?}");
    }
}

/// An end that sends, and takes what comes.
#[derive(Clone, Debug)]
struct End {
    iss: u32,
    scale: u8,
    /// Bytes that it may be sent at once.
    window: u32,
    /// Bytes to be sent, then its FIN.
    to_send: u32,
    /// Relative to `iss`: unacknowledged, next.
    una: u32,
    next: u32,
    peer_window: u32,
    /// The number that it waits for.
    wanted: u32,
    /// What came beyond it.
    early: Vec<(u32, u32)>,
}

impl End {
    fn new(iss: u32, scale: u8, window: u32, to_send: u32) -> End {
        End { iss, scale, window, to_send, una: 1, next: 1, peer_window: 0, wanted: 0, early: vec![] }
    }

    fn segment(&self, at: u32, data: u32, fin: bool) -> Tcp {
        let flags = ACK | if fin { FIN } else { 0 };
        let window = (self.window >> self.scale).min(65_535) as u16;
        tcp(flags, data as usize, self.iss.wrapping_add(at), self.wanted, window)
    }

    /// What it sends next, if the window allows; again, what was not acknowledged.
    fn send(&mut self, again: bool, size: u32) -> Option<Tcp> {
        let at = if again { self.una } else { self.next };
        let room = (self.una + self.peer_window).saturating_sub(at);
        let data = size.min(room).min((self.to_send + 1).saturating_sub(at));
        let fin = at + data == self.to_send + 1 && room > data;
        if data == 0 && !fin {
            return None;
        }
        self.next = self.next.max(at + data + u32::from(fin));
        Some(self.segment(at, data, fin))
    }

    /// Takes a segment in; the answer is an acknowledgement.
    fn take(&mut self, segment: &Tcp, peer_scale: u8) -> Tcp {
        let acked = segment.ack.wrapping_sub(self.iss);
        if acked >= self.una && acked <= self.next {
            self.una = acked;
            self.peer_window = u32::from(segment.window) << peer_scale;
        }
        self.early.push((segment.seq, end_of(segment)));
        while let Some(i) = self.early.iter().position(|&(seq, _)| ahead(seq, self.wanted) <= 0) {
            let (_, end) = self.early.swap_remove(i);
            if ahead(end, self.wanted) > 0 {
                self.wanted = end;
            }
        }
        self.segment(self.next, 0, false)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Each step is one of: send new data, send again, deliver one of the oldest few segments on the way, lose it after we
    /// saw it, or have it come twice.
    #[test]
    fn what_two_ends_say_to_each_other_is_never_invalid(
        iss in any::<[u32; 2]>(),
        scales in [0u8..=14, 0u8..=14],
        windows in [1000u32..200_000, 1000u32..200_000],
        to_send in [0u32..60_000, 0u32..60_000],
        steps in prop::collection::vec((any::<bool>(), 0u8..10, 1u32..1460, 0usize..4), 1..600),
    ) {
        // Windows that fit, and are whole units.
        let fit = |i: usize| ((windows[i] >> scales[i]).clamp(1, 65_535)) << scales[i];
        let mut ends = [
            End::new(iss[0], scales[0], fit(0), to_send[0]),
            End::new(iss[1], scales[1], fit(1), to_send[1]),
        ];
        ends[0].wanted = iss[1].wrapping_add(1);
        ends[1].wanted = iss[0].wrapping_add(1);
        let raw = |i: usize| ends[i].window.min(65_535) as u16;
        let mut state = TcpState::open(&tcp(SYN, 0, iss[1], 0, raw(1)), Some(scales[1])).unwrap();
        let answer = tcp(SA, 0, iss[0], iss[1].wrapping_add(1), raw(0));
        prop_assert_eq!(state.inspect(B, &answer, Some(scales[0]), &RULES), TcpVerdict::Pass);
        (ends[0].peer_window, ends[1].peer_window) = (u32::from(raw(1)), u32::from(raw(0)));
        let ack = ends[1].segment(1, 0, false);
        prop_assert_eq!(state.inspect(F, &ack, None, &RULES), TcpVerdict::Pass);
        prop_assert_eq!(state.phase(), Established);
        let mut way: [Vec<Tcp>; 2] = [vec![], vec![]];
        for (forward, what, size, which) in steps {
            let sender = usize::from(forward);
            match what {
                0..=3 => way[sender].extend(ends[sender].send(what == 0, size)),
                _ if way[sender].is_empty() => {}
                _ => {
                    let segment = if what == 9 {
                        way[sender][0]
                    } else {
                        let which = which.min(way[sender].len() - 1);
                        way[sender].remove(which)
                    };
                    // What was overtaken by more than a window is too late for any window tracking.
                    let end = ends[sender].iss.wrapping_add(ends[sender].next);
                    if ahead(segment.seq, end.wrapping_sub(ends[1 - sender].window.min(65_535))) < 0 {
                        continue;
                    }
                    let verdict = state.inspect(forward, &segment, None, &RULES);
                    prop_assert_eq!(verdict, TcpVerdict::Pass, "{:?} {:?}", segment, state);
                    if what != 8 {
                        let answer = ends[1 - sender].take(&segment, ends[sender].scale);
                        if segment.data > 0 || segment.flags & FIN != 0 {
                            way[1 - sender].push(answer);
                        }
                    }
                }
            }
        }
        let finished = |i: usize| ends[i].una == ends[i].to_send + 2;
        if state.phase() == TimeWait {
            prop_assert!(ends[0].next == ends[0].to_send + 2 && ends[1].next == ends[1].to_send + 2);
        }
        if finished(0) && finished(1) {
            prop_assert_eq!(state.phase(), TimeWait);
        }
    }

    #[test]
    fn no_segments_make_it_panic(
        first in any::<(u32, u32, u16)>(),
        segments in prop::collection::vec((any::<bool>(), any::<u8>(), 0usize..70_000, any::<u32>(), any::<u32>(),
            any::<u16>(), any::<Option<u8>>()), 0..60),
        max_ack_win in any::<u32>(),
    ) {
        let rules = TcpRules { strict_order_rst: false, max_ack_win };
        let mut state = TcpState::open(&tcp(SYN, 0, first.0, first.1, first.2), Some(255)).unwrap();
        for (forward, flags, data, seq, ack, window, scale) in segments {
            state.inspect(forward, &tcp(flags, data, seq, ack, window), scale, &rules);
        }
    }
}
