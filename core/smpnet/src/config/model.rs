//! The configuration as types. What a file says, no more: nothing here touches the system.

use super::{
    module::Module,
    npf::NpfSection,
    source::{At, Located},
    table_file::FilterTable,
};
use serde::Serialize;
use smpnet_wasm::{FaultLimit, OnFault};
use std::{collections::BTreeMap, fmt, net::Ipv4Addr, path::PathBuf, str::FromStr};

/// Where the control socket is unless something else was said.
pub const DEFAULT_SOCKET: &str = "/run/smpnet/control.sock";

/// An IPv4 prefix or an address with its prefix length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// The address, host bits included.
    pub addr: Ipv4Addr,
    /// Length, 0 to 32.
    pub len: u8,
}

impl Prefix {
    /// The mask of the length.
    pub fn mask(self) -> u32 {
        if self.len == 0 { 0 } else { u32::MAX << (32 - u32::from(self.len)) }
    }

    /// The prefix without host bits.
    pub fn network(self) -> Prefix {
        Prefix { addr: Ipv4Addr::from(u32::from(self.addr) & self.mask()), len: self.len }
    }

    /// True when `addr` is inside.
    pub fn contains(self, addr: Ipv4Addr) -> bool {
        u32::from(addr) & self.mask() == u32::from(self.addr) & self.mask()
    }

    /// True when the two have an address in common.
    pub fn overlaps(self, other: Prefix) -> bool {
        let shorter = if self.len < other.len { self } else { other };
        shorter.contains(self.addr) && shorter.contains(other.addr)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(s: &str) -> Result<Prefix, String> {
        let (addr, len) = match s.split_once('/') {
            Some((addr, len)) => {
                let n = len.parse::<u8>().ok().filter(|n| *n <= 32 && len.bytes().all(|b| b.is_ascii_digit()));
                (addr, n.ok_or_else(|| format!("\"{len}\" is not a prefix length (0 to 32)"))?)
            }
            None => (s, 32),
        };
        let addr = addr.parse().map_err(|_| format!("\"{addr}\" is not an IPv4 address"))?;
        Ok(Prefix { addr, len })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.addr, self.len))
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Prefix {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// A whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Config {
    /// `[runtime]`.
    pub runtime: RuntimeSection,
    /// `[pool]`.
    pub pool: PoolSection,
    /// `[plugins]`.
    pub plugins: PluginSection,
    /// `[control]`.
    pub control: ControlSection,
    /// `[[interface]]`, in the order of the file.
    pub interfaces: Vec<Interface>,
    /// `[[route]]`.
    pub routes: Vec<Route>,
    /// `[[arp]]`.
    pub arp: Vec<ArpEntry>,
    /// `[filters]`.
    pub filter_host: FiltersSection,
    /// `[[table]]`.
    pub tables: Vec<FilterTable>,
    /// `[[filter]]`.
    pub filters: Vec<Filter>,
    /// `[npf]`.
    pub npf: Option<NpfSection>,
    /// `[sysctl]`.
    pub sysctl: BTreeMap<String, Located<String>>,
}

/// `[runtime]`: read once, when the daemon starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimeSection {
    /// Workers; by default as many as CPUs, at most 4.
    pub workers: Option<usize>,
    /// CPUs that the workers are pinned to, one worker each; excludes `workers`.
    pub cpus: Vec<usize>,
    /// End when every finite port (a capture file) is at its end.
    pub exit_when_done: bool,
}

/// How the packet pool uses huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HugePages {
    /// When there are any.
    #[default]
    Auto,
    /// Never.
    Never,
    /// The daemon does not start without.
    Require,
}

/// `[pool]`: read once, when the daemon starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolSection {
    /// Packet cells.
    pub cells: u32,
    /// Bytes of a cell, a power of two from 2048 to 32768.
    pub cell_size: u32,
    /// Bytes before the data of a fresh packet.
    pub headroom: u32,
    /// Huge pages.
    pub huge_pages: HugePages,
}

