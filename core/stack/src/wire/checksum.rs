//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// A running one's-complement sum over pieces of any length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    acc: u64,
    odd: bool,
}

impl Sum {
    /// An empty sum.
    pub const fn new() -> Self {
        Sum { acc: 0, odd: false }
    }

    /// Adds bytes as they follow what was added before.
    #[allow(clippy::should_implement_trait)] // a step of a chain, like `word` and `pseudo`
    pub fn add(mut self, mut b: &[u8]) -> Self {
        if self.odd
            && let Some((first, rest)) = b.split_first()
        {
            self.acc += u64::from(*first);
            self.odd = false;
            b = rest;
        }
        // In the machine's own byte order, up to a swap of the result (RFC 1071, section 2 B): 1,480 bytes take half the time
        // that they take with a swap of each word.
        let mut acc = 0u64;
        let mut words = b.chunks_exact(4);
        for w in &mut words {
            acc += u64::from(u32::from_ne_bytes([w[0], w[1], w[2], w[3]]));
        }
        let rest = words.remainder();
        if rest.len() >= 2 {
            acc += u64::from(u16::from_ne_bytes([rest[0], rest[1]]));
        }
        if rest.len() % 2 == 1 {
            acc += u64::from(u16::from_ne_bytes([rest[rest.len() - 1], 0]));
            self.odd = true;
        }
        self.acc += u64::from(u16::from_be(fold(acc)));
        self
    }

    /// Adds a 16-bit word; only between pieces of even length.
    pub fn word(mut self, w: u16) -> Self {
        self.acc += u64::from(w);
        self
    }

    /// Adds the pseudo-header of TCP and UDP over IPv4.
    pub fn pseudo(mut self, src: u32, dst: u32, proto: u8, len: u32) -> Self {
        self.acc += u64::from(src) + u64::from(dst) + u64::from(proto) + u64::from(len);
        self
    }

    /// The sum folded to 16 bits, not complemented (what a CSUM_PARTIAL field holds).
    pub fn fold(self) -> u16 {
        fold(self.acc)
    }

    /// The checksum: the complement of the sum.
    pub fn finish(self) -> u16 {
        !self.fold()
    }
}

/// A sum of words as one of 16 bits.
fn fold(mut s: u64) -> u16 {
    s = (s >> 32) + (s & 0xffff_ffff);
    s = (s >> 16) + (s & 0xffff);
    s = (s >> 16) + (s & 0xffff);
    s = (s >> 16) + (s & 0xffff);
    s as u16
}

/// Checksum of a run of bytes. Over a header that holds its own checksum the result is 0 when it is right.
pub fn checksum(b: &[u8]) -> u16 {
    Sum::new().add(b).finish()
}

/// The checksum after one 16-bit word of the covered bytes changed (RFC 1624, equation 3).
#[inline(always)]
pub fn update(sum: u16, old: u16, new: u16) -> u16 {
    let s = u32::from(!sum) + u32::from(!old) + u32::from(new);
    let s = (s >> 16) + (s & 0xffff);
    let s = (s >> 16) + (s & 0xffff);
    !(s as u16)
}

/// Whether the 20 bytes of an IPv4 header without options sum to all ones.
#[inline(always)]
pub fn header20_ok(h: &[u8; 20]) -> bool {
    // The sum is the same in either byte order, up to a swap, and all ones is its own swap (RFC 1071, section 2 B); it may be
    // taken in words of any width (section 2 C). A sum folds to all ones when 0xffff divides it and it is not zero, which
    // takes a multiplication where folding takes a chain of carries.
    let (words, _) = h.as_chunks::<4>();
    let sum: u64 = words.iter().map(|w| u64::from(u32::from_ne_bytes(*w))).sum();
    // Multiples of an odd number times its inverse are the small numbers (Granlund and Montgomery: Division by Invariant
    // Integers using Multiplication, 1994, section 9). Less one of them, so that zero is none.
    const INVERSE: u64 = 0x0001_0001_0001_0001u64.wrapping_neg();
    sum.wrapping_sub(0xffff).wrapping_mul(INVERSE) <= u64::MAX / 0xffff
}

/// The checksum of an IPv4 header after its time to live went down by one: [`update`] for the only change that a router
/// makes, of which the old and the new value need not be known.
#[inline(always)]
pub fn less_one_ttl(sum: u16) -> u16 {
    // The complement of the old word and the new one add up to 0xffff less 0x100.
    let s = u32::from(!sum) + 0xfeff;
    !((s >> 16) + (s & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_sums_to_ddf2() {
        let b = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::new().add(&b).fold(), 0xddf2);
    }

    #[test]
    fn pieces_of_odd_length_sum_like_the_whole() {
        let b: Vec<u8> = (0..97u8).map(|i| i.wrapping_mul(37)).collect();
        let whole = checksum(&b);
        for cut in 0..b.len() {
            for cut2 in cut..b.len() {
                let s = Sum::new().add(&b[..cut]).add(&b[cut..cut2]).add(&b[cut2..]);
                assert_eq!(s.finish(), whole, "cut at {cut} and {cut2}");
            }
        }
    }

    #[test]
    fn the_example_of_rfc_1624_updates_to_zero() {
        // RFC 1624, section 4: the header sums to 0x5555 and a word changes from 0x5555 to 0x3285.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn an_update_equals_a_fresh_sum() {
        let mut h = [0x45, 0, 0, 0x54, 0, 0, 0x40, 0, 0x40, 1, 0, 0, 10, 0, 1, 2, 10, 0, 2, 2];
        let c = checksum(&h);
        h[10..12].copy_from_slice(&c.to_be_bytes());
        assert!(header20_ok(&h));
        for ttl in (1..=255u8).rev() {
            let old = u16::from_be_bytes([h[8], h[9]]);
            h[8] = ttl;
            let new = u16::from_be_bytes([h[8], h[9]]);
            let sum = u16::from_be_bytes([h[10], h[11]]);
            let c = update(sum, old, new);
            if new == old.wrapping_sub(0x100) {
                assert_eq!(less_one_ttl(sum), c);
            }
            h[10..12].copy_from_slice(&c.to_be_bytes());
            assert!(header20_ok(&h), "ttl {ttl}");
            assert_eq!(checksum(&h), 0);
        }
        h[3] ^= 1;
        assert!(!header20_ok(&h));
        assert!(!header20_ok(&[0; 20]), "nothing sums to all ones");
        assert!((0..=u16::MAX).all(|sum| less_one_ttl(sum) == update(sum, 0x4006, 0x3f06)));
    }

    #[test]
    fn a_header_is_right_when_its_sum_is_all_ones() {
        let mut random = 1u64;
        for round in 0..20_000 {
            let mut h = [0u8; 20];
            for b in &mut h {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // All ones in a row make carries.
                *b = if random >> 60 < 6 { 0xff } else { (random >> 33) as u8 };
            }
            if round % 2 == 0 {
                h[10..12].fill(0);
                let sum = checksum(&h);
                h[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            assert_eq!(header20_ok(&h), Sum::new().add(&h).fold() == 0xffff, "{h:02x?}");
        }
    }
}
