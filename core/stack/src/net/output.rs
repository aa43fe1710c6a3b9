//! Output: packets are gathered per interface while a burst is carried, and leave together.

use super::counters::{Account, IfCounter, IpStat};
use super::ifnet::{Attach, Ifnet, Kind, Medium};
use super::path::{Caller, Handed, Path};
use crate::inet::decide::GSO;
use crate::wire::ethernet::{HEADER_LEN, is_group};
use smpnet_abi::{Cell, DropReason, FAULT, pkt_flags};
use smpnet_runtime::{Burst, Dir, Layer};

/// Flags that a port may be unable to honour.
const NEEDS_OFFLOAD: u32 = pkt_flags::CSUM_PARTIAL | GSO | pkt_flags::VLAN;

/// Packets on their way out of one interface.
struct Stage {
    ifindex: u32,
    /// IPv4 packets with their link header in front, still to pass the inet hooks; else complete frames.
    ip: bool,
    /// All packets' flags together.
    flags: u32,
    burst: Burst,
}

/// The stages of a worker.
pub(crate) struct Stages {
    /// Two for each interface in use lately: IP packets and complete frames.
    list: Vec<Stage>,
    /// Stage of each interface plus one, IP in the low and frames in the high half; 0 for none.
    of: Box<[u32]>,
    /// The first `used` of `list` have packets or had them in this passage.
    used: usize,
    /// Interfaces that were sent through lately, and for how many rounds more they are reaped.
    sent: Vec<u32>,
    rounds: u32,
    /// Something was sent since the last look: the port reaps by itself while it is kept busy.
    busy: bool,
}

/// Rounds of the worker's loop after which a port that was sent through is left alone.
const REAP_ROUNDS: u32 = 8;

impl Stages {
    pub(crate) fn new() -> Stages {
        Stages {
            list: Vec::new(),
            of: vec![0; 65536].into_boxed_slice(),
            used: 0,
            sent: Vec::new(),
            rounds: 0,
            busy: false,
        }
    }

    /// Remembers to reap a port.
    #[inline]
    pub(crate) fn mark_sent(&mut self, ifindex: u32) {
        self.rounds = REAP_ROUNDS;
        self.busy = true;
        if self.sent.last() != Some(&ifindex) && !self.sent.contains(&ifindex) {
            self.sent.push(ifindex);
        }
    }

    /// Whether ports wait to be reaped: those that were sent through lately, but not since the last look.
    pub(crate) fn wants_reaping(&mut self) -> bool {
        !std::mem::take(&mut self.busy) && !self.sent.is_empty()
    }

    pub(crate) fn sent_list(&self) -> &[u32] {
        &self.sent
    }

    /// A round passed in which the list was reaped.
    pub(crate) fn age_sent(&mut self) {
        self.rounds = self.rounds.saturating_sub(1);
        if self.rounds == 0 {
            self.sent.clear();
        }
    }

    #[inline(always)]
    fn get(&mut self, ifindex: u32, ip: bool) -> &mut Stage {
        let shift = if ip { 0 } else { 16 };
        let slot = &mut self.of[ifindex as usize & 0xffff];
        let at = *slot >> shift & 0xffff;
        if at != 0 {
            return &mut self.list[at as usize - 1];
        }
        if self.used == self.list.len() {
            self.list.push(Stage { ifindex, ip, flags: 0, burst: Burst::new() });
        }
        let i = self.used;
        self.used += 1;
        *slot |= (i as u32 + 1) << shift;
        let stage = &mut self.list[i];
        stage.ifindex = ifindex;
        stage.ip = ip;
        stage.flags = 0;
        stage
    }
}

impl<'a> Path<'a> {
    /// Stages an IPv4 packet whose link header, if the interface has one, is in front already.
    #[inline(always)]
    pub(crate) fn stage_ip(&mut self, ifindex: u32, flags: u32, c: Cell) {
        let stage = self.w.stages.get(ifindex, true);
        stage.flags |= flags;
        stage.burst.push(c);
        if stage.burst.is_full() {
            self.flush_one(ifindex, true);
        }
    }

    /// Stages a run of packets for one interface, as [`Path::stage_ip`] does one by one, and empties it.
    #[inline]
    pub(crate) fn stage_ip_run(&mut self, ifindex: u32, flags: u32, run: &mut Burst) {
        if run.is_empty() {
            return;
        }
        let stage = self.w.stages.get(ifindex, true);
        if stage.burst.is_empty() {
            // Mostly a whole burst goes one way.
            stage.flags |= flags;
            std::mem::swap(&mut stage.burst, run);
            if stage.burst.is_full() {
                self.flush_one(ifindex, true);
            }
        } else {
            for c in run.iter() {
                self.stage_ip(ifindex, flags, c);
            }
        }
        run.clear();
    }