impl Default for PoolSection {
    fn default() -> Self {
        PoolSection { cells: 65_536, cell_size: 2048, headroom: 128, huge_pages: HugePages::Auto }
    }
}

/// `[plugins]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PluginSection {
    /// Folders whose `libsmpnet_*.so` are loaded, besides those next to the program.
    pub dirs: Vec<PathBuf>,
    /// Further files to load.
    pub load: Vec<Located<PathBuf>>,
}

/// `[control]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ControlSection {
    /// The Unix socket of the control API.
    pub socket: PathBuf,
}

impl Default for ControlSection {
    fn default() -> Self {
        ControlSection { socket: DEFAULT_SOCKET.into() }
    }
}

/// Where compiled code of modules is kept unless something else was said.
pub const DEFAULT_CACHE: &str = "/var/cache/smpnet/wasm";

/// `[filters]`: read once, when the daemon starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FiltersSection {
    /// The folder where compiled code of modules is kept; `None` keeps none.
    pub cache: Option<PathBuf>,
    /// Whether the file says so: then a folder that cannot be used is worth a warning.
    pub cache_given: bool,
}

impl Default for FiltersSection {
    fn default() -> Self {
        FiltersSection { cache: Some(DEFAULT_CACHE.into()), cache_given: false }
    }
}

/// What an interface is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backing {
    /// A port of a driver.
    Driver(String),
    /// An interface kind.
    Kind(String),
    /// The loopback interface that every router has.
    Loopback,
}

/// `[[interface]]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interface {
    /// Where the table begins.
    #[serde(skip)]
    pub at: At,
    /// Name, at most 15 bytes.
    pub name: String,
    /// Driver or kind.
    pub backing: Backing,
    /// Where `driver` or `kind` stands.
    #[serde(skip)]
    pub backing_at: At,
    /// The driver's or kind's own options, a JSON object.
    pub options: serde_json::Value,
    /// Where `options` stands.
    #[serde(skip)]
    pub options_at: At,
    /// Addresses with the lengths of their networks.
    pub addresses: Vec<Located<Prefix>>,
    /// MTU, when not the device's own.
    pub mtu: Option<u32>,
    /// Configured up.
    pub up: bool,
    /// For the operator.
    pub description: String,
    /// Receive queues wished for.
    pub rx_queues: Option<u16>,
    /// Transmit queues wished for.
    pub tx_queues: Option<u16>,
    /// Receive every station's frames.
    pub promisc: bool,
    /// Ethernet address, when not the device's own.
    pub mac: Option<Mac>,
    /// Multicasts that the device is to receive.
    pub multicast: Multicast,
    /// Offloads to use, by name; `None` uses all that the device offers.
    pub offloads: Option<Vec<String>>,
}

/// Multicasts that a port is to receive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Multicast {
    /// These addresses, in order and each once.
    pub list: Vec<Mac>,
    /// Every one.
    pub all: bool,
}

impl fmt::Display for Multicast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = self.list.iter().map(Mac::to_string).collect();
        if self.all {
            words.push("all".into());
        }
        f.write_str(if words.is_empty() { "none" } else { "" })?;
        f.write_str(&words.join(", "))
    }
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteTarget {
    /// To these next hops, by flow.
    NextHops(Vec<NextHop>),
    /// Nowhere, silently.
    Blackhole,
    /// Nowhere, with an ICMP unreachable.
    Reject,
}

/// A next hop: a gateway, an interface, or both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NextHop {
    /// The gateway.
    pub via: Option<Ipv4Addr>,
    /// The interface.
    pub dev: Option<String>,
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.via, &self.dev) {
            (Some(via), Some(dev)) => write!(f, "{via} on {dev}"),
            (Some(via), None) => write!(f, "{via}"),
            (None, Some(dev)) => write!(f, "{dev}"),
            (None, None) => f.write_str("nowhere"),
        }
    }
}

