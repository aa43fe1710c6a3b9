//! Which connection a packet belongs to.

use crate::{
    config::{Family, Stateful},
    packet::{IcmpClass, Packet, Ports, Upper, be16, be32, be128, proto, v4},
    params::{Key as Param, Params},
};

/// Which way a packet crosses an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Direction {
    /// It comes in.
    In,
    /// It leaves.
    Out,
}

/// Where a packet is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// The number that the engine has given to the interface's name, below [`INTERFACES_MAX`]; None for no interface.
    pub interface: Option<u16>,
    /// Which way it crosses.
    pub direction: Direction,
}

/// Numbers of interfaces are below this.
pub const INTERFACES_MAX: u16 = u16::MAX;

/// What of a [`Crossing`] belongs to the key: packets that cross elsewhere do not belong to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// `state.key.interface`
    pub interface: bool,
    /// `state.key.direction`
    pub direction: bool,
}

impl Binding {
    /// As parameters and the rule say. `stateful-all` is bound to no interface.
    pub fn new(params: &Params, stateful: Stateful) -> Binding {
        Binding {
            interface: params.is_on(Param::StateKeyInterface) && stateful == Stateful::Interface,
            direction: params.is_on(Param::StateKeyDirection),
        }
    }
}

/// The key of a connection, for the packets of one way.
///
/// Forty bytes, so that it and what a packet changes take two cache lines of a connection; five words, so that two of them are
/// compared at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    src: [u64; 2],
    dst: [u64; 2],
    rest: Rest,
}

/// What a key has besides addresses, from above: the ports or identifiers, the interface's number plus one (0 for none), the
/// protocol, and bits of the constants below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Rest(u64);

impl Rest {
    fn new(ids: [u16; 2], proto: u8, bits: u8) -> Rest {
        Rest(u64::from(ids[0]) << 48 | u64::from(ids[1]) << 32 | u64::from(proto) << 8 | u64::from(bits))
    }

    #[inline]
    fn ids(self) -> [u16; 2] {
        [(self.0 >> 48) as u16, (self.0 >> 32) as u16]
    }

    #[inline]
    fn with_ids(self, ids: [u16; 2]) -> Rest {
        Rest(self.0 & 0xffff_ffff | u64::from(ids[0]) << 48 | u64::from(ids[1]) << 32)
    }

    #[inline]
    fn interface(self) -> u16 {
        (self.0 >> 16) as u16
    }

    #[inline]
    fn proto(self) -> u8 {
        (self.0 >> 8) as u8
    }

    #[inline]
    fn bits(self) -> u8 {
        self.0 as u8
    }

    #[inline]
    fn with_bits(self, bits: u8) -> Rest {
        Rest(self.0 & !0xff | u64::from(bits))
    }

    /// Bound to a crossing.
    #[inline]
    fn bound(self, at: Crossing, binding: Binding) -> Rest {
        let interface = at.interface.filter(|_| binding.interface).map_or(0, |i| i.saturating_add(1));
        let direction = match (binding.direction, at.direction) {
            (false, _) => 0,
            (true, Direction::In) => BOUND,
            (true, Direction::Out) => BOUND | OUT,
        };
        Rest(self.0 & !(0xffff << 16) | u64::from(interface) << 16).with_bits(self.bits() & !(BOUND | OUT) | direction)
    }

    /// That of the packets that come back.
    #[inline]
    fn reverse(self) -> Rest {
        let mut bits = self.bits();
        if bits & BOUND != 0 {
            bits ^= OUT;
        }
        if matches!(self.proto(), proto::ICMP | proto::ICMPV6) {
            bits ^= ANSWER;
        }
        let [from, to] = self.ids();
        self.with_ids([to, from]).with_bits(bits)
    }
}

const V6: u8 = 1;
/// The direction is in [`OUT`].
const BOUND: u8 = 2;
const OUT: u8 = 4;
/// Answers to ICMP queries: two hosts that query each other with the same identifier have two connections.
const ANSWER: u8 = 8;

fn halves(n: u128) -> [u64; 2] {
    [(n >> 64) as u64, n as u64]
}

fn whole([high, low]: [u64; 2]) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