    /// Stages a complete frame (or a packet of a raw IP interface).
    pub(crate) fn stage_frame(&mut self, ifindex: u32, c: Cell) {
        let flags = self.packet(c).hdr().flags;
        let stage = self.w.stages.get(ifindex, false);
        stage.flags |= flags;
        stage.burst.push(c);
        if stage.burst.is_full() {
            self.flush_one(ifindex, false);
        }
    }

    fn flush_one(&mut self, ifindex: u32, ip: bool) {
        let stage = self.w.stages.get(ifindex, ip);
        let mut burst = stage.burst.clone();
        let flags = std::mem::take(&mut stage.flags);
        stage.burst.clear();
        self.if_flush(ifindex, ip, flags, &mut burst);
    }

    /// Sends everything that is staged.
    pub(crate) fn flush_all(&mut self) {
        let mut i = 0;
        // What is sent may stage more (answers of plugins do not: they are pending), so look again at the end.
        while i < self.w.stages.used {
            let stage = &mut self.w.stages.list[i];
            let (ifindex, ip, flags) = (stage.ifindex, stage.ip, std::mem::take(&mut stage.flags));
            if !stage.burst.is_empty() {
                let mut burst = stage.burst.clone();
                stage.burst.clear();
                self.if_flush(ifindex, ip, flags, &mut burst);
            }
            i += 1;
        }
        if self.w.stages.list[..self.w.stages.used].iter().all(|s| s.burst.is_empty()) {
            for i in 0..self.w.stages.used {
                let ifindex = self.w.stages.list[i].ifindex;
                self.w.stages.of[ifindex as usize & 0xffff] = 0;
            }
            self.w.stages.used = 0;
        } else {
            self.flush_all();
        }
    }

    /// The way of a burst out of an interface: inet hooks, ether hooks, offloads, the wire.
    fn if_flush(&mut self, ifindex: u32, ip: bool, flags: u32, burst: &mut Burst) {
        let Some(ifp) = self.ifnet(ifindex).filter(|i| i.running && !i.faulted()) else {
            for c in burst.iter() {
                if ip {
                    self.ip_stat(IpStat::Ifdrop, 1);
                }
                self.drop(ifindex, DropReason::IfDown, c);
            }
            return;
        };
        let ether = ifp.medium == Medium::Ether;
        if ip {
            self.inet_out_hooks(ifp, ether, burst);
            if self.cuts_behind_hooks() {
                self.cut_too_long(ifp, burst);
            }
        }
        self.if_send(ifp, flags, burst);
    }

    /// The way of packets that the inet hooks have passed on another worker, or later, from their IP headers on. The link
    /// header is still in front of them.
    pub(super) fn if_flush_filtered(&mut self, ifp: &'a Ifnet, burst: &mut Burst) {
        if ifp.medium == Medium::Ether {
            for c in burst.iter() {
                let _ = self.packet(c).push_front(HEADER_LEN);
            }
        }
        if self.cuts_behind_hooks() {
            self.cut_too_long(ifp, burst);
        }
        let flags = burst.iter().fold(0, |all, c| all | self.packet(c).hdr().flags);
        self.if_send(ifp, flags, burst);
    }

    /// Filters that want whole packets see them on their way out, too: what is too long for the link is cut behind them.
    pub(crate) fn cuts_behind_hooks(&self) -> bool {
        self.s.tunables.reass_for_filters.load(std::sync::atomic::Ordering::Relaxed) > 0
    }

