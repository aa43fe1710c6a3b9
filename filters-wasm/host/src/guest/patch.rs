//! Changes that modules ask for, made by the host, and the checksums over them (RFC 1071, RFC 1624).

use super::ring::Located;
use smpnet_filter_abi::{NO_OFFSET, Patch, patch_flags};

/// The bytes of a packet, wherever they lie.
pub(crate) trait Bytes {
    /// The byte at an offset; `None` behind the end.
    fn get(&self, off: usize) -> Option<u8>;
    /// Changes the byte at an offset; nothing behind the end.
    fn set(&mut self, off: usize, byte: u8);
}

impl Bytes for [u8] {
    fn get(&self, off: usize) -> Option<u8> {
        <[u8]>::get(self, off).copied()
    }

    fn set(&mut self, off: usize, byte: u8) {
        if let Some(b) = self.get_mut(off) {
            *b = byte;
        }
    }
}

/// Makes a change that was found to lie inside of the packet. `at` is where the headers are; `partial` says that the checksum
/// of the transport header is still to be completed, so that its field holds the sum of the pseudo-header alone.
pub(crate) fn apply(p: &mut (impl Bytes + ?Sized), at: Located, partial: bool, patch: &Patch, bytes: &[u8]) {
    let fix_ip = patch.flags & patch_flags::FIX_IPV4 != 0 && at.ether_type == 0x800 && at.l3 != NO_OFFSET;
    let ip = fix_ip.then(|| ipv4_header(p, at)).flatten();
    let l4 = (patch.flags & patch_flags::FIX_L4 != 0).then(|| transport(p, at)).flatten();
    let (mut ip_change, mut l4_change, mut pseudo_change) = (Change::default(), Change::default(), Change::default());
    for (i, &new) in bytes.iter().enumerate() {
        let off = usize::from(patch.off) + i;
        let Some(old) = p.get(off) else { return };
        p.set(off, new);
        if let Some(f) = &ip {
            ip_change.byte(f, off, old, new);
        }
        if let Some((f, pseudo)) = &l4 {
            l4_change.byte(f, off, old, new);
            if let Some(f) = pseudo {
                pseudo_change.byte(f, off, old, new);
            }
        }
    }
    if let Some(f) = ip {
        ip_change.store(p, f.field, |sum, change| !add(!sum, change));
    }
    let Some((f, pseudo)) = l4 else { return };
    if partial {
        pseudo_change.store(p, f.field, add);
        return;
    }
    let both = Change { sum: l4_change.sum + pseudo_change.sum, any: l4_change.any | pseudo_change.any };
    let udp = f.udp;
    let none = udp && pseudo.is_some_and(|p| p.end - p.start == 8) && word(p, f.field) == Some(0);
    // A UDP checksum of 0 over IPv4 says that there is none (RFC 768); one that comes out as 0 is sent as all ones.
    if !none {
        both.store(p, f.field, |sum, change| match !add(!sum, change) {
            0 if udp => 0xffff,
            sum => sum,
        });
    }
}

/// A range that a checksum covers.
struct Covered {
    /// Offsets of its first byte, from which words are counted, and behind its last.
    start: usize,
    end: usize,
    /// Offset of the checksum, which is not covered itself.
    field: usize,
    udp: bool,
}

fn ipv4_header(p: &(impl Bytes + ?Sized), at: Located) -> Option<Covered> {
    let start = usize::from(at.l3);
    let end = start + usize::from(p.get(start)? & 15) * 4;
    Some(Covered { start, end, field: start + 10, udp: false })
}

