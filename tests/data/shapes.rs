//! The shapes of data: what each is read as, and the exact words for what is none of them.

use asft::data::{
    ColumnMap, Conversation, Example, FileShape, Message, Numbering, Parts, Reason, Role, RowError, Variables,
};
use serde_json::{Map, Value, json};

use crate::fixture::read;

fn refused(row: Value) -> String {
    read(&row).unwrap_err()
}

fn text(prompt: &str, chosen: &str, rejected: &str) -> Example {
    let [prompt, chosen, rejected] = [prompt, chosen, rejected].map(str::to_owned);
    Example::Text(Parts::new(prompt, chosen, Some(rejected)))
}

fn user(text: &str) -> Message {
    Message::new("user", text)
}

fn assistant(text: &str) -> Message {
    Message::new("assistant", text)
}

/// A pair as it is read from these columns, whatever they are called.
fn pair(prompt: &[Message], chosen: &[Message], rejected: &[Message]) -> Parts<Vec<Message>> {
    Parts::new(prompt.to_vec(), chosen.to_vec(), Some(rejected.to_vec()))
}

fn conversation(row: Value) -> Conversation {
    match read(&row).unwrap() {
        Example::Conversation(conversation) => *conversation,
        other => panic!("not a conversation: {other:?}"),
    }
}

/// Prompt and answers, without the columns' names.
fn messages(row: Value) -> (Vec<Message>, Vec<Vec<Message>>) {
    let parts = conversation(row).parts;
    (parts.prompt, parts.answers.into_iter().map(|answer| answer.content).collect())
}

#[test]
fn prompt_chosen_and_rejected() {
    assert_eq!(
        read(&json!({"score": 1, "prompt": "p", "chosen": "c", "rejected": "r"})),
        Ok(text("p", "c", "r"))
    );
    let ask = json!([{"role": "user", "content": "x"}]);
    let answer = json!([{"role": "assistant", "content": "y"}]);
    let row = conversation(json!({"prompt": ask, "chosen": answer, "rejected": []}));
    assert_eq!(row, Conversation::new(pair(&[user("x")], &[assistant("y")], &[])));
    // Where columns fit several shapes, those of a pair win over a completion, and that over messages.
    let both = json!({"messages": ask, "completion": "other", "prompt": "p", "chosen": "c", "rejected": "r"});
    assert_eq!(read(&both), Ok(text("p", "c", "r")));
    let both = json!({"messages": ask, "prompt": "p", "completion": "other"});
    let Ok(Example::Text(parts)) = read(&both) else { panic!("not text") };
    assert_eq!(parts.answers[0].content, "other");
    // Token ids win over text beside them.
    let ids = json!({"prompt": 7, "prompt_input_ids": [1, 2], "chosen_input_ids": [], "rejected_input_ids": [4294967295u32]});
    let Ok(Example::Tokens(parts)) = read(&ids) else { panic!("not token ids") };
    assert_eq!(parts.prompt, [1, 2]);
    let answers: Vec<_> =
        parts.answers.iter().map(|answer| (answer.column.as_str(), &answer.content)).collect();
    assert_eq!(answers, [("chosen_input_ids", &vec![]), ("rejected_input_ids", &vec![u32::MAX])]);
}

#[test]
fn whole_conversations_share_their_leading_messages() {
    let list = |words: &[&str]| {
        let message = |(place, words): (usize, &&str)| json!({"role": if place % 2 == 0 { "user" } else { "assistant" }, "content": words});
        Value::from(words.iter().enumerate().map(message).collect::<Vec<_>>())
    };
    let row = |chosen: &[&str], rejected: &[&str]| {
        messages(json!({"chosen": list(chosen), "rejected": list(rejected)}))
    };
    let (prompt, answers) = row(&["q", "a", "q2", "good"], &["q", "a", "q2", "bad"]);
    assert_eq!(prompt, [user("q"), assistant("a"), user("q2")]);
    assert_eq!(answers, [[assistant("good")], [assistant("bad")]]);
    let (prompt, answers) = row(&["q", "a", "q2", "good"], &["q", "b", "q2", "bad"]);
    assert_eq!(prompt, [user("q")]);
    assert_eq!(
        answers,
        [[assistant("a"), user("q2"), assistant("good")], [assistant("b"), user("q2"), assistant("bad")]]
    );
    // Never the last message of either.
    let (prompt, answers) = row(&["q", "same"], &["q", "same"]);
    assert_eq!((prompt, answers), (vec![user("q")], vec![vec![assistant("same")]; 2]));
    let (prompt, answers) = row(&["q", "same"], &["q", "same", "q2", "more"]);
    assert_eq!(prompt, [user("q")]);
    assert_eq!((answers[0].len(), answers[1].len()), (1, 3));
    let (prompt, answers) = row(&["one", "a"], &["two", "b"]);
    assert_eq!((prompt.len(), answers[0].len(), answers[1].len()), (0, 2, 2));
}

