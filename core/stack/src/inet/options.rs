//! IP options (RFC 791; RFC 1812, section 5.2.4). Record route and timestamp are honoured on the way through; source routes
//! are refused, as by default everywhere; what is unknown passes.

use super::decide::{ErrorKind, IpInfo};
use crate::net::ifnet::Ifnet;
use crate::net::path::Path;
use crate::wire::{be32, ipv4, put32};
use smpnet_abi::{Cell, DropReason};

const RECORD_ROUTE: u8 = 7;
const TIMESTAMP: u8 = 68;
const LOOSE_ROUTE: u8 = 131;
const STRICT_ROUTE: u8 = 137;

/// Judges and applies options. `b` is the whole header; `address` is recorded where asked for (none: judge only); `time` is
/// milliseconds since midnight UT. Returns whether bytes changed.
pub(crate) fn apply(b: &mut [u8], address: Option<u32>, time: u32) -> Result<bool, ErrorKind> {
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
            LOOSE_ROUTE | STRICT_ROUTE => return Err(ErrorKind::SourceRoute),
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

/// Milliseconds since midnight UT.
fn wall_time() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (now.as_millis() % 86_400_000) as u32
}

impl<'a> Path<'a> {
    /// Options of a packet that is forwarded. False when it was dropped for them.
    pub(crate) fn forward_options(&mut self, ifp: &'a Ifnet, out: &'a Ifnet, c: Cell, info: &IpInfo) -> bool {
        let address = self.s.source_address(self.section, out, info.dst).unwrap_or(0);
        self.options(ifp, c, info, Some(address))
    }

    /// Options of a packet for us.
    pub(crate) fn local_options(&mut self, ifp: &'a Ifnet, c: Cell, info: &IpInfo) -> bool {
        self.options(ifp, c, info, None)
    }

    fn options(&mut self, ifp: &'a Ifnet, c: Cell, info: &IpInfo, address: Option<u32>) -> bool {
        let mut p = self.packet(c);
        let mut header = [0u8; 60];
        let n = usize::from(info.header_len);
        header[..n].copy_from_slice(&p.data()[..n]);
        match apply(&mut header[..n], address, wall_time()) {
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
        assert_eq!(apply(&mut b, Some(0x0a00_0001), 0), Ok(true));
        assert_eq!(b[20..], [RECORD_ROUTE, 7, 8, 10, 0, 0, 1, 0]);
        assert_eq!(apply(&mut b, Some(0x0a00_0002), 0), Ok(false), "it is full");
    }

    #[test]
    fn a_timestamp_is_added_or_its_absence_counted() {
        let mut b = with(&[TIMESTAMP, 8, 5, 0, 0, 0, 0, 0]);
        assert_eq!(apply(&mut b, Some(1), 0x0102_0304), Ok(true));
        assert_eq!(b[20..], [TIMESTAMP, 8, 9, 0, 1, 2, 3, 4]);
        assert_eq!(apply(&mut b, Some(1), 0), Ok(true));
        assert_eq!(b[23], 1 << 4);
    }

    #[test]
    fn source_routes_and_malformed_options_are_refused() {
        assert_eq!(apply(&mut with(&[LOOSE_ROUTE, 7, 4, 1, 2, 3, 4, 0]), Some(1), 0), Err(ErrorKind::SourceRoute));
        assert_eq!(apply(&mut with(&[1, 1, 1, 99]), Some(1), 0), Err(ErrorKind::ParamProblem(23)));
        assert_eq!(apply(&mut with(&[99, 1, 0, 0]), Some(1), 0), Err(ErrorKind::ParamProblem(21)));
        assert_eq!(apply(&mut with(&[99, 5, 0, 0]), Some(1), 0), Err(ErrorKind::ParamProblem(21)));
        assert_eq!(apply(&mut with(&[RECORD_ROUTE, 7, 3, 0, 0, 0, 0, 0]), None, 0), Err(ErrorKind::ParamProblem(22)));
        assert_eq!(apply(&mut with(&[0, 99, 99, 99]), None, 0), Ok(false));
    }
}
