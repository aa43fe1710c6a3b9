//! The manifest, made while the filter is compiled, so that a mistake in it is an error of the compiler.

use smpnet_filter_abi as abi;

/// What [`filter!`](crate::filter!) writes into the module's custom section.
#[derive(Clone, Copy, Debug)]
pub struct Manifest {
    /// Name of the filter: letters, digits, `-`, `_` and `.`, at most 64.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// One line that says what it does.
    pub summary: &'static str,
    /// Bytes of each packet that it sees, a multiple of 16, at most 2048.
    pub window: u32,
    /// Most pages of 64 KiB that its memory may have; 0 leaves that to smpnet.
    pub memory: u32,
    /// Milliseconds between calls of `tick`; 0 for none.
    pub tick_ms: u32,
    /// What it may do besides passing, dropping and logging.
    pub capabilities: &'static [&'static str],
    /// Names of its counters.
    pub counters: &'static [&'static str],
    /// Its tables: name and kind.
    pub tables: &'static [(&'static str, TableKind)],
}

/// What the keys of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// Bytes, found when they are equal.
    Exact,
    /// IPv4 prefixes, of which the longest is found.
    Ipv4,
    /// IPv6 prefixes, of which the longest is found.
    Ipv6,
}

impl TableKind {
    /// As the manifest writes it.
    pub const fn name(self) -> &'static str {
        match self {
            TableKind::Exact => "exact",
            TableKind::Ipv4 => "ipv4",
            TableKind::Ipv6 => "ipv6",
        }
    }
}

impl Manifest {
    /// Stops the compiler at the first thing that smpnet would refuse.
    pub const fn check(&self) {
        assert!(is_name(self.name), "name: 1 to 64 letters, digits, '-', '_' or '.'");
        assert!(
            self.window > 0 && self.window.is_multiple_of(16) && self.window <= abi::WINDOW_MAX,
            "window: a multiple of 16 from 16 to 2048"
        );
        assert!(self.counters.len() <= abi::COUNTERS_MAX as usize, "counters: at most 32");
        assert!(self.tables.len() <= abi::TABLES_MAX as usize, "tables: at most 16");
        let mut i = 0;
        while i < self.capabilities.len() {
            assert!(
                is_capability(self.capabilities[i]),
                "capabilities: log, clock, tables, mark, edit and reject are all there are"
            );
            i += 1;
        }
        assert!(
            self.tables.is_empty() || self.has_capability(abi::capability::TABLES),
            "tables: name the capability `tables` too"
        );
    }

    /// Whether it names this capability. `log` it always has: a filter that fails must be able to say why.
    pub const fn has_capability(&self, name: &str) -> bool {
        let mut i = 0;
        while i < self.capabilities.len() {
            if equal(self.capabilities[i], name) {
                return true;
            }
            i += 1;
        }
        equal(name, abi::capability::LOG)
    }

    /// Bytes of [`Manifest::json`].
    pub const fn json_len(&self) -> usize {
        self.write(&mut [])
    }

    /// The manifest as JSON; `N` is what [`Manifest::json_len`] says.
    pub const fn json<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        self.write(&mut out);
        out
    }

    /// Writes as much as `out` takes and returns how much there is.
    const fn write(&self, out: &mut [u8]) -> usize {
        let mut at = put(out, 0, "{\"abi\":\"");
        at = put(out, at, abi::VERSION);
        at = put(out, at, "\",\"name\":");
        at = put_text(out, at, self.name);
        at = put(out, at, ",\"version\":");
        at = put_text(out, at, self.version);
        at = put(out, at, ",\"summary\":");
        at = put_text(out, at, self.summary);
        at = put(out, at, ",\"window\":");
        at = put_number(out, at, self.window);
        if self.memory > 0 {
            at = put(out, at, ",\"memory\":");
            at = put_number(out, at, self.memory);
        }
        if self.tick_ms > 0 {
            at = put(out, at, ",\"tick_ms\":");
            at = put_number(out, at, self.tick_ms);
        }
        at = put(out, at, ",\"capabilities\":[");
        let mut i = 0;
        while i < self.capabilities.len() {
            if !equal(self.capabilities[i], abi::capability::LOG) {
                at = put_text(out, at, self.capabilities[i]);
                at = put(out, at, ",");
            }
            i += 1;
        }
        at = put_text(out, at, abi::capability::LOG);
        at = put(out, at, "],\"counters\":[");
        let mut i = 0;
        while i < self.counters.len() {
            if i > 0 {
                at = put(out, at, ",");
            }
            at = put_text(out, at, self.counters[i]);
            i += 1;
        }
        at = put(out, at, "],\"tables\":[");
        let mut i = 0;
        while i < self.tables.len() {
            at = put(out, at, if i > 0 { ",{\"name\":" } else { "{\"name\":" });
            at = put_text(out, at, self.tables[i].0);
            at = put(out, at, ",\"kind\":\"");
            at = put(out, at, self.tables[i].1.name());
            at = put(out, at, "\"}");
            i += 1;
        }
        put(out, at, "]}")
    }
}

