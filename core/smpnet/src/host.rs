//! What plugins get from us: the one table of services of this process, over the runtime and the stack.
//!
//! Plugins are trusted, but wrong now and then. So every function checks what it is given, at a cost per burst (packets
//! are checked by the stack, which takes an interface that hands in a bad one out of service); no panic of ours unwinds
//! into a plugin; and what was wrong is counted in `kern.plugin.misuse.*` and otherwise does nothing.

use smpnet_abi::{
    ABI_MAJOR, ABI_MINOR, BURST_MAX, CalloutFn, Cell, CounterDesc, DropReason, EncapKey, HostServices, IfInfo,
    LinkState, SysctlGetFn, SysctlSetFn, Text, WORKER_NONE, WorkFn, log_level,
};
use smpnet_runtime::{CalloutId, Cpu, Node, Runtime, Stopped, Value, WorkerCx};
use smpnet_stack::{IfIndex, Stack};
use std::cell::RefCell;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// Who the functions speak for. Published before any plugin gets the table, and never freed.
static CURRENT: AtomicPtr<Context> = AtomicPtr::new(null_mut());

struct Context {
    runtime: Arc<Runtime>,
    stack: Arc<Stack>,
}

/// Makes the table of services over a runtime and its stack, and registers the counters of misuse.
///
/// The functions of the table find their router in a place of the process: a second `install` (tests make several
/// routers, one after the other) speaks for the second router from then on, also to plugins that know the first table.
pub fn install(runtime: Arc<Runtime>, stack: Arc<Stack>) -> &'static HostServices {
    for misuse in Misuse::ALL {
        let count = move || COUNTS[misuse as usize].load(Ordering::Relaxed);
        let path = format!("kern.plugin.misuse.{}", misuse.name());
        runtime.sysctl().add(&path, misuse.text(), Node::read_only(count));
    }
    // Leaked, as plugins may call until the process ends.
    let context = Box::leak(Box::new(Context { runtime, stack }));
    let table = HostServices {
        size: size_of::<HostServices>() as u32,
        abi_major: ABI_MAJOR,
        abi_minor: ABI_MINOR,
        workers: context.runtime.workers() as u32,
        _pad: 0,
        pool: context.runtime.pool().desc(),
        pkt_alloc,
        pkt_free,
        pkt_drop,
        if_input,
        if_output,
        ip_output,
        now_ns,
        callout,
        callout_stop,
        work,
        encap_attach,
        encap_detach,
        vlan_attach,
        vlan_detach,
        ether_attach,
        ether_detach,
        if_lookup,
        if_info,
        link_event,
        fault,
        counter,
        sysctl,
        sysctl_remove,
        log,
    };
    CURRENT.store(context, Ordering::Release);
    Box::leak(Box::new(table))
}

/// What a plugin can do wrong in a call.
#[derive(Clone, Copy)]
enum Misuse {
    Worker,
    Argument,
    Panic,
}

static COUNTS: [AtomicU64; Misuse::ALL.len()] = [const { AtomicU64::new(0) }; Misuse::ALL.len()];

impl Misuse {
    const ALL: [Misuse; 3] = [Misuse::Worker, Misuse::Argument, Misuse::Panic];

    fn name(self) -> &'static str {
        match self {
            Misuse::Worker => "worker",
            Misuse::Argument => "argument",
            Misuse::Panic => "panic",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Misuse::Worker => "calls of worker services by a thread that is no worker, or with the index of none",
            Misuse::Argument => "calls with a null pointer, or an interface or number that cannot be",
            Misuse::Panic => "panics of smpnet itself in a call by a plugin",
        }
    }

    /// Counts it. A shared atomic, as this does not happen in a router that is well.
    #[cold]
    fn count(self) {
        COUNTS[self as usize].fetch_add(1, Ordering::Relaxed);
    }
}

