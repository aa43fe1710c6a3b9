//! Whether each packet takes the way that it must: the null driver with a look at the updates that had returned when it gave a
//! packet, and at the way that the packet took when it comes to be sent.
//!
//! An update is numbered, and its number can be read from the packets that follow it: route `r` goes to the gateway `number %
//! GATEWAYS`, and the Ethernet address of gateway `g` has its number in the middle. A packet must follow every update that had
//! returned before the stack got it, and may follow one that had begun when it was sent.

use crate::router::{GATEWAYS, mac_of, mac_parts, net_of};
use smpnet_abi::{Cell, DriverTable};
use smpnet_runtime::{Pool, Runtime};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// An update that comes again and again, each time with the next number.
#[derive(Default)]
pub struct Numbered {
    begun: AtomicU32,
    returned: AtomicU32,
}

impl Numbered {
    fn at(number: u32) -> Numbered {
        Numbered { begun: AtomicU32::new(number), returned: AtomicU32::new(number) }
    }

    /// The next update begins; its number. One thread.
    pub fn begin(&self) -> u32 {
        let number = self.begun.load(Ordering::Relaxed).wrapping_add(1);
        // Seen by whoever sees the update itself.
        self.begun.store(number, Ordering::SeqCst);
        number
    }

    /// The update of that number has returned.
    pub fn end(&self, number: u32) {
        self.returned.store(number, Ordering::SeqCst);
    }
}

/// What is known of the updates.
pub struct Witness {
    runtime: Arc<Runtime>,
    null: &'static DriverTable,
    /// One for each route.
    pub routes: Box<[Numbered]>,
    /// One for each gateway.
    pub gateways: [Numbered; GATEWAYS as usize],
    /// Packets are looked at.
    pub looks: AtomicBool,
    /// For each cell, what its packet's route had returned when the stack got it. Written and read by the worker that has it.
    known: Box<[AtomicU32]>,
    workers: Box<[Worker]>,
}

/// What a worker alone writes.
#[derive(Default)]
#[repr(align(128))]
struct Worker {
    /// What each gateway had returned when the burst in work was received.
    gateways: [AtomicU32; GATEWAYS as usize],
    looked_at: AtomicU64,
    misrouted: AtomicU64,
    misaddressed: AtomicU64,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Packets that were looked at.
    pub packets: u64,
    /// Of them, those that went to a gateway that an update had taken them from before they were received.
    pub misrouted: u64,
    /// Those with an Ethernet address that an update had replaced before they were received.
    pub misaddressed: u64,
}

static WITNESS: OnceLock<Witness> = OnceLock::new();
static NULL: OnceLock<&'static DriverTable> = OnceLock::new();

/// The table of the null driver with the witness in it.
pub fn witnessed(null: &'static DriverTable) -> &'static DriverTable {
    let null: &'static DriverTable = NULL.get_or_init(|| null);
    Box::leak(Box::new(DriverTable { rx_burst, tx_burst, ..*null }))
}

/// Begins to know the updates of `routes` routes of the only router of this process, whose ports are down yet.
pub fn install(runtime: Arc<Runtime>, routes: u32) -> Result<&'static Witness, String> {
    let null = NULL.get().ok_or("the ports were not made by `witnessed`")?;
    let workers = (0..runtime.workers()).map(|_| Worker::default()).collect();
    let cells = runtime.pool().desc().cells;
    let witness = Witness {
        null,
        // The routes are made so: route r goes to gateway r % GATEWAYS.
        routes: (0..routes).map(|r| Numbered::at(r % GATEWAYS)).collect(),
        gateways: std::array::from_fn(|_| Numbered::default()),
        looks: AtomicBool::new(false),
        known: (0..cells).map(|_| AtomicU32::new(0)).collect(),
        workers,
        runtime,
    };
    WITNESS.set(witness).map_err(|_| "there is a witness already")?;
    WITNESS.get().ok_or_else(|| "there is no witness".into())
}

impl Witness {
    /// What was seen until now.
    pub fn seen(&self) -> Seen {
        let sum = |of: fn(&Worker) -> &AtomicU64| self.workers.iter().map(|w| of(w).load(Ordering::Relaxed)).sum();
        Seen {
            packets: sum(|w| &w.looked_at),
            misrouted: sum(|w| &w.misrouted),
            misaddressed: sum(|w| &w.misaddressed),
        }
    }

    fn route_of(&self, pool: &Pool, cell: Cell) -> Option<&Numbered> {
        let packet = pool.packet(cell);
        let dst = packet.data().get(30..34)?.try_into().ok()?;
        self.routes.get(net_of(u32::from_be_bytes(dst)) as usize)
    }

