//! KTO: Kahneman-Tversky optimisation on single completions (arXiv 2402.01306, equation 7).
//!
//! ```text
//! L = mean over rows of  w_d (1 - sigmoid(beta (r - z)))  for label true,  w_u (1 - sigmoid(beta (z - r)))  for label false
//! z = max(0, mean over the rows of the step of s - s_ref of a mismatched completion)          (no gradient)
//! dL/dr = -w_d beta v(beta (r - z))  or  w_u beta v(beta (z - r)),   v(x) = sigmoid(x) sigmoid(-x)
//! ```
//!
//! `z` estimates how far the policy has drifted from the reference: the log-ratio of completions that do not belong to their
//! prompt. Every prompt gets the completion of the next row of the file (the last row the first's; TRL pairs up rows
//! within a batch as it happens to fall): it is the same in every epoch, so that its reference log-prob is computed once. Behind its
//! prompt it is packed like an answer, scored with the others, and left out of the pass with gradients.
//!
//! A batch is the optimizer step, however it is cut into micro-batches (in TRL: the micro-batch), and in an evaluation the
//! whole data set.
//!
//! Data: `label`. Parameters: `beta` 0.1, `desirable_weight` 1, `undesirable_weight` 1 (TRL 1.16's). Limits: slopes are at most beta / 4
//! times the weight.
//!
//! Coupling: step. Reference: needed. Metrics: also `kl`, which is z.

use super::{
    DEFAULTS, DESIRABLE_WEIGHT, UNDESIRABLE_WEIGHT, add_margin, add_metrics, completion, reciprocal,
};
use crate::data::{Annotation, Role, Roles, Spans, StepTotals};
use crate::objective::pairwise::{BETA, sigmoid_term};
use crate::objective::registry::Entry;
use crate::objective::{Coupling, GroupLogps, GroupLoss, Metrics, Objective, ReferenceNeed, each_group};

/// KTO in the registry.
pub static ENTRY: Entry = Entry {
    name: "kto",
    formula: "L = 1 - sigmoid(beta (r - z)) for label true, 1 - sigmoid(beta (z - r)) for false,  \
              z = max(0, mean r of mismatched completions)",
    when: "you have single answers labelled good or bad and no pairs",
    annotations: &[Annotation::Label],
    answers: ROLES,
    parameters: &[&BETA, &DESIRABLE_WEIGHT, &UNDESIRABLE_WEIGHT],
    construct: |parameters| {
        Ok(Box::new(Kto {
            beta: BETA.get(parameters),
            desirable: DESIRABLE_WEIGHT.get(parameters),
            undesirable: UNDESIRABLE_WEIGHT.get(parameters),
        }))
    },
    ..DEFAULTS
};

const ROLES: Roles = Roles::of(&[Role::Completion, Role::Mismatched]);

#[derive(Clone, Copy, Debug)]
struct Kto {
    beta: f64,
    desirable: f64,
    undesirable: f64,
}

impl Kto {
    /// z
    fn drift(groups: &[GroupLogps]) -> f64 {
        let valid = groups.iter().filter(|group| group.is_valid());
        let ratios: Vec<f64> =
            valid.filter_map(|group| Some(group.answers[Role::Mismatched].as_ref()?.log_ratio())).collect();
        let mean = reciprocal(ratios.len()) * ratios.iter().sum::<f64>();
        // Not `max`, which would make 0 of a NaN that must be seen.
        if mean < 0.0 { 0.0 } else { mean }
    }
}

impl Objective for Kto {
    fn name(&self) -> &str {
        ENTRY.name
    }

    fn coupling(&self) -> Coupling {
        Coupling::Step
    }

    fn spans(&self) -> Spans {
        Spans { prompt: false, answers: ROLES }
    }

    fn learns_from(&self) -> Roles {
        Roles::COMPLETION
    }

    fn reference(&self) -> ReferenceNeed {
        ReferenceNeed::Sums
    }

    fn evaluate(&self, groups: &[GroupLogps], totals: &StepTotals) -> Vec<GroupLoss> {
        let drift = Self::drift(groups);
        each_group(groups, |group| {
            let mut loss = GroupLoss::default();
            if let Some(completion) = completion(group) {
                let (weight, scale) = match group.given.label {
                    Some(false) => (self.undesirable, self.beta),
                    _ => (self.desirable, -self.beta),
                };
                let term = weight * sigmoid_term(scale * (completion.log_ratio() - drift)).scaled(scale);
                loss.value = reciprocal(totals.groups) * term.value;
                loss.push(Role::Completion, reciprocal(totals.groups) * term.slope);
            }
            loss
        })
    }

    fn metrics(&self, group: &GroupLogps, _totals: &StepTotals, metrics: &mut Metrics) {
        add_metrics(self.beta, group, metrics);
    }

    fn step_metrics(&self, groups: &[GroupLogps], _totals: &StepTotals, metrics: &mut Metrics) {
        add_margin(metrics);
        metrics.add("kl", Self::drift(groups), 1.0);
    }
}
