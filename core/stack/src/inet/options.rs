//! IP options (RFC 791; RFC 1812, section 5.2.4). Record route and timestamp are honoured on the way through; source routes
//! are refused unless `net.inet.ip.allowsrcrt` is set, and then followed when `net.inet.ip.forwsrcrt` is; what is unknown
//! passes.

use super::decide::{ErrorKind, IpInfo, odd};
use crate::hash::FlowKey;
use crate::net::ifnet::Ifnet;
use crate::net::path::Path;
use crate::route::NextHopKind;
use crate::wire::{be32, ipv4, put32};
use smpnet_abi::{Cell, DropReason};
use std::sync::atomic::Ordering::Relaxed;

const RECORD_ROUTE: u8 = 7;
const TIMESTAMP: u8 = 68;
const LOOSE_ROUTE: u8 = 131;
const STRICT_ROUTE: u8 = 137;

/// What becomes of a packet with a source route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Routed {
    /// It is refused.
    Refused,
    /// It passes by: we are no stop of it, which a strict one does not allow.
    PassesBy,
    /// We are a stop of it, or its end.
    Stops,
}

/// Judges and applies options. `b` is the whole header; `address` is recorded where asked for (none: judge only); `time` is
/// milliseconds since midnight UT. Returns whether bytes changed.
pub(crate) fn apply(b: &mut [u8], address: Option<u32>, time: u32, routed: Routed) -> Result<bool, ErrorKind> {
    let mut changed = false;
    let mut i = 20;
    while i < b.len() {
        let problem = |at: usize| ErrorKind::ParamProblem(at as u8);
        let kind = b[i];
        if kind == 0 {
            break;
        }
        if kind == 1 {
            i += 1;
            continue;
        }
        let len = match b.get(i + 1) {
            Some(l) => usize::from(*l),
            None => return Err(problem(i)),
        };
        if len < 2 || i + len > b.len() {
            return Err(problem(i + 1));
        }
        let o = &mut b[i..i + len];
        match kind {
            LOOSE_ROUTE | STRICT_ROUTE if routed == Routed::Refused => return Err(ErrorKind::SourceRoute),
            STRICT_ROUTE if routed == Routed::PassesBy => return Err(ErrorKind::SourceRoute),
            LOOSE_ROUTE | STRICT_ROUTE if len < 3 || o[2] < 4 => return Err(problem(i + 2)),
            RECORD_ROUTE => {
                if len < 3 || o[2] < 4 {
                    return Err(problem(i + 2));
                }
                let at = usize::from(o[2]) - 1;
                if let Some(a) = address
                    && at + 4 <= len
                {
                    put32(o, at, a);
                    o[2] += 4;
                    changed = true;
                }
            }
            TIMESTAMP => {
                if len < 4 || o[2] < 5 {
                    return Err(problem(i + 2));
                }
                let at = usize::from(o[2]) - 1;
                let flag = o[3] & 0xf;
                let size = if flag == 0 { 4 } else { 8 };
                let Some(a) = address else {
                    i += len;
                    continue;
                };
                if at + size > len {
                    let over = o[3] >> 4;
                    if over == 15 {
                        return Err(problem(i + 3));
                    }
                    o[3] = (over + 1) << 4 | flag;
                    changed = true;
                } else if flag == 0 {
                    put32(o, at, time);
                    o[2] += 4;
                    changed = true;
                } else if flag == 1 || flag == 3 && be32(o, at) == a {
                    put32(o, at, a);
                    put32(o, at + 4, time);
                    o[2] += 8;
                    changed = true;
                } else if flag != 3 {
                    return Err(problem(i + 3));
                }
            }
            _ => {}
        }
        i += len;
    }
    Ok(changed)
}

/// Where a source route begins in a header, and where its next stop stands; none when there is none, or none left.
fn next_stop(header: &[u8]) -> Option<(usize, usize)> {
    let mut i = 20;
    while i + 2 < header.len() && header[i] != 0 {
        if header[i] == 1 {
            i += 1;
            continue;
        }
        let len = usize::from(header[i + 1]);
        if len < 2 || i + len > header.len() {
            return None;
        }
        if matches!(header[i], LOOSE_ROUTE | STRICT_ROUTE) {
            let pointer = usize::from(header[i + 2]);
            return (pointer >= 4 && pointer + 3 <= len).then_some((i, i + pointer - 1));
        }
        i += len;
    }
    None
}

/// Milliseconds since midnight UT.
fn wall_time() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (now.as_millis() % 86_400_000) as u32
}

impl<'a> Path<'a> {
    /// Options of a packet that is forwarded; `stop` when its source route led it here. False when it was dropped for them.
    pub(crate) fn forward_options(
        &mut self,
        ifp: &'a Ifnet,
        out: &'a Ifnet,
        c: Cell,
        info: &IpInfo,
        stop: bool,
    ) -> bool {
        let address = self.s.source_address(self.section, out, info.dst).unwrap_or(0);
        self.options(ifp, c, info, Some(address), if stop { Routed::Stops } else { Routed::PassesBy })
    }

    /// Options of a packet for us.
    pub(crate) fn local_options(&mut self, ifp: &'a Ifnet, c: Cell, info: &IpInfo) -> bool {
        self.options(ifp, c, info, None, Routed::Stops)
    }

