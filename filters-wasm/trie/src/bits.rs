//! Numbers as strings of bits.

/// A number whose bits, the most significant one first, are a key: an address.
pub trait Bits: Copy + Ord {
    /// How many bits it has: a multiple of 4, 128 at most.
    const WIDTH: u8;

    /// The number with all bits behind the first `len` cleared. `len` is [`Self::WIDTH`] at most.
    fn masked(self, len: u8) -> Self;

    /// The four bits, 0 to 15, behind the first `4 * level`; 0 beyond the end.
    fn nibble(self, level: u8) -> usize;

    /// How many bits both start with.
    fn shared(self, other: Self) -> u8;

    /// The number with `count` bits behind the first `len`, which are 0 in it, being `bits`.
    fn extended(self, len: u8, count: u8, bits: usize) -> Self;
}

macro_rules! bits {
    ($($number:ty),*) => {$(
        impl Bits for $number {
            const WIDTH: u8 = <$number>::BITS as u8;

            #[inline]
            fn masked(self, len: u8) -> Self {
                self & <$number>::MAX.checked_shl(u32::from(Self::WIDTH - len)).unwrap_or(0)
            }

            #[inline]
            fn nibble(self, level: u8) -> usize {
                let shift = u32::from(Self::WIDTH).checked_sub(4 * u32::from(level) + 4);
                shift.map_or(0, |shift| (self >> shift) as usize & 15)
            }

            #[inline]
            fn shared(self, other: Self) -> u8 {
                (self ^ other).leading_zeros() as u8
            }

            #[inline]
            fn extended(self, len: u8, count: u8, bits: usize) -> Self {
                self | (bits as $number).checked_shl(u32::from(Self::WIDTH - len - count)).unwrap_or(0)
            }
        }
    )*};
}

bits!(u32, u64, u128);
