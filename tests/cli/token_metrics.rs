//! Entropy, mean logits, token accuracy and token count: TRL's names, TRL's numbers, for every objective.

use serde_json::Value;

use crate::golden::*;
use crate::shell::Shell;

const OF_LOGITS: [&str; 3] = ["entropy", "logits/chosen", "logits/rejected"];

/// `tests/golden/make_token_metrics.py`: TRL's DPO trainer on golden checkpoints.
#[test]
fn they_are_those_of_trl() {
    let golden = json(repository("tests/golden/token_metrics.json"));
    for entry in golden["entries"].as_array().unwrap() {
        let shell = Shell::new();
        let (model, data) =
            (checkpoint(entry["checkpoint"].as_str().unwrap()), batch(entry["batch"].as_str().unwrap()));
        // One step of all pairs, in several micro-batches; ORPO and AOT find their log-probs in other passes of the head.
        for objective in ["dpo", "orpo", "aot", "asft"] {
            let run = format!(
                "train --model {model} --data {data} --eval-data {data} --objective {objective} --batch-size 6"
            );
            let more = "--max-steps 1 --logging-steps 1 --max-tokens-per-batch 64 --head-rows 7 --reference-cache cache";
            done(&shell, &format!("{run} {more} --output {objective}"));
            let lines = lines(shell.path().join(objective).join("metrics.jsonl"));
            for (name, expected) in entry["metrics"].as_object().unwrap() {
                let step =
                    lines.iter().find(|line| line.contains_key("loss")).unwrap()[name].as_f64().unwrap();
                let expected = expected.as_f64().unwrap();
                assert!((step - expected).abs() < 1e-5, "{objective} {name}: {step}, not {expected}");
                if name != "num_tokens" {
                    let evaluation = lines[0][&format!("eval_{name}")].as_f64().unwrap();
                    assert!(
                        (evaluation - expected).abs() < 1e-5,
                        "{objective} {name}: {evaluation} in evaluation"
                    );
                }
            }
        }
    }
}

/// What costs a read of the logits is measured where the run reports, and by no other step; what costs nothing always; both
/// in every evaluation.
#[test]
fn logits_are_looked_at_where_the_run_reports() {
    let shell = Shell::new();
    let eval = batch("mixed6");
    let more = format!("--max-steps 7 --logging-steps 3 --eval-data {eval} --eval-steps 2");
    done(&shell, &train12("gqa-llama3", "run", &more));
    let lines = lines(shell.path().join("run/metrics.jsonl"));
    let mut tokens = 0;
    for line in &lines {
        let step = line["step"].as_u64().unwrap();
        if !line.contains_key("loss") {
            assert!(OF_LOGITS.iter().all(|name| line.contains_key(&format!("eval_{name}"))), "{line:?}");
            continue;
        }
        let measured = step % 3 == 0;
        assert!(OF_LOGITS.iter().all(|name| line.contains_key(*name) == measured), "{line:?}");
        assert!(line["mean_token_accuracy"].as_f64().unwrap() <= 1.0);
        assert!(line["num_tokens"].as_u64().unwrap() > tokens);
        tokens = line["num_tokens"].as_u64().unwrap();
    }
    // What was measured is in the entries that Hugging Face's plotters read, the count as it was last.
    let state = json(shell.path().join("run/trainer_state.json"));
    let entries: Vec<&Value> =
        state["log_history"].as_array().unwrap().iter().filter(|entry| entry["loss"].is_number()).collect();
    for entry in &entries {
        let step = &entry["step"];
        let line = lines.iter().find(|line| line["step"] == *step && line.contains_key("loss")).unwrap();
        for name in ["num_tokens", "entropy", "logits/chosen"] {
            assert_eq!(entry[name], line[name], "{entry}");
        }
    }
    assert_eq!(entries.len(), 2);
    let best = train12("gqa-llama3", "best", &format!("{more} --metric-for-best-model mean_token_accuracy"));
    done(&shell, &format!("{best} --load-best-model-at-end --greater-is-better"));
}
