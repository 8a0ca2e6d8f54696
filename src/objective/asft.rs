//! ASFT: Aligned Supervised Fine-Tuning (arXiv 2409.10571; *Aligned*, not the unrelated *Anchored* SFT 2509.23753).
//!
//! ```text
//! L = c * NLL(chosen) + lambda * mean over pairs of [ softplus(-beta * o_w) + softplus(beta * o_l) ]
//! ```
//!
//! `o = log(p / (1 - p))` are the log-odds of an answer's length-normalised probability `p = exp(a)`, `a` the mean
//! log-prob of its tokens. Each answer is judged alone, so no reference model and no partner is needed. The paper
//! has no beta; at `beta = 1` the losses have the closed form that is computed then (arXiv 2502.01237, Lemmas C.1
//! and C.2):
//!
//! ```text
//! L = -(c + lambda) * a_w - lambda * log(1 - p_l)          (with the default NLL)
//! dL/da_w = -(c + lambda)      dL/da_l = lambda * p_l / (1 - p_l)
//! ```
//!
//! and otherwise `dL/da_w = -c - lambda * beta * sigmoid(-beta * o_w) / (1 - p_w)`, `dL/da_l = lambda * beta *
//! sigmoid(beta * o_l) / (1 - p_l)`; a token gets 1/(T N) of its answer's slope.
//!
//! Parameters: `c` 1 (0: the align-only second stage of 2502.01237), `lambda` 1 (the paper's value could not be
//! read; 1 is the best one-stage value of 2502.01237), `beta` 1, `logit_eps` 1e-5, the NLL per sequence over the
//! response (the reading under which the closed form is an identity; 2502.01237 and turbo-alignment have it so).
//!
//! Limits: as `a_l -> 0` the rejected term diverges, and for beta < 1 the chosen one's slope as `a_w -> 0`; both
//! softplus terms are continued linearly beyond `-logit_eps` (see [`odds`]), so a term's slope is at most
//! `lambda * beta / (1 - e^-logit_eps)`. For beta > 1 the chosen term flattens as `a_w -> 0` and the continuation only
//! keeps 0/0 out. At lambda 0 loss and coefficients have the bits of SFT with sequence reduction, and the rejected
//! answer is not scored. Identical answers leave a chosen slope of `-(c + lambda) + lambda * p / (1 - p)`, which pushes
//! a very likely text down.
//!
//! Coupling: sequence; group if the NLL is a sequence mean over prompt and response together.

use super::loss::reciprocal;
use super::nll::{self, Nll};
use super::odds::{self, LOGIT_EPS, Term};
use super::parameters::{Choice, Number, Parameters, Range};
use super::registry::{Entry, LearningRate};
use super::{
    Coupling, GroupLogps, GroupLoss, Metrics, NllOn, NllReduction, Objective, ObjectiveError, Pointwise,
    Scored, each_group, rewards,
};
use crate::data::{Role, Roles, Spans, StepTotals};

static C: Number = Number {
    name: "c",
    default: 1.0,
    range: Range::WEIGHT,
    help: "weight of the NLL term; 0 aligns only",
    slot: |parameters| &mut parameters.c,
};
static LAMBDA: Number = Number {
    name: "lambda",
    default: 1.0,
    range: Range::WEIGHT,
    help: "weight of the align term; 0 leaves plain SFT",
    slot: |parameters| &mut parameters.lambda,
};
static BETA: Number = Number {
    name: "beta",
    default: 1.0,
    range: Range::TEMPERATURE,
    help: "temperature on the log-odds; 1 is the paper's loss",
    slot: |parameters| &mut parameters.beta,
};
static NLL_REDUCTION: Choice<NllReduction> = nll::reduction_parameter(NllReduction::Sequence);
static NLL_ON: Choice<NllOn> = nll::on_parameter(NllOn::Response);

/// ASFT in the registry.
pub static ENTRY: Entry = Entry {
    name: "asft",
    formula: "L = c NLL(chosen) + lambda [softplus(-beta o_w) + softplus(beta o_l)],  o = log(p / (1 - p)),  \
              p = exp(mean logp)",
    when: "you have preference pairs and want one stage without a reference model",
    parameters: &[&C, &LAMBDA, &BETA, &LOGIT_EPS, &NLL_REDUCTION, &NLL_ON],
    learning_rate: LearningRate {
        value: 6e-6,
        source: "one-stage ASFT from a base model, full fine-tuning, arXiv 2502.01237, appendix A",
    },
    construct: |parameters| Ok(Box::new(Asft::new(parameters)?)),
    ..Entry::REFERENCE_FREE
};

/// Aligned Supervised Fine-Tuning.
#[derive(Clone, Copy, Debug)]
pub struct Asft {
    c: f64,
    lambda: f64,
    beta: f64,
    logit_eps: f64,
    nll: Nll,
}

