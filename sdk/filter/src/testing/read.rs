//! The ring as the host reads and writes it, and packets from files.

use super::Fate;
use crate::wire::{Ethernet, Ip, ether_type};
use crate::{Layer, Manifest};
use smpnet_filter_abi as abi;
use std::format;
use std::path::Path;
use std::string::{String, ToString};
use std::time::Duration;
use std::vec::Vec;

/// What the host says of a packet.
pub fn describe(bytes: &[u8], layer: Layer, window: usize, data: u32, rcvif: u32) -> abi::Packet {
    let cap_len = bytes.len().min(window);
    let (mut ether_type, mut l3_off) = match layer {
        Layer::Ether => (0, abi::NO_OFFSET),
        Layer::Inet => (ether_type::IPV4, 0),
        Layer::Inet6 => (ether_type::IPV6, 0),
    };
    let mut flags = if bytes.len() > window { abi::packet_flags::CUT } else { 0 };
    if let Some(e) = Ethernet::parse(bytes).filter(|_| layer == Layer::Ether) {
        (ether_type, l3_off) = (e.ether_type(), e.header_len() as u16);
        flags |= match e.destination() {
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => abi::packet_flags::BROADCAST,
            [first, ..] if first & 1 != 0 => abi::packet_flags::MULTICAST,
            _ => 0,
        };
    }
    let ip = bytes.get(usize::from(l3_off)..).and_then(Ip::parse);
    let header = ip.filter(|ip| ip.transport().is_some()).map(|ip| match ip {
        Ip::V4(ip) => ip.header_len(),
        Ip::V6(ip) => ip.header_len(),
    });
    abi::Packet {
        data,
        cap_len: cap_len as u16,
        flags,
        wire_len: bytes.len() as u32,
        flow_hash: 0,
        mark: 0,
        rcvif,
        l3_off,
        l4_off: header.map_or(abi::NO_OFFSET, |len| l3_off + len as u16),
        ether_type,
        vlan_tci: 0,
    }
}

/// What became of a packet; only after [`check`].
pub fn fate(v: &abi::Verdict) -> Fate {
    match v.verdict & 0xff {
        abi::verdict::DROP => Fate::Drop,
        abi::verdict::REJECT => Fate::Reject,
        _ if v.verdict & abi::verdict::MARK != 0 => Fate::Mark(v.mark),
        _ => Fate::Pass,
    }
}

/// A change to a packet.
pub struct Edit {
    pub packet: usize,
    pub off: usize,
    pub flags: u8,
    pub bytes: Vec<u8>,
}

/// The patches of the ring; a record that is not whole ends them.
pub fn patches(ring: &abi::Ring) -> impl Iterator<Item = Edit> + '_ {
    let mut rest = ring.patches.get(..ring.patch_len as usize).unwrap_or(&[]);
    core::iter::from_fn(move || {
        let (head, body) = rest.split_first_chunk::<8>()?;
        let len = usize::from(u16::from_le_bytes([head[4], head[5]]));
        let bytes = body.get(..len)?.to_vec();
        rest = body.get(len.next_multiple_of(4)..)?;
        let off = usize::from(u16::from_le_bytes([head[2], head[3]]));
        Some(Edit { packet: usize::from(head[0]), off, flags: head[1], bytes })
    })
}

/// Holds what the filter wrote to the rules of the ABI.
pub fn check(ring: &abi::Ring, manifest: &Manifest, window: usize) -> Result<(), String> {
    use abi::capability::{EDIT, MARK, REJECT};
    let n = ring.n as usize;
    for (i, v) in ring.verdicts[..n].iter().enumerate() {
        let known = match v.verdict {
            abi::verdict::PASS | abi::verdict::DROP => None,
            abi::verdict::REJECT => Some(REJECT),
            v if v == abi::verdict::PASS | abi::verdict::MARK => Some(MARK),
            other => return Err(format!("verdict {other:#x} of packet {i} is unknown")),
        };
        if let Some(capability) = known.filter(|c| !manifest.has_capability(c)) {
            return Err(format!("the verdict of packet {i} needs the capability {capability}"));
        }
    }
    if ring.patch_len > 0 && !manifest.has_capability(EDIT) {
        return Err("an edit needs the capability edit".into());
    }
    let mut read = 0;
    for edit in patches(ring) {
        let end = edit.off + edit.bytes.len();
        if edit.packet >= n || end > usize::from(ring.packets[edit.packet].cap_len) || end > window {
            return Err(format!("an edit of bytes {} to {end} of packet {}", edit.off, edit.packet));
        }
        read += 8 + edit.bytes.len().next_multiple_of(4);
    }
    if read != ring.patch_len as usize {
        return Err(format!("patch_len is {}, and the patches have {read} bytes", ring.patch_len));
    }
    match ring.counters.iter().skip(manifest.counters.len()).any(|c| *c != 0) {
        true => Err("a counter that the manifest does not have".into()),
        false => Ok(()),
    }
}

/// Packets of a file, each with its time.
pub fn pcap(file: &Path) -> Result<Vec<(Duration, Vec<u8>)>, String> {
    use pcap_file::pcapng::Block;
    let named = |e: &dyn ToString| format!("{}: {}", file.display(), e.to_string());
    let bytes = std::fs::read(file).map_err(|e| named(&e))?;
    let mut packets = Vec::new();
    // The first word of a section header block (draft-ietf-opsawg-pcapng).
    if bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) {
        let mut reader = pcap_file::pcapng::PcapNgReader::new(&bytes[..]).map_err(|e| named(&e))?;
        while let Some(block) = reader.next_block() {
            match block.map_err(|e| named(&e))? {
                Block::EnhancedPacket(p) => packets.push((p.timestamp, p.data.into_owned())),
                Block::SimplePacket(p) => packets.push((Duration::ZERO, p.data.into_owned())),
                _ => {}
            }
        }
    } else {
        let mut reader = pcap_file::pcap::PcapReader::new(&bytes[..]).map_err(|e| named(&e))?;
        while let Some(packet) = reader.next_packet() {
            let packet = packet.map_err(|e| named(&e))?;
            packets.push((packet.timestamp, packet.data.into_owned()));
        }
    }
    Ok(packets)
}