    fn received(&self, worker: &Worker, cells: &[Cell]) {
        let pool = self.runtime.pool();
        for (known, gateway) in worker.gateways.iter().zip(&self.gateways) {
            known.store(gateway.returned.load(Ordering::SeqCst), Ordering::Relaxed);
        }
        for &cell in cells {
            if let (Some(route), Some(known)) = (self.route_of(pool, cell), self.known.get(cell as usize)) {
                known.store(route.returned.load(Ordering::SeqCst), Ordering::Relaxed);
            }
        }
    }

    fn sent(&self, worker: &Worker, cells: &[Cell]) {
        let pool = self.runtime.pool();
        let (mut packets, mut misrouted, mut misaddressed) = (0, 0, 0);
        for &cell in cells {
            let packet = pool.packet(cell);
            let Some((number, gateway)) = packet.data().first_chunk().and_then(|mac| mac_parts(*mac)) else { continue };
            let (Some(route), Some(known)) = (self.route_of(pool, cell), self.known.get(cell as usize)) else {
                continue;
            };
            packets += 1;
            let known = known.load(Ordering::Relaxed);
            misrouted += u64::from(!follows(gateway, known, route.begun.load(Ordering::SeqCst), GATEWAYS));
            let at = gateway as usize;
            let known = worker.gateways[at].load(Ordering::Relaxed);
            let begun = self.gateways[at].begun.load(Ordering::SeqCst);
            misaddressed += u64::from(!follows(number.into(), known, begun, 1 << 16));
        }
        for (count, n) in
            [(&worker.looked_at, packets), (&worker.misrouted, misrouted), (&worker.misaddressed, misaddressed)]
        {
            count.store(count.load(Ordering::Relaxed) + n, Ordering::Relaxed);
        }
    }
}

/// Whether a number, of which only the remainder modulo `modulus` is seen, lies between what had returned and what had begun.
fn follows(seen: u32, returned: u32, begun: u32, modulus: u32) -> bool {
    let ahead = (seen.wrapping_sub(returned)) % modulus;
    ahead <= begun.wrapping_sub(returned)
}

/// The witness and the desk of a worker, while packets are looked at.
fn at_work(worker: u32) -> Option<(&'static Witness, &'static Worker)> {
    let witness = WITNESS.get().filter(|w| w.looks.load(Ordering::Relaxed))?;
    Some((witness, witness.workers.get(worker as usize)?))
}

unsafe extern "C" fn rx_burst(port: *mut c_void, queue: u32, worker: u32, cells: *mut Cell, max: u32) -> u32 {
    let Some(null) = WITNESS.get().map(|w| w.null) else { return 0 };
    // SAFETY: what the stack promises to this function it promises to that one.
    let n = unsafe { (null.rx_burst)(port, queue, worker, cells, max) };
    if let Some((witness, own)) = at_work(worker).filter(|_| n > 0) {
        // SAFETY: the driver wrote `n` cells, which are this function's until it returns.
        witness.received(own, unsafe { std::slice::from_raw_parts(cells, n as usize) });
    }
    n
}

unsafe extern "C" fn tx_burst(port: *mut c_void, queue: u32, worker: u32, cells: *const Cell, n: u32) -> u32 {
    let Some(null) = WITNESS.get().map(|w| w.null) else { return 0 };
    if let Some((witness, own)) = at_work(worker).filter(|_| n > 0) {
        // SAFETY: the stack hands over `n` cells.
        witness.sent(own, unsafe { std::slice::from_raw_parts(cells, n as usize) });
    }
    // SAFETY: as above.
    unsafe { (null.tx_burst)(port, queue, worker, cells, n) }
}

/// The Ethernet address of a gateway after its update of that number.
pub fn mac_after(number: u32, gateway: u32) -> smpnet_abi::MacAddr {
    mac_of(number as u16, gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_may_follow_what_has_begun_and_must_follow_what_has_returned() {
        // Update 20 has returned, 21 has begun.
        let judged = |number: u32| follows(number % 16, 20, 21, 16);
        assert_eq!([19, 20, 21, 22].map(judged), [false, true, true, false]);
        assert!(follows(0, u32::MAX, 0, 16), "numbers begin again");
        assert!(!follows(15, 0, 0, 16));
    }

    #[test]
    fn an_address_says_gateway_and_number() {
        let mac = mac_after(0x1_0203, 5);
        assert_eq!(mac_parts(mac.bytes), Some((0x0203, 5)));
    }
}
