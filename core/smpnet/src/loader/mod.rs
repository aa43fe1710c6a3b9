//! The plugin loader: files of native plugins in, tables of drivers, interface kinds and filters out.
//!
//! A file goes through these steps, and the first that fails refuses it with one [`LoadError`]; the program goes on:
//!
//! 1. the file is an ELF library for this machine, whole, and exports what a plugin exports;
//! 2. its manifest, read out of the bytes of the file, is in order and of an ABI version that this program has;
//! 3. neither this file nor a plugin of this name is loaded;
//! 4. only now is code run: `dlopen`, for good;
//! 5. abi_stable compares the layout of the root module of this very file;
//! 6. the plugin starts, and its tables are brought to this program's version ([`tables`](self)).
//!
//! Plugins are trusted code. These checks find mistakes, not attacks.

mod elf;
mod error;
mod library;
mod tables;

pub use error::LoadError;

use serde::Serialize;
use sha2::{Digest, Sha256};
use smpnet_abi::{DriverTable, FilterTable, HostServices, IfKindTable, Manifest, PluginMod_Ref, kind, privilege};
use smpnet_runtime::{Node, Sysctl};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tables::Table;

/// Largest file that is read.
const FILE_MAX: u64 = 1 << 30;

/// All plugins of this process. Shared by control threads.
pub struct PluginRegistry {
    host: &'static HostServices,
    plugins: Mutex<Vec<Plugin>>,
    counts: Arc<Counts>,
}

/// How often what happened.
#[derive(Default)]
struct Counts {
    refused: [AtomicU64; LoadError::CODES.len()],
    quarantined: AtomicU64,
    not_made: AtomicU64,
}

/// A file that was to be a plugin.
struct Plugin {
    status: PluginStatus,
    /// Device and inode of the file.
    identity: Option<(u64, u64)>,
    /// Where its manifest stands in memory, once it is there.
    address: Option<usize>,
    root: Option<PluginMod_Ref>,
    tables: Vec<Table>,
}

/// State of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PluginState {
    /// In use, or ready for it.
    Loaded,
    /// Not loaded; `error` says why.
    Refused,
    /// Loaded, but something that it made failed and was taken out of service; `error` says what.
    Quarantined,
}

/// What is known of a plugin.
#[derive(Clone, Debug, Serialize)]
pub struct PluginStatus {
    /// Its name; empty when the file did not say one.
    pub name: String,
    /// Its version.
    pub version: String,
    /// ABI version that it was built for.
    pub abi: String,
    /// What it provides: `driver`, `kind`, `filter`.
    pub kinds: Vec<&'static str>,
    /// Whether it is in use.
    pub state: PluginState,
    /// The file.
    pub file: PathBuf,
    /// SHA-256 of the file, in hexadecimal; empty when it could not be read.
    pub sha256: String,
    /// Why it was refused or quarantined.
    pub error: Option<String>,
    /// One line on what it is.
    pub summary: String,
    /// SPDX licence expression.
    pub license: String,
    /// What it needs in order to work: `net_admin`, `vfio`, ...
    pub privileges: Vec<&'static str>,
    /// Compiler and SDK that it was built with.
    pub built_with: String,
    /// The drivers, kinds and filters.
    pub provides: Vec<Provided>,
}

/// A driver, an interface kind or a filter that a plugin provides.
#[derive(Clone, Debug, Serialize)]
pub struct Provided {
    /// `driver`, `kind` or `filter`.
    pub what: &'static str,
    /// Its name.
    pub name: &'static str,
    /// One line on it.
    pub summary: &'static str,
}

impl PluginRegistry {
    /// A registry without plugins, whose plugins will get these services.
    pub fn new(host: &'static HostServices) -> Self {
        PluginRegistry { host, plugins: Mutex::default(), counts: Arc::default() }
    }

