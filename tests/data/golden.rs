//! Against transformers: the same text, ids and splits for every case of `golden/cases.json`.

use asft::data::template::{RenderError, Variables};
use asft::data::{ChatTemplate, Encoded, Encoder, Message, Role};
use serde_json::Value;

use crate::fixture::{config, dated_template, encoder, golden, read, template, tokenizer};

fn cases(list: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(golden().join("cases.json")).unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    cases[list].as_array().unwrap().clone()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn messages(list: &Value) -> Vec<Message> {
    serde_json::from_value(list.clone()).unwrap()
}

/// The case says that the template raises, and so it did, with the same words and in a line that does so.
fn check_raised(case: &Value, template: &ChatTemplate, rendered: &Result<String, RenderError>) {
    let Err(RenderError::Raised { message, line }) = rendered else { panic!("{case}: {rendered:?}") };
    assert_eq!(message, case["raises"].as_str().unwrap());
    let source = template.source().lines().nth(line - 1).unwrap_or_default();
    assert!(source.contains("raise_exception"), "{case}: line {line}: {source}");
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
    assert_eq!(cases.len(), 198);
    for case in cases {
        let name = case["template"].as_str().unwrap();
        let template = template(name, &tokenizer);
        let messages = messages(&case["messages"]);
        let messages: Vec<&Message> = messages.iter().collect();
        let rendered = template.render(&messages, case["add_generation_prompt"].as_bool().unwrap());
        match case.get("raises") {
            Some(_) => {
                check_raised(&case, &template, &rendered);
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
fn tools_documents_and_dates_reach_the_template() {
    let tokenizer = tokenizer();
    let cases = cases("variables");
    assert_eq!(cases.len(), 13);
    for case in cases {
        let mut more = case["variables"].as_object().unwrap().clone();
        let date = more.remove("date").map(|date| date.as_str().unwrap().parse().unwrap());
        let template = dated_template(case["template"].as_str().unwrap(), &tokenizer, date);
        let variables = Variables { tools: more.remove("tools"), documents: more.remove("documents"), more };
        let messages = messages(&case["messages"]);
        let messages: Vec<&Message> = messages.iter().collect();
        let rendered = template.render_with(&messages, true, &variables);
        match case.get("raises") {
            Some(_) => check_raised(&case, &template, &rendered),
            None => assert_eq!(rendered.unwrap(), case["text"].as_str().unwrap(), "{case}"),
        }
    }
}

#[test]
fn the_built_in_templates_write_the_formats_of_their_names() {
    let tokenizer = tokenizer();
    let built_in = |name: &str| template(&format!("built-in {name}"), &tokenizer);
    let golden = |name: &str| template(name, &tokenizer);
    let bos = "<|begin_of_text|>";
    for case in cases("chats").iter().filter(|case| case["template"] == "torture") {
        let messages = messages(&case["messages"]);
        let messages: Vec<&Message> = messages.iter().collect();
        let prompt = case["add_generation_prompt"].as_bool().unwrap();
        let render = |template: ChatTemplate| template.render(&messages, prompt).unwrap();
        assert_eq!(render(built_in("llama3")), render(golden("llama3")));
        assert_eq!(render(built_in("chatml")), bos.to_owned() + &render(golden("chatml")));
    }
    let id = |token| tokenizer.token_to_id(token);
    assert_eq!(built_in("llama3").end_of_turn(&tokenizer), id("<|eot_id|>"));
    assert_eq!(built_in("chatml").end_of_turn(&tokenizer), id("<|im_end|>"));
    assert_eq!(golden("merging").end_of_turn(&tokenizer), tokenizer.eos_id());
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
