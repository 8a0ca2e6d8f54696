//! Cal-DPO: DPO with rewards calibrated to fixed values (arXiv 2412.14516).
//!
//! ```text
//! L = mean over pairs of softplus(-D) + (r_w - 1 / (2 beta))^2 + (r_l + 1 / (2 beta))^2
//! ```
//!
//! turbo-alignment's form: the contrastive term has no beta of its own.
//!
//! Parameters: `beta` 0.1, which sets the rewards aimed at. Limits: quadratic, so a gradient grows with the distance from the
//! reward aimed at; beta at least 1e-6.
//!
//! Coupling: group. Reference: needed.

use super::ipo::square;
use super::{DEFAULTS, OPTIONS, Pair, PairLoss, PairTerm, Pairwise, Reward, TARGET_BETA, logistic};
use crate::objective::registry::Entry;

/// Cal-DPO in the registry.
pub static ENTRY: Entry = Entry {
    name: "cal_dpo",
    formula: "L = softplus(-D) + (r_w - 1 / (2 beta))^2 + (r_l + 1 / (2 beta))^2",
    when: "rewards should have a scale of their own and the chosen answer's must not fall",
    parameters: &[&TARGET_BETA, OPTIONS[0], OPTIONS[1]],
    construct: |parameters| {
        let beta = TARGET_BETA.get(parameters);
        Ok(Pairwise::new(&ENTRY, parameters, Reward::LogRatio, beta, CalDpo { beta }).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct CalDpo {
    beta: f64,
}

impl PairLoss for CalDpo {
    fn term(&self, pair: &Pair) -> PairTerm {
        let (target, apart) = (0.5 / self.beta, logistic(pair.difference(), 0.0));
        let (w, l) = (square(pair.chosen - target), square(pair.rejected + target));
        PairTerm {
            value: apart.value + w.value + l.value,
            chosen: apart.slope + w.slope,
            rejected: l.slope - apart.slope,
        }
    }
}
