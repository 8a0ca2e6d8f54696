//! Objectives on a preference pair that see each answer through one number, its reward.
//!
//! ```text
//! r = sum over tokens of w_t logp_t  -  the same under the reference    (or without a reference)
//! x = f(r), or f(r) / T
//! L = mean over pairs of W * loss(x_w, x_l)  (+ weight * NLL)
//! dL/dlogp_t = W * dloss/dx * f'(r) * w_t / N   (divided by T where x is a mean)
//! ```
//!
//! A loss says what `loss` and its two slopes are ([`PairLoss`]) and which of these rewards it takes ([`Pairwise`]); the rest is
//! here: `f` is the score of an f-divergence ([`divergence`]), `w_t` are token weights and `W` weights of pairs
//! ([`weights`]), all 1 unless asked for, and none of them has a gradient of its own.
//!
//! Coupling: group. Metrics: TRL's (`rewards/*` are `scale * r`, `logps/*` sums, or means where x is a mean without a reference).

pub mod ada_dpo;
pub mod alphapo;
pub mod apo_down;
pub mod apo_zero;
pub mod bco;
pub mod bmc;
pub mod cal_dpo;
pub mod cpo;
pub mod discopop;
pub mod divergence;
pub mod dpo;
pub mod dpop;
pub mod exo;
pub mod gdpo;
pub mod gipo;
pub mod hinge;
pub mod ipo;
pub mod mrpo;
pub mod nca;
pub mod robust;
pub mod rpo;
pub mod sigmoid_norm;
pub mod simpo;
pub mod slic_hf;
pub mod sppo;
pub mod tis_dpo;
pub mod tpo;
pub mod tpo_l;
pub mod weights;

pub use divergence::Divergence;
pub use weights::Weighting;

use self::divergence::{DIVERGENCE, F_ALPHA, Score};
use self::weights::{LD_ALPHA, TokenWeights, WEIGHTING};
use super::loss::reciprocal;
use super::nll::Nll;
use super::odds::{Term, sigmoid, softplus};
use super::parameters::{Number, Parameter, Parameters, Range};
use super::registry::{Entry, LearningRate};
use super::rewards::{self, Rewarded};
use super::{Coupling, GroupLogps, GroupLoss, Metrics, Objective, ReferenceNeed, Scored, Slope, each_group};
use crate::data::{Role, Roles, Spans, StepTotals};

/// What a loss sees of a pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// x_w
    pub chosen: f64,
    /// x_l
    pub rejected: f64,
    /// Probability that the chosen answer is the better one, where the data say it.
    pub soft_label: Option<f64>,
}

impl Pair {
    /// `D = x_w - x_l`.
    pub fn difference(&self) -> f64 {
        self.chosen - self.rejected
    }
}

/// The value of a loss on a pair and its two derivatives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairTerm {
    /// The loss.
    pub value: f64,
    /// d loss / d x_w
    pub chosen: f64,
    /// d loss / d x_l
    pub rejected: f64,
}

impl From<Term> for PairTerm {
    /// From a function of the difference `D`.
    fn from(of_difference: Term) -> Self {
        PairTerm { value: of_difference.value, chosen: of_difference.slope, rejected: -of_difference.slope }
    }
}

impl PairTerm {
    /// The sum of a function of x_w and one of x_l.
    pub fn separate(chosen: Term, rejected: Term) -> Self {
        PairTerm { value: chosen.value + rejected.value, chosen: chosen.slope, rejected: rejected.slope }
    }
}

/// A loss on the two rewards of a pair.
pub trait PairLoss: Send + Sync + std::fmt::Debug {
    /// The loss and its slopes.
    fn term(&self, pair: &Pair) -> PairTerm;

    /// The summed reference log-probs of the chosen and the rejected answer; those of the first reference model unless a
    /// loss combines several.
    fn references(&self, chosen: &Scored, rejected: &Scored) -> [f64; 2] {
        [chosen.reference(), rejected.reference()]
    }

    /// What `rewards/*` show of a reward x, before it is scaled.
    fn shown(&self, reward: f64) -> f64 {
        reward
    }
}

/// What a reward is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reward {
    /// `x = f(s - s_ref)`.
    LogRatio,
    /// `x = f(s - s_ref) / T`.
    MeanLogRatio,
    /// `x = s`.
    Sum,
    /// `x = s / T`.
    Mean,
}

impl Reward {
    fn has_reference(self) -> bool {
        matches!(self, Reward::LogRatio | Reward::MeanLogRatio)
    }

    fn is_mean(self) -> bool {
        matches!(self, Reward::MeanLogRatio | Reward::Mean)
    }
}

