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
