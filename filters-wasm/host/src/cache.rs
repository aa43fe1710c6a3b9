//! Compiled code of modules, kept on disk.
//!
//! Machine code is trusted like the program itself, so what is read back must be what this router wrote: the directory
//! and its files belong to the user that the router runs as and to nobody else, links are not followed, and every file carries
//! an HMAC-SHA256 under a key that lies beside it. A file is found by a hash of the module, of wasmtime's version and of the
//! engine's configuration. One that is damaged, cut short or from elsewhere is ignored, logged, and written anew.

use sha2::{Digest, Sha256};
use std::ffi::CString;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;
use wasmtime::{Engine, Module};

/// Bytes of all files together; the oldest go first.
pub const CACHE_BYTES: u64 = 256 << 20;
/// Longest file that is read.
const FILE_MAX: u64 = 128 << 20;
const MAGIC: &[u8; 16] = b"smpnet code v1\n\0";
const MAC: usize = 32;
const KEY: &str = "key";
const CODE: &str = ".code";

/// A directory of compiled code. For control threads.
#[derive(Debug)]
pub struct CodeCache {
    path: PathBuf,
    dir: OwnedFd,
    key: [u8; 32],
    bytes: u64,
    stats: [AtomicU64; 3],
}

/// What a cache did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CacheStats {
    /// Modules whose code was there.
    pub hits: u64,
    /// Modules whose code was not.
    pub misses: u64,
    /// Files that were ignored because something was wrong with them.
    pub refused: u64,
}

/// What is in a cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CacheReport {
    /// Files of code that are in order.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files of code that are not taken, and why, a line for each; sorted.
    pub refused: Vec<String>,
    /// Why nothing can be written into the directory; none when something can.
    pub read_only: Option<String>,
}

impl CodeCache {
    /// Opens a cache, and makes the directory (mode 0700; its parent must be there) and the key when they are missing.
    ///
    /// # Errors
    /// The directory cannot be made or read, is a link, belongs to somebody else, or others may look into it; the text says
    /// which.
    pub fn open(path: &Path) -> Result<CodeCache> {
        Self::with_limit(path, CACHE_BYTES)
    }

    /// [`open`](Self::open) with another limit than [`CACHE_BYTES`].
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_limit(path: &Path, bytes: u64) -> Result<CodeCache> {
        let name = c_name(path)?;
        // SAFETY: the name is NUL-terminated.
        if unsafe { libc::mkdir(name.as_ptr(), 0o700) } != 0 {
            let e = Error::last_os_error();
            if e.kind() != ErrorKind::AlreadyExists {
                return Err(explain(path, &e.to_string()));
            }
        }
        let mut cache = Self::of_directory(path, bytes)?;
        cache.key = cache.read_key().map_err(|e| explain(&path.join(KEY), &e.to_string()))?;
        Ok(cache)
    }

