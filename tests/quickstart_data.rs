//! The shipped quickstart folder: its data follow the rule that the README tells the reader, its tokenizer and chat
//! template do what Llama 3's do, and `examples/make_quickstart.rs` still writes exactly these bytes.
//!
//! The rule, the conversation layout and the vocabulary's order are stated here a second time, apart from the example.

use std::collections::HashSet;
use std::path::PathBuf;

use serde_json::Value;
use tokenizers::Tokenizer;

#[path = "../examples/make_quickstart.rs"]
#[allow(dead_code, reason = "the example's `main` is not called here")]
mod make_quickstart;

const FILES: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "heldout.jsonl",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "train.jsonl",
];

fn shipped(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart").join(name)
}

fn shipped_json(name: &str) -> Value {
    serde_json::from_str(&fs_err::read_to_string(shipped(name)).unwrap()).unwrap()
}

/// A row's three texts.
#[derive(Clone)]
struct Texts {
    prompt: String,
    chosen: String,
    rejected: String,
}

/// The rows of a data file; checks that each column is a list of one message in the right role.
fn rows(name: &str) -> Vec<Texts> {
    let content = |row: &Value, column: &str, role: &str| {
        let messages = row[column].as_array().unwrap();
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0]["role"], role);
        messages[0]["content"].as_str().unwrap().to_owned()
    };
    fs_err::read_to_string(shipped(name))
        .unwrap()
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            assert_eq!(row.as_object().unwrap().len(), 3);
            Texts {
                prompt: content(&row, "prompt", "user"),
                chosen: content(&row, "chosen", "assistant"),
                rejected: content(&row, "rejected", "assistant"),
            }
        })
        .collect()
}

fn all_rows() -> Vec<Texts> {
    [rows("train.jsonl"), rows("heldout.jsonl")].concat()
}

fn words(text: &str) -> Vec<&str> {
    text.split(' ').collect()
}

/// The right answer to a prompt, by its words alone.
fn right_answer(prompt: &str) -> String {
    let (verb, list) = prompt.split_once(": ").unwrap();
    let mut list = words(list);
    match verb {
        "reverse" => list = list.into_iter().rev().collect(),
        "sort" => list.sort(),
        "copy" => (),
        "first-and-last" => list = vec![list.first().unwrap(), list.last().unwrap()],
        _ => panic!("unknown verb in {prompt:?}"),
    }
    list.join(" ")
}

#[test]
fn training_and_held_out_prompts_are_distinct() {
    let (train, held_out) = (rows("train.jsonl"), rows("heldout.jsonl"));
    assert_eq!((train.len(), held_out.len()), (6_000, 256));
    let prompts: HashSet<String> = all_rows().into_iter().map(|row| row.prompt).collect();
    assert_eq!(prompts.len(), 6_256);
}

#[test]
fn chosen_follows_the_rule() {
    for row in all_rows() {
        assert_eq!(row.chosen, right_answer(&row.prompt), "{}", row.prompt);
    }
}

#[test]
fn rejected_is_chosen_with_two_words_exchanged() {
    for row in all_rows() {
        let (chosen, rejected) = (words(&row.chosen), words(&row.rejected));
        assert_eq!(chosen.len(), rejected.len(), "{}", row.prompt);
        let moved: Vec<usize> = (0..chosen.len()).filter(|&i| chosen[i] != rejected[i]).collect();
        let &[a, b] = moved.as_slice() else { panic!("{} places differ: {}", moved.len(), row.prompt) };
        assert_eq!((chosen[a], chosen[b]), (rejected[b], rejected[a]), "{}", row.prompt);
    }
}

#[test]
fn verbs_and_lengths_are_balanced_over_a_list_of_40_words() {
    for (name, each) in [("train.jsonl", 375), ("heldout.jsonl", 16)] {
        let rows = rows(name);
        let mut vocabulary = HashSet::new();
        for verb in ["reverse", "sort", "copy", "first-and-last"] {
            for length in 3..=6 {
                let with = |row: &&Texts| {
                    let (of_row, list) = row.prompt.split_once(": ").unwrap();
                    of_row == verb && words(list).len() == length
                };
                assert_eq!(rows.iter().filter(with).count(), each, "{name}: {verb}, {length} words");
            }
        }
        for row in &rows {
            let list = words(row.prompt.split_once(": ").unwrap().1);
            assert_eq!(list.iter().collect::<HashSet<_>>().len(), list.len(), "a word twice: {}", row.prompt);
            vocabulary.extend(list.into_iter().map(str::to_owned));
        }
        assert_eq!(vocabulary.len(), 40, "{name}");
    }
}

