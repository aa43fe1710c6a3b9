//! Loading, swapping and watching native filters on a running router.

use super::counts::{Books, NativeCounts};
use super::hook::Hook;
use super::instance::Instance;
use serde::Serialize;
use serde_json::Value;
use smpnet_abi::{FilterTable, HostServices, verdict};
use smpnet_runtime::{Runtime, WorkerCx};
use smpnet_stack::{AtHook, FilterOpinion, HookLayer, IfIndex, Stack};
use smpnet_wasm::{Dirs, Layer, OnFault, State};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

/// Where a native filter sits, and what becomes of packets when it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct NativePlace {
    /// What it sees.
    pub layer: Layer,
    /// The interface; `None` for all.
    pub ifindex: Option<u32>,
    /// Directions.
    pub dirs: Dirs,
    /// Order among the filters of a place: lower numbers are asked first.
    pub priority: i32,
    /// What becomes of packets when it fails.
    pub on_fault: OnFault,
}

/// A native filter to be loaded.
#[derive(Clone)]
pub struct NativeSpec {
    /// Name of the instance, which no other filter has.
    pub name: String,
    /// The filter's table, as the loader found it.
    pub table: &'static FilterTable,
    /// Name of the filter (`loss`).
    pub native: String,
    /// Its own options, a JSON object.
    pub options: Value,
    /// Where it sits.
    pub place: NativePlace,
}

/// What a load or swap did. Times in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NativeReport {
    /// Name of the instance.
    pub name: String,
    /// `native`.
    pub kind: &'static str,
    /// Name of the filter.
    pub native: String,
    /// 1, and one more for each swap.
    pub generation: u64,
    /// What `create` took.
    pub instantiate_us: f64,
    /// From then until every packet was judged by the new instance.
    pub adopt_us: f64,
    /// Workers that ask it.
    pub workers: usize,
}

/// One line on a native filter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NativeStatus {
    /// Name of the instance.
    pub name: String,
    /// `native`.
    pub kind: &'static str,
    /// How it is: `faulted` when its policy drops all packets, `detached` when it was taken off its hooks.
    pub state: State,
    /// Name of the filter.
    pub native: String,
    /// The filter and its options, for people.
    pub text: String,
    /// 1, and one more for each swap.
    pub generation: u64,
    /// Where it sits.
    #[serde(flatten)]
    pub place: NativePlace,
    /// Counters over all generations and workers.
    #[serde(flatten)]
    pub counts: NativeCounts,
}

/// All about a native filter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NativeDetail {
    /// The short form.
    #[serde(flatten)]
    pub status: NativeStatus,
    /// Its options.
    pub options: Value,
    /// What it says of itself; `None` when it is out of service.
    pub report: Option<Value>,
    /// What it did wrong.
    pub last_fault: Option<String>,
}

/// What a native filter counted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NativeStats {
    /// Name of the instance.
    pub name: String,
    /// `native`.
    pub kind: &'static str,
    /// The instance in force.
    pub generation: u64,
    /// Nanoseconds per packet, sampled over one in 64 bursts.
    pub ns_per_packet: Option<f64>,
    /// Over all workers.
    pub total: NativeCounts,
    /// For each worker.
    pub per_worker: Vec<NativeCounts>,
}

/// A native filter that was taken out of service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Name of the instance.
    pub filter: String,
    /// Name of the filter.
    pub native: String,
    /// What it did wrong.
    pub reason: String,
    /// What becomes of its packets.
    pub on_fault: OnFault,
}

/// All native filters of a router. Methods may be called on any control thread; they take effect one after the other.
/// Dropping it detaches and destroys its filters.
pub struct NativeFilters {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Arc<Runtime>,
    stack: Arc<Stack>,
    host: &'static HostServices,
    tell: Box<dyn Fn(&Quarantined) + Send + Sync>,
    entries: Mutex<BTreeMap<String, Entry>>,
}

struct Entry {
    hook: Arc<Hook>,
    /// The hook's id in the stack; `None` when a fault took it off.
    attached: Option<u64>,
    /// Whether a fault was seen to.
    attended: bool,
    native: String,
    options: Value,
    place: NativePlace,
    generation: u64,
}

impl NativeFilters {
    /// No filters yet. `tell` hears, on a control thread, of each filter that is taken out of service.
    pub fn new(
        runtime: Arc<Runtime>,
        stack: Arc<Stack>,
        host: &'static HostServices,
        tell: impl Fn(&Quarantined) + Send + Sync + 'static,
    ) -> NativeFilters {
        let inner = Inner { runtime, stack, host, tell: Box::new(tell), entries: Mutex::default() };
        NativeFilters { inner: Arc::new(inner) }
    }

