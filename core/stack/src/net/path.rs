//! One worker's passage through the stack: what is at hand while a burst is carried to its end.

use super::counters::{Account, AdjStat, ArpStat, IcmpStat, IfCounter, IpStat, TcpStat, base};
use super::ifnet::{Ifnet, Medium};
use super::output::Stages;
use crate::adjacency::Adjacencies;
use crate::bpf::At;
use crate::inet::hold::Hold;
use crate::inet::icmp::Bucket;
use crate::inet::reass::Reassembly;
use crate::stack::Stack;
use smpnet_abi::{Cell, DropReason, pkt_flags};
use smpnet_runtime::{BadPacket, Burst, Cpu, Dir, Earlier, Packet, Pool, Section};
use std::sync::atomic::Ordering;

/// Packets ahead of the current one whose memory is asked for.
pub(crate) const AHEAD: usize = 4;

/// What belongs to one worker.
pub(crate) struct Worker {
    pub adjacencies: Adjacencies,
    /// The wish for a table of another size that was last followed.
    pub adjacencies_wish: u32,
    pub stages: Stages,
    pub hold: Hold,
    pub icmp: Bucket,
    pub reass: Reassembly,
    /// Identification of packets made here.
    pub ident: u16,
}

/// Packets that plugin functions handed in while the stack was calling them, taken up when the call has returned.
#[derive(Default)]
pub(crate) struct Pending {
    /// How, by which interface (for [`Handed::Route`] the one that is to blame, if any), and what.
    pub list: Vec<(Handed, u32, Cell)>,
    /// Whom the worker is calling.
    pub caller: Caller,
}

/// Whose function a worker is in, so that what it does wrong is laid at the right door.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Nobody's that is known: a callout, a driver.
    #[default]
    Unknown,
    /// An interface kind's.
    Interface(u32),
    /// A native filter's, and what it did wrong.
    Filter(Option<BadPacket>),
}

impl Earlier for &Pending {
    #[inline(always)]
    fn count(self) -> usize {
        self.list.len()
    }

    #[inline(always)]
    fn head(self, i: usize) -> Cell {
        self.list[i].2
    }
}

/// How a plugin handed a packet in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handed {
    Input,
    Output,
    Route,
    /// To their destination, as a neighbour, by the interface; `came_in`: they have not been forwarded yet.
    By {
        came_in: bool,
    },
}

/// A passage.
pub(crate) struct Path<'a> {
    pub s: &'a Stack,
    pub pool: &'a Pool,
    pub cpu: Cpu,
    pub section: Section<'a>,
    pub now: u64,
    /// Loaded before any table is looked at: what is remembered under it is never newer than the tables.
    pub generation: u32,
    pub w: &'a mut Worker,
}

impl Stack {
    /// Begins a passage of the calling worker, runs `f`, and brings everything that `f` left on the way to its end.
    pub(crate) fn pass<R>(
        &self,
        cpu: Cpu,
        section: Section<'_>,
        now: u64,
        f: impl for<'a> FnOnce(&mut Path<'a>) -> R,
    ) -> R {
        let pool = self.pool();
        self.cpus.with(cpu, |w| {
            let generation = self.generation.load(Ordering::Acquire);
            let wish = self.tunables.maxadjacencies.load(Ordering::Relaxed);
            if w.adjacencies_wish != wish {
                w.adjacencies_wish = wish;
                w.adjacencies = Adjacencies::new(wish as usize);
            }
            let mut path = Path { s: self, pool, cpu, section, now, generation, w };
            let r = f(&mut path);
            path.finish();
            r
        })
    }
}