impl Key {
    /// The key of a packet. None where there is nothing by which a connection could be told: fragments behind the first,
    /// ICMP that is no query, protocols without state.
    pub fn of(packet: &Packet, at: Crossing, binding: Binding) -> Option<Key> {
        Some(Key::unbound(packet)?.bound(at, binding))
    }

    /// The same, bound to nothing.
    #[inline]
    pub fn unbound(packet: &Packet) -> Option<Key> {
        if packet.fragment.is_some_and(|f| f.offset != 0) {
            return None;
        }
        let (ids, answer) = match packet.upper {
            Upper::Tcp(tcp) => ([tcp.ports.src, tcp.ports.dst], false),
            Upper::Udp(Ports { src, dst }) | Upper::Sctp(Ports { src, dst }) => ([src, dst], false),
            Upper::Icmp(icmp) => match icmp.class {
                IcmpClass::Request(id) => ([id, id], false),
                IcmpClass::Reply(id) => ([id, id], true),
                _ => return None,
            },
            Upper::Tunnel(id) => ([id as u16; 2], false),
            Upper::Unknown => return None,
        };
        let mut key = Key::new(packet.family, packet.proto, (packet.src, ids[0]), (packet.dst, ids[1]));
        if answer {
            key.rest = key.rest.with_bits(key.rest.bits() | ANSWER);
        }
        Some(key)
    }

    /// The key of packets of a protocol from an address and id to another, bound to nothing.
    pub fn new(family: Family, proto: u8, (src, src_id): (u128, u16), (dst, dst_id): (u128, u16)) -> Key {
        let bits = if family == Family::V6 { V6 } else { 0 };
        Key { src: halves(src), dst: halves(dst), rest: Rest::new([src_id, dst_id], proto, bits) }
    }

    /// The same, seen at a crossing.
    pub fn bound(self, at: Crossing, binding: Binding) -> Key {
        Key { rest: self.rest.bound(at, binding), ..self }
    }

    /// The key of the packets that come back.
    pub fn reverse(self) -> Key {
        Key { src: self.dst, dst: self.src, rest: self.rest.reverse() }
    }

    /// With another source. Where the protocol has no ports the id is left; an ICMP query has one id, not two.
    pub fn with_source(self, address: u128, id: u16) -> Key {
        Key { src: halves(address), rest: self.other_id(0, id), ..self }
    }

    /// With another destination.
    pub fn with_destination(self, address: u128, id: u16) -> Key {
        Key { dst: halves(address), rest: self.other_id(1, id), ..self }
    }

    /// With the addresses of this one, of GRE.
    pub(crate) fn of_gre(self) -> Key {
        Key { rest: Rest(self.rest.0 & 0xffff_00ff | u64::from(proto::GRE) << 8), ..self }
    }

    /// That of packets of a PPTP call, which carry the id that the receiver has given to it.
    pub(crate) fn to_call(self, id: u16) -> Key {
        Key { rest: self.rest.with_ids([0, id]), ..self }
    }

    fn other_id(self, side: usize, id: u16) -> Rest {
        let mut ids = self.rest.ids();
        match self.rest.proto() {
            proto::TCP | proto::UDP | proto::SCTP => ids[side] = id,
            proto::ICMP | proto::ICMPV6 => ids = [id; 2],
            _ => {}
        }
        self.rest.with_ids(ids)
    }

    /// Where its packets come from; IPv4 as in [`Packet`].
    pub fn source(&self) -> u128 {
        whole(self.src)
    }

    /// Where they go.
    pub fn destination(&self) -> u128 {
        whole(self.dst)
    }

    /// Where its packets come from, with the port.
    pub fn source_end(&self) -> (u128, u16) {
        (self.source(), self.rest.ids()[0])
    }

    /// Where they go, with the port.
    pub fn destination_end(&self) -> (u128, u16) {
        (self.destination(), self.rest.ids()[1])
    }

    /// Ports of source and destination, or twice the ICMP query's identifier.
    pub fn ids(&self) -> (u16, u16) {
        self.rest.ids().into()
    }

    /// The protocol.
    pub fn proto(&self) -> u8 {
        self.rest.proto()
    }

