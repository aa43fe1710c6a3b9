//! The nouns of the control interface: interfaces, prefixes, routes, neighbours, and what is told of them.

use serde::{Deserialize, Serialize, Serializer};
use smpnet_abi::{DropReason, MacAddr};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Index of an interface, 1 to 65535. 0 stands for "no interface" at the plugin boundary and is never a valid index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct IfIndex(u16);

impl IfIndex {
    /// The index with this number, unless it is out of range.
    pub const fn new(n: u32) -> Option<IfIndex> {
        if n == 0 || n > u16::MAX as u32 { None } else { Some(IfIndex(n as u16)) }
    }

    /// The number, as it stands in `PktHdr::rcvif`.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for IfIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An IPv4 address with a prefix length. As an interface address the host bits count; as a destination they are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ipv4Net {
    addr: Ipv4Addr,
    len: u8,
}

impl Ipv4Net {
    /// An address with a prefix length of 0 to 32.
    pub const fn new(addr: Ipv4Addr, len: u8) -> Option<Ipv4Net> {
        if len > 32 { None } else { Some(Ipv4Net { addr, len }) }
    }

    /// A host: the address with length 32.
    pub const fn host(addr: Ipv4Addr) -> Ipv4Net {
        Ipv4Net { addr, len: 32 }
    }

    /// The default route, `0.0.0.0/0`.
    pub const fn default_route() -> Ipv4Net {
        Ipv4Net { addr: Ipv4Addr::UNSPECIFIED, len: 0 }
    }

    /// The address with its host bits.
    pub const fn addr(self) -> Ipv4Addr {
        self.addr
    }

    /// The prefix length.
    pub const fn prefix_len(self) -> u8 {
        self.len
    }

    /// The mask in host byte order.
    pub const fn mask(self) -> u32 {
        if self.len == 0 { 0 } else { u32::MAX << (32 - self.len as u32) }
    }

    /// The first address in host byte order.
    pub const fn network(self) -> u32 {
        self.addr.to_bits() & self.mask()
    }

    /// The last address in host byte order: the directed broadcast of a subnet of length 30 or less.
    pub const fn last(self) -> u32 {
        self.network() | !self.mask()
    }

    /// The same prefix with the host bits cleared.
    pub const fn trunc(self) -> Ipv4Net {
        Ipv4Net { addr: Ipv4Addr::from_bits(self.network()), len: self.len }
    }

    /// Whether the address lies in the prefix.
    pub const fn contains(self, addr: Ipv4Addr) -> bool {
        addr.to_bits() & self.mask() == self.network()
    }

    /// Whether two prefixes share an address.
    pub const fn overlaps(self, other: Ipv4Net) -> bool {
        let mask = if self.len < other.len { self.mask() } else { other.mask() };
        self.addr.to_bits() & mask == other.addr.to_bits() & mask
    }
}

impl fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl FromStr for Ipv4Net {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (addr, len) = match s.split_once('/') {
            Some((a, l)) => (a, l.parse::<u8>().ok().filter(|l| *l <= 32)),
            None if s == "default" => return Ok(Ipv4Net::default_route()),
            None => (s, Some(32)),
        };
        let len = len.ok_or_else(|| format!("`{s}`: the prefix length is a number from 0 to 32"))?;
        let addr = addr.parse().map_err(|_| format!("`{s}` is not an IPv4 address with a prefix length"))?;
        Ok(Ipv4Net { addr, len })
    }
}

