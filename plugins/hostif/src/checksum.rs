//! Transport checksums in software, where the kernel leaves them open and does not say so or does not take them back
//! (RFC 1071).

use smpnet_plugin::PacketData;

/// Completes the checksum of the TCP or UDP segment in an Ethernet frame whose checksum field holds the pseudo-header
/// sum, as Linux leaves it with `CHECKSUM_PARTIAL`. False, and nothing is changed, when the frame is no such packet.
pub fn complete(frame: &mut PacketData) -> bool {
    match Segment::of(frame.data()) {
        Some(segment) => complete_at(frame, segment.start, segment.offset()),
        None => false,
    }
}

/// Completes the checksum whose sum begins at `start`, and which stands `offset` bytes behind that, where now is what goes
/// into it beforehand. False, and nothing is changed, when that is not in the first cell.
pub fn complete_at(frame: &mut PacketData, start: usize, offset: usize) -> bool {
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
    match frame.data_mut().get_mut(start + offset..start + offset + 2) {
        Some(at) => at.copy_from_slice(&value.to_be_bytes()),
        None => return false,
    }
    true
}

/// Whether the TCP or UDP checksum of a frame is still open, as a sender on this machine leaves it, when nobody says so:
/// the field holds the sum of the pseudo header. Where its sum begins, and where it stands from there.
///
/// A closed checksum looks so once in 65,536 frames. That does no harm: completing it gives the same value again, since
/// segment and pseudo header sum to all ones. Only a damaged frame among those would be taken for good, so this is for
/// links inside of a machine, where nothing is damaged.
#[inline]
pub fn open(frame: &PacketData) -> Option<(u16, u16)> {
    let bytes = frame.data();
    let segment = Segment::of(bytes)?;
    let (addresses, end) = match segment.v6 {
        true => (8..40, segment.start + usize::from(word(bytes, segment.l3 + 4)?)),
        // A fragment has the checksum of the whole datagram, which is closed before it is cut.
        false if bytes.get(segment.l3 + 6)? & 0x20 != 0 => return None,
        false => (12..20, segment.l3 + usize::from(word(bytes, segment.l3 + 2)?)),
    };
    // What an Ethernet pads would be summed as well.
    if end != frame.len() {
        return None;
    }
    let mut sum = Sum::default();
    sum.add(bytes.get(segment.l3 + addresses.start..segment.l3 + addresses.end)?);
    sum.add(&[0, segment.protocol]);
    sum.add(&((end.checked_sub(segment.start)?) as u16).to_be_bytes());
    let stored = word(bytes, segment.start + segment.offset())?;
    (sum.fold() == stored).then_some((segment.start as u16, segment.offset() as u16))
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?))
}

/// A TCP segment or UDP datagram in a frame.
struct Segment {
    /// Network header.
    l3: usize,
    /// Transport header.
    start: usize,
    /// Whether the network is IPv6.
    v6: bool,
    protocol: u8,
}

impl Segment {
    /// That of a frame which is no fragment but the first.
    #[inline]
    fn of(frame: &[u8]) -> Option<Segment> {
        let mut l3 = 14;
        while matches!(word(frame, l3 - 2)?, 0x8100 | 0x88a8) {
            l3 += 4;
        }
        let (v6, protocol, start) = match word(frame, l3 - 2)? {
            0x0800 if word(frame, l3 + 6)? & 0x1fff == 0 => {
                (false, *frame.get(l3 + 9)?, l3 + usize::from(*frame.get(l3)? & 0xf) * 4)
            }
            // The kernel puts no extension header before a segment whose checksum it leaves open.
            0x86dd => (true, *frame.get(l3 + 6)?, l3 + 40),
            _ => return None,
        };
        matches!(protocol, 6 | 17).then_some(Segment { l3, start, v6, protocol })
    }

    /// Where the checksum stands, from the transport header.
    fn offset(&self) -> usize {
        if self.protocol == 6 { 16 } else { 6 }
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
    fn an_open_checksum_is_known_by_its_field() {
        let mut packet = smpnet_plugin::testing::packet(&datagram());
        assert_eq!(open(&packet), Some((34, 6)));
        assert!(complete(&mut packet));
        assert_eq!(open(&packet), None, "it is closed now");
        let v6 = [&[0; 12][..], &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 9, 17, 64], &[1; 32], &[0, 1, 0, 2, 0, 9]].concat();
        let mut pseudo = Sum::default();
        pseudo.add(&[&[1; 32][..], &[0, 17, 0, 9]].concat());
        let v6 = [&v6[..], &pseudo.fold().to_be_bytes(), b"x"].concat();
        assert_eq!(open(&smpnet_plugin::testing::packet(&v6)), Some((54, 6)));
        // With a tag, cut short, padded, a fragment, without a checksum.
        let tagged = [&datagram()[..12], &[0x81, 0, 0, 5], &datagram()[12..]].concat();
        assert_eq!(open(&smpnet_plugin::testing::packet(&tagged)), Some((38, 6)));
        let padded = [&datagram()[..], &[0; 15]].concat();
        let (mut fragment, mut none) = (datagram(), datagram());
        fragment[20] = 0x20;
        none[40..42].fill(0);
        for frame in [&datagram()[..41], &padded, &fragment, &none, &[][..], &[0x81, 0].repeat(7)] {
            assert_eq!(open(&smpnet_plugin::testing::packet(frame)), None, "{frame:x?}");
        }
    }

    #[test]
    fn a_closed_checksum_that_looks_open_keeps_its_value() {
        // The payload is chosen so that the right checksum is the sum of the pseudo header itself.
        let mut frame = datagram();
        frame[17] = 32;
        frame[39] = 12;
        frame.extend(b"d");
        let mut pseudo = Sum::default();
        pseudo.add(&[10, 0, 0, 1, 10, 0, 0, 2, 0, 17, 0, 12]);
        frame[40..42].copy_from_slice(&pseudo.fold().to_be_bytes());
        frame[44..46].fill(0);
        let mut rest = Sum::default();
        rest.add(&frame[34..]);
        rest.add(&pseudo.fold().to_be_bytes());
        frame[44..46].copy_from_slice(&(!rest.fold()).to_be_bytes());
        let mut packet = smpnet_plugin::testing::packet(&frame);
        assert_eq!(open(&packet), Some((34, 6)));
        assert!(complete(&mut packet));
        assert_eq!(packet.data(), frame);
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
