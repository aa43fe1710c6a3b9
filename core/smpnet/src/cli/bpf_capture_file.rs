//! Packets of a pcap or pcapng file, for commands that judge them without a daemon.

use pcap_file::{
    DataLink, PcapError,
    pcap::PcapParser,
    pcapng::{Block, PcapNgParser, blocks::interface_description::InterfaceDescriptionOption},
};
use smpnet_bpf::Dlt;
use std::ops::Range;
use std::path::Path;

/// A capture in memory.
pub struct CaptureFile {
    bytes: Vec<u8>,
    packets: Vec<Packet>,
}

struct Packet {
    range: Range<usize>,
    wirelen: u32,
    link: DataLink,
    /// Nanoseconds since 1970.
    ns: u64,
}

/// A packet and what the file says about it.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'c> {
    /// The bytes that were captured.
    pub bytes: &'c [u8],
    /// Length on the wire.
    pub wirelen: u32,
    /// Nanoseconds since 1970.
    pub ns: u64,
}

impl CaptureFile {
    /// Reads a file; whether it is pcap or pcapng shows in its first bytes. The error names the file and the byte where
    /// it is damaged.
    pub fn read(path: &Path) -> Result<CaptureFile, String> {
        let name = path.display();
        let bytes = std::fs::read(path).map_err(|e| format!("{name}: {e}"))?;
        CaptureFile::parse(bytes).map_err(|e| format!("{name}: {e}"))
    }

    fn parse(bytes: Vec<u8>) -> Result<CaptureFile, String> {
        let packets = match bytes.first_chunk::<4>() {
            Some([0x0a, 0x0d, 0x0d, 0x0a]) => pcapng(&bytes)?,
            Some([0xa1, 0xb2, ..] | [0xd4, 0xc3, ..] | [0x4d, 0x3c, ..]) => pcap(&bytes)?,
            Some(_) => return Err("neither a pcap nor a pcapng file".into()),
            None => return Err("too short for a capture file".into()),
        };
        Ok(CaptureFile { bytes, packets })
    }

    /// The packets in the order of the file: captured bytes, and length on the wire.
    pub fn packets(&self) -> impl Iterator<Item = (&[u8], u32)> {
        self.packets.iter().map(|p| (&self.bytes[p.range.clone()], p.wirelen))
    }

    /// The packets in the order of the file, with their times.
    pub fn captured(&self) -> impl Iterator<Item = Captured<'_>> {
        let one = |p: &Packet| Captured { bytes: &self.bytes[p.range.clone()], wirelen: p.wirelen, ns: p.ns };
        self.packets.iter().map(one)
    }

    /// What all packets begin with; `None` for a file without packets.
    ///
    /// # Errors
    /// When they do not all begin with the same, or with something that expressions cannot be compiled for.
    pub fn dlt(&self) -> Result<Option<Dlt>, String> {
        let mut dlt = None;
        for (i, p) in self.packets.iter().enumerate() {
            let this = match p.link {
                DataLink::ETHERNET => Dlt::En10mb,
                DataLink::RAW | DataLink::IPV4 | DataLink::IPV6 => Dlt::Raw,
                other => {
                    return Err(format!(
                        "packet {} is of link type {}; expressions are compiled for Ethernet (1) and raw IP (101, \
                         228, 229)",
                        i + 1,
                        u32::from(other)
                    ));
                }
            };
            if *dlt.get_or_insert(this) != this {
                return Err(format!(
                    "packet {} is {this}, those before it are not: split the file by interface",
                    i + 1
                ));
            }
        }
        Ok(dlt)
    }
}

/// Where `part`, a slice of `whole`, lies in it.
fn place(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    start..start + part.len()
}

fn damaged(at: usize, e: &PcapError) -> String {
    match e {
        PcapError::IncompleteBuffer => format!("ends in the middle of a packet (byte {at}); was the capture cut off?"),
        e => format!("damaged at byte {at}: {e}"),
    }
}

