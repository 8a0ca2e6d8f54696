//! DPOP: DPO-positive, which forbids that the chosen answer become less likely than under the reference (arXiv 2402.13228).
//!
//! ```text
//! L = mean over pairs of softplus(-beta (D - lambda max(0, -r_w)))
//! dL/dr_w = -beta (1 + lambda [r_w < 0]) s      dL/dr_l = beta s,   s = sigmoid(-beta (D - lambda max(0, -r_w)))
//! ```
//!
//! Parameters: `beta` 0.1; `lambda` 0.1 (turbo-alignment's; the paper uses 50, `memory`: not verified). Limits: |dL/dr_w| <= beta (1 +
//! lambda); at r_w = 0 the slope is DPO's.
//!
//! Coupling: group. Reference: needed.

use super::{BETA, DEFAULTS, OPTIONS, Pair, PairLoss, PairTerm, Pairwise, Reward, logistic};
use crate::objective::parameters::{Number, Range};
use crate::objective::registry::Entry;

static LAMBDA: Number = Number {
    name: "lambda",
    default: 0.1,
    range: Range::WEIGHT,
    help: "weight of the penalty on a chosen answer that is less likely than under the reference",
    slot: |parameters| &mut parameters.lambda,
};

/// DPOP in the registry.
pub static ENTRY: Entry = Entry {
    name: "dpop",
    aliases: &["dpo_positive"],
    formula: "L = softplus(-beta (D - lambda max(0, -r_w)))",
    when: "your answers differ little and DPO lowers the likelihood of both",
    parameters: &[&BETA, &LAMBDA, OPTIONS[0], OPTIONS[1]],
    construct: |parameters| {
        let beta = BETA.get(parameters);
        let loss = Dpop { beta, lambda: LAMBDA.get(parameters) };
        Ok(Pairwise::new(&ENTRY, parameters, Reward::LogRatio, beta, loss).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct Dpop {
    beta: f64,
    lambda: f64,
}

impl PairLoss for Dpop {
    fn term(&self, pair: &Pair) -> PairTerm {
        let penalty = self.lambda * (-pair.chosen).max(0.0);
        let term = logistic(self.beta * (pair.difference() - penalty), 0.0).scaled(self.beta);
        let steeper = if pair.chosen < 0.0 { 1.0 + self.lambda } else { 1.0 };
        PairTerm { value: term.value, chosen: steeper * term.slope, rejected: -term.slope }
    }
}
