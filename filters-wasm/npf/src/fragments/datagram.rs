//! A datagram of which some pieces are there.

use super::{
    Why,
    piece::{MAX_LENGTH, Piece},
};
use crate::{checksum, config::Family};

/// Bits of [`Piece::ecn`].
mod ecn {
    pub const NOT_CAPABLE: u8 = 1 << 0;
    pub const CONGESTION: u8 = 1 << 3;
}

/// The pieces of a datagram; no two of them overlap.
#[derive(Debug)]
pub(super) struct Datagram {
    /// Datagrams that came later have higher ones.
    pub serial: u64,
    /// When the first of its fragments came.
    pub born: u64,
    /// What it takes of the memory.
    pub cost: usize,
    /// The headers of the first fragment, and what follows them.
    head: Option<(Box<[u8]>, u8)>,
    /// By their offsets.
    pieces: Vec<Held>,
    /// Bytes of all pieces.
    held: usize,
    /// Bytes of the whole, when the last piece has come.
    total: Option<usize>,
    /// The codepoints of all pieces.
    ecn: u8,
    spoiled: bool,
}

#[derive(Debug)]
struct Held {
    offset: usize,
    data: Box<[u8]>,
}

impl Held {
    fn end(&self) -> usize {
        self.offset + self.data.len()
    }
}

impl Datagram {
    /// A datagram with a first piece.
    pub fn of(piece: &Piece<'_>, serial: u64, born: u64) -> Datagram {
        let mut datagram = Datagram {
            serial,
            born,
            cost: 0,
            head: None,
            pieces: Vec::new(),
            held: 0,
            total: None,
            ecn: 0,
            spoiled: false,
        };
        datagram.insert(piece);
        datagram
    }

    /// Whether a piece can be put in.
    pub fn check(&self, piece: &Piece<'_>, max_pieces: usize) -> Result<(), Why> {
        if self.spoiled {
            return Err(Why::Spoiled);
        }
        let at = self.place(piece);
        let (before, behind) = (at.checked_sub(1).map(|at| &self.pieces[at]), self.pieces.get(at));
        if let Some(same) = behind.filter(|held| held.offset == piece.offset && *held.data == *piece.data) {
            let was_last = self.total == Some(same.end());
            return Err(if was_last == piece.more { Why::Disagrees } else { Why::Duplicate });
        }
        if before.is_some_and(|held| held.end() > piece.offset) || behind.is_some_and(|held| held.offset < piece.end())
        {
            return Err(Why::Overlap);
        }
        let ends_elsewhere = match (self.total, piece.more) {
            (Some(total), true) => piece.end() > total,
            (Some(total), false) => piece.end() != total,
            // There is something behind the last one.
            (None, false) => behind.is_some(),
            (None, true) => false,
        };
        if ends_elsewhere {
            return Err(Why::Disagrees);
        }
        if self.pieces.len() >= max_pieces {
            return Err(Why::TooManyPieces);
        }
        Ok(())
    }

    /// Puts a piece in that was checked.
    pub fn insert(&mut self, piece: &Piece<'_>) {
        if piece.is_first() {
            self.head = Some((piece.head.into(), piece.next));
        }
        if !piece.more {
            self.total = Some(piece.end());
        }
        self.ecn |= piece.ecn();
        self.held += piece.data.len();
        let at = self.place(piece);
        self.pieces.insert(at, Held { offset: piece.offset, data: piece.data.into() });
    }

    /// Where it belongs among the pieces. Most come in order.
    fn place(&self, piece: &Piece<'_>) -> usize {
        match self.pieces.last() {
            Some(last) if last.offset >= piece.offset => self.pieces.partition_point(|held| held.offset < piece.offset),
            _ => self.pieces.len(),
        }
    }

    /// Whether all pieces are there. As none overlap it is enough to count their bytes.
    pub fn is_whole(&self) -> bool {
        self.total == Some(self.held) && !self.spoiled
    }

    /// Throws away what is there, and remembers only that. How much memory this gives back.
    pub fn spoil(&mut self) -> usize {
        let freed = self.cost.saturating_sub(super::ledger::DATAGRAM_COST);
        self.cost -= freed;
        self.spoiled = true;
        self.head = None;
        self.pieces = Vec::new();
        freed
    }

    /// The packet of which all pieces are there.
    pub fn assemble(self, family: Family) -> Result<Vec<u8>, Why> {
        let (head, next) = self.head.ok_or(Why::Inconsistent)?;
        let congestion = self.ecn & ecn::CONGESTION != 0;
        if congestion && self.ecn & ecn::NOT_CAPABLE != 0 {
            return Err(Why::Congestion);
        }
        let mut packet = Vec::with_capacity(head.len() + self.held);
        packet.extend_from_slice(&head);
        for piece in &self.pieces {
            packet.extend_from_slice(&piece.data);
        }
        match family {
            Family::V4 => finish_v4(&mut packet, head.len(), congestion)?,
            Family::V6 => finish_v6(&mut packet, head.len(), next, congestion)?,
        }
        Ok(packet)
    }
}

/// The header of a whole packet of IPv4.
fn finish_v4(packet: &mut [u8], header: usize, congestion: bool) -> Result<(), Why> {
    let length = u16::try_from(packet.len()).map_err(|_| Why::TooLong)?;
    if congestion {
        packet[1] |= 3;
    }
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[6..8].fill(0);
    let check = checksum::of_ipv4_header(&packet[..header]);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    Ok(())
}

/// The headers of a whole packet of IPv6. `head`: their length up to where the fragment header was.
fn finish_v6(packet: &mut [u8], head: usize, next: u8, congestion: bool) -> Result<(), Why> {
    let length = packet.len() - 40;
    if length > MAX_LENGTH {
        return Err(Why::TooLong);
    }
    if congestion {
        packet[1] |= 3 << 4;
    }
    packet[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    // Of the headers that stay, the last one names what follows.
    let (mut field, mut at) = (6, 40);
    while at < head {
        field = at;
        at += 8 + 8 * usize::from(*packet.get(at + 1).ok_or(Why::Inconsistent)?);
    }
    if at != head {
        return Err(Why::Inconsistent);
    }
    packet[field] = next;
    Ok(())
}