fn pcap(bytes: &[u8]) -> Result<Vec<Packet>, String> {
    let (mut rest, parser) = PcapParser::new(bytes).map_err(|e| damaged(0, &e))?;
    let link = parser.header().datalink;
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let at = place(bytes, rest).start;
        let (next, p) = parser.next_packet(rest).map_err(|e| damaged(at, &e))?;
        packets.push(Packet {
            range: place(bytes, &p.data),
            wirelen: p.orig_len,
            link,
            ns: p.timestamp.as_nanos() as u64,
        });
        rest = next;
    }
    Ok(packets)
}

fn pcapng(bytes: &[u8]) -> Result<Vec<Packet>, String> {
    let (mut rest, mut parser) = PcapNgParser::new(bytes).map_err(|e| damaged(0, &e))?;
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let at = place(bytes, rest).start;
        let (next, block) = parser.next_block(rest).map_err(|e| damaged(at, &e))?;
        rest = next;
        let (interface, data, wirelen, units) = match &block {
            // The crate takes the number for nanoseconds, whatever the interface says.
            Block::EnhancedPacket(p) => (p.interface_id, &p.data, p.original_len, p.timestamp.as_nanos() as u64),
            Block::SimplePacket(p) => (0, &p.data, p.original_len, 0),
            _ => continue,
        };
        let Some(description) = parser.interfaces().get(interface as usize) else {
            return Err(format!("damaged at byte {at}: interface {interface} is not described"));
        };
        let ns = nanoseconds(units, &description.options);
        packets.push(Packet { range: place(bytes, data), wirelen, link: description.linktype, ns });
    }
    Ok(packets)
}

/// A time in the units of its interface, microseconds unless that says otherwise.
fn nanoseconds(units: u64, options: &[InterfaceDescriptionOption<'_>]) -> u64 {
    let given =
        options.iter().find_map(|o| if let InterfaceDescriptionOption::IfTsResol(r) = o { Some(*r) } else { None });
    let resolution = given.unwrap_or(6);
    let second = if resolution & 0x80 == 0 {
        10u128.checked_pow(resolution.into())
    } else {
        1u128.checked_shl(u32::from(resolution & 0x7f))
    };
    second.map_or(0, |s| (u128::from(units) * 1_000_000_000 / s) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A little-endian pcap with one packet of 3 captured bytes, 60 on the wire.
    fn pcap(link: u32) -> Vec<u8> {
        let words = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, link, 7, 5, 3, 60];
        words.iter().flat_map(|w: &u32| w.to_le_bytes()).chain(*b"abc").collect()
    }

    #[test]
    fn a_cut_packet_keeps_its_length_on_the_wire() {
        let capture = CaptureFile::parse(pcap(1)).unwrap();
        assert_eq!(capture.packets().collect::<Vec<_>>(), [(&b"abc"[..], 60)]);
        assert_eq!(capture.captured().next().map(|p| p.ns), Some(7_000_005_000));
        let resolution = |r| [InterfaceDescriptionOption::IfTsResol(r)];
        assert_eq!((nanoseconds(5, &[]), nanoseconds(5, &resolution(9))), (5000, 5));
        assert_eq!((nanoseconds(512, &resolution(0x89)), nanoseconds(5, &resolution(0xff))), (1_000_000_000, 0));
        assert_eq!(capture.dlt(), Ok(Some(Dlt::En10mb)));
        assert_eq!(CaptureFile::parse(pcap(101)).unwrap().dlt(), Ok(Some(Dlt::Raw)));
    }

    #[test]
    fn a_link_type_without_expressions_is_named_and_its_packets_are_there() {
        let capture = CaptureFile::parse(pcap(113)).unwrap();
        assert_eq!(capture.packets().count(), 1);
        assert!(capture.dlt().unwrap_err().contains("link type 113"));
    }

    #[test]
    fn a_damaged_file_says_where() {
        let mut cut = pcap(1);
        cut.truncate(cut.len() - 1);
        let error = |bytes: Vec<u8>| CaptureFile::parse(bytes).err().unwrap_or_default();
        assert!(error(cut).contains("ends in the middle of a packet (byte 24)"));
        assert!(error(b"hello".to_vec()).contains("neither"));
        assert!(error(b"he".to_vec()).contains("too short"));
    }
}
