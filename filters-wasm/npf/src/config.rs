//! A configuration as it is meant: variables put in, names resolved, everything checked.
//!
//! The parser makes it, the printer writes it out again, and every engine runs it. Nothing here refers to the text any
//! more but [`Place`], which says where a thing was written.

use crate::params::Params;
use std::{net::IpAddr, sync::Arc, time::Duration};

/// A whole configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Parameters, those that were not set with their defaults.
    pub params: Params,
    /// Tables, by [`TableId`].
    pub tables: Vec<Table>,
    /// Procedures, by [`ProcedureId`].
    pub procedures: Vec<Procedure>,
    /// Application gateways that are asked for.
    pub algs: Vec<Alg>,
    /// Address translation, in the order in which it is tried.
    pub maps: Vec<MapItem>,
    /// The groups on the outermost level; the default group is the last one.
    pub groups: Vec<Group>,
}

/// Where something was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// The file as it was named.
    pub file: Arc<str>,
    /// Line, from 1; 0 for what no file says.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Bits of an address.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

/// Where a packet goes, as a group or a rule asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Directions {
    /// Anywhere.
    #[default]
    Any,
    /// It comes in by an interface.
    In,
    /// It leaves by an interface, forwarded or our own.
    Out,
    /// It leaves by an interface and came in by another (`forw`).
    Forward,
}

/// Number of a table in [`Config::tables`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub usize);

/// Number of a procedure in [`Config::procedures`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcedureId(pub usize);

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name, without the angle brackets.
    pub name: String,
    /// What it holds.
    pub kind: TableKind,
    /// Where its entries came from.
    pub source: TableSource,
    /// What the file said, if there is one, in its order.
    pub entries: Vec<TableEntry>,
    /// How long an entry stays that is not added again. None: until it is removed.
    pub timeout: Option<Duration>,
    /// Each entry counts its packets and bytes.
    pub counters: bool,
    /// Where it is written.
    pub at: Place,
}

/// What a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TableKind {
    /// Addresses (`ipset`).
    Ipset,
    /// Prefixes, of which the longest counts (`lpm`).
    Lpm,
    /// Addresses that never change (`const`).
    Const,
    /// Addresses with a protocol and a port each (`ipport`, of this project).
    IpPort,
}

/// Where a table's entries come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableSource {
    /// From commands only.
    Empty,
    /// From a file, one entry a line.
    File(String),
}

/// An entry of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TableEntry {
    /// An address, or a prefix of which no host bit is set.
    pub prefix: Prefix,
    /// Protocol and port, in tables of the kind [`TableKind::IpPort`] only.
    pub service: Option<(u8, u16)>,
}

/// An address and how many of its bits count. No bit behind those is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// Bits that count, 0 to 32 or 128.
    pub len: u8,
}

impl Prefix {
    /// A single address.
    pub fn host(address: IpAddr) -> Prefix {
        Prefix { address, len: Family::of(address).bits() }
    }

    /// A prefix with the bits behind its length cleared. None when the length is beyond the address's.
    pub fn new(address: IpAddr, len: u8) -> Option<Prefix> {
        let bits = Family::of(address).bits();
        if len > bits {
            return None;
        }
        let address = match address {
            IpAddr::V4(a) => IpAddr::V4((a.to_bits() & u32::MAX.checked_shl(u32::from(32 - len)).unwrap_or(0)).into()),
            IpAddr::V6(a) => {
                IpAddr::V6((a.to_bits() & u128::MAX.checked_shl(u32::from(128 - len)).unwrap_or(0)).into())
            }
        };
        Some(Prefix { address, len })
    }

    /// Whether an address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == Family::of(self.address)
            && Prefix::new(address, self.len).is_some_and(|p| p.address == self.address)
    }
}

/// Application gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alg {
    /// ICMP errors in translated connections. They are always looked after; the word is taken and does nothing.
    Icmp,
    /// PPTP: the call ids of its GRE tunnels are translated.
    Pptp,
}

/// A group of rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its name; None for the default group.
    pub name: Option<String>,
    /// Which packets it is for.
    pub directions: Directions,
    /// The interface it is for; None for all.
    pub interface: Option<String>,
    /// Its rules look at Ethernet headers.
    pub layer2: bool,
    /// What is in it, in order.
    pub items: Vec<Item>,
    /// Where it is written.
    pub at: Place,
}

/// What stands in a group.
#[allow(clippy::large_enum_variant, reason = "nearly all of them are rules")]
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A rule.
    Rule(Rule),
    /// A group within the group.
    Group(Group),
    /// Rules that commands add and take away.
    Ruleset(Ruleset),
}

/// A dynamic ruleset: a place for rules that commands add and take away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Its name; of maps it begins with `map:`.
    pub name: String,
    /// Which packets it is for.
    pub directions: Directions,
    /// The interface it is for; None for all.
    pub interface: Option<String>,
    /// Where it is written.
    pub at: Place,
}