#[inline]
fn current() -> Option<&'static Context> {
    // SAFETY: null, or leaked by `install`.
    unsafe { CURRENT.load(Ordering::Acquire).as_ref() }
}

/// Runs a service. A panic of ours ends here, as it must not unwind into the plugin: `failed` is the answer then.
#[inline]
fn serve<R>(failed: R, f: impl FnOnce(&'static Context) -> R) -> R {
    let Some(context) = current() else { return failed };
    match catch_unwind(AssertUnwindSafe(|| f(context))) {
        Ok(answer) => answer,
        Err(_) => {
            Misuse::Panic.count();
            tracing::error!("a service that a plugin called has panicked; this is a fault of smpnet");
            failed
        }
    }
}

impl Context {
    /// The worker that is calling, if it is one.
    #[inline]
    fn cpu(&self, worker: u32) -> Option<Cpu> {
        if (worker as usize) < self.runtime.workers() && Runtime::on_worker() {
            // SAFETY: the thread is a worker, and by the ABI a plugin passes the index that it was called with.
            Some(unsafe { Cpu::assume(worker) })
        } else {
            None
        }
    }

    fn free(&self, worker: u32, cells: &[Cell]) {
        match self.cpu(worker) {
            Some(cpu) => self.runtime.pool().free(cpu, cells),
            None => self.runtime.pool().free_shared(cells),
        }
    }

    /// Does `f` with the packets that a plugin hands in, in bursts. The stack checks the packets themselves. A caller that
    /// is no worker loses them: they go back to the pool, and are counted as misuse.
    #[inline]
    fn take(&self, worker: u32, cells: &[Cell], mut f: impl FnMut(&Stack, Cpu, &[Cell])) {
        match self.cpu(worker) {
            Some(cpu) => cells.chunks(BURST_MAX as usize).for_each(|burst| f(&self.stack, cpu, burst)),
            None => {
                Misuse::Worker.count();
                self.runtime.pool().free_shared(cells);
            }
        }
    }
}

/// The `n` cells at `cells`; none, and counted, when the pointer is null.
///
/// # Safety
/// Null, or `n` cells that nobody writes during the call.
#[inline]
unsafe fn list<'a>(cells: *const Cell, n: u32) -> &'a [Cell] {
    if n == 0 {
        return &[];
    }
    if cells.is_null() {
        Misuse::Argument.count();
        return &[];
    }
    // SAFETY: the caller's word.
    unsafe { std::slice::from_raw_parts(cells, n as usize) }
}

unsafe extern "C" fn pkt_alloc(worker: u32, cells: *mut Cell, n: u32) -> u32 {
    serve(0, |cx| {
        if cells.is_null() || n == 0 {
            return 0;
        }
        // SAFETY: by the ABI, room for n cells that are the caller's.
        let out = unsafe { std::slice::from_raw_parts_mut(cells, n as usize) };
        let pool = cx.runtime.pool();
        match cx.cpu(worker) {
            Some(cpu) => pool.alloc(cpu, out) as u32,
            None => pool.alloc_shared(out) as u32,
        }
    })
}

unsafe extern "C" fn pkt_free(worker: u32, cells: *const Cell, n: u32) {
    // SAFETY: by the ABI, n cells. The pool itself refuses those that it does not have.
    serve((), |cx| cx.free(worker, unsafe { list(cells, n) }));
}

unsafe extern "C" fn pkt_drop(worker: u32, ifindex: u32, reason: u32, cells: *const Cell, n: u32) {
    serve((), |cx| {
        // SAFETY: by the ABI, n cells.
        let cells = unsafe { list(cells, n) };
        let reason = DropReason::from_code(reason);
        cx.take(worker, cells, |stack, cpu, burst| stack.pkt_drop(cpu, ifindex, reason, burst));
    });
}

unsafe extern "C" fn if_input(worker: u32, ifindex: u32, cells: *const Cell, n: u32) {
    serve((), |cx| {
        // SAFETY: by the ABI, n cells.
        let cells = unsafe { list(cells, n) };
        cx.take(worker, cells, |stack, cpu, burst| stack.if_input(cpu, ifindex, burst));
    });
}

unsafe extern "C" fn if_output(worker: u32, ifindex: u32, cells: *const Cell, n: u32) {
    serve((), |cx| {
        // SAFETY: by the ABI, n cells.
        let cells = unsafe { list(cells, n) };
        cx.take(worker, cells, |stack, cpu, burst| stack.if_output(cpu, ifindex, burst));
    });
}

unsafe extern "C" fn ip_output(worker: u32, cells: *const Cell, n: u32) {
    serve((), |cx| {
        // SAFETY: by the ABI, n cells.
        let cells = unsafe { list(cells, n) };
        cx.take(worker, cells, |stack, cpu, burst| stack.ip_output(cpu, burst));
    });
}

unsafe extern "C" fn now_ns() -> u64 {
    smpnet_runtime::now_ns()
}

/// An argument of a plugin's, on its way back to it.
struct Argument(*mut c_void);
// SAFETY: by the ABI the plugin's function takes it on any thread.
unsafe impl Send for Argument {}
// SAFETY: as above.
unsafe impl Sync for Argument {}

impl Argument {
    /// The pointer. A method, so that closures capture the whole.
    fn get(&self) -> *mut c_void {
        self.0
    }
}

unsafe extern "C" fn callout(worker: u32, delay_ns: u64, func: CalloutFn, arg: *mut c_void) -> u64 {
    serve(0, |cx| {
        let arg = Argument(arg);
        let run = move |w: &mut WorkerCx<'_>| {
            // SAFETY: by the ABI, func takes arg and the worker it runs on.
            unsafe { func(arg.get(), w.cpu.index() as u32) };
            // The stack did not call, so it does not know of packets that the function handed in.
            if let Some(cx) = current() {
                cx.stack.take_up_pending(w.cpu, w.section());
            }
        };
        cx.runtime.callout(worker as usize, delay_ns, Box::new(run)).map_or(0, CalloutId::get)
    })
}

