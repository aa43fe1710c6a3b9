use super::*;
use crate::{checksum, testing};
use proptest::prelude::*;

/// What is in a cut packet, from byte to byte of its data; `more`: not the last.
#[derive(Clone, Debug)]
struct Cut {
    from: usize,
    data: Vec<u8>,
    more: bool,
}

/// A fragment of a packet: of IPv6 the fragment header stands behind the first `head` bytes.
fn fragment(packet: &[u8], head: usize, cut: &Cut) -> Vec<u8> {
    let mut bytes = packet[..head].to_vec();
    if bytes[0] >> 4 == 4 {
        bytes.extend(&cut.data);
        let len = (bytes.len() as u16).to_be_bytes();
        bytes[2..4].copy_from_slice(&len);
        let field = (cut.from / 8) as u16 | if cut.more { 0x2000 } else { 0 };
        bytes[6..8].copy_from_slice(&field.to_be_bytes());
        let check = checksum::of_ipv4_header(&bytes[..head]);
        bytes[10..12].copy_from_slice(&check.to_be_bytes());
    } else {
        let field = last_next(packet, head);
        let next = std::mem::replace(&mut bytes[field], 44);
        bytes.extend([next, 0]);
        bytes.extend((cut.from as u16 | u16::from(cut.more)).to_be_bytes());
        bytes.extend([0, 0, 0x12, 0x34]);
        bytes.extend(&cut.data);
        let len = (bytes.len() as u16 - 40).to_be_bytes();
        bytes[4..6].copy_from_slice(&len);
    }
    bytes
}

fn last_next(packet: &[u8], head: usize) -> usize {
    let (mut field, mut at) = (6, 40);
    while at < head {
        (field, at) = (at, at + 8 + usize::from(packet[at + 1]) * 8);
    }
    field
}

/// Where the data of a packet of these tests begins that is cut.
fn head_of(packet: &[u8]) -> usize {
    match packet[0] >> 4 {
        4 => usize::from(packet[0] & 15) * 4,
        _ if packet[6] == 0 => 40 + 8 + usize::from(packet[41]) * 8,
        _ => 40,
    }
}

/// A whole packet in pieces that end at these bytes of its data.
fn cut(packet: &[u8], ends: &[usize]) -> Vec<Vec<u8>> {
    let head = head_of(packet);
    let data = &packet[head..];
    let mut from = 0;
    let mut pieces = Vec::new();
    for &end in ends.iter().chain([&data.len()]) {
        pieces.push(fragment(packet, head, &Cut { from, data: data[from..end].to_vec(), more: end < data.len() }));
        from = end;
    }
    pieces
}

fn take(reassembly: &mut Reassembly, bytes: &[u8], now: u64) -> Outcome {
    let packet = Packet::read(bytes).unwrap();
    assert!(packet.fragment.is_some());
    reassembly.take(bytes, &packet, now)
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 256) as u8).collect()
}

fn v4(len: usize) -> Vec<u8> {
    testing::udp(("10.0.0.1", 1), ("10.0.0.2", 2), &data(len - 8))
}

fn v6(len: usize) -> Vec<u8> {
    testing::udp(("2001:db8::1", 1), ("2001:db8::2", 2), &data(len - 8))
}

