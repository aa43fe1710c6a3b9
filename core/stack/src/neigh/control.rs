//! The control side of ARP: every neighbour's state, and its timers.

use super::machine::{Action, Event, Neighbour, State, Timings};
use super::table::{NeighTable, Slab, Usable, mac_word};
use smpnet_abi::MacAddr;
use smpnet_runtime::Domain;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

/// An interface and an IPv4 address in host byte order.
pub(crate) type Key = (u32, u32);

/// What the caller has to do after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Todo {
    /// Broadcast a request.
    AskAll(Key),
    /// Ask one station.
    AskOne(Key, MacAddr),
    /// Packets for the neighbour can go, on the workers of the mask.
    Release(Key, u64),
    /// Packets for the neighbour fail, on the workers of the mask.
    Fail(Key, u64),
}

struct Entry {
    n: Neighbour,
    slot: u32,
    /// Workers that hold packets for it.
    waiting: u64,
    /// The earliest timer in the heap for it.
    timer: Option<u64>,
}

/// All neighbours.
pub(crate) struct ArpControl {
    slab: Arc<Slab>,
    domain: Arc<Domain>,
    entries: HashMap<Key, Entry>,
    timers: BinaryHeap<Reverse<(u64, Key)>>,
    /// Timings of the state machine.
    pub timings: Timings,
    random: u64,
}

impl ArpControl {
    pub(crate) fn new(slab: Arc<Slab>, domain: Arc<Domain>, seed: u64) -> Self {
        ArpControl {
            slab,
            domain,
            entries: HashMap::new(),
            timers: BinaryHeap::new(),
            timings: Timings::default(),
            random: seed | 1,
        }
    }

    /// A fresh random number for jitter.
    pub(crate) fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// A worker holds packets for a neighbour. `table` is that of the interface.
    pub(crate) fn wanted(&mut self, now: u64, key: Key, worker: usize, table: &NeighTable, todo: &mut Vec<Todo>) {
        let bit = 1u64 << worker;
        if let Some(e) = self.entries.get_mut(&key) {
            if e.n.state == State::Incomplete {
                e.waiting |= bit;
            } else {
                todo.push(Todo::Release(key, bit));
            }
            return;
        }
        let Some(slot) = table.insert(&self.domain, key.1) else {
            todo.push(Todo::Fail(key, bit));
            return;
        };
        let n = Neighbour::resolve(now, &self.timings);
        self.entries.insert(key, Entry { n, slot, waiting: bit, timer: None });
        self.arm(key);
        todo.push(Todo::AskAll(key));
    }

    /// A worker sent to a stale neighbour.
    pub(crate) fn used(&mut self, now: u64, key: Key) {
        let t = self.timings;
        if let Some(e) = self.entries.get_mut(&key) {
            e.n.step(now, Event::Used, &t, 0);
            self.arm(key);
        }
    }

    /// An ARP packet told a neighbour's address. `create` says whether to remember one that nobody asked for (RFC 826: when
    /// the packet was meant for us). Returns whether a permanent entry contradicts it.
    pub(crate) fn heard(
        &mut self,
        now: u64,
        key: Key,
        mac: MacAddr,
        create: Option<&NeighTable>,
        todo: &mut Vec<Todo>,
    ) -> bool {
        let random = self.random();
        let t = self.timings;
        let Some(e) = self.entries.get_mut(&key) else {
            if let Some(table) = create
                && let Some(slot) = table.insert(&self.domain, key.1)
            {
                let n = Neighbour::heard(now, &t, mac);
                self.slab.set(slot, mac_word(mac), Usable::Stale);
                self.entries.insert(key, Entry { n, slot, waiting: 0, timer: None });
                self.arm(key);
            }
            return false;
        };
        if e.n.state == State::Permanent {
            return e.n.mac != mac;
        }
        e.n.step(now, Event::Heard(mac), &t, random);
        self.slab.set(e.slot, mac_word(mac), Usable::Yes);
        if e.waiting != 0 {
            todo.push(Todo::Release(key, std::mem::take(&mut e.waiting)));
        }
        self.arm(key);
        false
    }

