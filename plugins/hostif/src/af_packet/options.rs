//! The options of the driver in the configuration.

use crate::{
    error::HostError,
    packet_socket::Fanout,
    ring::{RxGeometry, TxGeometry},
};
use serde::{Deserialize, Serialize};
use smpnet_plugin::{Error, PortRequest};

/// `options = { ... }` of an interface with `driver = "af_packet"`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The kernel's device; the interface's own name if it is not given.
    pub device: String,
    /// Receive queues; as many as the router wants if it is not given.
    pub queues: Option<usize>,
    /// How frames are spread over the queues.
    pub fanout: Fanout,
    /// The receive ring of each queue.
    pub ring: RingOptions,
    /// Transmission.
    pub tx: TxOptions,
    /// Keep the kernel's own stack from receiving what arrives on the device.
    pub exclusive: bool,
    /// Receive frames for other stations as well.
    pub promisc: bool,
    /// Checksum and segmentation offload by the virtio-net header.
    pub offload: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            device: String::new(),
            queues: None,
            fanout: Fanout::Hash,
            ring: RingOptions::default(),
            tx: TxOptions::default(),
            exclusive: true,
            promisc: false,
            offload: true,
        }
    }
}

/// The receive ring.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RingOptions {
    /// Blocks, 2 to 4096; if it is not given, 128 (16 MiB), or fewer from five queues on, so that a port takes 64 MiB.
    pub blocks: Option<u32>,
    /// Bytes of a block: a power of two, 4096 to 16 MiB. Below 128 KiB, large segmentation-offload frames are lost.
    pub block_size: u32,
    /// Milliseconds after which a block that is not full is handed over, 1 to 1000.
    pub retire_ms: u32,
}

impl Default for RingOptions {
    fn default() -> Self {
        RingOptions { blocks: None, block_size: 128 << 10, retire_ms: 1 }
    }
}

impl RingOptions {
    /// The ring of each of `queues` queues.
    pub(crate) fn geometry(&self, queues: usize) -> RxGeometry {
        // 16 MiB hold 100,000 small frames. As a block is handed over after `retire_ms` however little is in it, the
        // number of blocks also bounds how long a worker may stay away: 128 ms. With 32 blocks a busy machine lost frames.
        let blocks = self.blocks.unwrap_or((512 / queues.max(1) as u32).clamp(16, 128));
        RxGeometry { blocks, block_size: self.block_size, retire_ms: self.retire_ms }
    }
}

/// How packets are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TxMode {
    /// A ring on devices with hardware behind them, sendmmsg on the others.
    Auto,
    /// A `TPACKET_V3` ring.
    Ring,
    /// sendmmsg(2).
    Sendmmsg,
}

/// Transmission.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TxOptions {
    /// By ring or by sendmmsg.
    pub mode: TxMode,
    /// Slots of the ring: a power of two, 64 to 65536.
    pub frames: u32,
    /// Bytes of a slot: a power of two, 1024 to 65536.
    pub frame_size: u32,
    /// Go past the kernel's queueing discipline. Faster, but bursts that the device's own queue cannot take are lost.
    pub qdisc_bypass: bool,
}

impl Default for TxOptions {
    fn default() -> Self {
        TxOptions { mode: TxMode::Auto, frames: 1024, frame_size: 2048, qdisc_bypass: false }
    }
}

impl TxOptions {
    pub(crate) fn geometry(&self) -> TxGeometry {
        TxGeometry { frames: self.frames, frame_size: self.frame_size }
    }
}

impl Options {
    /// Those of a request, checked.
    pub fn of(req: &PortRequest<'_>) -> Result<Self, Error> {
        let mut options: Options = if req.options.is_null() { Options::default() } else { req.parse()? };
        if options.device.is_empty() {
            options.device = req.name.to_owned();
        }
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<(), HostError> {
        let (ring, tx) = (&self.ring, &self.tx);
        let rules = [
            (self.queues.is_none_or(|q| (1..=256).contains(&q)), "queues must be 1 to 256"),
            (ring.blocks.is_none_or(|b| (2..=4096).contains(&b)), "ring.blocks must be 2 to 4096"),
            (
                ring.block_size.is_power_of_two() && (4096..=16 << 20).contains(&ring.block_size),
                "ring.block_size must be a power of two from 4096 to 16777216",
            ),
            ((1..=1000).contains(&ring.retire_ms), "ring.retire_ms must be 1 to 1000"),
            (
                tx.frames.is_power_of_two() && (64..=65536).contains(&tx.frames),
                "tx.frames must be a power of two from 64 to 65536",
            ),
            (
                tx.frame_size.is_power_of_two() && (1024..=65536).contains(&tx.frame_size),
                "tx.frame_size must be a power of two from 1024 to 65536",
            ),
        ];
        HostError::check_rules(&rules)
    }
}
