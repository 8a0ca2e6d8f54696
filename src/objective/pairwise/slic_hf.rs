//! SLiC-HF: sequence likelihood calibration (arXiv 2305.10425).
//!
//! ```text
//! L = mean over pairs of max(0, delta - beta (s_w - s_l))  +  lambda * NLL(chosen)
//! ```
//!
//! `s` are sums of log-probs. The paper regularises with the NLL of an SFT target; here that is the chosen answer's, a mean of
//! sequence means, and off by default: turbo-alignment's regulariser is a constant and has no gradient.
//!
//! Parameters: `delta` 1, `beta` 1, `lambda` 0 (`memory`: not verified). Limits: the slope is 0 or beta; at the edge itself 0.
//!
//! Coupling: group. Reference: none.

use super::hinge::hinge;
use super::{Pair, PairLoss, PairTerm, Pairwise, Reward};
use crate::objective::nll::Nll;
use crate::objective::parameters::{Number, Range};
use crate::objective::registry::{Entry, LearningRate};
use crate::objective::{NllOn, NllReduction};

static BETA: Number = Number {
    name: "beta",
    default: 1.0,
    range: Range::TEMPERATURE,
    help: "scale of the rewards, which are summed log-probs",
    slot: |parameters| &mut parameters.beta,
};
static DELTA: Number = Number {
    name: "delta",
    default: 1.0,
    range: Range::closed(0.0, 1e6),
    help: "margin by which the chosen answer is to win",
    slot: |parameters| &mut parameters.delta,
};
static LAMBDA: Number = Number {
    name: "lambda",
    default: 0.0,
    range: Range::WEIGHT,
    help: "weight of the NLL of the chosen answer",
    slot: |parameters| &mut parameters.lambda,
};

/// SLiC-HF in the registry.
pub static ENTRY: Entry = Entry {
    name: "slic_hf",
    aliases: &["slic"],
    formula: "L = max(0, delta - beta (s_w - s_l)) + lambda NLL(chosen)",
    when: "you want a margin loss without a reference model",
    parameters: &[&BETA, &DELTA, &LAMBDA],
    learning_rate: LearningRate { value: 1e-6, source: "as TRL 1.16's CPOConfig" },
    construct: |parameters| {
        let beta = BETA.get(parameters);
        let loss = SlicHf { beta, delta: DELTA.get(parameters) };
        let slic = Pairwise::new(&ENTRY, parameters, Reward::Sum, beta, loss);
        let nll = Nll::new(NllReduction::Sequence, NllOn::Response);
        Ok(slic.with_nll(LAMBDA.get(parameters), nll).boxed())
    },
    ..Entry::REFERENCE_FREE
};

#[derive(Clone, Copy, Debug)]
struct SlicHf {
    beta: f64,
    delta: f64,
}

impl PairLoss for SlicHf {
    fn term(&self, pair: &Pair) -> PairTerm {
        hinge(self.delta, self.beta * pair.difference()).scaled(self.beta).into()
    }
}
