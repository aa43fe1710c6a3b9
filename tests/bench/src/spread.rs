//! How some measurements are spread.

use serde::Serialize;

/// Median, tail and worst of some values.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Spread {
    /// Half of them are not larger.
    pub p50: f64,
    /// 99 of 100 are not larger.
    pub p99: f64,
    /// 999 of 1,000 are not larger.
    pub p999: f64,
    /// The largest.
    pub worst: f64,
}

impl Spread {
    /// Of these; they are put in order.
    pub fn of(values: &mut [f64]) -> Spread {
        values.sort_by(f64::total_cmp);
        let at = |p| percentile(values, p);
        Spread { p50: at(0.5), p99: at(0.99), p999: at(0.999), worst: at(1.0) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1}, {:.1}, {:.1}, {:.1}", self.p50, self.p99, self.p999, self.worst)
    }
}

/// Very many values, each kept within a thirty-second of itself, and the largest exactly.
#[derive(Clone)]
pub struct Histogram {
    counts: Box<[u64]>,
    largest: u64,
}

/// Values that share their six highest bits are one place.
const PLACE_BITS: u32 = 6;

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; (64 - PLACE_BITS as usize + 1) << PLACE_BITS].into(), largest: 0 }
    }
}

impl Histogram {
    /// Adds a value.
    #[inline]
    pub fn add(&mut self, value: u64) {
        self.counts[place(value)] += 1;
        self.largest = self.largest.max(value);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds all values of another one.
    pub fn merge(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, n)| *own += n);
        self.largest = self.largest.max(other.largest);
    }

    /// How they are spread, each times `unit`.
    pub fn spread(&self, unit: f64) -> Spread {
        let at = |share| self.percentile(share) as f64 * unit;
        Spread { p50: at(0.5), p99: at(0.99), p999: at(0.999), worst: self.largest as f64 * unit }
    }

    fn percentile(&self, share: f64) -> u64 {
        let wanted = ((self.count() as f64) * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (i, n) in self.counts.iter().enumerate() {
            seen += n;
            if seen >= wanted {
                return least(i).min(self.largest);
            }
        }
        0
    }
}

/// Where a value is counted.
fn place(value: u64) -> usize {
    let shift = (64 - PLACE_BITS).saturating_sub((value | 1).leading_zeros() + 1);
    ((shift as usize) << PLACE_BITS) + (value >> shift) as usize
}

/// The least value that is counted at a place.
fn least(place: usize) -> u64 {
    // The place of a value is the sum of its shift, times the places of a shift, and of what is left of it, which has its highest
    // bit set unless nothing was shifted.
    let places = 1 << PLACE_BITS;
    if place < 2 * places {
        return place as u64;
    }
    let shift = place / places - 1;
    ((place - shift * places) as u64) << shift
}

/// The value that a share of the values, which are in order, does not exceed.
fn percentile(values: &[f64], share: f64) -> f64 {
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::{Histogram, least, percentile, place};

    #[test]
    fn a_histogram_keeps_values_within_a_thirty_second() {
        for value in (0..2000).chain([1 << 20, (1 << 40) + 12345, u64::MAX]) {
            let kept = least(place(value));
            assert!(kept <= value && value - kept <= value / 32, "{value}: {kept}");
        }
        let mut h = Histogram::default();
        (1..=1000).for_each(|v| h.add(v));
        h.add(1_000_000);
        let s = h.spread(0.5);
        assert!((240.0..=250.0).contains(&s.p50) && s.worst == 500_000.0, "{s:?}");
        assert_eq!(h.count(), 1001);
    }

    #[test]
    fn percentiles_reach_from_the_least_to_the_worst() {
        let v: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|p| percentile(&v, p)), [0.0, 50.0, 99.0, 100.0]);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
