//! APO-down: anchored preference optimisation for chosen answers worse than the model's own (arXiv 2408.06266, equation 8).
//!
//! ```text
//! L = mean over pairs of sigmoid(beta r_w) + 1 - sigmoid(beta D)
//! dL/dr_w = beta v(beta r_w) - beta v(beta D)      dL/dr_l = beta v(beta D),   v(z) = sigmoid(z) sigmoid(-z)
//! ```
//!
//! Parameters: `beta` 0.1 (TRL 1.16). Limits: slopes are at most beta / 4 and vanish at both ends; at the reference the loss is 1.
//!
//! Coupling: group. Reference: needed.

use super::{BETA, DEFAULTS, OPTIONS, Pair, PairLoss, PairTerm, Pairwise, Reward, sigmoid_term};
use crate::objective::registry::Entry;

/// APO-down in the registry.
pub static ENTRY: Entry = Entry {
    name: "apo_down",
    formula: "L = sigmoid(beta r_w) + 1 - sigmoid(beta D)",
    when: "your chosen answers are worse than what the model gives now, and the rejected ones worse still",
    parameters: &[&BETA, OPTIONS[0], OPTIONS[1]],
    construct: |parameters| {
        let beta = BETA.get(parameters);
        Ok(Pairwise::new(&ENTRY, parameters, Reward::LogRatio, beta, ApoDown { beta }).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct ApoDown {
    beta: f64,
}

impl PairLoss for ApoDown {
    fn term(&self, pair: &Pair) -> PairTerm {
        let down = sigmoid_term(self.beta * pair.chosen).scaled(self.beta);
        let apart = sigmoid_term(-self.beta * pair.difference()).scaled(-self.beta);
        PairTerm { value: down.value + apart.value, chosen: down.slope + apart.slope, rejected: -apart.slope }
    }
}