    /// Makes an instance and attaches it.
    ///
    /// # Errors
    /// What the plugin says, a known name, an interface that is not there. Nothing stays behind.
    pub fn load(&self, spec: NativeSpec) -> Result<NativeReport, String> {
        let mut entries = self.inner.lock();
        if entries.contains_key(&spec.name) {
            return Err(format!("a filter named {} is loaded already: swap it, or detach it first", spec.name));
        }
        let books = (0..self.inner.runtime.workers()).map(|_| Books::default()).collect();
        let began = Instant::now();
        let hook = self.inner.make(&spec.name, spec.table, &spec.options, spec.place.on_fault, books)?;
        let instantiate_us = micros(began);
        let began = Instant::now();
        let attached = match self.inner.attach(&spec.place, &hook) {
            Ok(id) => Some(id),
            Err(e) => {
                destroy(&hook);
                return Err(e);
            }
        };
        let NativeSpec { name, native, options, place, .. } = spec;
        let entry = Entry { hook, attached, attended: false, native, options, place, generation: 1 };
        let report = entry.report(instantiate_us, micros(began));
        entries.insert(name, entry);
        Ok(report)
    }

    /// Puts another instance in a filter's place: every burst is judged by one of the two. One that a fault took off its
    /// hooks goes back on them.
    ///
    /// # Errors
    /// An unknown name, what the plugin says. The old instance goes on.
    pub fn swap(
        &self,
        name: &str,
        native: &str,
        table: &'static FilterTable,
        options: &Value,
    ) -> Result<NativeReport, String> {
        let mut entries = self.inner.lock();
        let entry = entries.get_mut(name).ok_or_else(|| not_found(name))?;
        let began = Instant::now();
        let hook = self.inner.make(name, table, options, entry.place.on_fault, entry.hook.books.clone())?;
        let instantiate_us = micros(began);
        let began = Instant::now();
        let put = match entry.attached {
            Some(id) => self.inner.stack.pfil_replace(id, hook.clone()).map(|()| id).map_err(|e| e.to_string()),
            None => self.inner.attach(&entry.place, &hook),
        };
        match put {
            Ok(id) => entry.attached = Some(id),
            Err(e) => {
                destroy(&hook);
                return Err(e);
            }
        }
        let old = std::mem::replace(&mut entry.hook, hook);
        destroy(&old);
        entry.attended = false;
        entry.generation += 1;
        (entry.native, entry.options) = (native.to_owned(), options.clone());
        Ok(entry.report(instantiate_us, micros(began)))
    }

    /// Takes a filter off its hooks and ends it. When it returns, no packet is judged by it any more.
    ///
    /// # Errors
    /// An unknown name.
    pub fn detach(&self, name: &str) -> Result<(), String> {
        let entry = self.inner.lock().remove(name).ok_or_else(|| not_found(name))?;
        self.inner.bury(entry);
        Ok(())
    }

    /// Whether there is a filter of that name.
    pub fn has(&self, name: &str) -> bool {
        self.inner.lock().contains_key(name)
    }

    /// All filters, by name.
    pub fn list(&self) -> Vec<NativeStatus> {
        self.inner.lock().iter().map(|(name, e)| e.status(name)).collect()
    }

    /// All about one filter, if there is one of that name.
    pub fn show(&self, name: &str) -> Option<NativeDetail> {
        let entries = self.inner.lock();
        let e = entries.get(name)?;
        let fault = e.hook.fault().map(str::to_owned);
        // SAFETY: instances are destroyed after their entry was removed or given another, under the lock that is held.
        let report = if fault.is_none() { unsafe { e.hook.instance.status() } } else { None };
        Some(NativeDetail { status: e.status(name), options: e.options.clone(), report, last_fault: fault })
    }

    /// What one filter counted, if there is one of that name.
    pub fn stats(&self, name: &str) -> Option<NativeStats> {
        let entries = self.inner.lock();
        let e = entries.get(name)?;
        let per_worker: Vec<NativeCounts> = e.hook.books.iter().map(Books::read).collect();
        let total = e.total();
        let (name, generation, ns_per_packet) = (name.to_owned(), e.generation, total.ns_per_packet());
        Some(NativeStats { name, kind: "native", generation, ns_per_packet, total, per_worker })
    }

