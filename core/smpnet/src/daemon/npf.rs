//! Endpoints of npf.

use super::{requests::only_fields, show::Answer, state::Daemon};
use crate::{
    api::{ApiError, Call, Endpoint, Handler, Param},
    apply::Op,
    config::{Config, NpfBundle, NpfSection, NpfSource, told},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use smpnet_npf::{
    config::{Family, RuleId, TableEntry, TableKind},
    language::{parse_entries, print_map, print_rule, print_shown},
    packet::number_of,
    router::{Listed, Npf, NpfError},
    tables::TableError,
};
use std::{net::IpAddr, sync::Arc, time::Duration};

/// Connections in one answer, unless fewer are wanted.
const LIST_MAX: usize = 1_000_000;

impl From<NpfError> for ApiError {
    fn from(e: NpfError) -> ApiError {
        match &e {
            NpfError::NoRuleset(_)
            | NpfError::NoRule
            | NpfError::NoTable(_)
            | NpfError::Table(TableError::NotFound) => ApiError::not_found(e.to_string()),
            NpfError::Rule(found) => ApiError::bad(e.to_string()).detail(json!({ "diagnostics": found })),
            _ => ApiError::conflict(e.to_string()),
        }
    }
}

/// npf, if it was ever asked for.
pub(super) fn npf(d: &Daemon) -> Result<Arc<Npf>, ApiError> {
    d.router.npf().ok_or_else(|| {
        ApiError::conflict("npf has no configuration")
            .hint("`smpnet npfctl reload FILE` loads one, or [npf] config = \"FILE\" in the router's file".to_owned())
    })
}

/// What there is: `npfctl show`.
pub fn show(d: &Daemon, _: &Call) -> Answer {
    let Some(npf) = d.router.npf() else {
        return Ok(json!({ "active": false, "loaded": false, "connections": 0, "text": "", "rules": [] }));
    };
    let mut answer = json!(npf.status());
    let ruleset = npf.ruleset();
    answer["text"] = print_shown(&ruleset.config).into();
    answer["file"] = json!(d.config().npf.map(|n| n.source.file));
    answer["rules"] = json!(rules(&npf));
    Ok(answer)
}

/// All rules, with what they have decided.
fn rules(npf: &Npf) -> Vec<Value> {
    let ruleset = npf.ruleset();
    let tallies = npf.tallies();
    let of = |(rule, tally)| {
        let mut value = json!(tally);
        let rule: &smpnet_npf::config::Rule = rule;
        value["text"] = print_rule(&ruleset.config, rule).into();
        value["line"] = rule.at.line.into();
        value["file"] = json!(&*rule.at.file);
        value
    };
    ruleset.rules.iter().zip(tallies).map(of).collect()
}

pub fn list_rules(d: &Daemon, _: &Call) -> Answer {
    Ok(json!(rules(&*npf(d)?)))
}

/// A configuration, and whether it is only to be checked.
#[derive(Deserialize)]
struct ReloadRequest {
    #[serde(flatten)]
    bundle: NpfBundle,
    #[serde(default)]
    dry_run: bool,
}

/// Puts another configuration in force.
pub fn reload(d: &Daemon, call: &Call) -> Answer {
    only_fields(&call.body, &["file", "text", "files", "dry_run"])?;
    let ReloadRequest { bundle, dry_run } = call.body()?;
    let file = bundle.file.clone();
    let (source, warnings) = NpfSource::unpack(bundle).map_err(|found| {
        let n = found.errors().count();
        let lines: Vec<String> = told(&found).into_iter().map(|(line, _)| line).collect();
        ApiError::bad(format!("{file}: {n} error{}; nothing was changed", if n == 1 { "" } else { "s" }))
            .detail(json!({ "lines": lines, "diagnostics": found }))
    })?;
    let began = std::time::Instant::now();
    let rules = source.config.rules().count();
    if !dry_run {
        set(d, |now| {
            Some(match now {
                Some(now) => NpfSection { source: source.clone(), ..now },
                None => NpfSection::new(source.clone()),
            })
        })?;
    }
    let us = began.elapsed().as_micros() as u64;
    Ok(json!({ "file": file, "rules": rules, "warnings": warnings, "live_us": us, "dry_run": dry_run }))
}

/// Changes the section as one step.
fn set(d: &Daemon, make: impl FnOnce(Option<NpfSection>) -> Option<NpfSection>) -> Answer {
    let boxed = |n: Option<NpfSection>| n.map(Box::new);
    let steps = d.change(|config: &Config| {
        let old = config.npf.clone();
        let new = make(old.clone());
        Ok(vec![Op::SetNpf(boxed(old), boxed(new))])
    })?;
    Ok(json!({ "steps": steps.len() }))
}

pub fn start(d: &Daemon, _: &Call) -> Answer {
    npf(d)?;
    set(d, |now| now.map(|n| NpfSection { active: true, ..n }))
}

pub fn stop(d: &Daemon, _: &Call) -> Answer {
    npf(d)?;
    set(d, |now| now.map(|n| NpfSection { active: false, ..n }))
}

/// Takes rules, tables and connections away; packets pass.
pub fn flush(d: &Daemon, _: &Call) -> Answer {
    npf(d)?;
    set(d, |now| {
        now.map(|n| {
            let (file, text) = ("flushed".to_owned(), String::new());
            NpfSection { source: NpfSource { file, text, files: Default::default(), config: Arc::default() }, ..n }
        })
    })
}

pub fn stats(d: &Daemon, _: &Call) -> Answer {
    Ok(json!(npf(d)?.totals()))
}

/// Connections that the query asks for.
pub fn connections(d: &Daemon, call: &Call) -> Answer {
    let npf = npf(d)?;
    let most = match call.query("most") {
        None => LIST_MAX,
        Some(n) => n.parse().map_err(|_| ApiError::bad(format!("most: \"{n}\" is no number")))?,
    };
    let family = match call.query("family") {
        None => None,
        Some("4") => Some(Family::V4),
        Some("6") => Some(Family::V6),
        Some(other) => return Err(ApiError::bad(format!("family: there are 4 and 6, and not \"{other}\""))),
    };
    let interface = call.query("interface").map(str::to_owned);
    let nat = call.query("nat") == Some("1");
    let wants = |c: &Listed| {
        family.is_none_or(|f| f == Family::of(c.source.0))
            && (interface.is_none() || c.interface == interface)
            && (!nat || c.translated.is_some())
    };
    let (list, more) = npf.list(most, wants);
    Ok(json!({ "connections": list, "more": more }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleRequest {
    /// As the language writes it; in a ruleset for maps, a map.
    rule: String,
}

fn rule_id(text: &str) -> Result<RuleId, ApiError> {
    let id = u64::from_str_radix(text.trim_start_matches("0x"), 16);
    id.map(RuleId).map_err(|_| ApiError::bad(format!("\"{text}\" is no id of a rule: it is a number in hex")))
}

/// Rules, or maps: whatever the ruleset is for. So with the commands below.
pub fn ruleset(d: &Daemon, call: &Call) -> Answer {
    let (npf, name) = (npf(d)?, call.path("name"));
    let config = npf.ruleset().config.clone();
    let line = |id: RuleId, text: String| json!({ "id": id.to_string(), "text": text });
    if npf.is_of_maps(name) {
        return Ok(npf.maps_of(name)?.iter().map(|m| line(m.id, print_map(&config, m))).collect());
    }
    Ok(npf.rules_of(name)?.iter().map(|r| line(r.id, print_rule(&config, r))).collect())
}

pub fn rule_add(d: &Daemon, call: &Call) -> Answer {
    let (npf, name) = (npf(d)?, call.path("name"));
    let text = call.body::<RuleRequest>()?.rule;
    let id = if npf.is_of_maps(name) { npf.map_add(name, &text)? } else { npf.rule_add(name, &text)? };
    Ok(json!({ "id": id.to_string() }))
}

/// By `id` or by `rule`; without either, all of them.
pub fn rule_remove(d: &Daemon, call: &Call) -> Answer {
    let (npf, name) = (npf(d)?, call.path("name"));
    let of_maps = npf.is_of_maps(name);
    match (call.query("id"), call.query("rule")) {
        (Some(id), _) if of_maps => npf.map_remove_id(name, rule_id(id)?)?,
        (None, Some(map)) if of_maps => npf.map_remove(name, map)?,
        (None, None) if of_maps => npf.map_flush(name)?,
        (Some(id), _) => npf.rule_remove_id(name, rule_id(id)?)?,
        (None, Some(rule)) => npf.rule_remove(name, rule)?,
        (None, None) => npf.rule_flush(name)?,
    }
    Ok(json!({ "steps": 1 }))
}

pub fn tables(d: &Daemon, _: &Call) -> Answer {
    let npf = npf(d)?;
    let (ruleset, tables) = (npf.ruleset(), npf.tables());
    let of = |(i, t): (usize, &smpnet_npf::config::Table)| {
        let entries = tables.entries(smpnet_npf::config::TableId(i)).len();
        json!({ "name": t.name, "type": kind_name(t.kind), "entries": entries })
    };
    Ok(ruleset.config.tables.iter().enumerate().map(of).collect())
}

fn kind_name(kind: TableKind) -> &'static str {
    match kind {
        TableKind::Ipset => "ipset",
        TableKind::Lpm => "lpm",
        TableKind::Const => "const",
        TableKind::IpPort => "ipport",
    }
}

/// The kind of the table of a request.
fn kind(npf: &Npf, call: &Call) -> Result<TableKind, ApiError> {
    let id = npf.table(call.path("name"))?;
    let kind = npf.ruleset().config.tables.get(id.0).map(|t| t.kind);
    kind.ok_or_else(|| ApiError::not_found("the table has just gone"))
}

pub(super) fn entry_text(e: &TableEntry) -> String {
    let prefix = e.prefix;
    let host = prefix.len == Family::of(prefix.address).bits();
    let address = if host { prefix.address.to_string() } else { format!("{}/{}", prefix.address, prefix.len) };
    match e.service {
        Some((6, port)) => format!("{address} tcp {port}"),
        Some((17, port)) => format!("{address} udp {port}"),
        Some((proto, port)) => format!("{address} {proto} {port}"),
        None => address,
    }
}

pub fn table(d: &Daemon, call: &Call) -> Answer {
    let npf = npf(d)?;
    let id = npf.table(call.path("name"))?;
    let entries: Vec<Value> = npf.tables().entries(id).iter().map(|(e, known)| {
        json!({ "entry": entry_text(e), "packets": known.packets, "bytes": known.bytes, "until_ms": known.until.map(|u| u.0) })
    }).collect();
    Ok(json!({ "name": call.path("name"), "type": kind_name(kind(&npf, call)?), "entries": entries }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryRequest {
    /// One, as a table's file has it.
    entry: String,
    /// Seconds that it stays.
    stay: Option<f64>,
}

fn entries(text: &str, kind: TableKind) -> Result<Vec<TableEntry>, ApiError> {
    parse_entries("entry", text, kind).map_err(|found| {
        let why = told(&found).into_iter().next();
        let (message, hint) = why.unwrap_or_else(|| ("no entry".into(), None));
        let message = message.splitn(4, ':').nth(3).map_or(message.clone(), |m| m.trim().to_owned());
        ApiError::bad(message).hint(hint).detail(json!({ "diagnostics": found }))
    })
}

fn one_entry(text: &str, kind: TableKind) -> Result<TableEntry, ApiError> {
    match entries(text, kind)?[..] {
        [one] => Ok(one),
        _ => Err(ApiError::bad(format!("\"{text}\" is not one entry"))),
    }
}

pub fn table_add(d: &Daemon, call: &Call) -> Answer {
    let npf = npf(d)?;
    let EntryRequest { entry, stay } = call.body()?;
    let stay = match stay {
        None => None,
        Some(s) => Some(Duration::try_from_secs_f64(s).map_err(|e| ApiError::bad(format!("stay: {e}")))?),
    };
    let entry = one_entry(&entry, kind(&npf, call)?)?;
    npf.table_add(call.path("name"), entry, stay)?;
    Ok(json!({ "steps": 1 }))
}

/// An `entry`; without one, all of them.
pub fn table_remove(d: &Daemon, call: &Call) -> Answer {
    let npf = npf(d)?;
    match call.query("entry") {
        Some(entry) => npf.table_remove(call.path("name"), &one_entry(entry, kind(&npf, call)?)?)?,
        None => npf.table_flush(call.path("name"))?,
    }
    Ok(json!({ "steps": 1 }))
}

/// Whether an address is in a table.
pub fn table_test(d: &Daemon, call: &Call) -> Answer {
    let npf = npf(d)?;
    let id = npf.table(call.path("name"))?;
    let kind = kind(&npf, call)?;
    let asked = call.query("entry").unwrap_or_default();
    let found = match asked.parse::<IpAddr>() {
        Ok(address) if kind != TableKind::IpPort => {
            npf.tables().find(id, Family::of(address), number_of(address), None)
        }
        _ => {
            let e = one_entry(asked, kind)?;
            let address = e.prefix.address;
            npf.tables().find(id, Family::of(address), number_of(address), e.service)
        }
    };
    Ok(json!({ "match": found.is_some(), "entry": found.as_ref().map(entry_text) }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplaceRequest {
    /// As a table's file has them.
    entries: String,
}

pub fn table_replace(d: &Daemon, call: &Call) -> Answer {
    let npf = npf(d)?;
    let id = npf.table(call.path("name"))?;
    let list = entries(&call.body::<ReplaceRequest>()?.entries, kind(&npf, call)?)?;
    let began = std::time::Instant::now();
    let n = list.len();
    npf.change_tables(|tables, now| tables.replace(id, &list, now)).map_err(|e| ApiError::conflict(e.to_string()))?;
    Ok(json!({ "entries": n, "live_us": began.elapsed().as_micros() as u64 }))
}

const fn query(name: &'static str, text: &'static str, required: bool) -> Param {
    Param { name, text, required }
}

/// The endpoints.
pub fn endpoints() -> Vec<Endpoint<Daemon>> {
    type Run = fn(&Daemon, &Call) -> Answer;
    let one = |method, path, id, summary, query, body, returns, run: Run| Endpoint {
        method,
        path,
        id,
        summary,
        query,
        body,
        returns,
        handler: Handler::Json(run),
    };
    const ENTRY: &[Param] = &[query("entry", "an entry of the table", true)];
    const ENTRY_OR_ALL: &[Param] = &[query("entry", "an entry; without one, all of them", false)];
    const RULE: &[Param] = &[
        query("id", "the rule's id in hex", false),
        query("rule", "the rule's text; without it and without an id, all of them", false),
    ];
    const LIST: &[Param] = &[
        query("most", "most connections that are told", false),
        query("family", "4 or 6", false),
        query("interface", "the interface on which they began", false),
        query("nat", "1: only those that are translated", false),
    ];
    let (set, table) = ("/v1/npf/rulesets/{name}", "/v1/npf/tables/{name}");
    vec![
        one("get", "/v1/npf", "getNpf", "The packet filter: its configuration and state", &[], None, "Npf", show),
        one(
            "put",
            "/v1/npf",
            "reloadNpf",
            "Put another configuration in force",
            &[],
            Some("NpfRequest"),
            "NpfReloaded",
            reload,
        ),
        one("post", "/v1/npf/start", "startNpf", "Have packets judged", &[], None, "Changed", start),
        one(
            "post",
            "/v1/npf/stop",
            "stopNpf",
            "Have packets judged no more; all that is loaded stays",
            &[],
            None,
            "Changed",
            stop,
        ),
        one(
            "post",
            "/v1/npf/flush",
            "flushNpf",
            "Take rules, tables and connections away",
            &[],
            None,
            "Changed",
            flush,
        ),
        one("get", "/v1/npf/stats", "getNpfStats", "Counters of the packet filter", &[], None, "NpfStats", stats),
        one("get", "/v1/npf/rules", "listNpfRules", "Rules, with what they decided", &[], None, "NpfRules", list_rules),
        one(
            "get",
            "/v1/npf/connections",
            "listNpfConnections",
            "Connections",
            LIST,
            None,
            "NpfConnections",
            connections,
        ),
        one(
            "get",
            set,
            "getNpfRuleset",
            "Rules of a dynamic ruleset, or maps of one for maps",
            &[],
            None,
            "NpfRuleset",
            ruleset,
        ),
        one(
            "post",
            set,
            "addNpfRule",
            "Add a rule to a dynamic ruleset, or a map to one for maps",
            &[],
            Some("NpfRuleRequest"),
            "NpfRuleAdded",
            rule_add,
        ),
        one(
            "delete",
            set,
            "removeNpfRule",
            "Take a rule, or all, out of a dynamic ruleset",
            RULE,
            None,
            "Changed",
            rule_remove,
        ),
        one("get", "/v1/npf/tables", "listNpfTables", "Tables of the packet filter", &[], None, "NpfTables", tables),
        one("get", table, "getNpfTable", "Entries of a table", &[], None, "NpfTable", table_),
        one(
            "post",
            table,
            "addNpfEntry",
            "Add an entry to a table",
            &[],
            Some("NpfEntryRequest"),
            "Changed",
            table_add,
        ),
        one(
            "put",
            table,
            "replaceNpfTable",
            "Give a table other entries, all at once",
            &[],
            Some("NpfEntriesRequest"),
            "NpfFilled",
            table_replace,
        ),
        one(
            "delete",
            table,
            "removeNpfEntry",
            "Take an entry, or all, out of a table",
            ENTRY_OR_ALL,
            None,
            "Changed",
            table_remove,
        ),
        one(
            "get",
            "/v1/npf/tables/{name}/test",
            "testNpfTable",
            "Whether an address is in a table",
            ENTRY,
            None,
            "NpfFound",
            table_test,
        ),
    ]
}

use table as table_;

/// Schemas of requests and answers.
pub fn schemas() -> Value {
    let string = || json!({ "type": "string" });
    let object = |text: &str| json!({ "type": "object", "description": text });
    let list = |of: Value| json!({ "type": "array", "items": of });
    let request = |text: &str, required: &[&str], fields: Value| {
        json!({
            "type": "object", "description": text, "required": required, "properties": fields,
            "additionalProperties": false,
        })
    };
    let mut all = Map::new();
    let mut add = |name: &str, schema: Value| _ = all.insert(name.to_owned(), schema);
    add("Npf", object("active, loaded, connections, file, text (npf.conf as it is in force), rules"));
    add(
        "NpfRequest",
        request(
            "npf.conf, with all files that it names",
            &["file", "text"],
            json!({
                "file": string(), "text": string(), "dry_run": { "type": "boolean" },
                "files": { "type": "object", "additionalProperties": { "type": "string" } },
            }),
        ),
    );
    add("NpfReloaded", object("file, rules, warnings, live_us: microseconds until the rules were in force"));
    add("NpfStats", object("counters by name; states: those of connections"));
    add("NpfRules", list(object("id, name, text, file, line, packets, bytes")));
    add("NpfConnections", object("connections, and more: whether there are more than were told"));
    add("NpfRuleset", list(object("id, text")));
    add("NpfRuleRequest", request("A rule as npf.conf has it", &["rule"], json!({ "rule": string() })));
    add("NpfRuleAdded", object("id of the rule, in hex"));
    add("NpfTables", list(object("name, type, entries: how many")));
    add("NpfTable", object("name, type, entries"));
    add(
        "NpfEntryRequest",
        request(
            "An entry as a table's file has it",
            &["entry"],
            json!({ "entry": string(), "stay": { "type": "number", "description": "seconds" } }),
        ),
    );
    add("NpfEntriesRequest", request("Entries, one a line", &["entries"], json!({ "entries": string() })));
    add("NpfFilled", object("entries: how many; live_us: microseconds until they were in force"));
    add("NpfTraced", object("a packet, the rules that match it, what becomes of it; or lost: how many were not told"));
    add("NpfLogged", object("a packet, and record: as npflog has it, in base64; or lost"));
    add("NpfState", object("a line: kind npf, rule, map, table, conn or end"));
    add("NpfStateRequest", request("Lines that were saved", &["lines"], json!({ "lines": list(object("a line")) })));
    add("NpfLoaded", object("connections, commands: how many were taken; refused: how many were not, by reason"));
    add("NpfFound", object("match; entry: the one that was found"));
    all.into()
}
