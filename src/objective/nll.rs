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

use super::parameters::{Choice, choose};
use super::slopes::reciprocal;
use super::{Coupling, GroupLogps, Metrics, ObjectiveError, Scored};
use crate::data::StepTotals;

/// How the NLL is averaged over an optimizer step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NllReduction {
    /// The mean over groups of the per-sequence mean.
    Sequence,
    /// The mean over all tokens of the step.
    Token,
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

const REDUCTIONS: &[NllReduction] = &[NllReduction::Sequence, NllReduction::Token];
const COVERS: &[NllOn] = &[NllOn::Response, NllOn::PromptAndResponse];

impl Display for NllReduction {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            NllReduction::Sequence => "sequence",
            NllReduction::Token => "token",
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
        choices: REDUCTIONS,
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
}

/// A group's part of the NLL of its step.
pub(super) struct NllTerm {
    /// In nats, with its final 1/N.
    pub loss: f64,
    /// `d loss / d logp` of every prompt token: 0 where the prompt is not covered.
    pub prompt: f64,
    /// `d loss / d logp` of every token of the chosen answer.
    pub chosen: f64,
}

impl Nll {
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

    pub(super) fn term(&self, group: &GroupLogps, totals: &StepTotals) -> NllTerm {
        let (sum, tokens) = self.covered(group);
        let slope =
            self.token_slope(totals).unwrap_or_else(|| -reciprocal(totals.groups) * reciprocal(tokens));
        let prompt = if self.covers_prompt() { slope } else { 0.0 };
        NllTerm { loss: slope * sum, prompt, chosen: slope }
    }

    /// `d NLL / d logp` of every covered token of the step, where it is a mean over tokens.
    pub(super) fn token_slope(&self, totals: &StepTotals) -> Option<f64> {
        let prompt_tokens = if self.covers_prompt() { totals.prompt_tokens } else { 0 };
        (self.reduction == NllReduction::Token).then(|| -reciprocal(prompt_tokens + totals.chosen_tokens))
    }

    /// `nll_loss`, in nats per token: averaged over groups or over tokens, as the loss is.
    pub(super) fn add_metric(&self, group: &GroupLogps, metrics: &mut Metrics) {
        let (sum, tokens) = self.covered(group);
        if tokens == 0 {
            return;
        }
        let weight = match self.reduction {
            NllReduction::Sequence => 1.0,
            NllReduction::Token => tokens as f64,
        };
        metrics.add("nll_loss", -sum / tokens as f64, weight);
    }

    /// Sum and number of the covered log-probs that the group holds.
    fn covered(&self, group: &GroupLogps) -> (f64, usize) {
        let prompt = group.prompt.as_ref().filter(|_| self.covers_prompt());
        let spans = || prompt.into_iter().chain(&group.chosen);
        (spans().fold(0.0, |sum, span| sum + span.sum()), spans().map(Scored::tokens).sum())
    }
}
