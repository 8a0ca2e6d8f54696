//! TPO: triple preference optimisation, a pair with a gold answer beside it (arXiv 2405.16681).
//!
//! ```text
//! L = mean over pairs of (1 - e) softplus(-beta (s_w - s_l)) + e softplus(beta (s_w - s_l))  +  alpha * NLL(gold)
//! ```
//!
//! `s` are sums of log-probs, the NLL a mean over the step's gold tokens. The gold answer is no reference model.
//!
//! Data: `reference_response`, the gold answer. Parameters: `beta` 0.01, `alpha` 1 (the paper's and TRL's `tpo_alpha`), `label_smoothing` 0. With
//! `alpha` 0 the gold answer is not read. Limits: |dL/ds| <= beta beside the NLL's.
//!
//! Coupling: group. Reference: none.

use super::simpo::Margin;
use super::{LABEL_SMOOTHING, Pairwise, Reward};
use crate::data::{Role, Roles};
use crate::objective::nll::Nll;
use crate::objective::parameters::{Number, Range};
use crate::objective::registry::{Entry, LearningRate};

static BETA: Number = Number {
    name: "beta",
    default: 0.01,
    range: Range::TEMPERATURE,
    help: "scale of the rewards, which are summed log-probs",
    slot: |parameters| &mut parameters.beta,
};
/// Of both forms of TPO.
pub static ALPHA: Number = Number {
    name: "alpha",
    default: 1.0,
    range: Range::WEIGHT,
    help: "weight of the NLL of the gold answer, a mean over the step's tokens",
    slot: |parameters| &mut parameters.alpha,
};
/// The answers that rows must have.
pub const TRIPLE: Roles = Roles::of(&[Role::Chosen, Role::Rejected, Role::Third]);

/// TPO in the registry.
pub static ENTRY: Entry = Entry {
    name: "tpo",
    formula: "L = softplus(-beta (s_w - s_l)) + alpha NLL(reference_response)",
    when: "you have a gold answer beside each pair",
    answers: TRIPLE,
    parameters: &[&BETA, &ALPHA, &LABEL_SMOOTHING],
    learning_rate: LearningRate { value: 5e-7, source: "arXiv 2405.16681" },
    construct: |parameters| {
        let beta = BETA.get(parameters);
        let loss = Margin { beta, gamma: 0.0, label_smoothing: LABEL_SMOOTHING.get(parameters) };
        let tpo = Pairwise::new(&ENTRY, parameters, Reward::Sum, beta, loss);
        Ok(tpo.with_nll(ALPHA.get(parameters), Nll::token_mean(Role::Third)).boxed())
    },
    ..Entry::REFERENCE_FREE
};
