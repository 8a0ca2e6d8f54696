//! Rotary position embedding on the CPU, in place.

use rayon::prelude::*;

use super::memory::Memory;
use super::simd::Simd;
use crate::backend::{Rope, Rotation};

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
        simd.run(|| {
            for head in row[..heads * head_dim].chunks_exact_mut(head_dim) {
                let (low, high) = head.split_at_mut(half);
                for i in 0..half {
                    let (x, y, sine) = (low[i], high[i], sign * sin[i]);
                    low[i] = x * cos[i] - y * sine;
                    high[i] = y * cos[i] + x * sine;
                }
            }
        });
    });
}
