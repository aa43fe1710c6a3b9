//! A line for each packet, as tcpdump has it, or a JSON object.

use super::super::context::Failure;
use crate::capture::blocks::{Block, Packet};
use serde_json::json;
use smpnet_abi::MacAddr;
use smpnet_stack::mac_text;
use smpnet_stack::wire::{arp::Arp, be16, icmp::Icmp, ipv4::Ipv4, tcp::Tcp, udp::Udp};
use std::fmt::Write as _;
use std::io::{self, BufWriter, Stdout, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;

/// Prints packets.
pub struct Printer {
    json: bool,
    out: BufWriter<Stdout>,
    /// Link type and name of each interface of the stream.
    interfaces: Vec<(u16, String)>,
}

impl Printer {
    /// Lines for people, or JSON lines.
    pub fn new(json: bool) -> Printer {
        Printer { json, out: BufWriter::with_capacity(1 << 16, io::stdout()), interfaces: Vec::new() }
    }

    /// Prints what is in a block; false when nobody reads any more.
    pub fn block(&mut self, block: &Block<'_>) -> Result<bool, Failure> {
        if let Some((link, name)) = block.interface() {
            self.interfaces.push((link, name.to_owned()));
        }
        let Some(packet) = block.packet() else { return Ok(true) };
        let (link, name) = self.interfaces.get(packet.interface as usize).map_or((ETHERNET, "?"), |(l, n)| (*l, n));
        let what = if link == ETHERNET { frame(packet.bytes, packet.wire_len) } else { ip(packet.bytes) };
        let line = if self.json { json_line(&packet, name, &what) } else { text_line(&packet, name, &what) };
        ended(writeln!(self.out, "{line}"))
    }

    /// Hands on what is gathered; false when nobody reads any more.
    pub fn flush(&mut self) -> Result<bool, Failure> {
        ended(self.out.flush())
    }
}

fn ended(done: io::Result<()>) -> Result<bool, Failure> {
    match done {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Failure::new(format!("stdout: {e}"))),
    }
}

fn json_line(p: &Packet<'_>, interface: &str, what: &str) -> String {
    json!({
        "time_ns": p.time_ns, "interface": interface, "direction": p.direction().to_lowercase(),
        "length": p.wire_len, "captured": p.bytes.len(), "dropped": p.comment, "summary": what,
    })
    .to_string()
}

fn text_line(p: &Packet<'_>, interface: &str, what: &str) -> String {
    let mut line = format!("{} {interface} {:3} {what}", clock(p.time_ns), p.direction());
    if let Some(why) = p.comment {
        let _ = write!(line, " [{why}]");
    }
    line
}

/// The time of day here, to the nanosecond.
fn clock(ns: u64) -> String {
    let seconds = (ns / 1_000_000_000) as libc::time_t;
    // SAFETY: a tm is plain numbers and a pointer, for which zeros are valid; localtime_r writes it.
    let tm = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        libc::localtime_r(&seconds, &mut tm);
        tm
    };
    format!("{:02}:{:02}:{:02}.{:09}", tm.tm_hour, tm.tm_min, tm.tm_sec, ns % 1_000_000_000)
}

/// An Ethernet frame in one line.
fn frame(b: &[u8], wire_len: u32) -> String {
    let Some(header) = b.first_chunk::<14>() else { return format!("[runt of {wire_len} bytes]") };
    let mac = |at: usize| {
        let mut bytes = [0; 6];
        bytes.copy_from_slice(&header[at..at + 6]);
        mac_text(MacAddr { bytes })
    };
    let (mut kind, mut rest, mut tags) = (be16(header, 12), &b[14..], String::new());
    while matches!(kind, 0x8100 | 0x88a8) && rest.len() >= 4 {
        let _ = write!(tags, "vlan {}, ", be16(rest, 0) & 0xfff);
        kind = be16(rest, 2);
        rest = &rest[4..];
    }
    let what = match kind {
        0x0800 | 0x86dd => ip(rest),
        0x0806 => arp(rest),
        0x8863 => "PPPoE discovery".into(),
        0x8864 => "PPPoE session".into(),
        0..=1500 => format!("802.3, {} > {}, length {wire_len}", mac(6), mac(0)),
        other => format!("ethertype {other:#06x}, {} > {}, length {wire_len}", mac(6), mac(0)),
    };
    tags + &what
}

fn arp(b: &[u8]) -> String {
    let Some(a) = Arp::parse(b) else { return "ARP, malformed".into() };
    let (from, to) = (Ipv4Addr::from_bits(a.spa), Ipv4Addr::from_bits(a.tpa));
    match a.op {
        1 => format!("ARP, Request who-has {to} tell {from}"),
        2 => format!("ARP, Reply {from} is-at {}", mac_text(a.sha)),
        op => format!("ARP, operation {op}, {from} > {to}"),
    }
}

/// An IP packet in one line.
fn ip(b: &[u8]) -> String {
    match b.first().map(|v| v >> 4) {
        Some(4) => ipv4(b),
        Some(6) => ipv6(b),
        _ => format!("[no IP header in {} bytes]", b.len()),
    }
}

