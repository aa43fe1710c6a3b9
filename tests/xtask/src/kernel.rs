//! A kernel for guests, from a package that is downloaded and unpacked but never installed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use smpnet_lab::{Kernel, LabError, kernel_cache};

/// What the tests load.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_net", "virtio_console", "8021q", "ipip"];
/// Packages that depend on the newest kernel without drivers for hardware: Debian's, Ubuntu's.
const NEWEST: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-virtual"];

/// Fetches a kernel unless there is one that fits. The error says why there is none.
pub fn provide(debian: bool) -> Result<(), String> {
    let lacks = match Kernel::find(&MODULES) {
        Ok(_) => return Ok(()),
        Err(LabError::Skipped(reason)) => reason,
        Err(e) => e.to_string(),
    };
    if !debian || std::env::consts::ARCH != "x86_64" {
        return Err(lacks);
    }
    let start = Instant::now();
    let (name, packages) = NEWEST
        .iter()
        .find_map(|newest| packages_of(newest))
        .ok_or_else(|| format!("{lacks}; apt knows neither {} nor {} (apt-get update)", NEWEST[0], NEWEST[1]))?;
    let cache = kernel_cache();
    println!("fetching {} into {} (27 MB, 106 MB unpacked; nothing is installed)", packages.join(" "), cache.display());
    // The dot keeps a half-unpacked kernel from being taken for a whole one.
    let part = cache.join(format!(".{name}-{}", std::process::id()));
    let unpacked = fetch(&packages, &part).and_then(|()| {
        let to = cache.join(&name);
        fs::remove_dir_all(&to).ok();
        fs::rename(&part, &to).map_err(|e| format!("{}: {e}", to.display()))
    });
    fs::remove_dir_all(&part).ok();
    unpacked?;
    println!("fetched in {:.0} s", start.elapsed().as_secs_f64());
    Kernel::find(&MODULES).map(drop).map_err(|e| e.to_string())
}

/// The package of the kernel's image that `newest` stands for, and the packages with its modules.
fn packages_of(newest: &str) -> Option<(String, Vec<String>)> {
    let image = depends(newest).into_iter().find(|p| p.starts_with("linux-image-"))?;
    let mut all = vec![image.clone()];
    // Ubuntu has the modules in a package of their own.
    all.extend(depends(&image).into_iter().filter(|p| p.starts_with("linux-modules-")));
    Some((image, all))
}

fn depends(package: &str) -> Vec<String> {
    let out = Command::new("apt-cache").args(["depends", package]).stderr(Stdio::null()).output();
    let text = out.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    dependencies(&text)
}

/// The packages in what `apt-cache depends` prints.
fn dependencies(text: &str) -> Vec<String> {
    text.lines().filter_map(|l| l.trim().trim_start_matches('|').strip_prefix("Depends: ")).map(String::from).collect()
}

fn fetch(packages: &[String], into: &Path) -> Result<(), String> {
    fs::create_dir_all(into).map_err(|e| format!("{}: {e}", into.display()))?;
    let run = |c: &mut Command| {
        let out = c.stdin(Stdio::null()).output().map_err(|e| format!("{:?}: {e}", c.get_program()))?;
        let failed = || format!("{:?} failed: {}", c.get_program(), String::from_utf8_lossy(&out.stderr).trim());
        if out.status.success() { Ok(()) } else { Err(failed()) }
    };
    run(Command::new("apt-get").args(["download", "-q"]).args(packages).current_dir(into))?;
    let files = fs::read_dir(into).map_err(|e| e.to_string())?.flatten().map(|e| e.path());
    for deb in files.filter(|p| p.extension().is_some_and(|e| e == "deb")).collect::<Vec<_>>() {
        run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(into))?;
        fs::remove_file(&deb).map_err(|e| format!("{}: {e}", deb.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::dependencies;

    #[test]
    fn the_packages_that_a_package_depends_on_are_read() {
        let text = "linux-image-virtual\n  Depends: linux-image-6.8.0-31-generic\n |Depends: kmod\n  Suggests: doc\n";
        assert_eq!(dependencies(text), ["linux-image-6.8.0-31-generic", "kmod"]);
        assert!(dependencies("").is_empty());
    }
}
