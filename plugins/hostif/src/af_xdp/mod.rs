//! The driver `af_xdp`: a network device of the kernel as a port, by AF_XDP sockets
//! (`Documentation/networking/af_xdp.rst`).
//!
//! # Receiving
//!
//! An XDP program of ours on the device ([`program`]) hands each frame to the socket of its queue before the kernel makes a
//! socket buffer of it. The packet pool is the memory that the sockets share with the kernel ([`area`]): free cells go out
//! by a fill ring, the kernel puts frames into them, and they come back as packets that nobody copies again. A frame that
//! is longer than a cell comes as a chain.
//!
//! # Sending
//!
//! Packets are lent to the kernel where they lie, and their cells come back by a completion ring to the worker that sent
//! them. A device that can reads them itself (zero copy); else the kernel copies them into socket buffers, past the
//! queueing discipline.
//!
//! # What a device offers, and what happens where it does not
//!
//! Tried in this order, each failure logged and told in the status: the program in the driver (native) or behind it
//! (generic); in the driver, without copying or with it; frames in several cells or in one; and at last packet sockets, by
//! the driver `af_packet`. Options rule ways out. Zero copy wants the pool in huge pages, because a device can write a cell
//! only where its memory is in one piece.
//!
//! # Exclusiveness
//!
//! A frame goes to a socket or, where its queue has none, is dropped and counted, so the kernel's own stack sees none.
//! `af_packet` can leave the kernel its copy; AF_XDP cannot.
//!
//! # Checksums and tags
//!
//! XDP sees bytes only. A sender on the same machine (the far end of a veth, a virtual machine) leaves checksums open and
//! says so where XDP does not look, so they are known by their value ([`crate::checksum`]) and carried on as open ones. It
//! also leaves 802.1Q tags out of the bytes, and those are lost: such a sender needs `ethtool -K DEV txvlan off`, as
//! hardware needs `ethtool -K DEV rxvlan off`. Generic mode gets packets for segmentation offload whole from such a sender
//! and cannot tell where to cut them: `ethtool -K DEV tso off gso off` there. In native mode the kernel cuts them.
//!
//! # Accounting
//!
//! Every frame that reached the program is in `rx_packets`, `rx_missed` (no cell, a full ring, a queue without a socket),
//! `rx_errors` or `rx_while_down`. A packet is in `tx_packets` when it is in the ring, and leaves that for `tx_errors` when
//! the kernel says that the device lost it.

mod area;
mod options;
mod port;
mod program;
mod rings;
mod rx;
mod socket;
mod tx;

pub use options::{BusyPoll, Choice, Mode, Options, RingOptions, Sizes};
pub use rx::XskRx;
pub use tx::XskTx;

use crate::{
    af_packet::{AfPacket, PacketRx, PacketTx},
    stats::{Count, RxStats, TxStats},
};
use area::{Area, Held};
use port::XskPort;
use smpnet_plugin::{
    Burst, Driver, Error, Host, LinkState, MacAddr, Opened, PortRequest, PortStats, RxQueue, TxQueue, Worker, warn,
};
use socket::Probe;
use std::{
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32},
    },
};

/// What control threads and queues share.
pub(crate) struct Shared {
    /// Whether packets are let in.
    up: AtomicBool,
    /// Whether the device is up and has its medium.
    running: AtomicBool,
    /// MTU in force.
    mtu: AtomicU32,
}

/// One queue's socket, with what its two rings and control threads share. When the last of them lets go, the socket is
/// closed, and the cells that the kernel still had go back to the pool.
pub(crate) struct QueueHandle {
    /// There until the end.
    socket: Option<OwnedFd>,
    /// Used at the end.
    probe: Option<Probe>,
    area: Area,
    queue: u32,
    zero_copy: bool,
    multi_buffer: bool,
    /// Whether the kernel completes checksums of packets that say so before their first byte.
    metadata: bool,
    open_checksums: bool,
    busy_poll: bool,
    rx: RxStats,
    tx: TxStats,
    /// Received packets whose checksum is still open.
    csum_open: Count,
    /// Checksums completed here before sending.
    csum_completed: Count,
    left: Mutex<Vec<Held>>,
}

impl QueueHandle {
    #[inline]
    fn raw_fd(&self) -> RawFd {
        self.socket.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Takes over what the kernel has of a ring's when the ring ends before the socket.
    fn leave(&self, held: Held) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).push(held);
    }
}

impl Drop for QueueHandle {
    fn drop(&mut self) {
        drop(self.socket.take());
        let free = self.probe.take().is_some_and(Probe::wait);
        let left = std::mem::take(self.left.get_mut().unwrap_or_else(PoisonError::into_inner));
        if !free && self.zero_copy {
            warn!("queue {} is not given up by the kernel; the cells that it has stay taken", self.queue);
            return std::mem::forget(left);
        }
        left.into_iter().for_each(|held| held.take_all().for_each(drop));
    }
}

/// A port of the driver.
pub enum AfXdp {
    /// By AF_XDP.
    Xsk(Box<XskPort>),
    /// By packet sockets, for this reason.
    Packet(Box<AfPacket>, String),
}

/// A receive queue of a port.
pub enum Rx {
    /// By AF_XDP.
    Xsk(Box<XskRx>),
    /// By a packet socket.
    Packet(Box<PacketRx>),
}

/// A transmit queue of a port.
pub enum Tx {
    /// By AF_XDP.
    Xsk(Box<XskTx>),
    /// By a packet socket.
    Packet(Box<PacketTx>),
}

impl Driver for AfXdp {
    const NAME: &'static str = "af_xdp";
    const SUMMARY: &'static str = "a network device of the kernel, by AF_XDP sockets";
    type Rx = Rx;
    type Tx = Tx;

