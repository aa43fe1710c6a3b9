//! Statistics of queues: written by one worker each, read by control threads.

use smpnet_plugin::PortStats;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count that one thread adds to, without read-modify-write, and any thread reads.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds on the one thread that may.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a receive queue counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct RxStats {
    /// Packets given to the router.
    pub packets: Count,
    /// Their bytes.
    pub bytes: Count,
    /// Packets with a buffer that is empty or reaches out of its region.
    pub bad_descriptors: Count,
    /// Packets whose chain of buffers has no end or is longer than any packet.
    pub bad_chains: Count,
    /// Times that packets waited in the ring because no cell was free.
    pub no_cell: Count,
    /// With zero copy: times that the peer had no cell left to write to.
    pub ring_empty: Count,
    /// Packets that stood in the ring when the connection ended.
    pub lost_at_disconnect: Count,
}

/// What a transmit queue counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct TxStats {
    /// Packets put into the peer's ring.
    pub packets: Count,
    /// Their bytes.
    pub bytes: Count,
    /// Times that the ring had no room for a packet; it stayed the router's.
    pub ring_full: Count,
    /// Packets lost because no peer was connected.
    pub down: Count,
    /// Packets lost because they are longer than the whole ring holds.
    pub too_long: Count,
    /// Packets that the peer had not taken when the connection ended.
    pub lost_at_disconnect: Count,
    /// Interrupts sent to a sleeping peer.
    pub interrupts: Count,
}

/// Adds up what the queues of a port counted.
pub fn port_stats<'a>(rx: impl Iterator<Item = &'a RxStats>, tx: impl Iterator<Item = &'a TxStats>) -> PortStats {
    let mut sum = PortStats::default();
    for RxStats { packets, bytes, bad_descriptors, bad_chains, no_cell: _, ring_empty: _, lost_at_disconnect } in rx {
        sum.rx_packets += packets.get();
        sum.rx_bytes += bytes.get();
        sum.rx_missed += lost_at_disconnect.get();
        sum.rx_errors += bad_descriptors.get() + bad_chains.get();
    }
    for TxStats { packets, bytes, ring_full: _, down, too_long, lost_at_disconnect, interrupts: _ } in tx {
        sum.tx_packets += packets.get();
        sum.tx_bytes += bytes.get();
        sum.tx_errors += down.get() + too_long.get() + lost_at_disconnect.get();
    }
    sum
}

/// The counters beyond [`port_stats`], summed over the queues.
pub fn named<'a>(rx: impl Iterator<Item = &'a RxStats>, tx: impl Iterator<Item = &'a TxStats>) -> Vec<(String, u64)> {
    let mut rx_sums = [0; 5];
    for RxStats { packets: _, bytes: _, bad_descriptors, bad_chains, no_cell, ring_empty, lost_at_disconnect } in rx {
        for (sum, count) in
            rx_sums.iter_mut().zip([bad_descriptors, bad_chains, no_cell, ring_empty, lost_at_disconnect])
        {
            *sum += count.get();
        }
    }
    let mut tx_sums = [0; 5];
    for TxStats { packets: _, bytes: _, ring_full, down, too_long, lost_at_disconnect, interrupts } in tx {
        for (sum, count) in tx_sums.iter_mut().zip([ring_full, down, too_long, lost_at_disconnect, interrupts]) {
            *sum += count.get();
        }
    }
    let rx_names = ["rx_bad_descriptors", "rx_bad_chains", "rx_no_cell", "rx_ring_empty", "rx_lost_at_disconnect"];
    let tx_names = ["tx_ring_full", "tx_down", "tx_too_long", "tx_lost_at_disconnect", "tx_interrupts"];
    let pairs = rx_names.into_iter().zip(rx_sums).chain(tx_names.into_iter().zip(tx_sums));
    pairs.map(|(name, value)| (name.to_owned(), value)).collect()
}
