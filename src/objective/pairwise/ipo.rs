//! IPO: identity preference optimisation (arXiv 2310.12036, equation 17).
//!
//! ```text
//! L = mean over pairs of (x_w - x_l - 1 / (2 beta))^2,   x = r / T
//! ```
//!
//! `x` are means over tokens: TRL's reading, which the authors confirmed to TRL (the paper writes sums).
//!
//! Parameters: `beta` 0.1 (TRL 1.16), the paper's tau. Limits: quadratic, so a gradient grows with the distance from the
//! margin aimed at; beta at least 1e-6.
//!
//! Coupling: group. Reference: needed.

use super::{DEFAULTS, DIVERGENCES, OPTIONS, Pair, PairLoss, PairTerm, Pairwise, Reward, TARGET_BETA};
use crate::objective::odds::Term;
use crate::objective::registry::Entry;

/// IPO in the registry.
pub static ENTRY: Entry = Entry {
    name: "ipo",
    formula: "L = (r_w / T_w - r_l / T_l - 1 / (2 beta))^2",
    when: "preferences are nearly deterministic and DPO drifts too far from the reference",
    parameters: &[&TARGET_BETA, DIVERGENCES[0], DIVERGENCES[1], OPTIONS[0], OPTIONS[1]],
    construct: |parameters| {
        let beta = TARGET_BETA.get(parameters);
        Ok(Pairwise::new(&ENTRY, parameters, Reward::MeanLogRatio, beta, Ipo { beta }).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct Ipo {
    beta: f64,
}

impl PairLoss for Ipo {
    fn term(&self, pair: &Pair) -> PairTerm {
        square(pair.difference() - 0.5 / self.beta).into()
    }
}

/// `d^2` with its slope.
pub(super) fn square(distance: f64) -> Term {
    Term { value: distance * distance, slope: 2.0 * distance }
}
