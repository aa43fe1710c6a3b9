//! Edits of packets, with the checksums that go with them.

use super::read::Edit;
use crate::wire::{Ip, protocol};
use smpnet_filter_abi::patch_flags::{FIX_IPV4, FIX_L4};
use std::vec::Vec;

/// Applies an edit to a packet whose network header stands at `l3`. Checksums are corrected by what changed (RFC 1624), so
/// that one that was wrong stays wrong.
pub fn apply(bytes: &mut [u8], l3: usize, edit: &Edit) {
    let before = bytes.to_vec();
    bytes[edit.off..edit.off + edit.bytes.len()].copy_from_slice(&edit.bytes);
    let Some(ip) = before.get(l3..).and_then(Ip::parse) else { return };
    let Ok(layout) = layout(&ip, l3) else { return };
    if edit.flags & FIX_IPV4 != 0 && matches!(ip, Ip::V4(_)) {
        let range = l3..layout.transport;
        correct(bytes, &before, l3 + 10, &[range], false);
    }
    if edit.flags & FIX_L4 != 0
        && let Some((field, is_udp)) = layout.checksum
    {
        let mut ranges: Vec<_> = layout.addresses.into_iter().collect();
        ranges.push(layout.transport..bytes.len());
        correct(bytes, &before, field, &ranges, is_udp);
    }
}

struct Layout {
    /// Where the transport header begins.
    transport: usize,
    /// Its checksum, and whether 0 stands for none there.
    checksum: Option<(usize, bool)>,
    /// The addresses, where the checksum covers them.
    addresses: Option<core::ops::Range<usize>>,
}

fn layout(ip: &Ip<'_>, l3: usize) -> Result<Layout, ()> {
    let (header, addresses) = match ip {
        Ip::V4(ip) => (ip.header_len(), l3 + 12..l3 + 20),
        Ip::V6(ip) => (ip.header_len(), l3 + 8..l3 + 40),
    };
    let transport = l3 + header;
    let rest = ip.transport().ok_or(())?;
    let (field, covered) = match ip.protocol() {
        protocol::TCP => (16, true),
        protocol::UDP => (6, true),
        protocol::ICMP => (2, false),
        protocol::ICMPV6 => (2, true),
        _ => return Ok(Layout { transport, checksum: None, addresses: None }),
    };
    let checksum = (rest.len() >= field + 2).then_some((transport + field, ip.protocol() == protocol::UDP));
    Ok(Layout { transport, checksum, addresses: covered.then_some(addresses) })
}

/// Corrects the checksum at `field` for what changed in `ranges`, each of which begins at an even place of what is summed.
/// An edit of the checksum itself is taken as it is.
fn correct(bytes: &mut [u8], before: &[u8], field: usize, ranges: &[core::ops::Range<usize>], zero_is_none: bool) {
    if bytes[field..field + 2] != before[field..field + 2] {
        return;
    }
    let old = u16::from_be_bytes([before[field], before[field + 1]]);
    if zero_is_none && old == 0 {
        return;
    }
    let mut sum = u32::from(!old);
    for range in ranges {
        let (now, then) = (&bytes[range.clone()], &before[range.clone()]);
        for (now, then) in now.chunks(2).zip(then.chunks(2)) {
            let word = |b: &[u8]| u32::from(b[0]) << 8 | u32::from(b.get(1).copied().unwrap_or(0));
            sum += word(now) + (0xffff - word(then));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    let sum = if zero_is_none && sum == 0 { 0xffff } else { sum };
    bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}
