//! RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467) after an optional residual add:
//! `s = x + residual`, `y = weight * s / sqrt(mean(s^2) + eps)`, row by row.

use super::dot;

/// What the forward pass gives and the backward pass needs.
pub struct Forward {
    /// `s [T, H]`, the residual stream after the add.
    pub sum: Vec<f64>,
    /// `1 / sqrt(mean(s^2) + eps)`, `[T]`.
    pub inverse_rms: Vec<f64>,
    /// `y [T, H]`.
    pub out: Vec<f64>,
}

/// `x [T, H]`, `residual [T, H]`, `weight [H]`.
pub fn forward(x: &[f64], residual: Option<&[f64]>, weight: &[f64], eps: f64) -> Forward {
    let hidden = weight.len();
    let sum: Vec<f64> = match residual {
        Some(residual) => {
            assert_eq!(x.len(), residual.len());
            x.iter().zip(residual).map(|(x, r)| x + r).collect()
        }
        None => x.to_vec(),
    };
    let inverse_rms: Vec<f64> =
        sum.chunks_exact(hidden).map(|s| 1.0 / (dot(s, s) / hidden as f64 + eps).sqrt()).collect();
    let out = (0..sum.len()).map(|i| weight[i % hidden] * sum[i] * inverse_rms[i / hidden]).collect();
    Forward { sum, inverse_rms, out }
}

/// Gradients by `s` `[T, H]` and by the weight `[H]`. The gradient by `s` is that by `x` and that by the
/// residual too. `d_sum` is what reaches `s` directly, past the norm, along the residual stream.
pub fn backward(
    saved: &Forward,
    weight: &[f64],
    d_out: &[f64],
    d_sum: Option<&[f64]>,
) -> (Vec<f64>, Vec<f64>) {
    let hidden = weight.len();
    assert_eq!(d_out.len(), saved.sum.len());
    let mut d_s = d_sum.map_or_else(|| vec![0.0; saved.sum.len()], <[f64]>::to_vec);
    let mut d_weight = vec![0.0; hidden];
    for t in 0..saved.inverse_rms.len() {
        let row = t * hidden..(t + 1) * hidden;
        let (s, dy, r) = (&saved.sum[row.clone()], &d_out[row], saved.inverse_rms[t]);
        // d r / d s_h = -r^3 s_h / H, which every y of the row feels.
        let along_s: f64 = (0..hidden).map(|h| dy[h] * weight[h] * s[h]).sum();
        for h in 0..hidden {
            d_s[t * hidden + h] += dy[h] * weight[h] * r - r.powi(3) * s[h] / hidden as f64 * along_s;
            d_weight[h] += dy[h] * s[h] * r;
        }
    }
    (d_s, d_weight)
}
