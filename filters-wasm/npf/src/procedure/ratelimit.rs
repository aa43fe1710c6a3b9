//! `ratelimit`: committed access rate.
//!
//! A bucket holds credit of up to the normal burst, and is filled at the bit rate. A packet takes its length out of it.
//! When the bucket holds too little, the packet may borrow, up to the extended burst: the bucket goes below nothing, and
//! credit that comes pays the debt first. So that borrowing ends before the limit with ever more packets rather than with
//! all at once, each packet that borrows adds the whole debt of its time to a second sum; a packet that would bring this
//! beyond the extended burst is dropped, and the sum begins anew. It also does when a packet needs not borrow. Long-lived
//! TCP connections see single losses in time and slow down, where a plain bucket would drop a whole window.
//!
//! **Several workers** have one rate together ([`Meter`]). What they share is the time up to which credit has been given out:
//! credit is time, and a worker takes a piece of it, enough for some packets, so that most packets touch nothing shared. Pieces
//! of two workers never overlap, and one that is older than the bucket's depth is worth nothing, wherever it is: so all
//! workers together never have more than the bucket would hold, and pass no more than the rate. The extended burst is divided
//! among them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// A worker takes so much more than it needs at once, as a part of the normal burst and of what each worker could have of it.
const PIECES: u64 = 4;

/// What several workers that have one `ratelimit` take their credit from.
#[derive(Debug)]
pub struct Meter {
    bitrate: u64,
    /// Nanoseconds in which the normal burst is earned.
    depth: u64,
    /// Credit of before this time has been given out, or is worth nothing any more. Times are later by the depth than those
    /// that come in, so that the bucket is full at any beginning.
    given: AtomicU64,
}

impl Meter {
    /// A full bucket, at whatever time.
    pub fn new(bitrate: u64, normal_burst: u64) -> Meter {
        let depth = (u128::from(normal_burst) * BYTE as u128).checked_div(u128::from(bitrate)).unwrap_or(0);
        Meter {
            bitrate,
            depth: u64::try_from(depth).unwrap_or(u64::MAX / 2).min(u64::MAX / 2),
            given: AtomicU64::new(0),
        }
    }

    /// Takes time out of the bucket, as much as there is of so many nanoseconds. The end of it, and how much it is.
    fn take(&self, at: u64, wanted: u64) -> (u64, u64) {
        let mut given = self.given.load(Relaxed);
        loop {
            let from = given.max(at.saturating_sub(self.depth));
            let taken = at.saturating_sub(from).min(wanted);
            if taken == 0 {
                return (from, 0);
            }
            match self.given.compare_exchange_weak(given, from + taken, Relaxed, Relaxed) {
                Ok(_) => return (from + taken, taken),
                Err(now) => given = now,
            }
        }
    }
}

/// The part of one worker.
#[derive(Clone, Debug)]
struct Part {
    meter: Arc<Meter>,
    /// Taken beyond what is needed, in nanoseconds.
    piece: u64,
    /// The credit is that of the time up to here.
    until: u64,
}

/// The state of one `ratelimit`, alone or as the part that one of several workers has in it. It belongs to one thread.
///
/// All is counted in billionths of a bit, of which a second of one bit a second has as many as it has nanoseconds: nothing
/// is rounded, so that no rate is off however long it lasts.
#[derive(Clone, Debug)]
pub struct RateLimit {
    bitrate: u64,
    normal: i128,
    extended: i128,
    /// What is left; below 0 what is owed.
    credit: i128,
    /// The debts of all packets since the last that was dropped or did not borrow.
    compound: i128,
    /// When the credit was right.
    at: Duration,
    /// Where credit comes from that others take too.
    part: Option<Part>,
}

/// Billionths of a bit in a byte.
const BYTE: i128 = 8_000_000_000;

impl RateLimit {
    /// A limit of bits a second, with bursts in bytes, and a full bucket at the time `now`, counted from any moment.
    ///
    /// An `extended_burst` of 0 lets nothing be borrowed. A packet that is longer than both bursts never passes.
    pub fn new(bitrate: u64, normal_burst: u64, extended_burst: u64, now: Duration) -> RateLimit {
        let normal = i128::from(normal_burst) * BYTE;
        let extended = i128::from(extended_burst) * BYTE;
        RateLimit { bitrate, normal, extended, credit: normal, compound: 0, at: now, part: None }
    }

    /// The part of one of several workers. `extended_burst` is that of all of them.
    pub fn part_of(meter: &Arc<Meter>, workers: usize, extended_burst: u64) -> RateLimit {
        let workers = workers.max(1) as u64;
        let part = Part { meter: meter.clone(), piece: meter.depth / workers / PIECES, until: 0 };
        let alone = RateLimit::new(meter.bitrate, 0, extended_burst / workers, Duration::ZERO);
        RateLimit { part: Some(part), ..alone }
    }