/// An objective made of a [`PairLoss`].
#[derive(Clone, Debug)]
pub struct Pairwise<L> {
    entry: &'static Entry,
    loss: L,
    reward: Reward,
    /// `rewards/*` are this times the reward.
    scale: f64,
    score: Score,
    tokens: TokenWeights,
    weighting: Weighting,
    nll: Option<(f64, Nll)>,
}

impl<L: PairLoss + 'static> Pairwise<L> {
    /// The objective of an entry: a loss on such rewards, with the options of [`OPTIONS`] and [`DIVERGENCES`] where the
    /// entry has them. `scale` is that of `rewards/*`.
    pub fn new(entry: &'static Entry, parameters: &Parameters, reward: Reward, scale: f64, loss: L) -> Self {
        let ld_alpha = LD_ALPHA.get(parameters);
        let tokens = if ld_alpha == 1.0 { TokenWeights::One } else { TokenWeights::Tail { ld_alpha } };
        Self {
            entry,
            loss,
            reward,
            scale,
            score: Score { divergence: DIVERGENCE.get(parameters), alpha: F_ALPHA.get(parameters) },
            tokens,
            weighting: WEIGHTING.get(parameters),
            nll: None,
        }
    }

    /// The same with weighted tokens.
    pub fn with_tokens(self, tokens: TokenWeights) -> Self {
        Self { tokens, ..self }
    }

    /// The same with `weight` times an NLL added; nothing at a weight of 0.
    pub fn with_nll(self, weight: f64, nll: Nll) -> Self {
        Self { nll: (weight != 0.0).then_some((weight, nll)), ..self }
    }

    /// As the registry wants it.
    pub fn boxed(self) -> Box<dyn Objective> {
        Box::new(self)
    }

    /// Reward and token weights of both answers.
    fn sides<'a>(&self, chosen: &'a Scored<'a>, rejected: &'a Scored<'a>) -> [Side<'a>; 2] {
        let weights = [self.tokens.of(chosen, rejected), self.tokens.of(rejected, chosen)];
        let references = match (self.reward.has_reference(), &weights) {
            (false, _) => [0.0; 2],
            (true, [Some(w), Some(l)]) => [w.reference, l.reference],
            (true, _) => self.loss.references(chosen, rejected),
        };
        let mut answers = [chosen, rejected].into_iter().zip(weights).zip(references);
        std::array::from_fn(|_| {
            let ((answer, weights), reference) = answers.next().expect("two of each");
            let (sum, weights) = match weights {
                Some(weights) => (weights.sum, Some(weights.tokens)),
                None => (answer.sum(), None),
            };
            let share = if self.reward.is_mean() { reciprocal(answer.tokens()) } else { 1.0 };
            Side { answer, sum, ratio: sum - reference, weights, share }
        })
    }
}

/// One answer of a pair.
struct Side<'a> {
    answer: &'a Scored<'a>,
    /// Of the weighted log-probs.
    sum: f64,
    /// Without that of the reference.
    ratio: f64,
    /// Of the tokens, where they are not 1.
    weights: Option<Vec<f64>>,
    /// 1 / T where the reward is a mean, else 1.
    share: f64,
}

impl Side<'_> {
    /// From the slope in r to those of the tokens.
    fn slope(self, slope: f64) -> Slope {
        match self.weights {
            None => Slope::Uniform(slope),
            Some(weights) => Slope::Tokens(weights.into_iter().map(|weight| slope * weight).collect()),
        }
    }
}

