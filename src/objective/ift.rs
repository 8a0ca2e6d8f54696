//! IFT: intuitive fine-tuning on the chosen answer (arXiv 2405.11870, ACL 2025 long.6).
//!
//! Of an answer of n tokens with losses `l_t = -logp_t`, from inputs that are mixed with the model's own predictions
//! ([`Inputs`]): every answer token x goes in as `(1 - lambda) E[x] + lambda E[yhat]`, yhat the token that a pass without
//! gradients found most probable in its place. The targets are the answer's tokens all the same.
//!
//! ```text
//! released:      c_t = sum over j >= t of gamma^(j - t) l_j,   C = sum of c_t
//!                L = (sum of c_t l_t) / C,   dL/dl_k = (c_k + sum over t <= k of gamma^(k - t) (l_t - L)) / C
//! paper-linear:  L = sum over t of sum over j >= t of gamma^(j - t) l_j,   dL/dl_k = (1 - gamma^(k + 1)) / (1 - gamma)
//! none:          L = (sum of l_t) / n
//! ```
//!
//! and the mean over groups of it. `released` is what the authors' code does: each token is weighed by the discounted loss of
//! what follows, so an early one for what it leads to. The weights are part of the graph there, so that a token after an easy
//! beginning can have a negative one, and its log-prob is pushed down; `--ift-detach-weights` takes them as constants:
//! `dL/dl_k = c_k / C`. `paper-linear` is equation 21 of the paper with its decay, taken literally: a sum, not a mean, which
//! weighs late tokens more, up to 1 / (1 - gamma). The two are not the same objective. (The paper's equations are known here
//! from digests of it: `memory`, not verified. Its Eq. 17 is the mixing.)
//!
//! Parameters: `lambda` 0.2 and `gamma` 0.95 (the authors' commands; the paper's best and its decay for long answers, from a
//! digest: not verified). The schedules of lambda, the noise on it and the other weights of the authors' code, which their
//! commands do not use, are left out. `ift_embedding`: the authors feed a frozen copy of the initial table. `frozen` (default) is
//! the nearest without a copy: the inputs are of the table as it is, and no gradient comes back through them. Where head and
//! table are two, the table stays as it was, as theirs does; where they are tied, the head's gradient still trains it, and
//! the inputs follow, where theirs would drift away from the head. `live` trains it through both terms of the mix.
//!
//! Limits: |dL/dl_k| <= n + 1 (`released`), 1 (detached), 1 / (1 - gamma) or n (`paper-linear`). Where every loss is 0, the
//! weights of `released` are 0 / 0: taken as equal. Evaluation: the same function of log-probs from the answer's own tokens
//! as inputs, nothing mixed.
//!
//! Coupling: sequence. Reference: none. Cost: one forward pass more, unless lambda is 0.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::loss::reciprocal;
use super::nll::{Nll, NllOn, NllReduction};
use super::parameters::{Choice, Number, Parameters, Range, choose};
use super::registry::{Entry, LearningRate};
use super::{
    Coupling, GroupLogps, GroupLoss, Inputs, Metrics, Objective, ObjectiveError, Scored, Slope, each_group,
    rewards,
};
use crate::data::{Role, Roles, Spans, StepTotals};

/// How a token's weight follows from the losses of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Propagation {
    /// The discounted loss from it on, normalised: the authors' code.
    Released,
    /// The paper's sum of discounted sums.
    #[serde(alias = "paper_linear")]
    PaperLinear,
    /// All the same.
    None,
}

/// What the embedding table learns from the inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmbeddingPolicy {
    /// Both terms of the mix train it.
    Live,
    /// Nothing: no gradient passes through the inputs.
    Frozen,
}

const PROPAGATIONS: &[Propagation] = &[Propagation::Released, Propagation::PaperLinear, Propagation::None];
const POLICIES: &[EmbeddingPolicy] = &[EmbeddingPolicy::Live, EmbeddingPolicy::Frozen];

impl Display for Propagation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Propagation::Released => "released",
            Propagation::PaperLinear => "paper-linear",
            Propagation::None => "none",
        })
    }
}

impl Display for EmbeddingPolicy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            EmbeddingPolicy::Live => "live",
            EmbeddingPolicy::Frozen => "frozen",
        })
    }
}

impl FromStr for Propagation {
    type Err = ObjectiveError;

    fn from_str(typed: &str) -> Result<Self, ObjectiveError> {
        choose("ift_propagation", typed, PROPAGATIONS)
    }
}

impl FromStr for EmbeddingPolicy {
    type Err = ObjectiveError;

    fn from_str(typed: &str) -> Result<Self, ObjectiveError> {
        choose("ift_embedding", typed, POLICIES)
    }
}

static LAMBDA: Number = Number {
    name: "lambda",
    default: 0.2,
    range: Range::closed(0.0, 1.0),
    help: "share of the predicted token in every input of the answer",
    slot: |parameters| &mut parameters.lambda,
};

static GAMMA: Number = Number {
    name: "gamma",
    default: 0.95,
    range: Range::closed(0.0, 1.0),
    help: "discount per token of the losses that follow one",
    slot: |parameters| &mut parameters.gamma,
};

static PROPAGATION: Choice<Propagation> = Choice {
    name: "ift_propagation",
    default: Propagation::Released,
    choices: PROPAGATIONS,
    help: "how losses of later tokens weigh earlier ones: as the authors' code, as the paper, or not at all",
    slot: |parameters| &mut parameters.ift_propagation,
};

static DETACH: Choice<bool> = Choice {
    name: "ift_detach_weights",
    default: false,
    choices: &[false, true],
    help: "takes the released weights as constants, where the authors' code differentiates through them",
    slot: |parameters| &mut parameters.ift_detach_weights,
};

