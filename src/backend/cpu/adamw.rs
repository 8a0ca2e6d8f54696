//! AdamW on the CPU: element-wise, f32, with the bias corrections in f64 as PyTorch computes them.

use rayon::prelude::*;

use super::memory::Memory;
use super::simd::Simd;
use crate::backend::{Adamw, AdamwFactors, BAD, CLIP_FACTOR};

/// Elements per task.
const BLOCK: usize = 1 << 14;

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
    let AdamwFactors { beta1, rest1, beta2, rest2, step_size, correction, keep, epsilon } =
        arguments.factors();
    let blocks = parameters
        .par_chunks_mut(BLOCK)
        .zip(gradients.par_chunks(BLOCK))
        .zip(first.par_chunks_mut(BLOCK))
        .zip(second.par_chunks_mut(BLOCK));
    blocks.for_each(|(((p, g), m), v)| {
        simd.run(|| {
            let len = p.len();
            let (g, m, v) = (&g[..len], &mut m[..len], &mut v[..len]);
            for i in 0..len {
                let gradient = g[i] * clip;
                m[i] = beta1 * m[i] + rest1 * gradient;
                v[i] = beta2 * v[i] + rest2 * gradient * gradient;
                p[i] = p[i] * keep - step_size * (m[i] / (v[i].sqrt() / correction + epsilon));
            }
        });
    });
}
