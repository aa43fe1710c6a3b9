//! The control thread's round: what workers left to be done, and what time has come for.

use super::Control;
use crate::neigh::control::Todo;
use crate::slow::SlowEvent;
use crate::stack::Stack;
use smpnet_abi::MacAddr;

/// Events worked off in one round.
const BUDGET: usize = 1024;
/// Between two looks for datagrams to give up.
const REASS_TICK: u64 = 500_000_000;

impl Stack {
    /// One round of the control side at `now` (nanoseconds of the monotonic clock). Returns when the next one is due at the
    /// latest; none when only an event makes one necessary.
    pub fn tick(&self, now: u64) -> Option<u64> {
        let mut done = 0;
        while done < BUDGET
            && let Some(e) = self.slow.pop()
        {
            self.event(now, e);
            done += 1;
        }
        if done == BUDGET {
            return Some(now);
        }
        let mut todo = Vec::new();
        let table = |i: u32| self.ifs.get_control(i).map(|i| i.shared.neigh.clone());
        let arp = self.lock_arp().tick(now, table, &mut todo);
        self.perform(todo);
        let path_mtu = self.path_mtu_tick(now);
        let mut control = self.lock();
        let dad = self.dad_tick(&mut control, now);
        let reass = self.reass_tick(&mut control, now);
        [arp, dad, reass, path_mtu].into_iter().flatten().min()
    }

    fn event(&self, now: u64, e: SlowEvent) {
        match e {
            SlowEvent::Wanted { ifindex, ip, worker } => {
                let key = (ifindex, ip);
                let mut todo = Vec::new();
                match self.ifs.get_control(ifindex).filter(|i| i.running) {
                    Some(i) => {
                        self.lock_arp().wanted(now, key, worker as usize, &i.shared.neigh, &mut todo);
                    }
                    None => todo.push(Todo::Fail(key, 1 << worker)),
                }
                self.perform(todo);
            }
            SlowEvent::Used { ifindex, ip } => self.lock_arp().used(now, (ifindex, ip)),
            SlowEvent::Heard { ifindex, ip, mac, create } => self.heard(now, ifindex, ip, mac, create),
            SlowEvent::Conflict { ifindex, ip, mac } => {
                let mut control = self.lock();
                self.address_conflict(&mut control, now, (ifindex, ip), mac);
            }
            SlowEvent::PathMtu { dst, mtu } => self.learn_path_mtu(now, dst, mtu),
            SlowEvent::ReassTimer { worker } => {
                self.lock().reass_timers.push((now + REASS_TICK, worker as usize));
            }
            SlowEvent::Link { ifindex, link } => self.link_changed(ifindex, link),
            SlowEvent::Fault { ifindex, what } => {
                if let Err(e) = self.quarantine(ifindex, &what) {
                    tracing::warn!(error = %e, "a fault of an interface that is gone");
                }
            }
        }
    }

    fn heard(&self, now: u64, ifindex: u32, ip: u32, mac: MacAddr, create: bool) {
        let Some(ifp) = self.ifs.get_control(ifindex) else { return };
        let mut todo = Vec::new();
        let table = create.then(|| ifp.shared.neigh.clone());
        let contradicted = self.lock_arp().heard(now, (ifindex, ip), mac, table.as_deref(), &mut todo);
        if contradicted {
            let counter = crate::net::counters::base::ARP + crate::net::counters::ArpStat::RcvOverPerm as usize;
            self.counters.add_control(counter, 1);
        }
        self.perform(todo);
    }

    fn reass_tick(&self, control: &mut Control, now: u64) -> Option<u64> {
        let mut due = Vec::new();
        control.reass_timers.retain(|(at, w)| {
            if *at <= now {
                due.push(*w);
            }
            *at > now
        });
        for w in due {
            self.on_worker(w, move |p| {
                let now = p.now.max(now);
                p.reass_expire(now);
            });
        }
        control.reass_timers.iter().map(|(at, _)| *at).min()
    }
}
