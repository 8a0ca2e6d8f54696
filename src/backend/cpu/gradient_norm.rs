//! The global gradient norm and clip factor on the CPU.

use rayon::prelude::*;

use super::memory::Memory;
use super::simd::{self, Simd, vectorised};
use crate::backend::{BAD, CLIP_FACTOR, GRADIENT_NORM, GradientNorm, NORM_BLOCK};

vectorised! {
    fn square(block: &[f32]) -> f64 {
        simd::dot(block, block)
    }
}

/// The operation [`GradientNorm`].
pub fn gradient_norm(simd: Simd, memory: &mut Memory, arguments: GradientNorm) {
    let mut access = memory.access();
    let gradients = access.read::<f32>(arguments.gradients);
    let state = access.write::<f64>(arguments.state);
    let partial = access.write::<f64>(arguments.partial);
    let blocks = partial.par_iter_mut().zip_eq(gradients.par_chunks(NORM_BLOCK));
    blocks.for_each(|(sum, block)| *sum = square(simd, block));
    let norm = partial.iter().sum::<f64>().sqrt();
    state[GRADIENT_NORM] = norm;
    state[CLIP_FACTOR] = arguments.max_norm.map_or(1.0, |max_norm| (max_norm / (norm + 1e-6)).min(1.0));
    if !norm.is_finite() {
        state[BAD] = 1.0;
    }
}