    /// Whether a packet of so many bytes passes at that time. A time before that of an earlier packet is as that.
    pub fn passes(&mut self, bytes: usize, now: Duration) -> bool {
        let cost = bytes as i128 * BYTE;
        match &mut self.part {
            Some(part) => self.credit = part.fill(self.credit, cost, now),
            None => self.fill(now),
        }
        let left = self.credit - cost;
        if left >= 0 {
            self.compound = 0;
        } else {
            self.compound -= left;
            // The compound debt is never below the debt itself.
            if self.compound > self.extended {
                self.compound = 0;
                return false;
            }
        }
        self.credit = left;
        true
    }

    fn fill(&mut self, now: Duration) {
        let Some(passed) = now.checked_sub(self.at) else { return };
        self.at = now;
        // A time that fills the bucket from the deepest debt is as good as a longer one, and cannot overflow.
        let passed = i128::try_from(passed.as_nanos()).unwrap_or(i128::MAX);
        let earned = passed.saturating_mul(i128::from(self.bitrate));
        self.credit = self.credit.saturating_add(earned).min(self.normal);
    }
}

impl Part {
    /// What credit becomes before so much of it is needed.
    fn fill(&mut self, credit: i128, needed: i128, now: Duration) -> i128 {
        let Meter { bitrate, depth, .. } = *self.meter;
        let at = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).saturating_add(depth);
        let worth = |time: u64| i128::from(time) * i128::from(bitrate);
        // What is older than the bucket is deep is worth nothing: others may have got as much since.
        let credit = credit.min(worth(self.until.saturating_sub(at.saturating_sub(depth))));
        if credit >= needed || bitrate == 0 {
            return credit;
        }
        let missing = u64::try_from((needed - credit).div_euclid(i128::from(bitrate))).unwrap_or(u64::MAX);
        let (until, taken) = self.meter.take(at, missing.saturating_add(1).saturating_add(self.piece));
        let filled = credit + worth(taken);
        // What is left behind a packet is of the later time, for the earlier is spent first. Of a packet that may not pass both
        // are left, and the earlier one tells how long they are worth something.
        if credit <= 0 || filled >= needed {
            self.until = until;
        }
        filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn passed(limit: &mut RateLimit, bytes: usize, times: impl Iterator<Item = Duration>) -> usize {
        times.filter(|&now| limit.passes(bytes, now)).count()
    }

    #[test]
    fn without_borrowing_the_burst_passes_and_then_the_rate() {
        let mut limit = RateLimit::new(8000, 3000, 0, at(0));
        assert_eq!(passed(&mut limit, 1000, std::iter::repeat_n(at(0), 10)), 3);
        assert!(!limit.passes(1000, at(999)));
        assert!(limit.passes(1000, at(1000)));
        assert!(!limit.passes(1, at(1000)));
        // A long quiet time gives no more than the burst.
        assert_eq!(passed(&mut limit, 1000, std::iter::repeat_n(at(1_000_000), 10)), 3);
    }

    #[test]
    fn borrowing_drops_one_packet_and_not_all() {
        // Debts are 1000, 2000, 3000; together 6000, which is allowed. The next would make it 10000.
        let mut limit = RateLimit::new(8000, 1000, 6000, at(0));
        let verdicts: Vec<bool> = (0..8).map(|_| limit.passes(1000, at(0))).collect();
        assert_eq!(verdicts, [true, true, true, true, false, true, false, true]);
        // The debt is 5000 and is paid before anything else; borrowing goes on at its limit.
        assert!(!limit.passes(1001, at(0)));
        assert!(limit.passes(1000, at(0)));
        assert!(!limit.passes(1, at(0)));
        assert!(limit.passes(1000, at(7000)));
    }

    #[test]
    fn the_rate_holds_to_the_last_packet_over_months() {
        // 3 bits a second divide no nanosecond evenly. A packet of one byte takes 2.666... s; one comes each second.
        let mut limit = RateLimit::new(3, 1, 0, Duration::ZERO);
        let seconds = 8 * 365 * 86400 / 20;
        let count = passed(&mut limit, 1, (1..=seconds).map(Duration::from_secs));
        // The bucket holds one packet only, and is full for a third of a second each time before one comes.
        assert_eq!(count as u64, seconds.div_ceil(3));
        let mut limit = RateLimit::new(3, 10, 0, Duration::ZERO);
        let count = passed(&mut limit, 1, (1..=seconds).map(Duration::from_secs));
        assert_eq!(count as u64, ((seconds - 1) * 3 + 80) / 8);
    }

