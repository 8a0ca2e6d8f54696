//! The JSONL reader and the columns: what is read, and the exact words for what is not.

use std::path::Path;

use asft::data::{DataError, JsonlReader, Message, PreferenceRow, Row, Rows};
use proptest::prelude::*;
use serde_json::json;

fn read(bytes: &[u8]) -> Vec<Result<Row, String>> {
    let reader = JsonlReader::new(bytes, Path::new("train.jsonl"));
    reader.map(|row| row.map_err(|error: DataError| error.to_string())).collect()
}

/// The one error of these lines.
fn refused(bytes: &[u8]) -> String {
    read(bytes).into_iter().find_map(Result::err).unwrap()
}

#[test]
fn rows_are_numbered_by_rows_and_lines() {
    let rows = read(b"\xef\xbb\xbf{\"a\":1}\r\n\n  \t\r\n{\"b\":2}\n\n{\"c\":\"d\"}");
    let places: Vec<_> =
        rows.iter().map(|row| row.as_ref().map(|row| (row.index, row.line)).unwrap()).collect();
    assert_eq!(places, [(0, 1), (1, 4), (2, 6)]);
    assert_eq!(rows[2].as_ref().unwrap().columns["c"], "d");
    assert_eq!(read(b""), []);
    assert_eq!(read(b"\n \n"), []);
}

