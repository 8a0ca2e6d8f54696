//! Weights of tokens and of pairs. They are numbers, not functions: no gradient goes through them.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::divergence::bounded_exp;
use crate::objective::parameters::{Choice, Number, Range, choose};
use crate::objective::{ObjectiveError, Scored};

/// `--ld-alpha`: LD-DPO (arXiv 2409.06411).
pub static LD_ALPHA: Number = Number {
    name: "ld_alpha",
    default: 1.0,
    range: Range::closed(0.0, 1.0),
    help: "weight of the tokens of an answer beyond the length of its partner (LD-DPO, arXiv 2409.06411)",
    slot: |parameters| &mut parameters.ld_alpha,
};

/// `--weighting`.
pub static WEIGHTING: Choice<Weighting> = Choice {
    name: "weighting",
    default: Weighting::None,
    choices: &[Weighting::None, Weighting::Wpo],
    help: "weight of a pair: none, or how probable the policy finds its answers (WPO, arXiv 2406.11827)",
    slot: |parameters| &mut parameters.weighting,
};

/// The weight of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weighting {
    /// 1.
    None,
    /// WPO's: the product over both answers of `exp(mean over tokens of (logp - log sum_v p_v^2))` (arXiv 2406.11827,
    /// equation 2), which is near 1 for answers that the policy would give itself.
    Wpo,
}

impl Display for Weighting {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Weighting::None => "none",
            Weighting::Wpo => "wpo",
        })
    }
}

impl FromStr for Weighting {
    type Err = ObjectiveError;

    fn from_str(typed: &str) -> Result<Self, ObjectiveError> {
        choose("weighting", typed, WEIGHTING.choices)
    }
}

impl Weighting {
    /// The weight of a pair.
    ///
    /// # Panics
    ///
    /// For WPO, if the answers come without statistics.
    pub fn of(self, chosen: &Scored, rejected: &Scored) -> f64 {
        match self {
            Weighting::None => 1.0,
            Weighting::Wpo => alignment(chosen) * alignment(rejected),
        }
    }
}

fn alignment(answer: &Scored) -> f64 {
    let statistics =
        answer.statistics.expect("an objective that needs statistics is only given groups that have them");
    let tokens = answer.logps.iter().zip(statistics.log_sum_squares);
    let sum = tokens.fold(0.0, |sum, (&logp, &squares)| sum + (f64::from(logp) - f64::from(squares)));
    (sum / answer.tokens() as f64).exp()
}

/// The weights of an answer's tokens within its reward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TokenWeights {
    /// 1.
    One,
    /// 1 up to the length of the shorter answer, `ld_alpha` beyond.
    Tail {
        /// LD-DPO's alpha.
        ld_alpha: f64,
    },
    /// Those of the data ([`crate::data::AnswerAnnotations::weights`]).
    Given,
    /// `1 + m_t min(1 / p_t, delta)` with the data's m; the reference has weights of its own probabilities.
    Inverse {
        /// The bound.
        delta: f64,
    },
}

/// The weighted log-probs of an answer.
pub(super) struct Weighted {
    /// Their sum under the policy.
    pub sum: f64,
    /// Their sum under the reference.
    pub reference: f64,
    /// The weights under the policy.
    pub tokens: Vec<f64>,
}

impl TokenWeights {
    /// The weighted sums of an answer beside its partner; `None` where all weights are 1.
    pub(super) fn of(self, answer: &Scored, partner: &Scored) -> Option<Weighted> {
        let given = || {
            answer.given.weights.as_deref().expect("an objective that weighs tokens is given their weights")
        };
        let inverse = |logp: f32, m: f32, delta: f64| {
            // min(1 / p, delta) without the overflow of 1 / p.
            let bound =
                if f64::from(logp) < -delta.ln() { delta } else { bounded_exp(-f64::from(logp)).value };
            1.0 + f64::from(m) * bound
        };
        let of = |logps: &[f32]| -> Vec<f64> {
            match self {
                TokenWeights::One => Vec::new(),
                TokenWeights::Tail { ld_alpha } => {
                    let shared = partner.tokens();
                    (0..logps.len()).map(|token| if token < shared { 1.0 } else { ld_alpha }).collect()
                }
                TokenWeights::Given => given().iter().map(|&weight| f64::from(weight)).collect(),
                TokenWeights::Inverse { delta } => {
                    logps.iter().zip(given()).map(|(&logp, &m)| inverse(logp, m, delta)).collect()
                }
            }
        };
        if self == TokenWeights::One {
            return None;
        }
        let sum = |logps: &[f32], weights: &[f64]| {
            logps.iter().zip(weights).fold(0.0, |sum, (&logp, weight)| sum + weight * f64::from(logp))
        };
        let reference = answer.reference_tokens();
        let tokens = of(answer.logps);
        Some(Weighted { sum: sum(answer.logps, &tokens), reference: sum(reference, &of(reference)), tokens })
    }
}
