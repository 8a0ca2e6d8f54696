//! DiscoPOP: the log-ratio modulated loss that a language model proposed (arXiv 2406.08414, equation 5).
//!
//! ```text
//! L = mean over pairs of (1 - m) softplus(-z) + m e^-z,   z = beta D,  m = sigmoid(z / tau)
//! dL/dz = -(1 - m) sigmoid(-z) - m e^-z + m (1 - m) / tau * (e^-z - softplus(-z))
//! ```
//!
//! Parameters: `beta` 0.1, `tau` 0.05 (TRL 1.16's `discopop_tau`), at most 1. Limits: for z -> -inf `m e^-z` vanishes where
//! e^-z alone overflows (TRL gives NaN beyond z = -88); it is formed as e^(-z - softplus(-z / tau)) here. Not convex: between
//! z = 0 and about 2 tau the slope is positive.
//!
//! Coupling: group. Reference: needed.

use super::{BETA, DEFAULTS, DIVERGENCES, OPTIONS, Pair, PairLoss, PairTerm, Pairwise, Reward};
use crate::objective::odds::{Term, sigmoid, softplus};
use crate::objective::parameters::{Number, Range};
use crate::objective::registry::Entry;

static TAU: Number = Number {
    name: "tau",
    default: 0.05,
    range: Range::closed(1e-3, 1.0),
    help: "how softly the logistic loss goes over into the exponential one",
    slot: |parameters| &mut parameters.tau,
};

/// DiscoPOP in the registry.
pub static ENTRY: Entry = Entry {
    name: "discopop",
    formula: "L = (1 - m) softplus(-z) + m e^-z,  z = beta D,  m = sigmoid(z / tau)",
    when: "you want to try the loss that a search over losses found",
    parameters: &[&BETA, &TAU, DIVERGENCES[0], DIVERGENCES[1], OPTIONS[0], OPTIONS[1]],
    construct: |parameters| {
        let beta = BETA.get(parameters);
        let loss = DiscoPop { beta, tau: TAU.get(parameters) };
        Ok(Pairwise::new(&ENTRY, parameters, Reward::LogRatio, beta, loss).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct DiscoPop {
    beta: f64,
    tau: f64,
}

impl PairLoss for DiscoPop {
    fn term(&self, pair: &Pair) -> PairTerm {
        let z = self.beta * pair.difference();
        let (m, rest) = (sigmoid(z / self.tau), sigmoid(-z / self.tau));
        // m e^-z, whose exponent is never above ln 2.
        let modulated = (-z - softplus(-z / self.tau)).exp();
        let value = rest * softplus(-z) + modulated;
        // (1 - m) / tau grows like |z| e^-z only where m vanishes faster: the product with softplus stays finite.
        let slope = -rest * sigmoid(-z) - modulated + rest / self.tau * (modulated - m * softplus(-z));
        Term { value, slope }.scaled(self.beta).into()
    }
}
