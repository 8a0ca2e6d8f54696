//! AOT on unpaired answers: alignment via optimal transport (arXiv 2406.05882).
//!
//! ```text
//! r_w and r_l, each sorted over the batch:  delta_k = r_w(k) - r_l(k)
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

/// AOT unpaired in the registry.
pub static ENTRY: Entry = Entry {
    name: "aot_unpaired",
    formula: "L = softplus(-beta delta_k),  delta_k = k-th smallest r_w - k-th smallest r_l",
    when: "the chosen answers as a whole should be better than the rejected ones, whichever prompt they belong to",
    parameters: &[&BETA, &LABEL_SMOOTHING],
    construct: |parameters| {
        let beta = BETA.get(parameters);
        let loss = AotUnpaired { beta, label_smoothing: LABEL_SMOOTHING.get(parameters) };
        Ok(Stepwise::boxed(&ENTRY, beta, loss))
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct AotUnpaired {
    beta: f64,
    label_smoothing: f64,
}

impl StepLoss for AotUnpaired {
    fn terms(&self, pairs: &[StepPair]) -> Vec<PairTerm> {
        let [w, l] =
            [0, 1].map(|side| pairs.iter().map(|pair| pair.log_ratios()[side]).collect::<Vec<f64>>());
        let mut terms = vec![PairTerm { value: 0.0, chosen: 0.0, rejected: 0.0 }; pairs.len()];
        for (chosen, rejected) in ranked(&w).into_iter().zip(ranked(&l)) {
            let z = self.beta * (w[chosen] - l[rejected]);
            let term = logistic(z, self.label_smoothing).scaled(self.beta);
            // The loss counts where the chosen answer is; the slopes are each answer's own.
            terms[chosen].value = term.value;
            terms[chosen].chosen = term.slope;
            terms[rejected].rejected = -term.slope;
        }
        terms
    }
}