#[test]
fn a_string_prompt_beside_lists_that_hold_it_is_not_used() {
    let list = |answer| json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}]);
    let row = json!({"prompt": "q", "chosen": list("good"), "rejected": list("bad")});
    assert_eq!(messages(row), (vec![user("q")], vec![vec![assistant("good")], vec![assistant("bad")]]));
    let answer = json!([{"role": "assistant", "content": "good"}]);
    assert_eq!(
        refused(json!({"prompt": "q", "chosen": answer, "rejected": answer})),
        "column \"prompt\" holds a string, but the message list in column \"chosen\" begins with the answer; make the \
         prompt a message list too: [{\"role\": \"user\", \"content\": ...}]"
    );
}

#[test]
fn transcripts_are_conversations() {
    let row = json!({
        "chosen": "\n\nHuman: q\n\nAssistant: a\n\nHuman: q2\n\nAssistant: good",
        "rejected": "\n\nHuman: q\n\nAssistant: a\n\nHuman: q2\n\nAssistant: gone",
    });
    let (prompt, answers) = messages(row.clone());
    assert_eq!(prompt, [user("q"), assistant("a"), user("q2")]);
    assert_eq!(answers, [[assistant("good")], [assistant("gone")]], "not \"ood\" and \"one\"");
    assert!(conversation(row).transcript);
    let map = ColumnMap::default();
    let first = json!({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"});
    let shape = FileShape::of(first.as_object().unwrap(), (Numbering::Lines, 1), &map, true).unwrap();
    let odd = json!({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "b"});
    assert_eq!(
        shape.read(odd.as_object().unwrap(), &map),
        Ok(Example::Unusable(Reason::NoTranscript(Role::Rejected)))
    );
    // The first row decides for all, whatever another one begins with.
    let odd = json!({"chosen": "b", "rejected": "\n\nHuman: q\n\nAssistant: a"});
    assert_eq!(
        shape.read(odd.as_object().unwrap(), &map),
        Ok(Example::Unusable(Reason::NoTranscript(Role::Chosen)))
    );
    let plain = json!({"chosen": "a b", "rejected": "a c"});
    let shape = FileShape::of(plain.as_object().unwrap(), (Numbering::Lines, 1), &map, true).unwrap();
    let begins =
        json!({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"});
    assert_eq!(
        shape.read(begins.as_object().unwrap(), &map).map(|example| matches!(example, Example::Text(_))),
        Ok(true)
    );
    assert_eq!(
        Reason::NoTranscript(Role::Rejected).to_string(),
        "not a conversation: rejected does not begin with a turn"
    );
}

#[test]
fn other_strings_share_a_prompt_that_ends_before_white_space() {
    let split = |chosen: &str, rejected: &str| {
        let Ok(Example::Text(parts)) = read(&json!({"chosen": chosen, "rejected": rejected})) else {
            panic!("no text");
        };
        let mut all = vec![parts.prompt];
        all.extend(parts.answers.into_iter().map(|answer| answer.content));
        all
    };
    assert_eq!(split("The sky is blue.", "The sky is green."), ["The sky is", " blue.", " green."]);
    // TRL's rule would end the prompt inside the words: "The ca", and "The cat".
    assert_eq!(split("The cart", "The cats"), ["The", " cart", " cats"]);
    assert_eq!(split("The cat sat", "The cats"), ["The", " cat sat", " cats"]);
    assert_eq!(split("Q?\nYes", "Q? No"), ["Q?", "\nYes", " No"]);
    // Neither answer is empty, whichever is the longer.
    assert_eq!(split("a b", "a b c"), ["a", " b", " b c"]);
    assert_eq!(split("same words", "same words"), ["same", " words", " words"]);
    assert_eq!(split("é漢 字", "é漢 ß"), ["é漢", " 字", " ß"]);
    assert_eq!(split("one", "two"), ["", "one", "two"]);
    assert_eq!(split("", "two"), ["", "", "two"]);
}

#[test]
fn demonstrations() {
    let row = json!({"prompt": "p", "completion": "c"});
    let Ok(Example::Text(parts)) = read(&row) else { panic!("no text") };
    assert_eq!((parts.prompt.as_str(), parts.answers[0].column.as_str()), ("p", "completion"));
    assert_eq!((parts.answers.len(), parts.answers[0].role), (1, Role::Chosen));
    let turn = |role, content| json!({"role": role, "content": content});
    let list = json!([
        turn("system", "s"),
        turn("user", "q"),
        turn("assistant", "a"),
        turn("user", "q2"),
        turn("assistant", "b")
    ]);
    let split = (
        vec![Message::new("system", "s"), user("q")],
        vec![vec![assistant("a"), user("q2"), assistant("b")]],
    );
    assert_eq!(messages(json!({ "messages": list })), split);
    assert_eq!(messages(json!({ "chosen": list })), split, "chosen alone is a demonstration");
    // A greeting answers nobody.
    let greeted = json!([turn("assistant", "Hello!"), turn("user", "q"), turn("assistant", "a")]);
    assert_eq!(
        messages(json!({ "messages": greeted })),
        (vec![assistant("Hello!"), user("q")], vec![vec![assistant("a")]])
    );
    let open = json!([turn("user", "q"), turn("assistant", "a"), turn("user", "q2")]);
    assert_eq!(read(&json!({ "messages": open })), Ok(Example::Unusable(Reason::LastTurn(Role::Chosen))));
    let given = json!({"prompt": [turn("user", "q")], "completion": [turn("assistant", "a")]});
    assert_eq!(messages(given), (vec![user("q")], vec![vec![assistant("a")]]));
    let (prompt, answers) = messages(json!({"chosen": "\n\nHuman: q\n\nAssistant: a"}));
    assert_eq!((prompt, answers), (vec![user("q")], vec![vec![assistant("a")]]));
}

#[test]
fn a_pairwise_objective_says_what_is_missing() {
    let refused = |row: Value| {
        FileShape::of(row.as_object().unwrap(), (Numbering::Lines, 1), &ColumnMap::default(), true)
            .unwrap_err()
            .to_string()
    };
    let turn = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
    assert_eq!(
        refused(json!({ "messages": turn })),
        "the row holds messages as a list, but the objective compares a chosen with a rejected answer; \
         give prompt, chosen, rejected, or train on one answer: --objective sft"
    );
    assert_eq!(
        refused(json!({"prompt": "p", "completion": "c"})),
        "the row holds prompt, completion as strings, but the objective compares a chosen with a rejected answer; \
         give prompt, chosen, rejected, or train on one answer: --objective sft"
    );
    assert_eq!(
        refused(json!({"prompt": "p", "chosen": "c"})),
        "column \"rejected\" is missing; the row has prompt, chosen"
    );
    assert_eq!(
        refused(json!({"prompt_input_ids": [1], "chosen_input_ids": [2]})),
        "column \"rejected_input_ids\" is missing; the row has prompt_input_ids, chosen_input_ids"
    );
}

#[test]
fn wrong_columns_are_named_with_what_was_found() {
    assert_eq!(
        refused(json!({})),
        "no column to train on: the row has no columns; expected prompt, chosen, rejected; or chosen, rejected; or, for \
         --objective sft, messages or prompt, completion (--map prompt=NAME names a column)"
    );
    let many = json!({"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1, "g": 1, "h": 1, "i": 1, "j": 1});
    assert!(refused(many).contains("the row has a, b, c, d, e, f, g, h and 2 more; expected"));
    assert_eq!(
        refused(json!({"prompt": "p", "rejected": "r", "chosen": null})),
        "column \"chosen\" is missing; the row has prompt, rejected, chosen"
    );
    assert_eq!(refused(json!({"completion": "p"})), "column \"prompt\" is missing; the row has completion");
    assert_eq!(
        refused(json!({"chosen": "no transcript"})),
        "column \"prompt\" is missing; the row has chosen"
    );
    assert_eq!(
        refused(json!({"prompt": "p", "chosen": 3, "rejected": "r"})),
        "column \"chosen\" holds a number; expected a string or a list of messages"
    );
    assert_eq!(
        refused(json!({"messages": "p"})),
        "column \"messages\" holds a string; expected a list of messages"
    );
    let list = json!([{"role": "user", "content": "x"}]);
    assert_eq!(
        refused(json!({"prompt": list, "chosen": "c", "rejected": "r"})),
        "column \"prompt\" holds a list of messages, but column \"chosen\" holds a string; \
         prompt and answers must all be strings or all be lists of messages"
    );
    assert_eq!(
        refused(json!({"prompt": list, "chosen": list, "rejected": "r"})),
        "column \"chosen\" holds a list of messages, but column \"rejected\" holds a string; \
         prompt and answers must all be strings or all be lists of messages"
    );
    assert_eq!(
        refused(json!({"prompt": "p", "completion": list})),
        "column \"prompt\" holds a string, but column \"completion\" holds a list of messages; \
         prompt and answers must all be strings or all be lists of messages"
    );
}

#[test]
fn wrong_messages_are_named() {
    let refused = |message: Value| refused(json!({"messages": [{"role": "user", "content": "x"}, message]}));
    let expected = "; expected an object with \"role\" and \"content\"";
    assert_eq!(refused(json!("p")), format!("column \"messages\", message 2 holds a string{expected}"));
    assert_eq!(
        refused(json!({"content": "x"})),
        format!("column \"messages\", message 2 holds no \"role\"{expected}")
    );
    assert_eq!(
        refused(json!({"role": "user"})),
        format!("column \"messages\", message 2 holds no \"content\"{expected}")
    );
    assert_eq!(
        refused(json!({"role": 1, "content": "x"})),
        "column \"messages\", message 2, \"role\" holds a number; expected a string"
    );
    assert_eq!(
        refused(json!({"role": "user", "content": null})),
        "column \"messages\", message 2, \"content\" holds null; expected a string or a list of text parts"
    );
    assert_eq!(
        refused(json!({"from": "human", "value": "x"})),
        "column \"messages\", message 2 holds \"from\" and no \"role\"; \
         expected the names \"role\" and \"content\" for \"from\" and \"value\""
    );
    let parts =
        json!({"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image", "url": "y"}]});
    assert_eq!(
        refused(parts),
        "column \"messages\", message 2, \"content\", part 2 holds a part of type \"image\"; \
         expected a part of type \"text\": nothing else can be trained on"
    );
}

#[test]
fn parts_of_text_are_one_text_and_null_fields_are_left_out() {
    let parts = json!([{"type": "text", "text": "What is"}, {"type": "text", "text": " this?"}]);
    let message = json!({"role": "user", "content": parts, "name": "Ann", "tool_calls": null});
    let read = Message::read("messages", 0, &message).unwrap();
    assert_eq!(read.content(), "What is this?");
    let left = json!({"role": "user", "content": parts, "name": "Ann"});
    assert_eq!(serde_json::to_value(&read).unwrap(), left, "the template gets the parts");
    let call = json!({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f"}}]});
    let read = Message::read("messages", 0, &call).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), call);
    assert!(!read.is_silent());
}

#[test]
fn a_rows_variables_reach_the_template() {
    let row = json!({
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "tools": "[{\"name\": \"f\"}]",
        "chat_template_kwargs": {"enable_thinking": false},
    });
    let mut more = Map::new();
    more.insert("enable_thinking".to_owned(), json!(false));
    let variables = Variables { tools: Some(json!([{"name": "f"}])), documents: None, more };
    assert_eq!(conversation(row).variables, variables);
    let turn = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
    assert_eq!(
        refused(json!({"messages": turn, "tools": "f(x)"})),
        "column \"tools\" holds a string; expected a list"
    );
    assert_eq!(
        refused(json!({"messages": turn, "chat_template_kwargs": [1]})),
        "column \"chat_template_kwargs\" holds a list; expected an object"
    );
}

#[test]
fn wrong_token_ids_are_named() {
    let refused = |chosen| {
        refused(json!({"prompt_input_ids": [1], "chosen_input_ids": chosen, "rejected_input_ids": [2]}))
    };
    assert_eq!(
        refused(json!("12")),
        "column \"chosen_input_ids\" holds a string; expected a list of token ids"
    );
    assert_eq!(
        refused(json!([1, -5])),
        "column \"chosen_input_ids\", position 1, holds -5; expected a token id"
    );
    assert_eq!(
        refused(json!([1, 2, 2.5])),
        "column \"chosen_input_ids\", position 2, holds 2.5; expected a token id"
    );
    assert_eq!(
        refused(json!([null])),
        "column \"chosen_input_ids\", position 0, holds null; expected a token id"
    );
    assert_eq!(
        read(&json!({"prompt_input_ids": [1], "chosen": "c"})).unwrap_err(),
        "column \"chosen_input_ids\" is missing; the row has prompt_input_ids, chosen"
    );
}

fn mapped(map: &[&str], row: Value) -> Result<(FileShape, Example), RowError> {
    let map = ColumnMap::new(map.iter().copied()).unwrap();
    let row = row.as_object().unwrap();
    let shape = FileShape::of(row, (Numbering::Lines, 7), &map, true)?;
    let example = shape.read(row, &map)?;
    Ok((shape, example))
}

#[test]
fn columns_may_go_by_other_names() {
    let row = json!({"id": 3, "question": "p", "chosen": "c", "bad": "r"});
    let (shape, example) = mapped(&["prompt=question", "rejected=bad"], row.clone()).unwrap();
    let Example::Text(parts) = example else { panic!("no text") };
    assert_eq!((parts.prompt.as_str(), parts.answers[1].content.as_str()), ("p", "r"));
    assert_eq!(parts.answers[1].column, "bad", "errors name the file's column");
    assert_eq!(
        (shape.used, shape.ignored),
        (vec!["question".into(), "chosen".into(), "bad".into()], vec!["id".to_owned()])
    );
    assert_eq!(shape.shape.to_string(), "prompt, chosen, rejected as strings");
    let missing = mapped(&["prompt=qestion"], row).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "--map prompt=qestion: there is no column \"qestion\"; the row has id, question, chosen, bad"
    );
    // Exchanged, and not to be found under its own name either.
    let row = json!({"prompt": "p", "chosen": "c", "rejected": "r"});
    let (_, example) = mapped(&["chosen=rejected", "rejected=chosen"], row.clone()).unwrap();
    let Example::Text(parts) = example else { panic!("no text") };
    assert_eq!(parts.answers.iter().map(|answer| answer.content.as_str()).collect::<Vec<_>>(), ["r", "c"]);
    let taken = mapped(&["chosen=rejected"], row).unwrap_err();
    assert_eq!(taken.to_string(), "column \"rejected\" is missing; the row has prompt, chosen, rejected");
    let wrong = json!({"question": 3, "chosen": "c", "rejected": "r"});
    assert_eq!(
        mapped(&["prompt=question"], wrong).unwrap_err().to_string(),
        "column \"question\" holds a number; expected a string or a list of messages"
    );
}

#[test]
fn impossible_maps_are_refused() {
    let refused = |map: &[&str]| ColumnMap::new(map.iter().copied()).unwrap_err().to_string();
    assert_eq!(
        refused(&["prompt"]),
        "\"prompt\" is not of the form CANONICAL=ACTUAL, such as prompt=question"
    );
    assert!(refused(&["=x"]).contains("is not of the form"));
    assert!(
        refused(&["promt=x"])
            .starts_with("there is no column \"promt\" to map; the columns are prompt, chosen")
    );
    assert_eq!(refused(&["prompt=a", "prompt=b"]), "column \"prompt\" is mapped twice");
    let map = ColumnMap::new(["prompt=a=b"]).unwrap();
    assert_eq!(map.entries().collect::<Vec<_>>(), ["prompt=a=b"]);
}

#[test]
fn a_file_has_one_shape() {
    let map = ColumnMap::default();
    let read = |first: &Value, other: &Value| {
        let shape = FileShape::of(first.as_object().unwrap(), (Numbering::Lines, 3), &map, false).unwrap();
        shape.read(other.as_object().unwrap(), &map).map_err(|error| error.to_string())
    };
    let list = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
    let strings = json!({"prompt": "p", "chosen": "c", "rejected": "r"});
    let whole = json!({"chosen": list, "rejected": list});
    assert_eq!(
        read(&strings, &whole).unwrap_err(),
        "the row holds chosen, rejected as whole conversations, but line 3 holds prompt, chosen, rejected as strings; \
         a file has one shape: split it in two"
    );
    assert_eq!(
        read(&whole, &json!({"prompt": "q", "chosen": list, "rejected": list})).unwrap_err(),
        "the row holds chosen, rejected as whole conversations (the string prompt beside them is not used), \
         but line 3 holds chosen, rejected as whole conversations; a file has one shape: split it in two"
    );
    assert_eq!(
        read(&strings, &json!({"prompt": "p", "chosen": "c", "rejected": null})).unwrap_err(),
        "column \"rejected\" is missing; the row has prompt, chosen, rejected"
    );
    let demonstration = json!({"prompt": "p", "chosen": "c"});
    assert!(
        read(&demonstration, &strings).unwrap_err().contains("but line 3 holds prompt, chosen as strings")
    );
}
