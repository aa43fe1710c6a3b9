//! `normalize`: headers are made plain.

use crate::{
    config::{Family, Normalize},
    edit::Edit,
    nat::below,
    packet::{Packet, Upper, be16, tcp_flag},
};

/// Does to a packet what `normalize` asks for, and puts the checksums of its IPv4 and TCP headers right.
///
/// - `random-id` gives IPv4 packets that are no fragments a random identification that is not 0: fragments need the one
///   that all of them have.
/// - `no-df` clears the don't-fragment flag of IPv4 packets, also by itself. A packet that was atomic may have any
///   identification, often 0 (RFC 6864, section 4.1), and now needs one that tells it from others: it gets a random one.
/// - `min-ttl` raises lower TTLs and hop limits.
/// - `max-mss` lowers a higher maximal segment size in SYNs; it never raises one nor adds one.
///
/// `random` gives 64 random bits.
pub fn normalize(bytes: &mut [u8], packet: &Packet, how: &Normalize, random: &mut impl FnMut() -> u64) {
    let mut edit = Edit::new(bytes, packet);
    match packet.family {
        Family::V4 => normalize_v4(&mut edit, packet, how, random),
        Family::V6 if packet.ttl < how.min_ttl => {
            edit.put(7, &[how.min_ttl]);
        }
        Family::V6 => {}
    }
    if how.max_mss != 0 {
        clamp_mss(&mut edit, packet, how.max_mss);
    }
}

fn normalize_v4(edit: &mut Edit<'_>, packet: &Packet, how: &Normalize, random: &mut impl FnMut() -> u64) {
    const DF: u16 = 0x4000;
    let flags = be16(edit.bytes(), 6);
    let clear_df = how.no_df && flags & DF != 0;
    if clear_df {
        edit.put(6, &(flags & !DF).to_be_bytes());
    }
    if packet.fragment.is_none() && (how.random_id || clear_df) {
        let id = 1 + below(0xffff, random()) as u16;
        edit.put(4, &id.to_be_bytes());
    }
    if packet.ttl < how.min_ttl {
        edit.put(8, &[how.min_ttl]);
    }
    let all = edit.take_all();
    edit.fix(10, all);
}

/// Lowers the option of a SYN's maximal segment size (RFC 9293, section 3.7.1).
fn clamp_mss(edit: &mut Edit<'_>, packet: &Packet, max: u16) {
    let Upper::Tcp(tcp) = packet.upper else { return };
    if tcp.flags & tcp_flag::SYN == 0 {
        return;
    }
    let options = packet.header + 20..packet.header + tcp.header;
    let Some(at) = edit.bytes().get(options.clone()).and_then(mss) else { return };
    let at = options.start + at;
    if be16(edit.bytes(), at) > max {
        let delta = edit.put(at, &max.to_be_bytes());
        // An open one does not cover it yet.
        if !packet.checksum_is_open {
            edit.fix(packet.header + 16, delta);
        }
    }
}