    /// Follows the source route of a packet that came to an address of ours, if source routes are allowed and it has stops
    /// left (RFC 791, section 3.1): the next stop becomes the destination, and our address on the way out takes its place in
    /// the list. True when the packet was taken care of, sent on or dropped.
    pub(crate) fn source_route(&mut self, ifp: &'a Ifnet, c: Cell, info: &IpInfo) -> bool {
        let t = &self.s.tunables;
        if t.allowsrcrt.load(Relaxed) == 0 {
            return false;
        }
        let forwards = t.forwsrcrt.load(Relaxed) != 0 && t.forwarding.load(Relaxed) != 0;
        let mut header = [0u8; 60];
        let n = usize::from(info.header_len);
        header[..n].copy_from_slice(&self.packet(c).data()[..n]);
        let header = &mut header[..n];
        let Some((at, place)) = next_stop(header) else { return false };
        if !forwards {
            self.icmp_error(c, ErrorKind::SourceRoute);
            self.drop_on(ifp, DropReason::IpNoForward, c);
            return true;
        }
        let next = be32(header, place);
        let hash = FlowKey::new(info.src, next, info.proto, info.ports).hash(self.s.seed);
        let hop = self.s.fib.resolve(self.s.fib.lookup(next), hash);
        let near = matches!(hop.kind, NextHopKind::Connected | NextHopKind::Local);
        let out = self.ifnet(hop.ifindex).filter(|_| !odd(next) && (near || header[at] == LOOSE_ROUTE));
        let address = out.and_then(|o| self.s.source_address(self.section, o, next));
        let Some(address) = address else {
            self.icmp_error(c, ErrorKind::SourceRoute);
            self.drop_on(ifp, DropReason::IpBadOption, c);
            return true;
        };
        put32(header, place, address);
        put32(header, 16, next);
        header[at + 2] += 4;
        ipv4::refresh_checksum(header);
        self.packet(c).data_mut()[..n].copy_from_slice(header);
        let onward = IpInfo { dst: next, slow: true, ..*info };
        self.ip_route_from(ifp, c, &onward, hop, true, true);
        true
    }

    fn options(&mut self, ifp: &'a Ifnet, c: Cell, info: &IpInfo, address: Option<u32>, routed: Routed) -> bool {
        let allowed = self.s.tunables.allowsrcrt.load(Relaxed) != 0;
        let routed = if allowed { routed } else { Routed::Refused };
        let mut p = self.packet(c);
        let mut header = [0u8; 60];
        let n = usize::from(info.header_len);
        header[..n].copy_from_slice(&p.data()[..n]);
        match apply(&mut header[..n], address, wall_time(), routed) {
            Ok(false) => true,
            Ok(true) => {
                ipv4::refresh_checksum(&mut header[..n]);
                p.data_mut()[..n].copy_from_slice(&header[..n]);
                true
            }
            Err(kind) => {
                self.icmp_error(c, kind);
                self.drop_on(ifp, DropReason::IpBadOption, c);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(options: &[u8]) -> Vec<u8> {
        let mut b = vec![0u8; 20];
        b.extend_from_slice(options);
        b
    }

    #[test]
    fn a_route_is_recorded_while_there_is_room() {
        let mut b = with(&[RECORD_ROUTE, 7, 4, 0, 0, 0, 0, 0]);
        assert_eq!(apply(&mut b, Some(0x0a00_0001), 0, Routed::Refused), Ok(true));
        assert_eq!(b[20..], [RECORD_ROUTE, 7, 8, 10, 0, 0, 1, 0]);
        assert_eq!(apply(&mut b, Some(0x0a00_0002), 0, Routed::Refused), Ok(false), "it is full");
    }

    #[test]
    fn a_timestamp_is_added_or_its_absence_counted() {
        let mut b = with(&[TIMESTAMP, 8, 5, 0, 0, 0, 0, 0]);
        assert_eq!(apply(&mut b, Some(1), 0x0102_0304, Routed::Refused), Ok(true));
        assert_eq!(b[20..], [TIMESTAMP, 8, 9, 0, 1, 2, 3, 4]);
        assert_eq!(apply(&mut b, Some(1), 0, Routed::Refused), Ok(true));
        assert_eq!(b[23], 1 << 4);
    }

    #[test]
    fn source_routes_and_malformed_options_are_refused() {
        assert_eq!(
            apply(&mut with(&[LOOSE_ROUTE, 7, 4, 1, 2, 3, 4, 0]), Some(1), 0, Routed::Refused),
            Err(ErrorKind::SourceRoute)
        );
        assert_eq!(apply(&mut with(&[1, 1, 1, 99]), Some(1), 0, Routed::Refused), Err(ErrorKind::ParamProblem(23)));
        assert_eq!(apply(&mut with(&[99, 1, 0, 0]), Some(1), 0, Routed::Refused), Err(ErrorKind::ParamProblem(21)));
        assert_eq!(apply(&mut with(&[99, 5, 0, 0]), Some(1), 0, Routed::Refused), Err(ErrorKind::ParamProblem(21)));
        assert_eq!(
            apply(&mut with(&[RECORD_ROUTE, 7, 3, 0, 0, 0, 0, 0]), None, 0, Routed::Refused),
            Err(ErrorKind::ParamProblem(22))
        );
        assert_eq!(apply(&mut with(&[0, 99, 99, 99]), None, 0, Routed::Refused), Ok(false));
    }
}
