//! The model folder's side: which files are read, which wins, what is said where one is wrong.

use std::path::Path;

use asft::data::{ChatTemplate, DataError, Encoder, Message, Tokenizer};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture::{config, folder, words};

/// A copy of the golden folder with some files replaced; `Null` removes one.
fn with(files: &[(&str, Value)]) -> TempDir {
    let copy = TempDir::new().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        std::fs::copy(folder().join(name), copy.path().join(name)).unwrap();
    }
    for (name, content) in files {
        let path = copy.path().join(name);
        match content {
            Value::Null => std::fs::remove_file(path).unwrap(),
            Value::String(text) => std::fs::write(path, text).unwrap(),
            json => std::fs::write(path, json.to_string()).unwrap(),
        }
    }
    copy
}

fn load(folder: &Path) -> Tokenizer {
    Tokenizer::from_folder(folder).unwrap().unwrap()
}

fn refused(folder: &TempDir) -> String {
    let message = words(&Encoder::from_folder(folder.path(), config()).unwrap_err());
    message.replace(&format!("{}/", folder.path().display()), "")
}

fn template(folder: &TempDir) -> Option<ChatTemplate> {
    ChatTemplate::from_folder(folder.path(), &load(folder.path())).unwrap()
}

fn rendered(folder: &TempDir) -> String {
    template(folder).unwrap().render(&[&Message::new("user", "hi")], false).unwrap()
}

#[test]
fn the_golden_folder_loads() {
    let tokenizer = load(&folder());
    let id = |token| tokenizer.token_to_id(token);
    assert_eq!(tokenizer.bos_id(), id("<|begin_of_text|>"));
    assert_eq!(tokenizer.eos_id(), id("<|eot_id|>"));
    assert!(tokenizer.bos_id().is_some() && tokenizer.bos_id() != tokenizer.eos_id());
    assert!(tokenizer.adds_bos());
    assert_eq!(tokenizer.vocab_size(), 420);
    assert!(tokenizer.is_special(id("<|im_end|>").unwrap()));
    assert!(!tokenizer.is_special(id("Hello").unwrap()));
    let ids = tokenizer.encode("Hello<|eot_id|>").unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "Hello");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "Hello<|eot_id|>");
}

#[test]
fn a_folder_without_tokenizer_is_no_error() {
    let empty = TempDir::new().unwrap();
    assert!(Tokenizer::from_folder(empty.path()).unwrap().is_none());
    let encoder = Encoder::from_folder(empty.path(), config()).unwrap();
    assert!(encoder.tokenizer().is_none() && encoder.template().is_none());
}

#[test]
fn saved_truncation_and_padding_are_not_applied() {
    let mut json: Value =
        serde_json::from_slice(&std::fs::read(folder().join("tokenizer.json")).unwrap()).unwrap();
    json["truncation"] =
        json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
    let folder = with(&[("tokenizer.json", json)]);
    let text = "What is the capital of France?";
    assert_eq!(load(folder.path()).encode(text), load(&crate::fixture::folder()).encode(text));
}

#[test]
fn special_tokens_are_found_as_transformers_finds_them() {
    let end = |folder: &TempDir| load(folder.path()).eos_id();
    let id = |token| load(&folder()).token_to_id(token);
    // Older folders: special_tokens_map.json wins; an object's content is the token.
    let older = with(&[(
        "special_tokens_map.json",
        json!({"eos_token": {"content": "<|im_end|>", "lstrip": false}}),
    )]);
    assert_eq!(end(&older), id("<|im_end|>"));
    assert_eq!(load(older.path()).bos_id(), id("<|begin_of_text|>"));
    // Newer ones have added_tokens_decoder, and the map is not read.
    let newer = with(&[
        ("special_tokens_map.json", json!({"eos_token": "<|im_end|>", "pad_token": "<|im_start|>"})),
        (
            "tokenizer_config.json",
            json!({"eos_token": "<|end_of_text|>", "bos_token": null, "added_tokens_decoder": {}}),
        ),
    ]);
    assert_eq!(end(&newer), id("<|end_of_text|>"));
    assert_eq!(load(newer.path()).special_tokens(), [("eos_token".to_owned(), "<|end_of_text|>".to_owned())]);
    assert!(!load(newer.path()).adds_bos());
    let silent = with(&[("tokenizer_config.json", json!({"add_bos_token": false}))]);
    assert!(!load(silent.path()).adds_bos());
    // One that no row needs may be missing from the vocabulary.
    let padded = with(&[("special_tokens_map.json", json!({"pad_token": "<|pad|>"}))]);
    assert!(load(padded.path()).special_tokens().contains(&("pad_token".to_owned(), "<|pad|>".to_owned())));
    // A token of the vocabulary becomes special by being named.
    let named = with(&[("special_tokens_map.json", json!({"eos_token": "Hello"}))]);
    let named = load(named.path());
    assert!(named.is_special(id("Hello").unwrap()));
    assert_eq!(named.decode(&named.encode("aHello").unwrap(), true).unwrap(), "a");
}