/// A packet with options of IPv4: a timestamp that is asked for.
fn v4_with_options(len: usize) -> Vec<u8> {
    let mut packet = v4(len);
    packet.splice(20..20, [0x44, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    packet[0] = 0x48;
    let len = (packet.len() as u16).to_be_bytes();
    packet[2..4].copy_from_slice(&len);
    let whole = Packet::read(&packet).unwrap();
    checksum::fill(&mut packet, &whole);
    packet
}

/// A packet with hop-by-hop options, which every fragment has, and destination options, which are cut.
fn v6_with_options(len: usize) -> Vec<u8> {
    let mut packet = v6(len);
    let options = [60, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0];
    packet.splice(40..40, options);
    packet[6] = 0;
    let len = (packet.len() as u16 - 40).to_be_bytes();
    packet[4..6].copy_from_slice(&len);
    packet
}

#[test]
fn a_packet_comes_out_as_it_was_before_it_was_cut() {
    for packet in [v4(3000), v6(3000), v4_with_options(3000), v6_with_options(3000)] {
        assert!(testing::is_right(&packet));
        let pieces = cut(&packet, &[1480, 2504]);
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
            let mut reassembly = Reassembly::new(Limits::default());
            assert_eq!(take(&mut reassembly, &pieces[order[0]], 0), Outcome::Kept);
            assert_eq!(take(&mut reassembly, &pieces[order[1]], 1), Outcome::Kept);
            assert_eq!(reassembly.datagrams(), 1);
            assert_eq!(take(&mut reassembly, &pieces[order[2]], 2), Outcome::Whole(packet.clone()));
            let counters = Counters { fragments: 3, whole: 1, kept: 2, ..Counters::default() };
            assert_eq!(*reassembly.counters(), counters);
            assert_eq!((reassembly.datagrams(), reassembly.bytes()), (0, 0));
        }
    }
}

#[test]
fn ttl_and_options_are_the_first_fragments_and_the_next_header_too() {
    let mut pieces = cut(&v4_with_options(64), &[16, 32]);
    (pieces[1][8], pieces[1][22], pieces[2][8]) = (7, 9, 8);
    pieces[2][6] |= 0x80;
    let mut reassembly = Reassembly::new(Limits::default());
    let outcomes = [2, 0, 1].map(|at: usize| take(&mut reassembly, &pieces[at], 0));
    assert_eq!(outcomes[2], Outcome::Whole(v4_with_options(64)));

    let mut pieces = cut(&v6(64), &[16, 32]);
    (pieces[1][7], pieces[1][40], pieces[2][40]) = (7, 6, 99);
    let outcomes = [2, 0, 1].map(|at: usize| take(&mut reassembly, &pieces[at], 0));
    assert_eq!(outcomes[2], Outcome::Whole(v6(64)));
}

#[test]
fn dont_fragment_is_taken_away() {
    let mut pieces = cut(&v4(64), &[16]);
    pieces.iter_mut().for_each(|p| p[6] |= 0x40);
    let mut reassembly = Reassembly::new(Limits::default());
    take(&mut reassembly, &pieces[0], 0);
    assert_eq!(take(&mut reassembly, &pieces[1], 0), Outcome::Whole(v4(64)));
}

/// An atomic fragment is whole, whatever else is there of the same identification (RFC 6946).
#[test]
fn atomic_fragments_are_whole_at_once() {
    let packet = v6_with_options(64);
    let atomic = cut(&packet, &[]).remove(0);
    let mut reassembly = Reassembly::new(Limits::default());
    let pieces = cut(&packet, &[24]);
    assert_eq!(take(&mut reassembly, &pieces[1], 0), Outcome::Kept);
    assert_eq!(take(&mut reassembly, &atomic, 0), Outcome::Whole(packet.clone()));
    assert_eq!(take(&mut reassembly, &pieces[0], 0), Outcome::Whole(packet));
}

#[test]
fn what_is_no_fragment_is_given_back() {
    let mut bytes = v4(64);
    let packet = Packet::read(&bytes).unwrap();
    bytes.extend([0; 9]);
    let mut reassembly = Reassembly::new(Limits::default());
    assert_eq!(reassembly.take(&bytes, &packet, 0), Outcome::Whole(v4(64)));
    assert_eq!(*reassembly.counters(), Counters::default());
}

/// From byte to byte, a letter for its data, and whether more follows.
type Sent = (usize, usize, char, bool);

/// Pieces in the order in which they come, and what comes of them. Data that is right is `a`.
const CASES: &[(&[Sent], &str)] = &[
    (&[(0, 16, 'a', true), (16, 20, 'a', false)], "kept whole"),
    (&[(0, 16, 'a', true), (0, 16, 'a', true), (16, 20, 'a', false)], "kept Duplicate whole"),
    (&[(16, 20, 'a', false), (16, 20, 'a', false), (0, 16, 'a', true)], "kept Duplicate whole"),
    // RFC 5722: whatever overlaps spoils all, even if the bytes are the same.
    (&[(0, 16, 'a', true), (0, 16, 'b', true), (16, 20, 'a', false)], "kept Overlap Spoiled"),
    (&[(0, 16, 'a', true), (8, 16, 'a', true), (16, 20, 'a', false)], "kept Overlap Spoiled"),
    (&[(0, 24, 'a', true), (8, 16, 'a', true), (24, 28, 'a', false)], "kept Overlap Spoiled"),
    (&[(8, 16, 'a', true), (0, 24, 'a', true), (24, 28, 'a', false)], "kept Overlap Spoiled"),
    (&[(8, 24, 'a', true), (16, 32, 'a', true), (0, 8, 'a', true)], "kept Overlap Spoiled"),
    (&[(16, 20, 'a', false), (8, 24, 'a', true), (0, 8, 'a', true)], "kept Overlap Spoiled"),
    (&[(0, 16, 'a', true), (0, 8, 'a', true), (16, 20, 'a', false)], "kept Overlap Spoiled"),
    (&[(8, 24, 'a', true), (0, 8, 'a', true), (16, 20, 'a', false), (24, 28, 'a', false)], "kept kept Overlap Spoiled"),
    // Where does it end?
    (&[(16, 20, 'a', false), (24, 28, 'a', false), (0, 16, 'a', true)], "kept Disagrees Spoiled"),
    (&[(24, 32, 'a', true), (16, 20, 'a', false), (0, 16, 'a', true)], "kept Disagrees Spoiled"),
    (&[(16, 20, 'a', false), (24, 32, 'a', true), (0, 16, 'a', true)], "kept Disagrees Spoiled"),
    (&[(16, 24, 'a', false), (16, 24, 'a', true), (0, 16, 'a', true)], "kept Disagrees Spoiled"),
    (&[(16, 24, 'a', true), (16, 24, 'a', false), (0, 16, 'a', true)], "kept Disagrees Spoiled"),
    (&[(0, 16, 'a', true), (8, 12, 'a', false)], "kept Overlap"),
    // What is wrong by itself does no harm to the rest.
    (&[(0, 16, 'a', true), (16, 30, 'a', true), (16, 20, 'a', false)], "kept Unaligned whole"),
    (&[(0, 16, 'a', true), (16, 16, 'a', true), (16, 20, 'a', false)], "kept Empty whole"),
    (&[(0, 16, 'a', true), (65528, 65536, 'a', false), (16, 20, 'a', false)], "kept TooLong whole"),
    (&[(65520, 65528, 'a', true), (0, 16, 'a', true)], "TooLong6 kept"),
    // More pieces than 5.
    (
        &[
            (0, 16, 'a', true),
            (16, 24, 'a', true),
            (32, 40, 'a', true),
            (48, 56, 'a', true),
            (64, 72, 'a', true),
            (64, 72, 'a', true),
            (80, 88, 'a', true),
            (24, 32, 'a', true),
        ],
        "kept kept kept kept kept Duplicate TooManyPieces Spoiled",
    ),
];

#[test]
fn pieces_that_do_not_fit_are_dropped_for_the_right_reason() {
    for base in [v4(64), v6(64)] {
        let head = head_of(&base);
        for (pieces, expected) in CASES {
            let limits = Limits { pieces: 5, ..Limits::default() };
            let mut reassembly = Reassembly::new(limits);
            let mut counters = Counters::default();
            let outcomes: Vec<_> = pieces
                .iter()
                .map(|&(from, end, letter, more)| {
                    // UDP headers of a first fragment may be anything.
                    let bytes = fragment(&base, head, &Cut { from, data: vec![letter as u8; end - from], more });
                    counters.fragments += 1;
                    match take(&mut reassembly, &bytes, 0) {
                        Outcome::Whole(whole) => {
                            counters.whole += 1;
                            assert!(whole[head..].iter().all(|&b| b == b'a'));
                            assert_eq!(Packet::read(&whole).unwrap().len, whole.len());
                            "whole".to_owned()
                        }
                        Outcome::Kept => {
                            counters.kept += 1;
                            "kept".to_owned()
                        }
                        Outcome::Dropped(why) => {
                            counters.dropped(why);
                            format!("{why:?}")
                        }
                    }
                })
                .collect();
            // The header of IPv4 is a part of its length; that of IPv6 is not.
            let expected = match base[0] >> 4 {
                4 => expected.replace("TooLong6", "TooLong"),
                _ => expected.replace("TooLong6", "kept"),
            };
            assert_eq!(outcomes.join(" "), expected, "{pieces:?}");
            assert_eq!(*reassembly.counters(), counters);
        }
    }
}

#[test]
fn a_first_fragment_without_the_upper_header_is_none() {
    // TCP and UDP are malformed already; AH is seen here.
    for (proto, len) in [(51, 8), (132, 8), (33, 8)] {
        let packet = testing::ip("10.0.0.1", "10.0.0.2", 99, &[0; 32]);
        let mut first = cut(&packet, &[len]).remove(0);
        first[9] = proto;
        let Ok(read) = Packet::read(&first) else { continue };
        let mut reassembly = Reassembly::new(Limits::default());
        assert_eq!(reassembly.take(&first, &read, 0), Outcome::Dropped(Why::Tiny), "{proto}");
        assert_eq!(reassembly.datagrams(), 0);
    }
    // The destination options fill the first fragment, and UDP begins in the second.
    let packet = v6_with_options(64);
    assert!(Packet::read(&cut(&packet, &[8])[0]).is_err());
}

#[test]
fn datagrams_are_told_apart() {
    let base = cut(&v4(64), &[16]);
    let mut reassembly = Reassembly::new(Limits::default());
    assert_eq!(take(&mut reassembly, &base[0], 0), Outcome::Kept);
    // Identification, protocol, source, destination.
    for at in [5, 9, 15, 19] {
        let mut other = base[1].clone();
        other[at] ^= 1;
        assert_eq!(take(&mut reassembly, &other, 0), Outcome::Kept, "{at}");
    }
    assert_eq!(take(&mut reassembly, &base[1], 0), Outcome::Whole(v4(64)));
    assert_eq!(reassembly.datagrams(), 4);
}

#[test]
fn a_datagram_ends_its_time_after_its_first_fragment_however_many_come() {
    for (packet, timeout) in [(v4(64), TIMEOUT_V4), (v6(64), TIMEOUT_V6)] {
        let pieces = cut(&packet, &[16, 32]);
        let mut reassembly = Reassembly::new(Limits::default());
        take(&mut reassembly, &pieces[0], 1000);
        take(&mut reassembly, &pieces[1], 999 + timeout);
        assert_eq!(reassembly.next_expiry(), Some(1000 + timeout));
        assert_eq!(reassembly.expire(999 + timeout), 0);
        // The last one is too late, and begins anew.
        assert_eq!(take(&mut reassembly, &pieces[2], 1000 + timeout), Outcome::Kept);
        assert_eq!((reassembly.datagrams(), reassembly.counters().timed_out), (1, 1));
        // A clock that goes back does no harm.
        assert_eq!(reassembly.expire(0), 0);
        assert_eq!(reassembly.expire(u64::MAX), 1);
        assert_eq!((reassembly.datagrams(), reassembly.bytes(), reassembly.next_expiry()), (0, 0, None));
    }
}

#[test]
fn a_spoiled_datagram_is_remembered_until_its_time_is_over() {
    let mut reassembly = Reassembly::new(Limits::default());
    let pieces = cut(&v4(64), &[16, 32]);
    let overlap = fragment(&v4(64), 20, &Cut { from: 8, data: vec![0; 16], more: true });
    take(&mut reassembly, &pieces[0], 0);
    assert_eq!(take(&mut reassembly, &overlap, 0), Outcome::Dropped(Why::Overlap));
    assert_eq!(reassembly.bytes(), ledger::DATAGRAM_COST, "its data is gone");
    for piece in &pieces {
        assert_eq!(take(&mut reassembly, piece, TIMEOUT_V4 - 1), Outcome::Dropped(Why::Spoiled));
    }
    let outcomes: Vec<_> = pieces.iter().map(|p| take(&mut reassembly, p, TIMEOUT_V4)).collect();
    assert_eq!(outcomes[2], Outcome::Whole(v4(64)));
}

/// A fragment of 800 bytes, from the source and with the identification of that number.
fn numbered(source: u8, id: u16, last: bool) -> Vec<u8> {
    let mut bytes = cut(&v4(1600), &[800]).remove(usize::from(last));
    bytes[15] = source;
    bytes[4..6].copy_from_slice(&id.to_be_bytes());
    bytes
}

#[test]
fn the_oldest_datagram_goes_when_memory_is_full() {
    let one = numbered(1, 0, false).len() + ledger::DATAGRAM_COST + ledger::PIECE_COST;
    for limits in [
        Limits { bytes: one * 4, source_bytes: one * 4, ..Limits::default() },
        Limits { datagrams: 4, ..Limits::default() },
    ] {
        let mut reassembly = Reassembly::new(limits);
        for source in 1..=6 {
            assert_eq!(take(&mut reassembly, &numbered(source, 1, false), 0), Outcome::Kept);
        }
        assert_eq!((reassembly.datagrams(), reassembly.counters().evicted), (4, 2));
        assert!(reassembly.bytes() <= one * 4);
        // Of the first two nothing is left; the third, which is the oldest now, goes for the one that becomes whole.
        let whole =
            [6, 5].map(|source| matches!(take(&mut reassembly, &numbered(source, 1, true), 0), Outcome::Whole(_)));
        assert_eq!(whole, [true, true]);
        assert_eq!(take(&mut reassembly, &numbered(1, 1, true), 0), Outcome::Kept);
    }
}

#[test]
fn a_source_has_its_share_and_harms_no_other() {
    let one = numbered(1, 0, false).len() + ledger::DATAGRAM_COST + ledger::PIECE_COST;
    for limits in
        [Limits { source_bytes: one * 3, ..Limits::default() }, Limits { source_datagrams: 3, ..Limits::default() }]
    {
        let mut reassembly = Reassembly::new(limits);
        take(&mut reassembly, &numbered(2, 0, false), 0);
        for id in 0..100 {
            assert_eq!(take(&mut reassembly, &numbered(1, id, false), 0), Outcome::Kept);
        }
        assert_eq!((reassembly.datagrams(), reassembly.counters().evicted), (4, 97));
        assert!(matches!(take(&mut reassembly, &numbered(2, 0, true), 0), Outcome::Whole(_)));
        assert!(matches!(take(&mut reassembly, &numbered(1, 99, true), 0), Outcome::Whole(_)));
    }
    // A datagram that is beyond all bounds by itself.
    let mut reassembly = Reassembly::new(Limits { source_bytes: one, ..Limits::default() });
    take(&mut reassembly, &numbered(1, 0, false), 0);
    assert_eq!(take(&mut reassembly, &numbered(1, 0, true), 0), Outcome::Dropped(Why::SourceLimit));
    let mut reassembly = Reassembly::new(Limits { bytes: one, ..Limits::default() });
    take(&mut reassembly, &numbered(1, 0, false), 0);
    assert_eq!(take(&mut reassembly, &numbered(1, 0, true), 0), Outcome::Dropped(Why::MemoryFull));
    assert_eq!(Reassembly::new(Limits { bytes: 9, ..Limits::default() }).bytes(), 0);
}

#[test]
fn all_addresses_of_a_64_are_one_source() {
    let mut reassembly = Reassembly::new(Limits { source_datagrams: 3, ..Limits::default() });
    for host in 0..10 {
        let mut bytes = cut(&v6(64), &[16]).remove(1);
        bytes[23] = host;
        take(&mut reassembly, &bytes, 0);
    }
    assert_eq!(reassembly.datagrams(), 3);
}

#[test]
fn congestion_of_any_fragment_is_that_of_the_packet() {
    for base in [v4(64), v6(64)] {
        let table: [([u8; 2], Result<u8, Why>); 6] = [
            ([0, 0], Ok(0)),
            ([2, 2], Ok(2)),
            ([2, 3], Ok(3)),
            ([3, 1], Ok(3)),
            ([1, 2], Ok(1)),
            ([0, 3], Err(Why::Congestion)),
        ];
        for (codepoints, expected) in table {
            let mut pieces = cut(&base, &[16]);
            let v6 = base[0] >> 4 == 6;
            for (piece, codepoint) in pieces.iter_mut().zip(codepoints) {
                piece[1] |= if v6 { codepoint << 4 } else { codepoint };
            }
            let mut reassembly = Reassembly::new(Limits::default());
            take(&mut reassembly, &pieces[1], 0);
            match (take(&mut reassembly, &pieces[0], 0), expected) {
                (Outcome::Whole(whole), Ok(codepoint)) => {
                    assert_eq!(if v6 { whole[1] >> 4 & 3 } else { whole[1] & 3 }, codepoint);
                    assert!(testing::is_right(&whole));
                }
                (Outcome::Dropped(why), Err(expected)) => assert_eq!(why, expected),
                (outcome, _) => panic!("{codepoints:?}: {outcome:?}"),
            }
            assert_eq!(reassembly.bytes(), 0);
        }
    }
}

#[test]
fn the_longest_packets_become_whole_and_longer_ones_do_not() {
    for (base, most) in [(v4(64), 65535 - 20), (v6(64), 65535)] {
        let head = head_of(&base);
        let pieces = |end: usize| {
            let first = Cut { from: 0, data: vec![1; 32768], more: true };
            let last = Cut { from: 32768, data: vec![2; end - 32768], more: false };
            [first, last].map(|cut| fragment(&base, head, &cut))
        };
        let mut reassembly = Reassembly::new(Limits::default());
        let [first, last] = pieces(most);
        take(&mut reassembly, &first, 0);
        let Outcome::Whole(whole) = take(&mut reassembly, &last, 0) else { panic!() };
        assert_eq!(whole.len(), head + most);
        let read = Packet::read(&whole).unwrap();
        assert_eq!((read.len, read.fragment), (head + most, None));
        if most < 65535 {
            let [_, last] = pieces(most + 1);
            assert_eq!(take(&mut reassembly, &last, 0), Outcome::Dropped(Why::TooLong));
        }
    }
    // The options of the first fragment make it too long only when all are there.
    let short = v4(64);
    let mut reassembly = Reassembly::new(Limits::default());
    let end = 65535 - 20;
    take(&mut reassembly, &fragment(&short, 20, &Cut { from: 32768, data: vec![0; end - 32768], more: false }), 0);
    let first = fragment(&v4_with_options(64), 32, &Cut { from: 0, data: vec![0; 32768], more: true });
    assert_eq!(take(&mut reassembly, &first, 0), Outcome::Dropped(Why::TooLong));
}

#[test]
fn every_counter_has_a_name_and_every_reason_a_counter() {
    let mut counters = Counters::default();
    Why::ALL.iter().for_each(|&why| counters.dropped(why));
    let names: std::collections::HashSet<_> = counters.each().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 5 + Why::ALL.len());
    assert_eq!(counters.each().map(|(_, n)| n).sum::<u64>(), Why::ALL.len() as u64);
}