/// `[[route]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Where the table begins.
    #[serde(skip)]
    pub at: At,
    /// Destination, without host bits.
    pub to: Prefix,
    /// Where it leads.
    pub target: RouteTarget,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to)?;
        match &self.target {
            RouteTarget::NextHops(hops) => {
                for (i, hop) in hops.iter().enumerate() {
                    write!(f, "{} {hop}", if i == 0 { " via" } else { "," })?;
                }
                Ok(())
            }
            RouteTarget::Blackhole => f.write_str(" blackhole"),
            RouteTarget::Reject => f.write_str(" reject"),
        }
    }
}

/// An Ethernet address in the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// An address that a station can have.
    pub fn station(s: &str) -> Result<Mac, String> {
        let mac: Mac = s.parse()?;
        if mac.0[0] & 1 != 0 || mac.0 == [0; 6] {
            return Err(format!("{mac} is not the address of a station"));
        }
        Ok(mac)
    }

    /// An address of a group, other than everybody.
    pub fn group(s: &str) -> Result<Mac, String> {
        let mac: Mac = s.parse()?;
        if mac.0[0] & 1 == 0 || mac.0 == [0xff; 6] {
            return Err(format!("{mac} is not a multicast address (the first byte of one is odd)"));
        }
        Ok(mac)
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(s: &str) -> Result<Mac, String> {
        let wrong = || format!("\"{s}\" is not an Ethernet address (six hex bytes with colons)");
        let mut bytes = [0; 6];
        let mut parts = s.split(':');
        for b in &mut bytes {
            let part = parts.next().filter(|p| (1..=2).contains(&p.len())).ok_or_else(wrong)?;
            *b = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Mac(bytes)) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// `[[arp]]`: a static neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ArpEntry {
    /// Where the table begins.
    #[serde(skip)]
    pub at: At,
    /// The neighbour's address.
    pub address: Ipv4Addr,
    /// Its Ethernet address; `None` for a published entry that answers with the interface's own.
    pub mac: Option<Mac>,
    /// The interface; by default the one whose network holds the address.
    pub interface: Option<String>,
    /// Answer ARP requests for it (proxy ARP).
    pub publish: bool,
}

/// What a filter runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FilterSource {
    /// A libpcap expression.
    Expr(String),
    /// The text of a program as `tcpdump -ddd` prints it, and where it came from.
    Program {
        /// The file, for messages.
        file: String,
        /// Its text.
        text: String,
    },
    /// A module of somebody's.
    Module(Box<Module>),
    /// A native filter of a plugin.
    Native {
        /// Its name (`loss`).
        filter: String,
        /// Its own options, a JSON object.
        options: serde_json::Value,
    },
}

impl fmt::Display for FilterSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FilterSource::Expr(e) => write!(f, "\"{e}\""),
            FilterSource::Program { file, .. } => write!(f, "program {file}"),
            FilterSource::Module(m) => write!(f, "{m}"),
            FilterSource::Native { filter, options } if options.as_object().is_none_or(|o| o.is_empty()) => {
                write!(f, "native {filter}")
            }
            FilterSource::Native { filter, options } => write!(f, "native {filter} {options}"),
        }
    }
}

/// What happens to packets that a filter matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// They are dropped, the rest passes.
    #[default]
    Drop,
    /// They pass, the rest is dropped.
    Pass,
}

impl Action {
    /// `drop` or `pass`.
    pub fn name(self) -> &'static str {
        match self {
            Action::Drop => "drop",
            Action::Pass => "pass",
        }
    }
}

/// Where a filter sits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachLayer {
    /// At the IP header.
    #[default]
    Inet,
    /// At the Ethernet header.
    Ether,
}

impl AttachLayer {
    /// `inet` or `ether`.
    pub fn name(self) -> &'static str {
        match self {
            AttachLayer::Inet => "inet",
            AttachLayer::Ether => "ether",
        }
    }
}

/// Which way packets go that a filter sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FilterDirection {
    /// Coming in.
    #[default]
    In,
    /// Going out.
    Out,
    /// Both.
    Both,
}

