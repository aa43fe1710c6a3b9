//! A listener: what it wants to hear, its filters, its rings, and what it counted.

use super::{Bpf, Link};
use crate::error::StackError;
use crate::types::{Dirs, IfIndex};
use serde::Serialize;
use smpnet_runtime::{
    Counters, Cpu, Dir, Domain, Doorbell, PerCpu, Published, RingGauge, RingReader, RingWriter, byte_ring, now_ns,
};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A packet as a listener's filter sees it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its bytes. A packet of several cells was gathered; of one longer than 64 KiB these are the first.
    pub bytes: &'a [u8],
    /// Its length on the wire.
    pub wire_len: u32,
}

/// Judges packets for a listener, and packets that are to be sent. Made for what packets of the listener begin with
/// ([`Listener::link`]).
pub trait BpfFilter: Send + Sync {
    /// The filter as people wrote it.
    fn text(&self) -> &str;

    /// How many bytes to keep of each packet into `keep`, which is as long as `packets`; 0 rejects it. 1 to 64 packets, on
    /// any number of workers at once; must not sleep, lock or allocate.
    fn judge(&self, cpu: Cpu, packets: &[Seen<'_>], keep: &mut [u32]);

    /// Whether a packet that is to be sent may go. Control threads.
    fn accepts(&self, packet: &[u8]) -> bool;
}

/// Who listens.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ListenerOwner {
    /// Process; 0 when unknown.
    pub pid: u32,
    /// User.
    pub uid: u32,
    /// Its command.
    pub command: String,
}

/// Why a listener ended, other than by its reader's own will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// Somebody asked it to end.
    Asked,
    /// Its interface was removed.
    InterfaceGone,
    /// The router stops.
    Stopped,
}

impl Ended {
    /// All of them.
    pub const ALL: [Ended; 3] = [Ended::Asked, Ended::InterfaceGone, Ended::Stopped];

    /// A word that stays the same.
    pub const fn name(self) -> &'static str {
        match self {
            Ended::Asked => "asked",
            Ended::InterfaceGone => "interface-gone",
            Ended::Stopped => "stopped",
        }
    }
}

/// What sends through a listener.
pub type WriteFilter = Arc<dyn BpfFilter>;

/// What a listener is opened with.
pub struct ListenerSpec {
    /// The interface; none for all.
    pub interface: Option<IfIndex>,
    /// Directions. Drops have none to choose.
    pub dirs: Dirs,
    /// Hear what is dropped instead of what passes.
    pub drops: bool,
    /// Keep the interface promiscuous while it listens, so that it hears frames to other stations too (BIOCPROMISC). Of no
    /// effect on all interfaces.
    pub promisc: bool,
    /// Most bytes kept of a packet, 1 to 262,144.
    pub snaplen: u32,
    /// Bytes of each CPU's ring; 0 for the default (4 MiB or `net.bpf.maxbufsize`). Rounded up to a power of two.
    pub ring_bytes: u64,
    /// What it accepts; none for everything.
    pub filter: Option<Arc<dyn BpfFilter>>,
    /// Who listens.
    pub owner: ListenerOwner,
}

/// What may change while a listener runs; a burst is judged by one of these as a whole.
#[derive(Clone)]
pub(super) struct Settings {
    pub generation: u32,
    pub interface: Option<IfIndex>,
    pub dirs: Dirs,
    pub drops: bool,
    pub filter: Option<Arc<dyn BpfFilter>>,
}

impl Settings {
    /// Whether packets of an interface and direction are wanted.
    pub(super) fn hears(&self, ifindex: u32, dir: Dir) -> bool {
        let direction = match self.dirs {
            Dirs::In => matches!(dir, Dir::In),
            Dirs::Out => matches!(dir, Dir::Out),
            Dirs::Both => true,
        };
        !self.drops && direction && self.on(ifindex)
    }

