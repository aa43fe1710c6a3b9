//! What a filter runs, as the command line says it.

use super::super::context::Failure;
use super::Action;
use crate::config::{MODULE_FILE_MAX, table_name};
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// What the filter runs: exactly one.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Source {
    /// Drop what matches this expression (pcap-filter(7))
    #[arg(long, value_name = "EXPR", group = "source")]
    drop: Option<String>,
    /// Pass what matches this expression, drop the rest
    #[arg(long, value_name = "EXPR", group = "source")]
    pass: Option<String>,
    /// Run a program as `tcpdump -ddd` and `smpnet bpf compile -ddd` print it
    #[arg(long, value_name = "FILE", group = "source")]
    program: Option<PathBuf>,
    /// Run a WebAssembly module, one that `smpnet sdk new filter` began or any other for the filter ABI
    #[arg(long, value_name = "FILE", group = "source")]
    module: Option<PathBuf>,
    #[command(flatten)]
    own: ModuleOptions,
    /// With --module: table of the router that the module knows by another name; may come several times
    #[arg(long, value_name = "MANIFESTNAME=TABLE", requires = "module", value_parser = table_name)]
    table: Vec<(String, String)>,
    /// Run a native filter of a plugin (`smpnet plugin list` shows which there are)
    #[arg(long, value_name = "KIND", group = "source")]
    native: Option<String>,
    /// With --native: the filter's own options, a JSON object
    #[arg(long, value_name = "JSON", requires = "native", value_parser = json_object)]
    options: Option<Value>,
    /// With --program: what happens to packets that match [default: drop]
    #[arg(long, value_enum, conflicts_with_all = ["drop", "pass", "native", "module"])]
    action: Option<Action>,
}

/// What goes with a module wherever it runs.
#[derive(Debug, Default, Args)]
#[group(skip)]
pub struct ModuleOptions {
    /// Configuration of the module, in a form of its own
    #[arg(long, value_name = "TEXT")]
    pub config: Option<String>,
    /// The same from a file
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub config_file: Option<PathBuf>,
    /// What the module may do, besides log and clock: tables, mark, edit, reject
    #[arg(long, value_name = "CAPABILITY,...", value_delimiter = ',')]
    pub allow: Vec<String>,
    /// Pages of 64 KiB that the module's memory may have [default: 64]
    #[arg(long, value_name = "PAGES")]
    pub memory: Option<u32>,
    /// Microseconds that a burst may take [default: 1000]
    #[arg(long, value_name = "US")]
    pub budget: Option<u32>,
    /// Another limit: module_bytes, table_elements, init_us, tick_us, state_us; may come several times
    #[arg(long, value_name = "NAME=N", value_parser = limit)]
    pub limit: Vec<(String, u64)>,
}

fn limit(s: &str) -> Result<(String, u64), String> {
    let wrong = || format!("\"{s}\" is no limit: it is NAME=N, as init_us=1000000");
    let (name, n) = s.split_once('=').ok_or_else(wrong)?;
    Ok((name.to_owned(), n.parse().map_err(|_| wrong())?))
}

fn json_object(s: &str) -> Result<Value, String> {
    match serde_json::from_str(s) {
        Ok(v @ Value::Object(_)) => Ok(v),
        Ok(_) => Err("it must be a JSON object, as in '{\"one_in\": 100}'".into()),
        Err(e) => Err(e.to_string()),
    }
}

/// The word that a value is written as.
pub fn word<V: ValueEnum>(v: &V) -> String {
    v.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

/// A module's file. What cannot be one by its size is not read.
pub fn read_module(file: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |e: std::io::Error| Failure::new(format!("{}: {e}", file.display()));
    let length = std::fs::metadata(file).map_err(failed)?.len();
    if length > MODULE_FILE_MAX as u64 {
        let text = format!("{}: {length} bytes; no module has more than {MODULE_FILE_MAX}", file.display());
        return Err(Failure::new(text));
    }
    std::fs::read(file).map_err(failed)
}

impl ModuleOptions {
    /// Limits that differ from the usual ones, as an object.
    pub fn limits(&self) -> Value {
        let named = [("memory_pages", self.memory), ("burst_us", self.budget)];
        let named = named.into_iter().filter_map(|(k, v)| Some((k.to_owned(), json!(v?))));
        let all: Map<String, Value> = named.chain(self.limit.iter().map(|(k, v)| (k.clone(), json!(v)))).collect();
        all.into()
    }

    /// The module's configuration; none when nothing was said of it.
    pub fn config(&self) -> Result<Option<Vec<u8>>, Failure> {
        match (&self.config, &self.config_file) {
            (Some(text), _) => Ok(Some(text.clone().into_bytes())),
            (None, Some(f)) => {
                let bytes = std::fs::read(f).map_err(|e| Failure::new(format!("{}: {e}", f.display())))?;
                Ok(Some(bytes))
            }
            (None, None) => Ok(None),
        }
    }

    fn any(&self) -> bool {
        let given = [self.config.is_some(), self.config_file.is_some(), self.memory.is_some(), self.budget.is_some()];
        given.contains(&true) || !self.allow.is_empty() || !self.limit.is_empty()
    }
}

impl Source {
    /// Adds the source to a request. The daemon reads programs itself, so that their names become absolute; modules go
    /// with the request.
    pub fn put(&self, body: &mut Value) -> Result<(), Failure> {
        for (key, expr) in [("drop", &self.drop), ("pass", &self.pass)] {
            if let Some(e) = expr {
                body[key] = e.clone().into();
            }
        }
        if let Some(f) = &self.program {
            body["program"] = json!(std::path::absolute(f).unwrap_or_else(|_| f.clone()));
        }
        if let Some(n) = &self.native {
            body["native"] = n.clone().into();
        }
        if let Some(o) = &self.options {
            body["options"] = o.clone();
        }
        if let Some(a) = &self.action {
            body["action"] = word(a).into();
        }
        let Some(file) = &self.module else {
            if self.own.any() {
                return Err(Failure::usage(
                    "--config, --config-file, --allow, --memory, --budget and --limit go with --module",
                ));
            }
            return Ok(());
        };
        body["module"] = STANDARD.encode(read_module(file)?).into();
        body["module_file"] = json!(std::path::absolute(file).unwrap_or_else(|_| file.clone()));
        if let Some(bytes) = self.own.config()? {
            match String::from_utf8(bytes) {
                Ok(text) => body["config"] = text.into(),
                Err(e) => body["config_base64"] = STANDARD.encode(e.as_bytes()).into(),
            }
        }
        if !self.own.allow.is_empty() {
            body["allow"] = json!(self.own.allow);
        }
        if !self.table.is_empty() {
            body["tables"] = self.table.iter().map(|(k, v)| (k.clone(), json!(v))).collect::<Map<_, _>>().into();
        }
        let limits = self.own.limits();
        if limits.as_object().is_some_and(|l| !l.is_empty()) {
            body["limits"] = limits;
        }
        Ok(())
    }
}