    /// IPv4 or IPv6.
    pub fn family(&self) -> Family {
        if self.rest.bits() & V6 == 0 { Family::V4 } else { Family::V6 }
    }

    /// The interface that it is bound to.
    pub fn interface(&self) -> Option<u16> {
        self.rest.interface().checked_sub(1)
    }

    /// The direction that it is bound to.
    pub fn direction(&self) -> Option<Direction> {
        match self.rest.bits() & (BOUND | OUT) {
            BOUND => Some(Direction::In),
            0 => None,
            _ => Some(Direction::Out),
        }
    }

    /// Its packets answer ICMP queries.
    pub fn is_answer(&self) -> bool {
        self.rest.bits() & ANSWER != 0
    }
}

/// A crossing as keys have it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound(u64);

/// What of a [`Rest`] is of a crossing.
const BINDING: u64 = 0xffff << 16 | (BOUND | OUT) as u64;

impl Bound {
    /// That of nothing.
    pub const NOTHING: Bound = Bound(0);

    /// That of a crossing.
    pub fn new(at: Crossing, binding: Binding) -> Bound {
        Bound(Rest(0).bound(at, binding).0)
    }
}

/// The key of a packet of IPv4 that has ports, without what is the same in all of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShortKey {
    src: u64,
    dst: u64,
    rest: Rest,
}

impl ShortKey {
    /// The key of packets of a protocol from an address to another, bound to nothing. `ports`: the source's in the upper half.
    #[inline]
    pub fn new(proto: u8, src: u32, dst: u32, ports: u32) -> ShortKey {
        let low = |address| v4(address) as u64;
        ShortKey { src: low(src), dst: low(dst), rest: Rest(u64::from(ports) << 32 | u64::from(proto) << 8) }
    }

    /// The ports of source and destination.
    #[inline]
    pub fn ports(&self) -> (u16, u16) {
        self.rest.ids().into()
    }

    /// Source and destination: the lower halves of what a [`Packet`] holds.
    #[inline]
    pub fn addresses(&self) -> [u64; 2] {
        [self.src, self.dst]
    }

    /// The same, bound.
    #[inline]
    pub fn bound(self, Bound(bits): Bound) -> ShortKey {
        ShortKey { rest: Rest(self.rest.0 & !BINDING | bits), ..self }
    }

    /// Whether [`Key::reverse`] of it is that key. Protocols with ports have no answers that are told apart.
    #[inline]
    pub fn is_reverse(&self, key: &Key) -> bool {
        let (ids, turned) = (self.rest.0 >> 32, (self.rest.0 as u32) ^ ((self.rest.0 as u32 & u32::from(BOUND)) << 1));
        let rest = u64::from((ids as u32).rotate_left(16)) << 32 | u64::from(turned);
        self.dst == key.src[1] && self.src == key.dst[1] && rest == key.rest.0
    }

    /// Whether it is that key. One of IPv4, and its bits say so, has nothing in the upper halves.
    #[inline]
    pub fn is(&self, key: &Key) -> bool {
        self.src == key.src[1] && self.dst == key.dst[1] && self.rest == key.rest
    }

    /// The whole key.
    #[inline]
    pub fn whole(&self) -> Key {
        Key { src: [0, self.src], dst: [0, self.dst], rest: self.rest }
    }
}

