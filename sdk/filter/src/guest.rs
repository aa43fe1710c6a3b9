//! The instance of a filter inside of a WebAssembly module: what the exports call.

use crate::{Burst, Filter, Level, host};
use core::cell::UnsafeCell;
use smpnet_filter_abi as abi;

/// The ring and its windows, `W` bytes of them.
#[repr(C, align(16))]
pub struct Memory<const W: usize>(UnsafeCell<Space<W>>);

#[repr(C, align(16))]
struct Space<const W: usize> {
    ring: abi::Ring,
    windows: [u8; W],
}

/// The filter, once it was made.
pub struct Instance<F>(UnsafeCell<Option<F>>);

// SAFETY: a wasm32 module without atomics has one thread (smpnet makes an instance for each worker, which no two threads
// enter), and smpnet does not call an export from within an import, so the cells are never borrowed twice.
#[cfg(all(target_arch = "wasm32", not(target_feature = "atomics")))]
unsafe impl<const W: usize> Sync for Memory<W> {}
// SAFETY: as above.
#[cfg(all(target_arch = "wasm32", not(target_feature = "atomics")))]
unsafe impl<F> Sync for Instance<F> {}

impl<const W: usize> Memory<W> {
    /// All zeros, so that it takes no room in the module's file.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Memory<W> {
        Memory(UnsafeCell::new(Space { ring: blank_ring(), windows: [0; W] }))
    }

    /// Where the ring is: `smpnet_ring`.
    pub fn address(&self) -> i32 {
        self.0.get() as usize as i32
    }

    #[allow(clippy::mut_from_ref)]
    fn borrow(&self) -> &mut Space<W> {
        // SAFETY: exports are entered one at a time (see `Sync` above), each borrows once, and smpnet writes the ring only
        // between calls.
        unsafe { &mut *self.0.get() }
    }
}

/// A ring of zeros.
pub(crate) const fn blank_ring() -> abi::Ring {
    abi::Ring {
        n: 0,
        layer: 0,
        direction: 0,
        ifindex: 0,
        now_ns: 0,
        generation: 0,
        worker: 0,
        workers: 0,
        window: 0,
        patch_len: 0,
        reserved: [0; 4],
        packets: [NO_PACKET; abi::BURST_MAX as usize],
        verdicts: [abi::Verdict { verdict: 0, mark: 0 }; abi::BURST_MAX as usize],
        counters: [0; abi::COUNTERS_MAX as usize],
        patches: [0; abi::PATCH_BYTES],
    }
}

const NO_PACKET: abi::Packet = abi::Packet {
    data: 0,
    cap_len: 0,
    flags: 0,
    wire_len: 0,
    flow_hash: 0,
    mark: 0,
    rcvif: 0,
    l3_off: 0,
    l4_off: 0,
    ether_type: 0,
    vlan_tci: 0,
};

impl<F: Filter> Instance<F> {
    /// No filter yet.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Instance<F> {
        Instance(UnsafeCell::new(None))
    }

    #[allow(clippy::mut_from_ref)]
    fn borrow(&self) -> &mut Option<F> {
        // SAFETY: as in `Memory::borrow`.
        unsafe { &mut *self.0.get() }
    }

    /// The filter. One that was never given a configuration is made without.
    fn filter(&self) -> &mut F {
        let slot = self.borrow();
        if slot.is_none() {
            match F::new(b"") {
                Ok(filter) => *slot = Some(filter),
                Err(e) => panic!("it needs a configuration: {e}"),
            }
        }
        match slot {
            Some(filter) => filter,
            None => unreachable!("it was just made"),
        }
    }

    /// `smpnet_init`.
    pub fn init<const W: usize>(&self, memory: &Memory<W>, len: i32) -> i32 {
        std_panics();
        let windows = &memory.borrow().windows;
        let Some(config) = usize::try_from(len).ok().and_then(|len| windows.get(..len)) else {
            return refuse(format_args!("a configuration of {len} bytes does not fit into {W}"));
        };
        match F::new(config) {
            Ok(filter) => {
                *self.borrow() = Some(filter);
                0
            }
            Err(e) => refuse(format_args!("{e}")),
        }
    }

    /// `smpnet_filter`.
    pub fn judge<const W: usize>(&self, memory: &Memory<W>, n: i32) -> i32 {
        let Space { ring, windows } = memory.borrow();
        let base = windows.as_ptr() as usize as u32;
        let count = usize::try_from(n).unwrap_or(0);
        self.filter().filter(&mut Burst::new(ring, windows, base, count));
        n
    }

    /// `smpnet_tick`.
    pub fn tick(&self, now_ns: i64) {
        self.filter().tick(now_ns as u64);
    }

    /// `smpnet_state_export`.
    pub fn export_state<const W: usize>(&self, memory: &Memory<W>, off: i32) -> i32 {
        let Ok(off) = usize::try_from(off) else { return 0 };
        // Never more than there is room for, which is far below 2 GiB.
        self.filter().export_state(off, &mut memory.borrow().windows).min(W) as i32
    }

    /// `smpnet_state_import`.
    pub fn import_state<const W: usize>(&self, memory: &Memory<W>, off: i32, len: i32) -> i32 {
        let (Ok(off), Ok(len)) = (usize::try_from(off), usize::try_from(len)) else { return 1 };
        let Some(bytes) = memory.borrow().windows.get(..len) else { return 1 };
        match self.filter().import_state(off, bytes) {
            Ok(()) => 0,
            Err(e) => refuse(format_args!("state: {e}")),
        }
    }
}

fn refuse(why: core::fmt::Arguments<'_>) -> i32 {
    host::log(Level::Error, why);
    1
}

/// A panic says what happened in the log, and ends the call with a trap.
#[cfg(all(target_arch = "wasm32", not(feature = "std")))]
#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    host::log(Level::Error, format_args!("{info}"));
    core::arch::wasm32::unreachable()
}

/// With `std` the panic handler is that of the standard library, which prints where nobody reads.
#[cfg(all(target_arch = "wasm32", feature = "std"))]
fn std_panics() {
    std::panic::set_hook(std::boxed::Box::new(|info| host::log(Level::Error, format_args!("{info}"))));
}

#[cfg(not(all(target_arch = "wasm32", feature = "std")))]
fn std_panics() {}

#[cfg(all(target_arch = "wasm32", feature = "alloc", not(feature = "std")))]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;
