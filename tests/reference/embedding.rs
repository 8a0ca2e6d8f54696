//! Rows of the embedding table by token id, and rows mixed from two of them.

/// `out [T, H]`: row `t` is row `ids[t]` of `table [V, H]`.
pub fn forward(ids: &[u32], table: &[f64], hidden: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(ids.len() * hidden);
    for &id in ids {
        let start = id as usize * hidden;
        out.extend_from_slice(&table[start..start + hidden]);
    }
    out
}

/// `d_table [V, H]`: row `v` is the sum of `d_out`'s rows whose token is `v`.
pub fn backward(ids: &[u32], d_out: &[f64], vocabulary: usize, hidden: usize) -> Vec<f64> {
    assert_eq!(d_out.len(), ids.len() * hidden);
    let mut d_table = vec![0.0; vocabulary * hidden];
    for (t, &id) in ids.iter().enumerate() {
        for h in 0..hidden {
            d_table[id as usize * hidden + h] += d_out[t * hidden + h];
        }
    }
    d_table
}

/// `out [T, H]`: row `t` is `1 - weight` times row `ids[t]` of `table` and `weight` times row `others[t]`.
pub fn mixed(ids: &[u32], others: &[u32], weight: f64, table: &[f64], hidden: usize) -> Vec<f64> {
    let (own, other) = (forward(ids, table, hidden), forward(others, table, hidden));
    own.iter().zip(&other).map(|(own, other)| (1.0 - weight) * own + weight * other).collect()
}

/// The gradient of [`mixed`] with respect to the table.
pub fn mixed_backward(
    ids: &[u32],
    others: &[u32],
    weight: f64,
    d_out: &[f64],
    [vocabulary, hidden]: [usize; 2],
) -> Vec<f64> {
    let own = backward(ids, d_out, vocabulary, hidden);
    let other = backward(others, d_out, vocabulary, hidden);
    own.iter().zip(&other).map(|(own, other)| (1.0 - weight) * own + weight * other).collect()
}
