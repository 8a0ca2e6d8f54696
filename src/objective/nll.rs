//! The negative log-likelihood of the chosen answer, the term that SFT, ASFT and ORPO share.
//!
//! Two questions have more than one published answer, so both are parameters. *How is it averaged?* `sequence`: the
//! mean over groups of each sequence's mean, which gives every answer the same say (ASFT: it is what makes the
//! closed form at beta 1 an identity); `token`: the mean over all tokens of the optimizer step, which gives every
//! token the same say (TRL's SFT and ORPO). *Which tokens?* `response`: the answer's; `prompt-and-response`: also the
//! prompt's, as TRL's ORPO does.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::loss::reciprocal;
use super::parameters::{Choice, choose};
use super::{Coupling, GroupLogps, GroupLoss, Metrics, ObjectiveError, Scored, Slope};
use crate::data::{Role, StepTotals};

/// How the NLL is averaged over an optimizer step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NllReduction {
    /// The mean over groups of the per-sequence mean.
    Sequence,
    /// The mean over all tokens of the step.
    Token,
    /// The mean over groups of the sum over each sequence.
    Sum,
}

/// Which tokens the NLL covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NllOn {
    /// Those of the chosen answer.
    Response,
    /// Also those of the prompt, from its second token on (the first has no predictor). With the `sequence`
    /// reduction both together are one sequence with one mean.
    #[serde(alias = "prompt_and_response")]
    PromptAndResponse,
}

const REDUCTIONS: &[NllReduction] = &[NllReduction::Sequence, NllReduction::Token, NllReduction::Sum];
const COVERS: &[NllOn] = &[NllOn::Response, NllOn::PromptAndResponse];

impl Display for NllReduction {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            NllReduction::Sequence => "sequence",
            NllReduction::Token => "token",
            NllReduction::Sum => "sum",
        })
    }
}

impl Display for NllOn {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            NllOn::Response => "response",
            NllOn::PromptAndResponse => "prompt-and-response",
        })
    }
}

impl FromStr for NllReduction {
    type Err = ObjectiveError;

    fn from_str(typed: &str) -> Result<Self, ObjectiveError> {
        choose("nll_reduction", typed, REDUCTIONS)
    }
}

impl FromStr for NllOn {
    type Err = ObjectiveError;

    fn from_str(typed: &str) -> Result<Self, ObjectiveError> {
        choose("nll_on", typed, COVERS)
    }
}

/// `--nll-reduction` with an objective's own default.
pub const fn reduction_parameter(default: NllReduction) -> Choice<NllReduction> {
    Choice {
        name: "nll_reduction",
        default,
        choices: &[NllReduction::Sequence, NllReduction::Token],
        help: "how the NLL is averaged: over each sequence and then over groups, or over all tokens of the step",
        slot: |parameters| &mut parameters.nll_reduction,
    }
}

/// `--nll-on` with an objective's own default.
pub const fn on_parameter(default: NllOn) -> Choice<NllOn> {
    Choice {
        name: "nll_on",
        default,
        choices: COVERS,
        help: "the tokens that the NLL covers",
        slot: |parameters| &mut parameters.nll_on,
    }
}

/// The NLL term, of weight 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nll {
    /// How it is averaged.
    pub reduction: NllReduction,
    /// What it covers.
    pub on: NllOn,
    /// The answer that it is of; the chosen one unless somebody says otherwise.
    pub of: Role,
}

impl Nll {
    /// Of the chosen answer.
    pub fn new(reduction: NllReduction, on: NllOn) -> Self {
        Self { reduction, on, of: Role::Chosen }
    }

    /// The mean over the step's tokens of answers in this role.
    pub const fn token_mean(of: Role) -> Self {
        Self { reduction: NllReduction::Token, on: NllOn::Response, of }
    }

    /// Whether prompt tokens carry a coefficient.
    pub fn covers_prompt(&self) -> bool {
        self.on == NllOn::PromptAndResponse
    }

    /// A mean over prompt and answer together is the one form whose coefficients need both lengths.
    pub fn coupling(&self) -> Coupling {
        match (self.reduction, self.on) {
            (NllReduction::Sequence, NllOn::PromptAndResponse) => Coupling::Group,
            _ => Coupling::Sequence,
        }
    }

    /// Adds `weight` times the group's part of the NLL of its step.
    pub(super) fn add(&self, group: &GroupLogps, totals: &StepTotals, weight: f64, loss: &mut GroupLoss) {
        // Skipped rather than multiplied by 0, which would make NaN of a log-prob of -inf.
        if weight == 0.0 {
            return;
        }
        let (sum, tokens) = self.covered(group);
        let slope = match self.reduction {
            NllReduction::Sequence => -reciprocal(totals.groups) * reciprocal(tokens),
            NllReduction::Token => -reciprocal(self.tokens_of_step(totals)),
            NllReduction::Sum => -reciprocal(totals.groups),
        };
        loss.value += weight * (slope * sum);
        loss.push(self.of, weight * slope);
        if self.covers_prompt() {
            loss.prompt.add(&Slope::Uniform(slope), weight);
        }
    }

    /// `d NLL / d logp` of every covered token of the step, where it is a mean over tokens.
    pub(super) fn token_slope(&self, totals: &StepTotals) -> Option<f64> {
        (self.reduction == NllReduction::Token).then(|| -reciprocal(self.tokens_of_step(totals)))
    }

    fn tokens_of_step(&self, totals: &StepTotals) -> usize {
        let prompt_tokens = if self.covers_prompt() { totals.prompt_tokens } else { 0 };
        prompt_tokens + totals.answer_tokens[self.of]
    }

    /// `nll_loss`, in nats per token (per answer where it is a sum): averaged over groups or over tokens, as the loss is.
    pub(super) fn add_metric(&self, group: &GroupLogps, metrics: &mut Metrics) {
        let (sum, tokens) = self.covered(group);
        if tokens == 0 {
            return;
        }
        let tokens = tokens as f64;
        match self.reduction {
            NllReduction::Sequence => metrics.add("nll_loss", -sum / tokens, 1.0),
            NllReduction::Token => metrics.add("nll_loss", -sum / tokens, tokens),
            NllReduction::Sum => metrics.add("nll_loss", -sum, 1.0),
        }
    }

    /// Sum and number of the covered log-probs that the group holds.
    fn covered(&self, group: &GroupLogps) -> (f64, usize) {
        let prompt = group.prompt.as_ref().filter(|_| self.covers_prompt());
        let spans = || prompt.into_iter().chain(&group.answers[self.of]);
        (spans().fold(0.0, |sum, span| sum + span.sum()), spans().map(Scored::tokens).sum())
    }
}
