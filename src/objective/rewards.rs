//! The reward metrics that every objective logs, under TRL's names.
//!
//! An implicit reward is what the objective ranks answers by: `scale * a` without a reference model, `beta * (s -
//! s_ref)` with one. `logps/*` are the means `a` without a reference and the sums `s` with one, as TRL's ORPO and
//! DPO log them. The accuracy is strict: a tie counts as wrong.

use super::{GroupLogps, Metrics, Scored};

/// What is logged of one answer.
#[derive(Clone, Copy)]
pub(super) struct Rewarded {
    pub reward: f64,
    pub logp: f64,
}

/// Rewards of an objective without a reference model.
pub(super) fn add_from_means(scale: f64, group: &GroupLogps, metrics: &mut Metrics) {
    let rewarded = |answer: &Scored| {
        let logp = answer.mean();
        Rewarded { reward: scale * logp, logp }
    };
    add_pair([group.chosen().map(rewarded), group.rejected().map(rewarded)], metrics);
}

/// The metrics of a chosen and a rejected answer, as far as they are there.
pub(super) fn add_pair([chosen, rejected]: [Option<Rewarded>; 2], metrics: &mut Metrics) {
    let mut log = |name, value: Option<f64>| {
        if let Some(value) = value {
            metrics.add(name, value, 1.0);
        }
    };
    let margin = chosen.zip(rejected).map(|(w, l)| w.reward - l.reward);
    let accuracy = chosen.zip(rejected).map(|(w, l)| if w.reward > l.reward { 1.0 } else { 0.0 });
    log("rewards/chosen", chosen.map(|w| w.reward));
    log("rewards/rejected", rejected.map(|l| l.reward));
    log("rewards/accuracies", accuracy);
    log("rewards/margins", margin);
    log("logps/chosen", chosen.map(|w| w.logp));
    log("logps/rejected", rejected.map(|l| l.logp));
}
