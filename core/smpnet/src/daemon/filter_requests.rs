//! The bodies of requests about filters and tables, and what they mean.

use super::requests::{action, word};
use crate::{
    api::ApiError,
    config::{
        Action, AttachLayer, Entries, Filter, FilterDirection, FilterSource, FilterTable, MODULE_FILE_MAX, Module,
        capabilities, fault_limit, filter_name, limits, parse_entries, table_kind,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};
use smpnet_wasm::{ENTRIES_MAX, OnFault, TableKind};
use std::{collections::BTreeMap, path::PathBuf};

/// What a filter runs: exactly one of the first five.
#[derive(Debug, Deserialize)]
struct SourceRequest {
    drop: Option<String>,
    pass: Option<String>,
    program: Option<PathBuf>,
    /// A module, in base64.
    module: Option<String>,
    /// Its file, for messages.
    module_file: Option<String>,
    /// Its configuration as text, or in base64.
    config: Option<String>,
    config_base64: Option<String>,
    /// Capabilities besides the usual ones.
    allow: Option<Vec<String>>,
    /// Names of tables by the manifest's names.
    tables: Option<BTreeMap<String, String>>,
    /// Limits that are not as usual.
    limits: Option<Value>,
    native: Option<String>,
    /// Of the native filter.
    options: Option<Value>,
    action: Option<String>,
}

const ONE_SOURCE: &str = "a filter needs exactly one of \"drop\", \"pass\", \"program\", \"module\" and \"native\"";

impl SourceRequest {
    /// The source. A module that takes another's place keeps what is not said anew of `old`.
    fn take(mut self, old: Option<&Module>) -> Result<(FilterSource, Option<Action>), ApiError> {
        if self.module.is_some() {
            let others = [self.drop.is_some(), self.pass.is_some(), self.program.is_some(), self.native.is_some()];
            return match (others.contains(&true), self.action.is_some()) {
                (true, _) => Err(ApiError::bad(ONE_SOURCE)),
                (_, true) => Err(ApiError::bad("a module has no \"action\": it decides by itself")),
                _ => Ok((FilterSource::Module(Box::new(self.take_module(old)?)), None)),
            };
        }
        let own = [
            ("config", self.config.is_some()),
            ("config_base64", self.config_base64.is_some()),
            ("allow", self.allow.is_some()),
            ("tables", self.tables.is_some()),
            ("limits", self.limits.is_some()),
        ];
        if let Some((key, _)) = own.iter().find(|(_, given)| *given) {
            return Err(ApiError::bad(format!("\"{key}\" goes with \"module\"")));
        }
        let given = self.action.as_deref().map(action).transpose()?;
        if let Some(filter) = self.native {
            let none = self.drop.is_none() && self.pass.is_none() && self.program.is_none();
            let options = self.options.unwrap_or_else(|| json!({}));
            return match (none, given, options.is_object()) {
                (false, ..) => Err(ApiError::bad(ONE_SOURCE)),
                (_, Some(_), _) => Err(ApiError::bad("a native filter has no \"action\"")),
                (.., false) => Err(ApiError::bad("the \"options\" of a native filter must be a JSON object")),
                _ => Ok((FilterSource::Native { filter, options }, None)),
            };
        }
        if self.options.is_some() {
            return Err(ApiError::bad("\"options\" goes with \"native\""));
        }
        let read_error = |f: &PathBuf, e: std::io::Error| ApiError::bad(format!("{}: {e}", f.display()));
        match (self.drop, self.pass, self.program) {
            (Some(_), None, None) | (None, Some(_), None) if given.is_some() => {
                Err(ApiError::bad("\"action\" goes with \"program\""))
            }
            (Some(e), None, None) => Ok((FilterSource::Expr(e), Some(Action::Drop))),
            (None, Some(e), None) => Ok((FilterSource::Expr(e), Some(Action::Pass))),
            (None, None, Some(f)) => {
                let text = std::fs::read_to_string(&f).map_err(|e| read_error(&f, e))?;
                Ok((FilterSource::Program { file: f.display().to_string(), text }, given))
            }
            _ => Err(ApiError::bad(ONE_SOURCE)),
        }
    }

    fn take_module(&mut self, old: Option<&Module>) -> Result<Module, ApiError> {
        let bytes = base64("module", self.module.as_deref().unwrap_or_default())?;
        if bytes.len() > MODULE_FILE_MAX {
            let error = format!("the module has {} bytes, and no more than {MODULE_FILE_MAX} are taken", bytes.len());
            return Err(ApiError::bad(error));
        }
        let file = self.module_file.take().unwrap_or_else(|| "of the request".into());
        let new = Module::new(file, bytes);
        let mut module = match old {
            Some(old) => {
                let Module { config, allow, tables, limits, .. } = old.clone();
                Module { config, allow, tables, limits, ..new }
            }
            None => new,
        };
        match (self.config.take(), self.config_base64.take()) {
            (Some(_), Some(_)) => return Err(ApiError::bad("a module has \"config\" or \"config_base64\", not both")),
            (Some(text), None) => module.config = text.into_bytes(),
            (None, Some(text)) => module.config = base64("config_base64", &text)?,
            (None, None) => {}
        }
        if let Some(names) = self.allow.take() {
            module.allow = capabilities(names.iter().map(String::as_str)).map_err(ApiError::bad)?;
        }
        if let Some(tables) = self.tables.take() {
            module.tables = tables;
        }
        if let Some(changes) = self.limits.take() {
            module.limits = limits(&module.limits, &changes).map_err(ApiError::bad)?;
        }
        Ok(module)
    }
}

fn base64(key: &str, text: &str) -> Result<Vec<u8>, ApiError> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.decode(text).map_err(|e| ApiError::bad(format!("\"{key}\" is not base64: {e}")))
}

