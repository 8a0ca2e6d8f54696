//! Percentile bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3): how far a statistic of
//! these rows would have come out differently with other rows of the same kind.

use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

/// Resamples of the rows.
pub const RESAMPLES: usize = 1000;
/// Share of the resamples that an interval holds.
const COVERAGE: f64 = 0.95;

/// A statistic and the range that holds 95% of its resamples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Of the rows as they are.
    pub value: f64,
    /// The lower bound.
    pub low: f64,
    /// The upper bound.
    pub high: f64,
}

/// A statistic of `rows` rows, given by their indices, each as often as it was drawn. Resamples depend on the seed and
/// their number alone: two statistics of one data set see the same ones.
pub fn estimate(rows: usize, seed: u64, statistic: impl Fn(&[usize]) -> f64 + Sync) -> Estimate {
    let all: Vec<usize> = (0..rows).collect();
    let value = statistic(&all);
    let mut resampled: Vec<f64> =
        (0..RESAMPLES).into_par_iter().map(|index| statistic(&resample(rows, seed, index as u64))).collect();
    resampled.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - COVERAGE) / 2.0;
    Estimate { value, low: quantile(&resampled, tail), high: quantile(&resampled, 1.0 - tail) }
}

/// `rows` indices drawn with replacement.
fn resample(rows: usize, seed: u64, index: u64) -> Vec<usize> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(index);
    // The high word of a 64-bit product is uniform up to a bias of rows / 2^64.
    let draw = |_| ((u128::from(generator.next_u64()) * rows as u128) >> 64) as usize;
    Range { start: 0, end: rows }.map(draw).collect()
}

/// Linear interpolation between the two nearest of sorted values, numpy's default.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_interpolated() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 1.0), 4.0);
        assert_eq!(quantile(&[7.0], 0.3), 7.0);
    }

    #[test]
    fn the_interval_of_a_mean_is_that_of_the_normal_distribution() {
        let rows = 2000;
        let values: Vec<f64> = (0..rows).map(|i| f64::from(i % 100)).collect();
        let mean = |rows: &[usize]| rows.iter().map(|&row| values[row]).sum::<f64>() / rows.len() as f64;
        let estimate = estimate(rows as usize, 3, mean);
        // The standard error of the mean of 0..100 over 2,000 rows.
        let error = (9999.0f64 / 12.0).sqrt() / (f64::from(rows)).sqrt();
        assert_eq!(estimate.value, 49.5);
        for (bound, expected) in [(estimate.low, 49.5 - 1.96 * error), (estimate.high, 49.5 + 1.96 * error)] {
            assert!((bound - expected).abs() < 0.2 * error, "{estimate:?}, standard error {error}");
        }
        assert_eq!(estimate, super::estimate(rows as usize, 3, mean));
        assert_ne!(estimate, super::estimate(rows as usize, 4, mean));
    }
}
