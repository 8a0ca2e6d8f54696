//! A data file: bytes to rows to the file's shape to token ids. JSON lines or one list, plain or compressed.

#![no_main]

mod shared;

use std::io::Cursor;
use std::path::Path;

use asft::data::Rows;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut line = 0;
    let mut rows = Vec::new();
    let reader = match Rows::from_reader(Cursor::new(bytes.to_vec()), Path::new("data.jsonl")) {
        Ok(reader) => reader,
        Err(error) => return assert!(error.to_string().contains("data.jsonl"), "{error}"),
    };
    for row in reader {
        match row {
            Ok(row) => {
                assert!(row.line >= line && row.index == rows.len(), "rows are in order");
                line = row.line;
                rows.push(row);
            }
            Err(error) => assert!(error.to_string().contains("data.jsonl"), "{error}"),
        }
    }
    shared::encode(&rows);
});
