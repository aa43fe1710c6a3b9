//! Internet checksums: whole ones (RFC 1071), and changes of them (RFC 1624).

use crate::{
    config::Family,
    packet::{Packet, proto},
};

/// One's complement sum of bytes as 16-bit words; an odd last byte counts as if a zero followed.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let whole: u64 = words.iter().map(|&w| u64::from(u16::from_be_bytes(w))).sum();
    whole + rest.first().map_or(0, |&b| u64::from(b) << 8)
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum of bytes, whatever stands in a checksum field among them.
pub fn of(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// What changes a checksum: the sum of `~m + m'` over all words that changed (RFC 1624, equation 3).
///
/// A change of several words, in several places, is gathered and put in once. Words that stay the same add nothing, so
/// that a change that is none leaves even a checksum of `0xffff` as it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    /// A word at an even place among what is summed was `old` and is `new`.
    pub fn word(&mut self, old: u16, new: u16) {
        if old != new {
            self.0 += u64::from(!old) + u64::from(new);
        }
    }

    /// A byte; `odd`: it is the lower one of its word.
    pub fn byte(&mut self, odd: bool, old: u8, new: u8) {
        let shift = if odd { 0 } else { 8 };
        self.word(u16::from(old) << shift, u16::from(new) << shift);
    }

    /// All changes of the other too.
    pub fn add(&mut self, other: Delta) {
        self.0 += other.0;
    }

    /// The checksum that was `check` before the changes (RFC 1624: `~(~HC + ~m + m')`).
    pub fn apply(self, check: u16) -> u16 {
        if self.0 == 0 {
            return check;
        }
        !fold(u64::from(!check) + self.0)
    }

    /// The same where `check` is the sum itself and not its complement: of a pseudo-header, with an open checksum.
    pub fn apply_open(self, check: u16) -> u16 {
        fold(u64::from(check) + self.0)
    }

    /// As [`Delta::apply`] for UDP, where 0 says that there is none: it stays, and what would become 0 becomes `0xffff` (RFC 768;
    /// RFC 6936, section 5, for those of IPv6 that have none).
    pub fn apply_udp(self, check: u16) -> u16 {
        match check {
            0 => 0,
            _ => match self.apply(check) {
                0 => 0xffff,
                sum => sum,
            },
        }
    }
}

const UDP_LITE: u8 = 136;

/// Where the checksum of an upper protocol is in its header, for those whose checksum is one of these.
///
/// DCCP (RFC 4340) and UDP-Lite (RFC 3828) are no concern of filters, but their checksums cover addresses too.
pub fn field_of(protocol: u8, family: Family) -> Option<usize> {
    const DCCP: u8 = 33;
    match protocol {
        proto::TCP => Some(16),
        proto::UDP | DCCP | UDP_LITE => Some(6),
        proto::ICMP if family == Family::V4 => Some(2),
        proto::ICMPV6 if family == Family::V6 => Some(2),
        _ => None,
    }
}

/// Whether the checksum of an upper protocol covers the addresses: all do but ICMP's (RFC 792; RFC 4443, section 2.3).
pub fn covers_addresses(protocol: u8) -> bool {
    protocol != proto::ICMP
}

/// Whether a checksum of 0 says that there is none, and none is ever 0 by itself (RFC 768; RFC 3828, section 3.1).
pub fn zero_is_none(protocol: u8) -> bool {
    matches!(protocol, proto::UDP | UDP_LITE)
}

/// The checksum that an IPv4 header should have. `header` is the header with its options.
pub fn of_ipv4_header(header: &[u8]) -> u16 {
    let field = header.get(10..12).map_or(0, sum);
    !fold(sum(header) - field)
}

/// The checksum that the upper protocol's header of a whole packet should have: TCP, UDP, ICMP, ICMPv6. None for other
/// protocols, fragments, and packets too short for the field. UDP's is never 0.
pub fn of_upper(bytes: &[u8], packet: &Packet) -> Option<u16> {
    let at = field_of(packet.proto, packet.family)?;
    if packet.fragment.is_some() || !matches!(packet.proto, proto::TCP | proto::UDP | proto::ICMP | proto::ICMPV6) {
        return None;
    }
    let body = bytes.get(packet.header..packet.len)?;
    let mut total = sum(body) - sum(body.get(at..at + 2)?);
    if covers_addresses(packet.proto) {
        total += pseudo_header(bytes, packet)? + body.len() as u64 + u64::from(packet.proto);
    }
    Some(match !fold(total) {
        0 if packet.proto == proto::UDP => 0xffff,
        check => check,
    })
}

