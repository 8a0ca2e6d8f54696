//! Names, weights and presence of the metrics; their values are in the golden cases.

use asft::objective::{Metrics, NllReduction, Parameters};

use super::{ONE_PAIR, assert_close, chosen_only, made, metrics, pair, run};

#[test]
fn metrics_merge_to_means_over_groups_or_tokens() {
    let groups = [([-2.0_f32].as_slice(), [-1.0_f32].as_slice()), (&[-0.5, -0.25, -0.75], &[-0.5, -0.5])];
    let total = |reduction| {
        let objective = made("asft", Parameters { nll_reduction: Some(reduction), ..Parameters::default() });
        let (mut direct, mut merged) = (Metrics::new(), Metrics::new());
        for (w, l) in groups {
            objective.metrics(&pair(w, l), &ONE_PAIR, &mut direct);
            merged.merge(&metrics(objective.as_ref(), &pair(w, l)));
        }
        assert_eq!(direct, merged);
        merged
    };
    let (sequence, token) = (total(NllReduction::Sequence), total(NllReduction::Token));
    assert_eq!(sequence.mean("nll_loss"), Some((2.0 + 0.5) / 2.0));
    assert_eq!(token.mean("nll_loss"), Some((2.0 + 1.5) / 4.0));
    for metrics in [sequence, token] {
        assert_eq!(metrics.mean("rewards/chosen"), Some(-1.25));
        assert_eq!(metrics.mean("logps/rejected"), Some(-0.75));
        assert_eq!(metrics.mean("rewards/margins"), Some(-0.5));
        // -2 < -1, and a tie, which counts as wrong.
        assert_eq!(metrics.mean("rewards/accuracies"), Some(0.0));
        let names: Vec<&str> = metrics.means().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names[..2], ["rewards/chosen", "rewards/rejected"], "the order of the calls");
    }
}

#[test]
fn metrics_of_absent_spans_are_not_given() {
    let alone = chosen_only(&[-0.5, -1.5]);
    let got = metrics(made("sft", Parameters::default()).as_ref(), &alone).means();
    assert_eq!(got, [("rewards/chosen", -1.0), ("logps/chosen", -1.0), ("nll_loss", 1.0)]);
    // Scored all the same, as in an evaluation.
    let got = metrics(made("sft", Parameters::default()).as_ref(), &pair(&[-0.5, -1.5], &[-3.0]));
    assert_eq!((got.mean("rewards/accuracies"), got.mean("rewards/margins")), (Some(1.0), Some(2.0)));
}

#[test]
fn the_loss_is_made_of_the_logged_terms() {
    let parameters = Parameters { c: Some(0.4), lambda: Some(0.9), beta: Some(0.7), ..Parameters::default() };
    let objective = made("asft", parameters);
    let group = pair(&[-0.5, -1.5], &[-3.0]);
    let logged = metrics(objective.as_ref(), &group);
    let want = 0.4 * logged.mean("nll_loss").unwrap() + 0.9 * logged.mean("asft/align_loss").unwrap();
    assert_close(run(objective.as_ref(), &group, &ONE_PAIR).0, want, 1e-15, 0.0, "loss");
}
