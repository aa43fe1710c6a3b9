//! The driver: a port, what it shares with its queues and with the thread of its control channel.

use crate::{
    channel::SocketName,
    client::Client,
    error::MemifError,
    options::{MTU_MAX, Options, Role, local_mac},
    rx::{MemifRx, RxHandle},
    server::{self, Seat},
    stats::{self, RxStats, TxStats},
    sys,
    tx::{MemifTx, TxHandle},
};
use smpnet_plugin::{
    Driver, Error, Host, LinkState, MacAddr, Opened, PortDetails, PortRequest, PortStats, abi::PoolDesc, info, offload,
    serde_json, warn,
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

/// What the port, its queues and its control thread share.
pub struct Shared {
    /// Name of the interface.
    pub name: String,
    ifindex: u32,
    host: Host,
    /// As configured.
    pub options: Options,
    /// Where the server listens.
    pub socket: SocketName,
    /// The receive queues.
    pub rx: Vec<Arc<RxHandle>>,
    /// The transmit queues.
    pub tx: Vec<Arc<TxHandle>>,
    up: AtomicBool,
    closing: AtomicBool,
    /// Wakes the control thread.
    wake: OwnedFd,
    /// What a worker found wrong with a ring.
    broken: Mutex<Option<MemifError>>,
    peer: Mutex<Peer>,
    history: Mutex<History>,
}

/// What is known of the other end.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Whether packets flow.
    pub connected: bool,
    /// Its program.
    pub program: String,
    /// Its name of the interface.
    pub interface: String,
    /// Rings from us to it.
    pub tx_rings: usize,
    /// Rings from it to us.
    pub rx_rings: usize,
    /// Entries of the first ring.
    pub ring_size: u16,
}

/// What stays when a peer goes.
#[derive(Default)]
struct History {
    connections: u64,
    last_end: Option<String>,
    trouble: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Shared {
    /// The packet pool.
    pub fn pool(&self) -> &'static PoolDesc {
        self.host.pool()
    }

    /// Whether a connection is wanted.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire) && !self.is_closing()
    }

    /// Whether the port ends.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Has the control thread look at everything. Any thread.
    pub fn wake_control(&self) {
        sys::signal(self.wake.as_fd());
    }

    /// Control thread: what it sleeps on.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Worker: a ring is in a state that cannot be; the connection is to end.
    pub fn ring_broke(&self, queue: u16, what: &'static str) {
        // The first one is told.
        lock(&self.broken).get_or_insert(MemifError::Ring { queue, what });
        self.wake_control();
    }

    /// Control thread: why the connection must end, if it must.
    pub fn must_end(&self) -> Option<MemifError> {
        if self.is_closing() {
            return Some(MemifError::Closed);
        }
        if !self.is_up() {
            return Some(MemifError::Down);
        }
        lock(&self.broken).take()
    }

    /// Control thread: drops what the workers are done with.
    pub fn tidy(&self) {
        self.rx.iter().for_each(|q| drop(q.rings.take_old()));
        self.tx.iter().for_each(|q| drop(q.rings.take_old()));
    }

    /// Control thread: a new connection begins, and what was wrong with the last one is over.
    pub fn forget_faults(&self) {
        lock(&self.broken).take();
    }

    /// Control thread: packets flow from now on.
    pub fn link_up(&self, peer: Peer) {
        info!(
            "{}: connected to {} of {}: {} rings to it, {} from it, of {} entries",
            self.name, peer.interface, peer.program, peer.tx_rings, peer.rx_rings, peer.ring_size
        );
        if peer.tx_rings < self.tx.len() {
            info!("{}: {} workers share {} transmit rings by a lock", self.name, self.tx.len(), peer.tx_rings);
        }
        *lock(&self.peer) = Peer { connected: true, ..peer };
        let mut history = lock(&self.history);
        history.connections += 1;
        history.trouble = None;
        drop(history);
        self.host.link_event(self.ifindex, self.link_state());
    }

    /// Control thread: no packets flow any more, and why.
    pub fn link_down(&self, why: &MemifError) {
        match why {
            MemifError::Down | MemifError::Closed => info!("{}: disconnected: {why}", self.name),
            _ => warn!("{}: disconnected: {why}", self.name),
        }
        // Whoever sees the link down finds the reason there.
        lock(&self.history).last_end = Some(why.to_string());
        *lock(&self.peer) = Peer::default();
        self.host.link_event(self.ifindex, self.link_state());
    }

    /// Control thread: no connection came about. Told once, until something else is the matter.
    pub fn trouble(&self, why: &MemifError) {
        let text = why.to_string();
        let mut history = lock(&self.history);
        if history.trouble.as_ref() != Some(&text) {
            warn!("{}: no connection: {text}", self.name);
            history.trouble = Some(text);
        }
    }

    /// The control thread has failed in a way that it should not; the interface is quarantined.
    pub fn fault(&self, what: &str) {
        self.host.fault(self.ifindex, what);
    }

    fn link_state(&self) -> LinkState {
        LinkState { state: u32::from(lock(&self.peer).connected), full_duplex: 1, speed: 0, _pad: 0 }
    }
}

