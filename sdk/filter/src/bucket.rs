//! A token bucket.

/// Lets `rate` tokens a second through on the average, and `burst` at once. The rates are not kept in it, so that a new
/// configuration needs no new buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    /// Tokens, in billionths.
    level: u64,
    /// When that was so, in nanoseconds.
    at: u64,
}

/// Parts of a token. Of these a nanosecond brings as many as the rate, so nothing is lost however often it is asked.
const PARTS: u64 = 1_000_000_000;

impl TokenBucket {
    /// A full bucket.
    pub fn full(burst: u32, now_ns: u64) -> TokenBucket {
        TokenBucket { level: u64::from(burst) * PARTS, at: now_ns }
    }

    /// A bucket as [`TokenBucket::parts`] gave it.
    pub fn from_parts(level: u64, at: u64) -> TokenBucket {
        TokenBucket { level, at }
    }

    /// Billionths of tokens that it had when it was last asked, and when that was: what makes it anew elsewhere.
    pub fn parts(&self) -> (u64, u64) {
        (self.level, self.at)
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, rate: u32, burst: u32, now_ns: u64) -> bool {
        self.level = self.level(rate, burst, now_ns);
        self.at = self.at.max(now_ns);
        let there = self.level >= PARTS;
        if there {
            self.level -= PARTS;
        }
        there
    }

    /// Billionths of tokens that it has by now.
    pub fn level(&self, rate: u32, burst: u32, now_ns: u64) -> u64 {
        // A clock that went back brings nothing.
        let elapsed = now_ns.saturating_sub(self.at);
        let brought = u128::from(elapsed) * u128::from(rate);
        let full = u64::from(burst) * PARTS;
        u64::try_from(brought).map_or(full, |b| self.level.saturating_add(b)).min(full)
    }

    /// Whether it is as full as a new one.
    pub fn is_full(&self, rate: u32, burst: u32, now_ns: u64) -> bool {
        self.level(rate, burst, now_ns) >= u64::from(burst) * PARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_passes_at_once_and_then_the_rate() {
        let mut bucket = TokenBucket::full(3, 0);
        let passed = |bucket: &mut TokenBucket, now| (0..10).filter(|_| bucket.take(2, 3, now)).count();
        assert_eq!(passed(&mut bucket, 0), 3);
        assert_eq!(passed(&mut bucket, SECOND / 2), 1);
        assert_eq!(passed(&mut bucket, SECOND), 1);
        assert_eq!(passed(&mut bucket, 100 * SECOND), 3, "never more than a burst");
        assert!(!bucket.is_full(2, 3, 100 * SECOND) && bucket.is_full(2, 3, 102 * SECOND));
    }

    #[test]
    fn a_source_that_never_stops_gets_its_rate() {
        let (mut bucket, mut now, mut passed) = (TokenBucket::full(1, 0), 0, 0);
        while now < 10 * SECOND {
            passed += u32::from(bucket.take(3, 1, now));
            now += 777;
        }
        assert_eq!(passed, 30);
    }

    proptest! {
        #[test]
        fn no_more_pass_than_burst_and_rate_allow(
            rate in 0u32..2_000_000,
            burst in 0u32..1000,
            gaps in proptest::collection::vec(0u64..100_000_000, 0..200),
        ) {
            let (mut bucket, mut now, mut passed) = (TokenBucket::full(burst, 0), 0u64, 0u128);
            for gap in gaps {
                now += gap;
                passed += u128::from(bucket.take(rate, burst, now));
            }
            prop_assert!(passed <= u128::from(burst) + u128::from(rate) * u128::from(now) / u128::from(SECOND));
        }
    }
}
