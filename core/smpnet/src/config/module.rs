//! A module of somebody's as the configuration and the API name it: its bytes, and what its operator lets it do.

use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use smpnet_wasm::{Capabilities, Capability, FaultLimit, ModuleLimits, ModuleSpec};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Most bytes of a module that the program takes; `module_bytes` may allow less, and does unless told otherwise.
pub const MODULE_FILE_MAX: usize = 32 << 20;
/// Most microseconds that a limit of time may be.
const TIME_MAX: u32 = 10_000_000;
/// Most pages of 64 KiB of a module's memory.
const PAGES_MAX: u32 = 4096;

/// A module, its configuration and its rights. Two are equal when they do the same, wherever their files lie.
#[derive(Clone, Debug, Serialize)]
pub struct Module {
    /// The file, for messages.
    pub file: String,
    /// SHA-256 of the bytes, in hex.
    pub sha256: String,
    /// The module.
    #[serde(skip)]
    pub bytes: Arc<[u8]>,
    /// Its own configuration, as `smpnet_init` gets it.
    #[serde(serialize_with = "lossy")]
    pub config: Vec<u8>,
    /// What it may do.
    pub allow: Capabilities,
    /// Names of tables by the names that its manifest has for them.
    pub tables: BTreeMap<String, String>,
    /// What it may take.
    pub limits: ModuleLimits,
}

impl PartialEq for Module {
    fn eq(&self, other: &Module) -> bool {
        self.sha256 == other.sha256
            && self.config == other.config
            && self.allow == other.allow
            && self.tables == other.tables
            && self.limits == other.limits
    }
}

impl Eq for Module {}

impl Module {
    /// A module that may do and take what any may.
    pub fn new(file: impl Into<String>, bytes: Vec<u8>) -> Module {
        let sha256 = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        let ModuleSpec { config, allow, limits, tables, .. } = ModuleSpec::new(Vec::new());
        Module { file: file.into(), sha256, bytes: bytes.into(), config, allow, tables, limits }
    }

    /// The filter host's word for it.
    pub fn spec(&self) -> ModuleSpec {
        ModuleSpec {
            wasm: self.bytes.to_vec(),
            config: self.config.clone(),
            allow: self.allow,
            limits: self.limits,
            tables: self.tables.clone(),
        }
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.file.rsplit('/').next().unwrap_or(&self.file);
        write!(f, "module {name} ({:.12})", self.sha256)
    }
}

fn lossy<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&String::from_utf8_lossy(bytes))
}

/// The usual capabilities and those of `names`.
pub fn capabilities<'n>(names: impl IntoIterator<Item = &'n str>) -> Result<Capabilities, String> {
    let more = names.into_iter().map(str::parse::<Capability>).collect::<Result<Vec<_>, _>>()?;
    Ok(Capabilities::usual().iter().chain(more).collect())
}

/// Limits as an object of some of them; the others stay as in `old`.
pub fn limits(old: &ModuleLimits, changes: &Value) -> Result<ModuleLimits, String> {
    let mut all = json!(old);
    let (Value::Object(all_of), Value::Object(some)) = (&mut all, changes) else {
        return Err("the limits of a module must be an object".into());
    };
    for (key, value) in some {
        if !all_of.contains_key(key) {
            let names: Vec<&String> = all_of.keys().collect();
            let hint = super::did_you_mean(key, &names).map(|h| format!(" ({h})")).unwrap_or_default();
            return Err(format!("no limit of modules is named \"{key}\"{hint}"));
        }
        all_of.insert(key.clone(), value.clone());
    }
    let new: ModuleLimits = serde_json::from_value(all).map_err(|e| format!("the limits of a module: {e}"))?;
    let within = |name: &str, n: u64, most: u64| match n {
        0 => Err(format!("the limit {name} of a module must be at least 1")),
        n if n > most => Err(format!("the limit {name} of a module must be at most {most}, and is {n}")),
        _ => Ok(()),
    };
    within("module_bytes", new.module_bytes as u64, MODULE_FILE_MAX as u64)?;
    within("memory_pages", new.memory_pages.into(), PAGES_MAX.into())?;
    within("table_elements", new.table_elements as u64, 10_000_000)?;
    for (name, us) in
        [("burst_us", new.burst_us), ("init_us", new.init_us), ("tick_us", new.tick_us), ("state_us", new.state_us)]
    {
        within(name, us.into(), TIME_MAX.into())?;
    }
    Ok(new)
}

/// How many faults are too many: `N/SECONDS`.
pub fn fault_limit(s: &str) -> Result<FaultLimit, String> {
    let wrong = || format!("\"{s}\" does not say how many faults are too many: it is N/SECONDS, as 8/60");
    let (max, seconds) = s.split_once('/').ok_or_else(wrong)?;
    let number = |s: &str| s.trim().parse().ok().filter(|n| (1..=1_000_000).contains(n)).ok_or_else(wrong);
    Ok(FaultLimit { max: number(max)?, seconds: number(seconds)? })
}

/// `MANIFESTNAME=TABLE`.
pub fn table_name(s: &str) -> Result<(String, String), String> {
    match s.split_once('=') {
        Some((own, table)) if !own.is_empty() && !table.is_empty() => Ok((own.to_owned(), table.to_owned())),
        _ => Err(format!("\"{s}\" names no table: it is MANIFESTNAME=TABLE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_with_the_same_bytes_and_rights_are_equal_wherever_they_lie() {
        let (a, b) = (Module::new("a.wasm", vec![1, 2]), Module::new("/x/b.wasm", vec![1, 2]));
        assert_eq!(a, b);
        assert_ne!(a, Module { config: b"rate = 1".to_vec(), ..b.clone() });
        assert_ne!(a, Module { allow: capabilities(["edit"]).unwrap(), ..b });
        assert_ne!(a, Module::new("a.wasm", vec![1, 3]));
    }

    #[test]
    fn limits_change_one_by_one_and_wrong_ones_are_named() {
        let old = ModuleLimits::default();
        let new = limits(&old, &json!({"burst_us": 50})).unwrap();
        assert_eq!((new.burst_us, new.memory_pages), (50, old.memory_pages));
        assert!(limits(&old, &json!({"burst_u": 50})).unwrap_err().contains("did you mean \"burst_us\"?"));
        assert!(limits(&old, &json!({"memory_pages": 0})).unwrap_err().contains("at least 1"));
        assert!(limits(&old, &json!({"module_bytes": 1_000_000_000})).unwrap_err().contains("at most"));
    }

    #[test]
    fn a_fault_limit_is_a_number_and_seconds() {
        assert_eq!(fault_limit("3/10"), Ok(FaultLimit { max: 3, seconds: 10 }));
        for wrong in ["3", "0/10", "3/0", "a/b", "3/10/2"] {
            assert!(fault_limit(wrong).unwrap_err().contains("N/SECONDS"), "{wrong}");
        }
    }
}