fn ipv4(b: &[u8]) -> String {
    let Some(h) = Ipv4::parse(b).filter(|h| h.header_len >= 20 && b.len() >= h.header_len) else {
        return "IP, malformed".into();
    };
    let (src, dst) = (Ipv4Addr::from_bits(h.src).to_string(), Ipv4Addr::from_bits(h.dst).to_string());
    let payload = usize::from(h.total_len).saturating_sub(h.header_len);
    let offset = usize::from(h.frag & 0x1fff) * 8;
    if offset > 0 {
        return format!("IP {src} > {dst}: fragment at {offset}, protocol {}, length {payload}", h.proto);
    }
    let more = if h.frag & 0x2000 != 0 { ", more fragments" } else { "" };
    format!("IP {}{more}", transport(&src, &dst, h.proto, &b[h.header_len..], payload))
}

fn ipv6(b: &[u8]) -> String {
    let Some(h) = b.first_chunk::<40>() else { return "IP6, malformed".into() };
    let address = |at: usize| {
        let mut a = [0; 16];
        a.copy_from_slice(&h[at..at + 16]);
        Ipv6Addr::from(a).to_string()
    };
    format!("IP6 {}", transport(&address(8), &address(24), h[6], &b[40..], usize::from(be16(h, 4))))
}

/// Addresses, ports and what the transport header says. `payload` is the length behind the IP header.
fn transport(src: &str, dst: &str, proto: u8, b: &[u8], payload: usize) -> String {
    match proto {
        6 => match Tcp::parse(b) {
            Some(t) => format!(
                "{src}.{} > {dst}.{}: Flags [{}], seq {}, length {}",
                t.src,
                t.dst,
                tcp_flags(t.flags),
                t.seq,
                payload.saturating_sub(t.header_len)
            ),
            None => format!("{src} > {dst}: TCP, cut short, length {payload}"),
        },
        17 => match Udp::parse(b) {
            Some(u) => format!("{src}.{} > {dst}.{}: UDP, length {}", u.src, u.dst, payload.saturating_sub(8)),
            None => format!("{src} > {dst}: UDP, cut short, length {payload}"),
        },
        1 => match Icmp::parse(b) {
            Some(i) => format!("{src} > {dst}: ICMP {}, length {payload}", icmp(i.ty, i.code, i.rest)),
            None => format!("{src} > {dst}: ICMP, cut short, length {payload}"),
        },
        other => {
            let name = match other {
                2 => "IGMP",
                4 => "IPIP",
                41 => "IP6-in-IP",
                47 => "GRE",
                50 => "ESP",
                51 => "AH",
                58 => "ICMP6",
                89 => "OSPF",
                112 => "VRRP",
                115 => "L2TP",
                132 => "SCTP",
                n => return format!("{src} > {dst}: protocol {n}, length {payload}"),
            };
            format!("{src} > {dst}: {name}, length {payload}")
        }
    }
}

fn tcp_flags(flags: u8) -> String {
    const NAMES: [(u8, char); 8] =
        [(0x02, 'S'), (0x01, 'F'), (0x04, 'R'), (0x08, 'P'), (0x20, 'U'), (0x40, 'E'), (0x80, 'W'), (0x10, '.')];
    let text: String = NAMES.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, c)| *c).collect();
    if text.is_empty() { "none".into() } else { text }
}

fn icmp(ty: u8, code: u8, rest: u32) -> String {
    let (id, seq) = (rest >> 16, rest & 0xffff);
    match ty {
        0 => format!("echo reply, id {id}, seq {seq}"),
        8 => format!("echo request, id {id}, seq {seq}"),
        3 => {
            let what = ["net", "host", "protocol", "port", "need to frag"];
            format!(
                "unreachable, {}",
                what.get(usize::from(code)).map_or_else(|| format!("code {code}"), |w| (*w).into())
            )
        }
        5 => "redirect".into(),
        11 => "time exceeded".into(),
        12 => "parameter problem".into(),
        n => format!("type {n}, code {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp() -> Vec<u8> {
        let mut b = vec![0x45, 0, 0, 33, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 1, 2, 10, 0, 2, 2];
        b.extend([0x0f, 0xa0, 0x13, 0x88, 0, 13, 0, 0, 1, 2, 3, 4, 5]);
        b
    }

    #[test]
    fn packets_read_as_in_tcpdump() {
        assert_eq!(ip(&udp()), "IP 10.0.1.2.4000 > 10.0.2.2.5000: UDP, length 5");
        let tagged = [&[0; 12][..], &[0x81, 0, 0x20, 7, 8, 0], &udp()].concat();
        assert_eq!(frame(&tagged, 51), "vlan 7, IP 10.0.1.2.4000 > 10.0.2.2.5000: UDP, length 5");
        let mut echo = udp();
        echo[9] = 1;
        echo[20..28].copy_from_slice(&[8, 0, 0, 0, 0, 9, 0, 3]);
        assert_eq!(ip(&echo), "IP 10.0.1.2 > 10.0.2.2: ICMP echo request, id 9, seq 3, length 13");
        assert_eq!(tcp_flags(0x12), "S.");
        assert_eq!(tcp_flags(0), "none");
        assert_eq!(frame(&[0; 5], 5), "[runt of 5 bytes]");
    }

    #[test]
    fn whatever_is_cut_short_is_still_one_line() {
        let whole = [&[2; 12][..], &[8, 0], &udp()].concat();
        for proto in 0..=255 {
            let mut b = whole.clone();
            b[14 + 9] = proto;
            for n in 0..b.len() {
                assert!(!frame(&b[..n], 60).contains('\n'));
            }
        }
        for first in 0..=255 {
            let _ = ip(&[first; 50]);
        }
    }
}
