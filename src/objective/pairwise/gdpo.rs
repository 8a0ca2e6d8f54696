//! GDPO: DPO on geometrically averaged answers, for soft labels (arXiv 2409.06691).
//!
//! ```text
//! L = mean over pairs of softplus(-beta (2 p - 1) D),   p the probability that the chosen answer is the better one
//! dL/dD = -beta (2 p - 1) sigmoid(-beta (2 p - 1) D)
//! ```
//!
//! Averaging the policies of both answers with weights p and 1 - p turns D into (2 p - 1) D.
//!
//! Data: `soft_label`, p in [0, 1] (below 1/2 the labels are the wrong way round and the term turns). Parameters: `beta` 0.1, as DPO's.
//! Limits: |dL/dD| <= beta |2 p - 1|; at p = 1 it is DPO, at p = 1/2 nothing is learnt.
//!
//! Coupling: group. Reference: needed.

use super::{BETA, DEFAULTS, OPTIONS, Pair, PairLoss, PairTerm, Pairwise, Reward, logistic};
use crate::data::Annotation;
use crate::objective::registry::Entry;

/// GDPO in the registry.
pub static ENTRY: Entry = Entry {
    name: "gdpo",
    formula: "L = softplus(-beta (2 p - 1) D),  p = soft_label",
    when: "your labels say how sure they are",
    annotations: &[Annotation::SoftLabel],
    parameters: &[&BETA, OPTIONS[0], OPTIONS[1]],
    construct: |parameters| {
        let beta = BETA.get(parameters);
        Ok(Pairwise::new(&ENTRY, parameters, Reward::LogRatio, beta, Gdpo { beta }).boxed())
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct Gdpo {
    beta: f64,
}

impl PairLoss for Gdpo {
    fn term(&self, pair: &Pair) -> PairTerm {
        let scale = self.beta * (2.0 * pair.soft_label.unwrap_or(1.0) - 1.0);
        logistic(scale * pair.difference(), 0.0).scaled(scale).into()
    }
}