/// Hashes keys so that an outsider who does not know the seed cannot steer them: folded 64x64 multiplications (the core of
/// wyhash).
#[derive(Clone, Copy, Debug)]
pub(super) struct Hasher {
    seed: u64,
    turned: u64,
    /// What the upper halves of IPv4 addresses come to.
    v4: u64,
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl Hasher {
    pub fn new(seed: u64) -> Hasher {
        let turned = seed.rotate_left(32);
        let mut hasher = Hasher { seed, turned, v4: 0 };
        hasher.v4 = hasher.upper(0, 0);
        hasher
    }

    #[inline]
    fn upper(&self, src: u64, dst: u64) -> u64 {
        fold(src ^ self.seed, dst ^ self.turned ^ 0xa076_1d64_78bd_642f)
    }

    #[inline]
    fn whole(&self, upper: u64, src: u64, dst: u64, rest: Rest) -> u32 {
        let lower = fold(src ^ self.turned, dst ^ self.seed ^ 0xe703_7ed1_a0b4_28db);
        let h = fold(upper ^ rest.0 ^ 0x8ebc_6af0_9c88_c6e3, lower ^ self.seed ^ 0x5896_36e4_4a1d_7e35);
        h as u32 ^ (h >> 32) as u32
    }

    #[inline]
    pub fn hash(&self, key: &Key) -> u32 {
        self.whole(self.upper(key.src[0], key.dst[0]), key.src[1], key.dst[1], key.rest)
    }

    /// The hash of the whole key.
    #[inline]
    pub fn hash_short(&self, key: &ShortKey) -> u32 {
        self.whole(self.v4, key.src, key.dst, key.rest)
    }
}

/// What an ICMP error says of the packet that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// The key that an answer to the quoted packet would have, without a crossing: it goes where the error goes.
    pub answer: Key,
    /// Its TCP sequence number.
    pub seq: Option<u32>,
}

/// Reads the packet that an ICMP error quotes, `bytes` being from its IP header on. The lengths in it are those of the
/// whole packet, and routers quote as little as its IP header and eight bytes (RFC 792); nothing more is asked for.
pub fn read_quoted(bytes: &[u8]) -> Option<Quoted> {
    let (family, src, dst, number, at) = match bytes.first()? >> 4 {
        4 => {
            let head = bytes.first_chunk::<20>()?;
            let at = usize::from(head[0] & 15) * 4;
            if at < 20 || be16(head, 6) & 0x1fff != 0 {
                return None;
            }
            (Family::V4, v4(be32(head, 12)), v4(be32(head, 16)), head[9], at)
        }
        6 => {
            let head = bytes.first_chunk::<40>()?;
            let (number, at) = behind_extensions(bytes, head[6])?;
            (Family::V6, be128(head, 8), be128(head, 24), number, at)
        }
        _ => return None,
    };
    let body = bytes.get(at..)?.first_chunk::<8>();
    let mut seq = None;
    let mut key = Key::new(family, number, (src, 0), (dst, 0));
    match number {
        proto::TCP | proto::UDP | proto::SCTP => {
            let body = body?;
            key.rest = key.rest.with_ids([be16(body, 0), be16(body, 2)]);
            seq = (number == proto::TCP).then(|| be32(body, 4));
        }
        proto::ICMP | proto::ICMPV6 => {
            let body = body?;
            let class = match (number, family) {
                (proto::ICMP, Family::V4) => IcmpClass::of_v4(body[0], be16(body, 4), 0),
                (proto::ICMPV6, Family::V6) => IcmpClass::of_v6(body[0], be16(body, 4), 0),
                _ => return None,
            };
            match class {
                IcmpClass::Request(id) => key.rest = key.rest.with_ids([id; 2]),
                IcmpClass::Reply(id) => key.rest = key.rest.with_ids([id; 2]).with_bits(key.rest.bits() | ANSWER),
                // No error is about an error (RFC 1122 3.2.2, RFC 4443 2.4).
                _ => return None,
            }
        }
        proto::GRE | proto::ESP | proto::AH => {}
        _ => return None,
    }
    Some(Quoted { answer: key.reverse(), seq })
}

/// The upper protocol of a quoted IPv6 packet, and where its header is.
fn behind_extensions(bytes: &[u8], first: u8) -> Option<(u8, usize)> {
    let (mut number, mut at) = (first, 40);
    for _ in 0..crate::packet::EXTENSIONS_MAX {
        let len = match number {
            // Hop-by-hop, routing, destination options (RFC 8200 4).
            0 | 43 | 60 => 8 + usize::from(*bytes.get(at + 1)?) * 8,
            44 => {
                if be16(bytes.get(at..at + 8)?, 2) & !7 != 0 {
                    return None;
                }
                8
            }
            _ => return Some((number, at)),
        };
        (number, at) = (*bytes.get(at)?, at + len);
    }
    None
}

#[cfg(test)]
mod tests;
