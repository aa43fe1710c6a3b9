//! Endpoints that show npf at work: packets that are traced, and packets that are logged, a line of JSON for each as it comes.

use super::state::Daemon;
use crate::api::{ApiError, Call, Endpoint, Handler, Param, Stream};
use axum::body::Bytes;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use smpnet_npf::{
    evaluate::Where,
    language::print_rule,
    packet::{Packet, address_of},
    router::{Copied, Npf, Watching},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

/// How long a thread that has nothing to send waits before it looks again.
const PAUSE: Duration = Duration::from_millis(10);
/// Lines that wait for the client.
const LINES: usize = 256;

/// A trace ends when its client goes away.
pub fn trace(d: &Daemon, call: &Call) -> Result<Stream, ApiError> {
    let npf = super::npf::npf(d)?;
    let expression = call.query("expr").unwrap_or_default();
    let watching = npf.trace(expression).map_err(|e| ApiError::bad(e.to_string()))?;
    Ok(stream(watching, move |copied| traced(&npf, copied)))
}

/// What is written to a log.
pub fn log(d: &Daemon, call: &Call) -> Result<Stream, ApiError> {
    let npf = super::npf::npf(d)?;
    let name = call.query("log").unwrap_or("npflog0");
    let ruleset = npf.ruleset();
    if !ruleset.logs(u32::MAX).any(|log| log == name) {
        let there: Vec<&str> = ruleset.logs(u32::MAX).collect();
        return Err(ApiError::not_found(format!("no rule or procedure writes to a log \"{name}\""))
            .hint(format!("there is {}", there.join(", "))));
    }
    let watching = npf.log(name);
    Ok(stream(watching, move |copied| {
        let mut line = told(&npf, copied);
        line["record"] = STANDARD.encode(npf.npflog(copied)).into();
        line
    }))
}

fn stream(watching: Watching, line: impl Fn(&Copied) -> Value + Send + 'static) -> Stream {
    let (tx, chunks) = tokio::sync::mpsc::channel::<Bytes>(LINES);
    let gone = Arc::new(AtomicBool::new(false));
    let stop = gone.clone();
    let send = move || {
        let mut lost = 0;
        while !stop.load(Relaxed) {
            let now = watching.lost();
            if now != lost {
                let _ = tx.blocking_send(Bytes::from(format!("{}\n", json!({ "lost": now - lost }))));
                lost = now;
            }
            let Some(copied) = watching.take() else {
                std::thread::sleep(PAUSE);
                continue;
            };
            if tx.blocking_send(Bytes::from(format!("{}\n", line(&copied)))).is_err() {
                return;
            }
        }
    };
    // Without a thread the stream ends at once.
    if let Err(e) = std::thread::Builder::new().name("smpnet-npf-w".into()).spawn(send) {
        tracing::warn!("no thread for a watcher of npf: {e}");
    }
    Stream {
        header: ("smpnet-watch", "npf".to_owned()),
        chunks,
        trailer: ("smpnet-ended", Box::new(|| None)),
        gone: Box::new(move || gone.store(true, Relaxed)),
    }
}

/// Both ends of a packet.
fn ends(bytes: &[u8], len: usize) -> Option<(Packet, Value)> {
    let p = Packet::read_head(bytes, len).ok()?;
    let ports = p.ports().map(|p| (p.src, p.dst)).unwrap_or_default();
    let (src, dst) = (address_of(p.family, p.src), address_of(p.family, p.dst));
    Some((p, json!({ "source": [src, ports.0], "destination": [dst, ports.1], "proto": p.proto })))
}

/// What is known of a packet without asking rules.
fn told(npf: &Npf, c: &Copied) -> Value {
    let ruleset = npf.ruleset();
    let rule = c.outcome.rule.and_then(|id| ruleset.rule(id)).map(|(_, rule)| rule);
    let dir = match c.way {
        Where::In => "in",
        Where::Out => "out",
        Where::Forward => "forw",
    };
    let mut line = json!({
        "t": c.at_ns as f64 / 1e9, "if": c.interface, "dir": dir, "len": c.len, "worker": c.worker,
        "verdict": if c.outcome.pass { "pass" } else { "block" },
        "rule": rule.map(|r| json!({
            "id": r.id.to_string(), "name": r.name, "line": r.at.line, "text": print_rule(&ruleset.config, r),
        })),
        "why": c.outcome.fault.map(|f| f.to_string()),
        "conn": c.outcome.connection,
        "tag": ruleset.tag(c.outcome.tag),
    });
    if let (Some((_, ends)), Value::Object(line)) = (ends(&c.bytes, c.len), &mut line)
        && let Value::Object(ends) = ends
    {
        line.extend(ends);
    }
    line
}

fn traced(npf: &Npf, c: &Copied) -> Value {
    let mut line = told(npf, c);
    let ruleset = npf.ruleset();
    let way = npf
        .way(c)
        .into_iter()
        .filter_map(|id| ruleset.rule(id))
        .map(|(_, r)| json!({ "id": r.id.to_string(), "name": r.name, "text": print_rule(&ruleset.config, r) }));
    line["matches"] = way.collect();
    let after = c.after.as_ref().and_then(|bytes| ends(bytes, c.len));
    if let Some((_, after)) = after
        && (after["source"] != line["source"] || after["destination"] != line["destination"])
    {
        line["becomes"] = after;
    }
    line
}

/// The endpoints.
pub fn endpoints() -> Vec<Endpoint<Daemon>> {
    const EXPR: &[Param] = &[Param { name: "expr", text: "pcap-filter(7), from the IP header on", required: false }];
    const LOG: &[Param] = &[Param { name: "log", text: "the log; npflog0 without it", required: false }];
    let lines = "application/x-ndjson";
    vec![
        Endpoint {
            method: "get",
            path: "/v1/npf/trace",
            id: "traceNpf",
            summary: "Packets that an expression accepts, with their way through the rules, as they come",
            query: EXPR,
            body: None,
            returns: "NpfTraced",
            handler: Handler::Stream(lines, trace),
        },
        Endpoint {
            method: "get",
            path: "/v1/npf/log",
            id: "logNpf",
            summary: "Packets that rules and procedures log, as they come; record: as npflog has it, in base64",
            query: LOG,
            body: None,
            returns: "NpfLogged",
            handler: Handler::Stream(lines, log),
        },
    ]
}
