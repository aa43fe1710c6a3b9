//! Who watches: copies of packets that a rule or a procedure logs, and of packets that somebody traces.
//!
//! While nobody watches, it costs a load and a predicted branch for a burst. A copy that a slow watcher has no room for is
//! lost and counted; packets never wait.

use super::{Npf, hook::Hook, packets::Work};
use crate::{
    config::{Family, Rule, RuleId},
    engine::{Outcome, Ruleset},
    evaluate::{Asked, Evaluator, Where},
    npflog::{self, Logged},
    packet::Packet,
};
use crossbeam_queue::ArrayQueue;
use smpnet_bpf::{Dlt, Program, compile_expr};
use smpnet_runtime::Packet as Cell;
use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Copies that wait for a watcher.
const QUEUE: usize = 4096;
/// Most bytes of a packet that are copied: NetBSD's npfd takes 116.
const SNAP: usize = 2048;

/// A packet as a watcher gets it.
#[derive(Clone, Debug)]
pub struct Copied {
    /// When: nanoseconds since the epoch.
    pub at_ns: u64,
    /// The interface that it crosses.
    pub interface: String,
    /// Which way.
    pub way: Where,
    /// Its first bytes as it came, for traces; as it goes on, for logs.
    pub bytes: Vec<u8>,
    /// Bytes that it has.
    pub len: usize,
    /// The tag that it came with.
    pub tag: u16,
    /// What became of it.
    pub outcome: Outcome,
    /// Its first bytes as it goes on, of traces.
    pub after: Option<Vec<u8>>,
    /// The worker that judged it.
    pub worker: usize,
}

/// What watchers want.
enum Wish {
    /// Packets that a program accepts.
    Trace(Box<Program>),
    /// Packets that are written to the log of this name.
    Log(String),
}

/// A watcher, as workers see it.
pub(super) struct Watcher {
    wish: Wish,
    copies: ArrayQueue<Copied>,
    lost: AtomicU64,
}

impl Watcher {
    fn give(&self, copied: Copied) {
        if self.copies.push(copied).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

/// All watchers.
pub(super) type Watchers = Vec<Arc<Watcher>>;

/// A packet that is traced, before it is judged: its number in the burst, who traces it, and the copy.
pub(super) struct Traced {
    pub number: usize,
    watcher: Arc<Watcher>,
    bytes: Vec<u8>,
    tag: u16,
}

/// Where a burst is, for copies.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub interface: &'a str,
    pub way: Where,
    pub worker: usize,
}

fn head(packet: &Cell<'_>) -> Vec<u8> {
    let mut bytes = vec![0; (packet.len() as usize).min(SNAP)];
    let got = packet.copy_to(&mut bytes, 0);
    bytes.truncate(got);
    bytes
}

/// Copies a packet for those who trace it.
#[cold]
pub(super) fn before(watchers: &Watchers, work: &mut Work, number: usize, packet: &Cell<'_>, tag: u16) {
    for watcher in watchers {
        let Wish::Trace(program) = &watcher.wish else { continue };
        let bytes = head(packet);
        if program.run(&bytes, packet.len()) != 0 {
            work.traced.push(Traced { number, watcher: watcher.clone(), bytes, tag });
        }
    }
}

/// Tells watchers what became of a packet.
#[cold]
pub(super) fn after(
    watchers: &Watchers,
    work: &mut Work,
    number: usize,
    packet: &Cell<'_>,
    outcome: &Outcome,
    ruleset: &Ruleset,
    at: At<'_>,
) {
    let copy = |bytes: Vec<u8>, tag, after| Copied {
        at_ns: std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos() as u64),
        interface: at.interface.to_owned(),
        way: at.way,
        bytes,
        len: packet.len() as usize,
        tag,
        outcome: outcome.clone(),
        after,
        worker: at.worker,
    };
    if outcome.logs != 0 {
        for watcher in watchers {
            if matches!(&watcher.wish, Wish::Log(name) if ruleset.logs(outcome.logs).any(|log| log == name)) {
                watcher.give(copy(head(packet), outcome.tag, None));
            }
        }
    }
    // Who hands it over does not know yet what becomes of it; the worker that judges it tells.
    let mut i = 0;
    while i < work.traced.len() {
        if work.traced[i].number != number {
            i += 1;
            continue;
        }
        let Traced { watcher, bytes, tag, .. } = work.traced.swap_remove(i);
        if outcome.steer.is_none() {
            let after = outcome.pass.then(|| head(packet));
            watcher.give(copy(bytes, tag, after));
        }
    }
}

