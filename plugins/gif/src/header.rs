//! The IPv4 headers of a tunnel: made on the way in, judged on the way out.

use std::net::Ipv4Addr;

/// Bytes of the outer header: no options.
pub const OUTER: usize = 20;
/// Protocol number of IPv4 in IP (RFC 2003).
pub const IPIP: u8 = 4;
/// "Don't fragment" in byte 6 of a header.
const DF: u8 = 0x40;

/// Writes the outer header for an inner packet of `inner_len` bytes. DF is clear, so that the way between the tunnel's ends
/// may fragment, as gif(4) does.
pub fn write_outer(
    out: &mut [u8; OUTER],
    tos: u8,
    ttl: u8,
    inner_len: u16,
    id: u16,
    local: Ipv4Addr,
    remote: Ipv4Addr,
) {
    *out = [0; OUTER];
    out[0] = 0x45;
    out[1] = tos;
    out[2..4].copy_from_slice(&(inner_len + OUTER as u16).to_be_bytes());
    out[4..6].copy_from_slice(&id.to_be_bytes());
    out[8] = ttl;
    out[9] = IPIP;
    out[12..16].copy_from_slice(&local.octets());
    out[16..20].copy_from_slice(&remote.octets());
    let sum = checksum(out);
    out[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Gives a fresh outer header the DF bit of the inner one (RFC 2003, section 3.1), so that the path MTU between the ends is
/// found and told to the inner sender.
pub fn copy_df(outer: &mut [u8; OUTER], inner_flags: u8) {
    if inner_flags & DF != 0 {
        outer[6] |= DF;
        // DF was clear: the sum grows by its word, so its complement shrinks by it (RFC 1624).
        let sum = u32::from(!u16::from_be_bytes([outer[10], outer[11]])) + (u32::from(DF) << 8);
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        outer[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Bytes of the IPv4 header that `packet` begins with, or `None` when it is no IPv4 header.
pub fn header_len(packet: &[u8]) -> Option<usize> {
    let len = usize::from(packet.first()? & 0xf) * 4;
    (packet[0] >> 4 == 4 && len >= OUTER && len <= packet.len()).then_some(len)
}

/// Changes the TOS byte of an IPv4 header and its checksum with it (RFC 1624, equation 3).
pub fn set_tos(header: &mut [u8], tos: u8) {
    let old = u16::from_be_bytes([header[0], header[1]]);
    header[1] = tos;
    let new = u16::from_be_bytes([header[0], tos]);
    let sum = u16::from_be_bytes([header[10], header[11]]);
    let mut s = u32::from(!sum) + u32::from(!old) + u32::from(new);
    while s > 0xffff {
        s = (s & 0xffff) + (s >> 16);
    }
    header[10..12].copy_from_slice(&(!(s as u16)).to_be_bytes());
}

/// The Internet checksum of an even number of bytes (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut s: u32 = bytes.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    while s > 0xffff {
        s = (s & 0xffff) + (s >> 16);
    }
    !(s as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outer_header_sums_to_zero_and_says_what_it_carries() {
        let mut h = [0xff; OUTER];
        write_outer(&mut h, 0xb8, 30, 100, 7, Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 2));
        assert_eq!(checksum(&h), 0);
        assert_eq!((h[0], h[1], h[8], h[9]), (0x45, 0xb8, 30, 4));
        assert_eq!(u16::from_be_bytes([h[2], h[3]]), 120);
        assert_eq!(h[6..8], [0, 0], "DF is clear");
        assert_eq!(header_len(&h), Some(20));
    }

    #[test]
    fn the_inner_df_bit_is_copied_with_the_checksum_kept_right() {
        for id in [0, 7, 0x8000, 0xbfff, 0xffff] {
            let mut h = [0; OUTER];
            write_outer(&mut h, 0, 30, 1000, id, Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 2));
            let clear = h;
            copy_df(&mut h, 0x20);
            assert_eq!(h, clear);
            copy_df(&mut h, 0x40);
            assert_eq!((h[6], checksum(&h)), (0x40, 0));
        }
    }

    #[test]
    fn changing_the_tos_keeps_the_checksum_right() {
        for tos in 0..=255 {
            let mut h = [0; OUTER];
            write_outer(&mut h, 0x13, 64, 1, 2, Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
            set_tos(&mut h, tos);
            assert_eq!(checksum(&h), 0, "tos {tos}");
        }
    }

    #[test]
    fn what_is_no_ipv4_header_has_no_length() {
        assert_eq!(header_len(&[]), None);
        assert_eq!(header_len(&[0x60; 40]), None);
        assert_eq!(header_len(&[0x44; 40]), None, "shorter than a header");
        assert_eq!(header_len(&[0x4f; 40]), None, "longer than the packet");
    }
}
