//! The grammar: words to a tree of tests. Which bytes a primitive looks at, and in which order, follows libpcap's
//! code generator, since with truncated packets the order is part of the meaning.

use super::SubsetError;
use super::lex::{Kind, Token};
use super::node::{Load, Node, Test};
use crate::compile::Dlt;
use crate::insn::{Cond, Size};

/// Deepest nesting of parentheses and `not`.
const MAX_DEPTH: usize = 64;
/// Most primitives and values: a longer expression would hardly fit a program, and the tree stays shallow.
const MAX_TERMS: usize = 1024;

const ETHERTYPE_IP: u32 = 0x0800;
const ETHERTYPE_ARP: u32 = 0x0806;
const ETHERTYPE_RARP: u32 = 0x8035;
const ETHERTYPE_IP6: u32 = 0x86dd;
const IPPROTO_FRAGMENT: u32 = 44;
const TCP: u32 = 6;
const UDP: u32 = 17;
const SCTP: u32 = 132;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Proto {
    None,
    Link,
    Ip,
    Ip6,
    Arp,
    Rarp,
    Tcp,
    Udp,
    Sctp,
    Icmp,
    Icmp6,
    Igmp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dir {
    Src,
    Dst,
    Either,
    Both,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Host,
    Net,
    Port,
    PortRange,
    Proto,
}

/// What stands before a value, and holds for later values that stand alone.
#[derive(Clone, Copy, Debug)]
struct Qual {
    proto: Proto,
    /// `None` where none is written; means either.
    dir: Option<Dir>,
    what: What,
}

type Parsed = Result<(Node, Option<Qual>), SubsetError>;

/// Reads a whole expression. No words at all accept everything.
pub(super) fn parse(tokens: &[Token], dlt: Dlt) -> Result<Node, SubsetError> {
    if tokens.is_empty() {
        return Ok(Node::Const(true));
    }
    let mut p = Parser { tokens, at: 0, dlt, depth: 0, terms: 0 };
    let (node, _) = p.expression(None)?;
    match p.peek() {
        None => Ok(node),
        Some(_) => Err(p.unexpected("`and`, `or` or the end")),
    }
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    dlt: Dlt,
    depth: usize,
    terms: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Kind> {
        self.tokens.get(self.at).map(|t| &t.kind)
    }

    fn next_is(&mut self, kind: &Kind) -> bool {
        let yes = self.peek() == Some(kind);
        self.at += usize::from(yes);
        yes
    }

    fn next_is_word(&mut self, word: &str) -> bool {
        let yes = matches!(self.peek(), Some(Kind::Word(w)) if w == word);
        self.at += usize::from(yes);
        yes
    }

    /// Column of the next word, or one past the last.
    fn column(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.column)
    }

    fn unexpected(&self, expected: &'static str) -> SubsetError {
        let found = self.peek().map_or_else(|| "the end".to_owned(), Kind::describe);
        SubsetError::Syntax { column: self.column(), expected, found }
    }

    fn needs_libpcap<T>(&self, what: impl Into<String>) -> Result<T, SubsetError> {
        Err(SubsetError::NeedsLibpcap { column: self.column(), what: what.into() })
    }

    fn wrong<T>(&self, message: impl Into<String>) -> Result<T, SubsetError> {
        Err(SubsetError::Value { column: self.column(), message: message.into() })
    }

    fn nested<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T, SubsetError>) -> Result<T, SubsetError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(SubsetError::TooLong(format!("it nests more than {MAX_DEPTH} deep")));
        }
        let result = f(self);
        self.depth -= 1;
        result
    }

    /// `operand { (and | or) operand }`, from left to right. With `values`, only values follow (inside `port (80 or 443)`).
    fn expression(&mut self, values: Option<Qual>) -> Parsed {
        let (mut node, mut qual) = match values {
            Some(q) => self.value_operand(q)?,
            None => self.term()?,
        };
        loop {
            let and = match self.peek() {
                Some(Kind::And) => true,
                Some(Kind::Or) => false,
                _ => return Ok((node, qual)),
            };
            self.at += 1;
            let right = match (values, qual) {
                (Some(q), _) => self.value_operand(q)?,
                (None, Some(q)) if self.value_follows() => self.value_operand(q)?,
                _ => self.term()?,
            };
            node = if and { node.and(right.0) } else { node.or(right.0) };
            qual = right.1;
        }
    }

    /// Whether the next word, after any `not` and `(`, is a value.
    fn value_follows(&self) -> bool {
        let rest = self.tokens.get(self.at..).unwrap_or_default();
        rest.iter().map(|t| &t.kind).find(|k| !matches!(k, Kind::Not | Kind::Open)).is_some_and(Kind::is_value)
    }

    /// A value that takes its qualifiers from before.
    fn value_operand(&mut self, qual: Qual) -> Parsed {
        if self.next_is(&Kind::Not) {
            let (node, q) = self.nested(|p| p.value_operand(qual))?;
            return Ok((node.negate(), q));
        }
        if self.next_is(&Kind::Open) {
            let inner = self.nested(|p| p.expression(Some(qual)))?;
            return if self.next_is(&Kind::Close) { Ok(inner) } else { Err(self.unexpected("`and`, `or` or `)`")) };
        }
        Ok((self.value(qual)?, Some(qual)))
    }

    fn term(&mut self) -> Parsed {
        if self.next_is(&Kind::Not) {
            let (node, q) = self.nested(|p| p.term())?;
            return Ok((node.negate(), q));
        }
        if self.next_is(&Kind::Open) {
            let inner = self.nested(|p| p.expression(None))?;
            return if self.next_is(&Kind::Close) { Ok(inner) } else { Err(self.unexpected("`and`, `or` or `)`")) };
        }
        self.primitive()
    }

    /// Bounds the size and thereby the depth of the tree.
    fn count_term(&mut self) -> Result<(), SubsetError> {
        self.terms += 1;
        if self.terms > MAX_TERMS {
            return Err(SubsetError::TooLong(format!("it has more than {MAX_TERMS} terms and values")));
        }
        Ok(())
    }

    /// `less N`, a protocol alone, or qualifiers and a value.
    fn primitive(&mut self) -> Parsed {
        self.count_term()?;
        let less = self.next_is_word("less");
        if less || self.next_is_word("greater") {
            let Some(&Kind::Number(k)) = self.peek() else {
                return Err(self.unexpected("a length in bytes"));
            };
            self.at += 1;
            let test = |cond| Node::Test(Test { load: Load::Length, mask: u32::MAX, cond, k });
            return Ok((if less { test(Cond::Gt).negate() } else { test(Cond::Ge) }, None));
        }
        let start = self.at;
        let proto = self.protocol()?;
        let dir = self.direction()?;
        let what = match self.peek() {
            Some(Kind::Word(w)) => match w.as_str() {
                "host" => Some(What::Host),
                "net" => Some(What::Net),
                "port" => Some(What::Port),
                "portrange" => Some(What::PortRange),
                "proto" => Some(What::Proto),
                _ => return self.unknown_word(),
            },
            _ => None,
        };
        self.at += usize::from(what.is_some());
        if self.at == start {
            return match self.peek() {
                Some(k) if k.is_value() => {
                    Err(self.unexpected("a qualifier before the value, for example `host`, `net` or `port`"))
                }
                _ => Err(self.unexpected("a primitive, for example `ip`, `host 10.0.0.1` or `port 80`")),
            };
        }
        if dir.is_none() && what.is_none() {
            return Ok((self.protocol_alone(proto)?, None));
        }
        if dir.is_some() && what == Some(What::Proto) {
            return self.wrong("direction applied to 'proto'");
        }
        self.value_operand(Qual { proto, dir, what: what.unwrap_or(What::Host) })
    }

    fn unknown_word<T>(&self) -> Result<T, SubsetError> {
        let what = self.peek().map_or_else(String::new, Kind::describe);
        match what.as_str() {
            "`host`" | "`mask`" => Err(self.unexpected("a primitive")),
            _ => self.needs_libpcap(what),
        }
    }

    fn protocol(&mut self) -> Result<Proto, SubsetError> {
        let Some(Kind::Word(word)) = self.peek() else { return Ok(Proto::None) };
        let proto = match word.as_str() {
            "ether" | "link" => Proto::Link,
            "ip" => Proto::Ip,
            "ip6" => Proto::Ip6,
            "arp" => Proto::Arp,
            "rarp" => Proto::Rarp,
            "tcp" => Proto::Tcp,
            "udp" => Proto::Udp,
            "sctp" => Proto::Sctp,
            "icmp" => Proto::Icmp,
            "icmp6" => Proto::Icmp6,
            "igmp" => Proto::Igmp,
            "src" | "dst" | "host" | "net" | "port" | "portrange" | "proto" => return Ok(Proto::None),
            _ => return self.unknown_word(),
        };
        self.at += 1;
        Ok(proto)
    }

    /// `src`, `dst`, `src or dst`, `src and dst` and the two in other order.
    fn direction(&mut self) -> Result<Option<Dir>, SubsetError> {
        let (dir, other) = if self.next_is_word("src") {
            (Dir::Src, "dst")
        } else if self.next_is_word("dst") {
            (Dir::Dst, "src")
        } else {
            return Ok(None);
        };
        let joined = match self.peek() {
            Some(Kind::And) => Dir::Both,
            Some(Kind::Or) => Dir::Either,
            _ => return Ok(Some(dir)),
        };
        self.at += 1;
        if self.next_is_word(other) { Ok(Some(joined)) } else { Err(self.unexpected("`src` or `dst`")) }
    }

    fn protocol_alone(&self, proto: Proto) -> Result<Node, SubsetError> {
        Ok(match proto {
            Proto::Ip => self.ethertype(ETHERTYPE_IP),
            Proto::Ip6 => self.ethertype(ETHERTYPE_IP6),
            Proto::Arp => self.ethertype(ETHERTYPE_ARP),
            Proto::Rarp => self.ethertype(ETHERTYPE_RARP),
            Proto::Tcp => self.ip_or_ip6_proto(TCP),
            Proto::Udp => self.ip_or_ip6_proto(UDP),
            Proto::Sctp => self.ip_or_ip6_proto(SCTP),
            Proto::Icmp => self.ip_proto(1),
            Proto::Igmp => self.ip_proto(2),
            Proto::Icmp6 => self.ip6_proto(58),
            Proto::Link | Proto::None => return Err(self.unexpected("`proto`, `host`, `src` or `dst` after `ether`")),
        })
    }

    fn value(&mut self, qual: Qual) -> Result<Node, SubsetError> {
        self.count_term()?;
        let Some(kind) = self.peek().cloned() else { return Err(self.unexpected("a value")) };
        if !kind.is_value() {
            return match (&kind, qual.what) {
                (Kind::Word(w), What::Proto) => {
                    self.wrong(format!("`{w}` is a word of the language: write \\{w} for the protocol's number"))
                }
                _ => Err(self.unexpected("a value")),
            };
        }
        let node = match qual.what {
            What::Host => self.host_value(qual, &kind)?,
            What::Net => return self.net_value(qual, &kind),
            What::Port => match kind {
                Kind::Number(n) => {
                    let port = self.port_number(n)?;
                    self.ports(qual, port, port)?
                }
                Kind::Name(name) => return self.needs_libpcap(format!("the port name `{name}`")),
                _ => return Err(self.unexpected("a port number")),
            },
            What::PortRange => match kind {
                Kind::Number(n) => {
                    let port = self.port_number(n)?;
                    self.ports(qual, port, port)?
                }
                Kind::Name(name) => {
                    let Some((low, high)) = range(&name) else {
                        return self.needs_libpcap(format!("the port range `{name}`"));
                    };
                    let (low, high) = (self.port_number(low)?, self.port_number(high)?);
                    self.ports(qual, low.min(high), low.max(high))?
                }
                _ => return Err(self.unexpected("a port range such as 1024-2047")),
            },
            What::Proto => self.proto_value(qual, &kind)?,
        };
        self.at += 1;
        Ok(node)
    }

    fn host_value(&self, qual: Qual, kind: &Kind) -> Result<Node, SubsetError> {
        match *kind {
            Kind::Mac(mac) if qual.proto == Proto::Link => self.ether_host(qual.dir, mac),
            Kind::Mac(_) => self.wrong("ethernet address used in non-ether expression: write `ether host`"),
            Kind::Name(ref name) => self.needs_libpcap(format!("the host name `{name}`")),
            _ if qual.proto == Proto::Link => self.wrong("an Ethernet address such as 02:00:00:00:00:01 must follow"),
            Kind::Dotted(address, bits) => self.host(qual, address, mask(bits)),
            Kind::Number(address) => self.host(qual, address, u32::MAX),
            _ => Err(self.unexpected("an address")),
        }
    }

    fn net_value(&mut self, qual: Qual, kind: &Kind) -> Result<Node, SubsetError> {
        let (address, bits) = match *kind {
            Kind::Dotted(address, bits) => (address, bits),
            Kind::Number(mut number) => {
                // `net 10` is 10.0.0.0/8: a short number is moved to the left, by bytes.
                let mut mask = u32::MAX;
                while number != 0 && number & 0xff00_0000 == 0 {
                    number <<= 8;
                    mask <<= 8;
                }
                let node = self.host(qual, number, mask)?;
                self.at += 1;
                if self.peek() == Some(&Kind::Slash) {
                    return self
                        .wrong("a network with a length is written with all its numbers, for example 10.0.0.0/8");
                }
                return Ok(node);
            }
            Kind::Name(ref name) => return self.needs_libpcap(format!("the network name `{name}`")),
            _ => return Err(self.unexpected("a network such as 10.0.0.0/8")),
        };
        let before = self.at;
        self.at += 1;
        let mask = if self.next_is(&Kind::Slash) {
            match self.peek() {
                Some(&Kind::Number(length @ 0..=32)) => mask(length),
                Some(Kind::Number(_)) => return self.wrong("mask length must be <= 32"),
                _ => return Err(self.unexpected("a mask length from 0 to 32")),
            }
        } else if self.next_is_word("mask") {
            match self.peek() {
                Some(&Kind::Dotted(mask, _)) => mask,
                _ => return Err(self.unexpected("a mask such as 255.255.255.0")),
            }
        } else {
            self.at = before;
            mask(bits)
        };
        if address & !mask != 0 {
            self.at = before;
            return self.wrong("non-network bits set: the address has bits outside the mask");
        }
        let node = self.host(qual, address, mask)?;
        self.at += 1;
        Ok(node)
    }

    fn proto_value(&self, qual: Qual, kind: &Kind) -> Result<Node, SubsetError> {
        let number = match kind {
            Kind::Number(n) => *n,
            Kind::Name(name) => match (qual.proto, name.as_str()) {
                (Proto::Link, "ip") => ETHERTYPE_IP,
                (Proto::Link, "ip6") => ETHERTYPE_IP6,
                (Proto::Link, "arp") => ETHERTYPE_ARP,
                (Proto::Link, "rarp") => ETHERTYPE_RARP,
                (Proto::None | Proto::Ip | Proto::Ip6, "icmp") => 1,
                (Proto::None | Proto::Ip | Proto::Ip6, "igmp") => 2,
                (Proto::None | Proto::Ip | Proto::Ip6, "tcp") => TCP,
                (Proto::None | Proto::Ip | Proto::Ip6, "udp") => UDP,
                (Proto::None | Proto::Ip | Proto::Ip6, "sctp") => SCTP,
                _ => return self.needs_libpcap(format!("the protocol name `{name}`")),
            },
            _ => return Err(self.unexpected("a protocol number")),
        };
        let limit = if qual.proto == Proto::Link { 0xffff } else { 0xff };
        if number > limit {
            return self.wrong(format!("the protocol number {number} exceeds {limit}"));
        }
        match qual.proto {
            Proto::None => Ok(self.ip_or_ip6_proto(number)),
            Proto::Ip => Ok(self.ip_proto(number)),
            Proto::Ip6 => Ok(self.ip6_proto(number)),
            Proto::Link => self.link_proto(number),
            _ => self.wrong("only `ip`, `ip6` and `ether` can stand before `proto`"),
        }
    }

    fn port_number(&self, n: u32) -> Result<u32, SubsetError> {
        if n > 65535 { self.wrong(format!("illegal port number {n} > 65535")) } else { Ok(n) }
    }
}

