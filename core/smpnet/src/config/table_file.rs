//! Tables that modules look into, and the text that fills them.
//!
//! One entry a line: a key, and after a blank a value, 0 when there is none. `#` begins a remark, at the start of a line or
//! after a blank. Keys of exact tables are text, or `hex:` and digits for any bytes; those of the others are prefixes.
//!
//! ```text
//! # names that nobody is to ask for
//! ads.example.com
//! good.example.com  1     # let through
//! hex:0001ff        0x10
//! ```

use super::source::At;
use serde::Serialize;
use smpnet_wasm::{ENTRIES_DEFAULT, TableKey, TableKind};
use std::{collections::BTreeMap, sync::Arc};

/// Entries of a table.
pub type Entries = BTreeMap<TableKey, u32>;

/// `[[table]]`. Large ones are shared, not copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FilterTable {
    /// Where the table begins.
    #[serde(skip)]
    pub at: At,
    /// Name.
    pub name: String,
    /// How keys are looked up.
    pub kind: TableKind,
    /// Most entries.
    pub most: usize,
    /// What is in it.
    #[serde(skip)]
    pub entries: Arc<Entries>,
}

impl FilterTable {
    /// An empty table.
    pub fn new(name: impl Into<String>, kind: TableKind) -> FilterTable {
        FilterTable { at: At::default(), name: name.into(), kind, most: ENTRIES_DEFAULT, entries: Arc::default() }
    }

    /// True when only the entries may differ.
    pub fn same_shape(&self, other: &FilterTable) -> bool {
        self.name == other.name && self.kind == other.kind && self.most == other.most
    }
}

/// Kind of a table by its name.
pub fn table_kind(s: &str) -> Result<TableKind, String> {
    let names = TableKind::ALL.map(TableKind::name);
    TableKind::ALL.into_iter().find(|k| k.name() == s).ok_or_else(|| {
        let hint = super::did_you_mean(s, &names).map(|h| format!(" ({h})")).unwrap_or_default();
        format!("\"{s}\" is no kind of table{hint}: there are {}", names.join(", "))
    })
}

/// Reads a text of entries. Of a key that comes twice the last value holds.
///
/// # Errors
/// The number of the first line that is wrong, and what is wrong with it.
pub fn parse_entries(kind: TableKind, text: &str) -> Result<Entries, (usize, String)> {
    let mut all = Vec::new();
    for (n, line) in text.lines().enumerate() {
        if let Some(entry) = parse_line(kind, line).map_err(|e| (n + 1, e))? {
            all.push(entry);
        }
    }
    // Of equal keys the last one stays.
    Ok(all.into_iter().collect())
}

/// One line; `None` for one without an entry.
pub fn parse_line(kind: TableKind, line: &str) -> Result<Option<(TableKey, u32)>, String> {
    let mut words = line.split_ascii_whitespace().take_while(|w| !w.starts_with('#'));
    let Some(key) = words.next() else { return Ok(None) };
    let value = words.next().map_or(Ok(0), table_value)?;
    match words.next() {
        Some(odd) => Err(format!("\"{odd}\" is one word too many: a line has a key and a value")),
        None => Ok(Some((TableKey::parse(kind, key)?, value))),
    }
}

/// The value of an entry: decimal, or hex behind `0x`.
pub fn table_value(s: &str) -> Result<u32, String> {
    let value = match s.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => s.parse(),
    };
    // The last number says that a key is not there.
    value.ok().filter(|v| *v != u32::MAX).ok_or_else(|| format!("\"{s}\" is no value: 0 to {}", u32::MAX - 1))
}

/// The entries as such a text.
pub fn write_entries<'e>(entries: impl IntoIterator<Item = (&'e str, u64)>) -> String {
    let mut text = String::new();
    for (key, value) in entries {
        text.push_str(key);
        if value != 0 {
            text.push_str(&format!(" {value}"));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_entries_has_remarks_values_and_bytes_in_hex() {
        let text =
            "# names\nads.example.com\n\n  good.example.com 1  # let through\nhex:00ff\t0x10\nads.example.com 2\n";
        let all = parse_entries(TableKind::Exact, text).unwrap();
        let exact = |b: &[u8]| TableKey::Exact(b.into());
        let expected: Entries =
            [(exact(b"ads.example.com"), 2), (exact(b"good.example.com"), 1), (exact(&[0, 255]), 16)].into();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_wrong_line_is_named_by_its_number() {
        let wrong = |kind, text: &str| parse_entries(kind, text).unwrap_err();
        assert_eq!(wrong(TableKind::Ipv4, "10.0.0.0/8\n10.0.0.1/8\n").0, 2);
        assert!(wrong(TableKind::Exact, "a 1 2").1.contains("one word too many"));
        assert!(wrong(TableKind::Exact, "a 4294967295").1.contains("is no value"));
        assert!(wrong(TableKind::Ipv6, "10.0.0.1").1.contains("IPv6 prefix"));
        assert!(table_kind("ipv5").unwrap_err().contains("did you mean"));
    }
}
