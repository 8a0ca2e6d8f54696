//! GIPO: IPO on geometrically averaged answers, for soft labels (arXiv 2409.06691; the form is `memory`: not verified).
//!
//! ```text
//! L = mean over pairs of ((2 p - 1) D - 1 / (2 beta))^2,   p the probability that the chosen answer is the better one
//! ```
//!
//! Averaging the policies of both answers with weights p and 1 - p turns D into (2 p - 1) D.
//!
//! Data: `soft_label`, p in [0, 1] (below 1/2 the labels are the wrong way round and the term turns). Parameters: `beta` 0.1, as DPO's.
//! Limits: quadratic; D is a difference of sums, as in the paper. At p = 1/2 nothing is learnt.
//!
//! Coupling: group. Reference: needed.

use super::ipo::square;
use super::{DEFAULTS, OPTIONS, Pair, PairLoss, PairTerm, Pairwise, Reward, TARGET_BETA};
use crate::data::Annotation;
use crate::objective::registry::Entry;

/// GIPO in the registry.
pub static ENTRY: Entry = Entry {
    name: "gipo",
    formula: "L = ((2 p - 1) D - 1 / (2 beta))^2,  p = soft_label",
    when: "as gdpo, with labels that are nearly deterministic where they are sure",
    annotations: &[Annotation::SoftLabel],
    parameters: &[&TARGET_BETA, OPTIONS[0], OPTIONS[1]],
    construct: |parameters| {
        let beta = TARGET_BETA.get(parameters);
        Ok(Pairwise::new(&ENTRY, parameters, Reward::LogRatio, beta, Gipo { beta }).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct Gipo {
    beta: f64,
}

impl PairLoss for Gipo {
    fn term(&self, pair: &Pair) -> PairTerm {
        let confidence = 2.0 * pair.soft_label.unwrap_or(1.0) - 1.0;
        square(confidence * pair.difference() - 0.5 / self.beta).scaled(confidence).into()
    }
}
