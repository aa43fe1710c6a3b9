//! What modules may call: four functions.

use super::fault::ImportFault;
use super::ticker::Watch;
use super::{Capabilities, Capability, TableKind};
use crate::tables::Reader;
use crossbeam_queue::ArrayQueue;
use smpnet_filter_abi::{ABSENT, KEY_MAX, LOG_MAX, LOOKUPS_MAX, export, import, level};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use wasmtime::{Caller, Engine, Error, Linker, Memory, Result, StoreLimits};

/// Lines that one instance may write at once, and in each second after that.
const LINES: u64 = 16;
const SECOND: u64 = 1_000_000_000;

/// A line that a module wrote.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    pub(crate) level: u8,
    len: u16,
    text: [u8; LOG_MAX as usize],
}

impl Line {
    /// The text, with what is not printable escaped: it comes from a stranger.
    pub(crate) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.text[..usize::from(self.len)]);
        text.trim_end()
            .chars()
            .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
            .collect()
    }
}

/// Lines on their way from instances to whoever reads them; room for a few, without allocation.
pub(crate) struct Lines {
    queue: ArrayQueue<Line>,
    /// Lines that were too many.
    pub(crate) lost: AtomicU64,
    /// Called for the first line of several.
    bell: Box<dyn Fn() + Send + Sync>,
}

impl Lines {
    pub(crate) fn new(bell: impl Fn() + Send + Sync + 'static) -> Arc<Lines> {
        Arc::new(Lines { queue: ArrayQueue::new(64), lost: AtomicU64::new(0), bell: Box::new(bell) })
    }

    pub(crate) fn take(&self) -> impl Iterator<Item = Line> {
        std::iter::from_fn(|| self.queue.pop())
    }
}

/// What belongs to an instance on the host's side.
pub(crate) struct Cx {
    pub(crate) limits: StoreLimits,
    pub(crate) memory: Option<Memory>,
    pub(crate) granted: Capabilities,
    pub(crate) tables: Vec<Reader>,
    pub(crate) lines: Arc<Lines>,
    pub(crate) watch: Watch,
    /// When the current second of the log began, and the lines in it.
    pub(crate) log: (u64, u64),
}

/// The imports, for every module of an engine.
pub(crate) fn linker(engine: &Engine) -> Result<Linker<Cx>> {
    let mut linker = Linker::new(engine);
    let module = import::MODULE;
    linker.func_wrap(module, import::LOG, log)?;
    linker.func_wrap(module, import::CLOCK, clock)?;
    linker.func_wrap(module, import::EXACT, exact)?;
    linker.func_wrap(module, import::PREFIX, prefix)?;
    Ok(linker)
}

#[cold]
fn fault(text: String) -> Error {
    Error::from(ImportFault(text))
}

/// The module's memory and the rest of what belongs to it.
fn memory<'a>(caller: &'a mut Caller<'_, Cx>) -> Result<(&'a mut [u8], &'a mut Cx)> {
    let memory = match caller.data().memory {
        Some(m) => m,
        // In a start function, before the instance is complete.
        None => caller
            .get_export(export::MEMORY)
            .and_then(wasmtime::Extern::into_memory)
            .ok_or_else(|| fault("the memory is not there yet".into()))?,
    };
    Ok(memory.data_and_store_mut(caller))
}

fn range(ptr: u32, len: u64, memory: &[u8], call: &str) -> Result<std::ops::Range<usize>> {
    let end = u64::from(ptr) + len;
    if end > memory.len() as u64 {
        return Err(fault(format!("{call}: {len} bytes at {ptr:#x} are not all in the memory")));
    }
    Ok(ptr as usize..end as usize)
}

fn needs(cx: &Cx, capability: Capability, call: &str) -> Result<()> {
    if cx.granted.has(capability) {
        return Ok(());
    }
    Err(fault(format!("{call}: the capability {capability} is not granted")))
}

