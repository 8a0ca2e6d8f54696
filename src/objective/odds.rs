//! Functions of one mean log-prob `a`: log-odds and their softplus, each with its derivative, exact from `a = -eps`
//! down to underflow, and continued linearly from `-eps` upwards.
//!
//! As `a -> 0` (a probability near 1) `log(1 - p)` and its slope grow without bound, and logits rounded to bf16 leave
//! little of `a` but rounding. So a term `f` that diverges there is replaced beyond `-eps` by its
//! tangent, `f(a) = f(-eps) + f'(-eps) (a + eps)`: value and gradient stay consistent with each other, the gradient
//! is continuous, and its size is bounded by `beta / (1 - e^-eps)` (at beta = 1 by `1 / expm1(eps)`). Clamping `a`
//! instead, as other implementations do, makes the gradient vanish exactly where the answer is most certain.

use std::f64::consts::LN_2;

use super::parameters::{Number, Range};

/// `--logit-eps`: where the linear continuation begins.
pub static LOGIT_EPS: Number = Number {
    name: "logit_eps",
    default: 1e-5,
    // Below 1e-12 the bound on the gradient would leave f32 at extreme weights; above 0.1 the continuation would
    // reach answers of ordinary probability.
    range: Range::closed(1e-12, 0.1),
    help: "the log-odds terms are continued linearly where the mean log-prob is above -logit_eps",
    slot: |parameters| &mut parameters.logit_eps,
};

/// The value of a function and its derivative, at one point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// f(a)
    pub value: f64,
    /// f'(a)
    pub slope: f64,
}

impl std::ops::Add for Term {
    type Output = Term;

    fn add(self, other: Term) -> Term {
        Term { value: self.value + other.value, slope: self.slope + other.slope }
    }
}

/// `weight * f`.
impl std::ops::Mul<Term> for f64 {
    type Output = Term;

    fn mul(self, term: Term) -> Term {
        Term { value: self * term.value, slope: self * term.slope }
    }
}

impl Term {
    /// From f(z) at `z = scale * x` to the same as a function of x.
    pub fn scaled(self, scale: f64) -> Term {
        Term { slope: scale * self.slope, ..self }
    }
}

/// `f` up to `-eps`, its tangent at `-eps` beyond.
pub fn continued(eps: f64, a: f64, f: impl Fn(f64) -> Term) -> Term {
    if a <= -eps {
        return f(a);
    }
    let edge = f(-eps);
    Term { value: edge.value + edge.slope * (a + eps), slope: edge.slope }
}

/// `log(1 - e^a)` for `a < 0`. The branch keeps full precision on both sides of `p = 1/2`
/// (Maechler, "Accurately Computing log(1 - exp(-|a|))", 2012).
pub fn log1mexp(a: f64) -> f64 {
    if a > -LN_2 { (-a.exp_m1()).ln() } else { (-a.exp()).ln_1p() }
}

/// `log(1 + e^z)` without overflow. `softplus(-z) = -log sigmoid(z)`.
pub fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

/// `1 / (1 + e^-z)` without overflow, and without cancellation for large negative `z`.
pub fn sigmoid(z: f64) -> f64 {
    let e = (-z.abs()).exp();
    if z >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}

/// The log-odds `o(a) = a - log1mexp(a)`, for `a < 0`; `o' = 1 / (1 - p)`.
pub fn log_odds(a: f64) -> Term {
    Term { value: a - log1mexp(a), slope: -1.0 / a.exp_m1() }
}

/// `softplus(scale * o(a))`, for `a < 0` and a `scale` of either sign: `-log sigmoid(-scale * o(a))`.
pub fn softplus_odds(scale: f64, a: f64) -> Term {
    let odds = log_odds(a);
    let z = scale * odds.value;
    Term { value: softplus(z), slope: scale * sigmoid(z) * odds.slope }
}

/// [`softplus_odds`] at scale 1, `-log(1 - p)`, in the form that never forms the log-odds and so cancels nothing;
/// the slope is `p / (1 - p)`.
pub fn unlikelihood(a: f64) -> Term {
    Term { value: -log1mexp(a), slope: 1.0 / (-a).exp_m1() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log1mexp_is_exact_near_zero_and_far_below() {
        // a = -d: log(1 - e^-d) = log d - d/2 + d^2/24 - ...; the series is exact to f64 at these points.
        for d in [1e-12_f64, 1e-9, 1e-6, 1e-4] {
            let series = d.ln() - d / 2.0 + d * d / 24.0;
            assert!((log1mexp(-d) - series).abs() <= 4e-16 * series.abs(), "d = {d}");
        }
        // a -> -inf: log(1 - x) = -x - x^2/2 with x = e^a.
        for a in [-40.0_f64, -60.0, -700.0] {
            assert_eq!(log1mexp(a), -a.exp());
        }
        assert_eq!(log1mexp(-1e4), 0.0);
        assert_eq!(log1mexp(f64::NEG_INFINITY), 0.0);
    }

    #[test]
    fn softplus_and_sigmoid_keep_their_tails() {
        assert_eq!(softplus(1e4), 1e4);
        assert_eq!(softplus(-1e4), 0.0);
        assert_eq!(softplus(-50.0), (-50.0_f64).exp());
        assert_eq!(sigmoid(-50.0), (-50.0_f64).exp());
        assert_eq!((sigmoid(-1e4), sigmoid(1e4)), (0.0, 1.0));
        for z in [-30.0, -1.0, 0.0, 0.3, 20.0] {
            assert!((softplus(z) - softplus(-z) - z).abs() <= 4e-15, "z = {z}");
            assert!((sigmoid(z) + sigmoid(-z) - 1.0).abs() <= 2e-16, "z = {z}");
        }
    }
}
