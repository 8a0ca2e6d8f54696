//! SwiGLU (Shazeer 2020, arXiv 2002.05202) without its products: `out = silu(gate) * up`, `silu(x) = x *
//! sigmoid(x)`.

/// Elementwise.
pub fn forward(gate: &[f64], up: &[f64]) -> Vec<f64> {
    assert_eq!(gate.len(), up.len());
    gate.iter().zip(up).map(|(g, u)| g * sigmoid(*g) * u).collect()
}

/// (d_gate, d_up): `silu'(g) = sigmoid(g) * (1 + g * (1 - sigmoid(g)))`.
pub fn backward(gate: &[f64], up: &[f64], d_out: &[f64]) -> (Vec<f64>, Vec<f64>) {
    assert_eq!((gate.len(), up.len()), (d_out.len(), d_out.len()));
    (0..gate.len())
        .map(|i| {
            let s = sigmoid(gate[i]);
            (d_out[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s)), d_out[i] * gate[i] * s)
        })
        .unzip()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