/// Copies of packets, until it is dropped.
pub struct Watching {
    hook: Arc<Hook>,
    watcher: Arc<Watcher>,
}

impl Watching {
    /// The next copy, if there is one.
    pub fn take(&self) -> Option<Copied> {
        self.watcher.copies.pop()
    }

    /// Copies that were lost so far, since they were not taken in time.
    pub fn lost(&self) -> u64 {
        self.watcher.lost.load(Relaxed)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.hook.change_watchers(|all| all.retain(|w| !Arc::ptr_eq(w, &self.watcher)));
    }
}

/// Why nobody watches.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The expression of pcap-filter(7) is none.
    #[error("{0}")]
    Expression(smpnet_bpf::ExprError),
}

impl Npf {
    /// Copies of packets that an expression of pcap-filter(7) accepts, from the IP header on, and what becomes of them.
    ///
    /// # Errors
    /// When the expression is none.
    pub fn trace(&self, expression: &str) -> Result<Watching, WatchError> {
        let compiled = compile_expr(expression, Dlt::Raw).map_err(WatchError::Expression)?;
        Ok(self.watch(Wish::Trace(Box::new(compiled.program))))
    }

    /// Copies of packets that are written to the log of a name, such as `npflog0`.
    pub fn log(&self, name: &str) -> Watching {
        self.watch(Wish::Log(name.to_owned()))
    }

    fn watch(&self, wish: Wish) -> Watching {
        let watcher = Arc::new(Watcher { wish, copies: ArrayQueue::new(QUEUE), lost: AtomicU64::new(0) });
        self.hook.change_watchers(|all| all.push(watcher.clone()));
        Watching { hook: self.hook.clone(), watcher }
    }

    /// The rules that match a packet, in the order in which they are looked at: the last one decides. Connections are not
    /// asked, nor limits. As rules and tables are now.
    pub fn way(&self, copied: &Copied) -> Vec<RuleId> {
        self.ask_rules(&copied.interface, copied.way, (&copied.bytes, copied.len), copied.tag).0
    }

    /// What rules would say of a packet of so many bytes, of which the first are here: all that match, in their order, and the
    /// one that decides. Connections are not asked, nor limits; nothing is changed.
    pub fn ask_rules(
        &self,
        interface: &str,
        way: Where,
        (bytes, len): (&[u8], usize),
        tag: u16,
    ) -> (Vec<RuleId>, Option<Rule>) {
        let Ok(packet) = Packet::read_head(bytes, len) else { return (Vec::new(), None) };
        let (ruleset, tables, addresses) = self.in_force();
        let matched = RefCell::new(Vec::new());
        let within = |rule: &Rule| {
            matched.borrow_mut().push(rule.id);
            true
        };
        let asked = Asked { packet: &packet, bytes, interface, way, tag: ruleset.tag(tag) };
        let evaluator = Evaluator::new(ruleset.programs(), &tables, &*addresses, &ruleset.dynamic, &within);
        let decides = evaluator.decide(&ruleset.config, &asked).cloned();
        (matched.into_inner(), decides)
    }

    /// A copy as npflog has it: a record of a file that begins with [`npflog::file_header`].
    /// Nothing for what is no IP packet.
    pub fn npflog(&self, copied: &Copied) -> Vec<u8> {
        let ruleset = self.ruleset();
        let rule = copied.outcome.rule.and_then(|id| ruleset.rule(id));
        let family = match copied.bytes.first().map(|b| b >> 4) {
            Some(4) => Family::V4,
            Some(6) => Family::V6,
            _ => return Vec::new(),
        };
        let logged = Logged {
            pass: copied.outcome.pass,
            family,
            interface: &copied.interface,
            way: copied.way,
            rule: rule.map(|(number, _)| number),
            name: rule.and_then(|(_, r)| r.name.as_deref()).unwrap_or_default(),
        };
        npflog::record(&logged, copied.at_ns / 1_000_000, &copied.bytes)
    }
}