/// Where the value of the first option of the maximal segment size is among TCP options.
fn mss(options: &[u8]) -> Option<usize> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const MSS: u8 = 2;
    let mut at = 0;
    loop {
        match *options.get(at)? {
            END => return None,
            NOTHING => at += 1,
            kind => {
                // A length below 2 would stay at the same place for ever.
                let len = usize::from(*options.get(at + 1)?).max(2);
                if kind == MSS && len == 4 {
                    return (at + 4 <= options.len()).then_some(at + 2);
                }
                at += len;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ip, is_right, random, tcp, udp};
    use proptest::prelude::*;

    fn normalized(before: &[u8], how: Normalize) -> Vec<u8> {
        let mut bytes = before.to_vec();
        let packet = Packet::read(before).unwrap();
        normalize(&mut bytes, &packet, &how, &mut random(5));
        assert!(is_right(&bytes));
        bytes
    }

    fn with_flags(flags: u16) -> Vec<u8> {
        let mut bytes = udp(("10.1.1.1", 1), ("10.1.1.2", 2), b"x");
        bytes[4..6].fill(0);
        bytes[6..8].copy_from_slice(&flags.to_be_bytes());
        let check = crate::checksum::of_ipv4_header(&bytes[..20]);
        bytes[10..12].copy_from_slice(&check.to_be_bytes());
        bytes
    }

    const NO_DF: Normalize = Normalize { random_id: false, min_ttl: 0, max_mss: 0, no_df: true };
    const RANDOM_ID: Normalize = Normalize { no_df: false, random_id: true, ..NO_DF };

    #[test]
    fn no_df_works_alone_and_gives_an_identification() {
        let bytes = normalized(&with_flags(0x4000), NO_DF);
        assert_eq!(be16(&bytes, 6), 0);
        assert_ne!(be16(&bytes, 4), 0);
        // What could be cut before keeps the identification that it has.
        assert_eq!(normalized(&with_flags(0), NO_DF), with_flags(0));
    }

    #[test]
    fn fragments_keep_their_identification() {
        let bytes = normalized(&with_flags(0x6000), Normalize { random_id: true, ..NO_DF });
        assert_eq!((be16(&bytes, 4), be16(&bytes, 6)), (0, 0x2000));
    }

    #[test]
    fn random_ids_differ_and_leave_the_flag() {
        let before = with_flags(0x4000);
        let packet = Packet::read(&before).unwrap();
        let mut random = random(6);
        let ids: std::collections::HashSet<u16> = (0..100)
            .map(|_| {
                let mut bytes = before.clone();
                normalize(&mut bytes, &packet, &RANDOM_ID, &mut random);
                assert!(is_right(&bytes));
                assert_eq!(be16(&bytes, 6), 0x4000);
                be16(&bytes, 4)
            })
            .collect();
        assert!(ids.len() > 95 && !ids.contains(&0));
    }

    #[test]
    fn min_ttl_raises_and_never_lowers_in_both_families() {
        for (before, at, ttl) in
            [(udp(("10.1.1.1", 1), ("10.1.1.2", 2), b"x"), 8, 64), (udp(("fd00::1", 1), ("fd00::2", 2), b"x"), 7, 63)]
        {
            for (min, after) in [(1, ttl), (ttl, ttl), (200, 200)] {
                let bytes = normalized(&before, Normalize { min_ttl: min, ..Normalize::default() });
                assert_eq!(bytes[at], after);
            }
        }
    }

    #[test]
    fn max_mss_lowers_the_option_of_syns_wherever_it_stands() {
        let how = Normalize { max_mss: 1400, ..Normalize::default() };
        for (a, b) in [("10.1.1.1", "10.1.1.2"), ("fd00::1", "fd00::2")] {
            for before in [&[][..], &[1], &[1, 1], &[4, 2], &[8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1]] {
                let at = |mss: u16, flags| {
                    let options = [before, &[2, 4], &mss.to_be_bytes(), &[3, 3, 7]].concat();
                    tcp((a, 1), (b, 2), flags, &options, b"")
                };
                assert_eq!(normalized(&at(1460, 2), how), at(1400, 2));
                assert_eq!(normalized(&at(0xffff, 0x12), how), at(1400, 0x12));
                assert_eq!(normalized(&at(1399, 2), how), at(1399, 2));
                assert_eq!(normalized(&at(1460, 0x10), how), at(1460, 0x10));
            }
        }
    }

    #[test]
    fn options_that_make_no_sense_are_left_alone() {
        let how = Normalize { max_mss: 1, ..Normalize::default() };
        for options in [&[2, 3, 5, 5][..], &[5, 0, 0, 0], &[5, 200, 2, 4, 5, 5], &[0, 2, 4, 5, 5], &[1, 1, 1, 2]] {
            assert_eq!(mss(options), None, "{options:?}");
            let before = tcp(("10.1.1.1", 1), ("10.1.1.2", 2), 2, options, b"data");
            assert_eq!(normalized(&before, how), before, "{options:?}");
        }
        // Cut by the end of the header, which the builder above would fill up.
        assert_eq!((mss(&[2, 4, 5]), mss(&[1, 1, 2, 4, 9]), mss(&[2]), mss(&[])), (None, None, None, None));
    }

    proptest! {
        #[test]
        fn any_options_leave_right_checksums(
            options in prop::collection::vec(prop_oneof![0u8..6, any::<u8>()], 0..40), flags in any::<u8>(),
            max_mss in any::<u16>(), min_ttl in any::<u8>(), random_id in any::<bool>(), no_df in any::<bool>(),
            seed in any::<u64>(), v6 in any::<bool>(),
        ) {
            let (a, b) = if v6 { ("fd00::1", "fd00::2") } else { ("10.1.1.1", "10.1.1.2") };
            let before = tcp((a, 1), (b, 2), flags, &options, b"data");
            let packet = Packet::read(&before).unwrap();
            let mut bytes = before.clone();
            let how = Normalize { random_id, min_ttl, max_mss, no_df };
            normalize(&mut bytes, &packet, &how, &mut random(seed));
            prop_assert!(is_right(&bytes));
            let other = ip(a, b, 50, &options);
            let mut bytes = other.clone();
            normalize(&mut bytes, &Packet::read(&other).unwrap(), &how, &mut random(seed));
            prop_assert_eq!(&bytes[packet.header..], &other[packet.header..]);
        }
    }
}