impl Serialize for Ipv4Net {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ipv4Net {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An Ethernet address as text, `02:00:00:00:00:01`.
pub fn mac_text(mac: MacAddr) -> String {
    let b = mac.bytes;
    format!("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", b[0], b[1], b[2], b[3], b[4], b[5])
}

/// Reads an Ethernet address out of text with colons or hyphens.
pub fn parse_mac(s: &str) -> Option<MacAddr> {
    let mut bytes = [0; 6];
    let mut parts = s.split([':', '-']);
    for b in &mut bytes {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 2 {
            return None;
        }
        *b = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(MacAddr { bytes })
}

/// How an address is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddrOptions {
    /// RFC 5227 probes before the address is used; `None` takes `net.inet.ip.dad_count`, `Some(0)` uses it at once.
    pub dad_count: Option<u32>,
}

/// State of an interface address (NetBSD's IN_IFF flags).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AddrState {
    /// Duplicate detection runs; the address is not ours yet.
    Tentative,
    /// In use.
    Preferred,
    /// Another station has it; the address is not ours.
    Duplicated,
}

/// An address of an interface.
#[derive(Clone, Debug, Serialize)]
pub struct AddrStatus {
    /// Address and prefix length.
    pub address: Ipv4Net,
    /// Directed broadcast address; none for prefixes longer than 30 and interfaces without broadcast.
    pub broadcast: Option<Ipv4Addr>,
    /// State.
    pub state: AddrState,
}

/// The counters that every interface has, by NetBSD's names (`if_stats`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct IfCounters {
    pub ipackets: u64,
    pub ierrors: u64,
    pub opackets: u64,
    pub oerrors: u64,
    pub collisions: u64,
    pub ibytes: u64,
    pub obytes: u64,
    pub imcasts: u64,
    pub omcasts: u64,
    pub iqdrops: u64,
    pub noproto: u64,
    /// ICMP errors that came back for packets of this tunnel.
    pub path_errors: u64,
}

/// What is told of an interface.
#[derive(Clone, Debug, Serialize)]
pub struct IfStatus {
    /// Index.
    pub index: IfIndex,
    /// Name, at most 15 bytes.
    pub name: String,
    /// `port`, `kind`, `loopback`, or `reserved` while nothing is attached.
    pub attachment: &'static str,
    /// Name of the driver or interface kind.
    pub driver: String,
    /// `ether` or `raw_ip`.
    pub medium: &'static str,
    /// Configured up.
    pub up: bool,
    /// The link is up, as far as the driver knows.
    pub link: &'static str,
    /// Link speed in Mbit/s; 0 for unknown.
    pub speed: u32,
    /// Up, link not down, attached and not quarantined: packets pass.
    pub running: bool,
    /// Why the interface is quarantined.
    pub quarantine: Option<String>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Ethernet address; empty for raw IP.
    pub mac: String,
    /// The operator's note.
    pub description: String,
    /// Frames of other stations are looked at.
    pub promisc: bool,
    /// Every multicast is received, whatever the list.
    pub allmulti: bool,
    /// Multicast addresses that the port was told to receive.
    pub multicast: Vec<String>,
    /// Names of the offloads that the port can do.
    pub capabilities: Vec<&'static str>,
    /// Names of the offloads in force.
    pub offloads: Vec<&'static str>,
    /// Receive-side scaling of a port with several receive queues that has it.
    pub rss: Option<RssStatus>,
    /// Interface that carries this one.
    pub parent: Option<String>,
    /// Receive queues of a port.
    pub rx_queues: u16,
    /// Transmit queues of a port.
    pub tx_queues: u16,
    /// Addresses.
    pub addresses: Vec<AddrStatus>,
    /// Counters.
    pub counters: IfCounters,
    /// Drops on this interface by reason, only those that happened.
    pub drops: Vec<DropCount>,
}

/// How the device itself spreads what it receives over its queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RssStatus {
    /// The symmetric key and the table are in the device.
    pub programmed: bool,
    /// Entries of the redirection table.
    pub table: u16,
    /// Queues that it names.
    pub queues: u16,
    /// Why the device refused; packets are then steered in software, if at all (`rps_hash`).
    pub reason: Option<String>,
}

/// A count of drops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DropCount {
    /// The interface it is counted against; empty for none.
    pub interface: String,
    /// Name of the reason.
    #[serde(serialize_with = "reason_name")]
    pub reason: DropReason,
    /// Packets.
    pub packets: u64,
}

