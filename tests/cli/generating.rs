use std::path::PathBuf;

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use crate::golden::*;
use crate::shell::{Ran, Shell};

/// The answers of a command line.
#[track_caller]
fn answers(shell: &Shell, words: &[&str]) -> Vec<Map<String, Value>> {
    let ran = good(shell, words);
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn good(shell: &Shell, words: &[&str]) -> Ran {
    let ran = shell.asft(&[&["generate"], words].concat());
    assert_eq!(ran.code, 0, "{words:?}\n{}", ran.stderr);
    ran
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// A folder with tokenizer and chat template whose answers are noise: the quickstart's after one step.
fn speaking(shell: &Shell) -> PathBuf {
    let folder = repository("examples/quickstart");
    let row = json!({ "prompt": "a", "chosen": "b", "rejected": "c" });
    shell.write("row.jsonl", format!("{row}\n"));
    done(
        shell,
        &format!(
            "train --init {folder}/config.json --tokenizer {folder} --data row.jsonl --batch-size 1 --max-steps 1 \
             --output model"
        ),
    );
    shell.path().join("model")
}

#[test]
fn ids_in_ids_out_as_transformers() {
    let shell = Shell::new();
    let manifest = manifest();
    let cases: Vec<&Value> = manifest["generations"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|case| case["checkpoint"] == "gqa-llama3")
        .collect();
    let lists: String = cases.iter().map(|case| format!("{}\n\n", case["prompt"])).collect();
    shell.write("ids.jsonl", lists);
    let model = checkpoint("gqa-llama3");
    let words =
        ["--model", &model, "--prompt-ids", "ids.jsonl", "--max-new-tokens", "24", "--output", "out.jsonl"];
    let ran = good(&shell, &words);
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains("tokens/s") && ran.stderr.contains("GB/s"), "{}", ran.stderr);
    let written = lines(shell.path().join("out.jsonl"));
    assert_eq!(written.len(), cases.len());
    for (index, (line, case)) in written.iter().zip(&cases).enumerate() {
        assert_eq!((&line["row"], &line["sample"]), (&json!(index), &json!(0)));
        assert_eq!(line["ids"], case["continuation"]);
        let reason = if case["ended_by"] == "eos" { "stop" } else { "length" };
        assert_eq!(line["finish_reason"], reason);
        assert!(!line.contains_key("text"), "no tokenizer, no text");
    }
    assert!(!shell.path().join("out.jsonl.partial").exists());
    // What came out goes in again.
    let again = answers(&shell, &["--model", &model, "--prompt-ids", "out.jsonl", "--max-new-tokens", "3"]);
    assert_eq!(again.len(), cases.len());
}

#[test]
fn text_is_what_the_tokens_decode_to_and_stops_before_stop_strings() {
    let shell = Shell::new();
    let model = speaking(&shell);
    let model = model.to_str().unwrap();
    let tokenizer = Tokenizer::from_file(format!("{model}/tokenizer.json")).unwrap();
    let drawn = [
        "--model",
        model,
        "--prompt",
        "copy: cow",
        "--temperature",
        "1.5",
        "--ignore-eos",
        "--max-new-tokens",
        "60",
    ];
    let line = &answers(&shell, &[&drawn[..], &["--json"]].concat())[0];
    let text = line["text"].as_str().unwrap();
    assert_eq!(text, tokenizer.decode(&ids(&line["ids"]), true).unwrap());
    assert_eq!((&line["finish_reason"], line["ids"].as_array().unwrap().len()), (&json!("length"), 60));
    // The same as it streams, and nothing else on stdout.
    assert_eq!(good(&shell, &drawn).stdout, format!("{text}\n"));
    assert_eq!(good(&shell, &[&drawn[..], &["--threads", "1"]].concat()).stdout, format!("{text}\n"));
    assert_ne!(good(&shell, &[&drawn[..], &["--seed", "1"]].concat()).stdout, format!("{text}\n"));
    // A stop string in the middle, of several tokens, beside one that never comes.
    let middle: Vec<char> = text.chars().collect();
    let stop: String = middle[middle.len() / 2..middle.len() / 2 + 4].iter().collect();
    let before = &text[..text.find(&stop).unwrap()];
    let stopped = [&drawn[..], &["--stop", "never there", "--stop", &stop]].concat();
    assert_eq!(good(&shell, &stopped).stdout, format!("{before}\n"));
    let line = &answers(&shell, &[&stopped[..], &["--json"]].concat())[0];
    assert_eq!((&line["text"], &line["finish_reason"]), (&json!(before), &json!("stop")));
    assert!(line["ids"].as_array().unwrap().len() < 60);
    // A stop token is the last one.
    let token = ids(&answers(&shell, &[&drawn[..], &["--json"]].concat())[0]["ids"])[5].to_string();
    let line = &answers(&shell, &[&drawn[..], &["--json", "--stop-token", &token]].concat())[0];
    assert_eq!(ids(&line["ids"]).last().unwrap().to_string(), token);
}

#[test]
fn templates_raw_text_prefixes_and_samples() {
    let shell = Shell::new();
    let model = speaking(&shell);
    let model = model.to_str().unwrap();
    let tokenizer = Tokenizer::from_file(format!("{model}/tokenizer.json")).unwrap();
    let encode = |text: &str| tokenizer.encode(text, false).unwrap().get_ids().to_vec();
    let chat = |system: &str, text: &str| {
        format!(
            "<|begin_of_text|>{system}<|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n"
        )
    };
    let system = "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>";
    let expected = [
        (vec![], chat("", "cow oak")),
        (vec!["--system", "Be brief."], chat(system, "cow oak")),
        (vec!["--prefix", "cat "], chat("", "cow oak") + "cat "),
        (vec!["--raw"], "<|begin_of_text|>cow oak".to_owned()),
        (vec!["--raw", "--prefix", " cat"], "<|begin_of_text|>cow oak cat".to_owned()),
    ];
    let greedy = ["--model", model, "--max-new-tokens", "6", "--ignore-eos"];
    for (flags, text) in expected {
        let prompt = encode(&text);
        shell.write("ids.jsonl", format!("{}\n", json!(prompt)));
        let as_ids = answers(&shell, &[&greedy[..], &["--prompt-ids", "ids.jsonl"]].concat());
        let typed = answers(&shell, &[&greedy[..], &["--prompt", "cow oak", "--json"], &flags].concat());
        assert_eq!(typed[0]["ids"], as_ids[0]["ids"], "{flags:?}");
        assert_eq!(typed[0]["prompt_tokens"], prompt.len(), "{flags:?}");
        if let Some(at) = flags.iter().position(|flag| *flag == "--prefix") {
            assert!(typed[0]["text"].as_str().unwrap().starts_with(flags[at + 1]));
        }
    }
    // Files: strings, conversations and lines, with samples in order.
    let rows = [
        json!({ "prompt": "cow oak" }),
        json!({ "prompt": [{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "cow oak" }] }),
        json!({ "messages": [{ "role": "user", "content": "cow oak" }], "chosen": "ignored" }),
        json!({ "prompt_input_ids": encode(&chat("", "cow oak")) }),
    ];
    shell.write("rows.jsonl", rows.map(|row| format!("{row}\n")).concat());
    shell.write("lines.txt", "cow oak\n\ncow oak\r\n");
    let drawn = [&greedy[..], &["--temperature", "2", "--n", "2"]].concat();
    let rows = answers(&shell, &[&drawn[..], &["--prompts", "rows.jsonl"]].concat());
    let places: Vec<(u64, u64)> =
        rows.iter().map(|line| (line["row"].as_u64().unwrap(), line["sample"].as_u64().unwrap())).collect();
    assert_eq!(places, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]);
    assert_ne!(rows[0]["ids"], rows[1]["ids"]);
    assert_ne!(rows[0]["ids"], rows[4]["ids"], "another row draws other numbers");
    let few = answers(&shell, &[&drawn[..], &["--prompts", "rows.jsonl", "--batch-size", "3"]].concat());
    assert_eq!(few, rows);
    let plain = answers(&shell, &[&drawn[..], &["--prompts", "lines.txt"]].concat());
    assert_eq!(
        plain[..2].iter().map(|line| &line["ids"]).collect::<Vec<_>>(),
        [&rows[0]["ids"], &rows[1]["ids"]]
    );
    let numbered = good(&shell, &[&drawn[..], &["--prompt", "cow oak"]].concat()).stdout;
    let shown = |index: usize| rows[index]["text"].as_str().unwrap();
    assert_eq!(numbered, format!("--- 1 ---\n{}\n--- 2 ---\n{}\n", shown(0), shown(1)));
}

