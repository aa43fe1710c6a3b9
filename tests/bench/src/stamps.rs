//! When a worker asks for its next burst, stamped: the null driver with its `rx_burst` and `tx_burst` wrapped.
//!
//! From one `rx_burst` to the next a worker does all that it does in a round: forwarding the burst, filters, its other
//! chores. That is what a burst takes, and what a packet at its end waits for.

use crate::{clock::tsc, machine::thread_ns};
use smpnet_abi::{BURST_MAX, Cell, DriverTable};
use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::sync::OnceLock;

/// Most workers whose bursts are stamped.
pub const WORKERS: usize = 64;

/// One burst.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// When it began, in cycles of the time-stamp counter.
    pub began: u64,
    /// How long it took, in cycles.
    pub cycles: u32,
    /// Processor time of the worker meanwhile, in nanoseconds: without what others took from it.
    pub own_ns: u32,
}

/// What a worker recorded since [`start`].
#[derive(Debug, Default)]
pub struct Recorded {
    /// Its bursts, as many as there was room for.
    pub samples: Vec<Sample>,
    /// Packets of bursts that were sent in part or not at all.
    pub unsent: u64,
    /// Bursts of which some packets were sent and some not.
    pub split: u64,
    /// Bursts of which none was sent.
    pub dropped: u64,
}

/// What a worker itself writes.
#[derive(Default)]
struct Desk {
    recorded: Recorded,
    /// The burst in work: when it began, the worker's processor time then, its packets, those sent.
    began: u64,
    own_ns: u64,
    packets: u64,
    sent: u64,
}

struct Desks([UnsafeCell<Option<Desk>>; WORKERS]);

// SAFETY: a desk is touched by its worker only, but for `start` and `stop`, whose callers vouch for no port being up.
unsafe impl Sync for Desks {}

static DESKS: Desks = Desks([const { UnsafeCell::new(None) }; WORKERS]);
static NULL: OnceLock<&'static DriverTable> = OnceLock::new();

/// The table of a driver like `null` that stamps its bursts.
pub fn stamped(null: &'static DriverTable) -> &'static DriverTable {
    let null: &'static DriverTable = NULL.get_or_init(|| null);
    Box::leak(Box::new(DriverTable { rx_burst, tx_burst, ..*null }))
}

/// Begins a recording of at most `room` bursts of each of the workers.
///
/// # Safety
/// No stamped port is up, and a grace period has passed since one was: no worker is in its functions.
pub unsafe fn start(workers: usize, room: usize) {
    for desk in &DESKS.0[..workers] {
        // Written once, so that no burst pays for fresh memory.
        let mut samples = vec![Sample { began: 1, ..Sample::default() }; room];
        samples.clear();
        let recorded = Recorded { samples, ..Recorded::default() };
        // SAFETY: no worker is at its desk, says the caller.
        unsafe { *desk.get() = Some(Desk { recorded, ..Desk::default() }) };
    }
}

/// Ends the recording.
///
/// # Safety
/// As [`start`].
pub unsafe fn stop(workers: usize) -> Vec<Recorded> {
    let end = |desk: &UnsafeCell<Option<Desk>>| {
        // SAFETY: as in `start`.
        let mut desk = unsafe { (*desk.get()).take() }.unwrap_or_default();
        // Nobody asked for another burst after the last one.
        desk.began = 0;
        desk.close(0, 0);
        desk.recorded
    };
    DESKS.0[..workers].iter().map(end).collect()
}

/// The calling worker's desk while there is a recording.
fn desk<'a>(worker: u32) -> Option<&'a mut Desk> {
    let cell = DESKS.0.get(worker as usize)?;
    // SAFETY: the caller is this worker, see `Desks`; the reference does not outlive the driver's function.
    unsafe { (*cell.get()).as_mut() }
}

unsafe extern "C" fn rx_burst(port: *mut c_void, queue: u32, worker: u32, cells: *mut Cell, max: u32) -> u32 {
    let Some(null) = NULL.get() else { return 0 };
    // SAFETY: what the stack promises to this function it promises to that one.
    let n = unsafe { (null.rx_burst)(port, queue, worker, cells, max) };
    if let Some(desk) = desk(worker) {
        let (now, own) = (tsc(), thread_ns());
        desk.close(now, own);
        (desk.began, desk.own_ns, desk.packets) = (if n == BURST_MAX { now } else { 0 }, own, u64::from(n));
    }
    n
}

unsafe extern "C" fn tx_burst(port: *mut c_void, queue: u32, worker: u32, cells: *const Cell, n: u32) -> u32 {
    let Some(null) = NULL.get() else { return 0 };
    // SAFETY: as above.
    let taken = unsafe { (null.tx_burst)(port, queue, worker, cells, n) };
    if let Some(desk) = desk(worker) {
        desk.sent += u64::from(taken);
    }
    taken
}

impl Desk {
    /// The burst in work is over.
    fn close(&mut self, now: u64, own: u64) {
        if self.packets == 0 {
            return;
        }
        let r = &mut self.recorded;
        // More than came in may go out: the stack's own.
        r.unsent += self.packets.saturating_sub(self.sent);
        match self.sent {
            0 => r.dropped += 1,
            n if n < self.packets => r.split += 1,
            _ => {}
        }
        // Only full bursts are compared with each other.
        if self.began != 0 && r.samples.len() < r.samples.capacity() {
            let cycles = u32::try_from(now - self.began).unwrap_or(u32::MAX);
            let own_ns = u32::try_from(own - self.own_ns).unwrap_or(u32::MAX);
            r.samples.push(Sample { began: self.began, cycles, own_ns });
        }
        (self.packets, self.sent) = (0, 0);
    }
}
