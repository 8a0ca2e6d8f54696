//! AOT: alignment via optimal transport (arXiv 2406.05882).
//!
//! ```text
//! q = s_w - s_l,  q_ref = the same under the reference, both sorted over the batch:  delta_k = q_(k) - q_ref(k)
//! L = mean over k of (1 - e) softplus(-beta delta_k) + e softplus(beta delta_k)
//! ```
//!
//! Sorting makes one distribution stochastically dominate the other. The slope of the k-th term goes to the answers that have the
//! k-th place; among equals the earlier pair has the lower place.
//!
//! Parameters: `beta` 0.1, `label_smoothing` 0 (TRL 1.16's). Limits: slopes are at most beta.
//!
//! Coupling: step: places are taken among all pairs of the optimizer step, however it is cut (in TRL: of the micro-batch). Reference:
//! needed.

use super::{StepLoss, StepPair, Stepwise, ranked};
use crate::objective::pairwise::{BETA, DEFAULTS, LABEL_SMOOTHING, PairTerm, logistic};
use crate::objective::registry::Entry;

/// AOT in the registry.
pub static ENTRY: Entry = Entry {
    name: "aot",
    formula: "L = softplus(-beta delta_k),  delta_k = k-th smallest (s_w - s_l) - k-th smallest (ref_w - ref_l)",
    when: "you care for the distribution of margins over all pairs and not for each pair",
    parameters: &[&BETA, &LABEL_SMOOTHING],
    construct: |parameters| {
        let beta = BETA.get(parameters);
        let loss = Aot { beta, label_smoothing: LABEL_SMOOTHING.get(parameters) };
        Ok(Stepwise::boxed(&ENTRY, beta, loss))
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct Aot {
    beta: f64,
    label_smoothing: f64,
}

impl StepLoss for Aot {
    fn terms(&self, pairs: &[StepPair]) -> Vec<PairTerm> {
        let difference = |of: [f64; 2]| of[0] - of[1];
        let policy: Vec<f64> = pairs.iter().map(|pair| difference(pair.policy)).collect();
        let reference: Vec<f64> = pairs.iter().map(|pair| difference(pair.reference)).collect();
        let mut terms = vec![PairTerm { value: 0.0, chosen: 0.0, rejected: 0.0 }; pairs.len()];
        for (own, partner) in ranked(&policy).into_iter().zip(ranked(&reference)) {
            let z = self.beta * (policy[own] - reference[partner]);
            terms[own] = logistic(z, self.label_smoothing).scaled(self.beta).into();
        }
        terms
    }
}
