use serde_json::Value;

use crate::golden::*;
use crate::shell::Shell;

#[test]
fn a_run_is_reported_and_watched() {
    let shell = Shell::new();
    let eval = batch("mixed6");
    done(
        &shell,
        &train12("mqa-linear-tied", "run", &format!("--max-steps 3 --eval-data {eval} --eval-steps 2")),
    );
    let run = shell.path().join("run");
    let facts: Value = serde_json::from_slice(&std::fs::read(run.join("facts.json")).unwrap()).unwrap();
    assert_eq!(
        (&facts["steps"], &facts["objective"], &facts["eval_data"]["used"]),
        (&3.into(), &"asft".into(), &6.into())
    );
    assert!(facts["planned"].as_array().unwrap().iter().all(|part| part["bytes"].as_u64() > Some(0)));
    let all = lines(run.join("metrics.jsonl"));
    let evaluations: Vec<_> = all.iter().filter(|line| line.contains_key("eval_loss")).collect();
    assert_eq!(evaluations.len(), 3);
    for line in evaluations {
        let intervals = line["eval_intervals"].as_object().unwrap();
        assert!(intervals.contains_key("loss") && intervals.contains_key("rewards/accuracies"));
        for (name, bounds) in intervals {
            let value = line[&format!("eval_{name}")].as_f64().unwrap();
            let (low, high) = (bounds[0].as_f64().unwrap(), bounds[1].as_f64().unwrap());
            assert!(low <= value + 1e-12 && value <= high + 1e-12, "{name}: {value} in {low} to {high}");
        }
        let loss = &intervals["loss"];
        assert!(loss[0].as_f64() < loss[1].as_f64(), "six pairs are not alike: {loss}");
    }
    let state = std::fs::read_to_string(run.join("trainer_state.json")).unwrap();
    assert!(!state.contains("eval_intervals"), "Hugging Face's state has numbers only");

    let ran = shell.asft(&["report", "run", "--svg", "svg", "--tensorboard", "events"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.starts_with("Page    run/report.html\n"), "{}", ran.stdout);
    assert!(ran.stderr.contains("No answers were sampled"), "{}", ran.stderr);
    assert!(std::fs::read_to_string(run.join("report.html")).unwrap().contains("It finished: 3 steps."));
    assert!(shell.path().join("svg/loss.svg").exists());
    assert!(shell.path().join("events/run/events.out.tfevents.0.asft").exists());
    let ran = shell.asft(&["watch", "run"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("step 3 of 3") && !ran.stdout.contains('\u{1b}'), "{}", ran.stdout);
}

#[test]
fn what_is_no_run_is_refused() {
    let shell = Shell::new();
    std::fs::create_dir(shell.path().join("empty")).unwrap();
    for (words, part) in [
        (["report", "empty"], "empty holds no run of asft"),
        (["report", "nowhere"], "cannot read nowhere"),
        (["watch", "nowhere"], "nowhere is not a folder"),
    ] {
        let ran = shell.asft(&words);
        assert_eq!(ran.code, 2, "{words:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(part), "{words:?}: {}", ran.stderr);
    }
    let ran = shell.asft(&["report"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
}
