//! A device with a schedule: the null driver, whose packets arrive at times of their own and not when somebody asks. What is timed is
//! from a packet's arrival until it is handed over to be sent.
//!
//! The schedule does not wait for a router that is late, so that nothing is left out of the figures: packets that arrive meanwhile
//! wait in an endless queue and count as long as they wait.

use crate::{clock::tsc, machine::thread_ns, spread::Histogram};
use smpnet_abi::{Cell, DriverTable};
use std::{
    cell::UnsafeCell,
    ffi::c_void,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// When packets arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// Whenever somebody asks: the full load.
    Always,
    /// One every so many cycles of the time-stamp counter.
    Every(f64),
    /// One when [`arrive`] is called.
    Called,
}

/// What was seen of a schedule.
#[derive(Clone, Default)]
pub struct Seen {
    /// Cycles that packets waited.
    pub waited: Histogram,
    /// The same of packets that arrived while the worker was without its processor, or waited for others that did.
    pub disturbed: Histogram,
    /// Times that the worker lost its processor.
    pub losses: u64,
}

/// What the worker has in hand.
struct Desk {
    /// The port that packets arrive at; at others none do.
    port: usize,
    schedule: Schedule,
    cycles_per_ns: f64,
    /// When the schedule began, and how many of its packets were given.
    began: u64,
    given: u64,
    /// When each cell's packet arrived.
    arrived: Box<[u64]>,
    seen: Seen,
    /// When the worker asked last.
    asked: u64,
    /// Until when its processor time is known, and what it was.
    known: (u64, u64),
    /// Bursts with nothing left behind them until the last loss is made up for.
    disturbed: u8,
}

/// A device that is asked again after so many cycles was left alone by its worker for a reason: its processor is asked for.
const GAP_NS: f64 = 10_000.0;
/// How many bursts that leave nothing behind it takes until a loss no longer shows: that in which it was seen, and the one in which its
/// last packets are.
const MADE_UP: u8 = 2;
/// How long a schedule goes on before its packets count.
const WARM_UP_NS: f64 = 30e6;
/// How long a packet may be on its way.
const PATIENCE: Duration = Duration::from_secs(5);
/// A switch to another thread and back takes at least so long.
const LOSS_NS: f64 = 3_000.0;

struct Device {
    null: &'static DriverTable,
    /// The desk of the one worker.
    desk: UnsafeCell<Option<Desk>>,
    event: OwnedFd,
    /// When the packet arrived that waits; 0 for none.
    waiting: AtomicU64,
    armed: AtomicBool,
    /// Packets that were called and are gone.
    gone: AtomicU64,
}

// SAFETY: the desk is touched by the one worker only, but for `start` and `stop`, whose callers vouch for no port being up.
unsafe impl Sync for Device {}

static DEVICE: OnceLock<Device> = OnceLock::new();

