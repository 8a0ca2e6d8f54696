//! The matrix product in the three layouts of a linear layer `Y = X W^T`, with `W [out, in]`: forward (`nt`),
//! the gradient of the input (`nn`) and the gradient of the weight (`tn`). `k` is always the length summed
//! over.

/// `C [m, n] = A [m, k] B [n, k]^T`. Forward: `Y = X W^T`.
pub fn nt(a: &[f64], b: &[f64], m: usize, n: usize, k: usize) -> Vec<f64> {
    assert_eq!((a.len(), b.len()), (m * k, n * k));
    product(m, n, k, |i, p| a[i * k + p], |p, j| b[j * k + p])
}

/// `C [m, n] = A [m, k] B [k, n]`. Gradient of the input: `dX = dY W`.
pub fn nn(a: &[f64], b: &[f64], m: usize, n: usize, k: usize) -> Vec<f64> {
    assert_eq!((a.len(), b.len()), (m * k, k * n));
    product(m, n, k, |i, p| a[i * k + p], |p, j| b[p * n + j])
}

/// `C [m, n] = A [k, m]^T B [k, n]`. Gradient of the weight: `dW = dY^T X`.
pub fn tn(a: &[f64], b: &[f64], m: usize, n: usize, k: usize) -> Vec<f64> {
    assert_eq!((a.len(), b.len()), (k * m, k * n));
    product(m, n, k, |i, p| a[p * m + i], |p, j| b[p * n + j])
}

fn product(
    m: usize,
    n: usize,
    k: usize,
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            c[i * n + j] = (0..k).map(|p| a(i, p) * b(p, j)).sum();
        }
    }
    c
}
