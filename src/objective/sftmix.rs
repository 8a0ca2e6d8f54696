//! SFTMix: supervised fine-tuning with mixtures of answers that models were sure of and answers that they were not
//! (arXiv 2410.05248).
//!
//! ```text
//! L = NLL(chosen) + mu CE(mix)
//! CE(mix) = -mean over mixed tokens of  k log p(y_c | H~) + (1 - k) log p(y_u | H~),   H~ = k H_c + (1 - k) H_u
//! ```
//!
//! `H_c` and `H_u` are the final hidden states (after the last norm) that predict the j-th scored token of a confident and of an
//! unconfident answer, `y_c` and `y_u` those tokens; the longer answer's tokens beyond the shorter one are in no mixture.
//! `k ~ Beta(alpha, alpha)` for each pair of rows, from seed and step. Rows are split at the median of their `confidence` and paired
//! anew in every epoch ([`crate::data::mixture`]); `asft prepare training-dynamics` writes that column.
//!
//! Both terms are means over the tokens that they cover in the whole optimizer step. That is this program's choice: how the
//! paper averages, whether it draws k once per pair or once per batch, and whether its positions count prompts were not checked.
//! A batch holds whole pairs, so its size must be even. An evaluation mixes nothing: its loss is the NLL.
//!
//! Data: `confidence`. Parameters: `mu` 0.2 and `alpha` 0.5, learning rate 2e-6 (all from a digest of the paper, not
//! checked against it). Limits: mu = 0 is SFT with its defaults, to the bit; the slope of a token's log-prob is at most 1/T, or
//! mu/T' of T' mixed tokens.
//!
//! Coupling: sequence. Reference: none. Metrics: SFT's, and `mix_loss`, CE(mix).

use super::nll::Nll;
use super::odds::LOGIT_EPS;
use super::parameters::{Number, Range};
use super::registry::{Entry, LearningRate};
use super::{Coupling, GroupLogps, GroupLoss, Metrics, Objective, Pointwise, each_group, rewards};
use crate::data::{Annotation, Mixing, Role, Roles, Spans, StepTotals};

/// `--mu`.
pub static MU: Number = Number {
    name: "mu",
    default: 0.2,
    range: Range::WEIGHT,
    help: "weight of the cross-entropy of mixtures",
    slot: |parameters| &mut parameters.mu,
};

/// `--alpha`.
pub static ALPHA: Number = Number {
    name: "alpha",
    default: 0.5,
    range: Range::closed(1e-3, 1e3),
    help: "what a mixture holds of its first row is drawn from Beta(alpha, alpha)",
    slot: |parameters| &mut parameters.alpha,
};

/// SFTMix in the registry.
pub static ENTRY: Entry = Entry {
    name: "sftmix",
    answers: Roles::CHOSEN,
    annotations: &[Annotation::Confidence],
    formula: "L = NLL(chosen) - mu (k log p(y_c | H~) + (1 - k) log p(y_u | H~)),  H~ = k H_c + (1 - k) H_u",
    when: "you have good answers only and know which of them models find hard",
    parameters: &[&MU, &ALPHA],
    learning_rate: LearningRate { value: 2e-6, source: "arXiv 2410.05248, by a digest of it" },
    construct: |parameters| Ok(Box::new(SftMix { mu: MU.get(parameters), alpha: ALPHA.get(parameters) })),
    ..Entry::REFERENCE_FREE
};

#[derive(Clone, Copy, Debug)]
struct SftMix {
    mu: f64,
    alpha: f64,
}

impl SftMix {
    const NLL: Nll = Nll::token_mean(Role::Chosen);
    const MIX: Nll = Nll::token_mean(Role::Mixed);
}

impl Objective for SftMix {
    fn name(&self) -> &str {
        ENTRY.name
    }

    fn coupling(&self) -> Coupling {
        Coupling::Sequence
    }

    fn spans(&self) -> Spans {
        Spans { prompt: false, answers: Roles::CHOSEN }
    }

    fn mixing(&self) -> Option<Mixing> {
        (self.mu > 0.0).then_some(Mixing { alpha: self.alpha, of: Role::Chosen })
    }

    fn pointwise(&self) -> Option<Pointwise> {
        let (lambda, logit_eps) = (0.0, LOGIT_EPS.default);
        Some(Pointwise { c: 1.0, lambda, beta: 1.0, logit_eps, mixed: self.mu, nll: Self::NLL })
    }

    fn evaluate(&self, groups: &[GroupLogps], totals: &StepTotals) -> Vec<GroupLoss> {
        each_group(groups, |group| {
            let mut loss = GroupLoss::default();
            Self::NLL.add(group, totals, 1.0, &mut loss);
            Self::MIX.add(group, totals, self.mu, &mut loss);
            loss
        })
    }

    fn metrics(&self, group: &GroupLogps, _totals: &StepTotals, metrics: &mut Metrics) {
        if !group.is_valid() {
            return;
        }
        rewards::add_from_means(1.0, group, metrics);
        Self::NLL.add_metric(group, metrics);
        if let Some(mixed) = &group.answers[Role::Mixed] {
            metrics.add("mix_loss", -mixed.mean(), mixed.tokens() as f64);
        }
    }
}
