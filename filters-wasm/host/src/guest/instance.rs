//! One instance of a module: the ring in its memory, and the calls into it.

use super::engine::{For, GuestCode};
use super::fault::{Fault, FaultKind};
use super::imports::Cx;
use super::ring::{Told, Windows, locate};
use super::ticker::{Ticker, Watch};
use super::{Capabilities, Capability, ModuleError, ModuleLimits};
use crate::WasmError;
use smpnet_filter_abi::{BURST_MAX, PATCH_BYTES, Patch, Ring, STATE_MAX, Verdict, export, ring_bytes, verdict};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::{Instance, Memory, Store, TypedFunc, WasmParams, WasmResults};

const BURST: usize = BURST_MAX as usize;

/// An instance; for one thread at a time.
pub(crate) struct GuestInstance {
    store: Store<Cx>,
    filter: TypedFunc<i32, i32>,
    tick: Option<TypedFunc<i64, ()>>,
    give: Option<TypedFunc<i32, i32>>,
    take: Option<TypedFunc<(i32, i32), i32>>,
    init: Option<TypedFunc<i32, i32>>,
    ring: NonNull<Ring>,
    window: usize,
    counters: usize,
    granted: Capabilities,
    limits: ModuleLimits,
    tick_ns: u64,
    next_tick: u64,
    ticker: Arc<Ticker>,
    worker: usize,
    workers: usize,
    generation: u64,
    layer: u32,
    /// Address of the ring in the module's memory.
    at: u32,
    /// What each packet of the burst is, where the module cannot write.
    told: Box<[Told; BURST]>,
}

// SAFETY: `ring` points into a memory that the store owns, which is used through this value only; all else is Send.
unsafe impl Send for GuestInstance {}

pub(super) struct Parts {
    pub(super) store: Store<Cx>,
    pub(super) instance: Instance,
    pub(super) memory: Memory,
    pub(super) ticker: Arc<Ticker>,
}

/// What is the same for all packets of a burst.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    /// A value of `smpnet_filter_abi::layer`.
    pub(crate) layer: u32,
    /// A value of `smpnet_filter_abi::direction`.
    pub(crate) direction: u32,
    pub(crate) ifindex: u32,
    pub(crate) now_ns: u64,
}

/// What a module said of a burst, in so far as all is in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// Some verdict is not PASS, or sets a mark.
    pub(crate) any: bool,
    /// Bytes of patches.
    pub(crate) patches: usize,
}

impl GuestInstance {
    pub(super) fn new(
        parts: Parts,
        code: &GuestCode,
        whose: For,
        workers: usize,
        setup: &dyn Fn(&str, wasmtime::Error) -> WasmError,
    ) -> Result<GuestInstance, WasmError> {
        let Parts { mut store, instance, memory, ticker } = parts;
        let manifest = &code.info.manifest;
        let wrong = |name: &str, e: wasmtime::Error| setup(name, e);
        let ring: TypedFunc<(), i32> =
            instance.get_typed_func(&mut store, export::RING).map_err(|e| wrong(export::RING, e))?;
        let filter = instance.get_typed_func(&mut store, export::FILTER).map_err(|e| wrong(export::FILTER, e))?;
        let tick = instance.get_typed_func(&mut store, export::TICK).ok();
        let give = instance.get_typed_func(&mut store, export::STATE_EXPORT).ok();
        let take = instance.get_typed_func(&mut store, export::STATE_IMPORT).ok();
        let init = instance.get_typed_func(&mut store, export::INIT).ok();
        let (watch, ticks) = Watch::new(code.limits.init());
        store.data_mut().watch = watch;
        store.set_epoch_deadline(ticks);
        let at = ring.call(&mut store, ()).map_err(|e| wrong(export::RING, e))? as u32;
        let need = ring_bytes(manifest.window);
        let size = memory.data_size(&store);
        if at == 0 || !at.is_multiple_of(16) || at as usize + need > size {
            let text = format!(
                "{} returned {at:#x}: the address of {need} bytes, a multiple of 16, in a memory of {size} bytes",
                export::RING
            );
            return Err(ModuleError::Setup(text).into());
        }
        // SAFETY: the ring lies inside of the memory, which never shrinks and never moves.
        let ring = unsafe { memory.data_ptr(&store).add(at as usize) };
        let Some(ring) = NonNull::new(ring.cast::<Ring>()) else {
            return Err(ModuleError::Setup("the memory has no address".into()).into());
        };
        let mut guest = GuestInstance {
            store,
            filter,
            tick,
            give,
            take,
            init,
            ring,
            window: manifest.window as usize,
            counters: manifest.counters.len(),
            granted: code.granted,
            limits: code.limits,
            tick_ns: u64::from(manifest.tick_ms.unwrap_or(0)) * 1_000_000,
            next_tick: 0,
            ticker,
            worker: whose.worker,
            workers,
            generation: whose.generation,
            layer: 0,
            at,
            told: Box::new([Told::new(0, locate(0, &[], 0)); BURST]),
        };
        guest.clean();
        Ok(guest)
    }