/// Who runs the control channel, held until the port is closed.
#[expect(dead_code, reason = "what it does is done by threads, until it is dropped")]
enum Control {
    Client(Client),
    Server(Seat),
}

/// A port of the driver.
pub struct Memif {
    control: Mutex<Option<Control>>,
    shared: Arc<Shared>,
}

impl Driver for Memif {
    const NAME: &'static str = "memif";
    const SUMMARY: &'static str = "shared memory with VPP, DPDK or another smpnet";
    type Rx = MemifRx;
    type Tx = MemifTx;

    fn open(host: Host, req: &PortRequest<'_>) -> Result<Opened<Self>, Error> {
        let options = Options::of(req)?;
        let socket = SocketName::new(&options.socket)?;
        let rx_queues = options.queues.unwrap_or(req.rx_queues).clamp(1, QUEUES_MAX);
        let tx_queues = options.queues.unwrap_or(req.tx_queues).clamp(1, QUEUES_MAX);
        if options.role == Role::Client {
            options.check_layout(rx_queues + tx_queues)?;
        }
        if options.zero_copy {
            check_pool(host.pool())?;
        }
        let failed = |what: &str| MemifError::os(format!("{what} of {}", req.name));
        let rx: Vec<Arc<RxHandle>> = (0..rx_queues)
            .map(|_| Ok(Arc::new(RxHandle::new()?)))
            .collect::<std::io::Result<_>>()
            .map_err(failed("an event descriptor"))?;
        let tx: Vec<Arc<TxHandle>> = (0..tx_queues).map(|_| Arc::default()).collect();
        let mac = options.mac.unwrap_or_else(|| local_mac(&format!("{} {} {}", req.name, socket, options.id)));
        let mtu = if req.mtu != 0 { req.mtu } else { options.mtu };
        if mtu > MTU_MAX {
            return Err(MemifError::Option(format!("an MTU of {mtu} is more than {MTU_MAX}")).into());
        }
        let shared = Arc::new(Shared {
            name: req.name.to_owned(),
            ifindex: req.ifindex,
            host,
            socket,
            rx,
            tx,
            up: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            wake: sys::eventfd().map_err(failed("an event descriptor"))?,
            broken: Mutex::default(),
            peer: Mutex::default(),
            history: Mutex::default(),
            options,
        });
        let numbered = |n: usize| (0..n as u16).zip(std::iter::repeat_n(&shared, n));
        let queues_rx = numbered(rx_queues).zip(&shared.rx);
        let rx = queues_rx.map(|((n, shared), handle)| MemifRx::new(shared.clone(), handle.clone(), n)).collect();
        let queues_tx = numbered(tx_queues).zip(&shared.tx);
        let tx = queues_tx.map(|((n, shared), handle)| MemifTx::new(shared.clone(), handle.clone(), n)).collect();
        // Last, so that nothing stays behind when it fails.
        let control = match shared.options.role {
            Role::Client => Control::Client(Client::start(shared.clone())?),
            Role::Server => Control::Server(server::take_seat(shared.clone())?),
        };
        let details = PortDetails { mtu, mtu_max: MTU_MAX, offloads: offload::SCATTER, mac, ..PortDetails::default() };
        Ok(Opened { port: Memif { control: Mutex::new(Some(control)), shared }, rx, tx, details })
    }

