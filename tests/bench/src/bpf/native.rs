//! The two filters of the benchmark, as expressions and written in Rust by hand.

/// What both filters read at fixed places: an Ethernet header and an IPv4 header without options.
const HEADERS: usize = 34;

/// A short filter.
pub const WEB: &str = "ip and tcp port 80";

/// [`WEB`] by hand.
#[inline]
pub fn web(p: &[u8]) -> bool {
    let Some(h) = p.first_chunk::<HEADERS>() else { return false };
    if ethertype(h) != IPV4 || h[23] != TCP || fragment(h) != 0 {
        return false;
    }
    let Some(ports) = ports(p, h) else { return false };
    source(ports) == 80 || destination(ports) == 80
}

/// The list of an edge router: no address that cannot be, no host that misbehaved, and only services that are offered.
/// libpcap makes a program of 200 instructions of it.
pub fn edge_expression() -> String {
    let nets = BOGONS.map(|(net, len)| format!("src net {}/{len}", std::net::Ipv4Addr::from(net)));
    let hosts = HOSTS.map(|h| std::net::Ipv4Addr::from(h).to_string());
    let list = |ports: &[u16]| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" or ");
    format!(
        "ip and not ({}) and not src host ({}) and (tcp dst port ({}) or udp dst port ({}))",
        nets.join(" or "),
        hosts.join(" or "),
        list(&TCP_SERVICES),
        list(&UDP_SERVICES)
    )
}

/// [`edge_expression`] by hand.
#[inline]
pub fn edge(p: &[u8]) -> bool {
    let Some(h) = p.first_chunk::<HEADERS>() else { return false };
    if ethertype(h) != IPV4 {
        return false;
    }
    let src = u32::from_be_bytes([h[26], h[27], h[28], h[29]]);
    if BOGONS.iter().any(|&(net, len)| src & mask(len) == net) || HOSTS.contains(&src) || fragment(h) != 0 {
        return false;
    }
    let services: &[u16] = match h[23] {
        TCP => &TCP_SERVICES,
        UDP => &UDP_SERVICES,
        _ => return false,
    };
    ports(p, h).is_some_and(|ports| services.contains(&destination(ports)))
}

const IPV4: u16 = 0x0800;
const TCP: u8 = 6;
const UDP: u8 = 17;

fn ethertype(h: &[u8; HEADERS]) -> u16 {
    u16::from_be_bytes([h[12], h[13]])
}

/// Where in its packet a fragment begins.
fn fragment(h: &[u8; HEADERS]) -> u16 {
    u16::from_be_bytes([h[20], h[21]]) & 0x1fff
}

fn ports<'a>(p: &'a [u8], h: &[u8; HEADERS]) -> Option<&'a [u8; 4]> {
    p.get(14 + usize::from(h[14] & 15) * 4..)?.first_chunk()
}

fn source(ports: &[u8; 4]) -> u16 {
    u16::from_be_bytes([ports[0], ports[1]])
}

fn destination(ports: &[u8; 4]) -> u16 {
    u16::from_be_bytes([ports[2], ports[3]])
}

const fn mask(len: u32) -> u32 {
    u32::MAX << (32 - len)
}

/// Networks that no packet from outside comes from (RFC 6890).
const BOGONS: [(u32, u32); 12] = [
    (0x0a00_0000, 8),
    (0xac10_0000, 12),
    (0xc0a8_0000, 16),
    (0x6440_0000, 10),
    (0xa9fe_0000, 16),
    (0x7f00_0000, 8),
    (0xc000_0200, 24),
    (0xc633_6400, 24),
    (0xc612_0000, 15),
    (0xe000_0000, 4),
    (0xf000_0000, 4),
    (0x0000_0000, 8),
];

/// Every third address of 203.0.113.0/24 from 1 on.
const HOSTS: [u32; 78] = {
    let mut hosts = [0; 78];
    let mut i = 0;
    while i < hosts.len() {
        hosts[i] = 0xcb00_7101 + 3 * i as u32;
        i += 1;
    }
    hosts
};

const TCP_SERVICES: [u16; 36] = [
    20, 21, 22, 23, 25, 43, 53, 80, 88, 110, 119, 143, 179, 389, 443, 465, 515, 587, 631, 636, 853, 873, 989, 990, 993,
    995, 3306, 3389, 5432, 5900, 6379, 8080, 8443, 9200, 9418, 27017,
];

const UDP_SERVICES: [u16; 36] = [
    53, 67, 68, 69, 88, 111, 123, 137, 138, 161, 162, 389, 443, 464, 500, 514, 520, 546, 547, 623, 853, 1194, 1701,
    1812, 1813, 1900, 2049, 3478, 3784, 4500, 4789, 5060, 5353, 6081, 11211, 51820,
];
