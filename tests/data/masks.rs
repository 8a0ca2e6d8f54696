//! Conversations that go on: what is scored of them, how they are cut, and what is refused. And what may be dropped.

use asft::data::{
    ColumnMap, EncodeConfig, Encoded, Encoder, FileShape, Group, Notes, Numbering, Reason, Role, RowError,
    Truncation,
};
use serde_json::{Value, json};

use crate::fixture::{config, encoder, read, tokenizer};

fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn user(content: &str) -> Value {
    turn("user", content)
}

fn assistant(content: &str) -> Value {
    turn("assistant", content)
}

fn encode(encoder: &Encoder, row: Value) -> Result<Encoded, RowError> {
    encoder.encode(0, read(&row).unwrap())
}

fn used(encoder: &Encoder, row: Value) -> (Group, Notes) {
    match encode(encoder, row).unwrap() {
        Encoded::Group(group, notes) => (group, notes),
        Encoded::Unusable(reason) => panic!("unusable: {reason}"),
    }
}

fn unusable(encoder: &Encoder, row: Value) -> Reason {
    match encode(encoder, row).unwrap() {
        Encoded::Group(group, _) => panic!("usable: {group:?}"),
        Encoded::Unusable(reason) => reason,
    }
}

/// The text of an answer's scored runs.
fn scored(group: &Group, role: Role) -> Vec<String> {
    let answer = group.answer(role).unwrap();
    let mask = answer.scored.clone().unwrap_or(vec![true; answer.ids.len()]);
    let runs = mask.chunk_by(|a, b| a == b);
    let mut start = 0;
    let runs = runs.filter_map(|run| {
        let ids = &answer.ids[start..start + run.len()];
        start += run.len();
        run[0].then(|| tokenizer().decode(ids, false).unwrap())
    });
    runs.collect()
}

fn prompt(group: &Group) -> String {
    tokenizer().decode(&group.prompt, false).unwrap()
}

#[test]
fn only_the_assistants_turns_are_scored() {
    let row =
        json!({"messages": [user("Hello"), assistant("Hi!"), user("What is it?"), assistant("The dog.")]});
    for (template, end) in [("llama3", "<|eot_id|>"), ("chatml", "<|im_end|>\n")] {
        let (group, notes) = used(&encoder(template, config()), row.clone());
        assert_eq!(scored(&group, Role::Chosen), [format!("Hi!{end}"), format!("The dog.{end}")]);
        assert!(prompt(&group).contains("Hello") && !prompt(&group).contains("Hi!"));
        assert_eq!(notes, Notes::default());
        assert_eq!(group.answers.len(), 1);
    }
}

#[test]
fn a_pair_that_parts_early_scores_the_differing_turns() {
    let row = json!({
        "chosen": [user("Hello"), assistant("Hi!"), user("Who?"), assistant("Me")],
        "rejected": [user("Hello"), assistant("Hi!"), user("What?"), assistant("Nothing")],
    });
    let (group, _) = used(&encoder("llama3", config()), row);
    // The shared turn belongs to the prompt, which ends with a turn of the assistant's.
    assert!(prompt(&group).ends_with("Hi!<|eot_id|>"), "{}", prompt(&group));
    assert_eq!(scored(&group, Role::Chosen), ["Me<|eot_id|>"]);
    assert_eq!(scored(&group, Role::Rejected), ["Nothing<|eot_id|>"]);
    // Where nothing is shared, the prompt is what the tokens share: here up to the user's first word.
    let row = json!({"chosen": [user("Hello one"), assistant("a")], "rejected": [user("Hello two"), assistant("b")]});
    let (group, notes) = used(&encoder("llama3", config()), row);
    assert_eq!(prompt(&group), "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello");
    assert_eq!(scored(&group, Role::Chosen), ["a<|eot_id|>"]);
    assert!(!notes.moved_split);
}

