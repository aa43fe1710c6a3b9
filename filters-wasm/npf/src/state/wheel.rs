//! When connections expire.
//!
//! A hierarchical timer wheel of [`LEVELS`] levels of 64 slots. A slot is a list through the members themselves, so
//! that a member is added and taken out in constant time and without allocation. It is lazy twice over: who is used only
//! notes when (the wheel hears nothing of it), and a slot whose time has come is not spread over the lower levels at once
//! but becomes, as a whole, a list of members to look at. Who looks at one finds it expired, or adds it again.

use super::Millis;

/// Members that a list links, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Of each node the next and the one before; lists are rings through a head of their own. Heads come first.
    nodes: Vec<[u32; 2]>,
    heads: u32,
}

impl Links {
    /// So many lists, all of them empty. `capacity` members fit without moving.
    pub fn new(lists: u32, capacity: usize) -> Links {
        let mut nodes = Vec::with_capacity(capacity + lists as usize);
        nodes.extend((0..lists).map(|i| [i; 2]));
        Links { nodes, heads: lists }
    }

    /// Takes a member out of the list that it is in. False: it is in none.
    pub fn remove(&mut self, member: u32) -> bool {
        let node = member + self.heads;
        let Some(&[next, before]) = self.nodes.get(node as usize) else { return false };
        self.nodes[before as usize][0] = next;
        self.nodes[next as usize][1] = before;
        self.nodes[node as usize] = [node; 2];
        next != node
    }

    /// Adds a member at the end of a list; out of the one that it was in.
    pub fn push(&mut self, list: u32, member: u32) {
        let node = member + self.heads;
        while self.nodes.len() <= node as usize {
            self.nodes.push([self.nodes.len() as u32; 2]);
        }
        self.remove(member);
        let last = self.nodes[list as usize][1];
        self.nodes[node as usize] = [list, last];
        self.nodes[last as usize][0] = node;
        self.nodes[list as usize][1] = node;
    }

    /// The first member of a list.
    pub fn first(&self, list: u32) -> Option<u32> {
        self.nodes[list as usize][0].checked_sub(self.heads)
    }

    /// Moves all members of a list to the end of another.
    fn append(&mut self, from: u32, to: u32) {
        let [first, last] = self.nodes[from as usize];
        if first == from {
            return;
        }
        let end = self.nodes[to as usize][1];
        self.nodes[end as usize][0] = first;
        self.nodes[first as usize][1] = end;
        self.nodes[last as usize][0] = to;
        self.nodes[to as usize][1] = last;
        self.nodes[from as usize] = [from; 2];
    }
}

const LEVELS: u32 = 3;
/// 64 slots a level.
const BITS: u32 = 6;
/// Milliseconds of a slot of the lowest level: 1 << this.
const TICK: u32 = 7;
/// The list of those whose slot's time has come.
const DUE: u32 = LEVELS << BITS;
/// Every member is looked at after so many ticks (about nine minutes) at the latest. So timeouts that an administrator
/// shortens count for those that are waiting, too, and for a million connections that is 1,900 looks a second.
const LOOK_AGAIN: u64 = (1 << (2 * BITS)) - 1;

/// The wheel.
#[derive(Debug)]
pub(super) struct Wheel {
    links: Links,
    /// Slots in which there may be members, of each level.
    occupied: [u64; LEVELS as usize],
    /// Slots up to this tick have been emptied.
    tick: u64,
}

impl Wheel {
    pub fn new(capacity: usize, now: Millis) -> Wheel {
        Wheel { links: Links::new(DUE + 1, capacity), occupied: [0; LEVELS as usize], tick: now.0 >> TICK }
    }

