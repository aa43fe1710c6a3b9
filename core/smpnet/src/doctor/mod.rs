//! What this machine offers a router, and what to do about what it lacks.

mod machine;
mod sys;

use serde::Serialize;
use smpnet_wasm::{CacheReport, CodeCache};

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

/// Looks at the machine, and at a cache of compiled code. Changes nothing; plugins are loaded into this process to see whether
/// they load.
pub fn examine(plugin_dirs: &[std::path::PathBuf], cache: &std::path::Path) -> Vec<Finding> {
    let mut findings = machine::examine();
    findings.push(plugins(plugin_dirs));
    findings.push(code_cache(cache));
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
        Ok(_) => match CodeCache::examine(dir) {
            Err(e) => Finding::warn(CHECK, e.to_string(), own),
            Ok(CacheReport { read_only: Some(reason), .. }) => Finding::warn(
                CHECK,
                format!("nothing can be written into {shown} ({reason}): what is compiled from now on is not kept"),
                "`chmod u+w` it, mount it writable, or name another folder as [filters] cache",
            ),
            Ok(r) if !r.refused.is_empty() => Finding::warn(
                CHECK,
                format!("{} files in {shown} are not taken: {}", r.refused.len(), r.refused.join("; ")),
                "nothing is lost: the daemon compiles their modules anew. Find out who damaged or put them there",
            ),
            Ok(r) => {
                let kib = r.bytes.div_ceil(1024);
                Finding::ok(CHECK, format!("compiled filters are kept in {shown}: {} files, {kib} KiB", r.files))
            }
        },
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::path::Path;

    const NOBODY: u32 = 65_534;

    /// A finding that is a warning, has advice, and says this.
    #[track_caller]
    fn warns(dir: &Path, says: &str) {
        let f = code_cache(dir);
        assert_eq!(f.level, Level::Warn, "{f:?}");
        assert!(f.found.contains(says) && f.advice.as_ref().is_some_and(|a| !a.is_empty()), "{says}: {f:?}");
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn whatever_is_wrong_with_the_code_cache_is_found_with_advice() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("wasm");
        drop(CodeCache::open(&dir).unwrap());
        let good = code_cache(&dir);
        assert!(good.level == Level::Ok && good.found.ends_with("0 files, 0 KiB"), "{good:?}");

        let file = dir.join("damaged.code");
        fs::write(&file, b"not what the router wrote").unwrap();
        mode(&file, 0o600);
        warns(&dir, "1 files in ");
        fs::remove_file(&file).unwrap();

        mode(&dir.join("key"), 0o644);
        warns(&dir, "others may use it (mode 644)");
        mode(&dir.join("key"), 0o600);
        mode(&dir, 0o755);
        warns(&dir, "others may look into");
        mode(&dir, 0o700);
        assert_eq!(code_cache(&dir).level, Level::Ok);

        symlink(&dir, tmp.path().join("link")).unwrap();
        warns(&tmp.path().join("link"), "is no folder");
        fs::write(tmp.path().join("file"), b"").unwrap();
        warns(&tmp.path().join("file"), "is no folder");
    }

    #[test]
    fn a_code_cache_of_somebody_else_is_found() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("wasm");
        drop(CodeCache::open(&dir).unwrap());
        if sys::effective_user() == 0 {
            chown(&dir, Some(NOBODY), None).unwrap();
            warns(&dir, "belongs to user 65534");
            // The folder is ours, the key is not.
            chown(&dir, Some(0), None).unwrap();
            chown(dir.join("key"), Some(NOBODY), None).unwrap();
            warns(&dir, "it belongs to user 65534, not to 0");
        } else {
            // Nobody but root gives files away; root's own folder is somebody else's to all others.
            warns(Path::new("/usr"), "belongs to user 0");
        }
    }

    #[test]
    fn a_code_cache_that_cannot_be_written_is_found() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("wasm");
        drop(CodeCache::open(&dir).unwrap());
        mode(&dir, 0o500);
        if sys::effective_user() == 0 {
            // Modes do not stop root: a thread becomes somebody whom they stop.
            for path in [tmp.path(), &dir, &dir.join("key")] {
                chown(path, Some(NOBODY), None).unwrap();
            }
            let dir = dir.clone();
            let nobody = std::thread::spawn(move || {
                // SAFETY: a system call with numbers; made directly, it changes this thread alone.
                let done = unsafe { libc::syscall(libc::SYS_setresuid, -1, NOBODY, -1) };
                assert_eq!(done, 0);
                warns(&dir, "nothing can be written into");
            });
            nobody.join().unwrap();
        } else {
            warns(&dir, "nothing can be written into");
        }
        mode(&dir, 0o700);
    }
}
