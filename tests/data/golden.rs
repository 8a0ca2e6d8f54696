//! Against transformers: the same text, ids and splits for every case of `golden/cases.json`.

use asft::data::template::RenderError;
use asft::data::{ChatTemplate, Encoded, Encoder, Message, Role};
use serde_json::Value;

use crate::fixture::{config, encoder, golden, read, tokenizer};

fn cases(list: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(golden().join("cases.json")).unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    cases[list].as_array().unwrap().clone()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn messages(list: &Value) -> Vec<Message> {
    let list = list.as_array().unwrap().iter().enumerate();
    list.map(|(index, message)| Message::read("messages", index, message).unwrap()).collect()
}

#[test]
fn texts_have_transformers_ids() {
    let tokenizer = tokenizer();
    let cases = cases("texts");
    assert_eq!(cases.len(), 11);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{text:?}");
        assert_eq!(tokenizer.decode(&ids(&case["ids"]), false).unwrap(), text);
    }
}

#[test]
fn conversations_render_as_transformers_does() {
    let tokenizer = tokenizer();
    let mut raised = 0;
    let cases = cases("chats");
    assert_eq!(cases.len(), 132);
    for case in cases {
        let name = case["template"].as_str().unwrap();
        let path = golden().join("templates").join(format!("{name}.jinja"));
        let source = std::fs::read_to_string(&path).unwrap();
        let template = ChatTemplate::new(source, &path, &tokenizer).unwrap();
        let messages = messages(&case["messages"]);
        let messages: Vec<&Message> = messages.iter().collect();
        let rendered = template.render(&messages, case["add_generation_prompt"].as_bool().unwrap());
        match case.get("raises") {
            Some(words) => {
                assert_eq!(rendered, Err(RenderError::Raised(words.as_str().unwrap().to_owned())));
                raised += 1;
            }
            None => {
                let text = rendered.unwrap();
                assert_eq!(text, case["text"].as_str().unwrap(), "{name}: {}", case["messages"]);
                if let Some(expected) = case.get("ids") {
                    assert_eq!(tokenizer.encode(&text).unwrap(), ids(expected), "{name}: {text:?}");
                }
            }
        }
    }
    assert_eq!(raised, 6);
}

#[test]
fn rows_split_where_the_token_prefix_ends() {
    let mut moved = 0;
    let cases = cases("rows");
    assert_eq!(cases.len(), 11);
    for case in cases {
        let encoder = encoder(case["template"].as_str().unwrap_or("llama3"), config());
        let row = read(&case["row"]).unwrap();
        let Encoded::Group(group, notes) = encoder.encode(0, row).unwrap() else {
            panic!("unusable: {}", case["row"]);
        };
        assert_eq!(group.prompt, ids(&case["prompt"]), "{}", case["row"]);
        for role in [Role::Chosen, Role::Rejected] {
            assert_eq!(group.answer(role).unwrap().ids, ids(&case[role.name()]), "{}", case["row"]);
        }
        assert_eq!(notes.moved_split, case["moved"].as_bool().unwrap(), "{}", case["row"]);
        moved += usize::from(notes.moved_split);
    }
    assert_eq!(moved, 3);
}

/// Of every shape, by TRL's own splitting and transformers' own masks (see `golden/make_shapes.py`).
#[test]
fn shapes_have_the_tokens_and_masks_of_trl_and_transformers() {
    let text = std::fs::read_to_string(golden().join("shapes.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(cases.len(), 29);
    let mut masked = 0;
    for case in cases {
        let (name, row) = (&case["template"], &case["row"]);
        let encoder = match name.as_str() {
            Some(name) => encoder(name, config()),
            None => Encoder::new(Some(tokenizer()), None, config()),
        };
        let Encoded::Group(group, _) = encoder.encode(0, read(row).unwrap()).unwrap() else {
            panic!("unusable: {name} {row}");
        };
        assert_eq!(group.prompt, ids(&case["prompt"]), "{name} {row}");
        let answers = case["answers"].as_array().unwrap();
        assert_eq!(group.answers.len(), answers.len());
        for (answer, expected) in group.answers.iter().zip(answers) {
            assert_eq!(answer.role.name(), expected["role"]);
            assert_eq!(answer.ids, ids(&expected["ids"]), "{name} {row}");
            let scored = expected["scored"].is_array().then(|| ids(&expected["scored"]));
            let scored = scored.map(|scored| scored.iter().map(|scored| *scored == 1).collect::<Vec<_>>());
            assert_eq!(answer.scored, scored, "{name} {row}");
            masked += usize::from(scored.is_some());
        }
    }
    assert_eq!(masked, 16);
}
