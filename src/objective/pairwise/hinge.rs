//! Hinge loss on log-ratios: SLiC with a reference (arXiv 2305.10425 as normalised in 2309.06657), RSO's hinge-norm.
//!
//! ```text
//! L = mean over pairs of max(0, 1 - beta D)         dL/dD = -beta while beta D < 1, else 0
//! ```
//!
//! Parameters: `beta` 0.1 (TRL 1.16; RSO's gamma is 0.05, `memory`: not verified). Limits: |dL/dD| <= beta; at the edge itself
//! the slope is 0.
//!
//! Coupling: group. Reference: needed.

use super::{BETA, DEFAULTS, DIVERGENCES, OPTIONS, Pair, PairLoss, PairTerm, Pairwise, Reward};
use crate::objective::odds::Term;
use crate::objective::registry::Entry;

/// The hinge loss in the registry.
pub static ENTRY: Entry = Entry {
    name: "hinge",
    aliases: &["rso_hinge_norm"],
    formula: "L = max(0, 1 - beta D)",
    when: "pairs that are well separated should not move the model any more",
    parameters: &[&BETA, DIVERGENCES[0], DIVERGENCES[1], OPTIONS[0], OPTIONS[1]],
    construct: |parameters| {
        let beta = BETA.get(parameters);
        Ok(Pairwise::new(&ENTRY, parameters, Reward::LogRatio, beta, Hinge { beta }).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct Hinge {
    beta: f64,
}

impl PairLoss for Hinge {
    fn term(&self, pair: &Pair) -> PairTerm {
        hinge(1.0, self.beta * pair.difference()).scaled(self.beta).into()
    }
}

/// `max(0, margin - z)` with its slope in z.
pub(super) fn hinge(margin: f64, z: f64) -> Term {
    if z < margin { Term { value: margin - z, slope: -1.0 } } else { Term { value: 0.0, slope: 0.0 } }
}
