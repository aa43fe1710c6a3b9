//! Counters of a plugin's own.

use crate::{Error, Worker};
use smpnet_abi::{CounterDesc, HostServices, Text};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A counter that workers add to without sharing a cache line: one padded value for each, summed by the router when
/// somebody asks. Copyable; its memory lives until the process ends, so asking again for the same owner and name gives
/// the same counter.
///
/// ```
/// # let host = smpnet_plugin::testing::host();
/// # let mut cx = smpnet_plugin::testing::worker(0);
/// let no_session = host.counter("gif0", "no_session")?;
/// no_session.add(&mut cx, 2);
/// assert_eq!(no_session.sum(), 2);
/// # Ok::<(), smpnet_plugin::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Counter {
    slots: &'static [Slot],
}

#[repr(align(64))]
#[derive(Default)]
struct Slot(AtomicU64);

type Registered = HashMap<(String, String), &'static [Slot]>;
static REGISTERED: Mutex<Option<Registered>> = Mutex::new(None);

impl Counter {
    pub(crate) fn register(host: &'static HostServices, owner: &str, name: &str) -> Result<Counter, Error> {
        let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
        let registered = registered.get_or_insert_default();
        let key = (owner.to_owned(), name.to_owned());
        if let Some(slots) = registered.get(&key) {
            return Ok(Counter { slots });
        }
        let slots: Box<[Slot]> = (0..host.workers.max(1)).map(|_| Slot::default()).collect();
        let base = slots.as_ptr();
        let desc = CounterDesc {
            size: size_of::<CounterDesc>() as u32,
            stride: size_of::<Slot>() as u32,
            base: base.cast(),
            owner: Text::new(owner),
            name: Text::new(name),
        };
        // SAFETY: the description lives through the call; the values are leaked below, or nobody has them.
        match unsafe { (host.counter)(&desc) } {
            0 => {
                let slots = Box::leak(slots);
                registered.insert(key, slots);
                Ok(Counter { slots })
            }
            _ => Err(Error::new(format!("counter {owner}.{name}: the name is taken"))),
        }
    }

    /// Adds `n` on the calling worker.
    #[inline]
    pub fn add(&self, cx: &mut Worker<'_>, n: u64) {
        if let Some(Slot(value)) = self.slots.get(cx.index()) {
            // Only this worker writes it, so a load and a store do.
            value.store(value.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
        }
    }

    /// The sum over all workers.
    pub fn sum(&self) -> u64 {
        self.slots.iter().map(|s| s.0.load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }
}