/// What the transport checksum covers, and the addresses of the pseudo-header when it has one. `None` when there is no such
/// header, or it has no checksum of this kind.
fn transport(p: &(impl Bytes + ?Sized), at: Located) -> Option<(Covered, Option<Covered>)> {
    if at.l4 == NO_OFFSET || at.l3 == NO_OFFSET {
        return None;
    }
    let (l3, start) = (usize::from(at.l3), usize::from(at.l4));
    let (proto, len, addresses) = match at.ether_type {
        0x800 => (p.get(l3 + 9)?, usize::from(word(p, l3 + 2)?), l3 + 12..l3 + 20),
        _ => (p.get(l3 + 6)?, usize::from(word(p, l3 + 4)?) + 40, l3 + 8..l3 + 40),
    };
    let field = start
        + match proto {
            6 => 16,
            17 | 136 => 6,
            1 | 58 => 2,
            _ => return None,
        };
    // Behind the IP packet there may be padding. A length of nothing is one that did not fit.
    let least = if at.ether_type == 0x800 { 20 } else { 40 };
    let end = if len <= least { usize::MAX } else { l3 + len };
    let udp = proto == 17 || proto == 136;
    let pseudo = Covered { start: addresses.start, end: addresses.end, field: usize::MAX - 1, udp };
    Some((Covered { start, end, field, udp }, (proto != 1).then_some(pseudo)))
}

/// What is to be added to a one's-complement sum.
#[derive(Clone, Copy, Default)]
struct Change {
    sum: u64,
    any: bool,
}

impl Change {
    fn byte(&mut self, f: &Covered, off: usize, old: u8, new: u8) {
        if off < f.start || off >= f.end || off == f.field || off == f.field + 1 || old == new {
            return;
        }
        // The first byte of a word counts 256-fold; words begin where the covered range begins.
        let shift = if (off - f.start).is_multiple_of(2) { 8 } else { 0 };
        self.sum += u64::from(!(u16::from(old) << shift)) + u64::from(u16::from(new) << shift);
        self.any = true;
    }

    fn store(self, p: &mut (impl Bytes + ?Sized), field: usize, f: impl FnOnce(u16, u64) -> u16) {
        if !self.any {
            return;
        }
        if let Some(old) = word(p, field) {
            let [a, b] = f(old, self.sum).to_be_bytes();
            p.set(field, a);
            p.set(field + 1, b);
        }
    }
}

fn add(sum: u16, change: u64) -> u16 {
    let mut s = u64::from(sum) + change;
    while s > 0xffff {
        s = (s >> 16) + (s & 0xffff);
    }
    s as u16
}

fn word(p: &(impl Bytes + ?Sized), off: usize) -> Option<u16> {
    Some(u16::from_be_bytes([p.get(off)?, p.get(off + 1)?]))
}

#[cfg(test)]
mod tests {
    use super::super::ring::locate;
    use super::*;
    use smpnet_filter_abi::layer;
    use smpnet_stack::wire::checksum::{Sum, checksum};

    /// A packet with right checksums.
    fn packet(six: bool, proto: u8, payload: usize) -> Vec<u8> {
        let header = match proto {
            6 => 20,
            _ => 8,
        };
        let len = header + payload;
        let mut p: Vec<u8> = if six {
            let mut h = vec![0x60, 0, 0, 0, (len >> 8) as u8, len as u8, proto, 64];
            h.extend((0..32).map(|i| 0x20 + i));
            h
        } else {
            let total = 20 + len;
            let mut h =
                vec![0x45, 0, (total >> 8) as u8, total as u8, 0, 1, 0, 0, 64, proto, 0, 0, 10, 0, 0, 1, 10, 9, 8, 7];
            let c = checksum(&h);
            h[10..12].copy_from_slice(&c.to_be_bytes());
            h
        };
        p.extend((0..len).map(|i| (i * 7 + 3) as u8));
        let l4 = p.len() - len;
        let field = l4 + transport(&p[..], locate(at(six), &p, p.len())).map_or(0, |(f, _)| f.field - l4);
        p[field..field + 2].fill(0);
        let c = sums(&p, six).1;
        p[field..field + 2].copy_from_slice(&c.to_be_bytes());
        p
    }

    fn at(six: bool) -> u32 {
        if six { layer::INET6 } else { layer::INET }
    }

