//! The runtime's own nodes of the sysctl tree.

use crate::{
    Node, PktQueue, SoftintLevel, Sysctl, Value, Workqueue,
    worker::{Shared, WorkerStats},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// `name` as a part of a path.
pub(crate) fn part(name: &str) -> String {
    let ok = |c: char| c.is_ascii_alphanumeric() || "_-%".contains(c);
    let name: String = name.chars().map(|c| if ok(c) { c } else { '_' }).collect();
    if name.is_empty() { "_".into() } else { name }
}

pub(crate) fn runtime(tree: &Sysctl, shared: &Arc<Shared>) {
    let n = shared.stats.len();
    tree.add("hw.ncpuonline", "workers of this router", Node::read_only(move || n as u64));
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    tree.add("hw.ncpu", "CPUs that this process may use", Node::read_only(move || cpus));
    let page = shared.pool.desc().page_size;
    tree.add("hw.pagesize", "bytes of a page of packet memory", Node::read_only(move || u64::from(page)));
    for cpu in 0..n {
        worker(tree, shared, cpu);
    }
    pool(tree, shared);
    domain(tree, shared);
    callouts(tree, shared);
    softints(tree, shared);
}

fn worker(tree: &Sysctl, shared: &Arc<Shared>, cpu: usize) {
    type Field = fn(&WorkerStats) -> &AtomicU64;
    let fields: [(&str, &str, Field); 9] = [
        ("rounds", "rounds of the worker's loop", |s| &s.rounds),
        ("busy_rounds", "rounds that found work", |s| &s.busy_rounds),
        ("busy_ns", "nanoseconds in rounds that found work", |s| &s.busy_ns),
        ("idle_ns", "nanoseconds in rounds that found none", |s| &s.idle_ns),
        ("sleep_ns", "nanoseconds asleep", |s| &s.sleep_ns),
        ("sleeps", "times that it slept", |s| &s.sleeps),
        ("wakes", "sleeps that another thread ended", |s| &s.wakes),
        ("panics", "panics caught", |s| &s.panics),
        ("pollers", "pollers that it serves", |s| &s.pollers),
    ];
    for (name, doc, field) in fields {
        let shared = Arc::downgrade(shared);
        let get = move || shared.upgrade().map_or(0, |s| field(&s.stats[cpu]).load(Relaxed));
        tree.add(&format!("kern.cpu.{cpu}.{name}"), doc, Node::read_only(get));
    }
    let shared = Arc::downgrade(shared);
    let get = move || shared.upgrade().map_or(0, |s| s.stats[cpu].utilisation());
    tree.add(
        &format!("kern.cpu.{cpu}.utilisation"),
        "percent of the time with work since the start",
        Node::read_only(get),
    );
}

fn pool(tree: &Sysctl, shared: &Arc<Shared>) {
    type Field = fn(&crate::PoolStats) -> u64;
    let fields: [(&str, &str, Field); 6] = [
        ("cells", "cells of packet memory", |s| s.total),
        ("shared", "free cells that no worker holds", |s| s.shared),
        ("cached", "free cells in the workers' caches", |s| s.caches.iter().sum()),
        ("in_use", "cells that hold packets", |s| s.in_use),
        ("alloc_failures", "times that no cell was free", |s| s.alloc_failures),
        ("bad_frees", "indices freed that were no packets", |s| s.bad_frees),
    ];
    for (name, doc, field) in fields {
        let shared = Arc::downgrade(shared);
        let get = move || shared.upgrade().map_or(0, |s| field(&s.pool.stats()));
        tree.add(&format!("kern.pool.{name}"), doc, Node::read_only(get));
    }
    let (size, bytes) = (shared.pool.cell_size() as u64, shared.pool.desc().bytes);
    tree.add("kern.pool.cell_size", "bytes of a cell", Node::read_only(move || size));
    tree.add("kern.pool.bytes", "bytes of packet memory", Node::read_only(move || bytes));
}

fn domain(tree: &Sysctl, shared: &Arc<Shared>) {
    type Field = fn(&crate::DomainStats) -> u64;
    let fields: [(&str, &str, Field); 3] = [
        ("performs", "grace periods waited for", |s| s.performs),
        ("retired", "objects given to the reaper", |s| s.retired),
        ("reclaimed", "objects that the reaper dropped", |s| s.reclaimed),
    ];
    for (name, doc, field) in fields {
        let domain = Arc::downgrade(&shared.domain);
        let get = move || domain.upgrade().map_or(0, |d| field(&d.stats()));
        tree.add(&format!("kern.pserialize.{name}"), doc, Node::read_only(get));
    }
}

fn callouts(tree: &Sysctl, shared: &Arc<Shared>) {
    type Field = fn(&crate::callout::CalloutStats) -> &AtomicU64;
    let fields: [(&str, &str, Field); 3] = [
        ("scheduled", "callouts scheduled", |s| &s.scheduled),
        ("fired", "callouts that ran", |s| &s.fired),
        ("stopped", "callouts stopped before they ran", |s| &s.stopped),
    ];
    for (name, doc, field) in fields {
        let shared = Arc::downgrade(shared);
        let sum = move || {
            shared.upgrade().map_or(0, |s| s.callouts.iter().map(|c| field(&c.stats).load(Relaxed)).sum::<u64>())
        };
        tree.add(&format!("kern.callout.{name}"), doc, Node::read_only(sum));
    }
}

fn softints(tree: &Sysctl, shared: &Arc<Shared>) {
    for level in [SoftintLevel::Clock, SoftintLevel::Bio, SoftintLevel::Net, SoftintLevel::Serial] {
        let shared = Arc::downgrade(shared);
        let get = move || {
            let list = shared.upgrade().map_or_else(Vec::new, |s| s.softints.list());
            let of_level = list.into_iter().filter(|(l, ..)| *l == level);
            Value::Json(of_level.map(|(_, name, runs)| (name, serde_json::Value::from(runs))).collect())
        };
        let path = format!("kern.softint.{}", level.name());
        tree.add(&path, "runs of each handler of this level", Node::read_only(get));
    }
}

fn pktqueue_path(queue: &PktQueue) -> String {
    format!("kern.pktqueue.{}", part(queue.name()))
}

pub(crate) fn pktqueue(tree: &Sysctl, queue: &Arc<PktQueue>) {
    type Field = fn(&crate::PktQueueStats) -> u64;
    let fields: [(&str, &str, Field); 4] = [
        ("len", "packets in the queue", |s| s.len),
        ("enqueued", "packets accepted", |s| s.enqueued),
        ("drops", "packets refused, because the queue was full", |s| s.dropped),
        ("dequeued", "packets taken out", |s| s.dequeued),
    ];
    let path = pktqueue_path(queue);
    for (name, doc, field) in fields {
        let queue = queue.clone();
        tree.add(&format!("{path}.{name}"), doc, Node::read_only(move || field(&queue.stats())));
    }
    let (get, set) = (queue.clone(), queue.clone());
    let resize = move |value| match value {
        Value::UInt(n @ 2..=1_048_576) => {
            if set.resize(n as usize) {
                Ok(())
            } else {
                Err("the queue has been closed".into())
            }
        }
        _ => Err("must be 2 to 1048576".to_owned()),
    };
    let node = Node::writable(move || get.stats().max_len, resize);
    tree.add(&format!("{path}.maxlen"), "packets that a worker's ring holds; rounded up to a power of two", node);
}

pub(crate) fn remove_pktqueue(tree: &Sysctl, queue: &PktQueue) {
    tree.remove_tree(&pktqueue_path(queue));
}

pub(crate) fn workqueue(tree: &Sysctl, queue: &Arc<Workqueue>) {
    type Field = fn(&crate::WorkqueueStats) -> u64;
    let fields: [(&str, &str, Field); 6] = [
        ("len", "pieces of work that wait", |s| s.len),
        ("maxlen", "pieces of work that may wait", |s| s.max_len),
        ("enqueued", "pieces of work taken", |s| s.enqueued),
        ("drops", "pieces of work refused, because the queue was full", |s| s.dropped),
        ("done", "pieces of work done", |s| s.done),
        ("panics", "pieces of work that panicked", |s| s.panics),
    ];
    let path = format!("kern.workqueue.{}", part(queue.name()));
    // The nodes of a queue that is gone make room for one of the same name.
    tree.remove_tree(&path);
    for (name, doc, field) in fields {
        let queue = Arc::downgrade(queue);
        let get = move || queue.upgrade().map_or(0, |q| field(&q.stats()));
        tree.add(&format!("{path}.{name}"), doc, Node::read_only(get));
    }
}

/// The statistics of a hash table; `stats` says `None` when it is gone.
pub(crate) fn hash(
    tree: &Sysctl,
    name: &str,
    stats: impl Fn() -> Option<crate::HashStats> + Clone + Send + Sync + 'static,
) {
    type Field = fn(&crate::HashStats) -> u64;
    let fields: [(&str, &str, Field); 4] = [
        ("buckets", "buckets of the table", |s| s.buckets),
        ("used", "buckets with at least one entry", |s| s.used),
        ("items", "entries", |s| s.items),
        ("longest", "entries of the fullest bucket", |s| s.longest),
    ];
    let path = format!("kern.hashstat.{}", part(name));
    // The nodes of a table that is gone make room for one of the same name.
    tree.remove_tree(&path);
    for (name, doc, field) in fields {
        let stats = stats.clone();
        let get = move || stats().map_or(0, |s| field(&s));
        tree.add(&format!("{path}.{name}"), doc, Node::read_only(get));
    }
}