    /// A directory that is there, still without the key.
    fn of_directory(path: &Path, bytes: u64) -> Result<CodeCache> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        // SAFETY: the name is NUL-terminated.
        let fd = unsafe { libc::open(c_name(path)?.as_ptr(), flags) };
        if fd < 0 {
            return Err(explain(path, &Error::last_os_error().to_string()));
        }
        // SAFETY: just opened, and nobody else has it.
        let dir = unsafe { OwnedFd::from_raw_fd(fd) };
        own(&File::from(dir.try_clone()?)).map_err(|e| explain(path, &e.to_string()))?;
        Ok(CodeCache { path: path.to_owned(), dir, key: [0; 32], bytes, stats: Default::default() })
    }

    /// Looks through a cache and changes nothing. Reads every file of code, to check its HMAC.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when the directory is not there.
    pub fn examine(path: &Path) -> Result<CacheReport> {
        let mut cache = Self::of_directory(path, CACHE_BYTES)?;
        let key = cache.find_key().map_err(|e| explain(&path.join(KEY), &e.to_string()))?;
        cache.key = key.unwrap_or_default();
        let mut report = CacheReport { read_only: cache.read_only(), ..CacheReport::default() };
        for (_, len, name) in cache.files()? {
            let good = match (key, identity_of(&name)) {
                (Some(_), Some(id)) => cache.read(&name, &id).map(drop),
                (None, _) => Err(Error::other("there is no key beside it")),
                (_, None) => Err(Error::other("its name is none of a file of code")),
            };
            match good {
                Ok(()) => (report.files, report.bytes) = (report.files + 1, report.bytes + len),
                Err(e) => report.refused.push(format!("{name}: {e}")),
            }
        }
        report.refused.sort();
        Ok(report)
    }

    /// Why nothing can be written into the directory; none when something can.
    fn read_only(&self) -> Option<String> {
        let flags = libc::W_OK | libc::X_OK;
        // SAFETY: the name is NUL-terminated.
        match unsafe { libc::faccessat(self.dir.as_raw_fd(), c".".as_ptr(), flags, libc::AT_EACCESS) } {
            0 => None,
            _ => Some(Error::last_os_error().to_string()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it did.
    pub fn stats(&self) -> CacheStats {
        let [hits, misses, refused] = [0, 1, 2].map(|i| self.stats[i].load(Relaxed));
        CacheStats { hits, misses, refused }
    }

    /// The code of the module with this SHA-256, compiled for this engine.
    pub(crate) fn load(&self, engine: &Engine, module: &[u8; 32]) -> Option<Module> {
        let id = identity(engine, module);
        let name = file_name(&id);
        let code = match self.read(&name, &id) {
            Ok(code) => code,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.stats[1].fetch_add(1, Relaxed);
                return None;
            }
            Err(e) => return self.refuse(&name, &e.to_string()),
        };
        // SAFETY: the HMAC proves that this router's user serialized the code with a key that nobody else can read, from an
        // engine of this version and configuration, which are parts of the identity under the HMAC.
        match unsafe { Module::deserialize(engine, &code) } {
            Ok(m) => {
                self.stats[0].fetch_add(1, Relaxed);
                Some(m)
            }
            Err(e) => self.refuse(&name, &format!("{e:#}")),
        }
    }

    /// Keeps the code of a module. What goes wrong is logged: the code is in memory all the same.
    pub(crate) fn store(&self, engine: &Engine, module: &[u8; 32], code: &Module) {
        let id = identity(engine, module);
        let stored = code.serialize().map_err(|e| Error::other(format!("{e:#}"))).and_then(|code| {
            let mac = self.mac(&id, &code);
            self.write(&file_name(&id), &[MAGIC, &mac, &code])
        });
        if let Err(e) = stored.and_then(|()| self.prune()) {
            tracing::warn!(cache = %self.path.display(), %e, "cannot keep compiled code");
        }
    }

    fn refuse(&self, name: &str, reason: &str) -> Option<Module> {
        self.stats[2].fetch_add(1, Relaxed);
        tracing::warn!(file = %self.path.join(name).display(), reason, "compiled code is not taken: it is made anew");
        self.unlink(name);
        None
    }

    /// The content of a file, when its HMAC is right.
    fn read(&self, name: &str, id: &[u8; 32]) -> Result<Vec<u8>> {
        let file = self.open_at(name, libc::O_RDONLY, 0)?;
        own(&file)?;
        let bad = |text: &str| Error::new(ErrorKind::InvalidData, text);
        let meta = file.metadata()?;
        if !meta.is_file() || meta.len() > FILE_MAX {
            return Err(bad("it is no file of code"));
        }
        let mut all = Vec::with_capacity(meta.len() as usize);
        file.take(FILE_MAX).read_to_end(&mut all)?;
        let head = MAGIC.len() + MAC;
        if all.len() < head || &all[..MAGIC.len()] != MAGIC {
            return Err(bad("it does not begin like a file of code"));
        }
        let code = all.split_off(head);
        if !same(&self.mac(id, &code), &all[MAGIC.len()..]) {
            return Err(bad("its HMAC is wrong: damaged, or from elsewhere"));
        }
        Ok(code)
    }

    /// Writes a file in one step: a reader finds the old one, or the new one whole.
    fn write(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        let mut random = [0; 8];
        fill_random(&mut random)?;
        let temporary = format!("tmp-{:016x}", u64::from_ne_bytes(random));
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        let mut file = self.open_at(&temporary, flags, 0o600)?;
        let written = parts.iter().try_for_each(|p| file.write_all(p)).and_then(|()| file.sync_data());
        let (from, to) = (CString::new(temporary.as_str())?, CString::new(name)?);
        let dir = self.dir.as_raw_fd();
        // SAFETY: both names are NUL-terminated.
        let renamed = written.and_then(|()| match unsafe { libc::renameat(dir, from.as_ptr(), dir, to.as_ptr()) } {
            0 => Ok(()),
            _ => Err(Error::last_os_error()),
        });
        if renamed.is_err() {
            self.unlink(&temporary);
        }
        renamed
    }

    fn unlink(&self, name: &str) {
        if let Ok(name) = CString::new(name) {
            // SAFETY: the name is NUL-terminated.
            unsafe { libc::unlinkat(self.dir.as_raw_fd(), name.as_ptr(), 0) };
        }
    }

    fn open_at(&self, name: &str, flags: i32, mode: libc::mode_t) -> Result<File> {
        let name = CString::new(name)?;
        let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: the name is NUL-terminated.
        let fd = unsafe { libc::openat(self.dir.as_raw_fd(), name.as_ptr(), flags, libc::c_uint::from(mode)) };
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: just opened, and nobody else has it.
        Ok(unsafe { File::from_raw_fd(fd) })
    }

    /// The key, when there is a whole one.
    fn find_key(&self) -> Result<Option<[u8; 32]>> {
        let mut file = match self.open_at(KEY, libc::O_RDONLY, 0) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        own(&file)?;
        let meta = file.metadata()?;
        if !meta.is_file() || meta.len() != 32 {
            return Ok(None);
        }
        let mut key = [0; 32];
        file.read_exact(&mut key)?;
        Ok(Some(key))
    }

    /// The key; a new one when there is none, or half of one. All code of another key is foreign then.
    fn read_key(&self) -> Result<[u8; 32]> {
        if let Some(key) = self.find_key()? {
            return Ok(key);
        }
        let mut key = [0; 32];
        fill_random(&mut key)?;
        self.write(KEY, &[&key])?;
        Ok(key)
    }

    fn mac(&self, id: &[u8; 32], code: &[u8]) -> [u8; MAC] {
        hmac(&self.key, &[MAGIC, id, code])
    }

    /// Everything in the directory: when it was written, its length, its name.
    fn entries(&self) -> Result<Vec<(SystemTime, u64, String)>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(format!("/proc/self/fd/{}", self.dir.as_raw_fd()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(meta) = entry.metadata() else { continue };
            all.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), name));
        }
        Ok(all)
    }

    /// The files of code.
    fn files(&self) -> Result<Vec<(SystemTime, u64, String)>> {
        Ok(self.entries()?.into_iter().filter(|(.., name)| name.ends_with(CODE)).collect())
    }

    /// Deletes the oldest files until all together are below the limit, and what an interrupted write left.
    fn prune(&self) -> Result<()> {
        for (modified, _, name) in self.entries()? {
            if name.starts_with("tmp-") && modified.elapsed().is_ok_and(|t| t.as_secs() > 3600) {
                self.unlink(&name);
            }
        }
        let mut files = self.files()?;
        files.sort();
        let mut total: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (_, len, name) in files {
            if total <= self.bytes {
                break;
            }
            self.unlink(&name);
            total -= len;
        }
        Ok(())
    }
}