    /// Writes what stays the same, and brings ring and windows into memory so that no packet does.
    fn clean(&mut self) {
        let bytes = ring_bytes(self.window as u32);
        // SAFETY: the ring and its windows, checked in `new`, and nobody runs in the module.
        unsafe { self.ring.as_ptr().cast::<u8>().write_bytes(0, bytes) };
        let (generation, worker, workers, window) =
            (self.generation, self.worker as u32, self.workers as u32, self.window as u32);
        let ring = self.ring();
        (ring.generation, ring.worker, ring.workers, ring.window) = (generation, worker, workers, window);
    }

    #[inline(always)]
    fn ring(&mut self) -> &mut Ring {
        // SAFETY: the ring lies in the module's memory (`new`), which lives as long as the store and never moves; the
        // module does not run while `self` is borrowed, and every bit pattern is a Ring.
        unsafe { self.ring.as_mut() }
    }

    /// All windows, which follow the ring.
    #[inline(always)]
    fn windows(&mut self) -> &mut [u8] {
        // SAFETY: as in `ring`; the windows follow it, checked in `new`.
        unsafe { std::slice::from_raw_parts_mut(self.ring.as_ptr().add(1).cast(), BURST * self.window) }
    }

    /// Hands the configuration over.
    pub(super) fn init(&mut self, config: &[u8]) -> Result<(), WasmError> {
        let refuse = |text: String| WasmError::from(ModuleError::Setup(text));
        let Some(init) = self.init.clone() else {
            if config.is_empty() {
                return Ok(());
            }
            return Err(refuse(format!("it takes no configuration (no export {})", export::INIT)));
        };
        let room = self.windows();
        if config.len() > room.len() {
            return Err(refuse(format!("a configuration of {} bytes, {} have room", config.len(), room.len())));
        }
        room[..config.len()].copy_from_slice(config);
        self.arm(self.limits.init());
        match init.call(&mut self.store, config.len() as i32) {
            Ok(0) => Ok(()),
            Ok(code) => {
                let said: Vec<String> = self.store.data().lines.take().map(|l| l.text()).collect();
                let said = if said.is_empty() { String::new() } else { format!(": {}", said.join("; ")) };
                Err(refuse(format!("it refuses its configuration ({} returned {code}){said}", export::INIT)))
            }
            Err(e) => Err(refuse(Fault::of(export::INIT, &e).line)),
        }
    }

    /// A call may take so long from now on.
    #[inline(always)]
    fn arm(&mut self, budget: Duration) {
        let (watch, ticks) = Watch::new(budget);
        self.store.data_mut().watch = watch;
        self.store.set_epoch_deadline(ticks);
    }

    /// Worker: calls a function of the module.
    #[inline(always)]
    fn call<P: WasmParams, R: WasmResults>(
        &mut self,
        function: &TypedFunc<P, R>,
        params: P,
        budget: Duration,
    ) -> wasmtime::Result<R> {
        self.arm(budget);
        self.ticker.enter(self.worker);
        let result = function.call(&mut self.store, params);
        self.ticker.leave(self.worker);
        result
    }

