//! ifnet: interfaces as workers see them.
//!
//! An [`Ifnet`] is a snapshot that never changes; control replaces it as a whole (copy and swap). What lives longer than a
//! snapshot (counters, neighbours, hooks) is in [`IfShared`]. The table is two-level, so that a change copies at most 256
//! pointers whatever the number of interfaces.

use super::counters::{IfCounter, REASONS};
use crate::neigh::table::{NeighTable, Slab};
use crate::types::{AddrState, IfIndex, Ipv4Net};
use smpnet_abi::{DriverTable, DropReason, IfKindTable, MacAddr};
use smpnet_runtime::{Counters, Cpu, Domain, PfilHead, Published, Section};
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// What the packets of an interface begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    Ether,
    RawIp,
}

/// What an interface is made of.
#[derive(Clone)]
pub(crate) enum Attach {
    /// Nothing yet: the index and the name are reserved.
    None,
    Port(Arc<Port>),
    Kind(Arc<Kind>),
    Loopback,
}

/// A port: a driver's table and handle.
pub(crate) struct Port {
    pub table: &'static DriverTable,
    pub handle: Handle,
    pub rx_queues: u16,
    pub tx_queues: u16,
    pub mtu_max: u32,
    /// Worker that serves receive queue 0; the others follow.
    pub first_worker: usize,
    /// Spread received flows over the workers by their Toeplitz hash.
    pub rps: AtomicU8,
    /// What the driver last said that it lost on reception: kept for when it must not be asked any more.
    pub missed: AtomicU64,
}

/// An interface of a kind: its table and handle.
pub(crate) struct Kind {
    pub table: &'static IfKindTable,
    pub handle: Handle,
    pub mtu_min: u32,
    pub mtu_max: u32,
}

/// A plugin's pointer, passed back to it and never looked at.
#[derive(Clone, Copy)]
pub(crate) struct Handle(pub *mut c_void);

// SAFETY: an opaque token. The ABI lets workers and control threads pass it back to the plugin's functions.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

/// An address of an interface.
#[derive(Clone, Debug)]
pub(crate) struct IfAddr {
    pub net: Ipv4Net,
    pub state: AddrState,
}

/// A snapshot of an interface.
#[derive(Clone)]
pub(crate) struct Ifnet {
    pub index: IfIndex,
    pub name: Arc<str>,
    pub medium: Medium,
    pub attach: Attach,
    pub mac: MacAddr,
    pub mtu: u32,
    /// Bits of `smpnet_abi::offload` in force.
    pub offloads: u32,
    /// Frames of other stations are looked at (and then dropped, unless they belong to a tag's interface).
    pub promisc: bool,
    /// Configured up.
    pub up: bool,
    /// Link state as in `LinkState`: 0 down, 1 up, 2 unknown.
    pub link: u32,
    pub speed: u32,
    /// Packets pass: attached, up, link not down, not quarantined.
    pub running: bool,
    /// Interface that carries this one; 0 for none.
    pub parent: u32,
    pub addrs: Arc<[IfAddr]>,
    /// Interface that takes each 802.1Q id; none while no id is taken.
    pub vlans: Option<Arc<[u16; 4096]>>,
    /// EtherTypes with a taker of their own.
    pub ether_types: Arc<[(u16, u32)]>,
    pub shared: Arc<IfShared>,
}

/// What outlives a snapshot.
pub(crate) struct IfShared {
    pub counters: Counters,
    pub neigh: Arc<NeighTable>,
    pub hooks: Hooks,
    /// The plugin failed: nothing of it is called until it is attached anew. Workers set it at once; the snapshot follows.
    pub faulted: AtomicBool,
}

/// The hook heads of one place.
pub(crate) struct Hooks {
    pub ether_in: PfilHead,
    pub ether_out: PfilHead,
    pub inet_in: PfilHead,
    pub inet_out: PfilHead,
}

impl Hooks {
    pub(crate) fn new(domain: &Arc<Domain>) -> Hooks {
        let head = || PfilHead::new(domain);
        Hooks { ether_in: head(), ether_out: head(), inet_in: head(), inet_out: head() }
    }
}

