//! What plugins call, through the table of host services.
//!
//! Packets that a plugin hands in are not taken up at once: the plugin is being called by the stack, which goes on with
//! them when the call has returned. So calls never nest, however interfaces are stacked.

use crate::bpf::At;
use crate::net::counters::{Account, base};
use crate::net::ifnet::{Attach, Medium};
use crate::net::path::{Caller, Handed};
use crate::slow::SlowEvent;
use crate::stack::Stack;
use crate::types::IfIndex;
use smpnet_abi::{Cell, DropReason, IfInfo, LinkState, if_flags, if_type};
use smpnet_runtime::{BadPacket, Burst, Cpu, Dir, PfilHook, Section, WorkerCx};
use std::sync::atomic::Ordering;

impl Stack {
    /// Packets received by an interface: frames, or IP packets of a raw IP interface. Worker.
    pub fn if_input(&self, cpu: Cpu, ifindex: u32, cells: &[Cell]) {
        self.hand(cpu, Handed::Input, ifindex, cells);
    }

    /// Complete frames (or IP packets) to send out of an interface. Worker.
    pub fn if_output(&self, cpu: Cpu, ifindex: u32, cells: &[Cell]) {
        self.hand(cpu, Handed::Output, ifindex, cells);
    }

    /// IPv4 packets made by a plugin, to be routed. Worker.
    pub fn ip_output(&self, cpu: Cpu, cells: &[Cell]) {
        self.hand(cpu, Handed::Route, 0, cells);
    }

    /// Packets that a hook of the IP layer took (CONSUMED) go on, on any worker: the hook itself is asked first, then those
    /// behind it, as if they had just come to it. Their data is as it was when the hook took them. `from` is the hook as it was
    /// attached. Worker, outside of calls by the stack: a queue's function or a callout.
    pub fn inet_resume(&self, cx: &WorkerCx<'_>, ifindex: u32, dir: Dir, from: &dyn PfilHook, cells: &[Cell]) {
        self.pass(cx.cpu, cx.section(), cx.now_ns, |path| {
            for cells in cells.chunks(smpnet_abi::BURST_MAX as usize) {
                let mut burst = Burst::new();
                burst.extend_from_slice(cells);
                path.resume_inet(ifindex, dir, from, &mut burst);
            }
        });
    }

    /// IPv4 packets that a filter sends out of an interface, whatever the routes say: to their destination as a neighbour there.
    /// Their data begins at the IP header. `came_in`: the filter took them on their way in, so that a hop is taken off. Worker.
    pub fn ip_output_by(&self, cpu: Cpu, ifindex: u32, cells: &[Cell], came_in: bool) {
        self.hand(cpu, Handed::By { came_in }, ifindex, cells);
    }

    /// Takes up what was handed in on this worker outside of a call by the stack (a plugin's callout). To be called by
    /// whoever ran the plugin. Worker.
    pub fn take_up_pending(&self, cpu: Cpu, section: Section<'_>) {
        self.settle(cpu, section);
    }

    /// Drops packets of a plugin for a reason, counted against an interface (0: none). Worker.
    pub fn pkt_drop(&self, cpu: Cpu, ifindex: u32, reason: DropReason, cells: &[Cell]) {
        if self.bpf.wants_drops() {
            // SAFETY: on a worker, and the section ends with this block.
            let section = unsafe { self.domain.assume_section() };
            let medium = self.ifs.get(section, ifindex).map_or(Medium::RawIp, |i| i.medium);
            let at = At { cpu, pool: self.pool(), section, ifindex, medium };
            for c in cells.iter().filter(|c| self.pool().validate(**c).is_ok()) {
                self.bpf.tap_drop(&at, reason, None, "", *c);
            }
        }
        self.count_drop(cpu, ifindex, reason, cells.len() as u64);
        self.pool().free(cpu, cells);
    }

    fn count_drop(&self, cpu: Cpu, ifindex: u32, reason: DropReason, n: u64) {
        let account = |a: Account| self.counters.add(cpu, base::ACCOUNT + a as usize, n);
        account(Account::FromPlugins);
        account(if reason == DropReason::Consumed { Account::Consumed } else { Account::Dropped });
        // SAFETY: on a worker, and the section ends with this function.
        let section = unsafe { self.domain.assume_section() };
        match self.ifs.get(section, ifindex) {
            Some(ifp) => ifp.count_drop(cpu, reason, n),
            None => self.counters.add(cpu, base::DROPS + reason as usize, n),
        }
    }

