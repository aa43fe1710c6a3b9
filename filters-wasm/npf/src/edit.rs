//! Changing bytes of a packet and the checksums that cover them, in one go.

use crate::{
    checksum::Delta,
    packet::{Packet, be16},
};

/// The bytes of a packet that is being changed. What does not fit into the packet is not written.
pub(crate) struct Edit<'a> {
    bytes: &'a mut [u8],
    /// All that was written since this was made or last taken, checksums too.
    all: Delta,
    checksum_is_open: bool,
}

impl<'a> Edit<'a> {
    /// Of the packet, and not of what follows it.
    pub fn new(bytes: &'a mut [u8], packet: &Packet) -> Edit<'a> {
        let len = packet.len.min(bytes.len());
        Edit { bytes: &mut bytes[..len], all: Delta::default(), checksum_is_open: packet.checksum_is_open }
    }

    /// As they are now.
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// Writes `new` and tells what it does to a checksum over it. All that has checksums begins at even places of a
    /// packet, thus the place in the packet tells a byte's half of its word.
    pub fn put(&mut self, at: usize, new: &[u8]) -> Delta {
        let mut delta = Delta::default();
        let Some(old) = self.bytes.get_mut(at..at.saturating_add(new.len())) else { return delta };
        for (i, (old, &new)) in old.iter_mut().zip(new).enumerate() {
            delta.byte((at + i) % 2 == 1, *old, new);
            *old = new;
        }
        self.all.add(delta);
        delta
    }

    /// Brings the checksum at `at` up to date.
    pub fn fix(&mut self, at: usize, delta: Delta) {
        let check = delta.apply(be16(self.bytes, at));
        self.put(at, &check.to_be_bytes());
    }

    /// The same for UDP.
    pub fn fix_udp(&mut self, at: usize, delta: Delta) {
        let check = delta.apply_udp(be16(self.bytes, at));
        self.put(at, &check.to_be_bytes());
    }

    /// Whether the upper protocol's checksum is still open.
    pub fn checksum_is_open(&self) -> bool {
        self.checksum_is_open
    }

    /// Brings an open checksum at `at` up to date.
    pub fn fix_open(&mut self, at: usize, delta: Delta) {
        let sum = delta.apply_open(be16(self.bytes, at));
        self.put(at, &sum.to_be_bytes());
    }

    /// Everything that was written since the last time.
    pub fn take_all(&mut self) -> Delta {
        std::mem::take(&mut self.all)
    }
}
