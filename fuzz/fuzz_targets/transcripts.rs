//! Two transcripts, as HH-RLHF has them (`\n\nHuman:`, `\n\nAssistant:`), split from the input at the first zero byte.

#![no_main]

mod shared;

use asft::data::{Message, Row, hh};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let mut texts = bytes.splitn(2, |&byte| byte == 0).map(String::from_utf8_lossy);
    let columns = ["chosen", "rejected"]
        .into_iter()
        .map(|name| (name.to_owned(), Value::from(texts.next().unwrap_or_default())))
        .collect();
    for text in bytes.splitn(2, |&byte| byte == 0).map(String::from_utf8_lossy) {
        let turns = hh::parse(&text);
        assert_eq!(turns.is_some(), hh::is_transcript(&text));
        let Some(turns) = turns else { continue };
        assert!(turns.windows(2).all(|pair| pair[0].role() != pair[1].role()), "{text:?}: the roles alternate");
        // Written again, it says the same.
        let written = hh::render(&turns.iter().collect::<Vec<&Message>>(), false);
        assert_eq!(hh::parse(&written), Some(turns), "{text:?}");
    }
    shared::encode(&[Row { index: 0, line: 1, columns }]);
});
