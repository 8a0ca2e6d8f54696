//! `asft prepare`: a new file, and a training run that takes it.

use serde_json::{Value, json};

use crate::golden::{done, lines, repository, typed};
use crate::shell::Shell;

fn write(shell: &Shell, name: &str, rows: &[Value]) {
    shell.write(name, rows.iter().map(|row| row.to_string() + "\n").collect::<String>());
}

fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// One optimizer step on a prepared file with the quickstart's configuration and tokenizer.
#[track_caller]
fn train(shell: &Shell, more: &str) {
    let quickstart = repository("examples/quickstart");
    let model = format!("--init {quickstart}/config.json --tokenizer {quickstart}");
    done(shell, &format!("train {model} --output run --max-steps 1 --device cpu --no-cache --strict {more}"));
}

#[test]
fn extract_prompt_gives_pairs_that_train_alike() {
    let shell = Shell::new();
    let pair = |answer: &str| {
        json!({
            "id": 7,
            "chosen": format!("\n\nHuman: reverse: red\n\nAssistant: {answer}"),
            "rejected": "\n\nHuman: reverse: red\n\nAssistant: red",
        })
    };
    write(
        &shell,
        "hh.jsonl",
        &[pair("der"), pair("deer"), json!({"chosen": "no turn", "rejected": "\n\nHuman: x"})],
    );
    let ran = done(&shell, "prepare extract-prompt --data hh.jsonl --output pairs.jsonl");
    assert_eq!(ran.stdout, "");
    for said in [
        "hh.jsonl: chosen, rejected as Human/Assistant transcripts",
        "pairs.jsonl: 2 rows made of 3",
        "1 of 3 rows left out (33.3%):",
        "  1 not a conversation: chosen does not begin with a turn: hh.jsonl:3",
    ] {
        assert!(ran.stderr.contains(said), "{}\ndoes not say\n{said}", ran.stderr);
    }
    let rows = lines(shell.path().join("pairs.jsonl"));
    assert_eq!(
        Value::Object(rows[0].clone()),
        json!({
            "prompt": [turn("user", "reverse: red")],
            "chosen": [turn("assistant", "der")],
            "rejected": [turn("assistant", "red")],
            "id": 7,
        })
    );
    train(&shell, "--objective asft --data pairs.jsonl");
}

#[test]
fn nothing_is_overwritten_and_nothing_half_written() {
    let shell = Shell::new();
    let row = json!({"chosen": "The sky is blue.", "rejected": "The sky is green."});
    write(&shell, "in.jsonl", &[row]);
    let line = "prepare extract-prompt --data in.jsonl --output out.jsonl";
    done(&shell, line);
    let first = std::fs::read(shell.path().join("out.jsonl")).unwrap();
    assert_eq!(first, b"{\"prompt\":\"The sky is\",\"chosen\":\" blue.\",\"rejected\":\" green.\"}\n");
    let refused = typed(&shell, line);
    assert_eq!(refused.code, 2);
    assert!(
        refused.stderr.contains("out.jsonl exists; choose another file, or say --overwrite"),
        "{}",
        refused.stderr
    );
    // A mistake in the last row leaves the file as it was, and nothing beside it.
    shell.write("bad.jsonl", "{\"chosen\": \"a b\", \"rejected\": \"a c\"}\n{\"chosen\": 7}\n");
    let wrong = typed(&shell, "prepare extract-prompt --data bad.jsonl --output out.jsonl --overwrite");
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("bad.jsonl:2: "), "{}", wrong.stderr);
    assert_eq!(std::fs::read(shell.path().join("out.jsonl")).unwrap(), first);
    let mut names: Vec<_> =
        std::fs::read_dir(shell.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["bad.jsonl", "in.jsonl", "out.jsonl"]);
    done(&shell, &format!("{line} --overwrite"));
    assert_eq!(std::fs::read(shell.path().join("out.jsonl")).unwrap(), first);
}

/// Pairs about words that the quickstart's model knows.
fn pairs(count: usize) -> Vec<Value> {
    let pair = |row: usize| {
        json!({
            "prompt": format!("reverse: {}", ["red", "blue", "green"][row % 3]), "chosen": format!("der{row}"),
            "rejected": format!("red{row}"), "score_chosen": 9, "score_rejected": 2.5,
        })
    };
    (0..count).map(pair).collect()
}

#[test]
fn split_gives_data_to_train_on_and_to_evaluate_on() {
    let shell = Shell::new();
    write(&shell, "all.jsonl", &pairs(9));
    let line = "prepare split --data all.jsonl --output train.jsonl --test-output test.jsonl --fraction 0.34 --seed 3";
    let ran = done(&shell, line);
    for said in [
        "all.jsonl: prompt, chosen, rejected as strings",
        "train.jsonl: 6 rows made of 9",
        "test.jsonl: 3 rows made of 9",
        "3 distinct prompts, none of them in both files",
    ] {
        assert!(ran.stderr.contains(said), "{}\ndoes not say\n{said}", ran.stderr);
    }
    train(&shell, "--objective asft --data train.jsonl --eval-data test.jsonl");
    let refused = |more: &str, said: &str| {
        let ran = typed(&shell, &format!("prepare split --data all.jsonl --output a.jsonl {more}"));
        assert_eq!(ran.code, 2);
        assert!(ran.stderr.contains(said), "{}\ndoes not say\n{said}", ran.stderr);
    };
    refused("--test-output test.jsonl", "test.jsonl exists; choose another file, or say --overwrite");
    refused("--test-output b.jsonl --fraction 1", "--fraction 1 is not between 0 and 1");
    refused("--test-output b.jsonl --count 0", "--count 0 holds out nothing");
    refused("--test-output b.jsonl --count 9", "cannot hold out 9 of 9 rows with 3 distinct prompts");
    refused("--test-output a.jsonl", "--output and --test-output are the same file");
    assert!(!shell.path().join("a.jsonl").exists());
}

