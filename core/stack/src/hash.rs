//! Hashes of flows.
//!
//! Two of them. [`toeplitz`] is the symmetric Toeplitz hash of RSS with the key 0x6d5a repeated: both directions of a flow
//! give the same value, and NICs programmed with that key agree with it. It names the worker that owns a flow.
//! [`FlowKey::hash`] is a cheap seeded mix that spreads flows over a table or over the ways of a route.

/// The symmetric key that NICs are programmed with.
pub const RSS_KEY: [u8; 40] = {
    let mut key = [0; 40];
    let mut i = 0;
    while i < 40 {
        key[i] = 0x6d;
        key[i + 1] = 0x5a;
        i += 2;
    }
    key
};

// With a key of period 16 bits the hash depends on the exclusive or of the input's 16-bit words alone, so two tables of
// 256 entries replace the loop over bits.
static TABLES: [[u32; 256]; 2] = tables();

const fn tables() -> [[u32; 256]; 2] {
    let mut t = [[0u32; 256]; 2];
    let key: u64 = 0x6d5a_6d5a_6d5a_6d5a;
    let mut byte = 0;
    while byte < 2 {
        let mut v = 0;
        while v < 256 {
            let mut h = 0u32;
            let mut bit = 0;
            while bit < 8 {
                if v & (0x80 >> bit) != 0 {
                    h ^= (key << (byte * 8 + bit) >> 32) as u32;
                }
                bit += 1;
            }
            t[byte][v] = h;
            v += 1;
        }
        byte += 1;
    }
    t
}

/// Symmetric Toeplitz hash of addresses (host byte order) and ports (`src << 16 | dst`; 0 hashes the addresses alone).
#[inline]
pub fn toeplitz(src: u32, dst: u32, ports: u32) -> u32 {
    let x = src ^ dst ^ ports;
    let x = (x >> 16) ^ (x & 0xffff);
    TABLES[0][(x >> 8) as usize] ^ TABLES[1][(x & 0xff) as usize]
}

/// What tells flows apart: addresses, protocol and ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowKey {
    /// Source in the low, destination in the high half.
    pub addrs: u64,
    /// Ports in the low half (0 when there are none), protocol above them.
    pub rest: u64,
}

impl FlowKey {
    /// A key; `ports` is `src << 16 | dst`.
    #[inline(always)]
    pub fn new(src: u32, dst: u32, proto: u8, ports: u32) -> Self {
        FlowKey { addrs: u64::from(dst) << 32 | u64::from(src), rest: u64::from(proto) << 32 | u64::from(ports) }
    }

    /// A 32-bit hash that an outsider who does not know `seed` cannot steer.
    #[inline(always)]
    pub fn hash(self, seed: u64) -> u32 {
        // Two folded 64x64 multiplications (the core of wyhash): 128 bits of key, about 8 cycles.
        let a = u128::from(self.addrs ^ seed) * u128::from(self.rest ^ 0xa076_1d64_78bd_642f ^ seed.rotate_left(32));
        let a = a as u64 ^ (a >> 64) as u64;
        let b = u128::from(a ^ 0xe703_7ed1_a0b4_28db) * u128::from(0x8ebc_6af0_9c88_c6e3 ^ self.addrs);
        let b = b as u64 ^ (b >> 64) as u64;
        b as u32 ^ (b >> 32) as u32
    }
}

/// Entropy for seeds and timers: not for secrets.
pub fn entropy() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(input: &[u8]) -> u32 {
        let bit = |b: &[u8], i: usize| b[i / 8] >> (7 - i % 8) & 1;
        let mut h = 0u32;
        for i in 0..input.len() * 8 {
            if bit(input, i) == 1 {
                let mut w = 0u32;
                for j in 0..32 {
                    w = w << 1 | u32::from(bit(&RSS_KEY, i + j));
                }
                h ^= w;
            }
        }
        h
    }

    #[test]
    fn the_tables_agree_with_the_definition_of_toeplitz() {
        let mut x = 12345u64;
        for _ in 0..200 {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (src, dst) = ((x >> 32) as u32, x as u32);
            let ports = (x >> 17) as u32;
            let mut input = [0; 12];
            input[..4].copy_from_slice(&src.to_be_bytes());
            input[4..8].copy_from_slice(&dst.to_be_bytes());
            input[8..].copy_from_slice(&ports.to_be_bytes());
            assert_eq!(toeplitz(src, dst, ports), reference(&input));
            assert_eq!(toeplitz(src, dst, 0), reference(&input[..8]));
            assert_eq!(toeplitz(src, dst, ports), toeplitz(dst, src, ports.rotate_left(16)));
        }
    }

    #[test]
    fn neighbouring_flows_spread_over_a_small_table() {
        let mut used = [0u32; 256];
        for i in 0..4096u32 {
            let h = FlowKey::new(0x0a00_0001 + (i >> 6), 0x0a00_0201, 17, 1000 << 16 | (i & 63)).hash(42);
            used[(h & 255) as usize] += 1;
        }
        assert!(used.iter().all(|n| (2..48).contains(n)), "{used:?}");
    }
}