#[test]
fn a_transcript_without_a_template_is_plain_text() {
    let row = json!({
        "chosen": "\n\nHuman: Hello\n\nAssistant: Hi!\n\nHuman: Who?\n\nAssistant: Me",
        "rejected": "\n\nHuman: Hello\n\nAssistant: No\n\nHuman: Who?\n\nAssistant: Me",
    });
    let plain = Encoder::new(Some(tokenizer()), None, config());
    let (group, _) = used(&plain, row);
    assert_eq!(prompt(&group), "<|begin_of_text|>\n\nHuman: Hello\n\nAssistant:");
    assert_eq!(scored(&group, Role::Chosen), [" Hi!", " Me<|eot_id|>"]);
    assert_eq!(scored(&group, Role::Rejected), [" No", " Me<|eot_id|>"]);
    // Message lists are nobody's text.
    let row = json!({"messages": [user("Hello"), assistant("Hi!")]});
    assert_eq!(encode(&plain, row), Err(RowError::NoTemplate));
}

#[test]
fn what_a_cut_leaves_unscored_is_no_answer() {
    let row =
        || json!({"messages": [user("Hello"), assistant("Hi!"), user("What is it?"), assistant("The dog.")]});
    let (whole, _) = used(&encoder("llama3", config()), row());
    let length = |tokens: usize| EncodeConfig { max_length: Some(whole.prompt.len() + tokens), ..config() };
    let first = whole.answers[0].first_turn();
    assert_eq!(first.start, 0);
    let (group, notes) = used(&encoder("llama3", length(first.end)), row());
    assert_eq!(group.answers[0].scored, None, "what is left is scored whole");
    assert_eq!((notes.truncated, notes.lost_end), (1, 1));
    let (group, _) = used(&encoder("llama3", length(first.end + 3)), row());
    assert_eq!(group.answers[0].scored.as_ref().unwrap().len(), first.end + 3);
    // A pair whose answers begin with a question, cut inside of it.
    let early = json!({
        "chosen": [user("Hello"), assistant("Hi!"), user("The quick brown fox?"), assistant("a")],
        "rejected": [user("Hello"), assistant("Hi!"), user("What"), assistant("b")],
    });
    let (whole, _) = used(&encoder("llama3", config()), early.clone());
    let short = EncodeConfig { max_length: Some(whole.prompt.len() + 4), ..config() };
    assert_eq!(unusable(&encoder("llama3", short), early), Reason::NoResponseToken(Role::Chosen));
}

#[test]
fn rows_may_be_dropped_rather_than_cut() {
    let row = || json!({"prompt": "Hello", "chosen": " world", "rejected": " The quick brown fox"});
    let (whole, _) = used(&encoder("llama3", config()), row());
    let longest = whole.prompt.len() + whole.answers[1].ids.len();
    let drop =
        |max_length| EncodeConfig { max_length: Some(max_length), truncation: Truncation::Drop, ..config() };
    let (_, notes) = used(&encoder("llama3", drop(longest)), row());
    assert_eq!(notes, Notes::default());
    let reason = unusable(&encoder("llama3", drop(longest - 1)), row());
    assert_eq!(
        (reason, reason.to_string().as_str()),
        (Reason::TooLong(Role::Rejected), "rejected beyond max-length")
    );
}

#[test]
fn identical_answers_are_those_that_are_trained_on() {
    let row =
        || json!({"prompt": "Hello", "chosen": " The quick brown fox", "rejected": " The quick brown dog"});
    let (_, notes) = used(&encoder("llama3", config()), row());
    assert!(!notes.identical);
    // The same tokens, of which one answer learns the user's as well: somebody wrote a whole dialogue into one turn.
    let dialogue = "The<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nfox<|eot_id|>\
                    <|start_header_id|>assistant<|end_header_id|>\n\ndog";
    let turns = json!([assistant("The"), user("fox"), assistant("dog")]);
    let same = json!({"prompt": [user("Hello")], "chosen": [assistant(dialogue)], "rejected": turns});
    let (group, notes) = used(&encoder("llama3", config()), same);
    assert_eq!(group.answers[0].ids, group.answers[1].ids);
    assert!(!notes.identical, "{:?}", group.answers);
    // Cut to the same beginning.
    let short = EncodeConfig { max_length: Some(4), ..config() };
    let (_, notes) = used(&encoder("llama3", short.clone()), row());
    assert!(notes.identical);
    let dropping = EncodeConfig { drop_identical: true, ..short };
    let reason = unusable(&encoder("llama3", dropping), row());
    assert_eq!((reason, reason.to_string().as_str()), (Reason::Identical, "identical answers"));
}

