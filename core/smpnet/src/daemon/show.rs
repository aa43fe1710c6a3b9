//! Endpoints that only read.

use super::{
    requests::{BpfRequest, ExplainRequest, FileRequest},
    state::Daemon,
};
use crate::api::{ApiError, Call};
use serde_json::{Value, json};
use smpnet_abi::DropReason;
use smpnet_stack::Stack;
use std::net::Ipv4Addr;

pub type Answer = Result<Value, ApiError>;

/// A value that serde can always write becomes JSON; what cannot be is a fault of ours.
pub fn to_json(v: impl serde::Serialize) -> Answer {
    serde_json::to_value(v).map_err(|e| ApiError::internal(e.to_string()))
}

/// All interfaces, each with what its plugin says of it.
pub fn interfaces(d: &Daemon, _: &Call) -> Answer {
    d.router.stack.interfaces().into_iter().map(|i| interface_json(d, i)).collect()
}

/// One interface.
pub fn interface(d: &Daemon, call: &Call) -> Answer {
    let name = call.path("name");
    let all = d.router.stack.interfaces();
    match all.into_iter().find(|i| i.name == name) {
        Some(i) => interface_json(d, i),
        None => Err(ApiError::not_found(d.router.index(name).err().unwrap_or_default())),
    }
}

fn interface_json(d: &Daemon, i: smpnet_stack::IfStatus) -> Answer {
    let report = d.router.device_report(&i.name);
    let mut json = to_json(i)?;
    if let (Value::Object(json), Value::Object(report)) = (&mut json, report) {
        json.extend(report);
    }
    Ok(json)
}

pub fn routes(d: &Daemon, _: &Call) -> Answer {
    to_json(d.router.stack.routes())
}

pub fn route_get(d: &Daemon, call: &Call) -> Answer {
    let to = call.query("to").ok_or_else(|| ApiError::bad("\"to\" is missing"))?;
    let to: Ipv4Addr = to.parse().map_err(|_| ApiError::bad(format!("\"{to}\" is not an IPv4 address")))?;
    to_json(d.router.stack.route_get(to))
}

pub fn arp(d: &Daemon, _: &Call) -> Answer {
    to_json(d.router.stack.arp_list())
}

pub fn plugins(d: &Daemon, _: &Call) -> Answer {
    Ok(d.router.plugins.list())
}

pub fn filters(d: &Daemon, _: &Call) -> Answer {
    let fallen = d.fallen();
    let one = |f: Value| {
        let why = f["name"].as_str().and_then(|name| fallen.get(name)).cloned();
        let mut f = named(d, f);
        f["failed"] = json!(why);
        f
    };
    filter_list(d).map(|list| list.into_iter().map(one).collect())
}

/// All filters, of both kinds, by name.
pub fn filter_list(d: &Daemon) -> Result<Vec<Value>, ApiError> {
    let compiled = d.router.filters.list().into_iter().map(|f| to_json(f).map(of_kind_wasm));
    let mut all = compiled.chain(d.router.natives.list().into_iter().map(to_json)).collect::<Result<Vec<_>, _>>()?;
    all.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    Ok(all)
}

fn of_kind_wasm(mut f: Value) -> Value {
    if f["kind"] != "module" {
        f["kind"] = json!("wasm");
    }
    f
}

pub fn filter(d: &Daemon, call: &Call) -> Answer {
    if let Some(native) = d.router.natives.show(call.path("name")) {
        return to_json(native).map(|f| named(d, f));
    }
    let detail = d.router.filters.show(call.path("name")).map_err(|e| no_filter(d, call, &e.to_string()))?;
    let mut f = named(d, of_kind_wasm(to_json(detail)?));
    f["failed"] = json!(d.fallen().get(call.path("name")));
    if f["kind"] == "module" {
        f["code_cache"] = json!(d.router.filters.cache_stats());
        f["config"] = json!(d.config().filters.iter().find(|f| f.name == call.path("name")).and_then(|f| f.module()));
    }
    Ok(f)
}

pub fn filter_stats(d: &Daemon, call: &Call) -> Answer {
    stats_of(d, call.path("name")).map_err(|e| no_filter(d, call, &e.error))
}

/// What a filter of either kind counted.
pub fn stats_of(d: &Daemon, name: &str) -> Answer {
    if let Some(native) = d.router.natives.stats(name) {
        return to_json(native);
    }
    let mut stats = to_json(d.router.filters.stats(name).map_err(|e| ApiError::not_found(e.to_string()))?)?;
    stats["kind"] = json!(d.router.filters.list().into_iter().find(|f| f.name == name).map(|f| f.kind));
    Ok(of_kind_wasm(stats))
}

/// Adds the interface's name to what names it by index.
fn named(d: &Daemon, mut f: Value) -> Value {
    if let Some(index) = f.get("ifindex").and_then(Value::as_u64) {
        let name = d.router.stack.interfaces().into_iter().find(|i| u64::from(i.index.get()) == index).map(|i| i.name);
        f["interface"] = json!(name);
    }
    f
}

/// 404 with the nearest name.
pub fn no_filter(d: &Daemon, call: &Call, error: &str) -> ApiError {
    let names: Vec<String> = d.config().filters.into_iter().map(|f| f.name).collect();
    ApiError::not_found(error).hint(crate::config::did_you_mean(call.path("name"), &names))
}

