//! SFT: supervised fine-tuning on the chosen answer.
//!
//! `L = NLL(chosen)`, the baseline and the first term of ASFT and ORPO. The rejected answer carries no coefficient
//! and is not packed; where it is scored all the same (evaluation), its metrics are given.
//!
//! Averaging: the mean over the step's response tokens, as TRL and transformers do, unless `--nll-reduction` and
//! `--nll-on` say otherwise. Coupling: sequence; group for a sequence mean over prompt and response together.
//! Reference: none. Limits: the gradient per token is at most 1/T; nothing diverges.

use super::nll::{self, Nll};
use super::odds::LOGIT_EPS;
use super::parameters::{Choice, Parameters};
use super::registry::{Entry, LearningRate};
use super::{
    Coupling, GroupLogps, GroupLoss, Metrics, NllOn, NllReduction, Objective, Pointwise, each_group, rewards,
};
use crate::data::{Roles, Spans, StepTotals};

static NLL_REDUCTION: Choice<NllReduction> = nll::reduction_parameter(NllReduction::Token);
static NLL_ON: Choice<NllOn> = nll::on_parameter(NllOn::Response);

/// SFT in the registry.
pub static ENTRY: Entry = Entry {
    name: "sft",
    answers: Roles::CHOSEN,
    formula: "L = NLL(chosen)",
    when: "you have good answers only, or want the stage before a preference stage",
    parameters: &[&NLL_REDUCTION, &NLL_ON],
    learning_rate: LearningRate {
        value: 6e-6,
        source: "SFT stage on UltraChat with Llama 3.2 3B and 3.1 8B, arXiv 2502.01237, appendix A",
    },
    construct: |parameters| Ok(Box::new(Sft::new(parameters))),
    ..Entry::REFERENCE_FREE
};

/// Supervised fine-tuning.
#[derive(Clone, Copy, Debug)]
pub struct Sft {
    nll: Nll,
}

impl Sft {
    fn new(parameters: &Parameters) -> Self {
        Self { nll: Nll::new(NLL_REDUCTION.get(parameters), NLL_ON.get(parameters)) }
    }
}

impl Objective for Sft {
    fn name(&self) -> &str {
        ENTRY.name
    }

    fn coupling(&self) -> Coupling {
        self.nll.coupling()
    }

    fn spans(&self) -> Spans {
        Spans { prompt: self.nll.covers_prompt(), answers: Roles::CHOSEN }
    }

    fn pointwise(&self) -> Option<Pointwise> {
        Some(Pointwise {
            c: 1.0,
            lambda: 0.0,
            beta: 1.0,
            logit_eps: LOGIT_EPS.default,
            mixed: 0.0,
            nll: self.nll,
        })
    }

    fn evaluate(&self, groups: &[GroupLogps], totals: &StepTotals) -> Vec<GroupLoss> {
        each_group(groups, |group| {
            let mut loss = GroupLoss::default();
            self.nll.add(group, totals, 1.0, &mut loss);
            loss
        })
    }

    fn metrics(&self, group: &GroupLogps, _totals: &StepTotals, metrics: &mut Metrics) {
        if !group.is_valid() {
            return;
        }
        rewards::add_from_means(1.0, group, metrics);
        self.nll.add_metric(group, metrics);
    }
}
