//! `ratelimit`: committed access rate.
//!
//! A bucket holds credit of up to the normal burst, and is filled at the bit rate. A packet takes its length out of it.
//! When the bucket holds too little, the packet may borrow, up to the extended burst: the bucket goes below nothing, and
//! credit that comes pays the debt first. So that borrowing ends before the limit with ever more packets rather than with
//! all at once, each packet that borrows adds the whole debt of its time to a second sum; a packet that would bring this
//! beyond the extended burst is dropped, and the sum begins anew. It also does when a packet needs not borrow. Long-lived
//! TCP connections see single losses in time and slow down, where a plain bucket would drop a whole window.

use std::time::Duration;

/// The state of one `ratelimit`. It belongs to one thread; where several see the packets, each gets a share of rate and bursts.
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
        RateLimit { bitrate, normal, extended, credit: normal, compound: 0, at: now }
    }

    /// Whether a packet of so many bytes passes at that time. A time before that of an earlier packet is as that.
    pub fn passes(&mut self, bytes: usize, now: Duration) -> bool {
        self.fill(now);
        let left = self.credit - bytes as i128 * BYTE;
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
}