fn log(mut caller: Caller<'_, Cx>, level: u32, ptr: u32, len: u32) -> Result<()> {
    let (memory, cx) = memory(&mut caller)?;
    let text = &memory[range(ptr, len.into(), memory, import::LOG)?];
    if !cx.granted.has(Capability::Log) {
        // A module that was refused its log still works.
        return Ok(());
    }
    let now = smpnet_runtime::now_ns();
    if now.saturating_sub(cx.log.0) >= SECOND {
        cx.log = (now, 0);
    }
    cx.log.1 += 1;
    if cx.log.1 > LINES {
        cx.lines.lost.fetch_add(1, Relaxed);
        return Ok(());
    }
    let n = text.len().min(LOG_MAX as usize);
    let mut line =
        Line { level: level.clamp(level::ERROR, level::DEBUG) as u8, len: n as u16, text: [0; LOG_MAX as usize] };
    line.text[..n].copy_from_slice(&text[..n]);
    let first = cx.lines.queue.is_empty();
    if cx.lines.queue.push(line).is_err() {
        cx.lines.lost.fetch_add(1, Relaxed);
    } else if first {
        (cx.lines.bell)();
    }
    Ok(())
}

fn clock(caller: Caller<'_, Cx>) -> Result<u64> {
    needs(caller.data(), Capability::Clock, import::CLOCK)?;
    Ok(smpnet_runtime::now_ns())
}

fn exact(mut caller: Caller<'_, Cx>, table: u32, keys: u32, stride: u32, n: u32, out: u32) -> Result<u32> {
    const CALL: &str = import::EXACT;
    let (memory, cx) = memory(&mut caller)?;
    let snapshot = lookup(cx, table, n, CALL, |k| k == TableKind::Exact)?;
    let room = range(out, u64::from(n) * 4, memory, CALL)?;
    let mut found = 0;
    for i in 0..n {
        let at = u64::from(keys) + u64::from(i) * u64::from(stride);
        let at = u32::try_from(at).map_err(|_| fault(format!("{CALL}: key {i} is not in the memory")))?;
        let head = range(at, 2, memory, CALL)?;
        let len = u32::from(u16::from_le_bytes([memory[head.start], memory[head.start + 1]]));
        if len > KEY_MAX {
            return Err(fault(format!("{CALL}: key {i} has {len} bytes, {KEY_MAX} are allowed")));
        }
        let key = range(at, 2 + u64::from(len), memory, CALL)?;
        let value = snapshot.exact(&memory[key.start + 2..key.end]);
        found += u32::from(value != ABSENT);
        let to = room.start + 4 * i as usize;
        memory[to..to + 4].copy_from_slice(&value.to_le_bytes());
    }
    Ok(found)
}

fn prefix(mut caller: Caller<'_, Cx>, table: u32, keys: u32, n: u32, out: u32) -> Result<u32> {
    const CALL: &str = import::PREFIX;
    let (memory, cx) = memory(&mut caller)?;
    let snapshot = lookup(cx, table, n, CALL, |k| k != TableKind::Exact)?;
    let bytes = snapshot.address_bytes();
    let keys = range(keys, u64::from(n) * bytes as u64, memory, CALL)?;
    let room = range(out, u64::from(n) * 4, memory, CALL)?;
    let mut found = 0;
    for i in 0..n as usize {
        let at = keys.start + i * bytes;
        let value = snapshot.longest(&memory[at..at + bytes]);
        found += u32::from(value != ABSENT);
        let to = room.start + 4 * i;
        memory[to..to + 4].copy_from_slice(&value.to_le_bytes());
    }
    Ok(found)
}

/// The content of a table of the right kind.
fn lookup<'a>(
    cx: &'a mut Cx,
    table: u32,
    n: u32,
    call: &str,
    right: impl Fn(TableKind) -> bool,
) -> Result<&'a crate::tables::Content> {
    needs(cx, Capability::Tables, call)?;
    if n > LOOKUPS_MAX {
        return Err(fault(format!("{call}: {n} keys are too many, {LOOKUPS_MAX} are allowed at once")));
    }
    let tables = cx.tables.len();
    match cx.tables.get_mut(table as usize) {
        Some(t) if right(t.kind()) => Ok(t.content()),
        Some(t) => Err(fault(format!("{call}: table {table} is of kind {}", t.kind()))),
        None => Err(fault(format!("{call}: there is no table {table}, the manifest names {tables}"))),
    }
}
