use std::path::Path;

use serde_json::{Map, Value};

use crate::golden::*;
use crate::resume::{assert_same_run, killed_after};
use crate::shell::Shell;

/// Too high a learning rate for so few pairs: held-out pairs get better, then worse. Checkpoints are saved at steps that
/// are none of the evaluations'.
fn line(output: &str, more: &str) -> String {
    let eval = batch("mixed6");
    let more = format!(
        "--max-steps 24 --save-steps 5 --lr-scheduler-type constant --eval-data {eval} --eval-steps 2 {more}"
    );
    train12("mqa-linear-tied", output, &more).replace("--learning-rate 1e-3", "--learning-rate 1e-2")
}

/// The evaluations after steps, as (step, value).
fn evaluations(run: &Path, metric: &str) -> Vec<(u64, f64)> {
    let of = |line: &Map<String, Value>| Some((line["step"].as_u64()?, line.get(metric)?.as_f64()?));
    lines(run.join("metrics.jsonl")).iter().filter_map(of).filter(|(step, _)| *step > 0).collect()
}

/// The first of the lowest.
fn lowest(evaluations: &[(u64, f64)]) -> (u64, f64) {
    evaluations.iter().copied().reduce(|best, next| if next.1 < best.1 { next } else { best }).unwrap()
}

#[test]
fn the_result_is_the_model_of_the_best_evaluation() {
    let shell = Shell::new();
    // It stays although only one checkpoint is kept.
    let ran = done(&shell, &line("run", "--load-best-model-at-end --save-total-limit 1"));
    let run = shell.path().join("run");
    let all = evaluations(&run, "eval_loss");
    let (step, value) = lowest(&all);
    assert!(step < 24 && step % 5 != 0, "nothing to test: the best of {all:?} is saved anyway");
    let best = run.join(format!("checkpoint-{step}"));
    let weights = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(weights(&run) == weights(&best), "the result is not the model of step {step}");
    let state = json(run.join("trainer_state.json"));
    assert_eq!(state["best_metric"].as_f64(), Some(value));
    assert_eq!(state["best_global_step"].as_u64(), Some(step));
    assert_eq!(state["best_model_checkpoint"], format!("checkpoint-{step}"));
    assert_eq!(state["global_step"], 24, "the record is that of the whole run");
    let folders = files(&run).into_iter().filter(|name| name.ends_with("asft/state.json")).count();
    assert_eq!(folders, 2, "the best and the newest");
    // The table and the card show that model's figures, not the last evaluation's.
    let row = ran.stdout.lines().find(|line| line.starts_with("  loss ")).unwrap();
    assert!(row.ends_with(&format!("{value:.3}")), "{row}, and the best is {value}");
    assert!(
        ran.stdout.contains(&format!("The result is the model after step {step}, the best by eval_loss."))
    );
    let card = std::fs::read_to_string(run.join("README.md")).unwrap();
    assert!(card.contains(&format!("step {step}, chosen by eval_loss")), "{card}");
    assert!(card.lines().any(|line| line.starts_with("| `loss` |") && line.contains(&format!("{value:.4}"))));
    // Typed again it says the same, and does nothing.
    let again = done(&shell, &line("run", "--load-best-model-at-end --save-total-limit 1 --resume"));
    assert!(again.stdout.starts_with("\nThe run had done its 24 steps already.\n"), "{}", again.stdout);
    let rest = |text: &str| text.lines().skip(2).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(rest(&again.stdout), rest(&ran.stdout));
}

