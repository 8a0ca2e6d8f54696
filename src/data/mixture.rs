//! Mixtures: an answer that models were sure of with one that they were not, for objectives that mix the final hidden
//! states of two rows, position by position.
//!
//! The data set is split at its median confidence: of N groups the floor(N/2) least sure are *unconfident*, the others
//! *confident*, ties by their order in the data. In every epoch each half is put into an order of its own, and the i-th of one
//! is mixed with the i-th of the other: both stand side by side in the order of the epoch, the confident one first. Of
//! an odd number of groups one is left over at the end of the epoch, another each time, and is not mixed. How much of the
//! confident one a mixture holds is drawn from Beta(alpha, alpha), for each mixture of a step anew.
//!
//! Orders are a pure function of (seed, epoch), weights one of (seed, step, place in the step); nothing depends on how a step is
//! cut into micro-batches. Boundary: which groups and how much of each; where the rows lie is [`super::batch`]'s.

use std::f64::consts::TAU;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use super::batch::Spans;
use super::group::{Answer, Group};
use super::order::{PARTNER_STREAMS, WEIGHT_STREAMS, permutation, stream};
use super::role::Role;

/// How groups are mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixing {
    /// Of Beta(alpha, alpha), above 0.
    pub alpha: f64,
    /// The answers that are mixed.
    pub of: Role,
}

/// Two groups of a step (by their places in it) and what their mixture holds of the first; the rest is the second's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixture {
    /// The confident group.
    pub first: usize,
    /// The unconfident one.
    pub second: usize,
    /// k, a multiple of 2^-24: k and 1 - k are both exact in f32, and add up to 1.
    pub weight: f32,
    /// The answers that are mixed.
    pub of: Role,
}

impl Mixture {
    /// Mixed rows: the scored tokens of the shorter answer.
    pub fn rows(&self, groups: &[&Group]) -> usize {
        rows(groups[self.first], groups[self.second], self.of)
    }
}

/// The halves of a data set, by index, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halves {
    /// Those at or above the median.
    pub confident: Vec<usize>,
    /// The others.
    pub unconfident: Vec<usize>,
}

impl Halves {
    /// Splits at the median confidence; `None` where a group has none.
    pub fn of(groups: &[Group]) -> Option<Self> {
        let confidence: Option<Vec<f64>> =
            groups.iter().map(|group| group.annotations().confidence).collect();
        let confidence = confidence?;
        let mut order: Vec<usize> = (0..groups.len()).collect();
        // A stable sort: equal ones stay in the order of the data.
        order.sort_by(|&a, &b| confidence[a].total_cmp(&confidence[b]));
        let mut confident = order.split_off(groups.len() / 2);
        confident.sort_unstable();
        order.sort_unstable();
        Some(Self { confident, unconfident: order })
    }

    /// The order of an epoch: a confident group and its partner, and so on; the one left over last. Without `shuffled` both
    /// halves stay in the order of the data.
    pub fn order(&self, seed: u64, epoch: usize, shuffled: bool) -> Vec<usize> {
        let arranged = |half: &[usize], stream: u64| -> Vec<usize> {
            match shuffled {
                true => permutation(half.len(), seed, stream).into_iter().map(|place| half[place]).collect(),
                false => half.to_vec(),
            }
        };
        let confident = arranged(&self.confident, epoch as u64);
        let mut partners = arranged(&self.unconfident, PARTNER_STREAMS + epoch as u64).into_iter();
        confident.into_iter().flat_map(|group| [Some(group), partners.next()]).flatten().collect()
    }

    /// Tokens and response rows of the largest two groups that could be mixed, the mixed rows included.
    pub fn largest(&self, groups: &[Group], spans: Spans, of: Role) -> (usize, usize) {
        let most = |half: &[usize], size: &dyn Fn(&Group) -> usize| {
            half.iter().map(|&index| size(&groups[index])).max().unwrap_or(0)
        };
        let both = |size: &dyn Fn(&Group) -> usize| {
            [&self.confident, &self.unconfident].map(|half| most(half, size))
        };
        let tokens: usize = both(&|group| spans.tokens(group)).iter().sum();
        let rows: usize = both(&|group| spans.rows(group)).iter().sum();
        let [a, b] = both(&|group| group.answer(of).map_or(0, Answer::scored_tokens));
        (tokens, rows + a.min(b))
    }
}