/// That a file is the caller's own, and nobody else's.
fn own(file: &File) -> Result<()> {
    let meta = file.metadata()?;
    // SAFETY: a system call without arguments.
    let me = unsafe { libc::geteuid() };
    let denied = |text: String| Err(Error::new(ErrorKind::PermissionDenied, text));
    if meta.uid() != me {
        return denied(format!("it belongs to user {}, not to {me}", meta.uid()));
    }
    if meta.mode() & 0o077 != 0 {
        return denied(format!("others may use it (mode {:03o}): chmod go= it", meta.mode() & 0o777));
    }
    Ok(())
}

fn explain(path: &Path, reason: &str) -> Error {
    Error::other(format!("cache of compiled code {}: {reason}", path.display()))
}

fn fill_random(bytes: &mut [u8]) -> Result<()> {
    // SAFETY: the buffer is writable and has that length.
    let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if n == bytes.len() as isize { Ok(()) } else { Err(Error::last_os_error()) }
}

/// What compiled code is the code of: module, version and configuration of the engine.
fn identity(engine: &Engine, module: &[u8; 32]) -> [u8; 32] {
    struct Feed(Sha256);
    impl Hasher for Feed {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update((bytes.len() as u64).to_le_bytes());
            self.0.update(bytes);
        }

        fn finish(&self) -> u64 {
            0
        }
    }
    let mut feed = Feed(Sha256::new());
    feed.write(module);
    // Holds wasmtime's version, the target and everything in the configuration that the code depends on.
    engine.precompile_compatibility_hash().hash(&mut feed);
    feed.write(env!("CARGO_PKG_VERSION").as_bytes());
    feed.0.finalize().into()
}

