//! SimPO: preference optimisation on mean log-probs with a margin (arXiv 2405.14734).
//!
//! ```text
//! L = mean over pairs of (1 - e) softplus(-z) + e softplus(z),   z = beta (a_w - a_l) - gamma,   a = s / T
//! dL/da_w = -beta [(1 - e) sigmoid(-z) - e sigmoid(z)] = -dL/da_l
//! ```
//!
//! Parameters: `beta` 2 and `gamma` 0.5 (the paper's beta is 2 to 2.5, `memory`: not verified; TRL 1.16's CPOTrainer has 0.1 and 0.5),
//! `label_smoothing` 0, `alpha` 0, the weight of an NLL (TRL's `cpo_alpha`, which must be 0 for SimPO proper; above: CPO-SimPO).
//! Limits: |dL/da| <= beta.
//!
//! Coupling: group. Reference: none.

use super::{LABEL_SMOOTHING, Pair, PairLoss, PairTerm, Pairwise, Reward, logistic};
use crate::data::Role;
use crate::objective::nll::Nll;
use crate::objective::parameters::{Number, Range};
use crate::objective::registry::{Entry, LearningRate};

static BETA: Number = Number {
    name: "beta",
    default: 2.0,
    range: Range::TEMPERATURE,
    help: "scale of the rewards, which are mean log-probs",
    slot: |parameters| &mut parameters.beta,
};
/// Of SimPO and its kin.
pub static GAMMA: Number = Number {
    name: "gamma",
    default: 0.5,
    range: Range::closed(0.0, 1e6),
    help: "margin by which the chosen answer is to win",
    slot: |parameters| &mut parameters.gamma,
};
static ALPHA: Number = Number {
    name: "alpha",
    default: 0.0,
    range: Range::WEIGHT,
    help: "weight of the NLL of the chosen answer, a mean over the step's tokens",
    slot: |parameters| &mut parameters.alpha,
};

/// SimPO in the registry.
pub static ENTRY: Entry = Entry {
    name: "simpo",
    formula: "L = softplus(-(beta (a_w - a_l) - gamma)),  a = mean logp",
    when: "you have preference pairs, no room for a reference model, and answers of different lengths",
    parameters: &[&BETA, &GAMMA, &LABEL_SMOOTHING, &ALPHA],
    learning_rate: LearningRate { value: 1e-6, source: "TRL 1.16's CPOConfig" },
    construct: |parameters| {
        let (beta, gamma) = (BETA.get(parameters), GAMMA.get(parameters));
        let loss = Margin { beta, gamma, label_smoothing: LABEL_SMOOTHING.get(parameters) };
        let simpo = Pairwise::new(&ENTRY, parameters, Reward::Mean, beta, loss);
        Ok(simpo.with_nll(ALPHA.get(parameters), Nll::token_mean(Role::Chosen)).boxed())
    },
    ..Entry::REFERENCE_FREE
};

/// The logistic loss of `beta D - gamma`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Margin {
    pub beta: f64,
    pub gamma: f64,
    pub label_smoothing: f64,
}

impl PairLoss for Margin {
    fn term(&self, pair: &Pair) -> PairTerm {
        let z = self.beta * pair.difference() - self.gamma;
        logistic(z, self.label_smoothing).scaled(self.beta).into()
    }
}
