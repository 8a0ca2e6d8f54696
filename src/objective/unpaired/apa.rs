//! APA: advantage-induced policy alignment (arXiv 2306.02231), from given advantages.
//!
//! ```text
//! L = (1 / n) sum over tokens of (logp_t - old_t - A_t / lambda)^2,   n the completions' tokens of the step
//! dL/dlogp_t = 2 (logp_t - old_t - A_t / lambda) / n
//! ```
//!
//! Off-policy: roll-outs, value head and advantage estimation are not part of it, and there is no KL term of its own.
//!
//! Data: `advantages` and `old_logps`, one of each per token, as a sampler and a value function gave them. Parameters: `lambda` 0.1 (the authors' adv_coeff_sq 10 = 1 / lambda). Limits: quadratic, so a gradient grows with the distance from the target; lambda at least 1e-6.
//!
//! Coupling: sequence. Reference: none.

use super::{DEFAULTS, completion, reciprocal};
use crate::data::{Annotation, Role, Roles, Spans, StepTotals};
use crate::objective::parameters::{Number, Range};
use crate::objective::registry::{Entry, LearningRate};
use crate::objective::{Coupling, GroupLogps, GroupLoss, Metrics, Objective, Slope, each_group};

static LAMBDA: Number = Number {
    name: "lambda",
    default: 0.1,
    range: Range::INVERTIBLE,
    help: "how far an advantage of 1 moves a log-prob: by 1 / lambda",
    slot: |parameters| &mut parameters.lambda,
};

/// APA in the registry.
pub static ENTRY: Entry = Entry {
    name: "apa",
    formula: "L = (1 / n) sum over tokens of (logp_t - old_t - A_t / lambda)^2",
    when: "you have sampled answers with advantages and want steps that stay near the sampler",
    reference: false,
    max_references: 0,
    annotations: &[Annotation::Advantages, Annotation::OldLogps],
    parameters: &[&LAMBDA],
    learning_rate: LearningRate { value: 1e-6, source: "the authors' examples, arXiv 2306.02231" },
    construct: |parameters| Ok(Box::new(Apa { lambda: LAMBDA.get(parameters) })),
    ..DEFAULTS
};

#[derive(Clone, Copy, Debug)]
struct Apa {
    lambda: f64,
}

impl Objective for Apa {
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
            let old = completion.given.old_logps.as_deref().expect("APA is given old log-probs");
            let advantages = completion.given.advantages.as_deref().expect("APA is given advantages");
            let given = old.iter().zip(advantages);
            let distances = completion.logps.iter().zip(given).map(|(&logp, (&old, &advantage))| {
                f64::from(logp) - f64::from(old) - f64::from(advantage) / self.lambda
            });
            let distances: Vec<f64> = distances.collect();
            loss.value = share * distances.iter().map(|distance| distance * distance).sum::<f64>();
            let slopes = distances.into_iter().map(|distance| 2.0 * share * distance).collect();
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
