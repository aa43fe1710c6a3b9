//! Checking a file without a daemon: everything that can be known without touching the system.

use crate::{
    config::{self, AttachLayer, Config, Filter, FilterFault, FilterSource, FilterTable, Report, World},
    plugins,
};
use smpnet_bpf::{Dlt, compile_expr};
use smpnet_wasm::{Tables, guest::Runner};

/// What a check brought.
pub struct Checked {
    /// What was understood of the file.
    pub config: Config,
    /// What is wrong with it.
    pub report: Report,
}

/// Checks `text`, called `file` in messages. Plugins are loaded into this process to know what they provide.
pub fn check_file(file: &str, text: &str) -> Checked {
    let (config, mut report) = config::read(file, text, &|p| std::fs::read(p));
    let catalogue = plugins::discover(&config.plugins.dirs, &config.plugins.load);
    let devices = host_devices();
    let world = World {
        drivers: Some(&catalogue.drivers),
        kinds: Some(&catalogue.kinds),
        natives: Some(&catalogue.filters),
        sysctl: catalogue.sysctl.as_deref(),
        devices: devices.as_deref(),
        compile: Some(&compile_filter),
    };
    config::check(&config, &world, &mut report);
    Checked { config, report }
}

/// The network devices of this network namespace; `None` when they cannot be listed. `/proc/self/net` is the
/// namespace's, while `/sys/class/net` may be that of another one.
pub fn host_devices() -> Option<Vec<String>> {
    let table = std::fs::read_to_string("/proc/self/net/dev").ok()?;
    Some(table.lines().filter_map(|l| Some(l.split_once(':')?.0.trim().to_owned())).collect())
}

/// Compiles a filter to see whether it is right.
pub fn compile_filter(f: &Filter, tables: &[FilterTable]) -> Result<(), FilterFault> {
    let fault = |message: String| FilterFault { message, hint: None, fatal: true };
    match &f.source {
        FilterSource::Expr(e) => {
            let dlt = match f.attach {
                AttachLayer::Inet => Dlt::Raw,
                AttachLayer::Ether => Dlt::En10mb,
            };
            compile_expr(e, dlt).map(drop).map_err(|e| fault(e.to_string()))
        }
        FilterSource::Program { file, text } => {
            smpnet_bpf::load_program(text).map(drop).map_err(|e| fault(format!("{file}: {e}")))
        }
        FilterSource::Module(m) => {
            let known = Tables::default();
            for t in tables {
                // Tables with mistakes are told by themselves.
                let _ = known.create(&t.name, t.kind, Some(t.most));
            }
            // It is set up with its configuration, which it may refuse.
            Runner::new(&m.spec(), &known).map(drop).map_err(|e| fault(format!("{}: {e}", m.file)))
        }
        FilterSource::Native { .. } => Ok(()),
    }
}