impl<L: PairLoss + 'static> Objective for Pairwise<L> {
    fn name(&self) -> &str {
        self.entry.name
    }

    fn coupling(&self) -> Coupling {
        Coupling::Group
    }

    fn spans(&self) -> Spans {
        let nll = self.nll.as_ref().map_or(Roles::NONE, |(_, nll)| Roles::of(&[nll.of]));
        Spans { prompt: false, answers: Roles::PAIR.union(nll) }
    }

    fn reference(&self) -> ReferenceNeed {
        match (self.reward.has_reference(), self.tokens) {
            (false, _) => ReferenceNeed::None,
            (true, TokenWeights::One) => ReferenceNeed::Sums,
            (true, _) => ReferenceNeed::Tokens,
        }
    }

    fn statistics(&self) -> bool {
        self.weighting == Weighting::Wpo
    }

    fn loss_at_reference(&self) -> Option<f64> {
        let same = self.reward.has_reference() && self.nll.is_none() && self.weighting == Weighting::None;
        let pair = Pair { chosen: 0.0, rejected: 0.0, soft_label: Some(0.5) };
        same.then(|| self.loss.term(&pair).value)
    }

    fn evaluate(&self, groups: &[GroupLogps], totals: &StepTotals) -> Vec<GroupLoss> {
        each_group(groups, |group| {
            let mut loss = GroupLoss::default();
            if let Some((weight, nll)) = &self.nll {
                nll.add(group, totals, *weight, &mut loss);
            }
            let Some((chosen, rejected)) = group.chosen().zip(group.rejected()) else { return loss };
            let [w, l] = self.sides(chosen, rejected);
            let (x_w, x_l) = (self.score.of(w.ratio), self.score.of(l.ratio));
            let term = self.loss.term(&Pair {
                chosen: x_w.value * w.share,
                rejected: x_l.value * l.share,
                soft_label: group.given.soft_label,
            });
            let weight = reciprocal(totals.groups) * self.weighting.of(chosen, rejected);
            loss.value += weight * term.value;
            let slope_w = weight * term.chosen * x_w.slope * w.share;
            let slope_l = weight * term.rejected * x_l.slope * l.share;
            loss.answers[Role::Chosen].add(&w.slope(slope_w), 1.0);
            loss.answers[Role::Rejected].add(&l.slope(slope_l), 1.0);
            loss
        })
    }

    fn metrics(&self, group: &GroupLogps, _totals: &StepTotals, metrics: &mut Metrics) {
        if !group.is_valid() {
            return;
        }
        if let Some((chosen, rejected)) = group.chosen().zip(group.rejected()) {
            let shown = self.sides(chosen, rejected).map(|side| {
                let mean = self.reward == Reward::Mean;
                let share = if mean { reciprocal(side.answer.tokens()) } else { 1.0 };
                let reward = self.scale * self.loss.shown(side.ratio * share);
                Rewarded { reward, logp: side.sum * share }
            });
            rewards::add_pair(shown.map(Some), metrics);
        }
        if let Some((_, nll)) = &self.nll {
            nll.add_metric(group, metrics);
        }
    }
}

/// `--beta` of most objectives with a reference.
pub static BETA: Number = Number {
    name: "beta",
    default: 0.1,
    range: Range::TEMPERATURE,
    help: "strength of the tie to the reference model: the larger, the closer the policy stays",
    slot: |parameters| &mut parameters.beta,
};

/// `--beta` where the loss aims at a reward of 1 / (2 beta).
pub static TARGET_BETA: Number = Number {
    name: "beta",
    default: 0.1,
    range: Range::INVERTIBLE,
    help: "strength of the tie to the reference model: the reward aimed at is 1 / (2 beta)",
    slot: |parameters| &mut parameters.beta,
};

/// `--label-smoothing` as a probability.
pub static LABEL_SMOOTHING: Number = Number {
    name: "label_smoothing",
    default: 0.0,
    range: Range::half_open(0.0, 0.5),
    help: "probability that a preference label is wrong (cDPO)",
    slot: |parameters| &mut parameters.label_smoothing,
};

/// What every objective on log-ratios takes beside its own parameters.
pub const OPTIONS: [&dyn Parameter; 2] = [&LD_ALPHA, &WEIGHTING];
/// What those take whose rewards may come from another divergence than the reverse KL.
pub const DIVERGENCES: [&dyn Parameter; 2] = [&DIVERGENCE, &F_ALPHA];

/// What most entries of this family have in common.
pub const DEFAULTS: Entry = Entry {
    reference: true,
    max_references: 1,
    learning_rate: LearningRate { value: 1e-6, source: "TRL 1.16's DPOConfig" },
    ..Entry::REFERENCE_FREE
};

/// `(1 - e) softplus(-z) + e softplus(z)` with its slope in z: the logistic loss with a share `e` of wrong labels.
pub(super) fn logistic(z: f64, e: f64) -> Term {
    Term {
        value: (1.0 - e) * softplus(-z) + e * softplus(z),
        slope: e * sigmoid(z) - (1.0 - e) * sigmoid(-z),
    }
}

/// `sigmoid(z) sigmoid(-z)`, the derivative of the sigmoid.
pub(super) fn bell(z: f64) -> f64 {
    sigmoid(z) * sigmoid(-z)
}

/// `softplus(z)` with its slope.
pub(super) fn softplus_term(z: f64) -> Term {
    Term { value: softplus(z), slope: sigmoid(z) }
}

/// `sigmoid(z)` with its slope.
pub(super) fn sigmoid_term(z: f64) -> Term {
    Term { value: sigmoid(z), slope: bell(z) }
}
