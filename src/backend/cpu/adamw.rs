//! AdamW on the CPU: element-wise, f32, with the bias corrections in f64 as PyTorch computes them.

use rayon::prelude::*;

use super::memory::Memory;
use super::simd::{Simd, vectorised};
use crate::backend::{Adamw, AdamwFactors, BAD, CLIP_FACTOR};

/// Elements per task.
const BLOCK: usize = 1 << 14;

vectorised! {
    fn update(factors: AdamwFactors, clip: f32, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        let AdamwFactors { beta1, rest1, beta2, rest2, step_size, correction, keep, epsilon } = factors;
        for ((p, &g), (m, v)) in p.iter_mut().zip(g).zip(m.iter_mut().zip(v)) {
            let gradient = g * clip;
            *m = beta1 * *m + rest1 * gradient;
            *v = beta2 * *v + rest2 * gradient * gradient;
            *p = *p * keep - step_size * (*m / (v.sqrt() / correction + epsilon));
        }
    }
}

/// The operation [`Adamw`].
pub fn adamw(simd: Simd, memory: &mut Memory, arguments: Adamw) {
    assert!(
        arguments.remainder.is_none() && arguments.scales.is_none(),
        "the CPU keeps f32 weights and moments"
    );
    let mut access = memory.access();
    let state = access.read::<f64>(arguments.state);
    if state[BAD] != 0.0 {
        return;
    }
    let clip = state[CLIP_FACTOR] as f32;
    let parameters = access.write::<f32>(arguments.parameters);
    let gradients = access.read::<f32>(arguments.gradients);
    let first = access.write::<f32>(arguments.first_moment);
    let second = access.write::<f32>(arguments.second_moment);
    let factors = arguments.factors();
    let blocks = parameters
        .par_chunks_mut(BLOCK)
        .zip(gradients.par_chunks(BLOCK))
        .zip(first.par_chunks_mut(BLOCK))
        .zip(second.par_chunks_mut(BLOCK));
    blocks.for_each(|(((p, g), m), v)| update(simd, factors, clip, p, g, m, v));
}
