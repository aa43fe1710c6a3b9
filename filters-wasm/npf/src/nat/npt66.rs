//! IPv6 prefix translation (RFC 6296): one prefix for another, each packet by itself, and no checksum above IP changes.
//!
//! A word of the address takes up what the prefixes differ by, so that the one's complement sum of the address stays the
//! same. Prefixes of up to 48 bits leave the fourth word for it, the subnet (section 3.4); longer ones the first word of
//! the interface identifier that is not `0xffff` (section 3.5).

use super::rewrite::Side;
use crate::{
    config::{Family, Prefix},
    packet::{Packet, number_of},
};

/// Two prefixes that stand for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Npt66 {
    inner: u128,
    outer: u128,
    len: u8,
    /// What an inner address's word needs added when it gets the outer prefix.
    adjustment: u16,
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the inner side: its source gets the outer prefix.
    Out,
    /// From the outer side: its destination gets the inner prefix.
    In,
}

impl Npt66 {
    /// For two IPv6 prefixes of the same length, at most 64 bits: behind that no word of an interface identifier is left
    /// that the prefix leaves alone.
    pub fn new(inner: Prefix, outer: Prefix) -> Option<Npt66> {
        let both_v6 = [inner, outer].iter().all(|p| Family::of(p.address) == Family::V6);
        if !both_v6 || inner.len != outer.len || inner.len > 64 {
            return None;
        }
        let [inner_bits, outer_bits] = [inner, outer].map(|p| number_of(p.address));
        Some(Npt66 {
            inner: inner_bits,
            outer: outer_bits,
            len: inner.len,
            adjustment: plus(sum(inner_bits), !sum(outer_bits)),
        })
    }

    /// What is added to an inner address's word (section 3.1).
    pub fn adjustment(&self) -> u16 {
        self.adjustment
    }

    /// The outer address of an inner one. None: it is not within the inner prefix, or no word of it can be adjusted: its
    /// subnet is `0xffff`, which would come back as 0, or all of its interface identifier is ones (section 3.7, with its
    /// erratum 8757). Such a packet is dropped.
    pub fn outward(&self, address: u128) -> Option<u128> {
        self.map(address, self.inner, self.outer, self.adjustment)
    }

    /// The inner address of an outer one. None as for [`Npt66::outward`].
    pub fn inward(&self, address: u128) -> Option<u128> {
        self.map(address, self.outer, self.inner, !self.adjustment)
    }

    fn map(&self, address: u128, from: u128, to: u128, adjustment: u16) -> Option<u128> {
        let hosts = u128::MAX.checked_shr(u32::from(self.len)).unwrap_or(0);
        if address & !hosts != from & !hosts {
            return None;
        }
        let mapped = to & !hosts | address & hosts;
        let words = if self.len <= 48 { 3..4 } else { 4..8 };
        let shift = words.map(|i| 112 - 16 * i).find(|shift| (address >> shift) as u16 != 0xffff)?;
        let word = match plus((address >> shift) as u16, adjustment) {
            // Both are 0 in one's complement, and only one of them may be seen (section 3.2).
            0xffff => 0,
            word => word,
        };
        Some(mapped & !(0xffff << shift) | u128::from(word) << shift)
    }

    /// Translates a packet: its source on the way out, its destination on the way in. Nothing but that address changes;
    /// ICMPv6 errors need their quote changed too ([`super::icmp_error::rewrite_quote`], by the other side).
    ///
    /// False, and nothing is changed, where the address has no counterpart.
    pub fn rewrite(&self, bytes: &mut [u8], packet: &Packet, way: Way) -> bool {
        let (at, mapped) = match way {
            Way::Out => (8, self.outward(packet.src)),
            Way::In => (24, self.inward(packet.dst)),
        };
        let (Family::V6, Some(mapped)) = (packet.family, mapped) else { return false };
        let Some(field) = bytes.get_mut(at..at + 16) else { return false };
        field.copy_from_slice(&mapped.to_be_bytes());
        true
    }

    /// The side of a packet that changes on its way.
    pub fn side(way: Way) -> Side {
        match way {
            Way::Out => Side::Src,
            Way::In => Side::Dst,
        }
    }
}

