//! The reward metrics that every objective logs, under TRL's names.
//!
//! An implicit reward is what the objective ranks answers by: `scale * a` without a reference model, `beta * (s -
//! s_ref)` with one. `logps/*` are the means `a` without a reference and the sums `s` with one, as TRL's ORPO and
//! DPO log them. The accuracy is strict: a tie counts as wrong.

use super::{GroupLogps, Metrics, Scored};

/// What is logged of one answer.
#[derive(Clone, Copy)]
struct Answer {
    reward: f64,
    logp: f64,
}

/// Rewards of an objective without a reference model.
pub(super) fn add_from_means(scale: f64, group: &GroupLogps, metrics: &mut Metrics) {
    add(group, metrics, |answer| {
        let logp = answer.mean();
        Answer { reward: scale * logp, logp }
    });
}

/// Rewards of an objective with a reference model.
pub(super) fn add_from_log_ratios(beta: f64, group: &GroupLogps, metrics: &mut Metrics) {
    add(group, metrics, |answer| Answer { reward: beta * log_ratio(answer), logp: answer.sum() });
}

/// `s - s_ref` of an answer.
///
/// # Panics
///
/// If the reference is missing.
pub(super) fn log_ratio(answer: &Scored) -> f64 {
    let reference = answer.reference.expect(
        "an objective that needs a reference is only given groups whose reference log-probs are filled in",
    );
    answer.sum() - reference
}

fn add(group: &GroupLogps, metrics: &mut Metrics, answer: impl Fn(&Scored) -> Answer) {
    let chosen = group.chosen.as_ref().map(&answer);
    let rejected = group.rejected.as_ref().map(&answer);
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
