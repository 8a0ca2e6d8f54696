//! One set of rows in every form a file may have: all readers must give the same.

use std::path::{Path, PathBuf};

use asft::data::{Numbering, Row, Rows};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/files").join(name)
}

fn rows(name: &str) -> (Numbering, Vec<Row>) {
    let rows = Rows::open(&path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    (rows.numbering(), rows.map(|row| row.unwrap_or_else(|error| panic!("{name}: {error}"))).collect())
}

fn columns(rows: &[Row]) -> Vec<&Map<String, Value>> {
    rows.iter().map(|row| &row.columns).collect()
}

/// What Python wrote, by serde_json alone.
fn expected(name: &str) -> Vec<Map<String, Value>> {
    let text = std::fs::read_to_string(path(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_form_gives_the_same_rows() {
    let chat = expected("chat.jsonl");
    assert_eq!(chat.len(), 8);
    for name in ["chat.jsonl", "chat.jsonl.gz", "chat.jsonl.zst", "chat.json"] {
        let (numbering, rows) = rows(name);
        assert_eq!(columns(&rows), chat.iter().collect::<Vec<_>>(), "{name}");
        assert_eq!(numbering, Numbering::Lines);
        let places: Vec<_> = rows.iter().map(|row| (row.index, row.line)).collect();
        let lines: Vec<usize> = match name {
            "chat.json" => starts_of_objects(),
            _ => (1..=8).collect(),
        };
        assert_eq!(places, lines.into_iter().enumerate().collect::<Vec<_>>(), "{name}");
    }
}

/// The lines on which `json.dump(rows, indent=2)` begins a row.
fn starts_of_objects() -> Vec<usize> {
    let text = std::fs::read_to_string(path("chat.json")).unwrap();
    let starts = text.lines().enumerate().filter(|(_, line)| *line == "  {");
    starts.map(|(index, _)| index + 1).collect()
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_gives_the_rows_of_the_json_lines() {
    let chat = expected("chat.jsonl");
    for name in ["none", "snappy", "gzip", "zstd", "lz4", "v2"].map(|form| format!("chat.{form}.parquet")) {
        let (numbering, rows) = rows(&name);
        assert_eq!(columns(&rows), chat.iter().collect::<Vec<_>>(), "{name}");
        assert_eq!(numbering, Numbering::Rows);
        let places: Vec<_> = rows.iter().map(|row| (row.index, row.line)).collect();
        assert_eq!(places, (0..8).map(|index| (index, index + 1)).collect::<Vec<_>>(), "{name}");
    }
    assert_eq!(columns(&rows("tokens.parquet").1), expected("tokens.jsonl").iter().collect::<Vec<_>>());
}

#[test]
fn null_counts_as_absent() {
    let text =
        r#"{"prompt":"p","x":null,"m":[{"role":"user","name":null},null,[{"a":null}]],"o":{"b":null}}"#;
    let expected = json!({"prompt": "p", "m": [{"role": "user"}, null, [{}]], "o": {}});
    for text in [text.to_owned(), format!("[{text}]")] {
        let rows: Vec<_> = Rows::from_reader(std::io::Cursor::new(text), Path::new("x")).unwrap().collect();
        assert_eq!(rows.len(), 1);
        assert_eq!(Value::Object(rows[0].as_ref().unwrap().columns.clone()), expected);
    }
}

#[test]
fn a_list_may_be_written_in_any_way() {
    let read = |text: &'static [u8]| -> Vec<(usize, Value)> {
        let rows = Rows::from_reader(text, Path::new("x")).unwrap();
        rows.map(Result::unwrap).map(|row| (row.line, Value::Object(row.columns))).collect()
    };
    assert_eq!(read(b"[]"), []);
    assert_eq!(read(b"\xef\xbb\xbf \r\n [ ] \n"), []);
    let text = b"\n[{\"a\":\"]}\\\"[{\\\\\"}\n,{\"b\":[1,{\"c\":[]}]},\n\n\n {\n} ]\n";
    assert_eq!(
        read(text),
        [(2, json!({"a": "]}\"[{\\"})), (3, json!({"b": [1, {"c": []}]})), (6, json!({}))]
    );
}

#[test]
fn progress_is_known() {
    let mut rows = Rows::open(&path("chat.jsonl")).unwrap();
    assert!(rows.by_ref().all(|row| row.is_ok()));
    assert_eq!(rows.percent(), 100);
    #[cfg(feature = "parquet")]
    {
        let mut rows = Rows::open(&path("chat.zstd.parquet")).unwrap();
        let percent = (0..8).map(|_| rows.next().map(|_| rows.percent())).collect::<Option<Vec<_>>>();
        assert_eq!(percent, Some(vec![12, 25, 37, 50, 62, 75, 87, 100]));
    }
}

/// Hands out its bytes in pieces of one size, as a slow pipe does.
struct Pieces(Vec<u8>, usize);

impl std::io::Read for Pieces {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let length = self.1.min(self.0.len()).min(bytes.len());
        bytes[..length].copy_from_slice(&self.0[..length]);
        self.0.drain(..length);
        Ok(length)
    }
}

#[test]
fn pieces_of_input_make_no_difference() {
    let chat = expected("chat.jsonl");
    for name in ["chat.jsonl", "chat.jsonl.gz", "chat.jsonl.zst", "chat.json"] {
        let bytes = std::fs::read(path(name)).unwrap();
        for size in [1, 2, 3, 700] {
            let rows = Rows::from_reader(Pieces(bytes.clone(), size), Path::new(name)).unwrap();
            let rows: Vec<Row> = rows.map(Result::unwrap).collect();
            assert_eq!(columns(&rows), chat.iter().collect::<Vec<_>>(), "{name} in pieces of {size}");
        }
    }
}

/// Objects as people might have them.
fn objects() -> impl Strategy<Value = Vec<Value>> {
    let scalar = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[\\[\\]{},:\"\\\\a\u{e9}\u{1f9ee}\n]{0,8}".prop_map(Value::from),
    ];
    let value = scalar.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z{\\]\"]{0,3}", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    });
    let object = proptest::collection::btree_map("[a-z]{1,3}", value, 0..4)
        .prop_map(|fields| Value::Object(fields.into_iter().collect()));
    proptest::collection::vec(object, 0..5)
}

proptest! {
    #[test]
    fn a_list_reads_back_as_it_was_written(objects in objects(), pretty in any::<bool>(), size in 1usize..9) {
        let list = Value::from(objects.clone());
        let text = if pretty { serde_json::to_string_pretty(&list) } else { serde_json::to_string(&list) }.unwrap();
        let rows = Rows::from_reader(Pieces(text.into_bytes(), size), Path::new("x")).unwrap();
        let read: Vec<Value> = rows.map(|row| Value::Object(row.unwrap().columns)).collect();
        prop_assert_eq!(read, objects);
    }

    #[test]
    fn nothing_that_is_read_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), start in 0usize..5) {
        let start: &[u8] = [&b""[..], b"[", b"{", b"[{\"a\":", b"\x1f\x8b\x08"][start];
        let input = std::io::Cursor::new([start, &bytes].concat());
        if let Ok(rows) = Rows::from_reader(input, Path::new("x")) {
            let rows: Vec<_> = rows.collect();
            let failed = rows.iter().position(Result::is_err);
            prop_assert!(failed.is_none_or(|place| place + 1 == rows.len()), "rows after an error");
        }
    }
}
