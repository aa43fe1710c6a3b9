//! Writing pcapng (draft-ietf-opsawg-pcapng): sections, interfaces, packets and statistics, into memory.
//!
//! The crate `pcap-file`, which reads and writes capture files elsewhere in this tree, writes the time stamps of statistics
//! with their halves exchanged and knows no verdicts, so this writer stands here.

use smpnet_stack::Link;

/// Section header block.
pub const SHB: u32 = 0x0a0d_0d0a;
/// Interface description block.
pub const IDB: u32 = 1;
/// Interface statistics block.
pub const ISB: u32 = 5;
/// Enhanced packet block.
pub const EPB: u32 = 6;

/// What is told of an interface.
#[derive(Clone, Debug, Default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The operator's note; may be empty.
    pub description: String,
    /// Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Bits per second; 0 for unknown.
    pub speed: u64,
    /// The capture filter; may be empty.
    pub filter: String,
}

/// Options of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct PacketOptions<'a> {
    /// `epb_flags`.
    pub flags: u32,
    /// Packets lost since the one before.
    pub lost: u64,
    /// The packet was dropped, and why.
    pub dropped: Option<&'a str>,
    /// A word on it; one that was dropped has its reason instead.
    pub comment: Option<&'a str>,
}

/// Bits of `epb_flags`.
pub mod flags {
    /// Came in.
    pub const IN: u32 = 1;
    /// Went out.
    pub const OUT: u32 = 2;
    /// To one station.
    pub const UNICAST: u32 = 1 << 2;
    /// To a group.
    pub const MULTICAST: u32 = 2 << 2;
    /// To all.
    pub const BROADCAST: u32 = 3 << 2;
}

/// `TC_ACT_SHOT` in an `epb_verdict` of the kind "Linux eBPF TC": the pcapng verdict that means "dropped by a packet filter".
const VERDICT_DROPPED: [u8; 9] = {
    let two = 2u64.to_ne_bytes();
    [1, two[0], two[1], two[2], two[3], two[4], two[5], two[6], two[7]]
};

/// A pcapng stream being written, in this machine's byte order. What was written waits in [`Pcapng::out`].
#[derive(Default)]
pub struct Pcapng {
    /// Bytes to be taken away.
    pub out: Vec<u8>,
    interfaces: u32,
    snaplen: u32,
}

impl Pcapng {
    /// Begins a section: the system's name, this program, and a word on what it is a capture of.
    pub fn new(snaplen: u32, system: &str, comment: &str) -> Pcapng {
        let mut p = Pcapng { out: Vec::with_capacity(1 << 16), interfaces: 0, snaplen };
        p.block(SHB, |p| {
            p.u32(0x1a2b_3c4d);
            p.u16(1);
            p.u16(0);
            p.out.extend_from_slice(&u64::MAX.to_ne_bytes());
            p.text(3, system);
            p.text(4, concat!("smpnet ", env!("CARGO_PKG_VERSION")));
            p.text(1, comment);
            p.end_of_options();
        });
        p
    }

    /// Describes an interface; returns its number in the section.
    pub fn interface(&mut self, link: Link, i: &Interface) -> u32 {
        let link_type = match link {
            Link::Ether => 1u16,
            Link::Raw => 101,
        };
        self.block(IDB, |p| {
            p.u16(link_type);
            p.u16(0);
            p.u32(p.snaplen);
            p.text(2, &i.name);
            p.text(3, &i.description);
            if let Some(mac) = i.mac {
                p.option(6, &mac);
            }
            if i.speed > 0 {
                p.option(8, &i.speed.to_ne_bytes());
            }
            // Time stamps in nanoseconds.
            p.option(9, &[9]);
            if !i.filter.is_empty() {
                let filter: Vec<u8> = std::iter::once(0).chain(i.filter.bytes()).collect();
                p.option(11, &filter);
            }
            p.end_of_options();
        });
        self.interfaces += 1;
        self.interfaces - 1
    }

    /// A packet of an interface: nanoseconds since 1970, length on the wire, the bytes kept.
    pub fn packet(&mut self, interface: u32, time_ns: u64, wire_len: u32, bytes: &[u8], o: &PacketOptions<'_>) {
        debug_assert!(interface < self.interfaces);
        self.block(EPB, |p| {
            p.u32(interface);
            p.time(time_ns);
            p.u32(bytes.len() as u32);
            p.u32(wire_len);
            p.padded(bytes);
            p.option(2, &o.flags.to_ne_bytes());
            if o.lost > 0 {
                p.option(4, &o.lost.to_ne_bytes());
            }
            if o.dropped.is_some() {
                p.option(7, &VERDICT_DROPPED);
            }
            p.text(1, o.dropped.or(o.comment).unwrap_or(""));
            p.end_of_options();
        });
    }

    /// What was counted on an interface between two times: received, accepted by the filter, lost, handed on.
    pub fn statistics(&mut self, interface: u32, from_ns: u64, to_ns: u64, counts: [u64; 4]) {
        let [received, accepted, lost, delivered] = counts;
        self.block(ISB, |p| {
            p.u32(interface);
            p.time(to_ns);
            for (code, time) in [(2, from_ns), (3, to_ns)] {
                p.u16(code);
                p.u16(8);
                p.time(time);
            }
            // dumpcap puts its losses into isb_ifdrop, where readers look for them; isb_osdrop says whose they are.
            for (code, n) in [(4, received), (5, lost), (6, accepted), (7, lost), (8, delivered)] {
                p.option(code, &n.to_ne_bytes());
            }
            p.end_of_options();
        });
    }