fn reason_name<S: Serializer>(r: &DropReason, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(r.name())
}

/// One way out of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHopSpec {
    /// The gateway; without one the destination itself is a neighbour on `ifindex`.
    pub via: Option<Ipv4Addr>,
    /// The interface; without one it is that of the connected network that holds `via`.
    pub ifindex: Option<IfIndex>,
    /// Share of the flows among several ways, 1 to 255.
    pub weight: u8,
}

impl NextHopSpec {
    /// Through a gateway.
    pub fn via(gateway: Ipv4Addr) -> Self {
        NextHopSpec { via: Some(gateway), ifindex: None, weight: 1 }
    }

    /// Out of an interface.
    pub fn dev(ifindex: IfIndex) -> Self {
        NextHopSpec { via: None, ifindex: Some(ifindex), weight: 1 }
    }
}

/// What a route does with packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends them on; flows are spread when there are several ways (1 to 64).
    Forward(Vec<NextHopSpec>),
    /// Drops them silently.
    Blackhole,
    /// Drops them and answers ICMP host unreachable.
    Reject,
}

/// A route as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// Destination; host bits are ignored.
    pub dst: Ipv4Net,
    /// What happens.
    pub kind: RouteKind,
}

impl RouteSpec {
    /// A route through one gateway.
    pub fn via(dst: Ipv4Net, gateway: Ipv4Addr) -> Self {
        RouteSpec { dst, kind: RouteKind::Forward(vec![NextHopSpec::via(gateway)]) }
    }
}

/// One step of [`crate::Stack::routes_apply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteStep {
    /// A route that is not there yet.
    Add(RouteSpec),
    /// Other ways for a route that is there; no packet sees it missing.
    Change(RouteSpec),
    /// The route to exactly that destination.
    Delete(Ipv4Net),
}

impl RouteStep {
    /// The destination that it is about.
    pub fn destination(&self) -> Ipv4Net {
        match self {
            RouteStep::Add(spec) | RouteStep::Change(spec) => spec.dst,
            RouteStep::Delete(dst) => *dst,
        }
    }
}

/// One way out of a route, as told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NextHopStatus {
    /// Gateway, if any.
    pub via: Option<Ipv4Addr>,
    /// Interface name.
    pub interface: String,
    /// Weight.
    pub weight: u8,
}

/// A route as told; the flags are the letters of `netstat -rn` (U G H R B S C L b).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteStatus {
    /// Destination.
    pub dst: Ipv4Net,
    /// `forward`, `connected`, `local`, `broadcast`, `blackhole` or `reject`.
    pub kind: &'static str,
    /// Flag letters.
    pub flags: String,
    /// Ways out; empty for blackhole and reject.
    pub nexthops: Vec<NextHopStatus>,
}

/// What `route get` answers.
#[derive(Clone, Debug, Serialize)]
pub struct RouteAnswer {
    /// The address asked for.
    pub address: Ipv4Addr,
    /// The route that covers it.
    pub route: Option<RouteStatus>,
    /// Source address that a packet made here would have.
    pub source: Option<Ipv4Addr>,
    /// MTU of the way out.
    pub mtu: Option<u32>,
}

/// A neighbour as told.
#[derive(Clone, Debug, Serialize)]
pub struct ArpStatus {
    /// IPv4 address.
    pub address: Ipv4Addr,
    /// Ethernet address; empty while unresolved.
    pub mac: String,
    /// Interface name.
    pub interface: String,
    /// `incomplete`, `reachable`, `stale`, `delay`, `probe`, `permanent` or `published`.
    pub state: &'static str,
    /// Seconds until the state changes by itself; none when it does not.
    pub expires_s: Option<u64>,
}

