//! What `block return` answers: a TCP reset, or an ICMP error.
//!
//! An answer is a whole IP packet, from the destination of what was blocked to its source, with its checksums. There is
//! none where an answer could be answered again, or would go to more than one host (RFC 1122, section 3.2.2; RFC 4443,
//! section 2.4 e). Broadcasts of a network are not known here, nor those of the link: who calls does not ask about them.

use crate::{
    checksum,
    config::{Family, Return},
    packet::{IcmpClass, Packet, Tcp, Upper, proto, tcp_flag},
};

/// TTL or hop limit of answers.
const TTL: u8 = 64;

/// Most bytes of an ICMP error (RFC 1812, section 4.3.2.3).
const ICMP_MAX: usize = 576;

/// Most bytes of an ICMPv6 error: the least MTU (RFC 4443, section 2.4 c).
const ICMPV6_MAX: usize = 1280;

/// The answer that a rule asks for to a packet that it blocks. `router` is the address from which an ICMP error comes, of
/// the packet's family; where none is given it comes from the packet's destination, as a reset always does.
pub fn answer(how: Return, bytes: &[u8], packet: &Packet, router: Option<u128>) -> Option<Vec<u8>> {
    match (how, packet.proto) {
        (Return::Nothing, _) => None,
        (Return::Rst | Return::Any, proto::TCP) => rst(packet),
        (Return::Rst, _) => None,
        (Return::Any | Return::Icmp, _) => admin_prohibited(bytes, packet, router),
    }
}

/// The reset of a TCP segment as if nothing listened (RFC 9293, section 3.10.7.1). None: it is no whole TCP packet, or is a
/// reset itself, or an end is no single host.
pub fn rst(packet: &Packet) -> Option<Vec<u8>> {
    let Upper::Tcp(tcp) = packet.upper else { return None };
    // How long the segment is, a fragment does not tell.
    if tcp.flags & tcp_flag::RST != 0 || packet.fragment.is_some() || !is_between_hosts(packet) {
        return None;
    }
    let (seq, ack, flags) = if tcp.flags & tcp_flag::ACK != 0 {
        (tcp.ack, 0, tcp_flag::RST)
    } else {
        (0, tcp.seq.wrapping_add(length(&tcp)), tcp_flag::RST | tcp_flag::ACK)
    };
    let mut body = Vec::with_capacity(20);
    body.extend(tcp.ports.dst.to_be_bytes());
    body.extend(tcp.ports.src.to_be_bytes());
    body.extend(seq.to_be_bytes());
    body.extend(ack.to_be_bytes());
    // Five words, no window, no urgent data.
    body.extend([5 << 4, flags, 0, 0, 0, 0, 0, 0]);
    whole(packet, packet.dst, proto::TCP, 0, &body)
}

/// What a segment takes of the sequence numbers (SEG.LEN): SYN and FIN count too.
fn length(tcp: &Tcp) -> u32 {
    let flags = [tcp_flag::SYN, tcp_flag::FIN].into_iter().filter(|flag| tcp.flags & flag != 0).count();
    (tcp.data + flags) as u32
}

/// The ICMP error that communication is administratively prohibited (RFC 1812, section 5.2.7.1; RFC 4443, section 3.1).
/// None: the packet is an ICMP error itself or a fragment behind the first, or an end is no single host.
pub fn admin_prohibited(bytes: &[u8], packet: &Packet, router: Option<u128>) -> Option<Vec<u8>> {
    let later = packet.fragment.is_some_and(|f| f.offset != 0);
    if later || is_error(packet) || !is_between_hosts(packet) {
        return None;
    }
    // Internetwork control, as RFC 1812, section 4.3.2.5, wants errors to be.
    const PRECEDENCE: u8 = 0xc0;
    let (number, header, max, kind, code, class) = match packet.family {
        Family::V4 => (proto::ICMP, 20, ICMP_MAX, 3, 13, PRECEDENCE),
        Family::V6 => (proto::ICMPV6, 40, ICMPV6_MAX, 1, 1, 0),
    };
    let here = packet.here(bytes);
    let quote = &here[..here.len().min(max - header - 8)];
    let mut body = vec![kind, code, 0, 0, 0, 0, 0, 0];
    body.extend_from_slice(quote);
    whole(packet, router.unwrap_or(packet.dst), number, class, &body)
}

/// Whether a packet is one that no error may be about. ICMPv6 types below 128 are errors, those that nobody knows too; a
/// redirect (137) is none but is treated so (RFC 4443, section 2.4 e.2).
fn is_error(packet: &Packet) -> bool {
    let Upper::Icmp(icmp) = packet.upper else { return false };
    let v6_error = packet.family == Family::V6 && (icmp.kind < 128 || icmp.kind == 137);
    matches!(icmp.class, IcmpClass::Error(_)) || v6_error
}

