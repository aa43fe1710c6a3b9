//! What a module says about itself: the JSON of its custom section.

use super::ModuleError;
use crate::error::nearest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use smpnet_filter_abi as abi;
use std::fmt;

/// What a module may be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// Write to the log.
    Log,
    /// Read the clock.
    Clock,
    /// Look into tables of the host.
    Tables,
    /// Set marks.
    Mark,
    /// Change packets.
    Edit,
    /// Answer with ICMP errors.
    Reject,
}

impl Capability {
    /// All of them.
    pub const ALL: [Capability; 6] = [
        Capability::Log,
        Capability::Clock,
        Capability::Tables,
        Capability::Mark,
        Capability::Edit,
        Capability::Reject,
    ];

    /// Its name in manifests and configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Capability::Log => abi::capability::LOG,
            Capability::Clock => abi::capability::CLOCK,
            Capability::Tables => abi::capability::TABLES,
            Capability::Mark => abi::capability::MARK,
            Capability::Edit => abi::capability::EDIT,
            Capability::Reject => abi::capability::REJECT,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Capability {
    type Err = String;

    /// Reads a name; the error says which there are.
    fn from_str(s: &str) -> Result<Self, String> {
        let names = Capability::ALL.map(Capability::name);
        Capability::ALL.into_iter().find(|c| c.name() == s).ok_or_else(|| {
            format!("no capability is named {s:?}{}: there are {}", nearest(s, &names), names.join(", "))
        })
    }
}

/// A set of capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(u8);

impl Capabilities {
    /// Those that a module has unless its operator says otherwise: `log` and `clock`.
    pub fn usual() -> Self {
        [Capability::Log, Capability::Clock].into_iter().collect()
    }

    /// All of them.
    pub fn all() -> Self {
        Capability::ALL.into_iter().collect()
    }

    /// Whether one is in the set.
    #[inline(always)]
    pub fn has(self, c: Capability) -> bool {
        self.0 >> c as u8 & 1 == 1
    }

    /// Those in the set.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL.into_iter().filter(move |c| self.has(*c))
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(all: I) -> Self {
        Capabilities(all.into_iter().fold(0, |bits, c| bits | 1 << c as u8))
    }
}

impl Serialize for Capabilities {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Capabilities {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Vec::<Capability>::deserialize(d)?.into_iter().collect())
    }
}

/// How keys of a table are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// Keys of 1 to 255 bytes.
    Exact,
    /// Prefixes of IPv4 addresses.
    Ipv4,
    /// Prefixes of IPv6 addresses.
    Ipv6,
}

impl TableKind {
    /// All of them.
    pub const ALL: [TableKind; 3] = [TableKind::Exact, TableKind::Ipv4, TableKind::Ipv6];

    /// Its name in manifests and commands.
    pub const fn name(self) -> &'static str {
        match self {
            TableKind::Exact => "exact",
            TableKind::Ipv4 => "ipv4",
            TableKind::Ipv6 => "ipv6",
        }
    }
}

impl fmt::Display for TableKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for TableKind {
    type Err = String;

    /// Reads a name; the error says which there are.
    fn from_str(s: &str) -> Result<Self, String> {
        let names = TableKind::ALL.map(TableKind::name);
        TableKind::ALL.into_iter().find(|k| k.name() == s).ok_or_else(|| {
            format!("no kind of table is named {s:?}{}: there are {}", nearest(s, &names), names.join(", "))
        })
    }
}

/// A table that a module looks into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableUse {
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: TableKind,
}

/// The manifest of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Manifest {
    /// Version of the ABI that it was made for, as `major.minor`.
    pub abi: String,
    /// Name of the filter: 1 to 63 of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// Version of the filter, in its author's words.
    pub version: Option<String>,
    /// One line on what it does.
    pub summary: Option<String>,
    /// Bytes of each packet that it gets to see.
    pub window: u32,
    /// Most pages of 64 KiB that its memory may grow to; `None` leaves that to the operator's limit.
    pub memory: Option<u32>,
    /// How often it is told the time at most, in milliseconds.
    pub tick_ms: Option<u32>,
    /// What it does besides passing and dropping.
    pub capabilities: Capabilities,
    /// Names of its counters.
    pub counters: Vec<String>,
    /// Tables that it looks into.
    pub tables: Vec<TableUse>,
}

