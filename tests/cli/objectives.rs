//! `asft objectives`, and a few steps of every objective from the command line, with the columns that it says rows hold.

use serde_json::{Map, Value, json};

use crate::shell::Shell;

const CONFIG: &str = r#"{
    "model_type": "llama", "hidden_act": "silu", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 41, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "initializer_range": 0.2, "tie_word_embeddings": false
}"#;

fn list(shell: &Shell) -> Vec<Value> {
    let ran = shell.asft(&["objectives", "--json"]);
    assert_eq!((ran.code, &*ran.stderr), (0, ""));
    serde_json::from_str(&ran.stdout).expect("a JSON list")
}

#[test]
fn the_list_is_json_with_these_keys() {
    let all = list(&Shell::new());
    assert!(all.len() >= 38, "{} objectives", all.len());
    for objective in &all {
        let keys: Vec<&str> = objective.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            ["name", "aliases", "formula", "reference", "parameters", "coupling", "columns"],
            "{objective}"
        );
        assert!(["sequence", "group", "step"].contains(&objective["coupling"].as_str().unwrap()));
    }
}

#[test]
fn one_is_explained_and_an_unknown_one_refused() {
    let shell = Shell::new();
    let kto = shell.asft(&["objectives", "KTO"]);
    assert_eq!(kto.code, 0);
    for words in
        ["rows hold   prompt, completion, label", "coupling    step", "--desirable-weight", "reference"]
    {
        assert!(kto.stdout.contains(words), "no {words} in\n{}", kto.stdout);
    }
    let unknown = shell.asft(&["objectives", "simpoo"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("did you mean `simpo`?"), "{}", unknown.stderr);
}

#[test]
fn ift_says_what_it_is_and_what_it_costs() {
    let shell = Shell::new();
    let ift = shell.asft(&["objectives", "ift"]);
    assert_eq!(ift.code, 0);
    for words in [
        "rows hold   prompt, chosen",
        "coupling    sequence",
        "one forward pass more",
        "--ift-propagation",
        "released, paper-linear or none",
        "--ift-detach-weights",
        "--ift-embedding",
        "default learning rate 5e-7",
    ] {
        assert!(ift.stdout.contains(words), "no {words} in\n{}", ift.stdout);
    }
    shell.write("config.json", CONFIG);
    shell.write("rows.jsonl", rows(&["chosen"]));
    let ran = shell.asft(
        &"train --init config.json --data rows.jsonl --output none --objective ift:0.5,sft:0.5"
            .split_whitespace()
            .collect::<Vec<_>>(),
    );
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("ift changes what the model is given"), "{}", ran.stderr);
}

/// Six rows of token ids with these columns.
fn rows(columns: &[&str]) -> String {
    let ids = |row: usize, from: usize, len: usize| -> Vec<usize> {
        (0..len).map(|token| (row * 5 + from + token * 3) % 41).collect()
    };
    let line = |row: usize| {
        let mut line = Map::from_iter([("prompt_input_ids".to_owned(), json!(ids(row, 1, 3)))]);
        for column in columns {
            let (name, value) = match *column {
                "chosen" | "completion" => ("chosen_input_ids", json!(ids(row, 7, 4))),
                "rejected" => ("rejected_input_ids", json!(ids(row, 11, 2))),
                "reference_response" => ("reference_response_input_ids", json!(ids(row, 13, 3))),
                "label" => ("label", json!(row.is_multiple_of(2))),
                "score" => ("score", json!(0.2 * row as f64)),
                "soft_label" => ("soft_label", json!(0.9 - 0.05 * row as f64)),
                "chosen_weights" => ("chosen_weights", json!([1, 0, 0.5, 1])),
                "rejected_weights" => ("rejected_weights", json!([1, 0.25])),
                "advantages" => ("advantages", json!([0.5, -0.25, 1, 0])),
                "old_logps" => ("old_logps", json!([-1, -2, -3, -4])),
                "confidence" => ("confidence", json!(-((row * 4 % 7) as f64))),
                "prompt_embedding" => ("prompt_embedding", json!([row as f64, 1.0])),
                other => panic!("no column {other}"),
            };
            line.insert(name.to_owned(), value);
        }
        Value::Object(line).to_string() + "\n"
    };
    (0..6).map(line).collect()
}

/// Trains two steps, resumes for a third, and gives the metrics.
fn train(shell: &Shell, name: &str, objective: &str, columns: &[&str]) -> Vec<Map<String, Value>> {
    shell.write("config.json", CONFIG);
    shell.write("rows.jsonl", rows(columns));
    let words = |steps: &str, more: &str| {
        format!(
            "train --init config.json --data rows.jsonl --eval-split 0.2 --objective {objective} --output {name} --batch-size 4 \
             --max-steps {steps} --save-steps 2 --learning-rate 1e-3 --device cpu --threads 1 --reference-cache cache {more}"
        )
    };
    for words in [words("2", ""), words("3", "--resume")] {
        let ran = shell.asft(&words.split_whitespace().collect::<Vec<_>>());
        assert_eq!(ran.code, 0, "{words}\n{}", ran.stderr);
        assert!(!ran.stderr.contains("policy and reference differ"), "{objective}: {}", ran.stderr);
    }
    let metrics = std::fs::read_to_string(shell.path().join(name).join("metrics.jsonl")).unwrap();
    metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_objective_trains_from_a_file_with_its_columns() {
    let shell = Shell::new();
    for objective in list(&shell) {
        let name = objective["name"].as_str().unwrap();
        let columns: Vec<&str> =
            objective["columns"].as_array().unwrap().iter().map(|column| column.as_str().unwrap()).collect();
        let lines = train(&shell, name, name, &columns);
        let steps: Vec<&Map<String, Value>> = lines.iter().filter(|line| line.contains_key("loss")).collect();
        assert_eq!(steps.len(), 3, "{name}: {lines:?}");
        assert!(steps.iter().all(|line| line["grad_norm"].as_f64().unwrap() > 0.0), "{name}: {steps:?}");
        // Without its last column a row is refused by name.
        if let Some((last, rest)) =
            columns.split_last().filter(|(last, _)| !["chosen", "rejected"].contains(last))
        {
            shell.write("rows.jsonl", rows(rest));
            let words =
                format!("train --init config.json --data rows.jsonl --objective {name} --output none");
            let ran = shell.asft(&words.split_whitespace().collect::<Vec<_>>());
            assert_eq!(ran.code, 2, "{name}: {}", ran.stderr);
            assert!(ran.stderr.contains(last), "{name}: no {last} in {}", ran.stderr);
        }
    }
}

#[test]
fn options_and_sums_train() {
    let shell = Shell::new();
    let pair = ["chosen", "rejected"];
    let ift = "ift --ift-lambda 0.4 --ift-gamma 0.9 --ift-embedding live --ift-detach-weights --max-tokens-per-batch 20";
    for (index, (objective, metric)) in [
        ("dpo --weighting wpo", "rewards/margins"),
        ("dpo --ld-alpha 0.3", "rewards/margins"),
        ("dpo:0.8,sft:0.2", "rewards/margins"),
        ("aot:1,sft:0.5", "rewards/margins"),
        ("ipo --f-divergence js", "rewards/margins"),
        (ift, "ift/pushed_down_frac"),
    ]
    .into_iter()
    .enumerate()
    {
        let lines = train(&shell, &format!("run{index}"), objective, &pair);
        assert!(lines.iter().any(|line| line.contains_key(metric)), "{objective}: {lines:?}");
    }
}
