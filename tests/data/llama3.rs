//! Against Meta's Llama-3 tokenizer and the test vectors of llama.cpp, tiktoken and llama-models, where they are
//! found beside the repository. They cannot be shipped; `golden.rs` proves the same on a small folder.

use std::path::PathBuf;

use asft::data::{ChatTemplate, EncodeConfig, Encoded, Encoder, Message, TemplateText, Tokenizer};
use serde_json::Value;

use super::skip;
use crate::fixture::{read, template};

/// The tokenizer's folder, where there is one.
fn folder(test: &str) -> Option<PathBuf> {
    skip::outside(test, "ASFT_LLAMA3_TOKENIZER", "tokenizer/llama3")
}

fn json(path: PathBuf) -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn texts_have_llama_3s_ids() {
    let Some(folder) = folder("texts_have_llama_3s_ids") else { return };
    let tokenizer = Tokenizer::from_folder(&folder).unwrap().unwrap();
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (Some(128_000), Some(128_009)));
    assert!(tokenizer.adds_bos());
    let cases = json(folder.join("cases/tiktoken_cases.json"));
    assert!(cases.len() >= 440, "{}", cases.len());
    for case in cases {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{text:?}");
    }
    let inputs = std::fs::read_to_string(folder.join("cases/ggml-vocab-llama-bpe.gguf.inp")).unwrap();
    let outputs = std::fs::read_to_string(folder.join("cases/ggml-vocab-llama-bpe.gguf.out")).unwrap();
    // Every text is followed by a separator, the last one too.
    let mut inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
    assert_eq!(inputs.pop(), Some(""));
    assert_eq!(inputs.len(), outputs.lines().count());
    assert!(inputs.len() > 40);
    for (input, output) in inputs.into_iter().zip(outputs.lines()) {
        let expected: Vec<u32> = output.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(tokenizer.encode(input).unwrap(), expected, "{input:?}");
    }
}

#[test]
fn conversations_render_to_llama_3s_text_and_ids() {
    let Some(folder) = folder("conversations_render_to_llama_3s_text_and_ids") else { return };
    let tokenizer = Tokenizer::from_folder(&folder).unwrap().unwrap();
    let text = TemplateText::of_folder(&folder).unwrap().unwrap();
    let of_folder = ChatTemplate::new(text, &tokenizer, None).unwrap();
    let built_in = template("built-in llama3", &tokenizer);
    assert!(built_in.unknown_special_tokens(&tokenizer).is_empty());
    assert_eq!(built_in.end_of_turn(&tokenizer), Some(128_009));
    let cases = json(folder.join("cases/chat_cases.json"));
    assert!(cases.len() >= 20, "{}", cases.len());
    for case in cases {
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let messages: Vec<&Message> = messages.iter().collect();
        let text = of_folder.render(&messages, false).unwrap();
        assert_eq!(text, case["text"].as_str().unwrap());
        for add_generation_prompt in [false, true] {
            let expected = of_folder.render(&messages, add_generation_prompt).unwrap();
            assert_eq!(built_in.render(&messages, add_generation_prompt).unwrap(), expected);
        }
        assert_eq!(tokenizer.encode(&text).unwrap(), ids(&case["ids"]));
    }
}

/// Real conversations, by the chat template and as plain text; made by `golden/make_llama3_rows.py`, which see.
#[test]
fn real_rows_have_transformers_ids() {
    const TEST: &str = "real_rows_have_transformers_ids";
    let Some(folder) = folder(TEST) else { return };
    let Some(path) = std::env::var_os("ASFT_LLAMA3_ROWS") else {
        skip::skip(TEST, "rows", "ASFT_LLAMA3_ROWS names no file of golden/make_llama3_rows.py");
        return;
    };
    let config = EncodeConfig { vocab_size: 128_256, ..EncodeConfig::default() };
    let chat = Encoder::from_folder(&folder, config.clone()).unwrap();
    let plain = Encoder::new(Tokenizer::from_folder(&folder).unwrap(), None, config);
    let (mut rows, mut tokens) = (0, 0);
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        rows += 1;
        for (name, encoder) in [("chat", &chat), ("plain", &plain)] {
            let group = match encoder.encode(0, read(&case["row"]).unwrap()).unwrap() {
                Encoded::Group(group, _) => group,
                Encoded::Unusable(_) => {
                    assert_eq!(case["dropped"], true, "{line}");
                    continue;
                }
            };
            let expected = &case[name];
            assert_eq!(group.prompt, ids(&expected["prompt"]), "{name}: {line}");
            for answer in &group.answers {
                assert_eq!(answer.ids, ids(&expected[answer.role.name()]), "{name}: {line}");
                assert_eq!(answer.scored, None);
                tokens += answer.ids.len();
            }
            tokens += group.prompt.len();
        }
    }
    println!("{rows} rows, {tokens} tokens: all equal");
}
