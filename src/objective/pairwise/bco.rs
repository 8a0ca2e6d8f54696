//! BCO: binary classifier optimisation, for pairs (arXiv 2404.04656).
//!
//! ```text
//! L = mean over pairs of softplus(-beta r_w) + softplus(beta r_l)
//! dL/dr_w = -beta sigmoid(-beta r_w)      dL/dr_l = beta sigmoid(beta r_l)
//! ```
//!
//! Without the reward shift delta, as in TRL 1.16: the paper (and TRL before) subtracts a running mean of both rewards.
//!
//! Parameters: `beta` 0.1 (TRL 1.16). Limits: slopes are at most beta; at the reference the loss is 2 ln 2.
//!
//! Coupling: group. Reference: needed.

use super::{BETA, DEFAULTS, OPTIONS, Pair, PairLoss, PairTerm, Pairwise, Reward, softplus_term};
use crate::objective::registry::Entry;

/// BCO in the registry.
pub static ENTRY: Entry = Entry {
    name: "bco",
    aliases: &["bco_pair"],
    formula: "L = softplus(-beta r_w) + softplus(beta r_l)",
    when: "answers are good or bad by themselves, and not only better or worse than their partner",
    parameters: &[&BETA, OPTIONS[0], OPTIONS[1]],
    construct: |parameters| {
        let beta = BETA.get(parameters);
        Ok(Pairwise::new(&ENTRY, parameters, Reward::LogRatio, beta, Bco { beta }).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct Bco {
    beta: f64,
}

impl PairLoss for Bco {
    fn term(&self, pair: &Pair) -> PairTerm {
        let chosen = softplus_term(-self.beta * pair.chosen).scaled(-self.beta);
        PairTerm::separate(chosen, softplus_term(self.beta * pair.rejected).scaled(self.beta))
    }
}
