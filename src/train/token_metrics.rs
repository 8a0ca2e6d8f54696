//! The metrics of tokens that TRL logs for every objective, under its names and as its DPO trainer takes them: means over
//! tokens, whichever rows they belong to.
//!
//! ```text
//! mean_token_accuracy          share of the chosen answers' tokens that are the most probable one
//! entropy                      of the distributions of all answers' tokens, in nats
//! logits/chosen, /rejected     mean over the vocabulary and the answers' tokens
//! ```
//!
//! A completion counts as chosen unless its label says that it is not one to learn. Mismatched completions are nobody's answers, and
//! a prompt's tokens do not count. The first costs nothing, since the head finds the most probable token anyway; the
//! others one more read of the logits ([`crate::model::Detail::Statistics`]), and are there where that was asked for.

use crate::data::{BatchGroup, Role, Segment, Span, Step};
use crate::objective::{Metrics, RowScores};

/// What every evaluation has of them.
pub(super) const OF_EVALUATIONS: [&str; 4] =
    ["mean_token_accuracy", "entropy", "logits/chosen", "logits/rejected"];

/// Adds those of a group.
pub(super) fn add(group: &BatchGroup, scores: &RowScores, metrics: &mut Metrics) {
    let answers = group.answers.present().filter(|(role, _)| *role != Role::Mismatched);
    for (role, &span) in answers {
        let tokens = f64::from(span.len);
        let is_chosen = is_chosen(group, role);
        if is_chosen == Some(true) && !scores.is_top1.is_empty() {
            let right = scores.is_top1[span.range()].iter().filter(|&&right| right).count();
            metrics.add("mean_token_accuracy", right as f64 / tokens, tokens);
        }
        let Some([_, entropy, mean_logit]) = &scores.statistics else { continue };
        metrics.add("entropy", mean(entropy, span), tokens);
        match is_chosen {
            Some(true) => metrics.add("logits/chosen", mean(mean_logit, span), tokens),
            Some(false) => metrics.add("logits/rejected", mean(mean_logit, span), tokens),
            None => {}
        }
    }
}

/// Whether an answer is one to learn or one to avoid; neither where it stands beside a pair.
fn is_chosen(group: &BatchGroup, role: Role) -> Option<bool> {
    match role {
        Role::Chosen => Some(true),
        Role::Rejected => Some(false),
        Role::Completion => Some(group.annotations().label != Some(false)),
        _ => None,
    }
}

fn mean(values: &[f32], span: Span) -> f64 {
    values[span.range()].iter().fold(0.0, |sum, &value| sum + f64::from(value)) / f64::from(span.len)
}

/// `num_tokens` of a step as TRL counts: prompt and answer of every sequence, so that a prompt counts once for each answer although
/// it is computed once for all.
pub(super) fn num_tokens(step: &Step) -> u64 {
    let of_answer = |segment: &Segment| match segment.ranges[0].len {
        0 => 0,
        prompt => u64::from(prompt + segment.len),
    };
    step.batches.iter().flat_map(|batch| &batch.segments).map(of_answer).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Annotations, Answer, Group, Roles, Spans, StepTotals, pack};

    fn groups() -> Vec<Group> {
        let answer = |role, len| Answer { role, ids: vec![1; len], scored: None, text: None };
        let group = |answers: Vec<Answer>| Group { row: 0, prompt: vec![2; 3], answers, annotations: None };
        vec![
            group(vec![answer(Role::Chosen, 1), answer(Role::Rejected, 2), answer(Role::Third, 1)]),
            group(vec![answer(Role::Completion, 2), answer(Role::Mismatched, 3)]),
        ]
    }

    /// By hand: the completion is labelled or not, the third answer has entropy alone, the mismatched one nothing.
    #[test]
    fn means_over_tokens_counted_by_hand() {
        let mut groups = groups();
        let spans = Spans { prompt: false, answers: Roles::ALL };
        for (label, accuracy, chosen, rejected) in [
            (None, 2.0 / 3.0, (1.0 + 5.0 + 6.0) / 3.0, 5.0 / 2.0),
            (Some(true), 2.0 / 3.0, (1.0 + 5.0 + 6.0) / 3.0, 5.0 / 2.0),
            (Some(false), 1.0, 1.0, (5.0 + 5.0 + 6.0) / 4.0),
        ] {
            groups[1].annotations =
                Some(std::sync::Arc::new(Annotations { label, ..Annotations::default() }));
            let batch = pack(&groups.iter().collect::<Vec<_>>(), spans);
            let numbers: Vec<f32> = (1..=9).map(|number| number as f32).collect();
            let scores = RowScores {
                logp: numbers.clone(),
                is_top1: vec![true, false, false, true, true, false, true, true, true],
                statistics: Some([vec![0.0; 9], numbers.iter().map(|n| 10.0 * n).collect(), numbers]),
            };
            let mut metrics = Metrics::default();
            batch.groups.iter().for_each(|group| add(group, &scores, &mut metrics));
            let expected = [accuracy, 210.0 / 6.0, chosen, rejected];
            for (name, expected) in OF_EVALUATIONS.iter().zip(expected) {
                let found = metrics.mean(name).unwrap();
                assert!((found - expected).abs() < 1e-12, "{label:?} {name}: {found}, not {expected}");
            }
            let totals = StepTotals::of(&groups);
            let step = Step { index: 1, epoch: 0.0, batches: vec![batch], scoring: Vec::new(), totals };
            assert_eq!(num_tokens(&step), 4 + 5 + 4 + 5 + 6);
        }
    }
}