unsafe extern "C" fn callout_stop(id: u64) -> i32 {
    serve(-1, |cx| match cx.runtime.callout_stop(CalloutId::from_raw(id)) {
        Stopped::Cancelled => 0,
        Stopped::Running | Stopped::Over => -1,
    })
}

unsafe extern "C" fn work(func: WorkFn, arg: *mut c_void) -> i32 {
    serve(-1, |cx| {
        let arg = Argument(arg);
        // SAFETY: by the ABI, func takes arg on a control thread.
        match cx.runtime.work().enqueue(move || unsafe { func(arg.get()) }) {
            Ok(()) => 0,
            Err(_) => -1,
        }
    })
}

/// The answer of a service for control threads, for the plugin; the reason of a refusal goes to the log.
fn answer<E: std::fmt::Display>(what: &str, result: Result<(), E>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(e) => {
            tracing::warn!("{what} refused: {e}");
            -1
        }
    }
}

/// An interface index of a plugin's.
fn index(ifindex: u32) -> Result<IfIndex, String> {
    IfIndex::new(ifindex).ok_or_else(|| {
        Misuse::Argument.count();
        format!("{ifindex} is no index of an interface")
    })
}

/// A key of a plugin's.
///
/// # Safety
/// Null, or a key.
unsafe fn key<'a>(key: *const EncapKey) -> Result<&'a EncapKey, String> {
    // SAFETY: the caller's word.
    unsafe { key.as_ref() }.ok_or_else(|| {
        Misuse::Argument.count();
        "the key is a null pointer".to_owned()
    })
}

unsafe extern "C" fn encap_attach(ifindex: u32, k: *const EncapKey) -> i32 {
    // SAFETY: by the ABI, a key.
    let attach = |cx: &Context| cx.stack.encap_attach(index(ifindex)?, unsafe { key(k) }?).map_err(text);
    serve(-1, |cx| answer("encap_attach", attach(cx)))
}

