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
#[repr(align(64))]
pub struct RxStats {
    /// Packets given to the router.
    pub packets: Count,
    /// Their bytes.
    pub bytes: Count,
    /// Frames longer than the ring or a packet holds.
    pub cut: Count,
    /// Frames whose virtio-net header or block made no sense.
    pub bad: Count,
    /// Frames that came while the port was down.
    pub while_down: Count,
    /// Packets longer than a frame for segmentation offload.
    pub gso: Count,
    /// Checksums completed here, for want of a virtio-net header.
    pub csum_completed: Count,
    /// Times that frames waited because no cell was free.
    pub no_cell: Count,
}

/// What a transmit queue counts.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct TxStats {
    /// Packets handed to the kernel.
    pub packets: Count,
    /// Their bytes.
    pub bytes: Count,
    /// Packets that the kernel dropped because the device's queue was full.
    pub no_buffer: Count,
    /// Packets refused because the device was down or gone.
    pub down: Count,
    /// Packets refused for another reason: too long, or offload fields that make no sense.
    pub refused: Count,
    /// Times that the kernel had no room for a packet; it stayed the router's.
    pub busy: Count,
    /// System calls made to send.
    pub kicks: Count,
    /// Packets for segmentation offload.
    pub gso: Count,
}

/// Adds up what the queues of a port counted. `missed` comes from the kernel.
pub fn port_stats<'a>(
    rx: impl Iterator<Item = &'a RxStats>,
    tx: impl Iterator<Item = &'a TxStats>,
    missed: u64,
) -> PortStats {
    let mut sum = PortStats { rx_missed: missed, ..PortStats::default() };
    for RxStats { packets, bytes, cut, bad, while_down: _, gso: _, csum_completed: _, no_cell: _ } in rx {
        sum.rx_packets += packets.get();
        sum.rx_bytes += bytes.get();
        sum.rx_errors += cut.get() + bad.get();
    }
    for TxStats { packets, bytes, no_buffer, down, refused, busy: _, kicks: _, gso: _ } in tx {
        sum.tx_packets += packets.get();
        sum.tx_bytes += bytes.get();
        sum.tx_errors += no_buffer.get() + down.get() + refused.get();
    }
    sum
}

/// The counters beyond [`port_stats`], summed over the queues.
pub fn named<'a>(rx: impl Iterator<Item = &'a RxStats>, tx: impl Iterator<Item = &'a TxStats>) -> Vec<(String, u64)> {
    let mut rx_sums = [0; 6];
    for RxStats { packets: _, bytes: _, cut, bad, while_down, gso, csum_completed, no_cell } in rx {
        for (sum, count) in rx_sums.iter_mut().zip([cut, bad, while_down, gso, csum_completed, no_cell]) {
            *sum += count.get();
        }
    }
    let mut tx_sums = [0; 6];
    for TxStats { packets: _, bytes: _, no_buffer, down, refused, busy, kicks, gso } in tx {
        for (sum, count) in tx_sums.iter_mut().zip([no_buffer, down, refused, busy, kicks, gso]) {
            *sum += count.get();
        }
    }
    let rx_names = ["rx_cut", "rx_bad", "rx_while_down", "rx_gso", "rx_csum_completed", "rx_no_cell"];
    let tx_names = ["tx_no_buffer", "tx_down", "tx_refused", "tx_busy", "tx_kicks", "tx_gso"];
    let pairs = rx_names.into_iter().zip(rx_sums).chain(tx_names.into_iter().zip(tx_sums));
    pairs.map(|(name, value)| (name.to_owned(), value)).collect()
}
