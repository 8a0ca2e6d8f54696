//! The model folder's side: which files are read, which wins, what is said where one is wrong.

use std::path::Path;

use asft::data::template::{RenderError, Variables};
use asft::data::template_source::Origin;
use asft::data::{ChatTemplate, DataError, Encoder, Message, TemplateText, Tokenizer};
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
    let text = TemplateText::of_folder(folder.path()).unwrap()?;
    Some(ChatTemplate::new(text, &load(folder.path()), None).unwrap())
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
    let RenderError::Failed { message, line } = error else { panic!("{error:?}") };
    assert_eq!(line, 2);
    assert_eq!(
        message,
        "unknown function: strftime_now is unknown; \
         there is no today's date while training, or token ids would change at midnight: \
         give one with --template-date YYYY-MM-DD"
    );
}

/// A template of this text over the golden tokenizer.
fn template_of(source: &str) -> ChatTemplate {
    let text = TemplateText { source: source.to_owned(), origin: Origin::File("x.jinja".into()) };
    ChatTemplate::new(text, &load(&folder()), None).unwrap()
}

#[test]
fn special_tokens_that_the_tokenizer_lacks_are_named() {
    let source = "{{ '<|eot_id|>' }}<|im_start|>{{ '<|python_tag|><|eom_id|>' }}{# <|eom_id|> #}<| no |><||>{{ '<|' ~ x ~ '|>' }}<|end";
    assert_eq!(
        template_of(source).unknown_special_tokens(&load(&folder())),
        ["<|python_tag|>", "<|eom_id|>"]
    );
    // In the vocabulary, but not special: encoded as one token only where the text around it allows.
    let mut json: Value =
        serde_json::from_slice(&std::fs::read(folder().join("tokenizer.json")).unwrap()).unwrap();
    let added = json["added_tokens"].as_array_mut().unwrap();
    added.iter_mut().find(|token| token["content"] == "<|im_end|>").unwrap()["special"] = false.into();
    let plain = with(&[("tokenizer.json", json)]);
    let template = template_of("<|im_start|>{{ messages }}<|im_end|>");
    assert_eq!(template.unknown_special_tokens(&load(plain.path())), ["<|im_end|>"]);
}

#[test]
fn a_turn_ends_with_the_special_token_after_its_words() {
    let end = |source: &str| {
        let tokenizer = load(&folder());
        template_of(source).end_of_turn(&tokenizer).map(|id| tokenizer.decode(&[id], false).unwrap())
    };
    let turns = "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.content }}";
    assert_eq!(end(&format!("{turns} .<|im_end|><|eot_id|>{{% endfor %}}")).as_deref(), Some("<|im_end|>"));
    assert_eq!(end(&format!("{turns}\n{{% endfor %}}<|eot_id|>")).as_deref(), Some("<|eot_id|>"));
    assert_eq!(end(&format!("{turns}\n{{% endfor %}}{{{{ bos_token }}}}")), None);
    assert_eq!(end("{{ raise_exception('no') }}"), None);
}

#[test]
fn content_in_parts_becomes_text_where_the_template_knows_only_text() {
    let render = |source: &str, content: Value| {
        let message: Message = serde_json::from_value(json!({"role": "user", "content": content})).unwrap();
        template_of(source).render(&[&message], false)
    };
    let parts = json!([{"type": "text", "text": "Hello, "}, {"type": "text", "text": "you"}, "!"]);
    let text_only = "{{ messages[0].content | trim }}";
    assert_eq!(render(text_only, parts.clone()).unwrap(), "Hello, you!");
    let both = "{% if messages[0].content is string %}{{ messages[0].content }}{% else %}\
                {% for part in messages[0].content %}{{ part.text }}{% endfor %}{% endif %}";
    assert_eq!(render(both, parts).unwrap(), "Hello, you");
    let with_image = json!([{"type": "text", "text": "Hello"}, {"type": "image", "url": "x"}]);
    let failed = RenderError::Failed {
        message: "content of type \"image\", and the template takes only text".to_owned(),
        line: 0,
    };
    assert_eq!(render(text_only, with_image.clone()), Err(failed));
    assert_eq!(render(both, with_image).unwrap(), "Hello");
}

#[test]
fn a_row_may_not_replace_what_the_program_gives_the_template() {
    let more = [("messages".to_owned(), json!([]))].into_iter().collect();
    let variables = Variables { more, ..Variables::default() };
    let failed = template_of("x").render_with(&[], false, &variables).unwrap_err();
    let RenderError::Failed { message, .. } = failed else { panic!("{failed:?}") };
    assert_eq!(message, "chat_template_kwargs may not hold \"messages\"");
}

#[test]
fn line_ends_of_other_systems_are_line_ends() {
    let rendered = |source: &str| template_of(source).render(&[], false).unwrap();
    let source = "a\n{% if true %}\nb\n{% endif %}\nc\n";
    for end in ["\r\n", "\r"] {
        assert_eq!(rendered(&source.replace('\n', end)), rendered(source), "{end:?}");
    }
    assert_eq!(rendered(source), "a\nb\nc");
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
        "tokenizer_config.json: chat_template is a list without a template named \"default\" \
         (its names: rag); save the one you want as a file and give it with --chat-template FILE"
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