static EMBEDDING: Choice<EmbeddingPolicy> = Choice {
    name: "ift_embedding",
    default: EmbeddingPolicy::Frozen,
    choices: POLICIES,
    help: "whether the embedding table learns from the inputs; a tied head trains it in any case",
    slot: |parameters| &mut parameters.ift_embedding,
};

/// IFT in the registry.
pub static ENTRY: Entry = Entry {
    name: "ift",
    answers: Roles::CHOSEN,
    formula: "L = (sum of c l) / (sum of c),  c_t = sum over j >= t of gamma^(j-t) l_j,  l = -logp",
    when: "you have good answers only, and want the model to learn from its own predictions beside them",
    parameters: &[&LAMBDA, &GAMMA, &PROPAGATION, &DETACH, &EMBEDDING],
    learning_rate: LearningRate {
        value: 5e-7,
        source: "the authors' commands (RMSprop, batch 512), arXiv 2405.11870",
    },
    construct: |parameters| Ok(Box::new(Ift::new(parameters)?)),
    ..Entry::REFERENCE_FREE
};

/// The NLL that `none` is, and the metric.
const NLL: Nll = Nll { reduction: NllReduction::Sequence, on: NllOn::Response, of: Role::Chosen };

/// Intuitive fine-tuning.
#[derive(Clone, Copy, Debug)]
pub struct Ift {
    propagation: Propagation,
    gamma: f64,
    detach: bool,
    inputs: Inputs,
}

impl Ift {
    fn new(parameters: &Parameters) -> Result<Self, ObjectiveError> {
        let (propagation, detach) = (PROPAGATION.get(parameters), DETACH.get(parameters));
        if detach && propagation != Propagation::Released {
            let problem = format!("--ift-detach-weights has no effect with --ift-propagation {propagation}");
            return Err(ObjectiveError::Contradiction { objective: ENTRY.name, problem });
        }
        let inputs = Inputs {
            predicted: LAMBDA.get(parameters),
            train_embedding: EMBEDDING.get(parameters) == EmbeddingPolicy::Live,
        };
        Ok(Self { propagation, gamma: GAMMA.get(parameters), detach, inputs })
    }

    /// The loss of one answer, and its derivative with respect to the loss of each token; nothing where it is the NLL.
    fn propagated(&self, answer: &Scored) -> Option<(f64, Vec<f64>)> {
        // A log-prob is at most 0; what rounding might put above is no gain.
        let losses: Vec<f64> = answer.logps.iter().map(|&logp| (-f64::from(logp)).max(0.0)).collect();
        match self.propagation {
            Propagation::Released => Some(self.released(&losses)),
            Propagation::PaperLinear => Some(self.paper_linear(&losses)),
            Propagation::None => None,
        }
    }

    fn released(&self, losses: &[f64]) -> (f64, Vec<f64>) {
        let mut weights = losses.to_vec();
        for t in (1..weights.len()).rev() {
            weights[t - 1] += self.gamma * weights[t];
        }
        let total: f64 = weights.iter().sum();
        if total == 0.0 {
            return (0.0, vec![reciprocal(losses.len()); losses.len()]);
        }
        let value = weights.iter().zip(losses).map(|(weight, loss)| weight * loss).sum::<f64>() / total;
        // What the weights of the tokens up to k change with the loss of token k.
        let mut through_weights = 0.0;
        let slope = |(weight, loss): (&f64, &f64)| {
            through_weights = self.gamma * through_weights + (loss - value);
            (weight + if self.detach { 0.0 } else { through_weights }) / total
        };
        (value, weights.iter().zip(losses).map(slope).collect())
    }

    fn paper_linear(&self, losses: &[f64]) -> (f64, Vec<f64>) {
        let weights = std::iter::successors(Some(1.0), |weight| Some(1.0 + self.gamma * weight));
        let weights: Vec<f64> = weights.take(losses.len()).collect();
        (weights.iter().zip(losses).map(|(weight, loss)| weight * loss).sum(), weights)
    }
}

impl Objective for Ift {
    fn name(&self) -> &str {
        ENTRY.name
    }

    fn coupling(&self) -> Coupling {
        Coupling::Sequence
    }

    fn spans(&self) -> Spans {
        Spans { prompt: false, answers: Roles::CHOSEN }
    }

    fn inputs(&self) -> Inputs {
        self.inputs
    }

    fn evaluate(&self, groups: &[GroupLogps], totals: &StepTotals) -> Vec<GroupLoss> {
        let share = reciprocal(totals.groups);
        each_group(groups, |group| {
            let mut loss = GroupLoss::default();
            match group.chosen().and_then(|chosen| self.propagated(chosen)) {
                Some((value, slopes)) => {
                    loss.value = share * value;
                    let slopes = slopes.into_iter().map(|slope| -share * slope).collect();
                    loss.answers[Role::Chosen] = Slope::Tokens(slopes);
                }
                None => NLL.add(group, totals, 1.0, &mut loss),
            }
            loss
        })
    }

    fn metrics(&self, group: &GroupLogps, _totals: &StepTotals, metrics: &mut Metrics) {
        let (Some(chosen), true) = (group.chosen(), group.is_valid()) else { return };
        rewards::add_from_means(1.0, group, metrics);
        NLL.add_metric(group, metrics);
        if let Some((_, slopes)) = self.propagated(chosen) {
            let down = slopes.iter().filter(|slope| **slope < 0.0).count();
            metrics.add("ift/pushed_down_frac", down as f64 * reciprocal(slopes.len()), 1.0);
        }
    }
}
