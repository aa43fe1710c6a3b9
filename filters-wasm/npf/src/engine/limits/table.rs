//! Numbers by name that all workers change, without a lock.
//!
//! A bucket has fifteen cells of a name and a number, and a `turn` that says which cell was named last:
//!
//! ```text
//! a name that is there    its number is changed by compare-exchange
//! one that is not         a cell whose number says nothing any more is claimed, and named;  turn: n, cell -> n + 1, this cell
//!                         fails if another name came since the bucket was looked through: it is looked through again
//! ```
//!
//! So no name is ever in two cells: a name comes in only where nobody else's has come in since it was seen to be missing. Who
//! finds the cell of the last turn still claimed completes it, so that nobody waits for anybody. A cell is named only as long
//! as it is claimed, and who has changed a number looks at the name again: had the cell become another's meanwhile, which
//! had by chance the same number, the change is taken back.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Cells of a bucket. Its names and its turn are two cache lines, its numbers two more.
const CELLS: usize = 15;
/// A cell that is about to get a name; the lower bits say in which turn.
const CLAIMED: u64 = 1 << 63;
/// The number is a time, and says nothing when that has passed; otherwise it is a count, and says nothing when it is 0.
const TIME: u64 = 1 << 62;
/// The largest number; of nanoseconds, 146 years.
pub(super) const NUMBER_MAX: u64 = TIME - 1;
/// What no name is: of cells that never had one, or whose name was in another cell at the same time.
pub(super) const NOBODY: u64 = 0;
/// Names that come into a bucket meanwhile, before somebody who brings one more is refused.
const TRIES: usize = 64;

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Kind {
    /// A count.
    Count = 0,
    /// A time.
    Time = TIME,
}

/// Why a number was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It would go beyond what is allowed.
    Beyond,
    /// There is no room for the name.
    Full,
}

#[derive(Debug)]
#[repr(C, align(128))]
struct Bucket {
    /// How many names have come in, and in the lowest four bits the cell of the last one, from 1.
    turn: AtomicU64,
    names: [AtomicU64; CELLS],
    numbers: [AtomicU64; CELLS],
}

/// Numbers by name.
#[derive(Debug)]
pub(super) struct Table {
    buckets: Box<[Bucket]>,
}

impl Table {
    /// With so many buckets, a power of two.
    pub fn new(buckets: usize) -> Table {
        let zero = || std::array::from_fn(|_| AtomicU64::new(0));
        let bucket = |_| Bucket { turn: AtomicU64::new(0), names: zero(), numbers: zero() };
        Table { buckets: (0..buckets.next_power_of_two()).map(bucket).collect() }
    }

    fn bucket(&self, name: u64) -> &Bucket {
        // Buckets are chosen by bits of the name, of which there are at least as many as buckets: a power of two.
        &self.buckets[name as usize & (self.buckets.len() - 1)]
    }

    /// The number of a name. Full: it is not there, and could not come in.
    pub fn get(&self, name: u64, now: u64) -> Result<Option<u64>, Refused> {
        let bucket = self.bucket(name);
        match bucket.find(name) {
            Some(cell) => {
                let seen = bucket.numbers[cell].load(SeqCst);
                Ok((seen & CLAIMED == 0).then_some(seen & NUMBER_MAX))
            }
            None if bucket.idle(now).is_some() => Ok(None),
            None => Err(Refused::Full),
        }
    }

    /// Changes the number of a name, which is 0 if it was not there. `to` gives the new one, or None to refuse; `back` undoes
    /// what `to` did.
    ///
    /// # Errors
    /// When `to` refuses, or there is no room for the name.
    pub fn change(
        &self,
        name: u64,
        kind: Kind,
        now: u64,
        to: impl Fn(u64) -> Option<u64>,
        back: impl Fn(u64) -> u64,
    ) -> Result<(), Refused> {
        let bucket = self.bucket(name);
        for _ in 0..TRIES {
            let Some(cell) = bucket.find_or_name(name, kind, now)? else { continue };
            let number = &bucket.numbers[cell];
            let mut seen = number.load(SeqCst);
            while seen & CLAIMED == 0 {
                let new = to(seen & NUMBER_MAX).ok_or(Refused::Beyond)?;
                match number.compare_exchange_weak(seen, new.min(NUMBER_MAX) | kind as u64, SeqCst, SeqCst) {
                    Ok(_) if bucket.names[cell].load(SeqCst) == name => return Ok(()),
                    Ok(_) => {
                        bucket.give_back(cell, &back);
                        break;
                    }
                    Err(other) => seen = other,
                }
            }
        }
        Err(Refused::Full)
    }

