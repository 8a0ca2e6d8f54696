//! What it does to attention's results when weights, their gradients and the output are rounded to bf16: the scale of the
//! bf16 tolerance, derived from the exact values.
//!
//! Each number is rounded by up to 2^-8 of itself, independently of the others, so an element's error is 2^-8 times the
//! root of the sum of the squares of its terms. `delta = dout . out` inherits the errors of the rounded output, and moves
//! the gradients of all scores of its query together.

use crate::reference::attention::{Heads, Inputs, Segment};

/// Errors in units of 2^-8, shaped as the results.
pub struct Spread {
    pub out: Vec<f64>,
    /// dq, dk, dv.
    pub gradients: [Vec<f64>; 3],
}

/// Of a forward pass and its gradients for `dout`.
pub fn spread(heads: Heads, segments: &[Segment], inputs: Inputs, dout: &[f64]) -> Spread {
    let [dq, dk, dv] = [inputs.q.len(), inputs.k.len(), inputs.v.len()].map(|len| vec![0.0; len]);
    let mut squares = Spread { out: vec![0.0; inputs.q.len()], gradients: [dq, dk, dv] };
    for segment in segments {
        for i in 0..segment.len {
            let ranges = segment.ranges.iter();
            let rows: Vec<usize> =
                ranges.flat_map(|r| (0..r.len.min(i + r.causal_offset + 1)).map(|j| r.kv_row + j)).collect();
            for head in 0..heads.query {
                let group = heads.query / heads.key_value;
                let keys: Vec<usize> =
                    rows.iter().map(|row| (row * heads.key_value + head / group) * heads.size).collect();
                let q = ((segment.query_row + i) * heads.query + head) * heads.size;
                squares.add_query(heads.size, inputs, dout, q, &keys);
            }
        }
    }
    let [dq, dk, dv] = &mut squares.gradients;
    for square in [&mut squares.out, dq, dk, dv].into_iter().flatten() {
        *square = square.sqrt();
    }
    squares
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Spread {
    /// Adds the squares of one query's terms; `q` and `keys` are offsets.
    fn add_query(
        &mut self,
        size: usize,
        Inputs { q: queries, k, v }: Inputs,
        dout: &[f64],
        q: usize,
        keys: &[usize],
    ) {
        let scale = 1.0 / (size as f64).sqrt();
        let (query, dout) = (&queries[q..q + size], &dout[q..q + size]);
        let scores: Vec<f64> = keys.iter().map(|&key| dot(query, &k[key..key + size]) * scale).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
        let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp() / total).collect();
        let products: Vec<f64> = keys.iter().map(|&key| dot(dout, &v[key..key + size])).collect();
        let delta = dot(&weights, &products);
        // Of delta: the output is rounded itself, beside the weights that it is made of.
        let mut delta_square = 0.0;
        for d in 0..size {
            let terms = || weights.iter().zip(keys).map(|(p, &key)| p * v[key + d]);
            self.out[q + d] = terms().map(|term| term.powi(2)).sum();
            delta_square += dout[d].powi(2) * (terms().sum::<f64>().powi(2) + self.out[q + d]);
        }
        let delta_error = delta_square.sqrt() * scale;
        let mut common = vec![0.0; size];
        for ((&key, p), product) in keys.iter().zip(&weights).zip(products) {
            let ds = p * (product - delta) * scale;
            for d in 0..size {
                self.gradients[0][q + d] += (ds * k[key + d]).powi(2);
                self.gradients[1][key + d] += (ds * query[d]).powi(2) + (p * delta_error * query[d]).powi(2);
                self.gradients[2][key + d] += (p * dout[d]).powi(2);
                common[d] += p * k[key + d];
            }
        }
        for (square, common) in self.gradients[0][q..q + size].iter_mut().zip(common) {
            *square += (delta_error * common).powi(2);
        }
    }
}