/// The tests of each primitive.
impl Parser<'_> {
    /// A value at an offset into the network header.
    fn network(&self, size: Size, offset: u32) -> Load {
        Load::At(size, self.dlt.network_offset() + offset)
    }

    fn ethertype(&self, number: u32) -> Node {
        match (self.dlt, number) {
            (Dlt::En10mb, _) => Node::equals(Load::At(Size::Half, 12), number),
            (Dlt::Raw, ETHERTYPE_IP) => Node::masked(Load::At(Size::Byte, 0), 0xf0, 0x40),
            (Dlt::Raw, ETHERTYPE_IP6) => Node::masked(Load::At(Size::Byte, 0), 0xf0, 0x60),
            (Dlt::Raw, _) => Node::Const(false),
        }
    }

    /// `ether proto N`. Numbers up to 1500 are 802.2 service access points.
    fn link_proto(&self, number: u32) -> Result<Node, SubsetError> {
        match (self.dlt, number) {
            // Protocols that also come in other encapsulations.
            (Dlt::En10mb, 0x06 | 0xe0 | 0xf0 | 0xfe | 0x809b | 0x80f3) => {
                self.needs_libpcap(format!("`ether proto {number}`"))
            }
            (Dlt::En10mb, 0..=1500) => {
                let length = Test { load: Load::At(Size::Half, 12), mask: u32::MAX, cond: Cond::Gt, k: 1500 };
                Ok(Node::Test(length).negate().and(Node::equals(Load::At(Size::Byte, 14), number)))
            }
            _ => Ok(self.ethertype(number)),
        }
    }

    fn ip_proto(&self, number: u32) -> Node {
        self.ethertype(ETHERTYPE_IP).and(Node::equals(self.network(Size::Byte, 9), number))
    }

    /// Also behind one fragment header.
    fn ip6_proto(&self, number: u32) -> Node {
        let next = |k| Node::equals(self.network(Size::Byte, 6), k);
        let behind = next(IPPROTO_FRAGMENT).and(Node::equals(self.network(Size::Byte, 40), number));
        self.ethertype(ETHERTYPE_IP6).and(next(number).or(behind))
    }

    fn ip_or_ip6_proto(&self, number: u32) -> Node {
        self.ip_proto(number).or(self.ip6_proto(number))
    }

    fn host(&self, qual: Qual, address: u32, mask: u32) -> Result<Node, SubsetError> {
        let ip = || self.address(qual.dir, ETHERTYPE_IP, 12, 16, address, mask);
        let arp = |ethertype| self.address(qual.dir, ethertype, 14, 24, address, mask);
        match qual.proto {
            Proto::None => Ok(ip().or(arp(ETHERTYPE_ARP)).or(arp(ETHERTYPE_RARP))),
            Proto::Ip => Ok(ip()),
            Proto::Arp => Ok(arp(ETHERTYPE_ARP)),
            Proto::Rarp => Ok(arp(ETHERTYPE_RARP)),
            _ => self.wrong("only `ip`, `arp` and `rarp` can stand before an IPv4 address"),
        }
    }

    fn address(&self, dir: Option<Dir>, ethertype: u32, src: u32, dst: u32, address: u32, mask: u32) -> Node {
        let one = |offset| self.ethertype(ethertype).and(Node::masked(self.network(Size::Word, offset), mask, address));
        directed(dir, || one(src), || one(dst))
    }

    fn ether_host(&self, dir: Option<Dir>, mac: [u8; 6]) -> Result<Node, SubsetError> {
        if self.dlt != Dlt::En10mb {
            return self.wrong("ethernet addresses supported only on ethernet: attach the filter at `ether`");
        }
        let high = u32::from(u16::from_be_bytes([mac[0], mac[1]]));
        let low = u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]);
        let one = |offset| {
            let last = Node::equals(Load::At(Size::Word, offset + 2), low);
            last.and(Node::equals(Load::At(Size::Half, offset), high))
        };
        Ok(directed(dir, || one(6), || one(0)))
    }

    /// IPv6 first, then IPv4 where the packet is no later fragment.
    fn ports(&self, qual: Qual, low: u32, high: u32) -> Result<Node, SubsetError> {
        let protocols: &[u32] = match qual.proto {
            Proto::None => &[SCTP, TCP, UDP],
            Proto::Tcp => &[TCP],
            Proto::Udp => &[UDP],
            Proto::Sctp => &[SCTP],
            _ => return self.wrong("only `tcp`, `udp` and `sctp` can stand before `port` and `portrange`"),
        };
        let any = |load| {
            let one = |&k: &u32| Node::equals(load, k);
            protocols.iter().map(one).reduce(Node::or).unwrap_or(Node::Const(false))
        };
        let ports = |src, dst| directed(qual.dir, || in_range(src, low, high), || in_range(dst, low, high));
        let six = self
            .ethertype(ETHERTYPE_IP6)
            .and(any(self.network(Size::Byte, 6)))
            .and(ports(self.network(Size::Half, 40), self.network(Size::Half, 42)));
        let network = self.dlt.network_offset();
        let transport = |offset| Load::Transport { network, offset };
        let later_fragment = Test { load: self.network(Size::Half, 6), mask: u32::MAX, cond: Cond::Set, k: 0x1fff };
        let four = self
            .ethertype(ETHERTYPE_IP)
            .and(any(self.network(Size::Byte, 9)))
            .and(Node::Test(later_fragment).negate())
            .and(ports(transport(0), transport(2)));
        Ok(six.or(four))
    }
}

fn directed(dir: Option<Dir>, src: impl Fn() -> Node, dst: impl Fn() -> Node) -> Node {
    match dir {
        Some(Dir::Src) => src(),
        Some(Dir::Dst) => dst(),
        Some(Dir::Both) => src().and(dst()),
        Some(Dir::Either) | None => src().or(dst()),
    }
}

fn in_range(load: Load, low: u32, high: u32) -> Node {
    if low == high {
        return Node::equals(load, low);
    }
    let test = |cond, k| Node::Test(Test { load, mask: u32::MAX, cond, k });
    test(Cond::Ge, low).and(test(Cond::Gt, high).negate())
}

/// The first `bits` bits, 0 to 32.
fn mask(bits: u32) -> u32 {
    u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0)
}

/// `low-high` in decimal without leading zeros.
fn range(name: &str) -> Option<(u32, u32)> {
    let number = |s: &str| if s.starts_with('0') && s.len() > 1 || s.starts_with('+') { None } else { s.parse().ok() };
    let (low, high) = name.split_once('-')?;
    Some((number(low)?, number(high)?))
}
