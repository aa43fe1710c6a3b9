//! What stands in a ring: a fixed header, a note, and the bytes kept of the packet.

use smpnet_abi::DropReason;
use smpnet_runtime::Dir;

/// Bytes of [`Header`] in a ring.
pub(super) const HEADER: usize = 40;
/// The longest note.
pub(super) const NOTE_MAX: usize = 255;

/// What a captured packet was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It passed a tap.
    Passed,
    /// It was dropped.
    Dropped(DropReason),
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes kept.
    pub kept: u32,
    pub wire_len: u32,
    pub ifindex: u32,
    /// The worker's clock ([`smpnet_runtime::now_ns`]).
    pub stamp: u64,
    /// Generation of the settings that it was judged by.
    pub generation: u32,
    /// Packets of this interface that found no room before this one.
    pub lost: u32,
    pub what: What,
    pub dir: Option<Dir>,
    pub note: u8,
}

impl Header {
    /// Bytes of the whole record.
    pub(super) fn record_len(&self) -> usize {
        HEADER + usize::from(self.note) + self.kept as usize
    }

    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut b = [0; HEADER];
        b[..4].copy_from_slice(&self.kept.to_ne_bytes());
        b[4..8].copy_from_slice(&self.wire_len.to_ne_bytes());
        b[8..12].copy_from_slice(&self.ifindex.to_ne_bytes());
        b[12..16].copy_from_slice(&self.generation.to_ne_bytes());
        b[16..24].copy_from_slice(&self.stamp.to_ne_bytes());
        b[24..28].copy_from_slice(&self.lost.to_ne_bytes());
        let (dropped, reason) = match self.what {
            What::Passed => (0, 0),
            What::Dropped(reason) => (1, reason as u16),
        };
        b[28..30].copy_from_slice(&reason.to_ne_bytes());
        b[30] = dropped;
        b[31] = self.dir.map_or(0, |d| d.code() as u8);
        b[32] = self.note;
        b
    }

    pub(super) fn decode(b: &[u8; HEADER]) -> Header {
        let u32_at = |i: usize| u32::from_ne_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let stamp = u64::from_ne_bytes([b[16], b[17], b[18], b[19], b[20], b[21], b[22], b[23]]);
        let reason = DropReason::from_code(u32::from(u16::from_ne_bytes([b[28], b[29]])));
        Header {
            kept: u32_at(0),
            wire_len: u32_at(4),
            ifindex: u32_at(8),
            generation: u32_at(12),
            stamp,
            lost: u32_at(24),
            what: if b[30] == 0 { What::Passed } else { What::Dropped(reason) },
            dir: match u32::from(b[31]) {
                smpnet_abi::direction::IN => Some(Dir::In),
                smpnet_abi::direction::OUT => Some(Dir::Out),
                _ => None,
            },
            note: b[32],
        }
    }
}

/// A captured packet, as its reader gets it.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'a> {
    /// Nanoseconds since 1970. Packets of one burst have one stamp; stamps never go back within a capture.
    pub time_ns: u64,
    /// The worker that carried it.
    pub worker: usize,
    /// The interface; 0 for none.
    pub ifindex: u32,
    /// Direction, where there is one.
    pub dir: Option<Dir>,
    /// Length on the wire, in bytes.
    pub wire_len: u32,
    /// The bytes kept.
    pub bytes: &'a [u8],
    /// Passed, or dropped and why.
    pub what: What,
    /// Name and word of the filter that dropped it, else empty.
    pub note: &'a str,
    /// Generation of the listener's settings that accepted it: it grows by one with every change.
    pub generation: u32,
    /// Packets of this interface and worker that were lost for want of room since the one before.
    pub lost: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_were_written() {
        for (what, dir) in [
            (What::Passed, Some(Dir::In)),
            (What::Dropped(DropReason::Filtered), Some(Dir::Out)),
            (What::Dropped(DropReason::IpTtl), None),
        ] {
            let h = Header {
                kept: 60,
                wire_len: 1514,
                ifindex: 7,
                stamp: 0x0123_4567_89ab_cdef,
                generation: 3,
                lost: 2,
                what,
                dir,
                note: 9,
            };
            assert_eq!(Header::decode(&h.encode()), h);
            assert_eq!(h.record_len(), HEADER + 9 + 60);
        }
    }
}
