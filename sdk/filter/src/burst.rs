//! A burst: packets to read, and what the filter says of them.

use crate::packet::{Layer, Packet};
use smpnet_filter_abi as abi;

/// The packets that are judged in one call, and the answers.
#[derive(Debug)]
pub struct Burst<'a> {
    packets: &'a [abi::Packet],
    windows: &'a [u8],
    /// Address of the first byte of `windows`, in the terms of [`abi::Packet::data`].
    base: u32,
    layer: Layer,
    direction: u32,
    ifindex: u32,
    now_ns: u64,
    generation: u64,
    worker: u32,
    workers: u32,
    verdicts: &'a mut [abi::Verdict],
    counters: &'a mut [u64],
    patches: &'a mut [u8],
    patch_len: &'a mut u32,
}

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Coming in.
    In,
    /// Going out.
    Out,
}

/// A counter of the filter; [`filter!`](crate::filter!) makes them, in the module `counters`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter(usize);

impl Counter {
    #[doc(hidden)]
    pub const fn __at(place: usize) -> Counter {
        Counter(place)
    }
}

/// Which checksums smpnet corrects for an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fix(u8);

impl Fix {
    /// None.
    pub const NOTHING: Fix = Fix(0);
    /// That of the IPv4 header.
    pub const IPV4: Fix = Fix(abi::patch_flags::FIX_IPV4);
    /// That of TCP, UDP or ICMP.
    pub const L4: Fix = Fix(abi::patch_flags::FIX_L4);
    /// Both: what a change of addresses needs.
    pub const BOTH: Fix = Fix(abi::patch_flags::FIX_IPV4 | abi::patch_flags::FIX_L4);
}

/// The bytes to be edited do not lie in the window, or there is no more room for edits in this burst: nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// Sizes of the ABI as those of slices.
const HEAD: usize = size_of::<abi::Patch>();

