//! TPO-L: triple preference optimisation on mean log-probs with a margin (arXiv 2405.16681).
//!
//! ```text
//! L = mean over pairs of (1 - e) softplus(-z) + e softplus(z)  +  alpha * NLL(gold),   z = beta (a_w - a_l) - gamma
//! ```
//!
//! Data: `reference_response`, the gold answer. Parameters: `beta` 0.01, `gamma` 0.5, `alpha` 1 (TRL 1.16's `tpo_l_gamma` and `tpo_alpha`; the
//! paper's Llama-3 instruct recipe has beta 10, gamma 3, alpha 0.05), `label_smoothing` 0. Limits: |dL/da| <= beta beside the NLL's.
//!
//! Coupling: group. Reference: none.

use super::simpo::{GAMMA, Margin};
use super::tpo::{ALPHA, TRIPLE};
use super::{LABEL_SMOOTHING, Pairwise, Reward};
use crate::data::Role;
use crate::objective::nll::Nll;
use crate::objective::parameters::{Number, Range};
use crate::objective::registry::{Entry, LearningRate};

static BETA: Number = Number {
    name: "beta",
    default: 0.01,
    range: Range::TEMPERATURE,
    help: "scale of the rewards, which are mean log-probs",
    slot: |parameters| &mut parameters.beta,
};

/// TPO-L in the registry.
pub static ENTRY: Entry = Entry {
    name: "tpo_l",
    formula: "L = softplus(-(beta (a_w - a_l) - gamma)) + alpha NLL(reference_response)",
    when: "as tpo, where answers of very different lengths must not differ by their length alone",
    answers: TRIPLE,
    parameters: &[&BETA, &GAMMA, &ALPHA, &LABEL_SMOOTHING],
    learning_rate: LearningRate { value: 5e-7, source: "arXiv 2405.16681" },
    construct: |parameters| {
        let (beta, gamma) = (BETA.get(parameters), GAMMA.get(parameters));
        let loss = Margin { beta, gamma, label_smoothing: LABEL_SMOOTHING.get(parameters) };
        let tpo = Pairwise::new(&ENTRY, parameters, Reward::Mean, beta, loss);
        Ok(tpo.with_nll(ALPHA.get(parameters), Nll::token_mean(Role::Third)).boxed())
    },
    ..Entry::REFERENCE_FREE
};