unsafe extern "C" fn encap_detach(ifindex: u32, k: *const EncapKey) -> i32 {
    // SAFETY: by the ABI, a key.
    let detach = |cx: &Context| cx.stack.encap_detach(index(ifindex)?, unsafe { key(k) }?).map_err(text);
    serve(-1, |cx| answer("encap_detach", detach(cx)))
}

unsafe extern "C" fn vlan_attach(parent: u32, vid: u32, ifindex: u32) -> i32 {
    let attach = |cx: &Context| cx.stack.vlan_attach(index(parent)?, small(vid)?, index(ifindex)?).map_err(text);
    serve(-1, |cx| answer("vlan_attach", attach(cx)))
}

unsafe extern "C" fn vlan_detach(parent: u32, vid: u32, ifindex: u32) -> i32 {
    let detach = |cx: &Context| cx.stack.vlan_detach(index(parent)?, small(vid)?, index(ifindex)?).map_err(text);
    serve(-1, |cx| answer("vlan_detach", detach(cx)))
}

unsafe extern "C" fn ether_attach(parent: u32, ty: u32, ifindex: u32) -> i32 {
    let attach = |cx: &Context| cx.stack.ether_attach(index(parent)?, small(ty)?, index(ifindex)?).map_err(text);
    serve(-1, |cx| answer("ether_attach", attach(cx)))
}

