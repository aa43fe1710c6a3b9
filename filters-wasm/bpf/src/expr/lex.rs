//! Words of an expression, cut as libpcap's scanner cuts them.

use super::SubsetError;

/// One word and where it starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Column of its first byte, from 1.
    pub(super) column: usize,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    And,
    Or,
    Not,
    Open,
    Close,
    Slash,
    /// A word of the language, or one that libpcap knows and this crate does not.
    Word(String),
    /// A name, `\name` without its backslash, or a range `10-20`.
    Name(String),
    /// A number.
    Number(u32),
    /// Two to four numbers with dots: the address left-justified and its length in bits.
    Dotted(u32, u32),
    /// An Ethernet address.
    Mac([u8; 6]),
}

impl Kind {
    /// Whether it stands for a value rather than for grammar.
    pub(super) fn is_value(&self) -> bool {
        matches!(self, Kind::Name(_) | Kind::Number(_) | Kind::Dotted(..) | Kind::Mac(_))
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Kind::And => "`and`".into(),
            Kind::Or => "`or`".into(),
            Kind::Not => "`not`".into(),
            Kind::Open => "`(`".into(),
            Kind::Close => "`)`".into(),
            Kind::Slash => "`/`".into(),
            Kind::Word(w) => format!("`{w}`"),
            Kind::Name(n) => format!("the name `{n}`"),
            Kind::Number(n) => format!("the number {n}"),
            Kind::Dotted(a, bits) => {
                let octets: Vec<String> = a.to_be_bytes()[..(*bits / 8) as usize].iter().map(u8::to_string).collect();
                format!("the address {}", octets.join("."))
            }
            Kind::Mac(m) => format!("the address {}", m.map(|b| format!("{b:02x}")).join(":")),
        }
    }
}

/// Every word that libpcap's scanner takes as a keyword; a name that equals one must be written with a backslash.
const KEYWORDS: &[&str] = &[
    "aarp",
    "action",
    "addr1",
    "addr2",
    "addr3",
    "addr4",
    "address1",
    "address2",
    "address3",
    "address4",
    "ah",
    "arp",
    "atalk",
    "bcc",
    "broadcast",
    "byte",
    "carp",
    "clnp",
    "connectmsg",
    "csnp",
    "decnet",
    "dir",
    "direction",
    "dpc",
    "dst",
    "es-is",
    "esis",
    "esp",
    "ether",
    "fddi",
    "fisu",
    "gateway",
    "geneve",
    "greater",
    "hdpc",
    "hfisu",
    "hlssu",
    "hmsu",
    "hopc",
    "host",
    "hsio",
    "hsls",
    "icmp",
    "icmp6",
    "ifindex",
    "ifname",
    "igmp",
    "igrp",
    "iih",
    "ilmic",
    "inbound",
    "ip",
    "ip6",
    "ipx",
    "is-is",
    "isis",
    "iso",
    "l1",
    "l2",
    "lane",
    "lat",
    "len",
    "length",
    "less",
    "link",
    "llc",
    "lsp",
    "lssu",
    "lsu",
    "mask",
    "metac",
    "metaconnect",
    "mopdl",
    "moprc",
    "mpls",
    "msu",
    "multicast",
    "net",
    "netbeui",
    "oam",
    "oamf4",
    "oamf4ec",
    "oamf4sc",
    "on",
    "opc",
    "outbound",
    "pim",
    "port",
    "portrange",
    "ppp",
    "pppoed",
    "pppoes",
    "proto",
    "protochain",
    "psnp",
    "ra",
    "radio",
    "rarp",
    "reason",
    "rnr",
    "rset",
    "rulenum",
    "ruleset",
    "sc",
    "sca",
    "sctp",
    "sio",
    "slip",
    "sls",
    "snp",
    "src",
    "srnr",
    "stp",
    "subrulenum",
    "subtype",
    "ta",
    "tcp",
    "tr",
    "type",
    "udp",
    "vci",
    "vlan",
    "vpi",
    "vrrp",
    "vxlan",
    "wlan",
];

