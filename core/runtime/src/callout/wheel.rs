//! The timer wheel of one worker: four levels of 256 slots, each level 256 times coarser than the one below.

/// log2 of the nanoseconds of a tick: 262 microseconds.
const TICK_SHIFT: u32 = 18;
const LEVELS: usize = 4;
const SLOTS: usize = 256;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Link {
    next: u32,
    prev: u32,
    tick: u64,
    /// `level * SLOTS + slot`, or NONE when it is not in the wheel.
    slot: u32,
}

/// Timers by number (dense, so that links are an array). Nothing in here allocates but the growth of that array.
pub(super) struct Wheel {
    /// Every tick up to this one has been dealt with.
    now: u64,
    heads: Box<[u32; LEVELS * SLOTS]>,
    used: [[u64; SLOTS / 64]; LEVELS],
    links: Vec<Link>,
    len: usize,
}

impl Wheel {
    pub(super) fn new(now_ns: u64) -> Self {
        Wheel {
            now: now_ns >> TICK_SHIFT,
            heads: Box::new([NONE; LEVELS * SLOTS]),
            used: [[0; SLOTS / 64]; LEVELS],
            links: Vec::new(),
            len: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds timer `i`, which is not in the wheel, to expire at `deadline_ns` or up to a tick later.
    pub(super) fn insert(&mut self, i: u32, deadline_ns: u64) {
        if i as usize >= self.links.len() {
            self.links.resize(i as usize + 1, Link { next: NONE, prev: NONE, tick: 0, slot: NONE });
        }
        debug_assert_eq!(self.links[i as usize].slot, NONE);
        // Rounded up, so that no timer is early; the tick of `now` has been dealt with, so at least the next one.
        let tick = (deadline_ns.saturating_add((1 << TICK_SHIFT) - 1) >> TICK_SHIFT).max(self.now + 1);
        self.links[i as usize].tick = tick;
        self.link(i, tick);
        self.len += 1;
    }

    fn link(&mut self, i: u32, tick: u64) {
        // What is further away than the wheel reaches waits in its last slot and is looked at again from there.
        let tick = tick.min(self.now + (1 << (8 * LEVELS)) - 1);
        let level = match tick - self.now {
            0..0x100 => 0,
            0x100..0x1_0000 => 1,
            0x1_0000..0x100_0000 => 2,
            _ => 3,
        };
        let slot = (tick >> (8 * level)) as usize % SLOTS;
        let head = level * SLOTS + slot;
        let next = self.heads[head];
        let link = &mut self.links[i as usize];
        (link.next, link.prev, link.slot) = (next, NONE, head as u32);
        if next != NONE {
            self.links[next as usize].prev = i;
        }
        self.heads[head] = i;
        self.used[level][slot / 64] |= 1 << (slot % 64);
    }

    /// Takes timer `i` out; false when it is not in the wheel.
    pub(super) fn remove(&mut self, i: u32) -> bool {
        let Some(&Link { next, prev, slot, .. }) = self.links.get(i as usize) else { return false };
        if slot == NONE {
            return false;
        }
        match prev {
            NONE => self.heads[slot as usize] = next,
            p => self.links[p as usize].next = next,
        }
        if next != NONE {
            self.links[next as usize].prev = prev;
        }
        if self.heads[slot as usize] == NONE {
            let (level, slot) = (slot as usize / SLOTS, slot as usize % SLOTS);
            self.used[level][slot / 64] &= !(1 << (slot % 64));
        }
        self.links[i as usize].slot = NONE;
        self.len -= 1;
        true
    }

    /// Any timer; for emptying the wheel.
    pub(super) fn any(&self) -> Option<u32> {
        self.heads.iter().copied().find(|h| *h != NONE)
    }

    /// Takes out one timer that has expired by `now_ns`.
    pub(super) fn expire(&mut self, now_ns: u64) -> Option<u32> {
        let goal = now_ns >> TICK_SHIFT;
        loop {
            let i = self.heads[self.now as usize % SLOTS];
            if i != NONE {
                self.remove(i);
                return Some(i);
            }
            if self.now >= goal {
                return None;
            }
            if self.len == 0 {
                self.now = goal;
                return None;
            }
            self.step(goal);
        }
    }

    /// Goes on to the next tick with something to do, at most to `goal`, and brings down what is due there.
    fn step(&mut self, goal: u64) {
        self.now = self.next_tick().map_or(goal, |next| next.min(goal));
        if !self.now.is_multiple_of(SLOTS as u64) {
            return;
        }
        for level in 1..LEVELS {
            let slot = (self.now >> (8 * level)) as usize % SLOTS;
            let mut i = std::mem::replace(&mut self.heads[level * SLOTS + slot], NONE);
            self.used[level][slot / 64] &= !(1 << (slot % 64));
            while i != NONE {
                let Link { next, tick, .. } = self.links[i as usize];
                self.link(i, tick.max(self.now));
                i = next;
            }
            if slot != 0 {
                break;
            }
        }
    }

    /// When [`Wheel::expire`] has to be called next, at the latest (it may then find nothing); `None` for never.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.next_tick().map(|tick| tick << TICK_SHIFT)
    }

    /// The first tick at which a timer is due or a slot of a coarser level has to be brought down.
    fn next_tick(&self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        let mut best = u64::MAX;
        for level in 0..LEVELS {
            let shift = 8 * level as u32;
            let now = self.now >> shift;
            let at = now as usize % SLOTS;
            // The slot of `now` itself means one turn further on, except on the lowest level, where it is due.
            let first = if level == 0 { at } else { at + 1 };
            let turn = now - at as u64;
            let slot = first_from(&self.used[level], first).map(|s| turn + s as u64);
            let slot = slot.or_else(|| first_from(&self.used[level], 0).map(|s| turn + (SLOTS + s) as u64));
            if let Some(slot) = slot {
                best = best.min(slot << shift);
            }
        }
        Some(best)
    }
}

/// The first set bit at or after `from`.
fn first_from(bits: &[u64; SLOTS / 64], from: usize) -> Option<usize> {
    let mut word = from / 64;
    let mut mask = u64::MAX << (from % 64);
    while word < bits.len() {
        let found = bits[word] & mask;
        if found != 0 {
            return Some(word * 64 + found.trailing_zeros() as usize);
        }
        (word, mask) = (word + 1, u64::MAX);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn tick(n: u64) -> u64 {
        n << TICK_SHIFT
    }

    #[test]
    #[cfg_attr(miri, ignore = "turns the wheel through all its levels, which takes miri a quarter of an hour")]
    fn timers_expire_in_time_on_every_level() {
        let delays = [1, 2, 255, 256, 257, 65535, 65536, 65537, 1 << 24, (1 << 24) + 77, 1 << 31];
        for start in [0u64, 250, 65530] {
            let mut w = Wheel::new(tick(start));
            for (i, d) in delays.iter().enumerate() {
                w.insert(i as u32, tick(start + d));
            }
            for (i, d) in delays.iter().enumerate() {
                assert_eq!(w.expire(tick(start + d) - 1), None, "early: {d} from {start}");
                assert_eq!(w.expire(tick(start + d)), Some(i as u32), "{d} from {start}");
            }
            assert!(w.is_empty());
        }
    }

    #[test]
    fn behaves_as_a_sorted_map_does() {
        let (mut w, mut model) = (Wheel::new(0), BTreeMap::new());
        let (mut seed, mut now) = (1u64, 0u64);
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        let rounds = if cfg!(miri) { 300 } else { 20_000 };
        // The wheel turns tick by tick, which miri does a thousand times slower.
        let ranges = if cfg!(miri) { [30, 300, 3_000] } else { [300, 70_000, 20_000_000] };
        for i in 0..rounds as u32 {
            let range = ranges[random(3) as usize];
            let at = now + 1 + random(range);
            w.insert(i, tick(at));
            model.insert(i, at);
            if random(3) == 0 {
                let gone = random(u64::from(i) + 1) as u32;
                assert_eq!(w.remove(gone), model.remove(&gone).is_some());
            }
            let next = model.values().min().copied().unwrap_or(u64::MAX);
            if let Some(ns) = w.next_ns() {
                assert!(ns <= tick(next), "sleeps too long: {ns} for {}", tick(next));
                assert!(ns >= tick(now), "in the past");
            }
            now += random(range / 2);
            while let Some(i) = w.expire(tick(now)) {
                let at = model.remove(&i).expect("a live timer");
                assert!(at <= now, "early");
            }
            assert!(model.values().all(|at| *at > now), "late");
        }
    }
}
