//! Why a plugin was refused.

use std::io;
use std::path::PathBuf;

/// Why a plugin was refused. The text names the file, what is wrong with it, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file or folder cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Read {
        /// The file or folder.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{}: not a shared library: {found}. A plugin is an ELF library such as libsmpnet_null.so", file.display())]
    NotALibrary {
        /// The file.
        file: PathBuf,
        /// What it looks like.
        found: String,
    },
    /// The file ends too early.
    #[error("{}: truncated or damaged: {detail}. Copy the file again", file.display())]
    Truncated {
        /// The file.
        file: PathBuf,
        /// What is missing.
        detail: String,
    },
    /// The library is for another processor.
    #[error("{}: built for {found}, but this smpnet runs on {wanted}. Build the plugin for this target", file.display())]
    Architecture {
        /// The file.
        file: PathBuf,
        /// What it was built for.
        found: String,
        /// What was expected.
        wanted: &'static str,
    },
    /// A symbol that every plugin exports is not there.
    #[error("{}: missing symbol `{symbol}`: not an smpnet plugin. Export it with smpnet_plugin::plugin!", file.display())]
    MissingSymbol {
        /// The file.
        file: PathBuf,
        /// The symbol.
        symbol: String,
    },
    /// The manifest makes no sense.
    #[error("{}: bad manifest: {detail}. Build the plugin again with the SDK", file.display())]
    BadManifest {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Built against an older major version of the ABI.
    #[error(
        "{}: built for the older plugin ABI {plugin}, but this smpnet has {host}. Build the plugin again with the \
         smpnet-plugin of this version", file.display()
    )]
    OlderAbi {
        /// The file.
        file: PathBuf,
        /// Version of the plugin.
        plugin: String,
        /// Version of this program.
        host: String,
    },
    /// Built against a newer version of the ABI.
    #[error(
        "{}: built for the newer plugin ABI {plugin}, but this smpnet has {host}. Update smpnet, or build the plugin \
         with an older smpnet-plugin", file.display()
    )]
    NewerAbi {
        /// The file.
        file: PathBuf,
        /// Version of the plugin.
        plugin: String,
        /// Version of this program.
        host: String,
    },
    /// The plugin, or another file with its name or content, is loaded.
    #[error(
        "{}: {what} is loaded already, from {}. A library is never unloaded: restart smpnet to use another",
        file.display(), other.display()
    )]
    AlreadyLoaded {
        /// The file.
        file: PathBuf,
        /// What is the same: the plugin's name, the file or its content.
        what: String,
        /// The file that it is loaded from.
        other: PathBuf,
    },
    /// The system's loader gave back an older library that it has under this name.
    #[error(
        "{}: an earlier library of this name is still in memory. Give the new file another name, or restart smpnet",
        file.display()
    )]
    Stale {
        /// The file.
        file: PathBuf,
    },
    /// The system's loader refused the library.
    #[error("{}: the system cannot load it: {reason}", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// What it said.
        reason: String,
    },
    /// The root module has another layout, or is of another abi_stable.
    #[error(
        "{}: layout mismatch: its root module is not that of plugin ABI {host} ({reason}). Build the plugin again \
         with an unchanged smpnet-plugin", file.display()
    )]
    Layout {
        /// The file.
        file: PathBuf,
        /// Version of this program.
        host: String,
        /// What differs.
        reason: String,
    },
    /// The plugin's start function failed.
    #[error("{}: does not start: {reason}", file.display())]
    Start {
        /// The file.
        file: PathBuf,
        /// What it said.
        reason: String,
    },
    /// A table of the plugin makes no sense, or its name is taken.
    #[error("{}: {table}: {reason}", file.display())]
    Table {
        /// The file.
        file: PathBuf,
        /// Which table.
        table: String,
        /// What is wrong.
        reason: String,
    },
}

impl LoadError {
    /// The names of all reasons, as counters have them.
    pub const CODES: [&'static str; 13] = [
        "read",
        "not_a_library",
        "truncated",
        "architecture",
        "missing_symbol",
        "bad_manifest",
        "older_abi",
        "newer_abi",
        "already_loaded",
        "open",
        "layout",
        "start",
        "table",
    ];

    /// The reason, as an index into [`LoadError::CODES`].
    pub(super) fn index(&self) -> usize {
        match self {
            LoadError::Read { .. } => 0,
            LoadError::NotALibrary { .. } => 1,
            LoadError::Truncated { .. } => 2,
            LoadError::Architecture { .. } => 3,
            LoadError::MissingSymbol { .. } => 4,
            LoadError::BadManifest { .. } => 5,
            LoadError::OlderAbi { .. } => 6,
            LoadError::NewerAbi { .. } => 7,
            LoadError::AlreadyLoaded { .. } | LoadError::Stale { .. } => 8,
            LoadError::Open { .. } => 9,
            LoadError::Layout { .. } => 10,
            LoadError::Start { .. } => 11,
            LoadError::Table { .. } => 12,
        }
    }

    /// The name of the reason's counter: `not_a_library`.
    pub fn code(&self) -> &'static str {
        LoadError::CODES[self.index()]
    }
}
