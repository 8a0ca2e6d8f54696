//! Columns beside prompt and answers: read for whoever needs them, checked, and fitted to the tokens that are left.

use asft::data::{
    Annotation, ColumnMap, EncodeConfig, Encoded, Encoder, Group, Needs, Numbering, Reference, Role, Roles,
    Row,
};
use serde_json::{Value, json};

/// An encoder of token ids for an objective with these needs.
fn encoder(answers: Roles, annotations: &[Annotation], reference: bool, max_length: usize) -> Encoder {
    let needs = Needs { answers, annotations: annotations.to_vec(), reference };
    let columns = ColumnMap::new(["soft_label=sure"]).unwrap();
    let columns = if annotations == [Annotation::SoftLabel] { columns } else { ColumnMap::default() };
    let config = EncodeConfig {
        vocab_size: 100,
        max_length: Some(max_length),
        needs,
        columns,
        ..EncodeConfig::default()
    };
    Encoder::new(None, None, config)
}

fn row(value: Value) -> Row {
    Row { index: 0, line: 7, columns: value.as_object().unwrap().clone() }
}

/// The row's group, or what is wrong with the row.
fn read(encoder: &Encoder, value: Value) -> Result<Group, String> {
    let row = row(value);
    let shape = encoder.shape(&row, Numbering::default()).map_err(|error| error.to_string())?;
    match encoder.encode_row(&shape, 0, &row).map_err(|error| error.to_string())? {
        Encoded::Group(group, _) => Ok(group),
        Encoded::Unusable(reason) => Err(reason.to_string()),
    }
}

fn pair(more: Value) -> Value {
    let mut row = json!({
        "prompt_input_ids": [1, 2], "chosen_input_ids": [3, 4, 5], "rejected_input_ids": [6],
    });
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    row
}

#[test]
fn weights_are_fitted_to_what_is_left_of_an_answer() {
    let encoder = encoder(Roles::PAIR, &[Annotation::Weights], false, 4);
    let weights = json!({ "chosen_weights": [0.5, 1, 2], "rejected_weights": [3] });
    let group = read(&encoder, pair(weights)).unwrap();
    let given = &group.annotations().answers;
    assert_eq!(given[Role::Chosen].weights.as_deref(), Some(&[0.5, 1.0][..]), "the third token is cut off");
    assert_eq!(given[Role::Rejected].weights.as_deref(), Some(&[3.0][..]));
    let short = json!({ "chosen_weights": [0.5, 1], "rejected_weights": [3] });
    let error = read(&encoder, pair(short)).unwrap_err();
    assert_eq!(
        error,
        "column \"chosen_weights\" has 2 numbers for an answer of 3 tokens (its end token included)"
    );
    let error = read(&encoder, pair(json!({ "chosen_weights": [0.5, 1, 2] }))).unwrap_err();
    assert!(error.contains("column \"rejected_weights\" is missing"), "{error}");
    let text = json!({ "chosen_weights": [0.5, "x", 2], "rejected_weights": [3] });
    let error = read(&encoder, pair(text)).unwrap_err();
    assert!(error.contains("chosen_weights") && error.contains("position 1"), "{error}");
}

#[test]
fn reference_log_probs_of_the_data_are_taken() {
    let given = json!({ "ref_chosen_logps": [-1, -2, -3.5], "ref_rejected_logps": -4.25 });
    let wide = encoder(Roles::PAIR, &[], true, 9);
    let group = read(&wide, pair(given.clone())).unwrap();
    let answers = &group.annotations().answers;
    let tokens = Reference::Tokens([-1.0, -2.0, -3.5].into());
    assert_eq!(answers[Role::Chosen].references, [tokens]);
    assert_eq!(answers[Role::Rejected].references, [Reference::Sum(-4.25)]);
    // A sum of tokens that are not all there is not theirs.
    let narrow = encoder(Roles::PAIR, &[], true, 3);
    assert!(read(&narrow, pair(given.clone())).is_ok(), "a list is cut with its answer");
    let error = read(&narrow, pair(json!({ "ref_chosen_logps": -6.5 }))).unwrap_err();
    assert!(error.contains("chosen answer is cut"), "{error}");
    // Nobody asks for them.
    let group = read(&encoder(Roles::PAIR, &[], false, 9), pair(given)).unwrap();
    assert_eq!(group.annotations, None);
}