/// Loads a filter.
#[derive(Debug, Deserialize)]
pub struct FilterRequest {
    name: String,
    #[serde(flatten)]
    source: SourceRequest,
    attach: Option<String>,
    interface: Option<String>,
    direction: Option<String>,
    #[serde(default)]
    priority: i32,
    on_fault: Option<String>,
    faults: Option<String>,
}

impl FilterRequest {
    /// The fields that a request may have.
    pub const FIELDS: [&str; 20] = [
        "name",
        "drop",
        "pass",
        "program",
        "module",
        "module_file",
        "config",
        "config_base64",
        "allow",
        "tables",
        "limits",
        "native",
        "options",
        "action",
        "attach",
        "interface",
        "direction",
        "priority",
        "on_fault",
        "faults",
    ];

    /// The filter.
    pub fn filter(self) -> Result<Filter, ApiError> {
        let name = filter_name(&self.name).map_err(ApiError::bad)?;
        let (source, act) = self.source.take(None)?;
        let attach = match self.attach.as_deref().unwrap_or("inet") {
            "inet" => AttachLayer::Inet,
            "ether" => AttachLayer::Ether,
            other => return Err(word("attach", other, &["inet", "ether"])),
        };
        let direction = match self.direction.as_deref().unwrap_or("in") {
            "in" => FilterDirection::In,
            "out" => FilterDirection::Out,
            "both" => FilterDirection::Both,
            other => return Err(word("direction", other, &["in", "out", "both"])),
        };
        Ok(Filter {
            at: Default::default(),
            name,
            source,
            source_at: Default::default(),
            action: act.unwrap_or_default(),
            attach,
            interface: self.interface.filter(|i| i != "all"),
            direction,
            priority: self.priority,
            on_fault: match self.on_fault.as_deref().unwrap_or("pass") {
                "pass" => OnFault::Pass,
                "drop" => OnFault::Drop,
                "detach" => OnFault::Detach,
                other => return Err(word("policy", other, &["pass", "drop", "detach"])),
            },
            faults: self.faults.as_deref().map(fault_limit).transpose().map_err(ApiError::bad)?.unwrap_or_default(),
        })
    }
}

/// Swaps a filter's program.
#[derive(Debug, Deserialize)]
pub struct SwapRequest {
    #[serde(flatten)]
    source: SourceRequest,
}

impl SwapRequest {
    /// The fields that a request may have.
    pub const FIELDS: [&str; 13] = [
        "drop",
        "pass",
        "program",
        "module",
        "module_file",
        "config",
        "config_base64",
        "allow",
        "tables",
        "limits",
        "native",
        "options",
        "action",
    ];

    /// The filter after the swap.
    pub fn filter(self, old: &Filter) -> Result<Filter, ApiError> {
        let (source, act) = self.source.take(old.module())?;
        if old.is_native() != matches!(source, FilterSource::Native { .. }) {
            let is = if old.is_native() { "a native filter" } else { "a filter that is compiled" };
            let hint = format!("detach {} and load the other", old.name);
            return Err(ApiError::conflict(format!("{} is {is}: no swap leads to the other kind", old.name)).hint(hint));
        }
        Ok(Filter { source, action: act.unwrap_or(old.action), ..old.clone() })
    }
}

/// Makes a table.
#[derive(Debug, Deserialize)]
pub struct TableRequest {
    name: String,
    kind: String,
    #[serde(default)]
    most: Option<usize>,
    #[serde(flatten)]
    content: EntriesRequest,
}

impl TableRequest {
    /// The fields that a request may have.
    pub const FIELDS: [&str; 5] = ["name", "kind", "most", "text", "file"];

    /// The table.
    pub fn table(self) -> Result<FilterTable, ApiError> {
        let name = filter_name(&self.name).map_err(|e| ApiError::bad(e.replace("a filter name", "a table name")))?;
        let kind = table_kind(&self.kind).map_err(ApiError::bad)?;
        let mut table = FilterTable::new(name, kind);
        if let Some(most) = self.most {
            if !(1..=ENTRIES_MAX).contains(&most) {
                return Err(ApiError::bad(format!("a table is made for 1 to {ENTRIES_MAX} entries, not for {most}")));
            }
            table.most = most;
        }
        table.entries = self.content.entries(kind)?.into();
        Ok(table)
    }
}

/// Entries of a table.
#[derive(Debug, Default, Deserialize)]
pub struct EntriesRequest {
    /// A line for each: a key and a value.
    #[serde(default)]
    text: String,
    /// What the text is called in messages.
    #[serde(default)]
    file: Option<String>,
}

impl EntriesRequest {
    /// The fields that a request may have.
    pub const FIELDS: [&str; 2] = ["text", "file"];

    /// The entries.
    pub fn entries(&self, kind: TableKind) -> Result<Entries, ApiError> {
        let file = self.file.as_deref().map_or("line ".to_owned(), |f| format!("{f}:"));
        parse_entries(kind, &self.text)
            .map_err(|(line, e)| ApiError::bad(format!("{file}{line}: {e}; nothing was changed")))
    }
}