/// A rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Stays the same as long as the rule does, over reloads too: a hash of what it says and of how many rules before
    /// it say the same.
    pub id: RuleId,
    /// The name that the administrator gave it.
    pub name: Option<String>,
    /// What happens to the packet.
    pub action: Action,
    /// Whether a packet that passes opens a connection.
    pub state: Option<Stateful>,
    /// Which packets it is for.
    pub directions: Directions,
    /// No rule after it is looked at.
    pub is_final: bool,
    /// The interface it is for; None for all.
    pub interface: Option<String>,
    /// What a packet must be.
    pub filter: Filter,
    /// What is done with packets that it decided on.
    pub apply: Option<ProcedureId>,
    /// The packets that it decided on are logged with its name.
    pub log: bool,
    /// The packet must, or must not, carry this tag.
    pub tagged: Option<Tagged>,
    /// Packets that it decided on get this tag.
    pub tag: Option<String>,
    /// Beyond these it does not match.
    pub limits: Vec<Limit>,
    /// Where it is written.
    pub at: Place,
}

/// Identity of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u64);

impl std::fmt::Display for RuleId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The packet goes on.
    Pass,
    /// It does not.
    Block(Return),
}

/// What the sender of a blocked packet is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Return {
    /// Nothing.
    Nothing,
    /// TCP: a reset. Everything else: an ICMP error, administratively prohibited.
    Any,
    /// TCP: a reset. Everything else: nothing.
    Rst,
    /// An ICMP error, whatever it was.
    Icmp,
}

/// How a connection is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stateful {
    /// To the interface on which it began (`stateful`).
    Interface,
    /// To none (`stateful-all`).
    All,
}

/// A tag that a packet must carry, or must not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tagged {
    /// It must not.
    pub not: bool,
    /// The tag.
    pub name: String,
}

/// What a packet must be for a rule to match.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// Addresses, protocols and ports.
    Match(Match),
    /// An expression of pcap-filter(7); the packet begins at its IP header.
    Pcap(String),
    /// Of an Ethernet header, in groups of layer 2 only.
    Ether(EtherMatch),
}

/// Addresses, protocols and ports. Everything that is left out is anything; the default matches every packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Match {
    /// IPv4 or IPv6.
    pub family: Option<Family>,
    /// One of these. Where ports are asked for and no protocol is, it is TCP or UDP.
    pub protos: Vec<Proto>,
    /// TCP packets must have SYN and neither ACK, FIN nor RST: the rule is stateful and names no flags.
    pub opening: bool,
    /// Where it comes from.
    pub from: Endpoint,
    /// Where it goes.
    pub to: Endpoint,
}

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Proto {
    /// Its number.
    pub number: u8,
    /// What more is asked.
    pub options: ProtoOptions,
}

/// What is asked of a packet of a protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProtoOptions {
    /// Nothing.
    #[default]
    None,
    /// Of the flags in the mask, exactly these are set.
    TcpFlags {
        /// Those that are set.
        value: u8,
        /// Those that are looked at.
        mask: u8,
    },
    /// ICMP or ICMPv6.
    Icmp {
        /// Its type.
        kind: u8,
        /// Its code; None for any.
        code: Option<u8>,
    },
}

/// One end of a packet's way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// It must be none of the addresses. Ports are not concerned.
    pub not: bool,
    /// It must be one of these; any if there are none.
    pub addresses: Vec<Address>,
    /// Its port must be in one of these; any if there are none.
    pub ports: Vec<PortRange>,
}

/// An address, or several.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A prefix.
    Prefix(Prefix),
    /// What is in a table.
    Table(TableId),
    /// The addresses of an interface.
    Interface {
        /// Its name.
        name: String,
        /// Of this family; None for both.
        family: Option<Family>,
        /// As they were when the configuration was loaded (`inet4`, `inet6`), and not as they are (`ifaddrs`).
        fixed: bool,
    },
}

/// Ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last, not below the first.
    pub last: u16,
}

impl PortRange {
    /// Whether a port is one of them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// What an Ethernet header must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EtherMatch {
    /// Whom it is from: must, or must not, be this.
    pub from: Option<EtherAddress>,
    /// Whom it is to.
    pub to: Option<EtherAddress>,
    /// Its EtherType.
    pub ether_type: Option<u16>,
}

/// An Ethernet address that must, or must not, be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EtherAddress {
    /// It must not.
    pub not: bool,
    /// The address.
    pub address: [u8; 6],
}

/// A limit of a rule. What exceeds it is not matched by the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Of what.
    pub of: LimitOf,
    /// For each source by itself.
    pub per_source: Option<SourceBits>,
    /// Sources that exceed it are put into this table, for so long (None: until they are removed).
    pub overload: Option<(TableId, Option<Duration>)>,
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitOf {
    /// Connections at the same time.
    States(u32),
    /// New connections, or packets of a rule without state, in a time.
    Rate {
        /// So many.
        count: u32,
        /// In that time.
        per: Duration,
        /// So many at once after a quiet time, at least `count`.
        burst: u32,
    },
}

