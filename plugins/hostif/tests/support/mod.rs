//! Opens ports in a host of the laboratory and moves packets between them as a worker would.

#![allow(dead_code)] // each test program uses its part

use smpnet_lab::{Host, LabError, Result};
use smpnet_plugin::{Burst, Driver, Opened, Packet, PortRequest, PortStats, RxQueue, TxQueue, Worker, testing};
use std::{
    collections::HashMap,
    os::fd::RawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Opens a port in the network namespace of the calling thread, and lets packets in.
pub fn open<D: Driver>(name: &str, queues: usize, options: serde_json::Value) -> Result<Opened<D>> {
    let opened = try_open::<D>(name, queues, options).map_err(LabError::Failed)?;
    opened.port.set_up(true).map_err(|e| LabError::Failed(e.to_string()))?;
    Ok(opened)
}

/// Opens a port that stays down; on failure the driver's words.
pub fn try_open<D: Driver>(
    name: &str,
    queues: usize,
    options: serde_json::Value,
) -> std::result::Result<Opened<D>, String> {
    let request = PortRequest { name, ifindex: 1, options, rx_queues: queues, tx_queues: 1, workers: queues, mtu: 0 };
    D::open(testing::host(), &request).map_err(|e| e.to_string())
}

/// Closes a port in the order of the plugin interface: queues first.
pub fn close<D: Driver>(opened: Opened<D>) {
    let Opened { port, rx, tx, .. } = opened;
    drop((rx, tx));
    port.close();
    drop(port);
}

/// All bytes of a packet.
pub fn bytes(packet: &Packet) -> Vec<u8> {
    packet.segments().flatten().copied().collect()
}

/// Receives until `n` packets came or `patience` is over, on every queue in turn; each packet with its queue.
pub fn receive<D: Driver>(port: &mut Opened<D>, n: usize, patience: Duration) -> Vec<(usize, Packet)> {
    let mut cx = testing::worker(0);
    let mut all = Vec::new();
    let end = Instant::now() + patience;
    while all.len() < n && Instant::now() < end {
        let mut idle = true;
        for (queue, rx) in port.rx.iter_mut().enumerate() {
            let mut burst = Burst::new();
            rx.rx_burst(&mut cx, &mut burst, 64);
            idle &= burst.is_empty();
            all.extend(burst.drain().map(|p| (queue, p)));
        }
        if idle {
            sleep_until_event(port, 20);
        }
    }
    all
}

/// Sends packets on the first queue; how many the driver accepted.
pub fn send<D: Driver>(port: &mut Opened<D>, packets: impl IntoIterator<Item = Packet>) -> usize {
    let mut cx = testing::worker(0);
    let mut burst = Burst::new();
    for packet in packets {
        burst.push(packet).expect("at most 64 packets");
    }
    let offered = burst.len();
    port.tx[0].tx_burst(&mut cx, &mut burst);
    offered - burst.len()
}

/// What a worker does when it has nothing to do: arms the queues and sleeps on their descriptors. Returns whether a
/// descriptor was readable (or packets waited already).
pub fn sleep_until_event<D: Driver>(port: &mut Opened<D>, timeout_ms: i32) -> bool {
    let mut waiting = false;
    for rx in &mut port.rx {
        waiting |= rx.arm();
    }
    let fds: Vec<RawFd> = port.rx.iter().filter_map(RxQueue::event_fd).collect();
    waiting |= poll(&fds, if waiting { 0 } else { timeout_ms });
    for rx in &mut port.rx {
        rx.disarm();
    }
    waiting
}

fn poll(fds: &[RawFd], timeout_ms: i32) -> bool {
    let mut set: Vec<_> = fds.iter().map(|fd| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 }).collect();
    // SAFETY: set is an array of that many pollfd.
    unsafe { libc::poll(set.as_mut_ptr(), set.len() as libc::nfds_t, timeout_ms) > 0 }
}

/// What a port of a bridge did.
#[derive(Debug)]
pub struct Side {
    pub stats: PortStats,
    pub counters: HashMap<String, u64>,
}

impl Side {
    fn of<D: Driver>(port: &D) -> Side {
        Side { stats: port.stats(), counters: port.counters().into_iter().collect() }
    }
}

/// Two ports joined at the link layer, on a thread of their own.
pub struct Bridge {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(Side, Side)>>,
}

impl Bridge {
    /// Opens the ports inside `host` and moves packets between them until [`Bridge::finish`].
    pub fn start<A: Driver, B: Driver>(
        host: &Host,
        open: impl FnOnce() -> Result<(Opened<A>, Opened<B>)> + Send + 'static,
    ) -> Result<Bridge> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let (ready, is_ready) = mpsc::channel();
        let thread = host.ns().spawn(move || {
            let (mut a, mut b) = open()?;
            ready.send(()).ok();
            let mut cx = testing::worker(0);
            while !stopped.load(Ordering::Relaxed) {
                if pump(&mut cx, &mut a, &mut b) + pump(&mut cx, &mut b, &mut a) == 0 {
                    let waiting = a.rx.iter_mut().map(RxQueue::arm).chain(b.rx.iter_mut().map(RxQueue::arm)).any(|w| w);
                    let fds: Vec<RawFd> = a.rx.iter().filter_map(RxQueue::event_fd).collect();
                    let fds: Vec<RawFd> = fds.into_iter().chain(b.rx.iter().filter_map(RxQueue::event_fd)).collect();
                    poll(&fds, if waiting { 0 } else { 20 });
                }
            }
            let sides = (Side::of(&a.port), Side::of(&b.port));
            close(a);
            close(b);
            if testing::outstanding() != 0 {
                return Err(LabError::Failed(format!("{} packets were not given back", testing::outstanding())));
            }
            Ok(sides)
        })?;
        if is_ready.recv().is_err() {
            return match thread.join() {
                Ok(Err(e)) => Err(e),
                other => Err(LabError::Failed(format!("the bridge ended at once: {:?}", other.is_ok()))),
            };
        }
        Ok(Bridge { stop, thread })
    }

    /// Ends it.
    pub fn finish(self) -> Result<(Side, Side)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|p| std::panic::resume_unwind(p))
    }
}

/// Moves what waits at `from` to `to`; packets that are not accepted are offered again for a while.
fn pump<A: Driver, B: Driver>(cx: &mut Worker<'_>, from: &mut Opened<A>, to: &mut Opened<B>) -> usize {
    let mut moved = 0;
    for rx in &mut from.rx {
        let mut burst = Burst::new();
        rx.rx_burst(cx, &mut burst, 64);
        moved += burst.len();
        let end = Instant::now() + Duration::from_millis(500);
        while !burst.is_empty() && Instant::now() < end {
            to.tx[0].tx_burst(cx, &mut burst);
        }
        assert!(burst.is_empty(), "{} packets were refused for half a second", burst.len());
    }
    moved
}