    /// The services that plugins get.
    pub fn host(&self) -> &'static HostServices {
        self.host
    }

    /// Registers `kern.plugin.loaded`, `.quarantined`, `.not_made` and `.refused.<reason>`.
    pub fn register_sysctl(self: &Arc<Self>, sysctl: &Sysctl) {
        let registry = Arc::downgrade(self);
        let loaded = move || registry.upgrade().map_or(0, |r| r.loaded() as u64);
        sysctl.add("kern.plugin.loaded", "plugins that are loaded", Node::read_only(loaded));
        let counts = self.counts.clone();
        let quarantined = move || counts.quarantined.load(Ordering::Relaxed);
        sysctl.add("kern.plugin.quarantined", "failures of what plugins made", Node::read_only(quarantined));
        let counts = self.counts.clone();
        let not_made = move || counts.not_made.load(Ordering::Relaxed);
        sysctl.add(
            "kern.plugin.not_made",
            "ports and interfaces that a plugin failed to make",
            Node::read_only(not_made),
        );
        for (i, code) in LoadError::CODES.iter().enumerate() {
            let counts = self.counts.clone();
            let path = format!("kern.plugin.refused.{code}");
            let refused = move || counts.refused[i].load(Ordering::Relaxed);
            sysctl.add(&path, "plugins refused for this reason", Node::read_only(refused));
        }
    }

    /// Loads every `libsmpnet_*.so` of a folder, in the order of their names. Returns what went wrong; a file that is
    /// loaded already from an earlier folder is passed over.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn load_dir(&self, dir: &Path) -> Result<Vec<LoadError>, LoadError> {
        let unreadable = |source| LoadError::Read { file: dir.into(), source };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            if name.to_str().is_some_and(|n| n.starts_with("libsmpnet_") && n.ends_with(".so")) {
                files.push(dir.join(name));
            }
        }
        files.sort();
        let errors = files.iter().filter(|f| !self.has_file(f)).filter_map(|f| self.load(f).err());
        Ok(errors.collect())
    }

    /// Loads one plugin. Whatever comes of it stands in [`PluginRegistry::list`].
    ///
    /// # Errors
    /// Why it was refused.
    pub fn load(&self, file: &Path) -> Result<PluginStatus, LoadError> {
        // Absolute, so that dlopen does not search other folders for it, and links resolved, so that a file has one name.
        let file = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        let mut plugins = self.lock();
        let mut plugin = Plugin {
            status: PluginStatus::of_file(&file),
            identity: None,
            address: None,
            root: None,
            tables: Vec::new(),
        };
        let result = self.load_into(&file, &plugins, &mut plugin);
        if let Err(e) = &result {
            self.counts.refused[e.index()].fetch_add(1, Ordering::Relaxed);
            plugin.status.state = PluginState::Refused;
            plugin.status.error = Some(e.to_string());
            // A file that is loaded stays on the list as what it is.
            if plugins.iter().any(|p| p.status.file == file && p.status.state != PluginState::Refused) {
                return result.map(|()| plugin.status);
            }
        }
        let status = plugin.status.clone();
        // The latest attempt stands for the file; an earlier one keeps its address, as the library is still there.
        if let Some(old) = plugins.iter_mut().find(|p| p.status.file == file) {
            plugin.address = plugin.address.or(old.address);
            *old = plugin;
        } else {
            plugins.push(plugin);
        }
        result.map(|()| status)
    }

    fn load_into(&self, file: &Path, plugins: &[Plugin], plugin: &mut Plugin) -> Result<(), LoadError> {
        let (bytes, identity) = read(file).map_err(|source| LoadError::Read { file: file.into(), source })?;
        plugin.status.sha256 = hex(&Sha256::digest(&bytes));
        plugin.identity = Some(identity);
        let manifest = elf::inspect(file, &bytes)?;
        plugin.status.fill(&manifest);
        let used = plugins.iter().filter(|p| p.status.state != PluginState::Refused);
        for other in used {
            let same = [
                ("this file", other.identity == plugin.identity),
                ("a file with the same content", other.status.sha256 == plugin.status.sha256),
                ("a plugin of this name", other.status.name == plugin.status.name),
            ];
            if let Some((what, _)) = same.iter().find(|(_, same)| *same) {
                let (what, other) = ((*what).to_owned(), other.status.file.clone());
                return Err(LoadError::AlreadyLoaded { file: file.into(), what, other });
            }
        }
        let loaded = library::load(file, &manifest, self.host, |address| {
            plugin.address = Some(address);
            plugins.iter().any(|p| p.address == Some(address))
        })?;
        for (i, table) in loaded.tables.iter().enumerate() {
            let same = |t: &&Table| t.what() == table.what() && t.name() == table.name();
            let mut others = plugins.iter().flat_map(|p| &p.tables).chain(&loaded.tables[..i]);
            if others.any(|t| same(&t)) {
                let table = format!("{} \"{}\"", table.what(), table.name());
                let reason =
                    "another plugin provides one of that name. Rename one of them, or load only one".to_owned();
                return Err(LoadError::Table { file: file.into(), table, reason });
            }
        }
        let provided = |t: &Table| Provided { what: t.what(), name: t.name(), summary: t.summary() };
        plugin.status.provides = loaded.tables.iter().map(provided).collect();
        plugin.status.built_with = loaded.root.describe()().built_with.as_str().to_owned();
        plugin.root = Some(loaded.root);
        plugin.tables = loaded.tables;
        Ok(())
    }

    /// All plugins: those that are loaded and those that were refused.
    pub fn list(&self) -> Vec<PluginStatus> {
        self.lock().iter().map(|p| p.status.clone()).collect()
    }

    /// The driver of that name.
    pub fn driver(&self, name: &str) -> Option<&'static DriverTable> {
        self.find(|t| if let Table::Driver(d) = t { Some(d) } else { None }, name)
    }

    /// The interface kind of that name.
    pub fn kind(&self, name: &str) -> Option<&'static IfKindTable> {
        self.find(|t| if let Table::Kind(k) = t { Some(k) } else { None }, name)
    }

    /// The native filter of that name.
    pub fn filter(&self, name: &str) -> Option<&'static FilterTable> {
        self.find(|t| if let Table::Filter(f) = t { Some(f) } else { None }, name)
    }

    /// Names of all drivers, kinds or filters (`what`: `driver`, `kind`, `filter`), for errors and completion.
    pub fn names(&self, what: &str) -> Vec<&'static str> {
        let plugins = self.lock();
        plugins.iter().flat_map(|p| &p.tables).filter(|t| t.what() == what).map(|t| t.name()).collect()
    }

    /// Notes that something which the driver or kind `name` made has failed and was taken out of service. The first
    /// failure of a plugin stays the one that the list shows.
    pub fn quarantine(&self, name: &str, reason: &str) {
        self.counts.quarantined.fetch_add(1, Ordering::Relaxed);
        if let Some(plugin) = self.lock().iter_mut().find(|p| p.makes(name)) {
            let status = &mut plugin.status;
            let error = format!("{}: \"{name}\": {reason}", status.file.display());
            tracing::error!(plugin = status.name, "{error}");
            if status.state == PluginState::Loaded {
                status.state = PluginState::Quarantined;
                status.error = Some(error);
            }
        }
    }

    /// Notes that the driver or kind `name` failed to make something (`open`, `create`). Returns the reason that the
    /// plugin gave, with the plugin's file.
    pub fn not_made(&self, name: &str, reason: &str) -> String {
        self.counts.not_made.fetch_add(1, Ordering::Relaxed);
        match self.lock().iter().find(|p| p.makes(name)) {
            Some(plugin) => format!("{reason} (\"{name}\" of {})", plugin.status.file.display()),
            None => reason.to_owned(),
        }
    }

    /// Calls every plugin's `stop`, once, after everything that they made was closed.
    pub fn stop(&self) {
        for plugin in self.lock().iter_mut() {
            if let Some(root) = plugin.root.take() {
                root.stop()();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Plugin>> {
        // A plugin is added as a whole or not at all, so a panic leaves nothing half-made behind.
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loaded(&self) -> usize {
        self.lock().iter().filter(|p| p.status.state != PluginState::Refused).count()
    }

    fn has_file(&self, file: &Path) -> bool {
        let identity = std::fs::metadata(file).ok().map(|m| (m.dev(), m.ino()));
        let plugins = self.lock();
        plugins.iter().any(|p| p.status.state != PluginState::Refused && identity.is_some() && p.identity == identity)
    }

    fn find<T>(&self, pick: impl Fn(Table) -> Option<&'static T>, name: &str) -> Option<&'static T> {
        let plugins = self.lock();
        let mut named = plugins.iter().flat_map(|p| &p.tables).filter(|t| t.name() == name);
        named.find_map(|t| pick(*t))
    }
}

impl Plugin {
    fn makes(&self, name: &str) -> bool {
        self.tables.iter().any(|t| t.name() == name)
    }
}

impl PluginStatus {
    fn of_file(file: &Path) -> Self {
        PluginStatus {
            name: String::new(),
            version: String::new(),
            abi: String::new(),
            kinds: Vec::new(),
            state: PluginState::Loaded,
            file: file.to_owned(),
            sha256: String::new(),
            error: None,
            summary: String::new(),
            license: String::new(),
            privileges: Vec::new(),
            built_with: String::new(),
            provides: Vec::new(),
        }
    }

    fn fill(&mut self, m: &Manifest) {
        let text = |bytes: &[u8]| elf::text(bytes).unwrap_or_default();
        self.name = text(&m.name);
        self.version = text(&m.version);
        self.abi = format!("{}.{}", m.abi_major, m.abi_minor);
        self.summary = text(&m.summary);
        self.license = text(&m.license);
        self.kinds = bits(m.kinds, &[(kind::DRIVER, "driver"), (kind::IFKIND, "kind"), (kind::FILTER, "filter")]);
        self.privileges = bits(
            m.privileges,
            &[
                (privilege::NET_ADMIN, "net_admin"),
                (privilege::NET_RAW, "net_raw"),
                (privilege::VFIO, "vfio"),
                (privilege::TUN, "tun"),
                (privilege::BPF, "bpf"),
            ],
        );
    }
}

/// What is known of a plugin's file before any of its code is loaded: the checks, and the manifest. Loads nothing.
///
/// # Errors
/// Why it would be refused.
pub fn inspect(file: &Path, bytes: &[u8]) -> Result<PluginStatus, LoadError> {
    let mut status = PluginStatus::of_file(file);
    status.fill(&elf::inspect(file, bytes)?);
    Ok(status)
}

fn bits(mask: u32, names: &[(u32, &'static str)]) -> Vec<&'static str> {
    names.iter().filter(|(bit, _)| mask & bit != 0).map(|(_, name)| *name).collect()
}

/// The bytes of a regular file, and its device and inode.
fn read(file: &Path) -> io::Result<(Vec<u8>, (u64, u64))> {
    let meta = std::fs::metadata(file)?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if meta.len() > FILE_MAX {
        return Err(io::Error::other(format!("{} bytes are more than a plugin has", meta.len())));
    }
    Ok((std::fs::read(file)?, (meta.dev(), meta.ino())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
