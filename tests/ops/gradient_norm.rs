//! The global gradient norm, the clip factor, and the flag for what is not finite.

use asft::backend::{BAD, Backend, CLIP_FACTOR, GRADIENT_NORM, GradientNorm, NORM_BLOCK};

use crate::device::{Device, Levels, normal, on_every_cpu, wide};
use crate::naive;
use crate::reference::clip;
use crate::tolerance::{Comparison, GRADIENT_NORM as RULE};

/// Lengths around the blocks that are summed on their own.
const LENGTHS: [usize; 7] = [1, 5, 1023, 1025, 65_536, 65_537, 200_003];

/// Norm, clip factor and flag of some gradients.
fn run<B: Backend>(
    backend: &mut B,
    gradients: &[f32],
    max_norm: Option<f64>,
    bad: bool,
) -> ([f64; 3], Vec<u32>) {
    let mut device = Device::new(backend);
    let state = device.state(f64::NAN, bad);
    let partial = device.put(&vec![f64::NAN; gradients.len().div_ceil(NORM_BLOCK)]);
    device.scratch(partial);
    let gradients = device.put(gradients);
    device.backend.gradient_norm(GradientNorm { gradients, max_norm, partial, state });
    let state: Vec<f64> = device.result(state);
    ([state[GRADIENT_NORM], state[CLIP_FACTOR], state[BAD]], device.finish())
}

/// Norms and factors against the twin.
pub fn check<B: Backend>(backend: &mut B) -> Vec<u32> {
    let mut all = Vec::new();
    for len in LENGTHS {
        for size in [1.0, 1e-9, 1e9] {
            let gradients: Vec<f32> = normal(len as u64, len).iter().map(|g| g * size).collect();
            let exact = clip::global_norm([wide(&gradients).as_slice()]);
            for max_norm in [None, Some(1.0), Some(exact), Some(1e12)] {
                let ([norm, factor, bad], bits) = run(backend, &gradients, max_norm, false);
                RULE.judge(Comparison {
                    case: format!("{len} elements of {size:e}"),
                    n: 1,
                    got: &[norm as f32],
                    exact: &[exact],
                    scale: &[exact],
                    naive: Some(&[naive::dot(&gradients, &gradients).sqrt()]),
                });
                let expected = max_norm.map_or(1.0, |max_norm| clip::factor(norm, max_norm));
                assert!((factor - expected).abs() <= 1e-15 * expected, "{factor} instead of {expected}");
                assert_eq!(bad, 0.0);
                all.extend(bits);
            }
        }
    }
    let ([norm, factor, bad], _) = run(backend, &[0.0; 70], Some(1.0), false);
    assert_eq!((norm, factor, bad), (0.0, 1.0, 0.0), "no gradient at all is not clipped");
    all
}

#[test]
fn equals_the_twin_with_the_same_bits_on_any_number_of_threads() {
    on_every_cpu(Levels::SameBits, check);
}

/// Anywhere among the gradients, with clipping or without; and it stays.
pub fn check_bad<B: Backend>(backend: &mut B) -> Vec<u32> {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for place in [0, 1000, 65_535, 65_536, 70_000] {
            for max_norm in [None, Some(1.0)] {
                let mut gradients = normal(1, 70_001);
                gradients[place] = value;
                let ([_, _, bad], _) = run(backend, &gradients, max_norm, false);
                assert!(bad != 0.0, "{value} at {place}");
            }
        }
    }
    let ([norm, _, bad], bits) = run(backend, &[3.0, 4.0], Some(1.0), true);
    assert_eq!(norm, 5.0);
    assert!(bad != 0.0, "good gradients do not clear the flag");
    bits
}

#[test]
fn what_is_not_finite_sets_the_flag_for_good() {
    on_every_cpu(Levels::SameBits, check_bad);
}
