//! What the targets of the data path hold every encoded row to.

use std::path::Path;
use std::sync::LazyLock;

use asft::data::{EncodeConfig, Encoded, Encoder, PreferenceRow};

const VOCABULARY: usize = 512;
const MAX_LENGTH: usize = 64;

/// With the tokenizer and the chat template of the quickstart.
static ENCODER: LazyLock<Encoder> = LazyLock::new(|| {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart"));
    let config = EncodeConfig {
        vocab_size: VOCABULARY,
        max_length: Some(MAX_LENGTH),
        eos_ids: vec![2],
        keep_text: true,
    };
    Encoder::from_folder(folder, config).expect("the quickstart's files are in the repository")
});

/// Encodes a row; whatever comes out can be packed.
pub fn encode(row: usize, content: PreferenceRow) {
    match ENCODER.encode(row, content) {
        Ok(Encoded::Group(group, _)) => {
            assert!(!group.prompt.is_empty());
            for answer in &group.answers {
                assert!(answer.scored_tokens() > 0);
                assert!(answer.scored.as_ref().is_none_or(|scored| scored.len() == answer.ids.len()));
                assert!(group.prompt.len() + answer.ids.len() <= MAX_LENGTH);
            }
            let ids = group.answers.iter().flat_map(|answer| &answer.ids).chain(&group.prompt);
            assert!(ids.into_iter().all(|&id| (id as usize) < VOCABULARY));
            let batch = asft::data::pack(&[&group], asft::data::Spans { prompt: true, rejected: true });
            assert_eq!(batch.check(), Ok(()));
        }
        Ok(Encoded::Unusable(reason)) => assert!(!reason.to_string().is_empty()),
        Err(problem) => assert!(!problem.to_string().is_empty()),
    }
}