    pub(super) fn on(&self, ifindex: u32) -> bool {
        self.interface.is_none_or(|i| i.get() == ifindex)
    }
}

/// Counters of a listener, per interface place.
#[derive(Clone, Copy)]
#[repr(usize)]
pub(super) enum Stat {
    /// Packets that the filter saw.
    Received,
    /// Packets that it accepted.
    Matched,
    /// Accepted packets that found no room.
    Dropped,
    /// Bytes kept.
    Bytes,
}
pub(super) const STATS: usize = 4;
/// Interfaces counted on their own; those beyond share the last place.
pub(super) const PLACES: usize = 33;

/// What only a worker touches.
pub(super) struct Slot {
    pub writer: RingWriter,
    /// Lost since the last record, of each place.
    pub lost: [u32; PLACES],
    /// Where packets of several pieces are put together for the filter.
    pub gather: Box<[u8]>,
}

/// Longest packet that is gathered: the largest IP packet behind an Ethernet header with tags.
const GATHER_MAX: usize = 65_536 + 64;

/// A listener.
pub struct Listener {
    /// Its number.
    pub(super) id: u64,
    owner: ListenerOwner,
    pub(super) link: Link,
    pub(super) snaplen: u32,
    pub(super) settings: Published<Settings>,
    pub(super) slots: PerCpu<Slot>,
    gauges: Vec<RingGauge>,
    /// `PLACES` times `STATS`.
    pub(super) counters: Counters,
    /// Index of the interface that each place counts; 0 for none yet.
    pub(super) places: [AtomicU32; PLACES - 1],
    pub(super) bell: Bell,
    /// What the reader handed on.
    pub(super) delivered: AtomicU64,
    ended: Mutex<Option<Ended>>,
    pub(super) closed: AtomicBool,
    pub(super) write: Mutex<Write>,
    /// What to add to a stamp for the time since 1970.
    pub(super) epoch: u64,
}

/// The control side of a listener.
#[derive(Default)]
pub(super) struct Write {
    pub locked: bool,
    /// It may send.
    pub injects: bool,
    pub filter: Option<WriteFilter>,
    pub injected: Injected,
    /// Its interface is to be promiscuous.
    pub promisc: bool,
    /// The interface that is kept promiscuous for it.
    pub held: Option<IfIndex>,
}

/// What became of packets that were to be sent through a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Injected {
    /// Given to the interface.
    pub sent: u64,
    /// Refused by the write filter.
    pub refused: u64,
    /// No memory was free, or the interface is down.
    pub failed: u64,
}

/// What one CPU counted, and how full its ring is.
#[derive(Clone, Debug, Serialize)]
pub struct CpuStatus {
    /// The worker.
    pub worker: usize,
    /// Packets that the filter saw.
    pub received: u64,
    /// Packets that it accepted.
    pub matched: u64,
    /// Accepted packets that found no room.
    pub dropped: u64,
    /// Bytes kept.
    pub bytes: u64,
    /// Bytes in the ring.
    pub ring_used: usize,
    /// Bytes that the ring holds.
    pub ring_size: usize,
}

/// A listener as told.
#[derive(Clone, Debug, Serialize)]
pub struct ListenerStatus {
    /// Its number.
    pub id: u64,
    /// Who listens.
    #[serde(flatten)]
    pub owner: ListenerOwner,
    /// Index of the interface; none for all.
    pub ifindex: Option<IfIndex>,
    /// What its packets begin with.
    pub link: Link,
    /// Directions.
    pub direction: Dirs,
    /// It hears drops instead of packets that pass.
    pub drops: bool,
    /// Its filter; empty for everything.
    pub filter: String,
    /// It keeps its interface promiscuous.
    pub promisc: bool,
    /// It may send packets.
    pub injects: bool,
    /// The filter for what it sends; empty for none.
    pub write_filter: String,
    /// What became of what it sent.
    pub injected: Injected,
    /// Most bytes kept of a packet.
    pub snaplen: u32,
    /// Nothing of it can be changed any more.
    pub locked: bool,
    /// Grows by one with every change of filter or interface.
    pub generation: u32,
    /// Packets that the filter saw.
    pub received: u64,
    /// Packets that it accepted.
    pub matched: u64,
    /// Accepted packets that found no room.
    pub dropped: u64,
    /// Packets that the reader handed on.
    pub delivered: u64,
    /// By CPU.
    pub cpus: Vec<CpuStatus>,
}

