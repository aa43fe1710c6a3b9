//! State from one generation to the next, as records of one size.

/// Puts the parts of a state together to records of `N` bytes: the parts may end anywhere, the records come whole.
///
/// ```
/// let mut records = smpnet_filter::Records::<3>::new();
/// let mut seen = Vec::new();
/// records.feed(&[1, 2], |r| seen.push(*r));
/// records.feed(&[3, 4, 5, 6, 7], |r| seen.push(*r));
/// assert_eq!((seen, records.rest()), (vec![[1, 2, 3], [4, 5, 6]], 1));
/// ```
#[derive(Clone, Debug)]
pub struct Records<const N: usize> {
    partial: [u8; N],
    len: usize,
}

impl<const N: usize> Records<N> {
    /// Nothing yet.
    pub const fn new() -> Records<N> {
        const { assert!(N > 0, "a record has a byte at least") };
        Records { partial: [0; N], len: 0 }
    }

    /// Takes the next part, and calls `take` with each record that it completes.
    pub fn feed(&mut self, mut bytes: &[u8], mut take: impl FnMut(&[u8; N])) {
        while !bytes.is_empty() {
            let n = bytes.len().min(N - self.len);
            let (now, later) = bytes.split_at(n);
            self.partial[self.len..self.len + n].copy_from_slice(now);
            self.len += n;
            bytes = later;
            if self.len == N {
                self.len = 0;
                take(&self.partial);
            }
        }
    }

    /// Bytes of a record that was begun.
    pub fn rest(&self) -> usize {
        self.len
    }
}

impl<const N: usize> Default for Records<N> {
    fn default() -> Records<N> {
        Records::new()
    }
}
