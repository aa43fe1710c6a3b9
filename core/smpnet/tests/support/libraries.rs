//! Plugins that were built beside the tests, and damaged copies of them.

#![allow(dead_code)] // not every test uses every part

use std::path::{Path, PathBuf};

/// The library of a plugin, built in the same profile as this test.
#[track_caller]
pub fn built(name: &str) -> PathBuf {
    // <target>/<profile>/deps/<test>-<hash>
    let exe = std::env::current_exe().unwrap();
    let file = exe.parent().unwrap().parent().unwrap().join(format!("lib{name}.so"));
    assert!(
        file.exists(),
        "{} is missing: build it first with `cargo build --release --workspace` (as `cargo xtask test` does)",
        file.display()
    );
    file
}

/// A copy of a library in another folder.
pub fn copy_to(dir: &Path, name: &str) -> PathBuf {
    let file = dir.join(format!("lib{name}.so"));
    std::fs::copy(built(name), &file).unwrap();
    file
}

/// A copy of a library with changed bytes, under a name that no other has.
pub fn patched(dir: &Path, name: &str, change: impl FnOnce(&mut [u8])) -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut bytes = std::fs::read(built(name)).unwrap();
    change(&mut bytes);
    let file = dir.join(format!("lib{name}_{}.so", NEXT.fetch_add(1, Ordering::Relaxed)));
    std::fs::write(&file, bytes).unwrap();
    file
}

/// Where `what` stands, which must be exactly once.
pub fn find(bytes: &[u8], what: &[u8]) -> usize {
    let mut all = bytes.windows(what.len()).enumerate().filter(|(_, w)| *w == what).map(|(i, _)| i);
    let first = all.next().expect("the plugin has it");
    assert_eq!(all.next(), None, "it stands there once");
    first
}

/// Replaces `what` by something as long, wherever it stands, and returns how often.
pub fn replace(bytes: &mut [u8], what: &[u8], by: &[u8]) -> usize {
    assert_eq!(what.len(), by.len());
    let at: Vec<usize> = bytes.windows(what.len()).enumerate().filter(|(_, w)| *w == what).map(|(i, _)| i).collect();
    for i in &at {
        bytes[*i..i + what.len()].copy_from_slice(by);
    }
    at.len()
}
