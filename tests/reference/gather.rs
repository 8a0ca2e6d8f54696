//! Weighted sums of rows, and the adjoint. An ordinary gather has one (row, 1) per output; the same row may
//! be named by several outputs (the last prompt token is, once per answer).

/// What one output row is made of: `sum of weight * x[row]`.
pub type Terms = Vec<(usize, f64)>;

/// One row with weight 1 per output.
pub fn plain(rows: &[usize]) -> Vec<Terms> {
    rows.iter().map(|&row| vec![(row, 1.0)]).collect()
}

/// `out [R, width]`: `out[r] = sum over (row, weight) of outputs[r]: weight * x[row]`, with `x [T, width]`.
pub fn forward(x: &[f64], width: usize, outputs: &[Terms]) -> Vec<f64> {
    let mut out = vec![0.0; outputs.len() * width];
    for (r, terms) in outputs.iter().enumerate() {
        for &(row, weight) in terms {
            for c in 0..width {
                out[r * width + c] += weight * x[row * width + c];
            }
        }
    }
    out
}

/// The adjoint: `d_x [rows, width]`, each row the weighted sum of the outputs that used it; zero where none
/// did.
pub fn backward(d_out: &[f64], width: usize, outputs: &[Terms], rows: usize) -> Vec<f64> {
    assert_eq!(d_out.len(), outputs.len() * width);
    let mut d_x = vec![0.0; rows * width];
    for (r, terms) in outputs.iter().enumerate() {
        for &(row, weight) in terms {
            for c in 0..width {
                d_x[row * width + c] += weight * d_out[r * width + c];
            }
        }
    }
    d_x
}