#[test]
fn what_is_said_of_a_row_is_checked() {
    let soft = encoder(Roles::PAIR, &[Annotation::SoftLabel], false, 9);
    let group = read(&soft, pair(json!({ "sure": 0.75 }))).unwrap();
    assert_eq!(group.annotations().soft_label, Some(0.75));
    let error = read(&soft, pair(json!({ "sure": 1.5 }))).unwrap_err();
    assert!(error.contains("sure") && error.contains("from 0 to 1"), "{error}");
    let embedded = encoder(Roles::PAIR, &[Annotation::PromptEmbedding], false, 9);
    let group = read(&embedded, pair(json!({ "prompt_embedding": [1, -0.5] }))).unwrap();
    assert_eq!(group.annotations().prompt_embedding.as_deref(), Some(&[1.0, -0.5][..]));
}

#[test]
fn a_third_answer_and_completions_have_roles_of_their_own() {
    let triple = Roles::of(&[Role::Chosen, Role::Rejected, Role::Third]);
    let group =
        read(&encoder(triple, &[], false, 9), pair(json!({ "reference_response_input_ids": [9, 8] })))
            .unwrap();
    assert_eq!(group.answer(Role::Third).unwrap().ids, [9, 8]);
    let error = read(&encoder(triple, &[], false, 9), pair(json!({}))).unwrap_err();
    assert!(error.contains("reference_response_input_ids"), "{error}");

    let labelled = encoder(Roles::COMPLETION, &[Annotation::Label], false, 9);
    let one = json!({ "prompt_input_ids": [1], "chosen_input_ids": [3], "label": false });
    let group = read(&labelled, one).unwrap();
    assert_eq!(group.answer(Role::Completion).unwrap().ids, [3]);
    assert_eq!(group.annotations().label, Some(false));
    let error = read(&labelled, pair(json!({ "label": true }))).unwrap_err();
    assert!(error.contains("learns from single answers"), "{error}");
    let wrong = json!({ "prompt_input_ids": [1], "chosen_input_ids": [3], "label": "yes" });
    let error = read(&labelled, wrong).unwrap_err();
    assert!(error.contains("label") && error.contains("true or false"), "{error}");
    let numbered = |label: Value| {
        read(&labelled, json!({ "prompt_input_ids": [1], "chosen_input_ids": [3], "label": label }))
    };
    for (label, expected) in [(json!(1), true), (json!(0), false), (json!(1.0), true)] {
        assert_eq!(numbered(label).unwrap().annotations().label, Some(expected));
    }
    for label in [json!(2), json!(-1), json!(0.5)] {
        assert!(numbered(label).unwrap_err().contains("expected true or false"));
    }
}

#[test]
fn scores_advantages_and_old_log_probs_go_to_their_answers() {
    let scored = encoder(Roles::PAIR, &[Annotation::Score], false, 9);
    let group = read(&scored, pair(json!({ "score_chosen": 1, "score_rejected": 0.25 }))).unwrap();
    let answers = &group.annotations().answers;
    assert_eq!([Role::Chosen, Role::Rejected].map(|role| answers[role].score), [Some(1.0), Some(0.25)]);
    let error = read(&scored, pair(json!({ "score_chosen": 7, "score_rejected": 0.25 }))).unwrap_err();
    assert_eq!(error, "column \"score_chosen\" holds 7; expected a number from 0 to 1");
    let error = read(&scored, pair(json!({ "score_chosen": 1 }))).unwrap_err();
    assert!(error.contains("column \"score_rejected\" is missing"), "{error}");

    let told = [Annotation::Score, Annotation::Advantages, Annotation::OldLogps];
    let told = encoder(Roles::COMPLETION, &told, false, 3);
    let row = |more: Value| {
        let mut row = json!({ "prompt_input_ids": [1], "chosen_input_ids": [3, 4, 5], "score": 0.5 });
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let given = json!({ "advantages": [1, -2, 3], "old_logps": [-0.5, -1, -1.5] });
    let group = read(&told, row(given)).unwrap();
    let completion = &group.annotations().answers[Role::Completion];
    assert_eq!(completion.score, Some(0.5));
    assert_eq!(completion.advantages.as_deref(), Some(&[1.0, -2.0][..]), "the third token is cut off");
    assert_eq!(completion.old_logps.as_deref(), Some(&[-0.5, -1.0][..]));
    let error = read(&told, row(json!({ "advantages": [1, -2], "old_logps": [0, 0, 0] }))).unwrap_err();
    assert!(error.contains("\"advantages\" has 2 numbers for an answer of 3 tokens"), "{error}");
}