/// Bits of an address that tell sources apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceBits {
    /// Of IPv4, 1 to 32.
    pub v4: u8,
    /// Of IPv6, 1 to 128.
    pub v6: u8,
}

/// Address translation, or a place for it.
#[derive(Clone, Debug, PartialEq)]
pub enum MapItem {
    /// A map.
    Map(Map),
    /// Maps that commands add and take away.
    Ruleset(Ruleset),
}

/// A map: addresses of one side stand for addresses of the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// As for rules.
    pub id: RuleId,
    /// The interface whose packets are translated.
    pub interface: String,
    /// Without connections, each packet by itself (`static`).
    pub is_static: bool,
    /// How an address is chosen among several.
    pub algo: Option<MapAlgo>,
    /// Ports stay as they are (`no-ports`).
    pub no_ports: bool,
    /// An inner address and port is seen as the same outer one wherever it talks to (`endpoint-independent`).
    pub endpoint_independent: bool,
    /// What inner hosts send to such an outer one comes back inside (`hairpin`).
    pub hairpin: bool,
    /// Which way.
    pub arrow: Arrow,
    /// The inner side, which stands on the left.
    pub inner: Segment,
    /// The outer side.
    pub outer: Segment,
    /// Which packets, besides those that the sides and the arrow say.
    pub filter: Match,
    /// `filter` was written (`pass ...`), and takes the place of what the sides say.
    pub has_filter: bool,
    /// Where it is written.
    pub at: Place,
}

/// Which way a map works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arrow {
    /// `->`: packets that leave get the outer source.
    Out,
    /// `<-`: packets that come in get the inner destination.
    In,
    /// `<->`: both.
    Both,
}

/// How an address is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MapAlgo {
    /// The host bits stay (`netmap`).
    Netmap,
    /// By a hash of the addresses (`ip-hash`).
    IpHash,
    /// One after the other (`round-robin`).
    RoundRobin,
    /// RFC 6296 (`npt66`).
    Npt66,
}

/// A side of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its addresses; not empty.
    pub addresses: Vec<Address>,
    /// Its port or ports.
    pub ports: Option<PortRange>,
}

/// A procedure.
#[derive(Clone, Debug, PartialEq)]
pub struct Procedure {
    /// Its name.
    pub name: String,
    /// What it does, in order.
    pub calls: Vec<Call>,
    /// Where it is written.
    pub at: Place,
}

/// What a procedure does.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Packets are written to the log of this name.
    Log {
        /// Such as `npflog0`.
        interface: String,
    },
    /// Headers are made plain.
    Normalize(Normalize),
    /// Some packets are dropped.
    RndBlock(RndBlock),
    /// Committed access rate.
    RateLimit {
        /// Bits a second.
        bitrate: u64,
        /// Bytes that may come at once.
        normal_burst: u64,
        /// Bytes that may be borrowed beyond that.
        extended_burst: u64,
    },
    /// Packets leave by this interface, whatever the routes say.
    Route {
        /// Its name.
        interface: String,
    },
    /// A WebAssembly module judges, which was loaded by this name.
    Wasm {
        /// Its name.
        module: String,
    },
}

/// What `normalize` does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Normalize {
    /// IPv4 identifications are random.
    pub random_id: bool,
    /// Lower TTLs and hop limits become this; 0 for none.
    pub min_ttl: u8,
    /// Higher maximal segment sizes in SYNs become this; 0 for none.
    pub max_mss: u16,
    /// The don't-fragment flag is taken away.
    pub no_df: bool,
}

/// Which packets `rndblock` drops.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RndBlock {
    /// Each with this probability, 0 to 100.
    Percentage(f64),
    /// Every so many, at least 1.
    Mod(u32),
}

impl Config {
    /// All rules that are written down, in order.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        items(&self.groups).filter_map(|item| match item {
            Item::Rule(rule) => Some(rule),
            _ => None,
        })
    }

    /// All places for rules that commands add.
    pub fn rulesets(&self) -> impl Iterator<Item = &Ruleset> {
        items(&self.groups).filter_map(|item| match item {
            Item::Ruleset(set) => Some(set),
            _ => None,
        })
    }

    /// All places for maps that commands add.
    pub fn map_rulesets(&self) -> impl Iterator<Item = &Ruleset> {
        self.maps.iter().filter_map(|item| match item {
            MapItem::Ruleset(set) => Some(set),
            MapItem::Map(_) => None,
        })
    }
}

/// All items of groups and the groups in them, in order.
fn items(groups: &[Group]) -> impl Iterator<Item = &Item> {
    let mut stack: Vec<std::slice::Iter<'_, Item>> = groups.iter().rev().map(|g| g.items.iter()).collect();
    std::iter::from_fn(move || {
        loop {
            let Some(item) = stack.last_mut()?.next() else {
                stack.pop();
                continue;
            };
            if let Item::Group(group) = item {
                stack.push(group.items.iter());
            }
            return Some(item);
        }
    })
}