unsafe extern "C" fn ether_detach(parent: u32, ty: u32, ifindex: u32) -> i32 {
    let detach = |cx: &Context| cx.stack.ether_detach(index(parent)?, small(ty)?, index(ifindex)?).map_err(text);
    serve(-1, |cx| answer("ether_detach", detach(cx)))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn small(n: u32) -> Result<u16, String> {
    u16::try_from(n).map_err(|_| {
        Misuse::Argument.count();
        format!("{n} has more than 16 bits")
    })
}

unsafe extern "C" fn if_lookup(name: Text) -> u32 {
    // SAFETY: by the ABI, a text that is valid through the call.
    serve(0, |cx| cx.stack.if_by_name(&unsafe { name.to_str_lossy() }).map_or(0, IfIndex::get))
}

unsafe extern "C" fn if_info(ifindex: u32, out: *mut IfInfo) -> i32 {
    serve(-1, |cx| {
        let Some(info) = cx.stack.if_info(ifindex) else { return -1 };
        if out.is_null() {
            Misuse::Argument.count();
            return -1;
        }
        // SAFETY: by the ABI, a place for the answer whose first field says how many bytes it has.
        unsafe {
            let n = ((*out).size as usize).min(size_of::<IfInfo>());
            let size = (*out).size;
            std::ptr::copy_nonoverlapping(std::ptr::from_ref(&info).cast::<u8>(), out.cast::<u8>(), n);
            (*out).size = size;
        }
        0
    })
}

unsafe extern "C" fn link_event(ifindex: u32, link: *const LinkState) {
    serve((), |cx| {
        // SAFETY: by the ABI, a link state.
        match unsafe { link.as_ref() } {
            Some(link) => cx.stack.link_event(ifindex, *link),
            None => Misuse::Argument.count(),
        }
    });
}

thread_local! {
    /// What a plugin said last, on this thread, of something of its own that is no interface: a filter.
    static LAST_FAULT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The fault of no interface that a plugin reported last on this thread: what a filter says before it returns FAULT.
pub(crate) fn take_fault() -> Option<String> {
    LAST_FAULT.with(|last| last.borrow_mut().take())
}

unsafe extern "C" fn fault(ifindex: u32, what: Text) {
    serve((), |cx| {
        // SAFETY: by the ABI, a text that is valid through the call.
        let what = unsafe { what.to_str_lossy() };
        tracing::error!(ifindex, "a plugin reports a fault: {what}");
        if ifindex == 0 {
            LAST_FAULT.with(|last| *last.borrow_mut() = Some(what.clone().into_owned()));
        }
        cx.stack.fault(ifindex, &what);
    });
}

unsafe extern "C" fn counter(desc: *const CounterDesc) -> i32 {
    serve(-1, |cx| {
        // SAFETY: by the ABI, a description that is valid through the call.
        let Some(desc) = (unsafe { desc.as_ref() }).filter(|d| is_sound(d)) else {
            Misuse::Argument.count();
            return -1;
        };
        // SAFETY: as above.
        let path = unsafe { format!("hw.{}.{}", desc.owner.to_str_lossy(), desc.name.to_str_lossy()) };
        let (base, stride, workers) = (desc.base.expose_provenance(), desc.stride as usize, cx.runtime.workers());
        let sum = move || {
            let value = |w: usize| {
                let at = std::ptr::with_exposed_provenance_mut::<u64>(base + w * stride);
                // SAFETY: by the ABI, one aligned u64 for each worker, of memory that lives until the process ends.
                unsafe { AtomicU64::from_ptr(at) }.load(Ordering::Relaxed)
            };
            (0..workers).map(value).fold(0, u64::wrapping_add)
        };
        answer("counter", cx.runtime.sysctl().register(&path, "a counter of a plugin", Node::read_only(sum)))
    })
}

fn is_sound(desc: &CounterDesc) -> bool {
    desc.size as usize >= size_of::<CounterDesc>()
        && !desc.base.is_null()
        && desc.base.is_aligned()
        && desc.stride as usize >= size_of::<u64>()
        && (desc.stride as usize).is_multiple_of(size_of::<u64>())
}

unsafe extern "C" fn sysctl(path: Text, get: SysctlGetFn, set: Option<SysctlSetFn>, arg: *mut c_void) -> i32 {
    serve(-1, |cx| {
        // SAFETY: by the ABI, a text that is valid through the call.
        let path = unsafe { path.to_str_lossy() };
        let (reader, writer) = (Argument(arg), Argument(arg));
        // SAFETY: by the ABI, the functions take arg on any control thread until the node is removed.
        let get = move || unsafe { get(reader.get()) };
        let node = match set {
            None => Node::read_only(get),
            Some(set) => Node::writable(get, move |value| {
                let Value::UInt(value) = value else { return Err("not a number from 0 on".to_owned()) };
                // SAFETY: as above.
                match unsafe { set(writer.get(), value) } {
                    0 => Ok(()),
                    _ => Err(format!("the plugin does not take {value}")),
                }
            }),
        };
        answer("sysctl", cx.runtime.sysctl().register(&path, "a node of a plugin", node))
    })
}

unsafe extern "C" fn sysctl_remove(path: Text) -> i32 {
    serve(-1, |cx| {
        // SAFETY: by the ABI, a text that is valid through the call.
        let path = unsafe { path.to_str_lossy() };
        answer("sysctl_remove", cx.runtime.sysctl().remove(&path))
    })
}

unsafe extern "C" fn log(level: u32, target: Text, message: Text) {
    serve((), |_| {
        // SAFETY: by the ABI, texts that are valid through the call.
        let (plugin, message) = unsafe { (target.to_str_lossy(), message.to_str_lossy()) };
        match level {
            log_level::ERROR => tracing::error!(target: "plugin", %plugin, "{message}"),
            log_level::WARN => tracing::warn!(target: "plugin", %plugin, "{message}"),
            log_level::INFO => tracing::info!(target: "plugin", %plugin, "{message}"),
            _ => tracing::debug!(target: "plugin", %plugin, "{message}"),
        }
    });
}

const _: () = assert!(WORKER_NONE as usize >= smpnet_runtime::MAX_WORKERS, "it is the index of no worker");
