//! From a word to the number, address, time or name that it is. Pure functions; who calls them says where it was wrong.

use crate::{
    config::{Family, Prefix},
    language::source::quote,
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

/// What is wrong with a word, and perhaps what could be done.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::language) struct Wrong {
    pub message: String,
    pub hint: Option<String>,
}

impl Wrong {
    /// Wrong, with nothing to advise.
    pub fn new(message: impl Into<String>) -> Wrong {
        Wrong { message: message.into(), hint: None }
    }

    /// Wrong, with something that could be done.
    pub fn hint(message: impl Into<String>, hint: impl Into<String>) -> Wrong {
        Wrong { message: message.into(), hint: Some(hint.into()) }
    }
}

/// Longest time, so that no sum of times can overflow: a hundred years.
const MAX_SECONDS: u64 = 100 * 366 * 86400;

/// A number, decimal or hexadecimal.
pub(in crate::language) fn number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(hex, 16).ok(),
        Some(_) => None,
        None if word.bytes().all(|b| b.is_ascii_digit()) => word.parse().ok(),
        None => None,
    }
}

/// A number within bounds.
pub(in crate::language) fn number_in(word: &str, what: &str, min: u64, max: u64) -> Result<u64, Wrong> {
    let wrong = || Wrong::hint(format!("{} is no {what}", quote(word)), format!("it is a number from {min} to {max}"));
    number(word).filter(|n| (min..=max).contains(n)).ok_or_else(wrong)
}

/// A number with k, m, g or t behind it, each a thousand times the one before.
pub(in crate::language) fn scaled(word: &str) -> Option<u64> {
    let (digits, scale) = match word.bytes().last()?.to_ascii_lowercase() {
        b'k' => (&word[..word.len() - 1], 1_000),
        b'm' => (&word[..word.len() - 1], 1_000_000),
        b'g' => (&word[..word.len() - 1], 1_000_000_000),
        b't' => (&word[..word.len() - 1], 1_000_000_000_000),
        _ => (word, 1),
    };
    number(digits).filter(|_| !digits.is_empty())?.checked_mul(scale)
}

/// A number with or without a point.
pub(in crate::language) fn float(word: &str) -> Option<f64> {
    let plain = word.bytes().all(|b| b.is_ascii_digit() || b == b'.') && word.bytes().any(|b| b.is_ascii_digit());
    if plain { word.parse().ok().filter(|f: &f64| f.is_finite()) } else { None }
}

/// A time: a number with a unit.
pub(in crate::language) fn duration(word: &str) -> Result<Duration, Wrong> {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let wrong = |hint: &str| Wrong::hint(format!("{} is no time", quote(word)), hint);
    let number: u64 = match word.get(..digits) {
        // "10/s": ten in one second.
        Some("") if !word.is_empty() => 1,
        Some(number) => number.parse().map_err(|_| wrong("write a number and a unit: 500ms, 30s, 5m, 2h or 1d"))?,
        None => 0,
    };
    let milliseconds: u64 = match word.get(digits..).unwrap_or("") {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => return Err(wrong(&format!("write its unit: {number}s for seconds, or ms, m, h, d"))),
        _ => return Err(wrong("write a number and a unit: 500ms, 30s, 5m, 2h or 1d")),
    };
    match number.checked_mul(milliseconds) {
        Some(0) => Err(wrong("it must be longer than nothing")),
        Some(n) if n <= MAX_SECONDS * 1000 => Ok(Duration::from_millis(n)),
        _ => Err(wrong("it can be a hundred years at most")),
    }
}

/// An address by itself, all of it written.
pub(in crate::language) fn address(word: &str) -> Option<IpAddr> {
    if word.contains(':') {
        return word.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    match dotted(word)? {
        (address, 4) => Some(IpAddr::V4(address)),
        _ => None,
    }
}

/// One to four decimal bytes with points between them, and how many there were; those that are missing are 0.
fn dotted(word: &str) -> Option<(Ipv4Addr, usize)> {
    let mut bytes = [0; 4];
    let mut count = 0;
    for part in word.split('.') {
        // A leading 0 means octal to some programs and nothing to others.
        let plain =
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
        *bytes.get_mut(count)? = part.parse().ok().filter(|_| plain)?;
        count += 1;
    }
    Some((bytes.into(), count))
}

/// A prefix, and whether bits behind its length were set. An IPv4 address before a mask may be short, as in `10.1/16`.
pub(in crate::language) fn prefix(word: &str, mask: Option<&str>) -> Result<(Prefix, bool), Wrong> {
    let Some(mask) = mask else {
        return address(word).map(|a| (Prefix::host(a), false)).ok_or_else(|| no_address(word));
    };
    let address = match (address(word), dotted(word)) {
        (Some(address), _) => address,
        (None, Some((short, _))) => IpAddr::V4(short),
        (None, None) => return Err(no_address(word)),
    };
    let len = mask_length(mask, Family::of(address))?;
    let prefix = Prefix::new(address, len).ok_or_else(|| Wrong::new(format!("{} is no mask", quote(mask))))?;
    Ok((prefix, prefix.address != address))
}

fn no_address(word: &str) -> Wrong {
    let message = format!("{} is no address", quote(word));
    if word.contains('%') {
        return Wrong::hint(message, "an address has no zone here; write \"on\" and the interface");
    }
    if let Some((short, _)) = dotted(word) {
        return Wrong::hint(message, format!("write all four numbers, or a prefix such as {short}/16"));
    }
    if let Some((first, _)) =
        word.split_once('-').filter(|(first, last)| address(first).is_some() && address(last).is_some())
    {
        return Wrong::hint(message, format!("ranges of addresses are not known; write prefixes, such as {first}/28"));
    }
    if !word.contains(':') && interface(word).is_ok() {
        return Wrong::hint(message, format!("for the addresses of an interface write ifaddrs({word})"));
    }
    Wrong::new(message)
}

/// Bits of a mask: a number, or an address whose bits are set from the front.
fn mask_length(mask: &str, family: Family) -> Result<u8, Wrong> {
    let bits = u64::from(family.bits());
    let (set, leading) = match address(mask) {
        Some(IpAddr::V4(m)) if family == Family::V4 => (m.to_bits().count_ones(), m.to_bits().leading_ones()),
        Some(IpAddr::V6(m)) if family == Family::V6 => (m.to_bits().count_ones(), m.to_bits().leading_ones()),
        Some(_) => return Err(Wrong::new(format!("the mask {} is of the other family", quote(mask)))),
        None => return number_in(mask, "length of a prefix", 0, bits).map(|n| n as u8),
    };
    if set != leading {
        let hint = "its bits must be set from the front without a gap, as in 255.255.255.0";
        return Err(Wrong::hint(format!("the mask {} has gaps", quote(mask)), hint));
    }
    Ok(leading as u8)
}

/// The name of an interface, by the rules of Linux, whether there is such an interface or not.
pub(in crate::language) fn interface(name: &str) -> Result<(), Wrong> {
    let message = || format!("{} cannot be the name of an interface", quote(name));
    if name.len() > 15 {
        return Err(Wrong::hint(message(), "it may have 15 bytes"));
    }
    if name.is_empty() || name == "." || name == ".." {
        return Err(Wrong::new(message()));
    }
    if let Some(c) = name.chars().find(|&c| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
        return Err(Wrong::hint(message(), format!("it may not contain {c:?}")));
    }
    Ok(())
}

/// An Ethernet address.
pub(in crate::language) fn ether_address(word: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = word.split([':', '-']);
    for byte in &mut bytes {
        let part = parts.next().filter(|p| (1..=2).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}
