//! SwiGLU on the CPU.

use rayon::prelude::*;

use super::memory::Memory;
use super::simd::{self, Simd};
use crate::backend::{SwigluBackward, SwigluForward};

/// The operation [`SwigluForward`].
pub fn forward(simd: Simd, memory: &mut Memory, arguments: SwigluForward) {
    let f = arguments.feed_forward;
    let mut access = memory.access();
    let gate_up = access.read::<f32>(arguments.gate_up);
    let out = access.write::<f32>(arguments.out);
    out.par_chunks_exact_mut(f).zip(gate_up.par_chunks_exact(2 * f)).for_each(|(out, gate_up)| {
        let (gate, up) = gate_up.split_at(f);
        simd.run(|| {
            for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                *out = gate / (1.0 + simd::exp(-gate)) * up;
            }
        });
    });
}

/// The operation [`SwigluBackward`].
pub fn backward(simd: Simd, memory: &mut Memory, arguments: SwigluBackward) {
    let f = arguments.feed_forward;
    let mut access = memory.access();
    let gate_up = access.read::<f32>(arguments.gate_up);
    let dout = access.read::<f32>(arguments.dout);
    let dgate_up = access.write::<f32>(arguments.dgate_up);
    let rows = dgate_up
        .par_chunks_exact_mut(2 * f)
        .zip(gate_up.par_chunks_exact(2 * f))
        .zip(dout.par_chunks_exact(f));
    rows.for_each(|((dgate_up, gate_up), dout)| {
        let (gate, up) = gate_up.split_at(f);
        let (dgate, dup) = dgate_up.split_at_mut(f);
        simd.run(|| {
            for i in 0..f {
                let sigmoid = 1.0 / (1.0 + simd::exp(-gate[i]));
                let silu = gate[i] * sigmoid;
                dup[i] = dout[i] * silu;
                dgate[i] = dout[i] * up[i] * (sigmoid + silu * (1.0 - sigmoid));
            }
        });
    });
}