    /// Packets in the hands of a plugin end here, unless they are sound and there once: those that are not are dropped by
    /// name, and the plugin is to blame.
    fn hand(&self, cpu: Cpu, how: Handed, ifindex: u32, cells: &[Cell]) {
        let mut wrong = None;
        let (caller, taken) = self.pending.with(cpu, |p| {
            let blamed = if let (Handed::Route, Caller::Interface(i)) = (how, p.caller) { i } else { ifindex };
            let before = p.list.len();
            for c in cells {
                match self.pool().validate_next(&*p, *c) {
                    Ok(()) => p.list.push((how, blamed, *c)),
                    Err(e) => _ = wrong.get_or_insert(e),
                }
            }
            (p.caller, p.list.len() - before)
        });
        self.counters.add(cpu, base::ACCOUNT + Account::FromPlugins as usize, taken as u64);
        if let Some(e) = wrong {
            self.handed_wrong(cpu, caller, ifindex, cells, e);
        }
    }

    /// Takes back what can be of the packets that [`Stack::hand`] refused, and lays the blame.
    #[cold]
    fn handed_wrong(&self, cpu: Cpu, caller: Caller, ifindex: u32, cells: &[Cell], e: BadPacket) {
        let taken = self.pending.with(cpu, |p| cells.iter().filter(|c| self.pool().reclaim(cpu, &*p, **c)).count());
        self.count_drop(cpu, ifindex, DropReason::PluginFault, taken as u64);
        // SAFETY: as in count_drop.
        let section = unsafe { self.domain.assume_section() };
        let blamed = match caller {
            Caller::Filter(_) => return self.pending.with(cpu, |p| p.caller = Caller::Filter(Some(e))),
            Caller::Interface(i) => i,
            Caller::Unknown => ifindex,
        };
        match self.ifs.get(section, blamed) {
            Some(ifp) => self.fault_seen(ifp, &format!("handed in a bad packet: {e}")),
            None => tracing::error!("a plugin handed in a bad packet outside of any interface: {e}"),
        }
    }

    /// Calls a plugin's function: while it runs, the worker knows whose it is. Also returns what the function left of that,
    /// which says what a filter did wrong.
    #[inline(always)]
    pub(crate) fn calling<R>(&self, cpu: Cpu, caller: Caller, f: impl FnOnce() -> R) -> (R, Caller) {
        self.pending.with(cpu, |p| p.caller = caller);
        let r = f();
        (r, self.pending.with(cpu, |p| std::mem::take(&mut p.caller)))
    }

    /// Calls a native filter at a hook. The second value says what was wrong with a packet that it handed in. Worker, in a
    /// call of its hook.
    pub fn calling_filter<R>(&self, cpu: Cpu, f: impl FnOnce() -> R) -> (R, Option<BadPacket>) {
        match self.calling(cpu, Caller::Filter(None), f) {
            (r, Caller::Filter(wrong)) => (r, wrong),
            (r, _) => (r, None),
        }
    }

    /// What `HostServices::if_info` tells. Any thread.
    pub fn if_info(&self, ifindex: u32) -> Option<IfInfo> {
        let i = self.ifs.get_control(ifindex)?;
        let mut name = [0u8; 16];
        let n = i.name.len().min(15);
        name[..n].copy_from_slice(&i.name.as_bytes()[..n]);
        Some(IfInfo {
            size: size_of::<IfInfo>() as u32,
            ifindex,
            if_type: if i.medium == Medium::Ether { if_type::ETHER } else { if_type::RAW_IP },
            flags: if i.up { if_flags::UP } else { 0 } | if i.running { if_flags::RUNNING } else { 0 },
            mtu: i.mtu,
            offloads: i.offloads,
            mac: i.mac,
            _pad: 0,
            name,
        })
    }

    /// The name of an interface. Worker.
    pub fn name_of<'s>(&'s self, section: Section<'s>, ifindex: u32) -> Option<&'s str> {
        self.ifs.get(section, ifindex).map(|i| &*i.name)
    }

    /// The link of an interface changed. Any thread.
    pub fn link_event(&self, ifindex: u32, link: LinkState) {
        self.slow.push(SlowEvent::Link { ifindex, link });
    }

    /// A plugin's code panicked or found itself broken: the interface is quarantined. Any thread.
    pub fn fault(&self, ifindex: u32, what: &str) {
        if let Some(index) = IfIndex::new(ifindex) {
            self.slow.push(SlowEvent::Fault { ifindex: index, what: what.to_owned() });
        }
    }

    /// Takes every interface out and ends the control thread. The runtime goes on. Returns the interfaces that were
    /// attached to plugins, in the order in which they were detached: the caller closes them.
    pub fn shutdown(&self) -> Vec<IfIndex> {
        self.bpf.stop();
        let mut gone = Vec::new();
        let mut all = self.ifs.all();
        // Interfaces that stand on others go first.
        all.sort_by_key(|i| (i.parent == 0, matches!(i.attach, Attach::Port(_)), i.index));
        for i in all {
            if self.detach(i.index).is_ok() {
                gone.push(i.index);
            }
        }
        self.stopping.store(true, Ordering::Release);
        self.slow.wake();
        gone
    }
}
