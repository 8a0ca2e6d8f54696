//! BMC: DPO that counts more the tokens in which the answers differ and that the policy finds unlikely (arXiv 2408.07471).
//!
//! ```text
//! L = mean over pairs of softplus(-beta D),   r = sum_t w_t logp_t - sum_t w_t^ref logp_t^ref
//! w_t = 1 + m_t min(1 / p_t, delta),   m_t = 1 where the token is changed between the answers, else 0
//! ```
//!
//! Weights carry no gradient; those of the reference come from its own probabilities, as in the authors' code.
//!
//! Data: `chosen_weights` and `rejected_weights` are the m. Parameters: `beta` 0.1 (the authors' Llama-3 recipe has 0.01), `delta` 2
//! (1.5 there). Limits: w is at most 1 + delta. With m = 0 it is DPO.
//!
//! Coupling: group. Reference: needed, token by token.

use super::weights::TokenWeights;
use super::{BETA, DEFAULTS, Pair, PairLoss, PairTerm, Pairwise, Reward, logistic};
use crate::data::Annotation;
use crate::objective::parameters::{Number, Range};
use crate::objective::registry::Entry;

static DELTA: Number = Number {
    name: "delta",
    default: 2.0,
    range: Range::closed(1.0, 1e3),
    help: "bound of a changed token's additional weight 1 / p",
    slot: |parameters| &mut parameters.delta,
};

/// BMC in the registry.
pub static ENTRY: Entry = Entry {
    name: "bmc",
    aliases: &["dpo_bmc"],
    formula: "L = softplus(-beta D),  r = sum of w logp - its reference,  w = 1 + m min(1 / p, delta)",
    when: "one answer is an edit of the other and you know which tokens were changed",
    annotations: &[Annotation::Weights],
    parameters: &[&BETA, &DELTA],
    construct: |parameters| {
        let beta = BETA.get(parameters);
        let weights = TokenWeights::Inverse { delta: DELTA.get(parameters) };
        let dpo = Pairwise::new(&ENTRY, parameters, Reward::LogRatio, beta, Bmc { beta });
        Ok(dpo.with_tokens(weights).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct Bmc {
    beta: f64,
}

impl PairLoss for Bmc {
    fn term(&self, pair: &Pair) -> PairTerm {
        logistic(self.beta * pair.difference(), 0.0).scaled(self.beta).into()
    }
}