    /// Begins a burst. Tells the module the time first, when it is due.
    #[inline]
    pub(crate) fn begin(&mut self, head: &Head) -> Result<(), Fault> {
        if self.tick_ns != 0 && head.now_ns >= self.next_tick {
            self.next_tick = head.now_ns + self.tick_ns;
            self.pass_time(head.now_ns)?;
        }
        let counters = self.counters;
        self.layer = head.layer;
        let ring = self.ring();
        (ring.layer, ring.direction, ring.ifindex, ring.now_ns) =
            (head.layer, head.direction, head.ifindex, head.now_ns);
        ring.patch_len = 0;
        ring.counters[..counters].fill(0);
        Ok(())
    }

    #[cold]
    fn pass_time(&mut self, now_ns: u64) -> Result<(), Fault> {
        let Some(tick) = self.tick.clone() else { return Ok(()) };
        self.call(&tick, now_ns as i64, self.limits.tick()).map_err(|e| Fault::of(export::TICK, &e))
    }

    /// The windows, to be filled between [`begin`](Self::begin) and [`run`](Self::run).
    #[inline(always)]
    pub(crate) fn all_windows(&mut self) -> Windows<'_> {
        // SAFETY: as in `ring`.
        let ring = unsafe { self.ring.as_mut() };
        // SAFETY: the windows follow the ring, checked in `new`; nobody else looks at either while `self` is borrowed.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.ring.as_ptr().add(1).cast(), BURST * self.window) };
        let (window, layer, at) = (self.window, self.layer, self.at + size_of::<Ring>() as u32);
        Windows { ring, bytes, told: &mut self.told, window, at, layer }
    }

    /// Judges the first `n` packets and looks through what the module said.
    #[inline]
    pub(crate) fn run(&mut self, n: usize) -> Result<Said, Fault> {
        debug_assert!(n <= BURST);
        let ring = self.ring();
        ring.n = n as u32;
        ring.verdicts[..n].fill(Verdict { verdict: verdict::PASS, mark: 0 });
        // As `call`, without a copy of the function's type, which takes a shared count.
        self.arm(self.limits.burst());
        self.ticker.enter(self.worker);
        let done = self.filter.call(&mut self.store, n as i32);
        self.ticker.leave(self.worker);
        match done {
            Ok(done) if done == n as i32 => {}
            Ok(done) => return Err(wrong_result(done, n)),
            Err(e) => return Err(Fault::of(export::FILTER, &e)),
        }
        let ring = self.ring();
        let patches = ring.patch_len as usize;
        let any = ring.verdicts[..n].iter().fold(0, |all, v| all | v.verdict);
        // PASS and DROP, and no patches: nothing more to look at.
        if any > verdict::DROP || patches != 0 {
            self.check(n, patches)?;
        }
        Ok(Said { any: any != 0, patches })
    }

    /// Whether all verdicts and patches are such as there are, and allowed.
    #[cold]
    fn check(&mut self, n: usize, patches: usize) -> Result<(), Fault> {
        let granted = self.granted;
        let lacks = |c: Capability, what: &str| {
            let text = format!("{}: {what} without the capability {c}", export::FILTER);
            if granted.has(c) { Ok(()) } else { Err(Fault::new(FaultKind::Capability, text)) }
        };
        for (i, v) in self.verdicts(n).iter().enumerate() {
            match v.verdict {
                verdict::PASS | verdict::DROP => {}
                verdict::REJECT => lacks(Capability::Reject, "REJECT")?,
                verdict::MARK => lacks(Capability::Mark, "MARK")?,
                other => {
                    let text = format!("{}: packet {i} has the verdict {other:#x}, which is none", export::FILTER);
                    return Err(Fault::new(FaultKind::Verdict, text));
                }
            }
        }
        if patches == 0 {
            return Ok(());
        }
        lacks(Capability::Edit, "a patch")?;
        let wrong = |text: String| Fault::new(FaultKind::Patch, format!("{}: {text}", export::FILTER));
        if patches > PATCH_BYTES {
            return Err(wrong(format!("{patches} bytes of patches, {PATCH_BYTES} have room")));
        }
        let told = *self.told;
        let mut all = Patches { bytes: &self.ring().patches[..patches] };
        while let Some((patch, _)) = all.next().map_err(&wrong)? {
            let Some(cap) = told[..n].get(usize::from(patch.packet)).map(|t| t.cap()) else {
                return Err(wrong(format!("a patch for packet {}, there are {n}", patch.packet)));
            };
            let end = usize::from(patch.off) + usize::from(patch.len);
            if end > usize::from(cap) {
                return Err(wrong(format!("a patch of packet {} ends at {end}, its window at {cap}", patch.packet)));
            }
            if patch.flags & !3 != 0 || patch.reserved != 0 {
                return Err(wrong(format!("a patch with unknown flags {:#x}", patch.flags)));
            }
        }
        Ok(())
    }

    /// What was said of the first `n` packets.
    #[inline(always)]
    pub(crate) fn verdicts(&mut self, n: usize) -> &[Verdict] {
        &self.ring().verdicts[..n]
    }

    /// What the module added to its counters.
    #[inline(always)]
    pub(crate) fn counters(&mut self) -> &[u64] {
        let n = self.counters;
        &self.ring().counters[..n]
    }

    /// The patches of the last run, which were found to be right.
    pub(crate) fn patches(&mut self, bytes: usize) -> Patches<'_> {
        Patches { bytes: &self.ring().patches[..bytes.min(PATCH_BYTES)] }
    }

    /// What the host knows of packet `i` of the burst.
    #[inline(always)]
    pub(crate) fn told(&self, i: usize) -> Told {
        self.told[i]
    }

    /// Takes over the state of the instance before. Returns whether there was something to take; the error says why not
    /// all of it was taken, and then this instance is of no use.
    pub(crate) fn succeed(&mut self, old: &mut GuestInstance) -> Result<bool, String> {
        let (Some(give), Some(take)) = (old.give.clone(), self.take.clone()) else { return Ok(false) };
        let began = Instant::now();
        let budget = self.limits.state();
        let mut off = 0usize;
        loop {
            let given = old.call(&give, off as i32, budget);
            let n = given.map_err(|e| Fault::of(export::STATE_EXPORT, &e).line)?;
            if n == 0 {
                return Ok(off > 0);
            }
            let room = old.windows().len().min(self.windows().len());
            let n = usize::try_from(n).ok().filter(|n| *n <= room);
            let Some(n) = n else { return Err(format!("{} returned more than {room} bytes", export::STATE_EXPORT)) };
            if off + n > STATE_MAX as usize {
                return Err(format!("the state has more than {STATE_MAX} bytes"));
            }
            let windows = old.windows();
            self.windows()[..n].copy_from_slice(&windows[..n]);
            let taken = self.call(&take, (off as i32, n as i32), budget);
            match taken.map_err(|e| Fault::of(export::STATE_IMPORT, &e).line)? {
                0 => off += n,
                code => return Err(format!("{} refused it ({code})", export::STATE_IMPORT)),
            }
            if began.elapsed() > budget {
                return Err(format!("it took longer than its budget of {budget:?}"));
            }
        }
    }

    /// Whether it takes state from the generation before.
    pub(crate) fn takes_state(&self) -> bool {
        self.take.is_some()
    }
}

#[cold]
fn wrong_result(done: i32, n: usize) -> Fault {
    Fault::new(FaultKind::Result, format!("{} returned {done} for {n} packets", export::FILTER))
}

/// Patches one after the other.
pub(crate) struct Patches<'a> {
    bytes: &'a [u8],
}

impl<'a> Patches<'a> {
    /// The next patch and its bytes.
    pub(crate) fn next(&mut self) -> Result<Option<(Patch, &'a [u8])>, String> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let Some((h, rest)) = self.bytes.split_first_chunk::<8>() else {
            return Err(format!("{} bytes behind the last patch", self.bytes.len()));
        };
        let word = |i: usize| u16::from_le_bytes([h[i], h[i + 1]]);
        let patch = Patch { packet: h[0], flags: h[1], off: word(2), len: word(4), reserved: word(6) };
        let len = usize::from(patch.len);
        let padded = len.next_multiple_of(4);
        if padded > rest.len() {
            return Err(format!("a patch of {len} bytes where {} are left", rest.len()));
        }
        let (bytes, rest) = rest.split_at(padded);
        self.bytes = rest;
        Ok(Some((patch, &bytes[..len])))
    }
}
