//! Choosing the translated address among those of a map's outer side.
//!
//! The addresses are prefixes, as a map or a table lists them; a single address is a prefix of its full length. Every
//! address of a prefix counts, network and broadcast addresses of IPv4 too: how the networks are cut is not seen here.

use super::below;
use crate::{
    config::{Family, Prefix},
    packet::{number_of, v4},
};

/// The address that stands for a source (`ip-hash`), the same one each time. Only the source counts, so that a host is
/// seen as one address wherever it talks to (RFC 4787, REQ-2), and nothing that differs between two starts of a daemon.
/// Maps that name no algorithm for several addresses use it too.
///
/// None: there is no address of that family. So for all functions here.
pub fn ip_hash(pool: &[Prefix], family: Family, src: u128) -> Option<u128> {
    let size = size(pool, family)?;
    let (hi, lo) = (mix(src as u64 ^ mix((src >> 64) as u64)), mix(!src as u64 ^ mix((src >> 64) as u64 ^ 1)));
    // Pools of more than 2^64 addresses are whole IPv6 prefixes; there the remainder's bias is below 2^-32 for any
    // prefix that is assigned to anybody.
    let index = match u64::try_from(size) {
        Ok(size) => u128::from(below(size, hi)),
        Err(_) => (u128::from(hi) << 64 | u128::from(lo)) % size,
    };
    nth(pool, family, index)
}

/// The addresses one after the other (`round-robin`). `cursor` counts on; it begins anywhere.
pub fn round_robin(pool: &[Prefix], family: Family, cursor: &mut u64) -> Option<u128> {
    let size = size(pool, family)?;
    let index = u128::from(*cursor) % size;
    *cursor = cursor.wrapping_add(1);
    nth(pool, family, index)
}

/// The address with the other prefix before the same host bits (`netmap`). None if the families differ.
pub fn netmap(prefix: Prefix, family: Family, address: u128) -> Option<u128> {
    if Family::of(prefix.address) != family {
        return None;
    }
    let hosts = hosts(prefix);
    Some(number_of(prefix.address) & !hosts | address & hosts)
}

/// The bits of an address that a prefix leaves open.
fn hosts(prefix: Prefix) -> u128 {
    let open = u32::from(Family::of(prefix.address).bits().saturating_sub(prefix.len));
    1u128.checked_shl(open).map_or(u128::MAX, |n| n - 1)
}

fn of(pool: &[Prefix], family: Family) -> impl Iterator<Item = (u128, u128)> {
    pool.iter().filter(move |p| Family::of(p.address) == family).map(|&p| (number_of(p.address), hosts(p)))
}

/// Addresses of a family in all; one less where there are 2^128. None if there are none.
fn size(pool: &[Prefix], family: Family) -> Option<u128> {
    let size = of(pool, family).fold(0u128, |sum, (_, hosts)| sum.saturating_add(hosts).saturating_add(1));
    (size > 0).then_some(size)
}

/// One of them by its number.
fn nth(pool: &[Prefix], family: Family, mut index: u128) -> Option<u128> {
    for (address, hosts) in of(pool, family) {
        if index <= hosts {
            let address = address & !hosts | index;
            return Some(if family == Family::V4 { v4(address as u32) } else { address });
        }
        index -= hosts + 1;
    }
    None
}

/// Every bit of the result depends on every bit of what is mixed (the finalizer of MurmurHash3).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::address;

    fn prefix(text: &str) -> Prefix {
        let (address, len) = text.split_once('/').unwrap();
        Prefix::new(address.parse().unwrap(), len.parse().unwrap()).unwrap()
    }

    fn pool() -> Vec<Prefix> {
        ["192.0.2.1/32", "2001:db8::/64", "192.0.2.8/30", "2001:db8:9::9/128"].map(prefix).to_vec()
    }

    #[test]
    fn round_robin_visits_every_address_of_the_family_once_a_round() {
        let mut cursor = 0;
        let round: Vec<_> = (0..6).map(|_| round_robin(&pool(), Family::V4, &mut cursor).unwrap()).collect();
        let names = ["192.0.2.1", "192.0.2.8", "192.0.2.9", "192.0.2.10", "192.0.2.11", "192.0.2.1"];
        assert_eq!(round, names.map(address));
        cursor = u64::MAX;
        assert!(round_robin(&pool(), Family::V4, &mut cursor).is_some());
        assert_eq!(cursor, 0);
    }

    #[test]
    fn ip_hash_is_stable_and_uses_all_addresses() {
        let mut seen = std::collections::HashMap::new();
        for host in 0..5000 {
            let src = v4(0x0a00_0000 + host);
            let to = ip_hash(&pool(), Family::V4, src).unwrap();
            assert_eq!(ip_hash(&pool(), Family::V4, src), Some(to));
            *seen.entry(to).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 5);
        assert!(seen.values().all(|n| (800..1200).contains(n)), "{seen:?}");
        let to = ip_hash(&pool(), Family::V6, address("fd00::1")).unwrap();
        assert!(pool().iter().any(|p| p.contains(crate::packet::address_of(Family::V6, to))));
    }

    #[test]
    fn whole_families_are_pools_too() {
        for (net, family) in [("::/0", Family::V6), ("0.0.0.0/0", Family::V4)] {
            assert!(ip_hash(&[prefix(net), prefix(net)], family, 7).is_some());
            assert!(round_robin(&[prefix(net)], family, &mut 9).is_some());
        }
        assert_eq!(netmap(prefix("::/0"), Family::V6, 77), Some(77));
    }

    #[test]
    fn netmap_keeps_host_bits() {
        let to = netmap(prefix("10.255.0.0/16"), Family::V4, address("10.100.7.126"));
        assert_eq!(to, Some(address("10.255.7.126")));
        let to = netmap(prefix("2001:db8::/64"), Family::V6, address("fd00::1:2:3"));
        assert_eq!(to, Some(address("2001:db8::1:2:3")));
        assert_eq!(netmap(prefix("192.0.2.1/32"), Family::V4, address("10.0.0.9")), Some(address("192.0.2.1")));
        assert_eq!(netmap(prefix("192.0.2.1/32"), Family::V6, 1), None);
    }

    #[test]
    fn no_address_of_the_family_is_none() {
        assert_eq!(ip_hash(&[prefix("10.0.0.0/8")], Family::V6, 1), None);
        assert_eq!(round_robin(&[], Family::V4, &mut 0), None);
    }
}
