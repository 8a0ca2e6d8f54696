//! Objectives: from the log-probs of groups to their loss, the derivative for every token, and metrics.
//!
//! Job: the mathematics of preference losses, in f64, each written once, in a file of its own that holds
//! formula, source, limits, parameters and defaults. Boundary: nothing here knows models, devices or files. A
//! caller hands in log-probs and gets `d loss / d logp` back; the head turns that into gradients
//! (`dZ[t,v] = g[t] * (1[v = y_t] - softmax(Z_t)[v])`).
//!
//! Letters, as in the papers: `w` the chosen answer, `l` the rejected one, `s` the sum of an answer's token
//! log-probs, `a` their mean, `s_ref` the sum under a reference model, `r = s - s_ref`, `D = r_w - r_l`, `p = exp(a)`,
//! `o = log(p / (1 - p))` the log-odds, `N` the groups of the optimizer step, `T` the tokens of a span.
//!
//! What an objective sees is [`scored`], what it gives back [`loss`]. Families with a form in common have a folder with
//! that form in its `mod.rs`: [`pairwise`] (two rewards), [`unpaired`] (one), [`step`] (every group of the optimizer
//! step). To add an objective: one file and its line in [`registry::OBJECTIVES`] (`docs/add-an-objective.md`).

pub mod asft;
pub mod combination;
pub mod ift;
pub mod inputs;
pub mod loss;
pub mod nll;
pub mod odds;
pub mod orpo;
pub mod pairwise;
pub mod parameters;
mod pointwise;
pub mod registry;
pub mod scored;
pub mod sft;
pub mod sftmix;
pub mod step;
pub mod unpaired;

mod error;
mod metrics;
mod rewards;
mod units;

pub use error::ObjectiveError;
pub use inputs::Inputs;
pub use loss::{GroupLoss, Slope};
pub use metrics::Metrics;
pub use nll::{NllOn, NllReduction};
pub use parameters::Parameters;
pub use pointwise::{Pointwise, PointwiseWeights};
pub use registry::{Selection, build, select};
pub use scored::{GroupLogps, RowScores, Rows, Scored, Statistics};
pub use units::coefficients_of_units;

use crate::data::{Mixing, Reference, Roles, Spans, StepTotals};

/// What must be scored before a coefficient is known, from the least to the most: the head may finish one such
/// unit alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Coupling {
    /// The coefficients of a span depend on that span alone.
    Sequence,
    /// They depend on the spans of one group.
    Group,
    /// They depend on all groups of the optimizer step, however it is cut into micro-batches: all of them are scored
    /// first, without gradients, then every micro-batch goes forward and backward with its coefficients given.
    Step,
}

impl Coupling {
    /// The name that listings show.
    pub fn as_str(self) -> &'static str {
        match self {
            Coupling::Sequence => "sequence",
            Coupling::Group => "group",
            Coupling::Step => "step",
        }
    }
}

/// What an objective must be told of a reference model, from the least to the most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReferenceNeed {
    /// Nothing: none is loaded.
    #[default]
    None,
    /// The summed log-prob of every answer.
    Sums,
    /// The log-prob of every token.
    Tokens,
}

impl ReferenceNeed {
    /// What is asked for of an answer with these log-probs under the reference model.
    pub fn of(self, logps: &[f32]) -> Reference {
        let tokens = Reference::Tokens(logps.into());
        match self {
            ReferenceNeed::Tokens => tokens,
            ReferenceNeed::None | ReferenceNeed::Sums => Reference::Sum(tokens.sum()),
        }
    }
}

/// A loss over groups, as a pure function of their log-probs.
pub trait Objective: Send + Sync + std::fmt::Debug {
    /// The name in the [registry], or the names and weights of a sum.
    fn name(&self) -> &str;

    /// What must be scored before the coefficients are known.
    fn coupling(&self) -> Coupling;

    /// Which spans are scored; the others need not reach the head.
    fn spans(&self) -> Spans;

    /// Which of the scored answers carry a coefficient. With [`Coupling::Step`] the others are left out of the pass with
    /// gradients.
    fn learns_from(&self) -> Roles {
        self.spans().answers
    }

    /// How rows are mixed in their final hidden states, if they are: then a step holds whole pairs of rows, and what two have
    /// in common is scored as [`Role::Mixed`](crate::data::Role::Mixed), beside [`Objective::spans`]. Not in an evaluation.
    fn mixing(&self) -> Option<Mixing> {
        None
    }

    /// What every answer must come with.
    fn reference(&self) -> ReferenceNeed {
        ReferenceNeed::None
    }

    /// Whether it needs a reference model's log-probs at all.
    fn needs_reference(&self) -> bool {
        self.reference() != ReferenceNeed::None
    }

    /// Whether [`Scored::statistics`] must be there.
    fn statistics(&self) -> bool {
        false
    }

    /// What the model is given for the tokens in training. Evaluation gives it the tokens themselves.
    fn inputs(&self) -> Inputs {
        Inputs::TOKENS
    }

    /// The loss where policy and reference are one model, as at the first step of a run from the reference: the same for
    /// all data, and so a check of the whole path. `None` where it depends on the data.
    fn loss_at_reference(&self) -> Option<f64> {
        None
    }

    /// What a device needs to form the coefficients by itself; `None` where only [`Objective::evaluate`] can. Used with
    /// [`Coupling::Sequence`] only.
    fn pointwise(&self) -> Option<Pointwise> {
        None
    }

    /// Loss and derivatives of each group, already divided by the step's totals: the losses of all groups add up to the
    /// step's loss.
    ///
    /// With [`Coupling::Step`] the groups are all those of the optimizer step, in its order. Otherwise they are any of
    /// them, each of which is evaluated for itself. With [`Coupling::Sequence`] a partial group is right as well: an
    /// absent span contributes nothing, so that a sequence can be finished alone. With any other coupling the spans of
    /// [`Objective::spans`] must be there.
    ///
    /// # Panics
    ///
    /// If an answer comes without what [`Objective::reference`] or [`Objective::statistics`] asks for.
    fn evaluate(&self, groups: &[GroupLogps], totals: &StepTotals) -> Vec<GroupLoss>;

    /// Adds the metrics of a complete group, under TRL's names, weighted so that merging gives the mean over
    /// groups (over tokens for a token-mean NLL). A metric of a span that is absent is not given.
    ///
    /// # Panics
    ///
    /// As [`Objective::evaluate`].
    fn metrics(&self, group: &GroupLogps, totals: &StepTotals, metrics: &mut Metrics);

    /// Adds the metrics that only all groups together have, after those of each.
    fn step_metrics(&self, _groups: &[GroupLogps], _totals: &StepTotals, _metrics: &mut Metrics) {}
}

/// Evaluates groups each for itself; one with an empty answer is worth nothing.
fn each_group(groups: &[GroupLogps], evaluate: impl Fn(&GroupLogps) -> GroupLoss) -> Vec<GroupLoss> {
    let valid = |group: &GroupLogps| group.is_valid().then(|| evaluate(group));
    groups.iter().map(|group| valid(group).unwrap_or_default()).collect()
}
