//! Capture files as memory: read and checked as a whole when a port is opened, so that a damaged file is an error at
//! once and no worker waits for a disk.

use pcap_file::{
    DataLink, PcapError,
    pcap::PcapParser,
    pcapng::{Block, PcapNgParser, blocks::interface_description::InterfaceDescriptionOption},
};
use std::path::Path;

/// What the packets of a capture begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// An Ethernet header (LINKTYPE_ETHERNET).
    Ethernet,
    /// An IP header (LINKTYPE_RAW, LINKTYPE_IPV4, LINKTYPE_IPV6).
    RawIp,
}

impl Link {
    /// The link type that files are written with.
    pub fn datalink(self) -> DataLink {
        match self {
            Link::Ethernet => DataLink::ETHERNET,
            Link::RawIp => DataLink::RAW,
        }
    }

    fn of(link: DataLink) -> Option<Link> {
        match link {
            DataLink::ETHERNET => Some(Link::Ethernet),
            DataLink::RAW | DataLink::IPV4 | DataLink::IPV6 => Some(Link::RawIp),
            _ => None,
        }
    }
}

/// One packet of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    start: usize,
    len: u32,
    /// Bytes the packet had on the wire; more than were captured when the capture cut it.
    pub wire_len: u32,
}

/// A capture in memory.
#[derive(Debug)]
pub struct Capture {
    bytes: Vec<u8>,
    /// Its packets, in the order of the file.
    pub entries: Vec<Entry>,
    /// What they begin with.
    pub link: Link,
    /// Packets that the capture had cut; they are not played, since their missing bytes are unknown.
    pub truncated: u64,
}