    /// Runs the timers that are due; `table` finds the table of an interface. Returns when the next one is due.
    pub(crate) fn tick(
        &mut self,
        now: u64,
        table: impl Fn(u32) -> Option<Arc<NeighTable>>,
        todo: &mut Vec<Todo>,
    ) -> Option<u64> {
        while let Some(Reverse((at, key))) = self.timers.peek().copied() {
            if at > now {
                return Some(at);
            }
            self.timers.pop();
            let t = self.timings;
            let Some(e) = self.entries.get_mut(&key) else { continue };
            if e.timer != Some(at) {
                continue;
            }
            e.timer = None;
            let action = e.n.step(now, Event::Timer, &t, 0);
            match action {
                Action::Nothing => {}
                Action::Publish => self.slab.set(
                    e.slot,
                    mac_word(e.n.mac),
                    if e.n.state == State::Stale { Usable::Stale } else { Usable::Yes },
                ),
                Action::AskAll => todo.push(Todo::AskAll(key)),
                Action::AskOne(mac) => todo.push(Todo::AskOne(key, mac)),
                Action::Gone => {
                    self.forget(key, table(key.0).as_deref(), todo);
                    continue;
                }
            }
            self.arm(key);
        }
        None
    }

    /// Enters a permanent neighbour, over a dynamic one if need be. False when no slot is free.
    pub(crate) fn set_permanent(&mut self, key: Key, mac: MacAddr, table: &NeighTable, todo: &mut Vec<Todo>) -> bool {
        if !self.entries.contains_key(&key) {
            let Some(slot) = table.insert(&self.domain, key.1) else { return false };
            self.entries.insert(key, Entry { n: Neighbour::permanent(mac), slot, waiting: 0, timer: None });
        }
        if let Some(e) = self.entries.get_mut(&key) {
            e.n = Neighbour::permanent(mac);
            e.timer = None;
            self.slab.set(e.slot, mac_word(mac), Usable::Yes);
            if e.waiting != 0 {
                todo.push(Todo::Release(key, std::mem::take(&mut e.waiting)));
            }
        }
        true
    }

    /// Forgets a neighbour; what waits for it fails. Whether there was one.
    pub(crate) fn forget(&mut self, key: Key, table: Option<&NeighTable>, todo: &mut Vec<Todo>) -> bool {
        let Some(e) = self.entries.remove(&key) else { return false };
        if let Some(t) = table {
            t.remove(&self.domain, key.1);
        }
        if e.waiting != 0 {
            todo.push(Todo::Fail(key, e.waiting));
        }
        true
    }

    /// Every neighbour: key, state and deadline.
    pub(crate) fn list(&self) -> Vec<(Key, Neighbour)> {
        let mut all: Vec<_> = self.entries.iter().map(|(k, e)| (*k, e.n)).collect();
        all.sort_by_key(|(k, _)| *k);
        all
    }