    /// What a filter would say of a packet, if there is one of that name. One whose verdict depends on the packet alone
    /// (it says so itself) is asked about a copy, on a worker; another is not, as asking would change it.
    pub fn opinion(&self, name: &str, at: &AtHook<'_>) -> Option<FilterOpinion> {
        let entries = self.inner.lock();
        let e = entries.get(name)?;
        let opinion =
            |pass, detail: String| FilterOpinion { name: name.to_owned(), pass, detail, ..FilterOpinion::default() };
        let text = e.text();
        let policy = e.place.on_fault != OnFault::Drop;
        if let Some(reason) = e.hook.fault() {
            let what = if policy { "pass" } else { "are dropped" };
            return Some(opinion(policy, format!("{text}: out of service ({reason}), its packets {what}")));
        }
        if !e.hook.instance.is_stateless() {
            let why = "it keeps state, so that asking would change it; taken to pass";
            return Some(opinion(true, format!("{text}: not asked: {why}")));
        }
        let (hook, packet) = (e.hook.clone(), at.bytes.to_vec());
        let (layer, ifindex, dir, rcvif, mark) = (at.layer, at.ifindex, at.dir, at.rcvif, at.mark);
        let ask = move |cx: &mut WorkerCx<'_>| {
            on_copy(&hook, cx, &AtHook { layer, ifindex, dir, rcvif, mark, bytes: &packet })
        };
        // The lock is held until the worker has answered, so the instance lives as long.
        Some(match self.inner.runtime.run_on_wait(0, ask) {
            Some(Ok(Answer { pass, detail, mark })) => {
                FilterOpinion { mark, ..opinion(pass, format!("{text}: {detail}")) }
            }
            Some(Err(reason)) => opinion(policy, format!("{text}: failed when asked: {reason}")),
            None => opinion(true, format!("{text}: not asked: the worker has stopped")),
        })
    }
}

/// What a filter answered.
struct Answer {
    pass: bool,
    detail: String,
    /// The mark that it set.
    mark: Option<u32>,
}

/// Asks a filter about a copy of a packet.
fn on_copy(hook: &Hook, cx: &mut WorkerCx<'_>, at: &AtHook<'_>) -> Result<Answer, String> {
    let say = |pass, detail: &str| Answer { pass, detail: detail.to_owned(), mark: None };
    let mut cell = [0];
    if cx.pool.alloc(cx.cpu, &mut cell) == 0 {
        return Ok(say(true, "not asked: no cell is free for a copy of the packet"));
    }
    let mut copy = cx.pool.packet(cell[0]);
    if !copy.set_data(at.bytes) {
        cx.pool.free(cx.cpu, &cell);
        return Ok(say(true, &format!("not asked: {} bytes do not fit one cell", at.bytes.len())));
    }
    let h = copy.hdr_mut();
    if at.layer == HookLayer::Ether {
        h.l2_off = h.data_off;
    } else {
        (h.l3_off, h.ether_type) = (h.data_off, 0x0800);
    }
    (h.rcvif, h.mark) = (at.rcvif.get(), at.mark);
    let mut said = [verdict::PASS];
    let asked = hook.ask(cx.cpu, at.ifindex.get(), at.dir.code(), &cell, &mut said);
    let mark = cx.pool.packet(cell[0]).hdr().mark;
    if said[0] != verdict::CONSUMED {
        cx.pool.free(cx.cpu, &cell);
    }
    let answer = asked.and_then(|()| match said[0] {
        verdict::PASS if mark != at.mark => {
            Ok(Answer { mark: Some(mark), ..say(true, &format!("passes, with the mark {mark}")) })
        }
        verdict::PASS => Ok(say(true, "passes")),
        verdict::DROP => Ok(say(false, "drops")),
        verdict::REJECT => Ok(say(false, "rejects: its sender is told")),
        verdict::CONSUMED => Err("it takes packets, although it says that asking changes nothing".to_owned()),
        other => Err(format!("it returned the verdict {other}, which is none")),
    });
    answer.inspect_err(|reason| hook.failed(hook.books.get(cx.cpu.index()), reason.clone()))
}