#[test]
fn special_tokens_in_the_data_are_counted() {
    let count = |row| used(&encoder("llama3", config()), row).1.special_tokens;
    let text = |prompt, chosen, rejected| json!({"prompt": prompt, "chosen": chosen, "rejected": rejected});
    assert_eq!(count(text("Hello", " world", " dog")), 0);
    assert_eq!(count(text("<|begin_of_text|>Hello", " world<|eot_id|>", " dog")), 0, "these belong there");
    assert_eq!(count(text("Hello<|eot_id|>", " a<|im_end|>b", " dog<|eot_id|><|eot_id|>")), 3);
    let chat = |question, answer| json!({"messages": [user(question), assistant(answer)]});
    assert_eq!(count(chat("Hello", "world")), 0);
    assert_eq!(count(chat("<|eot_id|>Hello<|eot_id|>", "<|im_start|>")), 3);
    assert_eq!(
        count(json!({"prompt_input_ids": [414], "chosen_input_ids": [414], "rejected_input_ids": [1]})),
        0
    );
}

#[test]
fn a_template_that_changes_the_past_is_refused() {
    let tokenizer = tokenizer();
    // The reasoning of all turns but the last is taken out, as some templates do.
    let source = "{% for m in messages %}<{{ m.role }}>{% if loop.last and m.think %}({{ m.think }}){% endif %}{{ m.content }}\
                  {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("thinking.jinja");
    std::fs::write(&path, source).unwrap();
    let template = asft::data::TemplateChoice::File(path).load().unwrap();
    let template = asft::data::ChatTemplate::new(template, &tokenizer, None).unwrap();
    let encoder = Encoder::new(Some(tokenizer), Some(template), config());
    let thought = |content| json!({"role": "assistant", "content": content, "think": "hm"});
    let row = json!({"messages": [user("a"), thought("b"), user("c"), thought("d")]});
    assert_eq!(
        encode(&encoder, row).unwrap_err().to_string(),
        "column \"messages\": the chat template changes what stands before turn 2 once the conversation goes on, so the \
         answers in the middle of it cannot be told apart; give single answers instead (prompt, chosen, rejected or \
         prompt, completion)"
    );
    let single = json!({"messages": [user("a"), thought("b")]});
    assert_eq!(scored(&used(&encoder, single).0, Role::Chosen).len(), 1);
}

#[test]
fn a_row_says_which_column_the_model_cannot_take() {
    let map = ColumnMap::new(["rejected=worse"]).unwrap();
    let small = EncodeConfig { vocab_size: 413, columns: map.clone(), ..config() };
    let row = json!({"prompt": "", "chosen": "a", "worse": "<|im_end|>b"});
    let shape = FileShape::of(row.as_object().unwrap(), (Numbering::Lines, 1), &map, true).unwrap();
    let example = shape.read(row.as_object().unwrap(), &map).unwrap();
    let tokenizer = asft::data::Tokenizer::from_folder(&crate::fixture::folder()).unwrap();
    let error = Encoder::new(tokenizer, None, small).encode(0, example).unwrap_err();
    assert!(error.to_string().starts_with("column \"prompt\" has token id 413"), "{error}");
    let chosen = json!({"prompt_input_ids": [1], "chosen_input_ids": [2], "worse": [500]});
    let map = ColumnMap::new(["rejected_input_ids=worse"]).unwrap();
    let shape = FileShape::of(chosen.as_object().unwrap(), (Numbering::Lines, 1), &map, true).unwrap();
    let example = shape.read(chosen.as_object().unwrap(), &map).unwrap();
    let error = crate::fixture::bare_encoder(config()).encode(0, example).unwrap_err();
    assert!(error.to_string().starts_with("column \"worse\" has token id 500 at position 0"), "{error}");
}