impl<'a> Path<'a> {
    #[inline(always)]
    pub(crate) fn packet(&self, c: Cell) -> Packet<'a> {
        self.pool.packet(c)
    }

    #[inline(always)]
    pub(crate) fn ifnet(&self, index: u32) -> Option<&'a Ifnet> {
        self.s.ifs.get(self.section, index)
    }

    #[inline(always)]
    pub(crate) fn ip_stat(&self, c: IpStat, n: u64) {
        self.s.counters.add(self.cpu, base::IP + c as usize, n);
    }

    pub(crate) fn icmp_stat(&self, c: IcmpStat) {
        self.s.counters.add(self.cpu, base::ICMP + c as usize, 1);
    }

    pub(crate) fn arp_stat(&self, c: ArpStat) {
        self.s.counters.add(self.cpu, base::ARP + c as usize, 1);
    }

    #[inline(always)]
    pub(crate) fn adj_stat(&self, c: AdjStat, n: u64) {
        self.s.counters.add(self.cpu, base::ADJACENCY + c as usize, n);
    }

    pub(crate) fn tcp_stat(&self, c: TcpStat, n: u64) {
        self.s.counters.add(self.cpu, base::TCP + c as usize, n);
    }

    #[inline(always)]
    pub(crate) fn account(&self, c: Account, n: u64) {
        self.s.counters.add(self.cpu, base::ACCOUNT + c as usize, n);
    }

    /// Shows a burst to those who listen to the interface (bpf): one load when nobody does.
    #[inline(always)]
    pub(crate) fn tap(&self, ifp: &Ifnet, dir: Dir, cells: &[Cell]) {
        if self.s.bpf.wants(dir) {
            self.s.bpf.tap(&self.at(ifp), dir, cells);
        }
    }

    pub(crate) fn at(&self, ifp: &Ifnet) -> At<'a> {
        let (ifindex, medium) = (ifp.index.get(), ifp.medium);
        At { cpu: self.cpu, pool: self.pool, section: self.section, ifindex, medium }
    }

    /// Drops a packet for a reason, counted against an interface.
    #[inline(never)]
    pub(crate) fn drop_on(&mut self, ifp: &Ifnet, reason: DropReason, cell: Cell) {
        if self.s.bpf.wants_drops() {
            let came_in = self.packet(cell).hdr().rcvif == ifp.index.get();
            let dir = if came_in { Dir::In } else { Dir::Out };
            self.s.bpf.tap_drop(&self.at(ifp), reason, Some(dir), "", cell);
        }
        self.discard(ifp, reason, cell);
    }

    /// Drops a packet that was shown already.
    pub(crate) fn discard(&mut self, ifp: &Ifnet, reason: DropReason, cell: Cell) {
        ifp.count_drop(self.cpu, reason, 1);
        self.count_reason(ifp, reason);
        self.account(if reason == DropReason::Consumed { Account::Consumed } else { Account::Dropped }, 1);
        self.pool.free(self.cpu, &[cell]);
    }

    /// Drops a packet for a reason, counted against the interface of that index, or against none.
    #[inline(never)]
    pub(crate) fn drop(&mut self, ifindex: u32, reason: DropReason, cell: Cell) {
        match self.ifnet(ifindex) {
            Some(ifp) => self.drop_on(ifp, reason, cell),
            None => {
                if self.s.bpf.wants_drops() {
                    let at =
                        At { cpu: self.cpu, pool: self.pool, section: self.section, ifindex, medium: Medium::Ether };
                    self.s.bpf.tap_drop(&at, reason, None, "", cell);
                }
                self.s.counters.add(self.cpu, base::DROPS + reason as usize, 1);
                self.account(if reason == DropReason::Consumed { Account::Consumed } else { Account::Dropped }, 1);
                self.pool.free(self.cpu, &[cell]);
            }
        }
    }

    /// What NetBSD's names count for a reason.
    fn count_reason(&self, ifp: &Ifnet, reason: DropReason) {
        use DropReason as R;
        let ip = match reason {
            R::IpBadVersion => IpStat::Badvers,
            R::IpTooShort => IpStat::Tooshort,
            R::IpBadHeaderLength => IpStat::Badhlen,
            R::IpBadLength => IpStat::Badlen,
            R::IpBadChecksum => IpStat::Badsum,
            R::IpBadSource | R::IpMartian => IpStat::Badaddr,
            R::IpBadOption => IpStat::Badoptions,
            R::IpNoForward => IpStat::Cantforward,
            R::IpNoRoute => IpStat::Noroute,
            R::IpReject | R::IpBlackhole => IpStat::Rtreject,
            R::IpTtl => IpStat::Timxceed,
            R::IpNeedFrag | R::IpCannotFragment => IpStat::Cantfrag,
            R::IpBroadcast => IpStat::Bcastdenied,
            R::IpNoRouteSource => IpStat::Ifnoaddr,
            R::ReassTimeout => IpStat::Fragtimeout,
            R::ReassLimit => IpStat::Fragdropped,
            R::ReassBad => IpStat::Badfrags,
            R::ProtoUnreach => IpStat::Noproto,
            R::EncapUnknown => IpStat::Nogif,
            R::NoBuffer => IpStat::Odropped,
            R::TxRingFull => return ifp.count(self.cpu, IfCounter::Oerrors, 1),
            R::Runt | R::Oversize => return ifp.count(self.cpu, IfCounter::Ierrors, 1),
            R::QueueFull => return ifp.count(self.cpu, IfCounter::Iqdrops, 1),
            R::NoProto | R::VlanUnknown => return ifp.count(self.cpu, IfCounter::Noproto, 1),
            R::ArpBad => return self.arp_stat(ArpStat::RcvBad),
            R::ArpQueueFull | R::ArpUnresolved => return self.arp_stat(ArpStat::DfrDropped),
            _ => return,
        };
        self.ip_stat(ip, 1);
    }

    /// A fresh packet, counted as made here.
    pub(crate) fn make(&mut self) -> Option<Packet<'a>> {
        let mut c = [0; 1];
        if self.pool.alloc(self.cpu, &mut c) == 0 {
            return None;
        }
        self.account(Account::Made, 1);
        Some(self.pool.packet(c[0]))
    }

    /// Sends what is staged and takes up what plugins handed in, until nothing is left. It ends: a packet that goes round
    /// passes a tunnel each time, and those are counted.
    pub(crate) fn finish(&mut self) {
        loop {
            self.flush_all();
            let mut list = self.s.pending.with(self.cpu, |p| std::mem::take(&mut p.list));
            if list.is_empty() {
                return;
            }
            self.take_up(&list);
            list.clear();
            // Gives the memory back, so that the next hand-over does not allocate.
            self.s.pending.with(self.cpu, |p| {
                if p.list.is_empty() {
                    p.list = list;
                }
            });
        }
    }

    /// Takes up packets in their order, in bursts of the same kind and interface.
    fn take_up(&mut self, list: &[(Handed, u32, Cell)]) {
        for run in list.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let (how, ifindex, _) = run[0];
            for part in run.chunks(smpnet_abi::BURST_MAX as usize) {
                let mut burst = Burst::new();
                for (_, _, c) in part {
                    burst.push(*c);
                }
                match how {
                    Handed::Input => self.handed_input(ifindex, &burst),
                    Handed::Output => {
                        for c in burst.iter() {
                            self.stage_frame(ifindex, c);
                        }
                    }
                    Handed::Route => {
                        for c in burst.iter() {
                            self.ip_output(c);
                        }
                    }
                    Handed::By { came_in } => {
                        for c in burst.iter() {
                            self.ip_send_by(ifindex, c, came_in);
                        }
                    }
                }
            }
        }
    }

    /// Packets that an interface kind (or the loopback) received.
    fn handed_input(&mut self, ifindex: u32, burst: &Burst) {
        let Some(ifp) = self.ifnet(ifindex).filter(|i| i.running) else {
            for c in burst.iter() {
                self.drop(ifindex, DropReason::IfDown, c);
            }
            return;
        };
        for c in burst.iter() {
            let mut p = self.packet(c);
            let h = p.hdr_mut();
            h.rcvif = ifindex;
            // What a device said of an outer header says nothing of the inner one.
            h.flags &= !(pkt_flags::RX_L3_OK | pkt_flags::RX_L3_BAD | pkt_flags::BCAST | pkt_flags::MCAST);
        }
        self.tap(ifp, Dir::In, burst.as_slice());
        self.if_input(ifp, burst);
    }
}
