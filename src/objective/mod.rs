//! Objectives: from the log-probs of one group to its loss, the derivative for every token, and its metrics.
//!
//! Job: the mathematics of preference losses, in f64, each written once, in a file of its own that holds
//! formula, source, limits, parameters and defaults. Boundary: nothing here knows models, devices or files. A
//! caller hands in log-probs and gets `d loss / d logp` back; the head turns that into gradients
//! (`dZ[t,v] = g[t] * (1[v = y_t] - softmax(Z_t)[v])`).
//!
//! Letters, as in the papers: `w` the chosen answer, `l` the rejected one, `s` the sum of an answer's token
//! log-probs, `a` their mean, `p = exp(a)`, `o = log(p / (1 - p))` the log-odds, `N` the groups of the optimizer
//! step, `T` the tokens of a span.
//!
//! To add an objective: one file with a type that implements [`Objective`] and a `static ENTRY`, and its line in
//! [`registry::OBJECTIVES`].

pub mod asft;
pub mod dpo;
pub mod nll;
pub mod odds;
pub mod orpo;
pub mod parameters;
mod pointwise;
pub mod registry;
pub mod sft;

mod error;
mod metrics;
mod rewards;
mod slopes;
mod units;

pub use error::ObjectiveError;
pub use metrics::Metrics;
pub use nll::{NllOn, NllReduction};
pub use parameters::Parameters;
pub use pointwise::{Pointwise, PointwiseWeights};
pub use registry::build;
pub use units::coefficients_of_units;

use crate::data::{Spans, StepTotals};

/// What must be scored before a coefficient is known, from the least to the most: the head may finish one such
/// unit alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coupling {
    /// The coefficients of a span depend on that span alone.
    Sequence,
    /// They depend on the spans of one group.
    Group,
}

impl Coupling {
    /// The name that listings show.
    pub fn as_str(self) -> &'static str {
        match self {
            Coupling::Sequence => "sequence",
            Coupling::Group => "group",
        }
    }
}

/// The log-probs of one span.
#[derive(Clone, Copy, Debug)]
pub struct Scored<'a> {
    /// One natural-log probability per token of the span.
    pub logps: &'a [f32],
    /// The summed log-prob of the same span under the reference model.
    pub reference: Option<f64>,
}

impl Scored<'_> {
    /// Tokens of the span.
    pub fn tokens(&self) -> usize {
        self.logps.len()
    }

    /// `s`: the log-probs added up in f64, in order, so that the same span gives the same bits anywhere.
    pub fn sum(&self) -> f64 {
        self.logps.iter().fold(0.0, |sum, &logp| sum + f64::from(logp))
    }

    /// `a = s / T`. Only for spans that are not empty, as [`GroupLogps::is_valid`] says of answers.
    pub fn mean(&self) -> f64 {
        self.sum() / self.tokens() as f64
    }
}

/// The scored spans of one group. A span that was not scored, or is not at hand yet, is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupLogps<'a> {
    /// The prompt's tokens 1..P, present where the NLL covers them; empty if the prompt is one token long.
    pub prompt: Option<Scored<'a>>,
    /// The chosen answer.
    pub chosen: Option<Scored<'a>>,
    /// The rejected answer.
    pub rejected: Option<Scored<'a>>,
}

impl GroupLogps<'_> {
    /// Whether every answer present has a token. The loader drops rows with an empty answer; should one come
    /// through all the same, objectives give 0 for its group and write nothing, rather than divide by zero.
    pub fn is_valid(&self) -> bool {
        [&self.chosen, &self.rejected].into_iter().flatten().all(|answer| answer.tokens() > 0)
    }
}

/// Where the coefficients go: `d loss / d logp` of every token of a span, carrying its final 1/N. A `None` is not
/// written, so that with no span at all only the loss is computed.
#[derive(Debug, Default)]
pub struct GroupCoefficients<'a> {
    /// As long as the prompt span.
    pub prompt: Option<&'a mut [f32]>,
    /// As long as the chosen answer.
    pub chosen: Option<&'a mut [f32]>,
    /// As long as the rejected answer.
    pub rejected: Option<&'a mut [f32]>,
}

/// A loss over groups, as a pure function of their log-probs.
pub trait Objective: Send + Sync + std::fmt::Debug {
    /// The name in the [registry].
    fn name(&self) -> &'static str;

    /// What must be scored before the coefficients are known.
    fn coupling(&self) -> Coupling;

    /// Which spans carry a coefficient; the others need not reach the head.
    fn spans(&self) -> Spans;

    /// Whether every answer must come with its [`Scored::reference`].
    fn needs_reference(&self) -> bool;

    /// What a device needs to form the coefficients by itself; `None` where only [`Objective::coefficients`] can. Used with
    /// [`Coupling::Sequence`] only.
    fn pointwise(&self) -> Option<Pointwise> {
        None
    }

    /// The group's part of the step's loss in nats, already divided by the step's totals: the parts of all groups
    /// add up to the step's loss. Overwrites every span of `out`, with zeros where the objective has no
    /// coefficient for it.
    ///
    /// With [`Coupling::Sequence`] a partial group is right as well: an absent span contributes nothing, so that a
    /// sequence can be finished alone. With any other coupling the spans of [`Objective::spans`] and the chosen
    /// answer must be there.
    ///
    /// # Panics
    ///
    /// If [`Objective::needs_reference`] and an answer comes without it.
    fn coefficients(&self, group: &GroupLogps, totals: &StepTotals, out: &mut GroupCoefficients) -> f64;

    /// Adds the metrics of a complete group, under TRL's names, weighted so that merging gives the mean over
    /// groups (over tokens for a token-mean NLL). A metric of a span that is absent is not given.
    ///
    /// # Panics
    ///
    /// As [`Objective::coefficients`].
    fn metrics(&self, group: &GroupLogps, totals: &StepTotals, metrics: &mut Metrics);
}
