//! Sets of numbers as ranges.

/// Ranges with both ends included. [`merged`] makes them sorted, apart from each other and not touching.
pub(super) type Ranges = Vec<(u128, u128)>;

/// The same numbers in as few ranges as possible, sorted.
pub(super) fn merged(mut ranges: Ranges) -> Ranges {
    ranges.retain(|(first, last)| first <= last);
    ranges.sort_unstable();
    let mut out: Ranges = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match out.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

/// The numbers up to `top` that are not in merged ranges.
pub(super) fn complement(ranges: &Ranges, top: u128) -> Ranges {
    let mut out = Vec::with_capacity(ranges.len() + 1);
    let mut next = Some(0);
    for &(first, last) in ranges {
        if let Some(from) = next.filter(|&from| from < first) {
            out.push((from, first - 1));
        }
        next = last.checked_add(1);
    }
    out.extend(next.filter(|&from| from <= top).map(|from| (from, top)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_overlap_or_touch_become_one_and_the_rest_is_between_them() {
        let all = merged(vec![(7, 9), (1, 2), (3, 3), (8, 12), (20, 19)]);
        assert_eq!(all, [(1, 3), (7, 12)]);
        assert_eq!(complement(&all, 12), [(0, 0), (4, 6)]);
        assert_eq!(complement(&all, 20), [(0, 0), (4, 6), (13, 20)]);
        assert_eq!(complement(&vec![(0, u128::MAX)], u128::MAX), []);
        assert_eq!(complement(&vec![], 3), [(0, 3)]);
        assert_eq!(merged(vec![(5, u128::MAX), (0, 4)]), [(0, u128::MAX)]);
    }
}
