//! Both maps against plain ones, through changes of any kind, and versions that stay what they were.

use crate::{Bits, ExactMap, PrefixMap};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    hash::{BuildHasherDefault, Hasher},
};

/// A hasher that many keys share hashes of, wholly or in their first bits.
#[derive(Clone, Default)]
struct Poor(u64);

impl Hasher for Poor {
    fn finish(&self) -> u64 {
        (self.0 % 7) | ((self.0 % 3) << 62)
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(*b)));
    }
}

type Prefixes<A> = BTreeMap<(A, u8), u32>;

fn content<A: Bits>(map: &PrefixMap<A, u32>) -> Vec<((A, u8), u32)> {
    let mut all = Vec::new();
    map.for_each(|address, len, value| all.push(((address, len), *value)));
    all
}

/// What every version of a map of prefixes has to say, given what is in it.
fn is_what<A: Bits + Debug>(map: &PrefixMap<A, u32>, model: &Prefixes<A>, asked: &[A]) {
    assert_eq!(content(map), model.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>());
    assert_eq!(map.len(), model.len());
    assert_eq!(map.first().map(|(a, l, v)| ((a, l), *v)), model.first_key_value().map(|(k, v)| (*k, *v)));
    for address in asked {
        let longest =
            (0..=A::WIDTH).rev().find_map(|len| model.get(&(address.masked(len), len)).map(|value| (len, value)));
        assert_eq!(map.longest(*address), longest, "{address:?}");
    }
    for ((address, len), value) in model {
        assert_eq!(map.get(*address, *len), Some(value));
    }
}

/// Changes one by one, keeps a version now and then, and looks at all of them in the end.
fn changes_of_prefixes<A: Bits + Debug>(steps: &[(bool, A, u8)], asked: &[A]) {
    let mut versions = Vec::new();
    // The first half of what is added is there from the beginning.
    let (early, steps) = steps.split_at(steps.len() / 2);
    let early =
        early.iter().filter(|(adds, ..)| *adds).enumerate().map(|(i, (_, address, len))| (*address, *len, i as u32));
    let mut model: Prefixes<A> =
        early.clone().map(|(address, len, value)| ((address.masked(len), len), value)).collect();
    let mut map: PrefixMap<A, u32> = early.collect();
    for (i, (adds, address, len)) in steps.iter().enumerate() {
        let key = (address.masked(*len), *len);
        if *adds {
            assert_eq!(map.insert(*address, *len, i as u32), model.insert(key, i as u32));
        } else {
            assert_eq!(map.remove(*address, *len), model.remove(&key));
        }
        if i % 16 == 0 {
            versions.push((map.clone(), model.clone()));
        }
    }
    versions.push((map, model));
    versions.iter().for_each(|(map, model)| is_what(map, model, asked));
    // Emptied again, nothing is left.
    if let Some((map, model)) = versions.last_mut() {
        std::mem::take(model).into_keys().for_each(|(address, len)| assert!(map.remove(address, len).is_some()));
        is_what(map, model, asked);
    }
    versions.pop();
    versions.iter().for_each(|(map, model)| is_what(map, model, asked));
}

/// Few different bytes, so that prefixes lie inside of each other.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![3 => Just(0u8), 2 => Just(0x10), 1 => Just(0x1f), 1 => Just(0xff), 1 => any::<u8>()]
}

fn small() -> impl Strategy<Value = u32> {
    [byte(), byte(), byte(), byte()].prop_map(u32::from_be_bytes)
}

fn large() -> impl Strategy<Value = u128> {
    [small(), small(), small(), small()].prop_map(|w| w.iter().fold(0, |number, word| number << 32 | u128::from(*word)))
}

proptest! {
    #[test]
    fn the_longest_prefix_of_32_bits_wins_in_every_version(
        steps in prop::collection::vec((prop::bool::weighted(0.7), small(), 0..=32u8), 0..400),
        asked in prop::collection::vec(small(), 30),
    ) {
        changes_of_prefixes(&steps, &asked);
    }

    #[test]
    fn the_longest_prefix_of_128_bits_wins_in_every_version(
        steps in prop::collection::vec((prop::bool::weighted(0.7), large(), 0..=128u8), 0..400),
        asked in prop::collection::vec(large(), 30),
    ) {
        changes_of_prefixes(&steps, &asked);
    }

    #[test]
    fn whole_numbers_stay_in_order(steps in prop::collection::vec((prop::bool::weighted(0.6), 0..5_000u64), 0..400)) {
        let steps: Vec<_> = steps.into_iter().map(|(adds, number)| (adds, number, 64)).collect();
        changes_of_prefixes(&steps, &[0, 1, 77, 4_999]);
    }

    #[test]
    fn an_exact_map_says_what_a_plain_one_says_in_every_version(
        steps in prop::collection::vec((prop::bool::weighted(0.7), 0..300u16), 0..600),
    ) {
        let mut map: ExactMap<u16, usize, BuildHasherDefault<Poor>> = ExactMap::default();
        let mut model = HashMap::new();
        let mut versions = Vec::new();
        for (i, (adds, key)) in steps.iter().enumerate() {
            if *adds {
                prop_assert_eq!(map.insert(*key, i), model.insert(*key, i));
            } else {
                prop_assert_eq!(map.remove(key), model.remove(key));
            }
            if i % 16 == 0 {
                versions.push((map.clone(), model.clone()));
            }
        }
        for (mut map, model) in versions {
            prop_assert_eq!(map.len(), model.len());
            (0..300).for_each(|key| assert_eq!(map.get(&key), model.get(&key)));
            let mut walked = 0;
            map.for_each(|key, value| {
                assert_eq!(model.get(key), Some(value));
                walked += 1;
            });
            prop_assert_eq!(walked, model.len());
            model.keys().for_each(|key| assert!(map.remove(key).is_some()));
            prop_assert!(map.is_empty());
        }
    }
}

#[test]
fn a_length_beyond_the_address_is_cut_and_bits_behind_it_mean_nothing() {
    let mut map = PrefixMap::default();
    assert_eq!(map.insert(0x0a0b_0c0d_u32, 200, 1), None);
    assert_eq!(map.insert(0x0aff_ffff, 8, 2), None);
    assert_eq!((map.get(0x0a0b_0c0d, 32), map.get(0x0a00_0000, 8)), (Some(&1), Some(&2)));
    assert_eq!(map.remove(0x0a12_3456, 8), Some(2));
    map.clear();
    assert!(map.is_empty() && map.longest(0x0a0b_0c0d).is_none());
}

#[test]
fn keys_that_are_looked_up_need_not_be_made() {
    let mut map: ExactMap<std::sync::Arc<[u8]>, u32> = ExactMap::default();
    map.insert(b"one"[..].into(), 1);
    assert_eq!((map.get(&b"one"[..]), map.get(&b"two"[..])), (Some(&1), None));
    assert_eq!(map.remove(&b"one"[..]), Some(1));
}
