//! The arrays of a plan.

/// All tables of a plan: words of 32 bits and words of 64, which other parts name by their places.
///
/// Written out in little-endian order, these are the data segments of the module that a plan is compiled to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    narrow: Vec<u32>,
    wide: Vec<u64>,
}

impl Image {
    /// The words of 32 bits.
    pub fn narrow_words(&self) -> &[u32] {
        &self.narrow
    }

    /// The words of 64 bits.
    pub fn wide_words(&self) -> &[u64] {
        &self.wide
    }

    /// All words as bytes: those of 64 bits from the first byte on, those of 32 bits from [`Image::narrow_at`] on.
    pub fn little_endian(&self) -> Vec<u8> {
        let wide = self.wide.iter().flat_map(|w| w.to_le_bytes());
        wide.chain(self.narrow.iter().flat_map(|n| n.to_le_bytes())).collect()
    }

    /// The byte of [`Image::little_endian`] at which the words of 32 bits begin.
    pub fn narrow_at(&self) -> usize {
        self.wide.len() * 8
    }

    /// Appends words of 32 bits; returns where.
    pub(super) fn narrow(&mut self, words: &[u32]) -> u32 {
        let at = self.narrow.len() as u32;
        self.narrow.extend_from_slice(words);
        at
    }

    /// Appends words of 64 bits; returns where.
    pub(super) fn wide(&mut self, words: &[u64]) -> u32 {
        let at = self.wide.len() as u32;
        self.wide.extend_from_slice(words);
        at
    }

    /// Fills up with zeros to a multiple of so many words of 64 bits.
    pub(super) fn align_wide(&mut self, words: usize) {
        self.wide.resize(self.wide.len().next_multiple_of(words), 0);
    }

    /// A word of 32 bits; 0 where there is none, which no plan asks for.
    #[inline]
    pub(crate) fn n(&self, at: u32, offset: u32) -> u32 {
        self.narrow.get(at as usize + offset as usize).copied().unwrap_or(0)
    }

    /// A word of 64 bits.
    #[inline]
    pub(super) fn w(&self, at: u32, offset: u32) -> u64 {
        self.wide.get(at as usize + offset as usize).copied().unwrap_or(0)
    }

    /// Memory for what was appended beyond need is given back.
    pub(super) fn shrink(&mut self) {
        self.narrow.shrink_to_fit();
        self.wide.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_where_the_bytes_say() {
        let mut image = Image::default();
        assert_eq!((image.wide(&[1]), image.narrow(&[7, 8]), image.narrow(&[0x0a0b_0c0d])), (0, 0, 2));
        image.align_wide(8);
        assert_eq!(image.wide(&[0x0102_0304_0506_0708]), 8);
        assert_eq!((image.w(8, 0), image.n(1, 1), image.n(2, 9)), (0x0102_0304_0506_0708, 0x0a0b_0c0d, 0));
        let bytes = image.little_endian();
        assert_eq!((bytes.len(), image.narrow_at(), bytes[64], bytes[72 + 8]), (9 * 8 + 3 * 4, 72, 8, 0x0d));
    }
}