    fn set_up(&self, up: bool) -> Result<(), Error> {
        self.shared.up.store(up, Ordering::Release);
        self.shared.wake_control();
        Ok(())
    }

    fn link_state(&self) -> LinkState {
        self.shared.link_state()
    }

    fn stats(&self) -> PortStats {
        stats::port_stats(self.rx_stats(), self.tx_stats())
    }

    fn counters(&self) -> Vec<(String, u64)> {
        stats::named(self.rx_stats(), self.tx_stats())
    }

    /// There is no filter of addresses: every frame of the peer is received.
    fn set_promisc(&self, _on: bool) -> Result<(), Error> {
        Ok(())
    }

    /// As [`Memif::set_promisc`].
    fn set_multicast(&self, _list: &[MacAddr], _all: bool) -> Result<(), Error> {
        Ok(())
    }

    /// The peer is not told of addresses, so that any will do.
    fn set_mac(&self, _mac: MacAddr) -> Result<(), Error> {
        Ok(())
    }

    /// Nor of the MTU: packets take as many buffers as they need.
    fn set_mtu(&self, mtu: u32) -> Result<(), Error> {
        match mtu {
            68..=MTU_MAX => Ok(()),
            _ => Err(Error::new(format!("an MTU of {mtu} is not between 68 and {MTU_MAX}"))),
        }
    }

    fn status(&self) -> serde_json::Value {
        let (peer, history) = (lock(&self.shared.peer).clone(), lock(&self.shared.history));
        let peer = peer.connected.then(|| {
            serde_json::json!({
                "program": peer.program, "interface": peer.interface, "ring_size": peer.ring_size,
                "tx_rings": peer.tx_rings, "rx_rings": peer.rx_rings,
            })
        });
        serde_json::json!({
            "options": self.shared.options,
            "peer": peer,
            "connections": history.connections,
            "last_end": history.last_end,
            "trouble": history.trouble,
            "rx_queues": self.rx_stats().map(|s| serde_json::json!({
                "packets": s.packets.get(), "no_cell": s.no_cell.get(),
            })).collect::<Vec<_>>(),
            "tx_queues": self.tx_stats().map(|s| serde_json::json!({
                "packets": s.packets.get(), "ring_full": s.ring_full.get(), "interrupts": s.interrupts.get(),
            })).collect::<Vec<_>>(),
        })
    }

    fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.wake_control();
        // Ends the thread, or leaves it to the other ports that it serves.
        drop(lock(&self.control).take());
        self.shared.tidy();
    }
}

impl Drop for Memif {
    fn drop(&mut self) {
        self.close();
    }
}

impl Memif {
    fn rx_stats(&self) -> impl Iterator<Item = &RxStats> {
        self.shared.rx.iter().map(|q| &q.stats)
    }

    fn tx_stats(&self) -> impl Iterator<Item = &TxStats> {
        self.shared.tx.iter().map(|q| &q.stats)
    }
}

const QUEUES_MAX: usize = 64;

/// Whether the packet pool can be a region.
fn check_pool(pool: &PoolDesc) -> Result<(), MemifError> {
    let refused = |why: &str| Err(MemifError::Pool(why.into()));
    if pool.fd < 0 {
        return refused("this router's packet memory has no descriptor to share");
    }
    if pool.bytes > u64::from(u32::MAX) {
        return refused(
            "memif reaches 4 GiB of a region, and this router's packet memory is larger; make [pool] smaller",
        );
    }
    Ok(())
}
