//! Log-softmax over the vocabulary with a target per row, and the unit gradient: `U = d logp / d logits`, so
//! that a loss with `d loss / d logp = g` has `d loss / d logits = g U`.

/// A row's target: (token, weight) with weights that sum to 1. An ordinary row has one token of weight 1.
pub type Target = Vec<(u32, f64)>;

/// One token with weight 1.
pub fn plain(token: u32) -> Target {
    vec![(token, 1.0)]
}

/// What is known of one row of logits `z` with `p = softmax(z)`.
#[derive(Debug, Clone)]
pub struct Row {
    /// `sum of weight * log p[token]`.
    pub logp: f64,
    /// `log sum exp z`.
    pub lse: f64,
    /// The first index of the largest logit.
    pub argmax: u32,
    /// `sum of p^2`.
    pub sum_p_squared: f64,
    /// `-sum of p log p`.
    pub entropy: f64,
    /// `mean of z`.
    pub mean_logit: f64,
    /// `U [V]`: `sum of weight * 1[v = token] - p[v]`.
    pub unit_gradient: Vec<f64>,
}

/// One [`Row`] per row of `logits [R, V]`.
pub fn rows(logits: &[f64], vocabulary: usize, targets: &[Target]) -> Vec<Row> {
    assert_eq!(logits.len(), targets.len() * vocabulary);
    logits.chunks_exact(vocabulary).zip(targets).map(|(z, target)| row(z, target)).collect()
}

fn row(z: &[f64], target: &Target) -> Row {
    let mut argmax = 0;
    for v in 0..z.len() {
        if z[v] > z[argmax] {
            argmax = v;
        }
    }
    let largest = z[argmax];
    let sum: f64 = z.iter().map(|z| (z - largest).exp()).sum();
    let lse = largest + sum.ln();
    let p: Vec<f64> = z.iter().map(|z| (z - largest).exp() / sum).collect();
    Row {
        logp: target.iter().map(|&(token, weight)| weight * log_probability(z, token as usize)).sum(),
        lse,
        argmax: argmax as u32,
        sum_p_squared: p.iter().map(|p| p * p).sum(),
        entropy: z.iter().zip(&p).map(|(z, p)| -p * (z - lse)).sum(),
        mean_logit: z.iter().sum::<f64>() / z.len() as f64,
        unit_gradient: unit_gradient(&p, target),
    }
}

/// `log p[y] = -log(1 + sum over v != y of exp(z_v - z_y))`, which keeps its relative precision as p -> 1;
/// where the target is not the largest logit, the exponentials are taken about the largest so that none
/// overflows.
fn log_probability(z: &[f64], y: usize) -> f64 {
    let others = || (0..z.len()).filter(|&v| v != y).map(|v| z[v]);
    let largest = others().fold(z[y], f64::max);
    let rest: f64 = others().map(|z| (z - largest).exp()).sum();
    if largest == z[y] { -rest.ln_1p() } else { z[y] - largest - (rest + (z[y] - largest).exp()).ln() }
}

/// `w - p = w (1 - p) - (1 - w) p` with `1 - p` summed from the other probabilities, which keeps its precision as p -> 1.
fn unit_gradient(p: &[f64], target: &Target) -> Vec<f64> {
    let mut u: Vec<f64> = p.iter().map(|p| -p).collect();
    for &(token, _) in target {
        let y = token as usize;
        let weight: f64 = target.iter().filter(|(other, _)| *other == token).map(|(_, weight)| weight).sum();
        let rest: f64 = (0..p.len()).filter(|&v| v != y).map(|v| p[v]).sum();
        u[y] = weight * rest - (1.0 - weight) * p[y];
    }
    u
}
