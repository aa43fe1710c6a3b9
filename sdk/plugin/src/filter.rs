//! Native packet filters.

use crate::packet::PacketData;
use crate::shim::{Health, host_of, making, options, say, text};
use crate::{Error, Host, Packet, Worker, memory};
use serde::de::DeserializeOwned;
use smpnet_abi::{
    Cell, ErrBuf, FAILED, FAULT, FilterConfig, FilterTable, HostServices, OK, Text, direction, filter_flags, verdict,
};
use std::ffi::c_void;

/// A native packet filter on pfil hooks. Filters that need not be native are better WebAssembly modules.
///
/// `filter` is called by workers, any number at once; the rest by control threads.
pub trait Filter: Sized + Send + Sync + 'static {
    /// Name of the filter.
    const NAME: &'static str;
    /// One line on what it does.
    const SUMMARY: &'static str;
    /// Whether a verdict depends on the packet, the interface and the direction alone, no packet is ever taken, and being
    /// asked changes nothing. `smpnet explain` asks such a filter about a packet, and says of others that it cannot.
    const STATELESS: bool = false;

    /// Makes an instance.
    fn create(host: Host, req: &FilterRequest<'_>) -> Result<Self, Error>;

    /// Judges packets at a hook of interface `ifindex`. A packet that it says nothing of passes.
    fn filter(&self, cx: &mut Worker<'_>, ifindex: u32, direction: Direction, packets: &mut Judged<'_>);

    /// The state of the instance, for people: a JSON object.
    fn status(&self) -> serde_json::Value {
        serde_json::json!({})
    }
}

/// How the router asks for a filter.
pub struct FilterRequest<'a> {
    /// Name of the instance.
    pub name: &'a str,
    /// The filter's own options: a JSON object.
    pub options: serde_json::Value,
    /// Workers of this router.
    pub workers: usize,
}

impl FilterRequest<'_> {
    /// The options as a type of the filter's (with `#[serde(deny_unknown_fields)]`, so that a typing error is one).
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_value(self.options.clone()).map_err(|e| Error::from(e).context("options"))
    }
}

/// Direction of packets at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Coming in.
    In,
    /// Going out.
    Out,
}

/// Packets that a filter is asked about. They belong to the router, unless the filter takes one.
pub struct Judged<'a> {
    cells: &'a [Cell],
    verdicts: &'a mut [u32],
}

impl<'a> Judged<'a> {
    /// # Safety
    /// The packets are lent until the value goes; those whose verdict becomes CONSUMED are given.
    pub(crate) unsafe fn new(cells: &'a [Cell], verdicts: &'a mut [u32]) -> Self {
        Judged { cells, verdicts }
    }

    /// Packets to judge.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    fn ours(&self, i: usize) -> Option<Cell> {
        self.cells.get(i).copied().filter(|_| self.verdicts[i] != verdict::CONSUMED)
    }

    /// A packet, unless it was taken.
    pub fn get(&self, i: usize) -> Option<&PacketData> {
        // SAFETY: the router lends the packet through the call, and it was not taken.
        self.ours(i).map(|cell| unsafe { PacketData::of_cell(cell) })
    }

    /// A packet to be written (a mark, a header), unless it was taken.
    pub fn get_mut(&mut self, i: usize) -> Option<&mut PacketData> {
        // SAFETY: as in `get`, and `self` is borrowed exclusively.
        self.ours(i).map(|cell| unsafe { PacketData::of_cell_mut(cell) })
    }

    /// Lets a packet go on, as if nothing had been said.
    pub fn pass(&mut self, i: usize) {
        self.say(i, verdict::PASS);
    }

    /// Has a packet dropped and counted as filtered.
    pub fn drop(&mut self, i: usize) {
        self.say(i, verdict::DROP);
    }

    /// Has a packet dropped and counted as filtered, and its sender told so by ICMP.
    pub fn reject(&mut self, i: usize) {
        self.say(i, verdict::REJECT);
    }

    /// Takes a packet: it is the filter's now.
    pub fn take(&mut self, i: usize) -> Option<Packet> {
        let cell = self.ours(i)?;
        self.say(i, verdict::CONSUMED);
        // SAFETY: CONSUMED makes it ours, and is said once.
        Some(unsafe { Packet::from_cell(cell) })
    }

    fn say(&mut self, i: usize, v: u32) {
        if self.ours(i).is_some() {
            self.verdicts[i] = v;
        }
    }
}

struct Handle<F> {
    filter: F,
    health: Health,
}

/// The table of a filter.
pub const fn table<F: Filter>() -> &'static FilterTable {
    const {
        &FilterTable {
            size: size_of::<FilterTable>() as u32,
            flags: if F::STATELESS { filter_flags::STATELESS } else { 0 },
            name: Text::new(F::NAME),
            summary: Text::new(F::SUMMARY),
            create: create::<F>,
            destroy: destroy::<F>,
            filter: filter::<F>,
            status: status::<F>,
        }
    }
}

unsafe extern "C" fn create<F: Filter>(
    host: *const HostServices,
    config: *const FilterConfig,
    out: *mut *mut c_void,
    err: *mut ErrBuf,
) -> i32 {
    making("create", err, || {
        // SAFETY: the host passes its table, a configuration and a place for the answer, all valid during the call.
        let (host, config, out) = unsafe { (host_of(host)?, &*config, &mut *out) };
        // SAFETY: texts of the configuration, as above.
        let (name, options) = unsafe { (text(config.name)?, options(config.options)?) };
        let filter = F::create(host, &FilterRequest { name, options, workers: config.workers as usize })?;
        *out = Box::into_raw(Box::new(Handle { filter, health: Health::default() })).cast();
        Ok(())
    })
}

unsafe extern "C" fn destroy<F: Filter>(handle: *mut c_void) -> i32 {
    // SAFETY: made by `create`; the host gives it up, and no worker is in it.
    let handle = unsafe { Box::from_raw(handle.cast::<Handle<F>>()) };
    Health::default().run(0, "destroy", || drop(handle)).map_or(FAILED, |()| OK)
}

unsafe extern "C" fn filter<F: Filter>(
    p: *mut c_void,
    worker: u32,
    ifindex: u32,
    dir: u32,
    cells: *const Cell,
    n: u32,
    verdicts: *mut u32,
) -> i32 {
    if n == 0 {
        return OK;
    }
    // SAFETY: a handle of `create`, n cells and room for n verdicts, by the ABI.
    let (h, cells, verdicts) = unsafe {
        (
            &*p.cast::<Handle<F>>(),
            std::slice::from_raw_parts(cells, n as usize),
            std::slice::from_raw_parts_mut(verdicts, n as usize),
        )
    };
    let Some(host) = memory::host() else { return FAULT };
    verdicts.fill(verdict::PASS);
    let dir = if dir == direction::OUT { Direction::Out } else { Direction::In };
    let done = h.health.run(0, "filter", || {
        // SAFETY: the host calls on that worker.
        let mut cx = unsafe { Worker::new(host, worker) };
        // SAFETY: the host lends the packets through the call.
        h.filter.filter(&mut cx, ifindex, dir, &mut unsafe { Judged::new(cells, verdicts) });
    });
    done.map_or(FAULT, |()| OK)
}

unsafe extern "C" fn status<F: Filter>(p: *mut c_void, out: *mut ErrBuf) -> i32 {
    // SAFETY: a handle of `create`, by the ABI.
    let h = unsafe { &*p.cast::<Handle<F>>() };
    match h.health.run(0, "status", || h.filter.status().to_string()) {
        Some(json) => {
            say(out, &json);
            OK
        }
        None => FAILED,
    }
}
