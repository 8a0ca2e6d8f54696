//! SwiGLU on the CPU.

use rayon::prelude::*;

use super::memory::Memory;
use super::simd::{self, Simd, vectorised};
use crate::backend::{SwigluBackward, SwigluForward};

vectorised! {
    fn gated(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate / (1.0 + simd::exp(-gate)) * up;
        }
    }

    fn gradients(gate: &[f32], up: &[f32], dout: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        let inputs = gate.iter().zip(up).zip(dout);
        for ((dgate, dup), ((&gate, &up), &dout)) in dgate.iter_mut().zip(dup).zip(inputs) {
            let sigmoid = 1.0 / (1.0 + simd::exp(-gate));
            let silu = gate * sigmoid;
            *dup = dout * silu;
            *dgate = dout * up * (sigmoid + silu * (1.0 - sigmoid));
        }
    }
}

/// The operation [`SwigluForward`].
pub fn forward(simd: Simd, memory: &mut Memory, arguments: SwigluForward) {
    let f = arguments.feed_forward;
    let mut access = memory.access();
    let gate_up = access.read::<f32>(arguments.gate_up);
    let out = access.write::<f32>(arguments.out);
    out.par_chunks_exact_mut(f).zip(gate_up.par_chunks_exact(2 * f)).for_each(|(out, gate_up)| {
        let (gate, up) = gate_up.split_at(f);
        gated(simd, gate, up, out);
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
        gradients(simd, gate, up, dout, dgate, dup);
    });
}
