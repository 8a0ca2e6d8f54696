//! DPO: direct preference optimisation (arXiv 2305.18290), with label smoothing as in cDPO (Mitchell 2023).
//!
//! ```text
//! L = mean over pairs of (1 - e) * softplus(-beta * D) + e * softplus(beta * D)
//! D = (s_w - ref_w) - (s_l - ref_l)
//! dL/dD = beta * [e * sigmoid(beta * D) - (1 - e) * sigmoid(-beta * D)]
//! ```
//!
//! `s` are sums of token log-probs, so every token of the chosen answer gets dL/dD / N and every token of the rejected
//! one its negative; `ref` are the same sums under the reference model, `e` is the label smoothing.
//!
//! Parameters: `beta` 0.1, `label_smoothing` 0 (TRL 1.16's defaults; its `sigmoid` loss ignores label smoothing, ours is
//! the cDPO that earlier versions had). Limits: |dL/dD| <= beta; policy equal to the reference gives ln 2 exactly.
//!
//! Coupling: group. Reference: needed.

use super::odds::{sigmoid, softplus};
use super::parameters::{Number, Parameters, Range};
use super::registry::{Entry, LearningRate};
use super::rewards::{self, log_ratio};
use super::slopes::{Slopes, reciprocal};
use super::{Coupling, GroupCoefficients, GroupLogps, Metrics, Objective};
use crate::data::{Spans, StepTotals};

static BETA: Number = Number {
    name: "beta",
    default: 0.1,
    range: Range::TEMPERATURE,
    help: "strength of the tie to the reference model: the larger, the closer the policy stays",
    slot: |parameters| &mut parameters.beta,
};
static LABEL_SMOOTHING: Number = Number {
    name: "label_smoothing",
    default: 0.0,
    range: Range::half_open(0.0, 0.5),
    help: "probability that a preference label is wrong (cDPO)",
    slot: |parameters| &mut parameters.label_smoothing,
};

/// DPO in the registry.
pub static ENTRY: Entry = Entry {
    name: "dpo",
    aliases: &["sigmoid"],
    formula: "L = (1 - e) softplus(-beta D) + e softplus(beta D),  D = (s_w - ref_w) - (s_l - ref_l),  \
              e = label_smoothing,  s = sum of logp",
    when: "you have preference pairs and a model that is instruction-tuned already and must not drift far",
    reference: true,
    parameters: &[&BETA, &LABEL_SMOOTHING],
    advice: &[("lambda", "the weight of the preference is --beta here")],
    learning_rate: LearningRate { value: 1e-6, source: "TRL 1.16's DPOConfig" },
    construct: |parameters| Ok(Box::new(Dpo::new(parameters))),
};

/// Direct preference optimisation.
#[derive(Clone, Copy, Debug)]
pub struct Dpo {
    beta: f64,
    label_smoothing: f64,
}

impl Dpo {
    fn new(parameters: &Parameters) -> Self {
        Self { beta: BETA.get(parameters), label_smoothing: LABEL_SMOOTHING.get(parameters) }
    }
}

impl Objective for Dpo {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn coupling(&self) -> Coupling {
        Coupling::Group
    }

    fn spans(&self) -> Spans {
        Spans { prompt: false, rejected: true }
    }

    fn needs_reference(&self) -> bool {
        ENTRY.reference
    }

    fn coefficients(&self, group: &GroupLogps, totals: &StepTotals, out: &mut GroupCoefficients) -> f64 {
        let (Some(chosen), Some(rejected), true) = (&group.chosen, &group.rejected, group.is_valid()) else {
            return 0.0;
        };
        let z = self.beta * (log_ratio(chosen) - log_ratio(rejected));
        let (right, wrong) = (1.0 - self.label_smoothing, self.label_smoothing);
        let weight = reciprocal(totals.groups);
        let slope = weight * self.beta * (wrong * sigmoid(z) - right * sigmoid(-z));
        Slopes { prompt: 0.0, chosen: slope, rejected: -slope }.write(out);
        weight * (right * softplus(-z) + wrong * softplus(z))
    }

    fn metrics(&self, group: &GroupLogps, _totals: &StepTotals, metrics: &mut Metrics) {
        if group.is_valid() {
            rewards::add_from_log_ratios(self.beta, group, metrics);
        }
    }
}
