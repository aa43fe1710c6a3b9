//! Replay: packets in, one line for each out, without a daemon.
//!
//! A line in is `{"t":seconds,"if":"name","dir":"in|out|forw","pkt":"hex from the IP header"}`, and may have the `tag` that the packet
//! got where it came in. A line out is
//! `{"n":1,"verdict":"pass|block|kept","rule":"id or null","conn":"state or null","out":"hex or null","reply":"hex or null"}`:
//! `out` is the packet after translation and procedures; `kept` is a fragment that waits for others; `why` says why a packet
//! was blocked though no rule said so; `tag`, `route` and `logs` are there where a rule or a procedure gave one.

use crate::{
    engine::{Engine, Outcome, Place},
    evaluate::Where,
    npflog::{self, Logged},
    packet::Packet,
    state::Millis,
};
use serde::{Deserialize, Serialize};

/// A packet, as a line says it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Seconds since some start; never less than before.
    #[serde(default)]
    pub t: f64,
    /// The interface.
    #[serde(rename = "if")]
    pub interface: String,
    /// Which way it crosses it.
    pub dir: Dir,
    /// The packet in hex, from its IP header on.
    pub pkt: String,
    /// The tag that it got where it came in.
    #[serde(default)]
    pub tag: Option<String>,
}

/// Which way a packet crosses an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dir {
    /// It comes in.
    In,
    /// It leaves, and is our own.
    Out,
    /// It leaves, and came in by another interface.
    Forw,
}

impl From<Dir> for Where {
    fn from(dir: Dir) -> Where {
        match dir {
            Dir::In => Where::In,
            Dir::Out => Where::Out,
            Dir::Forw => Where::Forward,
        }
    }
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// Its number, from 1.
    pub n: u64,
    /// `pass`, `block` or `kept`.
    pub verdict: &'static str,
    /// The rule that decided.
    pub rule: Option<String>,
    /// The state of its connection after it.
    pub conn: Option<&'static str>,
    /// The packet in hex as it goes on.
    pub out: Option<String>,
    /// What its sender is told, in hex.
    pub reply: Option<String>,
    /// Why it was blocked, if no rule said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The tag that it carries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The interface that it leaves by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Logs that it is written to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<String>,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// It is not JSON of that form.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// The packet is no hex.
    #[error("pkt: {0}")]
    Hex(String),
    /// The time is none.
    #[error("t: {0} is no time that a packet can have")]
    Time(f64),
}

/// An engine that packets are replayed through.
pub struct Replay {
    engine: Engine,
    n: u64,
    log: Option<Vec<u8>>,
}

impl Replay {
    /// Replays through an engine.
    pub fn new(engine: Engine) -> Replay {
        Replay { engine, n: 0, log: None }
    }

    /// Keeps what procedures and rules log from here on, for [`Replay::take_log`].
    pub fn keep_log(&mut self) {
        self.log.get_or_insert_default();
    }

    /// What was logged since the last call: records of a file as [`npflog::file_header`] begins it.
    pub fn take_log(&mut self) -> Vec<u8> {
        self.log.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn note(&mut self, bytes: &[u8], interface: &str, way: Where, now: Millis, outcome: &Outcome) {
        let (Some(log), Ok(packet)) = (&mut self.log, Packet::read(bytes)) else { return };
        let rule = outcome.rule.and_then(|id| self.engine.ruleset()?.rule(id));
        let name = rule.and_then(|(_, rule)| rule.name.as_deref()).unwrap_or_default();
        let (pass, family) = (outcome.pass, packet.family);
        let logged = Logged { pass, family, interface, way, rule: rule.map(|(number, _)| number), name };
        log.extend(npflog::record(&logged, now.0, packet.here(bytes)));
    }

    /// The engine.
    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Judges the packet of a line.
    ///
    /// # Errors
    /// When it is no such line.
    pub fn line(&mut self, text: &str) -> Result<Judged, LineError> {
        let line: Line = serde_json::from_str(text)?;
        if !(0.0..=1e15).contains(&line.t) {
            return Err(LineError::Time(line.t));
        }
        let mut bytes = unhex(&line.pkt).map_err(LineError::Hex)?;
        let now = Millis((line.t * 1000.0).round() as u64);
        Ok(self.tagged(&mut bytes, &line.interface, line.dir.into(), now, line.tag.as_deref()))
    }

    /// Judges a packet.
    pub fn packet(&mut self, bytes: &mut Vec<u8>, interface: &str, way: Where, now: Millis) -> Judged {
        self.tagged(bytes, interface, way, now, None)
    }

    fn tagged(&mut self, bytes: &mut Vec<u8>, interface: &str, way: Where, now: Millis, tag: Option<&str>) -> Judged {
        self.n += 1;
        let tag = self.engine.ruleset().map_or(0, |r| r.tag_number(tag));
        let outcome = self.engine.handle(bytes, &Place { interface, way, now }, tag);
        if outcome.logs != 0 {
            self.note(bytes, interface, way, now, &outcome);
        }
        let ruleset = self.engine.ruleset();
        let logs = ruleset.map(|r| r.logs(outcome.logs).map(str::to_owned).collect()).unwrap_or_default();
        let route = ruleset.zip(outcome.route).and_then(|(r, route)| r.route(route)).map(str::to_owned);
        let tag = ruleset.and_then(|r| r.tag(outcome.tag)).map(str::to_owned);
        let Outcome { pass, kept, rule, fault, connection, reply, .. } = outcome;
        Judged {
            n: self.n,
            verdict: if kept {
                "kept"
            } else if pass {
                "pass"
            } else {
                "block"
            },
            rule: rule.map(|r| r.to_string()),
            conn: connection,
            out: (pass && !kept).then(|| hex(bytes)),
            reply: reply.map(|r| hex(&r)),
            why: fault.map(|f| f.to_string()),
            tag,
            route,
            logs,
        }
    }
}

/// Bytes in hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{b:02x}");
    }
    text
}

/// Bytes from hex; blanks and colons are passed over.
///
/// # Errors
/// What is wrong with it.
pub fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let mut digits = text.chars().filter(|c| !c.is_whitespace() && *c != ':');
    let mut bytes = Vec::with_capacity(text.len() / 2);
    while let Some(high) = digits.next() {
        let digit = |c: char| c.to_digit(16).ok_or_else(|| format!("{c:?} is no hex digit"));
        let low = digits.next().ok_or("an odd number of hex digits")?;
        bytes.push((digit(high)? << 4 | digit(low)?) as u8);
    }
    Ok(bytes)
}