const KEYS: [&str; 10] =
    ["abi", "name", "version", "summary", "window", "memory", "tick_ms", "capabilities", "counters", "tables"];
/// Longest text of a manifest, in bytes.
const TEXT_MAX: usize = 255;
/// Most bytes of a manifest.
const MANIFEST_MAX: usize = 64 * 1024;
/// Pages of a 32-bit memory.
const PAGES_MAX: u64 = 65_536;
/// Longest interval between two ticks, in milliseconds: an hour.
const TICK_MAX: u64 = 3_600_000;

impl Manifest {
    /// Reads the content of the custom section.
    ///
    /// # Errors
    /// [`ModuleError::Manifest`] and [`ModuleError::Version`], which say what is wrong and what would be right: the first of
    /// all that is.
    pub fn parse(text: &[u8]) -> Result<Manifest, ModuleError> {
        let mut wrong = Vec::new();
        let manifest = Manifest::read(text, &mut wrong);
        match (manifest, wrong.into_iter().next()) {
            (Some(manifest), None) => Ok(manifest),
            (_, Some(first)) => Err(first),
            // Cannot be: what is not read is wrong.
            (None, None) => Err(ModuleError::Sections(0)),
        }
    }

    /// The same, and writes down all that is wrong. What is wrong is left out of the manifest; there is none when the text is
    /// not an object, or one for another smpnet.
    pub(super) fn read(text: &[u8], wrong: &mut Vec<ModuleError>) -> Option<Manifest> {
        let mut r = Reader(wrong);
        if text.len() > MANIFEST_MAX {
            return r.note(Err(format!("it has {} bytes, {MANIFEST_MAX} are allowed", text.len())));
        }
        let value = r.note(serde_json::from_slice(text).map(Some).map_err(|e| format!("it is not JSON: {e}")))?;
        let Value::Object(map) = &value else { return r.note(Err("it is not a JSON object".into())) };
        // First of all, so that a module for a later smpnet hears that and not that a key is unknown.
        let missing = || "`abi` is missing: write \"abi\": \"1.0\"".to_owned();
        let abi = r.note(string(map.get("abi"), "abi").and_then(|abi| abi.ok_or_else(missing)).map(Some))?;
        if let Err(e) = version(&abi) {
            r.0.push(e);
            return None;
        }
        r.known(map, &KEYS, "the manifest");
        let name = string(map.get("name"), "name").and_then(|n| n.ok_or_else(|| "`name` is missing".to_owned()));
        let name = r.note(name.and_then(|n| match is_name(&n) {
            true => Ok(n),
            false => Err(format!("`name` is {n:?}: 1 to 63 of the characters A-Z a-z 0-9 . _ -")),
        }));
        let window = number(map.get("window"), "window", 16, abi::WINDOW_MAX.into());
        let window = r.note(window.and_then(|w| match w {
            Some(w) if w % 16 != 0 => Err(format!("`window` is {w}: a multiple of 16")),
            w => Ok(w),
        }));
        let mut capabilities = Vec::new();
        for c in r.note(list(map.get("capabilities"), "capabilities", Capability::ALL.len())) {
            let one = string(Some(c), "capabilities").and_then(|c| c.unwrap_or_default().parse::<Capability>());
            capabilities.extend(r.note(one.map(Some)));
        }
        let mut counters: Vec<String> = Vec::new();
        for c in r.note(list(map.get("counters"), "counters", abi::COUNTERS_MAX as usize)) {
            let one = string(Some(c), "counters").map(Option::unwrap_or_default);
            counters.extend(r.note(one.and_then(|c| match is_name(&c) && !counters.contains(&c) {
                true => Ok(Some(c)),
                false => Err(format!("`counters` has {c:?}: different names of 1 to 63 of A-Z a-z 0-9 . _ -")),
            })));
        }
        let mut tables = Vec::new();
        for t in r.note(list(map.get("tables"), "tables", abi::TABLES_MAX as usize)) {
            tables.extend(r.table(t));
        }
        Some(Manifest {
            abi,
            name,
            version: r.note(string(map.get("version"), "version")),
            summary: r.note(string(map.get("summary"), "summary")),
            window: window.unwrap_or(abi::WINDOW_DEFAULT),
            memory: r.note(number(map.get("memory"), "memory", 1, PAGES_MAX)),
            tick_ms: r.note(number(map.get("tick_ms"), "tick_ms", 1, TICK_MAX)),
            capabilities: capabilities.into_iter().collect(),
            counters,
            tables,
        })
    }
}

