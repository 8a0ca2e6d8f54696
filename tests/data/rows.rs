//! The JSONL reader and the columns: what is read, and the exact words for what is not.

use std::path::Path;

use asft::data::{ColumnMap, DataError, FileShape, JsonlReader, Numbering, Row, Rows};
use proptest::prelude::*;

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
            let map = ColumnMap::default();
            let _ = FileShape::of(&row.columns, (Numbering::Lines, row.line), &map, true).and_then(|shape| shape.read(&row.columns, &map));
        }
    }
}