#[test]
fn a_chat_remembers_resets_and_ends() {
    let shell = Shell::new();
    let model = speaking(&shell);
    let model = model.to_str().unwrap();
    let talk = |input: &str, more: &[&str]| {
        let flags = ["generate", "--chat", "--model", model, "--max-new-tokens", "8", "--temperature", "1.5"];
        let flags = [&flags[..], more].concat();
        Ran::from(shell.command().args(flags).write_stdin(input).output().unwrap())
    };
    let ran =
        talk("cow\n\n/what\ncow\n/reset\ncow\n/system Be brief.\ncow\n/exit\nnever\n", &["--ignore-eos"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    // Answers may hold line breaks; the first turn alone is a beginning of the whole.
    let once = talk("cow\n", &["--ignore-eos"]);
    assert_eq!(once.code, 0);
    assert!(ran.stdout.starts_with(&once.stdout), "{:?} {:?}", ran.stdout, once.stdout);
    let twice = talk("cow\ncow\n", &["--ignore-eos"]).stdout;
    assert!(ran.stdout.starts_with(&twice) && twice.len() > once.stdout.len());
    assert!(ran.stderr.contains("/reset"), "{}", ran.stderr);
    // Greedy, what a conversation keeps gives what is computed anew after a reset.
    let greedy = |input: &str| {
        let words = ["generate", "--chat", "--model", model, "--max-new-tokens", "5"];
        Ran::from(shell.command().args(words).write_stdin(input).output().unwrap()).stdout
    };
    assert_eq!(greedy("cow\n/reset\ncow\n"), greedy("cow\n").repeat(2));
    let full = talk("cow\ncow\ncow\n", &["--context", "24", "--ignore-eos"]);
    assert_eq!(full.code, 0);
    assert!(full.stderr.contains("/reset begins a new one, --context"), "{}", full.stderr);
}

#[test]
fn what_cannot_be_answered_is_said_before_the_model_is_loaded() {
    let shell = Shell::new();
    let model = checkpoint("gqa-llama3");
    shell.write("long.jsonl", format!("[1,2]\n{}\n", json!(vec![5; 512])));
    shell.write("beyond.jsonl", "[1,2]\n[1,96]\n");
    shell.write("broken.jsonl", "[1,2]\n{\"ids\": \"a\"}\n");
    shell.write("empty.jsonl", "\n");
    shell.write("none.jsonl", "[]\n");
    let refused = |words: &[&str], message: &str| {
        let ran = shell.asft(&[&["generate", "--model", &model], words].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{words:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(message), "{words:?}: {}", ran.stderr);
    };
    refused(&[], "--prompt is missing");
    refused(&["--prompt", "a", "--prompts", "b"], "--prompt and --prompts exclude each other");
    refused(&["--prompt", "a"], "no tokenizer.json");
    refused(&["--chat"], "no tokenizer.json");
    refused(&["--prompt-ids", "long.jsonl"], "long.jsonl:2 has 512 tokens, and the model was made for 512");
    refused(&["--prompt-ids", "beyond.jsonl"], "beyond.jsonl:2: column \"ids\" has token id 96");
    refused(&["--prompt-ids", "broken.jsonl"], "broken.jsonl:2: column \"ids\" holds a string");
    refused(&["--prompt-ids", "empty.jsonl"], "no rows in empty.jsonl");
    refused(&["--prompt-ids", "none.jsonl"], "none.jsonl:1 is empty");
    refused(&["--prompt-ids", "gone.jsonl"], "cannot read gone.jsonl");
    refused(&["--prompt-ids", "long.jsonl", "--stop", "x"], "no tokenizer.json");
    refused(&["--prompt-ids", "long.jsonl", "--stop", ""], "--stop");
    refused(&["--prompt-ids", "long.jsonl", "--temperature", "-1"], "--temperature -1: must be");
    refused(&["--prompt-ids", "long.jsonl", "--top-p", "1.5"], "--top-p 1.5: must be between 0 and 1");
    refused(&["--prompt-ids", "long.jsonl", "--repetition-penalty", "0"], "--repetition-penalty 0: must be");
    refused(&["--prompt-ids", "long.jsonl", "--n", "0"], "--n 0: must be at least 1");
}
