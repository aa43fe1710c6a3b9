//! The packets that a null port receives: UDP over IPv4 in as many flows as asked for, or frames given as they are.
//!
//! Made before the port is up, so that a packet costs one copy and a few stores: benches subtract what remains.

use smpnet_plugin::{Error, MacAddr, PacketData, serde};
use std::net::Ipv4Addr;

/// Bytes of Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 14 + 20 + 8;
/// Largest frame made: it fits a cell of 2 KiB behind header and headroom.
const SIZE_MAX: usize = 1514;
/// Most flows of one port.
const FLOWS_MAX: u32 = 16 << 20;

/// The driver's options.
#[derive(serde::Deserialize, Clone, Debug)]
#[serde(crate = "smpnet_plugin::serde", default, deny_unknown_fields)]
pub(crate) struct Options {
    /// Packets to receive, over all queues; without it there is no end.
    pub(crate) count: Option<u64>,
    /// Only swallow: the same as a count of 0.
    pub(crate) sink_only: bool,
    /// Packets per second, over all queues; without it as fast as they are taken.
    pub(crate) rate: Option<u64>,
    /// Bytes of a frame without FCS, 42 to 1514.
    pub(crate) size: usize,
    /// Flows (5-tuples), 1 to 16 Mi.
    pub(crate) flows: u32,
    /// Order of the flows: "sequential" (one after the other, again and again) or "random" (shuffled once).
    pub(crate) pattern: Pattern,
    /// Source addresses: an address, a prefix, a range `a-b`, or a list of them; flow `i` has the `i`th.
    pub(crate) src: Addresses,
    /// Destination addresses, as `src`.
    pub(crate) dst: Addresses,
    /// Source port of the first flow. When the addresses have all been used, the next flows count it up.
    pub(crate) src_port: u16,
    /// Destination port.
    pub(crate) dst_port: u16,
    /// Time to live.
    pub(crate) ttl: u8,
    /// Address of the port itself; made from the interface's index if it is not given.
    pub(crate) mac: Option<String>,
    /// Source address of the frames.
    pub(crate) src_mac: String,
    /// Destination address of the frames; the port's own if it is not given.
    pub(crate) dst_mac: Option<String>,
    /// Frames in hexadecimal, instead of all of the above from `size` on.
    pub(crate) frame_hex: Frames,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            count: None,
            sink_only: false,
            rate: None,
            size: 60,
            flows: 1,
            pattern: Pattern::Sequential,
            src: Addresses::One("198.18.0.1".to_owned()),
            dst: Addresses::One("198.19.0.1".to_owned()),
            src_port: 1024,
            dst_port: 9,
            ttl: 64,
            mac: None,
            src_mac: "02:00:00:00:ff:01".to_owned(),
            dst_mac: None,
            frame_hex: Frames::Many(Vec::new()),
        }
    }
}

#[derive(serde::Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(crate = "smpnet_plugin::serde", rename_all = "lowercase")]
pub(crate) enum Pattern {
    Sequential,
    Random,
}

#[derive(serde::Deserialize, Clone, Debug)]
#[serde(crate = "smpnet_plugin::serde", untagged)]
pub(crate) enum Addresses {
    One(String),
    Many(Vec<String>),
}

pub(crate) type Frames = Addresses;

impl Addresses {
    fn as_slice(&self) -> &[String] {
        match self {
            Addresses::One(s) => std::slice::from_ref(s),
            Addresses::Many(list) => list,
        }
    }
}

impl Options {
    /// The port's own address.
    pub(crate) fn port_mac(&self, ifindex: u32) -> Result<MacAddr, Error> {
        match &self.mac {
            Some(text) => parse_mac(text),
            None => {
                let [_, b, c, d] = ifindex.to_be_bytes();
                Ok(MacAddr { bytes: [0x02, 0x00, 0x00, b, c, d] })
            }
        }
    }
}

/// What differs from flow to flow, as it stands in the packet.
#[derive(Clone, Copy)]
struct Flow {
    /// IPv4 header checksum, source and destination: 10 bytes from offset 24 of the frame.
    ip: [u8; 10],
    /// Source port: 2 bytes from offset 34.
    port: [u8; 2],
}

enum Content {
    Flows { template: Box<[u8]>, flows: Box<[Flow]> },
    Frames(Box<[Box<[u8]>]>),
}

/// The packets of one queue.
pub(crate) struct Source {
    content: Content,
    next: usize,
    left: u64,
    pace: Option<Pace>,
}