    /// Cuts what is longer than the link takes, unless it is to be cut into segments.
    fn cut_too_long(&mut self, ifp: &'a Ifnet, burst: &mut Burst) {
        let link = if ifp.medium == Medium::Ether { HEADER_LEN } else { 0 };
        let most = ifp.mtu + link as u32;
        let is_too_long = |path: &Path<'a>, c: Cell| {
            let p = path.packet(c);
            p.len() > most && p.hdr().flags & GSO == 0
        };
        if !burst.iter().any(|c| is_too_long(self, c)) {
            return;
        }
        let all = std::mem::replace(burst, Burst::new());
        for c in all.iter() {
            if !is_too_long(self, c) {
                self.add_or_send(ifp, burst, c);
                continue;
            }
            let mut p = self.packet(c);
            let mut header = [0; HEADER_LEN];
            header[..link].copy_from_slice(p.data().get(..link).unwrap_or(&[0; HEADER_LEN][..link]));
            p.pull_front(link);
            self.fragment(c, ifp.mtu, |path, piece| {
                match path.packet(piece).push_front(link) {
                    Some(front) => front.copy_from_slice(&header[..link]),
                    None => return path.drop_on(ifp, DropReason::NoBuffer, piece),
                }
                path.add_or_send(ifp, burst, piece);
            });
        }
    }

    /// Adds a packet to a burst; one that is full is sent before.
    fn add_or_send(&mut self, ifp: &'a Ifnet, burst: &mut Burst, c: Cell) {
        if burst.is_full() {
            let flags = burst.iter().fold(0, |all, c| all | self.packet(c).hdr().flags);
            self.if_send(ifp, flags, burst);
            burst.clear();
        }
        burst.push(c);
    }

    fn if_send(&mut self, ifp: &'a Ifnet, flags: u32, burst: &mut Burst) {
        let ether = ifp.medium == Medium::Ether;
        if ether {
            self.run_hooks(ifp, Layer::Ether, Dir::Out, burst);
        }
        if burst.is_empty() {
            return;
        }
        match &ifp.attach {
            Attach::Port(port) => {
                if flags & NEEDS_OFFLOAD != 0 {
                    self.software_offload(ifp, port, burst);
                } else {
                    self.port_output(ifp, port, burst);
                }
            }
            Attach::Kind(kind) => {
                if flags & GSO != 0 && ifp.medium == Medium::RawIp {
                    // What a tunnel wraps cannot be cut behind it. Frames go on to a port, which is asked.
                    self.segments_for_kind(ifp, kind, burst);
                } else {
                    self.kind_output(ifp, kind, burst);
                }
            }
            Attach::Loopback => {
                self.tap(ifp, Dir::Out, burst.as_slice());
                self.count_output(ifp, burst.as_slice());
                for c in burst.iter() {
                    let mut p = self.packet(c);
                    p.hdr_mut().flags |= pkt_flags::LOOPED;
                    self.s.pending.with(self.cpu, |q| q.list.push((Handed::Input, ifp.index.get(), c)));
                }
            }
            Attach::None => {
                for c in burst.iter() {
                    self.drop_on(ifp, DropReason::IfDown, c);
                }
            }
        }
    }

    /// Gives packets to an interface kind, as their sender.
    pub(super) fn kind_output(&mut self, ifp: &'a Ifnet, kind: &'a Kind, burst: &mut Burst) {
        self.nest(ifp, burst);
        if burst.is_empty() {
            return;
        }
        self.tap(ifp, Dir::Out, burst.as_slice());
        self.count_output(ifp, burst.as_slice());
        self.account(Account::ToPlugins, burst.len() as u64);
        let (worker, cells) = (self.cpu.index() as u32, burst.as_slice());
        // SAFETY: as in kind_input: the handle outlives this snapshot, and the cells become the plugin's.
        let output = || unsafe { (kind.table.output)(kind.handle.0, worker, cells.as_ptr(), cells.len() as u32) };
        let rc = self.s.calling(self.cpu, Caller::Interface(ifp.index.get()), output).0;
        if rc == FAULT {
            self.s.fault_seen(ifp, "its output function failed");
        }
    }

    /// The inet hooks see the packets from their IP headers on.
    fn inet_out_hooks(&mut self, ifp: &'a Ifnet, ether: bool, burst: &mut Burst) {
        if self.s.hooks.inet_out.is_empty() && ifp.shared.hooks.inet_out.is_empty() {
            return;
        }
        let pool = self.pool.locate();
        if ether {
            for c in burst.iter() {
                pool.packet(c).pull_front(HEADER_LEN);
            }
        }
        self.run_hooks(ifp, Layer::Inet, Dir::Out, burst);
        if ether {
            for c in burst.iter() {
                // The headroom that was just made by pulling.
                let _ = pool.packet(c).push_front(HEADER_LEN);
            }
        }
    }

    /// Counts a tunnel into each packet, and drops those that have passed too many.
    fn nest(&mut self, ifp: &'a Ifnet, burst: &mut Burst) {
        let limit = self.s.tunables.max_nest.load(std::sync::atomic::Ordering::Relaxed);
        let mut kept = Burst::new();
        for c in burst.iter() {
            let mut p = self.packet(c);
            let flags = &mut p.hdr_mut().flags;
            let nest = *flags >> pkt_flags::NEST_SHIFT & pkt_flags::NEST_MASK;
            if nest >= limit {
                self.drop_on(ifp, DropReason::EncapNest, c);
                continue;
            }
            *flags += 1 << pkt_flags::NEST_SHIFT;
            kept.push(c);
        }
        *burst = kept;
    }

    /// Counts packets as sent by an interface.
    #[inline]
    pub(crate) fn count_output(&self, ifp: &Ifnet, cells: &[Cell]) {
        let mut bytes = 0;
        let mut groups = 0;
        for c in cells {
            let p = self.packet(*c);
            bytes += u64::from(p.len());
            groups += u64::from(ifp.medium == Medium::Ether && p.data().first().is_some_and(|b| is_group(&[*b])));
        }
        self.count_output_as(ifp, cells.len() as u64, bytes, groups);
    }

    /// Counts packets as sent whose bytes were summed up before they were given away.
    pub(crate) fn count_output_as(&self, ifp: &Ifnet, packets: u64, bytes: u64, groups: u64) {
        ifp.count(self.cpu, IfCounter::Opackets, packets);
        ifp.count(self.cpu, IfCounter::Obytes, bytes);
        if groups > 0 {
            ifp.count(self.cpu, IfCounter::Omcasts, groups);
        }
    }
}