/// The table of the null driver with schedules in it, for a router of one worker.
pub fn scheduled(null: &'static DriverTable) -> &'static DriverTable {
    let device = DEVICE.get_or_init(|| Device {
        null,
        desk: UnsafeCell::new(None),
        event: eventfd().unwrap_or_else(|e| panic!("no eventfd: {e}")),
        waiting: AtomicU64::new(0),
        armed: AtomicBool::new(false),
        gone: AtomicU64::new(0),
    });
    Box::leak(Box::new(DriverTable { rx_burst, tx_burst, event_fd, rx_arm, rx_disarm, ..*device.null }))
}

/// Begins a schedule at a port.
///
/// # Safety
/// No port is up, and a grace period has passed since one was: no worker is in its functions.
pub unsafe fn start(port: *mut c_void, schedule: Schedule, cells: u32, cycles_per_us: f64) {
    let Some(device) = DEVICE.get() else { return };
    let desk = Desk {
        port: port as usize,
        schedule,
        cycles_per_ns: cycles_per_us / 1e3,
        began: 0,
        given: 0,
        arrived: vec![0; cells as usize].into(),
        seen: Seen::default(),
        asked: 0,
        known: (0, 0),
        disturbed: 0,
    };
    // SAFETY: the worker is not at its desk, says the caller.
    unsafe { *device.desk.get() = Some(desk) };
}

/// Ends the schedule.
///
/// # Safety
/// As [`start`].
pub unsafe fn stop() -> Seen {
    // SAFETY: as in `start`.
    let desk = DEVICE.get().and_then(|device| unsafe { (*device.desk.get()).take() });
    desk.map(|d| d.seen).unwrap_or_default()
}

/// A packet arrives now; returns when the router has handed it over to be sent. Any thread that is no worker.
///
/// # Errors
/// When it does not within some seconds.
pub fn arrive() -> Result<(), String> {
    let Some(device) = DEVICE.get() else { return Err("there is no device".into()) };
    let gone = device.gone.load(Ordering::Acquire);
    // With the look at `armed` the counterpart of `rx_arm`: either the worker sees the packet or we see that it sleeps.
    device.waiting.store(tsc().max(1), Ordering::SeqCst);
    let armed = device.armed.load(Ordering::SeqCst);
    if armed {
        let one = 1u64;
        // SAFETY: eight bytes of `one`. A full counter means that the worker is being woken already.
        unsafe { libc::write(device.event.as_raw_fd(), (&raw const one).cast(), 8) };
    }
    let start = Instant::now();
    while device.gone.load(Ordering::Acquire) == gone {
        if start.elapsed() > PATIENCE {
            let taken = device.waiting.load(Ordering::SeqCst) == 0;
            return Err(format!("a packet that arrived was not sent (armed {armed}, taken {taken})"));
        }
        std::hint::spin_loop();
    }
    Ok(())
}

impl Desk {
    /// The worker asks for packets at `now`: how many may it have?
    fn due(&mut self, device: &Device, now: u64, max: u32) -> u32 {
        if self.schedule == Schedule::Called {
            return u32::from(device.waiting.load(Ordering::SeqCst) != 0);
        }
        if self.began == 0 {
            (self.began, self.asked, self.known) = (now, now, (now, thread_ns()));
        }
        let waiting = match self.schedule {
            Schedule::Every(cycles) => (((now - self.began) as f64 / cycles) as u64 + 1).saturating_sub(self.given),
            _ => max.into(),
        };
        if waiting <= max.into() {
            self.disturbed = self.disturbed.saturating_sub(1);
        }
        self.look_for_loss(now);
        self.asked = now;
        waiting.min(max.into()) as u32
    }

    /// When the worker was away for long: did it lose its processor meanwhile? Asked only then, because it takes a system call.
    fn look_for_loss(&mut self, now: u64) {
        if ((now - self.asked) as f64) < GAP_NS * self.cycles_per_ns {
            return;
        }
        let own = thread_ns();
        let (at, before) = self.known;
        self.known = (now, own);
        if (now - at) as f64 / self.cycles_per_ns - (own - before) as f64 > LOSS_NS {
            self.seen.losses += 1;
            self.disturbed = MADE_UP;
        }
    }

    /// The worker gets these packets.
    fn give(&mut self, device: &Device, now: u64, cells: &[Cell]) {
        for &cell in cells {
            let arrived = match self.schedule {
                Schedule::Always => now,
                Schedule::Every(cycles) => self.began + (self.given as f64 * cycles) as u64,
                Schedule::Called => device.waiting.swap(0, Ordering::SeqCst),
            };
            self.given += 1;
            if let Some(a) = self.arrived.get_mut(cell as usize) {
                *a = arrived;
            }
        }
    }

    /// The worker hands these over at `now`.
    fn take(&mut self, now: u64, cells: &[Cell]) {
        if self.schedule != Schedule::Called {
            self.look_for_loss(now);
            // Caches fill, and what waited since the beginning is worked off.
            if ((now - self.began) as f64) < WARM_UP_NS * self.cycles_per_ns {
                return;
            }
        }
        let waited = if self.disturbed > 0 { &mut self.seen.disturbed } else { &mut self.seen.waited };
        for cell in cells {
            let arrived = self.arrived.get(*cell as usize).copied().unwrap_or(now);
            waited.add(now.saturating_sub(arrived));
        }
    }
}

/// The device and its worker's desk, while a schedule goes on.
fn at_work<'a>() -> Option<(&'static Device, &'a mut Desk)> {
    let device = DEVICE.get()?;
    // SAFETY: the one worker calls; the reference does not outlive the driver's function.
    Some((device, unsafe { (*device.desk.get()).as_mut()? }))
}

unsafe extern "C" fn rx_burst(port: *mut c_void, queue: u32, worker: u32, cells: *mut Cell, max: u32) -> u32 {
    let Some((device, desk)) = at_work().filter(|(_, desk)| desk.port == port as usize) else { return 0 };
    let now = tsc();
    let due = desk.due(device, now, max);
    if due == 0 {
        return 0;
    }
    // SAFETY: what the stack promises to this function it promises to that one; `due` is 1 to `max`.
    let n = unsafe { (device.null.rx_burst)(port, queue, worker, cells, due) };
    // SAFETY: the driver wrote `n` cells, which are this function's until it returns.
    desk.give(device, now, unsafe { std::slice::from_raw_parts(cells, n as usize) });
    n
}

unsafe extern "C" fn tx_burst(port: *mut c_void, queue: u32, worker: u32, cells: *const Cell, n: u32) -> u32 {
    let Some((device, desk)) = at_work() else { return 0 };
    if n > 0 {
        // SAFETY: the stack hands over `n` cells.
        desk.take(tsc(), unsafe { std::slice::from_raw_parts(cells, n as usize) });
        if desk.schedule == Schedule::Called {
            device.gone.fetch_add(u64::from(n), Ordering::Release);
        }
    }
    // SAFETY: as above.
    unsafe { (device.null.tx_burst)(port, queue, worker, cells, n) }
}

unsafe extern "C" fn event_fd(_port: *mut c_void, _queue: u32) -> i32 {
    DEVICE.get().map_or(-1, |d| d.event.as_raw_fd())
}

unsafe extern "C" fn rx_arm(port: *mut c_void, _queue: u32) -> i32 {
    let Some((device, desk)) = at_work().filter(|(_, desk)| desk.port == port as usize) else { return 0 };
    if desk.schedule != Schedule::Called {
        return 1;
    }
    device.armed.store(true, Ordering::SeqCst);
    i32::from(device.waiting.load(Ordering::SeqCst) != 0)
}

unsafe extern "C" fn rx_disarm(_port: *mut c_void, _queue: u32) -> i32 {
    let Some(device) = DEVICE.get() else { return 0 };
    device.armed.store(false, Ordering::SeqCst);
    let mut count = 0u64;
    // SAFETY: eight bytes into `count`; the descriptor does not block.
    unsafe { libc::read(device.event.as_raw_fd(), (&raw mut count).cast(), 8) };
    0
}

fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed; the result is checked.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