    /// Changes the number of a name, if it is there.
    pub fn undo(&self, name: u64, back: impl Fn(u64) -> u64) {
        let bucket = self.bucket(name);
        if let Some(cell) = bucket.find(name) {
            bucket.give_back(cell, &back);
        }
    }

    /// Names whose numbers say something.
    #[cfg(test)]
    pub fn len(&self, now: u64) -> usize {
        let numbers = self.buckets.iter().flat_map(|b| &b.numbers);
        numbers.filter(|n| !is_idle(n.load(SeqCst), now)).count()
    }
}

/// Whether a number says nothing.
fn is_idle(seen: u64, now: u64) -> bool {
    match seen & (CLAIMED | TIME) {
        0 => seen == 0,
        TIME => seen & NUMBER_MAX <= now,
        _ => false,
    }
}

impl Bucket {
    /// The cell that has a name. A claimed one may still have the name of before: so the name is read again behind the number.
    fn find(&self, name: u64) -> Option<usize> {
        let is = |i: usize| self.names[i].load(SeqCst) == name;
        (0..CELLS).find(|i| is(*i) && self.numbers[*i].load(SeqCst) & CLAIMED == 0 && is(*i))
    }

    /// A cell whose number says nothing.
    fn idle(&self, now: u64) -> Option<(usize, u64)> {
        (0..CELLS).map(|i| (i, self.numbers[i].load(SeqCst))).find(|(_, seen)| is_idle(*seen, now))
    }

    /// Completes the last turn. A claim says in which turn it was made, so that one of a later turn is left alone.
    fn settle(&self, turn: u64) {
        let Some(cell) = (turn as usize & 15).checked_sub(1) else { return };
        let seen = self.numbers[cell].load(SeqCst);
        if seen & CLAIMED != 0 && seen & NUMBER_MAX == turn >> 4 {
            // Whoever is first does it.
            let _ = self.numbers[cell].compare_exchange(seen, seen & TIME, SeqCst, SeqCst);
        }
    }

    /// The cell of a name, which gets one if it has none. None: another name came in at the same time.
    fn find_or_name(&self, name: u64, kind: Kind, now: u64) -> Result<Option<usize>, Refused> {
        let turn = self.turn.load(SeqCst);
        self.settle(turn);
        if let Some(cell) = self.find(name) {
            return Ok(Some(cell));
        }
        let claim = self.claim(name, kind, turn, now)?;
        Ok(claim.and_then(|claim| self.enter(claim, turn)))
    }

    /// Claims a cell for a name that was not there in a turn. None: somebody else was faster.
    fn claim(&self, name: u64, kind: Kind, turn: u64, now: u64) -> Result<Option<(usize, u64)>, Refused> {
        let (cell, seen) = self.idle(now).ok_or(Refused::Full)?;
        let claim = CLAIMED | kind as u64 | ((turn >> 4) + 1);
        if self.numbers[cell].compare_exchange(seen, claim, SeqCst, SeqCst).is_err() {
            return Ok(None);
        }
        // Were the next turn over already, and had it been this very cell's, the claim would look like that turn's, and others
        // would complete it. From here on nobody can have the next turn with this cell.
        if self.turn.load(SeqCst) != turn {
            let _ = self.numbers[cell].compare_exchange(claim, 0, SeqCst, SeqCst);
            return Ok(None);
        }
        self.names[cell].store(name, SeqCst);
        Ok(Some((cell, claim)))
    }

    /// The name of a claimed cell comes in, if no other has since that turn. None: one has.
    fn enter(&self, (cell, claim): (usize, u64), turn: u64) -> Option<usize> {
        let next = ((turn >> 4) + 1) << 4 | (cell as u64 + 1);
        let is_in = self.turn.compare_exchange(turn, next, SeqCst, SeqCst).is_ok();
        if !is_in {
            self.names[cell].store(NOBODY, SeqCst);
        }
        // Nobody else touches a claim whose turn has not come; one whose turn it is somebody may have completed.
        let _ = self.numbers[cell].compare_exchange(claim, if is_in { claim & TIME } else { 0 }, SeqCst, SeqCst);
        is_in.then_some(cell)
    }

