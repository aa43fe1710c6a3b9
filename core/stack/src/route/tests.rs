use super::*;
use crate::types::{IfIndex, Ipv4Net};
use std::collections::BTreeMap;

/// The model: a list of routes, searched for the longest match.
#[derive(Default)]
struct Model(BTreeMap<(u8, u32), NextHop>);

impl Model {
    fn lookup(&self, dst: u32) -> NextHop {
        for len in (0..=32u8).rev() {
            let mask = if len == 0 { 0 } else { u32::MAX << (32 - u32::from(len)) };
            if let Some(h) = self.0.get(&(len, dst & mask)) {
                return *h;
            }
        }
        NextHop::NONE
    }
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }
}

fn out(n: u32) -> IfIndex {
    IfIndex::new(n).unwrap()
}

#[test]
fn random_changes_leave_the_table_equal_to_a_naive_model() {
    for seed in 1..=6u64 {
        let mut rng = Rng(seed * 0x9e37_79b9_7f4a_7c15);
        let mut fib = Fib::new().unwrap();
        let mut model = Model::default();
        for step in 0..4000 {
            // Few distinct prefixes around one /16, so that they nest, collide and are removed often.
            let len = match rng.next() % 10 {
                0 => (rng.next() % 12) as u8,
                1..=4 => 16 + (rng.next() % 9) as u8,
                _ => 24 + (rng.next() % 9) as u8,
            };
            let addr = 0x0a01_0000 | (rng.next() & 0x3ff) | if rng.next().is_multiple_of(8) { 0x8000_0000 } else { 0 };
            let mask = if len == 0 { 0 } else { u32::MAX << (32 - u32::from(len)) };
            let net = Ipv4Net::new(std::net::Ipv4Addr::from_bits(addr & mask), len).unwrap();
            if rng.next() % 5 < 3 {
                let hop = NextHop::gateway(out(1 + rng.next() % 5), rng.next() % 7);
                let new = fib.insert(net, hop).unwrap();
                assert_eq!(new, model.0.insert((len, addr & mask), hop).is_none());
            } else {
                assert_eq!(fib.remove(net), model.0.remove(&(len, addr & mask)).is_some());
            }
            for _ in 0..8 {
                let dst = (addr & !0x3ff) | (rng.next() & 0x3ff);
                assert_eq!(fib.nexthop(fib.lookup(dst)), model.lookup(dst), "seed {seed} step {step} dst {dst:08x}");
            }
            let dst = rng.next();
            assert_eq!(fib.nexthop(fib.lookup(dst)), model.lookup(dst));
        }
        assert_eq!(fib.stats().routes, model.0.len());
        for (len, addr) in model.0.keys() {
            assert!(fib.remove(Ipv4Net::new(std::net::Ipv4Addr::from_bits(*addr), *len).unwrap()));
        }
        assert_eq!(fib.stats(), FibStats::default(), "an empty table holds no group and no next hop");
        for dst in 0x0a01_0000..0x0a01_0400 {
            assert_eq!(fib.lookup(dst), 0);
        }
    }
}

#[test]
fn a_batch_finds_what_single_lookups_find() {
    let mut fib = Fib::new().unwrap();
    let n = |s: &str| s.parse::<Ipv4Net>().unwrap();
    fib.insert(n("0.0.0.0/0"), NextHop::gateway(out(1), 1)).unwrap();
    fib.insert(n("10.0.0.0/8"), NextHop::gateway(out(2), 2)).unwrap();
    fib.insert(n("10.1.1.128/25"), NextHop::connected(out(3))).unwrap();
    let dsts = [0x0a01_0180, 0x0a01_0101, 0x0b00_0000, 0x0aff_ffff];
    let mut ids = [0; 4];
    fib.lookup_batch(&dsts, &mut ids);
    for (d, id) in dsts.iter().zip(ids) {
        assert_eq!(id, fib.lookup(*d));
    }
    assert_eq!(fib.nexthop(ids[0]).ifindex, 3);
    assert_eq!(fib.nexthop(ids[1]).ifindex, 2);
    assert_eq!(fib.nexthop(ids[2]).ifindex, 1);
}

#[test]
fn flows_spread_over_ways_in_proportion_to_their_weights() {
    let mut fib = Fib::new().unwrap();
    let ways =
        [Way { hop: NextHop::gateway(out(1), 1), weight: 1 }, Way { hop: NextHop::gateway(out(2), 2), weight: 3 }];
    let dst: Ipv4Net = "10.0.0.0/8".parse().unwrap();
    fib.insert_ways(dst, &ways).unwrap();
    let id = fib.lookup(0x0a00_0001);
    assert_eq!(fib.nexthop(id).kind, NextHopKind::Multipath);
    let mut count = [0u32; 3];
    for i in 0..256u32 {
        count[fib.resolve(id, i << 24).ifindex as usize] += 1;
    }
    assert_eq!(count, [0, 64, 192]);
    assert!(fib.remove(dst));
    assert_eq!(fib.stats(), FibStats::default());
    assert_eq!(fib.insert_ways(dst, &[]), Err(FibError::Ways));
}

#[test]
fn a_hundred_thousand_routes_are_entered_and_removed_in_any_order() {
    let mut fib = Fib::new().unwrap();
    let mut rng = Rng(7);
    let mut nets: Vec<Ipv4Net> = (0..100_000u32)
        .map(|_| Ipv4Net::new(std::net::Ipv4Addr::from_bits(rng.next()), 8 + (rng.next() % 25) as u8).unwrap().trunc())
        .collect();
    nets.sort_by_key(|n| (n.network(), n.prefix_len()));
    nets.dedup();
    for i in (1..nets.len()).rev() {
        nets.swap(i, rng.next() as usize % (i + 1));
    }
    for (i, n) in nets.iter().enumerate() {
        fib.insert(*n, NextHop::gateway(out(1 + i as u32 % 16), i as u32 % 100)).unwrap();
    }
    assert_eq!(fib.stats().routes, nets.len());
    for n in &nets {
        assert!(fib.remove(*n));
    }
    assert_eq!(fib.stats(), FibStats::default());
}
