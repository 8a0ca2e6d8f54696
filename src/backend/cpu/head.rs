//! The head's row kernel on the CPU, and the target logits beside the product.

use rayon::prelude::*;

use super::memory::Memory;
use super::simd::{self, Simd, vectorised};
use crate::backend::{HeadRows, HeadStatistics, TargetLogits};

/// The operation [`TargetLogits`].
pub fn target_logits(simd: Simd, memory: &mut Memory, arguments: TargetLogits) {
    let h = arguments.hidden;
    let mut access = memory.access();
    let (x, weight) = (access.read::<f32>(arguments.x), access.read::<f32>(arguments.weight));
    let targets = access.read::<u32>(arguments.targets);
    let out = access.write::<f32>(arguments.out);
    out.par_iter_mut().zip(x.par_chunks_exact(h)).zip(targets).for_each(|((out, x), &target)| {
        *out = dot(simd, x, &weight[target as usize * h..][..h]) as f32;
    });
}

/// The operation [`HeadRows`].
pub fn rows(simd: Simd, memory: &mut Memory, arguments: HeadRows) {
    let v = arguments.vocabulary;
    let mut access = memory.access();
    let logits = access.write::<f32>(arguments.logits);
    let target_logits = access.read::<f32>(arguments.target_logits);
    let targets = access.read::<u32>(arguments.targets);
    let second = arguments.second.map(|second| {
        let (logits, weights) = (access.read::<f32>(second.logits), access.read::<f32>(second.weights));
        (access.read::<u32>(second.targets), logits, weights)
    });
    let logp = access.write::<f32>(arguments.logp);
    let lse = access.write::<f32>(arguments.lse);
    let argmax = access.write::<u32>(arguments.argmax);
    assert!(
        arguments.unit.is_none_or(|unit| unit == arguments.logits),
        "the CPU leaves U in place of the logits"
    );
    let write_gradient = arguments.unit.is_some();
    let inputs = logits.par_chunks_exact_mut(v).zip(target_logits).zip(targets);
    let outputs = logp.par_iter_mut().zip(lse).zip(argmax);
    inputs.zip(outputs).enumerate().for_each(|(r, (((row, &z_y), &target), ((logp, lse), argmax)))| {
        let other = second.filter(|(targets, ..)| targets[r] != target).map(|(targets, logits, weights)| {
            Second { target: targets[r] as usize, logit: logits[r], weight: f64::from(weights[r]) }
        });
        let result = row_kernel(simd, row, z_y, target as usize, other, write_gradient);
        (*logp, *lse, *argmax) = (result.logp, result.lse, result.argmax);
    });
}

/// The operation [`HeadStatistics`].
pub fn statistics(simd: Simd, memory: &mut Memory, arguments: HeadStatistics) {
    let v = arguments.vocabulary;
    let mut access = memory.access();
    let logits = access.read::<f32>(arguments.logits);
    let squares = access.write::<f32>(arguments.out.log_sum_squares);
    let entropy = access.write::<f32>(arguments.out.entropy);
    let mean = access.write::<f32>(arguments.out.mean_logit);
    let outputs = squares.par_iter_mut().zip(entropy).zip(mean);
    logits.par_chunks_exact(v).zip(outputs).for_each(|(row, ((squares, entropy), mean))| {
        (*squares, *entropy, *mean) = row_statistics(simd, row);
    });
}

/// A row's second target and its logit, and what the first one counts.
struct Second {
    target: usize,
    logit: f32,
    weight: f64,
}

struct RowStats {
    logp: f32,
    lse: f32,
    argmax: u32,
}

vectorised! {
    /// One row: the formulas stand at [`HeadStatistics`].
    fn row_statistics(row: &[f32]) -> (f32, f32, f32) {
        let m = simd::maximum(row);
        let power = |v: usize| simd::exp(row[v] - m);
        let sum = simd::sum(row.len(), power);
        let squares = simd::sum(row.len(), |v| power(v) * power(v));
        // A probability of 0 adds nothing, however low its logit.
        let weighted = simd::sum(row.len(), |v| {
            let power = power(v);
            if power > 0.0 { (row[v] - m) * power } else { 0.0 }
        });
        let total = simd::sum(row.len(), |v| row[v]);
        let entropy = sum.ln() - weighted / sum;
        ((squares.ln() - 2.0 * sum.ln()) as f32, entropy as f32, (total / row.len() as f64) as f32)
    }

    fn dot(x: &[f32], weight: &[f32]) -> f64 {
        simd::dot(x, weight)
    }

    /// One row: the formula stands at [`HeadRows`].
    fn row_kernel(
        row: &mut [f32],
        z_y: f32,
        target: usize,
        second: Option<Second>,
        write_gradient: bool,
    ) -> RowStats {
        // The logits from the product beside are the exact ones; the row's own copies must not enter the sum.
        row[target] = f32::NEG_INFINITY;
        let (mut best, mut best_target) = (z_y, target);
        if let Some(second) = &second {
            row[second.target] = f32::NEG_INFINITY;
            if second.logit > best || (second.logit == best && second.target < target) {
                (best, best_target) = (second.logit, second.target);
            }
        }
        let others = simd::maximum(row);
        let m = second.as_ref().map_or(z_y, |second| z_y.max(second.logit)).max(others);
        let first_other = || simd::position(row, others).unwrap_or(target);
        let argmax = match best.partial_cmp(&others) {
            Some(std::cmp::Ordering::Greater) => best_target,
            Some(std::cmp::Ordering::Equal) => first_other().min(best_target),
            _ => first_other(),
        };
        let sum =
            if write_gradient { simd::exponentials(row, m) } else { simd::exponential_sum(row, m) };
        let e = f64::from(simd::exp(z_y - m));
        let e_second = second.as_ref().map_or(0.0, |second| f64::from(simd::exp(second.logit - m)));
        let total = sum + e + e_second;
        // Of a target, from its logit and what all the rest of the row adds up to.
        let log_prob = |z: f32, rest: f64| {
            // An overflowed target would look certain: infinity minus infinity is nobody's probability.
            if z == f32::INFINITY {
                f64::NAN
            } else if z == m {
                -rest.ln_1p()
            } else {
                f64::from(z - m) - total.ln()
            }
        };
        let mut logp = log_prob(z_y, sum + e_second);
        if let Some(second) = &second {
            let other = log_prob(second.logit, sum + e);
            // Nothing times minus infinity is nothing here.
            let share = |weight: f64, logp: f64| if weight == 0.0 { 0.0 } else { weight * logp };
            logp = share(second.weight, logp) + share(1.0 - second.weight, other);
        }
        if write_gradient {
            let inverse = (1.0 / total) as f32;
            for z in row.iter_mut() {
                *z = -(*z * inverse);
            }
            row[target] = ((sum + e_second) / total) as f32;
            if let Some(Second { target: other, weight, .. }) = second {
                let rest = 1.0 - weight;
                row[target] = ((weight * (sum + e_second) - rest * e) / total) as f32;
                row[other] = ((rest * (sum + e) - weight * e_second) / total) as f32;
            }
        }
        RowStats { logp: logp as f32, lse: (f64::from(m) + total.ln()) as f32, argmax: argmax as u32 }
    }
}