impl Asft {
    fn new(parameters: &Parameters) -> Result<Self, ObjectiveError> {
        let asft = Self {
            c: C.get(parameters),
            lambda: LAMBDA.get(parameters),
            beta: BETA.get(parameters),
            logit_eps: LOGIT_EPS.get(parameters),
            nll: Nll::new(NLL_REDUCTION.get(parameters), NLL_ON.get(parameters)),
        };
        if asft.c == 0.0 && asft.lambda == 0.0 {
            return Err(ObjectiveError::NothingToLearn {
                objective: ENTRY.name,
                weights: "--c and --lambda",
            });
        }
        Ok(asft)
    }

    /// `softplus(-beta * o)` of the chosen answer and its slope in `a`, without lambda.
    fn chosen_term(&self, a: f64) -> Term {
        if self.beta == 1.0 {
            // -log p is linear already: its own continuation.
            return Term { value: -a, slope: -1.0 };
        }
        odds::continued(self.logit_eps, a, |a| odds::softplus_odds(-self.beta, a))
    }

    /// `softplus(beta * o)` of the rejected answer and its slope in `a`, without lambda.
    fn rejected_term(&self, a: f64) -> Term {
        if self.beta == 1.0 {
            return odds::continued(self.logit_eps, a, odds::unlikelihood);
        }
        odds::continued(self.logit_eps, a, |a| odds::softplus_odds(self.beta, a))
    }

    /// The log-odds, continued as the terms are.
    fn log_odds(&self, a: f64) -> f64 {
        odds::continued(self.logit_eps, a, odds::log_odds).value
    }
}

impl Objective for Asft {
    fn name(&self) -> &str {
        ENTRY.name
    }

    fn coupling(&self) -> Coupling {
        if self.c == 0.0 { Coupling::Sequence } else { self.nll.coupling() }
    }

    fn spans(&self) -> Spans {
        Spans {
            prompt: self.c != 0.0 && self.nll.covers_prompt(),
            answers: Roles::CHOSEN.with(Role::Rejected, self.lambda != 0.0),
        }
    }

    fn pointwise(&self) -> Option<Pointwise> {
        let Self { c, lambda, beta, logit_eps, nll } = *self;
        Some(Pointwise { c, lambda, beta, logit_eps, mixed: 0.0, nll })
    }

    fn evaluate(&self, groups: &[GroupLogps], totals: &StepTotals) -> Vec<GroupLoss> {
        each_group(groups, |group| {
            let mut loss = GroupLoss::default();
            self.nll.add(group, totals, self.c, &mut loss);
            // Skipped rather than multiplied by 0, which would make NaN of a log-prob of -inf where SFT gives inf.
            if self.lambda != 0.0 {
                let weight = self.lambda * reciprocal(totals.groups);
                let mut add = |role, answer: &Scored, term: Term| {
                    loss.value += weight * term.value;
                    loss.push(role, weight * term.slope * reciprocal(answer.tokens()));
                };
                if let Some(chosen) = group.chosen() {
                    add(Role::Chosen, chosen, self.chosen_term(chosen.mean()));
                }
                if let Some(rejected) = group.rejected() {
                    add(Role::Rejected, rejected, self.rejected_term(rejected.mean()));
                }
            }
            loss
        })
    }

    /// Beside TRL's names: `nll_loss`, `asft/align_loss` (both softplus terms, without lambda: the loss is `c *
    /// nll_loss + lambda * asft/align_loss`), `asft/chosen_logsig` and `asft/rejected_logsig` (the two terms,
    /// negated), `log_odds/chosen`, `log_odds/rejected`, `log_odds/margin`, and `asft/clamped_frac`, the fraction of
    /// pairs with a term in its linear continuation.
    fn metrics(&self, group: &GroupLogps, _totals: &StepTotals, metrics: &mut Metrics) {
        if !group.is_valid() {
            return;
        }
        rewards::add_from_means(self.beta, group, metrics);
        self.nll.add_metric(group, metrics);
        let chosen = group.chosen().map(Scored::mean);
        let rejected = group.rejected().map(Scored::mean);
        let mut add = |name, value: Option<f64>| {
            if let Some(value) = value {
                metrics.add(name, value, 1.0);
            }
        };
        let pair = chosen.zip(rejected);
        add("asft/align_loss", pair.map(|(w, l)| self.chosen_term(w).value + self.rejected_term(l).value));
        add("asft/chosen_logsig", chosen.map(|a| -self.chosen_term(a).value));
        add("asft/rejected_logsig", rejected.map(|a| -self.rejected_term(a).value));
        add("log_odds/chosen", chosen.map(|a| self.log_odds(a)));
        add("log_odds/rejected", rejected.map(|a| self.log_odds(a)));
        add("log_odds/margin", pair.map(|(w, l)| self.log_odds(w) - self.log_odds(l)));
        let continued = |w: f64, l: f64| l > -self.logit_eps || (self.beta != 1.0 && w > -self.logit_eps);
        add("asft/clamped_frac", pair.map(|(w, l)| if continued(w, l) { 1.0 } else { 0.0 }));
    }
}
