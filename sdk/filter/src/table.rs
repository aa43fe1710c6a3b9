//! Tables that the operator fills and changes while the filter runs.

use crate::{TableKind, host};
use core::net::{Ipv4Addr, Ipv6Addr};
use smpnet_filter_abi as abi;

/// A table of keys that are bytes. [`filter!`](crate::filter!) makes the tables, in the module `tables`.
#[derive(Clone, Copy, Debug)]
pub struct ExactTable(u32);

/// A table of IPv4 prefixes.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4Table(u32);

/// A table of IPv6 prefixes.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6Table(u32);

impl ExactTable {
    /// What the keys of such a table are.
    pub const KIND: TableKind = TableKind::Exact;

    #[doc(hidden)]
    pub const fn __at(place: u32) -> ExactTable {
        ExactTable(place)
    }

    /// Looks up all keys in one call and returns what stands in the table for each, in the order of the keys.
    pub fn look_up<'k, const STRIDE: usize, const N: usize>(
        self,
        keys: &'k mut Keys<STRIDE, N>,
    ) -> impl ExactSizeIterator<Item = Option<u32>> + 'k {
        let Keys { bytes, values, len } = keys;
        let out = &mut values[..*len];
        if !out.is_empty() {
            host::exact(self.0, bytes.as_flattened(), STRIDE, out);
        }
        out.iter().map(|v| (*v != abi::ABSENT).then_some(*v))
    }
}

macro_rules! prefix_table {
    ($table:ident, $kind:expr, $address:ty, $bytes:literal) => {
        impl $table {
            /// What the keys of such a table are.
            pub const KIND: TableKind = $kind;

            #[doc(hidden)]
            pub const fn __at(place: u32) -> $table {
                $table(place)
            }

            /// Looks up all addresses in one call and writes to `out`, for each, the value of the longest prefix that it
            /// lies in. As many as the shorter of both has are looked up.
            pub fn look_up(self, addresses: &[$address], out: &mut [Option<u32>]) {
                // As many at a time as a burst has packets; more is seldom and only slower.
                let mut keys = [[0u8; $bytes]; abi::BURST_MAX as usize];
                let mut values = [0u32; abi::BURST_MAX as usize];
                for (addresses, out) in addresses.chunks(keys.len()).zip(out.chunks_mut(values.len())) {
                    let n = addresses.len().min(out.len());
                    for (key, address) in keys.iter_mut().zip(addresses) {
                        *key = address.octets();
                    }
                    host::prefix(self.0, $kind, keys[..n].as_flattened(), &mut values[..n]);
                    for (to, value) in out.iter_mut().zip(&values[..n]) {
                        *to = (*value != abi::ABSENT).then_some(*value);
                    }
                }
            }
        }
    };
}

prefix_table!(Ipv4Table, TableKind::Ipv4, Ipv4Addr, 4);
prefix_table!(Ipv6Table, TableKind::Ipv6, Ipv6Addr, 16);

/// Keys for one call to an [`ExactTable`]: at most `N`, each of at most `STRIDE - 2` bytes. It is as large as that sounds:
/// keep it in the filter, not on the stack.
#[derive(Clone, Debug)]
pub struct Keys<const STRIDE: usize, const N: usize> {
    bytes: [[u8; STRIDE]; N],
    values: [u32; N],
    len: usize,
}

impl<const STRIDE: usize, const N: usize> Keys<STRIDE, N> {
    /// No keys.
    pub const fn new() -> Keys<STRIDE, N> {
        const { assert!(STRIDE > 2 && STRIDE - 2 <= abi::KEY_MAX as usize, "a key has 1 to 255 bytes, a stride 2 more") };
        Keys { bytes: [[0; STRIDE]; N], values: [abi::ABSENT; N], len: 0 }
    }

    /// Adds a key and returns its place. `None` when it is too long for a key, or when there are `N` keys already.
    pub fn push(&mut self, key: &[u8]) -> Option<usize> {
        let to = self.bytes.get_mut(self.len)?;
        let (len, rest) = to.split_first_chunk_mut::<2>()?;
        rest.get_mut(..key.len())?.copy_from_slice(key);
        *len = (key.len() as u16).to_le_bytes();
        self.len += 1;
        Some(self.len - 1)
    }

    /// How many more keys it takes.
    pub fn room(&self) -> usize {
        N - self.len
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl<const STRIDE: usize, const N: usize> Default for Keys<STRIDE, N> {
    fn default() -> Keys<STRIDE, N> {
        Keys::new()
    }
}
