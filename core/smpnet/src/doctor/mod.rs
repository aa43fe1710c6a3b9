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
    findings.push(code_cache(std::path::Path::new(crate::config::DEFAULT_CACHE)));
    findings
}

/// Where compiled code of modules is kept. Without it modules are compiled at each start, which takes longer and nothing else.
fn code_cache(dir: &std::path::Path) -> Finding {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    const CHECK: &str = "code cache";
    let shown = dir.display();
    let own = "make it a folder of the user that smpnet runs as, with mode 0700, or name another as [filters] cache";
    match std::fs::symlink_metadata(dir) {
        Ok(m) if !m.is_dir() => Finding::warn(CHECK, format!("{shown} is no folder"), own),
        Ok(m) if m.uid() != sys::effective_user() => {
            Finding::warn(CHECK, format!("{shown} belongs to user {}", m.uid()), own)
        }
        Ok(m) if m.permissions().mode() & 0o077 != 0 => Finding::warn(
            CHECK,
            format!("others may look into {shown} (mode {:o})", m.permissions().mode() & 0o777),
            own,
        ),
        Ok(_) => Finding::ok(CHECK, format!("compiled filters are kept in {shown}")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && sys::effective_user() == 0 => {
            Finding::ok(CHECK, format!("{shown} is made when the daemon starts"))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Finding::warn(CHECK, format!("{shown} is not there, and only root can make it"), own)
        }
        Err(e) => Finding::warn(CHECK, format!("{shown}: {e}"), own),
    }
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