#[test]
fn a_resumed_run_knows_the_best_so_far() {
    let shell = Shell::new();
    let more = "--load-best-model-at-end --early-stopping-patience 30";
    done(&shell, &line("whole", more));
    let whole = shell.path().join("whole");
    let (best, _) = lowest(&evaluations(&whole, "eval_loss"));
    let saved = asft::checkpoint::resume::checkpoints(&whole).unwrap();
    let (last, _) = saved.last().unwrap();
    assert!((*last as u64) > best, "the best is to lie before the checkpoint that is gone on from");
    let run = killed_after(&shell, &whole, *last);
    let words = line(run.to_str().unwrap(), more);
    done(&shell, &format!("{words} --resume"));
    assert_same_run(&whole, &run);
    // Without it the run could not end as it should: it says so before it trains.
    let run = killed_after(&shell, &whole, *last);
    std::fs::remove_dir_all(run.join(format!("checkpoint-{best}"))).unwrap();
    let ran = typed(&shell, &format!("{words} --resume"));
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("checkpoint-{best}, the best checkpoint so far, is not there")));
}

/// transformers' rule, told again: improvement is a value better than the best so far by more than the threshold.
fn stops_after(evaluations: &[(u64, f64)], greater: bool, patience: usize, threshold: f64) -> Option<u64> {
    let (mut best, mut waited): (Option<f64>, usize) = (None, 0);
    for &(step, value) in evaluations {
        let is_better = best.is_none_or(|best| if greater { value > best } else { value < best });
        waited = if is_better && best.is_none_or(|best| (value - best).abs() > threshold) {
            0
        } else {
            waited + 1
        };
        best = if is_better { Some(value) } else { best };
        if waited >= patience {
            return Some(step);
        }
    }
    None
}

#[test]
fn a_run_that_does_not_improve_stops() {
    let shell = Shell::new();
    done(&shell, &line("whole", ""));
    let whole = shell.path().join("whole");
    for (name, metric, greater, threshold) in [
        ("loss", "eval_loss", false, 0.0),
        ("threshold", "eval_loss", false, 0.2),
        ("accuracy", "eval_rewards/accuracies", true, 0.0),
    ] {
        let expected = stops_after(&evaluations(&whole, metric), greater, 2, threshold);
        let expected = expected.filter(|step| *step < 24).unwrap_or_else(|| panic!("{name} never stops"));
        let more = format!(
            "--metric-for-best-model {metric} --early-stopping-patience 2 --early-stopping-threshold {threshold}"
        );
        let ran = done(&shell, &line(name, &more));
        let run = shell.path().join(name);
        assert!(
            ran.stderr.contains(&format!("stopping early after step {expected}: {metric} ")),
            "{}",
            ran.stderr
        );
        assert!(ran.stdout.starts_with(&format!("\nTrained {expected} steps in ")), "{}", ran.stdout);
        assert!(ran.stdout.contains("\nIt stopped early: "), "{}", ran.stdout);
        assert_eq!(steps(&run).len() as u64, expected);
        let state = json(run.join("trainer_state.json"));
        assert_eq!((&state["global_step"], &state["max_steps"]), (&expected.into(), &24.into()));
        // It is over until it may wait longer.
        let ran = done(&shell, &line(name, &format!("{more} --resume")));
        assert!(ran.stdout.starts_with(&format!("\nThe run had done its {expected} steps already.\n")));
        if name == "loss" {
            let more = more.replace("patience 2", "patience 20");
            let ran = done(&shell, &line(name, &format!("{more} --resume")));
            assert!(ran.stderr.contains("resuming after step "), "{}", ran.stderr);
            assert_eq!(losses(&run), losses(&whole));
        }
    }
}

#[test]
fn a_metric_that_is_not_measured_is_refused_before_anything_is_written() {
    let shell = Shell::new();
    for metric in ["eval_los", "rewards/accuracy"] {
        let ran = typed(&shell, &line("run", &format!("--metric-for-best-model {metric}")));
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        let metric = metric.trim_start_matches("eval_");
        let message =
            format!("--metric-for-best-model eval_{metric} is not measured; an evaluation has eval_loss, ");
        assert!(
            ran.stderr.contains(&message) || ran.stderr.contains("--greater-is-better"),
            "{}",
            ran.stderr
        );
        assert!(!shell.path().join("run").exists());
    }
}