pub fn sysctl(d: &Daemon, call: &Call) -> Answer {
    let prefix = call.query("prefix").unwrap_or("").trim_end_matches('.');
    let tree = d.router.runtime.sysctl();
    let found = tree.walk(prefix);
    if found.is_empty() && !prefix.is_empty() {
        let all: Vec<String> = tree.walk("").into_iter().map(|(n, ..)| n).collect();
        let hint = crate::config::nearest(prefix, &all).map(|n| format!("did you mean \"{n}\"?"));
        return Err(ApiError::not_found(format!("{prefix}: no such node")).hint(hint));
    }
    let node = |(name, value, doc): (String, smpnet_runtime::Value, String)| {
        let writable = tree.is_writable(&name);
        json!({"name": name, "value": value.to_json(), "doc": doc, "writable": writable})
    };
    Ok(found.into_iter().map(node).collect())
}

pub fn drops(d: &Daemon, _: &Call) -> Answer {
    let text = |name: &Value| DropReason::ALL.iter().find(|r| name == r.name()).map(|r| r.text());
    let mut all = to_json(d.router.stack.drops())?;
    for drop in all.as_array_mut().into_iter().flatten() {
        drop["text"] = json!(text(&drop["reason"]));
    }
    Ok(all)
}

/// The totals.
pub fn stats(d: &Daemon, _: &Call) -> Answer {
    let (runtime, stack) = (&d.router.runtime, &d.router.stack);
    let accounting = stack.accounting();
    let mut totals = to_json(accounting)?;
    totals["missing"] = json!(accounting.missing() as i64);
    let pool = runtime.pool().stats();
    let workers: Vec<Value> = (0..runtime.workers()).map(|n| subtree(d, &format!("kern.cpu.{n}"))).collect();
    Ok(json!({
        "accounting": totals,
        "protocols": protocols(stack),
        "adjacencies": to_json(stack.adjacency_status())?,
        "pool": {
            "cells": pool.total, "in_use": pool.in_use, "available": runtime.pool().available(),
            "shared": pool.shared, "caches": pool.caches, "alloc_failures": pool.alloc_failures,
            "bad_frees": pool.bad_frees, "page_size": pool.page_size,
        },
        "workers": workers,
        "daemon": daemon(d),
    }))
}

/// `{"ip": {"forward": 5, ...}, ...}`.
pub fn protocols(stack: &Stack) -> Value {
    let all = stack.protocol_stats();
    let object = |list: Vec<(&'static str, u64)>| -> Value { list.into_iter().map(|(n, v)| (n, json!(v))).collect() };
    json!({"ip": object(all.ip), "icmp": object(all.icmp), "arp": object(all.arp)})
}

fn daemon(d: &Daemon) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "uptime_s": d.started.elapsed().as_secs(),
        "file": d.file,
        "abi": format!("{}.{}", smpnet_abi::ABI_MAJOR, smpnet_abi::ABI_MINOR),
        "workers": d.router.runtime.workers(),
    })
}

pub fn version(d: &Daemon, _: &Call) -> Answer {
    Ok(daemon(d))
}

/// The nodes directly below `prefix` as an object.
fn subtree(d: &Daemon, prefix: &str) -> Value {
    let nodes = d.router.runtime.sysctl().walk(prefix).into_iter();
    let entry = |(name, value, _): (String, smpnet_runtime::Value, String)| {
        (name[prefix.len()..].trim_start_matches('.').to_owned(), value.to_json())
    };
    Value::Object(nodes.map(entry).collect())
}

/// Every queue between workers, with its counters.
pub fn queues(d: &Daemon, _: &Call) -> Answer {
    let mut queues: Vec<(String, Value)> = Vec::new();
    for (name, value, _) in d.router.runtime.sysctl().walk("kern.pktqueue") {
        let Some((queue, field)) = name.strip_prefix("kern.pktqueue.").and_then(|n| n.rsplit_once('.')) else {
            continue;
        };
        match queues.last_mut().filter(|(q, _)| q == queue) {
            Some((_, o)) => o[field] = value.to_json(),
            None => queues.push((queue.to_owned(), json!({"name": queue, field: value.to_json()}))),
        }
    }
    Ok(queues.into_iter().map(|(_, v)| v).collect())
}

pub fn config(d: &Daemon, _: &Call) -> Answer {
    to_json(d.config())
}

pub fn explain(d: &Daemon, call: &Call) -> Answer {
    let request: ExplainRequest = call.body()?;
    let (frame, beside) = (request.frame()?, request.beside()?);
    let index = d.router.index(&request.interface).map_err(ApiError::not_found)?;
    let router = &d.router;
    to_json(router.stack.explain_with(index, &frame, beside, &|at| router.opinions(at)))
}

pub fn check(d: &Daemon, call: &Call) -> Answer {
    let request: FileRequest = call.body()?;
    let (_, report) = d.check(&request.file, &request.text);
    Ok(json!({"ok": !report.has_errors(), "file": report.file, "problems": report.problems}))
}

pub fn bpf_compile(_: &Daemon, call: &Call) -> Answer {
    let request: BpfRequest = call.body()?;
    let dlt: smpnet_bpf::Dlt = match &request.dlt {
        Some(d) => d.parse().map_err(|e: smpnet_bpf::UnknownDlt| ApiError::bad(e.to_string()))?,
        None => smpnet_bpf::Dlt::Raw,
    };
    let compiled = smpnet_bpf::compile_expr(&request.expr, dlt).map_err(|e| ApiError::bad(e.to_string()))?;
    let insns = compiled.program.insns();
    let listing = smpnet_bpf::disasm(insns);
    Ok(json!({
        "expression": request.expr,
        "dlt": dlt.to_string(),
        "engine": compiled.engine.to_string(),
        "instructions": insns.len(),
        "program": listing.lines().collect::<Vec<_>>(),
        "decimal": smpnet_bpf::decimal(insns),
    }))
}
