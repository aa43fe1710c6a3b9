//! A kernel for guests: that of a Debian or Ubuntu package, unpacked and not installed, or one that is installed here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object, ObjectSection};

use crate::error::{Context, LabError, Result};
use crate::harness::skip;

/// Where unpacked kernel packages lie, each in a folder of its own (a dot before its name until it is whole): `smpnet/linux` in the user's cache folder.
pub fn kernel_cache() -> PathBuf {
    let folder = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|h| h.join(".cache")));
    cache.unwrap_or_else(|| "/var/tmp".into()).join("smpnet/linux")
}

/// A kernel and its modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its release, `6.1.0-56-cloud-amd64` for example.
    pub release: String,
    /// The file that is booted.
    pub image: PathBuf,
    /// Module files by name.
    modules: BTreeMap<String, PathBuf>,
    /// Modules that are part of the image.
    builtin: Vec<String>,
}

impl Kernel {
    /// The newest kernel that has all of `modules`: first among those in [`kernel_cache`], then among those installed.
    ///
    /// # Errors
    /// [`LabError::Skipped`] when there is none, with what each one lacks.
    pub fn find(modules: &[&str]) -> Result<Kernel> {
        if std::env::consts::ARCH != "x86_64" {
            return Err(skip("guests are made on x86-64 only"));
        }
        // What begins with a dot is being unpacked, or its unpacking was cut off.
        let whole = |e: &fs::DirEntry| !e.file_name().to_string_lossy().starts_with('.');
        let unpacked = fs::read_dir(kernel_cache()).into_iter().flatten().flatten().filter(whole);
        let mut kernels: Vec<Kernel> = unpacked.flat_map(|e| kernels_in(&e.path())).collect();
        kernels.sort_by_key(|k| std::cmp::Reverse(numbers(&k.release)));
        kernels.extend(kernels_in(Path::new("/")));
        let mut lacks = String::new();
        for kernel in kernels {
            let missing: Vec<&str> = modules.iter().copied().filter(|m| !kernel.has(m)).collect();
            if missing.is_empty() {
                return Ok(kernel);
            }
            lacks += &format!("; {} has no {}", kernel.release, missing.join(", "));
        }
        Err(skip(format!(
            "there is no kernel for a guest with {} (cargo xtask test fetches one){lacks}",
            modules.join(", ")
        )))
    }

    fn has(&self, module: &str) -> bool {
        let name = canonical(module);
        self.modules.contains_key(&name) || self.builtin.contains(&name)
    }

    /// The files of `modules` and of all that they depend on, each after what it depends on.
    ///
    /// # Errors
    /// When a file cannot be read or is no module.
    pub(super) fn load_order(&self, modules: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut done = Vec::new();
        for m in modules {
            self.add(&canonical(m), &mut done, &mut Vec::new())?;
        }
        Ok(done)
    }

    fn add(&self, name: &str, done: &mut Vec<(String, Vec<u8>)>, above: &mut Vec<String>) -> Result<()> {
        if self.builtin.iter().any(|b| b == name) || done.iter().any(|(n, _)| n == name) {
            return Ok(());
        }
        if above.iter().any(|a| a == name) {
            return Err(LabError::Failed(format!("module {name} depends on itself")));
        }
        let no = || LabError::Failed(format!("{} has no module {name}", self.release));
        let content = read_module(self.modules.get(name).ok_or_else(no)?)?;
        above.push(name.into());
        for d in dependencies(&content).ok_or_else(|| LabError::Failed(format!("{name} is no kernel module")))? {
            self.add(&d, done, above)?;
        }
        above.pop();
        done.push((name.into(), content));
        Ok(())
    }
}

/// The kernels in a folder that is laid out like a root folder, newest first.
fn kernels_in(root: &Path) -> Vec<Kernel> {
    let mut found: Vec<Kernel> = fs::read_dir(root.join("boot"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| {
            let image = e.path();
            let release = e.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_string();
            // Ubuntu lets root alone read its kernels.
            fs::File::open(&image).ok()?;
            let folder =
                ["lib/modules", "usr/lib/modules"].iter().map(|f| root.join(f).join(&release)).find(|p| p.is_dir())?;
            let mut modules = BTreeMap::new();
            walk(&folder.join("kernel"), &mut modules);
            let list = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
            let builtin = list.lines().filter_map(|l| module_name(Path::new(l))).collect();
            Some(Kernel { release, image, modules, builtin })
        })
        .collect();
    found.sort_by_key(|k| std::cmp::Reverse(numbers(&k.release)));
    found
}

/// The numbers in a release, which order kernels by age.
fn numbers(release: &str) -> Vec<u64> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

fn walk(folder: &Path, into: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(&path, into);
        } else if let Some(name) = module_name(&path) {
            into.insert(name, path);
        }
    }
}

/// `virtio_net` for `kernel/drivers/net/virtio-net.ko.xz`.
fn module_name(path: &Path) -> Option<String> {
    let (name, _) = path.file_name()?.to_str()?.split_once(".ko")?;
    Some(canonical(name))
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// A module's bytes, decompressed.
fn read_module(path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).context(format!("reading {}", path.display())),
    };
    match Command::new(tool).arg("-dc").arg(path).output() {
        Ok(out) if out.status.success() => Ok(out.stdout),
        Ok(out) => {
            Err(LabError::Failed(format!("{tool} {}: {}", path.display(), String::from_utf8_lossy(&out.stderr))))
        }
        Err(_) => Err(skip(format!("{tool} is not installed, which the guest's kernel modules need"))),
    }
}

/// The modules that a module names in its `.modinfo` section; `None` when it has none such.
fn dependencies(module: &[u8]) -> Option<Vec<String>> {
    let file = object::File::parse(module).ok()?;
    let info = file.section_by_name(".modinfo")?.data().ok()?;
    let line = info.split(|b| *b == 0).find_map(|l| l.strip_prefix(b"depends="))?;
    let text = std::str::from_utf8(line).ok()?;
    Some(text.split(',').filter(|d| !d.is_empty()).map(canonical).collect())
}

#[cfg(test)]
mod tests {
    use super::{module_name, numbers};
    use std::path::Path;

    #[test]
    fn modules_go_by_one_name_whatever_their_file_is_called() {
        for (file, name) in [
            ("kernel/net/8021q/8021q.ko", "8021q"),
            ("kernel/drivers/vfio/pci/vfio-pci.ko.xz", "vfio_pci"),
            ("kernel/drivers/net/virtio_net.ko.zst", "virtio_net"),
        ] {
            assert_eq!(module_name(Path::new(file)).as_deref(), Some(name));
        }
        assert_eq!(module_name(Path::new("modules.dep")), None);
    }

    #[test]
    fn kernels_are_ordered_by_the_numbers_of_their_release() {
        assert!(numbers("6.1.0-56-cloud-amd64") > numbers("6.1.0-9-cloud-amd64"));
        assert!(numbers("6.12.1-amd64") > numbers("6.2.99-amd64"));
    }
}
