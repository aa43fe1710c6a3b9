//! Which plugins there are: the folders that are searched, and what was found in them.

use crate::{
    config::{Located, did_you_mean},
    host,
    loader::{PluginRegistry, PluginState},
};
use serde_json::Value;
use smpnet_abi::{DriverTable, FilterTable, HostServices, IfKindTable};
use smpnet_runtime::{HugePages, PoolConfig, Runtime, RuntimeConfig};
use smpnet_stack::Stack;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tracing::{debug, error, info};

/// Where a system package puts plugins.
const SYSTEM_DIR: &str = "/usr/lib/smpnet/plugins";

/// The plugins of this process; clones are of the same.
#[derive(Clone)]
pub struct Plugins {
    registry: Arc<PluginRegistry>,
}

impl Plugins {
    /// Loads the plugins of the default folders and of `dirs`. What is refused is logged and stays on the list.
    pub fn start(runtime: &Arc<Runtime>, stack: &Arc<Stack>, dirs: &[PathBuf]) -> Plugins {
        let registry = Arc::new(PluginRegistry::new(host::install(runtime.clone(), stack.clone())));
        registry.register_sysctl(runtime.sysctl());
        for dir in folders(dirs) {
            match registry.load_dir(&dir) {
                Ok(refused) => refused.iter().for_each(|e| error!("plugin refused: {e}")),
                // The default folders need not be there; those of the file were asked for.
                Err(e) if dirs.contains(&dir) => error!("{e}"),
                Err(_) => {}
            }
        }
        let loaded = registry.list().into_iter().filter(|p| p.state == PluginState::Loaded);
        debug!("plugins: {}", loaded.map(|p| p.name).collect::<Vec<_>>().join(" "));
        Plugins { registry }
    }

    /// The services that plugins get.
    pub fn host(&self) -> &'static HostServices {
        self.registry.host()
    }

    /// The driver of that name.
    pub fn driver(&self, name: &str) -> Result<&'static DriverTable, String> {
        self.registry.driver(name).ok_or_else(|| self.unknown("driver", name))
    }

    /// The interface kind of that name.
    pub fn kind(&self, name: &str) -> Result<&'static IfKindTable, String> {
        self.registry.kind(name).ok_or_else(|| self.unknown("kind", name))
    }

    /// The native filter of that name.
    pub fn filter(&self, name: &str) -> Result<&'static FilterTable, String> {
        self.registry.filter(name).ok_or_else(|| self.unknown("filter", name))
    }

    fn unknown(&self, what: &str, name: &str) -> String {
        let known = self.registry.names(what);
        let hint = did_you_mean(name, &known).map(|h| format!(" ({h})")).unwrap_or_default();
        let what = match what {
            "kind" => "interface kind",
            "filter" => "native filter",
            other => other,
        };
        format!("unknown {what} \"{name}\"{hint}")
    }

    /// Names of all drivers.
    pub fn drivers(&self) -> Vec<String> {
        self.registry.names("driver").into_iter().map(str::to_owned).collect()
    }

    /// Names of all interface kinds.
    pub fn kinds(&self) -> Vec<String> {
        self.registry.names("kind").into_iter().map(str::to_owned).collect()
    }

    /// Names of all native filters.
    pub fn filters(&self) -> Vec<String> {
        self.registry.names("filter").into_iter().map(str::to_owned).collect()
    }

    /// All plugins, loaded and refused, for people and programs.
    pub fn list(&self) -> Value {
        serde_json::to_value(self.registry.list()).unwrap_or_default()
    }

    /// Loads a plugin from a file.
    pub fn load(&self, file: &Path) -> Result<Value, String> {
        let status = self.registry.load(file).map_err(|e| e.to_string())?;
        info!(plugin = status.name, version = status.version, file = %file.display(), "plugin loaded");
        Ok(serde_json::to_value(status).unwrap_or_default())
    }

    /// Notes that something which a driver, kind or filter made was taken out of service.
    pub fn quarantine(&self, name: &str, reason: &str) {
        self.registry.quarantine(name, reason);
    }

    /// Counts that a driver, kind or filter made nothing, and adds the plugin's file to the reason that it gave.
    pub fn not_made(&self, name: &str, reason: &str) -> String {
        self.registry.not_made(name, reason)
    }

    /// Ends every plugin, after everything that they made was closed.
    pub fn stop(&self) {
        self.registry.stop();
    }
}

/// The folders that are searched: next to the program, `plugins` there, the system's, and those asked for.
fn folders(dirs: &[PathBuf]) -> Vec<PathBuf> {
    let mut all = Vec::new();
    if let Some(dir) = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned)) {
        all.push(dir.clone());
        all.push(dir.join("plugins"));
    }
    all.push(SYSTEM_DIR.into());
    all.extend(dirs.iter().cloned());
    all
}

/// What was found by [`discover`].
#[derive(Debug, Default)]
pub struct Catalogue {
    /// Names of the plugins that load.
    pub plugins: Vec<String>,
    /// Why others do not.
    pub refused: Vec<String>,
    /// Drivers.
    pub drivers: Vec<String>,
    /// Interface kinds.
    pub kinds: Vec<String>,
    /// Native filters.
    pub filters: Vec<String>,
    /// Sysctl nodes that can be written; `None` when no router could be made to ask.
    pub sysctl: Option<Vec<String>>,
    /// Folders that were searched.
    pub searched: Vec<PathBuf>,
}

/// Loads every plugin into this process, over a router that does nothing, and says what there is. For programs that
/// check and end: what was loaded stays.
pub fn discover(dirs: &[PathBuf], load: &[Located<PathBuf>]) -> Catalogue {
    let searched = folders(dirs);
    let pool = PoolConfig { cells: 1024, huge_pages: HugePages::Never, ..PoolConfig::default() };
    let config = RuntimeConfig { cpus: vec![None], pool, ..RuntimeConfig::default() };
    let nothing = |e: String| Catalogue { refused: vec![e], searched: folders(dirs), ..Catalogue::default() };
    let (runtime, _workers) = match Runtime::start_manual(config) {
        Ok(made) => made,
        Err(e) => return nothing(e.to_string()),
    };
    let stack = match Stack::new(runtime.clone()) {
        Ok(stack) => stack,
        Err(e) => return nothing(e.to_string()),
    };
    let plugins = Plugins::start(&runtime, &stack, dirs);
    let mut refused: Vec<String> = load.iter().filter_map(|file| plugins.load(&file.value).err()).collect();
    let (loaded, failed): (Vec<_>, Vec<_>) =
        plugins.registry.list().into_iter().partition(|p| p.state == PluginState::Loaded);
    refused.extend(failed.into_iter().filter_map(|p| p.error));
    refused.sort();
    refused.dedup();
    Catalogue {
        plugins: loaded.into_iter().map(|p| p.name).collect(),
        refused,
        drivers: plugins.drivers(),
        kinds: plugins.kinds(),
        filters: plugins.filters(),
        sysctl: Some(crate::daemon::writable_sysctl(runtime.sysctl())),
        searched,
    }
}