const fn put_byte(out: &mut [u8], at: usize, byte: u8) -> usize {
    if at < out.len() {
        out[at] = byte;
    }
    at + 1
}

const fn put(out: &mut [u8], mut at: usize, text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        at = put_byte(out, at, bytes[i]);
        i += 1;
    }
    at
}

/// A string of JSON (RFC 8259, section 7).
const fn put_text(out: &mut [u8], mut at: usize, text: &str) -> usize {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    at = put_byte(out, at, b'"');
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let byte = bytes[i];
        if byte == b'"' || byte == b'\\' {
            at = put_byte(out, at, b'\\');
            at = put_byte(out, at, byte);
        } else if byte < b' ' {
            at = put(out, at, "\\u00");
            at = put_byte(out, at, HEX[(byte >> 4) as usize]);
            at = put_byte(out, at, HEX[(byte & 15) as usize]);
        } else {
            at = put_byte(out, at, byte);
        }
        i += 1;
    }
    put_byte(out, at, b'"')
}

const fn put_number(out: &mut [u8], at: usize, number: u32) -> usize {
    let at = if number > 9 { put_number(out, at, number / 10) } else { at };
    put_byte(out, at, b'0' + (number % 10) as u8)
}

const fn equal(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

const fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        if !(bytes[i].is_ascii_alphanumeric() || matches!(bytes[i], b'-' | b'_' | b'.')) {
            return false;
        }
        i += 1;
    }
    i > 0 && i <= 64
}

const fn is_capability(name: &str) -> bool {
    use abi::capability::{CLOCK, EDIT, LOG, MARK, REJECT, TABLES};
    equal(name, LOG)
        || equal(name, CLOCK)
        || equal(name, TABLES)
        || equal(name, MARK)
        || equal(name, EDIT)
        || equal(name, REJECT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Manifest = Manifest {
        name: "sample",
        version: "1.2.3",
        summary: "says \"hello\"\\\n",
        window: 2048,
        memory: 17,
        tick_ms: 1000,
        capabilities: &["tables", "log", "edit"],
        counters: &["seen", "dropped"],
        tables: &[("names", TableKind::Exact), ("nets", TableKind::Ipv4)],
    };

    #[test]
    fn the_manifest_is_json_that_reads_back_as_it_was_written() {
        const LEN: usize = SAMPLE.json_len();
        const TEXT: [u8; LEN] = SAMPLE.json();
        const { SAMPLE.check() };
        let value: serde_json::Value = serde_json::from_slice(&TEXT).unwrap();
        let expected = serde_json::json!({
            "abi": "1.0", "name": "sample", "version": "1.2.3", "summary": "says \"hello\"\\\n",
            "window": 2048, "memory": 17, "tick_ms": 1000, "capabilities": ["tables", "edit", "log"],
            "counters": ["seen", "dropped"],
            "tables": [{ "name": "names", "kind": "exact" }, { "name": "nets", "kind": "ipv4" }]
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_manifest_that_smpnet_would_refuse_does_not_compile() {
        let wrong = [
            Manifest { name: "", ..SAMPLE },
            Manifest { name: "two words", ..SAMPLE },
            Manifest { window: 100, ..SAMPLE },
            Manifest { window: 4096, ..SAMPLE },
            Manifest { capabilities: &["tables", "everything"], ..SAMPLE },
            Manifest { capabilities: &[], ..SAMPLE },
            Manifest { counters: &["c"; 33], ..SAMPLE },
        ];
        for manifest in wrong {
            // At compile time the same panic is the compiler's error.
            assert!(std::panic::catch_unwind(|| manifest.check()).is_err(), "{manifest:?}");
        }
    }
}