impl Mixing {
    /// The mixtures of a step of so many groups that stand in the order of [`Halves::order`]: each at an even place with the one
    /// behind it.
    pub fn of_step(&self, groups: usize, seed: u64, step: usize) -> Vec<Mixture> {
        let mut rng = stream(seed, WEIGHT_STREAMS + step as u64);
        let pairs = (0..groups / 2).map(|pair| 2 * pair);
        let mixture =
            |first| Mixture { first, second: first + 1, weight: beta(&mut rng, self.alpha), of: self.of };
        pairs.map(mixture).collect()
    }
}

fn rows(first: &Group, second: &Group, of: Role) -> usize {
    let tokens = |group: &Group| group.answer(of).map_or(0, Answer::scored_tokens);
    tokens(first).min(tokens(second))
}

/// A draw from Beta(alpha, alpha), rounded to a multiple of 2^-24: `G / (G + G')` of two gamma variates. Written out, as
/// [`super::order`] is, so that a resumed run finds the weights it left.
fn beta(rng: &mut ChaCha8Rng, alpha: f64) -> f32 {
    const STEPS: f64 = (1u32 << 24) as f64;
    let (ours, theirs) = (log_gamma_variate(rng, alpha), log_gamma_variate(rng, alpha));
    // Through the logarithms: for a small alpha both variates may be too small for f64.
    let share = 1.0 / (1.0 + (theirs - ours).exp());
    ((share * STEPS).round() / STEPS) as f32
}

/// The logarithm of a draw from Gamma(alpha): Marsaglia and Tsang (2000) at alpha + 1, where nearly every proposal is
/// accepted, and `G(alpha) = G(alpha + 1) U^(1/alpha)`.
fn log_gamma_variate(rng: &mut ChaCha8Rng, alpha: f64) -> f64 {
    let d = alpha + 1.0 - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    let accepted = loop {
        let normal = (-2.0 * uniform(rng).ln()).sqrt() * (TAU * uniform(rng)).cos();
        let v = (1.0 + c * normal).powi(3);
        if v > 0.0 && uniform(rng).ln() < 0.5 * normal * normal + d * (1.0 - v + v.ln()) {
            break d * v;
        }
    };
    accepted.ln() + uniform(rng).ln() / alpha
}

/// Uniform in (0, 1].
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    ((rng.next_u64() >> 11) + 1) as f64 * (-53f64).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean 1/2 and variance 1/(4(2 alpha + 1)) of Beta(alpha, alpha), and the share below 0.1 by its distribution
    /// function (SciPy 1.16, `scipy.stats.beta(a, a).cdf(0.1)`).
    #[test]
    fn weights_are_distributed_as_beta() {
        let draws = 20_000;
        for (alpha, below) in [(0.5, 0.204_832_764_699), (1.0, 0.1), (3.0, 0.008_56)] {
            let mut rng = stream(7, 1);
            let weights: Vec<f64> = (0..draws).map(|_| f64::from(beta(&mut rng, alpha))).collect();
            let mean = weights.iter().sum::<f64>() / f64::from(draws);
            let variance = weights.iter().map(|k| (k - mean).powi(2)).sum::<f64>() / f64::from(draws);
            let share = weights.iter().filter(|&&k| k < 0.1).count() as f64 / f64::from(draws);
            let expected = 0.25 / (2.0 * alpha + 1.0);
            assert!((mean - 0.5).abs() < 0.01, "{alpha}: mean {mean}");
            assert!((variance / expected - 1.0).abs() < 0.04, "{alpha}: variance {variance}, not {expected}");
            assert!((share - below).abs() < 0.01, "{alpha}: {share} below 0.1, not {below}");
        }
    }

    #[test]
    fn a_weight_and_its_rest_are_exact_whatever_alpha() {
        let mut rng = stream(3, 2);
        for alpha in [1e-3, 0.5, 1.0, 1e3] {
            for _ in 0..500 {
                let weight = beta(&mut rng, alpha);
                assert!((0.0..=1.0).contains(&weight), "{alpha}: {weight}");
                assert_eq!(f64::from(weight) + f64::from(1.0 - weight), 1.0);
                assert_eq!(f64::from(1.0 - weight), 1.0 - f64::from(weight));
            }
        }
    }
}
