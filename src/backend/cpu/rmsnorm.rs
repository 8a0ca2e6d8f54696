//! RMSNorm on the CPU: rows are tasks; the weight's gradient is a second pass whose tasks own columns and add the rows
//! in order.

use rayon::prelude::*;

use super::memory::Memory;
use super::simd::{self, Simd};
use crate::backend::{RmsnormBackward, RmsnormForward};

/// Columns of the weight gradient per task.
const COLUMNS: usize = 64;

/// The operation [`RmsnormForward`].
pub fn forward(simd: Simd, memory: &mut Memory, arguments: RmsnormForward) {
    let (h, epsilon) = (arguments.hidden, arguments.epsilon);
    let mut access = memory.access();
    let x = access.read::<f32>(arguments.x);
    let weight = access.read::<f32>(arguments.weight);
    let out = access.write::<f32>(arguments.out);
    let rstd = access.write::<f32>(arguments.rstd);
    let normalise = |x: &[f32], out: &mut [f32], rstd: &mut f32| {
        simd.run(|| {
            let square = simd::sum(h, |i| x[i] * x[i]);
            *rstd = (1.0 / (square / h as f64 + f64::from(epsilon)).sqrt()) as f32;
            for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
                *out = x * *rstd * weight;
            }
        });
    };
    let rows = out.par_chunks_exact_mut(h).zip(rstd.par_iter_mut()).zip(x.par_chunks_exact(h));
    match (arguments.residual, arguments.sum) {
        (Some(residual), Some(sum)) => {
            let (residual, sum) = (access.read::<f32>(residual), access.write::<f32>(sum));
            rows.zip(residual.par_chunks_exact(h)).zip(sum.par_chunks_exact_mut(h)).for_each(
                |((((out, rstd), x), residual), sum)| {
                    simd.run(|| {
                        for ((sum, &x), &residual) in sum.iter_mut().zip(x).zip(residual) {
                            *sum = x + residual;
                        }
                    });
                    normalise(sum, out, rstd);
                },
            );
        }
        (None, None) => rows.for_each(|((out, rstd), x)| normalise(x, out, rstd)),
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
        simd.run(|| {
            let mean = (simd::sum(h, |i| dout[i] * weight[i] * x[i]) / h as f64) as f32 * rstd;
            for i in 0..h {
                dx[i] = rstd * (dout[i] * weight[i] - x[i] * rstd * mean);
            }
            if let Some(dresidual) = dresidual {
                for (dx, &direct) in dx.iter_mut().zip(&dresidual[t * h..][..h]) {
                    *dx += direct;
                }
            }
        });
    });
    let Some(dweight) = arguments.dweight else { return };
    let dweight = access.write::<f32>(dweight);
    dweight.par_chunks_mut(COLUMNS).enumerate().for_each(|(task, dweight)| {
        let first = task * COLUMNS;
        let width = dweight.len();
        simd.run(|| {
            let mut total = [0.0f32; COLUMNS];
            let total = &mut total[..width];
            if arguments.accumulate {
                total.copy_from_slice(dweight);
            }
            for (t, &rstd) in rstd.iter().enumerate() {
                let (dout, x) = (&dout[t * h + first..][..width], &x[t * h + first..][..width]);
                for i in 0..width {
                    total[i] += dout[i] * x[i] * rstd;
                }
            }
            dweight.copy_from_slice(total);
        });
    });
}