/// A filter hook as told.
#[derive(Clone, Debug, Serialize)]
pub struct HookStatus {
    /// Identifies the hook for detaching.
    pub id: u64,
    /// Name of the filter.
    pub name: String,
    /// `ether` or `inet`.
    pub layer: &'static str,
    /// Interface name; none for all.
    pub interface: Option<String>,
    /// `in`, `out` or `both`.
    pub direction: &'static str,
    /// Lower runs earlier.
    pub priority: i32,
    /// What the filter says of itself.
    pub status: serde_json::Value,
}

/// One step of `explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainStep {
    /// Where the packet is: `ether`, `pfil`, `ip`, `route`, `neighbour`, `output`, ...
    pub stage: &'static str,
    /// What was decided, in one or two words.
    pub decision: String,
    /// Why, with the values it depended on.
    pub detail: String,
}

/// Where a filter is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Frames: data begins at the Ethernet header. Raw IP interfaces have no such layer.
    Ether,
    /// IPv4 packets: data begins at the IP header.
    Inet,
}

/// Directions of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dirs {
    /// Packets that come in.
    In,
    /// Packets that go out.
    Out,
    /// Both.
    Both,
}

/// Everything that entered and left the stack, for the conservation law:
/// `received + made + from_plugins = sent + dropped + consumed + to_plugins + held`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Accounting {
    /// Packets that ports delivered.
    pub received: u64,
    /// Packets made here (ARP, ICMP, fragments, segments).
    pub made: u64,
    /// Packets that interface kinds and other plugins handed in.
    pub from_plugins: u64,
    /// Packets that ports accepted for transmission.
    pub sent: u64,
    /// Packets dropped for a named reason other than `consumed`.
    pub dropped: u64,
    /// Packets taken by their receiver.
    pub consumed: u64,
    /// Packets handed to interface kinds and to filters that took them.
    pub to_plugins: u64,
    /// Packets that wait: for a neighbour, for fragments, for another worker.
    pub held: u64,
}

impl Accounting {
    /// What came in minus what is accounted for; 0 when no packet is missing. Exact only while no worker is in a burst.
    pub fn missing(&self) -> i128 {
        let came = i128::from(self.received) + i128::from(self.made) + i128::from(self.from_plugins);
        let went = i128::from(self.sent)
            + i128::from(self.dropped)
            + i128::from(self.consumed)
            + i128::from(self.to_plugins)
            + i128::from(self.held);
        came - went
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_and_written() {
        let net: Ipv4Net = "10.1.2.3/24".parse().unwrap();
        assert_eq!(net.to_string(), "10.1.2.3/24");
        assert_eq!(net.trunc().to_string(), "10.1.2.0/24");
        assert_eq!(Ipv4Addr::from_bits(net.last()).to_string(), "10.1.2.255");
        assert_eq!("default".parse::<Ipv4Net>().unwrap(), Ipv4Net::default_route());
        assert_eq!("10.0.0.1".parse::<Ipv4Net>().unwrap().prefix_len(), 32);
        assert!("10.0.0.1/33".parse::<Ipv4Net>().is_err());
        assert!("10.0.0/8".parse::<Ipv4Net>().is_err());
    }

    #[test]
    fn prefixes_overlap_when_one_holds_the_other() {
        let n = |s: &str| s.parse::<Ipv4Net>().unwrap();
        assert!(n("10.0.0.0/8").overlaps(n("10.1.0.0/16")));
        assert!(!n("10.0.0.0/24").overlaps(n("10.0.1.0/24")));
        assert!(n("0.0.0.0/0").overlaps(n("1.2.3.4/32")));
    }

    #[test]
    fn ethernet_addresses_are_read_and_written() {
        let mac = parse_mac("02:00:5e:00:fa:ff").unwrap();
        assert_eq!(mac_text(mac), "02:00:5e:00:fa:ff");
        assert!(parse_mac("02:00:5e:00:fa").is_none());
        assert!(parse_mac("02:00:5e:00:fa:ff:00").is_none());
        assert!(parse_mac("0g:00:5e:00:fa:ff").is_none());
    }
}