#[test]
fn columns_keep_their_order() {
    let rows = read(br#"{"z":1,"a":2,"m":3}"#);
    let names: Vec<_> = rows[0].as_ref().unwrap().columns.keys().collect();
    assert_eq!(names, ["z", "a", "m"]);
}

#[test]
fn unreadable_lines_are_named() {
    assert_eq!(
        refused(b"{\"a\":1}\n\n{\"b\": \"x}\n"),
        "train.jsonl:3: malformed JSON: EOF while parsing a string (column 9); each line must hold one whole JSON object"
    );
    assert_eq!(
        refused(b"{\"a\":1} {\"b\":2}\n"),
        "train.jsonl:1: malformed JSON: trailing characters (column 9); each line must hold one whole JSON object"
    );
    assert_eq!(
        refused(b"[{\"a\":1}]\n"),
        "train.jsonl:1: expected a JSON object, found a list; each line must hold one whole JSON object"
    );
    assert_eq!(
        refused(b"{\"a\":1}\n{\"a\":\"\xff\"}\n"),
        "train.jsonl:2: invalid UTF-8 at byte 7 of the line; save the file as UTF-8"
    );
}

#[test]
fn a_missing_file_is_named() {
    let error = Rows::open(Path::new("no/such.jsonl")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read no/such.jsonl");
}

fn columns(value: serde_json::Value) -> Result<PreferenceRow, String> {
    PreferenceRow::from_columns(value.as_object().unwrap()).map_err(|error| error.to_string())
}

#[test]
fn three_kinds_of_rows() {
    let text = |text: &str| text.to_owned();
    assert_eq!(
        columns(json!({"score": 1, "prompt": "p", "chosen": "c", "rejected": "r"})),
        Ok(PreferenceRow::Text { prompt: text("p"), chosen: text("c"), rejected: text("r") })
    );
    let message = json!([{"role": "user", "content": "x"}]);
    assert_eq!(
        columns(json!({"prompt": message, "chosen": message, "rejected": []})),
        Ok(PreferenceRow::Conversation {
            prompt: vec![Message::new("user", "x")],
            chosen: vec![Message::new("user", "x")],
            rejected: vec![],
        })
    );
    // Token ids win over text beside them.
    let ids = json!({"prompt": 7, "prompt_input_ids": [1, 2], "chosen_input_ids": [], "rejected_input_ids": [4294967295u32]});
    assert_eq!(
        columns(ids),
        Ok(PreferenceRow::Tokens { prompt: vec![1, 2], chosen: vec![], rejected: vec![u32::MAX] })
    );
}

#[test]
fn wrong_columns_are_named_with_what_was_found() {
    let refused = |value| columns(value).unwrap_err();
    assert_eq!(
        refused(json!({"question": "p", "chosen": "c", "rejected": "r"})),
        "column \"prompt\" is missing; the row has question, chosen, rejected"
    );
    assert_eq!(refused(json!({})), "column \"prompt\" is missing; the row has no columns");
    let many = json!({"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1, "g": 1, "h": 1, "i": 1, "j": 1});
    assert_eq!(refused(many), "column \"prompt\" is missing; the row has a, b, c, d, e, f, g, h and 2 more");
    assert_eq!(
        refused(json!({"prompt": "p", "chosen": 3, "rejected": "r"})),
        "column \"chosen\" holds a number; expected a string or a list of messages"
    );
    assert_eq!(
        refused(json!({"prompt": "p", "chosen": "c", "rejected": null})),
        "column \"rejected\" holds null; expected a string or a list of messages"
    );
    assert_eq!(
        refused(json!({"prompt": ["p"], "chosen": "c", "rejected": "r"})),
        "column \"prompt\", message 1 holds a string; expected an object with \"role\" and \"content\""
    );
    let no_role = json!([{"role": "user", "content": "x"}, {"content": "x"}]);
    assert_eq!(
        refused(json!({"prompt": "p", "chosen": no_role, "rejected": "r"})),
        "column \"chosen\", message 2 holds no \"role\"; expected an object with \"role\" and \"content\""
    );
    let parts = json!([{"role": "user", "content": [{"type": "text", "text": "x"}]}]);
    assert_eq!(
        refused(json!({"prompt": parts, "chosen": "c", "rejected": "r"})),
        "column \"prompt\", message 1, \"content\" holds a list; expected a string"
    );
    let list = json!([{"role": "user", "content": "x"}]);
    assert_eq!(
        refused(json!({"prompt": "p", "chosen": list, "rejected": list})),
        "column \"prompt\" holds a string, but column \"chosen\" holds a list of messages; \
         prompt, chosen and rejected must all be strings or all be lists of messages"
    );
    assert_eq!(
        refused(json!({"prompt": list, "chosen": list, "rejected": "r"})),
        "column \"prompt\" holds a list of messages, but column \"rejected\" holds a string; \
         prompt, chosen and rejected must all be strings or all be lists of messages"
    );
}

#[test]
fn wrong_token_ids_are_named() {
    let refused = |chosen| {
        let row = json!({"prompt_input_ids": [1], "chosen_input_ids": chosen, "rejected_input_ids": [2]});
        columns(row).unwrap_err()
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
        columns(json!({"prompt_input_ids": [1], "chosen": "c"})).unwrap_err(),
        "column \"chosen_input_ids\" is missing; the row has prompt_input_ids, chosen"
    );
}

proptest! {
    /// Whatever the bytes: one row or one error for each line that is not blank, at rising lines, and no panic.
    #[test]
    fn any_bytes_are_rows_or_errors(
        lines in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>().prop_filter("a line", |byte| *byte != b'\n'), 0..20),
                "[{\\[]\"prompt\"(:|,)(1|null|\"x\"|\\[3,-1\\])[}\\]]".prop_map(String::into_bytes),
                Just(br#"{"prompt_input_ids":[1],"chosen_input_ids":[2],"rejected_input_ids":[3]}"#.to_vec()),
            ],
            0..12,
        )
    ) {
        let bytes = lines.join(&b'\n');
        let marked = bytes.starts_with(b"\xef\xbb\xbf");
        let filled = lines.iter().filter(|line| !line.trim_ascii().is_empty()).count();
        let rows = read(&bytes);
        prop_assert!(rows.len() == filled || marked && rows.len() + 1 == filled);
        let read: Vec<_> = rows.iter().flatten().collect();
        prop_assert!(read.is_sorted_by(|a, b| a.line < b.line && a.index < b.index));
        for row in read {
            prop_assert!(row.line <= lines.len());
            let _ = PreferenceRow::from_columns(&row.columns);
        }
    }
}