impl<'a> Burst<'a> {
    /// The first `n` packets of a ring, whose windows begin at the address `base`.
    pub(crate) fn new(ring: &'a mut abi::Ring, windows: &'a [u8], base: u32, n: usize) -> Burst<'a> {
        let n = n.min(abi::BURST_MAX as usize);
        let abi::Ring { layer, direction, ifindex, now_ns, generation, worker, workers, .. } = *ring;
        let layer = match layer {
            abi::layer::INET => Layer::Inet,
            abi::layer::INET6 => Layer::Inet6,
            _ => Layer::Ether,
        };
        Burst {
            packets: &ring.packets[..n],
            windows,
            base,
            layer,
            direction,
            ifindex,
            now_ns,
            generation,
            worker,
            workers,
            verdicts: &mut ring.verdicts[..n],
            counters: &mut ring.counters,
            patches: &mut ring.patches,
            patch_len: &mut ring.patch_len,
        }
    }

    /// How many packets there are, 1 to 64.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// The packets, in the order in which they came. The burst may be told what becomes of them meanwhile.
    pub fn packets(&self) -> Packets<'a> {
        Packets { packets: self.packets, windows: self.windows, base: self.base, layer: self.layer, next: 0 }
    }

    /// The packet at a place.
    pub fn packet(&self, place: usize) -> Option<Packet<'a>> {
        self.packets().nth(place)
    }

    /// What the packets begin with.
    pub fn layer(&self) -> Layer {
        self.layer
    }

    /// Which way they go.
    pub fn direction(&self) -> Direction {
        if self.direction == abi::direction::OUT { Direction::Out } else { Direction::In }
    }

    /// Index of the interface at which the filter is asked.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Nanoseconds since boot, as of the start of the burst.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Generation of the filter: 1 for the first, one more for each swap.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Index of the worker that this instance belongs to.
    pub fn worker(&self) -> u32 {
        self.worker
    }

    /// How many workers, and so instances, there are; at least 1.
    pub fn workers(&self) -> u32 {
        self.workers.max(1)
    }

    /// The packet goes on, whatever was said before.
    pub fn pass(&mut self, packet: Packet<'_>) {
        self.judge(packet, abi::verdict::PASS, 0);
    }

    /// The packet is dropped.
    pub fn drop(&mut self, packet: Packet<'_>) {
        self.judge(packet, abi::verdict::DROP, 0);
    }

    /// The packet is dropped, and its sender is told by ICMP. Needs the capability `reject`.
    pub fn reject(&mut self, packet: Packet<'_>) {
        self.judge(packet, abi::verdict::REJECT, 0);
    }

    /// The packet goes on with another mark. Needs the capability `mark`.
    pub fn mark(&mut self, packet: Packet<'_>, mark: u32) {
        self.judge(packet, abi::verdict::PASS | abi::verdict::MARK, mark);
    }

    fn judge(&mut self, packet: Packet<'_>, verdict: u32, mark: u32) {
        if let Some(to) = self.verdicts.get_mut(packet.place()) {
            *to = abi::Verdict { verdict, mark };
        }
    }

    /// Whether the packet passes as things stand.
    pub fn passes(&self, packet: Packet<'_>) -> bool {
        self.verdicts.get(packet.place()).is_some_and(|v| v.verdict & 0xff == abi::verdict::PASS)
    }

    /// Adds to a counter.
    pub fn count(&mut self, counter: Counter, by: u64) {
        if let Some(c) = self.counters.get_mut(counter.0) {
            *c = c.wrapping_add(by);
        }
    }

    /// Replaces bytes of a packet from `off` on, counted from its first byte. What the filter sees stays as it is; the
    /// packet is changed after the call, if it passes. Needs the capability `edit`.
    ///
    /// # Errors
    /// See [`NoRoom`].
    pub fn edit(&mut self, packet: Packet<'_>, off: usize, bytes: &[u8], fix: Fix) -> Result<(), NoRoom> {
        let inside = off.checked_add(bytes.len()).is_some_and(|end| end <= packet.bytes().len());
        if !inside {
            return Err(NoRoom);
        }
        let (at, size) = (*self.patch_len as usize, HEAD + bytes.len().next_multiple_of(4));
        let room = self.patches.get_mut(at..).and_then(|p| p.get_mut(..size)).ok_or(NoRoom)?;
        let (head, body) = room.split_at_mut(HEAD);
        // What lies inside of a window has a length and an offset of 16 bits.
        let (off, len) = ((off as u16).to_le_bytes(), (bytes.len() as u16).to_le_bytes());
        head.copy_from_slice(&[packet.place, fix.0, off[0], off[1], len[0], len[1], 0, 0]);
        body[..bytes.len()].copy_from_slice(bytes);
        *self.patch_len = (at + size) as u32;
        Ok(())
    }

    /// Sets the time to live or the hop limit of an IPv4 or IPv6 packet.
    ///
    /// # Errors
    /// [`NoRoom`], also when the packet has no such header.
    pub fn set_ttl(&mut self, packet: Packet<'_>, ttl: u8) -> Result<(), NoRoom> {
        let at = packet.ip_offset().ok_or(NoRoom)?;
        let field = if packet.ipv4().is_some() { 8 } else { 7 };
        self.edit(packet, at + field, &[ttl], Fix::IPV4)
    }

    /// Sets the differentiated services code point (0 to 63) of an IPv4 or IPv6 packet; its congestion bits stay.
    ///
    /// # Errors
    /// [`NoRoom`], also when the packet has no such header.
    pub fn set_dscp(&mut self, packet: Packet<'_>, dscp: u8) -> Result<(), NoRoom> {
        let at = packet.ip_offset().ok_or(NoRoom)?;
        if let Some(ip) = packet.ipv4() {
            return self.edit(packet, at + 1, &[dscp << 2 | ip.ecn()], Fix::IPV4);
        }
        let ip = packet.ipv6().ok_or(NoRoom)?;
        let (class, label) = (dscp << 2 | ip.traffic_class() & 3, (ip.flow_label() >> 16) as u8);
        self.edit(packet, at, &[0x60 | class >> 4, class << 4 | label], Fix::NOTHING)
    }
}

/// The packets of a burst, one after the other.
#[derive(Clone, Debug)]
pub struct Packets<'a> {
    packets: &'a [abi::Packet],
    windows: &'a [u8],
    base: u32,
    layer: Layer,
    next: usize,
}

impl<'a> Iterator for Packets<'a> {
    type Item = Packet<'a>;

    #[inline]
    fn next(&mut self) -> Option<Packet<'a>> {
        let info = self.packets.get(self.next)?;
        let place = self.next as u8; // at most 64
        self.next += 1;
        let at = info.data.wrapping_sub(self.base) as usize;
        let bytes = self.windows.get(at..).and_then(|w| w.get(..usize::from(info.cap_len))).unwrap_or(&[]);
        Some(Packet { place, layer: self.layer, info, bytes })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.packets.len() - self.next.min(self.packets.len());
        (left, Some(left))
    }

    fn nth(&mut self, n: usize) -> Option<Packet<'a>> {
        self.next = self.next.saturating_add(n);
        self.next()
    }
}

impl ExactSizeIterator for Packets<'_> {}
