//! For tests: what an ICMP error says of the packet that it is about. Connections are found by `state::read_quoted`.

use super::{
    Side,
    headers::{Headers, address_at},
    icmp_error::headers_of_quote,
};
use crate::{
    config::Family,
    packet::{Packet, Ports, be16, be32, be128, proto, v4},
};

/// What an ICMP error says of the packet that it is about. Fewer bytes of it may be there than [`Packet::read`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// The same as the error's.
    pub family: Family,
    /// Where it came from, in the form of [`Packet`].
    pub src: u128,
    /// Where it went.
    pub dst: u128,
    /// The upper protocol.
    pub proto: u8,
    /// The ports of TCP, UDP and SCTP. Of ICMP queries and replies the identifier, twice. None where the quote ends
    /// before, in later fragments, and in other protocols.
    pub ids: Option<Ports>,
}

/// The packet that an ICMP error quotes. None: this is no ICMP error, or the quote has not even addresses.
pub fn quoted(bytes: &[u8], packet: &Packet) -> Option<Quoted> {
    let headers = headers_of_quote(bytes, packet)?;
    let bytes = packet.here(bytes);
    let at = |at: Option<usize>| at.filter(|&at| at + 2 <= bytes.len()).map(|at| be16(bytes, at));
    let (src, dst) = match (headers.proto, headers.upper) {
        (proto::SCTP, Some(upper)) => (at(Some(upper)), at(Some(upper + 2))),
        _ => (at(headers.id(bytes, Side::Src)), at(headers.id(bytes, Side::Dst))),
    };
    Some(Quoted {
        family: headers.family,
        src: address(bytes, &headers, Side::Src),
        dst: address(bytes, &headers, Side::Dst),
        proto: headers.proto,
        ids: src.zip(dst).map(|(src, dst)| Ports { src, dst }),
    })
}

/// An address as it stands there, in the form of [`Packet`].
fn address(bytes: &[u8], headers: &Headers, side: Side) -> u128 {
    let at = headers.ip + address_at(headers.family, side);
    match headers.family {
        Family::V4 => v4(be32(bytes, at)),
        Family::V6 => be128(bytes, at),
    }
}
