//! APO-zero on single completions (arXiv 2408.06266, equation 7, row by row; TRL's KTO trainer has it).
//!
//! ```text
//! L = mean over rows of  w_d (1 - sigmoid(beta r))  for label true,  w_u sigmoid(beta r)  for label false
//! dL/dr = -w_d beta v(beta r)  or  w_u beta v(beta r),   v(z) = sigmoid(z) sigmoid(-z)
//! ```
//!
//! Data: `label`. Parameters: `beta` 0.1, `desirable_weight` 1, `undesirable_weight` 1 (TRL 1.16's). Limits: slopes are at most beta / 4
//! times the weight.
//!
//! Coupling: sequence. Reference: needed.

use super::{DEFAULTS, DESIRABLE_WEIGHT, RowLoss, UNDESIRABLE_WEIGHT, Unpaired};
use crate::data::{Annotation, Annotations};
use crate::objective::odds::Term;
use crate::objective::pairwise::{BETA, sigmoid_term};
use crate::objective::registry::Entry;

/// APO-zero unpaired in the registry.
pub static ENTRY: Entry = Entry {
    name: "apo_zero_unpaired",
    formula: "L = 1 - sigmoid(beta r) for label true, sigmoid(beta r) for label false",
    when: "you have single answers labelled good or bad, the good ones better than what the model gives now",
    annotations: &[Annotation::Label],
    parameters: &[&BETA, &DESIRABLE_WEIGHT, &UNDESIRABLE_WEIGHT],
    construct: |parameters| {
        let beta = BETA.get(parameters);
        let (desirable, undesirable) = (DESIRABLE_WEIGHT.get(parameters), UNDESIRABLE_WEIGHT.get(parameters));
        Ok(Unpaired::boxed(&ENTRY, beta, ApoZeroUnpaired { beta, desirable, undesirable }))
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct ApoZeroUnpaired {
    beta: f64,
    desirable: f64,
    undesirable: f64,
}

impl RowLoss for ApoZeroUnpaired {
    fn term(&self, log_ratio: f64, given: &Annotations) -> Term {
        let (weight, scale) = match given.label {
            Some(false) => (self.undesirable, self.beta),
            _ => (self.desirable, -self.beta),
        };
        weight * sigmoid_term(scale * log_ratio).scaled(scale)
    }
}
