use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use crate::golden::{json as json_file, *};
use crate::shell::Shell;

/// `asft score` with these words; its lines.
#[track_caller]
fn scored(shell: &Shell, words: &str) -> Vec<Map<String, Value>> {
    let ran = done(shell, &format!("score {words}"));
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn log_probs_are_those_of_transformers() {
    let shell = Shell::new();
    let manifest = manifest();
    let mut tokens = 0;
    for case in manifest["cases"].as_array().unwrap() {
        let (model, pairs) =
            (checkpoint(case["checkpoint"].as_str().unwrap()), batch(case["batch"].as_str().unwrap()));
        let ours = scored(&shell, &format!("--model {model} --data {pairs} --tokens"));
        let stored = tensors(repository(&format!("tests/golden/{}", case["file"].as_str().unwrap())));
        let rows = lines(&pairs);
        let width = stored["token_logps_all"].values.len() / (2 * rows.len());
        assert_eq!(ours.len(), rows.len());
        for (index, (row, line)) in rows.iter().zip(&ours).enumerate() {
            assert_eq!(line["row"], index);
            let prompt = row["prompt_input_ids"].as_array().unwrap().len();
            for (name, sequence) in [("chosen", index), ("rejected", rows.len() + index)] {
                let answer = &line[name];
                let ids = row[&format!("{name}_input_ids")].as_array().unwrap().len();
                let theirs = &stored["token_logps_all"].values[sequence * width + prompt - 1..][..ids];
                let logps = numbers(&answer["token_logps"]);
                assert_eq!(logps.len(), theirs.len());
                let worst = logps.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(worst < 1e-5, "{model} row {index} {name}: off by {worst:e}");
                let (sum, count) = (answer["logp"].as_f64().unwrap(), ids as f64);
                assert!((sum - stored["seq_sum"].values[sequence]).abs() < 1e-5 * count);
                assert!((answer["mean_logp"].as_f64().unwrap() - sum / count).abs() < 1e-12);
                assert_eq!(answer["tokens"], ids);
                tokens += ids;
            }
        }
    }
    assert!(tokens > 500, "only {tokens} tokens were compared");
}

#[test]
fn rows_that_cannot_be_used_keep_their_place() {
    let shell = Shell::new();
    let row = |prompt: &[u32], chosen: &[u32], rejected: &[u32]| {
        json!({ "prompt_input_ids": prompt, "chosen_input_ids": chosen, "rejected_input_ids": rejected })
            .to_string()
            + "\n"
    };
    let whole = row(&[1, 5], &[6, 2], &[7, 8, 2]);
    let text = [row(&[1, 5], &[6, 2], &[]), whole.clone(), row(&[1], &[], &[7]), row(&[], &[3], &[4]), whole]
        .concat();
    shell.write("rows.jsonl", text);
    let words = format!("--model {} --data rows.jsonl", checkpoint("gqa-llama3"));
    let lines = scored(&shell, &words);
    let rows: Vec<u64> = lines.iter().map(|line| line["row"].as_u64().unwrap()).collect();
    assert_eq!(rows, [0, 1, 2, 3, 4]);
    let skipped: Vec<Option<&str>> =
        lines.iter().map(|line| line.get("skipped").and_then(Value::as_str)).collect();
    assert_eq!(skipped, [Some("empty rejected"), None, Some("empty chosen"), Some("empty prompt"), None]);
    assert_eq!(lines[1]["chosen"], lines[4]["chosen"], "the same row, the same bits, wherever it is packed");
    assert_eq!(lines[1]["rejected"], lines[4]["rejected"]);
    assert_eq!(lines[1]["rejected"]["tokens"], 3);
    assert!(lines[1]["chosen"].get("token_logps").is_none(), "only with --tokens");
    // Alone, and in another packing.
    shell.write("alone.jsonl", row(&[1, 5], &[6, 2], &[7, 8, 2]));
    let alone = scored(&shell, &format!("--model {} --data alone.jsonl", checkpoint("gqa-llama3")));
    assert_eq!(alone[0]["chosen"], lines[1]["chosen"]);
    let packed = scored(&shell, &format!("{words} --max-tokens-per-batch 7 --threads 1"));
    assert_eq!(packed, lines);

    let printed = done(&shell, &format!("score {words}")).stdout;
    let written = done(&shell, &format!("score {words} --output scores.jsonl"));
    assert_eq!(written.stdout, "");
    assert_eq!(std::fs::read_to_string(shell.path().join("scores.jsonl")).unwrap(), printed);
}

#[test]
fn an_id_beyond_the_vocabulary_is_an_error() {
    let shell = Shell::new();
    let good = "{\"prompt_input_ids\":[1],\"chosen_input_ids\":[2],\"rejected_input_ids\":[95]}\n";
    shell.write("rows.jsonl", format!("{good}{}", good.replace("95", "96")));
    let ran = typed(
        &shell,
        &format!("score --model {} --data rows.jsonl --output out.jsonl", checkpoint("gqa-llama3")),
    );
    assert_eq!((ran.code, &*ran.stdout), (2, ""));
    let message = "error: rows.jsonl:2: column \"rejected_input_ids\" has token id 96 at position 0, but the model's \
                   vocabulary has 96 tokens (0 to 95)\n";
    assert_eq!(ran.stderr, message);
    assert!(!shell.path().join("out.jsonl").exists());
}

#[test]
fn messages_and_strings_are_the_tokens_that_their_format_says() {
    let shell = Shell::new();
    let folder = repository("examples/quickstart");
    let tokenizer = Tokenizer::from_file(format!("{folder}/tokenizer.json")).unwrap();
    let ids = |text: &str| tokenizer.encode(text, false).unwrap().get_ids().to_vec();
    let config = json_file(format!("{folder}/tokenizer_config.json"));
    let end = ids(config["eos_token"].as_str().unwrap());
    let ended = |text: &str| [ids(text), end.clone()].concat();
    assert_eq!(end.len(), 1);
    // Llama 3's chat format written out, and a plain completion between BOS and EOS.
    let chat = |text: &str| {
        format!(
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n"
        )
    };
    let message = |role: &str, text: &str| json!([{ "role": role, "content": text }]);
    let pair = |names: [&str; 3], values: [Value; 3]| {
        Value::Object(names.map(str::to_owned).into_iter().zip(values).collect()).to_string() + "\n"
    };
    const NAMES: [&str; 3] = ["prompt", "chosen", "rejected"];
    const IDS: [&str; 3] = ["prompt_input_ids", "chosen_input_ids", "rejected_input_ids"];
    let texts = ["copy: cow oak cat", "cow oak cat", "oak cow cat"];
    let answered =
        [message("user", texts[0]), message("assistant", texts[1]), message("assistant", texts[2])];
    shell.write("messages.jsonl", pair(NAMES, answered));
    shell.write("strings.jsonl", pair(NAMES, ["copy: cow oak", " cow oak", " oak cow"].map(Value::from)));
    let of_messages =
        [ids(&chat(texts[0])), ids("cow oak cat<|eot_id|>"), ids("oak cow cat<|eot_id|>")].map(Value::from);
    let of_strings =
        [ids("<|begin_of_text|>copy: cow oak"), ended(" cow oak"), ended(" oak cow")].map(Value::from);
    shell.write("tokens.jsonl", pair(IDS, of_messages) + &pair(IDS, of_strings));
    done(
        &shell,
        &format!(
            "train --init {folder}/config.json --tokenizer {folder} --data messages.jsonl --data strings.jsonl \
             --data tokens.jsonl --batch-size 2 --max-steps 1 --output model"
        ),
    );
    let lines = ["messages", "strings", "tokens"]
        .map(|name| scored(&shell, &format!("--model model --data {name}.jsonl --tokens")))
        .concat();
    for (text, tokens) in [(0, 2), (1, 3)] {
        for answer in ["chosen", "rejected"] {
            assert_eq!(lines[text][answer], lines[tokens][answer], "row {text}, {answer}");
        }
    }
    assert_ne!(lines[0]["chosen"], lines[1]["chosen"]);
}
