//! What npf knows, as it is saved and loaded: the configuration, what commands have added to it, tables and connections. A
//! line of JSON for each, so that neither side has to hold it all.

use super::{npf::entry_text, npf::npf, show::Answer, state::Daemon};
use crate::{
    api::{ApiError, Call, Endpoint, Handler, Stream},
    config::NpfBundle,
};
use axum::body::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use smpnet_npf::{
    config::{MapItem, TableEntry, TableId, TableSource},
    language::{parse_entries, print_map, print_rule},
    router::{Loaded, Npf},
    state::{ConnectionRecord, Millis},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

/// The form of these lines.
const VERSION: u32 = 1;
/// Entries of a table in a line.
const ENTRIES: usize = 1000;
/// Bytes that are sent at once.
const PIECE: usize = 64 << 10;

/// A line.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line {
    /// The first one.
    Npf {
        version: u32,
        active: bool,
        #[serde(flatten)]
        bundle: NpfBundle,
    },
    /// A rule of a command.
    Rule { ruleset: String, rule: String },
    /// A map of a command.
    Map { ruleset: String, map: String },
    /// Entries of a table that no file fills, each with the milliseconds that it still stays.
    Table { name: String, entries: Vec<(String, Option<u64>)> },
    /// A connection.
    Conn(Box<ConnectionRecord>),
    /// The last one: how many there were before it.
    End { lines: u64 },
}

/// Sends lines in pieces.
struct Lines {
    tx: tokio::sync::mpsc::Sender<Bytes>,
    piece: Vec<u8>,
    lines: u64,
}

impl Lines {
    /// False when nobody listens any more.
    fn put(&mut self, line: &Line) -> bool {
        // Nothing of a line cannot be written as JSON.
        if serde_json::to_writer(&mut self.piece, line).is_err() {
            return true;
        }
        self.piece.push(b'\n');
        self.lines += 1;
        self.piece.len() < PIECE || self.flush()
    }

    fn flush(&mut self) -> bool {
        self.tx.blocking_send(Bytes::from(std::mem::take(&mut self.piece))).is_ok()
    }
}

/// `npfctl save`.
pub fn save(d: &Daemon, _: &Call) -> Result<Stream, ApiError> {
    let npf = npf(d)?;
    let section = d.config().npf.ok_or_else(|| ApiError::conflict("npf has no configuration"))?;
    let (tx, chunks) = tokio::sync::mpsc::channel(16);
    let whole = Arc::new(AtomicBool::new(false));
    let said = whole.clone();
    let send = move || {
        let mut lines = Lines { tx, piece: Vec::with_capacity(PIECE + 4096), lines: 0 };
        let first = Line::Npf { version: VERSION, active: section.active, bundle: section.source.pack() };
        if !lines.put(&first) || !commands(&npf, &mut lines) || !tables(&npf, &mut lines) {
            return;
        }
        let mut goes_on = true;
        npf.save(|record| {
            goes_on = lines.put(&Line::Conn(Box::new(record)));
            goes_on
        });
        let end = Line::End { lines: lines.lines };
        said.store(goes_on && lines.put(&end) && lines.flush(), Relaxed);
    };
    std::thread::Builder::new()
        .name("smpnet-npf-save".into())
        .spawn(send)
        .map_err(|e| ApiError::internal(format!("cannot start a thread: {e}")))?;
    Ok(Stream {
        header: ("smpnet-state", VERSION.to_string()),
        chunks,
        trailer: ("smpnet-ended", Box::new(move || (!whole.load(Relaxed)).then_some("broken-off"))),
        gone: Box::new(|| ()),
    })
}

fn commands(npf: &Npf, lines: &mut Lines) -> bool {
    let ruleset = npf.ruleset();
    let config = &ruleset.config;
    for set in config.rulesets() {
        for rule in npf.rules_of(&set.name).unwrap_or_default() {
            if !lines.put(&Line::Rule { ruleset: set.name.clone(), rule: print_rule(config, &rule) }) {
                return false;
            }
        }
    }
    for set in config.maps.iter().filter_map(|m| if let MapItem::Ruleset(set) = m { Some(set) } else { None }) {
        for map in npf.maps_of(&set.name).unwrap_or_default() {
            if !lines.put(&Line::Map { ruleset: set.name.clone(), map: print_map(config, &map) }) {
                return false;
            }
        }
    }
    true
}