/// Writes down what is wrong and goes on without it.
struct Reader<'w>(&'w mut Vec<ModuleError>);

impl Reader<'_> {
    fn note<T: Default>(&mut self, result: Result<T, String>) -> T {
        result.unwrap_or_else(|text| {
            let e = ModuleError::Manifest(text);
            if !self.0.contains(&e) {
                self.0.push(e);
            }
            T::default()
        })
    }

    fn known(&mut self, map: &serde_json::Map<String, Value>, keys: &[&str], what: &str) {
        for k in map.keys().filter(|k| !keys.contains(&k.as_str())) {
            let (shown, hint) = (k.escape_debug(), nearest(k, keys));
            self.note::<()>(Err(format!("{what} has no key `{shown}`{hint}: there are {}", keys.join(", "))));
        }
    }

    fn table(&mut self, value: &Value) -> Option<TableUse> {
        let Value::Object(map) = value else {
            return self.note(Err("`tables` holds objects like {\"name\": \"names\", \"kind\": \"exact\"}".into()));
        };
        self.known(map, &["name", "kind"], "a table");
        let name = string(map.get("name"), "tables.name").map(Option::unwrap_or_default);
        let name = self.note(name.and_then(|n| match is_name(&n) {
            true => Ok(Some(n)),
            false => Err(format!("a table's `name` is {n:?}: 1 to 63 of the characters A-Z a-z 0-9 . _ -")),
        }));
        let missing = || "a table's `kind` is missing".to_owned();
        let kind = string(map.get("kind"), "tables.kind").and_then(|k| k.ok_or_else(missing));
        let kind = self.note(kind.and_then(|k| k.parse().map(Some)));
        Some(TableUse { name: name?, kind: kind? })
    }
}

/// A host of 1.N runs every module of 1.0 to 1.N.
fn version(text: &str) -> Result<(), ModuleError> {
    let parts = text.split_once('.').and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u32>().ok()?)));
    match parts {
        Some((abi::VERSION_MAJOR, minor)) if (0..=abi::VERSION_MINOR).contains(&minor) => Ok(()),
        Some(_) => Err(ModuleError::Version(text.to_owned())),
        None => Err(ModuleError::Manifest(format!("`abi` is {text:?}: a version like \"{}\"", abi::VERSION))),
    }
}

fn string(value: Option<&Value>, key: &str) -> Result<Option<String>, String> {
    match value {
        None => Ok(None),
        Some(Value::String(s)) if s.len() <= TEXT_MAX && !s.chars().any(char::is_control) => Ok(Some(s.clone())),
        Some(Value::String(_)) => Err(format!("`{key}` is longer than {TEXT_MAX} bytes or not one line")),
        Some(_) => Err(format!("`{key}` is not a string")),
    }
}

