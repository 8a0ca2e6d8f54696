use serde_json::{Map, Value, json};

use crate::golden::*;
use crate::shell::Shell;

/// `asft eval pairs --json` with these words, by model.
#[track_caller]
fn evaluated(shell: &Shell, words: &str) -> Vec<Map<String, Value>> {
    let ran = done(shell, &format!("eval pairs --json {words}"));
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn value(line: &Map<String, Value>, name: &str) -> f64 {
    line["metrics"][name]["value"].as_f64().unwrap_or_else(|| panic!("no {name} in {line:?}"))
}

/// Every metric from transformers' log-probs, by the definitions in docs/eval.md.
#[test]
fn metrics_are_those_of_transformers_log_probs() {
    let shell = Shell::new();
    let manifest = manifest();
    let case = manifest["cases"]
        .as_array()
        .unwrap()
        .iter()
        .find(|case| case["checkpoint"] == "gqa-llama3" && case["batch"] == "mixed6")
        .unwrap();
    let stored = tensors(repository(&format!("tests/golden/{}", case["file"].as_str().unwrap())));
    let (sums, means, lengths) =
        (&stored["seq_sum"].values, &stored["seq_mean"].values, &stored["seq_len"].values);
    let reference = &stored["ref.seq_sum"].values;
    let n = sums.len() / 2;
    let line = &evaluated(
        &shell,
        &format!(
            "--model {} --data {} --reference {}",
            checkpoint("gqa-llama3"),
            batch("mixed6"),
            checkpoint("gqa-llama3-reference")
        ),
    )[0];
    let mean = |of: &dyn Fn(usize) -> f64| (0..n).map(of).sum::<f64>() / n as f64;
    // One pair has the same answer twice: a tie counts as a half.
    let share = |of: &dyn Fn(usize) -> f64| {
        mean(&|i| if of(i).abs() < 1e-9 { 0.5 } else { f64::from(u8::from(of(i) > 0.0)) })
    };
    let odds = |a: f64| a - (1.0 - a.exp()).ln();
    let total = |values: &[f64]| values.iter().sum::<f64>();
    let margin = |i: usize| (sums[i] - reference[i]) - (sums[n + i] - reference[n + i]);
    let reference_mean = |i: usize| reference[i] / lengths[i];
    let expected = [
        ("logps/chosen", mean(&|i| sums[i])),
        ("logps/rejected", mean(&|i| sums[n + i])),
        ("logps/margins", mean(&|i| sums[i] - sums[n + i])),
        ("logps/accuracies", share(&|i| sums[i] - sums[n + i])),
        ("mean_logps/chosen", mean(&|i| means[i])),
        ("mean_logps/rejected", mean(&|i| means[n + i])),
        ("mean_logps/margins", mean(&|i| means[i] - means[n + i])),
        ("mean_logps/accuracies", share(&|i| means[i] - means[n + i])),
        ("log_odds/chosen", mean(&|i| odds(means[i]))),
        ("log_odds/rejected", mean(&|i| odds(means[n + i]))),
        ("perplexity/chosen", (-total(&sums[..n]) / total(&lengths[..n])).exp()),
        ("perplexity/rejected", (-total(&sums[n..]) / total(&lengths[n..])).exp()),
        ("rewards/chosen", mean(&|i| sums[i] - reference[i])),
        ("rewards/rejected", mean(&|i| sums[n + i] - reference[n + i])),
        ("rewards/margins", mean(&margin)),
        ("rewards/accuracies", share(&margin)),
        ("reference/wins", share(&|i| means[i] - means[n + i] - (reference_mean(i) - reference_mean(n + i)))),
    ];
    for (name, theirs) in expected {
        let ours = value(line, name);
        assert!((ours - theirs).abs() < 1e-4 * theirs.abs().max(1.0), "{name}: {ours} {theirs}");
        let bound = |bound: &str| line["metrics"][name][bound].as_f64().unwrap();
        assert!(bound("low") <= ours && ours <= bound("high"), "{name}: {}", line["metrics"][name]);
    }
    // k1 is the chosen rewards per token; k3 from the stored log-probs of each token.
    let width = stored["token_logps_all"].values.len() / (2 * n);
    let rows = lines(batch("mixed6"));
    let (mut k1, mut k3) = (0.0, 0.0);
    for (i, row) in rows.iter().enumerate() {
        let first = i * width + row["prompt_input_ids"].as_array().unwrap().len() - 1;
        for at in first..first + lengths[i] as usize {
            let r = stored["ref.token_logps_all"].values[at] - stored["token_logps_all"].values[at];
            (k1, k3) = (k1 - r, k3 + r.exp() - 1.0 - r);
        }
    }
    for (name, theirs) in [("log_ratio/chosen_k1", k1), ("log_ratio/chosen_k3", k3)] {
        let theirs = theirs / total(&lengths[..n]);
        assert!((value(line, name) - theirs).abs() < 1e-4 * theirs.abs().max(1.0), "{name}: {theirs}");
    }
}

#[test]
fn own_answers_beside_the_chosen_ones() {
    let shell = Shell::new();
    // The memorised checkpoint knows some of these answers by heart.
    let words = format!(
        "--model {} --model {} --data {} --generate 4 --max-new-tokens 12 --answers answers.jsonl --reference {}",
        checkpoint("memorised"),
        checkpoint("mqa-linear-tied"),
        batch("mixed6"),
        checkpoint("mqa-linear-tied-reference"),
    );
    let found = evaluated(&shell, &words);
    assert_eq!(found.len(), 2);
    let answers = lines(shell.path().join("answers.jsonl"));
    assert_eq!(answers.len(), 8);
    for (model, line) in found.iter().enumerate() {
        let own = &answers[4 * model..4 * model + 4];
        let share = |of: &dyn Fn(&Map<String, Value>) -> f64| own.iter().map(of).sum::<f64>() / 4.0;
        assert_eq!(value(line, "answer/tokens"), share(&|answer| answer["tokens"].as_f64().unwrap()));
        let exact = share(&|answer| f64::from(u8::from(answer["text"] == answer["chosen"])));
        assert_eq!(value(line, "answer/exact"), exact);
        let names =
            ["bleu4", "rouge1", "rougeL", "distinct1", "distinct2", "repetition4", "log_ratio/own_k3"];
        assert!(names.iter().all(|name| value(line, name).is_finite()));
    }
    assert!(
        value(&found[0], "rougeL") > value(&found[1], "rougeL"),
        "what was learnt by heart is said again"
    );
    // The same numbers, and the same drawn answers, whatever the threads.
    let drawn = words.clone() + " --temperature 1 --threads";
    let one = evaluated(&shell, &format!("{drawn} 1"));
    assert_eq!(one, evaluated(&shell, &format!("{drawn} 2")));
    assert!(value(&one[0], "kl/k3") >= 0.0 && one[0]["metrics"].get("log_ratio/own_k3").is_none());
    let table = done(&shell, &format!("eval pairs {words}")).stdout;
    let row = table.lines().find(|line| line.starts_with("bleu4 ")).unwrap();
    assert!(row.contains(&format!("{:.4}", value(&found[0], "bleu4"))), "{row}");
    assert!(table.starts_with("6 pairs, "), "{table}");
}

#[test]
fn what_cannot_be_evaluated() {
    let shell = Shell::new();
    let (model, data) = (checkpoint("gqa-llama3"), batch("mixed6"));
    let refused = |words: &str, message: &str| {
        let ran = typed(&shell, &format!("eval pairs {words}"));
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{words}: {}", ran.stderr);
        assert!(ran.stderr.contains(message), "{words}: {}", ran.stderr);
    };
    refused(&format!("--data {data}"), "--model is missing");
    refused(&format!("--model {model}"), "--data is missing");
    refused(
        &format!("--model {model} --data {data} --answers a"),
        "--answers has no effect without --generate",
    );
    refused(&format!("--model {model} --data gone.jsonl"), "gone.jsonl");
    refused(&format!("--model gone --data {data}"), "gone");
    let other = json!({ "prompt_input_ids": [1], "chosen_input_ids": [], "rejected_input_ids": [2] });
    shell.write("empty.jsonl", format!("{other}\n"));
    refused(&format!("--model {model} --data empty.jsonl"), "none of the 1 rows");
}

/// FastChat's format, by its own field names; both turns in one conversation; a second run answers only what is left.
#[test]
fn mt_bench_answers_both_turns_and_goes_on() {
    let shell = Shell::new();
    let folder = repository("examples/quickstart");
    let row = json!({ "prompt": "a", "chosen": "b", "rejected": "c" });
    shell.write("row.jsonl", format!("{row}\n"));
    done(
        &shell,
        &format!(
            "train --init {folder}/config.json --tokenizer {folder} --data row.jsonl --batch-size 1 --max-steps 1 \
             --output noise"
        ),
    );
    let question = |id: u64, category: &str| json!({ "question_id": id, "category": category, "turns": ["cow oak", "and now?"], "reference": ["x"] });
    let all = [question(9, "writing"), question(3, "math"), question(5, "stem")];
    shell.write("all.jsonl", all.clone().map(|line| format!("{line}\n")).concat());
    shell.write("two.jsonl", all[..2].iter().map(|line| format!("{line}\n")).collect::<String>());
    let words = |questions: &str, output: &str| {
        format!("eval mt-bench --model noise --questions {questions} --output {output} --max-new-tokens 6")
    };
    let ran = done(&shell, &words("all.jsonl", "at-once"));
    assert_eq!(ran.stdout, "at-once/noise.jsonl\n");
    let answers = lines(shell.path().join("at-once/noise.jsonl"));
    let ids: Vec<u64> = answers.iter().map(|line| line["question_id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [3, 5, 9], "sorted as FastChat sorts them");
    for answer in &answers {
        assert_eq!(answer["model_id"], "noise");
        assert!(answer["answer_id"].is_string() && answer["tstamp"].is_f64());
        let choice = &answer["choices"][0];
        assert_eq!((&choice["index"], choice["turns"].as_array().unwrap().len()), (&json!(0), 2));
    }
    // The second turn is the answer to the conversation that holds the first.
    let turns = |answer: &Map<String, Value>| answer["choices"][0]["turns"].clone();
    let first = turns(&answers[0])[0].clone();
    let message = |role: &str, text: &Value| json!({ "role": role, "content": text });
    let conversation = json!({ "messages": [message("user", &json!("cow oak")), message("assistant", &first),
                                            message("user", &json!("and now?"))] });
    shell.write("conversation.jsonl", format!("{conversation}\n"));
    let again = done(&shell, "generate --model noise --prompts conversation.jsonl --max-new-tokens 6").stdout;
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["text"].as_str().unwrap().trim(), turns(&answers[0])[1]);
    // In two parts.
    done(&shell, &words("two.jsonl", "in-parts"));
    let before = lines(shell.path().join("in-parts/noise.jsonl"));
    done(&shell, &words("all.jsonl", "in-parts"));
    let after = lines(shell.path().join("in-parts/noise.jsonl"));
    assert_eq!((before.len(), after.len()), (2, 3));
    assert!(before.iter().all(|line| after.contains(line)), "kept as they were");
    assert_eq!(after.iter().map(turns).collect::<Vec<_>>(), answers.iter().map(turns).collect::<Vec<_>>());

    let refused = |line: &str, message: &str| {
        let ran = typed(&shell, line);
        assert_eq!(ran.code, 2, "{line}: {}", ran.stderr);
        assert!(ran.stderr.contains(message), "{line}: {}", ran.stderr);
    };
    refused("eval mt-bench --model noise --output o", "--questions is missing");
    shell.write("bad.jsonl", "{\"question_id\": 1}\n");
    refused(&words("bad.jsonl", "o"), "bad.jsonl:1: missing field `category`");
    let bare = checkpoint("gqa-llama3");
    refused(&format!("eval mt-bench --model {bare} --questions all.jsonl --output o"), "no tokenizer.json");
    shell.write("in-parts/noise.jsonl", "{\"a\": 1}\n");
    refused(&words("all.jsonl", "in-parts"), "in-parts/noise.jsonl:1: missing field");
}