/// Tokens at a rate; one is a packet.
struct Pace {
    per_second: u64,
    began_ns: u64,
    given: u64,
}

impl Source {
    /// The sources of `queues` queues, which share flows, count and rate.
    pub(crate) fn split(o: &Options, mac: MacAddr, queues: usize) -> Result<Vec<Source>, Error> {
        let total = if o.sink_only { 0 } else { o.count.unwrap_or(u64::MAX) };
        let share = |all: u64, q: usize| all / queues as u64 + u64::from((q as u64) < all % queues as u64);
        let contents = if o.frame_hex.as_slice().is_empty() {
            udp_contents(o, mac, queues)?
        } else {
            frame_contents(o.frame_hex.as_slice(), queues)?
        };
        let source = |(q, content)| Source {
            content,
            next: 0,
            left: if total == u64::MAX { total } else { share(total, q) },
            pace: o.rate.map(|all| Pace { per_second: share(all, q), began_ns: 0, given: 0 }),
        };
        Ok(contents.into_iter().enumerate().map(source).collect())
    }

    /// Whether no packet will come any more.
    pub(crate) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// How many packets are to be received now, at most `max`; they count as received. `now` is asked when a rate is set.
    pub(crate) fn due(&mut self, max: usize, now: impl FnOnce() -> u64) -> usize {
        let mut n = (max as u64).min(self.left);
        if let Some(pace) = &mut self.pace {
            n = n.min(pace.due(now()));
            pace.given += n;
        }
        if self.left != u64::MAX {
            self.left -= n;
        }
        n as usize
    }

    /// Makes `packet` the next one and returns its bytes.
    #[inline]
    pub(crate) fn fill(&mut self, packet: &mut PacketData) -> usize {
        let at = self.next;
        self.next += 1;
        match &self.content {
            Content::Flows { template, flows } => {
                if self.next == flows.len() {
                    self.next = 0;
                }
                let n = template.len();
                let (buffer, flow) = (packet.buffer_mut(), &flows[at]);
                buffer[..n].copy_from_slice(template);
                buffer[24..34].copy_from_slice(&flow.ip);
                buffer[34..36].copy_from_slice(&flow.port);
                packet.set_len(n);
                n
            }
            Content::Frames(frames) => {
                if self.next == frames.len() {
                    self.next = 0;
                }
                packet.set_data(&frames[at]);
                frames[at].len()
            }
        }
    }
}

impl Pace {
    fn due(&mut self, now: u64) -> u64 {
        if self.began_ns == 0 {
            self.began_ns = now;
        }
        let all = u128::from(now.saturating_sub(self.began_ns)) * u128::from(self.per_second) / 1_000_000_000;
        (all as u64).saturating_sub(self.given)
    }
}

fn udp_contents(o: &Options, mac: MacAddr, queues: usize) -> Result<Vec<Content>, Error> {
    if !(HEADERS..=SIZE_MAX).contains(&o.size) {
        return Err(Error::new(format!("size {}: a frame has {HEADERS} to {SIZE_MAX} bytes", o.size)));
    }
    if !(1..=FLOWS_MAX).contains(&o.flows) {
        return Err(Error::new(format!("flows {}: there are 1 to {FLOWS_MAX}", o.flows)));
    }
    let dst_mac = o.dst_mac.as_deref().map_or(Ok(mac), parse_mac)?;
    let template = template(o, dst_mac, parse_mac(&o.src_mac)?);
    let (src, dst) = (Ranges::parse(&o.src, "src")?, Ranges::parse(&o.dst, "dst")?);
    let rounds = src.len.max(dst.len);
    let mut flows: Vec<Flow> = (0..u64::from(o.flows))
        .map(|i| {
            let port = o.src_port.wrapping_add((i / rounds) as u16);
            flow(&template, src.get(i), dst.get(i), port)
        })
        .collect();
    if o.pattern == Pattern::Random {
        shuffle(&mut flows);
    }
    let of_queue = |q: usize| {
        let own: Box<[Flow]> = flows.iter().skip(q).step_by(queues).copied().collect();
        // Fewer flows than queues: the queues beyond share the first one.
        if own.is_empty() { flows[..1].into() } else { own }
    };
    Ok((0..queues).map(|q| Content::Flows { template: template.clone(), flows: of_queue(q) }).collect())
}

fn frame_contents(hex: &[String], queues: usize) -> Result<Vec<Content>, Error> {
    let frames = hex.iter().map(|text| parse_hex(text)).collect::<Result<Box<[_]>, _>>()?;
    Ok((0..queues).map(|_| Content::Frames(frames.clone())).collect())
}

