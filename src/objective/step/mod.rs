//! Objectives on all pairs of the optimizer step together.
//!
//! A batch is the optimizer step, however it is cut into micro-batches (elsewhere: the micro-batch), and in an evaluation the
//! whole data set. Coupling: step. Metrics: TRL's, as [`pairwise`](super::pairwise).

pub mod aot;
pub mod aot_unpaired;
pub mod relative_po;

use super::loss::reciprocal;
use super::pairwise::PairTerm;
use super::registry::Entry;
use super::rewards::{self, Rewarded};
use super::{Coupling, GroupLogps, GroupLoss, Metrics, Objective, ReferenceNeed, Scored};
use crate::data::{Role, Roles, Spans, StepTotals};

/// What a loss sees of one pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepPair<'a> {
    /// s_w and s_l
    pub policy: [f64; 2],
    /// The same under the reference.
    pub reference: [f64; 2],
    /// Of the prompt, where the data have one.
    pub embedding: Option<&'a [f32]>,
}

impl StepPair<'_> {
    /// r_w and r_l
    pub fn log_ratios(&self) -> [f64; 2] {
        [self.policy[0] - self.reference[0], self.policy[1] - self.reference[1]]
    }
}

/// A loss on all pairs of a step.
pub trait StepLoss: Send + Sync + std::fmt::Debug {
    /// Each pair's share in the sum of the losses, and the slopes of that sum in the pair's two rewards; to be divided by
    /// the number of pairs.
    fn terms(&self, pairs: &[StepPair]) -> Vec<PairTerm>;
}

/// An objective made of a [`StepLoss`].
#[derive(Clone, Debug)]
pub struct Stepwise<L> {
    entry: &'static Entry,
    loss: L,
    /// `rewards/*` are this times the log-ratio.
    scale: f64,
}

impl<L: StepLoss + 'static> Stepwise<L> {
    /// The objective of an entry.
    pub fn boxed(entry: &'static Entry, scale: f64, loss: L) -> Box<dyn Objective> {
        Box::new(Self { entry, loss, scale })
    }
}

/// Both answers of a group that can be used.
fn answers<'a, 'b>(group: &'b GroupLogps<'a>) -> Option<[&'b Scored<'a>; 2]> {
    let (chosen, rejected) = group.chosen().zip(group.rejected()).filter(|_| group.is_valid())?;
    Some([chosen, rejected])
}

impl<L: StepLoss + 'static> Objective for Stepwise<L> {
    fn name(&self) -> &str {
        self.entry.name
    }

    fn coupling(&self) -> Coupling {
        Coupling::Step
    }

    fn spans(&self) -> Spans {
        Spans { prompt: false, answers: Roles::PAIR }
    }

    fn reference(&self) -> ReferenceNeed {
        ReferenceNeed::Sums
    }

    fn evaluate(&self, groups: &[GroupLogps], totals: &StepTotals) -> Vec<GroupLoss> {
        let pairs: Vec<Option<StepPair>> = groups
            .iter()
            .map(|group| {
                let answers = answers(group)?;
                let embedding = group.given.prompt_embedding.as_deref();
                let (policy, reference) = (answers.map(Scored::sum), answers.map(Scored::reference));
                Some(StepPair { policy, reference, embedding })
            })
            .collect();
        let usable: Vec<StepPair> = pairs.iter().flatten().copied().collect();
        let mut terms = self.loss.terms(&usable).into_iter();
        let weight = reciprocal(totals.groups);
        let losses = pairs.into_iter().map(|pair| {
            let mut loss = GroupLoss::default();
            if let Some(term) = pair.and_then(|_| terms.next()) {
                loss.value = weight * term.value;
                loss.push(Role::Chosen, weight * term.chosen);
                loss.push(Role::Rejected, weight * term.rejected);
            }
            loss
        });
        losses.collect()
    }

    fn metrics(&self, group: &GroupLogps, _totals: &StepTotals, metrics: &mut Metrics) {
        if let Some(answers) = answers(group) {
            let rewarded = |answer: &Scored| {
                Some(Rewarded { reward: self.scale * answer.log_ratio(), logp: answer.sum() })
            };
            rewards::add_pair(answers.map(rewarded), metrics);
        }
    }
}

/// The places of these numbers in ascending order; equal ones stay in their order.
fn ranked(numbers: &[f64]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..numbers.len()).collect();
    places.sort_by(|&a, &b| numbers[a].total_cmp(&numbers[b]));
    places
}
