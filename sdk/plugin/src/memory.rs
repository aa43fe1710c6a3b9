//! The plugin's view of the router: the table of services and the packet pool, both there from `start` until the end of
//! the process.

use smpnet_abi::{Cell, HEADER_SIZE, HostServices, PktHdr};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

// Written once by `install` before any other function of the plugin runs; every later call comes through a function
// pointer that the host obtained after `start`, which orders the stores. Relaxed loads are therefore enough, and cheaper
// on the packet path than the branch of a OnceLock.
static HOST: AtomicPtr<HostServices> = AtomicPtr::new(null_mut());
static BASE: AtomicPtr<u8> = AtomicPtr::new(null_mut());
static CELL_SIZE: AtomicU32 = AtomicU32::new(0);
static CELLS: AtomicU32 = AtomicU32::new(0);
static DATA_OFF: AtomicU32 = AtomicU32::new(0);

/// Keeps the host's table. Called by the plugin's `start`.
pub(crate) fn install(host: &'static HostServices) {
    // SAFETY: the ABI promises a pool description that lives as long as the process.
    let pool = unsafe { &*host.pool };
    BASE.store(pool.base, Ordering::Relaxed);
    CELL_SIZE.store(pool.cell_size, Ordering::Relaxed);
    CELLS.store(pool.cells, Ordering::Relaxed);
    DATA_OFF.store(pool.data_off, Ordering::Relaxed);
    HOST.store(std::ptr::from_ref(host).cast_mut(), Ordering::Release);
}

/// The host's table, or none before `start`.
#[inline]
pub(crate) fn host() -> Option<&'static HostServices> {
    // SAFETY: null, or a table that lives as long as the process.
    unsafe { HOST.load(Ordering::Acquire).as_ref() }
}

/// The header of a cell, which is also where the cell begins. Null before `start` and for an index beyond the pool.
#[inline]
pub(crate) fn cell_ptr(cell: Cell) -> *mut PktHdr {
    debug_assert!(is_valid(cell), "cell {cell} is not in the pool");
    BASE.load(Ordering::Relaxed).wrapping_add(cell as usize * cell_size()).cast()
}

/// Whether the pool has such a cell.
#[inline]
pub(crate) fn is_valid(cell: Cell) -> bool {
    cell < CELLS.load(Ordering::Relaxed)
}

/// Bytes of a cell.
#[inline]
pub(crate) fn cell_size() -> usize {
    CELL_SIZE.load(Ordering::Relaxed) as usize
}

/// Where the data of a fresh packet begins.
pub(crate) fn fresh_data_off() -> u16 {
    // data_off is below the size of a cell, at most 32 KiB.
    DATA_OFF.load(Ordering::Relaxed) as u16
}

/// First byte that data may take in a cell.
pub(crate) const DATA_MIN: usize = HEADER_SIZE as usize;
