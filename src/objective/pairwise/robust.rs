//! Robust DPO: an unbiased estimate of DPO's loss under labels that are wrong with a known probability (arXiv 2403.00409).
//!
//! ```text
//! L = mean over pairs of [(1 - e) softplus(-beta D) - e softplus(beta D)] / (1 - 2 e)
//! dL/dD = -beta [(1 - e) sigmoid(-beta D) + e sigmoid(beta D)] / (1 - 2 e)
//! ```
//!
//! Parameters: `beta` 0.1, `label_smoothing` 0 (both TRL 1.16's), in [0, 0.5). Limits: |dL/dD| <= beta / (1 - 2 e); unbounded
//! below as D grows, since a pair that is surely right is taken for one that may be wrong. At e = 0 it is DPO.
//!
//! Coupling: group. Reference: needed.

use super::{BETA, DEFAULTS, DIVERGENCES, OPTIONS, Pair, PairLoss, PairTerm, Pairwise, Reward};
use crate::objective::odds::{Term, sigmoid, softplus};
use crate::objective::parameters::{Number, Range};
use crate::objective::registry::Entry;

/// Up to 0.49: towards 0.5 the estimate has no bound.
static LABEL_SMOOTHING: Number = Number {
    name: "label_smoothing",
    default: 0.0,
    range: Range::closed(0.0, 0.49),
    help: "probability that a preference label is wrong",
    slot: |parameters| &mut parameters.label_smoothing,
};

/// Robust DPO in the registry.
pub static ENTRY: Entry = Entry {
    name: "robust",
    aliases: &["robust_dpo"],
    formula: "L = [(1 - e) softplus(-beta D) - e softplus(beta D)] / (1 - 2 e),  e = label_smoothing",
    when: "you know how many of your preference labels are wrong",
    parameters: &[&BETA, &LABEL_SMOOTHING, DIVERGENCES[0], DIVERGENCES[1], OPTIONS[0], OPTIONS[1]],
    construct: |parameters| {
        let beta = BETA.get(parameters);
        let loss = Robust { beta, label_smoothing: LABEL_SMOOTHING.get(parameters) };
        Ok(Pairwise::new(&ENTRY, parameters, Reward::LogRatio, beta, loss).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct Robust {
    beta: f64,
    label_smoothing: f64,
}

impl PairLoss for Robust {
    fn term(&self, pair: &Pair) -> PairTerm {
        let (e, z) = (self.label_smoothing, self.beta * pair.difference());
        let value = ((1.0 - e) * softplus(-z) - e * softplus(z)) / (1.0 - 2.0 * e);
        let slope = -((1.0 - e) * sigmoid(-z) + e * sigmoid(z)) / (1.0 - 2.0 * e);
        Term { value, slope }.scaled(self.beta).into()
    }
}