/// Cuts an expression into words.
pub(super) fn lex(text: &str) -> Result<Vec<Token>, SubsetError> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let column = at + 1;
        let pair = bytes.get(at..at + 2).unwrap_or_default();
        let (kind, length) = match (byte, pair) {
            (b' ' | b'\t' | b'\r' | b'\n', _) => {
                at += 1;
                continue;
            }
            (_, b"&&") => (Kind::And, 2),
            (_, b"||") => (Kind::Or, 2),
            (_, b"!=") => return Err(operator(column, "`!=`")),
            (b'!', _) => (Kind::Not, 1),
            (b'(', _) => (Kind::Open, 1),
            (b')', _) => (Kind::Close, 1),
            (b'/', _) => (Kind::Slash, 1),
            (b'+' | b'-' | b'*' | b'%' | b'[' | b']' | b'<' | b'>' | b'=' | b'&' | b'|' | b'^', _) => {
                return Err(operator(column, &format!("`{}`", char::from(byte))));
            }
            (b'\\', _) => {
                let length = bytes[at + 1..].iter().take_while(|b| !b" !()\n\t".contains(b)).count();
                let name = String::from_utf8_lossy(&bytes[at + 1..at + 1 + length]).into_owned();
                if name.is_empty() {
                    return Err(syntax(column, "a name after the backslash", "nothing"));
                }
                (Kind::Name(name), length + 1)
            }
            (b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b':', _) => {
                let length =
                    bytes[at..].iter().take_while(|b| b.is_ascii_alphanumeric() || b"._:-".contains(b)).count();
                (word(&text[at..at + length], column)?, length)
            }
            _ => {
                let found = text[at..].chars().next().map_or(String::new(), |c| format!("{c:?}"));
                return Err(syntax(column, "a word, a number or an operator", &found));
            }
        };
        tokens.push(Token { kind, column });
        at += length;
    }
    Ok(tokens)
}

fn operator(column: usize, what: &str) -> SubsetError {
    SubsetError::NeedsLibpcap { column, what: format!("arithmetic ({what})") }
}

fn syntax(column: usize, expected: &'static str, found: &str) -> SubsetError {
    SubsetError::Syntax { column, expected, found: found.to_owned() }
}

/// Says what a run of letters, digits, dots, dashes, underscores and colons is.
fn word(text: &str, column: usize) -> Result<Kind, SubsetError> {
    let value = |message: String| SubsetError::Value { column, message };
    match text {
        "and" => return Ok(Kind::And),
        "or" => return Ok(Kind::Or),
        "not" => return Ok(Kind::Not),
        _ if KEYWORDS.contains(&text) => return Ok(Kind::Word(text.to_owned())),
        _ => {}
    }
    if let Some(mac) = mac(text) {
        return Ok(Kind::Mac(mac));
    }
    if text.contains(':') {
        let what = format!("`{text}` (an IPv6 address, if it is one,)");
        return Err(SubsetError::NeedsLibpcap { column, what });
    }
    let parts: Vec<&str> = text.split('.').collect();
    if parts.iter().all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit())) {
        return match parts[..] {
            [part] => Ok(Kind::Number(number(part, column)?)),
            [..] if parts.len() <= 4 => {
                let mut address = 0u32;
                for (i, part) in parts.iter().enumerate() {
                    let octet = u8::try_from(number(part, column)?)
                        .map_err(|_| value(format!("invalid IPv4 address '{text}': {part} is more than 255")))?;
                    address |= u32::from(octet) << (24 - 8 * i);
                }
                Ok(Kind::Dotted(address, 8 * parts.len() as u32))
            }
            _ => Ok(Kind::Name(text.to_owned())),
        };
    }
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
        && !hex.is_empty()
    {
        return u32::from_str_radix(hex, 16).map(Kind::Number).map_err(|_| value(format!("{text} exceeds 32 bits")));
    }
    Ok(Kind::Name(text.to_owned()))
}

/// A decimal number. With a leading 0 libpcap reads some as octal and some not: left to it.
fn number(text: &str, column: usize) -> Result<u32, SubsetError> {
    if text.len() > 1 && text.starts_with('0') {
        return Err(SubsetError::NeedsLibpcap { column, what: format!("the number {text} with a leading 0") });
    }
    let too_large = || SubsetError::Value { column, message: format!("{text} exceeds 32 bits") };
    text.parse().map_err(|_| too_large())
}

/// Six groups of one or two hexadecimal digits with colons or dashes.
fn mac(text: &str) -> Option<[u8; 6]> {
    let separator = if text.contains(':') { ':' } else { '-' };
    let mut parts = text.split(separator);
    let mut mac = [0; 6];
    for byte in &mut mac {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}
