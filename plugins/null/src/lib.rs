//! Source and sink in memory, for benches and tests: a port that receives made-up packets and swallows what it is sent.
//!
//! ```toml
//! [[interface]]
//! name = "src0"
//! driver = "null"
//! options = { count = 1000000, flows = 10000, dst = "10.9.0.0/16" }   # all of them: `Options` in source.rs
//! ```
//!
//! It starts to receive when the interface is brought up. What it takes to be a driver stands in this file; the packets
//! are made in `source.rs`. The plugin also has a native filter, a line that loses packets (`loss.rs`):
//!
//! ```toml
//! [[filter]]
//! name = "bad-line"
//! native = "loss"
//! options = { one_in = 100 }              # or probability = 0.01, seed = 1; mark = 7 marks instead
//! ```

#![deny(unsafe_code)]

mod loss;
mod source;

use smpnet_plugin::{
    Burst, Driver, Error, Host, Opened, PortDetails, PortRequest, PortStats, RxQueue, TxQueue, Worker, serde_json,
};
use source::{Options, Source};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

struct Null {
    up: Arc<AtomicBool>,
    rx: Vec<Arc<Count>>,
    tx: Vec<Arc<Count>>,
}

/// Counters of one queue, on cache lines of their own: only the queue's worker writes them.
#[derive(Default)]
#[repr(align(128))]
struct Count {
    packets: AtomicU64,
    bytes: AtomicU64,
    missed: AtomicU64,
}

fn add(counter: &AtomicU64, n: usize) {
    counter.store(counter.load(Relaxed) + n as u64, Relaxed);
}

struct Rx {
    source: Source,
    up: Arc<AtomicBool>,
    count: Arc<Count>,
}

struct Tx(Arc<Count>);

impl Driver for Null {
    const NAME: &'static str = "null";
    const SUMMARY: &'static str = "receives made-up packets and swallows what it is sent";
    type Rx = Rx;
    type Tx = Tx;

    fn open(_host: Host, req: &PortRequest<'_>) -> Result<Opened<Self>, Error> {
        let options: Options = req.parse()?;
        let mac = options.port_mac(req.ifindex)?;
        let up = Arc::new(AtomicBool::new(false));
        let counts = |n: usize| (0..n.max(1)).map(|_| Arc::<Count>::default()).collect::<Vec<_>>();
        let port = Null { up: up.clone(), rx: counts(req.rx_queues), tx: counts(req.tx_queues) };
        let sources = Source::split(&options, mac, port.rx.len())?;
        let rx = sources.into_iter().zip(&port.rx);
        let rx = rx.map(|(source, count)| Rx { source, up: up.clone(), count: count.clone() }).collect();
        let tx = port.tx.iter().map(|count| Tx(count.clone())).collect();
        let mtu = if req.mtu == 0 { 1500 } else { req.mtu };
        Ok(Opened { port, rx, tx, details: PortDetails { mtu, mtu_max: 65535, mac, ..Default::default() } })
    }

    fn set_up(&self, up: bool) -> Result<(), Error> {
        self.up.store(up, Relaxed);
        Ok(())
    }

    fn set_mtu(&self, _mtu: u32) -> Result<(), Error> {
        Ok(())
    }

    fn set_promisc(&self, _on: bool) -> Result<(), Error> {
        Ok(())
    }

    fn stats(&self) -> PortStats {
        let sum = |counts: &[Arc<Count>], which: fn(&Count) -> &AtomicU64| -> u64 {
            counts.iter().map(|c| which(c).load(Relaxed)).sum()
        };
        PortStats {
            rx_packets: sum(&self.rx, |c| &c.packets),
            rx_bytes: sum(&self.rx, |c| &c.bytes),
            rx_missed: sum(&self.rx, |c| &c.missed),
            tx_packets: sum(&self.tx, |c| &c.packets),
            tx_bytes: sum(&self.tx, |c| &c.bytes),
            ..Default::default()
        }
    }

    fn status(&self) -> serde_json::Value {
        serde_json::json!({ "up": self.up.load(Relaxed), "rx_queues": self.rx.len(), "tx_queues": self.tx.len() })
    }
}

impl RxQueue for Rx {
    fn rx_burst(&mut self, cx: &mut Worker<'_>, out: &mut Burst, max: usize) {
        let due = if self.up.load(Relaxed) { self.source.due(max, || cx.now_ns()) } else { 0 };
        if due == 0 {
            return;
        }
        let got = cx.alloc_burst(due, out);
        let bytes = out.iter_mut().map(|packet| self.source.fill(packet)).sum();
        add(&self.count.packets, got);
        add(&self.count.bytes, bytes);
        if got < due {
            add(&self.count.missed, due - got);
        }
    }

    /// There is no event to wait for: while packets are to come, the worker stays awake.
    fn arm(&mut self) -> bool {
        self.up.load(Relaxed) && !self.source.is_done()
    }
}

impl TxQueue for Tx {
    fn tx_burst(&mut self, cx: &mut Worker<'_>, burst: &mut Burst) {
        add(&self.0.packets, burst.len());
        add(&self.0.bytes, burst.iter().map(|packet| packet.len()).sum());
        cx.free(burst);
    }
}

smpnet_plugin::plugin! {
    name: "null",
    summary: "source and sink in memory, and a line that loses packets, for benches and tests",
    license: "MIT OR Apache-2.0",
    privileges: 0,
    pci: [],
    drivers: [Null],
    ifkinds: [],
    filters: [loss::Loss],
}

#[cfg(test)]
mod tests;
