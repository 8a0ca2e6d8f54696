//! The formulas in plain f32: one accumulator, terms in order, the textbook form. What the operations' errors are
//! measured against; the correct value is the f64 twin's.

use crate::device::Storage;
use crate::reference::attention::{Heads, Segment};

/// `sum of a_i b_i`.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b)
}

/// `C [m, n]` from elements of A and B, added to `c`.
pub fn matmul(
    c: &[f32],
    [m, n, k]: [usize; 3],
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<f32> {
    let mut c = c.to_vec();
    for i in 0..m {
        for j in 0..n {
            c[i * n + j] += (0..k).fold(0.0, |sum, p| sum + a(i, p) * b(p, j));
        }
    }
    c
}

/// (out, rstd) of rows of `weight.len()`.
pub fn rmsnorm(x: &[f32], weight: &[f32], epsilon: f32) -> (Vec<f32>, Vec<f32>) {
    let hidden = weight.len();
    let rows = x.chunks_exact(hidden);
    let rstd: Vec<f32> = rows.map(|x| 1.0 / (dot(x, x) / hidden as f32 + epsilon).sqrt()).collect();
    let out = (0..x.len()).map(|i| x[i] * rstd[i / hidden] * weight[i % hidden]).collect();
    (out, rstd)
}

/// (dx, dweight).
pub fn rmsnorm_backward(dout: &[f32], x: &[f32], weight: &[f32], rstd: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let hidden = weight.len();
    let (mut dx, mut dweight) = (vec![0.0; x.len()], vec![0.0; hidden]);
    for (t, &rstd) in rstd.iter().enumerate() {
        let row = t * hidden..(t + 1) * hidden;
        let (dout, x, dx) = (&dout[row.clone()], &x[row.clone()], &mut dx[row]);
        let xhat = |h: usize| x[h] * rstd;
        let along = (0..hidden).fold(0.0, |sum, h| sum + dout[h] * weight[h] * xhat(h)) / hidden as f32;
        for h in 0..hidden {
            dx[h] = rstd * (dout[h] * weight[h] - xhat(h) * along);
            dweight[h] += dout[h] * xhat(h);
        }
    }
    (dx, dweight)
}

/// Log-prob of the target as `z_y - lse`, the log-sum-exp, and `onehot - softmax`.
pub fn head_row(z: &[f32], target: usize) -> (f32, f32, Vec<f32>) {
    let largest = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum = z.iter().fold(0.0, |sum, z| sum + (z - largest).exp());
    let lse = largest + sum.ln();
    let onehot = |v: usize| if v == target { 1.0 } else { 0.0 };
    (z[target] - lse, lse, (0..z.len()).map(|v| onehot(v) - (z[v] - lse).exp()).collect())
}

/// Queries, keys and values, `[rows, heads, D]` each.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// What weights and their gradients are rounded to for their products, and what comes out.
    pub storage: Storage,
    pub heads: Heads,
    pub segments: &'a [Segment],
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
}

impl Attention<'_> {
    /// Calls `f` with (query offset, row * N + head, key offsets, softmax, log-sum-exp) of every query and head.
    fn each(&self, mut f: impl FnMut(usize, usize, &[usize], &[f32], f32)) {
        let Heads { query, key_value, size } = self.heads;
        for segment in self.segments {
            for i in 0..segment.len {
                let ranges = segment.ranges.iter();
                let keys: Vec<usize> = ranges
                    .flat_map(|r| (0..r.len.min(i + r.causal_offset + 1)).map(|j| r.kv_row + j))
                    .collect();
                for head in 0..query {
                    let at = (segment.query_row + i) * query + head;
                    let keys: Vec<usize> = keys
                        .iter()
                        .map(|key| (key * key_value + head / (query / key_value)) * size)
                        .collect();
                    let q = &self.q[at * size..][..size];
                    let scores = keys.iter().map(|&k| dot(q, &self.k[k..k + size]) / (size as f32).sqrt());
                    let scores: Vec<f32> = scores.collect();
                    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let sum = scores.iter().fold(0.0, |sum, s| sum + (s - largest).exp());
                    let softmax: Vec<f32> = scores.iter().map(|s| (s - largest).exp() / sum).collect();
                    f(at * size, at, &keys, &softmax, largest + sum.ln());
                }
            }
        }
    }

    /// (out, lse).
    pub fn forward(&self) -> (Vec<f32>, Vec<f32>) {
        let size = self.heads.size;
        let (mut out, mut all) = (vec![0.0; self.q.len()], vec![0.0; self.q.len() / size]);
        self.each(|o, at, keys, softmax, lse| {
            all[at] = lse;
            for (&key, p) in keys.iter().zip(self.storage.rounded(softmax)) {
                for d in 0..size {
                    out[o + d] += p * self.v[key + d];
                }
            }
        });
        (self.storage.kept(&out), all)
    }

    /// (dq, dk, dv).
    pub fn backward(&self, dout: &[f32]) -> [Vec<f32>; 3] {
        let size = self.heads.size;
        let scale = 1.0 / (size as f32).sqrt();
        let (out, _) = self.forward();
        let mut dq = vec![0.0; self.q.len()];
        let (mut dk, mut dv) = (vec![0.0; self.k.len()], vec![0.0; self.v.len()]);
        self.each(|q, _, keys, softmax, _| {
            let dout = &dout[q..q + size];
            let dp: Vec<f32> = keys.iter().map(|&key| dot(dout, &self.v[key..key + size])).collect();
            // The same number in exact arithmetic; out is what there is of a stored result.
            let mean = match self.storage {
                Storage::F32 => dot(softmax, &dp),
                Storage::Bf16 | Storage::Operands => dot(dout, &out[q..q + size]),
            };
            let ds: Vec<f32> = softmax.iter().zip(dp).map(|(p, dp)| p * (dp - mean)).collect();
            let (softmax, ds) = (self.storage.rounded(softmax), self.storage.rounded(&ds));
            for ((&key, p), ds) in keys.iter().zip(softmax).zip(ds) {
                for d in 0..size {
                    dq[q + d] += ds * scale * self.k[key + d];
                    dk[key + d] += ds * scale * self.q[q + d];
                    dv[key + d] += p * dout[d];
                }
            }
        });
        [dq, dk, dv]
    }
}