    #[test]
    fn offered_too_much_the_long_run_is_the_rate_with_and_without_borrowing() {
        for extended in [0, 1500, 15_000, 60_000] {
            let mut limit = RateLimit::new(1_000_000, 15_000, extended, Duration::ZERO);
            let count = passed(&mut limit, 1500, (0..100_000).map(at));
            let bytes = count as u64 * 1500;
            let committed = 1_000_000 / 8 * 100;
            assert!((committed..=committed + 15_000 + extended).contains(&bytes), "{extended}: {bytes}");
        }
    }

    #[test]
    fn times_that_go_back_or_far_and_huge_rates_do_no_harm() {
        let mut limit = RateLimit::new(u64::MAX, u64::MAX, u64::MAX, at(50));
        assert!(limit.passes(1500, at(10)));
        assert!(limit.passes(usize::MAX, Duration::MAX));
        let mut limit = RateLimit::new(8000, 1000, 0, at(50));
        assert!(limit.passes(1000, at(0)));
        assert!(!limit.passes(1, at(40)));
        assert!(limit.passes(1, at(51)));
        let mut limit = RateLimit::new(0, 0, 0, at(0));
        assert!(!limit.passes(1, Duration::MAX));
    }

    fn parts(workers: usize, bitrate: u64, normal: u64, extended: u64) -> Vec<RateLimit> {
        let meter = Arc::new(Meter::new(bitrate, normal));
        (0..workers).map(|_| RateLimit::part_of(&meter, workers, extended)).collect()
    }

    #[test]
    fn several_workers_together_pass_the_burst_and_then_the_rate() {
        for workers in [1, 2, 5] {
            let mut parts = parts(workers, 1_000_000, 30_000, 0);
            let mut random = crate::testing::random(3);
            let mut passed = 0;
            for ms in 0..20_000 {
                for _ in 0..3 {
                    let bytes = 64 + (random() % 1400) as usize;
                    passed += if parts[random() as usize % workers].passes(bytes, at(ms)) { bytes } else { 0 };
                }
            }
            let most = 1_000_000 / 8 * 20 + 30_000;
            assert!((most - 10_000..=most).contains(&passed), "{workers}: {passed} of {most}");
        }
    }

    #[test]
    fn pieces_that_were_not_used_do_not_make_a_later_burst_larger() {
        let mut parts = parts(2, 8000, 1000, 0);
        assert!(parts[0].passes(10, at(0)), "and takes more than 10");
        // A second later the bucket would be full, with what the first has left.
        let all = |part: &mut RateLimit| (0..2000).filter(|_| part.passes(1, at(5000))).count();
        assert_eq!(all(&mut parts[1]) + all(&mut parts[0]), 1000);
    }

    #[test]
    fn borrowing_of_several_workers_is_within_the_extended_burst() {
        let mut parts = parts(4, 8000, 1000, 8000);
        let passed =
            parts.iter_mut().map(|p| (0..50).take_while(|_| p.passes(100, at(0))).count()).sum::<usize>() * 100;
        assert!((1000..=9000).contains(&passed), "{passed}");
        let later = parts.iter_mut().map(|p| (0..9000).filter(|_| p.passes(1, at(9000))).count()).sum::<usize>();
        assert!(passed + later <= 1000 + 9000 + 8000, "{passed} and {later}");
    }

    #[test]
    fn threads_that_take_from_one_meter_get_the_rate_and_no_more() {
        let (bitrate, normal) = (80_000_000, 100_000);
        let threads: Vec<_> = parts(4, bitrate, normal, 0)
            .into_iter()
            .map(|mut part| {
                std::thread::spawn(move || {
                    (0..200_000u64).filter(|n| part.passes(100, Duration::from_nanos(n * 5_000))).count() as u64 * 100
                })
            })
            .collect();
        let passed: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
        let most = bitrate / 8 + normal;
        // Threads whose time is behind find that it has been given out; none is given out twice.
        assert!((most / 2..=most).contains(&passed), "{passed} of {most}");
    }

    #[test]
    fn impossible_meters_do_no_harm() {
        for (bitrate, normal) in [(0, 0), (0, u64::MAX), (u64::MAX, u64::MAX), (1, u64::MAX)] {
            let mut part = parts(2, bitrate, normal, 0).remove(0);
            for now in [Duration::ZERO, Duration::MAX, at(1)] {
                part.passes(1500, now);
                part.passes(usize::MAX, now);
            }
        }
    }
}
