//! Softmax attention of query segments against up to two key ranges each, with grouped key/value heads.
//!
//! Query `i` of a segment (counted from the segment's start) sees key `j` of a range (counted from the
//! range's start) iff `j < len` and `j <= i + causal_offset`; all keys it sees, of all ranges, share one
//! softmax. Query head `n` reads key/value head `n / (N / K)`. The scores are scaled by `1 / sqrt(D)`.

use super::dot;

/// Head counts and size.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// N.
    pub query: usize,
    /// K, which divides N.
    pub key_value: usize,
    /// D.
    pub size: usize,
}

/// Rows `kv_row .. kv_row + len` of the key and value buffers.
#[derive(Debug, Clone, Copy)]
pub struct KeyRange {
    /// First row.
    pub kv_row: usize,
    /// Number of rows.
    pub len: usize,
    /// Query `i` sees no key beyond `i + causal_offset`: 0 is causal, `len` or more is everything.
    pub causal_offset: usize,
}

/// Rows `query_row .. query_row + len` of the query buffer, and the keys they may see.
#[derive(Debug, Clone)]
pub struct Segment {
    /// First row.
    pub query_row: usize,
    /// Number of rows.
    pub len: usize,
    /// Key ranges; the design has at most two.
    pub ranges: Vec<KeyRange>,
}

impl Segment {
    /// The key rows that query `i` of this segment sees.
    fn visible(&self, i: usize) -> Vec<usize> {
        let mut rows = Vec::new();
        for range in &self.ranges {
            for j in 0..range.len {
                if j <= i + range.causal_offset {
                    rows.push(range.kv_row + j);
                }
            }
        }
        rows
    }
}

/// `q [T, N, D]`, `k` and `v [rows, K, D]`.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Queries, rotated.
    pub q: &'a [f64],
    /// Keys, rotated.
    pub k: &'a [f64],
    /// Values.
    pub v: &'a [f64],
}

/// Rows in no segment, and rows that see no key, give zeros and a log-sum-exp of minus infinity.
pub struct Forward {
    /// `[T, N, D]`.
    pub out: Vec<f64>,
    /// `[T, N]`: log of the sum of the exponentials of the scaled scores.
    pub lse: Vec<f64>,
}

/// Gradients, shaped as the inputs.
pub struct Gradients {
    /// By the queries.
    pub dq: Vec<f64>,
    /// By the keys.
    pub dk: Vec<f64>,
    /// By the values.
    pub dv: Vec<f64>,
}

/// Softmax(q k^T / sqrt(D)) v.
pub fn forward(heads: Heads, segments: &[Segment], inputs: Inputs) -> Forward {
    let size = heads.size;
    let mut out = vec![0.0; inputs.q.len()];
    let mut lse = vec![f64::NEG_INFINITY; inputs.q.len() / size];
    for_each_query(heads, segments, |row, head, keys| {
        let Some((probabilities, log_sum)) = softmax(heads, inputs, row, head, keys) else { return };
        lse[row * heads.query + head] = log_sum;
        let o = (row * heads.query + head) * size;
        for (p, &key) in probabilities.iter().zip(keys) {
            let v = key_start(heads, key, head);
            for d in 0..size {
                out[o + d] += p * inputs.v[v + d];
            }
        }
    });
    Forward { out, lse }
}

/// With `P` the probabilities and `dP = dO V^T`: `dS = P * (dP - sum over keys of P dP)`, then `dq = dS k /
/// sqrt(D)`, `dk = dS^T q / sqrt(D)`, `dv = P^T dO`.
pub fn backward(heads: Heads, segments: &[Segment], inputs: Inputs, d_out: &[f64]) -> Gradients {
    let size = heads.size;
    assert_eq!(d_out.len(), inputs.q.len());
    let scale = 1.0 / (size as f64).sqrt();
    let mut gradients = Gradients {
        dq: vec![0.0; inputs.q.len()],
        dk: vec![0.0; inputs.k.len()],
        dv: vec![0.0; inputs.v.len()],
    };
    for_each_query(heads, segments, |row, head, keys| {
        let Some((probabilities, _)) = softmax(heads, inputs, row, head, keys) else { return };
        let q = (row * heads.query + head) * size;
        let d_o = &d_out[q..q + size];
        let d_probabilities: Vec<f64> = keys
            .iter()
            .map(|&key| key_start(heads, key, head))
            .map(|v| dot(d_o, &inputs.v[v..v + size]))
            .collect();
        let mean = dot(&probabilities, &d_probabilities);
        for (index, &key) in keys.iter().enumerate() {
            let kv = key_start(heads, key, head);
            let d_score = probabilities[index] * (d_probabilities[index] - mean) * scale;
            for d in 0..size {
                gradients.dq[q + d] += d_score * inputs.k[kv + d];
                gradients.dk[kv + d] += d_score * inputs.q[q + d];
                gradients.dv[kv + d] += probabilities[index] * d_o[d];
            }
        }
    });
    gradients
}

fn for_each_query(heads: Heads, segments: &[Segment], mut f: impl FnMut(usize, usize, &[usize])) {
    assert_eq!(heads.query % heads.key_value, 0);
    for segment in segments {
        for i in 0..segment.len {
            let keys = segment.visible(i);
            for head in 0..heads.query {
                f(segment.query_row + i, head, &keys);
            }
        }
    }
}

/// Where the vector of key row `key` for query head `head` starts in `k` and `v`.
fn key_start(heads: Heads, key: usize, head: usize) -> usize {
    let group = heads.query / heads.key_value;
    (key * heads.key_value + head / group) * heads.size
}

/// Probabilities over `keys` and the log-sum-exp of the scores; nothing where there is no key.
fn softmax(heads: Heads, inputs: Inputs, row: usize, head: usize, keys: &[usize]) -> Option<(Vec<f64>, f64)> {
    let q = (row * heads.query + head) * heads.size;
    let query = &inputs.q[q..q + heads.size];
    let scores: Vec<f64> = keys
        .iter()
        .map(|&key| key_start(heads, key, head))
        .map(|k| dot(query, &inputs.k[k..k + heads.size]) / (heads.size as f64).sqrt())
        .collect();
    let largest = scores.iter().copied().reduce(f64::max)?;
    let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
    let lse = largest + sum.ln();
    Some((scores.iter().map(|s| (s - lse).exp()).collect(), lse))
}