impl IfShared {
    pub(crate) fn new(workers: usize, domain: &Arc<Domain>, slab: &Arc<Slab>) -> IfShared {
        IfShared {
            counters: Counters::new(workers, IfCounter::N + REASONS),
            neigh: Arc::new(NeighTable::new(slab.clone())),
            hooks: Hooks::new(domain),
            faulted: AtomicBool::new(false),
        }
    }
}

impl Ifnet {
    /// Adds to a counter.
    #[inline(always)]
    pub(crate) fn count(&self, cpu: Cpu, c: IfCounter, v: u64) {
        self.shared.counters.add(cpu, c as usize, v);
    }

    /// Counts a dropped packet.
    #[inline]
    pub(crate) fn count_drop(&self, cpu: Cpu, reason: DropReason, n: u64) {
        self.shared.counters.add(cpu, IfCounter::N + reason as usize, n);
    }

    /// Whether the plugin has failed.
    #[inline(always)]
    pub(crate) fn faulted(&self) -> bool {
        self.shared.faulted.load(Ordering::Relaxed)
    }

    /// The preferred address whose network holds `ip`, or else the first preferred address.
    pub(crate) fn source_for(&self, ip: u32) -> Option<u32> {
        let mut first = None;
        for a in self.addrs.iter().filter(|a| a.state == AddrState::Preferred) {
            let addr = a.net.addr().to_bits();
            if ip & a.net.mask() == a.net.network() {
                return Some(addr);
            }
            first.get_or_insert(addr);
        }
        first
    }

    /// Whether `ip` lies in a network of a preferred address of this interface.
    pub(crate) fn on_link(&self, ip: u32) -> bool {
        self.addrs.iter().any(|a| a.state == AddrState::Preferred && ip & a.net.mask() == a.net.network())
    }

    /// The preferred address equal to `ip`.
    pub(crate) fn has_addr(&self, ip: u32) -> bool {
        self.addrs.iter().any(|a| a.state == AddrState::Preferred && a.net.addr().to_bits() == ip)
    }
}

const PAGE: usize = 256;

type Page = Box<[Option<Arc<Ifnet>>]>;

/// All interfaces by index: 65536 slots.
pub(crate) struct IfTable {
    pages: Box<[Published<Page>]>,
}

impl IfTable {
    pub(crate) fn new() -> IfTable {
        IfTable { pages: (0..PAGE).map(|_| Published::new(Page::default())).collect() }
    }

    /// The interface of an index.
    #[inline(always)]
    pub(crate) fn get<'a>(&'a self, section: Section<'a>, index: u32) -> Option<&'a Ifnet> {
        let page = self.pages.get(index as usize / PAGE)?.read(section);
        page.get(index as usize % PAGE)?.as_deref()
    }

    /// The interface of an index, for a control thread.
    pub(crate) fn get_control(&self, index: u32) -> Option<Arc<Ifnet>> {
        let page = self.pages.get(index as usize / PAGE)?.load_control();
        page.get(index as usize % PAGE)?.clone()
    }

    /// Puts an interface into its slot, or empties the slot. Readers see it from now on; the old snapshot is dropped after
    /// a grace period. Caller holds the control lock.
    pub(crate) fn set(&self, domain: &Domain, index: IfIndex, ifnet: Option<Arc<Ifnet>>) {
        let index = index.get() as usize;
        self.pages[index / PAGE].update(domain, |old| {
            let mut page: Vec<_> = old.to_vec();
            if page.is_empty() {
                page.resize(PAGE, None);
            }
            page[index % PAGE] = ifnet;
            (page.into_boxed_slice(), ())
        });
    }

    /// Every interface, in order, for a control thread.
    pub(crate) fn all(&self) -> Vec<Arc<Ifnet>> {
        self.pages.iter().flat_map(|p| p.load_control().iter().flatten().cloned().collect::<Vec<_>>()).collect()
    }
}
