//! Keys as people write them.

use crate::TableKind;
use smpnet_filter_abi::KEY_MAX;
use smpnet_trie::Bits;
use std::fmt::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A key of a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableKey {
    /// Bytes, of an exact table.
    Exact(Box<[u8]>),
    /// A prefix of IPv4 addresses: the address, whose other bits are 0, and 0 to 32.
    Ipv4(Ipv4Addr, u8),
    /// A prefix of IPv6 addresses: the address, whose other bits are 0, and 0 to 128.
    Ipv6(Ipv6Addr, u8),
}

impl TableKey {
    /// Reads a key of a table of `kind`. Exact keys are text, or `hex:` and digits; prefixes are an address, or an address, a
    /// slash and a length.
    ///
    /// # Errors
    /// One line on what is wrong.
    pub fn parse(kind: TableKind, text: &str) -> Result<TableKey, String> {
        let key = match kind {
            TableKind::Exact => {
                let bytes = match text.strip_prefix("hex:") {
                    Some(digits) => {
                        hex(digits).ok_or_else(|| format!("{text:?}: an even number of hex digits follows hex:"))?
                    }
                    None => text.as_bytes().to_vec(),
                };
                if bytes.is_empty() || bytes.len() > KEY_MAX as usize {
                    return Err(format!("{text:?}: a key has 1 to {KEY_MAX} bytes"));
                }
                return Ok(TableKey::Exact(bytes.into()));
            }
            TableKind::Ipv4 => {
                let (address, len) = address::<Ipv4Addr>(text, 32, "an IPv4 prefix")?;
                let bits = u32::from(address);
                let cut = bits.masked(len);
                (TableKey::Ipv4(cut.into(), len), cut == bits)
            }
            TableKind::Ipv6 => {
                let (address, len) = address::<Ipv6Addr>(text, 128, "an IPv6 prefix")?;
                let bits = u128::from(address);
                let cut = bits.masked(len);
                (TableKey::Ipv6(cut.into(), len), cut == bits)
            }
        };
        match key {
            (key, true) => Ok(key),
            (key, false) => Err(format!("{text}: bits behind the prefix are set (did you mean {key}?)")),
        }
    }

    /// The kind of table that it belongs to.
    pub fn kind(&self) -> TableKind {
        match self {
            TableKey::Exact(_) => TableKind::Exact,
            TableKey::Ipv4(..) => TableKind::Ipv4,
            TableKey::Ipv6(..) => TableKind::Ipv6,
        }
    }
}

/// As [`TableKey::parse`] reads it.
impl fmt::Display for TableKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TableKey::Ipv4(a, len) => write!(f, "{a}/{len}"),
            TableKey::Ipv6(a, len) => write!(f, "{a}/{len}"),
            TableKey::Exact(bytes) => match std::str::from_utf8(bytes) {
                Ok(t) if !t.starts_with("hex:") && !t.chars().any(|c| c.is_control() || c.is_whitespace()) => {
                    f.write_str(t)
                }
                _ => {
                    f.write_str("hex:")?;
                    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
                }
            },
        }
    }
}

fn address<A: std::str::FromStr>(text: &str, most: u8, what: &str) -> Result<(A, u8), String> {
    let (address, len) = match text.split_once('/') {
        Some((a, l)) => (a, l.parse().ok().filter(|l| *l <= most)),
        None => (text, Some(most)),
    };
    match (address.parse(), len) {
        (Ok(a), Some(len)) => Ok((a, len)),
        _ => Err(format!("{text:?} is not {what}: an address, a slash and 0 to {most}")),
    }
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    let (pairs, rest) = digits.as_chunks::<2>();
    let digit = |d: u8| char::from(d).to_digit(16);
    let bytes = pairs.iter().map(|[a, b]| Some((digit(*a)? << 4 | digit(*b)?) as u8)).collect();
    if rest.is_empty() { bytes } else { None }
}

impl serde::Serialize for TableKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        let _ = write!(text, "{self}");
        s.serialize_str(&text)
    }
}
