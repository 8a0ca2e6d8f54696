//! EXO: efficient exact optimisation, for pairs (arXiv 2402.00856, equation 16).
//!
//! ```text
//! L = mean over pairs of q (log q - log(1 - e)) + (1 - q) (log(1 - q) - log e),   q = sigmoid(beta D)
//! dL/dD = beta q (1 - q) (beta D - log((1 - e) / e))
//! ```
//!
//! The reverse KL between the policy's preference `q` and the data's, which are right with probability `1 - e`.
//!
//! Parameters: `beta` 0.1, `label_smoothing` 1e-3 (the paper's; TRL's default 0 gives log 0, an infinite loss). Limits: the
//! slope vanishes as |beta D| grows and never exceeds beta * max over z of bell(z) |z - logit(1 - e)|.
//!
//! Coupling: group. Reference: needed.

use super::{BETA, DEFAULTS, DIVERGENCES, OPTIONS, Pair, PairLoss, PairTerm, Pairwise, Reward, bell};
use crate::objective::odds::{Term, sigmoid, softplus};
use crate::objective::parameters::{Number, Range};
use crate::objective::registry::Entry;

static LABEL_SMOOTHING: Number = Number {
    name: "label_smoothing",
    default: 1e-3,
    range: Range::open(0.0, 0.5),
    help: "probability that a preference label is wrong; never 0",
    slot: |parameters| &mut parameters.label_smoothing,
};

/// EXO in the registry.
pub static ENTRY: Entry = Entry {
    name: "exo",
    aliases: &["exo_pair"],
    formula: "L = q log(q / (1 - e)) + (1 - q) log((1 - q) / e),  q = sigmoid(beta D)",
    when: "you want the reverse KL to the preferences, which seeks a mode, where DPO covers all",
    parameters: &[&BETA, &LABEL_SMOOTHING, DIVERGENCES[0], DIVERGENCES[1], OPTIONS[0], OPTIONS[1]],
    construct: |parameters| {
        let beta = BETA.get(parameters);
        let loss = Exo { beta, label_smoothing: LABEL_SMOOTHING.get(parameters) };
        Ok(Pairwise::new(&ENTRY, parameters, Reward::LogRatio, beta, loss).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct Exo {
    beta: f64,
    label_smoothing: f64,
}

impl PairLoss for Exo {
    fn term(&self, pair: &Pair) -> PairTerm {
        let (e, z) = (self.label_smoothing, self.beta * pair.difference());
        let right = (-e).ln_1p();
        let value = sigmoid(z) * (-softplus(-z) - right) + sigmoid(-z) * (-softplus(z) - e.ln());
        let slope = bell(z) * (z - (right - e.ln()));
        Term { value, slope }.scaled(self.beta).into()
    }
}
