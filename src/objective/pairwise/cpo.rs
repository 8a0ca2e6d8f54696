//! CPO: contrastive preference optimisation (arXiv 2401.08417).
//!
//! ```text
//! L = mean over pairs of (1 - e) softplus(-beta (s_w - s_l)) + e softplus(beta (s_w - s_l))  +  alpha * NLL(chosen)
//! ```
//!
//! `s` are sums of log-probs, the NLL a mean over the step's tokens (TRL's).
//!
//! Parameters: `beta` 0.1, `alpha` 1, `label_smoothing` 0 (TRL 1.16's CPOConfig, whose `cpo_alpha` is alpha). Limits: |dL/ds| <= beta
//! beside the NLL's. With alpha 0 it is DPO against a uniform reference.
//!
//! Coupling: group. Reference: none.

use super::simpo::Margin;
use super::{LABEL_SMOOTHING, Pairwise, Reward};
use crate::data::Role;
use crate::objective::nll::Nll;
use crate::objective::parameters::{Number, Range};
use crate::objective::registry::{Entry, LearningRate};

static BETA: Number = Number {
    name: "beta",
    default: 0.1,
    range: Range::TEMPERATURE,
    help: "scale of the rewards, which are summed log-probs",
    slot: |parameters| &mut parameters.beta,
};
static ALPHA: Number = Number {
    name: "alpha",
    default: 1.0,
    range: Range::WEIGHT,
    help: "weight of the NLL of the chosen answer, a mean over the step's tokens",
    slot: |parameters| &mut parameters.alpha,
};

/// CPO in the registry.
pub static ENTRY: Entry = Entry {
    name: "cpo",
    formula: "L = softplus(-beta (s_w - s_l)) + alpha NLL(chosen)",
    when: "you have preference pairs and no room for a reference model",
    parameters: &[&BETA, &ALPHA, &LABEL_SMOOTHING],
    learning_rate: LearningRate { value: 1e-6, source: "TRL 1.16's CPOConfig" },
    construct: |parameters| {
        let beta = BETA.get(parameters);
        let loss = Margin { beta, gamma: 0.0, label_smoothing: LABEL_SMOOTHING.get(parameters) };
        let cpo = Pairwise::new(&ENTRY, parameters, Reward::Sum, beta, loss);
        Ok(cpo.with_nll(ALPHA.get(parameters), Nll::token_mean(Role::Chosen)).boxed())
    },
    ..Entry::REFERENCE_FREE
};