    /// A block: type, length, `body`, length.
    fn block(&mut self, kind: u32, body: impl FnOnce(&mut Pcapng)) {
        let start = self.out.len();
        self.u32(kind);
        self.u32(0);
        body(self);
        let len = (self.out.len() - start + 4) as u32;
        self.u32(len);
        self.out[start + 4..start + 8].copy_from_slice(&len.to_ne_bytes());
    }

    fn u16(&mut self, v: u16) {
        self.out.extend_from_slice(&v.to_ne_bytes());
    }

    fn u32(&mut self, v: u32) {
        self.out.extend_from_slice(&v.to_ne_bytes());
    }

    /// The high half of a time stands first in either byte order.
    fn time(&mut self, ns: u64) {
        self.u32((ns >> 32) as u32);
        self.u32(ns as u32);
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(&[0; 3][..bytes.len().next_multiple_of(4) - bytes.len()]);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        // No option of ours comes near 64 KiB; a filter that does is cut.
        let value = &value[..value.len().min(0xffff)];
        self.u16(code);
        self.u16(value.len() as u16);
        self.padded(value);
    }

    /// A text option, unless it is empty.
    fn text(&mut self, code: u16, text: &str) {
        if !text.is_empty() {
            self.option(code, text.as_bytes());
        }
    }

    fn end_of_options(&mut self) {
        self.u32(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcapng::{
        Block, PcapNgReader,
        blocks::{
            enhanced_packet::EnhancedPacketOption, interface_description::InterfaceDescriptionOption,
            interface_statistics::InterfaceStatisticsOption,
        },
    };

    /// The blocks as another implementation reads them.
    fn read(bytes: &[u8]) -> Vec<Block<'static>> {
        let mut reader = PcapNgReader::new(bytes).unwrap();
        let mut all = Vec::new();
        while let Some(b) = reader.next_block() {
            all.push(b.unwrap().into_owned());
        }
        all
    }

    #[test]
    fn another_reader_finds_what_was_written() {
        let mut p = Pcapng::new(262_144, "Linux", "a capture");
        let i = Interface {
            name: "lan0".into(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            filter: "udp".into(),
            ..Interface::default()
        };
        assert_eq!(p.interface(Link::Ether, &i), 0);
        assert_eq!(p.interface(Link::Raw, &Interface { name: "gif0".into(), ..Interface::default() }), 1);
        let time = 1_700_000_000_123_456_789;
        p.packet(0, time, 1514, &[7; 61], &PacketOptions { flags: flags::IN | flags::UNICAST, ..Default::default() });
        let why = "filtered: block";
        p.packet(1, time + 1, 3, &[1, 2, 3], &PacketOptions { flags: 0, lost: 9, dropped: Some(why), comment: None });
        p.statistics(0, time, time + 5, [10, 8, 2, 6]);
        let blocks = read(&p.out);
        let Block::InterfaceDescription(d) = &blocks[0] else { panic!("{:?}", blocks[0]) };
        assert!(d.options.contains(&InterfaceDescriptionOption::IfName("lan0".into())));
        assert!(d.options.contains(&InterfaceDescriptionOption::IfTsResol(9)));
        assert!(d.options.contains(&InterfaceDescriptionOption::IfFilter(b"\0udp"[..].into())));
        let Block::EnhancedPacket(e) = &blocks[2] else { panic!("{:?}", blocks[2]) };
        assert_eq!(
            (e.interface_id, e.timestamp.as_nanos() as u64, e.original_len, &e.data[..]),
            (0, time, 1514, &[7; 61][..])
        );
        assert_eq!(e.options, [EnhancedPacketOption::Flags(5)]);
        let Block::EnhancedPacket(e) = &blocks[3] else { panic!("{:?}", blocks[3]) };
        assert!(e.options.contains(&EnhancedPacketOption::DropCount(9)));
        assert!(e.options.contains(&EnhancedPacketOption::Comment(why.into())));
        let Block::InterfaceStatistics(s) = &blocks[4] else { panic!("{:?}", blocks[4]) };
        for o in [
            InterfaceStatisticsOption::IsbIfRecv(10),
            InterfaceStatisticsOption::IsbFilterAccept(8),
            InterfaceStatisticsOption::IsbOsDrop(2),
            InterfaceStatisticsOption::IsbUsrDeliv(6),
        ] {
            assert!(s.options.contains(&o), "{o:?}");
        }
        assert_eq!(blocks.len(), 5);
    }

    #[test]
    fn every_block_is_a_multiple_of_four_bytes_and_says_its_length_twice() {
        for n in 0..9 {
            let mut p = Pcapng::new(0, "", &"x".repeat(n));
            p.interface(Link::Ether, &Interface { name: "i".repeat(n), ..Interface::default() });
            p.packet(0, 0, 0, &vec![0; n], &PacketOptions::default());
            let mut rest = &p.out[..];
            while !rest.is_empty() {
                let len = u32::from_ne_bytes(rest[4..8].try_into().unwrap()) as usize;
                assert_eq!(len % 4, 0);
                assert_eq!(u32::from_ne_bytes(rest[len - 4..len].try_into().unwrap()) as usize, len);
                rest = &rest[len..];
            }
        }
    }
}
