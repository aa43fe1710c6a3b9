//! The guest's first and only file system: busybox, a shell, kernel modules, programs with their libraries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cpio::Cpio;
use super::kernel::Kernel;
use crate::error::{Context, LabError, Result};
use crate::harness::skip;

/// The file that a program's name stands for, or the path itself.
pub fn look_up(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_path_buf());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // An ordinary user's path often lacks the folders where ip and the like are.
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|d| d.join(program)).find(|p| p.is_file())
}

/// Writes the archive.
pub fn write(to: &Path, kernel: &Kernel, modules: &[&str], programs: &[PathBuf]) -> Result<()> {
    let mut c = Cpio::default();
    for folder in ["bin", "sbin", "dev", "proc", "sys", "tmp", "run", "etc"] {
        c.folder(folder);
    }
    // The kernel wants a console before /dev is there.
    c.character_device("dev/console", 5, 1);
    c.file("init", 0o755, include_bytes!("init.sh"));
    c.file("serve", 0o755, include_bytes!("serve.sh"));
    let mut libraries = Vec::new();
    add(&mut c, &mut libraries, Path::new("busybox"), "bin/busybox")?;
    // busybox's own shell prefers busybox's own ip to iproute2's.
    add(&mut c, &mut libraries, Path::new("dash"), "bin/dash")?;
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        add(&mut c, &mut libraries, program, &format!("sbin/{name}"))?;
    }
    let mut order = String::new();
    for (name, content) in kernel.load_order(modules)? {
        c.file(&format!("modules/{name}.ko"), 0o644, &content);
        order += &format!("/modules/{name}.ko\n");
    }
    c.file("etc/modules", 0o644, order.as_bytes());
    fs::write(to, c.finish()).context(format!("writing {}", to.display()))
}

fn add(c: &mut Cpio, libraries: &mut Vec<PathBuf>, program: &Path, to: &str) -> Result<()> {
    let file = look_up(program)
        .ok_or_else(|| skip(format!("{} is not installed, which the guest needs", program.display())))?;
    let read = |p: &Path| fs::read(p).context(format!("reading {}", p.display()));
    c.file(to, 0o755, &read(&file)?);
    for library in linked(&file)? {
        if !libraries.contains(&library) {
            c.file(&library.to_string_lossy()[1..], 0o755, &read(&library)?);
            libraries.push(library);
        }
    }
    Ok(())
}

/// The shared libraries of a program and its loader, under the names by which they are looked for.
fn linked(program: &Path) -> Result<Vec<PathBuf>> {
    let out = Command::new("ldd").arg(program).output().context("running ldd")?;
    let text = String::from_utf8_lossy(&out.stdout);
    if let Some(missing) = text.lines().find(|l| l.contains("not found")) {
        return Err(LabError::Failed(format!("{}: {}", program.display(), missing.trim())));
    }
    Ok(paths(&text))
}

/// The paths in what ldd prints: `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f..)`, `/lib64/ld-linux-x86-64.so.2 (0x7f..)`.
fn paths(ldd: &str) -> Vec<PathBuf> {
    let word = |l: &str| l.split_whitespace().find(|w| w.starts_with('/')).map(PathBuf::from);
    ldd.lines().filter_map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::paths;

    #[test]
    fn the_libraries_that_ldd_names_are_found() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<String> = paths(text).iter().map(|p| p.display().to_string()).collect();
        assert_eq!(found, ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert!(paths("\tnot a dynamic executable\n").is_empty());
    }
}