/// The addresses, as they stand in the packet.
fn pseudo_header(bytes: &[u8], packet: &Packet) -> Option<u64> {
    match packet.family {
        Family::V4 => bytes.get(12..20).map(sum),
        Family::V6 => bytes.get(8..40).map(sum),
    }
}

/// Puts right checksums into a packet: that of an IPv4 header, and the upper protocol's where [`of_upper`] knows one.
pub fn fill(bytes: &mut [u8], packet: &Packet) {
    if packet.family == Family::V4 && packet.header >= 20 && packet.header <= bytes.len() {
        let check = of_ipv4_header(&bytes[..packet.header]);
        bytes[10..12].copy_from_slice(&check.to_be_bytes());
    }
    if let (Some(check), Some(at)) = (of_upper(bytes, packet), field_of(packet.proto, packet.family)) {
        let at = packet.header + at;
        bytes[at..at + 2].copy_from_slice(&check.to_be_bytes());
    }
}

/// Whether the checksums that [`fill`] knows are right. A UDP checksum of 0 is.
pub fn is_right(bytes: &[u8], packet: &Packet) -> bool {
    let header_is = packet.family == Family::V6 || bytes.get(..packet.header).is_some_and(|header| of(header) == 0);
    let (Some(should), Some(at)) = (of_upper(bytes, packet), field_of(packet.proto, packet.family)) else {
        return header_is;
    };
    let check = crate::packet::be16(bytes, packet.header + at);
    // Both zeros of one's complement verify.
    let same = check == should || (check == 0xffff && should == 0);
    header_is && (same || (packet.proto == proto::UDP && check == 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071_sums_up() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
        assert_eq!(of(&[0x80]), !0x8000);
    }

    #[test]
    fn the_example_of_rfc_1624_comes_out_as_0_and_not_as_ffff() {
        let mut delta = Delta::default();
        delta.word(0x5555, 0x3285);
        assert_eq!(delta.apply(0xdd2f), 0x0000);
    }

    #[test]
    fn whole_checksums_are_those_that_wireshark_computes() {
        // Packets without checksums, and what tshark said that they should be: of the IPv4 header, of what it carries.
        const V4: &str = "0a010101c0000209";
        const V6: &str = "fd01020304050001000000001234100020010db8fefe00000000000010101001";
        for (head, addresses, body, header, upper) in [
            ("4500002b1234000040060000", V4, "9c4001bb01020304a0b0c0d050187210000000006f6464", Some(0x9b8e), 0x99c6),
            ("450000211234000040110000", V4, "3a981b58000d000068656c6c6f", Some(0x9b8d), 0x9906),
            ("450000211234000040010000", V4, "080000001234000170696e6721", Some(0x9b9d), 0xe5f9),
            ("600000000017063f", V6, "9c4001bb01020304a0b0c0d050187210000000006f6464", None, 0xf4c9),
            ("60000000000d113f", V6, "3a981b58000d000068656c6c6f", None, 0xf409),
            ("60000000000d3a3f", V6, "800000001234000170696e6721", None, 0xfba9),
        ] {
            let text = [head, addresses, body].concat();
            let mut bytes: Vec<u8> =
                (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect();
            let packet = Packet::read(&bytes).unwrap();
            assert_eq!(of_upper(&bytes, &packet), Some(upper), "{text}");
            if let Some(header) = header {
                assert_eq!(of_ipv4_header(&bytes[..20]), header, "{text}");
            }
            let udp_without = packet.proto == proto::UDP && packet.family == Family::V6;
            assert_eq!(is_right(&bytes, &packet), udp_without, "{text}");
            fill(&mut bytes, &packet);
            assert!(is_right(&bytes, &packet), "{text}");
            bytes[packet.len - 1] ^= 1;
            assert!(!is_right(&bytes, &packet), "{text}");
        }
    }

    #[test]
    fn no_change_leaves_both_zeros_alone() {
        let mut delta = Delta::default();
        delta.word(0x1234, 0x1234);
        assert_eq!((delta.apply(0xffff), delta.apply(0)), (0xffff, 0));
        assert_eq!((delta.apply_udp(0xffff), delta.apply_udp(0)), (0xffff, 0));
    }

    proptest! {
        #[test]
        fn a_changed_checksum_is_the_whole_one(
            mut data in prop::collection::vec(any::<u8>(), 1..64),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        ) {
            // Something that is not 0 is always there, such as the version of IP.
            data.insert(0, 0x45);
            let before = of(&data);
            let mut delta = Delta::default();
            for (at, new) in changes {
                let at = 1 + at.index(data.len() - 1);
                delta.byte(at % 2 == 1, data[at], new);
                data[at] = new;
            }
            prop_assert_eq!(delta.apply(before), of(&data));
        }
    }
}
