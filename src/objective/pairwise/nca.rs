//! NCA: noise contrastive alignment, for pairs (arXiv 2402.05369).
//!
//! ```text
//! L = mean over pairs of softplus(-beta r_w) + 0.5 softplus(beta r_w) + 0.5 softplus(beta r_l)
//! dL/dr_w = -beta sigmoid(-beta r_w) + 0.5 beta sigmoid(beta r_w)      dL/dr_l = 0.5 beta sigmoid(beta r_l)
//! ```
//!
//! Parameters: `beta` 0.1 (TRL 1.16). Limits: slopes are at most beta. Unlike DPO's, the loss is least at a finite reward of
//! the chosen answer, whose likelihood it keeps from falling.
//!
//! Coupling: group. Reference: needed.

use super::{BETA, DEFAULTS, OPTIONS, Pair, PairLoss, PairTerm, Pairwise, Reward, softplus_term};
use crate::objective::registry::Entry;

/// NCA in the registry.
pub static ENTRY: Entry = Entry {
    name: "nca",
    aliases: &["nca_pair"],
    formula: "L = softplus(-beta r_w) + 0.5 softplus(beta r_w) + 0.5 softplus(beta r_l)",
    when: "DPO lowers the likelihood of your chosen answers and you want it kept",
    parameters: &[&BETA, OPTIONS[0], OPTIONS[1]],
    construct: |parameters| {
        let beta = BETA.get(parameters);
        Ok(Pairwise::new(&ENTRY, parameters, Reward::LogRatio, beta, Nca { beta }).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct Nca {
    beta: f64,
}

impl PairLoss for Nca {
    fn term(&self, pair: &Pair) -> PairTerm {
        let (w, l) = (self.beta * pair.chosen, self.beta * pair.rejected);
        let chosen = softplus_term(-w).scaled(-1.0) + 0.5 * softplus_term(w);
        PairTerm::separate(chosen.scaled(self.beta), 0.5 * softplus_term(l).scaled(self.beta))
    }
}