fn tables(npf: &Npf, lines: &mut Lines) -> bool {
    let (ruleset, tables, now) = (npf.ruleset(), npf.tables(), now());
    let by_commands = ruleset.config.tables.iter().enumerate().filter(|(_, t)| t.source == TableSource::Empty);
    for (at, table) in by_commands {
        for part in tables.entries(TableId(at)).chunks(ENTRIES) {
            let left = |until: Option<Millis>| until.map(|u| u.since(now));
            let entries = part.iter().map(|(e, known)| (entry_text(e), left(known.until))).collect();
            if !lines.put(&Line::Table { name: table.name.clone(), entries }) {
                return false;
            }
        }
    }
    true
}

/// The time of tables.
fn now() -> Millis {
    Millis(smpnet_runtime::now_ns() / 1_000_000)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadRequest {
    lines: Vec<Value>,
}

/// `npfctl load`: lines behind the first one, which `reload` takes.
pub fn load(d: &Daemon, call: &Call) -> Answer {
    let npf = npf(d)?;
    let LoadRequest { lines } = call.body()?;
    let (mut records, mut refused, mut taken) = (Vec::new(), BTreeMap::<String, u64>::new(), 0u64);
    for (n, line) in lines.into_iter().enumerate() {
        let line = serde_json::from_value(line).map_err(|e| ApiError::bad(format!("line {} of these: {e}", n + 1)))?;
        let done = match line {
            Line::Conn(record) => {
                records.push(*record);
                continue;
            }
            Line::Rule { ruleset, rule } => npf.rule_add(&ruleset, &rule).map(drop).map_err(|e| e.to_string()),
            Line::Map { ruleset, map } => npf.map_add(&ruleset, &map).map(drop).map_err(|e| e.to_string()),
            Line::Table { name, entries } => fill(&npf, &name, &entries),
            Line::Npf { .. } | Line::End { .. } => continue,
        };
        match done {
            Ok(()) => taken += 1,
            Err(why) => *refused.entry(why).or_default() += 1,
        }
    }
    let Loaded { loaded, refused: more } = npf.load(records);
    refused.extend(more);
    Ok(json!({ "connections": loaded, "commands": taken, "refused": refused }))
}

fn fill(npf: &Npf, name: &str, entries: &[(String, Option<u64>)]) -> Result<(), String> {
    let id = npf.table(name).map_err(|e| e.to_string())?;
    let kind = npf.ruleset().config.tables.get(id.0).map(|t| t.kind).ok_or("the table has just gone")?;
    let mut read: Vec<(TableEntry, Option<u64>)> = Vec::with_capacity(entries.len());
    for (text, left) in entries {
        let one = parse_entries("entry", text, kind).map_err(|e| e.to_string())?;
        read.extend(one.into_iter().map(|e| (e, *left)));
    }
    npf.change_tables(|tables, now| {
        for (entry, left) in read {
            // What is there already stays as it is.
            let _ = tables.add(id, entry, now, left.map(Millis));
        }
        Ok(())
    })
}

/// The endpoints.
pub fn endpoints() -> Vec<Endpoint<Daemon>> {
    let one = |method, id, summary, body, returns, handler| Endpoint {
        method,
        path: "/v1/npf/state",
        id,
        summary,
        query: &[],
        body,
        returns,
        handler,
    };
    vec![
        one(
            "get",
            "saveNpf",
            "Configuration, rules and maps of commands, tables and connections, a line of JSON each",
            None,
            "NpfState",
            Handler::Stream("application/x-ndjson", save),
        ),
        one(
            "post",
            "loadNpf",
            "Take in lines that were saved, but for the first one, whose configuration is reloaded before",
            Some("NpfStateRequest"),
            "NpfLoaded",
            Handler::Json(load),
        ),
    ]
}