impl Listener {
    pub(super) fn new(
        id: u64,
        workers: usize,
        ring: usize,
        link: Link,
        spec: ListenerSpec,
    ) -> io::Result<(Listener, Vec<RingReader>)> {
        let (mut readers, mut gauges) = (Vec::new(), Vec::new());
        let slots = PerCpu::new(workers, |_| {
            let (writer, reader) = byte_ring(ring);
            readers.push(reader);
            gauges.push(writer.gauge());
            Slot { writer, lost: [0; PLACES], gather: vec![0; GATHER_MAX].into_boxed_slice() }
        });
        let real = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
        let settings = Settings {
            generation: 1,
            interface: spec.interface,
            dirs: spec.dirs,
            drops: spec.drops,
            filter: spec.filter,
        };
        let listener = Listener {
            id,
            owner: spec.owner,
            link,
            snaplen: spec.snaplen,
            settings: Published::new(settings),
            slots,
            gauges,
            counters: Counters::new(workers, PLACES * STATS),
            places: [const { AtomicU32::new(0) }; PLACES - 1],
            bell: Bell::new()?,
            delivered: AtomicU64::new(0),
            ended: Mutex::new(None),
            closed: AtomicBool::new(false),
            write: Mutex::new(Write { promisc: spec.promisc, ..Write::default() }),
            epoch: real.wrapping_sub(now_ns()),
        };
        Ok((listener, readers))
    }

