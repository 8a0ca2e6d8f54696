//! SPPO: self-play preference optimisation with hard labels (arXiv 2405.00675, equation 4.7 with P = 1 and 0).
//!
//! ```text
//! L = mean over pairs of (r_w - 1 / (2 beta))^2 + (r_l + 1 / (2 beta))^2
//! dL/dr_w = 2 (r_w - 1 / (2 beta))      dL/dr_l = 2 (r_l + 1 / (2 beta))
//! ```
//!
//! Parameters: `beta` 0.1 (TRL 1.16), the inverse of the paper's eta. Limits: quadratic, so a gradient grows with the distance
//! from the reward aimed at; beta at least 1e-6.
//!
//! Coupling: group. Reference: needed.

use super::ipo::square;
use super::{DEFAULTS, OPTIONS, Pair, PairLoss, PairTerm, Pairwise, Reward, TARGET_BETA};
use crate::objective::registry::Entry;

/// SPPO in the registry.
pub static ENTRY: Entry = Entry {
    name: "sppo",
    aliases: &["sppo_hard"],
    formula: "L = (r_w - 1 / (2 beta))^2 + (r_l + 1 / (2 beta))^2",
    when: "rewards should settle at fixed values, as in rounds of self-play",
    parameters: &[&TARGET_BETA, OPTIONS[0], OPTIONS[1]],
    construct: |parameters| {
        let beta = TARGET_BETA.get(parameters);
        Ok(Pairwise::new(&ENTRY, parameters, Reward::LogRatio, beta, Sppo { beta }).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct Sppo {
    beta: f64,
}

impl PairLoss for Sppo {
    fn term(&self, pair: &Pair) -> PairTerm {
        let target = 0.5 / self.beta;
        PairTerm::separate(square(pair.chosen - target), square(pair.rejected + target))
    }
}
