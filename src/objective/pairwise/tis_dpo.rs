//! TIS-DPO: DPO with an importance weight for every token (arXiv 2410.04350).
//!
//! ```text
//! L = mean over pairs of softplus(-beta D),   r = sum over tokens of w_t (logp_t - logp_t^ref)
//! ```
//!
//! The token-level KL term of the paper (`token_level`, off in the authors' configuration) is left out.
//!
//! Data: `chosen_weights` and `rejected_weights` are the w, from wherever you estimate them (the authors: a contrast of two
//! models; the paper's `k exp(mu clamp(., L, U))` is `memory`: not verified). Parameters: `beta` 0.1 (the authors'). Limits: as
//! DPO's, times w. With weights 1 it is DPO.
//!
//! Coupling: group. Reference: needed, token by token.

use super::weights::TokenWeights;
use super::{BETA, DEFAULTS, Pair, PairLoss, PairTerm, Pairwise, Reward, logistic};
use crate::data::Annotation;
use crate::objective::registry::Entry;

/// TIS-DPO in the registry.
pub static ENTRY: Entry = Entry {
    name: "tis_dpo",
    formula: "L = softplus(-beta D),  r = sum of w (logp - logp_ref)",
    when: "you know how much each token contributes to the preference",
    annotations: &[Annotation::Weights],
    parameters: &[&BETA],
    construct: |parameters| {
        let beta = BETA.get(parameters);
        let dpo = Pairwise::new(&ENTRY, parameters, Reward::LogRatio, beta, TisDpo { beta });
        Ok(dpo.with_tokens(TokenWeights::Given).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct TisDpo {
    beta: f64,
}

impl PairLoss for TisDpo {
    fn term(&self, pair: &Pair) -> PairTerm {
        logistic(self.beta * pair.difference(), 0.0).scaled(self.beta).into()
    }
}