fn is_between_hosts(packet: &Packet) -> bool {
    is_host(packet.family, packet.src) && is_host(packet.family, packet.dst)
}

/// An address that belongs to one host: not unspecified, multicast or the limited broadcast, nor of the class E, which is
/// reserved. Loopback addresses do, and their own host may ask.
fn is_host(family: Family, address: u128) -> bool {
    match family {
        Family::V4 => address as u32 >> 24 != 0 && (address as u32) < 0xe000_0000,
        Family::V6 => address != 0 && address >> 120 != 0xff,
    }
}

/// An IP packet from `from` to the source of `packet`. It is never cut: IPv4 says so, with an identification of 0
/// (RFC 6864, section 4.1).
fn whole(packet: &Packet, from: u128, number: u8, class: u8, body: &[u8]) -> Option<Vec<u8>> {
    const DF: u8 = 0x40;
    let mut bytes;
    match packet.family {
        Family::V4 => {
            let [hi, lo] = u16::try_from(20 + body.len()).ok()?.to_be_bytes();
            bytes = vec![0x45, class, hi, lo, 0, 0, DF, 0, TTL, number, 0, 0];
            bytes.extend((from as u32).to_be_bytes());
            bytes.extend((packet.src as u32).to_be_bytes());
        }
        Family::V6 => {
            let [hi, lo] = u16::try_from(body.len()).ok()?.to_be_bytes();
            bytes = vec![0x60 | class >> 4, class << 4, 0, 0, hi, lo, number, TTL];
            bytes.extend(from.to_be_bytes());
            bytes.extend(packet.src.to_be_bytes());
        }
    }
    bytes.extend_from_slice(body);
    let made = Packet::read(&bytes).ok()?;
    checksum::fill(&mut bytes, &made);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        nat::quoted::quoted,
        packet::{Ports, be16, be32},
        testing::{address, ends, error, icmp, ip, is_right, tcp, udp},
    };
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Packet {
        Packet::read(bytes).unwrap()
    }

    fn reset(bytes: &[u8]) -> Option<(u32, u32, u8)> {
        let answer = rst(&read(bytes))?;
        assert!(is_right(&answer));
        let Upper::Tcp(tcp) = read(&answer).upper else { panic!("no TCP") };
        assert_eq!((tcp.window, tcp.data), (0, 0));
        Some((tcp.seq, tcp.ack, tcp.flags))
    }

    #[test]
    fn a_reset_comes_from_whom_the_segment_was_for() {
        let answer = rst(&read(&tcp(("10.1.1.1", 1), ("192.0.2.1", 80), 2, &[], b""))).unwrap();
        assert_eq!(ends(&answer), "192.0.2.1.80 > 10.1.1.1.1");
        let answer = rst(&read(&tcp(("fd00::1", 1), ("2001:db8::1", 80), 2, &[], b""))).unwrap();
        assert_eq!(ends(&answer), "2001:db8::1.80 > fd00::1.1");
        assert!(is_right(&answer));
    }

    #[test]
    fn its_numbers_are_those_of_rfc_9293() {
        // Of the builder: sequence number 1000, acknowledgement 2000.
        let segment = |flags, data: &[u8]| tcp(("10.1.1.1", 1), ("192.0.2.1", 80), flags, &[1, 1, 1, 1], data);
        let (rst, rst_ack) = (tcp_flag::RST, tcp_flag::RST | tcp_flag::ACK);
        for (flags, data, expected) in [
            (0x02, &b""[..], (0, 1001, rst_ack)),
            (0x02, b"early", (0, 1006, rst_ack)),
            (0x03, b"", (0, 1002, rst_ack)),
            (0x00, b"x", (0, 1001, rst_ack)),
            (0x10, b"xyz", (2000, 0, rst)),
            (0x12, b"", (2000, 0, rst)),
            (0x11, b"", (2000, 0, rst)),
        ] {
            assert_eq!(reset(&segment(flags, data)), Some(expected), "{flags:#x} {data:?}");
        }
    }

    #[test]
    fn no_reset_of_a_reset_nor_to_many() {
        for (src, dst, flags) in [
            ("10.1.1.1", "192.0.2.1", 0x04),
            ("10.1.1.1", "192.0.2.1", 0x14),
            ("10.1.1.1", "224.0.0.1", 0x02),
            ("10.1.1.1", "255.255.255.255", 0x02),
            ("0.0.0.0", "192.0.2.1", 0x02),
            ("239.1.1.1", "192.0.2.1", 0x02),
            ("fd00::1", "ff02::1", 0x02),
            ("::", "fd00::1", 0x02),
        ] {
            assert_eq!(reset(&tcp((src, 1), (dst, 2), flags, &[], b"")), None, "{src} {dst} {flags}");
        }
        assert_eq!(reset(&udp(("10.1.1.1", 1), ("10.1.1.2", 2), b"")), None);
    }

    #[test]
    fn an_error_quotes_as_much_as_may_be() {
        for (src, dst, header, max) in [("10.1.1.1", "192.0.2.1", 20, 576), ("fd00::1", "2001:db8::1", 40, 1280)] {
            for len in [0, 1, 500, 1400] {
                let bytes = udp((src, 7), (dst, 9), &vec![3; len]);
                let answer = admin_prohibited(&bytes, &read(&bytes), None).unwrap();
                assert!(is_right(&answer));
                assert_eq!(ends(&answer), format!("{dst} > {src}"));
                assert_eq!(answer.len(), (header + 8 + bytes.len()).min(max));
                assert_eq!(answer[header + 8..], bytes[..answer.len() - header - 8]);
                assert_eq!(answer[header..header + 2], if header == 20 { [3, 13] } else { [1, 1] });
                assert_eq!(be32(&answer, header + 4), 0);
                let quoted = quoted(&answer, &read(&answer)).unwrap();
                assert_eq!(quoted.ids, Some(Ports { src: 7, dst: 9 }));
            }
        }
    }

    #[test]
    fn an_error_can_come_from_the_router() {
        let bytes = udp(("10.1.1.1", 7), ("192.0.2.1", 9), b"");
        let answer = admin_prohibited(&bytes, &read(&bytes), Some(address("10.1.1.254"))).unwrap();
        assert_eq!(ends(&answer), "10.1.1.254 > 10.1.1.1");
    }

    #[test]
    fn no_error_about_an_error_a_later_fragment_or_to_many() {
        let quote = udp(("10.1.1.1", 7), ("192.0.2.1", 9), b"");
        let mut later = udp(("10.1.1.1", 7), ("192.0.2.1", 9), b"12345678");
        later[7] = 1;
        for bytes in [
            error("10.1.1.1", "192.0.2.1", 3, &quote),
            icmp("10.1.1.1", "192.0.2.1", 5, 0, &[0; 4]),
            icmp("fd00::1", "2001:db8::1", 4, 0, &[0; 4]),
            icmp("fd00::1", "2001:db8::1", 100, 0, &[0; 4]),
            icmp("fd00::1", "2001:db8::1", 137, 0, &[0; 4]),
            udp(("10.1.1.1", 7), ("224.0.0.251", 9), b""),
            udp(("10.1.1.1", 7), ("255.255.255.255", 9), b""),
            udp(("0.0.0.0", 68), ("192.0.2.1", 67), b""),
            udp(("fd00::1", 7), ("ff02::fb", 9), b""),
            udp(("::", 7), ("fd00::1", 9), b""),
            later,
        ] {
            assert_eq!(admin_prohibited(&bytes, &read(&bytes), None), None, "{bytes:x?}");
        }
        let ping = icmp("10.1.1.1", "192.0.2.1", 8, 0, &[0; 4]);
        assert!(admin_prohibited(&ping, &read(&ping), None).is_some());
    }

    #[test]
    fn each_return_answers_as_it_says() {
        let is_tcp = |bytes: &Vec<u8>| read(bytes).proto == proto::TCP;
        let (t, u) =
            (tcp(("10.1.1.1", 1), ("192.0.2.1", 80), 2, &[], b""), udp(("10.1.1.1", 1), ("192.0.2.1", 80), b""));
        for (how, of_tcp, of_udp) in [
            (Return::Nothing, None, None),
            (Return::Any, Some(true), Some(false)),
            (Return::Rst, Some(true), None),
            (Return::Icmp, Some(false), Some(false)),
        ] {
            let answered = |bytes: &[u8]| answer(how, bytes, &read(bytes), None).as_ref().map(is_tcp);
            assert_eq!((answered(&t), answered(&u)), (of_tcp, of_udp), "{how:?}");
        }
    }

    #[test]
    fn answers_are_never_cut_and_errors_go_first() {
        let bytes = udp(("10.1.1.1", 1), ("192.0.2.1", 80), b"");
        let answer = admin_prohibited(&bytes, &read(&bytes), None).unwrap();
        assert_eq!((answer[1], be16(&answer, 4), be16(&answer, 6)), (0xc0, 0, 0x4000));
    }

    proptest! {
        #[test]
        fn answers_are_right_and_are_not_answered(
            proto in prop::sample::select(vec![1u8, 6, 17, 47, 58, 99, 132]), v6 in any::<bool>(),
            body in prop::collection::vec(any::<u8>(), 20..60), how in 0..3usize,
        ) {
            let (a, b) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
            let mut body = body;
            body[12] = 5 << 4;
            let bytes = ip(a, b, proto, &body);
            let how = [Return::Any, Return::Rst, Return::Icmp][how];
            if let Some(first) = answer(how, &bytes, &read(&bytes), None) {
                prop_assert!(is_right(&first));
                for how in [Return::Any, Return::Rst] {
                    prop_assert_eq!(answer(how, &first, &read(&first), None), None);
                }
            }
        }
    }
}