/// Bytes of the data from one end to the next, sorted, in multiples of 8; the first piece holds any upper header.
fn any_cut() -> impl Strategy<Value = (Vec<u8>, Vec<Vec<u8>>)> {
    let packets = (24usize..4000, 0u8..4).prop_map(|(len, kind)| match kind {
        0 => v4(len),
        1 => v6(len),
        2 => v4_with_options(len),
        _ => v6_with_options(len),
    });
    (packets, prop::collection::btree_set(2usize..500, 1..20)).prop_map(|(packet, ends)| {
        let most = packet.len() - head_of(&packet);
        let ends: Vec<_> = ends.into_iter().map(|end| end * 8).filter(|&end| end < most).collect();
        let pieces = cut(&packet, &ends);
        (packet, pieces)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Any cutting, in any order, with duplicates, among the fragments of others.
    #[test]
    fn a_packet_comes_out_of_its_pieces_as_it_was(
        ((packet, pieces), order) in any_cut().prop_flat_map(|(packet, pieces)| {
            let order = (0..pieces.len() * 3).map(|i| i % pieces.len()).collect::<Vec<_>>();
            (Just((packet, pieces)), Just(order).prop_shuffle())
        }),
        noise in any::<bool>(),
    ) {
        let mut reassembly = Reassembly::new(Limits::default());
        let mut missing = vec![true; pieces.len()];
        for (now, at) in order.into_iter().enumerate() {
            if noise {
                let mut other = pieces[now % pieces.len()].clone();
                let last = head_of(&packet).min(40) - 20;
                other[last] ^= 0x55;
                if let Ok(read) = Packet::read(&other) {
                    reassembly.take(&other, &read, now as u64);
                }
            }
            let duplicate = !missing[at];
            missing[at] = false;
            let read = Packet::read(&pieces[at]).unwrap();
            let outcome = reassembly.take(&pieces[at], &read, now as u64);
            if missing.iter().all(|missing| !missing) {
                prop_assert_eq!(outcome, Outcome::Whole(packet.clone()));
                missing.fill(true);
            } else {
                prop_assert_eq!(outcome, if duplicate { Outcome::Dropped(Why::Duplicate) } else { Outcome::Kept });
            }
        }
    }

    /// Whatever pieces come, a packet is whole only if those that came cover it, and no two of them overlap but as exact
    /// duplicates; and then it has their bytes.
    #[test]
    fn pieces_that_overlap_never_make_a_packet(
        pieces in prop::collection::vec((0usize..6, 1usize..4, prop::bool::weighted(0.1), prop::bool::weighted(0.7)), 1..12),
        six in any::<bool>(),
    ) {
        let base = if six { v6(64) } else { v4(64) };
        let head = head_of(&base);
        let mut reassembly = Reassembly::new(Limits::default());
        let mut came: Vec<Cut> = Vec::new();
        for (from, len, odd, more) in pieces {
            let data: Vec<u8> = (from * 8..(from + len) * 8).map(|i| i as u8 ^ u8::from(odd)).collect();
            let piece = Cut { from: from * 8, data, more };
            let bytes = fragment(&base, head, &piece);
            let Ok(read) = Packet::read(&bytes) else { continue };
            if read.fragment.is_none_or(|f| f.offset == 0 && !f.more) {
                continue;
            }
            let outcome = reassembly.take(&bytes, &read, 0);
            let same = |a: &Cut, b: &Cut| a.from == b.from && a.data == b.data && a.more == b.more;
            if !came.iter().any(|other| same(other, &piece)) {
                came.push(piece);
            }
            came.sort_by_key(|piece| piece.from);
            let (mut end, mut whole, mut right) = (0, Vec::<u8>::new(), true);
            for (i, piece) in came.iter().enumerate() {
                right &= piece.from == end && piece.more == (i + 1 < came.len());
                end = piece.from + piece.data.len();
                whole.extend(&piece.data);
            }
            match outcome {
                Outcome::Whole(packet) => {
                    prop_assert!(right, "{:?}", came);
                    prop_assert_eq!(&packet[head..], &whole[..]);
                    came.clear();
                }
                _ => prop_assert!(!right, "{:?}", came),
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_grow(
        packets in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..90), any::<bool>(), 0u16..12, any::<bool>(), 0u64..100_000), 0..40),
        other in prop::collection::vec(any::<u8>(), 0..90),
    ) {
        let limits = Limits { bytes: 2000, datagrams: 4, source_bytes: 1500, source_datagrams: 3, pieces: 3 };
        let mut reassembly = Reassembly::new(limits);
        for (mut bytes, six, field, same, now) in packets {
            if six && bytes.len() >= 48 {
                bytes[0] = 0x60;
                let len = bytes.len() as u16 - 40;
                bytes[4..6].copy_from_slice(&len.to_be_bytes());
                bytes[6] = 44;
                bytes[42..44].copy_from_slice(&(field / 2 * 8 + field % 2).to_be_bytes());
                if same { bytes[8..40].fill(9); bytes[44..48].fill(9) }
            } else if bytes.len() >= 20 {
                bytes[0] = 0x45 + bytes[0] % 2;
                let len = bytes.len() as u16;
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
                bytes[6..8].copy_from_slice(&(field / 2 + field % 2 * 0x2000).to_be_bytes());
                if same { bytes[4..6].fill(9); bytes[9..20].fill(99) }
            }
            let Ok(read) = Packet::read(&bytes) else { continue };
            reassembly.take(&bytes, &read, now);
            // Bytes that are not the packet's.
            reassembly.take(&other, &read, now);
            prop_assert!(reassembly.bytes() <= 2000 && reassembly.datagrams() <= 4);
        }
        reassembly.expire(u64::MAX);
        prop_assert_eq!((reassembly.datagrams(), reassembly.bytes()), (0, 0));
    }
}
