//! `rndblock`: some packets are dropped.

use crate::config::RndBlock;

/// Whether a packet is dropped. `random` are 64 random bits. `number` counts the packets that this procedure saw, this one
/// too, so that `mod` 3 drops the third, the sixth and so on.
pub fn blocks(which: RndBlock, random: u64, number: u64) -> bool {
    match which {
        // 2^53 steps are what a float tells apart; all ones never reach 100, so that 100 drops each.
        RndBlock::Percentage(percentage) => {
            let drawn = (random >> 11) as f64 / (1u64 << 53) as f64;
            drawn * 100.0 < percentage
        }
        RndBlock::Mod(n) => number.is_multiple_of(u64::from(n.max(1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    #[test]
    fn a_percentage_drops_that_share() {
        for percentage in [0.0, 0.1, 12.5, 50.0, 99.9, 100.0] {
            let mut random = random(3);
            let count = (0..100_000).filter(|_| blocks(RndBlock::Percentage(percentage), random(), 1)).count() as f64;
            let expected = percentage * 1000.0;
            let deviation = (expected * (1.0 - percentage / 100.0)).sqrt();
            assert!((count - expected).abs() <= 4.0 * deviation, "{percentage}: {count}");
        }
        assert!(blocks(RndBlock::Percentage(100.0), u64::MAX, 1));
        assert!(!blocks(RndBlock::Percentage(0.0), 0, 1));
    }

    #[test]
    fn a_modulus_drops_every_so_many() {
        let dropped: Vec<u64> = (1..=10).filter(|&n| blocks(RndBlock::Mod(3), 0, n)).collect();
        assert_eq!(dropped, [3, 6, 9]);
        assert!((1..=10).all(|n| blocks(RndBlock::Mod(1), 0, n)));
        assert!(blocks(RndBlock::Mod(0), 0, 7));
    }
}