    fn give_back(&self, cell: usize, back: &impl Fn(u64) -> u64) {
        let number = &self.numbers[cell];
        let mut seen = number.load(SeqCst);
        while seen & CLAIMED == 0 {
            let new = back(seen & NUMBER_MAX) | seen & TIME;
            match number.compare_exchange_weak(seen, new, SeqCst, SeqCst) {
                Ok(_) => return,
                Err(other) => seen = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::HashMap, sync::Arc, thread};

    fn up_to(most: u64) -> impl Fn(u64) -> Option<u64> {
        move |n| (n < most).then_some(n + 1)
    }

    fn down(n: u64) -> u64 {
        n.saturating_sub(1)
    }

    #[test]
    fn a_full_bucket_refuses_names_until_one_says_nothing_any_more() {
        let table = Table::new(1);
        for name in 1..=15 {
            assert_eq!(table.change(name, Kind::Count, 0, up_to(2), down), Ok(()));
        }
        assert_eq!(table.change(16, Kind::Count, 0, up_to(2), down), Err(Refused::Full));
        assert_eq!((table.get(16, 0), table.get(3, 0)), (Err(Refused::Full), Ok(Some(1))));
        assert_eq!(table.change(3, Kind::Count, 0, up_to(2), down), Ok(()), "what is in is in");
        assert_eq!(table.change(3, Kind::Count, 0, up_to(2), down), Err(Refused::Beyond));
        table.undo(7, down);
        assert_eq!(table.change(16, Kind::Time, 5, |_| Some(9), |_| 0), Ok(()));
        assert_eq!((table.get(7, 5), table.get(16, 5)), (Err(Refused::Full), Ok(Some(9))));
        assert_eq!(table.get(7, 9), Ok(None), "a time that has passed makes room");
    }

    #[test]
    fn of_two_that_bring_the_same_name_at_once_one_is_in_and_the_other_finds_it() {
        let table = Table::new(1);
        let (bucket, turn) = (&table.buckets[0], 0);
        let slow = bucket.claim(9, Kind::Count, turn, 0).unwrap().unwrap();
        assert_eq!(bucket.find(9), None, "it is not in yet");
        assert_eq!(table.change(9, Kind::Count, 0, up_to(2), down), Ok(()));
        assert_eq!(bucket.enter(slow, turn), None);
        let cell = bucket.find(9).unwrap();
        assert_ne!(cell, slow.0);
        assert_eq!((table.get(9, 0), table.len(0)), (Ok(Some(1)), 1));
    }

    #[test]
    fn a_claim_of_a_turn_that_is_over_is_given_up_and_names_nothing() {
        let table = Table::new(1);
        let bucket = &table.buckets[0];
        // The cell was another's in that turn, which is idle now.
        assert_eq!(table.change(8, Kind::Count, 0, up_to(2), down), Ok(()));
        let was = bucket.find(8).unwrap();
        table.undo(8, down);
        assert_eq!(bucket.claim(9, Kind::Count, 0, 0), Ok(None));
        assert_eq!((bucket.find(8), bucket.find(9), table.len(0)), (Some(was), None, 0));
    }

    #[test]
    fn who_finds_a_name_that_has_come_in_and_is_still_claimed_completes_it() {
        let table = Table::new(1);
        let bucket = &table.buckets[0];
        let (cell, claim) = bucket.claim(9, Kind::Count, 0, 0).unwrap().unwrap();
        bucket.turn.store((claim & NUMBER_MAX) << 4 | (cell as u64 + 1), SeqCst);
        assert_eq!(table.change(9, Kind::Count, 0, up_to(2), down), Ok(()));
        assert_eq!((bucket.find(9), table.len(0)), (Some(cell), 1));
        // And he who was slow changes nothing any more.
        let _ = bucket.numbers[cell].compare_exchange(claim, 0, SeqCst, SeqCst);
        assert_eq!(table.get(9, 0), Ok(Some(1)));
    }

    /// Threads bring many names into few cells, take them out again, and none is ever counted beyond its limit.
    #[test]
    fn names_that_come_and_go_on_all_threads_are_in_one_cell_each() {
        const MOST: u64 = 3;
        let table = Arc::new(Table::new(1));
        let held: Arc<[AtomicU64; 24]> = Arc::new(std::array::from_fn(|_| AtomicU64::new(0)));
        let threads = (0..4u64).map(|seed| {
            let (table, held) = (table.clone(), held.clone());
            thread::spawn(move || {
                let mut random = crate::testing::random(seed);
                let mut mine: HashMap<u64, u64> = HashMap::new();
                for _ in 0..1_000_000 {
                    let name = random() % 24;
                    match mine.get_mut(&name).filter(|n| **n > 0) {
                        Some(n) if !random().is_multiple_of(3) => {
                            *n -= 1;
                            held[name as usize].fetch_sub(1, SeqCst);
                            table.undo(name + 1, down);
                        }
                        _ => {
                            if table.change(name + 1, Kind::Count, 0, up_to(MOST), down).is_ok() {
                                *mine.entry(name).or_default() += 1;
                                assert!(held[name as usize].fetch_add(1, SeqCst) < MOST);
                            }
                        }
                    }
                }
                for (name, n) in mine {
                    held[name as usize].fetch_sub(n, SeqCst);
                    (0..n).for_each(|_| table.undo(name + 1, down));
                }
            })
        });
        threads.collect::<Vec<_>>().into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(table.len(0), 0);
    }
}
