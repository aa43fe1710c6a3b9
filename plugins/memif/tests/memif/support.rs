//! Opens ports and moves packets as a worker would.

use smpnet_lab::{LabError, Result, check};
use smpnet_memif::Memif;
use smpnet_plugin::{Burst, Driver, Opened, Packet, PortRequest, RxQueue, TxQueue, testing};
use std::{
    collections::HashMap,
    os::fd::RawFd,
    time::{Duration, Instant},
};

/// How long to wait for what must come, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

/// A port that is open and up.
pub struct Port(Option<Opened<Memif>>);

impl Port {
    pub fn open(name: &str, queues: usize, options: serde_json::Value) -> Result<Port> {
        Port::try_open(name, queues, options).map_err(LabError::Failed)
    }

    /// On failure the driver's words.
    pub fn try_open(name: &str, queues: usize, options: serde_json::Value) -> std::result::Result<Port, String> {
        let request =
            PortRequest { name, ifindex: 1, options, rx_queues: queues, tx_queues: queues, workers: 4, mtu: 0 };
        let opened = Memif::open(testing::host(), &request).map_err(|e| e.to_string())?;
        opened.port.set_up(true).map_err(|e| e.to_string())?;
        Ok(Port(Some(opened)))
    }

    fn opened(&mut self) -> &mut Opened<Memif> {
        self.0.as_mut().expect("it is open until it is dropped")
    }

    pub fn driver(&self) -> &Memif {
        &self.0.as_ref().expect("it is open until it is dropped").port
    }

    pub fn is_up(&self) -> bool {
        self.driver().link_state().state == 1
    }

    /// Waits until the link is up, or down.
    pub fn wait(&self, up: bool) -> Result<()> {
        let status = || format!("the link does not go {}: {}", if up { "up" } else { "down" }, self.driver().status());
        wait_for(|| self.is_up() == up).then_some(()).ok_or_else(|| LabError::Failed(status()))
    }

    pub fn counter(&self, name: &str) -> u64 {
        let all: HashMap<String, u64> = self.driver().counters().into_iter().collect();
        *all.get(name).unwrap_or_else(|| panic!("no counter {name} among {all:?}"))
    }

    /// Why there is no connection, in the words of the status.
    pub fn trouble(&self) -> String {
        self.driver().status()["trouble"].as_str().unwrap_or_default().to_owned()
    }

    pub fn last_end(&self) -> String {
        self.driver().status()["last_end"].as_str().unwrap_or_default().to_owned()
    }

    /// Offers frames to a queue, a burst at a time, until one is refused; how many were accepted.
    pub fn send<'f>(&mut self, queue: usize, frames: impl IntoIterator<Item = &'f Vec<u8>>) -> usize {
        let mut cx = testing::worker(0);
        let mut sent = 0;
        let mut frames = frames.into_iter().peekable();
        while frames.peek().is_some() {
            let mut burst = Burst::new();
            while burst.room() > 0
                && let Some(frame) = frames.next()
            {
                burst.push(packet(frame)).expect("there is room");
            }
            let offered = burst.len();
            self.opened().tx[queue].tx_burst(&mut cx, &mut burst);
            sent += offered - burst.len();
            if !burst.is_empty() {
                break;
            }
        }
        sent
    }

    /// One look at every receive queue.
    pub fn poll(&mut self) -> Vec<(usize, Packet)> {
        let mut cx = testing::worker(0);
        let mut all = Vec::new();
        for (queue, rx) in self.opened().rx.iter_mut().enumerate() {
            let mut burst = Burst::new();
            rx.rx_burst(&mut cx, &mut burst, 64);
            all.extend(burst.drain().map(|p| (queue, p)));
        }
        all
    }

    /// Lets every transmit queue reap, and take up what changed.
    pub fn reap(&mut self) {
        let mut cx = testing::worker(0);
        for tx in &mut self.opened().tx {
            tx.tx_burst(&mut cx, &mut Burst::new());
        }
    }

    /// Receives until `n` packets came or a few seconds are over: each with its queue.
    pub fn receive(&mut self, n: usize) -> Vec<(usize, Packet)> {
        let mut all = Vec::new();
        let end = Instant::now() + PATIENCE;
        while all.len() < n && Instant::now() < end {
            let got = self.poll();
            if got.is_empty() {
                self.sleep(20);
            }
            all.extend(got);
        }
        all
    }

    /// Receives `n` frames and compares them.
    pub fn expect(&mut self, want: &[Vec<u8>]) -> Result<()> {
        let got: Vec<Vec<u8>> = self.receive(want.len()).iter().map(|(_, p)| bytes(p)).collect();
        check(got.len() == want.len(), || {
            format!("{} of {} frames came; {:?}", got.len(), want.len(), self.counters())
        })?;
        let wrong = got.iter().zip(want).position(|(a, b)| a != b);
        check(wrong.is_none(), || format!("frame {wrong:?} differs"))
    }

    pub fn counters(&self) -> Vec<(String, u64)> {
        self.driver().counters().into_iter().filter(|(_, n)| *n > 0).collect()
    }

    /// What a worker does when it has nothing to do: arms the queues, and sleeps on their descriptors if they let it.
    /// Whether it was woken, or not let to sleep.
    pub fn sleep(&mut self, timeout_ms: i32) -> bool {
        let rx = &mut self.opened().rx;
        let waits = rx.iter_mut().map(|q| q.arm()).fold(false, |a, b| a | b);
        let fds: Vec<RawFd> = rx.iter().filter_map(RxQueue::event_fd).collect();
        let mut set: Vec<_> = fds.iter().map(|fd| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 }).collect();
        // SAFETY: set is an array of that many pollfd.
        let woken =
            unsafe { libc::poll(set.as_mut_ptr(), set.len() as libc::nfds_t, if waits { 0 } else { timeout_ms }) > 0 };
        rx.iter_mut().for_each(|q| q.disarm());
        waits | woken
    }

    /// Closes in the order of the plugin interface: queues first.
    pub fn close(mut self) {
        self.close_now();
    }

    fn close_now(&mut self) {
        if let Some(Opened { port, rx, tx, .. }) = self.0.take() {
            drop((rx, tx));
            port.close();
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.close_now();
    }
}

/// Asks until it is true, or a few seconds are over.
pub fn wait_for(mut is: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if is() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    is()
}

/// A packet of these bytes, in several cells if it takes them.
pub fn packet(frame: &[u8]) -> Packet {
    let room = testing::host().pool();
    let room = (room.cell_size - room.data_off) as usize;
    let mut cells: Vec<Packet> = frame.chunks(room).map(testing::packet).collect();
    let mut chain = cells.pop().expect("a frame has bytes");
    while let Some(mut cell) = cells.pop() {
        cell.append_cell(chain).expect("a chain has up to 255 cells");
        chain = cell;
    }
    chain
}

/// All bytes of a packet.
pub fn bytes(packet: &Packet) -> Vec<u8> {
    packet.segments().flatten().copied().collect()
}

/// A frame of `len` bytes, each of which depends on its place and on `n`.
pub fn frame(n: usize, len: usize) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
    f.extend((n as u32).to_be_bytes());
    f.extend((f.len()..len).map(|i| (i * 7 + n * 13 + i / 251) as u8));
    f.truncate(len);
    f
}

/// Every packet that this thread took was given back.
pub fn nothing_leaks() -> Result<()> {
    check(testing::outstanding() == 0, || format!("{} packets were not given back", testing::outstanding()))
}