    /// A member is to be looked at at a time, or up to a tick later.
    pub fn add(&mut self, member: u32, at: Millis) {
        let tick = (at.0 >> TICK).saturating_add(1).clamp(self.tick + 1, self.tick + LOOK_AGAIN);
        // The level on which the slot differs from the present one in its own digit only.
        let level = (63 - (tick ^ self.tick).leading_zeros()) / BITS;
        let level = level.min(LEVELS - 1);
        let slot = (tick >> (level * BITS)) as u32 & 63;
        self.occupied[level as usize] |= 1 << slot;
        self.links.push(level << BITS | slot, member);
    }

    /// A member is not to be looked at.
    pub fn remove(&mut self, member: u32) {
        self.links.remove(member);
    }

    /// Goes on to a time: those whose slots' time has come by then are due.
    pub fn advance(&mut self, now: Millis) {
        let target = now.0 >> TICK;
        while self.tick < target {
            // Over what is empty: to the end of the level's turn, where the next level's slot may fall due.
            let mut skip = 0;
            for level in 0..LEVELS {
                if self.occupied[level as usize] != 0 {
                    break;
                }
                skip = (level + 1) * BITS;
            }
            if skip == LEVELS * BITS {
                self.tick = target;
                return;
            }
            self.tick = (((self.tick >> skip) + 1) << skip).min(target);
            for level in 0..LEVELS {
                let slot = (self.tick >> (level * BITS)) as u32 & 63;
                let bit = 1 << slot;
                if self.occupied[level as usize] & bit != 0 {
                    self.occupied[level as usize] &= !bit;
                    self.links.append(level << BITS | slot, DUE);
                }
                if slot != 0 {
                    break;
                }
            }
        }
    }

    /// One that is due. It stays due until it is added again, or removed.
    pub fn due(&self) -> Option<u32> {
        self.links.first(DUE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(wheel: &mut Wheel, now: u64) -> Vec<u32> {
        wheel.advance(Millis(now));
        let mut all = vec![];
        while let Some(member) = wheel.due() {
            wheel.remove(member);
            all.push(member);
        }
        all
    }

    #[test]
    fn a_member_is_due_after_its_time_and_within_a_tick() {
        for start in [0, 5, 127, 8191, 8192, 524_287, 1 << 40] {
            for after in [0, 1, 127, 128, 8000, 8192, 9000, 300_000, 500_000] {
                let mut wheel = Wheel::new(1, Millis(start));
                wheel.add(0, Millis(start + after));
                // A higher level's slot comes at its beginning, and who is in it is added again.
                let mut now = start;
                while now < start + after || wheel.due().is_none() {
                    now += 64;
                    assert!(now <= start + after + 256, "from {start} after {after}: never");
                    wheel.advance(Millis(now));
                    if wheel.due().is_some() && now < start + after {
                        wheel.add(0, Millis(start + after));
                    }
                }
            }
        }
    }

    #[test]
    fn a_long_time_with_nothing_in_it_costs_nothing() {
        let mut wheel = Wheel::new(1, Millis(0));
        wheel.add(3, Millis(86_400_000));
        assert_eq!(due(&mut wheel, 1 << 50), [3]);
        wheel.advance(Millis(u64::MAX));
        assert_eq!(wheel.due(), None);
    }

    #[test]
    fn who_was_removed_is_not_due() {
        let mut wheel = Wheel::new(0, Millis(0));
        for i in 0..4 {
            wheel.add(i, Millis(1000));
        }
        wheel.remove(1);
        wheel.remove(1);
        wheel.add(2, Millis(20_000));
        wheel.remove(77);
        assert_eq!(due(&mut wheel, 2000), [0, 3]);
        assert_eq!(due(&mut wheel, 30_000), [2]);
    }

    #[test]
    fn lists_are_appended_as_a_whole() {
        let mut links = Links::new(2, 0);
        for i in 0..3 {
            links.push(0, i);
            links.push(1, 10 + i);
        }
        links.append(0, 1);
        links.append(0, 1);
        assert_eq!(links.first(0), None);
        let mut all = vec![];
        while let Some(i) = links.first(1) {
            links.remove(i);
            all.push(i);
        }
        assert_eq!(all, [10, 11, 12, 0, 1, 2]);
    }
}
