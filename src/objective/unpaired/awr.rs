//! AWR: advantage-weighted regression, the logarithmic loss that APA is compared with (arXiv 2306.02231), from given advantages.
//!
//! ```text
//! L = -(1 / n) sum over tokens of logp_t e^(A_t / lambda),   n the completions' tokens of the step
//! dL/dlogp_t = -e^(A_t / lambda) / n
//! ```
//!
//! Off-policy: roll-outs, value head and advantage estimation are not part of it, and there is no KL term of its own.
//!
//! Data: `advantages`, one per token. Parameters: `lambda` 2.0 (the authors' adv_coeff_log 0.5 = 1 / lambda). Limits: the weight e^(A / lambda) goes on linearly beyond e^30.
//!
//! Coupling: sequence. Reference: none.

use super::{DEFAULTS, completion, reciprocal};
use crate::data::{Annotation, Role, Roles, Spans, StepTotals};
use crate::objective::pairwise::divergence::bounded_exp;
use crate::objective::parameters::{Number, Range};
use crate::objective::registry::{Entry, LearningRate};
use crate::objective::{Coupling, GroupLogps, GroupLoss, Metrics, Objective, Slope, each_group};

static LAMBDA: Number = Number {
    name: "lambda",
    default: 2.0,
    range: Range::INVERTIBLE,
    help: "how far an advantage of 1 moves a log-prob: by 1 / lambda",
    slot: |parameters| &mut parameters.lambda,
};

/// AWR in the registry.
pub static ENTRY: Entry = Entry {
    name: "awr",
    formula: "L = -(1 / n) sum over tokens of logp_t e^(A_t / lambda)",
    when: "you have sampled answers with advantages and no log-probs of the sampler",
    reference: false,
    max_references: 0,
    annotations: &[Annotation::Advantages],
    parameters: &[&LAMBDA],
    learning_rate: LearningRate { value: 1e-6, source: "the authors' examples, arXiv 2306.02231" },
    construct: |parameters| Ok(Box::new(Awr { lambda: LAMBDA.get(parameters) })),
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct Awr {
    lambda: f64,
}

impl Objective for Awr {
    fn name(&self) -> &str {
        ENTRY.name
    }

    fn coupling(&self) -> Coupling {
        Coupling::Sequence
    }

    fn spans(&self) -> Spans {
        Spans { prompt: false, answers: Roles::COMPLETION }
    }

    fn evaluate(&self, groups: &[GroupLogps], totals: &StepTotals) -> Vec<GroupLoss> {
        let share = reciprocal(totals.answer_tokens[Role::Completion]);
        each_group(groups, |group| {
            let mut loss = GroupLoss::default();
            let Some(completion) = completion(group) else { return loss };
            let advantages = completion.given.advantages.as_deref().expect("AWR is given advantages");
            let weights = advantages.iter().map(|&a| bounded_exp(f64::from(a) / self.lambda).value);
            let weights: Vec<f64> = weights.collect();
            let weighted =
                completion.logps.iter().zip(&weights).map(|(&logp, weight)| weight * f64::from(logp));
            loss.value = -share * weighted.sum::<f64>();
            let slopes = weights.into_iter().map(|weight| -share * weight).collect();
            loss.answers[Role::Completion] = Slope::Tokens(slopes);
            loss
        })
    }

    fn metrics(&self, group: &GroupLogps, _totals: &StepTotals, metrics: &mut Metrics) {
        if let (Some(completion), true) = (completion(group), group.is_valid()) {
            metrics.add("logps/completions", completion.sum(), 1.0);
        }
    }
}