impl Capture {
    /// Reads a pcap or pcapng file; which it is shows in its first bytes. The error names the file and the byte where
    /// it is damaged.
    pub fn read(path: &Path) -> Result<Capture, String> {
        let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Capture::parse(bytes).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Parses the bytes of a file.
    pub fn parse(bytes: Vec<u8>) -> Result<Capture, String> {
        let (entries, link) = match bytes.first_chunk::<4>() {
            Some([0x0a, 0x0d, 0x0d, 0x0a]) => index_pcapng(&bytes)?,
            Some([0xa1, 0xb2, ..] | [0xd4, 0xc3, ..] | [0x4d, 0x3c, ..]) => index_pcap(&bytes)?,
            Some(_) => return Err("neither a pcap nor a pcapng file".into()),
            None => return Err("too short for a capture file".into()),
        };
        let all = entries.len() as u64;
        let entries: Vec<Entry> = entries.into_iter().filter(|e| e.len == e.wire_len).collect();
        let truncated = all - entries.len() as u64;
        Ok(Capture { bytes, entries, link, truncated })
    }

    /// The bytes of a packet.
    pub fn packet(&self, entry: Entry) -> &[u8] {
        &self.bytes[entry.start..entry.start + entry.len as usize]
    }
}

/// Where `part`, a slice of `whole`, begins in it.
fn offset(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

fn damaged(at: usize, e: &PcapError) -> String {
    match e {
        PcapError::IncompleteBuffer => format!("ends in the middle of a packet (byte {at}); was the capture cut off?"),
        e => format!("damaged at byte {at}: {e}"),
    }
}

fn unsupported(link: DataLink) -> String {
    format!("link type {} is not supported; Ethernet (1) and raw IP (101, 228, 229) are", u32::from(link))
}

fn index_pcap(bytes: &[u8]) -> Result<(Vec<Entry>, Link), String> {
    let (mut rest, parser) = PcapParser::new(bytes).map_err(|e| damaged(0, &e))?;
    let link = Link::of(parser.header().datalink).ok_or_else(|| unsupported(parser.header().datalink))?;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (next, packet) = parser.next_packet(rest).map_err(|e| damaged(offset(bytes, rest), &e))?;
        entries.push(Entry {
            time_ns: packet.timestamp.as_nanos() as u64,
            start: offset(bytes, &packet.data),
            len: packet.data.len() as u32,
            wire_len: packet.orig_len,
        });
        rest = next;
    }
    Ok((entries, link))
}

fn index_pcapng(bytes: &[u8]) -> Result<(Vec<Entry>, Link), String> {
    let (mut rest, mut parser) = PcapNgParser::new(bytes).map_err(|e| damaged(0, &e))?;
    let mut entries = Vec::new();
    let mut link = None;
    while !rest.is_empty() {
        let at = offset(bytes, rest);
        let (next, block) = parser.next_block(rest).map_err(|e| damaged(at, &e))?;
        rest = next;
        let (interface, data, wire_len, ticks) = match &block {
            Block::EnhancedPacket(p) => (p.interface_id, &p.data, p.original_len, p.timestamp.as_nanos() as u64),
            // A Simple Packet Block has no time of its own: it follows the packet before it at once.
            Block::SimplePacket(p) => (0, &p.data, p.original_len, 0),
            _ => continue,
        };
        let Some(description) = parser.interfaces().get(interface as usize) else {
            return Err(format!("damaged at byte {at}: interface {interface} is not described"));
        };
        let this = Link::of(description.linktype).ok_or_else(|| unsupported(description.linktype))?;
        if *link.get_or_insert(this) != this {
            return Err(format!("holds Ethernet and raw IP packets; split it by interface first (byte {at})"));
        }
        let resolution = description.options.iter().find_map(|o| match o {
            InterfaceDescriptionOption::IfTsResol(r) => Some(*r),
            _ => None,
        });
        let before = entries.last().map_or(0, |e: &Entry| e.time_ns);
        let len = data.len() as u32;
        entries.push(Entry {
            time_ns: if matches!(block, Block::SimplePacket(_)) { before } else { to_ns(ticks, resolution) },
            start: offset(bytes, data),
            len,
            wire_len,
        });
    }
    Ok((entries, link.unwrap_or(Link::Ethernet)))
}

/// Time stamps of a pcapng interface in nanoseconds: `if_tsresol` is a negative power of ten, or of two with its high
/// bit set; microseconds without it (pcapng, section 4.2).
fn to_ns(ticks: u64, resolution: Option<u8>) -> u64 {
    let ticks = u128::from(ticks);
    let ns = match resolution.unwrap_or(6) {
        r if r & 0x80 != 0 => (ticks * 1_000_000_000) >> (r & 0x7f).min(100),
        r if r <= 9 => ticks.saturating_mul(10u128.pow(u32::from(9 - r))),
        r => ticks / 10u128.pow(u32::from((r - 9).min(30))),
    };
    u64::try_from(ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A little-endian microsecond pcap with one packet of the given lengths.
    fn pcap(link: u32, captured: &[u8], wire: u32) -> Vec<u8> {
        let mut f = Vec::new();
        f.extend(0xa1b2_c3d4u32.to_le_bytes());
        f.extend([2, 0, 4, 0]);
        f.extend([0; 8]);
        f.extend(65535u32.to_le_bytes());
        f.extend(link.to_le_bytes());
        f.extend(7u32.to_le_bytes());
        f.extend(5u32.to_le_bytes());
        f.extend((captured.len() as u32).to_le_bytes());
        f.extend(wire.to_le_bytes());
        f.extend(captured);
        f
    }

    #[test]
    fn a_pcap_packet_comes_back_with_its_time() {
        let c = Capture::parse(pcap(1, b"abcdef", 6)).unwrap();
        assert_eq!(c.link, Link::Ethernet);
        assert_eq!(c.entries.len(), 1);
        assert_eq!(c.entries[0].time_ns, 7_000_005_000);
        assert_eq!(c.packet(c.entries[0]), b"abcdef");
    }

    #[test]
    fn a_packet_that_the_capture_cut_is_not_played() {
        let c = Capture::parse(pcap(101, b"abc", 1500)).unwrap();
        assert_eq!((c.link, c.entries.len(), c.truncated), (Link::RawIp, 0, 1));
    }

    #[test]
    fn a_file_that_ends_early_says_where() {
        let mut f = pcap(1, b"abcdef", 6);
        f.truncate(f.len() - 2);
        let e = Capture::parse(f).unwrap_err();
        assert!(e.contains("ends in the middle of a packet (byte 24)"), "{e}");
    }

    #[test]
    fn an_unsupported_link_type_is_named() {
        assert!(Capture::parse(pcap(105, b"x", 1)).unwrap_err().contains("105"));
        assert!(Capture::parse(b"hello world".to_vec()).unwrap_err().contains("neither"));
        assert!(Capture::parse(b"he".to_vec()).unwrap_err().contains("too short"));
    }

    #[test]
    fn time_stamps_follow_the_resolution_of_the_interface() {
        assert_eq!(to_ns(5, None), 5_000);
        assert_eq!(to_ns(5, Some(9)), 5);
        assert_eq!(to_ns(5_000, Some(12)), 5);
        assert_eq!(to_ns(3 << 10, Some(0x8a)), 3_000_000_000);
        assert_eq!(to_ns(u64::MAX, Some(0)), u64::MAX);
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        for start in [&[0x0a, 0x0d, 0x0d, 0x0a][..], &[0xd4, 0xc3, 0xb2, 0xa1][..], &[0xa1, 0xb2, 0x3c, 0x4d][..]] {
            for n in 0..2000 {
                let mut f = start.to_vec();
                for _ in 0..n % 200 {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    // Small numbers are likelier to be lengths that almost fit.
                    f.push(if seed & 3 == 0 { (seed >> 8) as u8 } else { (seed >> 8) as u8 & 0x0f });
                }
                let _ = Capture::parse(f);
            }
        }
    }
}
