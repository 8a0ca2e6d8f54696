//! Objectives on rows with one completion that see it through one number, its log-ratio `r = s - s_ref`.
//!
//! ```text
//! L = mean over rows of loss(r, what the data say of the row)          dL/dlogp_t = dloss/dr / N
//! ```
//!
//! Metrics: TRL's (`rewards/chosen`, `logps/chosen` of completions with label true, `.../rejected` of the others; `rewards/margins` is
//! the difference of the two means), or `.../completions` where there is no label.

pub mod apa;
pub mod apo_zero_unpaired;
pub mod awr;
pub mod kto;
pub mod uft;

use super::loss::reciprocal;
use super::odds::Term;
use super::parameters::{Number, Range};
use super::registry::{Entry, LearningRate};
use super::{Coupling, GroupLogps, GroupLoss, Metrics, Objective, ReferenceNeed, Scored, each_group};
use crate::data::{Annotations, Role, Roles, Spans, StepTotals};

/// A loss on the log-ratio of one completion.
pub trait RowLoss: Send + Sync + std::fmt::Debug {
    /// The loss and its slope in r.
    fn term(&self, log_ratio: f64, given: &Annotations) -> Term;
}

/// An objective made of a [`RowLoss`].
#[derive(Clone, Debug)]
pub struct Unpaired<L> {
    entry: &'static Entry,
    loss: L,
    /// `rewards/*` are this times the log-ratio.
    scale: f64,
}

impl<L: RowLoss + 'static> Unpaired<L> {
    /// The objective of an entry.
    pub fn boxed(entry: &'static Entry, scale: f64, loss: L) -> Box<dyn Objective> {
        Box::new(Self { entry, loss, scale })
    }
}

impl<L: RowLoss + 'static> Objective for Unpaired<L> {
    fn name(&self) -> &str {
        self.entry.name
    }

    fn coupling(&self) -> Coupling {
        Coupling::Sequence
    }

    fn spans(&self) -> Spans {
        Spans { prompt: false, answers: Roles::COMPLETION }
    }

    fn reference(&self) -> ReferenceNeed {
        ReferenceNeed::Sums
    }

    fn evaluate(&self, groups: &[GroupLogps], totals: &StepTotals) -> Vec<GroupLoss> {
        each_group(groups, |group| {
            let mut loss = GroupLoss::default();
            if let Some(completion) = completion(group) {
                let term = self.loss.term(completion.log_ratio(), group.given);
                loss.value = reciprocal(totals.groups) * term.value;
                loss.push(Role::Completion, reciprocal(totals.groups) * term.slope);
            }
            loss
        })
    }

    fn metrics(&self, group: &GroupLogps, _totals: &StepTotals, metrics: &mut Metrics) {
        add_metrics(self.scale, group, metrics);
    }

    fn step_metrics(&self, _groups: &[GroupLogps], _totals: &StepTotals, metrics: &mut Metrics) {
        add_margin(metrics);
    }
}

fn completion<'a, 'b>(group: &'b GroupLogps<'a>) -> Option<&'b Scored<'a>> {
    group.answers[Role::Completion].as_ref()
}

/// Reward and log-prob of a completion, by its label.
fn add_metrics(scale: f64, group: &GroupLogps, metrics: &mut Metrics) {
    let (Some(completion), true) = (completion(group), group.is_valid()) else { return };
    let (reward, logp) = match group.given.label {
        Some(true) => ("rewards/chosen", "logps/chosen"),
        Some(false) => ("rewards/rejected", "logps/rejected"),
        None => ("rewards/completions", "logps/completions"),
    };
    metrics.add(reward, scale * completion.log_ratio(), 1.0);
    metrics.add(logp, completion.sum(), 1.0);
}

/// The difference of the mean rewards, where there are both.
fn add_margin(metrics: &mut Metrics) {
    if let (Some(w), Some(l)) = (metrics.mean("rewards/chosen"), metrics.mean("rewards/rejected")) {
        metrics.add("rewards/margins", w - l, 1.0);
    }
}

/// `--desirable-weight`.
pub static DESIRABLE_WEIGHT: Number = Number {
    name: "desirable_weight",
    default: 1.0,
    range: Range::WEIGHT,
    help: "weight of completions with label true",
    slot: |parameters| &mut parameters.desirable_weight,
};

/// `--undesirable-weight`.
pub static UNDESIRABLE_WEIGHT: Number = Number {
    name: "undesirable_weight",
    default: 1.0,
    range: Range::WEIGHT,
    help: "weight of completions with label false",
    slot: |parameters| &mut parameters.undesirable_weight,
};

/// What most entries of this family have in common.
pub const DEFAULTS: Entry = Entry {
    reference: true,
    max_references: 1,
    answers: Roles::COMPLETION,
    learning_rate: LearningRate { value: 1e-6, source: "TRL 1.16's KTOConfig" },
    ..Entry::REFERENCE_FREE
};
