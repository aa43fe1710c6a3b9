//! A connection: the rings that both ends have agreed on, in the hands of this port's queues.

use crate::{
    error::MemifError,
    memory::{Memory, Region},
    port::{Peer, Shared},
    ring::Ring,
    rx::{CopiedRx, LentRx, OwnBuffers, RxRing},
    session::Offer,
    sys,
    tx::{CopiedTx, LentTx, TxHold, TxRing, Way},
    wire::{AddRing, RING_C2S},
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex},
};

/// Rings, ready to be used; those that the client says `connect` for.
pub struct Rings {
    rx: Vec<(RxRing, OwnedFd)>,
    tx: Vec<TxRing>,
    size: u16,
}

/// A connection in use. The control thread ends it.
pub struct Connection {
    interrupts: Vec<OwnedFd>,
}

impl Rings {
    /// Hands the rings to the queues. `peer` has the names.
    pub fn begin(self, shared: &Shared, peer: Peer) -> Result<(Connection, Peer), MemifError> {
        shared.forget_faults();
        let peer = Peer { tx_rings: self.tx.len(), rx_rings: self.rx.len(), ring_size: self.size, ..peer };
        let mut connection = Connection { interrupts: Vec::new() };
        for (queue, (ring, interrupt)) in shared.rx.iter().zip(self.rx) {
            if let Err(source) = queue.begin(ring, &interrupt) {
                connection.end(shared);
                return Err(MemifError::Os { what: "watching an interrupt".into(), source });
            }
            connection.interrupts.push(interrupt);
        }
        for (queue, ring) in shared.tx.iter().zip(share(self.tx, shared.tx.len())) {
            drop(queue.rings.post(Some(ring)));
        }
        Ok((connection, peer))
    }

    /// As a server: the rings in the memory that a client offers.
    pub fn of_offer(shared: &Shared, offer: Offer<OwnedFd>) -> Result<Rings, MemifError> {
        let unsealed = shared.options.unsealed;
        let regions = offer.regions.iter().map(|(fd, size)| Region::of_peer(fd, *size, unsealed));
        let memory = Arc::new(Memory::new(regions.collect::<Result<_, _>>()?));
        let room = room(shared);
        let ring = |spec: &AddRing| {
            let ring = Ring::of(&memory, spec)?;
            match ring.has_cookie() {
                true => Ok(ring),
                false => Err(MemifError::Refused(format!("ring {} has no cookie", spec.index))),
            }
        };
        let first = offer.c2s.first().or(offer.s2c.first());
        let size = first.map_or(0, |(spec, _)| 1 << spec.log2_size);
        let (mut rx, mut tx) = (Vec::new(), Vec::new());
        for (spec, interrupt) in offer.c2s {
            let interrupt = check_interrupt(interrupt)?;
            rx.push((RxRing::Copied(CopiedRx::new(ring(&spec)?, None, spec.index, room)), interrupt));
        }
        for (spec, interrupt) in offer.s2c {
            let interrupt = Arc::new(check_interrupt(interrupt)?);
            tx.push(TxRing::new(Way::Copied(CopiedTx::new(ring(&spec)?, None)), interrupt));
        }
        Ok(Rings { rx, tx, size })
    }
}

/// What a client offers to a server.
pub struct Proposal {
    /// The regions' sizes, in order; the first is ours alone, the second, if there is one, the packet pool.
    pub regions: Vec<u64>,
    memory: OwnedFd,
    /// The rings, each with its interrupt.
    pub announced: Vec<(AddRing, OwnedFd)>,
    rings: Rings,
}

