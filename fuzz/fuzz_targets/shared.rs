//! What the targets of the data path hold every encoded row to.

use std::path::Path;
use std::sync::LazyLock;

use asft::data::{EncodeConfig, Encoded, Encoder, Needs, Numbering, Roles, Row, Spans, pack};

const VOCABULARY: usize = 512;
const MAX_LENGTH: usize = 64;

/// With the tokenizer and the chat template of the quickstart.
static ENCODER: LazyLock<Encoder> = LazyLock::new(|| {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart"));
    let config = EncodeConfig {
        vocab_size: VOCABULARY,
        max_length: Some(MAX_LENGTH),
        needs: Needs { answers: Roles::CHOSEN, ..Needs::default() },
        eos_ids: vec![2],
        keep_text: true,
        ..EncodeConfig::default()
    };
    Encoder::from_folder(folder, config).expect("the quickstart's files are in the repository")
});

/// Encodes the rows of a file, whose first one says what they are made of; whatever comes out can be packed.
pub fn encode(rows: &[Row]) {
    let Some(first) = rows.first() else { return };
    let shape = match ENCODER.shape(first, Numbering::Lines) {
        Ok(shape) => shape,
        Err(problem) => return assert!(!problem.to_string().is_empty()),
    };
    for row in rows {
        match ENCODER.encode_row(&shape, row.index, row) {
            Ok(Encoded::Group(group, _)) => {
                assert!(!group.prompt.is_empty());
                for answer in &group.answers {
                    assert!(answer.scored_tokens() > 0);
                    assert!(answer.scored.as_ref().is_none_or(|scored| scored.len() == answer.ids.len()));
                    assert!(group.prompt.len() + answer.ids.len() <= MAX_LENGTH);
                }
                let ids = group.answers.iter().flat_map(|answer| &answer.ids).chain(&group.prompt);
                assert!(ids.into_iter().all(|&id| (id as usize) < VOCABULARY));
                assert_eq!(pack(&[&group], Spans { prompt: true, answers: Roles::ALL }).check(), Ok(()));
            }
            Ok(Encoded::Unusable(reason)) => assert!(!reason.to_string().is_empty()),
            Err(problem) => assert!(!problem.to_string().is_empty()),
        }
    }
}
