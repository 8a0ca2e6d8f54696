//! A data file: bytes to rows to the file's shape to token ids.

#![no_main]

mod shared;

use std::path::Path;

use asft::data::JsonlReader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (mut line, mut index) = (0, 0);
    let mut rows = Vec::new();
    for row in JsonlReader::new(bytes, Path::new("data.jsonl")) {
        match row {
            Ok(row) => {
                assert!(row.line > line && row.index >= index, "rows are in order");
                (line, index) = (row.line, row.index);
                rows.push(row);
            }
            Err(error) => assert!(error.to_string().starts_with("data.jsonl:"), "{error}"),
        }
    }
    shared::encode(&rows);
});
