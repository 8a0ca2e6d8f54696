//! Rotary position embedding on the CPU, in place.

use rayon::prelude::*;

use super::memory::Memory;
use super::simd::{Simd, vectorised};
use crate::backend::{Rope, Rotation};

vectorised! {
    /// All heads of a row.
    fn rotate(row: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        for head in row.chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            for ((low, high), (&cos, &sin)) in low.iter_mut().zip(high).zip(cos.iter().zip(sin)) {
                let (x, y, sine) = (*low, *high, sign * sin);
                *low = x * cos - y * sine;
                *high = y * cos + x * sine;
            }
        }
    }
}

/// The operation [`Rope`].
pub fn rope(simd: Simd, memory: &mut Memory, arguments: Rope) {
    let Rope { stride, heads, head_dim, rotation, .. } = arguments;
    let half = head_dim / 2;
    let mut access = memory.access();
    let positions = access.read::<u32>(arguments.positions);
    let (cos, sin) = (access.read::<f32>(arguments.cos), access.read::<f32>(arguments.sin));
    let x = access.write::<f32>(arguments.x);
    let sign = if rotation == Rotation::Forward { 1.0 } else { -1.0 };
    x.par_chunks_exact_mut(stride).zip(positions).for_each(|(row, &position)| {
        let (cos, sin) = (&cos[position as usize * half..][..half], &sin[position as usize * half..][..half]);
        rotate(simd, &mut row[..heads * head_dim], cos, sin, sign);
    });
}