/// One's complement addition.
fn plus(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

fn sum(address: u128) -> u16 {
    (0..8).fold(0, |sum, i| plus(sum, (address >> (16 * i)) as u16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        nat::{Change, icmp_error},
        packet::address_of,
        testing::{address, ends, error, is_right, tcp, udp},
    };
    use proptest::prelude::*;

    fn npt(inner: &str, outer: &str, len: u8) -> Npt66 {
        let prefix = |text: &str| Prefix::new(text.parse().unwrap(), len).unwrap();
        Npt66::new(prefix(inner), prefix(outer)).unwrap()
    }

    fn rfc() -> Npt66 {
        npt("fd01:203:405::", "2001:db8:1::", 48)
    }

    #[test]
    fn the_example_of_rfc_6296_comes_out() {
        assert_eq!(rfc().adjustment(), 0xd54f);
        let (inner, outer) = (address("fd01:203:405:1::1234"), address("2001:db8:1:d550::1234"));
        assert_eq!(rfc().outward(inner), Some(outer));
        assert_eq!(rfc().inward(outer), Some(inner));
    }

    #[test]
    fn rows_16_and_17_of_the_reference_with_checksums() {
        let peer = ("2001:db8:fefe::1010:1001", 9000);
        let before = udp(("fd01:203:405:1::1234:1000", 9000), peer, b"x");
        let mut bytes = before.clone();
        assert!(rfc().rewrite(&mut bytes, &Packet::read(&before).unwrap(), Way::Out));
        assert_eq!(bytes, udp(("2001:db8:1:d550::1234:1000", 9000), peer, b"x"));
        let before = udp(peer, ("2001:db8:1:d550::1234:1000", 9000), b"y");
        let mut bytes = before.clone();
        assert!(rfc().rewrite(&mut bytes, &Packet::read(&before).unwrap(), Way::In));
        assert_eq!(bytes, udp(peer, ("fd01:203:405:1::1234:1000", 9000), b"y"));
    }

    #[test]
    fn longer_prefixes_adjust_the_first_word_of_the_identifier_that_is_not_all_ones() {
        let npt = npt("fd01:203:405:77::", "2001:db8:1:88::", 64);
        for (inner, word) in [
            ("fd01:203:405:77:1::", 4),
            ("fd01:203:405:77:ffff:1::", 5),
            ("fd01:203:405:77:ffff:ffff:1:0", 6),
            ("fd01:203:405:77:ffff:ffff:ffff:1", 7),
        ] {
            let inner = address(inner);
            let outer = npt.outward(inner).unwrap();
            let differ = |i: i32| (inner ^ outer) >> (112 - 16 * i) as u16 & 0xffff != 0;
            assert_eq!((4..8).filter(|&i| differ(i)).collect::<Vec<_>>(), [word]);
            assert_eq!(npt.inward(outer), Some(inner));
        }
    }

    #[test]
    fn what_cannot_be_adjusted_has_no_counterpart() {
        assert_eq!(rfc().outward(address("fd01:203:405:ffff::1")), None);
        assert_eq!(rfc().inward(address("2001:db8:1:ffff::1")), None);
        let long = npt("fd01:203:405:77::", "2001:db8:1:88::", 64);
        assert_eq!(long.outward(address("fd01:203:405:77:ffff:ffff:ffff:ffff")), None);
        // Nor has what is elsewhere.
        assert_eq!(rfc().outward(address("fd01:203:406:1::1")), None);
    }

    #[test]
    fn a_word_that_becomes_ffff_is_written_as_0() {
        let word = !rfc().adjustment();
        let inner = address(&format!("fd01:203:405:{word:x}::1"));
        assert_eq!(rfc().outward(inner), Some(address("2001:db8:1::1")));
        assert_eq!(rfc().inward(address("2001:db8:1::1")), Some(inner));
    }

    #[test]
    fn prefixes_must_be_ipv6_of_one_length_up_to_64() {
        let prefix = |text: &str, len| Prefix::new(text.parse().unwrap(), len).unwrap();
        assert_eq!(Npt66::new(prefix("fd00::", 48), prefix("2001:db8::", 56)), None);
        assert_eq!(Npt66::new(prefix("fd00::", 65), prefix("2001:db8::", 65)), None);
        assert_eq!(Npt66::new(prefix("10.0.0.0", 8), prefix("11.0.0.0", 8)), None);
    }

    #[test]
    fn errors_are_translated_with_their_quote_and_no_checksum_changes_but_for_itself() {
        let outer = udp(("2001:db8:1:d550::9", 5), ("2001:db8:fefe::1", 6), b"data");
        let inner = udp(("fd01:203:405:1::9", 5), ("2001:db8:fefe::1", 6), b"data");
        let mut bytes = error("2001:db8:fefe::f", "2001:db8:1:d550::9", 3, &outer);
        let packet = Packet::read(&bytes).unwrap();
        let sum = bytes[42..44].to_vec();
        let quoted = crate::nat::quoted::quoted(&bytes, &packet).unwrap();
        let back = rfc().inward(quoted.src);
        let change = Change { side: Npt66::side(Way::In).other(), address: back, port_or_id: None };
        assert!(rfc().rewrite(&mut bytes, &packet, Way::In));
        assert!(icmp_error::rewrite_quote(&mut bytes, &packet, change));
        assert_eq!(ends(&bytes), "2001:db8:fefe::f > fd01:203:405:1::9");
        assert_eq!((&bytes[48..], is_right(&bytes)), (&inner[..], true));
        assert_eq!(bytes[42..44], sum);
    }

    proptest! {
        #[test]
        fn checksums_stay_right_and_the_way_back_restores_the_packet(
            inner in any::<u128>(), outer in any::<u128>(), len in 0u8..=64, host in any::<u128>(), port in any::<u16>(),
        ) {
            let text = |a| address_of(Family::V6, a).to_string();
            let npt = npt(&text(inner), &text(outer), len);
            let hosts = u128::MAX.checked_shr(u32::from(len)).unwrap_or(0);
            let src = inner & !hosts | host & hosts;
            let before = tcp((&text(src), port), ("2001:db8::1", 80), 2, &[], b"data");
            let mut bytes = before.clone();
            let packet = Packet::read(&before).unwrap();
            if npt.rewrite(&mut bytes, &packet, Way::Out) {
                prop_assert!(is_right(&bytes));
                prop_assert_eq!(&bytes[40..], &before[40..]);
                let out = Packet::read(&bytes).unwrap();
                prop_assert_eq!(npt.inward(out.src), Some(src));
            } else {
                prop_assert_eq!(bytes, before);
            }
        }
    }
}