fn number(value: Option<&Value>, key: &str, least: u64, most: u64) -> Result<Option<u32>, String> {
    match value {
        None => Ok(None),
        Some(v) => match v.as_u64() {
            Some(n) if (least..=most).contains(&n) => Ok(u32::try_from(n).ok()),
            _ => Err(format!("`{key}` is {v}: a number from {least} to {most}")),
        },
    }
}

fn list<'a>(value: Option<&'a Value>, key: &str, most: usize) -> Result<&'a [Value], String> {
    match value {
        None => Ok(&[]),
        Some(Value::Array(a)) if a.len() <= most => Ok(a),
        Some(Value::Array(a)) => Err(format!("`{key}` has {} entries, {most} are allowed", a.len())),
        Some(_) => Err(format!("`{key}` is not a list")),
    }
}

/// Whether a text is a name: 1 to 63 of `A-Z a-z 0-9 . _ -`.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Manifest::parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn the_manifest_of_the_abi_is_read_and_the_least_one_has_the_defaults() {
        let text = r#"{ "abi": "1.0", "name": "dns-blocklist", "version": "0.1.0", "summary": "drops queries",
            "window": 256, "memory": 17, "tick_ms": 1000, "capabilities": ["tables"], "counters": ["queries", "blocked"],
            "tables": [{ "name": "names", "kind": "exact" }] }"#;
        let m = Manifest::parse(text.as_bytes()).unwrap();
        assert_eq!((m.window, m.memory, m.tick_ms), (256, Some(17), Some(1000)));
        assert!(m.capabilities.has(Capability::Tables) && !m.capabilities.has(Capability::Edit));
        assert_eq!(m.tables, [TableUse { name: "names".into(), kind: TableKind::Exact }]);
        let least = Manifest::parse(br#"{"abi":"1.0","name":"x"}"#).unwrap();
        assert_eq!((least.window, least.memory, least.counters.len()), (128, None, 0));
    }

    #[test]
    fn what_is_wrong_in_a_manifest_is_named_with_what_would_be_right() {
        for (text, says) in [
            ("{", "not JSON"),
            ("[]", "not a JSON object"),
            (r#"{"name":"x"}"#, "`abi` is missing"),
            (r#"{"abi":"1.0"}"#, "`name` is missing"),
            (r#"{"abi":"1.0","name":"a b"}"#, "`name` is \"a b\""),
            (r#"{"abi":"1.0","name":"x","windw":64}"#, "no key `windw` (did you mean window?)"),
            (r#"{"abi":"1.0","name":"x","window":100}"#, "a multiple of 16"),
            (r#"{"abi":"1.0","name":"x","window":4096}"#, "from 16 to 2048"),
            (r#"{"abi":"1.0","name":"x","window":"64"}"#, "from 16 to 2048"),
            (r#"{"abi":"1.0","name":"x","capabilities":["table"]}"#, "(did you mean tables?)"),
            (r#"{"abi":"1.0","name":"x","tables":[{"name":"t","kind":"exakt"}]}"#, "(did you mean exact?)"),
            (r#"{"abi":"1.0","name":"x","counters":["a","a"]}"#, "different names"),
            (r#"{"abi":"1.0","name":"x","memory":0}"#, "from 1 to 65536"),
            (r#"{"abi":"1.x","name":"x"}"#, "a version like \"1.0\""),
        ] {
            assert!(error(text).contains(says), "{text}: {}", error(text));
        }
    }

    #[test]
    fn older_minor_versions_load_and_newer_ones_say_what_to_do() {
        assert!(Manifest::parse(br#"{"abi":"1.0","name":"x"}"#).is_ok());
        // Also with keys that only the later version knows.
        let newer = error(r#"{"abi":"1.99","name":"x","colour":1}"#);
        assert!(newer.contains("ABI 1.99") && newer.contains("runs 1.0"), "{newer}");
        assert!(error(r#"{"abi":"2.0","name":"x"}"#).contains("ABI 2.0"));
        assert!(error(r#"{"abi":"0.9","name":"x"}"#).contains("ABI 0.9"));
    }
}
