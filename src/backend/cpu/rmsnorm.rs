//! RMSNorm on the CPU: rows are tasks; the weight's gradient is a second pass whose tasks own columns and add the rows
//! in order.

use rayon::prelude::*;

use super::memory::Memory;
use super::simd::{self, Simd, vectorised};
use crate::backend::{RmsnormBackward, RmsnormForward};

/// Columns of the weight gradient per task.
const COLUMNS: usize = 64;

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

    /// Some columns of the weight's gradient, from `first` on, which are added to `total` row by row.
    fn weight_gradient(dout: &[f32], x: &[f32], rstd: &[f32], first: usize, total: &mut [f32; COLUMNS]) {
        let h = dout.len() / rstd.len().max(1);
        for (t, &rstd) in rstd.iter().enumerate() {
            let start = t * h + first;
            let width = COLUMNS.min(h - first);
            let (dout, x) = (&dout[start..start + width], &x[start..start + width]);
            if let (Some(dout), Some(x)) = (dout.first_chunk::<COLUMNS>(), x.first_chunk::<COLUMNS>()) {
                for i in 0..COLUMNS {
                    total[i] += dout[i] * x[i] * rstd;
                }
            } else {
                for ((total, &dout), &x) in total.iter_mut().zip(dout).zip(x) {
                    *total += dout * x * rstd;
                }
            }
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
    dx.par_chunks_exact_mut(h).enumerate().for_each(|(t, dx)| {
        let (dout, x, rstd) = (&dout[t * h..][..h], &x[t * h..][..h], rstd[t]);
        let dresidual = dresidual.map(|dresidual| &dresidual[t * h..][..h]);
        row_gradient(simd, dout, x, weight, rstd, dresidual, dx);
    });
    let Some(dweight) = arguments.dweight else { return };
    let dweight = access.write::<f32>(dweight);
    dweight.par_chunks_mut(COLUMNS).enumerate().for_each(|(task, dweight)| {
        let mut total = [0.0f32; COLUMNS];
        if arguments.accumulate {
            total[..dweight.len()].copy_from_slice(dweight);
        }
        weight_gradient(simd, dout, x, rstd, task * COLUMNS, &mut total);
        dweight.copy_from_slice(&total[..dweight.len()]);
    });
}
