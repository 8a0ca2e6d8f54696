//! A slow, plain twin in f64 of every operation of the model, and of the model itself.
//!
//! One file per operation, named as the operation is named everywhere else. Integration tests say `mod
//! reference;` and compare what they test with it. It is written to be checked by reading: loops over indices
//! that look like the formula, one thread, no reuse of buffers, no shared tricks with the code under test (it
//! depends on nothing in the `asft` library). `tests/reference_twin.rs` proves it against Hugging Face
//! transformers' numbers in `tests/golden` and against finite differences.
//!
//! Letters: T tokens (rows), R response rows, H hidden, N query heads, K key/value heads, D head size, F
//! feed-forward, V vocabulary. Matrices are row-major slices. Wrong shapes panic: this is test equipment.
#![allow(dead_code, reason = "each integration test is a crate of its own and uses some of the operations")]
#![allow(clippy::needless_range_loop, reason = "indices make the loops read as the formulas they come from")]

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

pub mod adamw;
pub mod attention;
pub mod clip;
pub mod embedding;
pub mod gather;
pub mod golden;
pub mod head;
pub mod llama;
pub mod matmul;
pub mod objective;
pub mod rmsnorm;
pub mod rope;
pub mod schedule;
pub mod swiglu;

/// `len` standard normal numbers, the same for the same seed on every machine.
pub fn normal(seed: u64, len: usize) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| StandardNormal.sample(&mut rng)).collect()
}

/// The gradient of `f` at `x` by central differences. For `f` and `x` of order one its error is about 1e-9.
pub fn finite_differences(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const H: f64 = 1e-5;
    let mut point = x.to_vec();
    (0..x.len())
        .map(|i| {
            point[i] = x[i] + H;
            let above = f(&point);
            point[i] = x[i] - H;
            let below = f(&point);
            point[i] = x[i];
            (above - below) / (2.0 * H)
        })
        .collect()
}

/// `|got - expected| / |expected|` in the Euclidean norm; the plain norm of `got` where `expected` is zero.
pub fn relative_l2(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(expected).map(|(g, e)| g - e));
    let scale = norm(&mut expected.iter().copied());
    if scale == 0.0 { difference } else { difference / scale }
}

/// The largest `|got - expected|`; NaN if any difference is NaN, so that no comparison with a bound holds.
pub fn max_abs_difference(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let differences = got.iter().zip(expected).map(|(g, e)| (g - e).abs());
    differences.fold(0.0, |worst, d| if d.is_nan() || d > worst { d } else { worst })
}

/// `sum over i of a_i b_i`.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
