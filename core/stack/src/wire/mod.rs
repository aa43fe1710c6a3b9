//! Headers as they stand on the wire: one file each, with a checked view or plain representation, emission, and tests on
//! literal bytes.
//!
//! Panics: a view made by `parse` never panics, because `parse` checked the length. `emit` panics when the buffer is
//! shorter than the header, which is a fault of the caller and never of the bytes.

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod tcp;
pub mod udp;

/// Big-endian u16 at `o`; `o + 2` is within `b`.
#[inline(always)]
pub fn be16(b: &[u8], o: usize) -> u16 {
    u16::from_be_bytes([b[o], b[o + 1]])
}

/// Big-endian u32 at `o`; `o + 4` is within `b`.
#[inline(always)]
pub fn be32(b: &[u8], o: usize) -> u32 {
    u32::from_be_bytes([b[o], b[o + 1], b[o + 2], b[o + 3]])
}

/// Writes a big-endian u16 at `o`.
#[inline(always)]
pub fn put16(b: &mut [u8], o: usize, v: u16) {
    b[o..o + 2].copy_from_slice(&v.to_be_bytes());
}

/// Writes a big-endian u32 at `o`.
#[inline(always)]
pub fn put32(b: &mut [u8], o: usize, v: u32) {
    b[o..o + 4].copy_from_slice(&v.to_be_bytes());
}