    /// What its packets begin with: an Ethernet header, also where it is made up (a listener to all interfaces hears packets
    /// of interfaces without one), or an IP header.
    pub fn link(&self) -> Link {
        self.link
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The place that counts an interface. Worker or control.
    #[inline]
    pub(super) fn place(&self, ifindex: u32) -> usize {
        for (n, p) in self.places.iter().enumerate() {
            let there = p.load(Ordering::Relaxed);
            if there == ifindex {
                return n;
            }
            if there == 0 {
                // The first packet of an interface takes the next place; another worker may be faster.
                match p.compare_exchange(0, ifindex, Ordering::Relaxed, Ordering::Relaxed) {
                    Err(other) if other != ifindex => {}
                    _ => return n,
                }
            }
        }
        PLACES - 1
    }

    /// A counter over all workers: of one place, or of all.
    pub(super) fn sum(&self, place: Option<usize>, stat: Stat) -> u64 {
        match place {
            Some(p) => self.counters.sum(p * STATS + stat as usize),
            None => (0..PLACES).map(|p| self.counters.sum(p * STATS + stat as usize)).sum(),
        }
    }

    /// The same of one worker.
    fn of_worker(&self, worker: usize, stat: Stat) -> u64 {
        let of = |p: usize| self.counters.per_cpu(p * STATS + stat as usize).get(worker).copied();
        (0..PLACES).filter_map(of).sum()
    }

    /// Everything about it. Control threads.
    pub fn status(&self) -> ListenerStatus {
        let settings = self.settings.load_control().clone();
        let write = self.write();
        let text = |f: &Option<Arc<dyn BpfFilter>>| f.as_ref().map_or(String::new(), |f| f.text().to_owned());
        ListenerStatus {
            id: self.id,
            owner: self.owner.clone(),
            ifindex: settings.interface,
            link: self.link,
            direction: settings.dirs,
            drops: settings.drops,
            filter: text(&settings.filter),
            promisc: write.held.is_some(),
            injects: write.injects,
            write_filter: text(&write.filter),
            injected: write.injected,
            snaplen: self.snaplen,
            locked: write.locked,
            generation: settings.generation,
            received: self.sum(None, Stat::Received),
            matched: self.sum(None, Stat::Matched),
            dropped: self.sum(None, Stat::Dropped),
            delivered: self.delivered.load(Ordering::Relaxed),
            cpus: self
                .gauges
                .iter()
                .enumerate()
                .map(|(worker, gauge)| CpuStatus {
                    worker,
                    received: self.of_worker(worker, Stat::Received),
                    matched: self.of_worker(worker, Stat::Matched),
                    dropped: self.of_worker(worker, Stat::Dropped),
                    bytes: self.of_worker(worker, Stat::Bytes),
                    ring_used: gauge.used(),
                    ring_size: gauge.size(),
                })
                .collect(),
        }
    }

    pub(super) fn write(&self) -> MutexGuard<'_, Write> {
        // Nothing in here is left half-changed by a panic.
        self.write.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it: the reader hears of it, and why.
    pub(super) fn end(&self, why: Ended) {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.closed.store(true, Ordering::Release);
        self.bell.wake();
    }

    /// Ends it at somebody's request: what is in its rings can still be read.
    pub fn finish(&self) {
        self.end(Ended::Asked);
    }

    /// Why it ended; none while it listens, or when its reader went away.
    pub fn ended(&self) -> Option<Ended> {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the reader, so that it looks around.
    pub fn wake(&self) {
        self.bell.wake();
    }

    /// Nothing of it can be changed from now on: neither filter nor write filter nor interface, and when it could not send
    /// packets until now, it never will (BIOCLOCK of bpf(4)).
    pub fn lock(&self) {
        self.write().locked = true;
    }

    /// The packets that it may send from now on; none for all (BIOCSETWF).
    ///
    /// # Errors
    /// [`StackError::BpfLocked`].
    pub fn set_write_filter(&self, filter: Option<WriteFilter>) -> Result<(), StackError> {
        let mut write = self.write();
        if write.locked {
            return Err(StackError::BpfLocked(self.id, "its write filter cannot be changed"));
        }
        write.injects = true;
        write.filter = filter;
        Ok(())
    }

    /// Replaces the settings by what `change` makes of them.
    pub(super) fn reset(
        &self,
        bpf: &Bpf,
        domain: &Domain,
        what: &'static str,
        change: impl FnOnce(&mut Settings),
    ) -> Result<u32, StackError> {
        let _registry = bpf.registry();
        if self.write().locked {
            return Err(StackError::BpfLocked(self.id, what));
        }
        let generation = self.settings.update(domain, |old| {
            let mut new = old.clone();
            new.generation += 1;
            change(&mut new);
            let generation = new.generation;
            (new, generation)
        });
        bpf.recount();
        Ok(generation)
    }
}

/// Wakes a sleeping reader: a doorbell on an eventfd.
pub(super) struct Bell {
    pub door: Doorbell,
    fd: OwnedFd,
}

impl Bell {
    fn new() -> io::Result<Bell> {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        Ok(Bell { door: Doorbell::default(), fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Wakes the reader.
    #[cold]
    pub(super) fn wake(&self) {
        let one = 1u64;
        // SAFETY: eight bytes are written from a u64. A full counter wakes as well, so the answer does not matter.
        unsafe { libc::write(self.fd.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Sleeps until somebody rings, at most `patience`.
    pub(super) fn sleep(&self, patience: Duration) {
        let mut p = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let ms = patience.as_millis().min(60_000) as i32;
        let mut count = 0u64;
        // SAFETY: one valid pollfd; eight bytes are read into a u64.
        unsafe {
            if libc::poll(&mut p, 1, ms) > 0 {
                libc::read(self.fd.as_raw_fd(), (&raw mut count).cast(), 8);
            }
        }
    }
}
