//! A fragment as a piece of a datagram.

use super::{Why, ledger};
use crate::{
    config::Family,
    packet::{Fragment, Packet, proto},
};

/// Most bytes of a packet: of all of it in IPv4, of what follows the header in IPv6.
pub(super) const MAX_LENGTH: usize = 65535;

/// Which datagram it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub family: Family,
    pub src: u128,
    pub dst: u128,
    pub id: u32,
    /// IPv4 only (RFC 791, section 3.2). In IPv6 only the first fragment's counts (RFC 8200, section 4.5).
    pub proto: u8,
}

/// A fragment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'b> {
    pub key: Key,
    /// Bytes of the datagram's data before it.
    pub offset: usize,
    pub more: bool,
    /// The headers that every fragment has, without the fragment header.
    pub head: &'b [u8],
    /// What follows those headers in the whole packet.
    pub next: u8,
    pub data: &'b [u8],
}

impl<'b> Piece<'b> {
    /// What a fragment says, if it can be part of a packet.
    pub fn read(bytes: &'b [u8], packet: &Packet, fragment: Fragment) -> Result<Piece<'b>, Why> {
        let (head_len, data_at) = match packet.family {
            Family::V4 => (packet.header, packet.header),
            Family::V6 => (fragment.at, fragment.at + 8),
        };
        let head = bytes.get(..head_len).ok_or(Why::Inconsistent)?;
        let data = bytes.get(data_at..packet.len).ok_or(Why::Inconsistent)?;
        let (fits, next, proto) = match packet.family {
            Family::V4 => (head_len >= 20 && usize::from(head[0]) == 0x40 | head_len >> 2, packet.proto, packet.proto),
            Family::V6 => (head_len >= 40 && head[0] >> 4 == 6, bytes[fragment.at], 0),
        };
        if !fits {
            return Err(Why::Inconsistent);
        }
        let key = Key { family: packet.family, src: packet.src, dst: packet.dst, id: fragment.id, proto };
        let piece = Piece { key, offset: fragment.offset, more: fragment.more, head, next, data };
        let fixed = match packet.family {
            Family::V4 => head_len,
            Family::V6 => head_len - 40,
        };
        if piece.data.is_empty() && !piece.is_everything() {
            return Err(Why::Empty);
        }
        if piece.more && !piece.data.len().is_multiple_of(8) {
            return Err(Why::Unaligned);
        }
        if fixed + piece.end() > MAX_LENGTH {
            return Err(Why::TooLong);
        }
        // Fragments that are everything are what they are.
        if piece.is_first() && piece.more && packet.len.saturating_sub(packet.header) < least_header(packet.proto) {
            return Err(Why::Tiny);
        }
        Ok(piece)
    }

    /// The first of its datagram.
    pub fn is_first(&self) -> bool {
        self.offset == 0
    }

    /// An atomic fragment.
    pub fn is_everything(&self) -> bool {
        self.is_first() && !self.more
    }

    /// Bytes of the datagram's data up to its end.
    pub fn end(&self) -> usize {
        self.offset + self.data.len()
    }

    /// What it takes of the memory; `new`: it is the first of its datagram to come.
    pub fn cost(&self, new: bool) -> usize {
        let head = if self.is_first() { self.head.len() } else { 0 };
        let datagram = if new { ledger::DATAGRAM_COST } else { 0 };
        ledger::PIECE_COST + datagram + head + self.data.len()
    }

    /// The bit of its ECN codepoint (RFC 3168): not capable, ECT(1), ECT(0), congestion experienced.
    pub fn ecn(&self) -> u8 {
        let class = self.head.get(1).copied().unwrap_or(0);
        let codepoint = match self.key.family {
            Family::V4 => class & 3,
            Family::V6 => class >> 4 & 3,
        };
        1 << codepoint
    }
}

/// Bytes that a first fragment must have of the upper protocol.
fn least_header(number: u8) -> usize {
    const DCCP: u8 = 33;
    match number {
        proto::TCP => 20,
        proto::SCTP | proto::AH | DCCP => 12,
        proto::NONE => 0,
        _ => 8,
    }
}