fn template(o: &Options, dst: MacAddr, src: MacAddr) -> Box<[u8]> {
    let mut f = vec![0; o.size];
    f[..6].copy_from_slice(&dst.bytes);
    f[6..12].copy_from_slice(&src.bytes);
    f[12..14].copy_from_slice(&[0x08, 0x00]);
    // size is at most 1514, so the lengths fit.
    let ip_len = (o.size - 14) as u16;
    f[14] = 0x45;
    f[16..18].copy_from_slice(&ip_len.to_be_bytes());
    f[22] = o.ttl;
    f[23] = 17;
    f[36..38].copy_from_slice(&o.dst_port.to_be_bytes());
    // The UDP checksum stays 0, "not computed" (RFC 768).
    f[38..40].copy_from_slice(&(ip_len - 20).to_be_bytes());
    f.into()
}

fn flow(template: &[u8], src: Ipv4Addr, dst: Ipv4Addr, port: u16) -> Flow {
    let mut header = [0; 20];
    header.copy_from_slice(&template[14..34]);
    header[12..16].copy_from_slice(&src.octets());
    header[16..20].copy_from_slice(&dst.octets());
    let mut sum: u32 = header.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let mut ip = [0; 10];
    ip.copy_from_slice(&header[10..20]);
    Flow { ip, port: port.to_be_bytes() }
}

/// Fisher-Yates with a fixed seed (xorshift64), so that every run has the same order.
fn shuffle<T>(items: &mut [T]) {
    let mut x: u64 = 0x9e37_79b9_7f4a_7c15;
    for i in (1..items.len()).rev() {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        items.swap(i, (x % (i as u64 + 1)) as usize);
    }
}

/// A list of ranges of addresses, counted through.
struct Ranges {
    /// First address, and how many addresses stand before this range.
    starts: Vec<(u32, u64)>,
    len: u64,
}

impl Ranges {
    fn parse(list: &Addresses, what: &str) -> Result<Ranges, Error> {
        let (mut starts, mut len) = (Vec::new(), 0);
        for text in list.as_slice() {
            let (first, n) = range(text).ok_or_else(|| {
                Error::new(format!("{what} {text:?}: not an IPv4 address, prefix (10.0.0.0/8) or range (a-b)"))
            })?;
            starts.push((first, len));
            len += n;
        }
        if len == 0 { Err(Error::new(format!("{what}: the list is empty"))) } else { Ok(Ranges { starts, len }) }
    }

    /// Address `i`, from the beginning again after the last.
    fn get(&self, i: u64) -> Ipv4Addr {
        let i = i % self.len;
        let at = self.starts.partition_point(|(_, before)| *before <= i) - 1;
        let (first, before) = self.starts[at];
        Ipv4Addr::from_bits(first.wrapping_add((i - before) as u32))
    }
}

fn range(text: &str) -> Option<(u32, u64)> {
    let addr = |s: &str| s.trim().parse::<Ipv4Addr>().ok().map(Ipv4Addr::to_bits);
    if let Some((net, bits)) = text.split_once('/') {
        let bits: u32 = bits.parse().ok().filter(|b| *b <= 32)?;
        let n = 1_u64 << (32 - bits);
        return Some((addr(net)? & !((n - 1) as u32), n));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (addr(first)?, addr(last)?);
    Some((first, u64::from(last.checked_sub(first)?) + 1))
}

fn parse_mac(text: &str) -> Result<MacAddr, Error> {
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for b in &mut bytes {
        *b = parts.next().and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or_else(|| bad_mac(text))?;
    }
    if parts.next().is_some() { Err(bad_mac(text)) } else { Ok(MacAddr { bytes }) }
}

fn bad_mac(text: &str) -> Error {
    Error::new(format!("{text:?} is not an Ethernet address (02:00:00:00:00:01)"))
}

fn parse_hex(text: &str) -> Result<Box<[u8]>, Error> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).map(|d| d as u8))
        .collect::<Option<_>>()
        .ok_or_else(|| Error::new(format!("frame_hex {text:?}: not hexadecimal")))?;
    if !digits.len().is_multiple_of(2) || digits.is_empty() || digits.len() / 2 > SIZE_MAX {
        return Err(Error::new(format!("frame_hex: {} digits are not 1 to {SIZE_MAX} whole bytes", digits.len())));
    }
    Ok(digits.chunks_exact(2).map(|d| d[0] << 4 | d[1]).collect())
}
