//! TCP (RFC 9293).

use super::{be16, be32};

/// Bits of [`Tcp::flags`].
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// A connection begins.
    pub const SYN: u8 = 2;
    /// The connection is reset.
    pub const RST: u8 = 4;
    /// Data to be handed on at once.
    pub const PSH: u8 = 8;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 16;
    /// The urgent pointer is valid.
    pub const URG: u8 = 32;
}

/// A TCP header, with options, and what follows.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a> {
    head: &'a [u8; 20],
    bytes: &'a [u8],
    len: usize,
}

impl<'a> Tcp<'a> {
    /// Reads the header. Options that lie behind the window are left out.
    pub fn parse(bytes: &'a [u8]) -> Option<Tcp<'a>> {
        let head = bytes.first_chunk::<20>()?;
        let len = usize::from(head[12] >> 4) * 4;
        (len >= 20).then_some(Tcp { head, bytes, len })
    }

    /// Source port.
    pub fn source_port(&self) -> u16 {
        be16(self.head, 0).unwrap_or(0)
    }

    /// Destination port.
    pub fn destination_port(&self) -> u16 {
        be16(self.head, 2).unwrap_or(0)
    }

    /// Sequence number.
    pub fn sequence(&self) -> u32 {
        be32(self.head, 4).unwrap_or(0)
    }

    /// Acknowledgement number.
    pub fn acknowledgement(&self) -> u32 {
        be32(self.head, 8).unwrap_or(0)
    }

    /// Bits of [`tcp_flags`].
    pub fn flags(&self) -> u8 {
        self.head[13]
    }

    /// Whether it opens a connection: SYN without ACK, RST or FIN.
    pub fn is_open(&self) -> bool {
        use tcp_flags::{ACK, FIN, RST, SYN};
        self.flags() & (SYN | ACK | RST | FIN) == SYN
    }

    /// Receive window, not scaled.
    pub fn window(&self) -> u16 {
        be16(self.head, 14).unwrap_or(0)
    }

    /// Bytes of the header with its options.
    pub fn header_len(&self) -> usize {
        self.len
    }

    /// The options, as far as they are seen.
    pub fn options(&self) -> &'a [u8] {
        self.bytes.get(20..self.len.min(self.bytes.len())).unwrap_or(&[])
    }

    /// What follows, as far as it is seen.
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.len..).unwrap_or(&[])
    }
}