impl Drop for NativeFilters {
    fn drop(&mut self) {
        let entries = std::mem::take(&mut *self.inner.lock());
        entries.into_values().for_each(|e| self.inner.bury(e));
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // Nothing in here is left half-changed by a panic.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(
        self: &Arc<Self>,
        name: &str,
        table: &'static FilterTable,
        options: &Value,
        on_fault: OnFault,
        books: Arc<[Books]>,
    ) -> Result<Arc<Hook>, String> {
        let instance = Instance::create(self.host, table, name, options)?;
        let (me, work) = (Arc::downgrade(self), Arc::downgrade(self.runtime.work()));
        let bell = move || {
            let me: Weak<Inner> = me.clone();
            let attend = move || {
                if let Some(inner) = me.upgrade() {
                    inner.attend();
                }
            };
            if work.upgrade().is_none_or(|w| w.enqueue(attend).is_err()) {
                // The policy judges all the same; what is missing is the event.
                tracing::error!("a native filter failed, and the work queue is full");
            }
        };
        Ok(Arc::new(Hook::new(name.to_owned(), instance, on_fault, books, self.stack.clone(), Box::new(bell))))
    }

    fn attach(&self, place: &NativePlace, hook: &Arc<Hook>) -> Result<u64, String> {
        let ifindex = match place.ifindex {
            None => None,
            Some(n) => Some(IfIndex::new(n).ok_or_else(|| format!("no interface has the index {n}"))?),
        };
        let layer = match place.layer {
            Layer::Ether => smpnet_stack::Layer::Ether,
            Layer::Inet => smpnet_stack::Layer::Inet,
        };
        let dirs = match place.dirs {
            Dirs::In => smpnet_stack::Dirs::In,
            Dirs::Out => smpnet_stack::Dirs::Out,
            Dirs::Both => smpnet_stack::Dirs::Both,
        };
        self.stack.pfil_attach(layer, ifindex, dirs, place.priority, hook.clone()).map_err(|e| e.to_string())
    }

    /// Takes failed filters off their hooks, where packets are to pass, and tells of them. Control threads.
    fn attend(&self) {
        let mut news = Vec::new();
        for (name, entry) in self.lock().iter_mut().filter(|(_, e)| !e.attended) {
            let Some(reason) = entry.hook.fault() else { continue };
            entry.attended = true;
            let (filter, native, on_fault) = (name.clone(), entry.native.clone(), entry.place.on_fault);
            news.push(Quarantined { filter, native, reason: reason.to_owned(), on_fault });
            if on_fault != OnFault::Drop
                && let Some(id) = entry.attached.take()
            {
                self.unhook(id);
            }
        }
        for q in news {
            tracing::error!(filter = q.filter, native = q.native, reason = q.reason, "native filter out of service");
            (self.tell)(&q);
        }
    }

    fn unhook(&self, id: u64) {
        if let Err(e) = self.stack.pfil_detach(id) {
            // The interface went away with its hooks.
            tracing::debug!(id, %e, "a filter's hook was gone already");
        }
    }

    fn bury(&self, entry: Entry) {
        if let Some(id) = entry.attached {
            self.unhook(id);
        }
        destroy(&entry.hook);
    }
}

/// Ends the instance of a hook that is on no head any more.
fn destroy(hook: &Hook) {
    // SAFETY: the stack returned from taking the hook off, or never had it, so no worker is inside; entries that `show` and
    // `opinion` look at hold other hooks by now.
    if let Err(e) = unsafe { hook.instance.destroy() } {
        tracing::error!(filter = hook.name, "{e}");
    }
}

impl Entry {
    fn text(&self) -> String {
        let none = self.options.as_object().is_some_and(|o| o.is_empty());
        if none { format!("native {}", self.native) } else { format!("native {} {}", self.native, self.options) }
    }

    fn total(&self) -> NativeCounts {
        let mut total = NativeCounts::default();
        self.hook.books.iter().for_each(|b| total.add(&b.read()));
        total
    }

    fn report(&self, instantiate_us: f64, adopt_us: f64) -> NativeReport {
        NativeReport {
            name: self.hook.name.clone(),
            kind: "native",
            native: self.native.clone(),
            generation: self.generation,
            instantiate_us,
            adopt_us,
            workers: self.hook.books.len(),
        }
    }

    fn status(&self, name: &str) -> NativeStatus {
        let state = match (self.hook.fault(), self.place.on_fault) {
            (None, _) => State::Running,
            (Some(_), OnFault::Drop) => State::Faulted,
            (Some(_), OnFault::Pass | OnFault::Detach) => State::Detached,
        };
        NativeStatus {
            name: name.to_owned(),
            kind: "native",
            state,
            native: self.native.clone(),
            text: self.text(),
            generation: self.generation,
            place: self.place,
            counts: self.total(),
        }
    }
}

fn not_found(name: &str) -> String {
    format!("no native filter is named {name}")
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_nanos() as f64 / 1000.0
}
