//! Objectives whose coefficients depend on one span alone, in the form in which a device evaluates them.

use super::loss::reciprocal;
use super::nll::Nll;
use crate::data::{Role, StepTotals};

/// `c NLL + lambda [softplus(-beta o_w) + softplus(beta o_l)] + mixed CE(mix)`, which SFT, ASFT and SFTMix are: each span's part of the loss and the
/// slope of its tokens follow from its own log-probs and the step's totals (`kernels/objective.cu` has the formula).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pointwise {
    /// Weight of the NLL.
    pub c: f64,
    /// Weight of the align terms.
    pub lambda: f64,
    /// Temperature on the log-odds.
    pub beta: f64,
    /// Where the linear continuation begins.
    pub logit_eps: f64,
    /// Weight of the cross-entropy of mixtures, a mean over their tokens.
    pub mixed: f64,
    pub(super) nll: Nll,
}

/// [`Pointwise`] with the totals of a step put in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PointwiseWeights {
    /// Weight of the NLL.
    pub c: f64,
    /// `d NLL / d logp` of a covered token, where the NLL is a mean over tokens; else 0.
    pub token_slope: f64,
    /// 1 / N, where the NLL is a mean of sequence means; else 0.
    pub sequence_weight: f64,
    /// lambda / N.
    pub align: f64,
    /// Temperature on the log-odds.
    pub beta: f64,
    /// Where the linear continuation begins.
    pub logit_eps: f64,
    /// `d loss / d logp` of a mixed token.
    pub mixed_slope: f64,
}

impl Pointwise {
    /// The weights for a step.
    pub fn weights(&self, totals: &StepTotals) -> PointwiseWeights {
        let (token_slope, sequence_weight) = match self.nll.token_slope(totals) {
            Some(slope) => (slope, 0.0),
            None => (0.0, reciprocal(totals.groups)),
        };
        PointwiseWeights {
            c: self.c,
            token_slope,
            sequence_weight,
            align: self.lambda * reciprocal(totals.groups),
            beta: self.beta,
            logit_eps: self.logit_eps,
            mixed_slope: -self.mixed * reciprocal(totals.answer_tokens[Role::Mixed]),
        }
    }
}
