//! ORPO: monolithic preference optimisation without a reference model (arXiv 2403.07691).
//!
//! ```text
//! L = NLL(chosen) + lambda * mean over pairs of softplus(-(o_w - o_l))
//! dL/da_w = [NLL's] - lambda * s / (1 - p_w)      dL/da_l = lambda * s / (1 - p_l),   s = sigmoid(o_l - o_w)
//! ```
//!
//! `o = log(p / (1 - p))`, `p = exp(a)`, `a` the mean log-prob of the answer's tokens; a token gets 1/(T N) of its
//! answer's slope. With both NLLs per sequence it is never above ASFT at beta 1: the difference is
//! `lambda * log(p_w (1 - p_l) + p_l (1 - p_w))` (arXiv 2502.01237, Theorem D.1).
//!
//! Parameters: `lambda` 0.1, which TRL calls beta; `logit_eps` 1e-5; the NLL over prompt and response as a token mean,
//! which is what TRL's ORPOTrainer (1.16) computes.
//!
//! Limits: TRL's loss is infinite or NaN at `a = 0`. Here `o` itself is continued linearly beyond `-logit_eps` (see
//! [`odds`]), so that a slope is at most `lambda / (1 - e^-logit_eps)`. Identical answers give exactly lambda * ln 2 and
//! opposite slopes. At lambda 0 it is SFT, and the rejected answer is not scored.
//!
//! Coupling: group.

use super::loss::reciprocal;
use super::nll::{self, Nll};
use super::odds::{self, LOGIT_EPS, Term};
use super::parameters::{Choice, Number, Parameters, Range};
use super::registry::{Entry, LearningRate};
use super::{
    Coupling, GroupLogps, GroupLoss, Metrics, NllOn, NllReduction, Objective, Scored, each_group, rewards,
};
use crate::data::{Role, Roles, Spans, StepTotals};

static LAMBDA: Number = Number {
    name: "lambda",
    default: 0.1,
    range: Range::WEIGHT,
    help: "weight of the odds-ratio term; TRL calls it beta",
    slot: |parameters| &mut parameters.lambda,
};
static NLL_REDUCTION: Choice<NllReduction> = nll::reduction_parameter(NllReduction::Token);
static NLL_ON: Choice<NllOn> = nll::on_parameter(NllOn::PromptAndResponse);

/// ORPO in the registry.
pub static ENTRY: Entry = Entry {
    name: "orpo",
    formula: "L = NLL(chosen) + lambda softplus(-(o_w - o_l)),  o = log(p / (1 - p)),  p = exp(mean logp)",
    when: "you have preference pairs and want one stage that only ranks an answer against its partner",
    parameters: &[&LAMBDA, &LOGIT_EPS, &NLL_REDUCTION, &NLL_ON],
    advice: &[
        ("beta", "TRL's beta is --lambda here"),
        ("c", "the NLL has weight 1; --lambda weighs the odds-ratio term against it"),
    ],
    learning_rate: LearningRate { value: 1e-6, source: "TRL 1.16's ORPOConfig" },
    construct: |parameters| Ok(Box::new(Orpo::new(parameters))),
    ..Entry::REFERENCE_FREE
};

/// Odds-ratio preference optimisation.
#[derive(Clone, Copy, Debug)]
pub struct Orpo {
    lambda: f64,
    logit_eps: f64,
    nll: Nll,
}

impl Orpo {
    fn new(parameters: &Parameters) -> Self {
        Self {
            lambda: LAMBDA.get(parameters),
            logit_eps: LOGIT_EPS.get(parameters),
            nll: Nll::new(NLL_REDUCTION.get(parameters), NLL_ON.get(parameters)),
        }
    }

    fn log_odds(&self, answer: &Scored) -> Term {
        odds::continued(self.logit_eps, answer.mean(), odds::log_odds)
    }
}

impl Objective for Orpo {
    fn name(&self) -> &str {
        ENTRY.name
    }

    fn coupling(&self) -> Coupling {
        if self.lambda == 0.0 { self.nll.coupling() } else { Coupling::Group }
    }

    fn spans(&self) -> Spans {
        Spans {
            prompt: self.nll.covers_prompt(),
            answers: Roles::CHOSEN.with(Role::Rejected, self.lambda != 0.0),
        }
    }

    fn evaluate(&self, groups: &[GroupLogps], totals: &StepTotals) -> Vec<GroupLoss> {
        each_group(groups, |group| {
            let mut loss = GroupLoss::default();
            self.nll.add(group, totals, 1.0, &mut loss);
            if let Some((chosen, rejected)) = group.chosen().zip(group.rejected())
                && self.lambda != 0.0
            {
                let weight = self.lambda * reciprocal(totals.groups);
                let (w, l) = (self.log_odds(chosen), self.log_odds(rejected));
                let unranked = weight * odds::sigmoid(l.value - w.value);
                loss.value += weight * odds::softplus(l.value - w.value);
                loss.push(Role::Chosen, -unranked * w.slope * reciprocal(chosen.tokens()));
                loss.push(Role::Rejected, unranked * l.slope * reciprocal(rejected.tokens()));
            }
            loss
        })
    }

    /// Beside the rewards (lambda times the mean log-prob), as TRL: `nll_loss`, `log_odds_ratio` (log sigmoid of
    /// `o_w - o_l`) and `log_odds_chosen` (`o_w - o_l` itself).
    fn metrics(&self, group: &GroupLogps, _totals: &StepTotals, metrics: &mut Metrics) {
        if !group.is_valid() {
            return;
        }
        rewards::add_from_means(self.lambda, group, metrics);
        self.nll.add_metric(group, metrics);
        if let Some((chosen, rejected)) = group.chosen().zip(group.rejected()) {
            let difference = self.log_odds(chosen).value - self.log_odds(rejected).value;
            metrics.add("log_odds_ratio", -odds::softplus(-difference), 1.0);
            metrics.add("log_odds_chosen", difference, 1.0);
        }
    }
}
