//! What a plugin can do on the packet path.

use crate::{Burst, DropReason, Packet};
use smpnet_abi::{CELL_NONE, HostServices};
use std::borrow::BorrowMut;
use std::marker::PhantomData;

/// The worker that is calling: one of the router's packet threads. Everything here is cheap enough for the packet path;
/// functions that take bursts cost one call for all packets.
///
/// `if_input`, `if_output` and `ip_output` only note the packets; they are taken up after the calling function has
/// returned, so calls do not nest.
pub struct Worker<'a> {
    host: &'static HostServices,
    index: u32,
    // Not Send: it stands for this thread.
    _here: PhantomData<(&'a (), *mut ())>,
}

impl Worker<'_> {
    /// # Safety
    /// The caller runs on worker `index` for as long as the value lives.
    #[inline]
    pub(crate) unsafe fn new(host: &'static HostServices, index: u32) -> Self {
        Worker { host, index, _here: PhantomData }
    }

    /// Index of the worker, below [`crate::Host::workers`].
    #[inline]
    pub fn index(&self) -> usize {
        self.index as usize
    }

    /// A fresh packet; none when the pool is empty. For more than one, [`Worker::alloc_burst`] is cheaper.
    #[inline]
    pub fn alloc(&mut self) -> Option<Packet> {
        let mut cell = CELL_NONE;
        // SAFETY: room for one cell; this is worker `index`.
        let n = unsafe { (self.host.pkt_alloc)(self.index, &mut cell, 1) };
        // SAFETY: the host has just given it.
        (n == 1).then(|| unsafe { Packet::from_cell(cell) })
    }

    /// Adds `n` fresh packets to `out`, or as many as fit and the pool has, and returns how many.
    #[inline]
    pub fn alloc_burst(&mut self, n: usize, out: &mut Burst) -> usize {
        let (cells, n) = out.spare(n);
        // SAFETY: room for n cells; this is worker `index`. What the host says it gave is ours, and never above n.
        unsafe {
            let got = (self.host.pkt_alloc)(self.index, cells, n).min(n);
            out.filled(got);
            got as usize
        }
    }

    /// Gives packets back: those that were sent, or never held anything. For packets that are lost on the way,
    /// [`Worker::drop_packets`] counts the reason.
    #[inline]
    pub fn free(&mut self, packets: impl BorrowMut<Burst>) {
        self.give(packets, |h, w, cells, n| {
            // SAFETY: n packets that are given up here; this is worker w.
            unsafe { (h.pkt_free)(w, cells, n) }
        });
    }

    /// Drops packets and counts the reason against an interface (0 for none).
    pub fn drop_packets(&mut self, ifindex: u32, reason: DropReason, packets: impl BorrowMut<Burst>) {
        self.give(packets, |h, w, cells, n| {
            // SAFETY: as in `free`.
            unsafe { (h.pkt_drop)(w, ifindex, reason as u32, cells, n) }
        });
    }

    /// Drops one packet, as [`Worker::drop_packets`].
    pub fn drop_packet(&mut self, ifindex: u32, reason: DropReason, packet: Packet) {
        let cell = packet.into_cell();
        // SAFETY: as in `free`.
        unsafe { (self.host.pkt_drop)(self.index, ifindex, reason as u32, &cell, 1) };
    }

    /// Keeps the packets of `burst` that `f` accepts, in order, and drops the others for the reasons it gives.
    pub fn keep(&mut self, ifindex: u32, burst: &mut Burst, mut f: impl FnMut(&mut Packet) -> Result<(), DropReason>) {
        for mut packet in burst.take().drain() {
            match f(&mut packet) {
                // What came out of a burst fits into it again.
                Ok(()) => drop(burst.push(packet)),
                Err(reason) => self.drop_packet(ifindex, reason, packet),
            }
        }
    }

    /// Packets that interface `ifindex` has received: frames, or IP packets with `ether_type` set where it has no link
    /// header.
    #[inline]
    pub fn if_input(&mut self, ifindex: u32, packets: impl BorrowMut<Burst>) {
        self.give(packets, |h, w, cells, n| {
            // SAFETY: as in `free`.
            unsafe { (h.if_input)(w, ifindex, cells, n) }
        });
    }

    /// Complete frames (IP packets, where there is no link header) to send out of interface `ifindex`.
    #[inline]
    pub fn if_output(&mut self, ifindex: u32, packets: impl BorrowMut<Burst>) {
        self.give(packets, |h, w, cells, n| {
            // SAFETY: as in `free`.
            unsafe { (h.if_output)(w, ifindex, cells, n) }
        });
    }

    /// IP packets made here (by `ether_type`), to be routed.
    #[inline]
    pub fn ip_output(&mut self, packets: impl BorrowMut<Burst>) {
        self.give(packets, |h, w, cells, n| {
            // SAFETY: as in `free`.
            unsafe { (h.ip_output)(w, cells, n) }
        });
    }

    /// Nanoseconds of the monotonic clock.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        // SAFETY: takes nothing.
        unsafe { (self.host.now_ns)() }
    }

    #[inline]
    fn give(&mut self, mut packets: impl BorrowMut<Burst>, to: impl FnOnce(&HostServices, u32, *const u32, u32)) {
        let burst = packets.borrow_mut();
        if !burst.is_empty() {
            to(self.host, self.index, burst.as_cells().as_ptr(), burst.len() as u32);
            burst.forget();
        }
    }
}
