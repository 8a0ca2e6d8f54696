//! The shapes of data from end to end: a run takes what its objective can use, and says what it read.

use serde_json::{Value, json};

use crate::golden::{done, repository, typed};
use crate::shell::Shell;

/// `asft train` of one step on this file with the quickstart's configuration and tokenizer.
fn train(shell: &Shell, rows: &[Value], more: &str) -> crate::shell::Ran {
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    shell.write("rows.jsonl", lines.join("\n"));
    let quickstart = repository("examples/quickstart");
    let model = format!("--init {quickstart}/config.json --tokenizer {quickstart}");
    typed(shell, &format!("train {model} --data rows.jsonl --output run --max-steps 1 --device cpu {more}"))
}

fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// A conversation with two answers.
fn conversation() -> Value {
    json!({"id": 7, "messages": [
        turn("user", "reverse: red"), turn("assistant", "red"), turn("user", "and: blue"), turn("assistant", "blue"),
    ]})
}

#[test]
fn sft_takes_demonstrations_and_the_log_says_what_was_read() {
    let shell = Shell::new();
    let rows = [conversation(), conversation()];
    let ran = train(&shell, &rows, "--objective sft");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let said = "rows.jsonl: messages as a list; columns used: messages; ignored: id";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    // What the model is given to score is the assistant's turns alone.
    done(&shell, "score --model run --data rows.jsonl --output scores.jsonl --tokens");
    let scores = std::fs::read_to_string(shell.path().join("scores.jsonl")).unwrap();
    let line: Value = serde_json::from_str(scores.lines().next().unwrap()).unwrap();
    let tokenizer =
        asft::data::Tokenizer::from_folder(repository("examples/quickstart").as_ref()).unwrap().unwrap();
    let turns = ["red", "blue"].map(|words| tokenizer.encode(words).unwrap().len() + 1);
    assert_eq!(line["chosen"]["tokens"], turns.iter().sum::<usize>(), "with an end token each");
    assert!(line.get("rejected").is_none());
}

#[test]
fn a_pairwise_run_refuses_demonstrations() {
    let shell = Shell::new();
    let ran = train(&shell, &[conversation()], "--objective asft");
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    let said = "rows.jsonl:1: the row holds messages as a list, but the objective compares a chosen with a rejected answer";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
}

#[test]
fn columns_are_mapped_and_the_map_is_recorded() {
    let shell = Shell::new();
    let row = |answer: &str| json!({"question": "reverse: red", "chosen": answer, "worse": "x"});
    let ran =
        train(&shell, &[row("red"), row("x")], "--map prompt=question --map rejected=worse --drop-identical");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("1 identical answers"), "{}", ran.stderr);
    let recorded = std::fs::read_to_string(shell.path().join("run/run.toml")).unwrap();
    assert!(recorded.contains("map = [\"prompt=question\", \"rejected=worse\"]"), "{recorded}");
    let again = train(&shell, &[row("red")], "--map promt=question --overwrite-output-dir");
    assert_eq!(again.code, 2, "{}", again.stderr);
    assert!(again.stderr.contains("--map: there is no column \"promt\" to map"), "{}", again.stderr);
    assert!(again.stderr.contains("did you mean \"prompt\"?"), "{}", again.stderr);
    let missing = train(&shell, &[row("red")], "--map prompt=qestion --overwrite-output-dir");
    assert_eq!(missing.code, 2, "{}", missing.stderr);
    let said = "rows.jsonl:1: --map prompt=qestion: there is no column \"qestion\"; the row has question, chosen, worse";
    assert!(missing.stderr.contains(said), "{}", missing.stderr);
}
