//! Logged packets as NetBSD's npflog and OpenBSD's pflog have them (`DLT_PFLOG`), which tcpdump and tshark read: a header that
//! names interface, direction, verdict and rule, then the packet from its IP header on.

use crate::{config::Family, evaluate::Where};

/// Link type of such packets in captures (LINKTYPE_PFLOG).
pub const LINKTYPE: u32 = 117;
/// Bytes of the header, of which the last three are padding and not counted in it.
const HEADER: usize = 64;
/// What the header says of its length.
const LENGTH: u8 = 61;
/// IPv4 and IPv6 as NetBSD and OpenBSD number them.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 24;
/// No rule, and no rule within a rule.
const NONE: u32 = u32::MAX;

/// What is said of a logged packet.
#[derive(Clone, Copy, Debug)]
pub struct Logged<'a> {
    /// It goes on.
    pub pass: bool,
    /// Its family.
    pub family: Family,
    /// The interface; its first 15 bytes are told.
    pub interface: &'a str,
    /// Which way it crosses it.
    pub way: Where,
    /// The number of the rule that decided, from 0 in the order of the configuration.
    pub rule: Option<u32>,
    /// What the rule is called; its first 15 bytes are told.
    pub name: &'a str,
}

/// The header of a packet. The order of fields is that of `struct pfloghdr`; numbers are in network order.
pub fn header(logged: &Logged<'_>) -> [u8; HEADER] {
    let mut h = [0; HEADER];
    let family = if logged.family == Family::V4 { AF_INET } else { AF_INET6 };
    // The reason 0 is that a rule matched.
    h[..4].copy_from_slice(&[LENGTH, family, u8::from(!logged.pass), 0]);
    put_name(&mut h[4..20], logged.interface);
    put_name(&mut h[20..36], logged.name);
    h[36..40].copy_from_slice(&logged.rule.unwrap_or(NONE).to_be_bytes());
    // tcpdump tells a name only where there is a rule within it.
    let within = if logged.name.is_empty() { NONE } else { 0 };
    h[40..44].copy_from_slice(&within.to_be_bytes());
    // Users and processes are none: -1 and 0.
    h[44..48].copy_from_slice(&NONE.to_be_bytes());
    h[52..56].copy_from_slice(&NONE.to_be_bytes());
    h[60] = if logged.way == Where::In { 1 } else { 2 };
    h
}

/// As much of a name as fits before a NUL, cut between characters.
fn put_name(field: &mut [u8], name: &str) {
    let mut n = name.len().min(field.len() - 1);
    while !name.is_char_boundary(n) {
        n -= 1;
    }
    field[..n].copy_from_slice(&name.as_bytes()[..n]);
}

/// The header of a pcap file of logged packets, with times in microseconds.
pub fn file_header() -> [u8; 24] {
    let mut h = [0; 24];
    h[..4].copy_from_slice(&0xa1b2_c3d4u32.to_le_bytes());
    h[4..8].copy_from_slice(&[2, 0, 4, 0]);
    h[16..20].copy_from_slice(&65_535u32.to_le_bytes());
    h[20..24].copy_from_slice(&LINKTYPE.to_le_bytes());
    h
}

/// A packet's record in such a file, at a time in milliseconds.
pub fn record(logged: &Logged<'_>, ms: u64, packet: &[u8]) -> Vec<u8> {
    let len = (HEADER + packet.len()) as u32;
    let (seconds, micros) = ((ms / 1000) as u32, (ms % 1000) as u32 * 1000);
    let words = [seconds, micros, len, len].map(u32::to_le_bytes);
    [words.as_flattened(), &header(logged), packet].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_pfloghdr_has_them_and_long_names_are_cut() {
        let logged = Logged {
            pass: false,
            family: Family::V6,
            interface: "eth0",
            way: Where::Forward,
            rule: Some(7),
            name: "fünfzehn bytes und mehr",
        };
        let h = header(&logged);
        assert_eq!(h[..8], [61, 24, 1, 0, b'e', b't', b'h', b'0']);
        assert_eq!((&h[20..36], &h[36..40]), ("fünfzehn bytes\0".as_bytes(), &[0, 0, 0, 7][..]));
        assert_eq!((h[60], h.len()), (2, 64));
        let cut = header(&Logged { name: "aaaaaaaaaaaaaaü", interface: "", rule: None, ..logged });
        assert_eq!((&cut[20..36], &cut[36..40]), (&b"aaaaaaaaaaaaaa\0\0"[..], &[0xff; 4][..]));
    }
}