#[test]
fn reward_augmented_gives_pairs_for_dpo() {
    let shell = Shell::new();
    write(&shell, "scored.jsonl", &pairs(2));
    let ran = done(&shell, "prepare reward-augmented --data scored.jsonl --output goals.jsonl");
    let best = "Give an answer that would get an overall score of 10, on a scale from 1 (the worst) to 10 (the best).";
    assert!(ran.stderr.contains(&format!("to ask for the best answers: {best}")), "{}", ran.stderr);
    let rows = lines(shell.path().join("goals.jsonl"));
    assert_eq!(rows.len(), 4);
    assert_eq!(rows[0]["prompt"], best.replace("of 10,", "of 9,") + "\n\nreverse: red");
    assert_eq!(rows[1]["prompt"], best.replace("of 10,", "of 2.5,") + "\n\nreverse: red");
    assert_eq!([&rows[1]["chosen"], &rows[1]["rejected"]], ["red0", "der0"]);
    train(&shell, "--objective dpo --data goals.jsonl");
    let wording =
        ["--wording", "Reach {score}/{max}.", "--scale", "0:100", "--from-scale", "0:10", "--overwrite"];
    let words = ["prepare", "reward-augmented", "--data", "scored.jsonl", "--output", "goals.jsonl"];
    assert_eq!(shell.asft(&[&words[..], &wording].concat()).code, 0);
    assert_eq!(lines(shell.path().join("goals.jsonl"))[1]["prompt"], "Reach 25/100.\n\nreverse: red");
    let ran = typed(&shell, "prepare reward-augmented --data scored.jsonl --output x.jsonl --scale 10:1");
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("give the worst and the best score, such as 1:10"), "{}", ran.stderr);
}

#[test]
fn rejection_sample_gives_pairs_for_rso() {
    let shell = Shell::new();
    let candidates: Vec<String> = (0..16).map(|index| format!("der{index}")).collect();
    let scores: Vec<f64> = (0..16).map(|index| f64::from(index) / 4.0).collect();
    let row = |prompt: &str| json!({"prompt": prompt, "candidates": candidates, "scores": scores});
    write(&shell, "candidates.jsonl", &[row("reverse: red"), row("reverse: blue")]);
    let line = "prepare rejection-sample --data candidates.jsonl --output pairs.jsonl";
    let ran = done(&shell, line);
    assert!(ran.stderr.contains("16 of 32 different candidates accepted"), "{}", ran.stderr);
    assert!(ran.stderr.contains("pairs.jsonl: 8 rows made of 2"), "{}", ran.stderr);
    let first = std::fs::read(shell.path().join("pairs.jsonl")).unwrap();
    done(&shell, &format!("{line} --overwrite"));
    assert_eq!(
        std::fs::read(shell.path().join("pairs.jsonl")).unwrap(),
        first,
        "the same seed, the same bytes"
    );
    done(&shell, &format!("{line} --overwrite --seed 7"));
    assert_ne!(std::fs::read(shell.path().join("pairs.jsonl")).unwrap(), first);
    // RSO's sigmoid-norm loss is dpo, its hinge-norm loss hinge.
    train(&shell, "--objective dpo --data pairs.jsonl");
    done(&shell, &format!("{line} --overwrite --ranking tournament --keep 4 --beta 0.1"));
    assert_eq!(lines(shell.path().join("pairs.jsonl")).len(), 6);
    for (more, said) in [
        ("--keep 1", "--keep 1 makes no pair; give at least 2"),
        ("--beta 0", "--beta 0 is not a number above 0"),
    ] {
        let ran = typed(&shell, &format!("{line} --overwrite {more}"));
        assert_eq!(ran.code, 2);
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
}

#[test]
fn token_diff_gives_weights_for_bmc() {
    let shell = Shell::new();
    write(&shell, "pairs.jsonl", &pairs(3));
    let model = repository("examples/quickstart");
    let line = format!("prepare token-diff --data pairs.jsonl --output diff.jsonl --model {model}");
    let ran = done(&shell, &line);
    assert!(ran.stderr.contains("answer tokens are changed and no stop words"), "{}", ran.stderr);
    let rows = lines(shell.path().join("diff.jsonl"));
    assert!(rows.iter().all(|row| row["chosen_weights"].as_array().unwrap().contains(&json!(1))));
    train(&shell, "--objective bmc --data diff.jsonl");
    // Weights of other tokens are noticed by their number.
    let mut other = rows[0].clone();
    other.insert("chosen".to_owned(), json!("der der der der"));
    write(&shell, "diff.jsonl", &[Value::Object(other)]);
    let model = format!("--init {model}/config.json --tokenizer {model}");
    let ran = typed(
        &shell,
        &format!("train {model} --output other --max-steps 1 --device cpu --objective bmc --data diff.jsonl"),
    );
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("column \"chosen_weights\" has"), "{}", ran.stderr);
    let none = typed(&shell, "prepare token-diff --data pairs.jsonl --output no.jsonl --model nowhere");
    assert_eq!(none.code, 2);
}
