//! Frames into packets: copying, chaining, tags.

use smpnet_plugin::{BURST_MAX, Burst, MacAddr, Packet, PacketData, Worker, pkt_flags};

/// TPID of an 802.1Q tag.
pub const TPID_8021Q: u16 = 0x8100;

/// Cells that a receive queue keeps at hand, so that it asks the pool once per burst.
#[derive(Default)]
pub struct Stash(Burst);

impl Stash {
    /// Makes sure of `n` cells, at most 64; false when the pool has not that many.
    #[inline]
    pub fn want(&mut self, cx: &mut Worker<'_>, n: usize) -> bool {
        if self.0.len() < n {
            let room = self.0.room();
            cx.alloc_burst(room, &mut self.0);
        }
        self.0.len() >= n
    }

    /// The cells, to be received into.
    pub fn as_mut_slice(&mut self) -> &mut [Packet] {
        self.0.as_mut_slice()
    }

    /// One cell.
    pub fn take(&mut self) -> Option<Packet> {
        self.0.pop_front()
    }

    /// Makes one packet out of the first `n` cells, whose lengths are set.
    pub fn chain(&mut self, n: usize) -> Option<Packet> {
        let mut cells = [const { None }; BURST_MAX];
        for cell in cells.iter_mut().take(n) {
            *cell = Some(self.0.pop_front()?);
        }
        let mut chain: Option<Packet> = None;
        // From the end, so that each step appends to a single cell.
        for mut cell in cells.into_iter().flatten().rev() {
            if let Some(tail) = chain.take() {
                // At most 64 cells, so it fits.
                cell.append_cell(tail).ok()?;
            }
            chain = Some(cell);
        }
        chain
    }
}

/// Cells that a frame of `len` bytes takes, `room` bytes each.
#[inline]
pub fn cells_for(len: usize, room: usize) -> usize {
    len.div_ceil(room).max(1)
}

/// Copies `frame` into the first cells of the stash (of which it has enough), with `tag` put in behind the addresses.
pub fn copy_in(stash: &mut Stash, frame: &[u8], tag: Option<(u16, u16)>) -> Option<Packet> {
    let mut head = [0; 16];
    let (head, rest) = match tag {
        Some((tpid, tci)) if frame.len() >= 12 => {
            head[..12].copy_from_slice(&frame[..12]);
            head[12..14].copy_from_slice(&tpid.to_be_bytes());
            head[14..].copy_from_slice(&tci.to_be_bytes());
            (&head[..], &frame[12..])
        }
        _ => (&[][..], frame),
    };
    let first = stash.as_mut_slice().first_mut()?;
    let buffer = first.buffer_mut();
    let fits = rest.len().min(buffer.len().checked_sub(head.len())?);
    buffer[..head.len()].copy_from_slice(head);
    buffer[head.len()..head.len() + fits].copy_from_slice(&rest[..fits]);
    first.set_len(head.len() + fits);
    let mut left = &rest[fits..];
    if left.is_empty() {
        return stash.take();
    }
    let mut used = 1;
    while !left.is_empty() {
        let cell = stash.as_mut_slice().get_mut(used)?;
        let buffer = cell.buffer_mut();
        let n = left.len().min(buffer.len());
        buffer[..n].copy_from_slice(&left[..n]);
        cell.set_len(n);
        left = &left[n..];
        used += 1;
    }
    stash.chain(used)
}

/// Flags for a frame's destination address.
#[inline]
pub fn destination_flags(frame: &PacketData) -> u32 {
    match frame.data().first_chunk::<6>() {
        Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => pkt_flags::BCAST,
        Some(mac) if mac[0] & 1 != 0 => pkt_flags::MCAST,
        _ => 0,
    }
}

/// A locally administered unicast address made of `seed` (FNV-1a), the same for the same seed.
pub fn local_mac(seed: &str) -> MacAddr {
    let hash = seed.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let b = hash.to_be_bytes();
    MacAddr { bytes: [b[0] & 0xfc | 0x02, b[1], b[2], b[3], b[4], b[5]] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smpnet_plugin::testing;

    fn bytes(packet: &Packet) -> Vec<u8> {
        packet.segments().flatten().copied().collect()
    }

    /// Bytes of data that a fresh cell takes.
    fn room() -> usize {
        let pool = testing::host().pool();
        (pool.cell_size - pool.data_off) as usize
    }

    #[test]
    fn a_large_frame_becomes_a_chain_with_the_same_bytes() {
        let mut cx = testing::worker(0);
        let frame: Vec<u8> = (0..64_000u32).map(|i| (i % 251) as u8).collect();
        let mut stash = Stash::default();
        assert!(stash.want(&mut cx, 64));
        let packet = copy_in(&mut stash, &frame, None).unwrap();
        assert_eq!(packet.len(), frame.len());
        assert_eq!(usize::from(packet.hdr().nsegs()), cells_for(64_000, room()));
        assert_eq!(bytes(&packet), frame);
        drop((packet, stash));
        assert_eq!(testing::outstanding(), 0);
    }

    #[test]
    fn a_tag_goes_behind_the_addresses() {
        let mut cx = testing::worker(0);
        for len in [60, room() - 2, 3000] {
            let frame: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut stash = Stash::default();
            assert!(stash.want(&mut cx, 4));
            let packet = copy_in(&mut stash, &frame, Some((0x88a8, 0x2064))).unwrap();
            let mut want = frame[..12].to_vec();
            want.extend([0x88, 0xa8, 0x20, 0x64]);
            want.extend(&frame[12..]);
            assert_eq!(bytes(&packet), want, "{len} bytes");
        }
        assert_eq!(testing::outstanding(), 0);
    }

    #[test]
    fn a_made_up_address_is_local_unicast_and_stable() {
        let mac = local_mac("tap0");
        assert_eq!(mac, local_mac("tap0"));
        assert_ne!(mac, local_mac("tap1"));
        assert_eq!(mac.bytes[0] & 3, 2);
    }
}
