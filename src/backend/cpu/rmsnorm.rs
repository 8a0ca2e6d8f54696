//! RMSNorm on the CPU: rows are tasks. In the backward pass some rows are one, whose share of the weight's gradient is summed while
//! they are in the caches; the shares are added in order.

use rayon::prelude::*;

use super::memory::Memory;
use super::simd::{self, Simd, vectorised};
use crate::backend::{RMSNORM_PARTS, RmsnormBackward, RmsnormForward};

/// Rows of a part of the weight's gradient.
const PART_ROWS: usize = 16;

vectorised! {
    /// One row: gives its rstd.
    fn normalise(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) -> f32 {
        let square = simd::dot(x, x);
        let rstd = (1.0 / (square / x.len() as f64 + f64::from(epsilon)).sqrt()) as f32;
        for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * rstd * weight;
        }
        rstd
    }

    fn add(x: &[f32], residual: &[f32], sum: &mut [f32]) {
        for ((sum, &x), &residual) in sum.iter_mut().zip(x).zip(residual) {
            *sum = x + residual;
        }
    }

    fn row_gradient(
        dout: &[f32],
        x: &[f32],
        weight: &[f32],
        rstd: f32,
        dresidual: Option<&[f32]>,
        dx: &mut [f32],
    ) {
        let h = dx.len();
        let (dout, x, weight) = (&dout[..h], &x[..h], &weight[..h]);
        let mean = (simd::sum(h, |i| dout[i] * weight[i] * x[i]) / h as f64) as f32 * rstd;
        for i in 0..h {
            dx[i] = rstd * (dout[i] * weight[i] - x[i] * rstd * mean);
        }
        if let Some(dresidual) = dresidual {
            for (dx, &direct) in dx.iter_mut().zip(dresidual) {
                *dx += direct;
            }
        }
    }

    /// Adds a row's share of the weight's gradient.
    fn add_weight_gradient(dout: &[f32], x: &[f32], rstd: f32, total: &mut [f32]) {
        for ((total, &dout), &x) in total.iter_mut().zip(dout).zip(x) {
            *total += dout * x * rstd;
        }
    }

    fn add_to(total: &mut [f32], part: &[f32]) {
        for (total, &part) in total.iter_mut().zip(part) {
            *total += part;
        }
    }
}

/// The operation [`RmsnormForward`].
pub fn forward(simd: Simd, memory: &mut Memory, arguments: RmsnormForward) {
    let (h, epsilon) = (arguments.hidden, arguments.epsilon);
    let mut access = memory.access();
    let x = access.read::<f32>(arguments.x);
    let weight = access.read::<f32>(arguments.weight);
    let out = access.write::<f32>(arguments.out);
    let rstd = access.write::<f32>(arguments.rstd);
    let rows = out.par_chunks_exact_mut(h).zip(rstd.par_iter_mut()).zip(x.par_chunks_exact(h));
    match (arguments.residual, arguments.sum) {
        (Some(residual), Some(sum)) => {
            let (residual, sum) = (access.read::<f32>(residual), access.write::<f32>(sum));
            rows.zip(residual.par_chunks_exact(h)).zip(sum.par_chunks_exact_mut(h)).for_each(
                |((((out, rstd), x), residual), sum)| {
                    add(simd, x, residual, sum);
                    *rstd = normalise(simd, sum, weight, epsilon, out);
                },
            );
        }
        (None, None) => {
            rows.for_each(|((out, rstd), x)| *rstd = normalise(simd, x, weight, epsilon, out));
        }
        _ => panic!("rmsnorm needs a residual and a sum, or neither"),
    }
}

/// The operation [`RmsnormBackward`].
pub fn backward(simd: Simd, memory: &mut Memory, arguments: RmsnormBackward) {
    let h = arguments.hidden;
    let mut access = memory.access();
    let dout = access.read::<f32>(arguments.dout);
    let x = access.read::<f32>(arguments.x);
    let weight = access.read::<f32>(arguments.weight);
    let rstd = access.read::<f32>(arguments.rstd);
    let dx = access.write::<f32>(arguments.dx);
    let dresidual = arguments.dresidual.map(|view| access.read::<f32>(view));
    let partial = access.write::<f32>(arguments.partial.first(RMSNORM_PARTS * h));
    let mut dweight = arguments.dweight.map(|view| access.write::<f32>(view));
    if let Some(dweight) = dweight.as_deref_mut().filter(|_| !arguments.accumulate) {
        dweight.fill(0.0);
    }
    // In rounds of as many parts as there is room for: what a part is must not depend on how many rows follow.
    for (round, dx) in dx.chunks_mut(RMSNORM_PARTS * PART_ROWS * h).enumerate() {
        let first = round * RMSNORM_PARTS * PART_ROWS;
        let parts = dx.len().div_ceil(PART_ROWS * h);
        let tasks = dx.par_chunks_mut(PART_ROWS * h).zip(partial.par_chunks_exact_mut(h));
        tasks.enumerate().for_each(|(part, (dx, partial))| {
            partial.fill(0.0);
            for (t, dx) in (first + part * PART_ROWS..).zip(dx.chunks_exact_mut(h)) {
                let (dout, x, rstd) = (&dout[t * h..][..h], &x[t * h..][..h], rstd[t]);
                let dresidual = dresidual.map(|dresidual| &dresidual[t * h..][..h]);
                row_gradient(simd, dout, x, weight, rstd, dresidual, dx);
                if arguments.dweight.is_some() {
                    add_weight_gradient(simd, dout, x, rstd, partial);
                }
            }
        });
        if let Some(dweight) = dweight.as_deref_mut() {
            for partial in partial.chunks_exact(h).take(parts) {
                add_to(simd, dweight, partial);
            }
        }
    }
}