#[test]
fn the_settings_name_files_that_are_shipped() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let settings: toml::Table =
        fs_err::read_to_string(root.join("examples/quickstart.toml")).unwrap().parse().unwrap();
    assert!(root.join(settings["init"].as_str().unwrap()).is_file());
    assert!(root.join(settings["tokenizer"].as_str().unwrap()).join("tokenizer.json").is_file());
    assert!(root.join(settings["eval_data"].as_str().unwrap()).is_file());
    for file in settings["data"].as_array().unwrap() {
        assert!(root.join(file.as_str().unwrap()).is_file(), "{file}");
    }
}

#[test]
fn the_example_writes_the_shipped_bytes() {
    let folder = tempfile::tempdir().unwrap();
    make_quickstart::write_folder(folder.path()).unwrap();
    let names = |folder: PathBuf| {
        let mut names: Vec<String> = fs_err::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(folder.path().to_owned()), FILES);
    assert_eq!(names(shipped("")), FILES);
    for name in FILES {
        let written = fs_err::read(folder.path().join(name)).unwrap();
        assert!(
            written == fs_err::read(shipped(name)).unwrap(),
            "{name} differs from the shipped file; `cargo run --example make_quickstart` rewrites it"
        );
    }
}

#[test]
fn the_tokenizer_is_laid_out_as_llama_3() {
    let tokenizer = Tokenizer::from_file(shipped("tokenizer.json")).unwrap();
    let model = &shipped_json("tokenizer.json")["model"];
    let (vocabulary, merges) = (model["vocab"].as_object().unwrap(), model["merges"].as_array().unwrap());
    // Bytes, one new token for every merge, special tokens. That no two merges give the same token also makes the
    // training deterministic: its order is decided by (count, pair) alone.
    assert_eq!(vocabulary.len(), 256 + merges.len());
    let special =
        ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"];
    for (offset, token) in special.iter().enumerate() {
        assert_eq!(tokenizer.token_to_id(token), Some((vocabulary.len() + offset) as u32), "{token}");
    }
    let size = tokenizer.get_vocab_size(true);
    assert_eq!(size, vocabulary.len() + special.len());

    let id = |token: &str| Value::from(tokenizer.token_to_id(token).unwrap());
    for name in ["config.json", "generation_config.json"] {
        let config = shipped_json(name);
        assert_eq!(config["bos_token_id"], id("<|begin_of_text|>"), "{name}");
        assert_eq!(
            config["eos_token_id"],
            Value::from(vec![id("<|end_of_text|>"), id("<|eot_id|>")]),
            "{name}"
        );
    }
    assert_eq!(shipped_json("config.json")["vocab_size"], size);
}

#[test]
fn every_word_is_one_token_and_text_survives_the_round_trip() {
    let tokenizer = Tokenizer::from_file(shipped("tokenizer.json")).unwrap();
    for row in all_rows() {
        let encoding = tokenizer.encode(row.chosen.as_str(), false).unwrap();
        assert_eq!(encoding.len(), words(&row.chosen).len(), "{}", row.chosen);
        assert_eq!(tokenizer.decode(encoding.get_ids(), true).unwrap(), row.chosen);
    }
    let other = "Zwölf Boxkämpfer\n\n  jagen 12345 Viktor!";
    let encoding = tokenizer.encode(other, true).unwrap();
    assert_eq!(encoding.get_tokens()[0], "<|begin_of_text|>");
    assert_eq!(tokenizer.decode(encoding.get_ids(), true).unwrap(), other);
}

#[test]
fn the_chat_template_is_llama_3s_and_a_prompt_is_a_prefix_of_its_answer() {
    let config = shipped_json("tokenizer_config.json");
    let mut environment = minijinja::Environment::new();
    let syntax =
        minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().unwrap();
    environment.set_syntax(syntax);
    environment.add_template("chat", config["chat_template"].as_str().unwrap()).unwrap();
    let template = environment.get_template("chat").unwrap();
    let render = |messages: Value, add_generation_prompt: bool| {
        let context = serde_json::json!({
            "bos_token": config["bos_token"],
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
        });
        template.render(minijinja::value::Serde(context)).unwrap()
    };
    let tokenizer = Tokenizer::from_file(shipped("tokenizer.json")).unwrap();

    for row in rows("heldout.jsonl") {
        let user = serde_json::json!({"role": "user", "content": row.prompt});
        let assistant = serde_json::json!({"role": "assistant", "content": format!(" {}\n", row.chosen)});
        let prompt = render(Value::from(vec![user.clone()]), true);
        let both = render(Value::from(vec![user, assistant]), false);
        let expected = format!(
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n",
            row.prompt
        );
        assert_eq!(prompt, expected);
        assert_eq!(both, format!("{expected}{}<|eot_id|>", row.chosen));
        let prompt = tokenizer.encode(prompt, false).unwrap();
        let both = tokenizer.encode(both, false).unwrap();
        assert!(both.get_ids().starts_with(prompt.get_ids()), "{}", row.prompt);
        assert_eq!(both.get_tokens().last().unwrap(), "<|eot_id|>");
        assert_eq!(both.len(), prompt.len() + words(&row.chosen).len() + 1);
    }
}