    fn open(host: Host, req: &PortRequest<'_>) -> Result<Opened<Self>, Error> {
        let options = Options::of(req)?;
        let reason = match port::open(host, req, &options) {
            Ok(port::Parts { port, rx, tx, details }) => {
                return Ok(Opened {
                    port: AfXdp::Xsk(Box::new(port)),
                    rx: rx.into_iter().map(|q| Rx::Xsk(Box::new(q))).collect(),
                    tx: tx.into_iter().map(|q| Tx::Xsk(Box::new(q))).collect(),
                    details,
                });
            }
            Err(port::Failed::Config(e)) => return Err(e),
            Err(port::Failed::Kernel(reason)) if !options.falls_back() => {
                return Err(Error::new(format!("AF_XDP on {}: {reason}", options.device)));
            }
            Err(port::Failed::Kernel(reason)) => reason,
        };
        warn!("{}: packet sockets (af_packet) serve instead of AF_XDP: {reason}", options.device);
        let mut wanted = serde_json::json!({"device": options.device, "promisc": options.promisc});
        if let Some(queues) = options.queues {
            wanted["queues"] = queues.into();
        }
        let request = PortRequest { options: wanted, ..*req };
        let Opened { port, rx, tx, details } = AfPacket::open(host, &request)?;
        Ok(Opened {
            port: AfXdp::Packet(Box::new(port), reason),
            rx: rx.into_iter().map(|q| Rx::Packet(Box::new(q))).collect(),
            tx: tx.into_iter().map(|q| Tx::Packet(Box::new(q))).collect(),
            details,
        })
    }

    fn set_up(&self, up: bool) -> Result<(), Error> {
        match self {
            AfXdp::Xsk(port) => Ok(port.set_up(up)?),
            AfXdp::Packet(port, _) => port.set_up(up),
        }
    }

    fn link_state(&self) -> LinkState {
        match self {
            AfXdp::Xsk(port) => port.link_state(),
            AfXdp::Packet(port, _) => port.link_state(),
        }
    }

    fn stats(&self) -> PortStats {
        match self {
            AfXdp::Xsk(port) => port.stats(),
            AfXdp::Packet(port, _) => port.stats(),
        }
    }

    fn counters(&self) -> Vec<(String, u64)> {
        match self {
            AfXdp::Xsk(port) => port.counters(),
            AfXdp::Packet(port, _) => port.counters(),
        }
    }

    fn set_promisc(&self, on: bool) -> Result<(), Error> {
        match self {
            AfXdp::Xsk(port) => Ok(port.memberships().set_promisc(on)?),
            AfXdp::Packet(port, _) => port.set_promisc(on),
        }
    }

    fn set_multicast(&self, list: &[MacAddr], all: bool) -> Result<(), Error> {
        match self {
            AfXdp::Xsk(port) => Ok(port.memberships().set_multicast(list, all)?),
            AfXdp::Packet(port, _) => port.set_multicast(list, all),
        }
    }

    fn set_mac(&self, mac: MacAddr) -> Result<(), Error> {
        match self {
            AfXdp::Xsk(port) => Ok(port.set_mac(mac)?),
            AfXdp::Packet(port, _) => port.set_mac(mac),
        }
    }

    fn set_mtu(&self, mtu: u32) -> Result<(), Error> {
        match self {
            AfXdp::Xsk(port) => Ok(port.set_mtu(mtu)?),
            AfXdp::Packet(port, _) => port.set_mtu(mtu),
        }
    }

    fn set_offloads(&self, mask: u32) -> Result<(), Error> {
        match self {
            // Each of them costs nothing where it is not used.
            AfXdp::Xsk(port) if mask & !port.offered() == 0 => Ok(()),
            AfXdp::Xsk(port) => Err(Error::new(format!("offloads {:#x} are not offered", mask & !port.offered()))),
            AfXdp::Packet(port, _) => port.set_offloads(mask),
        }
    }

    fn status(&self) -> serde_json::Value {
        match self {
            AfXdp::Xsk(port) => port.status(),
            AfXdp::Packet(port, reason) => {
                let mut status = port.status();
                status["mode"] = "af_packet".into();
                status["fallbacks"] = serde_json::json!([reason]);
                status
            }
        }
    }

    fn close(&self) {
        match self {
            AfXdp::Xsk(port) => port.close(),
            AfXdp::Packet(port, _) => port.close(),
        }
    }
}

impl RxQueue for Rx {
    fn rx_burst(&mut self, cx: &mut Worker<'_>, out: &mut Burst, max: usize) {
        match self {
            Rx::Xsk(queue) => queue.rx_burst(cx, out, max),
            Rx::Packet(queue) => queue.rx_burst(cx, out, max),
        }
    }

    fn event_fd(&self) -> Option<RawFd> {
        match self {
            Rx::Xsk(queue) => queue.event_fd(),
            Rx::Packet(queue) => queue.event_fd(),
        }
    }

    fn arm(&mut self) -> bool {
        match self {
            Rx::Xsk(queue) => queue.arm(),
            Rx::Packet(queue) => queue.arm(),
        }
    }

    fn disarm(&mut self) {
        match self {
            Rx::Xsk(queue) => queue.disarm(),
            Rx::Packet(queue) => queue.disarm(),
        }
    }
}

impl TxQueue for Tx {
    fn tx_burst(&mut self, cx: &mut Worker<'_>, burst: &mut Burst) {
        match self {
            Tx::Xsk(queue) => queue.tx_burst(cx, burst),
            Tx::Packet(queue) => queue.tx_burst(cx, burst),
        }
    }
}