impl Proposal {
    /// Makes memory and rings for a server that takes so many rings of each direction, of that size at most.
    pub fn new(shared: &Shared, c2s: usize, s2c: usize, log2_max: u8) -> Result<Proposal, MemifError> {
        let options = &shared.options;
        let log2_size = options.log2_ring_size().min(log2_max);
        let (c2s, s2c) = (c2s.min(shared.tx.len()), s2c.min(shared.rx.len()));
        let (ring_bytes, entries) = (Ring::bytes(log2_size), 1u64 << log2_size);
        let ring_area = ((c2s + s2c) as u64 * ring_bytes).next_multiple_of(4096);
        let buffers = entries * u64::from(options.buffer_size);
        let all_buffers = if options.zero_copy { 0 } else { (c2s + s2c) as u64 * buffers };
        // Below 4 GiB, which was checked when the port was opened.
        let (region, memory_fd) = Region::create((ring_area + all_buffers) as usize)?;
        let mut all = vec![region];
        if options.zero_copy {
            all.push(Region::of_pool(shared.pool()));
        }
        let memory = Arc::new(Memory::new(all));
        let (mut announced, mut rx, mut tx) = (Vec::new(), Vec::new(), Vec::new());
        let directions = (0..c2s).map(|i| (RING_C2S, i)).chain((0..s2c).map(|i| (0, i)));
        for (place, (flags, index)) in (0u64..).zip(directions) {
            let offset = (place * ring_bytes) as u32;
            let spec = AddRing { flags, index: index as u16, region: 0, offset, log2_size, private_header: 0 };
            let ring = Ring::of(&memory, &spec)?;
            ring.initialise();
            let own = OwnBuffers { offset: (ring_area + place * buffers) as u32, size: options.buffer_size };
            if !options.zero_copy {
                (0..ring.size()).for_each(|i| ring.write(i, own.desc(i)));
            }
            let failed = MemifError::os("an interrupt");
            let interrupt = sys::eventfd().and_then(|fd| Ok((fd.try_clone()?, fd))).map_err(failed)?;
            announced.push((spec, interrupt.0));
            match (flags, options.zero_copy) {
                (RING_C2S, true) => {
                    tx.push(TxRing::new(Way::Lent(LentTx::new(ring, shared.pool())), Arc::new(interrupt.1)));
                }
                (RING_C2S, false) => {
                    tx.push(TxRing::new(Way::Copied(CopiedTx::new(ring, Some(own))), Arc::new(interrupt.1)));
                }
                (_, true) => rx.push((RxRing::Lent(LentRx::new(ring, shared.pool(), spec.index)), interrupt.1)),
                (_, false) => {
                    let ring = CopiedRx::new(ring, Some(own), spec.index, room(shared));
                    rx.push((RxRing::Copied(ring), interrupt.1));
                }
            }
        }
        let rings = Rings { rx, tx, size: 1 << log2_size };
        Ok(Proposal { regions: memory.sizes().to_vec(), memory: memory_fd, announced, rings })
    }

    /// The descriptor of a region.
    pub fn region_fd(&self, index: usize, shared: &Shared) -> BorrowedFd<'_> {
        match index {
            0 => self.memory.as_fd(),
            // SAFETY: the pool's descriptor is open as long as the process lives; that there is one was checked when the
            // port was opened.
            _ => unsafe { BorrowedFd::borrow_raw(shared.pool().fd) },
        }
    }

    /// The rings, when the server has agreed.
    pub fn accepted(self) -> Rings {
        self.rings
    }
}

impl Connection {
    /// Takes the rings away from the queues, which give them back when they look next.
    pub fn end(self, shared: &Shared) {
        let mut interrupts = self.interrupts.iter();
        shared.rx.iter().for_each(|queue| queue.end(interrupts.next()));
        shared.tx.iter().for_each(|queue| drop(queue.rings.post(None)));
    }
}

/// Bytes that a fresh cell takes.
fn room(shared: &Shared) -> usize {
    let pool = shared.pool();
    (pool.cell_size.saturating_sub(pool.data_off) as usize).max(1)
}

/// One ring for each of `queues`, as far as there are any; some in several hands if there are fewer.
fn share(rings: Vec<TxRing>, queues: usize) -> Vec<TxHold> {
    let n = rings.len();
    if n >= queues || n == 0 {
        return rings.into_iter().map(TxHold::Own).collect();
    }
    let rings: Vec<_> = rings.into_iter().map(|r| Arc::new(Mutex::new(r))).collect();
    (0..queues).map(|queue| TxHold::Shared(rings[queue % n].clone())).collect()
}

/// A peer's interrupt is written to and watched by workers, so that it has to be what it should: an eventfd. Any other
/// file could make them wait.
fn check_interrupt(fd: OwnedFd) -> Result<OwnedFd, MemifError> {
    let kind = sys::kind_of_file(fd.as_fd()).map_err(MemifError::os("looking at an interrupt (is /proc mounted?)"))?;
    if kind != "anon_inode:[eventfd]" {
        return Err(MemifError::Refused(format!("an interrupt that is no eventfd, but {kind}")));
    }
    sys::set_nonblocking(fd.as_fd()).map_err(MemifError::os("an interrupt"))?;
    Ok(fd)
}
