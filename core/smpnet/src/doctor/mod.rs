//! What this machine offers a router, and what to do about what it lacks.

mod machine;
mod sys;

use serde::Serialize;

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but less well than it could, or something optional is missing.
    Warn,
    /// Something that most uses need does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at, a short name that stays the same.
    pub check: &'static str,
    /// How good it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Finding {
        Finding { check, level: Level::Ok, found: found.into(), advice: None }
    }

    fn warn(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { check, level: Level::Warn, found: found.into(), advice: Some(advice.into()) }
    }

    fn fail(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { level: Level::Fail, ..Finding::warn(check, found, advice) }
    }
}

/// Looks at the machine. Changes nothing; plugins are loaded into this process to see whether they load.
pub fn examine(plugin_dirs: &[std::path::PathBuf]) -> Vec<Finding> {
    let mut findings = machine::examine();
    findings.push(plugins(plugin_dirs));
    findings
}

fn plugins(dirs: &[std::path::PathBuf]) -> Finding {
    let catalogue = crate::plugins::discover(dirs, &[]);
    let searched: Vec<String> = catalogue.searched.iter().map(|d| d.display().to_string()).collect();
    let searched = searched.join(", ");
    if !catalogue.refused.is_empty() {
        return Finding::warn(
            "plugins",
            format!("{} loadable; refused: {}", catalogue.plugins.len(), catalogue.refused.join("; ")),
            "replace or remove the refused files",
        );
    }
    if catalogue.plugins.is_empty() {
        return Finding::fail(
            "plugins",
            format!("none in {searched}"),
            "put libsmpnet_*.so next to the program or into a folder of [plugins] dirs (`cargo build --release --workspace` makes them)",
        );
    }
    Finding::ok("plugins", format!("{} loadable: {}", catalogue.plugins.len(), catalogue.plugins.join(", ")))
}