impl FilterDirection {
    /// `in`, `out` or `both`.
    pub fn name(self) -> &'static str {
        match self {
            FilterDirection::In => "in",
            FilterDirection::Out => "out",
            FilterDirection::Both => "both",
        }
    }
}

/// `[[filter]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Filter {
    /// Where the table begins.
    #[serde(skip)]
    pub at: At,
    /// Name.
    pub name: String,
    /// What it runs.
    pub source: FilterSource,
    /// Where the source stands.
    #[serde(skip)]
    pub source_at: At,
    /// What happens to matches.
    pub action: Action,
    /// Where it sits.
    pub attach: AttachLayer,
    /// The interface; `None` for all.
    pub interface: Option<String>,
    /// Direction.
    pub direction: FilterDirection,
    /// Lower runs earlier on the way in, later on the way out.
    pub priority: i32,
    /// What happens to packets when the filter fails.
    pub on_fault: OnFault,
    /// How many faults are too many.
    pub faults: FaultLimit,
}

impl Filter {
    /// The module that it runs, when it runs one.
    pub fn module(&self) -> Option<&Module> {
        match &self.source {
            FilterSource::Module(m) => Some(m),
            _ => None,
        }
    }

    /// True for a native filter.
    pub fn is_native(&self) -> bool {
        matches!(self.source, FilterSource::Native { .. })
    }

    /// What it does, for people.
    pub fn what(&self) -> String {
        match self.source {
            FilterSource::Native { .. } | FilterSource::Module(_) => self.source.to_string(),
            _ => format!("{} {}", self.action.name(), self.source),
        }
    }

    /// True when `other` sits at the same place with the same policy, so that one can be swapped for the other.
    pub fn same_place(&self, other: &Filter) -> bool {
        self.name == other.name
            && self.attach == other.attach
            && self.interface == other.interface
            && self.direction == other.direction
            && self.priority == other.priority
            && self.on_fault == other.on_fault
            && self.faults == other.faults
            && self.is_native() == other.is_native()
    }
}

impl Config {
    /// The interface of that name.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.name == name)
    }

    /// The interface whose network holds `addr`.
    pub fn connected(&self, addr: Ipv4Addr) -> Option<&Interface> {
        self.interfaces
            .iter()
            .filter_map(|i| {
                i.addresses.iter().filter(|a| a.value.contains(addr)).map(|a| a.value.len).max().map(|l| (l, i))
            })
            .max_by_key(|(len, _)| *len)
            .map(|(_, i)| i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_read_and_written() {
        let p: Prefix = "10.0.1.7/24".parse().unwrap();
        assert_eq!(p.to_string(), "10.0.1.7/24");
        assert_eq!(p.network().to_string(), "10.0.1.0/24");
        assert_eq!("0.0.0.0/0".parse::<Prefix>().unwrap().mask(), 0);
        assert_eq!("10.0.0.1".parse::<Prefix>().unwrap().len, 32);
        assert_eq!("10.0.0.1/33".parse::<Prefix>().unwrap_err(), "\"33\" is not a prefix length (0 to 32)");
        assert_eq!("10.0.0/24".parse::<Prefix>().unwrap_err(), "\"10.0.0\" is not an IPv4 address");
    }

    #[test]
    fn prefixes_overlap_when_one_holds_the_other() {
        let p = |s: &str| s.parse::<Prefix>().unwrap();
        assert!(p("10.0.0.1/8").overlaps(p("10.2.0.0/16")));
        assert!(p("10.2.0.0/16").overlaps(p("10.0.0.1/8")));
        assert!(!p("10.0.0.1/24").overlaps(p("10.0.1.1/24")));
    }

    #[test]
    fn an_ethernet_address_is_read_and_written() {
        assert_eq!("2:0:0:0:0:A".parse::<Mac>().unwrap().to_string(), "02:00:00:00:00:0a");
        assert!("02:00:00:00:00".parse::<Mac>().is_err());
        assert!("02:00:00:00:00:0g".parse::<Mac>().is_err());
    }
}
