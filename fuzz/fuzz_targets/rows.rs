//! A data file: bytes to rows to typed columns to token ids.

#![no_main]

mod shared;

use std::path::Path;

use asft::data::{JsonlReader, PreferenceRow};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (mut line, mut index) = (0, 0);
    for row in JsonlReader::new(bytes, Path::new("data.jsonl")) {
        match row {
            Ok(row) => {
                assert!(row.line > line && row.index >= index, "rows are in order");
                (line, index) = (row.line, row.index);
                match PreferenceRow::from_columns(&row.columns) {
                    Ok(content) => shared::encode(row.index, content),
                    Err(problem) => assert!(!problem.to_string().is_empty()),
                }
            }
            Err(error) => assert!(error.to_string().starts_with("data.jsonl:"), "{error}"),
        }
    }
});
