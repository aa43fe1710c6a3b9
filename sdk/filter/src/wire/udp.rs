//! UDP (RFC 768).

use super::be16;

/// A UDP header and what follows.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a> {
    head: &'a [u8; 8],
    payload: &'a [u8],
}

impl<'a> Udp<'a> {
    /// Reads the header. Its length must be that of a header at least; 0 stands for "as long as the packet" (jumbograms).
    pub fn parse(bytes: &'a [u8]) -> Option<Udp<'a>> {
        let head = bytes.first_chunk::<8>()?;
        let len = usize::from(be16(head, 4)?);
        let len = if len == 0 { bytes.len() } else { len };
        let payload = bytes.get(8..len.min(bytes.len()))?;
        Some(Udp { head, payload })
    }

    /// Source port.
    pub fn source_port(&self) -> u16 {
        be16(self.head, 0).unwrap_or(0)
    }

    /// Destination port.
    pub fn destination_port(&self) -> u16 {
        be16(self.head, 2).unwrap_or(0)
    }

    /// Bytes of header and payload, as the header says.
    pub fn length(&self) -> u16 {
        be16(self.head, 4).unwrap_or(0)
    }

    /// What follows, as far as it is seen.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}
