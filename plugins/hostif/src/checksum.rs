//! Completes transport checksums in software, for packet sockets without a virtio-net header (RFC 1071).

use smpnet_plugin::PacketData;

/// Completes the checksum of the TCP or UDP segment in an Ethernet frame whose checksum field holds the pseudo-header
/// sum, as Linux leaves it with `CHECKSUM_PARTIAL`. False, and nothing is changed, when the frame is no such packet.
pub fn complete(frame: &mut PacketData) -> bool {
    let Some((start, field)) = locate(frame.data()) else { return false };
    let mut sum = Sum::default();
    let mut skip = start;
    for segment in frame.segments() {
        let from = skip.min(segment.len());
        sum.add(&segment[from..]);
        skip -= from;
    }
    let value = match !sum.fold() {
        // All zero means "no checksum" in UDP (RFC 768); both are zero in one's complement.
        0 => 0xffff,
        value => value,
    };
    match frame.data_mut().get_mut(field..field + 2) {
        Some(at) => at.copy_from_slice(&value.to_be_bytes()),
        None => return false,
    }
    true
}

/// Where the transport header and its checksum field stand in a frame.
fn locate(frame: &[u8]) -> Option<(usize, usize)> {
    let word = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    let mut l3 = 14;
    while matches!(word(l3 - 2)?, 0x8100 | 0x88a8) {
        l3 += 4;
    }
    let (protocol, l4) = match word(l3 - 2)? {
        // Not a fragment but the first.
        0x0800 if word(l3 + 6)? & 0x1fff == 0 => (*frame.get(l3 + 9)?, l3 + usize::from(*frame.get(l3)? & 0xf) * 4),
        // The kernel puts no extension header before a segment whose checksum it leaves open.
        0x86dd => (*frame.get(l3 + 6)?, l3 + 40),
        _ => return None,
    };
    match protocol {
        6 => Some((l4, l4 + 16)),
        17 => Some((l4, l4 + 6)),
        _ => None,
    }
}

/// A one's complement sum over pieces of any length.
#[derive(Default)]
struct Sum {
    sum: u64,
    odd: bool,
}

impl Sum {
    fn add(&mut self, mut bytes: &[u8]) {
        if self.odd
            && let [first, rest @ ..] = bytes
        {
            self.sum += u64::from(*first);
            (self.odd, bytes) = (false, rest);
        }
        let (pairs, last) = bytes.as_chunks::<2>();
        self.sum += pairs.iter().map(|p| u64::from(u16::from_be_bytes(*p))).sum::<u64>();
        if let [last] = last {
            self.sum += u64::from(*last) << 8;
            self.odd = true;
        }
    }

    fn fold(&self) -> u16 {
        let mut sum = self.sum;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP datagram to port 53 from 10.0.0.1 to 10.0.0.2 with an odd payload, checksum field as the kernel leaves it.
    fn datagram() -> Vec<u8> {
        let mut f = vec![0; 12];
        f.extend([0x08, 0x00]);
        f.extend([0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        f.extend([0x30, 0x39, 0, 53, 0, 11]);
        let mut pseudo = Sum::default();
        pseudo.add(&[10, 0, 0, 1, 10, 0, 0, 2, 0, 17, 0, 11]);
        f.extend(pseudo.fold().to_be_bytes());
        f.extend(b"abc");
        f
    }

    #[test]
    fn a_completed_datagram_sums_to_all_ones() {
        let mut packet = smpnet_plugin::testing::packet(&datagram());
        assert!(complete(&mut packet));
        let mut sum = Sum::default();
        sum.add(&[10, 0, 0, 1, 10, 0, 0, 2, 0, 17, 0, 11]);
        sum.add(&packet.data()[34..]);
        assert_eq!(sum.fold(), 0xffff);
    }

    #[test]
    fn other_frames_are_left_alone() {
        let mut icmp = datagram();
        icmp[23] = 1;
        let mut fragment = datagram();
        fragment[21] = 1;
        for frame in [icmp, fragment, vec![0; 14], [0x81, 0].repeat(7)] {
            let mut packet = smpnet_plugin::testing::packet(&frame);
            assert!(!complete(&mut packet));
            assert_eq!(packet.data(), frame);
        }
    }

    #[test]
    fn pieces_of_odd_length_sum_as_the_whole() {
        let bytes: Vec<u8> = (0..=200).collect();
        let mut whole = Sum::default();
        whole.add(&bytes);
        let mut pieces = Sum::default();
        for piece in [&bytes[..3], &bytes[3..4], &bytes[4..4], &bytes[4..101], &bytes[101..]] {
            pieces.add(piece);
        }
        assert_eq!(whole.fold(), pieces.fold());
    }
}