    /// The state of one neighbour.
    pub(crate) fn get(&self, key: Key) -> Option<Neighbour> {
        self.entries.get(&key).map(|e| e.n)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn arm(&mut self, key: Key) {
        let Some(e) = self.entries.get_mut(&key) else { return };
        let Some(d) = e.n.deadline else { return };
        // A timer that is in the heap for an earlier time comes first and arms the later one; so a neighbour that is heard
        // of often does not fill the heap.
        if e.timer.is_none_or(|t| t > d) {
            e.timer = Some(d);
            self.timers.push(Reverse((d, key)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::SECOND;
    use super::*;

    const MAC: MacAddr = MacAddr { bytes: [2, 0, 0, 0, 0, 9] };
    const KEY: Key = (1, 0x0a00_0002);

    struct Rig {
        arp: ArpControl,
        table: Arc<NeighTable>,
        slab: Arc<Slab>,
        domain: Arc<Domain>,
        todo: Vec<Todo>,
    }

    impl Rig {
        fn new() -> Rig {
            let domain = Domain::new(0);
            let slab = Slab::new().unwrap();
            let table = Arc::new(NeighTable::new(slab.clone()));
            let arp = ArpControl::new(slab.clone(), domain.clone(), 42);
            Rig { arp, table, slab, domain, todo: Vec::new() }
        }

        fn tick(&mut self, now: u64) -> Vec<Todo> {
            let table = self.table.clone();
            self.arp.tick(now, |_| Some(table.clone()), &mut self.todo);
            std::mem::take(&mut self.todo)
        }

        fn usable(&self) -> Option<Usable> {
            let reader = self.domain.register();
            let guard = reader.enter();
            self.table.find(guard.section(), KEY.1).map(|s| self.slab.word(s).usable())
        }
    }

    #[test]
    fn packets_of_two_workers_are_released_by_one_answer() {
        let mut r = Rig::new();
        r.arp.wanted(0, KEY, 0, &r.table, &mut r.todo);
        r.arp.wanted(0, KEY, 3, &r.table, &mut r.todo);
        assert_eq!(std::mem::take(&mut r.todo), [Todo::AskAll(KEY)], "one question for both");
        assert_eq!(r.usable(), Some(Usable::No));
        r.arp.heard(1, KEY, MAC, None, &mut r.todo);
        assert_eq!(std::mem::take(&mut r.todo), [Todo::Release(KEY, 0b1001)]);
        assert_eq!(r.usable(), Some(Usable::Yes));
        r.arp.wanted(2, KEY, 1, &r.table, &mut r.todo);
        assert_eq!(r.todo, [Todo::Release(KEY, 0b10)], "who comes late is released at once");
    }

    #[test]
    fn packets_fail_when_nobody_answers() {
        let mut r = Rig::new();
        r.arp.wanted(0, KEY, 2, &r.table, &mut r.todo);
        r.todo.clear();
        assert_eq!(r.tick(SECOND), [Todo::AskAll(KEY)]);
        assert_eq!(r.tick(2 * SECOND), [Todo::AskAll(KEY)]);
        assert_eq!(r.tick(3 * SECOND), [Todo::Fail(KEY, 0b100)]);
        assert_eq!(r.usable(), None);
        assert_eq!(r.arp.len(), 0);
    }

    #[test]
    fn a_neighbour_ages_is_probed_when_used_and_goes_when_silent() {
        let mut r = Rig::new();
        r.arp.heard(0, KEY, MAC, Some(&r.table), &mut r.todo);
        assert_eq!(r.usable(), Some(Usable::Stale), "heard of, not asked");
        r.arp.heard(0, KEY, MAC, None, &mut r.todo);
        assert_eq!(r.usable(), Some(Usable::Yes));
        assert_eq!(r.tick(46 * SECOND), []);
        assert_eq!(r.usable(), Some(Usable::Stale));
        r.arp.used(46 * SECOND, KEY);
        assert_eq!(r.tick(51 * SECOND), [Todo::AskOne(KEY, MAC)]);
        assert_eq!(r.tick(52 * SECOND), [Todo::AskOne(KEY, MAC)]);
        assert_eq!(r.tick(53 * SECOND), [Todo::AskOne(KEY, MAC)]);
        assert_eq!(r.tick(54 * SECOND), []);
        assert_eq!(r.usable(), None);
    }

    #[test]
    fn a_permanent_neighbour_is_not_changed_by_what_is_heard() {
        let mut r = Rig::new();
        assert!(r.arp.set_permanent(KEY, MAC, &r.table, &mut r.todo));
        let other = MacAddr { bytes: [2, 0, 0, 0, 0, 10] };
        assert!(r.arp.heard(0, KEY, other, None, &mut r.todo), "the contradiction is reported");
        assert_eq!(r.arp.get(KEY).unwrap().mac, MAC);
        assert_eq!(r.tick(10_000 * SECOND), []);
        assert!(r.arp.forget(KEY, Some(&r.table), &mut r.todo));
        assert_eq!(r.usable(), None);
    }
}
