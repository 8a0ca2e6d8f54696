//! APO-zero: anchored preference optimisation for chosen answers better than the model's own (arXiv 2408.06266, equation 7).
//!
//! ```text
//! L = mean over pairs of 1 - sigmoid(beta r_w) + sigmoid(beta r_l)
//! dL/dr_w = -beta v(beta r_w)      dL/dr_l = beta v(beta r_l),   v(z) = sigmoid(z) sigmoid(-z)
//! ```
//!
//! Parameters: `beta` 0.1 (TRL 1.16). Limits: slopes are at most beta / 4 and vanish at both ends; at the reference the loss is 1.
//!
//! Coupling: group. Reference: needed.

use super::{BETA, DEFAULTS, OPTIONS, Pair, PairLoss, PairTerm, Pairwise, Reward, sigmoid_term};
use crate::objective::registry::Entry;

/// APO-zero in the registry.
pub static ENTRY: Entry = Entry {
    name: "apo_zero",
    formula: "L = 1 - sigmoid(beta r_w) + sigmoid(beta r_l)",
    when: "your chosen answers are better than what the model gives now",
    parameters: &[&BETA, OPTIONS[0], OPTIONS[1]],
    construct: |parameters| {
        let beta = BETA.get(parameters);
        Ok(Pairwise::new(&ENTRY, parameters, Reward::LogRatio, beta, ApoZero { beta }).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct ApoZero {
    beta: f64,
}

impl PairLoss for ApoZero {
    fn term(&self, pair: &Pair) -> PairTerm {
        let chosen = sigmoid_term(-self.beta * pair.chosen).scaled(-self.beta);
        PairTerm::separate(chosen, sigmoid_term(self.beta * pair.rejected).scaled(self.beta))
    }
}