/// HMAC-SHA256 (RFC 2104) with a key of 32 bytes.
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; MAC] {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(b, k)| *b ^= k);
        Sha256::new().chain_update(block)
    };
    let inner = parts.iter().fold(pad(0x36), |hash, part| hash.chain_update(part));
    pad(0x5c).chain_update(inner.finalize()).finalize().into()
}

/// Compares without telling by the time it takes where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && std::hint::black_box(a.iter().zip(b).fold(0, |d, (a, b)| d | (a ^ b))) == 0
}

fn file_name(id: &[u8; 32]) -> String {
    let hex: String = id.iter().map(|b| format!("{b:02x}")).collect();
    format!("{hex}{CODE}")
}

/// The identity that a file is named for.
fn identity_of(name: &str) -> Option<[u8; 32]> {
    let hex = name.strip_suffix(CODE).filter(|hex| hex.len() == 64 && hex.is_ascii())?;
    let mut id = [0; 32];
    for (byte, at) in id.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
    }
    Some(id)
}

fn c_name(path: &Path) -> Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn engine(size: usize) -> Engine {
        Engine::new(wasmtime::Config::new().max_wasm_stack(size)).unwrap()
    }

    fn module(engine: &Engine) -> ([u8; 32], Module) {
        let wasm = wat::parse_str("(module (func (export \"f\") (result i32) (i32.const 7)))").unwrap();
        (Sha256::digest(&wasm).into(), Module::new(engine, &wasm).unwrap())
    }

    fn code_file(dir: &Path) -> PathBuf {
        let mut all = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
        all.find(|p| p.extension().is_some_and(|e| e == "code")).unwrap()
    }

    fn write(path: &Path, bytes: &[u8]) {
        let _ = std::fs::remove_file(path);
        let mut f = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
        f.write_all(bytes).unwrap();
    }

    #[test]
    fn the_hmac_is_that_of_rfc_4231() {
        // Test case 2, whose key "Jefe" is padded with zeros like any short key.
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let mac = hmac(&key, &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(mac[..8], [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e]);
        assert_eq!(mac[28..], [0x64, 0xec, 0x38, 0x43]);
        assert!(same(&mac, &mac) && !same(&mac, &mac[1..]) && !same(&[1], &[2]));
    }

    #[test]
    fn compiled_code_is_found_again_by_module_and_engine() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("wasm");
        let e = engine(1 << 19);
        let (digest, m) = module(&e);
        let cache = CodeCache::open(&dir).unwrap();
        assert!(cache.load(&e, &digest).is_none());
        cache.store(&e, &digest, &m);
        // Also by the next process.
        let again = CodeCache::open(&dir).unwrap();
        assert!(again.load(&e, &digest).is_some());
        assert!(again.load(&e, &[0; 32]).is_none());
        assert_eq!(again.stats(), CacheStats { hits: 1, misses: 1, refused: 0 });
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join(KEY)), mode(&code_file(&dir))), (0o700, 0o600, 0o600));
        let other = Engine::new(wasmtime::Config::new().epoch_interruption(true)).unwrap();
        assert!(again.load(&other, &digest).is_none());
    }

    #[test]
    fn damaged_cut_foreign_and_crafted_files_are_ignored_and_made_anew() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("wasm");
        let e = engine(1 << 19);
        let (digest, m) = module(&e);
        let cache = CodeCache::open(&dir).unwrap();
        cache.store(&e, &digest, &m);
        let file = code_file(&dir);
        let good = std::fs::read(&file).unwrap();
        let mut damaged = good.clone();
        damaged[good.len() / 2] ^= 1;
        let mut mac = good.clone();
        mac[20] ^= 1;
        let foreign = {
            let other = CodeCache::open(&tmp.path().join("other")).unwrap();
            other.store(&e, &digest, &m);
            std::fs::read(code_file(&tmp.path().join("other"))).unwrap()
        };
        let crafted = m.serialize().unwrap();
        for (n, bytes) in
            [&damaged, &mac, &foreign, &crafted, &good[..good.len() - 1].to_vec(), &Vec::new()].iter().enumerate()
        {
            write(&file, bytes);
            assert!(cache.load(&e, &digest).is_none(), "case {n}");
            assert_eq!(cache.stats().refused, n as u64 + 1);
            assert!(!file.exists(), "what is not taken is removed");
        }
        cache.store(&e, &digest, &m);
        assert!(cache.load(&e, &digest).is_some());
        // A file of right content under another module's name.
        std::fs::rename(&file, dir.join(file_name(&identity(&e, &[9; 32])))).unwrap();
        assert!(cache.load(&e, &[9; 32]).is_none());
    }

    #[test]
    fn a_cache_is_looked_through_without_a_change() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("wasm");
        assert!(CodeCache::examine(&dir).is_err() && !dir.exists(), "nothing is made");
        let e = engine(1 << 19);
        let (digest, m) = module(&e);
        let cache = CodeCache::open(&dir).unwrap();
        cache.store(&e, &digest, &m);
        let good = CodeCache::examine(&dir).unwrap();
        assert_eq!((good.files, good.refused.len(), good.read_only), (1, 0, None));
        let file = code_file(&dir);
        let mut bytes = std::fs::read(&file).unwrap();
        assert_eq!(good.bytes, bytes.len() as u64);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        write(&file, &bytes);
        write(&dir.join(file_name(&[0xab; 32])), b"short");
        write(&dir.join("odd.code"), b"");
        let bad = CodeCache::examine(&dir).unwrap();
        assert_eq!((bad.files, bad.refused.len()), (0, 3), "{bad:?}");
        for words in ["HMAC is wrong", "does not begin like a file of code", "odd.code: its name is none"] {
            assert!(bad.refused.iter().any(|r| r.contains(words)), "{words}: {bad:?}");
        }
        assert!(file.exists(), "what is wrong is left to the router");
        write(&dir.join(KEY), b"half");
        assert!(CodeCache::examine(&dir).unwrap().refused.iter().all(|r| r.ends_with("no key beside it")));
        assert_eq!(std::fs::read(dir.join(KEY)).unwrap(), b"half");
    }

    #[test]
    fn links_and_files_that_others_may_use_are_not_trusted() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("wasm");
        let e = engine(1 << 19);
        let (digest, m) = module(&e);
        let cache = CodeCache::open(&dir).unwrap();
        cache.store(&e, &digest, &m);
        let file = code_file(&dir);
        let elsewhere = tmp.path().join("elsewhere");
        std::fs::rename(&file, &elsewhere).unwrap();
        symlink(&elsewhere, &file).unwrap();
        assert!(cache.load(&e, &digest).is_none());
        cache.store(&e, &digest, &m);
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(cache.load(&e, &digest).is_none());

        let link = tmp.path().join("link");
        symlink(&dir, &link).unwrap();
        assert!(CodeCache::open(&link).is_err());
        std::fs::set_permissions(dir.join(KEY), PermissionsExt::from_mode(0o640)).unwrap();
        let e = CodeCache::open(&dir).unwrap_err().to_string();
        assert!(e.contains("others may use it (mode 640)"), "{e}");
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).unwrap();
        let e = CodeCache::open(&dir).unwrap_err().to_string();
        assert!(e.contains("mode 755") && !e.contains('\n'), "{e}");
    }

    #[test]
    fn the_oldest_files_go_when_there_are_too_many_bytes() {
        let tmp = tempfile::tempdir().unwrap();
        let e = engine(1 << 19);
        let (_, m) = module(&e);
        let one = m.serialize().unwrap().len() as u64;
        let cache = CodeCache::with_limit(&tmp.path().join("wasm"), 3 * one + one / 2).unwrap();
        for n in 0..6u8 {
            cache.store(&e, &[n; 32], &m);
            std::thread::sleep(std::time::Duration::from_millis(15));
        }
        let there: Vec<bool> = (0..6u8).map(|n| cache.load(&e, &[n; 32]).is_some()).collect();
        assert_eq!(there, [false, false, false, true, true, true]);
    }
}