#[test]
fn the_jinja_file_wins_over_the_configuration() {
    let own = with(&[("chat_template.jinja", json!("own {{ messages[0].content }} {{ eos_token }}\n"))]);
    assert_eq!(rendered(&own), "own hi <|eot_id|>");
    assert_eq!(template(&own).unwrap().source(), "own {{ messages[0].content }} {{ eos_token }}\n");
    let config = with(&[]);
    assert_eq!(
        rendered(&config),
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
    );
    let named = json!([{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]);
    let named = with(&[("tokenizer_config.json", json!({"chat_template": named}))]);
    assert_eq!(rendered(&named), "yes");
    assert!(template(&with(&[("tokenizer_config.json", json!({}))])).is_none());
    assert!(template(&with(&[("tokenizer_config.json", Value::Null)])).is_none());
}

#[test]
fn todays_date_is_refused_and_explained() {
    let dated = with(&[("chat_template.jinja", json!("\n{{ strftime_now('%d %b %Y') }}"))]);
    let error = template(&dated).unwrap().render(&[], false).unwrap_err();
    let asft::data::template::RenderError::Failed { message, line } = error else { panic!("{error:?}") };
    assert_eq!(line, 2);
    assert_eq!(
        message,
        "unknown function: strftime_now is unknown; \
         there is no today's date while training, or token ids would change at midnight"
    );
}

#[test]
fn wrong_files_are_named() {
    let file = |name, content| with(&[(name, content)]);
    assert_eq!(
        refused(&file("tokenizer_config.json", json!("{\n\"a\":"))),
        "tokenizer_config.json: not a JSON object: EOF while parsing a value at line 2 column 4"
    );
    assert_eq!(
        refused(&file("special_tokens_map.json", json!({"eos_token": "<|no|>"}))),
        "special_tokens_map.json: eos_token is \"<|no|>\", which tokenizer.json does not hold"
    );
    assert_eq!(
        refused(&file("special_tokens_map.json", json!({"eos_token": 3}))),
        "special_tokens_map.json: eos_token must be a string or an object with \"content\""
    );
    assert_eq!(
        refused(&file("chat_template.jinja", json!("{% for x in messages %}\n{{ x }"))),
        "chat_template.jinja: chat template, line 2: syntax error: unexpected `}`, expected end of variable block"
    );
    assert_eq!(
        refused(&file("tokenizer_config.json", json!({"chat_template": [{"name": "rag", "template": "x"}]}))),
        "tokenizer_config.json: chat_template is a list without a template named \"default\""
    );
    assert_eq!(
        refused(&file("tokenizer_config.json", json!({"chat_template": 3}))),
        "tokenizer_config.json: chat_template must be a string or a list of named templates"
    );
    let broken = file("tokenizer.json", json!("{}"));
    let error = Tokenizer::from_folder(broken.path()).unwrap_err();
    assert!(matches!(error, DataError::Tokenizer { .. }), "{error:?}");
    assert!(refused(&broken).starts_with("cannot load tokenizer.json: "), "{}", refused(&broken));
}
