//! The configuration as `key = value` lines.
//!
//! ```text
//! # whole-line comments
//! rate = 50
//! name = "quotes are taken off"
//! ports = 53, 5353; strict = yes
//! ```
//!
//! Pairs are separated by new lines or semicolons. A key that the filter does not know, or that comes twice, is an error
//! that names the known ones, so that no misspelt limit is silently ignored.

use crate::{Error, Text, fail};
use core::str::FromStr;

/// Most pairs.
const PAIRS: usize = 32;

/// The pairs of a configuration.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    pairs: [(&'a str, &'a str); PAIRS],
    len: usize,
}

impl<'a> Options<'a> {
    /// Reads a configuration in which only keys of `known` may stand.
    ///
    /// # Errors
    /// Names the line and what is wrong with it.
    pub fn parse(config: &'a [u8], known: &[&str]) -> Result<Options<'a>, Error> {
        let Ok(text) = core::str::from_utf8(config) else { fail!("the configuration is not UTF-8") };
        let mut options = Options { pairs: [("", ""); PAIRS], len: 0 };
        for (at, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line.trim())) {
            if line.starts_with('#') {
                continue;
            }
            for pair in line.split(';').map(str::trim).filter(|p| !p.is_empty()) {
                let Some((key, value)) = pair.split_once('=') else {
                    fail!("line {at}: \"{pair}\" is not of the form key = value")
                };
                let key = key.trim();
                if !known.contains(&key) {
                    fail!("line {at}: there is no key \"{key}\"; there are: {}", list(known).as_str())
                }
                if options.text(key).is_some() {
                    fail!("line {at}: {key} is there twice")
                }
                let value = value.trim();
                let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
                let Some(to) = options.pairs.get_mut(options.len) else { fail!("more than {PAIRS} pairs") };
                *to = (key, value);
                options.len += 1;
            }
        }
        Ok(options)
    }

    /// The value of a key.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.pairs[..self.len].iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
    }

    /// The value of a key as a number, or as whatever else is written as a text: an address, `true`.
    ///
    /// # Errors
    /// Names the key and what stands there instead.
    pub fn number<T: FromStr>(&self, key: &str) -> Result<Option<T>, Error> {
        let Some(text) = self.text(key) else { return Ok(None) };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => fail!("{key} = {text}: this is no {}", short_name::<T>()),
        }
    }

    /// The value of a key as yes or no.
    ///
    /// # Errors
    /// Names the key and what stands there instead.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.text(key) {
            None => Ok(None),
            Some("yes" | "true" | "on" | "1") => Ok(Some(true)),
            Some("no" | "false" | "off" | "0") => Ok(Some(false)),
            Some(other) => fail!("{key} = {other}: yes or no"),
        }
    }

    /// The value of a key as a list of numbers with commas between them; an empty list when the key is not there.
    /// Returns how many were written to `out`.
    ///
    /// # Errors
    /// Names the key and the one that is no number, or says that there are too many.
    pub fn list<T: FromStr>(&self, key: &str, out: &mut [T]) -> Result<usize, Error> {
        let Some(text) = self.text(key) else { return Ok(0) };
        let mut n = 0;
        for word in text.split(',').map(str::trim) {
            let Ok(value) = word.parse() else { fail!("{key}: {word} is no {}", short_name::<T>()) };
            let most = out.len();
            let Some(to) = out.get_mut(n) else { fail!("{key}: at most {most}") };
            *to = value;
            n += 1;
        }
        Ok(n)
    }
}

fn list(words: &[&str]) -> Text<160> {
    use core::fmt::Write;
    let mut text = Text::new();
    for (i, word) in words.iter().enumerate() {
        // A list that is cut off is still of use.
        let _ = write!(text, "{}{word}", if i > 0 { ", " } else { "" });
    }
    text
}

/// `u16` of `u16`, `Ipv4Addr` of `core::net::ip_addr::Ipv4Addr`.
fn short_name<T>() -> &'static str {
    let name = core::any::type_name::<T>();
    name.rsplit(':').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::string::ToString;

    #[test]
    fn pairs_are_read_from_lines_and_semicolons() {
        let text = b"# limits\nrate = 50\n\n name=\"a b\" ; ports = 53, 5353;strict = yes\naddress = 10.0.0.1";
        let o = Options::parse(text, &["rate", "name", "ports", "strict", "address", "more"]).unwrap();
        assert_eq!(o.number::<u32>("rate").unwrap(), Some(50));
        assert_eq!(o.number::<Ipv4Addr>("address").unwrap(), Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(
            (o.text("name"), o.flag("strict").unwrap(), o.flag("more").unwrap()),
            (Some("a b"), Some(true), None)
        );
        let mut ports = [0u16; 4];
        assert_eq!((o.list("ports", &mut ports).unwrap(), ports), (2, [53, 5353, 0, 0]));
    }

    #[test]
    fn every_mistake_is_named() {
        let error = |text: &str| Options::parse(text.as_bytes(), &["rate", "burst"]).unwrap_err().to_string();
        assert_eq!(error("rate 50"), "line 1: \"rate 50\" is not of the form key = value");
        assert_eq!(error("\nrte = 50"), "line 2: there is no key \"rte\"; there are: rate, burst");
        assert_eq!(error("rate = 1; rate = 2"), "line 1: rate is there twice");
        let o = Options::parse(b"rate = many; burst = 1, x", &["rate", "burst"]).unwrap();
        assert_eq!(o.number::<u32>("rate").unwrap_err().to_string(), "rate = many: this is no u32");
        assert_eq!(o.flag("rate").unwrap_err().to_string(), "rate = many: yes or no");
        assert_eq!(o.list("burst", &mut [0u16; 2]).unwrap_err().to_string(), "burst: x is no u16");
        assert_eq!(o.list("burst", &mut [0u8; 0]).unwrap_err().to_string(), "burst: at most 0");
        assert_eq!(Options::parse(&[0xff], &[]).unwrap_err().to_string(), "the configuration is not UTF-8");
    }
}
