//! Names that nftables has for types of ICMP.

use crate::language::{ICMP_TYPES_LONG, ICMPV6_TYPES_LONG};

/// Those that the language does not have.
const ICMP: &[(&str, u8)] =
    &[("info-request", 15), ("info-reply", 16), ("address-mask-request", 17), ("address-mask-reply", 18)];

/// The same of ICMPv6.
const ICMPV6: &[(&str, u8)] = &[
    ("mld-listener-reduction", 132),
    ("router-renumbering", 138),
    ("ind-neighbor-solicit", 141),
    ("ind-neighbor-advert", 142),
];

/// The number of a type.
pub(super) fn icmp_type(v6: bool, name: &str) -> Option<u8> {
    let (shared, own) = if v6 { (ICMPV6_TYPES_LONG, ICMPV6) } else { (ICMP_TYPES_LONG, ICMP) };
    shared.iter().chain(own).find(|(n, _)| *n == name).map(|&(_, number)| number)
}
