//! The virtio-net header, by which AF_PACKET and TAP carry checksum and segmentation offload (virtio 1.2, 5.1.6).
//!
//! The kernel takes and gives it in the byte order of the machine.

use crate::uapi::*;
use smpnet_plugin::{Header, PacketData, pkt_flags};

/// `struct virtio_net_hdr`: 10 bytes before each frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHdr {
    /// `VIRTIO_NET_HDR_F_*`.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`.
    pub gso_type: u8,
    /// Bytes of all headers: what each segment repeats.
    pub hdr_len: u16,
    /// Payload bytes of a segment.
    pub gso_size: u16,
    /// Where the open checksum begins, from the start of the frame.
    pub csum_start: u16,
    /// Where it is stored, from `csum_start`.
    pub csum_offset: u16,
}

/// Bytes of [`VnetHdr`].
pub const VNET_HDR_LEN: usize = size_of::<VnetHdr>();

/// Why a frame's virtio-net header cannot be carried over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHeader {
    /// A segmentation type that a packet cannot express (UFO).
    UnknownGso,
    /// The checksum's place lies outside the frame's first cell.
    CsumRange,
}

impl VnetHdr {
    /// The header in the first bytes of `bytes`; none when there are fewer than [`VNET_HDR_LEN`].
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let b: &[u8; VNET_HDR_LEN] = bytes.first_chunk()?;
        let word = |at: usize| u16::from_ne_bytes([b[at], b[at + 1]]);
        Some(VnetHdr {
            flags: b[0],
            gso_type: b[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        })
    }

    /// Its bytes.
    pub fn bytes(&self) -> [u8; VNET_HDR_LEN] {
        let mut b = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        for (at, word) in [(2, self.hdr_len), (4, self.gso_size), (6, self.csum_start), (8, self.csum_offset)] {
            b[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        b
    }

    /// Notes in the packet's header what this says of its frame, whose first byte is `packet.data()[0]`. `shift` bytes
    /// were put into the frame before the network header since the kernel wrote this.
    pub fn apply(&self, packet: &mut PacketData, shift: u16) -> Result<(), BadHeader> {
        let gso = match self.gso_type & !VIRTIO_NET_HDR_GSO_ECN {
            VIRTIO_NET_HDR_GSO_NONE => 0,
            VIRTIO_NET_HDR_GSO_TCPV4 => pkt_flags::GSO_TCP4,
            VIRTIO_NET_HDR_GSO_TCPV6 => pkt_flags::GSO_TCP6,
            VIRTIO_NET_HDR_GSO_UDP_L4 => pkt_flags::GSO_UDP,
            _ => return Err(BadHeader::UnknownGso),
        };
        let mut flags = gso;
        if gso != 0 && self.gso_type & VIRTIO_NET_HDR_GSO_ECN != 0 {
            flags |= pkt_flags::GSO_ECN;
        }
        let (mut start, mut offset) = (0, 0);
        if self.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 {
            let begin = usize::from(self.csum_start) + usize::from(shift);
            if begin + usize::from(self.csum_offset) + 2 > packet.data().len() {
                return Err(BadHeader::CsumRange);
            }
            flags |= pkt_flags::CSUM_PARTIAL;
            (start, offset) = (packet.hdr().data_off() + begin as u16, self.csum_offset);
        } else if self.flags & VIRTIO_NET_HDR_F_DATA_VALID != 0 {
            flags |= pkt_flags::RX_L4_OK;
        }
        let hdr = packet.hdr_mut();
        hdr.flags |= flags;
        hdr.gso_size = if gso != 0 { self.gso_size } else { 0 };
        (hdr.csum_start, hdr.csum_offset) = (start, offset);
        Ok(())
    }

    /// What the kernel has to know of a packet to send. `shift` bytes are put into the frame before its network header on
    /// the way out.
    pub fn of(packet: &PacketData, shift: u16) -> Self {
        let hdr: &Header = packet.hdr();
        let mut out = VnetHdr::default();
        let open = hdr.flags & pkt_flags::CSUM_PARTIAL != 0;
        if open {
            out.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
            out.csum_start = hdr.csum_start.saturating_sub(hdr.data_off()).saturating_add(shift);
            out.csum_offset = hdr.csum_offset;
            out.hdr_len = out.csum_start.saturating_add(out.csum_offset).saturating_add(2);
        }
        let gso = hdr.flags & (pkt_flags::GSO_TCP4 | pkt_flags::GSO_TCP6 | pkt_flags::GSO_UDP);
        if gso != 0 {
            out.gso_type = match gso {
                pkt_flags::GSO_TCP4 => VIRTIO_NET_HDR_GSO_TCPV4,
                pkt_flags::GSO_TCP6 => VIRTIO_NET_HDR_GSO_TCPV6,
                _ => VIRTIO_NET_HDR_GSO_UDP_L4,
            };
            if hdr.flags & pkt_flags::GSO_ECN != 0 {
                out.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
            }
            out.gso_size = hdr.gso_size;
            let l4_off = if open { hdr.csum_start } else { hdr.l4_off };
            let l4_len = match gso {
                pkt_flags::GSO_UDP => 8,
                // TCP's data offset, in the upper half of its 13th byte.
                _ => packet.at(l4_off, 13).map_or(20, |tcp| u16::from(tcp[12] >> 4) * 4),
            };
            out.hdr_len = l4_off.saturating_sub(hdr.data_off()).saturating_add(shift + l4_len);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(len: usize) -> smpnet_plugin::Packet {
        let mut packet = smpnet_plugin::testing::host().alloc().expect("the pool has cells");
        assert!(packet.set_data(&vec![0; len]));
        packet
    }

    #[test]
    fn an_open_checksum_and_segmentation_survive_the_round_trip() {
        for gso_type in [VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_TCPV6] {
            let mut packet = packet(100);
            packet.data_mut()[34 + 12] = 8 << 4;
            let hdr = VnetHdr {
                flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
                gso_type,
                hdr_len: 34 + 32,
                gso_size: 1400,
                csum_start: 34,
                csum_offset: 16,
            };
            hdr.apply(&mut packet, 0).unwrap();
            assert_eq!(VnetHdr::of(&packet, 0), hdr);
            assert_eq!(VnetHdr::read(&hdr.bytes()), Some(hdr));
        }
    }

    #[test]
    fn a_tag_put_into_the_frame_moves_the_checksum() {
        let mut packet = packet(100);
        let hdr = VnetHdr { flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, csum_start: 34, csum_offset: 6, ..VnetHdr::default() };
        hdr.apply(&mut packet, 4).unwrap();
        assert_eq!(packet.hdr().csum_start, packet.hdr().data_off() + 38);
        assert_eq!(VnetHdr::of(&packet, 4).csum_start, 42);
    }

    #[test]
    fn what_the_kernel_could_not_have_meant_is_refused() {
        let mut packet = packet(60);
        let ufo = VnetHdr { gso_type: 3, ..VnetHdr::default() };
        assert_eq!(ufo.apply(&mut packet, 0), Err(BadHeader::UnknownGso));
        let far = VnetHdr {
            flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
            csum_start: 0xffff,
            csum_offset: 0xffff,
            ..VnetHdr::default()
        };
        assert_eq!(far.apply(&mut packet, 4), Err(BadHeader::CsumRange));
        assert_eq!(VnetHdr::read(&[0; 9]), None);
    }
}
