//! MRPO: DPO with several reference models (arXiv 2405.16388).
//!
//! ```text
//! L = mean over pairs of softplus(-beta D~),   r~ = s - s~
//! 1 / pi~ = sum over k of alpha_k / pi_k,   that is s~ = -logsumexp over k of (log alpha_k - s_k)
//! ```
//!
//! The combined reference is the weighted harmonic mean of the references' probabilities. Before, every further reference is
//! clipped to within `eta_y |s_1|` of the first, where `eta_y` is eta times the answer's share in the size of the references'
//! mean margins: `eta_w = eta m`, `eta_l = eta (1 - m)`, `m = |a_w| / (|a_w| + |a_l|)` with a the mean of the references'
//! log-probs (the authors' code, written there for two references; for more, each is clipped against the first).
//!
//! Weights, `alpha` -1: adaptive, by how well each reference tells the answers apart: in proportion to `|s_k(w) - s_k(l)|`. Otherwise
//! alpha is the weight of the first reference and the others share `1 - alpha` alike. (The authors' code with two references puts
//! its alpha on the probability of the first *inside* the logarithm, which gives that weight to the second.)
//!
//! Parameters: `beta` 0.1, `eta` 0.1, `alpha` -1 (the authors'). With one reference it is DPO, and so are several equal ones.
//! Limits: as DPO's.
//!
//! Coupling: group. References: `--reference` as often as there are models, the first of which is the base.

use super::{BETA, DEFAULTS, Pair, PairLoss, PairTerm, Pairwise, Reward, logistic};
use crate::objective::Scored;
use crate::objective::parameters::{Number, Range};
use crate::objective::registry::Entry;

/// Keeps the adaptive weights defined where no reference tells the answers apart, as in the authors' code.
const LEAST_MARGIN: f64 = 1e-6;

static ETA: Number = Number {
    name: "eta",
    default: 0.1,
    range: Range::closed(0.0, 1.0),
    help: "how far a further reference may lie from the first, as a share of its log-prob",
    slot: |parameters| &mut parameters.eta,
};
static ALPHA: Number = Number {
    name: "alpha",
    default: -1.0,
    range: Range::closed(-1.0, 1.0),
    help: "weight of the first reference; below 0: by how well each reference tells the answers apart",
    slot: |parameters| &mut parameters.alpha,
};

/// MRPO in the registry.
pub static ENTRY: Entry = Entry {
    name: "mrpo",
    formula: "L = softplus(-beta D~),  D~ against the weighted harmonic mean of several references",
    when: "you have several good reference models",
    max_references: 16,
    parameters: &[&BETA, &ETA, &ALPHA],
    construct: |parameters| {
        let beta = BETA.get(parameters);
        let loss = Mrpo { beta, eta: ETA.get(parameters), alpha: ALPHA.get(parameters) };
        Ok(Pairwise::new(&ENTRY, parameters, Reward::LogRatio, beta, loss).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct Mrpo {
    beta: f64,
    eta: f64,
    alpha: f64,
}

impl Mrpo {
    /// alpha_k of every reference; they add up to 1.
    fn weights(&self, chosen: &[f64], rejected: &[f64]) -> Vec<f64> {
        let count = chosen.len();
        if self.alpha < 0.0 {
            let margins = chosen.iter().zip(rejected).map(|(w, l)| (w - l).abs() + LEAST_MARGIN);
            let margins: Vec<f64> = margins.collect();
            let sum: f64 = margins.iter().sum();
            return margins.into_iter().map(|margin| margin / sum).collect();
        }
        let others = (1.0 - self.alpha) / (count - 1) as f64;
        (0..count).map(|k| if k == 0 { self.alpha } else { others }).collect()
    }

    /// One reference out of several.
    fn combine(&self, references: &[f64], weights: &[f64], eta: f64) -> f64 {
        let base = references[0];
        let reach = eta * base.abs();
        let clipped = |k: usize| if k == 0 { base } else { references[k].clamp(base - reach, base + reach) };
        let used = || (0..references.len()).filter(|&k| weights[k] > 0.0);
        // log (alpha / pi), whose largest is taken out so that nothing overflows.
        let exponents: Vec<f64> = used().map(|k| weights[k].ln() - clipped(k)).collect();
        let largest = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = exponents.iter().map(|exponent| (exponent - largest).exp()).sum();
        -(largest + sum.ln())
    }
}

impl PairLoss for Mrpo {
    fn term(&self, pair: &Pair) -> PairTerm {
        logistic(self.beta * pair.difference(), 0.0).scaled(self.beta).into()
    }

    fn references(&self, chosen: &Scored, rejected: &Scored) -> [f64; 2] {
        let sums = |answer: &Scored| -> Vec<f64> {
            answer.given.references.iter().map(|reference| reference.sum()).collect()
        };
        let (w, l) = (sums(chosen), sums(rejected));
        if w.len() < 2 || l.len() < 2 {
            return [chosen.reference(), rejected.reference()];
        }
        let weights = self.weights(&w, &l);
        let mean = |sums: &[f64]| sums.iter().sum::<f64>().abs() / sums.len() as f64;
        let (size_w, size_l) = (mean(&w), mean(&l));
        let share = if size_w + size_l > 0.0 { size_w / (size_w + size_l) } else { 0.5 };
        let eta = [self.eta * share, self.eta * (1.0 - share)];
        [self.combine(&w, &weights, eta[0]), self.combine(&l, &weights, eta[1])]
    }
}
