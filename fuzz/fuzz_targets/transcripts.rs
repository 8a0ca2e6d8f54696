//! Two transcripts, as HH-RLHF has them (`\n\nHuman:`, `\n\nAssistant:`), split from the input at the first zero byte.

#![no_main]

mod shared;

use asft::data::PreferenceRow;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

fuzz_target!(|bytes: &[u8]| {
    let mut texts = bytes.splitn(2, |&byte| byte == 0).map(String::from_utf8_lossy);
    let columns: Map<String, Value> = ["chosen", "rejected"]
        .into_iter()
        .map(|name| (name.to_owned(), Value::from(texts.next().unwrap_or_default())))
        .collect();
    match PreferenceRow::from_columns(&columns) {
        Ok(content) => shared::encode(0, content),
        Err(problem) => assert!(!problem.to_string().is_empty()),
    }
});
