//! `[npf]`: the packet filter's own configuration, which is a file in a language of its own, with all files that it names.

use super::source::At;
use serde::{Deserialize, Serialize};
use smpnet_npf::{
    config::Config,
    language::{Diagnostics, Files, parse},
    router::Settings,
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

/// Most connections that can be asked for: 80 GB of memory.
pub const CONNECTIONS_MAX: i64 = 1 << 28;

/// `[npf]`.
#[derive(Clone, Debug, Serialize)]
pub struct NpfSection {
    /// Where the section begins.
    #[serde(skip)]
    pub at: At,
    /// What it says.
    #[serde(flatten)]
    pub source: NpfSource,
    /// Packets are judged (`npfctl start`), and not only the configuration loaded (`npfctl stop`).
    pub active: bool,
    /// Connections at the same time, on all workers; read when npf is first used.
    pub connections: usize,
    /// Filters with lower priorities are asked before.
    pub priority: i32,
}

impl PartialEq for NpfSection {
    fn eq(&self, other: &NpfSection) -> bool {
        self.source == other.source && self.active == other.active && self.settings() == other.settings()
    }
}

impl NpfSection {
    /// What a command loads where no file says anything of npf.
    pub fn new(source: NpfSource) -> NpfSection {
        let Settings { connections, priority, .. } = Settings::default();
        NpfSection { at: At::default(), source, active: true, connections, priority }
    }

    /// What is settled when npf is first used.
    pub fn settings(&self) -> Settings {
        Settings { connections: self.connections, priority: self.priority, ..Settings::default() }
    }
}

/// A configuration of npf, as text. Two are equal when their texts are.
#[derive(Clone, Debug, Serialize)]
pub struct NpfSource {
    /// The file's name, for messages.
    pub file: String,
    /// Its text.
    #[serde(skip)]
    pub text: String,
    /// The files that it names, included ones and those of tables.
    #[serde(skip)]
    pub files: BTreeMap<String, String>,
    /// What all of that means.
    #[serde(skip)]
    pub config: Arc<Config>,
}

impl PartialEq for NpfSource {
    fn eq(&self, other: &NpfSource) -> bool {
        self.text == other.text && self.files == other.files
    }
}

/// A configuration as it travels to the daemon, which reads no file on a client's behalf.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NpfBundle {
    /// The file's name, for messages.
    pub file: String,
    /// Its text.
    pub text: String,
    /// The texts of the files that it names, by their paths as seen from where it lies.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
}

/// Reads files and remembers what was in them.
struct Recorder<'r> {
    read: &'r dyn Fn(&str) -> Result<String, String>,
    seen: RefCell<BTreeMap<String, String>>,
}

impl Files for Recorder<'_> {
    fn read(&self, path: &str) -> Result<String, String> {
        let text = (self.read)(path)?;
        self.seen.borrow_mut().insert(path.to_owned(), text.clone());
        Ok(text)
    }
}

impl NpfSource {
    /// Reads a configuration; `read` reads the files that it names. Also returns the warnings.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(
        file: &str,
        text: String,
        read: &dyn Fn(&str) -> Result<String, String>,
    ) -> Result<(NpfSource, Diagnostics), Diagnostics> {
        let recorder = Recorder { read, seen: RefCell::default() };
        let parsed = parse(file, &text, &recorder)?;
        let (file, files, config) = (file.to_owned(), recorder.seen.into_inner(), Arc::new(parsed.config));
        Ok((NpfSource { file, text, files, config }, parsed.warnings))
    }

    /// Reads what came in a request.
    ///
    /// # Errors
    /// As [`NpfSource::read`].
    pub fn unpack(bundle: NpfBundle) -> Result<(NpfSource, Diagnostics), Diagnostics> {
        let NpfBundle { file, text, files } = bundle;
        let files: HashMap<String, String> = files.into_iter().collect();
        let read = |path: &str| files.get(path).cloned().ok_or_else(|| "it is not in the request".to_owned());
        NpfSource::read(&file, text, &read)
    }

    /// The same for a request.
    pub fn pack(&self) -> NpfBundle {
        NpfBundle { file: self.file.clone(), text: self.text.clone(), files: self.files.clone() }
    }
}

/// What is wrong with a configuration, a line each: `FILE:LINE:COLUMN: MESSAGE`, and its advice.
pub fn told(found: &Diagnostics) -> Vec<(String, Option<String>)> {
    found.iter().map(|d| (format!("{}:{}:{}: {}", d.file, d.line, d.column, d.message), d.hint.clone())).collect()
}

/// A path as it is seen from the folder of a file.
pub fn beside(base: &Path, path: &str) -> String {
    base.join(path).display().to_string()
}