    /// The checksum over the IPv4 header and over the transport part, both 0 when they are right.
    fn sums(p: &[u8], six: bool) -> (u16, u16) {
        let (l4, proto) = if six { (40, p[6]) } else { (20, p[9]) };
        let mut sum = Sum::new();
        if six || proto != 1 {
            let addresses = if six { &p[8..40] } else { &p[12..20] };
            sum = sum.add(addresses).word(u16::from(proto)).word((p.len() - l4) as u16);
        }
        (if six { 0 } else { checksum(&p[..20]) }, sum.add(&p[l4..]).finish())
    }

    fn change(p: &mut [u8], six: bool, off: u16, flags: u8, bytes: &[u8]) {
        let patch = Patch { packet: 0, flags, off, len: bytes.len() as u16, reserved: 0 };
        let located = locate(at(six), p, p.len());
        apply(p, located, false, &patch, bytes);
        assert_eq!(&p[usize::from(off)..usize::from(off) + bytes.len()].len(), &bytes.len());
    }

    #[test]
    fn checksums_stay_right_wherever_a_patch_lies_at_odd_offsets_too() {
        let both = patch_flags::FIX_IPV4 | patch_flags::FIX_L4;
        for six in [false, true] {
            for proto in [6, 17, if six { 58 } else { 1 }] {
                for payload in [0usize, 1, 30, 31] {
                    let good = packet(six, proto, payload);
                    assert_eq!(sums(&good, six), (0, 0), "{six} {proto} {payload}");
                    let l4 = if six { 40 } else { 20 };
                    let field = transport(&good[..], locate(at(six), &good, good.len())).unwrap().0.field;
                    for off in 0..good.len() {
                        for len in 1..=5usize.min(good.len() - off) {
                            let range = off..off + len;
                            // Version, lengths and protocol say what the packet is: to change them makes another one.
                            let fixed: &[usize] = if six { &[0, 4, 5, 6] } else { &[0, 2, 3, 9] };
                            // Patched checksum fields hold what was patched in, plus the change.
                            let sums_hit = [field, field + 1, 10, 11];
                            let hit = |all: &[usize]| all.iter().any(|o| range.contains(o));
                            if hit(fixed) || hit(&sums_hit[..2]) || (!six && hit(&sums_hit[2..])) {
                                continue;
                            }
                            let mut p = good.clone();
                            let bytes: Vec<u8> = (0..len).map(|i| (off * 31 + i * 57 + 1) as u8).collect();
                            change(&mut p, six, off as u16, both, &bytes);
                            assert_eq!(p[range.clone()], bytes);
                            let right = sums(&p, six);
                            assert!(
                                right == (0, 0),
                                "six {six} proto {proto} payload {payload} {range:?}: {right:x?} l4 {l4}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn without_the_flags_checksums_are_left_alone_and_an_absent_one_stays_absent() {
        let good = packet(false, 17, 8);
        let mut p = good.clone();
        change(&mut p, false, 16, 0, &[1, 2, 3, 4]);
        assert_eq!((p[10..12].to_vec(), p[26..28].to_vec()), (good[10..12].to_vec(), good[26..28].to_vec()));
        let mut p = good.clone();
        p[26..28].fill(0);
        change(&mut p, false, 16, patch_flags::FIX_L4, &[1, 2, 3, 4]);
        assert_eq!(p[26..28], [0, 0]);
    }

    #[test]
    fn a_checksum_still_to_be_completed_follows_the_addresses_only() {
        let mut p = packet(false, 17, 8);
        let pseudo = |p: &[u8]| Sum::new().add(&p[12..20]).word(17).word(16).fold();
        let field = pseudo(&p);
        p[26..28].copy_from_slice(&field.to_be_bytes());
        let located = locate(layer::INET, &p, p.len());
        for (off, bytes) in [(16u16, [192, 168, 7, 1]), (29, [9, 9, 9, 9])] {
            let patch = Patch { packet: 0, flags: patch_flags::FIX_L4, off, len: 4, reserved: 0 };
            apply(&mut p[..], located, true, &patch, &bytes);
        }
        assert_eq!(p[26..28], pseudo(&p).to_be_bytes());
    }
}
