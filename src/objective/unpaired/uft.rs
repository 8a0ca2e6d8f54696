//! UFT: unified fine-tuning, SFT and alignment in one loss on scored completions (arXiv 2410.21438).
//!
//! ```text
//! L = mean over rows of (sigmoid(beta r) - y)^2,   y in [0, 1] the completion's score
//! dL/dr = 2 beta (sigmoid(beta r) - y) sigmoid(beta r) sigmoid(-beta r)
//! ```
//!
//! A demonstration is a completion with score 1.
//!
//! Data: `score`, from 0 to 1. Parameters: `beta` 0.01 (the paper's). The default learning rate is DPO's: the paper's 3e-5 is for LoRA.
//! Limits: slopes are at most beta / 2.
//!
//! Coupling: sequence. Reference: needed.

use super::{DEFAULTS, RowLoss, Unpaired};
use crate::data::{Annotation, Annotations, Role};
use crate::objective::odds::Term;
use crate::objective::pairwise::sigmoid_term;
use crate::objective::parameters::{Number, Range};
use crate::objective::registry::{Entry, LearningRate};

static BETA: Number = Number {
    name: "beta",
    default: 0.01,
    range: Range::TEMPERATURE,
    help: "strength of the tie to the reference model",
    slot: |parameters| &mut parameters.beta,
};

/// UFT in the registry.
pub static ENTRY: Entry = Entry {
    name: "uft",
    formula: "L = (sigmoid(beta r) - y)^2,  y = score from 0 to 1",
    when: "you have single answers with scores, and demonstrations beside them",
    annotations: &[Annotation::Score],
    parameters: &[&BETA],
    learning_rate: LearningRate { value: 1e-6, source: "as TRL 1.16's DPOConfig" },
    construct: |parameters| {
        let beta = BETA.get(parameters);
        Ok(Unpaired::boxed(&ENTRY, beta, Uft { beta }))
    },
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct Uft {
    beta: f64,
}

impl RowLoss for Uft {
    fn term(&self, log_ratio: f64, given: &Annotations) -> Term {
        let score = given.answers[Role::Completion].score.expect("an objective on scores is given them");
        let sigmoid = sigmoid_term(self.beta * log_ratio).scaled(self.beta);
        let distance = sigmoid.value - score;
        Term { value: distance * distance, slope: 2.0 * distance * sigmoid.slope }
    }
}
